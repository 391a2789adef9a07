"""Guards that no table of values reaches: each refuses what it is for, and takes what is one step before it."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client.log.tiles import _unzipped
from client.rights.logged import Done, check_done, check_revoked
from federation.audit.attacks import AttackLevel, Presentations
from federation.audit.cells import Estimate, Rate
from federation.audit.comparisons import Comparisons, Sides
from federation.audit.intervals import clopper_pearson
from federation.audit.report import MOST_REPORT_BYTES, AuditReport
from federation.audit.wolf import WolfRates
from federation.consent.receipts import Terms
from federation.errors import IntaglioError, MalformedMessageError, PeerError, ProofError, UsageError
from federation.identity import IDENTITY_BYTES, IDENTITY_SIGNATURE_BYTES
from federation.membership.joining import _node_key
from federation.membership.renewal import Rekeying
from federation.names import are_names
from federation.onebit import Decision
from federation.onebit.code import CodeSeed, binary_code
from federation.onebit.wire import check_probe, check_template
from federation.privacy.charges import application_digest
from federation.privacy.gaussian import mu_of_epsilon
from federation.privacy.ledger import LedgerChain
from federation.transparency import LoggedEntry, Opening, PersonalEntry, PersonalKind, inclusion_proof
from federation.wire import status
from federation.wire.convert import LoggedReply, RecordedDecision
from federation.wire.devices import devices_in
from federation.wire.logged import LogReceipt
from federation.wire.owner import MOST_RECORD_BYTES, ExportPage
from tests.agreeing import DEVICE
from tests.transparency_log import NOW, TRUST, MemoryLog, an_opening
from tests.values import GOOD

KEY_ID, OTHER = bytes(range(32)), bytes(range(1, 33))
CODES = np.array([0, 1, 1], np.int32)
SIDES = Sides(("a", "b"), CODES, CODES[::-1].copy())
SEED = CodeSeed(bytes(32))
RECEIPT = LogReceipt(GOOD["a logged entry"], an_opening(3))
SHOWN = Presentations(
    np.zeros(3), np.zeros(3, bool), (("mask", "print"), np.array([0, 1, -1])), (AttackLevel.A, AttackLevel.B), SIDES
)
COMPARED = Comparisons(np.zeros(3), np.array([True, False, True]), {"sex": SIDES})
OPENED = LedgerChain((LedgerChain().next_open("people", epsilon=8.0, delta=1e-5),))
LISTED = {"key_id": KEY_ID.hex(), "enrolled_at": NOW}
TERMS_FILE = json.dumps(asdict(GOOD["terms"])).encode()
PROOF = GOOD["a logged entry"].to_bytes()
PROOF_CUT = PROOF.replace(PROOF.split(b"\n")[3], base64.b64encode(bytes(31)))


NODE_KEYS = [
    key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    for key in (ec.generate_private_key(ec.SECP384R1()), DEVICE, ec.generate_private_key(ec.SECP256R1()))
]

LATTICE_BYTES = IDENTITY_BYTES - 32
IDENTITIES = (bytes(IDENTITY_BYTES), b"o" * 32 + bytes(LATTICE_BYTES), bytes(32) + b"o" * LATTICE_BYTES)


def rekeyed(new):
    """New keys of an organisation whose old identity is all o."""
    request = SimpleNamespace(request=SimpleNamespace(organisation_key=new))
    return Rekeying(b"o" * IDENTITY_BYTES, request, bytes(IDENTITY_SIGNATURE_BYTES))


def a_reply(size):
    return LoggedReply(bytes(size), RECEIPT)


def decided(decision=Decision.MATCH, assertion=None, deeds=()):
    return RecordedDecision(decision, assertion, deeds)


GUARDS = {
    "an estimate that is not finite": (Estimate, 0.5, float("nan"), "finite or None"),
    "a lower bound that is not finite": (lambda x: Estimate(0.5, x, 0.9), 0.1, float("-inf"), "finite or None"),
    "an upper bound that is not finite": (lambda x: Estimate(0.5, 0.1, x), 0.9, float("inf"), "finite or None"),
    "more errors than trials": (lambda x: clopper_pearson(x, 10, 0.95), 10, 11, "errors lie between"),
    "fewer errors than none": (lambda x: clopper_pearson(x, 10, 0.95), 0, -1, "errors lie between"),
    "a score too few": (lambda n: replace(SHOWN, scores=np.zeros(n)), 3, 2, "one entry for each presentation"),
    "an answer too few": (lambda n: replace(SHOWN, refused=np.zeros(n, bool)), 3, 2, "one entry for each presentation"),
    "a level too few": (lambda n: replace(SHOWN, levels=(AttackLevel.A,) * n), 2, 1, "each has a level"),
    "species out of order": (
        lambda two: replace(SHOWN, species=(two, SHOWN.species[1])),
        ("a", "b"),
        ("b", "a"),
        "order",
    ),
    "a species beyond them": (
        lambda n: replace(SHOWN, species=(("a", "b"), np.array([0, -1, n]))),
        1,
        2,
        "named, or none",
    ),
    "a species before none": (
        lambda n: replace(SHOWN, species=(("a", "b"), np.array([0, 1, n]))),
        -1,
        -2,
        "named, or none",
    ),
    "nobody's face": (
        lambda n: replace(SHOWN, people=Sides(("a", "b"), np.array([0, 1, n]), CODES)),
        0,
        -1,
        "somebody's face",
    ),
    "a side too short": (lambda n: Sides(("a", "b"), CODES, CODES[:n]), 3, 2, "arrays of one length"),
    "a code beyond the names": (lambda n: Sides(("a", "b"), CODES, np.array([0, 1, n])), 1, 2, "position in the names"),
    "a code before none": (lambda n: Sides(("a", "b"), np.array([n, 1, 0]), CODES), -1, -2, "position in the names"),
    "answers of another kind": (lambda kind: replace(COMPARED, same=np.ones(3, kind)), bool, np.int8, "true and false"),
    "failures of another kind": (
        lambda kind: replace(COMPARED, failed=np.zeros(3, kind)),
        bool,
        float,
        "true and false",
    ),
    "a failure too few": (lambda n: replace(COMPARED, failed=np.zeros(n, bool)), 3, 2, "one entry for each comparison"),
    "an attribute too short": (
        lambda n: replace(COMPARED, attributes={"sex": SIDES, "age": Sides((), CODES[:n] * 0 - 1, CODES[:n] * 0 - 1)}),
        3,
        2,
        "one entry for each comparison",
    ),
    "no attribute": (lambda some: replace(COMPARED, attributes=some), {"sex": SIDES}, {}, "at least one attribute"),
    "names that are numbers": (are_names, np.array(["a"]), np.array([1]), "an array of text"),
    "a vector of several": (
        lambda v: binary_code(v, SEED, 1024),
        np.ones(64),
        np.ones((1, 64)),
        "a code needs one vector",
    ),
    "a vector longer than its code": (
        lambda n: binary_code(np.ones(n), SEED, 1024),
        1024,
        1025,
        "a code needs one vector",
    ),
    "an embedding of zeros": (lambda v: binary_code(v, SEED, 1024), np.eye(64)[0], np.zeros(64), "zero or not finite"),
    "an embedding that is not finite": (
        lambda x: binary_code(np.array([x, *range(63)], float), SEED, 1024),
        1.0,
        float("inf"),
        "zero or not finite",
    ),
    "an epsilon of nothing": (lambda x: mu_of_epsilon(x, 1e-5), 1.0, 0.0, "noise that is out of range"),
    "a delta of one": (lambda x: mu_of_epsilon(1.0, x), 1e-5, 1.0, "noise that is out of range"),
    "a budget of nobody": (
        lambda who: OPENED.next_open(who, epsilon=8.0, delta=1e-5),
        "others",
        "",
        "needs a population",
    ),
    "a budget of nothing": (lambda x: OPENED.next_open("others", epsilon=x, delta=1e-5), 1e-9, 0.0, "an epsilon in"),
    "a budget beyond all": (lambda x: OPENED.next_open("others", epsilon=x, delta=1e-5), 64.0, 64.1, "an epsilon in"),
    "a budget at no delta": (lambda x: OPENED.next_open("others", epsilon=8.0, delta=x), 1e-9, 0.0, "a delta in"),
    "a budget at delta one": (lambda x: OPENED.next_open("others", epsilon=8.0, delta=x), 0.9, 1.0, "a delta in"),
    "a charge of who has no budget": (
        lambda who: OPENED.next_reserve(who, "run", (9.0,)),
        "people",
        "others",
        "no budget",
    ),
    "a charge for nothing": (
        lambda some: OPENED.next_reserve("people", "run", some),
        (9.0,),
        (),
        "noise multiplier of every",
    ),
    "a charge without noise": (
        lambda x: OPENED.next_reserve("people", "run", (9.0, x)),
        9.0,
        0.0,
        "noise multiplier of every",
    ),
    "a charge of endless noise": (
        lambda x: OPENED.next_reserve("people", "run", (9.0, x)),
        9.0,
        float("inf"),
        "noise multiplier of every",
    ),
    "a reply of nothing": (a_reply, 1, 0, "a reply has 1 to"),
    "a reply beyond its length": (a_reply, 256 * 1024, 256 * 1024 + 1, "a reply has 1 to"),
    "three deeds": (lambda n: decided(deeds=(RECEIPT,) * n), 2, 3, "at most 2 things"),
    "a deed of no match": (
        lambda what: decided(what, deeds=(RECEIPT,)),
        Decision.MATCH,
        Decision.NON_MATCH,
        "only a match",
    ),
    "an assertion of no match": (
        lambda what: decided(what, "a.b.c"),
        Decision.MATCH,
        Decision.NON_MATCH,
        "only a match has",
    ),
    "an assertion of nothing": (lambda text: decided(assertion=text), "a", "", "1 to 4096 ASCII"),
    "an assertion beyond its length": (lambda n: decided(assertion="a" * n), 4096, 4097, "1 to 4096 ASCII"),
    "an assertion in other letters": (lambda text: decided(assertion=text), "a", "\u00e4", "1 to 4096 ASCII"),
    "a growth of too many hashes": (
        lambda n: replace(RECEIPT, consistency=(bytes(32),) * n),
        63,
        64,
        "at most 63 hashes",
    ),
    "a hash that is too short": (lambda n: replace(RECEIPT, consistency=(bytes(32), bytes(n))), 32, 31, "32 bytes"),
    "a record beyond its length": (
        lambda n: ExportPage(bytes(n), (), {}, 0),
        MOST_RECORD_BYTES,
        MOST_RECORD_BYTES + 1,
        "a record has at most",
    ),
    "a report beyond its length": (
        AuditReport.from_bytes,
        GOOD["an audit report"].to_bytes(),
        b" " * (MOST_REPORT_BYTES + 1),
        "a report has at most",
    ),
    "a device without a time": (
        lambda time: devices_in({"devices": [{**LISTED, "enrolled_at": time}]}),
        NOW,
        True,
        "have key ids, times",
    ),
    "a device with half a key": (
        lambda key: devices_in({"devices": [LISTED, {**LISTED, "key_id": key}]}),
        OTHER.hex(),
        OTHER[:31].hex(),
        "32 bytes",
    ),
    "a device that is listed twice": (
        lambda key: devices_in({"devices": [LISTED, {**LISTED, "key_id": key.hex()}]}),
        OTHER,
        KEY_ID,
        "listed twice",
    ),
    "a device of no kind": (lambda one: devices_in({"devices": [one]}), LISTED, [], "have key ids, times"),
    "a template of three bytes": (check_template, GOOD["a change"].template, b"abc", "not a message of this version"),
    "a probe of nothing": (check_probe, GOOD["a probe"].probe, b"", "not a message of this version"),
    "terms that are a list": (Terms.from_file, TERMS_FILE, b"[]", "these are no terms"),
    "terms that are no JSON": (Terms.from_file, TERMS_FILE, b"{", "these are no terms"),
    "terms without a field": (
        Terms.from_file,
        TERMS_FILE,
        TERMS_FILE.replace(b'"contest"', b'"other"'),
        "missing or unknown",
    ),
    "terms of an empty party": (Terms.from_file, TERMS_FILE, TERMS_FILE.replace(b'"Beispiel GmbH"', b'""'), "no terms"),
    "a proof of short hashes": (LoggedEntry.from_bytes, PROOF, PROOF_CUT, "32 bytes"),
    "a proof beyond its tree": (
        LoggedEntry.from_bytes,
        PROOF,
        PROOF.replace(b"index 3", b"index 10"),
        "does not reach",
    ),
    "a part of a log that is no gzip": (
        lambda data: _unzipped(data, "tile", 9),
        gzip.compress(b"hashes"),
        b"no",
        "is not",
    ),
    "a part of a log that unzips beyond its length": (
        lambda data: _unzipped(gzip.compress(data), "tile", 9),
        bytes(9),
        bytes(10),
        "longer than 9 bytes",
    ),
    "a node key of Ed25519": (_node_key, NODE_KEYS[0], NODE_KEYS[1], "on the curve NIST P-384"),
    "a node key on another curve": (_node_key, NODE_KEYS[0], NODE_KEYS[2], "on the curve NIST P-384"),
    "a node key of letters": (_node_key, NODE_KEYS[0], NODE_KEYS[0][:-9], "in OpenSSH's encoding"),
    "new keys that keep the first": (
        rekeyed,
        bytes(IDENTITY_BYTES),
        b"o" * 32 + bytes(IDENTITY_BYTES - 32),
        "new, both",
    ),
    "new keys that keep the second": (
        rekeyed,
        bytes(IDENTITY_BYTES),
        bytes(32) + b"o" * (IDENTITY_BYTES - 32),
        "new, both",
    ),
}
"""What is built, of what it can be built, of what not, and the words of the refusal."""


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_refuses_what_it_is_for_and_takes_what_is_before_it(name):
    build, good, bad, words = GUARDS[name]
    build(good)
    with pytest.raises(IntaglioError, match=words) as caught:
        build(bad)
    is_read = getattr(build, "__name__", "") == "from_bytes"
    assert isinstance(caught.value, MalformedMessageError if is_read else UsageError | PeerError)


def logged(*openings):
    """Receipts of entries about a template, in a log of the others."""
    leaves = [PersonalEntry(one.kind, NOW, one.commitment).to_bytes() for one in openings]
    log = MemoryLog([*MemoryLog().leaves, *leaves])
    return [LogReceipt(log.logged(10 + place), one) for place, one in enumerate(openings)]


REVOKED = Opening(PersonalKind.REVOCATION, {"key_id": KEY_ID.hex(), "request": "ab"}, bytes(32))
RENEWED = Opening(PersonalKind.RENEWAL, {"key_id": KEY_ID.hex(), "receipt": "cd"}, bytes(range(32)))
DONE = (Done(PersonalKind.REVOCATION, REVOKED.reveal()), Done(PersonalKind.RENEWAL, RENEWED.reveal()))


def test_what_was_asked_for_is_done_when_the_log_has_all_of_it_in_its_order():
    receipts = logged(REVOKED, RENEWED)
    memory = check_done(receipts, DONE, memory=None, trust=TRUST, now=NOW)
    assert memory.checkpoint.head.size == 12
    assert check_done((), (), memory=memory, trust=TRUST, now=NOW) is memory
    for fewer in (receipts[:1], receipts[1:], []):
        with pytest.raises(PeerError, match=f"shows {len(fewer)} entries of the log for 2 things"):
            check_done(fewer, DONE, memory=None, trust=TRUST, now=NOW)
    with pytest.raises(PeerError, match="shows 2 entries of the log for 1 things"):
        check_done(receipts, DONE[:1], memory=None, trust=TRUST, now=NOW)
    with pytest.raises(ProofError, match="not about the revocation that this device asked for"):
        check_done(receipts[::-1], DONE, memory=None, trust=TRUST, now=NOW)


@pytest.mark.parametrize("place", [0, 1])
def test_each_thing_that_was_asked_for_is_compared_in_kind_and_in_every_fact(place):
    receipts = logged(REVOKED, RENEWED)
    other = [Done(DONE[place].kind, dict(DONE[place].facts) | {name: "ef"}) for name in DONE[place].facts]
    other += [
        Done(PersonalKind.ADMISSION, DONE[place].facts),
        Done(DONE[place].kind, dict(DONE[place].facts) | {"more": 1}),
    ]
    for wrong in other:
        expected = [*DONE[:place], wrong, *DONE[place + 1 :]]
        with pytest.raises(ProofError, match=f"not about the {wrong.kind.value} that this device asked for"):
            check_done(receipts, expected, memory=None, trust=TRUST, now=NOW)
    swapped = [replace(one, opening=receipts[1 - i].opening) if i == place else one for i, one in enumerate(receipts)]
    with pytest.raises(ProofError, match="opening"):
        check_done(swapped, DONE, memory=None, trust=TRUST, now=NOW)


def test_a_template_is_revoked_when_the_log_says_so_of_this_very_one():
    revoked, renewed = logged(REVOKED, RENEWED)
    assert check_revoked(revoked, key_id=KEY_ID, memory=None, trust=TRUST, now=NOW).checkpoint.head.size == 12
    for wrong, key_id in ((revoked, OTHER), (renewed, KEY_ID)):
        with pytest.raises(ProofError, match="not about the revocation of this template"):
            check_revoked(wrong, key_id=key_id, memory=None, trust=TRUST, now=NOW)
    elsewhere = replace(
        revoked,
        logged=LoggedEntry(
            revoked.logged.entry,
            9,
            inclusion_proof(9, 12, MemoryLog([*MemoryLog().leaves, b"a", b"b"]).nodes),
            revoked.logged.checkpoint,
        ),
    )
    with pytest.raises(ProofError, match="is not in this tree"):
        check_revoked(elsewhere, key_id=KEY_ID, memory=None, trust=TRUST, now=NOW)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("0", 0),
        ("2.5", 2.5),
        ("86400", 86_400),
        ("86401", 1),
        ("-0.001", 1),
        ("nan", 1),
        ("inf", 1),
        ("soon", 1),
        (None, 1),
    ],
)
def test_what_a_server_writes_about_waiting_is_believed_up_to_a_day(written, seconds):
    class Call:
        def code(self):
            return grpc.StatusCode.UNAVAILABLE

        def details(self):
            return "come again"

        def trailing_metadata(self):
            return (("other", "9"), *([(status.RETRY_AFTER_KEY, written)] if written is not None else []))

    assert status.error_from_call(Call()).retry_after_seconds == seconds


@pytest.mark.parametrize("package", ["client", "federation"])
def test_every_file_of_an_application_is_in_its_digest(tmp_path, package):
    files = [tmp_path / top / name for top in ("client", "federation") for name in ("a.py", "deep/b.py")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("pass\n")

    def digest():
        application_digest.cache_clear()
        return application_digest(tmp_path)

    known = [digest()]
    for file in (one for one in files if package in one.parts):
        file.write_text("pass  # more\n")
        known.append(digest())
        known.append(file.rename(file.with_name(f"z{file.name}")) and digest())
    (tmp_path / package / "read.txt").write_text("no code")
    assert digest() == known[-1]
    assert len(set(known)) == len(known)
    application_digest.cache_clear()


def test_a_rate_of_a_fixed_string_that_is_next_to_nothing_is_shown_as_nothing():
    little = Rate(9, 1_000_000, 4.0, 0.0, 9.99e-6)
    shown = WolfRates(little, replace(little, high=1e-5), 4).text
    assert shown.startswith("0 % (0 to 0) by the domain's mean, 0 % (0 to 0.001) by the best image")


@pytest.mark.parametrize("worst", [0, 1])
def test_the_worst_cell_is_the_one_that_is_furthest_above_its_own_limit(worst):
    """Limits differ by a hundred: a rate of false matches counts against its own, not against the other."""
    report = GOOD["an audit report"]
    rates = [(0.004, 0.11), (0.002, 0.3)]
    cells = [
        replace(cell, fmr=replace(cell.fmr, low=fmr, high=0.9), fnmr=replace(cell.fnmr, low=fnmr, high=0.9))
        for cell, (fmr, fnmr) in zip(report.cells, rates if worst == 0 else rates[::-1], strict=True)
    ]
    assert replace(report, cells=tuple(cells)).worst_cell is cells[worst]
