"""The privacy ledger's entries, their hash chain and the rule for the next one.

The coordinator keeps one (`server.coordinator.ledger`), and every organisation one of its own (`client.node.ledger`).
Each side keeps a copy of the other's: a ledger that was rolled back, or written anew, does not extend the copy.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final, Literal, Self, get_args

from federation.errors import BudgetExhaustedError, MalformedMessageError, ProofError, UsageError
from federation.privacy.plan import LARGEST_EPSILON, epsilon_of_gaussians
from federation.promise import AttackRates, text_of_attacks

EntryKind = Literal["open", "reserve", "commit"]
MOST_BYTES: Final = 8 << 20
"""Longest ledger that crosses a wire: some ten thousand runs."""
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

    Raises:
        UsageError: a field is of the wrong kind, or a text could not be shown in a line of its own.
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
            or not all(isinstance(text, str) and text.isprintable() for text in texts)
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
class Account:
    """Where one population stands.

    Attributes:
        population: the protected people.
        cap_epsilon: most that everything may cost them.
        delta: of the cap.
        epsilon: what everything that was ever reserved costs them, composed.
        runs: what it was charged for, in order: each run's name, noise multipliers and, once there is one, release.
    """

    population: str
    cap_epsilon: float
    delta: float
    epsilon: float
    runs: tuple[tuple[str, tuple[float, ...], str], ...]

    @property
    def attacks(self) -> AttackRates | None:
        """What an attacker achieves at most with everything that was charged; None before anything was."""
        mu = math.hypot(*(1 / noise for _, noise_multipliers, _ in self.runs for noise in noise_multipliers))
        return AttackRates.of_mu(mu) if mu else None

    def __str__(self) -> str:
        spent = math.ceil(self.epsilon * 100) / 100
        of_cap = f"epsilon {spent:.2f} of {self.cap_epsilon:g} is charged and {self.cap_epsilon - spent:.2f} left"
        lines = [f"{self.population}: {of_cap}, at delta {self.delta:g}", f"  {text_of_attacks(self.attacks)}"]
        for run, noise_multipliers, release in self.runs:
            noise = ", ".join(f"{noise:.3f}" for noise in noise_multipliers)
            lines.append(f"  {run}: noise {noise}, {f'released {release[:16]}' if release else 'charged'}")
        return "\n".join(lines)


@dataclass(frozen=True)
class LedgerChain:
    """A verified sequence of ledger entries, and the rule for the next one.

    The chain shows edits, insertions and removals in the middle. It cannot show that the *end* was cut off together
    with everything that depends on it: only an earlier copy can, see `require_extends`.
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
                none = "" if entries else ", or this is none"
                raise UsageError(
                    f"the privacy ledger was altered at entry {number}{none}; restore it from a copy"
                ) from error
        return cls(tuple(entries))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads the other side's ledger.

        Raises:
            MalformedMessageError: it is longer than `MOST_BYTES`, or no whole ledger.
        """
        if len(data) > MOST_BYTES or not (data == b"" or data.endswith(b"\n")):
            raise MalformedMessageError(f"a ledger is whole lines of at most {MOST_BYTES} bytes together")
        try:
            return cls.from_lines(data.splitlines(keepends=True))
        except UsageError as error:
            raise MalformedMessageError("these bytes are no ledger, or an altered one") from error

    def to_bytes(self) -> bytes:
        """All lines."""
        return b"".join(entry.to_line() for entry in self.entries)

    def require_extends(self, earlier: LedgerChain) -> None:
        """Raises ProofError, saying what happened, unless this ledger begins with all entries of an earlier copy."""
        missing = len(earlier.entries) - len(self.entries)
        if missing > 0 and earlier.entries[: len(self.entries)] == self.entries:
            raise ProofError(
                f"the ledger holds {len(self.entries)} entries and the earlier copy {len(earlier.entries)}: "
                f"its last {missing} are gone, so an old copy was restored or the end was cut off"
            )
        # Each entry holds the hash of the one before: where they are equal, everything before is.
        if self.entries[: len(earlier.entries)] != earlier.entries:
            pairs = zip(self.entries, earlier.entries, strict=False)
            number = next(number for number, (now, then) in enumerate(pairs, start=1) if now != then)
            raise ProofError(
                f"the ledger and the earlier copy differ from entry {number} on: it was written anew, or an old copy "
                "was restored and continued"
            )

    @property
    def head(self) -> str:
        """Hash of the last entry."""
        return self.entries[-1].hash if self.entries else _GENESIS

    def charged(self, population: str) -> tuple[float, ...]:
        """Noise multipliers of all events ever reserved for `population`."""
        return tuple(
            noise for entry in self.entries if entry.population == population for noise in entry.noise_multipliers
        )

    def reservation(self, run: str) -> LedgerEntry | None:
        """The entry that charged a run, if there is one."""
        return next((e for e in self.entries if e.kind == "reserve" and e.run == run), None)

    def release_of(self, run: str) -> str:
        """Digest of what a run released; empty when it has not."""
        return next((e.release for e in self.entries if e.kind == "commit" and e.run == run), "")

    def accounts(self) -> tuple[Account, ...]:
        """Where every population stands, in the order in which they were opened."""
        return tuple(
            Account(
                cap.population,
                cap.epsilon,
                cap.delta,
                epsilon_of_gaussians(tuple(sorted(self.charged(cap.population))), cap.delta),
                tuple(
                    (e.run, e.noise_multipliers, self.release_of(e.run))
                    for e in self.entries
                    if (e.kind, e.population) == ("reserve", cap.population)
                ),
            )
            for cap in self.entries
            if cap.kind == "open"
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

    def next_reserve(
        self, population: str, run: str, noise_multipliers: tuple[float, ...], *, at_most_epsilon: float = math.inf
    ) -> LedgerEntry:
        """The entry that charges Gaussian events to `population`, to be stored *before* anything is released.

        Args:
            population: who is charged.
            run: what for.
            noise_multipliers: of every event.
            at_most_epsilon: a cap below the one that was set, if there is one.

        Raises:
            BudgetExhaustedError: everything composed would cost more than the cap.
            UsageError: the population has no budget yet, or the run has a reservation already.
        """
        cap = self.opening(population)
        if cap is None:
            raise UsageError(f"population {population!r} has no budget; open one first")
        if self.reservation(run) is not None:
            raise UsageError(f"run {run!r} is in the privacy ledger already; every run needs a new identifier")
        if not noise_multipliers or not all(math.isfinite(s) and s > 0 for s in noise_multipliers):
            raise UsageError("a reservation needs the positive noise multiplier of every event")
        spent = self.charged(population)
        after = epsilon_of_gaussians(tuple(sorted(spent + noise_multipliers)), cap.delta)
        if after > (most := min(cap.epsilon, at_most_epsilon)):
            before = epsilon_of_gaussians(tuple(sorted(spent)), cap.delta)
            raise BudgetExhaustedError(
                f"the privacy budget of {population!r} is exhausted: epsilon {before:.2f} of {most:g} is spent, "
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


def ledger_from_file(data: bytes) -> LedgerChain:
    """Reads a ledger's file without changing it. A torn last line is left out: nothing was released on it.

    Raises:
        UsageError: a line was altered or the chain is broken.
    """
    return LedgerChain.from_lines(data[: data.rfind(b"\n") + 1].splitlines(keepends=True))
