"""The organisation's Flower ClientApp: takes part in a run's secure sums, and shows nobody its own.

Configuration of a node (``flower-supernode --node-config``):

* ``embeddings``: path of the organisation's embedding archive (`federation.recognition.embeddings.EmbeddingSet`).
* ``identity``: path of its long-lived identity, two private keys in PEM (`federation.identity`).
* ``roster``: path of all organisations' public identities, one a line in hex, compared with the others by other means
  than this federation's coordinator.
* ``ledgers``: folder of its two privacy ledgers (`client.node.ledger`) and of the turns that it took
  (`client.node.turns`), and ``budget-epsilon``: most that all runs together may cost a person; 64 without it.
* ``groups``: for a run that measures a release: JSON that names the group of each person who is to be in it.
* ``chips``, ``model``: for the recipe `SCALES`: its aligned chips (`federation.learning.scales.ChipSet`), and the
  folder with the recogniser's weights.
* ``recipes``: what a plan may sum, separated by commas. Optional.
* ``max-epsilon``, ``min-colluders``: what the operator agreed to. The coordinator proposes the plan, and the noise that
  this node adds grows with the colluders that the plan stands. Optional.
* ``delta``: that goes with ``max-epsilon`` and ``budget-epsilon``; 1e-5 without it.
* ``delay-class-seconds``: answers that needed people take this long, or twice, or four times as long; 0 without it.

Nodes of a local simulation have none of them: they take ``<partition-id>.npz``, ``.pem``, ``.ledgers`` and ``roster``
from the run configuration's folder ``organisations``.

Theory of operation
-------------------
Whether a node answers says nothing about its people (ADR 0140). A question goes through three steps, and only the last
one looks at them:

1. The message, the plan, the numbers in the question and the turn are checked. A code tells what is wrong with them.
2. The charge is on disk.
3. The people are read. From here on there is an answer: of the same length, in the same class of delays, with noise.
   Sums are total functions of each person's record, and a file that is gone makes the organisation's sum zero.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client.node import records, secure_sums
from client.node.ledger import Ledgers, WrongLedgerError
from client.node.turns import RepeatedError, Turns
from federation.errors import (
    BudgetExhaustedError,
    MalformedMessageError,
    PeerError,
    ProofError,
    RefusedError,
    UsageError,
)
from federation.identity import IdentityKey
from federation.learning.evaluation_plan import EVALUATION, EvaluationPlan
from federation.learning.pairs import pair_sum
from federation.learning.rounds import (
    Refusal,
    advertise_reply,
    ledger_content,
    protocol_content,
    question_digest,
    read_advertise_request,
    read_evaluation_request,
    read_moments_request,
    read_protocol,
    read_range_request,
    read_scales_request,
    read_threshold_request,
    require_ring,
)
from federation.privacy.charges import application_digest, charge_name, run_digest
from federation.privacy.ledger import LedgerChain
from federation.privacy.plan import (
    LARGEST_EPSILON,
    MOMENTS,
    SCALES,
    THRESHOLD,
    PrivacyPlan,
    SumPlan,
    epsilon_of_gaussians,
)
from federation.secagg import Node, Session, Stage
from federation.secagg.ring import discrete_noise, noisy_input
from federation.secagg.session import roster_from_text

_log = logging.getLogger(__name__)

app = ClientApp()
_Plan = TypeVar("_Plan", bound=SumPlan)
_Sum = Callable[[], tuple[NDArray[np.float64], int]]
"""Reads people and gives their exact sum, and over how many of them it is."""


class NotAgreedError(RefusedError):
    """The plan goes beyond what the operator agreed to."""


@app.query("advertise")
def advertise(message: Message, context: Context) -> Message:
    """Replies with fresh keys for every release of a plan that the operator agreed to."""

    def reply() -> RecordDict:
        plan, shown = read_advertise_request(message.content)
        _require_agreed(plan, context)
        identity = _identity(context)
        require_ring(plan, identity.run, identity.roster)
        agreed = run_digest(plan, identity.roster, application_digest())
        own = _ledgers(context).admit(shown, plan, agreed)
        facts = records.facts_of(context, plan)
        if isinstance(plan, PrivacyPlan):
            _require_dimension(facts.dimension, plan.dimension)
        opened = secure_sums.open_sums(context.state, identity, plan, shown.reservation, facts)
        return advertise_reply(opened, facts.people, own)

    return _guarded(message, reply, _delay_class(context))


@app.query("share_keys")
def share_keys(message: Message, context: Context) -> Message:
    """Replies with encrypted shares of this node's secrets, for every release."""
    return _guarded(
        message, lambda: _answers(message, context, Stage.SHARE_KEYS, lambda node, _, data: node.share_keys(data))
    )


