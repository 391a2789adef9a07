"""What an audit found out, and its one canonical form.

A report holds counts, bounds and verdicts of cells (`federation.audit.cells`): no scores, no names of people.

The bytes are canonical JSON of `federation.statements`: whole numbers stay numbers, all others are decimal text with
six digits, except the threshold, which is exact. Verdicts are in the bytes for readers; whoever parses them computes
them again, so a verdict cannot be changed alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Self

from federation.audit.cells import DIFFERENTIALS, Bootstrap, Cell, Counts, Estimate, Limits, Marginal, Rate, rounded
from federation.audit.presentation import PadRates, json_of_pad, judge_pad, pad_of_json
from federation.audit.wolf import WOLF_FACTOR, WolfRates, json_of_wolves, judge_wolves, wolves_of_json
from federation.errors import MalformedMessageError, UsageError
from federation.statements import JsonValue, canonical_bytes, require_text
from federation.verdict import Verdict

FORMAT: Final = "intaglio-audit/3"
MOST_REPORT_BYTES: Final = 1 << 23
_DIGEST_HEX = 64


@dataclass(frozen=True)
class AuditReport:
    """The result of one audit.

    Attributes:
        subject: what was tested, in the auditor's words.
        input_sha256: hex digest of the file of scores, or empty.
        attributes: names of what people were grouped by.
        distance: whether scores are distances: accepted at or below the threshold.
        threshold: of the verifier, in the unit of its scores.
        stated_fmr: the rate that `threshold` was chosen for on these very scores; None where it was given.
        limits: what was asked.
        bootstrap: how bounds of estimates were made.
        counts: what became of the input.
        overall: all cells together; never judged.
        cells: in the order of their labels. Every combination that was expected is there, even an empty one.
        marginals: single axes, for comparison.
        differentials: by the names of `federation.audit.cells.DIFFERENTIALS`.
        wolf: how often fixed strings without a face were accepted; None where nobody tried any.
        pad: how often presentation attacks passed; None where nobody made any.
    """

    subject: str
    input_sha256: str
    attributes: tuple[str, ...]
    distance: bool
    threshold: float
    stated_fmr: float | None
    limits: Limits
    bootstrap: Bootstrap
    counts: Counts
    overall: Cell
    cells: tuple[Cell, ...]
    marginals: tuple[Marginal, ...]
    differentials: Mapping[str, Estimate]
    wolf: WolfRates | None = None
    pad: PadRates | None = None

    def __post_init__(self) -> None:
        require_text("the subject of an audit", self.subject, most=200)
        if self.input_sha256 and len(bytes.fromhex(self.input_sha256)) * 2 != _DIGEST_HEX:
            raise UsageError("the digest of the input is a SHA-256 in hex")
        for attribute in self.attributes:
            require_text("an attribute", attribute, most=100)
        labels = [cell.labels for cell in self.cells]
        if not labels or labels != sorted(set(labels)) or any(len(each) != len(self.attributes) for each in labels):
            raise UsageError("a report has cells in order, each once, with one label for each attribute")
        if not math.isfinite(self.threshold) or not (self.stated_fmr is None or 0 < self.stated_fmr < 1):
            raise UsageError("a threshold is a number, and a stated rate lies between 0 and 1")
        if self.differentials.keys() != set(DIFFERENTIALS):
            raise UsageError("a report has every differential")

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all cells."""
        return Verdict.worst([cell.verdict(self.limits) for cell in self.cells])

    @property
    def wolf_limit(self) -> float:
        """What the mean string's rate has to keep: ten times the rate that is stated, or else asked of every cell."""
        return WOLF_FACTOR * self._stated

    @property
    def wolf_verdict(self) -> Verdict:
        """Of the mean string. It is no part of `verdict`: a trial may be served whatever it says (ADR 0127)."""
        return judge_wolves(self.wolf, self._stated)

    @property
    def pad_verdict(self) -> Verdict:
        """Of presentation attack detection. It is no part of `verdict` either: who asks for none is served without."""
        return judge_pad(self.pad, self.limits.fnmr)

    @property
    def outcome(self) -> Verdict:
        """The worst verdict of everything that was measured."""
        verdicts = [self.verdict]
        verdicts += [] if self.wolf is None else [self.wolf_verdict]
        verdicts += [] if self.pad is None else [self.pad_verdict]
        return Verdict.worst(verdicts)

    @property
    def _stated(self) -> float:
        return self.limits.fmr if self.stated_fmr is None else self.stated_fmr

    @property
    def worst_cell(self) -> Cell:
        """The cell to look at first: the worst verdict, then the highest false match rate over its limit."""
        order = {Verdict.FAIL: 2, Verdict.INSUFFICIENT: 1, Verdict.PASS: 0}

        def badness(cell: Cell) -> tuple[float, ...]:
            over = max(cell.fmr.low / self.limits.fmr, cell.fnmr.low / self.limits.fnmr)
            return order[cell.verdict(self.limits)], over, cell.fmr.high / self.limits.fmr

        return max(self.cells, key=badness)

    def worst(self, rate: str) -> Cell | None:
        """The cell with the highest `fmr` or `fnmr`, the higher bound deciding among equals; None without data."""
        tried = [cell for cell in self.cells if getattr(cell, rate).trials]
        return max(tried, key=lambda cell: (getattr(cell, rate).value, getattr(cell, rate).high), default=None)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        body: dict[str, JsonValue] = {
            "format": FORMAT,
            "subject": self.subject,
            "attributes": list(self.attributes),
            "scale": "distance" if self.distance else "similarity",
            "threshold": repr(float(self.threshold)),
            "limits": _limits_json(self.limits),
            "bootstrap": {"replicates": self.bootstrap.replicates, "seed": self.bootstrap.seed},
            "counts": {name: getattr(self.counts, name) for name in _COUNTS},
            "verdict": self.verdict.value,
            "overall": _cell_json(self.overall, None),
            "cells": [_cell_json(cell, self.limits) for cell in self.cells],
            "marginals": [
                {"attribute": one.attribute, "label": one.label, **_numbers(fmr=one.fmr, fnmr=one.fnmr)}
                for one in self.marginals
            ],
            "differentials": {name: _estimate_json(estimate) for name, estimate in self.differentials.items()},
            "pad": json_of_pad(self.pad),
            "pad_verdict": self.pad_verdict.value,
            "wolf": json_of_wolves(self.wolf),
            "wolf_verdict": self.wolf_verdict.value,
        }
        if self.input_sha256:
            body["input_sha256"] = self.input_sha256
        return canonical_bytes(body | _numbers(stated_fmr=self.stated_fmr))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote; what parses gives the same bytes again.

        Raises:
            MalformedMessageError: any other bytes.
        """
        if len(data) > MOST_REPORT_BYTES:
            raise MalformedMessageError(f"a report has at most {MOST_REPORT_BYTES} bytes, this one {len(data)}")
        try:
            report = cls._from_json(json.loads(data.decode(), parse_float=_refuse, parse_constant=_refuse))
            same = report.to_bytes() == data
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError, UsageError) as error:
            raise MalformedMessageError("the bytes are not an audit report of this version") from error
        if not same:
            raise MalformedMessageError("the audit report is not in canonical form")
        return report

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Self:
        if value["format"] != FORMAT:
            raise UsageError("another format")
        limits = value["limits"]
        return cls(
            subject=value["subject"],
            input_sha256=value.get("input_sha256", ""),
            attributes=tuple(value["attributes"]),
            distance=value["scale"] == "distance",
            threshold=float(value["threshold"]),
            stated_fmr=_read(value, "stated_fmr"),
            limits=Limits(
                float(limits["fmr"]),
                float(limits["fnmr"]),
                _read(limits, "failure_to_enrol"),
                float(limits["confidence"]),
            ),
            bootstrap=Bootstrap(**value["bootstrap"]),
            counts=Counts(**value["counts"]),
            overall=_read_cell(value["overall"]),
            cells=tuple(map(_read_cell, value["cells"])),
            marginals=tuple(
                Marginal(one["attribute"], one["label"], _read(one, "fmr"), _read(one, "fnmr"))
                for one in value["marginals"]
            ),
            differentials={name: _read_estimate(value["differentials"][name]) for name in DIFFERENTIALS},
            wolf=wolves_of_json(value["wolf"]),
            pad=pad_of_json(value["pad"]),
        )


_COUNTS = ("comparisons", "bad", "undeclared", "across", "failed")


def _text(number: float) -> str:
    return repr(rounded(number))


def _numbers(**numbers: float | None) -> dict[str, JsonValue]:
    """Decimal texts; what is None is left out, as the canonical form has no null."""
    return {name: _text(number) for name, number in numbers.items() if number is not None}


def _limits_json(limits: Limits) -> dict[str, JsonValue]:
    return _numbers(
        fmr=limits.fmr,
        fnmr=limits.fnmr,
        failure_to_enrol=limits.failure_to_enrol,
        confidence=limits.confidence,
    )


def _estimate_json(estimate: Estimate) -> dict[str, JsonValue]:
    return _numbers(value=estimate.value, low=estimate.low, high=estimate.high)


def _cell_json(cell: Cell, limits: Limits | None) -> dict[str, JsonValue]:
    body: dict[str, JsonValue] = {
        "labels": list(cell.labels),
        "fmr": cell.fmr.to_json(),
        "fnmr": cell.fnmr.to_json(),
        "eer": _estimate_json(cell.eer),
        "tar": _estimate_json(cell.tar),
        "det": [[_text(fmr), _text(fnmr)] for fmr, fnmr in cell.det],
    }
    if cell.people is not None:
        body["people"] = cell.people
    if cell.failure_to_enrol is not None:
        body["failure_to_enrol"] = cell.failure_to_enrol.to_json()
    if limits is not None:
        body["verdict"] = cell.verdict(limits).value
        body["verdicts"] = {name: verdict.value for name, verdict in cell.verdicts(limits).items()}
    return body


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"numbers of a report are whole or text, not {text[:20]}")


def _read(value: dict[str, str], name: str) -> float | None:
    return float(value[name]) if name in value else None


def _read_estimate(value: dict[str, Any]) -> Estimate:
    return Estimate(_read(value, "value"), _read(value, "low"), _read(value, "high"))


def _read_cell(value: dict[str, Any]) -> Cell:
    return Cell(
        labels=tuple(value["labels"]),
        people=value.get("people"),
        fmr=Rate.from_json(value["fmr"]),
        fnmr=Rate.from_json(value["fnmr"]),
        failure_to_enrol=Rate.from_json(value["failure_to_enrol"]) if "failure_to_enrol" in value else None,
        eer=_read_estimate(value["eer"]),
        tar=_read_estimate(value["tar"]),
        det=tuple((float(fmr), float(fnmr)) for fmr, fnmr in value["det"]),
    )
