"""Layers of small convolutional networks, in NumPy: faces are found and embedded where no torch is installed.

Images are (n, rows, columns, channels) float32. Most of the time goes into pointwise convolutions, which are matrix
products, so NumPy is about as fast as a network library here.

Padding is TensorFlow's SAME: as many outputs as inputs / stride, rounded up, and where the zeros around an image cannot
be shared out evenly, one more below and on the right than above and on the left.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Images = NDArray[np.float32]
"""(n, rows, columns, channels) float32. Sensitive where they come from a face."""


_NUMBERS_AT_ONCE: Final = 3 << 14
"""Of an image, that are worked on until they are done, and stay near the processor meanwhile."""


def one_thread() -> AbstractContextManager[Any]:
    """Inside, matrix products of this process use one thread.

    Products here are small: several threads wait for each other longer than they work, which took nine times the
    processor time on a busy machine of two cores. And how they share the work would decide the last bits.
    """
    limited: AbstractContextManager[Any] = _linear_algebra().limit(limits=1, user_api="blas")
    return limited


@cache
def _linear_algebra() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController  # noqa: PLC0415 - whoever only reads a profile has none

    return ThreadpoolController()


def _padded(x: Images, side: int, stride: int) -> Images:
    lengths, before = list(x.shape), [0, 0, 0]
    for axis in (1, 2):
        total = max((-(-x.shape[axis] // stride) - 1) * stride + side - x.shape[axis], 0)
        lengths[axis], before[axis] = x.shape[axis] + total, total // 2
    around = np.zeros(lengths, x.dtype)
    around[:, before[1] : before[1] + x.shape[1], before[2] : before[2] + x.shape[2]] = x
    return around


def convolution(x: Images, weights: Images, bias: Images, *, stride: int = 1) -> Images:
    """A convolution with zeros around the image.

    Args:
        x: (n, rows, columns, inputs).
        weights: (side, side, inputs, outputs).
        bias: (outputs,).
        stride: rows and columns between two outputs.
    """
    side, inputs, outputs = weights.shape[0], *weights.shape[2:]
    if side == 1 and stride == 1:
        mixed: Images = x.reshape(-1, inputs) @ weights[0, 0]
        mixed += bias
        return mixed.reshape(*x.shape[:3], outputs)
    windows = np.lib.stride_tricks.sliding_window_view(_padded(x, side, stride), (side, side), axis=(1, 2))
    windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
    n, rows, columns = windows.shape[:3]
    flat = windows.reshape(n * rows * columns, side * side * inputs) @ weights.reshape(-1, outputs)
    return flat.reshape(n, rows, columns, outputs) + bias


def depthwise(x: Images, weights: Images, bias: Images, *, stride: int = 1) -> Images:
    """A convolution of each channel on its own, with zeros around the image.

    Args:
        x: (n, rows, columns, channels).
        weights: (side, side, channels).
        bias: (channels,).
        stride: rows and columns between two outputs.
    """
    side = weights.shape[0]
    around = _padded(x, side, stride)
    rows, columns = (-(-length // stride) for length in x.shape[1:3])
    # A row of columns that one place of the kernel meets is one run of numbers: far faster than channel by channel.
    runs = [around[:, :, start::stride].reshape(len(x), around.shape[1], -1) for start in range(stride)]
    each, along = x.shape[3], columns * x.shape[3]
    places = [
        (row, runs[column % stride], column // stride * each, np.tile(weights[row, column], columns))
        for row in range(side)
        for column in range(side)
    ]
    total = np.empty((len(x), rows, along), x.dtype)
    total[:] = np.tile(bias, columns)
    rows_at_once = max(1, _NUMBERS_AT_ONCE // along)
    product = np.empty((rows_at_once, along), total.dtype)
    for image in range(len(x)):
        for first in range(0, rows, rows_at_once):
            some = total[image, first : first + rows_at_once]
            for row, run, start, weight in places:
                begin = first * stride + row
                part = run[image, begin : begin + (len(some) - 1) * stride + 1 : stride, start : start + along]
                some += np.multiply(part, weight, out=product[: len(some)])
    return total.reshape(len(x), rows, columns, each)


def prelu(x: Images, slope: Images) -> Images:
    """`x` where it is positive, and `slope`, (channels,), times `x` elsewhere."""
    y = np.minimum(x, 0)
    y *= slope
    y += np.maximum(x, 0)
    return y


def relu(x: Images) -> Images:
    """`x` where it is positive, and 0 elsewhere."""
    return np.maximum(x, 0)


def halved_by_largest(x: Images) -> Images:
    """The largest of every 2 x 2 pixels; rows and columns are even."""
    above, below = x[:, ::2], x[:, 1::2]
    taller = np.maximum(above, below)
    return np.maximum(taller[:, :, ::2], taller[:, :, 1::2])
