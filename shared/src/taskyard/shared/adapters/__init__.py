"""Brokers by technology; each implements the port of `taskyard.shared.broker`, none imports another."""

from __future__ import annotations
