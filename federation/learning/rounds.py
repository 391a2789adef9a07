"""What coordinator and organisations say to each other in a Flower run, and fixed refusals.

Two exchanges in which all releases advertise keys and deal shares together, and three for each release, which masks,
settles who survived and opens (`federation.secagg`). With the recipe `SCALES`, ``train.scales`` is asked once a step::

    query.advertise, query.share_keys, train.moments, query.sign_survivors, query.open_shares,
    evaluate.threshold, query.sign_survivors, query.open_shares

When a total is one that honest organisations cannot make, ``query.show_range`` asks each of them to prove that its
input was in bounds (`federation.secagg.ranges`). A run that measures a release asks ``evaluate.evaluation`` for its
only sum (`federation.learning.private_evaluation`).

Flower sends the text of any exception that escapes from an organisation to the coordinator, in clear. So organisations
refuse with a code from `Refusal`, and nothing of what went wrong but that code leaves them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, UsageError
from federation.learning.evaluation_plan import EVALUATION, EvaluationPlan
from federation.learning.moments import PublicCentre
from federation.learning.pairs import PairQuestion
from federation.privacy.bounds import bounded, require_within
from federation.privacy.ledger import LedgerChain
from federation.privacy.plan import MOMENTS, SCALES, THRESHOLD, Adaptation, PrivacyPlan, SumPlan
from federation.recognition.model import Adapter, ModelRelease
from federation.recognition.profiles import PROBE, REFERENCE
from federation.secagg import Session
from federation.secagg.ring import noise_std, require_headroom, require_std
from federation.secagg.session import digest

ADVERTISE: Final = "query.advertise"
SHARE_KEYS: Final = "query.share_keys"
TRAIN_MOMENTS: Final = f"train.{MOMENTS}"
TRAIN_SCALES: Final = f"train.{SCALES}"
EVALUATE_THRESHOLD: Final = f"evaluate.{THRESHOLD}"
EVALUATE_RELEASE: Final = f"evaluate.{EVALUATION}"
SIGN_SURVIVORS: Final = "query.sign_survivors"
OPEN_SHARES: Final = "query.open_shares"
SHOW_RANGE: Final = "query.show_range"
_PROTOCOL = "secagg"
_LEDGER = "ledger"
_PROJECTION, _SUBSPACE, _START, _PAIRS = "projection", "subspace", "start", "pairs"


class Refusal(Enum):
    """Why an organisation does not answer. The value travels as Flower's error code."""

    BAD_REQUEST = 1001
    NOT_AGREED = 1002
    REPEATED = 1003
    BAD_DATA = 1004
    INTERNAL = 1005
    NOT_TRUSTED = 1006
    WRONG_LEDGER = 1007
    NO_BUDGET = 1008

    @property
    def text(self) -> str:
        """One sentence for the coordinator's operator."""
        return {
            Refusal.BAD_REQUEST: "it did not understand the request; both sides need the same version",
            Refusal.NOT_AGREED: "the plan is outside what its operator agreed to",
            Refusal.REPEATED: "it answers every request once in a run and in its turn, and this was not that",
            Refusal.BAD_DATA: "its embeddings are missing or do not fit the plan; its own log says more",
            Refusal.NOT_TRUSTED: "it saw something in the secure aggregation that honest parties never send, or too "
            "few organisations are left for it; its own log says more",
            Refusal.WRONG_LEDGER: "the coordinator's privacy ledger does not extend the copy that it keeps, or lacks "
            "the charge for this run; restore the ledger from the newest copy of any organisation",
            Refusal.NO_BUDGET: "its own budget over all runs has no room for this one",
            Refusal.INTERNAL: "it failed; its own log says more",
        }[self]

    @classmethod
    def describe(cls, code: int) -> str:
        """The sentence for a foreign code; small codes come from Flower itself."""
        words = _FLOWER_SAYS.get(code, "it failed")
        return next(
            (refusal.text for refusal in cls if refusal.value == code), f"{words} (Flower reports error code {code})"
        )