@app.train(MOMENTS)
def moments(message: Message, context: Context) -> Message:
    """Replies with this organisation's part of the moments release, under its masks."""

    def asked(plan: PrivacyPlan) -> _Sum:
        public = read_moments_request(message.content, plan)

        def total() -> tuple[NDArray[np.float64], int]:
            from federation.learning.moments import moments_sum  # noqa: PLC0415 - torch takes seconds, see `client.node.records`

            embeddings = records.embeddings(context)
            return moments_sum(embeddings, public, plan), records.count(embeddings)

        return total

    return _masked(message, context, MOMENTS, PrivacyPlan, asked)


@app.train(SCALES)
def scales(message: Message, context: Context) -> Message:
    """Replies with this organisation's part of one step of tuning, under its masks."""

    def asked(plan: PrivacyPlan) -> _Sum:
        so_far = read_scales_request(message.content, plan)

        def total() -> tuple[NDArray[np.float64], int]:
            from federation.learning.scales import scales_sum  # noqa: PLC0415 - torch takes seconds, see `client.node.records`

            chips = records.chips(context)
            with records.no_denormals():
                total = scales_sum(records.recogniser(context), chips, so_far, plan, records.pairs(_people(context)))
                return total, records.count(chips)

        return total

    return _masked(message, context, SCALES, PrivacyPlan, asked)


@app.evaluate(THRESHOLD)
def threshold(message: Message, context: Context) -> Message:
    """Replies with this organisation's part of the threshold release, under its masks."""

    def asked(plan: PrivacyPlan) -> _Sum:
        question = read_threshold_request(message.content, plan)

        def total() -> tuple[NDArray[np.float64], int]:
            facts = secure_sums.facts_of(context.state)
            embeddings = facts.listed_of(records.embedded(context, question.adapter, facts.people))
            return pair_sum(embeddings, question, members=facts.people), records.count(embeddings)

        return total

    return _masked(message, context, THRESHOLD, PrivacyPlan, asked)


@app.evaluate(EVALUATION)
def evaluation(message: Message, context: Context) -> Message:
    """Replies with this organisation's histograms of a deployed release by group, under its masks."""

    def asked(plan: EvaluationPlan) -> _Sum:
        release = read_evaluation_request(message.content, plan)
        _require_dimension(secure_sums.facts_of(context.state).dimension, release.adapter.dimension)

        def total() -> tuple[NDArray[np.float64], int]:
            from federation.learning.private_evaluation import evaluation_sum  # noqa: PLC0415 - training needs none of it

            groups = records.groups(context)
            embeddings = records.embedded(context, release.adapter, _people(context), groups)
            images = {"references": release.references, "frames": release.frames}
            return evaluation_sum(embeddings, release.adapter, groups, plan, **images), len(groups)

        return total

    return _masked(message, context, EVALUATION, EvaluationPlan, asked)


@app.query("sign_survivors")
def sign_survivors(message: Message, context: Context) -> Message:
    """Replies with a signature on who survived."""
    return _guarded(
        message,
        lambda: _answers(message, context, Stage.SIGN_SURVIVORS, lambda node, _, data: node.sign_survivors(data)),
    )


