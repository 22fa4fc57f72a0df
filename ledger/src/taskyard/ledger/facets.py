"""What of a job it can be searched by besides what it is: plain arguments, and its tenant."""

from __future__ import annotations

from typing import Final

import msgspec

from taskyard.ledger.texts import clean
from taskyard.shared.envelope import JSON, UNREADABLE, Envelope

#: Arguments that can be searched by: their largest body, and the longest of them, in bytes.
_SEARCHED_BODY: Final = 64 * 1024
_SEARCHED_TEXT: Final = 200
#: What both databases hold in an integer of a facet, and exactly.
_SEARCHED_INT: Final = 2**53

_json: Final = msgspec.json.Encoder()
_object: Final = msgspec.json.Decoder(dict[str, object])


def facets_of(envelope: Envelope) -> str | None:
    """Return those arguments that a job can be searched by, a JSON object as text.

    That is what is plain (text, numbers, truth) and short, at the top. Encrypted ones are objects,
    and stay what they are.
    """
    if envelope.content_type != JSON or not 2 < len(envelope.body) <= _SEARCHED_BODY:
        return None
    try:
        arguments = _object.decode(envelope.body)
    except UNREADABLE:
        return None
    plain = {clean(name): value for name, value in arguments.items() if _is_searched(value)}
    return _json.encode(plain).decode() if plain else None


def tenant_of(context: str | None) -> str | None:
    """Return the tenant among the values that a job carries, as JSON text; None without one."""
    if not context or "tenant" not in context:
        return None
    try:
        tenant = _object.decode(context).get("tenant")
    except UNREADABLE:
        return None
    return clean(str(tenant)) if isinstance(tenant, (str, int)) else None


def _is_searched(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _SEARCHED_TEXT and "\0" not in value
    if isinstance(value, int):  # truth values are integers
        return abs(value) <= _SEARCHED_INT
    return isinstance(value, float)