_FLOWER_SAYS: Final = {
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: "its application could not be loaded",
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION: "its application failed",
    ErrorCode.MESSAGE_UNAVAILABLE: "it did not answer in time",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "it did not answer in time",
    ErrorCode.NODE_UNAVAILABLE: "its node went away",
    ErrorCode.INVALID_FAB: "its application could not be loaded",
    ErrorCode.CLIENT_APP_CRASHED: "its application crashed or was killed",
}


def sessions(plan: SumPlan, run: str, roster: tuple[bytes, ...]) -> dict[str, Session]:
    """The secure sums of a run, by release. Organisations and coordinator build the same ones.

    Raises:
        UsageError: the roster is not for as many organisations as the plan.
    """
    if len(roster) != plan.organisations:
        raise UsageError(f"the roster names {len(roster)} organisations and the plan is for {plan.organisations}")
    return {
        name: Session(run, name, plan.digest, roster, plan.release_size(name), plan.colluders, plan.dropouts)
        for name, _ in plan.events
    }


def require_ring(plan: SumPlan, run: str, roster: tuple[bytes, ...]) -> None:
    """Checks, before anything is read, that each sum of a plan and its noise fit into the integers modulo 2^64.

    Raises:
        UsageError: a sum could wrap, or the noise that a member draws is out of range; or see `sessions`.
    """
    for name, session in sessions(plan, run, roster).items():
        std = session.noise_share(noise_std(dict(plan.events)[name], session.size))
        require_std(std)
        require_headroom(session, plan.people, std)


def plan_kind(config: Mapping[str, object]) -> type[SumPlan]:
    """Whose `to_config` that is, as far as one can see."""
    return EvaluationPlan if "groups" in config else PrivacyPlan


def question_digest(content: RecordDict) -> str:
    """SHA-256, in hex, of what a question asks for: every record of it but the messages of secure aggregation.

    Those are fresh in every attempt; the rest decides the sum, so it is in the name of the charge.
    """
    fields = [b"intaglio question 1"]
    for name in sorted(content.keys() - {_PROTOCOL}):
        if name in content.array_records:
            for key, array in sorted(content.array_records[name].items()):
                facts = (name, key, array.dtype, repr(array.shape), array.stype)
                fields += [digest(*(fact.encode() for fact in facts)), hashlib.sha256(array.data).digest()]
        else:
            for key, value in sorted(content[name].items()):
                fields.append(digest(name.encode(), key.encode(), repr((type(value), value)).encode()))
    return digest(*fields).hex()


def protocol_content(messages: Mapping[str, bytes]) -> RecordDict:
    """Messages of secure aggregation, by release: all that most requests and replies carry."""
    return RecordDict({_PROTOCOL: ConfigRecord({**messages})})


def read_protocol(content: RecordDict) -> dict[str, bytes]:
    """Messages of secure aggregation, by release.

    Raises:
        MalformedMessageError: there are none, or they are not bytes.
    """
    record = content.config_records.get(_PROTOCOL, ConfigRecord())
    messages = {name: value for name, value in record.items() if type(value) is bytes}
    if not messages or len(messages) != len(record):
        raise MalformedMessageError("the messages of secure aggregation are missing")
    return messages


def range_request(release: str, seeds: Mapping[int, bytes]) -> RecordDict:
    """Asks for a proof of range, and says which self-mask seeds were opened: nobody could choose what is asked."""
    members = sorted(seeds)
    record = ConfigRecord({"release": release, "members": members, "seeds": [seeds[member] for member in members]})
    return RecordDict({"range": record})


def read_range_request(content: RecordDict) -> tuple[str, dict[int, bytes]]:
    """The release, and the seeds by member.

    Raises:
        MalformedMessageError: the request is not a valid one.
    """
    record = content.config_records.get("range", ConfigRecord())
    release, members, seeds = (record.get(name) for name in ("release", "members", "seeds"))
    if not (isinstance(release, str) and isinstance(members, list) and isinstance(seeds, list)):
        raise MalformedMessageError("the request says nothing of a sum that was opened")
    pairs = {member: seed for member, seed in zip(members, seeds, strict=False) if type(member) is int}
    if len(pairs) != len(members) or len(members) != len(seeds) or not all(type(s) is bytes for s in pairs.values()):
        raise MalformedMessageError("the request's seeds are not those of some members")
    return release, {member: seed for member, seed in pairs.items() if isinstance(seed, bytes)}


