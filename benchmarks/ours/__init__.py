"""Ourselves, as any user writes it, and the bare client as the yardstick."""
