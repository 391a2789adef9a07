"""Numbers as a release or a profile carries them: bytes that anybody can check, and an array to compute with.

NumPy is imported when the array is asked for. So a release is read and verified without it.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from federation.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class _Packed:
    """Finite floats of one shape.

    Attributes:
        raw: little-endian, the last index first.
        shape: how many there are along each axis.

    Raises:
        UsageError: there are more or fewer of them, or one is not finite.
    """

    raw: bytes
    shape: tuple[int, ...]

    _form: ClassVar[str]
    _what: ClassVar[str]

    def __post_init__(self) -> None:
        if len(self.raw) != struct.calcsize(self._form) * math.prod(self.shape):
            raise UsageError(f"an array must have the shape {self.shape}")
        if not all(math.isfinite(number) for (number,) in struct.iter_unpack(self._form, self.raw)):
            raise UsageError(self._what)


@dataclass(frozen=True)
class Numbers(_Packed):
    """Finite float64 of one shape, as a release carries them."""

    _form = "<d"
    _what = "the numbers of a release must be finite float64"

    @classmethod
    def of(cls, array: NDArray[np.float64]) -> Self:
        """A private copy, so that a frozen value stays what it was.

        Raises:
            UsageError: it is no float64, or not finite.
        """
        if array.dtype != float:
            raise UsageError(cls._what)
        return cls(array.astype("<f8").tobytes(), array.shape)

    @property
    def array(self) -> NDArray[np.float64]:
        """The numbers, to read only; no copy."""
        import numpy as np  # noqa: PLC0415 - see the top

        return np.frombuffer(self.raw, dtype="<f8").reshape(self.shape)


@dataclass(frozen=True)
class SingleNumbers(_Packed):
    """Finite float32 of one shape, as a recogniser profile carries them."""

    _form = "<f"
    _what = "the numbers of a profile must be finite float32"

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
