"""Reads the scores that some verifier gave to pairs of samples, from CSV or Parquet, for an audit.

One row is one comparison::

    score     a number; may be empty where `failed` is 1
    same      1, true or same: both samples are of one person; 0, false or different: of two
    NAME_a, NAME_b    what the two people say of themselves; or NAME, one value for the comparison
    person_a, person_b    who they are, as any text; optional, both or none
    failed    1: no score could be made, because a sample was unusable; optional
    wolf      mean or best: the row is of a string that was fixed without a face, `person_a` names that string, and
              `person_b` whose template it met (`federation.audit.strings`); empty in all other rows; optional
    pad, species, level    of presentation attacks, and of people beside them: `client.audit.attack_rows`; optional

Rows that cannot be read are never dropped in silence: each has a line number and a reason. The file is read in blocks,
whose text becomes numbers at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.audit import attack_rows
from client.audit.attack_rows import ANSWERS, LEVEL, LEVELS, PAD, SPECIES
from client.audit.tables import Broken, Table, undecodable
from federation.audit.attacks import Presentations
from federation.audit.comparisons import Comparisons, Sides
from federation.audit.strings import BEST, KINDS, FixedStrings
from federation.errors import UsageError
from federation.names import name_of

LISTED: Final = 10
"""Bad rows that an error names."""

_NUMBER: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_TRUE, _FALSE = ("1", "true", "same"), ("0", "false", "different")
_LONGEST_LABEL: Final = 100


@dataclass(frozen=True, eq=False)
class ScoreFile:
    """What a file holds.

    Attributes:
        comparisons: the readable rows.
        strings: the rows of strings that were fixed without a face; None where there are none.
        presentations: attacks, and people whom detection of attacks was asked about; None where there are none.
        sha256: hex digest of the file.
        bad: the others, in order.
    """

    comparisons: Comparisons
    strings: FixedStrings | None
    presentations: Presentations | None
    sha256: str
    bad: tuple[Broken, ...]

    def require_good(self, path: Path) -> None:
        """Raises UsageError with the first bad rows if there are any."""
        if self.bad:
            raise UsageError(
                f"{path}: {_listed(self.bad)}\nmend them, or leave them out with --skip-bad, which the report will say"
            )


def _reason(path: Path, error: ValueError) -> str:
    is_of_letters = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
    return (undecodable(path) if is_of_letters else None) or str(error).splitlines()[0]


def _listed(bad: Sequence[Broken]) -> str:
    """How many bad rows there are, and the first of them."""
    first = sorted(bad, key=lambda row: row.line)[:LISTED]
    listed = "".join(f"\n  line {row.line}: {row.reason}" for row in first)
    more = f"\n  and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    return f"{len(bad)} bad rows{listed}{more}"


def read_scores(path: Path, attributes: Sequence[str]) -> ScoreFile:
    """Reads a CSV or Parquet file, whatever its name.

    Raises:
        UsageError: it cannot be read, lacks a column, or has no readable row; or pyarrow is not installed.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        table = Table.of(path)
        layout = _Layout.of(table.columns, attributes)
        reader = _Reader(layout)
        for lines, batch in table.batches(layout.columns, reader.bad):
            reader.take(lines, batch)
    except ImportError as error:
        raise UsageError("reading scores needs pyarrow: pip install 'intaglio[audit]'") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # pyarrow's errors are ValueErrors
        raise UsageError(f"{path} is no table that can be read: {_reason(path, error)}") from error
    try:
        comparisons, strings, presentations = reader.finish()
    except UsageError as error:  # without a bad row, fixed strings seldom make two halves any more
        raise UsageError(f"{path}: {error}" + (f"\nthere are {_listed(reader.bad)}" if reader.bad else "")) from error
    if not len(comparisons):
        listed = f"; line {reader.bad[0].line}: {reader.bad[0].reason}" if reader.bad else ""
        raise UsageError(f"{path} has no readable comparison{listed}")
    return ScoreFile(comparisons, strings, presentations, digest, tuple(sorted(reader.bad, key=lambda row: row.line)))


