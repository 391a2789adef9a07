"""Numbers as a release or a profile carries them: bytes that anybody can check, and an array to compute with.

NumPy is imported when the array is asked for. So a release is read and verified without it.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from federation.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BYTES, _SINGLE_BYTES = 8, 4


@dataclass(frozen=True)
class Numbers:
    """Finite float64 of one shape.

    Attributes:
        raw: little-endian, the last index first.
        shape: how many there are along each axis.

    Raises:
        UsageError: there are more or fewer of them, or one is not finite.
    """

    raw: bytes
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.raw) != _BYTES * math.prod(self.shape):
            raise UsageError(f"an array must have the shape {self.shape}")
        if not all(math.isfinite(number) for (number,) in struct.iter_unpack("<d", self.raw)):
            raise UsageError("the numbers of a release must be finite float64")

    @classmethod
    def of(cls, array: NDArray[np.float64]) -> Self:
        """A private copy, so that a frozen value stays what it was.

        Raises:
            UsageError: it is no float64, or not finite.
        """
        if array.dtype != float:
            raise UsageError("the numbers of a release must be finite float64")
        return cls(array.astype("<f8").tobytes(), array.shape)

    @property
    def array(self) -> NDArray[np.float64]:
        """The numbers, to read only; no copy."""
        import numpy as np  # noqa: PLC0415 - see the top

        return np.frombuffer(self.raw, dtype="<f8").reshape(self.shape)


@dataclass(frozen=True)
class SingleNumbers:
    """Finite float32 of one shape, as a recogniser profile carries them.

    Attributes:
        raw: little-endian, the last index first.
        shape: how many there are along each axis.

    Raises:
        UsageError: there are more or fewer of them, or one is not finite.
    """

    raw: bytes
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.raw) != _SINGLE_BYTES * math.prod(self.shape):
            raise UsageError(f"an array must have the shape {self.shape}")
        if not all(math.isfinite(number) for (number,) in struct.iter_unpack("<f", self.raw)):
            raise UsageError("the numbers of a profile must be finite float32")

    @classmethod
    def of(cls, array: NDArray[np.floating[Any]]) -> Self:
        """The nearest float32 of every number.

        Raises:
            UsageError: one is not finite, or becomes so.
        """
        import numpy as np  # noqa: PLC0415 - see the top

        with np.errstate(over="ignore"):
            return cls(array.astype("<f4").tobytes(), array.shape)

    @property
    def values(self) -> tuple[float, ...]:
        """The numbers in a row."""
        return struct.unpack(f"<{math.prod(self.shape)}f", self.raw)

    @property
    def array(self) -> NDArray[np.float64]:
        """The numbers; a copy."""
        import numpy as np  # noqa: PLC0415 - see the top

        return np.frombuffer(self.raw, dtype="<f4").astype(np.float64).reshape(self.shape)
