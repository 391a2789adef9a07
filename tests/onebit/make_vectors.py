"""Writes tests/vectors/onebit: `python -m tests.onebit.make_vectors`. Only for a new version of the formats.

The device's encryptions draw from SEAL's own generator, so they are recorded. Everything else follows from the recorded
messages and the keystream of a fixed key, so any implementation can be compared byte by byte.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from federation.onebit import CodeSeed, DeviceSecret, Operation, binary_code, check_template, hamming_distance, match
from federation.onebit.parameters import ONEBIT_2048
from federation.onebit.session import SessionTerms

FOLDER = Path(__file__).parents[1] / "vectors/onebit"


class Keystream:
    """Insecure: the same bytes in every run."""

    def __init__(self, name):
        key = hashlib.sha256(f"intaglio test vectors: {name}".encode()).digest()
        self._encryptor = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def __call__(self, count):
        return self._encryptor.update(bytes(count))


def vectors_of(name, count):
    """(count,) float64 in [-1, 1), exact in every language: 32-bit words of a keystream over 2^31."""
    words = np.frombuffer(Keystream(name)(4 * count), "<i4")
    return words / 2.0**31


def main():
    device = DeviceSecret.generate(Keystream("secret key"))
    seed = CodeSeed.generate(Keystream("code seed"))
    signing_key = Ed25519PrivateKey.from_private_bytes(Keystream("device key")(32))
    enrolled = vectors_of("embedding", 128)
    live = enrolled + vectors_of("other capture", 128) / 2
    codes = {"enrolled": binary_code(enrolled, seed), "live": binary_code(live, seed)}
    distance = hamming_distance(*codes.values())
    template, probe = device.encrypt(codes["enrolled"]), device.encrypt(codes["live"])

    def terms(operation):
        return SessionTerms(
            operation=operation,
            session_id=Keystream("session")(16),
            nonce=Keystream("nonce")(32),
            purpose="door-access",
            audience="example.org",
            key_id=device.key_id,
            release_digest=hashlib.sha256(b"a model release").digest(),
        )

    transcripts = {
        "enrol": terms(Operation.ENROL).transcript(template),
        "verify": terms(Operation.VERIFY).transcript(probe),
    }
    challenges = {
        "enrol": check_template(device.public_key, template, transcripts["enrol"], Keystream("enrol masks")),
        "accept": match(device.public_key, template, probe, transcripts["verify"], distance, Keystream("masks")),
        "reject": match(device.public_key, template, probe, transcripts["verify"], distance - 1, Keystream("masks")),
    }
    for name in ("enrol", "accept"):
        transcript = transcripts["enrol" if name == "enrol" else "verify"]
        assert device.open_reply(challenges[name].reply, transcript) == challenges[name].token
    assert device.open_reply(challenges["reject"].reply, transcripts["verify"]) is None

    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, message in (("public-key", device.public_key), ("template", template), ("probe", probe)):
        (FOLDER / f"{name}.bin").write_bytes(message)
    (FOLDER / "reply-accept.bin").write_bytes(challenges["accept"].reply)
    facts = {
        "profile": ONEBIT_2048.name,
        "secret_key": device.secret_bytes()[len(device.public_key) :].hex(),
        "code_seed": seed.secret_bytes().hex(),
        "device_key": signing_key.private_bytes_raw().hex(),
        "embedding": [float(x) for x in enrolled],
        "code_enrolled": np.packbits(codes["enrolled"]).tobytes().hex(),
        "code_live": np.packbits(codes["live"]).tobytes().hex(),
        "distance": distance,
        "transcripts": {name: transcript.hex() for name, transcript in transcripts.items()},
        "signature": signing_key.sign(transcripts["verify"]).hex(),
        "replies": {
            name: {
                "threshold": {"enrol": 0, "accept": distance, "reject": distance - 1}[name],
                "sha256": hashlib.sha256(challenge.reply).hexdigest(),
                "token": challenge.token.hex(),
            }
            for name, challenge in challenges.items()
        },
    }
    (FOLDER / "session.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
