"""What an audit of the recipe `scales` shows the network: made-up chips, and the scales of a lying coordinator.

Theory of operation
-------------------
The coordinator sends every step's scales, and privacy must hold for whatever it sends. These switch off all that the
tuned blocks see: a factor of 0, with a slope of 0 behind it, gives nothing and lets no gradient pass. So all images
look alike, and no tuned number has a gradient. One channel of the last block keeps its slope, and gets enormous numbers
in front of its factor, which is still 0: it changes no embedding, but a person's gradient is now thousands of clips
long, and lies in that one number. So it reaches the sensitivity, and an attacker needs the noise of one number only,
which makes thousands of runs affordable.

Everybody's probe looks the same, so all gradients lie on one line; the two references pull to its opposite ends.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.learning.scales import ChipSet
from federation.recognition.mobilefacenet import FIRST_TUNED, LAST_TUNED, SIDE, MobileFaceNetRecogniser

_TELLING: Final = 47
"""The channel whose factor tells: one for which the two references lie on opposite sides."""
_LOUD: Final = 1e5


def telling_scales(recogniser: MobileFaceNetRecogniser) -> NDArray[np.float64]:
    """(TUNABLE,) float64: what a lying coordinator says was added to the tuned numbers so far."""
    changes = []
    for block in recogniser.network.blocks[FIRST_TUNED : LAST_TUNED + 1]:
        slope = block.look.slope
        assert slope is not None  # noqa: S101 - every bottleneck has some
        changes.append(np.stack([np.zeros_like(slope), -np.ones_like(slope), -slope]))
    changes[-1][0, _TELLING] = _LOUD
    changes[-1][2, _TELLING] = 0
    return np.concatenate(changes, axis=None).astype(np.float64)


def made_up_chips(people: list[tuple[str, bool]], images: int) -> ChipSet:
    """`images` equal pairs of everybody.

    Args:
        people: name, and to which side the reference pulls.
        images: of each.
    """
    green, speckled, ramp = (np.zeros((SIDE, SIDE, 3), np.uint8) for _ in range(3))
    green[..., 1] = 255
    # A multiplicative hash of the position: specks that are the same everywhere and need no generator.
    speckled[...] = (np.arange(speckled.size, dtype=np.uint64) * np.uint64(2654435761) >> np.uint64(16)).reshape(
        speckled.shape
    ) & np.uint64(255)
    ramp[...] = (np.arange(SIDE) * 255 // (SIDE - 1))[:, None, None]
    rows = [(name, side, image) for name, side in people for image in range(images)]
    return ChipSet(
        np.stack([green if side else speckled for _, side, _ in rows]),
        np.stack([ramp for _ in rows]),
        np.array([name for name, _, _ in rows]),
        np.array([f"{name} {image}" for name, _, image in rows]),
    )
