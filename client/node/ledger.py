"""The organisation's two ledgers: what its own people were charged, and a copy of the coordinator's.

::

    own.jsonl           every release that this organisation's people are in: charged before they are looked at, and
                        committed before the shares leave that open the sum
    coordinator.jsonl   the newest ledger that the coordinator showed

Whatever the coordinator calls a population, the people in one organisation's folder are the same, so its own ledger has
one account for them, over all runs. A release is charged before anything of them is read: whether a question is
answered must cost the same, whoever is there. The name of a charge is a digest of what decides the sum
(`federation.privacy.charges`): plan, roster, application and question. A run that goes on with all of them may ask for
the part again, in a new session, until this organisation has opened shares; it does so once for a charge. That is
enough: a sum opens only with shares of organisations that are charged for the same, and any two sets of them that open
one share an honest organisation (`federation.secagg.graph`), so nobody gets two sums.

The coordinator's ledger must extend the copy. Who restores an old one could spend a budget twice.

Both files are replaced as a whole: a crash leaves the old one or the new one, never a part.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.files import make_folder, replace_file
from client.node.turns import TURNS, RepeatedError
from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.learning.rounds import ShownLedger
from federation.privacy.charges import require_reservation_of
from federation.privacy.ledger import LedgerChain
from federation.privacy.plan import SumPlan

OWN: Final = "own.jsonl"
COORDINATOR: Final = "coordinator.jsonl"
PEOPLE: Final = "people of this organisation"
"""The only account in an organisation's own ledger."""
_LOCK = ".lock"
_RESTORE: Final = {
    OWN: "restore the newest copy that you have. The coordinator keeps one too, and gains from an older one",
    COORDINATOR: "restore it from another organisation, which keeps a copy",
}


class WrongLedgerError(ProofError):
    """The coordinator's ledger does not extend the copy, or does not hold the charge for a run."""


