"""Writes tests/vectors/onebit: `python -m tests.federation.onebit.make_vectors`. Only for a new version of the formats.

The device's encryption draws from SEAL's own generator, so it is recorded. Everything else follows from the recorded
messages and the keystream of a fixed key, so any implementation can be compared byte by byte. Bits are packed lowest
first, as on the wire.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from federation.onebit import Operation, SessionKey, TemplateSecret, hamming_distance, match, wire
from federation.onebit.parameters import PARAMETER_SETS
from federation.onebit.sampling import ternary
from federation.onebit.session import SessionTerms
from federation.onebit.slots import PadFunction, hash_keys

FOLDER = Path(__file__).parents[2] / "vectors/onebit"
DIMENSION = 128


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


def packed(bits):
    return np.packbits(bits, bitorder="little").tobytes().hex()


def sessions(parameters, template, device_key):
    """Terms of one session of every kind."""
    verify = SessionTerms(
        parameters=parameters.name,
        operation=Operation.VERIFY,
        session_id=Keystream("session")(16),
        nonce=Keystream("nonce")(32),
        purpose="door-access",
        audience="example.org",
        audience_nonce=b"chosen by the audience",
        key_id=hashlib.sha256(device_key.public_key().public_bytes_raw()).digest(),
        template_digest=wire.digest(template),
        release_digest=hashlib.sha256(b"a model release").digest(),
        log_size=1234,
        presentation_checked=True,
    )
    change = {
        "audience_nonce": b"",
        "presentation_checked": False,
        "change_digest": hashlib.sha256(b"a change").digest(),
    }
    changing = [operation for operation in Operation if operation is not Operation.VERIFY]
    return [verify, *(dataclasses.replace(verify, operation=operation, **change) for operation in changing)]


def fields_of(terms):
    values = {**vars(terms), "operation": terms.operation.name}
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}


def write(parameters):
    name = str(parameters.slots)
    secret = TemplateSecret.generate(parameters, Keystream(f"template secret {name}"))
    device_key = Ed25519PrivateKey.from_private_bytes(Keystream("device key")(32))
    enrolled = vectors_of("embedding", DIMENSION)
    live = enrolled + vectors_of("other capture", DIMENSION) / 2
    codes = secret.padded_code(enrolled), secret.padded_code(live)
    distance = hamming_distance(*codes)
    template = secret.template(enrolled, Keystream("template salt"))
    coefficients = ternary(parameters.ring_dimension, Keystream("session key"))
    key = SessionKey(parameters, coefficients)
    probe = key.encrypt(codes[1])
    all_terms = sessions(parameters, template, device_key)
    transcripts = {terms.operation.name: terms.transcript(probe) for terms in all_terms}
    transcript = transcripts["VERIFY"]
    accept, reject = (match(template, probe, transcript, tau, Keystream("masks")) for tau in (distance, distance - 1))
    assert key.open_reply(accept.reply, transcript) == accept.token
    salt = Keystream("salt")(wire.SALT_BYTES)
    keys = np.arange(parameters.slots * parameters.slot_degree, dtype=np.uint64).reshape(parameters.slots, -1)
    labels = hash_keys(salt, keys)

    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    for message, data in (("template", template), ("probe", probe), ("reply", accept.reply)):
        (folder / f"{message}.bin").write_bytes(data)
    facts = {
        "parameters": parameters.name,
        "code_seed": secret.seed.secret_bytes().hex(),
        "pad": secret.pad.hex(),
        "template_salt": Keystream("template salt")(wire.TEMPLATE_SALT_BYTES).hex(),
        "embedding": [float(x) for x in enrolled],
        "other_capture": [float(x) for x in live],
        "padded_code_enrolled": packed(codes[0]),
        "padded_code_live": packed(codes[1]),
        "distance": distance,
        "session_key_plus_one": "".join(map(str, coefficients + 1)),
        "device_key": device_key.private_bytes_raw().hex(),
        "sessions": {terms.operation.name: fields_of(terms) for terms in all_terms},
        "transcripts": {operation: data.hex() for operation, data in transcripts.items()},
        "signature": device_key.sign(transcript).hex(),
        "accept": {"threshold": distance, "sha256": wire.digest(accept.reply).hex(), "token": accept.token.hex()},
        "reject": {"threshold": distance - 1, "sha256": wire.digest(reject.reply).hex(), "token": reject.token.hex()},
        "labels": {
            "salt": salt.hex(),
            "what": "slot j holds j g, j g + 1, .. j g + g - 1",
            "first": labels[0].astype("<u8").tobytes().hex(),
            "last": labels[-1].astype("<u8").tobytes().hex(),
            "sum": labels.sum(axis=0, dtype=np.uint64).astype("<u8").tobytes().hex(),
            "pad_of_sum": PadFunction(salt, transcript)(labels.sum(axis=0, keepdims=True)).tobytes().hex(),
        },
    }
    (folder / "session.json").write_text(json.dumps(facts, indent=1) + "\n")


# Offsets are literals: a change of the formats must be made here by hand as well.
PROBE_2048, REPLY_2048 = 90_184, 102_458 + 2048 * 16  # where the table of a reply begins
PROBE_1024, REPLY_1024 = 79_944, 94_266 + 1024 * 16
DAMAGES = {
    "template-empty": ("2048/template", [], 0, "", "no bytes at all"),
    "template-cut-in-the-preamble": ("2048/template", [], 7, "", "seven of the eight bytes of a preamble"),
    "template-without-a-body": ("2048/template", [], 8, "", "nothing after the preamble"),
    "template-one-byte-short": ("2048/template", [], 295, "", "the last eight bits are missing"),
    "template-one-byte-long": ("2048/template", [], None, "00", "a trailing byte"),
    "template-of-version-1": ("2048/template", [[0, "49544731"]], None, "", "ITG1"),
    "template-of-an-unknown-set": ("2048/template", [[5, "03"]], None, "", "parameter set 3"),
    "template-of-set-0": ("2048/template", [[5, "00"]], None, "", "parameter set 0"),
    "template-of-the-other-set": ("2048/template", [[5, "02"]], None, "", "2048 bits that say they are 1024"),
    "template-reserved-byte-set": ("2048/template", [[6, "01"]], None, "", "reserved bytes are zero"),
    "template-that-says-probe": ("2048/template", [[4, "02"]], None, "", "kind 2"),
    "template-1024-of-the-other-set": ("1024/template", [[5, "01"]], None, "", "1024 bits that say they are 2048"),
    "template-1024-one-byte-short": ("1024/template", [], 167, "", "the last eight bits are missing"),
    "probe-empty": ("2048/probe", [], 0, "", "no bytes at all"),
    "probe-without-a-seed": ("2048/probe", [], 71, "", "the seed is cut"),
    "probe-without-residues": ("2048/probe", [], 72, "", "a seed and nothing else"),
    "probe-without-its-second-prime": ("2048/probe", [], 72 + 51_200, "", "residues modulo q_0 only"),
    "probe-one-byte-short": ("2048/probe", [], PROBE_2048 - 1, "", "the last residue is cut"),
    "probe-one-byte-long": ("2048/probe", [], None, "00", "a trailing byte"),
    "probe-with-a-second-polynomial": ("2048/probe", [], None, "00" * 90_112, "a c_1' that was not expanded"),
    "probe-residue-is-q0": ("2048/probe", [[72, "01c0ffffffff03"]], None, "", "q_0 itself in the first place"),
    "probe-residue-above-q0": ("2048/probe", [[72, "ffffffffffffff"]], None, "", "2^50 - 1 in the first place"),
    "probe-residue-above-q1": ("2048/probe", [[PROBE_2048 - 5, "ffffffffff"]], None, "", "2^38 - 1 in the last place"),
    "probe-of-version-1": ("2048/probe", [[0, "49544731"]], None, "", "ITG1"),
    "probe-that-says-reply": ("2048/probe", [[4, "03"]], None, "", "kind 3"),
    "probe-of-the-other-set": ("2048/probe", [[5, "02"]], None, "", "another parameter set"),
    "probe-reserved-byte-set": ("2048/probe", [[7, "01"]], None, "", "reserved bytes are zero"),
    "probe-1024-residue-above-q1": (
        "1024/probe",
        [[PROBE_1024 - 4, "ffffffff"]],
        None,
        "",
        "2^32 - 1 in the last place",
    ),
    "probe-1024-one-byte-short": ("1024/probe", [], PROBE_1024 - 1, "", "the last residue is cut"),
    "reply-empty": ("2048/reply", [], 0, "", "no bytes at all"),
    "reply-cut-in-a-component": ("2048/reply", [], 60_000, "", "the second component is cut"),
    "reply-without-a-table": ("2048/reply", [], REPLY_2048, "", "the count says that there is one"),
    "reply-count-is-zero": ("2048/reply", [[REPLY_2048 - 2, "0000"]], REPLY_2048, "", "a table of no entries"),
    "reply-count-one-too-many": ("2048/reply", [[REPLY_2048 - 2, "+1"]], None, "", "one entry fewer than it says"),
    "reply-count-one-too-few": ("2048/reply", [[REPLY_2048 - 2, "-1"]], None, "", "one entry more than it says"),
    "reply-count-above-the-slots": (
        "2048/reply",
        [[REPLY_2048 - 2, "0108"]],
        REPLY_2048,
        "00" * 16 * 2049,
        "2049 entries",
    ),
    "reply-entry-cut": ("2048/reply", [], -1, "", "the last entry has 15 bytes"),
    "reply-one-byte-long": ("2048/reply", [], None, "00", "a trailing byte"),
    "reply-residue-above-q0": ("2048/reply", [[8, "ffffffffffffff"]], None, "", "2^50 - 1 in the first place"),
    "reply-of-version-1": ("2048/reply", [[0, "49544731"]], None, "", "ITG1"),
    "reply-that-says-probe": ("2048/reply", [[4, "02"]], None, "", "kind 2"),
    "reply-of-the-other-set": ("2048/reply", [[5, "02"]], None, "", "another parameter set"),
    "reply-reserved-byte-set": ("2048/reply", [[6, "01"]], None, "", "reserved bytes are zero"),
    "reply-1024-without-a-table": ("1024/reply", [], REPLY_1024, "", "the count says that there is one"),
}


def edited(data, edits):
    """Edits as [offset, bytes]; +1 and -1 count the two bytes there up and down."""
    for offset, replacement in edits:
        count = int.from_bytes(data[offset : offset + 2], "little")
        new = (count + int(replacement)).to_bytes(2, "little").hex() if replacement[0] in "+-" else replacement
        yield [offset, new]


def write_damages():
    folder = FOLDER / "damage"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (message, edits, length, append, why) in DAMAGES.items():
        data = (FOLDER / f"{message}.bin").read_bytes()
        damage = {
            "message": message,
            "edits": list(edited(data, edits)),
            "length": len(data) + length if length is not None and length < 0 else length,
            "append_zeros": len(append) // 2,
            "why": why,
        }
        (folder / f"{name}.json").write_text(json.dumps(damage, indent=1) + "\n")


if __name__ == "__main__":
    for each in PARAMETER_SETS:
        write(each)
    write_damages()
