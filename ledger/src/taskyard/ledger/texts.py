"""Text as both databases store it."""

from __future__ import annotations


def clean(text: str) -> str:
    """Return text that PostgreSQL stores: it knows no NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text


def clean_or_none(text: str | None) -> str | None:
    """Return clean text; None of nothing."""
    return clean(text) if text else None
