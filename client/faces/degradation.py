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

from federation.recognition.recogniser import CHIP_SIDE, Chips

_MASK_TOP: Final = 70
"""First row of the mask, in pixels of a 150-pixel chip: the bridge of the nose."""
_MASK_GREY: Final = 120


class Condition(StrEnum):
    """What the probe camera sees."""

    MASK = "mask"
    """A plain lower-face mask."""
    RES16 = "res16"
    """A face of 16 x 16 pixels."""


def degrade(chips: Chips, condition: Condition) -> Chips:
    """Degrades aligned chips (n, 150, 150, 3) uint8. Returns new ones of the same shape."""
    match condition:
        case Condition.MASK:
            masked = chips.copy()
            masked[:, _MASK_TOP:] = _MASK_GREY
            return masked
        case Condition.RES16:
            small = [
                _resized(_resized(chip, 16, Image.Resampling.BOX), CHIP_SIDE, Image.Resampling.BICUBIC)
                for chip in chips
            ]
            return np.stack(small) if small else chips.copy()


def _resized(chip: NDArray[np.uint8], side: int, method: Image.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(chip).resize((side, side), method))
