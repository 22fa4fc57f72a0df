"""The worker runtime: read, execute, record, settle."""

from __future__ import annotations
