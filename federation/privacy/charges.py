"""What a charge is called: a digest of everything that decides which sum it pays for.

::

    reservation   RUN:DIGEST                    in the coordinator's ledger; DIGEST of plan, roster and application
    charge        RUN:DIGEST/RELEASE/DIGEST     in an organisation's; the second DIGEST of the question, too

So a charge pays for one sum of one roster under one plan, asked in one way. Whatever differs is another charge: the
same reservation with another roster, plan or start is no second sum for nothing. A run goes on only with what is
identical.

What the *people* of an organisation add is in no name: a digest of it would be an answer about them. Two attempts of
one charge may sum other people when somebody withdrew in between. One of them is opened (`client.node.ledger`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Final

from federation.errors import MalformedMessageError
from federation.privacy.plan import SumPlan
from federation.secagg.graph import shape
from federation.secagg.session import digest

_LONGEST_RUN: Final = 64
_PACKAGES: Final = ("client", "federation")
"""Where the code lies that an organisation's part of a sum comes from."""


@cache
def application_digest(root: Path | None = None) -> bytes:
    """SHA-256 of the code that makes an organisation's part of a sum, as it lies on this disk: paths and bytes.

    Args:
        root: folder of its packages; that of the running code when not given.
    """
    top = root or Path(__file__).resolve().parents[2]
    files = sorted(path for package in _PACKAGES for path in (top / package).rglob("*.py"))
    return digest(b"intaglio application 1", *_with_names(top, files))


def _with_names(top: Path, files: Iterable[Path]) -> list[bytes]:
    return [part for path in files for part in (path.relative_to(top).as_posix().encode(), path.read_bytes())]


def run_digest(plan: SumPlan, roster: Iterable[bytes], application: bytes) -> str:
    """SHA-256, in hex, of everything that coordinator and organisations agree on before a run.

    A session's digest has the Flower run in it, which changes when a run goes on. So what follows from the plan for
    secure aggregation is in it by itself: holders, threshold, committee and quorum.

    Args:
        plan: with its recipe.
        roster: public keys of all organisations, in order.
        application: `application_digest`.
    """
    keys = digest(*roster)
    graph = astuple(shape(plan.organisations, plan.colluders, plan.dropouts))
    numbers = b"%d %d %d %d" % graph
    return digest(b"intaglio run 1", plan.recipe.encode(), plan.digest, keys, application, numbers).hex()


def reservation_name(run: str, agreed: str) -> str:
    """What the coordinator's ledger calls the charge of a run.

    Args:
        run: the Flower run that reserved it.
        agreed: `run_digest`.
    """
    return f"{run}:{agreed}"


def require_reservation_of(reservation: str, agreed: str) -> None:
    """Checks that a reservation is for what was agreed on.

    Raises:
        MalformedMessageError: it is for another plan, roster or application, or has no such name.
    """
    run, _, of = reservation.rpartition(":")
    if not 0 < len(run) <= _LONGEST_RUN or not run.isprintable() or "/" in run or of != agreed:
        raise MalformedMessageError(
            "the charge is for another plan, another roster or another application: let the run begin anew"
        )


def run_of(reservation: str) -> str:
    """The Flower run that reserved it."""
    return reservation.partition(":")[0]


def charge_name(reservation: str, release: str, question: str) -> str:
    """What an organisation's ledger calls the charge of one release.

    Args:
        reservation: `reservation_name`.
        release: which sum of the plan.
        question: `federation.learning.rounds.question_digest`.
    """
    return f"{prefix_of_charges(reservation, release)}{question}"


def prefix_of_charges(reservation: str, release: str) -> str:
    """How the names of all charges of a release begin, however it was asked for."""
    return f"{reservation}/{release}/"
