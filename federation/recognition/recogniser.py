"""The recogniser: an aligned face chip in, a unit-norm embedding out. Torch-free.

A recogniser is frozen. What is trained is the small adaptation that follows it (see `federation.learning.moments`).
This module holds the contract and the bring-your-own ONNX implementation; `federation.recognition.resnet` holds the
network that comes with the project, apart, so that verification can run where torch is not installed.

Nothing here reads files: models come in as bytes.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from federation.errors import UsageError

if TYPE_CHECKING:
    import onnxruntime

CHIP_SIDE = 150
"""Height and width of an aligned face chip, in pixels."""
SMALLEST_DIMENSION, LARGEST_DIMENSION = 64, 1024
"""Range of embedding lengths that the one-bit match was analysed for."""
_SIDES = range(1, 1025)
"""Heights and widths, in pixels, to which chips are resized for a model: a declared 10^9 would fill the memory."""
_OUTPUT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")

Chips = NDArray[np.uint8]
"""(n, 150, 150, 3) uint8, RGB. Sensitive."""
Embeddings = NDArray[np.float32]
"""(n, d) float32, rows of unit L2 norm. Sensitive."""


class Recogniser(Protocol):
    """Turns aligned chips into embeddings. Deterministic on one machine, and never trained here."""

    @property
    def name(self) -> str:
        """Short name for people to read."""

    @property
    def dimension(self) -> int:
        """Length d of an embedding."""

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over everything that decides an embedding: weights, their description, preprocessing."""

    def embed(self, chips: Chips) -> Embeddings:
        """Embeds `chips`, row by row.

        Args:
            chips: (n, 150, 150, 3) uint8, RGB; n may be 0.

        Returns:
            (n, d) float32, rows of unit L2 norm.

        Raises:
            UsageError: the chips have another shape or type, or the model gave a vector without a direction.
        """


def require_chips(chips: Chips) -> None:
    """Refuses arrays that are not aligned chips.

    Raises:
        UsageError: another shape or type.
    """
    if chips.dtype != np.uint8 or chips.shape[1:] != (CHIP_SIDE, CHIP_SIDE, 3):
        raise UsageError(
            f"a recogniser takes aligned chips, (n, {CHIP_SIDE}, {CHIP_SIDE}, 3) uint8 RGB; "
            f"got {chips.shape} {chips.dtype}; align the images with client.faces.alignment first"
        )


def unit_rows(vectors: NDArray[np.floating[Any]]) -> Embeddings:
    """`vectors` (n, d) with every row scaled to unit L2 norm, as float32.

    Raises:
        UsageError: a row is zero or not finite. Such a row means a broken model, so it is never passed on.
    """
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise UsageError("the recogniser gave a vector that is zero or not finite; check the model file")
    unit: Embeddings = (exact / norms).astype(np.float32)
    return unit


def unit_rows_or_zero(vectors: NDArray[np.floating[Any]]) -> Embeddings:
    """The same for a network that somebody else tuned: rows without a direction are zero."""
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    has_direction = np.isfinite(norms) & (norms > 0)
    unit: Embeddings = np.divide(exact, norms, out=np.zeros_like(exact), where=has_direction).astype(np.float32)
    return unit


def digest_of(description: str, *files: bytes) -> str:
    """SHA-256, in hex, of SHA-256(description) and the SHA-256 of each file, in order."""
    parts = (description.encode(), *files)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


