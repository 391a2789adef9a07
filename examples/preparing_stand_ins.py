"""A recogniser and a detector that only stand in for real ones: what is left to measure is everything around them.

Doubles for speed, never for accuracy. The recogniser is a real .onnx file with a profile, brought as a user brings
one, and what it computes is a random projection of a coarse picture. The detector reads from a picture's comment where
the face lies: the real one found it, in the original that the picture was made of. Files, digests, decoding, the gate
on photographs, the cut, batches, parts, joining and publishing are what they always are.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Final

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from client.faces.finding import Aligner, FaceFinder
from client.faces.images import UnusableImageError
from client.faces.models import load_recogniser, profile_beside
from client.preparing.parts import Recipe, Workshop
from federation.recognition.conditions import unmeasured
from federation.recognition.cropping import Pixels, Points
from federation.recognition.foreign import NETWORK, OnnxNetwork
from federation.recognition.profile import Clips, ColourOrder, Preprocessing, Provenance, RecogniserProfile
from federation.recognition.profiles import REFERENCE
from federation.recognition.recogniser import Recogniser
from federation.recognition.templates import ARCFACE

DIMENSION: Final = 192
"""As many numbers as the recogniser that comes with the project gives."""
_COARSE: Final = 8
"""Pixels on a side that become one."""
_MIDDLE: Final = 127_500


def write_recogniser(model: Path, seed: int = 0) -> Path:
    """Writes an .onnx file, always of the same bytes, and its profile beside it; gives its path."""
    places = 3 * (ARCFACE.side // _COARSE) ** 2
    weights = np.random.default_rng(seed).standard_normal((places, DIMENSION)).astype(np.float32)
    pooled = helper.make_node("AveragePool", ["image"], ["x"], kernel_shape=[_COARSE] * 2, strides=[_COARSE] * 2)
    nodes = [pooled, helper.make_node("Flatten", ["x"], ["y"]), helper.make_node("MatMul", ["y", "w"], ["embedding"])]
    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, ARCFACE.side, ARCFACE.side])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", DIMENSION])],
        [numpy_helper.from_array(weights, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model.write_bytes(made.SerializeToString())
    network = OnnxNetwork(model.read_bytes())
    profile = RecogniserProfile(
        name="stand-in",
        network=NETWORK,
        weights_digest=network.digest,
        alignment=ARCFACE,
        preprocessing=Preprocessing(ColourOrder.RGB, (_MIDDLE,) * 3, _MIDDLE, network.layout, network.batch),
        dimension=network.dimension,
        code_length=1024,
        subspace=unmeasured(network.dimension),
        conditions=(),
        sets=(),
        clips=Clips(900),
        provenance=Provenance("random numbers", "none", "nobody"),
    )
    profile_beside(model).write_bytes(profile.to_bytes())
    return model


def comment_of(landmarks: Points) -> bytes:
    """What a JPEG's comment says of the face: (4, 2) landmarks, in its pixels."""
    return json.dumps(landmarks.round(3).tolist()).encode()


class _Said(FaceFinder):
    """Finds what it was told. It loads no detector."""

    def __init__(self) -> None:
        self.version = hashlib.sha256(b"stand-in: landmarks of a comment").hexdigest()
        self.said = np.zeros((4, 2))

    def landmarks(self, rgb: Pixels, profile: str = REFERENCE) -> Points:  # noqa: ARG002 - as the real one is asked
        """What was said."""
        return self.said


class SaidAligner(Aligner):
    """Cuts where a picture's comment says that the face is."""

    def __init__(self, recogniser: Recogniser) -> None:
        self._said = _Said()
        super().__init__(recogniser.profile.alignment, self._said)

    def chip(self, image: bytes, profile: str = REFERENCE) -> Pixels:
        """See `client.faces.finding.Aligner.chip`."""
        with Image.open(io.BytesIO(image)) as opened:
            comment = opened.info.get("comment")
        if comment is None:
            raise UnusableImageError("no comment", "use pictures that the bench made")
        self._said.said = np.array(json.loads(comment))
        return super().chip(image, profile)


class StandInWorkshop(Workshop):
    """A workshop with both stand-ins."""

    def __init__(self, recipe: Recipe) -> None:
        """Loads the recipe's model."""
        recogniser = load_recogniser(recipe.model, one_thread=True)
        super().__init__(recipe, recogniser, SaidAligner(recogniser))
