"""What Prometheus reads of a bridge, as a whole: every number with its name, its labels and its kind."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

from prometheus_client import CollectorRegistry

from server.web.metrics import BridgeMetrics


def told(metrics):
    registry = CollectorRegistry()
    registry.register(metrics)
    return {
        (family.name, family.type): {
            tuple(sample.labels.items()): sample.value
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        for family in registry.collect()
    }


def ended(by, status):
    return (("by", by), ("status", status))


NONE = {
    ("intaglio_bridge_calls", "counter"): {},
    ("intaglio_serving", "gauge"): {(): 0},
    ("intaglio_bridge_connections", "gauge"): {(): 0},
    ("intaglio_bridge_connections_refused", "counter"): {},
    ("intaglio_certificate_days_left", "gauge"): {},
}


def test_a_bridge_that_nobody_has_come_to_shows_what_there_will_be_and_serves_nobody():
    metrics = BridgeMetrics(SimpleNamespace(visitors=0, turned_away=Counter()))
    assert (told(metrics), metrics.serves()) == (NONE, False)


def test_every_number_is_that_of_the_moment_in_which_somebody_looks():
    door = SimpleNamespace(visitors=5, turned_away=Counter(full=2, slow=3))
    metrics, left, serves = BridgeMetrics(door), {"bridge": 12.5, "authority": -1.0}, [True]
    metrics.watch_certificates(lambda: left)
    metrics.watch_service(lambda: serves[0])
    calls = [
        ("bridge", "OK"),
        *[("service", "OK")] * 2,
        *[("service", "UNAVAILABLE")] * 3,
        *[("bridge", "INTERNAL")] * 4,
    ]
    for by, status in calls:
        metrics.answered(by, status)
    expected = {
        ("intaglio_bridge_calls", "counter"): {
            ended("bridge", "OK"): 1,
            ended("service", "OK"): 2,
            ended("service", "UNAVAILABLE"): 3,
            ended("bridge", "INTERNAL"): 4,
        },
        ("intaglio_serving", "gauge"): {(): 1},
        ("intaglio_bridge_connections", "gauge"): {(): 5},
        ("intaglio_bridge_connections_refused", "counter"): {(("reason", "full"),): 2, (("reason", "slow"),): 3},
        ("intaglio_certificate_days_left", "gauge"): {
            (("certificate", "bridge"),): 12.5,
            (("certificate", "authority"),): -1.0,
        },
    }
    assert (told(metrics), metrics.serves()) == (expected, True)
    door.visitors, serves[0] = 6, False
    left.pop("bridge")
    now = told(metrics)
    assert (now["intaglio_bridge_connections", "gauge"], now["intaglio_serving", "gauge"]) == ({(): 6}, {(): 0})
    assert now["intaglio_certificate_days_left", "gauge"] == {(("certificate", "authority"),): -1.0}
    assert metrics.serves() is False
