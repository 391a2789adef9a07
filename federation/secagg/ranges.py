"""Who spoiled a sum: every member shows, of the very input that is in it, that it is no longer than it may be.

Theory of operation
-------------------
A total that honest members cannot make is refused, and nobody sees single inputs. So, once a total was refused, each
survivor proves a bound on its own input, and whoever cannot is named. Nothing is asked of people again, nothing of an
input is shown but that it is in bounds, and nothing is charged (ADR 0143).

* **What is bounded.** Eight random signed sums of a member's input: of a vector v of norm L each is about L long, so an
  input that is a few times too long leaves the bound in one of them. Their signs come from the self-mask seeds that a
  quorum opened: nobody knew them when inputs were masked, and a coordinator cannot choose them afterwards.
* **What it is bound to.** The coordinator holds the masked input y. Self masks were opened. What is left are masks
  between pairs. Both members of a pair commit to the signed sums of their mask, with the same blinding, which only they
  know: two commitments that differ name the pair. So the coordinator has a commitment to each signed sum of each input.
* **The proof** is that of a number of b bits: a commitment to every bit, each with a proof that it is 0 or 1 (Cramer,
  Damgard and Schoenmakers, CRYPTO 1994), non-interactive after Fiat and Shamir. Commitments are Pedersen's on P-256
  (CRYPTO 1991): they hide for ever and bind as long as discrete logarithms on P-256 are hard.

A member's sum is ``z = c - P (mod 2^64)``, with c known and P the committed sums of its masks. It proves that
``c - P + T + 2^64 k``, for a small k, is what b bits make with weights 1, 2, 4, ... of which the last is such that all
together are 2T: then z is from -T to T, and nowhere else. The challenge hashes c, too, so a proof is of one number.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from Crypto.PublicKey.ECC import EccPoint
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, PeerError, RefusedError
from federation.secagg import masking
from federation.secagg.masking import Edge, Ring
from federation.secagg.ring import SCALE
from federation.secagg.session import digest

ROWS: Final = 8
"""Signed sums of each input. One that is four times the bound long hides in all of them with a probability of 2e-6, one
that is twice as long with 4e-4."""
_DEVIATIONS = 7.0
"""An honest member's sum is beyond the bound with a probability below 3e-11, and then it is named for nothing."""
_RING = 1 << 64

# ------------------------------------------------------------------------------------------------------------ P-256
_PRIME = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_POINT_BYTES, _SCALAR_BYTES = 33, 32


