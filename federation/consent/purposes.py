"""What verification may be for, how risky that is, and what it is never for: three closed lists, in code.

No file can add to them. A policy names purposes of its own, each under one of the categories here, and may raise a
category's tier but not lower it. A name with a red line in it is refused before anything else is looked at.

A list of words stops labels, not intentions: an operator can call anything "door-access". What stops search is that no
call of this system compares one probe with more than the one template of its own device. The list makes sure that no
policy, exception, receipt or log entry can ever *say* it was allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from federation.errors import UsageError
from federation.statements import require_name

DAY_SECONDS: Final = 86_400


class Tier(IntEnum):
    """Risk of a wrong acceptance to the person. Higher is riskier."""

    MINIMAL = 1
    LIMITED = 2
    HIGH = 3


@dataclass(frozen=True)
class TierLimits:
    """What a tier asks for.

    Attributes:
        largest_fmr: a model release whose stated false match rate is larger is refused.
        longest_receipt_seconds: a receipt that is valid for longer is refused.
    """

    largest_fmr: float
    longest_receipt_seconds: int


TIERS: Final[Mapping[Tier, TierLimits]] = MappingProxyType(
    {
        Tier.MINIMAL: TierLimits(1e-2, 365 * DAY_SECONDS),
        # The false match rate that NIST SP 800-63B (revision 3, section 5.2.3) asked of every authenticator.
        Tier.LIMITED: TierLimits(1e-3, 180 * DAY_SECONDS),
        # The one that revision 4 (section 3.2.3) asks.
        Tier.HIGH: TierLimits(1e-4, 90 * DAY_SECONDS),
    }
)


class Category(Enum):
    """Everything that verification may be for: one person claims to be one person, and wants to.

    Attributes:
        lowest_tier: a policy may put a purpose of this category into this tier or a higher one.
    """

    PHYSICAL_ACCESS = "physical-access"
    """Opening a door or a device that one may open."""
    SIGN_IN = "sign-in"
    """Entering one's own account."""
    PAYMENT = "payment"
    """Confirming one's own order."""
    ESSENTIAL_SERVICE = "essential-service"
    """Health care, benefits, banking, exams: where a refusal does harm."""

    @property
    def lowest_tier(self) -> Tier:
        """The tier that no policy goes below."""
        return _LOWEST_TIERS[self]


_LOWEST_TIERS: Final[Mapping[Category, Tier]] = MappingProxyType(
    {
        Category.PHYSICAL_ACCESS: Tier.MINIMAL,
        Category.SIGN_IN: Tier.LIMITED,
        Category.PAYMENT: Tier.LIMITED,
        Category.ESSENTIAL_SERVICE: Tier.HIGH,
    }
)


class RedLine(Enum):
    """What no policy, exception or configuration allows."""

    SEARCH = "searching or identifying people among many"
    SURVEILLANCE = "surveillance or tracking"
    EMOTION = "reading emotions or intentions"
    ATTRIBUTES = "sorting people by attributes"
    PROFILING = "profiling or scoring people"
    LAW_ENFORCEMENT = "police, border or migration control"


# Stems are looked for anywhere in a name with its separators removed, so "face_search" and "facesearch" are one. That
# refuses "research" too: call it a study.
_STEMS: Final[Mapping[RedLine, tuple[str, ...]]] = MappingProxyType(
    {
        RedLine.SEARCH: (
            "search", "identif", "watchlist", "blacklist", "blocklist", "gallery", "onetomany", "1tomany", "1ton",
            "whois", "deduplic", "lookup", "recogni", "mugshot", "lineup", "findperson", "findpeople", "missingperson",
        ),
        RedLine.SURVEILLANCE: (
            "surveil", "tracking", "tracker", "monitor", "cctv", "bodycam", "crowd", "livestream", "drone", "covert",
            "stalk", "loitering", "peoplecount", "footfall",
        ),
        RedLine.EMOTION: (
            "emotion", "affect", "sentiment", "mood", "stress", "attention", "engagement", "liedetect", "deception",
            "intent", "fatigue", "personality",
        ),
        RedLine.ATTRIBUTES: (
            "attribute", "demographic", "gender", "ethnic", "racial", "religio", "sexual", "orientation", "disab",
            "nationality", "ageestimat", "agegroup", "politic", "categoris", "categoriz", "classif",
        ),
        RedLine.PROFILING: (
            "profil", "socialscor", "creditscor", "scoring", "ranking", "predict", "targeting", "advert", "marketing",
            "crimin", "riskscor", "trustworth",
        ),
        RedLine.LAW_ENFORCEMENT: (
            "police", "policing", "lawenforce", "enforcement", "suspect", "fugitive", "warrant", "prosecut",
            "investigat", "intelligence", "migration", "immigra", "asylum", "deport", "bordercontrol", "military",
        ),
    }
)  # fmt: skip

# Too short to be looked for inside other words: each is a word of the name, or two that follow on each other.
_WORDS: Final[Mapping[RedLine, frozenset[str]]] = MappingProxyType(
    {
        RedLine.SEARCH: frozenset({"1n", "1-n", "find", "match-all", "matchall"}),
        RedLine.SURVEILLANCE: frozenset({"track", "spy", "watch", "stream"}),
        RedLine.ATTRIBUTES: frozenset({"age", "race", "sex", "skin"}),
        RedLine.PROFILING: frozenset({"score", "rank", "ads"}),
        RedLine.LAW_ENFORCEMENT: frozenset({"ice", "dea", "fbi", "border", "army"}),
    }
)
_SEPARATORS = re.compile(r"[._/-]+")


def red_line_of(purpose: str) -> RedLine | None:
    """The red line that the name of a purpose crosses, or None.

    >>> red_line_of("door-access") is None
    True
    >>> red_line_of("visitor-re-identification")
    <RedLine.SEARCH: 'searching or identifying people among many'>
    """
    parts = _SEPARATORS.split(purpose.lower())
    words, joined = {*parts, *map("-".join, pairwise(parts))}, "".join(parts)
    for line in RedLine:
        if any(stem in joined for stem in _STEMS[line]) or words & _WORDS.get(line, frozenset()):
            return line
    return None


def require_purpose(purpose: str) -> None:
    """Returns when `purpose` may be named at all.

    Raises:
        UsageError: it is no name, or crosses a red line.
    """
    require_name("a purpose", purpose)
    line = red_line_of(purpose)
    if line is not None:
        raise UsageError(f"the purpose {purpose!r} is never allowed: {line.value}")


def require_tier(category: Category, tier: Tier) -> None:
    """Raises UsageError when `tier` is below the lowest one of `category`."""
    if tier < category.lowest_tier:
        raise UsageError(f"{category.value} is at least of tier {category.lowest_tier.value}")
