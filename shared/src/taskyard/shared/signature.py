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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_KINDS = inspect.Parameter


def encode_hook(value: object) -> object:
    """Turn a value that msgspec does not know into one that it does (pydantic models)."""
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


_ENCODER = msgspec.json.Encoder(enc_hook=encode_hook)
#: What reading JSON raises, and what a model's own validation usually does.
_UNREADABLE = (msgspec.DecodeError, ValueError, TypeError, RecursionError)
_ANY_OBJECT = msgspec.json.Decoder(dict[str, Any])


def encode_json(value: object) -> bytes:
    """Return any JSON value as bytes (TypeError when it is not one)."""
    return _ENCODER.encode(value)


class Signature:
    """What a handler takes: whether a context, and which named arguments of which types."""

    __slots__ = ("_decoder", "_open", "_returns", "names", "task", "wants_context")

    def __init__(self, task: str, function: Callable[..., object]) -> None:
        """Read the signature of `function`, the handler of `task` (full name).

        Raises:
            ConfigurationError: an annotation cannot be resolved or has no JSON form, or the
                handler takes `*args` or positional-only arguments, which have no names.

        """
        self.task = task
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
            body = _ENCODER.encode(arguments)
        except (TypeError, ValueError, msgspec.EncodeError) as error:
            raise InvalidArguments(self.task, str(error)) from error
        self.decode(body)
        return body

    def decode(self, body: bytes) -> dict[str, object]:
        """Return a body's arguments by name, those that are left out excluded.

        Raises:
            InvalidArguments: the body is not JSON, or does not fit the signature.

        """
        try:
            if self._open:
                return self._decode_open(body)
            values = self._decoder.decode(body)
        except _UNREADABLE as error:
            raise InvalidArguments(self.task, str(error)) from error
        return {
            name: value
            for name in self.names
            if (value := getattr(values, name)) is not msgspec.UNSET
        }

    def decode_result(self, text: bytes) -> object:
        """Return a handler's value from its JSON text, as its annotation says where that fits.

        The worker may be of another version than the reader: a value that does not fit the
        annotation comes back as plain JSON, since its job did succeed.
        """
        try:
            return msgspec.json.decode(text, type=self._returns, dec_hook=_decode_hook)
        except _UNREADABLE:
            return msgspec.json.decode(text)

    def _decode_open(self, body: bytes) -> dict[str, object]:
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
            if parameter.default is _KINDS.empty:
                definition.append((parameter.name, kind))
            else:
                definition.append((parameter.name, kind | msgspec.UnsetType, msgspec.UNSET))
        try:
            schema = msgspec.defstruct(
                "Arguments", definition, kw_only=True, forbid_unknown_fields=not self._open
            )
            return msgspec.json.Decoder(schema, dec_hook=_decode_hook)
        except TypeError as error:
            msg = f"task {self.task}: its arguments have no JSON form: {error}"
            raise ConfigurationError(msg) from error


def _is_context(hint: object) -> bool:
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Context)
