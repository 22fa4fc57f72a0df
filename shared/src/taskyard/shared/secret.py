"""A value that no print, log line or error ever shows."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

T_co = TypeVar("T_co", covariant=True)

#: What stands for a secret wherever it would be printed.
HIDDEN: Final = "‹secret›"


class Secret(Generic[T_co]):
    """Holds a value that is shown by `reveal()` alone.

    As an argument's whole annotation (`card: Secret[str]`) it travels encrypted, and the handler
    gets a `Secret` again. It cannot be pickled, and is no JSON: where it were to be written in
    the clear, that fails.
    """

    __slots__ = ("__value",)

    __value: T_co

    def __init__(self, value: T_co) -> None:
        """Hide `value`."""
        object.__setattr__(self, "_Secret__value", value)

    def reveal(self) -> T_co:
        """Return the value."""
        return self.__value

    def __repr__(self) -> str:
        """Say that there is one."""
        return f"Secret({HIDDEN})"

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        """Format the words that stand for it; a format meant for its value says nothing of it."""
        try:
            return format(HIDDEN, spec)
        except ValueError:
            return HIDDEN

    def __eq__(self, other: object) -> bool:
        """Compare what two secrets hold; a secret never equals a bare value."""
        if not isinstance(other, Secret):
            return NotImplemented
        return bool(self.__value == cast("Secret[object]", other).__value)

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse: a secret is a value."""
        raise AttributeError("a Secret does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __copy__(self) -> Secret[T_co]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret[T_co]:
        return Secret(deepcopy(self.__value, memo))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse: a pickle holds its value in the clear."""
        raise TypeError("a Secret is not pickled: its value would be written in the clear")
