"""The chart renders to objects that Kubernetes takes, and refuses nonsense with a sentence."""

from __future__ import annotations

import json
from typing import Any

import kubernetes_validate
import pytest

from deploy import chart
from deploy.command_line import VARIABLE, check_command, commands_in, known_variables
from deploy.dockerfile import parse
from deploy.files import CHART, DOCKERFILE, load, version
from taskyard.shared.catalogue import load_queues
from taskyard.shared.settings import Settings

Values = dict[str, Any]

CASES: dict[str, Values] = {path.stem: load(path) for path in sorted((CHART / "ci").glob("*.yaml"))}
VERSIONS = ("1.25", "1.31", "1.37")
URL: Values = {"broker": {"url": "amqp://taskyard:secret@rabbitmq:5672/"}}
EVERY = pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())


def pods(values: Values) -> list[Values]:
    """Every pod template of a rendering."""
    owners = [one for one in chart.objects(values) if one["kind"] in {"Deployment", "Job"}]
    return [one["spec"]["template"]["spec"] for one in owners]


def worker(name: str, values: Values) -> Values:
    deployment: Values = chart.of_kind("Deployment", values)[f"demo-taskyard-worker-{name}"]
    return deployment


def environment(values: Values) -> dict[str, str]:
    """The variables of a worker's container that come from the ConfigMap."""
    (config,) = chart.of_kind("ConfigMap", values).values()
    data: dict[str, str] = config["data"]
    return data


@EVERY
@pytest.mark.parametrize("kubernetes", VERSIONS)
def test_kubernetes_takes_every_object(values: Values, kubernetes: str) -> None:
    """Each object passes the strict schema of old and new releases: no unknown field, right types."""
    rendered = chart.objects(values)
    assert {"Deployment", "ConfigMap", "Job"} <= {one["kind"] for one in rendered}
    for one in rendered:
        kubernetes_validate.validate(one, kubernetes, strict=True)


@EVERY
def test_lint_finds_nothing(values: Values) -> None:
    """`helm lint --strict` is content."""
    assert chart.findings(values) == []


@EVERY
def test_names_are_unique_and_labelled(values: Values) -> None:
    """No two objects collide, and whoever looks at one can tell where it comes from."""
    names = [(one["kind"], one["metadata"]["name"]) for one in chart.objects(values)]
    assert len(names) == len(set(names))
    for one in chart.objects(values):
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == chart.RELEASE
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert len(one["metadata"]["name"]) <= 63


def test_versions_agree() -> None:
    """Chart, application and workspace are released together."""
    about = load(CHART / "Chart.yaml")
    assert about["version"] == about["appVersion"] == version()
    assert "dependencies" not in about, "the broker is the user's own"


# ── Worker groups ─────────────────────────────────────────────────────────────────────────────


def test_each_group_is_a_deployment() -> None:
    """Groups are laid over the defaults: what a group says wins, also when it says 0 or false."""
    values = CASES["two-groups-values"]
    deployments = chart.of_kind("Deployment", values)
    assert set(deployments) == {"demo-taskyard-worker-checkout", "demo-taskyard-worker-mail"}
    assert worker("checkout", values)["spec"]["replicas"] == 4
    assert worker("mail", values)["spec"]["replicas"] == 0
    container = worker("checkout", values)["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"] == {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"memory": "1Gi"},
    }
    assert list(chart.of_kind("PodDisruptionBudget", values)) == ["demo-taskyard-worker-checkout"]


def test_a_group_is_removed_by_null_or_disabled() -> None:
    """The group of the chart's own values need not stay."""
    for gone in (None, {"enabled": False}):
        values = URL | {"workers": {"default": gone, "mail": {"queues": ["mail"]}}}
        assert list(chart.of_kind("Deployment", values)) == ["demo-taskyard-worker-mail"]


def test_null_removes_a_default() -> None:
    """A default that must not apply at all can be taken away from one group."""
    values = URL | {"workers": {"default": {"resources": None}}}
    (container,) = worker("default", values)["spec"]["template"]["spec"]["containers"]
    assert "resources" not in container


