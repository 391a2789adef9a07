"""MobileFaceNet once more, as a torch module: where it is trained, and where images of many people are embedded anew.

`federation.recognition.mobilefacenet` runs the network wherever a face is verified, and needs no torch. Training needs
gradients of every image, so here are the same layers, built from its arrays. Which numbers are tuned, and in which
order they stand in a vector, is said there (`Bottleneck.tuned`).

This is the only module that imports torch for the network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from federation.recognition.mobilefacenet import (
    DIMENSION,
    FIRST_TUNED,
    LAST_TUNED,
    SIDE,
    Bottleneck,
    Layer,
    MobileFaceNet,
    MobileFaceNetRecogniser,
    require_scales,
)
from federation.recognition.recogniser import Chips, Embeddings, fed, require_chips, unit_rows_or_zero

BATCH: Final = 32
"""Chips that go through the network at once: bounds memory, and gains nothing beyond on a CPU."""
_SAME: Final = 3
"""Side of kernels that look over an image's edge. Others look at one pixel, or at all there are."""


class Scale(nn.Module):
    """A factor per channel: (n, channels, rows, columns) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - torch calls it; the class says what it does
        return x * self.factor[:, None, None]


class Rectifier(nn.Module):
    """A slope per channel for what is below zero: (n, channels, rows, columns) -> the same."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.slope = nn.Parameter(slope)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - as above
        return functional.prelu(x, self.slope)


