"""A second reading of proofs of range, from docs/formats.md: slow, and without a line of the code that it judges.

Points of P-256 are pairs of Python's integers, None the neutral one. From libraries come hashes and ChaCha20 alone.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
ROWS = 8


def plus(one, other):
    if one is None or other is None:
        return other if one is None else one
    (x, y), (u, v) = one, other
    if x == u and (y + v) % P == 0:
        return None
    slope = (3 * x * x - 3) * pow(2 * y, -1, P) if one == other else (v - y) * pow(u - x, -1, P)
    w = (slope * slope - x - u) % P
    return w, (slope * (x - w) - y) % P


def times(number, point):
    total = None
    for bit in f"{number % N:b}":
        total = plus(total, total)
        total = plus(total, point) if bit == "1" else total
    return total


def minus(point):
    return None if point is None else (point[0], -point[1] % P)


def point(data):
    x = int.from_bytes(data[1:], "big")
    y = pow(x**3 - 3 * x + B, (P + 1) // 4, P)
    if data[0] not in {2, 3} or x >= P or (y * y - x**3 + 3 * x - B) % P:
        return None
    return x, y if y % 2 == data[0] % 2 else P - y


def h_point():
    texts = (b"intaglio range proofs, second generator %d" % number for number in range(256))
    return next(found for text in texts if (found := point(b"\2" + hashlib.sha256(text).digest())))


H = h_point()


def digest(*fields):
    return hashlib.sha256(b"".join(len(field).to_bytes(4, "little") + field for field in fields)).digest()


def keystream(key, size):
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * size))
    return [int.from_bytes(stream[at : at + 8], "little") for at in range(0, 8 * size, 8)]


def hkdf(secret, salt, info):
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\1", "sha256")


def signs(context, seeds, size):
    stride = -(-size // 8)
    seed = digest(b"intaglio range signs 1", context, *(seeds[member] for member in sorted(seeds)))
    drawn = hashlib.shake_256(seed).digest(ROWS * stride)
    return [[1 if drawn[row * stride + at // 8] >> 7 - at % 8 & 1 else -1 for at in range(size)] for row in range(ROWS)]


def known_sums(member, masked, context, seeds, gone):
    """The signed sums of a masked input without its self mask and its masks with those who left."""
    clear, size = list(masked), len(masked)
    key = hkdf(seeds[member], context, b"intaglio secure aggregation v2 self mask")
    masks = [(1, keystream(key, size))]
    masks += [(1 if edge[0] == member else -1, keystream(key, size)) for edge, key in gone.items()]
    for sign, mask in masks:
        clear = [value - sign * part for value, part in zip(clear, mask, strict=True)]
    return [
        sum(sign * value for sign, value in zip(row, clear, strict=True)) % 2**64 for row in signs(context, seeds, size)
    ]


def weights(bound, edges):
    low, high = (2 * bound).bit_length(), (2 * edges + 1).bit_length()
    powers = [2**bit for bit in range(low - 1)]
    return [*powers, 2 * bound - sum(powers), *(2**64 * 2**bit for bit in range(high))]


def why_not(member, known, context, edges, bound, shown):
    """What is wrong with a proof, in a word; None when nothing is.

    Args:
        member: whose it is.
        known: `known_sums`.
        context: digest of the key list.
        edges: masks with other survivors, in ascending order.
        bound: of each signed sum.
        shown: the bytes.
    """
    each = weights(bound, len(edges))
    points, scalars = ROWS * len(edges) + 3 * ROWS * len(each), 3 * ROWS * len(each)
    if len(shown) != 33 * points + 32 * scalars:
        return "length"
    encoded = [shown[33 * at : 33 * at + 33] for at in range(points)]
    numbers = [int.from_bytes(shown[33 * points + 32 * at :][:32], "big") for at in range(scalars)]
    if max(numbers) >= N or not all(map(point, encoded)):
        return "scalar" if max(numbers) >= N else "point"
    committed, first = encoded[: ROWS * len(edges)], encoded[ROWS * len(edges) :]
    text = b" ".join(b"%d" % number for number in (member, bound, *known))
    head = digest(b"intaglio range challenge 2", context, text)
    challenge = int.from_bytes(hashlib.sha512(head + b"".join(encoded)).digest(), "big") % N
    for row in range(ROWS):
        statement = times(known[row], G)
        for at, edge in enumerate(edges):
            mask = point(committed[ROWS * at + row])
            statement = plus(statement, minus(mask) if edge[0] == member else mask)
        total = None
        for bit, weight in enumerate(each):
            at = 3 * (row * len(each) + bit)
            made, zero, one = map(point, first[at : at + 3])
            challenged, answer_zero, answer_one = numbers[at : at + 3]
            holds = times(answer_zero, H) == plus(zero, times(challenged, made))
            if not holds or times(answer_one, H) != plus(one, times(challenge - challenged, plus(made, minus(G)))):
                return "bit"
            total = plus(total, times(weight, made))
        if total != plus(statement, times(bound + 2**64 * len(edges), G)):
            return "number"
    return None
