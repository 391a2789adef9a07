"""From an image file to its pixels, and what is wrong with an image that no face can be taken from.

Files come from strangers' cameras and phones, so Pillow may open the formats of one list and no other, and whatever it
raises on a damaged file becomes an `UnusableImageError`. What a file is says its content:
names may lie, or say nothing.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from client.faces.formats import FORMATS, IMAGES, READS_HEIC
from federation.errors import UsageError
from federation.recognition.cropping import Pixels
from federation.recognition.foreign import GIT_LFS

_HEIC: Final = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
_DEEP: Final = ("I", "F")
"""Modes of 32 bits that only TIFF has here: nobody says which value is white."""


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


def read_image(image: bytes) -> Pixels:
    """The upright RGB pixels (height, width, 3) of an image file.

    Raises:
        UnusableImageError: none of `FORMATS`, or damaged.
    """
    if not image:
        raise UnusableImageError("the file is empty", "copy it again")
    try:
        with warnings.catch_warnings():
            # Pillow only warns of images between one and two times its limit of pixels; refuse those too.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _opened(io.BytesIO(image)) as opened:
                return _pixels(opened)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnusableImageError("the image has too many pixels", "make it smaller than 80 megapixels") from error
    except UnidentifiedImageError as error:
        raise _unread(image) from error
    except UnusableImageError:
        raise
    except Exception as error:  # damaged files make Pillow's parsers raise nearly anything
        raise UnusableImageError("the image is damaged", "export or copy it again") from error


def _pixels(opened: Image.Image) -> Pixels:
    if opened.format == "TIFF" and opened.mode in _DEEP:
        raise UnusableImageError("its pixels have 32 bits", "save it with 8")
    upright = ImageOps.exif_transpose(opened)
    if upright.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scale
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    return np.asarray(upright.convert("RGB"))


def is_image(file: Path) -> bool:
    """Whether a file is of one of `FORMATS`, by its name or else by how it begins.

    Raises:
        OSError: it may not be read.
    """
    if any(file.suffix.lower() in suffixes for suffixes in FORMATS.values()):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size, which is looked at when it is read
            _opened(file).close()
    except UnidentifiedImageError:
        return False
    except OSError as error:
        if error.errno is not None:  # not Pillow's own
            raise
    except Exception:  # noqa: BLE001, S110 - as damaged as it is, it is one
        pass
    return True


def _opened(file: Path | io.BytesIO) -> Image.Image:
    if READS_HEIC:
        import pi_heif  # noqa: PLC0415 - optional

        pi_heif.register_heif_opener()
    return Image.open(file, formats=list(FORMATS))


def _unread(image: bytes) -> UnusableImageError:
    """Why nothing could be made of it."""
    if image.startswith(GIT_LFS):
        return UnusableImageError("a pointer of Git LFS and not the image", "fetch it: git lfs pull")
    if image[4:12] in _HEIC and not READS_HEIC:
        return UnusableImageError(
            "a HEIC image, for which no decoder is installed", "pip install 'intaglio[heic]', or convert it to JPEG"
        )
    return UnusableImageError(f"not a {IMAGES} image", "convert it to one of these")


def picture_digest(rgb: Pixels) -> str:
    """SHA-256, in hex, of the pixels: the same picture under another name or in another lossless format has the same.

    Args:
        rgb: (height, width, 3) uint8, from `read_image`.
    """
    return hashlib.sha256(f"{rgb.shape}\n".encode() + rgb.tobytes()).hexdigest()
