"""A coordinator that lies: it asks real nodes what it likes, and keeps everything that it sees of their answers."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict
from flwr.common.serde import recorddict_to_proto

import client.node.app
from federation.identity import verify_identity
from federation.learning.rounds import (
    ADVERTISE,
    OPEN_SHARES,
    SHARE_KEYS,
    SIGN_SURVIVORS,
    ShownLedger,
    advertise_request,
    protocol_content,
    read_ledger,
    read_people,
    read_protocol,
    sessions,
)
from federation.privacy.plan import SumPlan
from federation.secagg import Coordinator
from federation.secagg.messages import Advertisement
from federation.secagg.session import roster_from_text
from tests.federated import a_charge
from tests.simulator import FIRST_NODE, InProcessGrid


@dataclass(frozen=True)
class Seen:
    """All of an answer that does not come from fresh randomness.

    Attributes:
        code: why there is none, as a number; None when there is an answer.
        reason: the text that travels with the code.
        length: bytes of the answer on the wire.
        ledger: the organisation's own, as it goes with the answer.
        records: names of everything in it.
    """

    code: int | None
    reason: str
    length: int
    ledger: bytes | None
    records: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, reply: Message) -> Seen:
        if reply.has_error():
            return cls(reply.error.code, reply.error.reason, 0, None, ())
        content = reply.content
        length = len(recorddict_to_proto(content).SerializeToString())
        names = tuple((name, tuple(sorted(map(str, content[name])))) for name in sorted(content))
        return cls(None, "", length, read_ledger(content), names)


class LyingCoordinator:
    """Takes organisations of one run through the exchanges, each when it likes.

    Args:
        config: of the run, as `federated.write_federation` gives it.
        plan: to propose.
        organisations: indices of the nodes to ask; all in the roster by default.
        run_id: of the Flower run.
        shown: the ledger to show; one that charges the plan by default.
    """

    def __init__(
        self,
        config: dict[str, Any],
        plan: SumPlan,
        *,
        organisations: Iterable[int] | None = None,
        run_id: int = 1,
        shown: ShownLedger | None = None,
        node_configs: dict[int, dict[str, Any]] | None = None,
    ) -> None:
        roster = roster_from_text(Path(config["roster"]).read_text())
        self.config, self.plan, self.shown = config, plan, shown or a_charge(config, plan)
        self.indices = list(range(len(roster)) if organisations is None else organisations)
        self.grid = InProcessGrid(
            client.node.app.app, max(self.indices) + 1, config, run_id=run_id, node_configs=node_configs
        )
        self.sums = {
            release: Coordinator(session, verify_identity)
            for release, session in sessions(plan, str(run_id), roster).items()
        }
        self.index_of: dict[int, int] = {}
        self.asked: dict[str, dict[int, bytes]] = {}
        self._kept: tuple[Any, dict[int, dict[Path, bytes]]] | None = None

    def ask(self, index: int, kind: str, content: RecordDict) -> Message:
        """One node's answer to anything."""
        (reply,) = self.grid.send_and_receive([Message(copy.deepcopy(content), FIRST_NODE + index, kind)])
        return reply

    def advertise(self) -> dict[int, Message]:
        """Every node's answer to the plan, by index."""
        replies = {}
        for index in self.indices:
            replies[index] = reply = self.ask(index, ADVERTISE, advertise_request(self.plan, self.shown))
            if reply.has_error():
                continue
            read_people(reply.content)
            messages = read_protocol(reply.content)
            member = Advertisement.from_bytes(next(iter(messages.values()))).sender
            self.index_of[member] = index
            for release, coordinator in self.sums.items():
                coordinator.receive(member, messages[release])
        return replies

    def share(self) -> dict[int, Message]:
        """Every node's answer when it is to deal shares."""
        self.asked = {release: dict(coordinator.advance()) for release, coordinator in self.sums.items()}
        replies = {
            member: self.ask(
                index, SHARE_KEYS, protocol_content({release: lists[member] for release, lists in self.asked.items()})
            )
            for member, index in self.index_of.items()
        }
        for member, reply in replies.items():
            for release, data in read_protocol(reply.content).items():
                self.sums[release].receive(member, data)
        self.asked = {release: dict(coordinator.advance()) for release, coordinator in self.sums.items()}
        return {self.index_of[member]: reply for member, reply in replies.items()}

    def question(self, index: int, kind: str, request: RecordDict, release: str) -> Message:
        """One node's answer when it is asked for its masked input."""
        member = next(member for member, of in self.index_of.items() if of == index)
        return self.ask(
            index, kind, RecordDict({**request, **protocol_content({release: self.asked[release][member]})})
        )

    def open(self, kind: str, request: RecordDict, release: str, *, openers: Iterable[int]) -> list[int]:
        """Opens a sum with the shares of `openers`; gives the indices whose people are in it, none if it stays shut."""
        coordinator, openers = self.sums[release], set(openers)

        def next_stage(kind: str, request: RecordDict, asked: dict[int, bytes], who: set[int]) -> dict[int, bytes]:
            for member in sorted(asked):
                if (index := self.index_of[member]) not in who:
                    coordinator.lose(member, "was not asked")
                    continue
                reply = self.ask(index, kind, RecordDict({**request, **protocol_content({release: asked[member]})}))
                if reply.has_error():
                    coordinator.lose(member, f"refused with {reply.error.code}")
                else:
                    coordinator.receive(member, read_protocol(reply.content)[release])
            return coordinator.advance()

        everybody = set(self.indices)
        signed = next_stage(kind, request, self.asked[release], everybody)
        listed = next_stage(SIGN_SURVIVORS, RecordDict(), signed, everybody)
        next_stage(OPEN_SHARES, RecordDict(), listed, openers)
        return [self.index_of[member] for member in coordinator.survivors]

    # ------------------------------------------------------------------------- asking many questions at one moment
    def keep(self) -> None:
        """Remembers this moment of all nodes."""
        folder = Path(self.config["organisations"])
        files = {
            index: {path: path.read_bytes() for path in (folder / f"{index}.ledgers").glob("*.jsonl")}
            for index in self.indices
        }
        states = {node: copy.deepcopy(context.state) for node, context in self.grid.contexts.items()}
        self._kept = (states, files)

    def back(self) -> None:
        """Brings all nodes back to the moment of `keep`."""
        assert self._kept is not None
        states, files = self._kept
        for node, state in states.items():
            self.grid.contexts[node].state = copy.deepcopy(state)
        for index, kept in files.items():
            place = Path(self.config["organisations"]) / f"{index}.ledgers"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(mode=0o700)
            for path, data in kept.items():
                path.write_bytes(data)
