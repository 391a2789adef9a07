"""What Prometheus may read of a node: budget, certificate, clock, refusals. Nothing of a person."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from client.node.ledger import PEOPLE, Ledgers
from client.node.reaching import Reached
from federation.addresses import bare_host, cannot_listen
from federation.errors import IntaglioError
from federation.privacy.ledger import LedgerChain


class NodeMetrics(Collector):
    """Reads the ledger when somebody looks; the composition is made again when it has changed.

    Args:
        ledgers: of the organisation.
        refused: counts of the guard, by why.
        clock: seconds since 1970.

    Attributes:
        reached: what the gateway showed last; None when it did not answer.
    """

    def __init__(self, ledgers: Ledgers, refused: Counter[str], *, clock: Callable[[], float] = time.time) -> None:
        self._ledgers, self._refused, self._clock = ledgers, refused, clock
        self._composed: tuple[LedgerChain, float] | None = None
        self.reached: Reached | None = None

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        try:
            left = self._left()
        except IntaglioError:
            pass  # who starts the node, or asks it, is told; everything else is shown all the same
        else:
            yield GaugeMetricFamily("intaglio_node_epsilon_left", "Privacy budget that is left.", value=left)
        yield GaugeMetricFamily(
            "intaglio_node_gateway_reached", "Whether the gateway answered last.", value=float(self.reached is not None)
        )
        if self.reached is not None:
            yield GaugeMetricFamily(
                "intaglio_node_certificate_days_left",
                "Days until the gateway's certificate ends.",
                value=self.reached.days_left(self._clock()),
            )
            yield GaugeMetricFamily(
                "intaglio_node_clock_ahead_seconds",
                "How far this machine's clock is ahead of the gateway's.",
                value=self.reached.ahead,
            )
        refused = CounterMetricFamily(
            "intaglio_node_refusals", "What guard or coordinator refused.", labels=("reason",)
        )
        for reason, count in self._refused.items():
            refused.add_metric((reason,), count)
        yield refused

    def _left(self) -> float:
        own = self._ledgers.own()
        if self._composed is None or self._composed[0] != own:
            spent = sum(account.epsilon for account in own.accounts() if account.population == PEOPLE)
            self._composed = own, self._ledgers.budget_epsilon - spent
        return self._composed[1]


def show(metrics: Collector, host: str, port: int) -> Callable[[], None]:
    """Answers Prometheus, without encryption, until the returned function is called.

    Raises:
        UsageError: the port is taken, or the interface is none of this machine's.
    """
    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, addr=bare_host(host), registry=registry)
    except OSError as error:
        raise cannot_listen(host, port, error) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