@dataclass(frozen=True)
class _Layout:
    """Which columns stand for what."""

    attributes: MappingProxyType[str, tuple[str, str]]
    people: bool
    failed: bool
    wolf: bool
    pad: bool
    attacks: bool

    @classmethod
    def of(cls, present: Sequence[str], attributes: Sequence[str]) -> _Layout:
        """Finds the columns.

        Raises:
            UsageError: one is missing or there twice.
        """
        if len(set(present)) != len(present):
            raise UsageError("two columns have the same name; rename one")
        chosen, missing = {}, [name for name in ("score", "same") if name not in present]
        for name in attributes:
            sides = (f"{name}_a", f"{name}_b")
            if name in present:
                chosen[name] = (name, name)
            elif all(side in present for side in sides):
                chosen[name] = sides
            else:
                missing.append(f"{name} (or {sides[0]} and {sides[1]})")
        people = [name in present for name in ("person_a", "person_b")]
        missing += [
            name for name, there in zip(("person_a", "person_b"), people, strict=True) if any(people) and not there
        ]
        missing += attack_rows.missing(present)
        if missing:
            raise UsageError(f"columns are missing: {', '.join(missing)}; there are: {', '.join(present) or 'none'}")
        if "wolf" in present and not all(people):
            raise UsageError("fixed strings are tried on people: a file with the column wolf has person_a and person_b")
        if PAD in present and not all(people):
            raise UsageError("faces are presented by people: a file with the column pad has person_a and person_b")
        there = [name in present for name in ("failed", "wolf", PAD, SPECIES)]
        return cls(MappingProxyType(chosen), all(people), *there)

    @property
    def columns(self) -> list[str]:
        """All that are read."""
        optional = [*(("person_a", "person_b") if self.people else ()), *(("failed",) if self.failed else ())]
        optional += [*(("wolf",) if self.wolf else ()), *((PAD,) if self.pad else ())]
        optional += (SPECIES, LEVEL) if self.attacks else ()
        return list(
            dict.fromkeys(["score", "same", *(side for both in self.attributes.values() for side in both), *optional])
        )


