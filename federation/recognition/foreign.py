"""A model that somebody brings: an .onnx file with one image input and one embedding output, and its profile.

What the file says of itself is read from it: layout, side, batch and length of an embedding. What it cannot say is in
the profile: how a face is cut, the order of colours, their scale. `intaglio models profile` tries and measures that.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.recognition.layers import Images
from federation.recognition.profile import LARGEST_DIMENSION, SMALLEST_DIMENSION, Layout, RecogniserProfile
from federation.recognition.recogniser import Chips, Embeddings, fed, require_chips, unit_rows
from federation.recognition.templates import SIDES

if TYPE_CHECKING:
    import onnxruntime

NETWORK: Final = "onnx"
"""Name of this code in a profile."""

GIT_LFS: Final = b"version https://git-lfs.github.com/"
"""What lies in a checkout in the place of a file that was not fetched."""

_OUTPUT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")
_MOST_BATCH = 64
_LONGEST_REASON: Final = 300
_ANY_BATCH: Final = 8
"""Images at once for a model that takes any number."""
_SAME: Final = 1e-3
"""1 - cosine below which two embeddings are one. Under real recognisers people differ by a hundred times that."""
_REPEATED: Final = 1e-4
"""1 - cosine that the same image may have to itself, through rounding."""


class OnnxNetwork:
    """A loaded model.

    Attributes:
        digest: SHA-256, in hex, of the file.
        layout: order of the input's axes.
        side: height and width of the input.
        batch: images that it takes at once; 0 for any number.
        raw: whether it takes bytes 0..255 and scales them itself.
        dimension: length of an embedding, found by trying.
    """

    def __init__(self, model: bytes, *, one_thread: bool = False) -> None:
        """Loads a model and tries it once.

        Args:
            model: the bytes of a self-contained .onnx file (no external data).
            one_thread: for a process that is one of many. The others of a model wait for work by computing.

        Raises:
            UsageError: onnxruntime is not installed, or the model is no recogniser. Says what to do.
        """
        self._session = _session(model, one_thread=one_thread)
        self.digest = hashlib.sha256(model).hexdigest()
        self.layout, self.side, self.batch = _input_of(self._session)
        self.raw = self._session.get_inputs()[0].type == "tensor(uint8)"
        self.dimension = self._run(np.ones((max(1, self.batch), self.side, self.side, 3), np.float32)).shape[1]
        if not SMALLEST_DIMENSION <= self.dimension <= LARGEST_DIMENSION:
            raise UsageError(
                f"the model's embedding has {self.dimension} numbers; "
                f"{SMALLEST_DIMENSION} to {LARGEST_DIMENSION} are supported"
            )

    def forward(self, images: Images) -> NDArray[np.float64]:
        """Embeds images.

        Args:
            images: (n, side, side, 3) float32, as `federation.recognition.recogniser.fed` makes them.

        Returns:
            (n, d) float64, of any norm.

        Raises:
            UsageError: the model fails, or gives something else than one embedding of its length for each image.
        """
        size = self.batch or _ANY_BATCH
        rows = []
        for start in range(0, len(images), size):
            some = images[start : start + size]
            # A model of fixed batch gets the last image as often as needed.
            missing = self.batch - len(some) if self.batch else 0
            full = np.concatenate([some, np.repeat(some[-1:], missing, axis=0)]) if missing else some
            rows.append(self._run(full)[: len(some)])
        if any(row.shape[1] != self.dimension for row in rows):
            raise UsageError("the model's embeddings differ in length from image to image; pass one of fixed length")
        return np.concatenate(rows) if rows else np.empty((0, self.dimension))

    def _run(self, images: Images) -> NDArray[np.float64]:
        pixels: NDArray[Any] = np.rint(images).astype(np.uint8) if self.raw else images
        batch = pixels.transpose(0, 3, 1, 2) if self.layout is Layout.NCHW else pixels
        try:
            (output,) = self._session.run(None, {self._session.get_inputs()[0].name: np.ascontiguousarray(batch)})
            rows = np.reshape(np.asarray(output, np.float64), (len(images), -1))
        except Exception as error:  # onnxruntime's errors have no common base class of their own
            raise UsageError("the ONNX model failed on an image; try it in onnxruntime alone") from error
        return rows


class OnnxRecogniser:
    """A model and its profile.

    Attributes:
        name: the profile's.
        dimension: length of an embedding.
        digest: the profile's, which covers the file.
        profile: everything that belongs to the model.
    """

    def __init__(self, model: bytes, profile: RecogniserProfile, *, one_thread: bool = False) -> None:
        """Loads a model; see `OnnxNetwork`.

        Raises:
            UsageError: it is no recogniser, or the profile is that of another one.
        """
        self._network, self.profile = OnnxNetwork(model, one_thread=one_thread), profile
        self.name, self.dimension, self.digest = profile.name, profile.dimension, profile.digest
        found, said = self._network, profile.preprocessing
        if (profile.network, profile.weights_digest) != (NETWORK, found.digest):
            raise UsageError(f"the profile {profile.name} is that of another file; make one for this model")
        if (profile.alignment.side, profile.dimension, said.layout, said.batch) != (
            found.side,
            found.dimension,
            found.layout,
            found.batch,
        ):
            raise UsageError(f"the profile {profile.name} contradicts the model; make it anew")
        if _are_one(self.embed(_pictures(found.side))):
            raise UsageError(
                f"under the profile {profile.name} the model gives the same embedding for any picture: it may scale "
                "its input itself, and get it scaled; make the profile anew with `intaglio models profile`"
            )

    def embed(self, chips: Chips) -> Embeddings:
        """See `federation.recognition.recogniser.Recogniser.embed`."""
        require_chips(chips, self.profile.alignment.side)
        return unit_rows(self._network.forward(fed(chips, self.profile.preprocessing)))


def require_sound(network: OnnxNetwork, images: Images) -> None:
    """Refuses a model that cannot tell faces apart, whatever its profile.

    Args:
        network: the model.
        images: (n, side, side, 3) float32, as the model is fed, of n different people, n at least 2.

    Raises:
        UsageError: it gives one embedding for all images; or another one for the same image, alone, in other company,
            or the second time. Says which.
    """
    together, again = (unit_rows(network.forward(images)).astype(np.float64) for _ in range(2))
    if _are_one(together):
        raise UsageError("the model gives the same embedding for different people; it was exported wrongly")
    if (1 - (together * again).sum(axis=1)).max() > _REPEATED:
        raise UsageError(
            "the model gives another embedding for the same image each time; export it for inference, without dropout"
        )
    alone = np.concatenate([unit_rows(network.forward(image[None])) for image in images]).astype(np.float64)
    if (1 - (together * alone).sum(axis=1)).max() > _REPEATED:
        raise UsageError(
            "the model's embeddings depend on the other images of a batch: it normalises by them; export it for "
            "inference, with the statistics that batch normalisation learnt"
        )


def _are_one(embeddings: NDArray[np.floating[Any]]) -> bool:
    """Whether (n, d) unit rows are all the same."""
    return float(1 - (embeddings @ embeddings.T).min()) < _SAME


def _pictures(side: int) -> Chips:
    """Four pictures that are as different as any: noise, two gradients, and grey."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    across = np.broadcast_to(np.linspace(0, 255, side).astype(np.uint8)[:, None], (side, side, 3))
    return np.stack([noise, across, across[::-1].transpose(1, 0, 2), np.full_like(noise, 200)])


