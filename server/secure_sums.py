"""The coordinator's side of a run's secure sums: Flower messages out, answers in, sums at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, PeerError, ProofError, RoundAbortedError
from federation.privacy import SumPlan
from federation.rounds import (
    ADVERTISE,
    OPEN_SHARES,
    SHARE_KEYS,
    SHOW_RANGE,
    SIGN_SURVIVORS,
    Refusal,
    ShownLedger,
    advertise_request,
    protocol_content,
    range_request,
    read_ledger,
    read_people,
    read_protocol,
    sessions,
)
from federation.secagg import ASKED, Coordinator, Stage, verify_ed25519
from federation.secagg.masking import Edge
from federation.secagg.messages import Advertisement
from federation.secagg.ring import decode, noise_std, require_headroom
from server.run_records import DropOut

_POLL_SECONDS = 0.1


@dataclass(frozen=True, eq=False)
class OpenedSum:
    """What one release gives.

    Attributes:
        total: (size,) float64, the noisy sum.
        noise_multiplier: noise that it carries, at least what the plan promises.
        people: over how many people it is.
        pairs: how many of them have a neighbour in their organisation.
        organisations: over how many organisations it is.
        members: what those are called; empty in what an earlier version kept.
    """

    total: NDArray[np.float64]
    noise_multiplier: float
    people: int
    pairs: int
    organisations: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Members:
    """Who takes part, and what errors call them.

    Attributes:
        roster: public keys of all organisations.
        names: what they are called, in the same order.
        nodes: Flower's node ids and whose they are, as far as the coordinator registered them.
    """

    roster: tuple[bytes, ...]
    names: tuple[str, ...]
    nodes: Mapping[int, str]

    def node_name(self, node: int) -> str:
        """Names a node by its organisation."""
        return f"{self.nodes[node]} (node {node})" if node in self.nodes else f"node {node}"


class SecureSums:
    """All secure sums of one run: `open` once, then `collect` for each release.

    A node that is silent, refuses or sends something wrong is out of the release. While enough organisations remain the
    run goes on; else it ends with the names of those that are missing.

    Args:
        grid: Flower's.
        nodes: ids of the nodes to ask.
        plan: what to sum, and how many may fail.
        run: names the run.
        members: who takes part.
        keep_ledger: takes an organisation's key and its own ledger; raises when that does not extend the last one.
        deadline_seconds: how long to wait for all answers to one request.

    Raises:
        UsageError: the roster does not fit the plan, or its sums do not fit into the ring.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: list[int],
        plan: SumPlan,
        *,
        run: str,
        members: Members,
        keep_ledger: Callable[[bytes, bytes], None],
        deadline_seconds: float,
    ) -> None:
        self._grid, self._nodes, self._plan, self._deadline_seconds = grid, nodes, plan, deadline_seconds
        self._members, self._keep_ledger = members, keep_ledger
        self._sums = {
            release: Coordinator(session, verify_ed25519, names=members.names)
            for release, session in sessions(plan, run, members.roster).items()
        }
        for release, noise_multiplier in plan.events:
            session = self._sums[release].session
            require_headroom(session, plan.people, session.noise_share(noise_std(noise_multiplier, session.size)))
        self._names = dict(enumerate(members.names, start=1))
        self._node_of: dict[int, int] = {}
        self._people: dict[int, int] = {}
        self._faults: dict[int, str] = {}
        self._shares: dict[str, dict[int, bytes]] = {}

    @property
    def drop_outs(self) -> list[DropOut]:
        """Who is out by now and why, in order. Who deals no shares is out of all sums, and stands once."""
        found, order = dict[tuple[int, Stage, int], str](), ["", *self._sums]
        for release, coordinator in self._sums.items():
            for member, stage in coordinator.left_at.items():
                where = 0 if stage <= Stage.SHARE_KEYS else order.index(release)
                found.setdefault((where, stage, member), coordinator.faults[member])
        # Before a node has said who it is, its fault is known by its node only.
        refusals = {name: self._faults[node] for node, name in self._members.nodes.items() if node in self._faults}
        return [
            DropOut(
                name := self._names[member],
                ASKED[stage],
                order[where],
                refusals.get(name, why) if stage is Stage.ADVERTISE else why.removeprefix(self._node_prefix(member)),
            )
            for (where, stage, member), why in sorted(found.items())
        ]

    def open(self, shown: ShownLedger) -> None:
        """Proposes the plan, collects keys and lets everybody deal shares, for all releases together.

        Args:
            shown: the ledger with the charge, which goes with the plan.

        Raises:
            RoundAbortedError: too few organisations remain, or they hold another number of people than planned.
        """
        for node, content in self._exchange(
            ADVERTISE, dict.fromkeys(self._nodes, advertise_request(self._plan, shown))
        ).items():
            try:
                self._enter(node, content)
            except (MalformedMessageError, ProofError) as error:
                self._faults[node] = f"it sent a wrong reply: {error}"
        if (held := sum(self._people.values())) > self._plan.people or (
            held != self._plan.people and len(self._people) == self._plan.organisations
        ):
            counts = ", ".join(f"{self._names[member]} {count}" for member, count in sorted(self._people.items()))
            raise RoundAbortedError(
                f"the plan is for {self._plan.people} people and the organisations hold {held}: they say {counts}. "
                "Set people to the true number, or ask whoever says a wrong one"
            )
        asked = {release: self._advance(release) for release in self._sums}
        self._ask(SHARE_KEYS, asked)
        self._shares = {release: self._advance(release) for release in self._sums}

    def collect(
        self, release: str, message_type: str, request: RecordDict, *, before_opening: Callable[[], None]
    ) -> OpenedSum:
        """Asks for masked inputs, settles who survived and opens the sum over them.

        Args:
            release: which sum.
            message_type: asks for the masked input.
            request: what the organisations need besides.
            before_opening: called when nobody was asked for shares yet, and somebody will be.

        Raises:
            RoundAbortedError: too few organisations remain, or the sum is not one that honest ones can make.
        """
        coordinator, plan = self._sums[release], self._plan
        self._ask(message_type, {release: self._shares[release]}, request, charged=True)
        self._ask(SIGN_SURVIVORS, {release: self._advance(release)})
        signed = self._advance(release)
        before_opening()
        self._ask(OPEN_SHARES, {release: signed}, charged=True)
        self._advance(release)
        counts = [self._people[member] for member in coordinator.survivors]
        noise_multiplier = plan.noise_with(dict(plan.events)[release], len(counts))
        try:
            total = decode(coordinator.total, sum(counts), noise_std(noise_multiplier, coordinator.session.size))
        except MalformedMessageError as error:
            raise RoundAbortedError(f"the sum for {release} was spoiled: {error}. {self._blame(release)}") from error
        return OpenedSum(
            total,
            noise_multiplier,
            sum(counts),
            sum(count for count in counts if count > 1),
            len(counts),
            tuple(self._names[member] for member in coordinator.survivors),
        )

    def _blame(self, release: str) -> str:
        """Who spoiled a sum, in words: each survivor is asked to prove that its input was in bounds."""
        coordinator, session = self._sums[release], self._sums[release].session
        ranges = coordinator.ranges
        nodes = {member: self._node_of[member] for member in coordinator.survivors}
        answers = self._exchange(SHOW_RANGE, dict.fromkeys(nodes.values(), range_request(release, ranges.seeds)))
        std = session.noise_share(noise_std(dict(self._plan.events)[release], session.size))
        found, shown = [], dict[int, dict[Edge, bytes]]()
        for member, node in nodes.items():
            try:
                proof = read_protocol(answers[node])[release] if node in answers else b""
                shown[member] = coordinator.require_range(
                    member, ranges, ranges.bound(self._people[member], std), proof
                )
            except (PeerError, KeyError) as error:
                why = self._faults.get(node, str(error)) if node not in answers else str(error)
                found.append(f"{self._names[member]} did not show that its input is in bounds ({why})")
        for first, second in combinations(sorted(shown), 2):
            if any(shown[second].get(edge) != made for edge, made in shown[first].items() if second in edge):
                pair = f"{self._names[first]} and {self._names[second]}"
                found.append(f"{pair} say different things of the mask between them: one of the two lies")
        return "; ".join(found) or (
            "Each organisation shows that its own input is in bounds, so several lied a little; no one can say which"
        )

    def _enter(self, node: int, content: RecordDict) -> None:
        people, messages = read_people(content), read_protocol(content)
        if people > (most := self._plan.people - self._plan.organisations + 1):
            raise MalformedMessageError(
                f"it says that it holds {people} people, and the plan leaves {most} when the others hold one each"
            )
        if set(messages) != set(self._sums):
            raise MalformedMessageError("the keys are not for the plan's releases")
        member = next(Advertisement.from_bytes(message).sender for message in messages.values())
        if node in self._members.nodes and self._names.get(member) != self._members.nodes[node]:
            raise MalformedMessageError("its keys are not those of the organisation whose node it is")
        if any(member not in coordinator.waiting for coordinator in self._sums.values()):
            name = self._names.get(member, f"organisation {member}")
            raise MalformedMessageError(f"it says that it is {name}, which another node is, or nobody")
        try:
            self._receive_keys(member, messages)
            self._keep(member, content)
        except (MalformedMessageError, ProofError):
            # Out of all sums: whoever is in one only could not be asked for shares.
            for coordinator in self._sums.values():
                coordinator.lose(member, coordinator.faults.get(member, "was turned away"))
            raise
        self._node_of[member], self._people[member] = node, people

    def _receive_keys(self, member: int, messages: Mapping[str, bytes]) -> None:
        for release, coordinator in self._sums.items():
            coordinator.receive(member, messages[release])
            if member in coordinator.faults:
                raise MalformedMessageError(
                    f"it says that it is {self._names[member]} and {coordinator.faults[member]}"
                )

    def _ask(
        self,
        message_type: str,
        asked: Mapping[str, Mapping[int, bytes]],
        request: RecordDict | None = None,
        *,
        charged: bool = False,
    ) -> None:
        """One exchange: sends every member its messages of some releases, and hands the answers over."""
        members = sorted(set().union(*asked.values()))
        contents = {
            self._node_of[member]: RecordDict(
                {
                    **(request or {}),
                    **protocol_content({release: to[member] for release, to in asked.items() if member in to}),
                }
            )
            for member in members
        }
        answers = self._exchange(message_type, contents)
        for member in members:
            node, messages = self._node_of[member], dict[str, bytes]()
            try:
                if node in answers:
                    if charged:
                        self._keep(member, answers[node])
                    messages = read_protocol(answers[node])
            except (MalformedMessageError, ProofError) as error:
                self._faults[node] = f"it sent a wrong reply: {error}"
            for release, to in asked.items():
                if member not in to:
                    continue
                if release in messages:
                    self._sums[release].receive(member, messages[release])
                else:
                    self._sums[release].lose(
                        member, self._node_prefix(member) + self._faults.get(node, "left a release out")
                    )

    def _node_prefix(self, member: int) -> str:
        return f"(node {self._node_of.get(member)}): "

    def _keep(self, member: int, content: RecordDict) -> None:
        if (lines := read_ledger(content)) is None:
            raise MalformedMessageError("its own privacy ledger is missing")
        self._keep_ledger(self._members.roster[member - 1], lines)

    def _advance(self, release: str) -> dict[int, bytes]:
        """The next messages of a release; faults of nodes that are nobody yet join the reasons when it ends here."""
        try:
            return self._sums[release].advance()
        except RoundAbortedError as error:
            strangers = sorted(self._faults.keys() - set(self._node_of.values()))
            nodes = "; ".join(f"{self._members.node_name(node)}: {self._faults[node]}" for node in strangers)
            raise RoundAbortedError(f"{error}{f' ({nodes})' if nodes else ''}") from error

    def _exchange(self, message_type: str, contents: Mapping[int, RecordDict]) -> dict[int, RecordDict]:
        """Sends each node its content; gives the answers that arrived in time, in the order of node ids."""
        messages = [
            Message(content, node, message_type, ttl=self._deadline_seconds) for node, content in contents.items()
        ]
        waiting = dict(zip(self._grid.push_messages(messages), contents, strict=True))
        end, answers = time.monotonic() + self._deadline_seconds, dict[int, RecordDict]()
        while waiting:
            for reply in self._grid.pull_messages(list(waiting)):
                node = waiting.pop(reply.metadata.reply_to_message_id)
                if reply.has_error():  # its text is the node's and is not repeated here
                    self._faults[node] = Refusal.describe(reply.error.code)
                else:
                    answers[node] = reply.content
            if waiting and time.monotonic() >= end:
                break
            if waiting:
                time.sleep(_POLL_SECONDS)
        for node in waiting.values():
            self._faults[node] = f"it did not answer {message_type} within {self._deadline_seconds:g} s"
        return dict(sorted(answers.items()))
