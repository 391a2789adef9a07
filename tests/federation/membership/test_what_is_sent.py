"""What coordinator and organisation send each other, byte by byte, and what an organisation agrees to, as a whole."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import warnings
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from federation.errors import MalformedMessageError, PeerError, ProofError, UsageError
from federation.identity import IdentityKey, verify_identity
from federation.membership.joining import (
    Invitation,
    JoinRequest,
    LocalPolicy,
    SignedJoinRequest,
    fingerprint,
    invitation_from_text,
    invitation_to_text,
    node_key_line,
    require_authority,
)
from federation.membership.renewal import BEFORE_ALL, Notice, Rekeying, notice_from_text, notice_to_text

KEY, OTHER_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))


def a_certificate(name):
    key, subject = Ed25519PrivateKey.generate(), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    begins = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    lasting = builder.not_valid_before(begins).not_valid_after(begins + dt.timedelta(days=9))
    return lasting.sign(key, None).public_bytes(Encoding.PEM).decode()


AUTHORITY, OTHER_AUTHORITY = a_certificate("one"), a_certificate("another")
INVITATION = Invitation(
    federation=b"f" * 16,
    invitation=b"i" * 16,
    name="north",
    address="fed.example.org:8443",
    authority=AUTHORITY,
    coordinator=KEY.public_key().public_bytes_raw(),
    noticed_at=1_900_000_001,
    expires_at=1_900_000_002,
)
NOTICE = Notice(b"f" * 16, "new.example.org:9443", OTHER_AUTHORITY, 1_900_000_003)
NODE, OTHER_NODE = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
IDENTITY, OTHER_IDENTITY, OLD_IDENTITY = IdentityKey.generate(), IdentityKey.generate(), IdentityKey.generate()
REQUEST = JoinRequest(b"i" * 16, b"d" * 32, "north", node_key_line(NODE), IDENTITY.public)
SIGNED = SignedJoinRequest.sign(REQUEST, IDENTITY, NODE)


def written(value):
    """JSON as its standard's canonical form for ASCII has it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def of_line(line, prefix):
    assert line.startswith(prefix)
    data = urlsafe_b64decode(line.removeprefix(prefix))
    return data[:64], data[64:]


# ---------------------------------------------------------------- invitations and notices
LINES = {
    "intaglio-invitation-2:": (
        lambda key: invitation_to_text(INVITATION, key),
        b"intaglio invitation v2\0",
        {
            "federation": "66" * 16,
            "invitation": "69" * 16,
            "name": "north",
            "address": "fed.example.org:8443",
            "authority": AUTHORITY,
            "coordinator": KEY.public_key().public_bytes_raw().hex(),
            "noticed": 1_900_000_001,
            "expires": 1_900_000_002,
        },
        invitation_from_text,
        INVITATION,
        "an invitation",
    ),
    "intaglio-notice-1:": (
        lambda key: notice_to_text(NOTICE, key),
        b"intaglio notice v1\0",
        {
            "federation": "66" * 16,
            "address": "new.example.org:9443",
            "authority": OTHER_AUTHORITY,
            "issued": 1_900_000_003,
        },
        lambda text: notice_from_text(text, INVITATION),
        NOTICE,
        "a notice",
    ),
}
EVERY_LINE = pytest.mark.parametrize(("prefix", "kind"), LINES.items(), ids=LINES)


@EVERY_LINE
def test_a_line_is_its_prefix_and_a_signature_under_its_tag_over_all_of_its_fields(prefix, kind):
    make, tag, fields, read, value, _ = kind
    signature, body = of_line(make(KEY), prefix)
    assert body == written(fields) == value.to_bytes()
    KEY.public_key().verify(signature, tag + body)
    for text in (make(KEY), f" \n{make(KEY)}\n"):
        assert read(text) == value


