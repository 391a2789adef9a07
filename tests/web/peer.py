"""The Python side of the page's cross tests: `python -m tests.web.peer`, a line of JSON in, one out. See web/tests."""

import base64
import hashlib
import importlib.resources
import io
import itertools
import json
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from grpc import StatusCode
from PIL import ExifTags, Image

from client.device.pictures import require_different, require_one_person
from client.log.watching import LogMemory, LogTrust
from client.rights.logged import check_comparison
from client.wallet.backup import Backup
from federation.consent.assertion import Assertion, LogPosition
from federation.consent.login import LoginRequest
from federation.consent.purposes import _STEMS, _WORDS, Category, Tier, red_line_of
from federation.consent.receipts import Binding
from federation.errors import IntaglioError, MalformedMessageError, ProofError, UsageError
from federation.groups import Alike, GroupBound, HeldFor, ThresholdFor
from federation.onebit import CodeSeed, Operation, Transcript, binary_code, check_probe, check_template, match
from federation.onebit.code import hyperplanes
from federation.presentation.levels import PadLevel
from federation.promise import PrivacyStatement
from federation.rates import Audited, Basis, StatedRate
from federation.recognition.model import Adapter, ModelRelease
from federation.recognition.profile import RecogniserProfile
from federation.recognition.profiles import PROBE, REFERENCE
from federation.release.manifest import Role, Standing, Use
from federation.rules.clients import Client, SigningAlgorithm
from federation.rules.entries import Deployment, Lifting, Moratorium, PolicyException, PolicyPack, PurposeRule
from federation.rules.kiosks import Kiosk
from federation.rules.policy import Attempts, Request, decide
from federation.rules.rulebook import Rulebook, RuleSigners, SignedRule
from federation.statements import canonical_bytes
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    Checkpoint,
    Frontier,
    KeyKind,
    LoggedEntry,
    NoteSigner,
    Opening,
    PersonalKind,
    SignedCheckpoint,
    VerifierKey,
    consistency_proof,
    inclusion_proof,
)
from federation.verdict import Verdict
from federation.wire.convert import Change
from federation.wire.devices import Admission, DeviceChange, ListedDevice, code_of, devices_in
from federation.wire.logged import LogReceipt, comparison_facts
from federation.wire.owner import OwnerOperation, OwnerProof
from federation.wire.status import RETRY_AFTER_KEY, error_from_call
from federation.wire.v1 import verification_pb2 as pb
from tests import damaged_receipts
from tests.agreeing import AUDIENCE, DEVICE, NOW, PASSED, PURPOSE, public
from tests.bundles import (
    AUDITOR,
    MAKER,
    OTHER_AUDITOR,
    OTHER_MAKER,
    STRANGER,
    TRUST,
    VERDICTS,
    a_bundle,
    a_release,
    a_report,
    an_attack,
    an_evaluation,
    signed,
    wolves,
)
from tests.faces import aligner, orl_image, shipped
from tests.values import GOOD
from tests.web import edges, seen
from tests.web import matching as web_matching
from tests.web.heads import films

RELEASE_DIGEST = bytes.fromhex("cd" * 32)
ANOTHER_RULE = Moratorium("another", NOW - 9, (), (), (), "its errors were found to be unfair")


def answer_match(request):
    """Checks a device's messages and answers comparisons under several thresholds."""
    template, probe, transcript = (bytes.fromhex(request[name]) for name in ("template", "probe", "transcript"))
    check_template(template)
    check_probe(probe)
    challenges = [match(template, probe, transcript, threshold) for threshold in request["thresholds"]]
    return [{"reply": one.reply.hex(), "token": one.token.hex()} for one in challenges]


def answer_deployment(request):
    """What a page reads of a deployment before it does anything."""
    return web_matching.a_deployment(**request)


def answer_compare(request):
    """The server's half of a session, up to the reply."""
    return web_matching.compare(request)


def answer_do(request):
    """The log's entry about what is done to a template."""
    return web_matching.do(request)


def answer_prove(request):
    """The proof of an entry that the log has."""
    return web_matching.prove(request)


def answer_software(request):
    """The log's entry about the program that runs."""
    return web_matching.software(request)


def answer_change(request):
    """The digest of a change that a match would put in force."""
    return Change(**{name: bytes.fromhex(value) for name, value in request.items()}).digest.hex()