class OnnxRecogniser:
    """A model of one's own: one image input of fixed size, one embedding output of 64 to 1024 numbers.

    The input's height, width and layout (NCHW or NHWC) are read from the model, and chips are resized to it. A uint8
    input gets RGB values as they are; a float one gets `(rgb - mean) / scale`, whose defaults are those of the ArcFace
    family. Faces fill a chip as dlib aligns them, looser than in ArcFace's own crops.

    Attributes:
        name: the name given to the constructor.
        dimension: length of an embedding, found by embedding one grey chip.
        digest: covers the file and the preprocessing.
    """

    def __init__(self, model: bytes, *, name: str = "onnx", mean: float = 127.5, scale: float = 127.5) -> None:
        """Loads a model and tries it once, so that a recogniser that was built works.

        Args:
            model: the bytes of a self-contained .onnx file (no external data).
            name: for people to read.
            mean: subtracted from the RGB values 0..255.
            scale: what the difference is divided by; not 0.

        Raises:
            UsageError: onnxruntime is not installed, or the model is not such a model. Says what to do.
        """
        if not (np.isfinite(mean) and np.isfinite(scale) and scale != 0):
            raise UsageError("mean and scale must be finite and scale must not be 0")
        self._session = _onnx_session(model)
        self._channels_first, self._height, self._width = _image_layout(self._session)
        self._raw = self._session.get_inputs()[0].type == "tensor(uint8)"
        self._mean, self._scale = np.float32(mean), np.float32(scale)
        self.name = name
        self.digest = digest_of(f"onnx 1 raw={self._raw} mean={mean!r} scale={scale!r}", model)
        self.dimension = self._embed_one(np.full((CHIP_SIDE, CHIP_SIDE, 3), 127, np.uint8)).size
        if not SMALLEST_DIMENSION <= self.dimension <= LARGEST_DIMENSION:
            raise UsageError(
                f"the model's embedding has {self.dimension} numbers; "
                f"{SMALLEST_DIMENSION} to {LARGEST_DIMENSION} are supported"
            )

    def embed(self, chips: Chips) -> Embeddings:
        """See `Recogniser.embed`."""
        require_chips(chips)
        # One at a time: many exported models fix the batch at 1.
        rows = [self._embed_one(chip) for chip in chips]
        if any(row.size != self.dimension for row in rows):
            raise UsageError("the model's embeddings differ in length from image to image; pass one of fixed length")
        return np.stack(rows) if rows else np.empty((0, self.dimension), np.float32)

    def _embed_one(self, chip: NDArray[np.uint8]) -> Embeddings:
        """The embedding (d,) of one chip (150, 150, 3)."""
        resized = Image.fromarray(chip).resize((self._width, self._height), Image.Resampling.BICUBIC)
        pixels = np.asarray(resized)
        image = pixels if self._raw else (pixels.astype(np.float32) - self._mean) / self._scale
        batch = (image.transpose(2, 0, 1) if self._channels_first else image)[None]
        try:
            (output,) = self._session.run(None, {self._session.get_inputs()[0].name: np.ascontiguousarray(batch)})
        except Exception as error:  # onnxruntime's errors have no common base class of their own
            raise UsageError("the ONNX model failed on an image; try it in onnxruntime alone") from error
        embedding: Embeddings = unit_rows(np.reshape(output, (1, -1)))[0]
        return embedding


def _onnx_session(model: bytes) -> onnxruntime.InferenceSession:
    """Loads `model` on the GPU where onnxruntime has one, else on the CPU."""
    try:
        import onnxruntime  # noqa: PLC0415 - optional: needed for models of one's own only
    except ImportError as error:
        raise UsageError("models of your own need onnxruntime: pip install 'intaglio[onnx]'") from error
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    options = onnxruntime.SessionOptions()
    # Weights beside the model would decide embeddings without being in its digest. Nothing can lie below this path.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base class of their own
        raise UsageError("onnxruntime cannot load this model; pass a self-contained .onnx file") from error


def _image_layout(session: onnxruntime.InferenceSession) -> tuple[bool, int, int]:
    """(channels come first, height, width) of the model's only input.

    Raises:
        UsageError: the model does not take one RGB image of fixed size or does not give one output.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    wanted = (
        "a model with one float or uint8 input (1, 3, H, W) or (1, H, W, 3) of fixed size, "
        f"at most {_SIDES[-1]} pixels a side, and one output of floats"
    )
    if len(inputs) != 1 or len(outputs) != 1:
        raise UsageError(f"the model has {len(inputs)} inputs and {len(outputs)} outputs; pass {wanted}")
    if outputs[0].type not in _OUTPUT_TYPES:
        raise UsageError(f"the model's output is {outputs[0].type}; pass {wanted}")
    match inputs[0].type, inputs[0].shape:  # a batch of any size is a name or None
        case (("tensor(float)" | "tensor(uint8)"), [1 | str() | None, 3, int(height), int(width)]):
            channels_first = True
        case (("tensor(float)" | "tensor(uint8)"), [1 | str() | None, int(height), int(width), 3]):
            channels_first = False
        case _:
            channels_first, height, width = False, 0, 0
    if height not in _SIDES or width not in _SIDES:
        raise UsageError(f"the model's input is {inputs[0].type} {inputs[0].shape}; pass {wanted}")
    return channels_first, height, width