@dataclass(frozen=True)
class ShownLedger:
    """The coordinator's privacy ledger, as it shows it before anything is asked.

    Attributes:
        chain: all entries.
        reservation: which of them pays for this run.
    """

    chain: LedgerChain
    reservation: str


def advertise_request(plan: SumPlan, shown: ShownLedger) -> RecordDict:
    """Proposes the plan, shows that it was charged, and asks for fresh keys."""
    ledger = ConfigRecord({"lines": shown.chain.to_bytes(), "reservation": shown.reservation})
    return RecordDict({"plan": ConfigRecord({**plan.to_config()}), _LEDGER: ledger})


def read_advertise_request(content: RecordDict) -> tuple[SumPlan, ShownLedger]:
    """Both, checked again.

    Raises:
        MalformedMessageError: the request is not a valid one.
    """
    config = content.config_records.get("plan", ConfigRecord())
    plan = plan_kind(config).from_config(dict(config))
    record = content.config_records.get(_LEDGER, ConfigRecord())
    lines, reservation = record.get("lines"), record.get("reservation")
    if not isinstance(lines, bytes) or not isinstance(reservation, str):
        raise MalformedMessageError("the request lacks the coordinator's privacy ledger")
    return plan, ShownLedger(LedgerChain.from_bytes(lines), reservation)


def ledger_content(own: LedgerChain) -> RecordDict:
    """An organisation's own ledger, which goes with every answer that it charged or will charge."""
    return RecordDict({_LEDGER: ConfigRecord({"lines": own.to_bytes()})})


def read_ledger(content: RecordDict) -> bytes | None:
    """The organisation's own ledger as bytes to check, if the answer carries one.

    Raises:
        MalformedMessageError: it is not bytes.
    """
    if _LEDGER not in content:
        return None
    if not isinstance(lines := content.config_records.get(_LEDGER, ConfigRecord()).get("lines"), bytes):
        raise MalformedMessageError("its privacy ledger is not bytes")
    return lines


def advertise_reply(messages: Mapping[str, bytes], people: int, own: LedgerChain) -> RecordDict:
    """Fresh keys for every release, the own ledger, and how many people the organisation holds, which is public."""
    metrics = MetricRecord({"people": people})
    return RecordDict({**protocol_content(messages), **ledger_content(own), "metrics": metrics})


def read_people(content: RecordDict) -> int:
    """The number of people.

    Raises:
        MalformedMessageError: it is missing or wrong.
    """
    people = content.metric_records.get("metrics", MetricRecord()).get("people")
    if type(people) is not int or people < 1:
        raise MalformedMessageError("the number of people is missing or wrong")
    return people


def moments_request(public: PublicCentre) -> RecordDict:
    """Asks for `federation.learning.moments.moments_sum`, masked. The messages of secure aggregation join it."""
    return RecordDict({"arrays": ArrayRecord({_SUBSPACE: Array(public.subspace), _START: Array(public.start)})})


def read_moments_request(content: RecordDict, plan: PrivacyPlan) -> PublicCentre:
    """The subspace and the public centre in it.

    Raises:
        MalformedMessageError: the request is not a valid one.
    """
    return PublicCentre(
        _array(content, _SUBSPACE, (plan.directions, plan.dimension), "subspace"),
        _array(content, _START, (plan.directions,), "start"),
    )


def scales_request(scales: NDArray[np.float64]) -> RecordDict:
    """Asks for `federation.learning.scales.scales_sum`, masked. The messages of secure aggregation join it."""
    return RecordDict({"arrays": ArrayRecord({SCALES: Array(scales)})})


def read_scales_request(content: RecordDict, plan: PrivacyPlan) -> NDArray[np.float64]:
    """What was added to the tuned numbers so far.

    Raises:
        MalformedMessageError: the request is not a valid one.
    """
    return _array(content, SCALES, (plan.tuned,), "scales")