@app.query("open_shares")
def open_shares(message: Message, context: Context) -> Message:
    """Replies with one share about every organisation, once for a charge."""
    own: list[LedgerChain] = []

    def opened(node: Node, charge: str, data: bytes) -> bytes:
        made = node.open_shares(data)
        # They have not left yet. A crash after this line means that this organisation opens nothing for this charge.
        own.append(_ledgers(context).opened(charge, hashlib.sha256(data).hexdigest()))
        return made

    def reply() -> RecordDict:
        if len(read_protocol(message.content)) != 1:
            raise MalformedMessageError("shares are opened for one release")
        answers = _answers(message, context, Stage.OPEN_SHARES, opened)
        return RecordDict({**answers, **ledger_content(own[0])})

    return _guarded(message, reply)


@app.query("show_range")
def show_range(message: Message, context: Context) -> Message:
    """Replies with a proof that this node's input to the last sum was in bounds; asked for when somebody spoiled it."""

    def reply() -> RecordDict:
        release, seeds = read_range_request(message.content)
        return protocol_content(
            {release: secure_sums.proof_of_range(context.state, _identity(context), release, seeds)}
        )

    return _guarded(message, reply, _delay_class(context))


def _answers(message: Message, context: Context, stage: Stage, step: Callable[[Node, str, bytes], bytes]) -> RecordDict:
    """This node's answers for all releases in a message; `step` gets the name of the charge, too."""
    identity = _identity(context)

    def one(release: str, data: bytes) -> bytes:
        return secure_sums.answer(
            context.state, identity, release, stage, data, lambda node, charge: step(node, charge, data)
        )

    return protocol_content({release: one(release, data) for release, data in read_protocol(message.content).items()})


def _masked(
    message: Message, context: Context, kind_of_release: str, kind: type[_Plan], asked: Callable[[_Plan], _Sum]
) -> Message:
    """This node's masked, noisy input to one release of a kind of plan.

    Args:
        message: the question.
        context: of the run.
        kind_of_release: the release's name, or how the names of all steps begin.
        kind: of the plan that has such a release.
        asked: reads the question, and nothing of the people; gives what will.
    """
    own: list[LedgerChain] = []

    def read(release: str) -> secure_sums.Question:
        plan = secure_sums.plan_of(context.state)
        if not isinstance(plan, kind):
            raise MalformedMessageError("this run is of another kind")
        total, noise_multiplier = asked(plan), dict(plan.events)[release]
        name = charge_name(secure_sums.reservation_of(context.state), release, question_digest(message.content))

        def charge() -> str:
            # Nothing was read yet. A crash after this line costs this organisation's people budget for nothing.
            own.append(_ledgers(context).charge(name, noise_multiplier))
            return name

        return secure_sums.Question(charge, lambda session: _noisy(session, total, noise_multiplier))

    def reply() -> RecordDict:
        (release, data), *others = read_protocol(message.content).items()
        if others or release.partition("-")[0] != kind_of_release:
            raise MalformedMessageError(f"this question is for one release, {kind_of_release}")
        made = secure_sums.masked(context.state, _identity(context), release, data, lambda: read(release))
        return RecordDict({**protocol_content({release: made}), **ledger_content(own[0])})

    return _guarded(message, reply, _delay_class(context))


def _noisy(session: Session, total: _Sum, noise_multiplier: float) -> NDArray[np.int64]:
    """The sum with this node's share of the noise; whatever goes wrong, noise alone."""
    try:
        return noisy_input(session, *total(), noise_multiplier, noise=discrete_noise)
    except Exception:  # noqa: BLE001 - it is charged: whatever happened to the files, the answer must not tell
        _log.exception("this organisation's people could not be read: it adds noise alone to %s", session.release)
        return noisy_input(session, np.zeros(session.size), 0, noise_multiplier, noise=discrete_noise)


