"""The device's side of the one-bit match: the only place where a secret key is used."""

from __future__ import annotations

import hashlib
import hmac
import os
import struct

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.onebit import wire
from federation.onebit.parameters import ONEBIT_2048, Parameters, rounding_constant
from federation.onebit.sampling import RandomBytes, ternary
from federation.onebit.seal import engine
from federation.onebit.transcript import PadFunction
from federation.secrecy import Secret

_SHIFTS = np.array([0, 2, 4, 6], np.uint8)
_TRITS = 2


class DeviceSecret(Secret):
    """The homomorphic secret key of one device, with the public key message that goes with it.

    Attributes:
        public_key: the public key message for the server.
        key_id: SHA-256 of `public_key`.
    """

    def __init__(
        self, coefficients: NDArray[np.uint64], public_key: bytes, parameters: Parameters = ONEBIT_2048
    ) -> None:
        self._parameters = parameters
        self._coefficients = coefficients
        self._key = engine(parameters).secret_key(coefficients)
        self.public_key = public_key
        self.key_id = wire.digest(public_key)

    @classmethod
    def generate(cls, random_bytes: RandomBytes = os.urandom, parameters: Parameters = ONEBIT_2048) -> DeviceSecret:
        """A fresh key pair: a uniform ternary secret, and an encryption of zero under it.

        Args:
            random_bytes: source of the secret. The encryption draws from SEAL's own generator.
            parameters: the profile.
        """
        coefficients = _secret(parameters, random_bytes)
        seal = engine(parameters)
        seed, residues = seal.public_key_parts(seal.secret_key(coefficients))
        public_key = wire.SeededMessage(wire.Kind.PUBLIC_KEY, seed, residues).to_bytes(parameters)
        return cls(coefficients, public_key, parameters)

    @classmethod
    def from_secret_bytes(cls, data: bytes, parameters: Parameters = ONEBIT_2048) -> DeviceSecret:
        """Reads what `secret_bytes` gave, out of an authenticated wallet.

        Raises:
            UsageError: the bytes are of another version.
        """
        public_length = wire.seeded_length(parameters)
        if len(data) != public_length + parameters.ring_dimension // 4:
            raise UsageError("the wallet holds no key of this version; create a new one and enrol again")
        packed = np.frombuffer(data, np.uint8, offset=public_length)
        digits = (packed[:, None] >> _SHIFTS & 3).ravel().astype(np.uint64)
        if (digits > _TRITS).any():
            raise UsageError("the wallet's key is damaged; restore it from a backup, or create a new one")
        t = np.uint64(parameters.plain_modulus)
        return cls((digits + t - np.uint64(1)) % t, data[:public_length], parameters)

    def secret_bytes(self) -> bytes:
        """Public key message, then the secret's coefficients plus one, two bits each. For the encrypted wallet only."""
        digits = _digits(self._parameters, self._coefficients)
        packed: NDArray[np.uint8] = (digits.reshape(-1, 4) << _SHIFTS).sum(axis=1, dtype=np.uint8)
        return self.public_key + packed.tobytes()

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


def _secret(parameters: Parameters, random_bytes: RandomBytes) -> NDArray[np.uint64]:
    """(N,) uniform ternary, modulo t, but for the one key in millions whose replies could decrypt wrongly."""
    while True:
        coefficients = ternary(parameters, random_bytes)
        signed = _digits(parameters, coefficients).astype(np.int64) - 1
        if rounding_constant(parameters, signed) <= parameters.rounding_constant_bound:
            return coefficients


def _digits(parameters: Parameters, coefficients: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """(N,) ternary coefficients modulo t, plus one: 0, 1 or 2."""
    return ((coefficients + np.uint64(1)) % np.uint64(parameters.plain_modulus)).astype(np.uint8)
