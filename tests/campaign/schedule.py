"""Which fault comes when, drawn from a seed. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

ENDING = ("front end killed", "database killed", "backend killed", "restart", "upgrade", "restore")
"""Kinds after which a server process is another one, so nothing can be said of its memory."""
LASTING = (
    "worker killed",
    "disk full",
    "disk slow",
    "disk frozen",
    "clock forward",
    "clock back",
    "network cut",
    "network slow",
    "network half open",
    "database cut",
    "strangers rush",
)
NEEDS_POSTGRES = frozenset({"database killed", "backend killed", "database cut"})
NEEDS_SQLITE = frozenset({"restore"})
NEEDS_DISK = frozenset({"disk full", "disk slow", "disk frozen"})
SECONDS = {
    "disk full": 6.0,
    "disk slow": 6.0,
    "disk frozen": 7.0,
    "clock forward": 6.0,
    "clock back": 6.0,
    "network cut": 3.0,
    "network slow": 6.0,
    "network half open": 5.0,
    "database cut": 3.0,
    "strangers rush": 8.0,
}
"""How long a fault lasts that is no single blow."""
_QUIET_SHARE = 0.1
_LASTING_ALONE = 2 / 3
"""From this part of the run on, no server process ends any more."""
_LONGEST_GAP_SECONDS = 40.0
"""Between the begins of two faults: at 70 % of capacity, a queue of ten seconds is gone in 23."""
_JUMPS = (30.0, 120.0, 1800.0)


@dataclass(frozen=True)
class Planned:
    """A fault to come.

    Attributes:
        at: seconds since the begin.
        kind: which.
        size: of a clock's jump in seconds; else 0.
    """

    at: float
    kind: str
    size: float = 0.0


def possible(database: str, *, has_disk: bool) -> list[str]:
    """The kinds that can happen to this database on this machine."""
    other = NEEDS_SQLITE if database == "postgresql" else NEEDS_POSTGRES
    missing = other | (frozenset() if has_disk else NEEDS_DISK)
    return [kind for kind in (*ENDING, *LASTING) if kind not in missing]


def draw(kinds: list[str], seconds: float, seed: int) -> list[Planned]:
    """Faults in rounds: each kind once in an order of its own, and so on until the time is over.

    The first tenth of the run is quiet; in its last third no process of a server is ended, so that memory can be
    measured there.
    """
    rng = random.Random(seed)  # noqa: S311 - chooses moments, keeps no secret
    quiet, turn = _QUIET_SHARE * seconds, _LASTING_ALONE * seconds
    ending = [kind for kind in kinds if kind in ENDING]
    lasting = [kind for kind in kinds if kind in LASTING]
    # Each kind comes at least once: half of the lasting ones wait for the last third.
    rng.shuffle(lasting)
    early = ending + lasting[: len(lasting) // 2]
    gap = min(
        _LONGEST_GAP_SECONDS, (turn - quiet) / len(early), (seconds - turn) / (1 + len(lasting) - len(lasting) // 2)
    )
    planned, at = list[Planned](), quiet
    waiting = list[str]()
    rng.shuffle(early)
    waiting += early
    is_late = False
    while at < seconds - gap / 2:
        if not is_late and at >= turn:
            is_late, waiting = True, [*lasting[len(lasting) // 2 :]]
        if not waiting:
            waiting = list(lasting if is_late else kinds)
            rng.shuffle(waiting)
        kind = waiting.pop(0)
        size = rng.choice(_JUMPS) if kind.startswith("clock") else 0.0
        planned.append(Planned(at, kind, size))
        at += gap * rng.uniform(0.8, 1.0)
    return planned
