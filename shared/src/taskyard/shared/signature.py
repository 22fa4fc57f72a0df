"""A handler's parameters as the schema of a job's body: JSON object ↔ named arguments.

One schema serves the sender and the worker, so that what is accepted when a job is sent is
accepted when it runs. Types are checked, never coerced: the text "7" is not the number 7.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

import msgspec

from taskyard.shared.context import Context
from taskyard.shared.errors import ConfigurationError, InvalidArguments
from taskyard.shared.secret import Secret
from taskyard.shared.secret_arguments import (
    SecretField,
    discreet as words_of,
    hides_secret,
    is_secret,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_KINDS = inspect.Parameter


def encode_hook(value: object) -> object:
    """Turn a value that msgspec does not know into one that it does (pydantic models)."""
    if isinstance(value, Secret):
        raise TypeError(
            "a Secret travels only as the whole value of an argument declared Secret[…]"
        )
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    msg = f"{type(value).__qualname__} values cannot be sent as JSON"
    raise TypeError(msg)


def _decode_hook(kind: type, value: object) -> object:
    validate = getattr(kind, "model_validate", None)
    if validate is not None:
        return validate(value)
    msg = f"{kind.__qualname__} cannot be read from JSON"
    raise TypeError(msg)


ENCODER = msgspec.json.Encoder(enc_hook=encode_hook)
#: What reading JSON raises, and what a model's own validation usually does.
_UNREADABLE = (msgspec.DecodeError, ValueError, TypeError, RecursionError)
_ANY_OBJECT = msgspec.json.Decoder(dict[str, Any])


def encode_json(value: object) -> bytes:
    """Return any JSON value as bytes (TypeError when it is not one)."""
    return ENCODER.encode(value)


class Signature:
    """What a handler takes: whether a context, and which named arguments of which types."""

    __slots__ = (
        "_decoder",
        "_discreet",
        "_open",
        "_returns",
        "names",
        "secrets",
        "task",
        "wants_context",
    )

    def __init__(
        self, task: str, function: Callable[..., object], *, discreet: bool = False
    ) -> None:
        """Read the signature of `function`, the handler of `task` (full name).

        Args:
            task: its full name.
            function: the handler.
            discreet: show no value in an error, whether it is declared secret or not.

        Raises:
            ConfigurationError: an annotation cannot be resolved or has no JSON form, or the
                handler takes `*args` or positional-only arguments, which have no names.

        """
        self.task = task
        self._discreet = discreet
        self.secrets: dict[str, SecretField] = {}
        parameters = list(inspect.signature(function).parameters.values())
        hints = self._hints(function)
        self.wants_context = bool(parameters) and _is_context(hints.get(parameters[0].name))
        named = parameters[1:] if self.wants_context else parameters
        self._refuse_nameless(named)
        self._open = any(p.kind is _KINDS.VAR_KEYWORD for p in named)
        fields = [p for p in named if p.kind is not _KINDS.VAR_KEYWORD]
        self.names = tuple(p.name for p in fields)
        self._decoder = self._schema(fields, hints)
        self._returns = hints.get("return", Any)

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
        """Return the arguments of a call by name.

        Raises:
            InvalidArguments: there are too many, or one is given twice.

        """
        if not args:
            return dict(kwargs)
        if len(args) > len(self.names):
            raise InvalidArguments(self.task, f"takes {len(self.names)} arguments, got {len(args)}")
        named = dict(zip(self.names, args, strict=False))
        if twice := named.keys() & kwargs.keys():
            raise InvalidArguments(self.task, f"got {', '.join(sorted(twice))} twice")
        return {**named, **kwargs}

    def encode(self, arguments: Mapping[str, object]) -> bytes:
        """Return a body, after checking that the handler will accept it.

        Raises:
            InvalidArguments: a value is missing, unknown, of the wrong type, or not JSON.

        """
        try:
            body = ENCODER.encode(arguments)
        except (TypeError, ValueError, msgspec.EncodeError) as error:
            if not self._discreet:
                raise InvalidArguments(self.task, str(error)) from error
            problem = "an argument has no JSON form"
        else:
            self._read(body, discreet=self._discreet)
            return body
        raise InvalidArguments(self.task, problem)

    def encode_apart(
        self, arguments: Mapping[str, object]
    ) -> tuple[bytes, dict[str, Secret[bytes]]]:
        """Return a body with null for its secrets, and their JSON by name, after the same check.

        Raises:
            InvalidArguments: as for `encode`; secrets are not shown.

        """
        secrets = {
            name: text
            for name, field in self.secrets.items()
            if name in arguments and (text := field.encode(arguments[name])) is not None
        }
        return self.encode({**arguments, **dict.fromkeys(secrets)}), secrets

    def decode(
        self,
        body: bytes,
        *,
        opened: Callable[[str, bytes], bytes] | None = None,
        discreet: bool = False,
    ) -> dict[str, object]:
        """Return a body's arguments by name, those that are left out excluded.

        Args:
            body: JSON.
            opened: decrypts the JSON of a secret argument, given its name; None leaves it as it is.
            discreet: show no value in an error, as when the signature is itself discreet.

        Raises:
            InvalidArguments: the body is not JSON, or does not fit the signature.

        """
        values = self._read(body, discreet=discreet or self._discreet)
        for name, field in self.secrets.items():
            if name in values:
                text = bytes(values[name])
                values[name] = field.decode(text if opened is None else opened(name, text))
        return values

    def check(self, body: bytes) -> None:
        """Check a body as `decode` does, with its secrets left closed.

        Raises:
            InvalidArguments: as for `decode`.

        """
        self._read(body, discreet=self._discreet)

    def _read(self, body: bytes, *, discreet: bool) -> dict[str, Any]:
        """Return a body's arguments by name, secret ones as they are written."""
        try:
            if self._open:
                return self._decode_open(body)
            values = self._decoder.decode(body)
        except _UNREADABLE as error:
            if not discreet:
                raise InvalidArguments(self.task, str(error)) from error
            problem = words_of(error)
        else:
            return {
                name: value
                for name in self.names
                if (value := getattr(values, name)) is not msgspec.UNSET
            }
        raise InvalidArguments(self.task, problem)

    def decode_result(self, text: bytes) -> object:
        """Return a handler's value from its JSON text, as its annotation says where that fits.

        The worker may be of another version than the reader: a value that does not fit the
        annotation comes back as plain JSON, since its job did succeed.
        """
        try:
            return msgspec.json.decode(text, type=self._returns, dec_hook=_decode_hook)
        except _UNREADABLE:
            return msgspec.json.decode(text)

    def _decode_open(self, body: bytes) -> dict[str, Any]:
        every = _ANY_OBJECT.decode(body)
        checked = self._decoder.decode(body)
        for name in self.names:
            value = getattr(checked, name)
            if value is not msgspec.UNSET:
                every[name] = value
        return every

    def _hints(self, function: Callable[..., object]) -> dict[str, Any]:
        try:
            return get_type_hints(function, include_extras=True)
        except (NameError, AttributeError, TypeError) as error:
            msg = (
                f"task {self.task}: an annotation of its handler cannot be resolved ({error}); "
                "import its type at run time, not under TYPE_CHECKING"
            )
            raise ConfigurationError(msg) from error

    def _refuse_nameless(self, parameters: list[inspect.Parameter]) -> None:
        for parameter in parameters:
            if parameter.kind in (_KINDS.VAR_POSITIONAL, _KINDS.POSITIONAL_ONLY):
                msg = f"task {self.task}: parameter {parameter} has no name on the wire; name it"
                raise ConfigurationError(msg)

    def _schema(
        self, fields: list[inspect.Parameter], hints: Mapping[str, Any]
    ) -> msgspec.json.Decoder[Any]:
        definition: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        for parameter in fields:
            kind = hints.get(parameter.name, Any)
            if self._note_secret(parameter.name, kind):
                kind = msgspec.Raw
            if parameter.default is _KINDS.empty:
                definition.append((parameter.name, kind))
            else:
                optional = kind if kind is msgspec.Raw else kind | msgspec.UnsetType
                definition.append((parameter.name, optional, msgspec.UNSET))
        try:
            schema = msgspec.defstruct(
                "Arguments", definition, kw_only=True, forbid_unknown_fields=not self._open
            )
            return msgspec.json.Decoder(schema, dec_hook=_decode_hook)
        except TypeError as error:
            msg = f"task {self.task}: its arguments have no JSON form: {error}"
            raise ConfigurationError(msg) from error

    def _note_secret(self, name: str, hint: object) -> bool:
        """Keep a parameter that is secret; tell whether it is."""
        if not is_secret(hint):
            if hides_secret(hint):
                msg = (
                    f"task {self.task}: parameter {name} has a Secret inside its annotation; only a "
                    "whole argument is secret: Secret[…], or Secret[…] | None"
                )
                raise ConfigurationError(msg)
            return False
        try:
            self.secrets[name] = SecretField(
                self.task, name, hint, encoder=ENCODER, dec_hook=_decode_hook
            )
        except TypeError as error:
            msg = f"task {self.task}: its argument {name} has no JSON form: {error}"
            raise ConfigurationError(msg) from error
        return True


def _is_context(hint: object) -> bool:
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Context)
