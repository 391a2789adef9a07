"""A double of the scheme that hides nothing: same interface, same decisions, no encryption. For tests only."""

import hashlib
import os

import numpy as np

from federation.errors import MalformedMessageError
from federation.onebit import BITS, Challenge, hamming_distance
from federation.onebit.transcript import PadFunction


class InsecurePlaintextDevice:
    """Stands in for `DeviceSecret`. Its ciphertexts are the codes themselves."""

    def __init__(self):
        self.public_key = os.urandom(16)
        self.key_id = hashlib.sha256(self.public_key).digest()

    @classmethod
    def generate(cls):
        return cls()

    def encrypt(self, code):
        return self.public_key + np.packbits(code).tobytes()

    def open_reply(self, reply, transcript):
        if len(reply) != 64:
            raise MalformedMessageError("not a reply")
        token = bytes(a ^ b for a, b in zip(reply[:32], _pad(self.public_key, transcript), strict=True))
        return token if hashlib.sha256(token).digest() == reply[32:] else None


def insecure_plaintext_match(public_key, template, probe, transcript, threshold):
    left, right = _open(public_key, template), _open(public_key, probe)
    accepted = left is not None and right is not None and hamming_distance(left, right) <= threshold
    token = os.urandom(32)
    pad = _pad(public_key, transcript) if accepted else os.urandom(32)
    return Challenge(bytes(a ^ b for a, b in zip(token, pad, strict=True)) + hashlib.sha256(token).digest(), token)


def insecure_plaintext_check_template(public_key, template, transcript):
    return insecure_plaintext_match(public_key, template, template, transcript, 0)


def _pad(public_key, transcript):
    return PadFunction(transcript)(public_key)


def _open(public_key, ciphertext):
    if len(ciphertext) != 16 + BITS // 8:
        raise MalformedMessageError("not a ciphertext")
    if ciphertext[:16] != public_key:
        return None
    return np.unpackbits(np.frombuffer(ciphertext[16:], np.uint8))