def threshold_request(question: PairQuestion) -> RecordDict:
    """Asks for `federation.learning.pairs.pair_sum`, masked. The messages of secure aggregation join it."""
    adapter = question.adapter
    arrays = {profile: Array(centre) for profile, centre in adapter.centres.items()}
    if adapter.projection is not None:
        arrays[_PROJECTION] = Array(adapter.projection)
    if PROBE in adapter.scales:
        arrays[SCALES] = Array(adapter.scales[PROBE])
    pairs = ConfigRecord({"edges": list(question.edges), "references": question.references, "frames": question.frames})
    return RecordDict({_PAIRS: pairs, "arrays": ArrayRecord(arrays)})


def read_threshold_request(content: RecordDict, plan: PrivacyPlan) -> PairQuestion:
    """The adapter to measure with, the edges, and how many images are averaged.

    Raises:
        MalformedMessageError: the request is not a valid one.
    """
    named = content.array_records.get("arrays", ArrayRecord())
    projected = _PROJECTION in named
    k = plan.directions if projected else plan.dimension
    centres = {profile: _array(content, profile, (k,), "centre") for profile in (REFERENCE, PROBE)}
    tuned = plan.adaptation is Adaptation.SCALES and SCALES in named
    adapter = Adapter(
        centres,
        _array(content, _PROJECTION, (k, plan.dimension), _PROJECTION) if projected else None,
        {PROBE: _array(content, SCALES, (plan.tuned,), "scales")} if tuned else {},
    )
    return PairQuestion(adapter, *_read_pairs(content.config_records.get(_PAIRS, ConfigRecord())))


def _read_pairs(record: ConfigRecord) -> tuple[tuple[float, float], int, int]:
    edges, references, frames = (record.get(name) for name in ("edges", "references", "frames"))
    if type(references) is not int or type(frames) is not int or not isinstance(edges, list):
        raise MalformedMessageError("the request lacks the edges of the bins, or how many images are averaged")
    if [type(edge) for edge in edges] != [float, float]:
        raise MalformedMessageError("the request needs two edges of bins")
    first, second = (float(edge) for edge in edges)
    try:
        require_within("edge", first)
        require_within("edge", second)
        require_within("references", references)
        require_within("frames", frames)
    except UsageError as error:
        raise MalformedMessageError(f"the request is out of bounds: {error}") from error
    if not first < second:
        raise MalformedMessageError("the request's edges of bins are not in order")
    return (first, second), references, frames


def evaluation_request(release: ModelRelease) -> RecordDict:
    """Asks for `evaluation_sum` of `federation.learning`, masked. The messages of secure aggregation join it."""
    return RecordDict({"release": ConfigRecord({"bytes": release.to_bytes()})})


def read_evaluation_request(content: RecordDict, plan: EvaluationPlan) -> ModelRelease:
    """The release to measure, which is the plan's, with its numbers rounded as any foreign ones.

    Raises:
        MalformedMessageError: the request is not a valid one.
    """
    if not isinstance(data := content.config_records.get("release", ConfigRecord()).get("bytes"), bytes):
        raise MalformedMessageError("the request lacks the release to measure")
    release = ModelRelease.from_bytes(data)
    if (release.digest, release.threshold) != (plan.release, plan.threshold):
        raise MalformedMessageError("the release is not the one that the plan names, or has another threshold")
    adapter = release.adapter
    return replace(
        release,
        adapter=Adapter(
            {profile: _bounded("centre", centre) for profile, centre in adapter.centres.items()},
            None if adapter.projection is None else _bounded("projection", adapter.projection),
            {profile: _bounded("scales", scales) for profile, scales in adapter.scales.items()},
        ),
    )


def _bounded(name: str, array: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        return bounded(name, array)
    except UsageError as error:
        raise MalformedMessageError(f"the request is out of bounds: {error}") from error


def _array(content: RecordDict, name: str, shape: tuple[int, ...], bound: str) -> NDArray[np.float64]:
    record = content.array_records.get("arrays", ArrayRecord())
    if name not in record:
        raise MalformedMessageError(f"the array {name!r} is missing")
    try:
        array = record[name].numpy()
    except Exception as error:  # Flower decodes foreign bytes with whatever NumPy raises
        raise MalformedMessageError(f"the array {name!r} cannot be decoded") from error
    if array.dtype != np.float64 or array.shape != shape:
        raise MalformedMessageError(f"the array {name!r} must be float64 of shape {shape}")
    return _bounded(bound, np.asarray(array, dtype=np.float64))
