"""An organisation's side of a run's secure sums, from one Flower message to the next.

Flower may start a new process for every message, so what a node must remember goes into the run's state: 96 secret
bytes for each release and the messages that it accepted. The SuperNode keeps that state in memory, for one run. Before
a message is looked at, the release's state is marked as ended; it goes on only if the answer was made. So a crash, a
wrong message or a second question ends the release for this node, and nothing is answered twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict

from federation.errors import MalformedMessageError
from federation.identity import verify_identity
from federation.privacy import SumPlan
from federation.rounds import plan_kind, sessions
from federation.secagg import Node, NodeSecrets, Session, Stage
from federation.secagg.session import Sign

_PLAN, _RESERVATION = "plan", "reservation"


class RepeatedError(Exception):
    """A request came twice, or out of its turn."""


@dataclass(frozen=True)
class Identity:
    """Who this organisation is to the others.

    Attributes:
        run: names the run.
        roster: public identities of all organisations, this one's among them.
        member: this organisation's number in the roster, from 1.
        sign: signs with its identity.
    """

    run: str
    roster: tuple[bytes, ...]
    member: int
    sign: Sign


def open_sums(state: RecordDict, identity: Identity, plan: SumPlan, reservation: str) -> dict[str, bytes]:
    """Draws fresh secrets for every release of the plan, which a reservation pays for; gives the advertisements.

    Raises:
        RepeatedError: this run has a plan already.
        UsageError: the roster does not fit the plan.
    """
    if _PLAN in state:
        raise RepeatedError
    state[_PLAN], state[_RESERVATION] = ConfigRecord({**plan.to_config()}), ConfigRecord({"name": reservation})
    advertisements = {}
    for release, session in sessions(plan, identity.run, identity.roster).items():
        secrets = NodeSecrets.draw()
        node = Node(session, identity.member, secrets, sign=identity.sign, verify=verify_identity)
        advertisements[release] = node.advertise()
        state[_name(release)] = ConfigRecord({"secrets": secrets.secret_bytes(), "received": list[bytes]()})
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


def reservation_of(state: RecordDict) -> str:
    """Which entry of the coordinator's ledger pays for this run.

    Raises:
        RepeatedError: it has not begun.
    """
    if _RESERVATION not in state:
        raise RepeatedError
    return str(state.config_records[_RESERVATION]["name"])


def answer(
    state: RecordDict,
    identity: Identity,
    release: str,
    stage: Stage,
    message: bytes,
    step: Callable[[Node, Session], bytes],
) -> bytes:
    """Makes one answer in one release, once and in its turn.

    Args:
        state: of the run.
        identity: of this organisation.
        release: whose turn it is.
        stage: the stage that the message is for.
        message: what the coordinator sent, to remember.
        step: makes the answer.

    Raises:
        RepeatedError: it is not this stage's turn.
        MalformedMessageError: the plan has no such release.
        PeerError: see `federation.secagg.Node`.
        ProofError: see `federation.secagg.Node`.
        RefusedError: see `federation.secagg.Node`.
    """
    all_sessions = sessions(plan_of(state), identity.run, identity.roster)
    if release not in all_sessions:
        raise MalformedMessageError("the plan has no such release")
    record, session = state.config_records[_name(release)], all_sessions[release]
    secrets, received = record.get("secrets"), record.get("received")
    state[_name(release)] = ConfigRecord({})  # ended, unless the answer is made
    if not isinstance(secrets, bytes) or not isinstance(received, list) or len(received) != stage - Stage.SHARE_KEYS:
        raise RepeatedError
    before = [bytes(earlier) for earlier in received if isinstance(earlier, bytes)]
    kept = NodeSecrets.from_secret_bytes(secrets)
    node = Node.resume(session, identity.member, kept, before, sign=identity.sign, verify=verify_identity)
    made = step(node, session)
    if node.stage is not Stage.ENDED:
        state[_name(release)] = ConfigRecord({"secrets": secrets, "received": [*before, message]})
    return made


def _name(release: str) -> str:
    return f"sum of {release}"
