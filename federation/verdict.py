"""What an audit says: the one word that cells, reports and manifests of releases share."""

from __future__ import annotations

from enum import Enum
from typing import NoReturn


class Verdict(Enum):
    """Whether a limit is kept. It has no truth value: INSUFFICIENT is neither yes nor no."""

    PASS = "PASS"  # noqa: S105 - a verdict, no password
    FAIL = "FAIL"
    INSUFFICIENT = "INSUFFICIENT"
    """Too few people or comparisons to say."""

    def __bool__(self) -> NoReturn:
        """Raises TypeError; compare with a member."""
        raise TypeError("a verdict has three values; compare it with one of them")

    @classmethod
    def worst(cls, verdicts: list[Verdict]) -> Verdict:
        """FAIL before INSUFFICIENT before PASS. Nothing judged is INSUFFICIENT."""
        order = (cls.FAIL, cls.INSUFFICIENT, cls.PASS)
        return next((verdict for verdict in order if verdict in verdicts), cls.INSUFFICIENT)