class _Names:
    """Small numbers for the different texts of a column; -1 for none."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}

    def encode(self, column: Any) -> NDArray[np.int32]:  # noqa: ANN401 - pyarrow has no types
        """(n,) codes of a text column without nulls."""
        encoded = column.dictionary_encode()
        texts = [name_of(text) for text in encoded.dictionary.to_pylist()]
        codes = [self.codes.setdefault(text, len(self.codes)) if text else -1 for text in texts]
        return np.asarray(np.array(codes or [-1], dtype=np.int32)[encoded.indices.to_numpy(zero_copy_only=False)])

    def decode(self, first: NDArray[np.int32], second: NDArray[np.int32] | None) -> Sides:
        """The names that are left, in order: neither bad rows nor the order of rows may show in an audit."""
        texts = list(self.codes)
        used = np.union1d(first, first if second is None else second)
        kept = sorted((texts[code], int(code)) for code in used if code >= 0)
        position = np.full(len(texts) + 1, -1, dtype=np.int32)  # the last entry stands for code -1
        position[[code for _, code in kept]] = np.arange(len(kept))
        one = position[first]
        return Sides(tuple(text for text, _ in kept), one, one if second is None else position[second])

    def unusable(self) -> NDArray[np.bool_]:
        """For each code, whether its text is too long or cannot be printed; the last entry stands for code -1."""
        return np.array([len(text) > _LONGEST_LABEL or not text.isprintable() for text in self.codes] + [False])


class _Reader:
    """Turns batches of text into arrays, and remembers why a row could not be."""

    def __init__(self, layout: _Layout) -> None:
        self._layout = layout
        self._people = _Names()
        self._species = _Names()
        self._labels = {name: _Names() for name in layout.attributes}
        self._parts: list[dict[str, NDArray[Any]]] = []
        self.bad: list[Broken] = []

    def take(self, lines: NDArray[np.int64], batch: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        """Takes a batch of text columns whose rows stand on `lines`."""
        faults = _Faults(len(lines))
        failed = faults.answer("failed", batch["failed"], optional=True) if self._layout.failed else None
        score = _numbers(batch["score"])
        if failed is not None:
            score[failed] = np.nan
        unread = ~np.isfinite(score) & (True if failed is None else ~failed)
        faults.add("the score has a comma: write a point", _has_comma(batch["score"]) & unread)
        faults.add("the score is not a finite number", unread)
        same = faults.answer("same", batch["same"])
        part: dict[str, NDArray[Any]] = {"score": score, "same": same}
        wolf = None
        if self._layout.wolf:
            part["wolf"] = faults.kind("wolf", KINDS, batch["wolf"])
            wolf = part["wolf"] > 0
            faults.add("a fixed string is nobody's: 'same' says different people", wolf & same)
            if failed is not None:
                faults.add("a fixed string has a score", wolf & failed)
        if failed is not None:
            part["failed"] = failed
        if self._layout.pad:
            part |= self._presented(batch, faults, len(lines))
            for reason, where in attack_rows.faults_of(part, wolf=wolf):
                faults.add(reason, where)
        for name, (first, second) in self._layout.attributes.items():
            codes = [self._labels[name].encode(batch[column]) for column in dict.fromkeys((first, second))]
            part |= {f"{name} {side}": side_codes for side, side_codes in enumerate(codes, 1)}
            unusable = self._labels[name].unusable()
            faults.add(f"a value of {name!r} is too long or not printable", unusable[codes[0]] | unusable[codes[-1]])
            faults.add(f"one person with two values of {name!r}", same & (codes[0] != codes[-1]))
            if wolf is not None:
                labelled = (codes[0] >= 0) | (codes[-1] >= 0)
                faults.add(f"a fixed string is in no group: leave {name!r} empty", wolf & labelled)
        if self._layout.people:
            one, other = (self._people.encode(batch[column]) for column in ("person_a", "person_b"))
            part["person 1"], part["person 2"] = one, other
            faults.add("a person has no name", (one < 0) | (other < 0))
            faults.add("'same' and the names of the people contradict each other", (one == other) != same)
        self._keep(lines, part, faults)

    def _presented(self, batch: Any, faults: _Faults, count: int) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - no types
        """The columns about presentation attacks, as numbers."""
        nobody = {SPECIES: np.full(count, -1, dtype=np.int32), LEVEL: np.zeros(count, dtype=np.int32)}
        answers = {PAD: faults.kind(PAD, ANSWERS, batch[PAD])}
        if not self._layout.attacks:
            return answers | nobody
        codes = self._species.encode(batch[SPECIES])
        faults.add("a species is too long or not printable", self._species.unusable()[codes])
        return answers | {SPECIES: codes, LEVEL: faults.kind(LEVEL, LEVELS, batch[LEVEL])}

    def _keep(self, lines: NDArray[np.int64], part: dict[str, NDArray[Any]], faults: _Faults) -> None:
        self.bad += [
            Broken(int(lines[row]), faults.reasons[faults.reason[row]]) for row in np.flatnonzero(faults.reason)
        ]
        good = faults.reason == 0
        self._parts.append({name: values[good] for name, values in (part | {"line": lines}).items()})

    def finish(self) -> tuple[Comparisons, FixedStrings | None, Presentations | None]:
        """Everything that could be read.

        Raises:
            UsageError: the fixed strings cannot have been chosen on one half of the people and tried on the other.
        """
        names = self._parts[0] if self._parts else {}
        whole = {name: np.concatenate([part[name] for part in self._parts]) for name in names}
        self._parts.clear()
        fixed: dict[str, NDArray[Any]] = {}
        if self._layout.wolf and whole:
            is_fixed = whole["wolf"] > 0
            fixed = {name: values[is_fixed] for name, values in whole.items()}
            whole = {name: values[~is_fixed] for name, values in whole.items()}
        presented: dict[str, NDArray[Any]] = {}
        if self._layout.pad and whole:
            presented = {name: values[whole[PAD] > 0] for name, values in whole.items()}
            people = whole[SPECIES] < 0
            whole = {name: values[people] for name, values in whole.items()}
        if self._layout.people and whole:
            whole = self._one_label_each(whole)
        empty = np.zeros(0, dtype=np.int32)

        def sides(name: str, codes: _Names) -> Sides:
            return codes.decode(whole.get(f"{name} 1", empty), whole.get(f"{name} 2"))

        comparisons = Comparisons(
            scores=whole.get("score", np.zeros(0)),
            same=whole.get("same", np.zeros(0, dtype=np.bool_)),
            attributes=MappingProxyType({name: sides(name, codes) for name, codes in self._labels.items()}),
            people=sides("person", self._people) if self._layout.people else None,
            failed=whole.get("failed", np.zeros(0, dtype=np.bool_)) if self._layout.failed else None,
        )
        strings = self._strings(fixed) if len(fixed.get("wolf", empty)) else None
        return comparisons, strings, self._presentations(presented) if len(presented.get(PAD, empty)) else None

    def _presentations(self, presented: dict[str, NDArray[Any]]) -> Presentations:
        people = self._people.decode(presented["person 1"], presented["person 2"])
        return attack_rows.presentations(presented, tuple(self._species.codes), people)

    def _strings(self, fixed: dict[str, NDArray[Any]]) -> FixedStrings:
        pairs = self._people.decode(fixed["person 1"], fixed["person 2"])
        return FixedStrings(fixed["score"], fixed["wolf"] == KINDS.index(BEST) + 1, pairs)

    def _one_label_each(self, whole: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Without rows that give a person another label than the first row did."""
        people = np.stack([whole["person 1"], whole["person 2"]], axis=1)
        faults = _Faults(len(people))
        for name in (name for name in self._labels if f"{name} 2" in whole):
            codes = np.stack([whole[f"{name} 1"], whole[f"{name} 2"]], axis=1)
            # `unique` gives the first place of each person.
            named, first = np.unique(people, return_index=True)
            label = np.full(len(self._people.codes), -1, dtype=np.int32)
            label[named] = codes.ravel()[first]
            faults.add(
                f"a person has another value of {name!r} than in an earlier row", (label[people] != codes).any(axis=1)
            )
        self._keep(whole.pop("line"), whole, faults)
        return self._parts.pop()


