"""The queue `shell` with the task `shell.run`, configured by TASKYARD_SHELL_ALLOW and _ENV.

TASKYARD_SHELL_ALLOW=/usr/bin/convert,gzip taskyard worker taskyard.workers.builtin.shell
taskyard send shell:run --args '{"command": ["gzip", "/data/a.csv"]}'
"""

from __future__ import annotations

from taskyard.shared.settings import listed, variables
from taskyard.shared.settings_aside import SettingsAside
from taskyard.shared.task import Queue
from taskyard.workers.builtin import commands

_settings = SettingsAside().wait()

shell = Queue("shell", label="Commands on the worker's machine")
run = commands.add_to(
    shell,
    allow=listed(_settings.shell_allow),
    env=variables(listed(_settings.shell_env)),
)
