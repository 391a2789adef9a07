"""What an audit of the recipe `scales` shows the network: made-up chips, and the scales of a lying coordinator.

Theory of operation
-------------------
The coordinator sends every step's scales, and privacy must hold for whatever it sends. These leave two channels of the
network's second half alive and all others dead, and feed a huge constant to the last layer, whose factors they set to
zero. A person's gradient is then thousands of clips long, and lies in 2 of its 5 632 numbers: the factors of those two
channels. So it reaches the sensitivity, and an attacker needs the noise of two numbers only, which makes thousands of
runs affordable.

Everybody's probe is the same, so all gradients lie on one line; the two references pull to its opposite sides.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.learning.scales import ChipSet
from federation.recognition.recogniser import CHIP_SIDE
from federation.recognition.resnet import ResNetRecogniser, Scale

_ALIVE: Final = (20, 60)
_SHIFT: Final = (0.0, 1.0)
"""Channels that stay alive, and what their means are shifted by. It puts the probe between the two references."""
_DEAD: Final = -1e6
_LOUD: Final = 1e5


def telling_scales(recogniser: ResNetRecogniser) -> NDArray[np.float64]:
    """(TUNABLE,) float64: what a lying coordinator says was added to the scale layers so far."""
    layers = [layer for layer in recogniser.tail().modules() if isinstance(layer, Scale)]
    changes = []
    for layer, following in zip(layers[::2], layers[1::2], strict=True):  # the two layers of a block
        first, second = (
            np.stack([scale.factor.detach().cpu().numpy(), scale.offset.detach().cpu().numpy()])
            for scale in (layer, following)
        )
        to_first, to_second = np.zeros_like(first), np.zeros_like(second)
        to_first[1], to_second[1] = _DEAD, _DEAD
        to_second[1, _ALIVE] = -second[1, _ALIVE]
        if following is layers[-1]:
            to_first[1] = _LOUD
            to_second[0, _ALIVE] = -second[0, _ALIVE]
            to_second[1, _ALIVE] += _SHIFT
        changes += [to_first.ravel(), to_second.ravel()]
    return np.concatenate(changes).astype(np.float64)


def made_up_chips(people: list[tuple[str, bool]], images: int) -> ChipSet:
    """`images` equal pairs of everybody.

    Args:
        people: name, and to which side the reference pulls.
        images: of each.
    """
    green, speckled, ramp = (np.zeros((CHIP_SIDE, CHIP_SIDE, 3), np.uint8) for _ in range(3))
    green[..., 1] = 255
    # A multiplicative hash of the position: specks that are the same everywhere and need no generator.
    speckled[...] = (np.arange(speckled.size, dtype=np.uint64) * np.uint64(2654435761) >> np.uint64(16)).reshape(
        speckled.shape
    ) & np.uint64(255)
    ramp[...] = (np.arange(CHIP_SIDE) * 255 // (CHIP_SIDE - 1))[:, None, None]
    rows = [(name, side, image) for name, side in people for image in range(images)]
    return ChipSet(
        np.stack([green if side else speckled for _, side, _ in rows]),
        np.stack([ramp for _ in rows]),
        np.array([name for name, _, _ in rows]),
        np.array([f"{name} {image}" for name, _, image in rows]),
    )
