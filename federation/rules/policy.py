"""May this template be enrolled or verified now? One pure function, the same on the device and on the server.

`decide` takes what is asked, the person's consent, the counters of attempts, the public rules and the time, and gives
`Allowed` or `Refused` with one of a closed list of reasons. The server asks it before any homomorphic work, the device
before it decrypts anything: an operator who leaves the check out gets ciphertexts that no device opens.

Public facts are looked at first and personal ones last, so that a stranger who asks about somebody learns only what
everybody can read in the log. There is no threshold among the arguments, here or anywhere: it belongs to the release,
and what counts here is the false match rate that the release states.

What a person may always do (withdraw, revoke, export, erase, read the log) is not asked here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from federation.consent.life import Consent
from federation.consent.purposes import DAY_SECONDS, TIERS, Category, Tier, red_line_of
from federation.consent.receipts import Binding, Receipt, ReceiptFault
from federation.errors import IntaglioError, RefusedError, UnavailableError
from federation.presentation.levels import PadLevel
from federation.release.manifest import Standing
from federation.rules.clients import Client
from federation.rules.entries import Deployment, Moratorium, PurposeRule
from federation.rules.rulebook import Rulebook
from federation.statements import require_name

LONGEST_RULES_AGE_SECONDS: Final = DAY_SECONDS
"""Rules that were read longer ago may lack a moratorium, so they allow nothing."""

_STRANGER = "not enrolled here with this key, purpose and audience, or not signed by the enrolled device"


class Reason(Enum):
    """Every reason for a refusal. A closed list: refusals are counted and logged by it, never by person."""

    RED_LINE = "red-line"
    RULES_STALE = "rules-stale"
    DEPLOYMENT_UNREGISTERED = "deployment-unregistered"
    DEPLOYMENT_NOT_IN_FORCE = "deployment-not-in-force"
    DEPLOYMENT_OTHER_USE = "deployment-other-use"
    NO_POLICY = "no-policy"
    PURPOSE_NOT_ALLOWED = "purpose-not-allowed"
    MORATORIUM = "moratorium"
    RELEASE_NOT_IN_FORCE = "release-not-in-force"
    RELEASE_ONLY_A_TRIAL = "release-only-a-trial"
    FMR_TOO_LARGE = "fmr-too-large"
    PAD_TOO_LOW = "pad-too-low"
    RECEIPT_MISSING = "receipt-missing"
    RECEIPT_UNREADABLE = "receipt-unreadable"
    RECEIPT_BAD_SIGNATURE = "receipt-bad-signature"
    RECEIPT_OTHER_DEVICE = "receipt-other-device"
    RECEIPT_OTHER_TEMPLATE = "receipt-other-template"
    RECEIPT_OTHER_RELEASE = "receipt-other-release"
    RECEIPT_OTHER_AUDIENCE = "receipt-other-audience"
    RECEIPT_OTHER_PURPOSE = "receipt-other-purpose"
    RECEIPT_NOT_YET_VALID = "receipt-not-yet-valid"
    RECEIPT_EXPIRED = "receipt-expired"
    RECEIPT_WITHDRAWN = "receipt-withdrawn"
    RECEIPT_REPLAYED = "receipt-replayed"
    RECEIPT_OTHER_JURISDICTION = "receipt-other-jurisdiction"
    RECEIPT_TOO_LONG = "receipt-too-long"
    ATTEMPTS_USED_UP = "attempts-used-up"
    TOO_SOON = "too-soon"

    @classmethod
    def of_receipt(cls, fault: ReceiptFault) -> Reason:
        """The reason that a fault of a receipt stands for."""
        return cls[f"RECEIPT_{fault.name}"]

    @property
    def is_personal(self) -> bool:
        """Whether it says something about a person, and so looks like "not enrolled" to a stranger."""
        return self.name.startswith("RECEIPT_") or self in {Reason.ATTEMPTS_USED_UP, Reason.TOO_SOON}


@dataclass(frozen=True)
class Request:
    """What is asked: may this template be used by this deployment, for this purpose and audience?

    Attributes:
        deployment: identifier of the registered deployment.
        audience: who will rely on the answer.
        purpose: what for.
        binding: the template, as the asking party itself knows it.
    """

    deployment: str
    audience: str
    purpose: str
    binding: Binding

    def __post_init__(self) -> None:
        require_name("the deployment", self.deployment)
        require_name("the audience", self.audience)
        require_name("the purpose", self.purpose)


@dataclass(frozen=True)
class Attempts:
    """What the counters of one template say. A device, which keeps none, passes the default.

    Attributes:
        used_up: the template has failed too often in its life.
        wait_until: first second at which the next attempt may be made, since 1970; 0 for any.
    """

    used_up: bool = False
    wait_until: int = 0


@dataclass(frozen=True)
class Allowed:
    """Yes, for now.

    Attributes:
        category: what kind of purpose it is.
        tier: the strictest tier of all jurisdictions.
        pad: what all of them together ask to stand between a presentation attack and a comparison.
        valid_until: first second at which the answer may be another one by rules and receipt as they are known.
    """

    category: Category
    tier: Tier
    pad: PadLevel
    valid_until: int


@dataclass(frozen=True)
class Refused:
    """No.

    Attributes:
        reason: why, for logs, counts and the owner.
        detail: one sentence for the owner; names no person.
        retry_after_seconds: when it is only too soon, how long to wait.
    """

    reason: Reason
    detail: str
    retry_after_seconds: int = 0

    def to_error(self, *, to_owner: bool) -> IntaglioError:
        """The error to raise.

        Args:
            to_owner: whether the enrolled device has proved itself. Everybody else gets one text for all personal
                reasons, the same as for a key that is not enrolled.
        """
        if self.reason.is_personal and not to_owner:
            return RefusedError(_STRANGER)
        if self.reason is Reason.TOO_SOON:
            return UnavailableError(self.detail, retry_after_seconds=self.retry_after_seconds)
        return RefusedError(self.detail)


def decide(
    request: Request,
    *,
    consent: Consent | None,
    attempts: Attempts,
    rules: Rulebook,
    release: Standing,
    pad: PadLevel | None,
    now: int,
) -> Allowed | Refused:
    """Whether a template may be enrolled or verified at `now`.

    Args:
        request: what is asked.
        consent: the life of the consent for that template, or None.
        attempts: its counters.
        rules: the public rules as the deciding party has read them.
        release: what the signed manifest of the model release says (`federation.release.bundle.require_servable`).
        pad: what stands between a presentation attack and this comparison (`Rulebook.pad_level`); None where a template
            is compared that this very session enrols: nobody is verified by it.
        now: seconds since 1970.
    """
    permission = decide_for_anybody(request, rules=rules, release=release, now=now)
    if isinstance(permission, Refused):
        return permission
    refusal = _refusal_of_pad(request, permission, pad)
    if refusal is not None:
        return refusal
    receipt = _receipt_in_force(request, consent, rules, permission.tier, now)
    if isinstance(receipt, Refused):
        return receipt
    valid_until = min(permission.valid_until, receipt.expires_at)
    return _refusal_of_attempts(attempts, now) or replace(permission, valid_until=valid_until)


def decide_for_anybody(request: Request, *, rules: Rulebook, release: Standing, now: int) -> Allowed | Refused:
    """The part of `decide` that is about no person: rules, deployment and release.

    By itself it says whether a template may be compared once more to be left for one of another release: whoever comes
    over agrees anew, and that consent is decided about with `decide`.

    Args:
        request: what is asked.
        rules: the public rules as the deciding party has read them.
        release: of the template that is compared with.
        now: seconds since 1970.
    """
    refusal = _refusal_of_purpose(request) or _refusal_of_age(rules, now)
    if refusal is not None:
        return refusal
    deployment = _deployment(request, rules, now)
    if isinstance(deployment, Refused):
        return deployment
    permission = _permission(request, deployment, rules, now)
    if isinstance(permission, Refused):
        return permission
    rules_end_at = rules.read_at + LONGEST_RULES_AGE_SECONDS + 1
    valid_until = min(permission.valid_until, release.ends_at, rules_end_at)
    return _refusal_of_release(request, permission.tier, release, now) or replace(permission, valid_until=valid_until)


def is_stopped(deployment: Deployment, audience: str, purpose: str, rules: Rulebook, now: int) -> bool:
    """Whether a moratorium stops one purpose of one audience now. Whether anything allows it is asked of `decide`."""
    return bool(moratoria_of(deployment, audience, purpose, rules, now))


def moratoria_of(
    deployment: Deployment, audience: str, purpose: str, rules: Rulebook, now: int
) -> tuple[Moratorium, ...]:
    """All that stop one purpose of one audience now."""
    found = (rules.rule_in_force(place, audience, purpose, now) for place in deployment.jurisdictions)
    categories = frozenset(rule.category for rule in found if rule is not None)
    return tuple(
        moratorium
        for moratorium in rules.moratoria(now)
        if moratorium.begins_at <= now and moratorium.stops(deployment, audience, categories)
    )


def _refusal_of_purpose(request: Request) -> Refused | None:
    line = red_line_of(request.purpose)
    if line is None:
        return None
    return Refused(Reason.RED_LINE, f"the purpose {request.purpose!r} is never allowed: {line.value}")


def _refusal_of_age(rules: Rulebook, now: int) -> Refused | None:
    if now <= rules.read_at + LONGEST_RULES_AGE_SECONDS:
        return None
    return Refused(Reason.RULES_STALE, "the public rules were last read more than a day ago; read the log again")


def _deployment(request: Request, rules: Rulebook, now: int) -> Deployment | Refused:
    deployment = rules.deployment(request.deployment)
    if deployment is None:
        return Refused(
            Reason.DEPLOYMENT_UNREGISTERED, f"no deployment {request.deployment!r} stands in the public registry"
        )
    if not deployment.begins_at <= now < deployment.ends_at:
        return Refused(Reason.DEPLOYMENT_NOT_IN_FORCE, f"the deployment {request.deployment!r} is not in force now")
    return deployment


def _refusal_of_audience(request: Request, deployment: Deployment, client: Client | None, now: int) -> Refused | None:
    """A deployment serves its own audience, and its clients for those of its purposes that they are registered for."""
    of_client = client is not None and client.is_in_force(now) and request.purpose in client.purposes
    if (
        not (request.audience == deployment.audience or of_client)
        or request.purpose not in deployment.purposes
        or request.binding.release_digest not in deployment.release_digests
    ):
        return Refused(
            Reason.DEPLOYMENT_OTHER_USE,
            f"the deployment {request.deployment!r} is registered for another audience, purpose or model release",
        )
    return None


def _permission(request: Request, deployment: Deployment, rules: Rulebook, now: int) -> Allowed | Refused:
    """What the packs of all jurisdictions say together: each must allow, the strictest tier counts."""
    refusal = _refusal_of_audience(request, deployment, rules.client(deployment.identifier, request.audience, now), now)
    if refusal is not None:
        return refusal
    granted: list[PurposeRule] = []
    until = [deployment.ends_at]
    for client in rules.clients(deployment.identifier, request.audience):
        until.extend(time for time in (client.begins_at, client.ends_at) if time > now)
    for place in deployment.jurisdictions:
        pack = rules.pack(place, now)
        rule = rules.rule_in_force(place, request.audience, request.purpose, now)
        if rule is None and (pack is None or now >= pack.ends_at):
            return Refused(Reason.NO_POLICY, f"no policy is in force in {place}")
        if rule is None:
            return Refused(Reason.PURPOSE_NOT_ALLOWED, f"the policy of {place} does not allow {request.purpose!r} now")
        granted.append(rule)
        until.extend([rule.ends_at, *rules.changes_of_pack(place, now)])
        if pack is not None and now < pack.ends_at:
            until.append(pack.ends_at)
    categories = frozenset(rule.category for rule in granted)
    for moratorium in rules.moratoria(now):
        if moratorium.stops(deployment, request.audience, categories):
            if moratorium.begins_at <= now:
                return Refused(Reason.MORATORIUM, f"stopped by the moratorium {moratorium.identifier!r}")
            until.append(moratorium.begins_at)
    strictest = max(granted, key=lambda rule: rule.tier)
    pad = max((rule.pad for rule in granted), key=list(PadLevel).index)
    return Allowed(strictest.category, strictest.tier, pad, min(until))


def _refusal_of_release(request: Request, tier: Tier, release: Standing, now: int) -> Refused | None:
    if not release.begins_at <= now < release.ends_at:
        return Refused(Reason.RELEASE_NOT_IN_FORCE, "the model release is not valid now; it must be audited again")
    if release.audited.is_trial and tier is not Tier.MINIMAL:
        return Refused(
            Reason.RELEASE_ONLY_A_TRIAL,
            f"the model release is a trial that no audit has passed, and {request.purpose!r} is no trial's purpose",
        )
    largest, stated_fmr = TIERS[tier].largest_fmr, release.stated_fmr
    if 0 < stated_fmr <= largest:  # false for NaN too
        return None
    return Refused(
        Reason.FMR_TOO_LARGE,
        f"{request.purpose!r} needs a release with a false match rate of at most {largest:g}; this one states "
        f"{stated_fmr:g}",
    )


def _refusal_of_pad(request: Request, permission: Allowed, pad: PadLevel | None) -> Refused | None:
    if pad is None or pad.reaches(permission.pad):
        return None
    how = {
        PadLevel.NONE: "",
        PadLevel.ON_DEVICE: "verify with the camera and the movements that it asks for (`intaglio verify --challenge`)",
        PadLevel.SUPERVISED: "verify at a kiosk of the operator's that the public rules name",
    }[permission.pad]
    return Refused(
        Reason.PAD_TOO_LOW,
        f"{request.purpose!r} asks for presentation attack detection {permission.pad.value!r}, and here it is "
        f"{pad.value!r}; {how}, or take the way without a face that the terms name",
    )


def _receipt_in_force(
    request: Request, consent: Consent | None, rules: Rulebook, tier: Tier, now: int
) -> Receipt | Refused:
    deployment = _deployment(request, rules, now)
    if isinstance(deployment, Refused):
        return deployment
    if consent is None:
        return _refused_for(ReceiptFault.MISSING)
    fault = consent.find_fault(binding=request.binding, purpose=request.purpose, audience=request.audience, now=now)
    if fault is not None:
        return _refused_for(fault)
    receipt, longest = consent.current, TIERS[tier].longest_receipt_seconds
    if receipt.terms.jurisdiction not in deployment.jurisdictions:
        return Refused(Reason.RECEIPT_OTHER_JURISDICTION, "the consent receipt is for another jurisdiction")
    if receipt.expires_at - receipt.issued_at > longest:
        return Refused(
            Reason.RECEIPT_TOO_LONG,
            f"a consent receipt for {request.purpose!r} may be valid for at most {longest // DAY_SECONDS} days",
        )
    return receipt


def _refused_for(fault: ReceiptFault) -> Refused:
    return Refused(Reason.of_receipt(fault), f"the consent receipt is refused: {fault.value}")


def _refusal_of_attempts(attempts: Attempts, now: int) -> Refused | None:
    if attempts.used_up:
        return Refused(Reason.ATTEMPTS_USED_UP, "this template is closed after too many failures; enrol anew")
    wait = attempts.wait_until - now
    if wait <= 0:
        return None
    return Refused(Reason.TOO_SOON, f"too many attempts in a row have failed; try again in {wait} seconds", wait)
