#!/usr/bin/env python3
"""Look through the files of the project for what must never be in them.

- a `taskyard/__init__.py`: it would hide every component but its own;
- download addresses and the paths of one machine: the project stands alone;
- pins that disagree: a requirement without an exact version in constraints.txt, or members whose
  versions are not in lockstep.

Prints one line a finding; exits 1 when there is any.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = (".", "shared", "producer", "broker_setup", "workers", "ledger")
#: Where there is no git: what is left out, and the hidden names that are not.
GENERATED = {"__pycache__", "build", "dist", "htmlcov"}
KEPT = {".ci", ".dockerignore", ".editorconfig", ".gitignore"}

#: What must not occur, and why. Letters in brackets keep the patterns from finding themselves.
FORBIDDEN = (
    (re.compile(r"https?://\S+\.(whl|tar\.(gz|xz|bz2)|tgz|deb|rpm)\b"), "a download address"),
    (re.compile(r"https?://\S+/[s]imple\b"), "the address of a package index"),
    (re.compile(r"/[w]ork/(main|shared)\b|/opt/(wheels|[p]ypi)"), "a path of one machine"),
    (re.compile(r"/[h]ome/(?!you\b|user\b|app\b|taskyard\b)\w+/"), "a path of one machine"),
    (re.compile(r"\.\./[s]hared/tools"), "a tool outside the project"),
)
#: The one file that may look for a tool beside the project.
MAY_LOOK_BESIDE = ".ci/run"


def files() -> list[Path]:
    """List the project's files: git's and new ones where there is git, else all but the generated."""
    if shutil.which("git"):
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        if listed.returncode == 0:
            names = [name for name in listed.stdout.decode().split("\0") if name]
            return [ROOT / name for name in names if (ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not any(is_generated(part) for part in path.relative_to(ROOT).parts)
    ]


def is_generated(part: str) -> bool:
    """Tell by its name a folder or file that tools made."""
    return part in GENERATED or (part.startswith(".") and part not in KEPT)


def stray_packages() -> Iterator[str]:
    """Find `taskyard/__init__.py`, also where git ignores it."""
    for member in MEMBERS:
        for name in ("__init__.py", "__init__.pyi"):
            for folder in ("taskyard", "src/taskyard"):
                path = ROOT / member / folder / name
                if path.exists():
                    yield f"{path.relative_to(ROOT)}: it would hide the other components"


def forbidden_text(paths: list[Path]) -> Iterator[str]:
    """Find addresses and machine paths in text files."""
    for path in paths:
        name = str(path.relative_to(ROOT))
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            for pattern, reason in FORBIDDEN:
                if pattern.search(line) and name != MAY_LOOK_BESIDE:
                    yield f"{name}:{number}: {reason}: {line.strip()[:80]}"


def canonical(requirement: str) -> str:
    """Reduce a requirement to its distribution's canonical name."""
    name = re.split(r"[\s<>=!~;\[@]", requirement.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    """Read constraints.txt: name to version."""
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        text = line.split("#")[0].strip()
        if text:
            name, _, version = text.partition("==")
            pins[canonical(name)] = version
    return pins


def asked() -> dict[str, str]:
    """List every requirement of the members and the tools, and the file that asks for it."""
    found: dict[str, str] = {}
    for member, project in projects().items():
        extras = project.get("optional-dependencies", {}).values()
        for requirement in [*project["dependencies"], *(r for extra in extras for r in extra)]:
            found[requirement] = f"{member}/pyproject.toml"
    for line in (ROOT / "requirements-dev.txt").read_text().splitlines():
        text = line.split("#")[0].strip()
        if text and not text.startswith("-"):
            found[text] = "requirements-dev.txt"
    return found


def projects() -> dict[str, dict[str, Any]]:
    """Read the `project` table of each member."""
    return {
        member: tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]
        for member in MEMBERS
    }


def loose_pins() -> Iterator[str]:
    """Find what is asked for without an exact version, and members out of step."""
    pins = pinned()
    for name, version in pins.items():
        if not re.fullmatch(r"[0-9][0-9A-Za-z.+!]*", version):
            yield f"constraints.txt: {name} has no exact version"
    versions = {project["name"]: project["version"] for project in projects().values()}
    if len(set(versions.values())) != 1:
        yield f"the members' versions are not in lockstep: {versions}"
    for requirement, where in asked().items():
        name = canonical(requirement)
        if name in versions and not requirement.endswith(f"=={versions[name]}"):
            yield f"{where}: {requirement} must be pinned to {versions[name]}"
        if name not in versions and name not in pins:
            yield f"{where}: {requirement} has no version in constraints.txt"


def main() -> int:
    """Print every finding; return the exit status."""
    findings = [*stray_packages(), *forbidden_text(files()), *loose_pins()]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
