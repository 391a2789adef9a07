"""What an operator wants to know of a federation that lives for years, from the folder and from the SuperLink.

`federation status`, the organisation's page and the metrics say the same, because all of them ask here.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from federation.errors import IntaglioError, UnavailableError
from federation.privacy.ledger import Account, ledger_from_file
from federation.statements import text_of_time
from server.coordinator.run_records import RunRecords
from server.expiry import Ending, days_left
from server.fleet.expiry import certificates
from server.fleet.members import Coordinator
from server.fleet.run_queue import Place, RunQueue
from server.fleet.submitting import ledgers
from server.fleet.superlink import NodeState, RunState, connected


@dataclass(frozen=True)
class FederationStatus:
    """How a federation stands.

    Attributes:
        address: of the gateway.
        certificates: and when they end.
        members: names, and what the SuperLink knows of their nodes; None of one that it does not know.
        is_up: whether the SuperLink answers.
        under_way: runs that are not over.
        waiting: runs in the queue.
        outcomes: of all runs by how they stand, as their records say.
        accounts: what is left for whom.
        unreadable: what could not be read, and why.
    """

    address: str
    certificates: tuple[Ending, ...]
    members: dict[str, NodeState | None]
    is_up: bool
    under_way: tuple[RunState, ...]
    waiting: tuple[Place, ...]
    outcomes: Counter[str] = field(default_factory=Counter)
    accounts: tuple[Account, ...] = ()
    unreadable: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> FederationStatus:
        """Reads everything there is.

        Raises:
            UsageError: the folder holds no federation.
        """
        coordinator = Coordinator(folder)
        nodes, under_way, is_up = dict[int, NodeState](), tuple[RunState, ...](), True
        try:
            with connected(folder) as superlink:
                nodes, under_way = superlink.nodes(), tuple(run for run in superlink.runs() if not run.is_over)
        except UnavailableError:
            is_up = False
        outcomes, accounts, unreadable = Counter[str](), list[Account](), list[str]()
        for ledger in ledgers(folder):
            try:
                outcomes.update(record.outcome.value for record in RunRecords.beside(ledger).all())
                accounts += _accounts(ledger, ledger.stat().st_mtime_ns) if ledger.exists() else ()
            except (IntaglioError, OSError) as error:
                unreadable.append(f"{ledger}: {error}")
        return cls(
            coordinator.address,
            certificates(folder),
            {member.name: nodes.get(member.node) for member in coordinator.members()},
            is_up,
            under_way,
            RunQueue(folder).places(),
            outcomes,
            tuple(accounts),
            tuple(unreadable),
        )

    def lines(self, now: dt.datetime) -> Iterator[str]:
        """For people."""
        yield f"gateway at {self.address}; its SuperLink {'answers' if self.is_up else 'does not answer'}"
        for certificate in self.certificates:
            left = days_left(certificate.ends_at, now)
            yield (
                certificate.notice(now)
                or f"{certificate.what} ends on {certificate.ends_at:%Y-%m-%d}, in {left:.0f} days"
            )
        for name, node in sorted(self.members.items()):
            yield f"member {name}: {_of_node(node, is_up=self.is_up)}"
        for run in self.under_way:
            yield f"run {run.run} is {run.status}"
        for place in self.waiting:
            yield f"{place.what} {'has begun' if place.has_begun else 'waits'} as {place.number} in the queue"
        if self.outcomes:
            yield "runs: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        for account in self.accounts:
            left = account.cap_epsilon - account.epsilon
            yield f"budget of {account.population}: {left:.2f} of {account.cap_epsilon:g} is left"
        yield from self.unreadable

    def to_json(self, now: dt.datetime) -> dict[str, Any]:
        """For programs."""
        return {
            "address": self.address,
            "superlink": self.is_up,
            "certificates": {one.what: round(days_left(one.ends_at, now), 2) for one in self.certificates},
            "members": {
                name: None if node is None else {"online": node.is_online, "seen_at": node.seen_at}
                for name, node in self.members.items()
            },
            "under_way": [str(run.run) for run in self.under_way],
            "queue": [place.what for place in self.waiting],
            "runs": dict(self.outcomes),
            "epsilon_left": {account.population: account.cap_epsilon - account.epsilon for account in self.accounts},
            "unreadable": list(self.unreadable),
        }


@lru_cache(maxsize=64)
def _accounts(ledger: Path, _changed_at: int) -> tuple[Account, ...]:
    """The composition takes seconds; it is made again when the file has changed."""
    return ledger_from_file(ledger.read_bytes()).accounts()


def _of_node(node: NodeState | None, *, is_up: bool) -> str:
    if not is_up:
        return "nobody knows"
    if node is None:
        return "the SuperLink does not know its node: revoke it and invite it again"
    seen = "never seen" if node.seen_at is None else f"since {text_of_time(node.seen_at)}"
    return f"{'online' if node.is_online else 'offline'}, {seen}"
