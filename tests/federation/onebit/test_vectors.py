"""Known answers, and one file for each way of damaging them. See tests/federation/onebit/make_vectors.py."""

import hashlib
import json

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation.errors import MalformedMessageError
from federation.onebit import Operation, SessionKey, TemplateSecret, hamming_distance, match, parameters_for
from federation.onebit.session import SessionTerms
from federation.onebit.wire import PaddedTemplate, Probe, Reply
from tests.federation.onebit.make_vectors import DAMAGES, FOLDER, Keystream, vectors_of

MESSAGES = {f"{path.parent.name}/{path.stem}": path.read_bytes() for path in FOLDER.glob("*/*.bin")}
DAMAGE = sorted((FOLDER / "damage").glob("*.json"))
PARSERS = {"template": PaddedTemplate, "probe": Probe, "reply": Reply}


@pytest.fixture(scope="module")
def facts(parameters):
    return json.loads((FOLDER / str(parameters.slots) / "session.json").read_text())


@pytest.fixture
def recorded(parameters):
    return {kind: MESSAGES[f"{parameters.slots}/{kind}"] for kind in PARSERS}


@pytest.fixture
def key(facts, parameters):
    """The recorded session's key, after it has encrypted the recorded probe."""
    coefficients = np.array([int(digit) - 1 for digit in facts["session_key_plus_one"]])
    key = SessionKey(parameters, coefficients)
    key._padded_code = bits(facts["padded_code_live"])
    return key


def bits(packed):
    return np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8), bitorder="little")


def test_the_code_the_pad_and_the_template_follow_from_their_random_bytes(facts, parameters, recorded):
    enrolled = np.array(facts["embedding"])
    np.testing.assert_array_equal(enrolled, vectors_of("embedding", 128))
    secret = TemplateSecret.from_secret_bytes(bytes.fromhex(facts["code_seed"] + facts["pad"]), parameters)
    fresh = TemplateSecret.generate(parameters, Keystream(f"template secret {parameters.slots}"))
    assert secret == fresh
    codes = secret.padded_code(enrolled), secret.padded_code(np.array(facts["other_capture"]))
    np.testing.assert_array_equal(codes[0], bits(facts["padded_code_enrolled"]))
    np.testing.assert_array_equal(codes[1], bits(facts["padded_code_live"]))
    assert hamming_distance(*codes) == facts["distance"]
    assert fresh.template(enrolled, Keystream("template salt")) == recorded["template"]
    assert recorded["template"].hex().endswith(facts["template_salt"] + facts["padded_code_enrolled"])


@pytest.mark.parametrize("outcome", ["accept", "reject"])
def test_a_reply_follows_from_messages_and_masks(facts, recorded, outcome):
    known, transcript = facts[outcome], bytes.fromhex(facts["transcripts"]["VERIFY"])
    masks = Keystream("masks")
    challenge = match(recorded["template"], recorded["probe"], transcript, known["threshold"], masks)
    assert hashlib.sha256(challenge.reply).hexdigest() == known["sha256"]
    assert challenge.token.hex() == known["token"]


def test_the_device_opens_the_recorded_reply(facts, recorded, key):
    transcript = bytes.fromhex(facts["transcripts"]["VERIFY"])
    assert key.open_reply(recorded["reply"], transcript).hex() == facts["accept"]["token"]


def test_the_device_does_not_open_the_recorded_reply_under_another_operation(facts, recorded, key):
    assert key.open_reply(recorded["reply"], bytes.fromhex(facts["transcripts"]["RENEW_TEMPLATE"])) is None


def test_the_labels_are_sha_256_as_written_down(facts, parameters):
    """With nothing but hashlib: H(salt, j, kappa) = SHA-256(1, salt, j, kappa), KDF = SHA-256(2, SHA-256(..), S)."""
    known, degree = facts["labels"], parameters.slot_degree
    salt = bytes.fromhex(known["salt"])

    def label(j):
        key = b"".join((j * degree + i).to_bytes(4, "little") for i in range(degree))
        return hashlib.sha256(b"\1" + salt + j.to_bytes(4, "little") + key).digest()[:16]

    labels = [label(j) for j in range(parameters.slots)]
    lanes = [sum(int.from_bytes(each[at : at + 8], "little") for each in labels) % 2**64 for at in (0, 8)]
    total = b"".join(lane.to_bytes(8, "little") for lane in lanes)
    transcript = bytes.fromhex(facts["transcripts"]["VERIFY"])
    prefix = hashlib.sha256(b"intaglio one-bit pad v2" + salt + transcript).digest()
    assert labels[0].hex() == known["first"]
    assert labels[-1].hex() == known["last"]
    assert total.hex() == known["sum"]
    assert hashlib.sha256(b"\2" + prefix + total).digest()[:16].hex() == known["pad_of_sum"]


@pytest.mark.parametrize("operation", Operation)
def test_a_transcript_follows_from_its_fields(facts, recorded, operation):
    fields = dict(facts["sessions"][operation.name])
    texts = {
        name: fields.pop(name) for name in ("parameters", "purpose", "audience", "log_size", "presentation_checked")
    }
    assert fields.pop("operation") == operation.name
    terms = SessionTerms(operation=operation, **texts, **{name: bytes.fromhex(value) for name, value in fields.items()})
    assert terms.transcript(recorded["probe"]).hex() == facts["transcripts"][operation.name]


def test_the_signature_is_over_the_transcript(facts):
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(facts["device_key"]))
    transcript, signature = bytes.fromhex(facts["transcripts"]["VERIFY"]), bytes.fromhex(facts["signature"])
    assert key.sign(transcript) == signature
    Ed25519PublicKey.from_public_bytes(key.public_key().public_bytes_raw()).verify(signature, transcript)


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_recorded_messages_parse_and_serialise_identically(name):
    slots, kind = name.split("/")
    parameters = parameters_for(int(slots))
    assert PARSERS[kind].from_bytes(MESSAGES[name], parameters).to_bytes(parameters) == MESSAGES[name]


def damaged(path):
    damage = json.loads(path.read_text())
    data = bytearray(MESSAGES[damage["message"]])
    for offset, replacement in damage["edits"]:
        data[offset : offset + len(replacement) // 2] = bytes.fromhex(replacement)
    slots, kind = damage["message"].split("/")
    broken = bytes(data[: damage["length"]]) + bytes(damage["append_zeros"])
    assert broken != MESSAGES[damage["message"]]
    return parameters_for(int(slots)), kind, broken


@pytest.mark.parametrize("path", DAMAGE, ids=lambda path: path.stem)
def test_damage_is_refused(path):
    parameters, kind, broken = damaged(path)
    with pytest.raises(MalformedMessageError, match=f"{kind}|residue"):
        PARSERS[kind].from_bytes(broken, parameters)


@pytest.mark.parametrize("path", [path for path in DAMAGE if path.stem.startswith("reply")], ids=lambda path: path.stem)
def test_a_damaged_reply_looks_to_the_server_like_one_that_does_not_open(path):
    parameters, _, broken = damaged(path)
    key = SessionKey.generate(parameters)
    key.encrypt(np.zeros(parameters.slots, np.uint8))
    assert key.open_reply(broken, b"transcript") is None


def test_there_is_a_file_for_every_way_of_breaking_a_message_and_no_other():
    assert {path.stem for path in DAMAGE} == set(DAMAGES)
    assert {message for message, *_ in DAMAGES.values()} == set(MESSAGES)
    assert len(DAMAGES) >= 40