@dataclass(frozen=True)
class Ledgers:
    """Both ledgers in a folder. Several processes may use them at once.

    Attributes:
        folder: made when missing.
        budget_epsilon: most that all runs together may cost a person. It can be lowered later, and not raised above
            what it was at the first charge.
        delta: that goes with it. It stays what it was at the first charge.
    """

    folder: Path
    budget_epsilon: float
    delta: float

    def admit(self, shown: ShownLedger, plan: SumPlan, agreed: str) -> LedgerChain:
        """Takes the coordinator's ledger in place of the copy, and asks whether the own budget has room for the run.

        Args:
            shown: the coordinator's ledger, and which charge in it is for this run.
            plan: of the run.
            agreed: `federation.privacy.charges.run_digest`, as this organisation makes it.

        Returns:
            The own ledger.

        Raises:
            WrongLedgerError: it does not extend the copy, or lacks the charge; says what happened and what to do.
            BudgetExhaustedError: the releases of this run that were not charged yet do not fit into the own budget.
            UsageError: a file was altered or cannot be used.
        """
        with self._locked():
            copy = self._read(COORDINATOR)
            try:
                shown.chain.require_extends(copy)
            except ProofError as error:
                raise WrongLedgerError(
                    f"the coordinator's ledger does not go on from the last one: {error}. This organisation takes no "
                    f"part until the coordinator has the newest one back: send it {self.folder / COORDINATOR}"
                ) from error
            try:
                require_reservation_of(shown.reservation, agreed)
            except MalformedMessageError as error:
                raise WrongLedgerError(str(error)) from error
            charge = shown.chain.reservation(shown.reservation)
            if charge is None or charge.noise_multipliers != plan.noise_multipliers:
                raise WrongLedgerError("the coordinator's ledger holds no charge for this run with this plan's noise")
            if shown.chain.release_of(shown.reservation):
                raise WrongLedgerError("the coordinator's ledger says that this run has made its release already")
            own = self._read(OWN)
            paid = {entry.run.rpartition("/")[0] for entry in own.entries if entry.kind == "reserve"}
            new = tuple(noise for name, noise in plan.events if f"{shown.reservation}/{name}" not in paid)
            if new:
                self._charged(own, "the rest of this run", new)
            if not own.entries:  # before the copy: from now on, one that is missing was lost
                own = self._opened(own)
                replace_file(self.folder / OWN, own.to_bytes())
            if shown.chain != copy:
                replace_file(self.folder / COORDINATOR, shown.chain.to_bytes())
            return own

    def charge(self, name: str, noise_multiplier: float) -> LedgerChain:
        """Charges one release to the own budget, once. Call it before anything of the people is read.

        Args:
            name: `federation.privacy.charges.charge_name`.
            noise_multiplier: of the release.

        Returns:
            The own ledger, once it is on disk.

        Raises:
            RepeatedError: this organisation has opened shares for this charge, so somebody may have the sum.
            WrongLedgerError: the charge was for other noise.
            BudgetExhaustedError: it does not fit into the budget any more.
            UsageError: the file was altered or cannot be used.
        """
        with self._locked():
            own = self._read(OWN)
            if own.release_of(name):
                raise RepeatedError
            if (before := own.reservation(name)) is not None:
                if before.noise_multipliers != (noise_multiplier,):
                    raise WrongLedgerError("this release was charged before, for other noise")
                return own
            charged = self._charged(own, name, (noise_multiplier,))
            replace_file(self.folder / OWN, charged.to_bytes())
            return charged

    def opened(self, name: str, what: str) -> LedgerChain:
        """Records that this organisation opens shares. Call it when they are ready and have not left.

        Args:
            name: of the charge that pays for the sum.
            what: SHA-256 in hex of the question.

        Returns:
            The own ledger, once it is on disk.

        Raises:
            RepeatedError: it has done so before.
            UsageError: the release was never charged, or the file was altered or cannot be used.
        """
        with self._locked():
            own = self._read(OWN)
            if own.release_of(name):
                raise RepeatedError
            committed = LedgerChain((*own.entries, own.next_commit(PEOPLE, name, what)))
            replace_file(self.folder / OWN, committed.to_bytes())
            return committed

    def own(self) -> LedgerChain:
        """The own ledger.

        Raises:
            UsageError: it was altered.
        """
        return self._read(OWN)

    def _charged(self, own: LedgerChain, run: str, noise_multipliers: tuple[float, ...]) -> LedgerChain:
        cap = own.opening(PEOPLE)
        if cap is None:
            own = self._opened(own)
        elif self.delta != cap.delta:
            raise UsageError(
                f"delta is {self.delta:g} and was {cap.delta:g} when people were first charged: it stays that"
            )
        elif self.budget_epsilon > cap.epsilon:
            raise UsageError(
                f"budget-epsilon is {self.budget_epsilon:g} and was {cap.epsilon:g} when people were first charged: it "
                "can be lowered and not raised"
            )
        entry = own.next_reserve(PEOPLE, run, noise_multipliers, at_most_epsilon=self.budget_epsilon)
        return LedgerChain((*own.entries, entry))

    def _opened(self, own: LedgerChain) -> LedgerChain:
        opening = own.next_open(PEOPLE, epsilon=self.budget_epsilon, delta=self.delta)
        return own if opening is None else LedgerChain((*own.entries, opening))

    def _read(self, name: str) -> LedgerChain:
        path = self.folder / name
        try:
            chain = LedgerChain.from_bytes(path.read_bytes()) if path.exists() else LedgerChain()
        except MalformedMessageError as error:
            raise UsageError(f"{path} was altered; {_RESTORE[name]}") from error
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        # The own one is opened before a copy is kept or a turn is taken: who has either of them had an own one.
        if name == OWN and not chain.entries and any((self.folder / later).exists() for later in (COORDINATOR, TURNS)):
            raise UsageError(f"{path} is gone or empty, and what these people were charged with it; {_RESTORE[name]}")
        return chain

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            make_folder(self.folder, mode=0o700)
            lock = (self.folder / _LOCK).open("ab")
        except OSError as error:
            raise UsageError(f"the ledgers in {self.folder} cannot be used: {error.strerror}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, or when the process dies
            yield
