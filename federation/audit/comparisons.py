"""The input of an audit: one row for each comparison that some verifier made, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.names import name_of

Codes = NDArray[np.int32]
"""(n,) positions in a list of names; -1 for a name that was not declared."""


@dataclass(frozen=True, eq=False)
class Sides:
    """One attribute, or the name, of the two people of each comparison.

    Attributes:
        names: every different one.
        first: (n,) int32, whose sample was one side.
        second: (n,) int32, whose sample was the other. The same array as `first` for what belongs to the comparison and
            not to people, such as the camera: then one person may have several values.
    """

    names: tuple[str, ...]
    first: Codes
    second: Codes

    def __post_init__(self) -> None:
        for side in (self.first, self.second):
            if side.shape != self.first.shape or side.ndim != 1:
                raise UsageError("both sides of a column are arrays of one length")
            if len(side) and not (side.min() >= -1 and side.max() < len(self.names)):
                raise UsageError("a code is a position in the names, or -1")

    def __repr__(self) -> str:
        return f"Sides({len(self.names)} names, {len(self.first)} comparisons)"

    @classmethod
    def of(cls, first: Sequence[str], second: Sequence[str] | None = None) -> Self:
        """Codes for text; empty text is not declared. One sequence stands for both sides."""
        both = [name_of(str(text)) for text in (*first, *(second if second is not None else ()))]
        names = tuple(sorted(set(both) - {""}))
        position = {name: code for code, name in enumerate(names)} | {"": -1}
        codes = np.array([position[text] for text in both], dtype=np.int32)
        one = codes[: len(first)]
        return cls(names, one, one if second is None else codes[len(first) :])

    @property
    def of_pair(self) -> bool:
        """Whether it belongs to comparisons and not to people."""
        return self.second is self.first


@dataclass(frozen=True, eq=False)
class Comparisons:
    """All comparisons of one test. Scores and people are sensitive; the repr shows counts only.

    Attributes:
        scores: (n,) float64, finite where not `failed`.
        same: (n,) bool, whether both samples are of one person.
        attributes: by name, what the people say of themselves.
        people: who they are, or None when the data do not say.
        failed: (n,) bool, where no score could be made because a sample was unusable; None when the data do not say.
    """

    scores: NDArray[np.float64]
    same: NDArray[np.bool_]
    attributes: Mapping[str, Sides]
    people: Sides | None = None
    failed: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if not self.attributes:
            raise UsageError("an audit needs at least one attribute to group people by")
        columns = [*self.attributes.values(), *([self.people] if self.people else [])]
        lengths = {len(self.scores), len(self.same), *(len(column.first) for column in columns)}
        lengths |= {len(self.failed)} if self.failed is not None else set()
        if len(lengths) != 1:
            raise UsageError("scores, answers, attributes and people have one entry for each comparison")
        if self.same.dtype != np.bool_ or (self.failed is not None and self.failed.dtype != np.bool_):
            raise UsageError("same and failed are arrays of true and false")
        if not np.isfinite(self.scores if self.failed is None else self.scores[~self.failed]).all():
            raise UsageError("a score is not a finite number; mark comparisons without a score as failed")
        if self.people is not None:
            self._require_people(self.people)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Comparisons({len(self)}, attributes={list(self.attributes)}, people={self.people!r})"

    @classmethod
    def of(
        cls,
        scores: Sequence[float] | NDArray[np.float64],
        same: Sequence[bool] | NDArray[np.bool_],
        attributes: Mapping[str, Sequence[str] | tuple[Sequence[str], Sequence[str]]],
        *,
        people: tuple[Sequence[str], Sequence[str]] | None = None,
        failed: Sequence[bool] | NDArray[np.bool_] | None = None,
    ) -> Self:
        """Builds it from text.

        Args:
            scores: (n,).
            same: (n,).
            attributes: by name, a list of n labels of the pair, or a tuple of two such lists, one for each side.
            people: two lists of n names.
            failed: (n,) or None.

        Raises:
            UsageError: lengths differ, a score is not finite, or names and answers contradict each other.
        """
        return cls(
            np.asarray(scores, dtype=np.float64),
            np.asarray(same, dtype=np.bool_),
            MappingProxyType(
                {
                    name: Sides.of(*labels) if isinstance(labels, tuple) else Sides.of(labels)
                    for name, labels in attributes.items()
                }
            ),
            Sides.of(*people) if people is not None else None,
            None if failed is None else np.asarray(failed, dtype=np.bool_),
        )

    def _require_people(self, people: Sides) -> None:
        """A person compared with themselves is genuine, and labels belong to people: else no label can be trusted."""
        if min(people.first.min(initial=0), people.second.min(initial=0)) < 0:
            raise UsageError("a comparison has a person without a name; name all or leave the columns out")
        wrong = np.flatnonzero((people.first == people.second) != self.same)
        if len(wrong):
            raise UsageError(
                f"{len(wrong)} comparisons are marked 'same' with two different people, or 'different' with one; "
                f"the first is number {wrong[0] + 1}"
            )
        for name, sides in self.attributes.items():
            if sides.of_pair:
                continue
            label = np.full(len(people.names), -2, dtype=np.int32)
            for person, code in ((people.first, sides.first), (people.second, sides.second)):
                label[person] = code
            for person, code in ((people.first, sides.first), (people.second, sides.second)):
                wrong = np.flatnonzero(label[person] != code)
                if len(wrong):
                    raise UsageError(f"a person has two values of {name!r}; see comparison number {wrong[0] + 1}")
