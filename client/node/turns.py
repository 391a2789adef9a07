"""Which answers of a secure sum this organisation has begun to make: on disk, because Flower may forget.

Flower hands an application the state of a run, and takes it back *after* the answer. A confirmation of the message that
the coordinator lets fail in between makes SuperNode drop the state, and the answer leaves all the same. The next
message then finds the state from before it. Two answers under the same masks differ by their noise, or by two
questions, and by nothing else; so each turn is taken on disk before a message is looked at.

::

    turns       32 bytes for each turn: SHA-256 of the session's secrets, the release and the stage

It only grows, by 128 bytes for a sum. Nothing of the secrets can be told from it: they are 96 random bytes.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.files import make_folder, sync_folder
from federation.errors import UsageError
from federation.secagg import NodeSecrets, Stage
from federation.secagg.session import DIGEST_BYTES, digest

TURNS: Final = "turns"


class RepeatedError(Exception):
    """A request came twice, or out of its turn."""


@dataclass(frozen=True)
class Turns:
    """The file in a folder. Several processes may use it at once.

    Attributes:
        folder: of the ledgers; made when missing.
    """

    folder: Path

    def take(self, secrets: NodeSecrets, release: str, stage: Stage) -> None:
        """Takes a turn, once. A crash after it ends the release for this node.

        Args:
            secrets: of the session.
            release: which sum.
            stage: which answer.

        Raises:
            RepeatedError: it was taken before.
            UsageError: the file cannot be used.
        """
        turn = digest(b"intaglio turn 1", secrets.secret_bytes(), release.encode(), b"%d" % stage)
        try:
            make_folder(self.folder, mode=0o700)
            with os.fdopen(os.open(self.folder / TURNS, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, or when the process dies
                taken = file.read()
                whole = len(taken) - len(taken) % DIGEST_BYTES  # a crash may have left a part of the last one
                if turn in {taken[at : at + DIGEST_BYTES] for at in range(0, whole, DIGEST_BYTES)}:
                    raise RepeatedError
                file.seek(whole)
                file.write(turn)
                file.flush()
                os.fsync(file.fileno())
                sync_folder(self.folder)
        except OSError as error:
            raise UsageError(f"the turns in {self.folder} cannot be written: {error.strerror}") from error
