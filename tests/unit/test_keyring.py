"""Keys for encrypted arguments: how they are written, made, changed and refused."""

from __future__ import annotations

import base64
import builtins
import traceback
from collections.abc import Callable

import pytest
from hypothesis import assume, given, strategies as st

from taskyard.shared import ConfigurationError
from taskyard.shared.cli import main
from taskyard.shared.keyring import NO_KEYS, Box, KeyRing, Unopened, new_key, parse_keys
from taskyard.shared.settings import Settings

ONE, TWO = b"1" * 32, b"2" * 32
TEXT_1, TEXT_2 = (base64.b64encode(key).decode() for key in (ONE, TWO))


@pytest.mark.parametrize("between", [",", " , ", "\n", ",\n", "\r\n", " "])
def test_keys_are_read_in_order(between: str) -> None:
    """A comma list, or one a line in a mounted file; the first one seals (ZS-21)."""
    ring = parse_keys(f"k2:{TEXT_2}{between}k1:{TEXT_1}\n")
    assert ring.ids == ("k2", "k1")
    assert ring.seal(b"x", b"a").key == "k2"
    assert "k1" in ring
    assert "k3" not in ring


def test_either_alphabet_of_base64_will_do() -> None:
    """What other tools print is taken: URL-safe, and without its padding."""
    key = bytes(range(200, 232))
    plain, safe = base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode()
    assert plain != safe
    box = KeyRing({"k": key}).seal(b"x", b"")
    for text in (plain, safe, plain.rstrip("="), safe.rstrip("=")):
        assert parse_keys(f"k:{text}").open(box, b"") == b"x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT_1, "entry 1 is not ID:BASE64"),
        (f"k2:{TEXT_2},{TEXT_1}", "entry 2 is not ID:BASE64"),
        (f"{TEXT_1}:k1", "entry 1 is not ID:BASE64"),
        (f"k1:{TEXT_1[:-8]}", "entry 1 \\(k1\\) is not 32 bytes"),
        (f"k1:{TEXT_1}!", "entry 1 \\(k1\\) is not 32 bytes"),
        ("k1:", "entry 1 \\(k1\\) is not 32 bytes"),
        (f"k1:{TEXT_1},k1:{TEXT_2}", "two keys have the id k1"),
        (f"-k:{TEXT_1}", "entry 1 is not ID:BASE64"),
    ],
)
def test_what_is_wrong_is_said_without_the_key(text: str, words: str) -> None:
    """An error names the variable and the entry, and never shows key material, nor does its cause."""
    with pytest.raises(ConfigurationError, match=f"TASKYARD_ENCRYPTION_KEYS: {words}") as caught:
        Settings(encryption_keys=text).key_ring()
    shown = "".join(traceback.format_exception(caught.value))
    assert TEXT_1[:12] not in shown
    assert TEXT_2[:12] not in shown


def test_keys_are_not_printed() -> None:
    """Neither settings nor a ring show them."""
    settings = Settings(encryption_keys=f"k1:{TEXT_1}")
    ring = settings.key_ring()
    for shown in (repr(settings), str(settings), repr(ring), str(ring)):
        assert TEXT_1[:12] not in shown
    assert repr(ring) == "KeyRing(k1)"


def test_keys_come_from_a_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As mounted secrets are; one a line."""
    file = tmp_path / "keys"
    file.write_text(f"k2:{TEXT_2}\nk1:{TEXT_1}\n")
    monkeypatch.setenv("TASKYARD_ENCRYPTION_KEYS_FILE", str(file))
    assert Settings().key_ring().ids == ("k2", "k1")


def test_no_keys_are_no_error_until_one_is_needed() -> None:
    """An empty ring opens nothing, and says what to set when it is to seal."""
    assert not Settings(encryption_keys=" ").key_ring()
    with pytest.raises(ConfigurationError, match=r"TASKYARD_ENCRYPTION_KEYS.*taskyard keys new"):
        NO_KEYS.seal(b"x", b"")
    with pytest.raises(Unopened, match="no key 'k1' .it has none"):
        NO_KEYS.open(KeyRing({"k1": ONE}).seal(b"x", b""), b"")


def test_the_library_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `cryptography` the error names the extra to install."""
    real: Callable[..., object] = builtins.__import__

    def without(name: str, *args: object, **options: object) -> object:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"taskyard-shared\[encryption\]"):
        parse_keys(f"k1:{TEXT_1}")
    assert not Settings().key_ring()


@given(plain=st.binary(max_size=200), associated=st.binary(max_size=50))
def test_what_is_sealed_opens(plain: bytes, associated: bytes) -> None:
    """With the same key and associated data, also after another key became the first (ZS-21)."""
    box = KeyRing({"k1": ONE}).seal(plain, associated)
    assert len(box.data) == len(plain) + 16
    assert KeyRing({"k2": TWO, "k1": ONE}).open(box, associated) == plain


@given(
    plain=st.binary(max_size=50),
    associated=st.binary(max_size=50),
    where=st.sampled_from(["nonce", "data"]),
    byte=st.integers(0, 10_000),
    bit=st.integers(0, 7),
)
def test_any_flipped_bit_is_found(
    plain: bytes, associated: bytes, where: str, byte: int, bit: int
) -> None:
    """One bit of nonce, ciphertext or tag: it does not open (ZS-21)."""
    ring = KeyRing({"k1": ONE})
    box = ring.seal(plain, associated)
    changed = bytearray(getattr(box, where))
    changed[byte % len(changed)] ^= 1 << bit
    other = (
        box._replace(nonce=bytes(changed))
        if where == "nonce"
        else box._replace(data=bytes(changed))
    )
    with pytest.raises(Unopened, match="'k1' does not open it"):
        ring.open(other, associated)


@given(data=st.data(), associated=st.binary(max_size=20), other=st.binary(max_size=20))
def test_anything_else_that_differs_is_found(
    data: st.DataObject, associated: bytes, other: bytes
) -> None:
    """Other associated data, another key under the same id, a box cut short or made up."""
    assume(associated != other)
    ring = KeyRing({"k1": ONE})
    box = ring.seal(b"plain", associated)
    with pytest.raises(Unopened):
        ring.open(box, other)
    with pytest.raises(Unopened):
        KeyRing({"k1": TWO}).open(box, associated)
    with pytest.raises(Unopened):
        ring.open(box._replace(data=box.data[: data.draw(st.integers(0, 20))]), associated)
    made_up = Box("k1", data.draw(st.binary(max_size=20)), data.draw(st.binary(max_size=40)))
    with pytest.raises(Unopened):
        ring.open(made_up, associated)


def test_no_nonce_comes_twice() -> None:
    """Each seal has a fresh nonce, so that equal arguments look different."""
    ring = KeyRing({"k1": ONE})
    boxes = [ring.seal(b"same", b"") for _ in range(1000)]
    assert len({box.nonce for box in boxes}) == len({box.data for box in boxes}) == 1000


def test_the_command_makes_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    """`taskyard keys new` prints what the setting takes; named after the day unless told otherwise."""

    def run(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["keys", "new", *arguments])
        return stop.value.code, *capsys.readouterr()

    made = [run(), run(), run("card-7")]
    assert all(code == 0 for code, _, _ in made)
    assert len({out.partition(":")[2] for _, out, _ in made}) == 3
    assert parse_keys(made[0][1]).ids[0].startswith("k20")
    assert parse_keys(made[2][1]).ids == ("card-7",)
    code, out, err = run("not an id")
    assert (code, out) == (2, "")
    assert "key id 'not an id' is not valid" in err
    assert parse_keys(new_key("k9")).ids == ("k9",)
