"""For whom a release's false match rate holds: the groups of people that its threshold was measured on. Pure.

A threshold that keeps a false match rate over everybody may break it for some: people who are alike are taken for each
other more often. With `ThresholdFor.WORST_GROUP` a threshold keeps the rate in every group of at least `FEWEST` people
of those who said what they are, by the upper bound. Groups are made by every attribute alone and by several together:
women, white people, white women. A smaller group is named, its rate is not known, and it sets no threshold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

from federation.errors import UsageError
from federation.rates import exact_percent
from federation.statements import JsonValue, require_text

FEWEST: Final = 40
"""People of a group that sets a threshold: with fewer, their rarest look-alikes are chance."""
_MOST_GROUPS: Final = 64
_MOST_TEXT: Final = 200
_MOST_PEOPLE: Final = 2**53 - 1
_MOST_TIMES: Final = 1e6
_SHA256_HEX = re.compile(r"[0-9a-f]{64}\Z")


class ThresholdFor(Enum):
    """Whose false match rate a threshold keeps."""

    EVERYBODY = "everybody"
    """That of all people together, as far as is known."""
    WORST_GROUP = "worst-group"
    """That of every group of at least `FEWEST` people."""


@dataclass(frozen=True)
class GroupBound:
    """What was measured of one group at the threshold.

    Attributes:
        name: its labels, such as "f / white".
        people: how many were measured.
        errors: pictures of two of them that were taken for one person's.
        trials: comparisons of two of them.
        fmr_high: upper bound of their false match rate.

    Raises:
        UsageError: a number is out of range.
    """

    name: str
    people: int
    errors: int
    trials: int
    fmr_high: float

    def __post_init__(self) -> None:
        require_text("the name of a group", self.name, most=_MOST_TEXT)
        if any(type(count) is not int for count in (self.people, self.errors, self.trials)):
            raise UsageError("a group has whole numbers of people and comparisons")
        if not (0 <= self.people <= _MOST_PEOPLE and 0 <= self.errors <= self.trials <= _MOST_PEOPLE):
            raise UsageError("a group has a number of people, and no more false matches than comparisons")
        if type(self.fmr_high) is not float or not 0 < self.fmr_high <= 1:
            raise UsageError("the bound of a group's false match rate lies between 0 and 1")

    @property
    def sets_threshold(self) -> bool:
        """Whether it is large enough."""
        return self.people >= FEWEST

    @property
    def text(self) -> str:
        """For people to read."""
        return f"{self.name} ({self.people} people)"

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object; the rate as decimal text."""
        counts: dict[str, JsonValue] = {"errors": self.errors, "people": self.people, "trials": self.trials}
        return counts | {"fmr_high": repr(self.fmr_high), "name": self.name}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(value["name"], value["people"], value["errors"], value["trials"], float(value["fmr_high"]))


