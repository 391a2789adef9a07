"""What an operator may watch: how long stages take, what waits, what is refused. Never who, never what came out.

Decisions are not counted here. Where few people come, whoever reads a counter before and after somebody stood at the
door has read that person's decision. Comparisons are counted, matches are not; the evaluation of a release states how
often it errs, and attempts are in the database for those who may read it.
"""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.exposition import show

_KEPT_TIMES = 10_000
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Prometheus metrics of one server process, and the latest ten thousand times of each stage."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._times: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT_TIMES))
        self._stages = Histogram(
            "intaglio_stage_seconds", "Time of one stage.", ["stage"], buckets=_BUCKETS, registry=self._registry
        )
        self._refusals = Counter(
            "intaglio_refusals", "Calls that ended in an error.", ["rpc", "error"], registry=self._registry
        )
        self._material = Counter(
            "intaglio_prepared_material",
            "Comparisons by whether material was ready (hit) or had to be made (miss).",
            ["outcome"],
            registry=self._registry,
        )
        self._sessions = Gauge("intaglio_open_sessions", "Unfinished sessions, all servers.", registry=self._registry)
        self._witnesses = Gauge(
            "intaglio_witness_silent",
            "1 for a witness that did not cosign the log when it was asked last.",
            ["witness"],
            registry=self._registry,
        )
        self._queue = Gauge("intaglio_queue_depth", "Comparisons waiting or running.", registry=self._registry)
        self._pool = Gauge("intaglio_prepared_depth", "Comparisons that are prepared.", registry=self._registry)
        self._serves = Gauge("intaglio_serving", "Whether health says SERVING.", registry=self._registry)
        self._release_ends = Gauge(
            "intaglio_release_ends_timestamp_seconds",
            "When the audit of the release that is served ends, and the service with it.",
            registry=self._registry,
        )
        self._rules_end = Gauge(
            "intaglio_rules_end_timestamp_seconds",
            "When the deployment that is served ends, or the first of the permissions that it needs.",
            registry=self._registry,
        )
        self._stopped = Gauge(
            "intaglio_purposes_stopped",
            "Purposes of this deployment that a moratorium stops now.",
            registry=self._registry,
        )
        self._certificates = Gauge(
            "intaglio_certificate_days_left",
            "Until a certificate ends that this server shows, or that its clients' are signed with.",
            ["certificate"],
            registry=self._registry,
        )

    def add(self, stage: str, milliseconds: float) -> None:
        """Notes one run of `stage`."""
        self._times[stage].append(milliseconds)
        self._stages.labels(stage).observe(milliseconds / 1e3)

    def refused(self, rpc: str, error: Exception) -> None:
        """Notes a call that ended in an error. Its class says why; its text would name people's numbers."""
        self._refusals.labels(rpc, type(error).__name__).inc()

    def compared(self, *, prepared: bool) -> None:
        """Notes a comparison with an enrolled template."""
        self._material.labels("hit" if prepared else "miss").inc()

    def set_open_sessions(self, count: int) -> None:
        """Notes how many sessions are open."""
        self._sessions.set(count)

    def watch_witnesses(self, names: Iterable[str], silent: Callable[[], Mapping[str, str]]) -> None:
        """Reads which of those named are silent whenever somebody looks."""
        for name in names:
            self._witnesses.labels(name).set_function(partial(_is_in, name, silent))

    def watch_certificates(self, days_left: Callable[[], Mapping[str, float]]) -> None:
        """Reads when which certificate ends whenever somebody looks."""
        for name in days_left():
            self._certificates.labels(name).set_function(partial(_value_of, name, days_left))

    def watch_workers(self, *, queue: Callable[[], int], prepared: Callable[[], int]) -> None:
        """Reads these two whenever somebody looks."""
        self._queue.set_function(queue)
        self._pool.set_function(prepared)

    def set_serving(self, *, serves: bool) -> None:
        """Notes what health says."""
        self._serves.set(serves)

    def set_release_end(self, ends_at: int) -> None:
        """Notes until when the release may be served, in seconds since 1970."""
        self._release_ends.set(ends_at)

    def set_rules_end(self, ends_at: float) -> None:
        """Notes until when the public rules allow what is served, in seconds since 1970."""
        self._rules_end.set(ends_at)

    def set_stopped(self, purposes: int) -> None:
        """Notes how many of this deployment's purposes a moratorium stops."""
        self._stopped.set(purposes)

    def serve(self, host: str, port: int) -> Callable[[], None]:
        """Answers Prometheus, and at `/health` whether this server serves, until the returned function is called.

        Raises:
            UsageError: the port is taken, or the interface is none of this machine's.
        """
        return show(self._registry, host, port, serves=lambda: bool(self.value("intaglio_serving")))

    def value(self, name: str, **labels: str) -> float:
        """One sample as Prometheus would read it; 0 when there is none yet."""
        return self._registry.get_sample_value(name, labels) or 0.0

    def summary(self) -> dict[str, dict[str, float]]:
        """Count, median and 95th percentile for each stage, in milliseconds."""
        return {
            stage: {
                "count": len(times),
                "median_ms": round(statistics.median(times), 3),
                "p95_ms": round(float(np.percentile(times, 95)), 3),
            }
            for stage, times in sorted(self._times.items())
        }

    def all_times(self) -> dict[str, dict[str, float | list[float]]]:
        """`summary`, with the times themselves under "times_ms", oldest first."""
        return {
            stage: {**facts, "times_ms": [round(time, 3) for time in self._times[stage]]}
            for stage, facts in self.summary().items()
        }


def _value_of(name: str, values: Callable[[], Mapping[str, float]]) -> float:
    return values()[name]


def _is_in(name: str, silent: Callable[[], Mapping[str, str]]) -> float:
    return float(name in silent())
