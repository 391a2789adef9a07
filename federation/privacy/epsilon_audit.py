"""What an attack on a training found, as a release carries it: `federation.privacy.auditing` measures, this is read.

It needs nothing but Python, since whoever checks a release reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self

from federation.errors import MalformedMessageError, UsageError


class AuditMethod(StrEnum):
    """How a lower bound was found."""

    GAUSSIAN = "gaussian"
    CLOPPER_PEARSON = "clopper-pearson"
    ONE_RUN = "one-run"
    REFUSALS = "refusals"


@dataclass(frozen=True)
class EpsilonAudit:
    """A promise, and what an attack on the code that should keep it found. Public; small enough for every release.

    Attributes:
        claimed: epsilon that was promised.
        delta: that goes with both epsilons.
        lower_bound: epsilon that the mechanism has at least.
        confidence: probability that a bound found this way is true.
        runs: releases that were attacked.
        method: how.

    Raises:
        UsageError: a value is out of range.
    """

    claimed: float
    delta: float
    lower_bound: float
    confidence: float
    runs: int
    method: AuditMethod

    def __post_init__(self) -> None:
        numbers = (self.claimed, self.delta, self.lower_bound, self.confidence)
        if not all(type(value) is float and math.isfinite(value) for value in numbers):
            raise UsageError("the numbers of an audit must be finite floats")
        if not (self.claimed > 0 and 0 < self.delta < 1 and self.lower_bound >= 0 and 0 < self.confidence < 1):
            raise UsageError("an audit needs a positive claim, a bound of 0 or more, and probabilities between 0 and 1")
        if type(self.runs) is not int or self.runs < 1:
            raise UsageError("an audit needs at least one run")
        if not isinstance(self.method, AuditMethod):
            raise UsageError("an audit says how its bound was found")

    @property
    def holds(self) -> bool:
        """Whether the attack left the claim standing."""
        return self.lower_bound <= self.claimed

    def to_fields(self) -> dict[str, float | int | str]:
        """The fields as JSON values, for a document that carries an audit."""
        return {**asdict(self), "method": self.method.value}

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> Self:
        """Reads what `to_fields` wrote.

        Raises:
            MalformedMessageError: fields are missing, unknown or wrong.
        """
        try:
            return cls(**{**fields, "method": AuditMethod(str(fields["method"]))})  # type: ignore[arg-type]  # __post_init__ checks them
        except (UsageError, TypeError, KeyError, ValueError) as error:
            raise MalformedMessageError("the fields are not an audit of epsilon of this version") from error

    def to_bytes(self) -> bytes:
        """Canonical JSON: ASCII, keys sorted, no spaces; equal audits give equal bytes."""
        return json.dumps(self.to_fields(), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote, and nothing else.

        Raises:
            MalformedMessageError: any other bytes.
        """
        try:
            audit = cls.from_fields(json.loads(data))
        except (ValueError, RecursionError) as error:
            raise MalformedMessageError("the bytes are not an audit of epsilon") from error
        if audit.to_bytes() != data:
            raise MalformedMessageError("the audit of epsilon is not in its one form")
        return audit