@EVERY_LINE
def test_a_line_of_another_key_tag_or_kind_is_none(prefix, kind):
    make, tag, fields, read, _, what = kind

    def line(of=None, *, key=KEY, under=tag, begins=prefix):
        body = written(fields | (of or {}))
        return begins + urlsafe_b64encode(key.sign(under + body) + body).decode()

    assert line() == make(KEY)
    for text in (make(OTHER_KEY), line(key=OTHER_KEY), line(under=b"intaglio join request v2\0"), line(under=b"")):
        with pytest.raises(ProofError, match="not that of the key over this statement"):
            read(text)
    (other,) = set(LINES) - {prefix}
    for text in (
        line(begins=""),
        line(begins=other),
        line(begins=prefix.upper()),
        prefix + line(),
        line() + "=",
        prefix,
    ):
        with pytest.raises(MalformedMessageError, match=f"not {what} of this version"):
            read(text)
    for wrong in ({"more": 1}, {"federation": "66" * 15}, {"address": "nowhere"}, {"authority": AUTHORITY + "\n"}):
        with pytest.raises(MalformedMessageError, match=f"not {what} of this version|canonical form"):
            read(line(wrong))


def test_a_notice_is_believed_of_the_coordinator_and_the_federation_of_the_own_invitation():
    text = notice_to_text(NOTICE, KEY)
    with pytest.raises(PeerError, match="another federation of the same coordinator"):
        notice_from_text(text, replace(INVITATION, federation=b"g" * 16))
    with pytest.raises(ProofError, match="not that of the key"):
        notice_from_text(text, replace(INVITATION, coordinator=OTHER_KEY.public_key().public_bytes_raw()))
    assert Notice.of(INVITATION) == Notice(b"f" * 16, "fed.example.org:8443", AUTHORITY, 1_900_000_001)
    assert dt.datetime.fromtimestamp(BEFORE_ALL, dt.UTC) == dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


def test_what_is_read_out_stands_for_each_key_with_its_length():
    def read_out(*keys):
        digest = hashlib.sha256(b"".join(len(key).to_bytes(4, "big") + key for key in keys)).hexdigest()
        return " ".join(digest[at : at + 4] for at in range(0, 40, 4))

    assert fingerprint(b"a", b"bc") == read_out(b"a", b"bc")
    assert INVITATION.coordinator_fingerprint == read_out(INVITATION.coordinator, AUTHORITY.encode())
    assert REQUEST.fingerprint == read_out(IDENTITY.public)
    assert INVITATION.digest == hashlib.sha256(INVITATION.to_bytes()).digest()


@pytest.mark.parametrize(
    ("authority", "said"),
    [
        (AUTHORITY + OTHER_AUTHORITY, "one certificate in PEM, with nothing around it"),
        ("# ours\n" + AUTHORITY, "one certificate in PEM, with nothing around it"),
        (AUTHORITY.rstrip("\n"), "one certificate in PEM, with nothing around it"),
        (AUTHORITY.replace("CERTIFICATE", "X509 CERTIFICATE"), "one certificate in PEM|is a certificate in PEM"),
        ("", "the authority is a certificate in PEM"),
        (AUTHORITY.encode(), "a PEM certificate of at most 8192 characters"),
        (AUTHORITY + "\n" * 8192, "a PEM certificate of at most 8192 characters"),
    ],
    ids=["two", "text before", "no line's end", "another label", "nothing", "bytes", "long"],
)
def test_an_authority_is_one_certificate_as_it_is_written(authority, said):
    require_authority(AUTHORITY)
    for take in (
        require_authority,
        lambda pem: replace(INVITATION, authority=pem),
        lambda pem: replace(NOTICE, authority=pem),
    ):
        with pytest.raises(UsageError, match=said):
            take(authority)


