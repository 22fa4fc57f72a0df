"""A small web shop's checkout, moved to the background: the example that `make demo` runs."""

from __future__ import annotations
