"""Handlers' parameters that are secret: which they are, and their values as JSON and back.

Nothing here quotes a value: what msgspec or a model says of one that does not fit is dropped, also
as the cause of our own error.
"""

from __future__ import annotations

import re
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Union, cast, get_args, get_origin

import msgspec

from taskyard.shared.errors import InvalidArguments
from taskyard.shared.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: What a codec says that quotes no value: types, names of declared fields, places.
_HARMLESS: Final = re.compile(
    r"(Expected `[^`]*`(, got `[^`]*`)?|Object missing required field `[^`]*`)( - at `[^`]*`)?"
)
_PLACE: Final = re.compile(r" - at `([^`]*)`$")


class SecretField:
    """One secret parameter.

    Attributes:
        name: of the parameter.
        optional: whether None is a value of it, which then travels in the clear.

    """

    __slots__ = ("_decoder", "_encoder", "_task", "name", "optional")

    def __init__(
        self,
        task: str,
        name: str,
        hint: object,
        *,
        encoder: msgspec.json.Encoder,
        dec_hook: Callable[[type, object], object],
    ) -> None:
        """Read the annotation of a parameter for which `is_secret` is true.

        Raises:
            TypeError: what it holds has no JSON form.

        """
        held, self.optional = _held(hint) or (Any, False)
        self._task = task
        self.name = name
        self._encoder = encoder
        self._decoder = msgspec.json.Decoder(cast("Any", held), dec_hook=dec_hook)

    def encode(self, value: object) -> Secret[bytes] | None:
        """Return the JSON of a value, bare or a `Secret`, after checking it; None stays None.

        Raises:
            InvalidArguments: it does not fit; the text does not say what it is.

        """
        if value is None and self.optional:
            return None
        bare: object = (
            cast("Secret[object]", value).reveal() if isinstance(value, Secret) else value
        )
        text = _encoded(self._encoder, bare)
        if text is None:
            raise InvalidArguments(self._task, _no_json(self.name))
        self.decode(text)
        return Secret(text)

    def decode(self, text: bytes) -> Secret[object] | None:
        """Return the value of some JSON.

        Raises:
            InvalidArguments: it does not fit; the text does not say what it is.

        """
        if self.optional and text == b"null":
            return None
        try:
            return Secret(self._decoder.decode(text))
        except Exception as error:  # noqa: BLE001  # a model's own validation may raise anything
            problem = f"argument {self.name}: {discreet(error)}"
        raise InvalidArguments(self._task, problem)


def set_apart(
    encoder: msgspec.json.Encoder, task: str, args: Mapping[str, object]
) -> tuple[dict[str, object], Mapping[str, Secret[bytes]] | None]:
    """Return arguments with None for each that is a `Secret`, and the JSON of those by name.

    Raises:
        InvalidArguments: one has no JSON form; the text does not say what it is.

    """
    values, secrets = dict(args), dict[str, Secret[bytes]]()
    for name, value in args.items():
        if isinstance(value, Secret):
            text = _encoded(encoder, cast("Secret[object]", value).reveal())
            if text is None:
                raise InvalidArguments(task, _no_json(name))
            secrets[name], values[name] = Secret(text), None
    return values, secrets or None


def _encoded(encoder: msgspec.json.Encoder, value: object) -> bytes | None:
    """Return the JSON of a value; None when it has none, without saying why."""
    try:
        return encoder.encode(value)
    except Exception:  # noqa: BLE001  # a value's own conversion may raise anything, and quote it
        return None


def _no_json(name: str) -> str:
    """Return, in words, that a secret argument has no JSON form."""
    return f"argument {name}: its value has no JSON form"


def is_secret(hint: object) -> bool:
    """Tell whether an annotation is `Secret[…]`, or that or None."""
    return _held(hint) is not None


def hides_secret(hint: object) -> bool:
    """Tell whether there is a `Secret` somewhere inside an annotation."""
    return (get_origin(hint) or hint) is Secret or any(map(hides_secret, get_args(hint)))


def discreet(error: BaseException) -> str:
    """Return what may be said of an error about a value that must not be shown."""
    text = str(error) if isinstance(error, msgspec.MsgspecError) else ""
    if _HARMLESS.fullmatch(text):
        return text
    place = _PLACE.search(text)
    return f"its value does not fit{f' - at `{place[1]}`' if place else ''}"


def _held(hint: object) -> tuple[object, bool] | None:
    """Return what a `Secret` holds, and whether None may stand for it."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _held(get_args(hint)[0])
    if origin is Union or origin is UnionType:
        others = [part for part in get_args(hint) if part is not type(None)]
        found = _held(others[0]) if len(others) == 1 else None
        return None if found is None else (found[0], True)
    if hint is Secret:
        return Any, False
    return (get_args(hint)[0], False) if origin is Secret else None
