"""The server's half of one session, for tests of the page's device: no sockets, no storage. See tests/web/peer.py."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import Message

from federation.consent.assertion import Assertion, LogPosition
from federation.consent.purposes import Category, Tier
from federation.errors import ProofError
from federation.onebit import Operation, match
from federation.onebit.session import ServerSession, SessionTerms
from federation.presentation.levels import PadLevel
from federation.rules.entries import Deployment, Issuer, PolicyPack, PurposeRule
from federation.rules.rulebook import RuleSigners, SignedRule
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    Checkpoint,
    Frontier,
    KeyKind,
    LoggedEntry,
    NoteSigner,
    Opening,
    PersonalEntry,
    PersonalKind,
    PublicEntry,
    PublicKind,
    SignedCheckpoint,
    consistency_proof,
    inclusion_proof,
)
from federation.wire.convert import LoggedReply, ProbeSubmission
from federation.wire.logged import (
    LogReceipt,
    comparison_facts,
    enrolment_facts,
    renewal_facts,
    request_digest,
    revocation_facts,
)
from federation.wire.v1 import verification_pb2 as pb
from tests.agreeing import AUDIENCE, DAY, NOW, PURPOSE, TERMS, public
from tests.bundles import AUDITOR, MAKER, TRUST, a_bundle, a_release, signed

LOG = NoteSigner("example.org/log", KeyKind.NOTE, bytes(range(32)))
SALT = bytes(range(32))
ISSUER_KEY = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
ISSUER = Issuer("https://matching.example", public(ISSUER_KEY))


def a_deployment(code_length: int, threshold: int, *, issues: bool) -> dict[str, Any]:
    """What a page reads before it does anything: release, manifest, public rules and the rest.

    The rules register releases of every length, so that somebody may come over from one to another; and deployments
    with another key of assertions, of which one may be left for this one.

    Args:
        code_length: of the release.
        threshold: of the release.
        issues: whether the rules register an issuer of assertions.
    """
    release = replace(a_release(threshold), code_length=code_length)
    every = [release, *(replace(a_release(length // 4), code_length=length) for length in (1024, 2048))]
    begin, year = NOW - DAY, 365 * DAY
    rule = PurposeRule(PURPOSE, Category.PHYSICAL_ACCESS, Tier.MINIMAL, begin, begin + year)
    registered = Deployment(
        "trial", "Example Office Ltd", "mailto:privacy@example.org", AUDIENCE, (PURPOSE,), ("DE", "EU"),
        tuple(sorted({bytes.fromhex(one.digest) for one in every})), begin, begin + year, ISSUER if issues else None,
    )  # fmt: skip
    rules = [PolicyPack(place, 1, begin, begin + year, (rule,)) for place in ("DE", "EU", "FR")]
    signers = RuleSigners(frozenset(map(public, (MAKER, AUDITOR))), threshold=2)
    other_key = Issuer(ISSUER.address, public(MAKER)) if issues else None
    before = replace(registered, identifier="before", begins_at=begin - DAY, issuer=other_key)
    foreign = replace(before, identifier="foreign", operator="Elsewhere Ltd")
    wider = replace(before, identifier="wider", jurisdictions=("DE", "EU", "FR"))
    later = replace(before, identifier="later", begins_at=begin + 1)
    every_rule = (*rules, registered, before, foreign, wider, later)
    lines = [SignedRule(one).signed_by(MAKER).signed_by(AUDITOR).to_bytes() for one in every_rule]
    return {
        "release": release.to_bytes().decode(),
        "manifest": signed(a_bundle(release, begins_at=begin)).signed.to_bytes().decode(),
        "trust": json.loads(TRUST.to_bytes()),
        "rules": b"\n".join([signers.to_bytes(), *lines]).decode() + "\n",
        "terms": asdict(TERMS),
        "log": {"key": LOG.key.to_text(), "witnesses": [], "threshold": 0},
        "release_digest": release.digest,
        "purpose": PURPOSE,
        "now": NOW,
    }


def compare(request: dict[str, Any]) -> dict[str, Any]:
    """Answers a `SubmitProbeRequest` as `server.matching.service` does, for one enrolled template or the one in it.

    Raises:
        MalformedMessageError, ProofError: the device did not send what such a server understands and believes.
    """
    asked = {name: bytes.fromhex(request[name]) for name in ("session_id", "nonce", "key_id", "release_digest")}
    submission = ProbeSubmission.from_proto(pb.SubmitProbeRequest.FromString(bytes.fromhex(request["submission"])))
    change = submission.change
    if request["enrols"]:
        if change is None or change.key_id != asked["key_id"]:
            raise ProofError("the device key is not the one that the session was opened for")
        operation, template, key = Operation.ENROL, change.template, change.device_public_key
    else:
        template, key = (bytes.fromhex(request[name]) for name in ("template", "device_public_key"))
        renewal = Operation.RENEW_TEMPLATE if change and change.has_template else Operation.RENEW_CONSENT
        operation = renewal if change else Operation.VERIFY
    terms = SessionTerms(
        parameters=request["parameters"],
        operation=operation,
        purpose=request["purpose"],
        audience=request["audience"],
        template_digest=hashlib.sha256(template).digest(),
        audience_nonce=bytes.fromhex(request["audience_nonce"]),
        change_digest=submission.change_digest,
        log_size=submission.log_size,
        presentation_checked=submission.presentation_checked,
        **asked,
    )
    transcript = ServerSession(terms, key).receive_probe(submission.probe, submission.signature)
    if change is not None and operation is Operation.RENEW_TEMPLATE:
        try:
            Ed25519PublicKey.from_public_bytes(change.device_public_key).verify(submission.new_signature, transcript)
        except InvalidSignature:
            raise ProofError("the new device key did not sign this renewal") from None
    challenge = match(template, submission.probe, transcript, request["threshold"])
    facts = comparison_facts(key_id=asked["key_id"], transcript=transcript, reply=challenge.reply)
    opening = Opening(PersonalKind.ATTEMPT, facts, SALT)
    attempt = AttemptEntry(request["now"], AUDIENCE, PURPOSE, AttemptOutcome.OPENED, opening.commitment).to_bytes()
    receipt = _logged(
        opening, [*request["leaves"], attempt.decode()], len(request["leaves"]), submission.log_size, now=request["now"]
    )
    return {
        "operation": operation.name,
        "token": challenge.token.hex(),
        "leaf": attempt.decode(),
        "assertion": _asserted(terms, receipt.logged, now=request["now"]) if terms.audience_nonce else "",
        "answer": LoggedReply(challenge.reply, receipt).to_proto().SerializeToString().hex(),
    }


def _asserted(terms: SessionTerms, logged: LoggedEntry, *, now: int) -> str:
    """What the audience gets for a match."""
    head = logged.checkpoint.head
    return Assertion(
        issuer=ISSUER.address,
        audience=AUDIENCE,
        subject="5a" * 32,
        purpose=PURPOSE,
        nonce=terms.audience_nonce,
        issued_at=now,
        expires_at=now + 300,
        release_digest=terms.release_digest,
        rate=a_release().rate,
        audited=a_bundle().manifest.audited,
        pad=PadLevel.ON_DEVICE if terms.presentation_checked else PadLevel.NONE,
        log=LogPosition(LOG.key.name, logged.index, head.size, head.root),
        contest=TERMS.contest,
    ).sign(ISSUER_KEY)


def do(request: dict[str, Any]) -> dict[str, Any]:
    """Logs what is done to a template, as `server.matching.deeds` does: enrolment, renewal, revocation or erasure.

    Returns:
        The leaf, the opening, and the `LogReceipt` for a device that saw `log_size` entries.
    """
    kind, leaves, key = PersonalKind(request["kind"]), request["leaves"], bytes.fromhex(request["device_public_key"])
    key_id, receipt = hashlib.sha256(key).digest(), bytes.fromhex(request["receipt"])
    match kind:
        case PersonalKind.ENROLMENT:
            template = hashlib.sha256(bytes.fromhex(request["template"])).digest()
            facts: dict[str, Any] = enrolment_facts(
                device_public_key=key, audience=AUDIENCE, template=template, receipt=receipt
            )
        case PersonalKind.RENEWAL:
            facts = renewal_facts(key_id=key_id, receipt=receipt)
        case PersonalKind.REVOCATION:
            asked: Message = pb.RevokeRequest(log_size=request["log_size"])
            if "token_request" in request:  # by a match that puts another template in force
                asked = pb.SubmitTokenRequest.FromString(bytes.fromhex(request["token_request"]))
            facts = revocation_facts(key_id=key_id, request=request_digest(asked))
        case _:
            facts = {"positions": request["positions"]}
    opening = Opening(kind, facts, SALT)
    leaf = PersonalEntry(kind, request["now"], opening.commitment).to_bytes().decode()
    logged = _logged(opening, [*leaves, leaf], len(leaves), request["log_size"], now=request["now"])
    return {
        "leaf": leaf,
        "opening": opening.secret_bytes().decode(),
        "receipt": logged.to_proto().SerializeToString().hex(),
    }


def prove(request: dict[str, Any]) -> str:
    """Answers `GetInclusion`, or shows an earlier entry again: the `LogReceipt` for one position."""
    opening = Opening.from_secret_bytes(request["opening"].encode())
    receipt = _logged(opening, request["leaves"], request["position"], request["log_size"], now=request["now"])
    return receipt.to_proto().SerializeToString().hex()


def software(request: dict[str, Any]) -> dict[str, Any]:
    """The log's entry about a program whose page has a hash, behind one of something else, with its proof.

    Args:
        request: `hash` of the page, `kind` of the entry, `payload_type` of the envelope.
    """
    subjects = {"intaglio-1.2.3-py3-none-any.whl": "11" * 32, "intaglio-1.2.3-page.sha256": request["hash"]}
    dependencies = [
        {"name": "source", "digest": {"gitCommit": "ab" * 20}},
        {"name": "a lock", "digest": {"sha256": "0"}},
    ]
    statement = {
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()],
        "predicate": {"buildDefinition": {"resolvedDependencies": dependencies}},
    }
    envelope = {
        "payload": base64.b64encode(json.dumps(statement).encode()).decode(),
        "payloadType": request["payload_type"],
        "signatures": [{"keyid": "cd" * 32, "sig": "nobody checks it here"}],
    }
    content = json.dumps(envelope).encode() + b"\n"
    entries = [
        PublicEntry(PublicKind.RELEASE, NOW, b"a manifest"),
        PublicEntry(PublicKind(request["kind"]), NOW, content),
    ]
    leaves = [entry.to_bytes() for entry in entries]
    frontier, nodes = Frontier().grow(leaves)
    proof = inclusion_proof(1, 2, lambda wanted: {node: nodes[node] for node in wanted})
    checkpoint = SignedCheckpoint.sign(Checkpoint(LOG.key.name, frontier.head), LOG, time=NOW)
    return {
        "logged": LoggedEntry(leaves[1], 1, proof, checkpoint).to_bytes().hex(),
        "key": LOG.key.to_text(),
        "now": NOW,
    }


def _logged(opening: Opening, leaves: list[str], position: int, old_size: int, *, now: int) -> LogReceipt:
    """One of `leaves`, with its proofs for a device that saw `old_size` of them."""
    frontier, nodes = Frontier().grow([leaf.encode() for leaf in leaves])

    def read(wanted):
        return {node: nodes[node] for node in wanted}

    checkpoint = SignedCheckpoint.sign(Checkpoint(LOG.key.name, frontier.head), LOG, time=now)
    proof = inclusion_proof(position, frontier.size, read)
    grown = consistency_proof(old_size, frontier.size, read) if 0 < old_size <= frontier.size else ()
    return LogReceipt(LoggedEntry(leaves[position].encode(), position, proof, checkpoint), opening, tuple(grown))
