"""The one-bit match: two parties learn accept or reject about a live face and a template, and nothing else.

Read in this order: `code` (embedding to bits), `template` (what a device keeps), `matcher` (the mathematics), `slots`,
`device`, `transcript`, `session`, `parameters` (noise and security), `wire` (bytes), `ntt` and `seal` (arithmetic).
The person's device and the matching service call it, each its own side.
"""

from federation.onebit.code import CodeSeed, binary_code, hamming_distance
from federation.onebit.device import SessionKey
from federation.onebit.matcher import Challenge, Material, match
from federation.onebit.parameters import Parameters, parameters_for
from federation.onebit.template import TemplateSecret
from federation.onebit.transcript import Decision, Operation, Transcript
from federation.onebit.wire import check_probe, check_template

__all__ = [
    "Challenge",
    "CodeSeed",
    "Decision",
    "Material",
    "Operation",
    "Parameters",
    "SessionKey",
    "TemplateSecret",
    "Transcript",
    "binary_code",
    "check_probe",
    "check_template",
    "hamming_distance",
    "match",
    "parameters_for",
]
