"""What a node of a secure sum remembers between two messages: whose turn it is, and its secrets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from federation.errors import UsageError
from federation.secagg import masking
from federation.secagg.masking import SEED_BYTES
from federation.secagg.session import Random
from federation.secrecy import Secret


class Stage(IntEnum):
    """What a node does next, in order."""

    ADVERTISE = 0
    SHARE_KEYS = 1
    MASK_INPUT = 2
    SIGN_SURVIVORS = 3
    OPEN_SHARES = 4
    ENDED = 5


@dataclass(frozen=True, eq=False, repr=False)
class NodeSecrets(Secret):
    """A node's three secrets in one session. Never used in another one.

    Attributes:
        self_seed: 32 bytes, of the mask that its holders open when this node survives.
        mask_seed: 32 bytes, of pairwise masks and the key for them, which its holders open when this node leaves.
        share_seed: 32 bytes, of the key that others encrypt shares for, of confirmations and of the choice of
            holders; never opened.
    """

    self_seed: bytes
    mask_seed: bytes
    share_seed: bytes

    def __post_init__(self) -> None:
        if any(len(seed) != SEED_BYTES for seed in (self.self_seed, self.mask_seed, self.share_seed)):
            raise UsageError(f"every secret of a node has {SEED_BYTES} bytes")

    @classmethod
    def draw(cls, random: Random = os.urandom) -> Self:
        """Fresh secrets."""
        return cls(masking.draw_seed(random), masking.draw_seed(random), masking.draw_seed(random))

    def secret_bytes(self) -> bytes:
        """96 bytes, for a node's own memory between two messages."""
        return self.self_seed + self.mask_seed + self.share_seed

    @classmethod
    def from_secret_bytes(cls, data: bytes) -> Self:
        """Reads what `secret_bytes` gave."""
        return cls(data[:SEED_BYTES], data[SEED_BYTES : 2 * SEED_BYTES], data[2 * SEED_BYTES :])
