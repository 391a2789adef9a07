"""Who holds whose shares: how many holders a member needs, and the graph that the members draw themselves.

Theory of operation
-------------------
After Bell, Bonawitz, Gascon, Lepoint and Raykova, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead"
(CCS 2020), their variant against a malicious server: **every member draws its own holders**, itself and k - 1 others of
the whole roster, from 16 bytes of its own randomness, before it knows anything of the session. Nobody else can move
an honest member's draw: not the coordinator, and not colluders, whose own draws matter to nobody but them. A member
deals shares to its holders, t of which open one of its two secrets, and masks with all of them.

**What must hold.** Let C be the colluders, and S the survivors that a quorum signed. Nodes look at the drawn graph and
refuse an S in which some member has fewer than t holders (`Graph.require_held`). Suppose the coordinator could open a
sum over a part A of the honest survivors only, in whatever way it chose drop-outs, with the draws before its eyes. A
member masks with its surviving holders, so no honest holder of a member of A lies outside A; and the t holders of each
in S are then all in A or C. The same is true of the honest survivors outside A. One of the two parts has at most h/2
members, h = n - c. So there is a set A of a <= h/2 honest members of which everyone drew t - 1 of its k - 1 others from
the a - 1 + c in A and C, with a probability (union bound over sets, draws being independent) of at most

    sum over a = 1 .. h/2 of  binomial(h, a) * P[Hypergeometric(n - 1, a - 1 + c, k - 1) >= t - 1] ^ a

It does not depend on who leaves, so it covers drop-outs chosen by the coordinator; Bell et al. prove less there. The
term a = 1 is that of a member whose secrets colluders open alone. `shape` finds the least k for which some t keeps the
sum below 2^-SIGMA, and for which d members that leave by themselves take more than k - t holders of somebody with a
probability below 2^-ETA.

**Two sums for one charge.** An organisation opens once for a charge, and opens nothing of a member under another one
(`federation.secagg.node`). So by the same argument all members of a sum have one charge: those of two charges would be
two parts. Suppose that two sums of one roster open for one charge, in two sessions or after two lists of keys. The
honest ones that opened the first and those that opened the second are different, so one of the two sets, O, has at most
h/2 members. Each honest member of its sum has t holders in O and C, and there are at least n - d - c > h/2 of them. Add
some of them to O until there are h/2: all of these drew t - 1 of their others from themselves and C, which is the last
term above. So it happens with a probability below 2^-SIGMA in each session, too, whatever the committees are. (In a
complete graph it cannot: t > h/2 + c.)

**The committee** whose signatures settle S is drawn from the digest of all keys. The coordinator and colluders can try
other keys, and so other committees, as often as they can hash. So that bound is 2^-GRINDING: two quorums have members
in common who all collude.

Up to `COMPLETE` members everybody holds shares of everybody, everybody is in the committee, both numbers are
floor((n + c) / 2) + 1 as in Bonawitz et al., and nothing is left to chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from federation.errors import RefusedError

SIGMA: Final = 64
"""A sum over a part of the honest survivors opens with a probability below 2^-SIGMA in each session."""
ETA: Final = 30
"""As many members as planned, leaving by chance, end a session with a probability below 2^-ETA."""
GRINDING: Final = 128
"""A committee that colluders can split is drawn with a probability below 2^-GRINDING in each try."""
COMPLETE: Final = 100
"""Up to so many members everybody holds shares of everybody: the graph pays beyond it."""
CHOICE_BYTES: Final = 16
"""What a member draws its holders from."""
MOST_MEMBERS: Final = 1024

_Logs = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """Numbers that a session's safety rests on.

    Attributes:
        holders: how many members hold shares of each, itself among them.
        threshold: shares that open a secret.
        committee: how many members' signatures may settle the survivors.
        quorum: signatures that do.
    """

    holders: int
    threshold: int
    committee: int
    quorum: int


@lru_cache(maxsize=64)
def shape(organisations: int, colluders: int, dropouts: int) -> Shape:
    """The least numbers that keep the bounds above.

    Args:
        organisations: n; more than `colluders` plus twice the `dropouts`.
        colluders: c, whoever they are, as long as they were before the session.
        dropouts: d.
    """
    n, majority = organisations, (organisations + colluders) // 2 + 1
    if n <= COMPLETE:
        return Shape(n, majority, n, majority)

    def threshold(holders: int) -> int | None:
        least = _least(2, holders, lambda t: split_bound(n, colluders, holders, t) <= -SIGMA)
        return least if least and loss_bound(n, dropouts, holders, least) <= -ETA else None

    def quorum(committee: int) -> int | None:
        least = _least(
            committee // 2 + 1, committee, lambda q: committee_bound(n, colluders, committee, q) <= -GRINDING
        )
        return least if least and absence_bound(n, dropouts, committee, least) <= -ETA else None

    holders, shares = next(((k, t) for k in range(2, n) if (t := threshold(k))), (n, majority))
    committee, signatures = next(((m, q) for m in range(2, n) if (q := quorum(m))), (n, majority))
    return Shape(holders, shares, committee, signatures)


def split_bound(n: int, colluders: int, holders: int, threshold: int) -> float:
    """log2 of the bound on opening a sum over a part of the honest survivors; see the top of this module."""
    h = n - colluders
    sizes = np.arange(1, h // 2 + 1)
    terms = _binomial(h, sizes) + sizes * _tail(n - 1, sizes - 1 + colluders, holders - 1, threshold - 1)
    return float(_log_sum(terms))


def loss_bound(n: int, dropouts: int, holders: int, threshold: int) -> float:
    """log2 of a bound on the chance that, of `dropouts` members at random, too many hold shares of somebody."""
    return math.log2(n) + float(_tail(n - 1, np.array([dropouts]), holders - 1, holders - threshold + 1)[0])


def committee_bound(n: int, colluders: int, committee: int, quorum: int) -> float:
    """log2 of the chance that all whom two quorums surely share may collude."""
    return float(_tail(n, np.array([colluders]), committee, 2 * quorum - committee)[0])


def absence_bound(n: int, dropouts: int, committee: int, quorum: int) -> float:
    """log2 of the chance that, of `dropouts` members at random, too many are in the committee."""
    return float(_tail(n, np.array([dropouts]), committee, committee - quorum + 1)[0])


def _least(low: int, high: int, good: Callable[[int], bool]) -> int | None:
    """The least number in a range for which `good`, which stays true once it is."""
    end = high
    while low <= high:
        middle = (low + high) // 2
        low, high = (low, middle - 1) if good(middle) else (middle + 1, high)
    return low if low <= end else None


_LOG_FACTORIALS = np.concatenate([[0.0], np.cumsum(np.log2(np.arange(1, MOST_MEMBERS + 1)))])


def _binomial(n: int | NDArray[np.int64], k: int | NDArray[np.int64]) -> _Logs:
    """log2 of binomial coefficients, -inf outside."""
    upper, lower = np.broadcast_arrays(np.asarray(n), np.asarray(k))
    inside = (lower >= 0) & (lower <= upper)
    at = np.where(inside, lower, 0)
    logs = _LOG_FACTORIALS
    return np.asarray(np.where(inside, logs[upper] - logs[at] - logs[upper - at], -np.inf))


def _tail(population: int, marked: NDArray[np.int64], drawn: int, least: int) -> _Logs:
    """log2 P[Hypergeometric(population, marked, drawn) >= least], for each number of marked ones."""
    column, hits = marked[:, None], np.arange(max(least, 0), drawn + 1)[None, :]
    terms = _binomial(column, hits) + _binomial(population - column, drawn - hits) - _binomial(population, drawn)
    return np.minimum(_log_sum(terms), 0.0)


def _log_sum(terms: _Logs) -> _Logs:
    """log2 of the sum of 2^terms along the last axis."""
    largest = terms.max(axis=-1, initial=-np.inf)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(shift + np.log2(np.exp2(terms - shift[..., None]).sum(axis=-1)))


def draw(key: bytes, among: int, count: int) -> NDArray[np.intp]:
    """The random subset that a 32-byte key stands for: where the `count` least words of its ChaCha20 keystream stand.

    Args:
        key: used for this only.
        among: how many 64-bit words are looked at, little-endian (RFC 8439); of equal ones the first counts as less.
        count: how many to take.

    Returns:
        (count,) different numbers below `among`, ascending.
    """
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * among))
    return np.sort(np.argsort(np.frombuffer(stream, dtype="<u8"), kind="stable")[:count])


class Graph:
    """The drawn holders of all members that advertised keys.

    Args:
        keys: for each of them, the 32 bytes that its choice stands for in this session.
        organisations: how many are in the roster.
        holders: how many each has.
    """

    def __init__(self, keys: Mapping[int, bytes], organisations: int, holders: int) -> None:
        self.members = tuple(sorted(keys))
        self._row = {member: row for row, member in enumerate(self.members)}
        self._table = np.empty((len(keys), holders), dtype=np.uint16)
        for row, member in enumerate(self.members):
            others = draw(keys[member], organisations - 1, holders - 1) + 1
            self._table[row] = np.sort(np.append(others + (others >= member), member))

    def holders_of(self, member: int) -> tuple[int, ...]:
        """Who holds shares of a member: itself and those that it drew, whether or not they are there."""
        return tuple(self._table[self._row[member]].tolist())

    def dealers_to(self, holder: int) -> tuple[int, ...]:
        """Those of whom a member holds shares."""
        rows = (self._table == holder).any(axis=1)
        return tuple(member for member, found in zip(self.members, rows.tolist(), strict=True) if found)

    def require_held(self, members: Iterable[int], there: Iterable[int], threshold: int) -> None:
        """Raises RefusedError unless each of `members` has `threshold` holders who are `there`."""
        listed = tuple(members)
        held = np.isin(self._table[[self._row[member] for member in listed]], list(there)).sum(axis=1)
        for member, count in zip(listed, held.tolist(), strict=True):
            if count < threshold:
                raise RefusedError(
                    f"{count} of those that hold shares of organisation {member} are left and {threshold} are needed"
                )
