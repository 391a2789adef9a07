"""The columns of a score file that are about presentation attacks.

    pad       what presentation attack detection said: `attack` or `bona fide`; empty where nobody asked it
    species   of the attack, as any text; empty for people
    level     A, B or C, where there is a species

An attack shows a target's face against the target's own template, so `same` says same. It is no comparison of people,
and the reader takes it out of those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.audit.attacks import Presentations
from federation.audit.presentation import AttackLevel
from federation.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from federation.audit.comparisons import Sides

PAD, SPECIES, LEVEL = COLUMNS = ("pad", "species", "level")
ANSWERS: Final = ("bona fide", "attack")
LEVELS: Final = tuple(level.value.lower() for level in AttackLevel)


def missing(present: Sequence[str]) -> list[str]:
    """Columns that a file with some of these lacks."""
    if not {SPECIES, LEVEL} & set(present):
        return []
    return [name for name in COLUMNS if name not in present]


def faults_of(part: dict[str, NDArray[Any]], *, wolf: NDArray[np.bool_] | None) -> list[tuple[str, NDArray[np.bool_]]]:
    """What is wrong with which rows.

    Args:
        part: columns `same`, `pad` (0 for none), `species` (-1 for none) and `level` (0 for none), as numbers.
        wolf: whether a row is of a string without a face.
    """
    is_attack, asked = part[SPECIES] >= 0, part[PAD] > 0
    faults = [
        ("an attack shows its target to the target's template: 'same' says same", is_attack & ~part["same"]),
        ("an attack has an answer in 'pad'", is_attack & ~asked),
        ("an attack has a level, and nothing else has one", is_attack != (part[LEVEL] > 0)),
        ("'pad' is about presentations of one person: 'same' says same", asked & ~part["same"]),
    ]
    return (
        faults if wolf is None else [*faults, ("a string without a face was not presented", wolf & (asked | is_attack))]
    )


def presentations(whole: dict[str, NDArray[Any]], names: tuple[str, ...], people: Sides) -> Presentations:
    """The rows that were presented: attacks, and people whom detection was asked about.

    Args:
        whole: columns as for `faults_of`, and `score`; only rows that were presented.
        names: of the species, by their codes; those that are left get places in order.
        people: of these rows.

    Raises:
        UsageError: a species has two levels.
    """
    codes, levels = whole[SPECIES], whole[LEVEL]
    kept = sorted((names[code], int(code)) for code in np.unique(codes[codes >= 0]))
    place = np.full(len(names) + 1, -1, dtype=np.int32)
    found = []
    for position, (name, code) in enumerate(kept):
        place[code] = position
        own = np.unique(levels[codes == code])
        if len(own) > 1:
            raise UsageError(f"the species {name!r} has two levels; give the two two names")
        found.append(tuple(AttackLevel)[int(own[0]) - 1])
    species = tuple(name for name, _ in kept), np.asarray(place[codes], dtype=np.int32)
    refused = whole[PAD] == ANSWERS.index("attack") + 1
    return Presentations(whole["score"], np.asarray(refused), species, tuple(found), people)
