"""What a device keeps of one template: the seed of its code and the pad that hides it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.onebit import wire
from federation.onebit.code import SEED_BYTES, CodeSeed, binary_code
from federation.onebit.parameters import Parameters
from federation.onebit.sampling import RandomBytes
from federation.secrecy import Secret


@dataclass(frozen=True, repr=False, eq=False)
class TemplateSecret(Secret):
    """Code seed and one-time pad of one template. They are drawn together and never used for a second one.

    A pad that is used twice shows where two codes differ; a seed that is used twice lets two stored templates be
    connected by a server that lies (docs/onebit.md). So a renewed template, and an enrolment after one that failed,
    draws both anew: only what `generate` drew makes a template, once, and what was read back makes none.

    Attributes:
        parameters: decides the length of code and pad.
        seed: of the hyperplanes.
        pad: m/8 random bytes, not expanded from anything.
    """

    parameters: Parameters
    seed: CodeSeed
    pad: bytes
    _is_fresh: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if len(self.pad) != self.parameters.slots // 8:
            raise UsageError(f"a pad has {self.parameters.slots // 8} bytes, got {len(self.pad)}")

    @classmethod
    def generate(cls, parameters: Parameters, random_bytes: RandomBytes = os.urandom) -> TemplateSecret:
        """A fresh seed and a fresh pad, for one template."""
        secret = cls(parameters, CodeSeed.generate(random_bytes), random_bytes(parameters.slots // 8))
        object.__setattr__(secret, "_is_fresh", True)
        return secret

    @classmethod
    def from_secret_bytes(cls, data: bytes, parameters: Parameters) -> TemplateSecret:
        """Reads what `secret_bytes` gave: of a template that was made before.

        Raises:
            UsageError: the length is wrong.
        """
        return cls(parameters, CodeSeed.from_secret_bytes(data[:SEED_BYTES]), data[SEED_BYTES:])

    def secret_bytes(self) -> bytes:
        """Seed, then pad. For the encrypted wallet only."""
        return self.seed.secret_bytes() + self.pad

    def padded_code(self, vector: NDArray[np.float64]) -> NDArray[np.uint8]:
        """(m,) code of an adapted vector under the pad: y of a probe. Uniform to whoever lacks the pad.

        Args:
            vector: (d,) as for `binary_code`.
        """
        pad = np.unpackbits(np.frombuffer(self.pad, np.uint8), bitorder="little")
        return binary_code(vector, self.seed, self.parameters.slots) ^ pad

    def template(self, vector: NDArray[np.float64], random_bytes: RandomBytes = os.urandom) -> bytes:
        """The template message for the server. Keep neither it nor its salt.

        Args:
            vector: (d,) adapted vector of the reference.
            random_bytes: source of the salt.

        Raises:
            UsageError: this secret has made its template.
        """
        if not self._is_fresh:
            raise UsageError("seed and pad serve one template; draw both anew for another")
        object.__setattr__(self, "_is_fresh", False)
        salt = random_bytes(wire.TEMPLATE_SALT_BYTES)
        return wire.PaddedTemplate(salt, self.padded_code(vector)).to_bytes(self.parameters)