NO_NAME = "an organisation's name is 1 to 32 of a-z"
SPOILED = [
    (INVITATION, "federation", (b"f" * 15, b"f" * 17), "the id of a federation has 16 bytes"),
    (INVITATION, "invitation", (b"i" * 15, b"i" * 17), "the id of an invitation has 16 bytes"),
    (INVITATION, "name", (7, b"north", "", "North", "north-", "-north", "n" * 33, "n/a", "n\n"), NO_NAME),
    (INVITATION, "address", (7, b"host:1"), "an address is text"),
    (INVITATION, "address", ("host", "host:0", ":1", "https://host:1"), "is no address: write HOST:PORT"),
    (INVITATION, "coordinator", (b"k" * 31, b"k" * 33), "the coordinator's key has 32 bytes"),
    (INVITATION, "noticed_at", (0.5, "1", -1), "the last notice before an invitation is a whole number"),
    (INVITATION, "expires_at", (0.5, "1", -1), "the end of an invitation is a whole number"),
    (NOTICE, "federation", (b"f" * 15, b"f" * 17), "the id of a federation has 16 bytes"),
    (NOTICE, "address", (7, b"host:1"), "an address is text"),
    (NOTICE, "address", ("host", "host:0"), "is no address: write HOST:PORT"),
    (NOTICE, "issued_at", (0.5, "1", -1), "the time of a notice is a whole number"),
    (REQUEST, "invitation", (b"i" * 15, b"i" * 17), "the id of an invitation has 16 bytes"),
    (REQUEST, "invitation_digest", (b"d" * 31, b"d" * 33), "the digest of an invitation has 32 bytes"),
    (REQUEST, "name", (7, b"north", "", "North", "n" * 33), NO_NAME),
    (REQUEST, "organisation_key", (IDENTITY.public[:-1], IDENTITY.public + b"k"), "the organisation's key has 1344"),
]


@pytest.mark.parametrize(
    ("good", "field", "wrong", "said"), SPOILED, ids=[f"{type(good).__name__} {field}" for good, field, *_ in SPOILED]
)
def test_each_field_of_what_is_sent_is_of_its_kind_and_length(good, field, wrong, said):
    for value in wrong:
        with pytest.raises(UsageError, match=said):
            replace(good, **{field: value})


@pytest.mark.parametrize("name", ["n", "0", "n" * 32, "a-b", "9-to-5"])
def test_a_name_is_good_with_digits_and_inner_hyphens_to_its_last_letter(name):
    assert replace(INVITATION, name=name).name == replace(REQUEST, name=name).name == name


def test_what_the_library_warns_of_in_an_authority_is_refused_and_the_way_of_warning_stays(monkeypatch):
    def warn(_pem):
        warnings.warn("the serial number is not positive", DeprecationWarning, stacklevel=1)

    before = list(warnings.filters)
    monkeypatch.setattr(x509, "load_pem_x509_certificate", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ignoring = list(warnings.filters)
        with pytest.raises(UsageError, match="the authority is a certificate in PEM"):
            require_authority(AUTHORITY)
        assert list(warnings.filters) == ignoring
    assert list(warnings.filters) == before


# ---------------------------------------------------------------- requests
def test_a_join_request_is_signed_under_its_tag_by_both_keys_over_all_of_its_fields():
    fields = {
        "invitation": "69" * 16,
        "invitation-digest": "64" * 32,
        "name": "north",
        "node-key": node_key_line(NODE),
        "organisation-key": IDENTITY.public.hex(),
    }
    signed = b"intaglio join request v2\0" + written(fields)
    verify_identity(IDENTITY.public, signed, SIGNED.organisation_signature)
    NODE.public_key().verify(SIGNED.node_signature, signed, ec.ECDSA(hashes.SHA384()))
    assert SIGNED.to_bytes() == written(
        {
            "request": written(fields).decode(),
            "organisation-signature": SIGNED.organisation_signature.hex(),
            "node-signature": SIGNED.node_signature.hex(),
        }
    )
    assert SignedJoinRequest.from_bytes(SIGNED.to_bytes()) == SIGNED
    assert load_ssh_public_key(node_key_line(NODE).encode()) == NODE.public_key()


def openssh(key):
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (openssh(ec.generate_private_key(ec.SECP256R1())), "the node key is on the curve NIST P-384"),
        (openssh(ec.generate_private_key(ec.SECP521R1())), "the node key is on the curve NIST P-384"),
        (openssh(KEY), "the node key is on the curve NIST P-384"),
        (node_key_line(NODE) + " north", "one line in OpenSSH's encoding, without a comment"),
        (node_key_line(NODE) + "\n", "one line in OpenSSH's encoding, without a comment"),
        ("ecdsa-sha2-nistp384 AAAA", "a public key in OpenSSH's encoding"),
        ("", "a public key in OpenSSH's encoding"),
    ],
    ids=["P-256", "P-521", "Ed25519", "a comment", "a line's end", "cut", "nothing"],
)
def test_a_node_key_is_one_on_p384_in_one_line(line, said):
    with pytest.raises(UsageError, match=said):
        replace(REQUEST, node_key=line)


