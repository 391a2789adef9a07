"""The organisation's Flower ClientApp: takes part in a run's secure sums, and shows nobody its own.

Configuration of a node (``flower-supernode --node-config``):

* ``embeddings``: path of the organisation's embedding archive (`federation.embeddings.EmbeddingSet`).
* ``identity``: path of its long-lived identity, two private keys in PEM (`federation.identity`).
* ``roster``: path of all organisations' public identities, one a line in hex, compared with the others by other means
  than this federation's coordinator.
* ``ledgers``: folder of its two privacy ledgers (`client.ledger`), and ``budget-epsilon``: most that all runs together
  may cost a person; 64 without it.
* ``groups``: for a run that measures a release: JSON that names the group of each person who is to be in it.
* ``chips``, ``model``: for the recipe `SCALES`: its aligned chips (`federation.scales.ChipSet`), and the folder
  with the recogniser's weights.
* ``recipes``: what a plan may sum, separated by commas. Optional.
* ``max-epsilon``, ``min-colluders``: what the operator agreed to. The coordinator proposes the plan, and the noise that
  this node adds grows with the colluders that the plan stands. Optional.

Nodes of a local simulation have none of them: they take ``<partition-id>.npz``, ``.pem``, ``.ledgers`` and ``roster``
from the run configuration's folder ``organisations``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client import secure_sums
from client.ledger import Ledgers, WrongLedgerError
from federation.embeddings import PROBE, EmbeddingSet
from federation.errors import (
    BudgetExhaustedError,
    MalformedMessageError,
    PeerError,
    ProofError,
    RefusedError,
    UsageError,
)
from federation.evaluation import impostor_summary
from federation.evaluation_plan import EVALUATION, EvaluationPlan
from federation.identity import IdentityKey
from federation.privacy import LARGEST_EPSILON, MOMENTS, SCALES, THRESHOLD, PrivacyPlan, SumPlan
from federation.release import Adapter
from federation.rounds import (
    Refusal,
    advertise_reply,
    ledger_content,
    protocol_content,
    read_advertise_request,
    read_evaluation_request,
    read_moments_request,
    read_protocol,
    read_scales_request,
    read_threshold_request,
)
from federation.secagg import Node, Session, Stage
from federation.secagg.ring import discrete_noise, noisy_input
from federation.secagg.session import roster_from_text

if TYPE_CHECKING:
    from federation.resnet import ResNetRecogniser
    from federation.scales import ChipSet

# Flower may start a process for every message, and most need neither torch nor Opacus: what trains is imported where it
# is used, which saves each of those processes seconds.
_log = logging.getLogger(__name__)

app = ClientApp()
_Plan = TypeVar("_Plan", bound=SumPlan)


class NotAgreedError(RefusedError):
    """The plan goes beyond what the operator agreed to."""


@app.query("advertise")
def advertise(message: Message, context: Context) -> Message:
    """Replies with fresh keys for every release of a plan that the operator agreed to."""

    def reply() -> RecordDict:
        plan, shown = read_advertise_request(message.content)
        _require_agreed(plan, context)
        measured = isinstance(plan, EvaluationPlan)
        people = len(_groups(context)) if measured else _people(_embeddings(context))
        identity = _identity(context)
        own = _ledgers(context).admit(shown, plan)
        return advertise_reply(secure_sums.open_sums(context.state, identity, plan, shown.reservation), people, own)

    return _guarded(message, reply)


@app.query("share_keys")
def share_keys(message: Message, context: Context) -> Message:
    """Replies with encrypted shares of this node's secrets, for every release."""
    return _guarded(message, lambda: _answers(message, context, Stage.SHARE_KEYS, Node.share_keys))


@app.train(MOMENTS)
def moments(message: Message, context: Context) -> Message:
    """Replies with this organisation's part of the moments release, under its masks."""

    def values(plan: PrivacyPlan) -> tuple[NDArray[np.float64], int]:
        from federation.training import moments_sum  # noqa: PLC0415 - see the top

        embeddings = _embeddings(context)
        return moments_sum(embeddings, read_moments_request(message.content, plan), plan), _people(embeddings)

    return _guarded(message, lambda: _masked(message, context, MOMENTS, PrivacyPlan, values))


@app.train(SCALES)
def scales(message: Message, context: Context) -> Message:
    """Replies with this organisation's part of one step of tuning, under its masks."""

    def reply() -> RecordDict:
        step, *others = read_protocol(message.content)
        if others or not step.startswith(SCALES):
            raise MalformedMessageError("a step of tuning is one release")
        return _masked(message, context, step, PrivacyPlan, values)

    def values(plan: PrivacyPlan) -> tuple[NDArray[np.float64], int]:
        from federation.scales import scales_sum  # noqa: PLC0415 - see the top

        chips, so_far = _chips(context), read_scales_request(message.content, plan)
        return scales_sum(_recogniser(context), chips, so_far, plan), _people(chips)

    return _guarded(message, reply)


