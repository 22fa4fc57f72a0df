"""Everything an operator does to a broker: set-up, pauses, parked jobs, cancels."""

from __future__ import annotations
