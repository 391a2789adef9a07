"""The device's side of the one-bit match: the only place where a homomorphic secret exists, for one session."""

from __future__ import annotations

import hashlib
import os

import numpy as np
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, UsageError
from federation.onebit import wire
from federation.onebit.ntt import plus, times, transform
from federation.onebit.parameters import Parameters
from federation.onebit.sampling import RandomBytes, ternary
from federation.onebit.seal import engine
from federation.onebit.slots import PadFunction, from_bits, hash_keys, to_slots
from federation.secrecy import Secret


class SessionKey(Secret):
    """A homomorphic secret key that lives for one session. Make it before the face is there; never store it.

    It encrypts once and opens once. What a server that lies learns about it is worth nothing a session later, and
    recorded probes stay secret when a wallet is stolen.
    """

    def __init__(self, parameters: Parameters, coefficients: NDArray[np.int64]) -> None:
        self.parameters = parameters
        self._key = engine(parameters).secret_key(coefficients)
        prime = parameters.reply_prime
        self._values = transform(prime, parameters.ring_dimension).forward((coefficients % prime).astype(np.uint64))
        self._padded_code: NDArray[np.uint8] | None = None
        self._is_over = False

    @classmethod
    def generate(cls, parameters: Parameters, random_bytes: RandomBytes = os.urandom) -> SessionKey:
        """A fresh key: a uniform ternary polynomial.

        Args:
            parameters: of the release.
            random_bytes: source of the key. The encryption draws from SEAL's own generator.
        """
        return cls(parameters, ternary(parameters.ring_dimension, random_bytes))

    def secret_bytes(self) -> bytes:
        """Refused: a session key is never written anywhere.

        Raises:
            UsageError: always.
        """
        raise UsageError("a session key lives in memory, for one session")

    def encrypt(self, padded_code: NDArray[np.uint8]) -> bytes:
        """Encrypts y = P xor K. Returns a probe message, safe to send.

        Args:
            padded_code: (m,) zeros and ones, from `TemplateSecret.padded_code`.

        Raises:
            UsageError: not such a code, or this key has encrypted before.
        """
        if padded_code.shape != (self.parameters.slots,) or padded_code.dtype != np.uint8 or (padded_code > 1).any():
            raise UsageError(f"a padded code has {self.parameters.slots} entries of type uint8, each 0 or 1")
        if self._padded_code is not None:
            raise UsageError("a session key encrypts one probe; make another")
        self._padded_code = padded_code.copy()
        seed, residues = engine(self.parameters).encrypt(self._key, from_bits(padded_code, self.parameters))
        return wire.Probe(seed, residues).to_bytes(self.parameters)

    def open_reply(self, reply: bytes, transcript: bytes) -> bytes | None:
        """The session's token if the server accepts this distance, else None. Nothing else may leave the device.

        Whatever is wrong with a reply looks like a reply that does not open: an error would be a second bit for a
        server that lies. Every entry of the table is tried.

        Raises:
            UsageError: nothing was encrypted, or this key has opened a reply before.
        """
        padded_code = self._padded_code
        if padded_code is None or self._is_over:
            raise UsageError("a session key opens one reply, to the probe that it encrypted")
        self._is_over = True
        try:
            parsed = wire.Reply.from_bytes(reply, self.parameters)
        except MalformedMessageError:
            return None
        labels = hash_keys(parsed.salt, to_slots(self._decrypt(parsed.components), self.parameters))
        labels += parsed.corrections * padded_code[:, None]
        total = labels.sum(axis=0, keepdims=True, dtype=np.uint64)
        opened, width = (parsed.table ^ PadFunction(parsed.salt, transcript)(total)).tobytes(), wire.TOKEN_BYTES
        candidates = [opened[start : start + width] for start in range(0, len(opened), width)]
        digests = [hashlib.sha256(candidate).digest() for candidate in candidates]
        found = [
            candidate for candidate, digest in zip(candidates, digests, strict=True) if digest == parsed.token_digest
        ]
        return found[0] if found and found[0] != wire.NO_MATCH else None

    def _decrypt(self, components: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """(2, N) components of a reply -> (N,) coefficients mod t, in a time that does not depend on them.

        SEAL trims and compresses plaintexts when it writes them, and it has no other way to give one out: a server that
        lies would see from the time whether what it asked about is zero. BGV's correction factor is q_1.
        """
        prime, t = self.parameters.reply_prime, self.parameters.plain_modulus
        phase = plus(components[0], times(components[1], self._values, prime), prime)
        coefficients = transform(prime, self.parameters.ring_dimension).backward(phase).astype(np.int64)
        coefficients -= (coefficients > prime // 2) * prime
        residues = (coefficients % t).astype(np.uint64)
        return times(residues, np.uint64(self.parameters.data_primes[1] % t), t)