class _Convolution(nn.Module):
    """A layer: convolution, a factor where it looks at each channel alone, slopes where it has some.

    Padding is TensorFlow's: an even image that is halved gets its zeros below and on the right only.
    """

    def __init__(self, layer: Layer, stride: int = 1) -> None:
        super().__init__()
        kernel, bias = _tensor(layer.weights), _tensor(layer.bias)
        alone = kernel.dim() == 3  # noqa: PLR2004 - as `Layer` says
        kernel = kernel.permute(2, 0, 1)[:, None] if alone else kernel.permute(3, 2, 0, 1)
        outputs, inputs, side, _ = kernel.shape
        self.conv = nn.Conv2d(
            outputs if alone else inputs, outputs, side, stride=stride, groups=outputs if alone else 1
        )
        self.conv.weight, self.conv.bias = nn.Parameter(kernel.contiguous()), nn.Parameter(bias)
        self.scale = Scale(outputs) if alone else None
        self.rectifier = None if layer.slope is None else Rectifier(_tensor(layer.slope))
        before, after = (side - stride) // 2, (side - stride + 1) // 2
        self.zeros = (before, after, before, after) if side == _SAME else (0, 0, 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(functional.pad(x, self.zeros))
        x = x if self.scale is None else self.scale(x)
        return x if self.rectifier is None else self.rectifier(x)


class _Bottleneck(nn.Module):
    """See `federation.recognition.mobilefacenet.Bottleneck`."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.widen, self.narrow = _Convolution(block.widen), _Convolution(block.narrow)
        self.look = _Convolution(block.look, block.stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.narrow(self.look(self.widen(x)))
        return x + y if y.shape == x.shape else y


class Tail(nn.Module):
    """All from the first block that is tuned: (n, 64, 28, 28) float32 -> (n, 192) float32, of any norm."""

    def __init__(self, network: MobileFaceNet) -> None:
        super().__init__()
        self.tuned = nn.Sequential(*map(_Bottleneck, network.blocks[FIRST_TUNED : LAST_TUNED + 1]))
        self.rest = nn.Sequential(
            *map(_Bottleneck, network.blocks[LAST_TUNED + 1 :]),
            *map(_Convolution, (network.last, network.weigh, network.mix, network.out)),
        )
        self.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - as above
        embedding: Tensor = self.rest(self.tuned(x))[:, :, 0, 0]
        return embedding

    def parameters_tuned(self) -> list[nn.Parameter]:
        """Slopes, factors and slopes of every tuned block, in the order of a vector of `TUNABLE` numbers."""
        layers = (layer for layer in self.tuned.modules() if isinstance(layer, Scale | Rectifier))
        return [parameter for layer in layers for parameter in layer.parameters()]


class TunableMobileFaceNet:
    """The network under torch, on CUDA where there is any, else on the CPU.

    Attributes:
        device: where it runs.
    """

    def __init__(self, recogniser: MobileFaceNetRecogniser, *, device: str | None = None) -> None:
        """Builds the layers from the recogniser's arrays.

        Args:
            recogniser: the frozen one.
            device: a torch device; None takes CUDA when there is one.
        """
        network = recogniser.network
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._preprocessing = recogniser.profile.preprocessing
        self._head = nn.Sequential(
            _Convolution(network.first, stride=2),
            *map(_Convolution, (network.look, network.entry)),
            *map(_Bottleneck, network.blocks[:FIRST_TUNED]),
        )
        self._head.requires_grad_(requires_grad=False).to(self.device)
        self._tail = Tail(network).to(self.device)

    def directions(self, chips: Chips, at_least: int = 0) -> Embeddings:
        """Embeddings, and zero where the network gives no direction: one that somebody else tuned may.

        What it makes of a chip depends on no other one, not even in the last bit (`equal_batches`).

        Args:
            chips: (n, 112, 112, 3) uint8, to embed.
            at_least: how many to work on, so that the time says no more than this.
        """
        require_chips(chips, SIDE)
        rows = [np.empty((0, DIMENSION), np.float32)]
        for count, full in equal_batches(chips, at_least):
            with torch.inference_mode(), exact():
                rows.append(self._tail(self.features(full)).cpu().numpy()[:count])
        return unit_rows_or_zero(np.concatenate(rows))

    def features(self, chips: Chips) -> Tensor:
        """What the part that is never tuned makes of a few chips: (n, 64, 28, 28) float32. Sensitive."""
        images = np.ascontiguousarray(fed(chips, self._preprocessing).transpose(0, 3, 1, 2))
        with torch.no_grad(), exact():
            features: Tensor = self._head(torch.from_numpy(images).to(self.device))
        return features

    def tail(self) -> Tail:
        """A copy of the rest, whose tuned numbers can be trained."""
        tail = copy.deepcopy(self._tail).train()  # the mode in which Opacus listens; the network has no other use
        for parameter in tail.parameters_tuned():
            parameter.requires_grad_()
        return tail

    def tuned(self, scales: NDArray[np.float64]) -> TunableMobileFaceNet:
        """This network with `scales` added to its tuned numbers; it shares the rest.

        Args:
            scales: (TUNABLE,) float64, in the order of `Tail.parameters_tuned`.

        Raises:
            UsageError: there are more or fewer numbers, or they are not finite.
        """
        require_scales(scales)
        tuned, tail = copy.copy(self), self.tail()
        parameters = tail.parameters_tuned()
        changes = torch.split(torch.from_numpy(scales.copy()), [parameter.numel() for parameter in parameters])
        with torch.no_grad():
            for parameter, change in zip(parameters, changes, strict=True):
                parameter.add_(change.to(parameter))
        tuned._tail = tail.requires_grad_(requires_grad=False)  # noqa: SLF001 - our own copy
        return tuned


def equal_batches(chips: Chips, at_least: int = 0) -> Iterator[tuple[int, Chips]]:
    """Chips in batches of one size, filled up with black ones, and how many of each batch are real.

    Convolutions of another batch size round otherwise. Scales that somebody chose can make much of that, so that one
    person more changed what is computed of another.

    Args:
        chips: (n, side, side, 3).
        at_least: how many chips there are batches for, black ones among them.
    """
    for start in range(0, max(len(chips), at_least), BATCH):
        some = chips[start : start + BATCH]
        yield len(some), np.concatenate([some, np.zeros((BATCH - len(some), *chips.shape[1:]), chips.dtype)])


@contextmanager
def exact() -> Iterator[None]:
    """Whoever runs the network, forward or backward, does it within this: else cuDNN is free to round as it likes.

    TF32 would round to 10 bits on recent GPUs: embeddings made on a GPU and on a CPU must compare. And algorithms that
    add in any order would make another last bit of the same numbers each time. `ieee` is said too: where TF32 is only
    not allowed here, a program around this one may have allowed it for everything, and that counts.
    """
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False, fp32_precision="ieee"):
        yield


def _tensor(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(array.copy())