def _point(data: bytes) -> EccPoint:
    """The point of a compressed encoding (SEC 1, section 2.3.4).

    Raises:
        MalformedMessageError: it is none.
    """
    x = int.from_bytes(data[1:], "big")
    square = (x**3 - 3 * x + _B) % _PRIME
    y = pow(square, (_PRIME + 1) // 4, _PRIME)
    if len(data) != _POINT_BYTES or data[0] not in {2, 3} or x >= _PRIME or y * y % _PRIME != square:
        raise MalformedMessageError("a commitment is no point of P-256")
    return EccPoint(x, y if y % 2 == data[0] % 2 else _PRIME - y, "p256")


def _encoded(point: EccPoint) -> bytes:
    return bytes([2 + int(point.y) % 2]) + int(point.x).to_bytes(32, "big")


def _second_generator() -> EccPoint:
    """A point whose logarithm nobody knows: the first that hashing a fixed text gives."""
    for number in range(256):
        try:
            return _point(b"\2" + hashlib.sha256(b"intaglio range proofs, second generator %d" % number).digest())
        except MalformedMessageError:
            continue
    raise AssertionError


_G = EccPoint(
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    "p256",
)
_H = _second_generator()


def _commitment(value: int, blinding: int) -> EccPoint:
    return _G * (value % _ORDER) + _H * (blinding % _ORDER)


# ----------------------------------------------------------------------------------------------------- what is shown
@dataclass(frozen=True, eq=False)
class Ranges:
    """What all survivors of one sum show, and the coordinator checks.

    Attributes:
        context: digest that binds everybody to one key list.
        seeds: self-mask seeds of all survivors, as they were opened.
        size: length of the vectors.
    """

    context: bytes
    seeds: Mapping[int, bytes]
    size: int

    @property
    def signs(self) -> NDArray[np.bool_]:
        """(ROWS, size): which numbers count positive in each signed sum."""
        seed = digest(b"intaglio range signs 1", self.context, *(self.seeds[member] for member in sorted(self.seeds)))
        drawn = np.frombuffer(hashlib.shake_256(seed).digest(ROWS * (-(-self.size // 8))), dtype=np.uint8)
        return np.unpackbits(drawn.reshape(ROWS, -1), axis=1)[:, : self.size].astype(np.bool_)

    def sums(self, vector: Ring) -> list[int]:
        """The signed sums of a vector, modulo 2^64."""
        plus = np.array([vector[row].sum(dtype=np.uint64) for row in self.signs], dtype=np.uint64)
        return [int(value) for value in plus + plus - vector.sum(dtype=np.uint64)]

    def bound(self, longest: float, std: float) -> int:
        """How long an honest member's signed sum may be.

        Args:
            longest: L2 norm that its people can give to its input.
            std: of the member's own noise, in units.
        """
        return math.ceil(_DEVIATIONS * math.hypot(longest * (SCALE + 1), std * math.sqrt(self.size)))

    def show(self, member: int, masked: Ring, keys: Mapping[Edge, bytes], bound: int) -> bytes:
        """What a survivor answers.

        Args:
            member: this one.
            masked: its masked input.
            keys: of every mask that is in it but its own, by edge.
            bound: of its signed sums.

        Raises:
            RefusedError: its input is not in bounds.
        """
        edges = self.edges_of(member, keys)
        known = self._known(member, masked, {edge: key for edge, key in keys.items() if edge not in edges})
        masks = {edge: self.sums(masking.mask(keys[edge], self.size)) for edge in edges}
        blindings = {edge: _blindings(keys[edge], self.context) for edge in edges}
        proofs = []
        for row in range(ROWS):
            value = known[row] - sum(_sign(edge, member) * masks[edge][row] for edge in edges)
            blinding = -sum(_sign(edge, member) * blindings[edge][row] for edge in edges)
            proofs.append(_BitProof.draw(value, blinding, bound, len(edges)))
        committed = [
            _encoded(_commitment(masks[edge][row], blindings[edge][row])) for edge in edges for row in range(ROWS)
        ]
        first = [part for proof in proofs for part in proof.first]
        challenge = _challenge(self.context, member, bound, known, committed, first)
        return b"".join([*committed, *first, *(part for proof in proofs for part in proof.last(challenge))])

    def check(
        self, member: int, masked: Ring, gone: Mapping[Edge, bytes], edges: Sequence[Edge], bound: int, shown: bytes
    ) -> dict[Edge, bytes]:
        """What the coordinator makes of an answer: commitments by edge, to compare with those of the other side.

        Args:
            member: whose answer it is.
            masked: its masked input.
            gone: keys of the masks with those who left, which a quorum opened.
            edges: all others.
            bound: of its signed sums.
            shown: the answer.

        Raises:
            PeerError: it does not show that the input is in bounds.
        """
        bits = sum(_bits(bound, len(edges)))
        sizes = [(len(edges) * ROWS, _POINT_BYTES), (ROWS * bits * 3, _POINT_BYTES), (ROWS * bits * 3, _SCALAR_BYTES)]
        if len(shown) != sum(count * size for count, size in sizes):
            raise MalformedMessageError("its proof has another length")
        parts, at = [], 0
        for count, size in sizes:
            parts.append([shown[at + n * size : at + (n + 1) * size] for n in range(count)])
            at += count * size
        committed, first, last = parts
        known = self._known(member, masked, gone)
        challenge = _challenge(self.context, member, bound, known, committed, first)
        for row in range(ROWS):
            sum_of_masks = _G * 0
            for number, edge in enumerate(edges):
                sum_of_masks += _point(committed[number * ROWS + row]) * (_sign(edge, member) % _ORDER)
            statement = _G * known[row] + -sum_of_masks
            rows = slice(row * bits * 3, (row + 1) * bits * 3)
            _require_bits(statement, bound, len(edges), first[rows], last[rows], challenge)
        return {edge: b"".join(committed[n * ROWS : (n + 1) * ROWS]) for n, edge in enumerate(edges)}

    def edges_of(self, member: int, edges: Iterable[Edge]) -> list[Edge]:
        """Those between a member and other survivors, in order."""
        return sorted(edge for edge in edges if member in edge and set(edge) <= self.seeds.keys())

    def _known(self, member: int, masked: Ring, gone: Mapping[Edge, bytes]) -> list[int]:
        """The signed sums of an input under the masks between survivors alone."""
        clear = masked - masking.self_mask(self.seeds[member], self.context, self.size)
        for edge, key in gone.items():
            mask = masking.mask(key, self.size)
            clear = clear - mask if edge[0] == member else clear + mask
        return self.sums(clear)


def _sign(edge: Edge, member: int) -> int:
    return 1 if edge[0] == member else -1


def _blindings(key: bytes, context: bytes) -> list[int]:
    """One for each row, for both members of a pair."""
    return [
        int.from_bytes(hashlib.sha512(digest(b"intaglio range blinding 1", key, context, b"%d" % row)).digest(), "big")
        for row in range(ROWS)
    ]


def _challenge(
    context: bytes, member: int, bound: int, known: Sequence[int], committed: Sequence[bytes], first: Sequence[bytes]
) -> int:
    numbers = b" ".join(b"%d" % number for number in (member, bound, *known))
    head = digest(b"intaglio range challenge 2", context, numbers)
    hashed = hashlib.sha512(b"".join([head, *committed, *first])).digest()
    return int.from_bytes(hashed, "big") % _ORDER


def _bits(bound: int, edges: int) -> tuple[int, int]:
    """Bits of a sum above minus its bound, and of how often it wrapped around."""
    return (2 * bound).bit_length(), (2 * edges + 1).bit_length()


def _weights(bound: int, edges: int) -> list[int]:
    low, high = _bits(bound, edges)
    return [*(1 << bit for bit in range(low - 1)), _last(bound), *(_RING << bit for bit in range(high))]


def _last(bound: int) -> int:
    """The weight of a sum's last bit: with the powers of two before it, it makes 2T, and each number up to that."""
    return 2 * bound - (1 << (2 * bound).bit_length() - 1) + 1


@dataclass(frozen=True, eq=False)
class _BitProof:
    """Proof that a committed number has few bits: what is sent before the challenge, and what answers it.

    Attributes:
        bits: of the number.
        blindings: of their commitments.
        nonces: for the branch that is true.
        simulated: challenge and answer of the branch that is not.
        first: for every bit its commitment and both branches' first messages.
    """

    bits: list[int]
    blindings: list[int]
    nonces: list[int]
    simulated: list[tuple[int, int]]
    first: list[bytes]

    @classmethod
    def draw(cls, value: int, blinding: int, bound: int, edges: int) -> _BitProof:
        weights, (low, _) = _weights(bound, edges), _bits(bound, edges)
        signed = (value + _RING // 2) % _RING - _RING // 2
        above, wraps = signed + bound, (value - signed) // _RING + edges
        if not 0 <= above <= 2 * bound:
            raise RefusedError("this organisation's input is longer than it may be")
        rest = above - (last := above >> low - 1) * _last(bound)
        bits = [*(rest >> bit & 1 for bit in range(low - 1)), last]
        bits += [wraps >> bit & 1 for bit in range(len(weights) - low)]
        drawn = [0] + [secrets.randbelow(_ORDER) for _ in weights[1:]]
        drawn[0] = (blinding - sum(weight * each for weight, each in zip(weights, drawn, strict=True))) % _ORDER
        nonces = [secrets.randbelow(_ORDER) for _ in weights]
        simulated = [(secrets.randbelow(_ORDER), secrets.randbelow(_ORDER)) for _ in weights]
        first = []
        for bit, mask, nonce, (challenge, answer) in zip(bits, drawn, nonces, simulated, strict=True):
            committed = _commitment(bit, mask)
            less = committed + -_G  # for either bit: what takes longer for one would tell how many there are of it
            other = committed if bit else less
            branches = [_H * nonce, _H * answer + -(other * challenge)]
            first += [_encoded(point) for point in (committed, *(branches[::-1] if bit else branches))]
        return cls(bits, drawn, nonces, simulated, first)

    def last(self, challenge: int) -> list[bytes]:
        """For every bit the challenge of the branch 0, and both branches' answers."""
        parts = []
        rows = zip(self.bits, self.blindings, self.nonces, self.simulated, strict=True)
        for bit, blinding, nonce, (other_challenge, other_answer) in rows:
            mine = (challenge - other_challenge) % _ORDER
            answer = (nonce + mine * blinding) % _ORDER
            sent = (other_challenge, other_answer, answer) if bit else (mine, answer, other_answer)
            parts += [number.to_bytes(_SCALAR_BYTES, "big") for number in sent]
        return parts


def _require_bits(
    statement: EccPoint, bound: int, edges: int, first: Sequence[bytes], last: Sequence[bytes], challenge: int
) -> None:
    """Raises PeerError unless the committed number is in bounds."""
    committed = [_point(data) for data in first[::3]]
    for number, point in enumerate(committed):
        zero, answer_zero, answer_one = (int.from_bytes(part, "big") for part in last[3 * number : 3 * number + 3])
        if max(zero, answer_zero, answer_one) >= _ORDER:
            raise MalformedMessageError("its proof holds a number that is too large")
        branches = (
            _H * answer_zero + -(point * zero),
            _H * answer_one + -((point + -_G) * ((challenge - zero) % _ORDER)),
        )
        if [_encoded(branch) for branch in branches] != list(first[3 * number + 1 : 3 * number + 3]):
            raise PeerError("its proof does not hold: a bit is neither 0 nor 1")
    (low, _), total = _bits(bound, edges), _G * 0
    for point in reversed(committed[low:]):
        total = total + total + point
    total = total * _RING + committed[low - 1] * _last(bound)
    lowest = _G * 0
    for point in reversed(committed[: low - 1]):
        lowest = lowest + lowest + point
    if total + lowest != statement + _G * (bound + _RING * edges):
        raise PeerError("its proof does not hold: its bits are of another number")
