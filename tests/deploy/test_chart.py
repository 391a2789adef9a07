"""The chart, rendered by Helm's own engine: lint, Kubernetes' schemas, commands that exist, and who may reach whom."""

import json
import re
from pathlib import Path

import pytest
import yaml
from click.exceptions import UsageError as ClickUsageError

from tests.deploy.starting import parameters_of

helm = pytest.importorskip("helm_python", reason="Helm comes with the extra `dev`")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="Kubernetes' schemas come with `dev`")

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/chart"
KUBERNETES = "1.34"
EVERYTHING = {
    "existing": {"assertions": "intaglio-assertions"},
    "formerReleases": ["first.zip", "second.zip"],
    "ingress": {"className": "nginx", "tlsSecret": "verify-tls"},
    "matching": {"storageClassName": "fast"},
    "database": {"podSelector": {"matchLabels": {"app": "database"}}},
    "network": {
        "bridgeFrom": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
        "devicesFrom": [{"ipBlock": {"cidr": "198.51.100.0/24"}}],
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "witnesses": ["192.0.2.0/24"],
    },
    "monitor": True,
}


def rendered(values=None):
    """Every object that Helm would send, by kind and name."""
    files = helm.Chart.load(CHART).render(values or {}, name="one", namespace="verify", is_install=True)
    objects = [each for text in files.values() for each in yaml.safe_load_all(text) if each]
    assert len(objects) == len({(each["kind"], each["metadata"]["name"]) for each in objects})
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


SMALL, FULL = rendered(), rendered(EVERYTHING)
PODS = {
    (name, which): each["spec"]["template"]
    for name, chart in (("small", SMALL), ("full", FULL))
    for (kind, which), each in chart.items()
    if kind in {"StatefulSet", "Deployment", "Job"}
}
BY_POD = pytest.mark.parametrize("pod", PODS.values(), ids=map("-".join, PODS))


def containers(pod):
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def test_helm_finds_nothing_to_complain_about():
    for values in (None, EVERYTHING):
        report = helm.lint(CHART, values, strict=True, namespace="verify")
        assert report["errors"] == []
        assert [each for each in report["messages"] if each["severity"] > 1] == []


