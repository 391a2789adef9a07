"""What each fault does to a town, and how it is put right."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.campaign.figures import Struck
from tests.campaign.schedule import SECONDS, Planned
from tests.campaign.town import Town

_FREEZE_SECONDS, _BREATH_SECONDS = 0.3, 0.2
"""A slow disk: for so long nothing gets through, then for so long everything."""
_DELAY_SECONDS = 0.15
"""A slow network: more for whatever is passed on, in each direction."""


class Faults:
    """Strikes a town.

    Args:
        town: that is struck.
        rushing: event that sends strangers into a rush.
        seed: of which process is hit.
    """

    def __init__(self, town: Town, rushing: Any, seed: int) -> None:
        self._town, self._rushing = town, rushing
        self._rng = random.Random(f"{seed} faults")  # noqa: S311 - chooses processes, keeps no secret
        self._strikes: dict[str, Callable[[Planned], str]] = {
            "worker killed": self._kill_worker,
            "front end killed": self._kill_front_end,
            "database killed": self._kill_database,
            "backend killed": self._kill_backend,
            "restart": self._restart,
            "upgrade": self._upgrade,
            "restore": self._restore,
            "disk full": self._fill_disk,
            "disk slow": self._slow_disk,
            "disk frozen": self._freeze_disk,
            "clock forward": lambda planned: self._jump(planned, planned.size),
            "clock back": lambda planned: self._jump(planned, -planned.size),
            "network cut": lambda planned: self._spoil_network(planned, town.network.cut),
            "network slow": lambda planned: self._spoil_network(planned, lambda: town.network.slow(_DELAY_SECONDS)),
            "network half open": lambda planned: self._spoil_network(planned, town.network.half_open),
            "database cut": self._cut_database,
            "strangers rush": self._rush,
        }

    def strike(self, planned: Planned) -> Struck:
        """Does it, and puts its cause right."""
        begun = time.monotonic()
        note = self._strikes[planned.kind](planned)
        return Struck(planned.kind, begun, time.monotonic(), note)

    def _one(self) -> Any:
        """A front end that listens; two on PostgreSQL, of which one goes on."""
        listening = [one for one in self._town.front_ends if one.port]
        return self._rng.choice(listening or self._town.front_ends)

    def _kill_worker(self, _: Planned) -> str:
        workers = self._one().workers()
        if not workers:
            return "no worker was there"
        with suppress(ProcessLookupError):
            os.kill(self._rng.choice(workers), signal.SIGKILL)
        return "SIGKILL"

    def _kill_front_end(self, _: Planned) -> str:
        one = self._one()
        one.kill()
        one.start()
        return f"SIGKILL, front end {one.number + 1}"

    def _kill_database(self, _: Planned) -> str:
        self._town.postgres.kill()
        self._town.postgres.start()
        return "SIGKILL of the postmaster"

    def _kill_backend(self, _: Planned) -> str:
        backends = self._town.postgres.backends()
        if not backends:
            return "no backend was there"
        os.kill(self._rng.choice(backends), signal.SIGKILL)
        self._town.postgres.start()
        return "SIGKILL of a backend; PostgreSQL ends all others and recovers"

    def _restart(self, _: Planned) -> str:
        took = []
        for one in self._town.front_ends:
            took.append(one.stop())
            one.start()
        return f"SIGTERM with calls in flight, one front end after the other; ended within {max(took):.1f} s"

    def _upgrade(self, _: Planned) -> str:
        for one in self._town.front_ends:
            one.stop()
        self._town.upgrade()
        for one in self._town.front_ends:
            one.start()
        return "all stopped, `database upgrade`, all started"

    def _restore(self, _: Planned) -> str:
        """Of a backup that was made after the stop, so nothing of it is older than what people were told."""
        for one in self._town.front_ends:
            one.stop()
        database = self._town.disk.path / "matching.db"
        backup = self._town.folder / "matching.backup"
        self._town.command("database", "copy", str(database), str(backup))
        for name in ("matching.db", "matching.db-wal", "matching.db-shm"):
            (self._town.disk.path / name).unlink(missing_ok=True)
        self._town.command("database", "copy", str(backup), str(database))
        backup.unlink()
        self._town.reconcile()
        for one in self._town.front_ends:
            one.start()
        return "all stopped, `database copy` away and back, `database reconcile`, all started"

    def _fill_disk(self, planned: Planned) -> str:
        self._town.disk.fill()
        left = shutil.disk_usage(self._town.disk.path).free
        try:
            time.sleep(SECONDS[planned.kind])
        finally:
            self._town.disk.empty()
            if self._town.postgres:
                self._town.postgres.start()  # a full disk may have ended it
        return f"ext4 of the campaign's own, {left} bytes left"

    def _slow_disk(self, planned: Planned) -> str:
        until, times = time.monotonic() + SECONDS[planned.kind], 0
        while time.monotonic() < until:
            self._town.disk.freeze()
            time.sleep(_FREEZE_SECONDS)
            self._town.disk.thaw()
            time.sleep(_BREATH_SECONDS)
            times += 1
        return f"fsfreeze, {_FREEZE_SECONDS:g} s frozen and {_BREATH_SECONDS:g} s not"

    def _freeze_disk(self, planned: Planned) -> str:
        self._town.disk.freeze()
        try:
            time.sleep(SECONDS[planned.kind])
        finally:
            self._town.disk.thaw()
        return "fsfreeze"

    def _jump(self, planned: Planned, ahead: float) -> str:
        for one in self._town.front_ends:
            one.set_clock(ahead)
        try:
            time.sleep(SECONDS[planned.kind])
        finally:
            for one in self._town.front_ends:
                one.set_clock(0.0)
        return f"{ahead:+.0f} s on all front ends, and back"

    def _spoil_network(self, planned: Planned, spoil: Callable[[], None]) -> str:
        spoil()
        try:
            time.sleep(SECONDS[planned.kind])
        finally:
            self._town.network.whole()
        return "proxy between people and front ends"

    def _cut_database(self, planned: Planned) -> str:
        self._town.to_database.cut()
        try:
            time.sleep(SECONDS[planned.kind])
        finally:
            self._town.to_database.whole()
        return "proxy between front ends and PostgreSQL"

    def _rush(self, planned: Planned) -> str:
        self._rushing.set()
        try:
            time.sleep(SECONDS[planned.kind])
        finally:
            self._rushing.clear()
        return "all strangers as fast as they can"


def commit() -> str:
    """What runs, as git names it."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return asked or "unknown"
