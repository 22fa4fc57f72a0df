"""Programs that show Taskyard at work."""

from __future__ import annotations
