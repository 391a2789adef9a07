"""The device's side of the one-bit match: the only place where a secret key is used."""

from __future__ import annotations

import hashlib
import hmac
import struct

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.onebit import wire
from federation.onebit.parameters import ONEBIT_2048, Parameters
from federation.onebit.seal import engine
from federation.onebit.transcript import PadFunction
from federation.secrecy import Secret


class DeviceSecret(Secret):
    """The homomorphic secret key of one device, with the public key message that goes with it.

    Attributes:
        public_key: the public key message for the server.
        key_id: SHA-256 of `public_key`.
    """

    def __init__(self, encoded_key: bytes, public_key: bytes, parameters: Parameters = ONEBIT_2048) -> None:
        self._parameters = parameters
        self._encoded = encoded_key
        self._key = engine(parameters).secret_key_from_bytes(encoded_key)
        self.public_key = public_key
        self.key_id = wire.digest(public_key)

    @classmethod
    def generate(cls, parameters: Parameters = ONEBIT_2048) -> DeviceSecret:
        """A fresh key pair. Randomness: SEAL's own generator, seeded by the operating system."""
        seal = engine(parameters)
        key = seal.generate_secret_key()
        seed, residues = seal.public_key_parts(key)
        public_key = wire.SeededMessage(wire.Kind.PUBLIC_KEY, seed, residues).to_bytes(parameters)
        return cls(seal.secret_key_to_bytes(key), public_key, parameters)

    @classmethod
    def from_secret_bytes(cls, data: bytes, parameters: Parameters = ONEBIT_2048) -> DeviceSecret:
        """Reads what `secret_bytes` gave, out of an authenticated wallet.

        Raises:
            UsageError: the bytes are of another version.
        """
        length = wire.seeded_length(parameters)
        if len(data) <= length:
            raise UsageError("the wallet holds no key of this version; enrol again")
        return cls(data[length:], data[:length], parameters)

    def secret_bytes(self) -> bytes:
        """Public key message, then the secret key in SEAL's encoding. For the encrypted wallet only."""
        return self.public_key + self._encoded

    def encrypt(self, code: NDArray[np.uint8]) -> bytes:
        """Encrypts a binary code (m,) of zeros and ones. Returns a ciphertext message, safe to send.

        Raises:
            UsageError: not a binary code of the right length.
        """
        if code.shape != (self._parameters.slots,) or not np.isin(code, (0, 1)).all():
            raise UsageError(f"a code has {self._parameters.slots} entries, each 0 or 1")
        seal = engine(self._parameters)
        seed, residues = seal.encrypt_parts(self._key, seal.pack(code))
        return wire.SeededMessage(wire.Kind.CIPHERTEXT, seed, residues).to_bytes(self._parameters)

    def open_reply(self, reply: bytes, transcript: bytes) -> bytes | None:
        """The session's token if the server accepts this distance, else None. Nothing else may leave the device.

        Every entry of the table is tried, so the time taken does not depend on which one opens.

        Raises:
            MalformedMessageError: `reply` is not a reply message.
        """
        parsed = wire.Reply.from_bytes(reply, self._parameters)
        seal = engine(self._parameters)
        coefficients = seal.decrypt_reply(self._key, parsed.head, parsed.second, parsed.third)
        pad = PadFunction(transcript)(struct.pack("<4I", *coefficients))
        candidates = (parsed.table ^ np.frombuffer(pad, np.uint8)).tobytes()
        token = None
        for start in range(0, len(candidates), wire.TOKEN_BYTES):
            candidate = candidates[start : start + wire.TOKEN_BYTES]
            if hmac.compare_digest(hashlib.sha256(candidate).digest(), parsed.token_digest):
                token = candidate
        return token
