"""From an image file to an aligned face chip: detection and alignment, on the organisation's or the person's machine.

The detector (histograms of oriented gradients) and the 5-point landmark model are dlib's. An image passes when the
detector finds exactly one face. It finds frontal ones: people in profile or bent down do not count.

Two looks are taken. The first is at the image as it is. Face data sets are often cut so tightly that the detector,
which expects some background, then finds nothing. The second look takes the image for such a cut: small, its edges
repeated outwards by half its size, and with a lower threshold, which so small an area allows.

Nothing here imports torch: verification with a model of one's own runs without it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import warnings
from pathlib import Path

import dlib
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from federation.errors import UsageError
from federation.recognition.profiles import REFERENCE
from federation.recognition.recogniser import CHIP_SIDE

IMAGE_FORMATS = ("JPEG", "PNG", "PPM")
"""What Pillow may parse; its name for PGM is PPM. Every further parser would be a further way in."""

_METHOD = "dlib-hog-5-points 1"
"""Raised with every change that moves a chip's pixels."""
_CHIP_PADDING = 0.25
"""Margin around the face: what the 128-number network was trained with."""
_SHORTEST_SIDE, _LONGEST_SIDE = 300, 1280
"""Images are brought into this range, in pixels, as far as both fit: the detector misses faces below 80 pixels."""
_LARGEST_ENLARGEMENT = 4.0
_SECOND_THRESHOLD = -0.3
"""Detector score of the second look. The first look's is 0."""

_Pixels = NDArray[np.uint8]


class UnusableImageError(UsageError):
    """An image from which no face chip can be made.

    Attributes:
        problem: what is wrong with the image, without a full stop.
        what_to_do: how to mend it.
    """

    def __init__(self, problem: str, what_to_do: str) -> None:
        super().__init__(f"{problem}: {what_to_do}")
        self.problem = problem
        self.what_to_do = what_to_do


class FaceAligner:
    """Finds the one face of an image and cuts it out, upright and scaled. Build once, use often.

    Attributes:
        version: hex digest of everything that decides a chip's pixels: method, landmark model, dlib and Pillow.
    """

    def __init__(self) -> None:
        """Loads dlib's models, about 20 ms.

        Raises:
            UsageError: the landmark model is not installed.
        """
        landmarks = _landmark_model()
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(landmarks))
        parts = (_METHOD, hashlib.sha256(landmarks.read_bytes()).hexdigest(), dlib.__version__, PIL.__version__)
        self.version = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def chip(self, image: bytes, profile: str = REFERENCE) -> _Pixels:
        """Cuts the face out of an image file.

        Args:
            image: the bytes of a JPEG, PNG or PGM file.
            profile: makes no difference here.

        Returns:
            (150, 150, 3) uint8, RGB, eyes level. Sensitive.

        Raises:
            UnusableImageError: unreadable, or not exactly one face.
        """
        return self.chip_of_pixels(read_image(image), profile)

    def chip_of_pixels(self, rgb: _Pixels, profile: str = REFERENCE) -> _Pixels:  # noqa: ARG002 - dlib's goes
        """Cuts the face out of pixels, for example a camera frame.

        Args:
            rgb: (height, width, 3) uint8, RGB.
            profile: makes no difference here.

        Returns:
            As `chip`.

        Raises:
            UnusableImageError: not exactly one face.
        """
        pixels = _resized(rgb, _SHORTEST_SIDE, _LONGEST_SIDE)
        padded, left, top = _padded(pixels)
        face = self._only_face(pixels, doublings=0, threshold=0.0)
        if face is not None:
            face = dlib.translate_rect(face, dlib.point(left, top))
        else:
            padded, _left, _top = _padded(_resized(rgb, _SHORTEST_SIDE, 2 * _SHORTEST_SIDE))
            face = self._only_face(padded, doublings=1, threshold=_SECOND_THRESHOLD)
        if face is None:
            raise UnusableImageError(
                "no face found", "use a sharp, frontal photograph in which the face is at least 80 pixels wide"
            )
        chip: _Pixels = dlib.get_face_chip(padded, self._landmarks(padded, face), size=CHIP_SIDE, padding=_CHIP_PADDING)
        return chip

    def _only_face(self, pixels: _Pixels, *, doublings: int, threshold: float) -> dlib.rectangle | None:
        """The face in `pixels`; None when there is none.

        Raises:
            UnusableImageError: there are several.
        """
        faces, _scores, _poses = self._detector.run(pixels, doublings, threshold)
        if len(faces) > 1:
            raise UnusableImageError(f"{len(faces)} faces found", "cut the image to the one person that it stands for")
        return faces[0] if faces else None


def _landmark_model() -> Path:
    """The 5-point landmark model of dlib inside the face-recognition-models package, which is located, not imported."""
    package = importlib.util.find_spec("face_recognition_models")
    for folder in (package.submodule_search_locations or []) if package else []:
        file = Path(folder) / "models" / "shape_predictor_5_face_landmarks.dat"
        if file.is_file():
            return file
    raise UsageError("the face landmark model is missing: pip install face-recognition-models")


def read_image(image: bytes) -> _Pixels:
    """The upright RGB pixels (height, width, 3) of an image file.

    Raises:
        UnusableImageError: not a readable JPEG, PNG or PGM.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns of images between one and two times its limit of pixels; refuse those too.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(image), formats=IMAGE_FORMATS) as opened:
                upright = ImageOps.exif_transpose(opened)
                if upright.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scale
                    upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
                return np.asarray(upright.convert("RGB"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnusableImageError("the image has too many pixels", "make it smaller than 80 megapixels") from error
    except UnidentifiedImageError as error:
        raise UnusableImageError("not a JPEG, PNG or PGM image", "convert it, or remove it from the folder") from error
    except Exception as error:  # damaged files make Pillow's parsers raise nearly anything
        raise UnusableImageError("the image is damaged", "export or copy it again") from error


def _resized(rgb: _Pixels, shortest: int, longest: int) -> _Pixels:
    """`rgb` with its shorter side enlarged to `shortest` pixels (fourfold at most) and its longer at most `longest`."""
    height, width = rgb.shape[:2]
    enlarged = min(max(1.0, shortest / min(height, width)), _LARGEST_ENLARGEMENT)
    factor = min(enlarged, longest / max(height, width))
    if math.isclose(factor, 1.0):
        return np.ascontiguousarray(rgb)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def _padded(pixels: _Pixels) -> tuple[_Pixels, int, int]:
    """(`pixels` with its edges repeated outwards by half its size, what that added on the left, and on top)."""
    top, left = pixels.shape[0] // 2, pixels.shape[1] // 2
    return np.ascontiguousarray(np.pad(pixels, ((top, top), (left, left), (0, 0)), mode="edge")), left, top