def test_new_keys_are_asked_for_by_the_old_ones_over_the_whole_request():
    rekeying = Rekeying.sign(SIGNED, OLD_IDENTITY)
    verify_identity(OLD_IDENTITY.public, b"intaglio rekeying v2\0" + SIGNED.to_bytes(), rekeying.signature)
    assert rekeying.to_bytes() == written(
        {"old": OLD_IDENTITY.public.hex(), "request": SIGNED.to_bytes().decode(), "signature": rekeying.signature.hex()}
    )
    assert Rekeying.from_bytes(rekeying.to_bytes()) == rekeying
    assert (rekeying.old, rekeying.signed) == (OLD_IDENTITY.public, SIGNED)
    others = SignedJoinRequest.sign(replace(REQUEST, organisation_key=OTHER_IDENTITY.public), OTHER_IDENTITY, NODE)
    for wrong in (replace(rekeying, signed=others), replace(rekeying, old=OTHER_IDENTITY.public)):
        with pytest.raises(ProofError, match="the old identity did not sign this rekeying"):
            Rekeying.from_bytes(wrong.to_bytes())
    forged = SignedJoinRequest(REQUEST, SIGNED.organisation_signature, others.node_signature)
    with pytest.raises(ProofError, match="the node key did not sign this join request"):
        Rekeying.from_bytes(Rekeying.sign(forged, OLD_IDENTITY).to_bytes())


# ---------------------------------------------------------------- what an organisation agrees to
POLICY = """
max-epsilon = 4.5
budget-epsilon = 8.25
delta = 2e-6
min-colluders = 3
recipes = ["scales", "evaluation"]
app-hashes = ["{first}", "{second}"]
hours = "08:15-18:45"
""".format(first="ab" * 32, second="cd" * 32)
AGREED = LocalPolicy(
    max_epsilon=4.5,
    budget_epsilon=8.25,
    delta=2e-6,
    min_colluders=3,
    recipes=("scales", "evaluation"),
    app_hashes=frozenset({"ab" * 32, "cd" * 32}),
    opens=8 * 60 + 15,
    closes=18 * 60 + 45,
)


def test_a_policy_file_is_read_to_its_minute_and_to_its_last_application():
    assert LocalPolicy.from_toml(POLICY) == AGREED
    assert [AGREED.allows_app(digit * 32) for digit in ("ab", "cd", "ef")] == [True, True, False]
    asked = ["train", "evaluate", "query"]
    allowed = {
        f"{kind}.{action}"
        for kind in [*asked, "system", "reconnect"]
        for action in ("moments", "scales", "threshold", "evaluation", "shares")
        if AGREED.allows_message(f"{kind}.{action}")
    }
    queries = {f"query.{action}" for action in ("moments", "scales", "threshold", "evaluation", "shares")}
    assert allowed == queries | {"train.scales", "train.evaluation", "evaluate.scales", "evaluate.evaluation"}
    assert [kind for kind in [*asked, "", "scales"] if AGREED.allows_message(kind)] == ["query"]


