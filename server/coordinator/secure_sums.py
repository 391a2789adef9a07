"""The coordinator's side of a run's secure sums: Flower messages out, answers in, sums at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, PeerError, ProofError, RoundAbortedError
from federation.identity import verify_identity
from federation.learning.rounds import (
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
from federation.privacy.plan import SumPlan
from federation.secagg import Coordinator, Stage
from federation.secagg.coordinator import ASKED
from federation.secagg.graph import COMPLETE
from federation.secagg.masking import Edge
from federation.secagg.messages import Advertisement
from federation.secagg.ring import decode, noise_std, require_headroom
from server.coordinator.run_records import DropOut

_POLL_SECONDS = 0.1
_SAY_SECONDS = 10.0
_WORDS = {
    ADVERTISE: "keys",
    SHARE_KEYS: "shares of keys",
    SIGN_SURVIVORS: "signatures on who is left",
    OPEN_SHARES: "shares that open the sum",
    SHOW_RANGE: "proofs that inputs are in bounds",
}
_SENT_AT_ONCE = 50


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
        roster: public identities of all organisations.
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
        absent: nodes of the roster that are not asked, and why.
        keep_ledger: takes an organisation's name and its own ledger; raises when that does not extend the last one.
        deadline_seconds: how long to wait for all answers to one request.
        say: is told what is under way and who is awaited.

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
        keep_ledger: Callable[[str, bytes], None],
        deadline_seconds: float,
        absent: Mapping[int, str] | None = None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._say = say
        self._grid, self._nodes, self._plan, self._deadline_seconds = grid, nodes, plan, deadline_seconds
        self._members, self._keep_ledger = members, keep_ledger
        self._sums = {
            release: Coordinator(session, verify_identity, names=members.names)
            for release, session in sessions(plan, run, members.roster).items()
        }
        for release, noise_multiplier in plan.events:
            session = self._sums[release].session
            require_headroom(session, plan.people, session.noise_share(noise_std(noise_multiplier, session.size)))
        self._names = dict(enumerate(members.names, start=1))
        self._node_of: dict[int, int] = {}
        self._people: dict[int, int] = {}
        self._faults = dict(absent or {})
        self._shares: dict[str, Mapping[int, bytes]] = {}

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
            RoundAbortedError: too few organisations remain, or they hold more people than planned.
        """
        request = advertise_request(self._plan, shown)
        for node, content in self._exchange(ADVERTISE, ((node, request) for node in self._nodes)).items():
            try:
                self._enter(node, content)
            except (MalformedMessageError, ProofError) as error:
                self._faults[node] = f"it sent a wrong reply: {error}"
        self._check_people(sum(self._people.values()))
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
            longest, std = plan.longest(release, sum(counts)), noise_std(noise_multiplier, coordinator.session.size)
            total = decode(coordinator.total, longest, std)
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

    def _check_people(self, held: int) -> None:
        """More than planned need another plan. Fewer do not: the noise is for one person, however many there are.

        So somebody may withdraw at any moment, and the run goes on under the charge that it has.
        """
        planned = self._plan.people
        if held > planned:
            counts = ", ".join(f"{self._names[member]} {count}" for member, count in sorted(self._people.items()))
            raise RoundAbortedError(
                f"the plan is for at most {planned} people and the organisations hold {held}: they say {counts}. With "
                f"people = {held} it is another run at another charge; this one goes on once they hold no more than it "
                "was planned for. Or ask whoever says a wrong number"
            )
        if held < planned and len(self._people) == self._plan.organisations:
            self._say(f"the organisations hold {held} people of the {planned} that were planned for; the noise stays")

    def _blame(self, release: str) -> str:
        """Who spoiled a sum, in words: each survivor is asked to prove that its input was in bounds."""
        coordinator, session = self._sums[release], self._sums[release].session
        if len(session.roster) > COMPLETE:
            return f"No one can say which: beyond {COMPLETE} organisations nobody proves that its input is in bounds"
        ranges = coordinator.ranges
        nodes = {member: self._node_of[member] for member in coordinator.survivors}
        request = range_request(release, ranges.seeds)
        answers = self._exchange(SHOW_RANGE, ((node, request) for node in nodes.values()))
        std = session.noise_share(noise_std(dict(self._plan.events)[release], session.size))
        found, shown = [], dict[int, dict[Edge, bytes]]()
        for member, node in nodes.items():
            try:
                proof = read_protocol(answers[node])[release] if node in answers else b""
                shown[member] = coordinator.require_range(
                    member, ranges, ranges.bound(self._plan.longest(release, self._people[member]), std), proof
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
        contents = (
            (
                self._node_of[member],
                RecordDict(
                    {
                        **(request or {}),
                        **protocol_content({release: to[member] for release, to in asked.items() if member in to}),
                    }
                ),
            )
            for member in members
        )
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
        self._keep_ledger(self._names[member], lines)

    def _advance(self, release: str) -> Mapping[int, bytes]:
        """The next messages of a release; faults of nodes that are nobody yet join the reasons when it ends here."""
        try:
            return self._sums[release].advance()
        except RoundAbortedError as error:
            strangers = sorted(self._faults.keys() - set(self._node_of.values()))
            nodes = "; ".join(f"{self._members.node_name(node)}: {self._faults[node]}" for node in strangers)
            raise RoundAbortedError(f"{error}{f' ({nodes})' if nodes else ''}") from error

    def _exchange(self, message_type: str, contents: Iterator[tuple[int, RecordDict]]) -> dict[int, RecordDict]:
        """Sends each node its content; gives the answers that arrived in time, in the order of node ids.

        Contents are made as they are sent: those for a thousand organisations would fill a machine.
        """
        waiting = dict[str, int]()
        while some := list(islice(contents, _SENT_AT_ONCE)):
            messages = [Message(content, node, message_type, ttl=self._deadline_seconds) for node, content in some]
            waiting |= zip(self._grid.push_messages(messages), (node for node, _ in some), strict=True)
        asked, begun = len(waiting), time.monotonic()
        told = begun
        end, answers = begun + self._deadline_seconds, dict[int, RecordDict]()
        what = _WORDS.get(message_type, message_type)
        while waiting:
            for reply in self._grid.pull_messages(list(waiting)):
                node = waiting.pop(reply.metadata.reply_to_message_id)
                if reply.has_error():  # its text is the node's and is not repeated here
                    self._faults[node] = Refusal.describe(reply.error.code)
                else:
                    answers[node] = reply.content
            if waiting and time.monotonic() >= end:
                break
            if waiting and time.monotonic() - told >= _SAY_SECONDS:
                told = time.monotonic()
                names = sorted(self._members.nodes.get(node, f"node {node}") for node in waiting.values())
                self._say(f"{what}: waiting for {', '.join(names)} since {told - begun:.0f} s")
            if waiting:
                time.sleep(_POLL_SECONDS)
        self._say(f"{what}: {len(answers)} of {asked} answered in {time.monotonic() - begun:.0f} s")
        for node in waiting.values():
            self._faults[node] = f"it did not answer {message_type} within {self._deadline_seconds:g} s"
        return dict(sorted(answers.items()))