@app.evaluate(THRESHOLD)
def threshold(message: Message, context: Context) -> Message:
    """Replies with this organisation's part of the threshold release, under its masks."""

    def values(plan: PrivacyPlan) -> tuple[NDArray[np.float64], int]:
        adapter, prior = read_threshold_request(message.content, plan)
        embeddings = _embedded(context, adapter)
        return impostor_summary(embeddings, adapter, prior), _people(embeddings)

    return _guarded(message, lambda: _masked(message, context, THRESHOLD, PrivacyPlan, values))


@app.evaluate(EVALUATION)
def evaluation(message: Message, context: Context) -> Message:
    """Replies with this organisation's histograms of a deployed release by group, under its masks."""

    def values(plan: EvaluationPlan) -> tuple[NDArray[np.float64], int]:
        from federation.private_evaluation import evaluation_sum  # noqa: PLC0415 - see the top

        release, groups = read_evaluation_request(message.content, plan), _groups(context)
        embeddings = _embedded(context, release.adapter).of_people(sorted(groups))
        if release.adapter.dimension != embeddings.dimension:
            raise UsageError("the embeddings of this organisation are not of the recogniser of the release")
        return evaluation_sum(embeddings, release.adapter, groups, plan), len(groups)

    return _guarded(message, lambda: _masked(message, context, EVALUATION, EvaluationPlan, values))


@app.query("sign_survivors")
def sign_survivors(message: Message, context: Context) -> Message:
    """Replies with a signature on who survived."""
    return _guarded(message, lambda: _answers(message, context, Stage.SIGN_SURVIVORS, Node.sign_survivors))


@app.query("open_shares")
def open_shares(message: Message, context: Context) -> Message:
    """Replies with one share about every organisation, once for a charge."""

    def reply() -> RecordDict:
        answers = _answers(message, context, Stage.OPEN_SHARES, Node.open_shares)
        ((release, data),) = read_protocol(message.content).items()
        # They have not left yet. A crash after this line means that this organisation opens nothing for this charge.
        reservation = secure_sums.reservation_of(context.state)
        own = _ledgers(context).opened(reservation, release, hashlib.sha256(data).hexdigest())
        return RecordDict({**answers, **ledger_content(own)})

    return _guarded(message, reply)


def _answers(message: Message, context: Context, stage: Stage, step: Callable[[Node, bytes], bytes]) -> RecordDict:
    """This node's answers for all releases in a message."""
    identity = _identity(context)

    def one(release: str, data: bytes) -> bytes:
        return secure_sums.answer(context.state, identity, release, stage, data, lambda node, _: step(node, data))

    return protocol_content({release: one(release, data) for release, data in read_protocol(message.content).items()})


def _masked(
    message: Message,
    context: Context,
    release: str,
    kind: type[_Plan],
    values: Callable[[_Plan], tuple[NDArray[np.float64], int]],
) -> RecordDict:
    """This node's masked, noisy input to one release of a kind of plan, charged before it leaves."""
    data = read_protocol(message.content).get(release, b"")

    def step(node: Node, session: Session) -> bytes:
        plan = secure_sums.plan_of(context.state)
        if not isinstance(plan, kind):
            raise MalformedMessageError("this run is of another kind")
        exact, people = values(plan)
        noisy = noisy_input(session, exact, people, dict(plan.events)[release], noise=discrete_noise)
        return node.mask_input(data, noisy)

    made = secure_sums.answer(context.state, _identity(context), release, Stage.MASK_INPUT, data, step)
    noise_multiplier = dict(secure_sums.plan_of(context.state).events)[release]
    # It has not left yet. A crash after this line costs this organisation's people budget for nothing, and no privacy.
    own = _ledgers(context).charge(secure_sums.reservation_of(context.state), release, noise_multiplier)
    return RecordDict({**protocol_content({release: made}), **ledger_content(own)})


_REFUSALS: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], Refusal], ...]] = (
    (secure_sums.RepeatedError, Refusal.REPEATED),
    (MalformedMessageError, Refusal.BAD_REQUEST),
    (WrongLedgerError, Refusal.WRONG_LEDGER),
    (BudgetExhaustedError, Refusal.NO_BUDGET),
    (NotAgreedError, Refusal.NOT_AGREED),
    ((PeerError, ProofError, RefusedError), Refusal.NOT_TRUSTED),
    ((UsageError, OSError), Refusal.BAD_DATA),
    (Exception, Refusal.INTERNAL),
)
"""What a failure is called outside this node; the first that fits."""


