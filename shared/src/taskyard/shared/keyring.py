"""The keys that arguments are encrypted with: the first one seals, every one opens.

Needs the library `cryptography` (the extra `encryption`) as soon as there is a key.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VARIABLE: Final = "TASKYARD_ENCRYPTION_KEYS"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

#: Too short to hold a key by accident, so that an id may be shown in an error.
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


class Unopened(Exception):
    """A ciphertext was not opened; the text says why, in words for an operator."""


class Box(NamedTuple):
    """A ciphertext: the key's id, the nonce, and the data with its tag appended."""

    key: str
    nonce: bytes
    data: bytes


class KeyRing:
    """AES-256-GCM under keys that have ids. Safe from any thread."""

    __slots__ = ("_ciphers", "_keys", "ids")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Take keys by id, in order.

        Raises:
            ConfigurationError: there are keys, and `cryptography` is not installed.

        """
        self.ids = tuple(keys)
        """Ids of the keys, the sealing one first."""
        self._keys = dict(keys)
        self._ciphers = {name: _cipher(key) for name, key in keys.items()}

    def __repr__(self) -> str:
        """Show the ids alone."""
        return f"KeyRing({', '.join(self.ids)})"

    def __bool__(self) -> bool:
        """Tell whether there is a key."""
        return bool(self.ids)

    def __contains__(self, key: object) -> bool:
        """Tell whether there is a key of this id."""
        return key in self._ciphers

    def reveal(self) -> dict[str, bytes]:
        """Return the keys themselves by id, in order, for a ring in a process of ours."""
        return dict(self._keys)

    def seal(self, plain: bytes, associated: bytes) -> Box:
        """Encrypt under the first key and a fresh random nonce.

        Args:
            plain: what is hidden.
            associated: what must be the same when it is opened; it is not hidden.

        Raises:
            ConfigurationError: there is no key.

        """
        if not self.ids:
            msg = (
                f"{VARIABLE} is not set, and there are arguments to encrypt; "
                "`taskyard keys new` makes a key"
            )
            raise ConfigurationError(msg)
        key, nonce = self.ids[0], secrets.token_bytes(NONCE_BYTES)
        return Box(key, nonce, self._ciphers[key].encrypt(nonce, plain, associated))

    def open(self, box: Box, associated: bytes) -> bytes:
        """Decrypt what `seal` made.

        Raises:
            Unopened: the key is not here, or is not the one that sealed it, or anything of the
                box or of `associated` is not as it was.

        """
        cipher = self._ciphers.get(box.key)
        if cipher is None:
            raise Unopened(self.missing(box.key))
        if len(box.nonce) != NONCE_BYTES or len(box.data) < TAG_BYTES:
            raise Unopened(f"what key {_shown(box.key)} is to open is not whole")
        from cryptography.exceptions import InvalidTag

        try:
            return cipher.decrypt(box.nonce, box.data, associated)
        except InvalidTag:
            pass  # raised below, where it has no cause that would only repeat it
        raise Unopened(
            f"key {_shown(box.key)} does not open it: another key had that id when it was sealed, "
            "it was changed on its way, or it was sealed for another job, task or argument"
        )

    def missing(self, key: str) -> str:
        """Return, in words, that a key is not here."""
        here = f"it has {', '.join(self.ids)}" if self.ids else "it has none"
        return f"this process has no key {_shown(key)} ({here})"


def parse_keys(text: str) -> KeyRing:
    """Read `ID:BASE64,ID:BASE64` (commas, spaces or lines between) into a key ring.

    Raises:
        ConfigurationError: an entry is not valid; the text says which, and shows no key.

    """
    keys: dict[str, bytes] = {}
    for number, entry in enumerate(re.split(r"[,\s]+", text.strip(", \t\r\n")), 1):
        name, colon, encoded = entry.partition(":")
        if not colon or not _ID.fullmatch(name):
            msg = (
                f"{VARIABLE}: entry {number} is not ID:BASE64 (an id has 1 to 32 letters, digits, "
                "'.', '_' and '-'); `taskyard keys new` prints one"
            )
            raise ConfigurationError(msg)
        key = _decoded(encoded)
        if key is None or len(key) != KEY_BYTES:
            msg = f"{VARIABLE}: entry {number} ({name}) is not {KEY_BYTES} bytes in base64"
            raise ConfigurationError(msg)
        if name in keys:
            raise ConfigurationError(f"{VARIABLE}: two keys have the id {name}")
        keys[name] = key
    return KeyRing(keys)


def new_key(name: str) -> str:
    """Return a new random key as `ID:BASE64`.

    Raises:
        ConfigurationError: the id is not valid.

    """
    if not _ID.fullmatch(name):
        msg = f"key id {name!r} is not valid: use 1 to 32 letters, digits, '.', '_' and '-'"
        raise ConfigurationError(msg)
    return f"{name}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"


def _decoded(text: str) -> bytes | None:
    """Read base64 of either alphabet, padded or not."""
    plain = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        pass  # the caller says so, without a cause that could quote it
    return None


def _shown(key: str) -> str:
    return repr(key[:64])


def _cipher(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        msg = (
            f"{VARIABLE} is set, and the library for it is not installed: "
            "install taskyard-shared[encryption]"
        )
        raise ConfigurationError(msg) from error
    return AESGCM(key)


#: The ring of a process without keys.
NO_KEYS: Final = KeyRing({})
