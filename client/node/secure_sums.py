"""An organisation's side of a run's secure sums, from one Flower message to the next.

Flower may start a new process for every message, so what a node must remember goes into the run's state: 96 secret
bytes for each release and the messages that it accepted. The SuperNode keeps that state in memory, for one run. Before
a message is looked at, the release's state is marked as ended; it goes on only if the answer was made. So a crash, a
wrong message or a second question ends the release for this node, and nothing is answered twice: not even when Flower
loses the state of an answer that left, since each turn is taken on disk (`client.node.turns`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from client.node import proofs
from client.node.records import Facts
from client.node.turns import RepeatedError, Turns
from federation.errors import MalformedMessageError
from federation.identity import verify_identity
from federation.learning.rounds import plan_kind, sessions
from federation.privacy.plan import SumPlan
from federation.secagg import Node, NodeSecrets, Session, Stage
from federation.secagg.ring import noise_std
from federation.secagg.session import Sign

_PLAN, _RESERVATION = "plan", "reservation"


@dataclass(frozen=True)
class Identity:
    """Who this organisation is to the others.

    Attributes:
        run: names the run.
        roster: public identities of all organisations, this one's among them.
        member: this organisation's number in the roster, from 1.
        sign: signs with its identity.
        turns: which answers it has begun to make.
    """

    run: str
    roster: tuple[bytes, ...]
    member: int
    sign: Sign
    turns: Turns


def open_sums(state: RecordDict, identity: Identity, plan: SumPlan, reservation: str, facts: Facts) -> dict[str, bytes]:
    """Draws fresh secrets for every release of the plan, which a reservation pays for; gives the advertisements.

    Args:
        state: of the run.
        identity: of this organisation.
        plan: of the run.
        reservation: which entry of the coordinator's ledger pays.
        facts: about this organisation's people; kept for `facts_of`.

    Raises:
        RepeatedError: this run has a plan already.
        UsageError: the roster does not fit the plan.
    """
    if _PLAN in state:
        raise RepeatedError
    all_sessions = sessions(plan, identity.run, identity.roster)
    drawn = {release: NodeSecrets.draw() for release in all_sessions}
    nodes = {
        release: Node(session, identity.member, drawn[release], sign=identity.sign, verify=verify_identity)
        for release, session in all_sessions.items()
    }
    advertisements = {release: node.advertise() for release, node in nodes.items()}
    state[_PLAN] = ConfigRecord({**plan.to_config()})
    state[_RESERVATION] = ConfigRecord(
        {
            "name": reservation,
            "people": facts.people,
            "dimension": facts.dimension,
            "listed": list(facts.listed),
        }
    )
    for release, secrets in drawn.items():
        _keep(state, release, secrets, [], "")
    return advertisements


def plan_of(state: RecordDict) -> SumPlan:
    """The plan that this run began with.

    Raises:
        RepeatedError: it has not begun.
    """
    if _PLAN not in state:
        raise RepeatedError
    kept = state.config_records[_PLAN]
    return plan_kind(kept).from_kept_config(dict(kept))


def facts_of(state: RecordDict) -> Facts:
    """What was settled about this organisation's people when the run began: nothing needs to be read for it.

    Raises:
        RepeatedError: it has not begun.
    """
    if _RESERVATION not in state:
        raise RepeatedError
    kept = state.config_records[_RESERVATION]
    listed = kept["listed"]
    assert isinstance(listed, list)  # noqa: S101 - for the type checker: `open_sums` wrote it
    return Facts(
        int(str(kept["people"])), int(str(kept["dimension"])), tuple(name for name in listed if isinstance(name, bytes))
    )


def reservation_of(state: RecordDict) -> str:
    """Which entry of the coordinator's ledger pays for this run.

    Raises:
        RepeatedError: it has not begun.
    """
    if _RESERVATION not in state:
        raise RepeatedError
    return str(state.config_records[_RESERVATION]["name"])


def _turn(
    state: RecordDict, identity: Identity, release: str, stage: Stage
) -> tuple[Session, NodeSecrets, list[bytes], str]:
    """One release whose turn it is: session, secrets, messages so far, charge. It has ended unless `_keep` follows.

    Raises:
        RepeatedError: it is not this stage's turn, or it was taken before.
        MalformedMessageError: the plan has no such release.
        UsageError: the turn cannot be taken on disk.
    """
    all_sessions = sessions(plan_of(state), identity.run, identity.roster)
    if release not in all_sessions:
        raise MalformedMessageError("the plan has no such release")
    record = state.config_records[_name(release)]
    secrets, received, charge = record.get("secrets"), record.get("received"), record.get("charge")
    state[_name(release)] = ConfigRecord({})  # ended, unless the answer is made: no secret stays
    if not isinstance(secrets, bytes) or not isinstance(received, list) or len(received) != stage - Stage.SHARE_KEYS:
        raise RepeatedError
    drawn = NodeSecrets.from_secret_bytes(secrets)
    identity.turns.take(drawn, release, stage)
    before = [bytes(earlier) for earlier in received if isinstance(earlier, bytes)]
    return all_sessions[release], drawn, before, str(charge)


def _keep(state: RecordDict, release: str, secrets: NodeSecrets, received: list[bytes], charge: str) -> None:
    state[_name(release)] = ConfigRecord({"secrets": secrets.secret_bytes(), "received": received, "charge": charge})


def answer(
    state: RecordDict,
    identity: Identity,
    release: str,
    stage: Stage,
    message: bytes,
    step: Callable[[Node, str], bytes],
) -> bytes:
    """Makes one answer in one release, once and in its turn.

    Args:
        state: of the run.
        identity: of this organisation.
        release: whose turn it is.
        stage: the stage that the message is for.
        message: what the coordinator sent, to remember.
        step: makes the answer, from the node and the name of the charge that pays for the release.

    Raises:
        RepeatedError: it is not this stage's turn.
        MalformedMessageError: the plan has no such release.
        PeerError: see `federation.secagg.Node`.
        ProofError: see `federation.secagg.Node`.
        RefusedError: see `federation.secagg.Node`.
    """
    session, secrets, before, charge = _turn(state, identity, release, stage)
    node = Node.resume(
        session, identity.member, secrets, before, sign=identity.sign, verify=verify_identity, charge=charge
    )
    made = step(node, charge)
    if node.stage is Stage.ENDED:
        proofs.opened(state, release, node)
    else:
        _keep(state, release, secrets, [*before, message], charge)
    return made


@dataclass(frozen=True)
class Question:
    """What a masked input is asked for, once it was read.

    Attributes:
        charge: pays for it, and names the charge once it is on disk.
        values: gives (session.size,) int64, noise included; never raises.
    """

    charge: Callable[[], str]
    values: Callable[[Session], NDArray[np.int64]]


def masked(state: RecordDict, identity: Identity, release: str, message: bytes, read: Callable[[], Question]) -> bytes:
    """Makes the masked input to one release, once and in its turn.

    Question and message are checked, then the charge is made, then people are looked at. From there on nothing fails.

    Args:
        state: of the run.
        identity: of this organisation.
        release: whose turn it is.
        message: the share list that the coordinator sent.
        read: checks the rest of the question, and reads nothing of the people.

    Raises:
        RepeatedError, MalformedMessageError, PeerError, ProofError, RefusedError: see `answer`.
        Exception: what `read` and the question's `charge` raise.
    """
    session, secrets, before, _ = _turn(state, identity, release, Stage.MASK_INPUT)

    def node(*received: bytes, charge: str = "") -> Node:
        return Node.resume(
            session, identity.member, secrets, received, sign=identity.sign, verify=verify_identity, charge=charge
        )

    question = read()
    node(*before, message)  # whatever is wrong with the message is said here, and costs nobody anything
    paid = question.charge()
    made = node(*before, charge=paid).mask_input(message, question.values(session))
    _keep(state, release, secrets, [*before, message], paid)
    proofs.masked(state, release, made)
    return made


def proof_of_range(state: RecordDict, identity: Identity, release: str, seeds: Mapping[int, bytes]) -> bytes:
    """This node's proof that its input to the last sum was no longer than it may be. Once for a sum.

    Args:
        state: of the run.
        identity: of this organisation.
        release: which sum.
        seeds: the survivors' self-mask seeds, which have been opened.

    Raises:
        RepeatedError: the sum is not the last one that this node opened, or it was shown before.
        MalformedMessageError: the plan has no such release.
        PeerError: these are not the survivors' seeds.
        RefusedError: the input is not in bounds.
    """
    plan = plan_of(state)
    session = sessions(plan, identity.run, identity.roster).get(release)
    if session is None:
        raise MalformedMessageError("the plan has no such release")
    std = session.noise_share(noise_std(dict(plan.events)[release], session.size))
    made = proofs.prove(
        state, release, session, identity.member, seeds, plan.longest(release, facts_of(state).people), std
    )
    if made is None:
        raise RepeatedError
    return made


def _name(release: str) -> str:
    return f"sum of {release}"
