"""What is left behind, and who may remove it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.leftovers import sweep


def test_only_the_folders_of_the_dead_are_swept(tmp_path: Path) -> None:
    """A folder goes when its owner is gone; that of a living process and any other one stay."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f"it-{dead.pid}-a", f"it-{os.getpid()}-b", "it-nobody-c", f"other-{dead.pid}-d"]
    for name in names:
        (tmp_path / name / "data").mkdir(parents=True)
    sweep(tmp_path, "it")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
