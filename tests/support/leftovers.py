"""What servers leave behind whose owners were killed while they were stopped, without a guard."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def sweep(folder: Path, prefix: str) -> None:
    """Remove the subfolders called `<prefix>-<process id>-…` of processes that are gone."""
    for path in folder.glob(f"{prefix}-*"):
        owner = path.name.removeprefix(f"{prefix}-").partition("-")[0]
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (ValueError, PermissionError):
            continue
