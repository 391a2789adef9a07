"""A small model of the first construction's arithmetic, from its formula alone: the control of the attack suite.

The server computed E = A (T + P - 2 T P) + U (P^2 - P) + B modulo q, and the device read it modulo t. Here in a ring of
dimension 64 with Python's integers, without encryption: what the secret key's holder sees of it. The code sits in the
constants of 16 slots, the fields x^4 - zeta.
"""

import secrets

N, SLOTS = 64, 16
T = 67_104_769  # the first construction's t: 4097 modulo 8192, so 1 + 2 SLOTS odd times here too
Q = 281_474_976_694_273 * 281_474_976_546_817 * 1_099_511_480_321
SCALE = pow(SLOTS, -1, T)
"""Coefficient 0 of a polynomial is SCALE times the sum of its slots' constants."""


def zeta():
    """A root whose odd powers are the zetas: of order 2 SLOTS modulo t."""
    return next(z for g in range(2, 100) if pow(z := pow(g, (T - 1) // (2 * SLOTS), T), SLOTS, T) == T - 1)


def pack(numbers):
    """Numbers mod t as the constants of the slots -> coefficients."""
    root, packed = zeta(), [0] * N
    for k in range(SLOTS):
        terms = (value * pow(root, -k * (2 * i + 1), T) for i, value in enumerate(numbers))
        packed[4 * k] = sum(terms) * SCALE % T
    return packed


def times(left, right, modulus=Q):
    product = [0] * N
    for i, a in enumerate(left):
        if a:
            for j, b in enumerate(right):
                sign = 1 if i + j < N else -1
                product[(i + j) % N] += sign * a * b
    return [value % modulus for value in product]


def centred(value):
    return (value + Q // 2) % Q - Q // 2


def session(template, probe, threshold, *, zero_test=True):
    """Whether the device's four numbers are among the accepted ones, for template bits and any probe modulo q."""
    scale = [secrets.randbelow(T) for _ in range(4)] + [0] * (N - 4)
    uniform = [secrets.randbelow(T) if zero_test else 0 for _ in range(N)]
    offset = [secrets.randbelow(T) for _ in range(N)]
    packed = pack(template)
    minus_two_t = [(-2 * value) % Q for value in packed]
    one = [1] + [0] * (N - 1)
    distance = [a + b + c for a, b, c in zip(packed, probe, times(minus_two_t, probe), strict=True)]
    square = times(probe, [value - unit for value, unit in zip(probe, one, strict=True)])
    parts = zip(times(scale, distance), times(uniform, square), offset, strict=True)
    seen = tuple(centred(sum(part)) % T for part in parts)[:4]
    accepted = {
        tuple((a * SCALE * k + b) % T for a, b in zip(scale[:4], offset[:4], strict=True)) for k in range(threshold + 1)
    }
    return seen in accepted


def inflation(weight, distance=0):
    """v such that the constant probe v is at `distance` of every template with so many ones."""
    return (distance - weight) * pow(SLOTS - 2 * weight, -1, T) % T
