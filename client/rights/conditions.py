"""Under which conditions a device lets itself be compared, and what it checks of the answer. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from federation.consent.assertion import LogPosition, names_key, verify_assertion
from federation.consent.receipts import Binding, Terms
from federation.errors import PeerError, ProofError, RefusedError, UsageError
from federation.onebit import Operation
from federation.rules.policy import Attempts, Refused, Request, decide, decide_for_anybody

if TYPE_CHECKING:
    from client.log.watching import LogTrust
    from client.wallet.wallet import Enrolment, Wallet
    from federation.consent.life import Consent
    from federation.presentation.levels import PadLevel
    from federation.recognition.model import ModelRelease
    from federation.release.manifest import Standing
    from federation.rules.entries import Issuer
    from federation.rules.rulebook import Rulebook
    from federation.transparency import LoggedEntry
    from federation.wire.convert import Change
    from federation.wire.devices import DeviceChange


@dataclass(frozen=True)
class Conditions:
    """What a device goes by. It decides by the same code as the server.

    Attributes:
        rules: the public rules as this device has read them.
        log: whom it believes about the transparency log.
        release: the model release; its code length decides the parameter set.
        standing: what the release's signed manifest says (`federation.release.bundle.require_servable`).
        terms: what the person agreed to: for an enrolment, or instead of the present ones for a renewal.
        days: how long that consent is valid.
    """

    rules: Rulebook
    log: LogTrust
    release: ModelRelease
    standing: Standing
    terms: Terms | None = None
    days: int = 90

    def require_release_of(self, enrolment: Enrolment) -> None:
        """Raises `UsageError` when a wallet was enrolled under another release."""
        if bytes.fromhex(self.release.digest) != enrolment.release_digest:
            raise UsageError(
                "this wallet was enrolled under another model release; name that one, or come over to this one with "
                "`intaglio renew --former-release`"
            )

    def issuer_for(self, enrolment: Enrolment) -> Issuer:
        """Whom the public rules register for the assertions of a deployment.

        Raises:
            UsageError: nobody.
        """
        deployment = self.rules.deployment(_deployment_of(enrolment))
        if deployment is None or deployment.issuer is None:
            raise UsageError(
                "the public rules register no issuer of assertions for this deployment; ask without a nonce"
            )
        return deployment.issuer


@dataclass(frozen=True)
class Destination:
    """Another release or deployment, to which somebody comes over with a match under the one that they enrolled under.

    Attributes:
        conditions: under which the template will be compared then; their release and rules count.
        deployment: that the rules register for the release that is left, too; the same one, or one that follows it
            (`federation.rules.entries.Deployment.follows`).
    """

    conditions: Conditions
    deployment: str


@dataclass(frozen=True)
class Comparison:
    """One session, as the device means it.

    Attributes:
        operation: what a match does.
        consent: under which the face is compared.
        consenting: the wallet that gave it; it is another than the device's when a template is renewed.
        template_digest: SHA-256 of the template that is compared with.
        change: what a match puts in force, or does to another device, or None.
        audience_nonce: for an assertion; empty for none.
        issuer: of that assertion, or None.
        presentation_checked: whether the face is looked at for a presentation attack, and the device says so.
        to: where a renewed template or consent comes over to; None where it stays with release and deployment.
    """

    operation: Operation
    consent: Consent
    consenting: Wallet
    template_digest: bytes
    change: Change | DeviceChange | None = None
    audience_nonce: bytes = b""
    issuer: Issuer | None = None
    presentation_checked: bool = False
    to: Destination | None = None


def require_allowed(
    comparison: Comparison, enrolment: Enrolment, conditions: Conditions, *, certificate: bytes, now: int
) -> None:
    """Returns when the public rules and the owner's consent allow this use now, whatever the server thinks.

    Args:
        comparison: what is to be compared.
        enrolment: of the wallet.
        conditions: of the device.
        certificate: SHA-256 of the client certificate of the device, 32 bytes.
        now: seconds since 1970.

    Raises:
        UsageError: the wallet names no deployment.
        RefusedError, ProofError: they do not; the error says why.
    """
    if comparison.to is not None:
        _require_leaving(comparison.to, enrolment, conditions, now)
        enrolment, conditions = comparison.consenting.require_enrolment(), comparison.to.conditions
    mine = Binding(  # the template itself is not kept here; the server checks that part
        device_public_key=comparison.consenting.device_public_key,
        key_id=comparison.consenting.key_id,
        template_digest=comparison.consent.current.binding.template_digest,
        release_digest=enrolment.release_digest,
    )
    verdict = decide(
        Request(_deployment_of(enrolment), enrolment.audience, enrolment.purpose, mine),
        consent=comparison.consent,
        attempts=Attempts(),
        rules=conditions.rules,
        release=conditions.standing,
        pad=None
        if comparison.operation is Operation.ENROL
        else _pad_of(comparison, enrolment, conditions, certificate, now),
        now=now,
    )
    if isinstance(verdict, Refused):
        raise verdict.to_error(to_owner=True)


def _require_leaving(to: Destination, enrolment: Enrolment, conditions: Conditions, now: int) -> None:
    """Returns when rules and release allow one more comparison under the release that is left; as the server asks.

    No server says which deployment it is, and the receipt names none. So this device alone sees to it that the one that
    it is told of is of whom the person agreed with.
    """
    former = _deployment_of(enrolment)
    entered = to.conditions.rules.followers(former)
    if to.deployment != former and to.deployment not in {one.identifier for one in entered}:
        raise RefusedError(
            f"the public rules register no deployment {to.deployment!r} of the same operator, for the same audience "
            f"and places as {former!r}, which this wallet is enrolled at, that begins after it; nothing was sent"
        )
    left = enrolment.require_consent().current.binding
    verdict = decide_for_anybody(
        Request(to.deployment, enrolment.audience, enrolment.purpose, left),
        rules=to.conditions.rules,
        release=conditions.standing,
        now=now,
    )
    if isinstance(verdict, Refused):
        raise verdict.to_error(to_owner=True)


def require_asserted(
    token: str | None,
    comparison: Comparison,
    enrolment: Enrolment,
    conditions: Conditions,
    *,
    certificate: bytes,
    logged: LoggedEntry,
    is_match: bool,
    now: int,
) -> None:
    """Returns when there is an assertion if, and only if, one is due, and it is about this very session.

    Every claim is checked that the device knows; only the pseudonym is the issuer's own.

    Args:
        token: foreign; what came with the decision.
        comparison: what was asked for.
        enrolment: of the wallet.
        conditions: of the device.
        certificate: SHA-256 of the client certificate of the device, 32 bytes.
        logged: the entry about the comparison, checked.
        is_match: the decision.
        now: seconds since 1970.

    Raises:
        PeerError: there is one that nobody asked for, or none where one is due.
        MalformedMessageError: it is none of this version.
        ProofError: the issuer did not sign it, or it is about something else.
    """
    issuer = comparison.issuer
    if issuer is None or not is_match:
        if token is not None:
            raise PeerError("the server sent an assertion that nobody asked for")
        return
    if token is None:
        raise PeerError("the server recorded a match and sent no assertion for the audience")
    try:
        assertion = verify_assertion(
            token,
            issuer_public_key=issuer.public_key,
            expected_issuer=issuer.address,
            expected_audience=enrolment.audience,
            expected_purpose=enrolment.purpose,
            expected_nonce=comparison.audience_nonce,
            now=now,
            accepts_trials=True,  # the audience decides; what the device knows of it is compared below
        )
    except ProofError:
        if names_key(token, issuer.public_key):
            raise
        raise _of_another_key(token, enrolment, conditions.rules, now) from None
    head = logged.checkpoint.head
    position = LogPosition(logged.checkpoint.checkpoint.origin, logged.index, head.size, head.root)
    checks = (
        ("is for another model release", assertion.release_digest == enrolment.release_digest),
        ("states another false match rate than the release", assertion.rate == conditions.release.rate),
        ("says something else about the audit than the release", assertion.audited == conditions.standing.audited),
        (
            "says something else of presentation attacks than this device and the public rules",
            assertion.pad is _pad_of(comparison, enrolment, conditions, certificate, now),
        ),
        (
            "names another address to contest at than the consent",
            assertion.contest == comparison.consent.current.terms.contest,
        ),
        ("names another place in the log than the comparison has", assertion.log == position),
    )
    for fault, passed in checks:
        if not passed:
            raise ProofError(f"the assertion {fault}; it is not handed out")


def _of_another_key(token: str, enrolment: Enrolment, rules: Rulebook, now: int) -> ProofError:
    """What somebody does who gets an assertion under another key than that of the deployment that they enrolled at."""
    deployment = _deployment_of(enrolment)
    for other in reversed(rules.followers(deployment)):
        serves = enrolment.purpose in other.purposes and enrolment.release_digest in other.release_digests
        is_in_force = other.begins_at <= now < other.ends_at
        if serves and is_in_force and other.issuer is not None and names_key(token, other.issuer.public_key):
            return ProofError(
                f"the assertion is under the key of the deployment {other.identifier!r}, and this wallet is enrolled "
                f"at {deployment!r}; it is not handed out. Come over with `intaglio receipts renew --deployment "
                f"{other.identifier}`"
            )
    return ProofError(
        f"the assertion is under another key than the public rules register for {deployment!r}; it is not handed out. "
        "Ask the operator for newer rules (--rules), and where they say the same, contest it"
    )


def _pad_of(
    comparison: Comparison, enrolment: Enrolment, conditions: Conditions, certificate: bytes, now: int
) -> PadLevel:
    """What stands between a presentation attack and this comparison, by the rules that the server goes by, too."""
    return conditions.rules.pad_level(
        _deployment_of(enrolment), checked=comparison.presentation_checked, certificate=certificate, now=now
    )


def _deployment_of(enrolment: Enrolment) -> str:
    if enrolment.deployment is None:
        raise UsageError("a comparison needs the deployment that the public rules register")
    return enrolment.deployment