def answer_codes(request):
    """Codes of embeddings under one seed, packed with the lowest bit first."""
    seed, length = CodeSeed(bytes.fromhex(request["seed"])), request["length"]
    codes = [binary_code(np.array(embedding), seed, length) for embedding in request["embeddings"]]
    return [np.packbits(code, bitorder="little").tobytes().hex() for code in codes]


def answer_planes(request):
    """The hyperplanes of a seed."""
    return hyperplanes(CodeSeed(bytes.fromhex(request["seed"])), request["dimension"], request["bits"]).tolist()


def answer_faces(request):
    """Faces of the ORL data set as files of a format, with their cuts and embeddings."""
    faces = []
    for person in request["people"]:
        for number in request["images"]:
            image = _photograph(Image.open(io.BytesIO(orl_image(person, number))), request["format"])
            cut = aligner().chip(image, PROBE)
            embedding = shipped().embed(cut[None])[0].astype(np.float64).tolist()
            files = {"image": image, "cut": _file(Image.fromarray(cut), "PNG")}
            faces.append(
                {name: base64.b64encode(file).decode() for name, file in files.items()} | {"embedding": embedding}
            )
    files = importlib.resources.files("federation.recognition").iterdir()
    profiles = [file.read_bytes() for file in files if file.name.endswith(".profile.json")]
    digests = [RecogniserProfile.from_bytes(profile).digest for profile in profiles]
    assert shipped().digest in digests
    return {"digests": digests, "faces": faces}


def answer_pictures(request):
    """What Python says of pictures: their quality as references and as probes, copies, and embeddings of one person."""
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")) for image in request["images"]]
    cuts = [np.array(cut, np.uint8).reshape(-1, 1, 3) for cut in request["cuts"]]
    release = ModelRelease.from_bytes(request["release"].encode())
    embeddings = [np.array(embedding) for embedding in request["embeddings"]]
    names = [f"picture {place + 1}" for place in range(9)]
    return {
        "quality": [
            [_said(aligner().chip_of_pixels, image, profile) for profile in (REFERENCE, PROBE)] for image in images
        ],
        "copies": _said(require_different, cuts, names),
        "people": _said(require_one_person, embeddings, names, release),
    }


def _said(check, *arguments):
    """What `check` objects to, or nothing."""
    try:
        check(*arguments)
    except UsageError as error:
        return str(error)
    return None


def answer_release(request):
    """A release with a centre and a projection, and what it makes of one embedding."""
    random = np.random.default_rng(request["seed"])
    d, k = 16, 6
    release = ModelRelease(
        model_name="mobilefacenet",
        model_digest="ab" * 32,
        adapter=Adapter({REFERENCE: random.normal(size=k), PROBE: random.normal(size=k)}, random.normal(size=(k, d))),
        adaptation="centre",
        reason="a test",
        condition="mask",
        threshold=600,
        fmr=0.01,
        fmr_low=0.004,
        fmr_high=0.025,
        fmr_people=24,
        basis=Basis.CHECKED,
        references=2,
        frames=3,
        privacy=PrivacyStatement.of_events("person", "add_or_remove_one", 4.0, 1e-5, (("threshold", 3.5),), 24, 4),
        created=datetime(2030, 1, 1, tzinfo=UTC).isoformat(),
    )
    embedding = random.normal(size=(1, d))
    return {
        "release": release.to_bytes().decode(),
        "digest": release.digest,
        "embedding": embedding[0].tolist(),
        "adapted": {profile: release.adapt(embedding, profile)[0].tolist() for profile in (REFERENCE, PROBE)},
    }