def _guarded(message: Message, answer: Callable[[], RecordDict]) -> Message:
    """Turns every failure into a code: exception texts would travel in clear."""
    try:
        return Message(answer(), reply_to=message)
    except Exception as error:  # noqa: BLE001 - whatever it is, only a code may leave this node
        refusal = next(refusal for kinds, refusal in _REFUSALS if isinstance(error, kinds))
        _log.exception("this organisation refuses: %s", refusal.name)
        return Message(Error(code=refusal.value, reason=refusal.text), reply_to=message)


def _require_agreed(plan: SumPlan, context: Context) -> None:
    """Raises NotAgreedError when the plan goes beyond the operator's limits."""
    most, least = context.node_config.get("max-epsilon"), context.node_config.get("min-colluders")
    if (recipes := context.node_config.get("recipes")) is not None:
        # Here and not in the guard alone, which would let the run wait for an answer that never comes.
        summed = {name.partition("-")[0] for name, _ in plan.events}
        if not summed <= set(str(recipes).split(",")):
            raise NotAgreedError(f"the plan sums {', '.join(sorted(summed))}, and recipes are {recipes}")
    if most is not None and not plan.epsilon <= float(most):
        raise NotAgreedError(f"the plan asks for epsilon {plan.epsilon:g}, and max-epsilon is {most}")
    if least is not None and not plan.colluders >= float(least):
        raise NotAgreedError(f"the plan stands {plan.colluders} colluders, and min-colluders is {least}")


def _people(images: EmbeddingSet | ChipSet) -> int:
    return len(set(images.people.tolist()))


def _groups(context: Context) -> dict[str, str]:
    """The group of everybody who takes part and is listed; nobody else is measured.

    Raises:
        UsageError: the list is missing or wrong, or nobody is left.
    """
    try:
        listed = json.loads(_path(context, "groups", "{}.groups.json").read_bytes())
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, dict) or not all(isinstance(group, str) for group in listed.values()):
        # `from None`, and no name: whoever reads the log need not learn who is in which group.
        raise UsageError('groups is a file with JSON such as {"PERSON": "GROUP"}') from None
    here = sorted(set(_embeddings(context).people.tolist()) & listed.keys())  # without those who withdrew
    if not here:
        raise UsageError("nobody in this organisation has a group; list people in the file that groups names")
    return {person: listed[person] for person in here}


def _embedded(context: Context, adapter: Adapter) -> EmbeddingSet:
    """The organisation's embeddings; with a recogniser that was tuned, made by it."""
    tuned = adapter.scales.get(PROBE)
    return _embeddings(context) if tuned is None else _chips(context).embed(_recogniser(context), tuned)


def _embeddings(context: Context) -> EmbeddingSet:
    return EmbeddingSet.from_bytes(_path(context, "embeddings", "{}.npz").read_bytes())


def _chips(context: Context) -> ChipSet:
    """The organisation's chips, of the people whom it announced.

    Raises:
        UsageError: somebody has embeddings and no chips.
    """
    from federation.scales import ChipSet  # noqa: PLC0415 - see the top

    people = set(_embeddings(context).people.tolist())  # without those who withdrew
    chips = ChipSet.from_bytes(_path(context, "chips", "{}.chips.npz").read_bytes()).of_people(sorted(people))
    if set(chips.people.tolist()) != people:
        raise UsageError("somebody of this organisation has embeddings and no chips; make both from the same images")
    return chips


def _recogniser(context: Context) -> ResNetRecogniser:
    from client.models import load_recogniser  # noqa: PLC0415 - see the top
    from federation.resnet import ResNetRecogniser  # noqa: PLC0415 - see the top

    recogniser = load_recogniser(_path(context, "model", "model"))
    if not isinstance(recogniser, ResNetRecogniser):
        raise UsageError(f"the recipe {SCALES} tunes the recogniser that comes with the project, not an ONNX file")
    return recogniser


def _ledgers(context: Context) -> Ledgers:
    budget = float(context.node_config.get("budget-epsilon", LARGEST_EPSILON))
    return Ledgers(_path(context, "ledgers", "{}.ledgers"), budget)


def _identity(context: Context) -> secure_sums.Identity:
    roster = roster_from_text(_path(context, "roster", "roster").read_text())
    key = IdentityKey.from_pem(_path(context, "identity", "{}.pem").read_bytes())
    if key.public not in roster:
        raise UsageError("this node's identity is not in the roster")
    return secure_sums.Identity(str(context.run_id), roster, roster.index(key.public) + 1, key.sign)


def _path(context: Context, key: str, local: str) -> Path:
    """A file from the node's configuration, or from the folder of a local simulation."""
    own = context.node_config.get(key)
    folder, partition = context.run_config.get("organisations"), context.node_config.get("partition-id")
    if own is not None:
        return Path(str(own))
    if folder and partition is not None:
        return Path(str(folder)) / local.format(int(partition))
    raise UsageError(f'set {key}="FILE" in this node\'s configuration')
