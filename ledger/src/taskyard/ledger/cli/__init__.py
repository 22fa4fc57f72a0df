"""The ledger's commands."""

from __future__ import annotations
