"""Heads and pictures as six points in space, filmed by a camera that exists in numbers; nobody's in particular."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from federation.presentation.movements import Look, Movement, Watcher

HEAD = np.array([[-32, 0, 0], [32, 0, 0], [0, 38, 30], [0, 70, 12], [-66, 15, -64], [66, 15, -64]], dtype=float)
"""Right eye, left eye, nose, mouth, right ear, left ear: to the right of the image, down, towards the camera; mm."""
PICTURE = HEAD * [1, 1, 0]
SIDE = 640
ANGLES = {
    Movement.LEFT: (36, 0),
    Movement.RIGHT: (-36, 0),
    Movement.UP: (0, -30),
    Movement.DOWN: (0, 30),
}


def bent(radius):
    """The picture round a cylinder that stands upright."""
    angle = PICTURE[:, 0] / radius
    return np.stack([radius * np.sin(angle), PICTURE[:, 1], radius * (np.cos(angle) - 1)], axis=1)


def landmarks(points, turn=0.0, nod=0.0, *, distance=500.0, shift=(0.0, 0.0), focal=600.0):
    """Six points in pixels of a square frame, turned and nodded by degrees."""
    turn, nod = math.radians(turn), math.radians(nod)
    x = points[:, 0] * math.cos(turn) + points[:, 2] * math.sin(turn)
    z = points[:, 2] * math.cos(turn) - points[:, 0] * math.sin(turn)
    y = points[:, 1] * math.cos(nod) + z * math.sin(nod)
    z = z * math.cos(nod) - points[:, 1] * math.sin(nod)
    scale = focal / (distance - z)
    return np.stack([SIDE / 2 + shift[0] + x * scale, SIDE / 2 + shift[1] + (y - 20) * scale], axis=1)


@dataclass
class Film:
    """Looks one after the other, at some frames a second."""

    points: np.ndarray
    rate: float = 15.0

    def __post_init__(self):
        self.looks, self.pose = [], (0.0, 0.0, 500.0)

    def hold(self, count=6):
        return self.go(*self.pose[:2], distance=self.pose[2], count=count)

    def go(self, turn=0.0, nod=0.0, *, distance=500.0, count=8, shift=(0.0, 0.0)):
        """To another pose, in so many frames."""
        start, end = self.pose, (turn, nod, distance)
        for step in range(1, count + 1):
            self.pose = tuple(a + (b - a) * step / count for a, b in zip(start, end, strict=True))
            spots = landmarks(self.points, *self.pose[:2], distance=self.pose[2], shift=shift)
            self.looks.append(Look(len(self.looks) / self.rate, spots, SIDE))
        return self

    def do(self, *movements, count=8):
        """Looks into the camera, does what is asked, and comes back in between."""
        self.hold()
        for movement in movements:
            if movement is Movement.CLOSER:
                self.go(distance=350.0, count=count).hold(3).go(count=count)
            else:
                self.go(*ANGLES[movement], count=count).hold(3).go(count=count)
        return self


def judged(looks, movements):
    """Who has watched a film, a moment without a face being None."""
    watcher = Watcher(tuple(movements))
    for number, look in enumerate(looks):
        if look is None:
            watcher.miss(number / 15)
        else:
            watcher.see(look)
    return watcher