class _Faults:
    """The first thing that is wrong with each row of a batch."""

    def __init__(self, rows: int) -> None:
        self.reason = np.zeros(rows, dtype=np.int16)
        self.reasons = [""]

    def add(self, reason: str, where: NDArray[np.bool_]) -> None:
        """Notes `reason` for rows that have none yet."""
        self.reason[where & (self.reason == 0)] = len(self.reasons)
        self.reasons.append(reason)

    def kind(self, name: str, kinds: Sequence[str], column: Any) -> NDArray[np.int32]:  # noqa: ANN401 - no types
        """(n,) place of a word in a list, from 1 on, and 0 for none; other words are faults."""
        encoded = column.dictionary_encode()
        words = [text.strip().lower() for text in encoded.dictionary.to_pylist()] or [""]
        indices = encoded.indices.to_numpy(zero_copy_only=False)
        unknown = np.array([word not in {"", *kinds} for word in words])
        self.add(f"{name!r} is none of {', '.join(kinds)}", unknown[indices])
        codes = np.array([kinds.index(word) + 1 if word in kinds else 0 for word in words], dtype=np.int32)
        return np.asarray(codes[indices])

    def answer(self, name: str, column: Any, *, optional: bool = False) -> NDArray[np.bool_]:  # noqa: ANN401 - no types
        """(n,) a yes-or-no column; other words are faults. Where it is `optional`, an empty one says no."""
        encoded = column.dictionary_encode()
        words = [text.strip().lower() for text in encoded.dictionary.to_pylist()] or [""]
        indices = encoded.indices.to_numpy(zero_copy_only=False)
        unknown = np.array([word not in _TRUE + _FALSE and not (optional and not word) for word in words])
        expected = f"{', '.join(_TRUE)}, {', '.join(_FALSE)}"
        self.add(f"{name!r} is none of {expected}", unknown[indices])
        return np.asarray(np.array([word in _TRUE for word in words])[indices])


def _has_comma(column: Any) -> NDArray[np.bool_]:  # noqa: ANN401 - pyarrow has no types
    import pyarrow.compute as pc  # noqa: PLC0415 - only audits need it

    return np.asarray(pc.match_substring(column, ",").to_numpy(zero_copy_only=False), dtype=np.bool_)


def _numbers(column: Any) -> NDArray[np.float64]:  # noqa: ANN401 - pyarrow has no types
    """(n,) float64; NaN for text that is no plain decimal number."""
    import pyarrow.compute as pc  # noqa: PLC0415 - only audits need it

    text = pc.utf8_trim_whitespace(column)
    plain = pc.if_else(pc.match_substring_regex(text, _NUMBER), text, None)
    return np.array(plain.cast("float64").to_numpy(zero_copy_only=False), dtype=np.float64)
