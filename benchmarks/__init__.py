"""Measurements, as ratios against the bare client on the same broker in the same run."""

from __future__ import annotations
