"""Values that make no sense are refused, with a sentence that names the key."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from deploy import chart
from deploy.files import CHART

Values = dict[str, Any]

URL: Values = {"broker": {"url": "amqp://taskyard:secret@rabbitmq:5672/"}}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "broker.existingSecret and broker.url are both empty: set"),
        ({"broker": {"url": "amqp://x", "existingSecret": "y"}}, "are both set: set only one"),
        ({"broker": {"url": "sqlite:///file"}}, "broker.url must begin with amqp:// or amqps://"),
        ({"settings": {"TASKYARD_GRACE": 5}}, "settings.TASKYARD_GRACE would be overridden: set workerDefaults.grace"),
        ({"settings": {"TASKYARD_METRICS_PORT": 5}}, "set metrics.port instead"),
        ({"settings": {"TASKYARD_BROKER_URL": "amqp://x"}}, "set broker.existingSecret instead"),
        ({"settings": {"TASKYARD_LEDGER_URL": "x"}}, "settings.TASKYARD_LEDGER_URL may hold a secret"),
        ({"workers": {"default": {"enabled": False}}}, "workers has no enabled group"),
        ({"workers": {"default": None}}, "workers has no enabled group"),
        ({"workers": {"mail": {"modules": []}}}, "workers.mail.modules is empty"),
        (
            {"workers": {"mail": {"podDisruptionBudget": {"minAvailable": 1}}}},
            "workers.mail.podDisruptionBudget has both",
        ),
        (
            {"workers": {"mail": {"podDisruptionBudget": {"maxUnavailable": None}}}},
            "workers.mail.podDisruptionBudget has neither",
        ),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_a_sentence(values: Values, sentence: str) -> None:
    """What the schema cannot say is said in words that name the key and the way out."""
    base = URL if values and "broker" not in values else {}
    assert sentence in chart.refusal(base | values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"worker": {}}, "worker"),
        ({"workers": {"mail": {"replica": 3}}}, "replica"),
        ({"workers": {"mail": {"replicas": "3"}}}, "/workers/mail/replicas"),
        ({"workers": {"mail": {"concurrency": 0}}}, "/workers/mail/concurrency"),
        ({"workers": {"mail": {"queues": ["no.dots"]}}}, "/workers/mail/queues"),
        ({"workers": {"mail": {"terminationMargin": 1}}}, "/workers/mail/terminationMargin"),
        ({"workers": {"Not_A_Name": {}}}, "Not_A_Name"),
        ({"workerDefaults": {"grace": -1}}, "/workerDefaults/grace"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"image": {"digest": "sha256:short"}}, "/image/digest"),
        ({"metrics": {"port": 0}}, "/metrics/port"),
        ({"settings": {"LOG_FORMAT": "json"}}, "LOG_FORMAT"),
        ({"setup": {"modules": ["not a module"]}}, "/setup/modules"),
    ],
)
def test_the_schema_names_the_key(values: Values, named: str) -> None:
    """A misspelt key or a wrong type is refused before anything is rendered."""
    assert named in chart.refusal(URL | values)


def test_the_schema_knows_every_value() -> None:
    """Each key of values.yaml has its type in the schema, the worker's keys in one place."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    assert set(values["workerDefaults"]) == set(schema["definitions"]["worker"]["properties"])
