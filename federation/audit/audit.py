"""An audit: from the comparisons of a verifier to bounds and verdicts for every group of people.

Impostors are of the same cell: two people who differ in sex or age are easier to tell apart, and a false match rate
over such pairs hides what happens between people who are alike (NIST FRVT part 3, NISTIR 8280, 2019). Pairs across
cells are counted and not judged.

Everything here depends on the input and the seed alone.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.audit.attacks import Presentations, pad_rates
from federation.audit.bootstrap import Kind, Replicates, draw, estimate
from federation.audit.cells import REPLICATES, Bootstrap, Cell, Counts, Estimate, Limits, Rate, rounded
from federation.audit.comparisons import Comparisons
from federation.audit.differentials import DIFFERENTIALS
from federation.audit.intervals import bounded, rate_of
from federation.audit.marginals import marginals
from federation.audit.report import AuditReport
from federation.audit.strings import FixedStrings, wolf_rates
from federation.errors import UsageError
from federation.learning.evaluation import DetCurve
from federation.names import name_of

_MOST_CELLS: Final = 4096
_DET_FMR: Final = tuple(digit * 10.0**-power for power in range(1, 7) for digit in (5, 2, 1))


def audit_scores(
    comparisons: Comparisons,
    *,
    limits: Limits,
    strings: FixedStrings | None = None,
    presentations: Presentations | None = None,
    threshold: float | None = None,
    stated_fmr: float | None = None,
    distance: bool = False,
    expected: Mapping[str, Sequence[str]] | None = None,
    subject: str = "a verifier",
    input_sha256: str = "",
    bad_rows: int = 0,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> AuditReport:
    """Audits one verifier.

    Args:
        comparisons: what it made of pairs of samples. They are to be samples whose owners agreed to an audit
            (`federation.consent.life.select_samples`).
        limits: what every cell has to keep.
        strings: what the verifier made of strings that were fixed without a face; None where nobody tried any.
        presentations: what its presentation attack detection said to attacks and to people; None where nobody asked.
        threshold: of the verifier, in the unit of its scores; or
        stated_fmr: the rate over all same-cell impostors that a threshold is to be found for.
        distance: whether small scores mean alike.
        expected: values of attributes that have to be there, besides those that are; a cell without data then counts.
        subject: what is tested.
        input_sha256: of the file that the comparisons came from.
        bad_rows: how many of its rows were left out.
        replicates: draws of people for bounds of estimates.
        seed: of the draws.

    Raises:
        UsageError: arguments contradict each other, or there is nothing to audit.
    """
    if (threshold is None) == (stated_fmr is None):
        raise UsageError("give either the verifier's threshold or a false match rate to find it for")
    if strings is not None:
        _require_of_these_people(strings, comparisons)
    sign = -1.0 if distance else 1.0
    table = _Table.of(comparisons, sign, expected or {})
    if threshold is None and stated_fmr is not None:
        threshold = sign * table.threshold_at(stated_fmr)
    assert threshold is not None  # noqa: S101 - one of both was given
    at = sign * threshold
    bootstrap = Bootstrap(replicates if comparisons.people is not None else 0, seed)
    drawn = (
        draw(
            table.kind(same=True),
            table.kind(same=False),
            people=table.people,
            cells=len(table.labels),
            threshold=at,
            limit=limits.fmr,
            bootstrap=bootstrap,
        )
        if bootstrap.replicates
        else None
    )
    cells = tuple(table.result(index, at, limits, drawn) for index in range(len(table.labels)))
    attributes = tuple(comparisons.attributes)
    return AuditReport(
        subject=subject,
        input_sha256=input_sha256,
        attributes=attributes,
        distance=distance,
        threshold=threshold,
        stated_fmr=stated_fmr,
        limits=limits,
        bootstrap=bootstrap,
        counts=table.counts(bad_rows),
        overall=table.result(None, at, limits, drawn),
        cells=cells,
        marginals=marginals(attributes, cells),
        differentials=_differentials(cells, drawn, limits.confidence),
        wolf=None if strings is None else wolf_rates(strings, sign, at, limits.confidence),
        pad=None if presentations is None else pad_rates(presentations, sign, at, limits.confidence),
    )


def _require_of_these_people(strings: FixedStrings, comparisons: Comparisons) -> None:
    """Fixed strings are tried on people of this very audit, who agreed to it, and are none of them.

    Raises:
        UsageError: they are not, or nobody knows.
    """
    if comparisons.people is None:
        raise UsageError("fixed strings are tried on people, so the comparisons of the audit have to name them")
    known = frozenset(comparisons.people.names)
    if strangers := len(strings.owners - known):
        raise UsageError(f"fixed strings are tried on {strangers} people who are in no comparison of the audit")
    if any(strings.pairs.names[code] in known for code in np.unique(strings.pairs.first)):
        raise UsageError("a fixed string has the name of a person; it is nobody's face, so name it otherwise")


@dataclass(frozen=True, eq=False)
class _Table:
    """The comparisons as similarities, with the cell of each.

    Attributes:
        source: the input.
        scores: (n,) similarities.
        labels: of every cell that has to be there.
        cell: (n,) position in `labels`; -1 outside all cells.
        undeclared: how many comparisons have a person without a label.
    """

    source: Comparisons
    scores: NDArray[np.float64]
    labels: tuple[tuple[str, ...], ...]
    cell: NDArray[np.int32]
    undeclared: int

    @classmethod
    def of(cls, source: Comparisons, sign: float, expected: Mapping[str, Sequence[str]]) -> _Table:
        """Finds the cell of every comparison.

        Raises:
            UsageError: a genuine pair has two labels, or there are no cells or too many.
        """
        if unknown := expected.keys() - source.attributes.keys():
            raise UsageError(f"{sorted(unknown)} are expected but are not among the attributes")
        values = [
            sorted({*sides.names, *(name_of(text) for text in expected.get(name, ()))})
            for name, sides in source.attributes.items()
        ]
        if not 0 < math.prod(map(len, values)) <= _MOST_CELLS:
            raise UsageError(
                f"the attributes make {math.prod(map(len, values))} cells; 1 to {_MOST_CELLS} can be audited"
            )
        cell = np.zeros(len(source), dtype=np.int32)
        undeclared, across = np.zeros(len(source), dtype=np.bool_), np.zeros(len(source), dtype=np.bool_)
        for names, sides in zip(values, source.attributes.values(), strict=True):
            position = np.array([names.index(name) for name in sides.names] or [0], dtype=np.int32)
            undeclared |= (sides.first < 0) | (sides.second < 0)
            across |= sides.first != sides.second
            cell = cell * np.int32(len(names)) + position[sides.first]
        torn = np.flatnonzero(source.same & across)
        if len(torn):
            raise UsageError(f"comparison number {torn[0] + 1} is of one person with two values of an attribute")
        cell[undeclared | across] = -1
        return cls(source, sign * source.scores, tuple(itertools.product(*values)), cell, int(undeclared.sum()))

    def select(self, index: int | None, *, same: bool) -> NDArray[np.intp]:
        """Rows of one cell, or of all, that have a score."""
        inside = (self.cell >= 0) if index is None else (self.cell == index)
        usable = inside & (self.source.same == same)
        return np.flatnonzero(usable if self.source.failed is None else usable & ~self.source.failed)

    def threshold_at(self, fmr: float) -> float:
        """The lowest similarity that keeps the rate over all impostors inside cells."""
        if not 0 < fmr < 1:
            raise UsageError("a false match rate lies between 0 and 1")
        genuine, impostor = (self.scores[self.select(None, same=same)] for same in (True, False))
        if len(impostor) * fmr < 1 or not len(genuine):
            raise UsageError(
                f"{len(impostor)} impostor and {len(genuine)} genuine comparisons inside groups cannot set a "
                f"threshold for a false match rate of {fmr:g}: at least {math.ceil(1 / fmr)} and 1 are needed"
            )
        threshold = DetCurve.of(genuine, impostor).threshold_at(fmr)
        if math.isinf(threshold):
            raise UsageError("no score is above enough impostors: the verifier does not reach this false match rate")
        return threshold

    def kind(self, *, same: bool) -> Kind:
        """Genuine or impostor comparisons for the bootstrap, with people counted from zero."""
        people = self.source.people
        assert people is not None  # noqa: S101 - only asked for where people are known
        rows = self.select(None, same=same)
        position = np.cumsum(self._inside, dtype=np.int32) - 1
        return Kind(self.scores[rows], self.cell[rows], position[people.first[rows]], position[people.second[rows]])

    @property
    def people(self) -> int:
        """How many people are in some cell."""
        return int(self._inside.sum())

    @functools.cached_property
    def _inside(self) -> NDArray[np.bool_]:
        """(named people,) whether each is in some cell."""
        people = self.source.people
        assert people is not None  # noqa: S101 - see `kind`
        result = np.zeros(len(people.names), dtype=np.bool_)
        result[people.first[self.cell >= 0]] = True
        result[people.second[self.cell >= 0]] = True
        return result

    def counts(self, bad: int) -> Counts:
        """What became of the input."""
        across = int(np.count_nonzero(self.cell < 0)) - self.undeclared
        failed = 0 if self.source.failed is None else int(self.source.failed.sum())
        return Counts(len(self.source), bad, self.undeclared, across, failed)

    def result(self, index: int | None, at: float, limits: Limits, drawn: Replicates | None) -> Cell:
        """Everything about one cell, or about all together."""
        genuine, impostor = self.select(index, same=True), self.select(index, same=False)
        own, others = self.scores[genuine], self.scores[impostor]
        eer = tar = math.nan
        det: list[tuple[float, float]] = []
        if len(own) and len(others):
            curve = DetCurve.of(own, others)
            eer = curve.eer
            tar = curve.tar_at(limits.fmr) if len(others) * limits.fmr >= 1 else math.nan
            det = [(rounded(fmr), rounded(1 - curve.tar_at(fmr))) for fmr in _DET_FMR if len(others) * fmr >= 1]
        column = len(self.labels) if index is None else index
        confidence = limits.confidence
        return Cell(
            labels=() if index is None else self.labels[index],
            people=self._people(index),
            fmr=self._rate(others, at, impostor, confidence),
            # An owner is rejected below the threshold, not at it.
            fnmr=self._rate(-own, float(np.nextafter(-at, np.inf)), genuine, confidence),
            failure_to_enrol=self._failure(index, confidence),
            eer=estimate(eer, None if drawn is None else drawn.eer[:, column], confidence),
            tar=estimate(tar, None if drawn is None else drawn.tar[:, column], confidence),
            det=tuple(det),
        )

    def _people(self, index: int | None) -> int | None:
        people = self.source.people
        if people is None:
            return None
        inside = (self.cell >= 0) if index is None else (self.cell == index)
        return len(np.union1d(people.first[inside], people.second[inside]))

    def _rate(self, badness: NDArray[np.float64], threshold: float, rows: NDArray[np.intp], confidence: float) -> Rate:
        people = self.source.people
        if people is None:
            return bounded(int(np.count_nonzero(badness >= threshold)), len(rows), float(len(rows)), confidence)
        return rate_of(badness, threshold, people.first[rows], people.second[rows], confidence)

    def _failure(self, index: int | None, confidence: float) -> Rate | None:
        """People none of whose genuine comparisons could be made; comparisons where the data do not name people."""
        if self.source.failed is None:
            return None
        inside = (self.cell >= 0) if index is None else (self.cell == index)
        rows = np.flatnonzero(inside & self.source.same)
        failed, people = self.source.failed[rows], self.source.people
        if people is None:
            return bounded(int(failed.sum()), len(rows), float(len(rows)), confidence)
        enrolled = len(np.unique(people.first[rows[~failed]]))
        trials = len(np.unique(people.first[rows]))
        return bounded(trials - enrolled, trials, float(trials), confidence)


def _differentials(cells: Sequence[Cell], drawn: Replicates | None, confidence: float) -> dict[str, Estimate]:
    """Every measure over the cells that have both rates."""
    full = [index for index, cell in enumerate(cells) if cell.fmr.trials and cell.fnmr.trials]
    fmr = np.array([cells[index].fmr.value for index in full])
    fnmr = np.array([cells[index].fnmr.value for index in full])
    replicates = [] if drawn is None else list(zip(drawn.fmr[:, full], drawn.fnmr[:, full], strict=True))
    result = {}
    for name, measure in DIFFERENTIALS.items():
        draws = np.array([measure(one, other) for one, other in replicates]) if replicates else None
        result[name] = estimate(measure(fmr, fnmr), draws, confidence)
    return result
