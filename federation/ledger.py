"""The privacy ledger's entries, their hash chain and the rule for the next one. `server.ledger` keeps the file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, Self, get_args

from federation.errors import BudgetExhaustedError, MalformedMessageError, UsageError
from federation.privacy import LARGEST_EPSILON, epsilon_of_gaussians

EntryKind = Literal["open", "reserve", "commit"]
_GENESIS = "0" * 64


@dataclass(frozen=True)
class LedgerEntry:
    """One line of the ledger.

    Attributes:
        kind: "open" sets a population's cap, "reserve" charges releases before they are made, "commit" records that
            they were made. Only reservations cost, and they are never given back.
        population: the protected people; budgets are kept for each.
        run: identifier of the run; empty for "open".
        noise_multipliers: of the Gaussian events that are charged; empty but for "reserve".
        epsilon: cap on everything ever composed; 0 but for "open".
        delta: of the cap; 0 but for "open".
        release: SHA-256 digest of the model release; empty but for "commit".
        previous: hash of the entry before, zeros for the first.
    """

    kind: EntryKind
    population: str
    run: str
    noise_multipliers: tuple[float, ...]
    epsilon: float
    delta: float
    release: str
    previous: str

    def __post_init__(self) -> None:
        texts = (self.population, self.run, self.release, self.previous)
        numbers = (*self.noise_multipliers, self.epsilon, self.delta)
        if (
            self.kind not in get_args(EntryKind)
            or not all(isinstance(text, str) for text in texts)
            or not all(type(value) is float and math.isfinite(value) and value >= 0 for value in numbers)
            or not all(self.noise_multipliers)
        ):
            raise UsageError("a ledger entry has a field of the wrong kind")

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical JSON of all fields."""
        return hashlib.sha256(self._json(asdict(self))).hexdigest()

    @staticmethod
    def _json(value: dict[str, object]) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    def to_line(self) -> bytes:
        """The entry with its hash as one JSON line, newline included."""
        return self._json({**asdict(self), "hash": self.hash}) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Reads what `to_line` wrote, and nothing else.

        Raises:
            MalformedMessageError: any other bytes.
        """
        try:
            value = json.loads(line)
            value.pop("hash")
            entry = cls(**{**value, "noise_multipliers": tuple(value["noise_multipliers"])})
            canonical = entry.to_line()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UsageError) as error:
            raise MalformedMessageError("a ledger line is not a ledger entry") from error
        if canonical != line:
            raise MalformedMessageError("a ledger line was altered: its hash does not fit its content")
        return entry


@dataclass(frozen=True)
class LedgerChain:
    """A verified sequence of ledger entries, and the rule for the next one.

    The chain shows edits, insertions and removals in the middle. It cannot show that the *end* was cut off together
    with everything that depends on it: publish `head` elsewhere, for example with every model release.
    """

    entries: tuple[LedgerEntry, ...] = ()

    def __post_init__(self) -> None:
        previous = _GENESIS
        for number, entry in enumerate(self.entries, start=1):
            if entry.previous != previous:
                raise UsageError(f"the privacy ledger is broken at entry {number}: it does not follow from the last")
            previous = entry.hash

    @classmethod
    def from_lines(cls, lines: Iterable[bytes]) -> Self:
        """Reads and verifies a chain.

        Raises:
            UsageError: a line was altered or the chain is broken.
        """
        entries = []
        for number, line in enumerate(lines, start=1):
            try:
                entries.append(LedgerEntry.from_line(line))
            except MalformedMessageError as error:
                raise UsageError(f"the privacy ledger was altered at entry {number}; restore it from a copy") from error
        return cls(tuple(entries))

    @property
    def head(self) -> str:
        """Hash of the last entry."""
        return self.entries[-1].hash if self.entries else _GENESIS

    def charged(self, population: str) -> tuple[float, ...]:
        """Noise multipliers of all events ever reserved for `population`."""
        return tuple(
            noise for entry in self.entries if entry.population == population for noise in entry.noise_multipliers
        )

    def opening(self, population: str) -> LedgerEntry | None:
        """The entry that set the cap of `population`, if there is one."""
        return next((e for e in self.entries if e.kind == "open" and e.population == population), None)

    def next_open(self, population: str, *, epsilon: float, delta: float) -> LedgerEntry | None:
        """The entry that sets the cap of a new population; None when the same cap stands already.

        Raises:
            UsageError: another cap stands, or a value is out of range.
        """
        if not (population and 0 < epsilon <= LARGEST_EPSILON and 0 < delta < 1):
            raise UsageError("a budget needs a population, an epsilon in (0, 64] and a delta in (0, 1)")
        standing = self.opening(population)
        if standing is None:
            return self._entry("open", population, epsilon=float(epsilon), delta=float(delta))
        if (standing.epsilon, standing.delta) != (epsilon, delta):
            raise UsageError(
                f"the budget of {population!r} was set to epsilon {standing.epsilon:g}, delta {standing.delta:g} and "
                "cannot be changed; ask for the same, or name another population"
            )
        return None

    def next_reserve(self, population: str, run: str, noise_multipliers: tuple[float, ...]) -> LedgerEntry:
        """The entry that charges Gaussian events to `population`, to be stored *before* anything is released.

        Raises:
            BudgetExhaustedError: everything composed would cost more than the cap.
            UsageError: the population has no budget yet, or the run has a reservation already.
        """
        cap = self.opening(population)
        if cap is None:
            raise UsageError(f"population {population!r} has no budget; open one first")
        if any(e.kind == "reserve" and e.run == run for e in self.entries):
            raise UsageError(f"run {run!r} is in the privacy ledger already; every run needs a new identifier")
        if not noise_multipliers or not all(math.isfinite(s) and s > 0 for s in noise_multipliers):
            raise UsageError("a reservation needs the positive noise multiplier of every event")
        spent = self.charged(population)
        after = epsilon_of_gaussians(tuple(sorted(spent + noise_multipliers)), cap.delta)
        if after > cap.epsilon:
            before = epsilon_of_gaussians(tuple(sorted(spent)), cap.delta)
            raise BudgetExhaustedError(
                f"the privacy budget of {population!r} is exhausted: epsilon {before:.2f} of {cap.epsilon:g} is spent, "
                f"and this run would bring it to {after:.2f}; nothing was released. Plan a smaller epsilon"
            )
        return self._entry("reserve", population, run=run, noise_multipliers=noise_multipliers)

    def next_commit(self, population: str, run: str, release: str) -> LedgerEntry:
        """The entry that records what a reserved run released.

        Raises:
            UsageError: the run holds no reservation, or was committed before.
        """
        kinds = [e.kind for e in self.entries if (e.population, e.run) == (population, run)]
        if kinds != ["reserve"]:
            raise UsageError(f"run {run!r} has no open reservation for {population!r}")
        return self._entry("commit", population, run=run, release=release)

    def _entry(
        self,
        kind: EntryKind,
        population: str,
        *,
        run: str = "",
        noise_multipliers: tuple[float, ...] = (),
        epsilon: float = 0.0,
        delta: float = 0.0,
        release: str = "",
    ) -> LedgerEntry:
        return LedgerEntry(kind, population, run, noise_multipliers, epsilon, delta, release, self.head)
