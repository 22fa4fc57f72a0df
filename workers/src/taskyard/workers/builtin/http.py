"""The queue `http` with the task `http.request`, configured by TASKYARD_HTTP_ALLOW.

taskyard broker apply taskyard.workers.builtin.http
taskyard worker taskyard.workers.builtin.http
taskyard send http:request --args '{"url": "https://api.shop.example/hooks/paid"}'
"""

from __future__ import annotations

from taskyard.shared.settings import listed
from taskyard.shared.settings_aside import SettingsAside
from taskyard.shared.task import Queue
from taskyard.workers.builtin import requests

http = Queue("http", label="Requests to other servers")
request = requests.add_to(http, allow=listed(SettingsAside().wait().http_allow))
