"""Text as both databases store it."""

from __future__ import annotations

from typing import Final

#: Characters of a text by which jobs are found. Whatever they are, PostgreSQL's index takes them
#: (2704 bytes); senders of ours are refused before, others may send any text.
_LABEL: Final = 300


def clean(text: str) -> str:
    """Return text that PostgreSQL stores: it knows no NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text


def label_or_none(text: str | None) -> str | None:
    """Return clean text that fits into an index, cut where it is too long; None of nothing."""
    return clean(text[:_LABEL]) if text else None


def clean_or_none(text: str | None) -> str | None:
    """Return clean text; None of nothing."""
    return clean(text) if text else None
