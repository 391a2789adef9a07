"""A double of the scheme that hides nothing: same interface, same decisions, no encryption. For tests only."""

import hashlib
import os

import numpy as np

from federation.errors import MalformedMessageError, UsageError
from federation.onebit import Challenge, hamming_distance, wire

LENGTH = 16


class InsecurePlaintextKey:
    """Stands in for `SessionKey`. Its ciphertexts are the padded codes themselves."""

    def __init__(self, parameters):
        self._parameters = parameters
        self._session = os.urandom(LENGTH)
        self._used = []

    @classmethod
    def generate(cls, parameters):
        return cls(parameters)

    def encrypt(self, padded_code):
        self._once("encrypt")
        return self._session + np.packbits(padded_code, bitorder="little").tobytes()

    def open_reply(self, reply, transcript):
        self._once("open")
        token = bytes(a ^ b for a, b in zip(reply[:LENGTH], _pad(self._session, transcript), strict=False))
        return token if len(reply) == 3 * LENGTH and hashlib.sha256(token).digest() == reply[LENGTH:] else None

    def _once(self, step):
        if self._used != {"encrypt": [], "open": ["encrypt"]}[step]:
            raise UsageError(f"a session key does not {step} now")
        self._used.append(step)


def insecure_plaintext_match(template, probe, transcript, threshold):
    parameters = wire.parameters_of(template)
    stored = wire.PaddedTemplate.from_bytes(template, parameters).bits
    if len(probe) != LENGTH + parameters.slots // 8:
        raise MalformedMessageError("not a probe")
    shown = np.unpackbits(np.frombuffer(probe[LENGTH:], np.uint8), bitorder="little")
    token = os.urandom(LENGTH)
    pad = _pad(probe[:LENGTH], transcript) if hamming_distance(stored, shown) <= threshold else os.urandom(LENGTH)
    return Challenge(bytes(a ^ b for a, b in zip(token, pad, strict=True)) + hashlib.sha256(token).digest(), token)


def _pad(session, transcript):
    return hashlib.sha256(session + transcript).digest()[:LENGTH]
