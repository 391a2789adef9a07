"""Real numbers as integers modulo 2^64, and the noise that is added to them there.

Theory of operation
-------------------
A sum over people, each of L2 norm at most 1, is multiplied by 2^32 and rounded. Rounding moves every number by at most
half a unit, so one person changes the integer vector by an L2 norm of at most ``2^32 + sqrt(size)``: that is the
sensitivity that noise multipliers refer to. All later arithmetic is exact.

Each member adds discrete Gaussian noise (OpenDP samples it exactly, from the operating system's randomness). Noise of
several members is not exactly discrete Gaussian and that is not exactly Gaussian, which is what the accountant counts;
at a standard deviation above 2^24 units the two gaps together are below 1e-9 in epsilon and vanish in delta
(ADR 0071). `discrete_noise` refuses smaller ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, UsageError
from federation.secagg.session import Session

NoiseSource = Callable[[int, float], NDArray[np.int64]]
"""Gives so many int64 of noise with a standard deviation in units."""

SCALE: Final = 2.0**32
"""Units of 1."""

_SMALLEST_STD = 2.0**24
_TAIL = 40.0
"""Deviations that no noise reaches: a probability below 1e-340 for each number."""


def noise_std(noise_multiplier: float, size: int) -> float:
    """Standard deviation, in units, of noise for a vector in which one person counts 1."""
    return noise_multiplier * (SCALE + math.sqrt(size))


def encode(values: NDArray[np.float64], people: int) -> NDArray[np.int64]:
    """The nearest integers, in units.

    Args:
        values: (size,) float64, a sum over people of L2 norm at most 1 each.
        people: how many.

    Raises:
        UsageError: the vector is longer than so many people can make it.
    """
    if not np.linalg.norm(values) <= people * (1 + 1e-9):
        raise UsageError(f"the sum is longer than {people} people of norm 1 can make it")
    return np.rint(values * SCALE).astype(np.int64)


def decode(total: NDArray[np.int64], longest: float, std: float) -> NDArray[np.float64]:
    """The sum as real numbers.

    A member can add what it likes, and nobody sees single inputs. A total is refused when honest ones cannot make it.

    Args:
        total: (size,) int64, of all members.
        longest: L2 norm that all people together can give to it.
        std: of all noise in it, in units.

    Raises:
        MalformedMessageError: the total is longer than those people and so much noise can make it.
    """
    # Gaussian noise is longer than sqrt(size) + 8 deviations with a probability below e^-32.
    most = longest * SCALE + (math.sqrt(len(total)) + 8) * std + math.sqrt(len(total)) * longest
    values = total.astype(np.float64)
    if not np.linalg.norm(values) <= most:
        raise MalformedMessageError(
            f"the total is longer than {longest:g} and its noise: honest members cannot make it"
        )
    return np.asarray(values / SCALE)


def require_std(std: float) -> None:
    """Raises UsageError when a standard deviation is too small for the accounting or too large for the ring."""
    if not _SMALLEST_STD <= std < 2.0**62 / _TAIL:
        raise UsageError(f"noise in the ring needs a standard deviation of 2^24 to 2^56 units, got {std:g}")


def discrete_noise(size: int, std: float) -> NDArray[np.int64]:
    """(size,) int64 of discrete Gaussian noise that nobody can repeat.

    Raises:
        UsageError: the standard deviation is too small for the accounting or too large for the ring.
    """
    require_std(std)
    # Here, since 265 MB are for members only. Not opendp.prelude: it imports scikit-learn, which takes longer than all
    # messages of a run together.
    from opendp.domains import atom_domain, vector_domain  # noqa: PLC0415 - see the lines before
    from opendp.measurements import make_gaussian  # noqa: PLC0415
    from opendp.metrics import l2_distance  # noqa: PLC0415
    from opendp.mod import enable_features  # noqa: PLC0415

    enable_features("contrib")  # OpenDP's switch for whatever its own reviewers have not finished with
    space = vector_domain(atom_domain(T="i64")), l2_distance(T="f64")
    return np.array(make_gaussian(*space, scale=std)([0] * size), dtype=np.int64)


def noisy_input(
    session: Session,
    values: NDArray[np.float64],
    people: int,
    noise_multiplier: float,
    *,
    noise: NoiseSource = discrete_noise,
) -> NDArray[np.int64]:
    """What one member puts under its masks: its sum in units, with its share of the noise.

    Args:
        session: how many members share the noise.
        values: (session.size,) float64, a sum over people of L2 norm at most 1 each. Sensitive.
        people: how many.
        noise_multiplier: noise that the honest survivors must carry together.
        noise: draws noise; anything but the default voids the privacy.

    Returns:
        (session.size,) int64. Sensitive: it carries a share of the noise only.

    Raises:
        UsageError: see `encode` and `discrete_noise`.
    """
    std = session.noise_share(noise_std(noise_multiplier, session.size))
    return encode(values, people) + noise(session.size, std)


def require_headroom(session: Session, people: int, std: float) -> None:
    """Checks that no sum of so many people and so much noise wraps around.

    Args:
        session: the sum.
        people: over all members.
        std: of one member's noise, in units.

    Raises:
        UsageError: it could wrap.
    """
    if people * (SCALE + 1) + len(session.roster) * _TAIL * std >= 2.0**63:
        raise UsageError(f"{people} people with this much noise do not fit into 64 bits; plan fewer, or less noise")