def test_groups_do_not_select_each_others_pods() -> None:
    """Deployments and budgets select exactly their own group, by labels that never change."""
    values = URL | {"workers": {"mail": {"podLabels": {"team": "post"}}}}
    selectors = []
    for name, deployment in chart.of_kind("Deployment", values).items():
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
        budget = chart.of_kind("PodDisruptionBudget", values)[name]
        assert budget["spec"]["selector"]["matchLabels"] == selector
        assert not any("version" in label or "chart" in label for label in selector)
        selectors.append(tuple(sorted(selector.items())))
    assert len(set(selectors)) == len(selectors) == 2


@EVERY
def test_a_worker_gets_its_grace(values: Values) -> None:
    """The kubelet kills only after the worker's grace and the time to hand jobs back."""
    for deployment in chart.of_kind("Deployment", values).values():
        pod = deployment["spec"]["template"]["spec"]
        (grace,) = (arg for arg in pod["containers"][0]["args"] if arg.startswith("--grace="))
        margin_s = pod["terminationGracePeriodSeconds"] - int(grace.removeprefix("--grace="))
        assert margin_s >= Settings().publish_deadline + 5


@EVERY
def test_probes_ask_what_the_worker_serves(values: Values) -> None:
    """Liveness asks /livez, which a broker's outage leaves well; readiness asks /readyz."""
    for deployment in chart.of_kind("Deployment", values).values():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        paths = {
            probe: container[probe]["httpGet"]["path"]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        }
        assert paths == {
            "startupProbe": "/livez",
            "livenessProbe": "/livez",
            "readinessProbe": "/readyz",
        }
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert str(ports["metrics"]) == environment(values)["TASKYARD_METRICS_PORT"]


def test_the_port_is_one_value() -> None:
    """Container, probes, annotation and setting follow metrics.port together."""
    values = URL | {"metrics": {"port": 9000}}
    template = worker("default", values)["spec"]["template"]
    assert template["spec"]["containers"][0]["ports"] == [
        {"name": "metrics", "containerPort": 9000}
    ]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "9000"
    assert environment(values)["TASKYARD_METRICS_PORT"] == "9000"


def test_new_settings_make_new_pods() -> None:
    """A change of settings or secret changes the pod template; another group's does not."""

    def annotations(more: Values) -> dict[str, str]:
        template = worker("default", URL | more)["spec"]["template"]
        found: dict[str, str] = template["metadata"]["annotations"]
        return found

    base = annotations({})
    assert annotations({"settings": {"TASKYARD_NAMESPACE": "other"}}) != base
    assert annotations({"broker": {"url": "amqp://other@rabbitmq/"}}) != base
    assert annotations({"workers": {"mail": {"replicas": 7}}}) == base


# ── Security ──────────────────────────────────────────────────────────────────────────────────


@EVERY
def test_pods_are_restricted(values: Values) -> None:
    """Every pod passes the Pod Security Standard `restricted`, and has no token to steal."""
    user = int(parse(DOCKERFILE.read_text())["worker"].last("USER").text.split(":")[0])
    for pod in pods(values):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == user
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


@EVERY
def test_services_cannot_overwrite_settings(values: Values) -> None:
    """Kubernetes would set TASKYARD_CONSOLE_PORT=tcp://… for a Service named taskyard-console."""
    for pod in pods(values):
        assert pod["enableServiceLinks"] is False


@EVERY
def test_mounts_have_volumes(values: Values) -> None:
    """Each mount has its volume, and each file and folder that a setting names is mounted."""
    for pod in pods(values):
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert set(mounts) == set(volumes)
        file = environment(values)["TASKYARD_BROKER_URL_FILE"]
        (item,) = volumes["broker"]["secret"]["items"]
        assert f"{mounts['broker']}/{item['path']}" == file
        assert environment(values)["TASKYARD_STATE_DIR"] == mounts["state"]
        assert mounts["tmp"] == "/tmp"


@EVERY
def test_the_url_is_in_secrets_only(values: Values) -> None:
    """The broker's password is in no ConfigMap, variable or argument."""
    url = values["broker"].get("url")
    for one in chart.objects(values):
        if one["kind"] != "Secret":
            assert "TASKYARD_BROKER_URL" not in json.dumps(one).replace(
                "TASKYARD_BROKER_URL_FILE", ""
            )
            assert url is None or url not in json.dumps(one)