_REFUSALS: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], Refusal], ...]] = (
    (RepeatedError, Refusal.REPEATED),
    (MalformedMessageError, Refusal.BAD_REQUEST),
    (WrongLedgerError, Refusal.WRONG_LEDGER),
    (BudgetExhaustedError, Refusal.NO_BUDGET),
    (NotAgreedError, Refusal.NOT_AGREED),
    ((PeerError, ProofError, RefusedError), Refusal.NOT_TRUSTED),
    ((UsageError, OSError), Refusal.BAD_DATA),
    (Exception, Refusal.INTERNAL),
)
"""What a failure is called outside this node; the first that fits."""


def _guarded(message: Message, answer: Callable[[], RecordDict], delay_class_seconds: float = 0.0) -> Message:
    """Turns every failure into a code: exception texts would travel in clear."""
    begun = time.monotonic()
    try:
        reply = Message(answer(), reply_to=message)
    except Exception as error:  # noqa: BLE001 - whatever it is, only a code may leave this node
        refusal = next(refusal for kinds, refusal in _REFUSALS if isinstance(error, kinds))
        _log.exception("this organisation refuses: %s", refusal.name)
        reply = Message(Error(code=refusal.value, reason=refusal.text), reply_to=message)
    if rest := _rest_of_class(time.monotonic() - begun, delay_class_seconds):
        time.sleep(rest)
    return reply


def _rest_of_class(seconds: float, shortest: float) -> float:
    """How long to wait so that an answer that took `seconds` takes `shortest`, or 2, 4, 8 ... times as long."""
    end = shortest
    while 0 < end < seconds:
        end *= 2
    return max(0.0, end - seconds)


def _people(context: Context) -> int:
    """How many people this organisation said that it has: what an answer's time may depend on."""
    return secure_sums.facts_of(context.state).people


def _delay_class(context: Context) -> float:
    return float(context.node_config.get("delay-class-seconds", 0.0))


def _require_agreed(plan: SumPlan, context: Context) -> None:
    """Raises NotAgreedError when the plan goes beyond the operator's limits."""
    most, least = context.node_config.get("max-epsilon"), context.node_config.get("min-colluders")
    if (recipes := context.node_config.get("recipes")) is not None:
        # Here and not in the guard alone, which would let the run wait for an answer that never comes.
        summed = {name.partition("-")[0] for name, _ in plan.events}
        if not summed <= set(str(recipes).split(",")):
            raise NotAgreedError(f"the plan sums {', '.join(sorted(summed))}, and recipes are {recipes}")
    if most is not None:
        # An epsilon is worth nothing without its delta: the plan's noise is counted again, at the operator's.
        delta = _delta(context)
        if not (epsilon := epsilon_of_gaussians(plan.noise_multipliers, delta)) <= float(most):
            raise NotAgreedError(
                f"the plan asks for epsilon {plan.epsilon:g} at delta {plan.delta:g}, which is {epsilon:.2f} at "
                f"{delta:g}, and max-epsilon is {most}"
            )
    if least is not None and not plan.colluders >= float(least):
        raise NotAgreedError(f"the plan stands {plan.colluders} colluders, and min-colluders is {least}")


def _require_dimension(ours: int, dimension: int) -> None:
    if ours != dimension:
        raise UsageError(f"the embeddings of this organisation have {ours} numbers, and those asked for {dimension}")


def _delta(context: Context) -> float:
    return float(context.node_config.get("delta", 1e-5))


def _ledgers(context: Context) -> Ledgers:
    budget = float(context.node_config.get("budget-epsilon", LARGEST_EPSILON))
    return Ledgers(records.path(context, "ledgers", "{}.ledgers"), budget, _delta(context))


def _identity(context: Context) -> secure_sums.Identity:
    roster = roster_from_text(records.path(context, "roster", "roster").read_text())
    key = IdentityKey.from_pem(records.path(context, "identity", "{}.pem").read_bytes())
    if key.public not in roster:
        raise UsageError("this node's identity is not in the roster")
    turns = Turns(records.path(context, "ledgers", "{}.ledgers"))
    return secure_sums.Identity(str(context.run_id), roster, roster.index(key.public) + 1, key.sign, turns)
