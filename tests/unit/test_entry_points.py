"""Entry points by name, with and without `importlib.metadata`."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import entry_points as all_entry_points
from pathlib import Path

import pytest

from taskyard.shared import entry_points

GROUP = "taskyard.commands"
TEXT = """
[console_scripts]
one = elsewhere:main

[taskyard.commands]
two.three = json:loads
 spaced = os.path:join [extra]
one=json.decoder:JSONDecoder.decode
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("two.three", "json:loads"),
        ("spaced", "os.path:join [extra]"),
        ("one", "json.decoder:JSONDecoder.decode"),
        ("two", None),
        ("main", None),
    ],
)
def test_a_file_is_read(name: str, words: str | None) -> None:
    """By group and name; what another group calls the same is another."""
    assert entry_points.point_in(TEXT, GROUP, name) == words


def test_what_is_installed_is_found() -> None:
    """Whatever `importlib.metadata` knows is found by its name, and is the same."""
    for group in (GROUP, "taskyard.brokers"):
        points = all_entry_points(group=group)
        assert points
        for point in points:
            assert entry_points.load(group, point.name) is point.load()


def test_finding_one_needs_no_metadata() -> None:
    """That is what it is for."""
    code = (
        "import sys; from taskyard.shared import entry_points\n"
        "entry_points.load('taskyard.brokers', 'memory'); print('importlib.metadata' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_one_of_another_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, packed: bool
) -> None:
    """One that is in no folder, but in an archive on the path, is found as well."""
    place = tmp_path / "place"
    info = place / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text(TEXT)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    if packed:
        with zipfile.ZipFile(tmp_path / "place.zip", "w") as archive:
            for file in info.iterdir():
                archive.write(file, f"{info.name}/{file.name}")
        place = tmp_path / "place.zip"
    monkeypatch.syspath_prepend(place)
    decode = entry_points.load(GROUP, "one")
    assert decode is not None
    assert decode.__qualname__ == "JSONDecoder.decode"
    assert entry_points.load(GROUP, "nothing") is None
