"""Alert rules and board: PromQL that parses, about what the programs show, and each alert with what to do."""

import datetime as dt
import json
import re
from collections import Counter
from pathlib import Path

import grpc
import httpx
import promql_parser
import pytest
import yaml
from prometheus_client.registry import Collector

from client.node.ledger import Ledgers
from client.node.metrics import NodeMetrics
from client.node.reaching import Reached
from federation import errors
from federation.wire.v1 import verification_pb2 as pb
from server.fleet.admission import Members
from server.fleet.call_log import CallLog
from server.fleet.gateway import Gateway
from server.fleet.members import Coordinator
from server.fleet.metrics import FederationMetrics
from server.matching.metrics import Metrics
from server.visitors.door import Door
from server.web.metrics import BridgeMetrics

ROOT = Path(__file__).parents[2]
ALERTS = yaml.safe_load((ROOT / "deploy/monitoring/alerts.yaml").read_text())
RULES = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}
BOARD = json.loads((ROOT / "deploy/monitoring/board.json").read_text())
PANELS = {target["expr"]: panel["title"] for panel in BOARD["panels"] for target in panel["targets"]}
PROMETHEUS_OWN = {"up": {"job", "instance"}}
OF_THE_SCRAPE = {"job", "instance"}
CALLS = {method.name for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods}
VALUES = {
    "stage": CALLS | {"match", "match_with_queue", "prepare"},
    "rpc": CALLS,
    "error": {name for name in vars(errors) if name.endswith("Error")},
    "outcome": {"hit", "miss"},
    "by": {"bridge", "service"},
    "status": {code.name for code in grpc.StatusCode},
    "reason": {"address", "full", "late", "member"},
}
"""What a label may be; a rule about another value would be silent for ever."""
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """For each name that Prometheus would store, its labels."""
    folder = tmp_path_factory.mktemp("shown")
    Coordinator.create(folder / "coordinator", address="localhost:9", now=dt.datetime.now(dt.UTC))
    upstream = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    gateway = Gateway(upstream, CallLog(folder / "calls"), Members(folder / "coordinator"))
    node = NodeMetrics(Ledgers(folder / "ledgers", 16.0, 1e-5), Counter())
    node.reached = Reached(1.0, 1e12)
    with Door("127.0.0.1", 0) as door:
        collectors: list[Collector] = [
            Metrics()._registry,
            BridgeMetrics(door),
            FederationMetrics(folder / "coordinator", gateway, door),
            node,
        ]
        return dict(PROMETHEUS_OWN) | {name: labels for each in collectors for name, labels in names_of(each).items()}


def names_of(collector):
    found = {}
    for made in getattr(collector, "_collector_to_names", {None: None}):
        for family in (made or collector).collect():
            labels = set(getattr(made, "_labelnames", ())) | set(getattr(family, "_labelnames", ())) | OF_THE_SCRAPE
            for suffix in SUFFIXES[family.type]:
                found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def selectors(expression):
    """Name and matchers of every series that an expression reads. Raises ValueError where it is no PromQL."""
    waiting, found = [promql_parser.parse(expression)], []
    while waiting:
        node = waiting.pop()
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, [(each.name, each.op, each.value) for each in node.matchers.matchers]))
        for part in ("expr", "lhs", "rhs", "args", "vector_selector"):
            inner = getattr(node, part, None)
            waiting += inner if isinstance(inner, list) else [inner] if inner is not None else []
    return found


def unknown(expression, exported):
    """What an expression names and no program shows."""
    wrong = []
    for name, matchers in selectors(expression):
        if name not in exported:
            wrong.append(name)
            continue
        for label, _, value in matchers:
            if label not in exported[name]:
                wrong.append(f"{name}{{{label}}}")
            elif label in VALUES and not any(re.fullmatch(value, known) for known in VALUES[label]):
                wrong.append(f"{name}{{{label}={value}}}")
    grouped = {label for found in re.findall(r"\bby \(([\w, ]+)\)", expression) for label in found.split(", ")}
    known = set().union(*(exported.get(name, set()) for name, _ in selectors(expression)))
    return wrong + sorted(grouped - known)


@pytest.mark.enable_socket
@pytest.mark.parametrize("name", RULES)
def test_every_alert_is_about_what_the_programs_show(name, exported):
    assert selectors(RULES[name]["expr"])
    assert unknown(RULES[name]["expr"], exported) == []


@pytest.mark.enable_socket
@pytest.mark.parametrize("expression", PANELS, ids=PANELS.get)
def test_every_panel_is_about_what_the_programs_show(expression, exported):
    assert unknown(expression, exported) == []


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("intaglio_served == 0", ["intaglio_served"]),
        ("rate(intaglio_refusals[5m]) > 0", ["intaglio_refusals"]),
        ('intaglio_witness_silent{name="one"} == 1', ["intaglio_witness_silent{name}"]),
        ('rate(intaglio_refusals_total{error="Bug"}[5m])', ["intaglio_refusals_total{error=Bug}"]),
        ("sum by (person) (intaglio_open_sessions)", ["person"]),
    ],
)
def test_a_rule_about_what_nobody_shows_is_found(expression, found, exported):
    assert unknown(expression, exported) == found


def test_what_is_no_promql_is_found():
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        selectors("rate(intaglio_refusals_total[5m]")


@pytest.mark.enable_socket
def test_every_metric_is_watched_by_a_rule_or_shown_on_the_board(exported):
    read = {name for text in [*(rule["expr"] for rule in RULES.values()), *PANELS] for name, _ in selectors(text)}
    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in exported}
    read = {name.removesuffix("_bucket").removesuffix("_count") for name in read}
    assert families - read == UNWATCHED


UNWATCHED = {
    "intaglio_federation_connections",
    "intaglio_federation_member_seen_timestamp_seconds",
    "intaglio_federation_refusals_total",
    "intaglio_federation_runs",
    "intaglio_node_refusals_total",
}
"""What nobody needs to be woken for, or to see all the time."""


def test_every_alert_says_what_is_wrong_how_bad_it_is_and_what_to_do():
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs/operations.md").read_text(), flags=re.MULTILINE)
    anchors = {"docs/operations.md#" + re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
    for rule in RULES.values():
        assert set(rule["annotations"]) == {"summary", "runbook"}
        assert rule["annotations"]["runbook"] in anchors
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_a_summary_names_only_labels_that_its_expression_leaves():
    for name, rule in RULES.items():
        grouped = re.findall(r"^(?:count|sum)? ?by \(([\w, ]+)\)|^(?:count|sum) by \(([\w, ]+)\)", rule["expr"])
        left = {label for pair in grouped for label in ", ".join(pair).strip(", ").split(", ")}
        if left:
            assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= left, name


def test_panels_do_not_lie_over_each_other():
    taken = Counter()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        taken.update((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"]))
        assert at["x"] + at["w"] <= 24
    assert max(taken.values()) == 1
