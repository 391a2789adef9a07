"""Camera profiles that make a recogniser's work harder, applied to aligned chips: deterministic and synthetic.

They stand for cameras that an organisation may have at its door, and show what adaptation does. They are applied after
alignment, so they are kinder than a real mask or a real low-resolution camera, whose faces are also harder to find.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from federation.recognition.recogniser import Chips
from federation.recognition.templates import Alignment

_MASK_DOWN: Final = 0.421
"""How far below the eyes the mask begins, in distances of the eyes: on the bridge of the nose."""
_MASK_GREY: Final = 120
_SMALL: Final = 5.6
"""Distance of the eyes in a face of 16 x 16 pixels."""


class Condition(StrEnum):
    """What the probe camera sees."""

    MASK = "mask"
    """A plain lower-face mask."""
    RES16 = "res16"
    """A face of 16 x 16 pixels."""


def degrade(chips: Chips, condition: Condition, alignment: Alignment) -> Chips:
    """Degrades faces that were cut as `alignment` says.

    Args:
        chips: (n, side, side, 3) uint8.
        condition: what the camera sees.
        alignment: where eyes lie in them, so that a mask begins at the same place of a face in every cut.

    Returns:
        New ones of the same shape.
    """
    (right, top), (left, other), *_ = alignment.pixels
    apart = left - right
    match condition:
        case Condition.MASK:
            masked = chips.copy()
            masked[:, round((top + other) / 2 + _MASK_DOWN * apart) :] = _MASK_GREY
            return masked
        case Condition.RES16:
            side = max(1, round(_SMALL * alignment.side / apart))
            small = [
                _resized(_resized(chip, side, Image.Resampling.BOX), alignment.side, Image.Resampling.BICUBIC)
                for chip in chips
            ]
            return np.stack(small) if small else chips.copy()


def _resized(chip: NDArray[np.uint8], side: int, method: Image.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(chip).resize((side, side), method))