def answer_open_backup(request):
    """What a backup says that the page sealed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.backup"
        path.write_bytes(bytes.fromhex(request["file"]))
        proof = Backup.read(path, request["passphrase"]).revocation
    return {
        "key_id": proof.key_id.hex(),
        "audience": proof.audience,
        "issued_at": proof.issued_at,
        "signature": proof.signature.hex(),
    }


def answer_owner_proofs(request):
    """For which operations each proof of an owner holds."""
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(request["public_key"]))
    return [[one.value for one in OwnerOperation if _holds(one, proof, key)] for proof in request["proofs"]]


def _holds(operation, proof, key):
    read = OwnerProof.from_proto(operation, pb.OwnerProof.FromString(bytes.fromhex(proof)))
    try:
        key.verify(read.signature, read.statement)
    except InvalidSignature:
        return False
    return True


def answer_statuses(_request):
    """What each status of gRPC, with a pause that is asked for, stands for: the name of the error."""

    class Failed:
        def __init__(self, status):
            self.code = lambda: status
            self.details = lambda: "no"
            self.trailing_metadata = lambda: ((RETRY_AFTER_KEY, "5"),)

    return {one.name: type(error_from_call(Failed(one))).__name__ for one in StatusCode}


def answer_seal_backup(request):
    """A backup as the command line writes it."""
    key_id, signature = bytes.fromhex(request["key_id"]), bytes.fromhex(request["signature"])
    proof = OwnerProof(OwnerOperation.REVOKE, key_id, request["audience"], request["issued_at"], signature)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.backup"
        Backup(proof).write(path, request["passphrase"])
        return path.read_bytes().hex()


def answer_devices(_request):
    """Codes of devices, digests of changes, and a list of two devices, the first of which let the second in."""
    first, second = (Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in (1, 2))
    keys = [key.public_key().public_bytes_raw() for key in (first, second)]
    key_ids = [hashlib.sha256(key).digest() for key in keys]
    code = code_of(key_ids[1])
    transcript = Transcript(
        parameters="intaglio-onebit-1024/2",
        operation=Operation.ADMIT_DEVICE,
        session_id=bytes(16),
        nonce=bytes(32),
        purpose=PURPOSE,
        audience=AUDIENCE,
        audience_nonce=b"",
        key_id=key_ids[0],
        template_digest=bytes(32),
        release_digest=RELEASE_DIGEST,
        change_digest=DeviceChange(admits=code.digest).digest,
        log_size=5,
        probe_digest=bytes(32),
    ).to_bytes()
    admission = Admission(keys[0], code.digest, first.sign(transcript), transcript)
    devices = [ListedDevice(key_ids[0], NOW, None), ListedDevice(key_ids[1], NOW + 100, admission)]
    return {
        "codes": [
            {"key_id": one.hex(), "text": code_of(one).reveal(), "digest": code_of(one).digest.hex()} for one in key_ids
        ],
        "admits": DeviceChange(admits=bytes([1] * 32)).digest.hex(),
        "removes": DeviceChange(removes=bytes([1] * 32)).digest.hex(),
        "record": {"devices": [one.to_json() for one in devices]},
    }


def answer_listed(records):
    """What Python says of each list of devices: nothing, or the name of the error."""
    said = []
    for record in records:
        try:
            devices_in(record)
        except IntaglioError as error:
            said.append(type(error).__name__)
        else:
            said.append(None)
    return said


def answer_device_of_consent(_request):
    """The device key of the consent vectors, which is no secret, and the time at which they are looked at."""
    return {"device": DEVICE.private_bytes_raw().hex(), "now": NOW}


def answer_log(_request):
    """Three comparisons in a log: the first, a later one, and one in a log that forked in between."""
    key_id, transcript, reply, now = bytes(range(32)), b"a transcript", b"a reply", 1_900_000_000
    signer = NoteSigner("example.org/log", KeyKind.NOTE, bytes(range(32)))

    def receipt(index, leaves_before, old_size, salt):
        facts = comparison_facts(key_id=key_id, transcript=transcript, reply=reply)
        opening = Opening(PersonalKind.ATTEMPT, facts, bytes([salt] * 32))
        entry = AttemptEntry(
            now - 5, "example.org", "door-access", AttemptOutcome.OPENED, opening.commitment
        ).to_bytes()
        frontier, nodes = Frontier().grow([*leaves_before, entry])
        read = lambda wanted: {node: nodes[node] for node in wanted}  # noqa: E731 - it is what the tree calls
        checkpoint = SignedCheckpoint.sign(Checkpoint(signer.key.name, frontier.head), signer, time=now)
        logged = LoggedEntry(entry, index, inclusion_proof(index, frontier.size, read), checkpoint)
        grown = consistency_proof(old_size, frontier.size, read) if old_size else ()
        written = {"logged": logged.to_bytes().decode(), "opening": opening.secret_bytes().decode()}
        return entry, written | {"consistency": [one.hex() for one in grown]}

    entry, first = receipt(0, [], 0, 1)
    others = [f"entry {number}".encode() for number in range(5)]
    return {
        "key": signer.key.to_text(),
        "other_key": NoteSigner("example.org/log", KeyKind.NOTE, bytes(32)).key.to_text(),
        "now": now,
        "facts": {"key_id": key_id.hex(), "reply": reply.hex(), "transcript": transcript.hex()},
        "first": first,
        "later": receipt(6, [entry, *others], 1, 2)[1],
        "forked": receipt(6, [b"another", *others], 1, 3)[1],
    }


def floats(value, *names):
    """JavaScript writes 1 for 1.0."""
    return value | {name: float(value[name]) for name in names}


def answer_receipts(_request):
    """Receipts that every device must believe, and that none may: see tests/damaged_receipts.py."""
    return {
        "key": damaged_receipts.SIGNER.key.to_text(),
        "now": damaged_receipts.NOW,
        "memory": damaged_receipts.memory().to_bytes().decode(),
        "key_id": damaged_receipts.KEY_ID.hex(),
        "transcript": damaged_receipts.TRANSCRIPT.hex(),
        "reply": damaged_receipts.REPLY.hex(),
        "whole": damaged_receipts.WHOLE,
        "damaged": damaged_receipts.DAMAGED,
        "witnesses": [one.key.to_text() for one in damaged_receipts.WITNESSES[:3]],
        "witnessed": damaged_receipts.WITNESSED,
        "unwitnessed": damaged_receipts.UNWITNESSED,
    }


def answer_refusals(request):
    """What the device says of each receipt that the page made of a whole one; nothing where it believes it."""
    keys = tuple(witness.key for witness in damaged_receipts.WITNESSES[:3])
    trust = LogTrust(damaged_receipts.SIGNER.key, keys, threshold=request["threshold"])
    return [_refusal_of(one, trust) for one in request["receipts"]]


def _refusal_of(written, trust):
    message = pb.LogReceipt(
        logged=written["logged"].encode(),
        opening=written["opening"].encode(),
        consistency=[bytes.fromhex(one) for one in written["consistency"]],
    )
    try:
        check_comparison(
            LogReceipt.from_proto(message),
            facts=damaged_receipts.FACTS,
            requester=damaged_receipts.REQUESTER,
            purpose=damaged_receipts.PURPOSE,
            memory=LogMemory(damaged_receipts.memory()),
            trust=trust,
            now=damaged_receipts.NOW,
        )
    except (MalformedMessageError, ProofError) as error:
        return type(error).__name__
    return None


def answer_reads(request):
    """Which of these notes are signed checkpoints, and which of these texts are keys; of what kind, and by whom."""
    return {"notes": [_note(text) for text in request["notes"]], "keys": [_key(text) for text in request["keys"]]}


def _note(text):
    try:
        checkpoint = SignedCheckpoint.from_bytes(text.encode()).checkpoint
    except MalformedMessageError:
        return None
    return [checkpoint.origin, checkpoint.head.size, checkpoint.head.root.hex()]


def _key(text):
    try:
        key = VerifierKey.from_text(text)
    except MalformedMessageError:
        return None
    return [key.name, int(key.kind)]


def answer_assertion(request):
    """An assertion as the service signs it, at any rate and after any audit."""
    position = LogPosition("example.org/log", 7, 9, bytes(range(32)))
    return Assertion(
        issuer="https://matching.example",
        audience="example.org",
        subject="5a" * 32,
        purpose="door-access",
        nonce=bytes(range(32)),
        issued_at=NOW,
        expires_at=NOW + 300,
        release_digest=RELEASE_DIGEST,
        rate=StatedRate.from_json(floats(request["rate"], "fmr", "low", "high")),
        audited=Audited.from_json(floats(request["audit"], "fmr_limit", "fnmr_limit")),
        pad=PadLevel(request["pad"]),
        log=position,
        contest="mailto:contest@example.org",
    ).sign(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(request["key"])))


def _fair(release):
    """The release with a threshold that was measured by group."""
    groups = (GroupBound("f", 49, 0, 2352, 9e-4), GroupBound("x", 13, 2, 156, 0.1))
    held = HeldFor(ThresholdFor.WORST_GROUP, 1e-3, 62, groups, (Alike("sex", 1.5, 1.0, 2.0),), "ab" * 32)
    return replace(release, held_for=held, basis=Basis.LABELLED, fmr_people=62, fmr_high=9e-4)


def answer_manifests(_request):
    """Bundles as they are signed, and whom to believe."""
    release, begin = a_release(), NOW - 86_400
    passed = a_bundle(release, begins_at=begin)
    hesitant = a_report(release, VERDICTS[Verdict.INSUFFICIENT])
    trial = a_bundle(release, begins_at=begin, use=Use.TRIAL, report=hesitant)
    failed = a_bundle(release, begins_at=begin, report=a_report(release, VERDICTS[Verdict.FAIL]))
    measured = a_bundle(release, begins_at=begin, epsilon_audit=an_attack(0.25))
    above = a_bundle(release, begins_at=begin, report=a_report(release, wolf=wolves(20, 0.0100001)))
    generous = a_bundle(release, begins_at=begin, use=Use.TRIAL, report=a_report(release, wolf=wolves(61, 0.9)))
    hardly = a_bundle(release, begins_at=begin, use=Use.TRIAL, report=a_report(release, wolf=wolves(60, 0.9)))
    masters = a_bundle(release, begins_at=begin, report=a_report(release, wolf=wolves(best=(1500, 0.0101, 0.6))))
    unknown = a_bundle(release, begins_at=begin, use=Use.TRIAL, report=a_report(release, wolf=None))
    nobody = replace(release, privacy=PrivacyStatement.nobody("person", "add_or_remove_one"), basis=Basis.PUBLIC)
    evaluated = a_bundle(release, begins_at=begin, evaluation=an_evaluation(release))
    made = passed.signed_by(Role.MAKER, MAKER)
    foreign = made.signed_by(Role.AUDITOR, STRANGER)
    bundles = {
        "good": signed(passed),
        "measured": signed(measured),
        "asks nobody": signed(a_bundle(nobody, begins_at=begin)),
        "evaluated": signed(evaluated),
        "by group": signed(a_bundle(_fair(release), begins_at=begin)),
        "at ten times": signed(a_bundle(release, begins_at=begin, report=a_report(release, wolf=wolves(20, 0.01)))),
        "above ten times": signed(above),
        "not measured": signed(a_bundle(release, begins_at=begin, report=a_report(release, wolf=None))),
        "generous trial": signed(generous),
        "trial that cannot tell": signed(hardly),
        "a master image": signed(masters),
        "trial not measured": signed(unknown),
        "trial": signed(trial),
        "failed": signed(failed),
        "unsigned": passed,
        "maker-only": passed.signed_by(Role.MAKER, MAKER),
        "another-auditor": foreign,
        "audited by a maker": made.signed_by(Role.AUDITOR, OTHER_MAKER),
        "made by an auditor": signed(passed).signed_by(Role.MAKER, OTHER_AUDITOR),
    }
    return {
        "now": NOW,
        "ends_at": passed.manifest.ends_at,
        "digest": release.digest,
        "trust": json.loads(TRUST.to_bytes()),
        "manifests": {name: bundle.signed.to_bytes().decode() for name, bundle in bundles.items()},
    }


def answer_rules(_request):
    """Rules files for one deployment, and what `federation.rules.policy` says about each."""
    begin, year = NOW - 86_400, 365 * 86_400
    rule = PurposeRule(PURPOSE, Category.PHYSICAL_ACCESS, Tier.MINIMAL, begin, begin + year)
    pack = lambda place, version, *rules: PolicyPack(place, version, begin, begin + year, rules)  # noqa: E731 - short
    registered = Deployment(
        "trial", "Example Office Ltd", "mailto:privacy@example.org", AUDIENCE, (PURPOSE,), ("DE", "EU"),
        (RELEASE_DIGEST,), begin, begin + year,
    )  # fmt: skip
    stop = lambda **scope: Moratorium(  # noqa: E731 - short
        "pause",
        NOW - 9,
        **{"jurisdictions": (), "audiences": (), "categories": ()} | scope,
        reason="its errors were found to be unfair",
    )
    reason = "for the days of the move only"
    exception = PolicyException("move", "DE", AUDIENCE, replace(rule, ends_at=begin + 80 * 86_400), reason)
    base = [pack("DE", 1, rule), pack("EU", 1, rule), registered]
    files = {
        "allowed": base,
        "unregistered": base[:2],
        "not in force": [*base[:2], replace(registered, ends_at=NOW)],
        "another release": [*base[:2], replace(registered, release_digests=(bytes(32),))],
        "another audience": [*base[:2], replace(registered, audience="elsewhere.example")],
        "without a policy": base[1:],
        "banned by a later pack": [*base, pack("EU", 2)],
        "excepted from a ban": [*base, pack("DE", 2), exception],
        "excepted from a ban for somebody else": [*base, pack("DE", 2), replace(exception, audience="other.example")],
        "of a tier that the release is too weak for": [
            *base[:1], pack("EU", 1, replace(rule, tier=Tier.HIGH)), registered
        ],
        **{
            f"asking for pad {level.value}": [
                *base[:1], pack("EU", 1, replace(rule, pad=level)), registered,
                Kiosk("hall", "trial", bytes(32), "entrance hall", begin, begin + 86_400),
            ]
            for level in PadLevel
        },
        "stopped": [*base, stop()],
        "stopped in the EU": [*base, stop(jurisdictions=("EU",))],
        "stopped in France": [*base, stop(jurisdictions=("FR",))],
        "stopped for payments": [*base, stop(categories=("payment",))],
        "stopped later": [*base, replace(stop(), begins_at=NOW + 9)],
        "stopped and lifted": [*base, stop(), Lifting("pause", NOW - 1, "the fault was found and mended")],
    }  # fmt: skip
    for place, other in (("DE", "EU"), ("EU", "DE")):  # one of two places says something else, whichever it is
        said = lambda *rules, version=1, at=place: [pack(at, version, *rules)]  # noqa: E731 - short
        sign_in = replace(rule, category=Category.SIGN_IN, tier=Tier.LIMITED)
        both = [pack(other, 1, rule), registered]
        there, elsewhere = (replace(exception, jurisdiction=at) for at in (place, other))
        files |= {
            f"not allowed in {place}": [*said(), *both],
            f"of another purpose in {place}": [*said(replace(rule, purpose="canteen")), *both],
            f"over in {place}": [*said(replace(rule, ends_at=NOW)), *both],
            f"about to begin in {place}": [*said(replace(rule, begins_at=NOW + 1)), *both],
            f"excepted where it is banned, in {place}": [*said(), *both, there],
            f"excepted where it is allowed, not in {place}": [*said(), *both, elsewhere],
            f"a sign-in in {place}": [*said(sign_in), *both],
            f"a sign-in in {place}, where sign-ins are stopped": [*said(sign_in), *both, stop(categories=("sign-in",))],
            f"a sign-in in {place}, where doors are stopped": [
                *said(sign_in), *both, stop(categories=("physical-access",))
            ],
            f"a sign-in in {place}, where payments are stopped": [*said(sign_in), *both, stop(categories=("payment",))],
            f"of a tier that the release is too weak for in {place}": [*said(replace(rule, tier=Tier.HIGH)), *both],
            f"stopped in {place}": [*base, stop(jurisdictions=(place,))],
            f"stopped in {place} for somebody else": [
                *base, stop(jurisdictions=(place,), audiences=("elsewhere.example",))
            ],
            f"stopped in {place} for two, one of them this one": [
                *base, stop(jurisdictions=(place,), audiences=tuple(sorted((AUDIENCE, "elsewhere.example"))))
            ],
            f"banned by the newest of three packs in {place}": [
                *said(rule, version=2), *base, *said(version=3)
            ],
            f"allowed by the newest of three packs in {place}": [
                *said(version=2), *base, *said(rule, version=3)
            ],
        }  # fmt: skip
    release = Standing(1e-3, PASSED, begin, begin + year)
    binding = Binding(bytes(32), bytes(32), bytes(32), RELEASE_DIGEST)

    def verdict(rules, audience=AUDIENCE, pad=PadLevel.NONE):
        request = Request("trial", audience, PURPOSE, binding)
        book = Rulebook.read(signers, rules, read_at=NOW)
        said = decide(request, consent=None, attempts=Attempts(), rules=book, release=release, pad=pad, now=NOW)
        return said.reason.value

    client = Client(
        "trial", "shop.example", 1, "Example Shop Ltd", (PURPOSE,), ("https://shop.example/back",),
        SigningAlgorithm.ES256, begin, begin + year,
    )  # fmt: skip
    closed = replace(client, version=2, purposes=())
    sites = {
        "registered": [*base, client],
        "with a secret": [*base, replace(client, secret_digest=bytes(32), algorithm=SigningAlgorithm.EDDSA)],
        "with a key": [*base, replace(client, key=bytes(64), redirect_uris=("http://localhost:8000/a?b=c",))],
        "unregistered": base,
        "another": [*base, replace(client, identifier="other.example")],
        "of another deployment": [*base, replace(client, deployment="another")],
        "for nothing": [*base, replace(client, purposes=())],
        "for another purpose": [*base, replace(client, purposes=("account-sign-in",))],
        "closed": [*base, client, closed],
        "to be closed": [*base, client, replace(closed, begins_at=NOW + 9)],
        "over": [*base, replace(client, ends_at=NOW)],
        "not yet": [*base, replace(client, begins_at=NOW + 9)],
        "stopped": [*base, client, stop(audiences=("shop.example",))],
        "stopped with its deployment": [*base, client, stop(audiences=(AUDIENCE,))],
        "beside one that is stopped": [*base, client, stop(audiences=("other.example",))],
    }
    signers = RuleSigners(frozenset(map(public, (MAKER, AUDITOR))), threshold=2)
    of_sites = {name: [by(one, MAKER, AUDITOR) for one in rules] for name, rules in sites.items()}
    lines = {name: [by(one, MAKER, AUDITOR) for one in rules] for name, rules in files.items()}
    bad = {
        "signed once": [by(base[0], MAKER), *lines["allowed"][1:]],
        "signed by a stranger": [by(base[0], MAKER, STRANGER), *lines["allowed"][1:]],
        "edited": [*lines["allowed"], by(pack("DE", 1), MAKER, AUDITOR)],
        "signed wrongly by the first": [_signed_wrongly(base[0], 0), *lines["allowed"][1:]],
        "signed wrongly by the second": [_signed_wrongly(base[0], 1), *lines["allowed"][1:]],
        "signed by a stranger too": [by(base[0], MAKER, AUDITOR, STRANGER), *lines["allowed"][1:]],
        "signed wrongly by one who is not needed": [*lines["allowed"], _signed_wrongly(stop(), 1)],
        "lifting nothing": [
            *lines["allowed"],
            by(Lifting("pause", NOW - 1, "the fault was found and mended"), MAKER, AUDITOR),
        ],
    }
    text = lambda entries, of=signers: b"\n".join([of.to_bytes(), *entries]).decode() + "\n"  # noqa: E731 - short
    all_three = (MAKER, AUDITOR, STRANGER)
    any_one, each = (RuleSigners(frozenset(map(public, all_three)), threshold=number) for number in (1, 3))
    lifting = Lifting("pause", NOW - 1, "the fault was found and mended")
    excepted = {
        f"{what} by {count} where {number} sign packs": text(
            [by(stop(), MAKER), *(by(one, *all_three[:number]) for one in base), by(entry, *all_three[:count])], of
        )
        for number, of in ((1, any_one), (3, each))
        for what, entry in (("excepted", exception), ("lifted", lifting))
        for count in (1, 2, 3)
    }
    return {
        "now": NOW,
        "release": RELEASE_DIGEST.hex(),
        "files": {name: [text(rules), verdict(rules)] for name, rules in lines.items()},
        "sites": {name: [text(rules), verdict(rules, "shop.example")] for name, rules in of_sites.items()},
        "looked": {name: verdict(rules, pad=PadLevel.ON_DEVICE) for name, rules in lines.items()},
        "bad": {name: text(rules) for name, rules in bad.items()},
        "excepted": {name: [one, _is_read(one)] for name, one in excepted.items()},
        "following": _following(registered, signers),
    }


def _following(one, signers):
    """A rules file of deployments that differ in all that matters to whoever leaves one, and where one may go."""
    every = itertools.product(
        (one.operator, "Elsewhere Ltd"),
        (one.audience, "elsewhere.example"),
        (("DE", "EU"), ("DE", "EU", "FR"), ("EU", "FR")),
        (one.begins_at, one.begins_at + 1),
    )
    rules = [
        replace(one, identifier=f"d-{i}", operator=operator, audience=audience, jurisdictions=places, begins_at=begins)
        for i, (operator, audience, places, begins) in enumerate(every)
    ]
    entries = [by(rule, MAKER, AUDITOR) for rule in rules]
    book = Rulebook.read(signers, entries, read_at=NOW)
    ways = {rule.identifier: [to.identifier for to in book.followers(rule.identifier)] for rule in rules}
    return [b"\n".join([signers.to_bytes(), *entries]).decode() + "\n", ways]


def _is_read(file):
    """Whether Python reads a file of rules."""
    first, *entries = file.strip().encode().split(b"\n")
    try:
        Rulebook.read(RuleSigners.from_bytes(first), entries, read_at=NOW)
    except ProofError:
        return False
    return True


def _signed_wrongly(rule, which):
    """Two signatures in order of their keys, one of which is of another rule."""
    entry, other = (SignedRule.from_bytes(by(one, MAKER, AUDITOR)) for one in (rule, ANOTHER_RULE))
    pairs = list(entry.signatures)
    pairs[which] = other.signatures[which]
    return SignedRule(rule, tuple(pairs)).to_bytes()


def by(rule, *keys):
    """A rule with signatures."""
    entry = SignedRule(rule)
    for key in keys:
        entry = entry.signed_by(key)
    return entry.to_bytes()


def answer_edges(request):
    """Documents of a kind at the edges of what is allowed: name, text, and whether Python takes it."""
    return edges.edges(request["kind"])


def answer_heads(request):
    """Made-up films with the judgement of each look; see `tests.web.heads`."""
    return films(request["count"])


def answer_seen(request):
    """What is seen in drawings, cut out of them and made of what a network says; see `tests.web.seen`."""
    return {name: getattr(seen, name)(request) for name in ("seen", "cuts", "aligned", "merged")}


def answer_login_request(request):
    """The nonce of a login request, and its canonical form."""
    read = LoginRequest.from_bytes(request.encode())
    return {"nonce": read.audience_nonce.hex(), "text": read.to_bytes().decode()}


def answer_canonical(values):
    """The canonical form of each value."""
    return [canonical_bytes(value).decode() for value in values]


def answer_wordings(_request):
    """What assertions say of rates, audits and levels: the numbers at the edges of how they are written."""
    rates = (1e-9, 9.99e-9, 1e-8, 1.5e-8, 9.99e-6, 1e-5, 1e-4, 0.00123, 0.01, 0.29, 0.5, 0.999)
    stated = [StatedRate(rate, rate / 3, min(1.0, 2 * rate), basis, 1) for rate in rates for basis in Basis]
    limits = ((1e-8, 1e-6), (0.001, 0.05), (1.0, 1.0))
    audited = [
        Audited(verdict, people, *limit, is_trial=is_trial)
        for verdict in Verdict
        for people in (0, 1, 812)
        for limit in limits
        for is_trial in (False, True)
    ]
    good = GOOD["an assertion"]
    said = [replace(good, rate=rate) for rate in stated]
    said += [replace(good, audited=one, pad=pad) for one in audited for pad in PadLevel]
    return [
        {
            "rate": one.rate.to_json(),
            "audited": {
                "verdict": one.audited.verdict.value,
                "people": one.audited.people,
                "fmrLimit": one.audited.fmr_limit,
                "fnmrLimit": one.audited.fnmr_limit,
                "isTrial": one.audited.is_trial,
            },
            "pad": one.pad.value,
            "isPassed": one.audited.is_passed,
            "wording": one.wording,
        }
        for one in said
    ]


def answer_red_line_names(_request):
    """Every stem and every word that crosses a red line, alone and in a name; and some that cross none."""
    names = [name for names in (*_STEMS.values(), *_WORDS.values()) for name in sorted(names)]
    names += [changed for name in names for changed in (f"x{name}y", f"a-{name}-b", f"a.{name}", name[:-1])]
    return [[name, line and line.value] for name, line in zip(names, map(red_line_of, names), strict=True)]


def answer_red_lines(names):
    """The red line that each name crosses."""
    return [line and line.value for line in map(red_line_of, names)]


def _photograph(image, kind):
    """A file of an image; a JPEG as of a camera that was held upright, whose pixels lie on their side."""
    if kind == "PNG":
        return _file(image, kind)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    written = io.BytesIO()
    image.convert("RGB").transpose(Image.Transpose.ROTATE_90).save(written, kind, quality=90, exif=exif)
    return written.getvalue()


def _file(image, kind):
    written = io.BytesIO()
    image.save(written, kind)
    return written.getvalue()


def main():
    """Answers until nobody asks any more. What a task raises is answered too: tests may expect it."""
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"answer": globals()[f"answer_{asked['task']}"](asked["request"])}
        except Exception as error:  # noqa: BLE001 - the test that asked shall fail, not the next one
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