def _session(model: bytes, *, one_thread: bool) -> onnxruntime.InferenceSession:
    """Loads `model` on the GPU where onnxruntime has one, else on the CPU."""
    if not model:
        raise UsageError("the model is an empty file; fetch it again")
    if model.startswith(GIT_LFS):
        raise UsageError("the model is a pointer of Git LFS and not the file; fetch that: git lfs pull")
    try:
        import onnxruntime  # noqa: PLC0415 - optional: needed for models of one's own only
    except ImportError as error:
        raise UsageError("models of your own need onnxruntime: pip install 'intaglio[onnx]'") from error
    # TF32 is that provider's default, and rounds to 10 bits: embeddings made on a GPU and on a CPU must compare.
    wanted: tuple[tuple[str, dict[str, str]], ...] = (
        ("CUDAExecutionProvider", {"use_tf32": "0"}),
        ("CPUExecutionProvider", {}),
    )
    providers = [provider for provider in wanted if provider[0] in onnxruntime.get_available_providers()]
    options = onnxruntime.SessionOptions()
    if one_thread:
        options.intra_op_num_threads = 1
    # Weights beside the model would decide embeddings without being in its digest. Nothing can lie below this path.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base class of their own
        raise UsageError(f"onnxruntime cannot load this model: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What onnxruntime says, without where in its own source it says it."""
    text = " ".join(str(error).split())
    if "External data" in text:
        return "its weights lie in another file; save it with them inside"
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (/onnxruntime_src/\S+ .*?\) (?=[A-Z]))?", "", text)[
        :_LONGEST_REASON
    ]


def _input_of(session: onnxruntime.InferenceSession) -> tuple[Layout, int, int]:
    """(order of the axes, side, batch) of the model's only input.

    Raises:
        UsageError: the model does not take square RGB images of fixed size or does not give one output.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    wanted = (
        "a model with one float or uint8 input (N, 3, S, S) or (N, S, S, 3), "
        f"S fixed, {SIDES[0]} to {SIDES[-1]} pixels, N open or 1 to {_MOST_BATCH}, and one output of floats"
    )
    if len(inputs) != 1 or len(outputs) != 1:
        raise UsageError(f"the model has {len(inputs)} inputs and {len(outputs)} outputs; pass {wanted}")
    if outputs[0].type not in _OUTPUT_TYPES:
        raise UsageError(f"the model's output is {outputs[0].type}; pass {wanted}")
    match inputs[0].type, inputs[0].shape:  # a batch of any size is a name or None
        case (("tensor(float)" | "tensor(uint8)"), [batch, 3, int(height), int(width)]):
            layout = Layout.NCHW
        case (("tensor(float)" | "tensor(uint8)"), [batch, int(height), int(width), 3]):
            layout = Layout.NHWC
        case _:
            layout, batch, height, width = Layout.NCHW, -1, 0, 0
    images = batch if isinstance(batch, int) else 0
    if height not in SIDES or height != width or (isinstance(batch, int) and not 1 <= batch <= _MOST_BATCH):
        raise UsageError(f"the model's input is {inputs[0].type} {inputs[0].shape}; pass {wanted}")
    return layout, height, images
