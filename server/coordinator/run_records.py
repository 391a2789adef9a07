"""What became of every run of the coordinator: one file for each, beside the privacy ledger.

The ledger says what a run cost and the release what came of it. This says who took part, who dropped out and at which
stage, and why a run ended without a release. It holds names of organisations. Of people a reason may say how many all
organisations together hold, which is public, and nothing else.

A run is what one reservation pays for. A start that goes on with it is one attempt more in the same file. Each write
replaces the file: a crash leaves the record before it, in which an attempt has begun and not ended. The record decides
nothing: whether a run goes on is up to `server.coordinator.checkpoint`.
"""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import quote

from federation.errors import IntaglioError, UsageError
from federation.statements import require_time, text_of_time
from server.files import make_directory, write_durably

_VERSION = 1
_SUFFIX = ".runs"
_MOST_REASON = 2000
_MOST_NAMES = 3


@dataclass(frozen=True)
class DropOut:
    """An organisation that was asked and is out.

    Attributes:
        member: its name.
        stage: what it had been asked to do, as words that follow on "asked to".
        release: out of which sum; empty when it was out before the first one, and so out of all.
        why: one clause.
    """

    member: str
    stage: str
    release: str
    why: str


@dataclass(frozen=True)
class SumRecord:
    """One sum that was opened.

    Attributes:
        release: which.
        members: names of the organisations whose inputs are in it.
    """

    release: str
    members: tuple[str, ...]


class Attendance(Protocol):
    """Who is out; `server.coordinator.secure_sums.SecureSums` knows."""

    @property
    def drop_outs(self) -> Sequence[DropOut]:
        """Who is out."""


@dataclass(frozen=True)
class Attempt:
    """One start.

    Attributes:
        flower_run: Flower's identifier of it.
        began_at: seconds since 1970.
        ended_at: seconds since 1970; None when it is under way, or died.
        reason: why it has no release; empty when it has one, or has not ended.
        asked: names of the organisations; empty when nobody was asked.
        sums: those that this attempt opened, or found opened and not recorded.
        drop_outs: in the order of stages.
    """

    flower_run: str
    began_at: int
    ended_at: int | None = None
    reason: str = ""
    asked: tuple[str, ...] = ()
    sums: tuple[SumRecord, ...] = ()
    drop_outs: tuple[DropOut, ...] = ()

    def __post_init__(self) -> None:
        require_time("the beginning of a run", self.began_at)
        if self.ended_at is not None:
            require_time("the end of a run", self.ended_at)
        texts = [self.flower_run, self.reason, *self.asked]
        texts += [text for out in self.drop_outs for text in (out.member, out.stage, out.release, out.why)]
        texts += [text for opened in self.sums for text in (opened.release, *opened.members)]
        if not all(isinstance(text, str) for text in texts):
            raise UsageError("names and reasons are text")