@dataclass(frozen=True)
class Alike:
    """How much more often people who share a label are taken for each other than people do on average.

    A site where all are of one sex sees that, and not the average.

    Attributes:
        attribute: such as "sex".
        times: false match rate over pairs that share its value, in those over all pairs.
        low: 5 % of what drawing people again gives lies below.
        high: 95 % lies below.

    Raises:
        UsageError: a number is out of range.
    """

    attribute: str
    times: float
    low: float
    high: float

    def __post_init__(self) -> None:
        require_text("an attribute", self.attribute, most=_MOST_TEXT)
        if any(type(number) is not float for number in (self.times, self.low, self.high)):
            raise UsageError("how many times is a float")
        if not 0 <= self.low <= self.times <= self.high <= _MOST_TIMES:  # false for NaN too
            raise UsageError("how many times is inside its interval, and finite")

    @property
    def text(self) -> str:
        """For people to read.

        >>> Alike("sex", 1.62, 1.31, 1.97).text
        'where all are alike in sex, others are accepted 1.6 times as often as on average (1.3 to 2)'
        """
        interval = f"{self.low:.2g} to {self.high:.2g}"
        return (
            f"where all are alike in {self.attribute}, others are accepted {self.times:.2g} times as often as on "
            f"average ({interval})"
        )

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object, numbers as decimal text."""
        return {
            "attribute": self.attribute,
            "high": repr(self.high),
            "low": repr(self.low),
            "times": repr(self.times),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(value["attribute"], *(float(value[name]) for name in ("times", "low", "high")))


@dataclass(frozen=True)
class HeldFor:
    """For whom a stated rate holds: see the top.

    Attributes:
        rule: whose rate the threshold keeps.
        fmr: the rate that is stated.
        people: how many were measured, in all groups.
        groups: all, in the order of their names.
        alike: one for each attribute, in their order.
        scores: SHA-256, in hex, of the file of scores that all of it was measured on.

    Raises:
        UsageError: a value is out of range, or a group that sets the threshold breaks the rate.
    """

    rule: ThresholdFor
    fmr: float
    people: int
    groups: tuple[GroupBound, ...]
    alike: tuple[Alike, ...]
    scores: str

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if not names or names != sorted(set(names)) or len(names) > _MOST_GROUPS:
            raise UsageError(f"groups come in the order of their names, each once, at most {_MOST_GROUPS}")
        if [one.attribute for one in self.alike] != sorted({one.attribute for one in self.alike}):
            raise UsageError("attributes come in their order, each once")
        if type(self.fmr) is not float or not 0 < self.fmr < 1:
            raise UsageError("the false match rate must be a float between 0 and 1")
        if type(self.people) is not int or not max(g.people for g in self.groups) <= self.people <= _MOST_PEOPLE:
            raise UsageError("no group has more people than were measured")
        if not _SHA256_HEX.match(self.scores):
            raise UsageError("the digest of the scores is a SHA-256 in hex")
        if self.rule is ThresholdFor.WORST_GROUP:
            if not self.setting:
                raise UsageError(f"no group has {FEWEST} people, so none sets a threshold")
            if over := [group.name for group in self.setting if group.fmr_high > self.fmr]:
                raise UsageError(f"the threshold does not keep the rate for {over[0]}")

    @property
    def setting(self) -> tuple[GroupBound, ...]:
        """The groups that are large enough to set a threshold."""
        return tuple(group for group in self.groups if group.sets_threshold)

    @property
    def insufficient(self) -> tuple[GroupBound, ...]:
        """The others."""
        return tuple(group for group in self.groups if not group.sets_threshold)

    @property
    def text(self) -> str:
        """For people to read; groups of which nothing is known come first."""
        rate, parts = exact_percent(self.fmr), []
        if self.insufficient:
            parts.append(
                f"INSUFFICIENT for {_listed(self.insufficient)}, fewer than {FEWEST}: not known, no part in tau"
            )
        if self.rule is ThresholdFor.WORST_GROUP:
            parts.append(f"FMR at most {rate} % with 95 % for each of {_listed(self.setting)}")
        else:
            above = [group for group in self.setting if group.fmr_high > self.fmr]
            parts.append(f"FMR {rate} % for everybody together, not for each group")
            parts += [f"perhaps above it for {_listed(above)}"] if above else []
        return "; ".join([*parts, *(one.text for one in self.alike)])

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        return {
            "alike": [one.to_json() for one in self.alike],
            "fmr": repr(self.fmr),
            "groups": [group.to_json() for group in self.groups],
            "people": self.people,
            "scores": self.scores,
            "threshold_for": self.rule.value,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(
            ThresholdFor(value["threshold_for"]),
            float(value["fmr"]),
            value["people"],
            tuple(map(GroupBound.from_json, value["groups"])),
            tuple(map(Alike.from_json, value["alike"])),
            value["scores"],
        )


def _listed(groups: tuple[GroupBound, ...] | list[GroupBound]) -> str:
    return ", ".join(group.text for group in groups)
