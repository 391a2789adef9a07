"""Known answers, and one file for each way of damaging them. See tests/onebit/make_vectors.py."""

import json

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation.errors import MalformedMessageError
from federation.onebit import CodeSeed, DeviceSecret, binary_code, check_template, hamming_distance, match, wire
from federation.onebit.wire import Kind, Reply, SeededMessage
from tests.onebit.make_vectors import FOLDER, Keystream, vectors_of

FACTS = json.loads((FOLDER / "session.json").read_text())
MESSAGES = {path.stem: path.read_bytes() for path in FOLDER.glob("*.bin")}
DAMAGE = sorted((FOLDER / "damage").glob("*.json"))


@pytest.fixture(scope="module")
def recorded():
    """The recorded device."""
    return DeviceSecret.from_secret_bytes(MESSAGES["public-key"] + bytes.fromhex(FACTS["secret_key"]))


def bits(name):
    return np.unpackbits(np.frombuffer(bytes.fromhex(FACTS[name]), np.uint8))


def test_the_code_of_a_known_embedding_and_seed():
    embedding = np.array(FACTS["embedding"])
    np.testing.assert_array_equal(embedding, vectors_of("embedding", 128))
    code = binary_code(embedding, CodeSeed(bytes.fromhex(FACTS["code_seed"])))
    np.testing.assert_array_equal(code, bits("code_enrolled"))
    assert hamming_distance(code, bits("code_live")) == FACTS["distance"]


def test_a_device_key_follows_from_its_random_bytes():
    device = DeviceSecret.generate(Keystream("secret key"))
    assert device.secret_bytes()[len(device.public_key) :].hex() == FACTS["secret_key"]


@pytest.mark.parametrize("name", ["enrol", "accept", "reject"])
def test_a_reply_follows_from_messages_and_masks(name):
    known = FACTS["replies"][name]
    transcript = bytes.fromhex(FACTS["transcripts"]["enrol" if name == "enrol" else "verify"])
    key, template, probe = (MESSAGES[part] for part in ("public-key", "template", "probe"))
    if name == "enrol":
        challenge = check_template(key, template, transcript, Keystream("enrol masks"))
    else:
        challenge = match(key, template, probe, transcript, known["threshold"], Keystream("masks"))
    assert wire.digest(challenge.reply).hex() == known["sha256"]
    assert challenge.token.hex() == known["token"]


def test_the_device_opens_the_recorded_reply(recorded):
    transcript = bytes.fromhex(FACTS["transcripts"]["verify"])
    assert recorded.open_reply(MESSAGES["reply-accept"], transcript).hex() == FACTS["replies"]["accept"]["token"]


def test_the_signature_is_over_the_transcript():
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(FACTS["device_key"]))
    transcript = bytes.fromhex(FACTS["transcripts"]["verify"])
    assert key.sign(transcript).hex() == FACTS["signature"]
    Ed25519PublicKey.from_public_bytes(key.public_key().public_bytes_raw()).verify(
        bytes.fromhex(FACTS["signature"]), transcript
    )


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_recorded_messages_parse_and_serialise_identically(name):
    assert parse(name, MESSAGES[name]).to_bytes() == MESSAGES[name]


@pytest.mark.parametrize("path", DAMAGE, ids=lambda path: path.stem)
def test_damage_is_refused(path):
    damage = json.loads(path.read_text())
    data = bytearray(MESSAGES[damage["message"]])
    for offset, replacement in damage["edits"]:
        data[offset : offset + len(replacement) // 2] = bytes.fromhex(replacement)
    damaged = bytes(data[: damage["length"]]) + bytes.fromhex(damage["append"])
    assert damaged != MESSAGES[damage["message"]]
    with pytest.raises(MalformedMessageError):
        parse(damage["message"], damaged)


def parse(name, data):
    if name.startswith("reply"):
        return Reply.from_bytes(data)
    return SeededMessage.from_bytes(data, Kind.PUBLIC_KEY if name == "public-key" else Kind.CIPHERTEXT)


def test_there_is_a_file_for_every_way_of_breaking_a_message():
    assert len(DAMAGE) >= 20
    assert {json.loads(path.read_text())["message"] for path in DAMAGE} == {*MESSAGES}
