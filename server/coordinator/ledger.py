"""The privacy ledger's file: append-only JSON lines, one writer at a time, on disk before anything is released.

Order of a run: `reserve` charges the budget and returns when the charge is on disk; then the releases are made; then
`commit` records what came out. A crash anywhere in between costs budget and never privacy: a reservation is not given
back. The rules and the hash chain are pure code in `federation.privacy.ledger`.

A copy of every organisation's own ledger lies in a folder beside it (`LedgerCopies`): who comes back with an older one
restored a backup, and could be asked twice for one charge.

A crash in the middle of an append leaves a last line without its newline. `reserve` had not returned, so nothing was
released on it: the next writer cuts the torn line off.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.privacy.ledger import LedgerChain, LedgerEntry
from server.files import make_directory, sync_directory, write_durably


@dataclass(frozen=True)
class PrivacyLedger:
    """A ledger file. Several processes may use it at once.

    Attributes:
        path: the file; made with its folder when missing.
    """

    path: Path

    def chain(self) -> LedgerChain:
        """All entries, verified.

        Raises:
            UsageError: the file was altered or cannot be read.
        """
        with self._locked() as file:
            return self._read(file)

    def reserve(
        self, population: str, run: str, noise_multipliers: tuple[float, ...], *, cap_epsilon: float, cap_delta: float
    ) -> str:
        """Charges Gaussian events to a population before they happen. The first charge sets the population's cap.

        Returns:
            The hash of the ledger's head.

        Raises:
            BudgetExhaustedError: everything composed would cost more than the cap; nothing was written.
            UsageError: another cap was set before, or the file cannot be used.
        """
        with self._locked() as file:
            chain = self._read(file)
            opening = chain.next_open(population, epsilon=cap_epsilon, delta=cap_delta)
            opened = chain if opening is None else LedgerChain((*chain.entries, opening))
            reservation = opened.next_reserve(population, run, noise_multipliers)
            if opening is not None:
                self._append(file, chain, opening)
            return self._append(file, opened, reservation).head

    def commit(self, population: str, run: str, release_digest: str) -> str:
        """Records what a reserved run released.

        Returns:
            The hash of the ledger's head.

        Raises:
            UsageError: the run holds no open reservation, or the file cannot be used.
        """
        with self._locked() as file:
            chain = self._read(file)
            return self._append(file, chain, chain.next_commit(population, run, release_digest)).head

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        try:
            make_directory(self.path.parent)
            file = self.path.open("a+b")
        except OSError as error:
            raise UsageError(f"the privacy ledger {self.path} cannot be opened: {error.strerror}") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, or when the process dies
            yield file

    @staticmethod
    def _read(file: BinaryIO) -> LedgerChain:
        file.seek(0)
        *lines, torn = file.read().split(b"\n")
        chain = LedgerChain.from_lines(line + b"\n" for line in lines)
        if torn:
            # Nothing was released on a torn line, see above. A crash before this is durable leaves it torn.
            file.truncate(file.tell() - len(torn))
        return chain

    def _append(self, file: BinaryIO, chain: LedgerChain, entry: LedgerEntry) -> LedgerChain:
        # Crash in the write: a torn line, cut off by the next writer. Crash after fsync: the entry counts.
        file.write(entry.to_line())
        file.flush()
        os.fsync(file.fileno())
        if not chain.entries:
            sync_directory(self.path.parent)
        return LedgerChain((*chain.entries, entry))


@dataclass(frozen=True)
class LedgerCopies:
    """The newest ledger that every organisation showed, one file for each, under its name.

    Attributes:
        folder: made when missing.
    """

    folder: Path

    def keep(self, name: str, data: bytes) -> None:
        """Takes an organisation's ledger in place of the copy that it extends. Returns when it is on disk.

        Args:
            name: of the organisation, which outlives its keys: who joins again under it goes on from its ledger.
            data: foreign bytes.

        Raises:
            MalformedMessageError: they are no ledger.
            ProofError: the ledger does not extend the copy; says what happened and what to do.
            UsageError: the copy was altered or cannot be written.
        """
        shown, path = LedgerChain.from_bytes(data), self.folder / f"{quote(name, safe='')}.jsonl"
        try:
            make_directory(self.folder)
            with (self.folder / ".lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, or when the process dies
                kept = LedgerChain.from_bytes(path.read_bytes()) if path.exists() else LedgerChain()
                shown.require_extends(kept)
                if shown != kept:
                    # A crash leaves the old copy: every ledger that extends the new one extends it too.
                    write_durably(path, data)
        except ProofError as error:
            raise ProofError(
                f"its own ledger does not go on from the last one: {error}. Send it {path}, to restore it from"
            ) from error
        except MalformedMessageError as error:
            raise UsageError(
                f"{path} was altered; move it away once the organisation's ledger was looked at"
            ) from error
        except OSError as error:
            raise UsageError(f"cannot keep {path}: {error.strerror}") from error
