"""Numbers of a run: what people noticed under which fault, how long it took to recover, and what memory does. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

AFTER_SECONDS = 15.0
"""What comes so soon after a fault is put down to it, unless the next one has begun: people still queue."""
QUIET = "quiet"
MB = 1e6


@dataclass(frozen=True)
class Deed:
    """Something that an honest person did. Times are seconds of one monotonic clock.

    Attributes:
        name: "verify", "impostor", "enrol", "agree", "renew", "revoke", "erase", "settle".
        due: when the person came.
        begun: when it was the person's turn.
        ended: when it was over.
        result: "done", or the class of the error.
        why: text of the error, numbers and addresses removed.
    """

    name: str
    due: float
    begun: float
    ended: float
    result: str
    why: str = ""

    @property
    def waited(self) -> float:
        """Seconds, from the door on."""
        return self.ended - self.due


@dataclass(frozen=True)
class Struck:
    """A fault that happened.

    Attributes:
        kind: which.
        begun, ended: until its cause was gone; seconds of the same clock.
        note: what was done.
    """

    kind: str
    begun: float
    ended: float
    note: str = ""


@dataclass(frozen=True)
class Noticed:
    """What honest people noticed under one kind of fault.

    Attributes:
        kind: of fault, or "quiet".
        times: that it happened.
        deeds: that were done or tried.
        done: of them.
        refused: by class of error.
        p50, p99, longest: seconds waited by those that were done; 0 when there are none.
        recovery: seconds from each fault's end to the first deed that began since then and was done.
        never: faults after which none was done any more.
    """

    kind: str
    times: int
    deeds: int
    done: int
    refused: Counter[str]
    p50: float
    p99: float
    longest: float
    recovery: tuple[float, ...]
    never: int


def fault_of(deed: Deed, faults: Sequence[Struck]) -> str:
    """The fault under which a deed was: the last that it overlaps, with some seconds after its end."""
    over = [one for one in faults if deed.due < one.ended + AFTER_SECONDS and deed.ended > one.begun]
    return over[-1].kind if over else QUIET


def noticed(deeds: Sequence[Deed], faults: Sequence[Struck]) -> list[Noticed]:
    """One row for quiet times, and one for each kind of fault that happened."""
    by_kind = defaultdict[str, list[Deed]](list)
    for deed in deeds:
        by_kind[fault_of(deed, faults)].append(deed)
    done = sorted((deed.begun, deed.ended) for deed in deeds if deed.result == "done")
    recovered = defaultdict[str, list[float | None]](list)
    for one in faults:
        ends = [ended for begun, ended in done if begun >= one.ended]
        recovered[one.kind].append(min(ends) - one.ended if ends else None)
    rows = []
    for kind in (QUIET, *dict.fromkeys(one.kind for one in faults)):
        theirs = by_kind[kind]
        waits = [deed.waited for deed in theirs if deed.result == "done"]
        p50, p99, longest = (float(x) for x in np.percentile(waits, (50, 99, 100))) if waits else (0.0, 0.0, 0.0)
        refused = Counter(deed.result for deed in theirs if deed.result != "done")
        times = recovered[kind]
        recovery = tuple(seconds for seconds in times if seconds is not None)
        never = len(times) - len(recovery)
        rows.append(Noticed(kind, len(times), len(theirs), len(waits), refused, p50, p99, longest, recovery, never))
    return rows


def plain(text: str) -> str:
    """An error's text without numbers and addresses, so that equal ones can be counted."""
    return re.sub(r"\d+", "N", re.sub(r"\S+:\d+", "ADDRESS", text))[:160]


@dataclass(frozen=True)
class Sample:
    """Memory of one process at one moment.

    Attributes:
        at: seconds.
        role: such as "front end 1".
        pid: of it; a role has a new one after its process ended.
        resident: bytes.
    """

    at: float
    role: str
    pid: int
    resident: int


@dataclass(frozen=True)
class Trend:
    """What the memory of a process that lived on did.

    Attributes:
        role: of it.
        first, last: megabytes resident, median of the first and the last tenth.
        growth: megabytes that the fitted line rises in the time.
        seconds: that it was watched.
    """

    role: str
    first: float
    last: float
    growth: float
    seconds: float


def trends(samples: Iterable[Sample], since: float, until: float) -> list[Trend]:
    """A line for each process that was there all the time. By Theil and Sen: one spike moves it by nothing."""
    lives = defaultdict[tuple[str, int], list[Sample]](list)
    for sample in samples:
        if since <= sample.at <= until:
            lives[sample.role, sample.pid].append(sample)
    found = []
    for (role, _), life in sorted(lives.items()):
        if len(life) < 10 or life[-1].at - life[0].at < 0.8 * (until - since):
            continue
        thinned = life[:: max(1, len(life) // 300)]
        at, size = np.array([one.at for one in thinned]), np.array([one.resident / MB for one in thinned])
        first, second = np.triu_indices(len(at), k=1)
        slope = float(np.median((size[second] - size[first]) / (at[second] - at[first])))
        part = max(1, len(size) // 10)
        seconds = life[-1].at - life[0].at
        found.append(
            Trend(role, float(np.median(size[:part])), float(np.median(size[-part:])), slope * seconds, seconds)
        )
    return found
