"""What docs/deployment.md says can be typed in."""

from __future__ import annotations

import re

from deploy.command_line import VARIABLE, check_command, commands_in, known_variables
from deploy.files import COMPOSE, DOCKERFILE, DOCS, ROOT, load

TEXT = DOCS.read_text()
BLOCKS = "\n".join(re.findall(r"```(?:console|sh)\n(.*?)```", TEXT, re.DOTALL))


def test_commands_are_real() -> None:
    """The program takes every `taskyard …` line."""
    commands = list(commands_in(BLOCKS))
    assert len(commands) >= 3
    for command in commands:
        check_command(command)


def test_variables_are_known() -> None:
    """Every variable is one that the program reads, or one that Compose fills in."""
    interpolated = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text()))
    assert set(VARIABLE.findall(TEXT)) <= known_variables() | interpolated


def test_what_it_names_exists() -> None:
    """Files, scripts, services, targets and images are those of the repository."""
    for path in re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT):
        assert (DOCS.parent / path).exists(), path
    for path in re.findall(r"(?<![\w/.])((?:scripts|helm|observability)/[\w/.-]+)", TEXT):
        assert (ROOT / path).exists(), path
    services = load(COMPOSE)["services"]
    for name in re.findall(r"--scale (\w+)=", TEXT) + re.findall(r"compose exec (\w+)", TEXT):
        assert name in services
    for target in re.findall(r"--target (\w+)", TEXT):
        assert f"AS {target}\n" in DOCKERFILE.read_text()
