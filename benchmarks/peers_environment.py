"""The environment of the peers: made once, and again when their list changes."""

from __future__ import annotations

import subprocess
import sys
import venv

from benchmarks.contestants import PEERS, ROOT

_WANTED = ROOT / "benchmarks" / "peers" / "requirements.txt"
#: A copy of the list that the environment was made from.
_MADE = PEERS.parent / "made-from.txt"


def ensure() -> None:
    """Make it, or leave it as it is.

    Raises:
        CalledProcessError: pip could not install them; its output says why.

    """
    wanted = _WANTED.read_text()
    if _MADE.exists() and _MADE.read_text() == wanted:
        return
    print("installing the peers into .venv-peers …", file=sys.stderr)
    venv.create(PEERS.parent, with_pip=True, clear=True)
    pip = (str(PEERS / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check")
    subprocess.run([*pip, "-r", str(_WANTED)], check=True)
    _MADE.write_text(wanted)


def versions() -> dict[str, str]:
    """Return the versions of the peers, as their list has them."""
    lines = (line.partition("#")[0].strip() for line in _WANTED.read_text().splitlines())
    return {line.partition("==")[0]: line.partition("==")[2] for line in lines if line}
