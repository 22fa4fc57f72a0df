"""Render the chart as Helm would."""

from __future__ import annotations

import os
import platform
from typing import Any

import pytest
import yaml

from deploy.files import CHART

if platform.machine() != "x86_64":
    # The library has no build for other machines.
    pytest.skip("the Helm library exists for x86-64 only", allow_module_level=True)
elif os.environ.get("CI"):
    import helm_python as helm
else:
    helm = pytest.importorskip(
        "helm_python", reason="helm-python-sdk is not installed, so the chart was not tested"
    )

RELEASE = "demo"
NAMESPACE = "prod"

Object = dict[str, Any]


def files(values: Object | None = None) -> dict[str, str]:
    """Render to text, by template path.

    Raises:
        HelmError: values or templates are wrong.
    """
    with helm.Chart.load(str(CHART)) as chart:
        rendered: dict[str, str] = chart.render(values or {}, name=RELEASE, namespace=NAMESPACE)
    return rendered


def objects(values: Object | None = None) -> list[Object]:
    """Render to Kubernetes' objects."""
    return [
        document
        for path, text in files(values).items()
        if not path.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
        if document
    ]


def of_kind(kind: str, values: Object | None = None) -> dict[str, Object]:
    """Render, and return the objects of one kind by name."""
    found = [one for one in objects(values) if one["kind"] == kind]
    return {one["metadata"]["name"]: one for one in found}


def refusal(values: Object) -> str:
    """Return why Helm refuses these values."""
    with pytest.raises(helm.HelmError) as caught:
        files(values)
    return str(caught.value)


def findings(values: Object) -> list[Object]:
    """Lint strictly; return what is worse than a remark."""
    report = helm.lint(str(CHART), values, strict=True)
    return [one for one in report["messages"] if one["severity"] >= 2]
