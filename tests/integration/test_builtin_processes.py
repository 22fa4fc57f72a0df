"""The built-in tasks as an operator without Python uses them: by module name and settings."""

from __future__ import annotations

import pytest

from support.rig import Rig

SHELL = "taskyard.workers.builtin.shell"


@pytest.fixture
def rig(broker_url, taskyard, tmp_path):
    return Rig(broker_url, taskyard, tmp_path, queues=("shell",))


async def test_an_operator_allows_commands(rig, taskyard):
    """ZS-06: a setting names them; the job is sent by hand, and its output is its result."""
    async with rig:
        env = {"TASKYARD_SHELL_ALLOW": "echo, env", "TASKYARD_SHELL_ENV": "SHOP,NOT_SET"}
        await rig.worker(module=SHELL, env={**env, "SHOP": "7"})
        for command, output in (('["echo", "a b"]', "a b"), ('["env"]', "SHOP=7")):
            sent = taskyard(
                "send", "shell:run", "--args", f'{{"command": {command}}}', "--wait", env=rig.env()
            )
            assert await sent.wait_exit(within=30) == 0
            assert output in "\n".join(sent.lines)


async def test_disabled_means_a_refusal(rig, taskyard):
    """ZS-06: without the setting whoever asks is told what to set; then the job can be released."""
    async with rig:
        await rig.worker(module=SHELL)
        command = ("send", "shell:run", "--args", '{"command": ["echo"]}', "--wait")
        sent = taskyard(*command, env=rig.env())
        assert await sent.wait_exit(within=30) == 1
        said = "\n".join(sent.lines)
        assert "parked (held): shell.run is disabled here" in said
        assert "TASKYARD_SHELL_ALLOW" in said
        assert len(await rig.parked(queue="shell")) == 1
