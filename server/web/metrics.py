"""What Prometheus may read of a bridge: how calls ended, and who is at its door. Nothing of a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.visitors.door import Door


class BridgeMetrics(Collector):
    """Counts for as long as the process lives.

    Args:
        door: where visitors come in.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._calls = Counter[tuple[str, str]]()
        self._days_left: Callable[[], Mapping[str, float]] = dict
        self._serves: Callable[[], bool] = bool

    def answered(self, by: Literal["bridge", "service"], status: str) -> None:
        """Notes a call, by who answered it and with which of gRPC's status names. Which call it was is not kept."""
        self._calls[by, status] += 1

    def watch_certificates(self, days_left: Callable[[], Mapping[str, float]]) -> None:
        """Reads when which certificate ends whenever somebody looks."""
        self._days_left = days_left

    def watch_service(self, serves: Callable[[], bool]) -> None:
        """Reads whether the service behind the bridge serves whenever somebody looks."""
        self._serves = serves

    def serves(self) -> bool:
        """Whether visitors would be served: a bridge alone serves nobody."""
        return self._serves()

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        calls = CounterMetricFamily("intaglio_bridge_calls", "Calls by who answered, and how.", labels=("by", "status"))
        for labels, count in self._calls.copy().items():
            calls.add_metric(labels, count)
        yield calls
        yield GaugeMetricFamily("intaglio_serving", "Whether the service behind it serves.", value=self.serves())
        yield GaugeMetricFamily("intaglio_bridge_connections", "Connections of visitors.", value=self._door.visitors)
        refused = CounterMetricFamily(
            "intaglio_bridge_connections_refused", "Connections that were refused or ended.", labels=("reason",)
        )
        for reason, count in self._door.turned_away.copy().items():
            refused.add_metric((reason,), count)
        yield refused
        ends = GaugeMetricFamily(
            "intaglio_certificate_days_left",
            "Until a certificate ends that this bridge shows to the service, or that both are signed with.",
            labels=("certificate",),
        )
        for name, days in self._days_left().items():
            ends.add_metric((name,), days)
        yield ends
