"""What Prometheus may read of a coordinator: runs, members, budgets, certificates, refusals. Nothing of a person."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.expiry import days_left
from server.fleet.gateway import Gateway
from server.fleet.status import FederationStatus
from server.visitors.door import Door


class FederationMetrics(Collector):
    """Reads everything when somebody looks.

    Args:
        folder: the coordinator's.
        gateway: that serves now.
        door: that it listens on.
        clock: the time.
    """

    def __init__(
        self,
        folder: Path,
        gateway: Gateway,
        door: Door,
        *,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._folder, self._gateway, self._door, self._clock = folder, gateway, door, clock

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        status, now = FederationStatus.read(self._folder), self._clock()
        yield _gauge("superlink_up", "Whether the SuperLink answers.", (), [((), status.is_up)])
        states = [((state,), count) for state, count in status.outcomes.items()]
        yield _gauge("runs", "Runs by how their records say that they stand.", ("state",), states)
        yield _gauge("runs_under_way", "Runs that are not over.", (), [((), len(status.under_way))])
        yield _gauge("runs_waiting", "Runs in the queue.", (), [((), sum(not it.has_begun for it in status.waiting))])
        members = {name: node for name, node in status.members.items() if node is not None}
        online = [((name,), node.is_online) for name, node in members.items()]
        yield _gauge("member_online", "Whether a member's node keeps up its session.", ("member",), online)
        seen = [((name,), node.seen_at) for name, node in members.items() if node.seen_at is not None]
        yield _gauge("member_seen_timestamp_seconds", "When it came or went last.", ("member",), seen)
        left = [((account.population,), account.cap_epsilon - account.epsilon) for account in status.accounts]
        yield _gauge("epsilon_left", "Privacy budget that is left.", ("population",), left)
        ends = [((one.what,), days_left(one.ends_at, now)) for one in status.certificates]
        yield _gauge("certificate_days_left", "Days until a certificate ends.", ("certificate",), ends)
        wrong = [((name,), 1) for name in self._gateway.clocks]
        yield _gauge("member_clock_wrong", "Members whose clocks are wrong.", ("member",), wrong)
        yield _gauge("connections", "Connections at the gateway.", (), [((), self._door.visitors)])
        refused = CounterMetricFamily("intaglio_federation_refusals", "What the gateway refused.", labels=("reason",))
        for reason, count in (self._gateway.refused + self._door.turned_away).items():
            refused.add_metric((reason,), count)
        yield refused


def _gauge(
    name: str, words: str, labels: Iterable[str], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"intaglio_federation_{name}", words, labels=tuple(labels))
    for label, value in values:
        family.add_metric(label, float(value))
    return family
