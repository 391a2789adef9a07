"""The one-bit match: two parties learn accept or reject about a live face and a template, and nothing else.

Read in this order: `code` (embedding to bits), `matcher` (the mathematics), `device`, `transcript`, `parameters`
(noise and security), `wire` (bytes), `seal` (the library).
"""

from federation.onebit.code import BITS, CodeSeed, binary_code, hamming_distance
from federation.onebit.device import DeviceSecret
from federation.onebit.matcher import Challenge, check_template, match
from federation.onebit.transcript import Decision, Operation, Transcript
from federation.onebit.wire import check_ciphertext, check_public_key

__all__ = [
    "BITS",
    "Challenge",
    "CodeSeed",
    "Decision",
    "DeviceSecret",
    "Operation",
    "Transcript",
    "binary_code",
    "check_ciphertext",
    "check_public_key",
    "check_template",
    "hamming_distance",
    "match",
]