@pytest.mark.parametrize(
    ("hours", "open_minutes"),
    [
        ("08:15-18:45", set(range(495, 1125))),
        ("22:10-05:50", set(range(1330, 1440)) | set(range(350))),
        ("00:00-23:59", set(range(1439))),
        ("23:59-00:00", {1439}),
        ("07:07-07:07", set(range(1440))),
    ],
)
def test_a_node_is_open_in_exactly_the_minutes_of_every_day_that_its_policy_says(hours, open_minutes):
    policy = LocalPolicy.from_toml(POLICY.replace("08:15-18:45", hours))
    for day in (0, 20_000):
        for second in (0, 59):
            seconds = day * 86_400 + second
            assert {minute for minute in range(1440) if policy.is_open(seconds + 60 * minute)} == open_minutes


@pytest.mark.parametrize(
    ("field", "least", "most", "too_little", "too_much"),
    [
        ("max_epsilon", 1e-9, 100.0, 0.0, 100.1),
        ("budget_epsilon", 1e-9, 64.0, 0.0, 64.1),
        ("delta", 1e-12, 1e-3, 0.9e-12, 1.1e-3),
        ("min_colluders", 0, 10**6, -1, None),
    ],
)
def test_what_an_organisation_agrees_to_is_in_its_range_with_both_ends(field, least, most, too_little, too_much):
    for good in (least, most):
        assert getattr(replace(AGREED, **{field: good}), field) == good
    for wrong in (too_little, too_much, float("nan"), str(most), True):
        with pytest.raises(UsageError, match=f"^{field.replace('_', '-')} is a"):
            replace(AGREED, **{field: wrong})


@pytest.mark.parametrize("recipes", [("evaluation", "scales"), ("scales", "scales"), (), ("scales", "other"), "scales"])
def test_recipes_are_some_of_those_there_are_in_their_order_each_once(recipes):
    with pytest.raises(UsageError, match="recipes are some of moments, scales, threshold, evaluation, in this order"):
        replace(AGREED, recipes=recipes)


def test_every_application_is_named_by_its_digest_also_the_second_one():
    for wrong in ("AB" * 32, "ab" * 31, "ab" * 33, "", "ab" * 32 + "\n", 7):
        with pytest.raises(UsageError, match="app-hashes are SHA-256 digests"):
            replace(AGREED, app_hashes=frozenset({"cd" * 32, wrong}))
    assert not replace(AGREED, app_hashes=frozenset()).allows_app("ab" * 32)


def test_a_request_that_is_read_is_signed_by_both_of_its_own_keys():
    other = SignedJoinRequest.sign(REQUEST, OTHER_IDENTITY, OTHER_NODE)
    for wrong, said in (
        (replace(SIGNED, organisation_signature=other.organisation_signature), "the identity of north did not sign"),
        (replace(SIGNED, node_signature=other.node_signature), "the node key did not sign this join request"),
        (replace(SIGNED, request=replace(REQUEST, invitation=b"j" * 16)), "the identity of north did not sign"),
    ):
        with pytest.raises(ProofError, match=said):
            SignedJoinRequest.from_bytes(wrong.to_bytes())
    for change in ({"invitation": b"j" * 16}, {"invitation_digest": bytes(32)}, {"name": "south"}):
        answered = replace(REQUEST, invitation_digest=INVITATION.digest)
        answered.require_answers(INVITATION)
        with pytest.raises(PeerError, match="does not answer the invitation that was sent"):
            replace(answered, **change).require_answers(INVITATION)
    INVITATION.require_open(1_900_000_001)
    with pytest.raises(UsageError, match="the invitation of north has expired"):
        INVITATION.require_open(1_900_000_002)
