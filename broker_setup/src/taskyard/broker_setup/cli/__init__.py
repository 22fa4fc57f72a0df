"""The operator's commands, one module per group."""

from __future__ import annotations
