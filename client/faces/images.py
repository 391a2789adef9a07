"""From an image file to its pixels, and what is wrong with an image that no face can be taken from.

Files come from strangers' cameras and phones, so Pillow may open three formats and no other, and whatever it raises on
a damaged file becomes an `UnusableImageError`.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from federation.errors import UsageError
from federation.recognition.cropping import Pixels

IMAGE_FORMATS = ("JPEG", "PNG", "PPM")
"""What Pillow may parse; its name for PGM is PPM. Every further parser would be a further way in."""


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