class Outcome(enum.StrEnum):
    """How a run stands."""

    RELEASED = "released"
    """There is a release."""
    NOT_ENDED = "not ended"
    """It is under way, or its process died."""
    INTERRUPTED = "interrupted"
    """It ended without a release, and the same settings go on with it."""
    ABORTED = "aborted"
    """It ended without a release, for good."""


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        run: its name in the ledger.
        population: whose budget pays.
        epsilon: of the plan.
        delta: of the plan.
        recipe: of the plan.
        attempts: one at least.
        goes_on: whether the same settings would go on with it.
        release: digest of what came of it, in hex; empty when nothing did.
    """

    run: str
    population: str
    epsilon: float
    delta: float
    recipe: str
    attempts: tuple[Attempt, ...]
    goes_on: bool = False
    release: str = ""

    def __post_init__(self) -> None:
        if not self.run or not self.attempts:
            raise UsageError("a run has a name and began at least once")
        if not all(isinstance(text, str) for text in (self.run, self.population, self.recipe, self.release)):
            raise UsageError("names are text")
        if not (self.epsilon > 0 and 0 < self.delta < 1):
            raise UsageError("the promise of a run is a positive epsilon and a delta below 1")

    @property
    def outcome(self) -> Outcome:
        """How it stands."""
        if self.release:
            return Outcome.RELEASED
        if self.attempts[-1].ended_at is None:
            return Outcome.NOT_ENDED
        return Outcome.INTERRUPTED if self.goes_on else Outcome.ABORTED

    @property
    def sums(self) -> tuple[SumRecord, ...]:
        """All that were opened, in order."""
        return tuple(opened for attempt in self.attempts for opened in attempt.sums)

    @property
    def drop_outs(self) -> tuple[DropOut, ...]:
        """All that there were, in order."""
        return tuple(out for attempt in self.attempts for out in attempt.drop_outs)

    @property
    def rounds(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The sums in words, and whose inputs are in them: those in a row with the same members together."""
        rows = ((members, [made.release for made in row]) for members, row in groupby(self.sums, lambda it: it.members))
        return tuple((in_short(names), members) for members, names in rows)

    @property
    def losses(self) -> tuple[tuple[DropOut, str], ...]:
        """Each drop-out once, with the sums that it is out of in words: who is gone is missed in every later one."""
        found = dict[tuple[str, str, str], list[DropOut]]()
        for out in self.drop_outs:
            found.setdefault((out.member, out.stage, out.why), []).append(out)
        return tuple((same[0], in_short([out.release for out in same])) for same in found.values())

    @property
    def text(self) -> str:
        """A few lines for people."""
        first, last = self.attempts[0], self.attempts[-1]
        ended = "" if last.ended_at is None else f" to {text_of_time(last.ended_at)}"
        starts = f"{len(self.attempts)} start{'s' * (len(self.attempts) > 1)}"
        promise = f"{self.recipe}, epsilon {self.epsilon:g}, delta {self.delta:g}, for {self.population}"
        lines = [
            f"{self.run}: {self.outcome.value}{f' {self.release[:16]}' if self.release else ''}",
            f"  {text_of_time(first.began_at)}{ended}, {starts}, {promise}",
        ]
        lines += [f"  {sums}: inputs of {', '.join(members)}" for sums, members in self.rounds]
        lines += [
            f"  {out.member} dropped out{f' of {sums}' if sums else ''}, asked to {out.stage}: {out.why}"
            for out, sums in self.losses
        ]
        return "\n".join(lines + [f"  {attempt.reason}" for attempt in self.attempts if attempt.reason])

    def to_bytes(self) -> bytes:
        """JSON."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote.

        Raises:
            UsageError: other bytes.
        """
        try:
            value = json.loads(data)
            if value.pop("version") != _VERSION:
                raise UsageError("another version of this program wrote it")
            return cls(**{**value, "attempts": tuple(_attempt(attempt) for attempt in value["attempts"])})
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise UsageError("it is no record of a run") from error


def in_short(names: Sequence[str]) -> str:
    """Names of sums that follow one another, in words.

    >>> in_short(["scales-1", "scales-2", "scales-3", "scales-4"])
    'scales-1 to scales-4'
    """
    return ", ".join(names) if len(names) <= _MOST_NAMES else f"{names[0]} to {names[-1]}"


def _attempt(value: dict[str, Any]) -> Attempt:
    sums = tuple(SumRecord(opened["release"], tuple(opened["members"])) for opened in value["sums"])
    outs = tuple(DropOut(**out) for out in value["drop_outs"])
    return Attempt(**{**value, "asked": tuple(value["asked"]), "sums": sums, "drop_outs": outs})