def test_a_secret_is_made_or_used() -> None:
    """With a URL the chart makes the Secret that pods mount; with existingSecret it makes none."""
    made = chart.of_kind("Secret", URL)
    assert made["demo-taskyard-broker"]["stringData"] == {"broker-url": URL["broker"]["url"]}
    pod = worker("default", URL)["spec"]["template"]["spec"]
    assert pod["volumes"][0]["secret"]["secretName"] == "demo-taskyard-broker"

    given = CASES["existing-secret-values"]
    assert not chart.of_kind("Secret", given)
    for pod in pods(given):
        secret = pod["volumes"][0]["secret"]
        assert secret["secretName"] == "rabbitmq-default-user"
        assert secret["items"][0]["key"] == "connection_string"


def test_accounts_and_images_can_be_given() -> None:
    """An account and an image of one's own are used, the image by its digest."""
    given = CASES["existing-secret-values"]
    assert not chart.of_kind("ServiceAccount", given)
    for pod in pods(given):
        assert pod["serviceAccountName"] == "jobs"
        assert pod["imagePullSecrets"] == [{"name": "registry-login"}]
        assert pod["containers"][0]["image"].startswith("registry.example.com/shop@sha256:")
    assert list(chart.of_kind("ServiceAccount", URL)) == ["demo-taskyard"]


# ── Set-up ────────────────────────────────────────────────────────────────────────────────────


@EVERY
def test_the_hook_needs_only_what_exists_before_it(values: Values) -> None:
    """A pre-install hook runs before the release's own objects: it must not lean on any of them."""
    (job,) = chart.of_kind("Job", values).values()
    weight = int(job["metadata"]["annotations"]["helm.sh/hook-weight"])
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "envFrom" not in container
    assert pod.get("serviceAccountName") not in chart.of_kind("ServiceAccount", values)
    secret = pod["volumes"][0]["secret"]["secretName"]
    made = chart.of_kind("Secret", values).get(secret)
    if made is None:
        assert secret == values["broker"]["existingSecret"]
    else:
        annotations = made["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert int(annotations["helm.sh/hook-weight"]) < weight
    assert {one["name"]: one["value"] for one in container["env"]} == environment(values)


def test_set_up_makes_the_queues_of_all_groups() -> None:
    """The modules of every enabled group, each once, and the feed when a ledger is to come."""
    values = CASES["two-groups-values"]
    (job,) = chart.of_kind("Job", values).values()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["broker", "apply", "shop.mail", "shop.tasks"]
    (job,) = chart.of_kind("Job", CASES["existing-secret-values"]).values()
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args == ["broker", "apply", "taskyard.workers.selftest", "--ledger"]


def test_set_up_can_be_left_to_others() -> None:
    """Without set-up there is neither the Job nor its copy of the secret."""
    values = URL | {"setup": {"enabled": False}}
    assert not chart.of_kind("Job", values)
    assert list(chart.of_kind("Secret", values)) == ["demo-taskyard-broker"]


# ── The real program ──────────────────────────────────────────────────────────────────────────


@EVERY
def test_commands_are_real(values: Values) -> None:
    """The program takes each command line of each container."""
    for pod in pods(values):
        check_command(pod["containers"][0]["args"])


def test_default_modules_declare_queues() -> None:
    """What the chart runs out of the box can be imported."""
    assert load_queues(load(CHART / "values.yaml")["workerDefaults"]["modules"])


@EVERY
def test_variables_are_known_and_valid(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable of ours is one that the program reads, with a value that it takes."""
    for name, value in environment(values).items():
        assert name in known_variables()
        if not name.endswith("_FILE"):
            monkeypatch.setenv(name, value)
    assert Settings().metrics_host == "0.0.0.0"


def test_every_variable_in_the_sources_is_known() -> None:
    """Also those that only comments, messages and examples name."""
    texts = [path.read_text() for path in CHART.rglob("*") if path.is_file()]
    named = {name for text in texts for name in VARIABLE.findall(text)}
    assert named <= known_variables(), named - known_variables()


@EVERY
def test_notes_tell_real_commands(values: Values) -> None:
    """What Helm prints after an installation can be typed in, and names objects that exist."""
    (notes,) = (text for path, text in chart.files(values).items() if path.endswith("NOTES.txt"))
    commands = list(commands_in(notes))
    assert ["queues", "list"] in commands
    for command in commands:
        check_command(command)
    for deployment in chart.of_kind("Deployment", values):
        assert deployment.removeprefix("demo-taskyard-worker-") in notes
    named = {word.removeprefix("deployment/") for word in notes.split() if "deployment/" in word}
    assert named <= set(chart.of_kind("Deployment", values))