@pytest.mark.parametrize("chart", [SMALL, FULL], ids=["small", "full"])
def test_every_object_is_one_by_kubernetes_own_schemas(chart):
    for (kind, _), each in chart.items():
        if kind != "ServiceMonitor":  # of Prometheus's operator
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_an_object_that_is_none_is_found():
    wrong = json.loads(json.dumps(SMALL["Deployment", "one-bridge"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["readyProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readyProbe"):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@BY_POD
def test_every_command_exists_and_reads_what_is_mounted(pod):
    for container in containers(pod):
        command = container["command"]
        environment = {each["name"] for each in container.get("env", ())}
        started = parameters_of([*command, *(["--database=x"] if "matching" in command else [])])
        mounts = {each["mountPath"] for each in container["volumeMounts"]}
        read = [each for value in started.values() for each in (value if isinstance(value, tuple) else (value,))]
        paths = [path for path in map(str, read) if path.startswith(("/data", "/etc"))]
        assert paths or "upgrade" in command
        for path in paths:
            assert any(path.startswith(mount) for mount in mounts), path
        assert "matching" not in command or {"INTAGLIO_SERVER_DATABASE", "INTAGLIO_SERVER_LOG_DATABASE"} <= environment


def test_a_command_that_no_program_has_is_noticed():
    with pytest.raises(ClickUsageError, match="No such option"):
        parameters_of(["intaglio-server", "web", "start", "--hots=x"])


@BY_POD
def test_what_listens_is_what_ports_probes_and_services_name(pod):
    for container in containers(pod):
        ports = {each["name"]: each["containerPort"] for each in container.get("ports", ())}
        if not ports:
            continue
        started = parameters_of(
            [*container["command"], *(["--database=x"] if "matching" in container["command"] else [])]
        )
        assert started["host"] == started["metrics_host"] == "0.0.0.0"  # noqa: S104 - in a pod's own network
        assert set(ports.values()) == {started["port"], started["metrics_port"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] == "metrics"
        assert container["readinessProbe"]["httpGet"]["path"] == "/health"
        ending = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")}
        assert ending == {"/metrics"}  # nobody is restarted because another is away


def test_services_lead_to_pods_and_ports_that_are_there():
    for (kind, name), each in FULL.items():
        if kind != "Service":
            continue
        (pod,) = [
            pod for pod in PODS.values() if each["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        ][:1]
        named = {port["name"] for container in containers(pod) for port in container["ports"]}
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= named, name


@BY_POD
def test_a_pod_runs_as_nobody_special_and_writes_to_memory_and_its_own_disk_only(pod):
    told = pod["spec"]["securityContext"]
    assert (told["runAsNonRoot"], told["runAsUser"], told["seccompProfile"]) == (
        True,
        10001,
        {"type": "RuntimeDefault"},
    )
    assert pod["spec"]["automountServiceAccountToken"] is False
    for container in containers(pod):
        context = container["securityContext"]
        assert context == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert set(container["resources"]) == {"limits", "requests"}
        written = {each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")}
        assert written <= {"/tmp", "/data/log"}  # noqa: S108 - inside


def test_no_value_and_no_object_holds_a_secret():
    assert not any(kind == "Secret" for kind, _ in FULL)
    for pod in PODS.values():
        for container in containers(pod):
            for each in container.get("env", ()):
                assert ("PASSWORD" in each["name"]) == ("valueFrom" in each)
    with pytest.raises(helm.HelmError, match="database"):
        helm.Chart.load(CHART).validate_schema(
            {"database": {"matching": "postgresql://intaglio:hush@database/matching"}}
        )


def test_the_bridge_has_the_policy_of_the_log_and_never_its_key():
    (log,) = [each for each in PODS["full", "one-bridge"]["spec"]["volumes"] if each["name"] == "log"]
    assert log["secret"]["items"] == [{"key": "policy", "path": "policy"}]
    assert not any("assertions" in json.dumps(each) for each in PODS["full", "one-bridge"]["spec"]["volumes"])


def policy(chart, part):
    return chart["NetworkPolicy", f"one-{part}"]["spec"]


def test_service_and_bridge_let_people_come_over_from_the_same_releases_and_from_none_unless_they_are_named():
    for part in ("matching", "bridge"):
        for chart, named in (("small", []), ("full", EVERYTHING["formerReleases"])):
            (container,) = containers(PODS[chart, f"one-{part}"])
            started = parameters_of([*container["command"], *(["--database=x"] if part == "matching" else [])])
            former = [Path("/etc/intaglio/release", name) for name in named]
            assert [*map(Path, started["former_release"] or ())] == former


def test_only_the_bridge_reaches_the_matching_service_unless_more_are_named():
    (rule,) = policy(SMALL, "matching")["ingress"]
    (caller,) = rule["from"]
    assert caller["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "bridge"
    assert rule["ports"] == [{"port": "grpc"}]
    assert len(policy(FULL, "matching")["ingress"][0]["from"]) == 2


def test_metrics_are_for_nobody_unless_they_are_named():
    for part in ("matching", "bridge"):
        shown = [rule for rule in policy(SMALL, part)["ingress"] if {"port": "metrics"} in rule["ports"]]
        assert shown == []
        (shown,) = [rule for rule in policy(FULL, part)["ingress"] if {"port": "metrics"} in rule["ports"]]
        assert shown["from"] == EVERYTHING["network"]["metricsFrom"]


def test_calls_go_out_to_names_the_database_and_named_witnesses_only():
    ports = [port["port"] for rule in policy(SMALL, "matching")["egress"] for port in rule["ports"]]
    assert ports == [53, 53, 5432]
    *_, database, witnesses = policy(FULL, "matching")["egress"]
    assert database["to"] == [{"podSelector": EVERYTHING["database"]["podSelector"]}]
    assert witnesses["to"] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    for rule in policy(FULL, "bridge")["egress"]:
        assert "to" in rule


def test_every_pod_has_a_network_policy():
    for (name, _), pod in PODS.items():
        chart = {"small": SMALL, "full": FULL}[name]
        selectors = [
            each["spec"]["podSelector"]["matchLabels"] for (kind, _), each in chart.items() if kind == "NetworkPolicy"
        ]
        assert any(selector.items() <= pod["metadata"]["labels"].items() for selector in selectors)


def test_the_database_is_brought_to_the_new_schema_before_anything_starts():
    job = SMALL["Job", "one-migrate"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    (container,) = containers(job["spec"]["template"])
    (service,) = containers(SMALL["StatefulSet", "one-matching"]["spec"]["template"])
    variables = {each["name"]: each.get("value") for each in service["env"]}
    assert container["command"] == ["intaglio-server", "database", "upgrade", variables["INTAGLIO_SERVER_DATABASE"]]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"origin": "http://verify.example.org"}, "origin"),
        ({"matching": {"workers": 0}}, "workers"),
        ({"replica": 3}, "replica"),
        ({"formerReleases": ["former"]}, "formerReleases"),
        ({"formerReleases": ["../former.zip"]}, "formerReleases"),
        ({"formerReleases": ["release.zip"]}, "formerReleases"),
        ({"formerReleases": ["former.zip", "former.zip"]}, "formerReleases"),
        ({"network": {"policy": False}}, "policy"),
    ],
)
def test_values_that_mean_nothing_are_refused(values, words):
    with pytest.raises(helm.HelmError, match=words):
        helm.Chart.load(CHART).validate_schema(values)


def test_an_ingress_without_a_certificate_is_refused():
    with pytest.raises(helm.HelmError, match=r"set ingress\.tlsSecret"):
        rendered({"ingress": {"className": "nginx"}})


def test_the_chart_has_the_version_of_the_program():
    told = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert told["version"] == told["appVersion"] == version
