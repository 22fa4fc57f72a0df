"""Enough of the Dockerfile's language to judge ours, and to do its steps without an engine."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

_FORMS = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN",
    "STOPSIGNAL", "USER", "WORKDIR",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction with its continued lines joined."""

    name: str
    text: str

    @property
    def flags(self) -> dict[str, str]:
        """The `--flag=value` in front."""
        return dict(re.findall(r"--([a-z-]+)=(\S+)", self._split()[0]))

    @property
    def rest(self) -> str:
        """What follows the flags."""
        return self._split()[1]

    def _split(self) -> tuple[str, str]:
        found = re.match(r"((?:--[a-z-]+=\S+\s+)*)(.*)", self.text, re.DOTALL)
        assert found
        return found[1], found[2]

    @property
    def words(self) -> list[str] | None:
        """The words of the exec form; None in the shell form."""
        text = self.rest.removeprefix("CMD ") if self.name == "HEALTHCHECK" else self.rest
        try:
            words = json.loads(text)
        except json.JSONDecodeError:
            return None
        return words if isinstance(words, list) else None


@dataclass(slots=True)
class Stage:
    """One `FROM … AS …` and what follows it."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        """Return its instructions of one kind."""
        return [one for one in self.instructions if one.name == name]

    def last(self, name: str) -> Instruction:
        """Return the one that counts where only the last one does."""
        return self.all(name)[-1]

    def environment(self) -> dict[str, str]:
        """Return what ENV sets."""
        return {
            name: value.strip('"')
            for one in self.all("ENV")
            for name, value in re.findall(r'(\w+)=("[^"]*"|\S+)', one.text)
        }


def parse(text: str) -> dict[str, Stage]:
    """Read a Dockerfile into its stages, by name; arguments before the first FROM are filled in."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    stage: Stage | None = None
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, rest = line.partition(" ")
        assert name in _FORMS, f"not an instruction that this project uses: {line}"
        instruction = Instruction(name, rest.strip())
        if name == "FROM":
            base, as_, title = rest.split()
            assert as_ == "AS"
            base = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], base)
            stages[title] = stage = Stage(title, base)
        elif stage is None:
            assert name == "ARG", f"before the first FROM: {line}"
            argument, _, default = rest.partition("=")
            arguments[argument] = default
        else:
            stage.instructions.append(instruction)
    return stages