class OpenRecord:
    """The record of the run that is under way. `RunRecords.attempt` gives it.

    Attributes:
        record: what is on disk.
    """

    def __init__(self, path: Path, record: RunRecord, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self._attendance: Attendance | None = None
        self.record = record
        self._write(record)

    def ask(self, members: Sequence[str], attendance: Attendance) -> None:
        """The organisations are asked from now on.

        Args:
            members: their names.
            attendance: is looked at by every later step.
        """
        self._attendance = attendance
        self._replace_last(asked=tuple(members))

    def opened(self, made: SumRecord) -> None:
        """A sum is on disk. Call it again for a run that goes on: the process may have died before this was written."""
        if made.release not in {known.release for known in self.record.sums}:
            self._replace_last(sums=(*self.record.attempts[-1].sums, made))

    def release(self, digest: str) -> None:
        """The run has ended with a release. Call it before the checkpoint goes: who goes on calls it again."""
        self.record = replace(self.record, release=digest)
        self._replace_last(ended_at=int(self._clock()))

    def end(self, reason: str, *, goes_on: bool) -> None:
        """The attempt has ended without a release."""
        self.record = replace(self.record, goes_on=goes_on)
        self._replace_last(ended_at=int(self._clock()), reason=reason[:_MOST_REASON])

    def _replace_last(self, **changes: Any) -> None:  # noqa: ANN401 - fields of `Attempt`
        *before, last = self.record.attempts
        if self._attendance is not None:
            changes["drop_outs"] = tuple(self._attendance.drop_outs)
        self._write(replace(self.record, attempts=(*before, replace(last, **changes))))

    def _write(self, record: RunRecord) -> None:
        write_durably(self._path, record.to_bytes())
        self.record = record


@dataclass(frozen=True)
class RunRecords:
    """The records of all runs that one ledger pays for.

    Attributes:
        folder: made when missing.
        clock: seconds since 1970.
    """

    folder: Path
    clock: Callable[[], float] = time.time

    @classmethod
    def beside(cls, ledger: Path) -> Self:
        """Those of a privacy ledger."""
        return cls(ledger.with_name(ledger.name + _SUFFIX))

    def all(self) -> tuple[RunRecord, ...]:
        """Every record, in the order in which the runs began; none where nothing ran.

        Raises:
            UsageError: one is no record, or cannot be read; names it.
        """
        records = [self._read(path) for path in self.folder.glob("*.json")]
        return tuple(sorted(records, key=lambda record: (record.attempts[0].began_at, record.run)))

    def of_start(self, flower_run: str) -> RunRecord | None:
        """The record whose latest start is this one; None when it never came so far, or the record is damaged."""
        for path in self.folder.glob("*.json"):
            try:
                record = self._read(path)
            except UsageError:
                continue  # another run's, as far as anybody can tell; `all` says so
            if record.attempts[-1].flower_run == flower_run:
                return record
        return None

    @contextmanager
    def attempt(self, facts: RunRecord, *, goes_on: Callable[[], bool]) -> Iterator[OpenRecord]:
        """Records one start from its beginning to its end, however it ends.

        Args:
            facts: the run with this attempt alone; what an earlier record says of the others is kept.
            goes_on: whether the same settings would go on with the run, asked when it has ended without a release.

        Raises:
            UsageError: the record of an earlier attempt is damaged, or none can be written. Nobody was asked yet.
        """
        path = self._path(facts.run)
        try:
            make_directory(self.folder)
            earlier = self._read(path).attempts if path.exists() else ()
            opened = OpenRecord(path, replace(facts, attempts=earlier + facts.attempts), self.clock)
        except OSError as error:
            raise UsageError(f"the record of the run cannot be written to {path}: {error.strerror}") from error
        try:
            yield opened
        except IntaglioError as error:
            opened.end(str(error), goes_on=goes_on())
            raise
        except Exception as error:
            opened.end(f"the program failed: {type(error).__name__}", goes_on=goes_on())
            raise

    def give_up(self, run: str) -> None:
        """A run that could have gone on does not, because one with other settings takes its place."""
        path = self._path(run)
        if not path.exists():
            return  # it began under an earlier version
        record = self._read(path)
        *before, last = record.attempts
        ended = replace(last, ended_at=last.ended_at or int(self.clock()), reason=last.reason or _GIVEN_UP)
        write_durably(path, replace(record, attempts=(*before, ended), goes_on=False).to_bytes())

    def _path(self, run: str) -> Path:
        return self.folder / f"{quote(run, safe='')}.json"

    @staticmethod
    def _read(path: Path) -> RunRecord:
        try:
            return RunRecord.from_bytes(path.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        except UsageError as error:
            raise UsageError(f"{path} cannot be used: {error}; move it away once somebody looked at it") from error


_GIVEN_UP = "it did not end, and a run with other settings took its place; what it reserved stays charged"
