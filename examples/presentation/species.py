"""Species of presentation attacks, and genuine people as far as numbers can be: what stands before the camera.

Levels are those of FIDO's biometric requirements: A needs a picture and a printer, B some hours and skill.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from examples.presentation.surfaces import (
    SIDE,
    Grid,
    Picture,
    Position,
    Surface,
    cylinder,
    flat,
    folded,
    head,
    masked,
    seen,
)
from federation.presentation.movements import Movement
from federation.recognition.cropping import Pixels

FRAMES_A_SECOND: Final = 10
_DEGREES_A_SECOND: Final = 110.0
_REACTION_SECONDS: Final = 0.2
_THERE_DEGREES: Final = 2.0

Scene = Callable[[Picture, Position, np.random.Generator], Grid]
"""What the camera sees of something that is held so."""


@dataclass(frozen=True)
class Species:
    """One way of standing before the camera.

    Attributes:
        name: of the species; empty for genuine people.
        level: A or B; empty for genuine people.
        scene: what is seen.
        turn: degrees that it is turned by when a turn is asked for.
        nod: likewise, up or down.
        obeys: whether it does what is asked; a recorded film does not.
    """

    name: str
    level: str
    scene: Scene
    turn: float
    nod: float
    obeys: bool = True


def _surface(shape: Surface) -> Scene:
    return lambda picture, position, _: seen(picture, shape, position)


def _printed(shape: Surface) -> Scene:
    """On paper: its grain, and the light on it, which moves as it is turned."""

    def scene(picture: Picture, position: Position, rng: np.random.Generator) -> Grid:
        image = seen(picture, shape, position)
        grain = rng.normal(0, 4, (SIDE, SIDE, 1))
        return np.asarray(0.92 * image + 10 + grain + _glare(position, width=70, strength=45))

    return scene


def _screen(shape: Surface) -> Scene:
    """On a screen: lines of its pixels against the camera's, and a small bright reflection."""

    def scene(picture: Picture, position: Position, _: np.random.Generator) -> Grid:
        rows, columns = np.mgrid[0:SIDE, 0:SIDE]
        angle = 0.2 + position.turn + position.roll
        wave = np.sin(
            2 * math.pi * (columns * math.cos(angle) + rows * math.sin(angle)) / (3.2 + 2 * abs(position.turn))
        )
        image = seen(picture, shape, position, background=40)
        return np.asarray(1.1 * image * (1 + 0.06 * wave[..., None]) + _glare(position, width=25, strength=110))

    return scene


def _flexed(picture: Picture, position: Position, rng: np.random.Generator) -> Grid:
    """Paper that is bent the more the further it is turned."""
    tilt = max(abs(position.turn), abs(position.nod))
    return _printed(cylinder(900 / (1 + 14 * tilt)))(picture, position, rng)


def _switched(picture: Picture, position: Position, rng: np.random.Generator) -> Grid:
    """Two photographs of one person, from the front and from another side: the one that fits what is asked for."""

    def of(angle: float, degrees: float) -> float:
        return math.copysign(math.radians(degrees), angle) if abs(angle) > math.radians(12) else 0.0

    shown = replace(position, turn=of(position.turn, 35), nod=of(position.nod, 28))
    return _printed(head)(picture, shown, rng)


GENUINE: Final = Species("", "", _surface(head), 36, 30)
ATTACKS: Final = (
    Species("print", "A", _printed(flat), 45, 40),
    Species("screen", "A", _screen(flat), 45, 40),
    Species("print, bent", "A", _printed(cylinder(140)), 45, 40),
    Species("print, flexed", "A", _flexed, 45, 40),
    Species("two prints, switched", "A", _switched, 36, 30),
    Species("film of another order", "A", _screen(head), 45, 40, obeys=False),
    Species("print, round a bottle", "B", _printed(cylinder(60)), 55, 45),
    Species("print, folded", "B", _printed(folded(math.radians(35))), 45, 40),
    Species("paper mask, worn", "B", _printed(masked), 36, 30),
)


def _glare(position: Position, *, width: float, strength: float) -> Grid:
    """(SIDE, SIDE, 1): light that a surface throws back, and that wanders with its angle."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    x, y = SIDE * (0.3 + position.turn), SIDE * (0.3 + position.nod)
    return np.asarray(strength * np.exp(-(((columns - x) / width) ** 2 + ((rows - y) / width) ** 2)))[..., None]


class Holder:
    """Whoever moves something before the camera as the prompts ask, with hands that are not still.

    Args:
        species: what is held.
        picture: of whom.
        rng: of hands, grain and light.
        order: the movements of a recorded film, which follows no prompts; else None.
    """

    def __init__(
        self, species: Species, picture: Picture, rng: np.random.Generator, order: tuple[Movement, ...] = ()
    ) -> None:
        self._species, self._picture, self._rng = species, picture, rng
        self._order = list(order)
        self._angles = np.zeros(2)
        self._wanted: Movement | None = None
        self._since = self._before = 0.0
        self._begun = False

    def frame(self, seconds: float, wanted: Movement | None) -> Pixels:
        """(SIDE, SIDE, 3) uint8: what the camera sees while something is asked for."""
        asked = wanted if self._species.obeys else self._recorded(wanted)
        if asked is not self._wanted:
            self._wanted, self._since = asked, seconds
        is_slow = asked is not None and seconds - self._since < _REACTION_SECONDS
        step, self._before = _DEGREES_A_SECOND * (seconds - self._before), seconds
        way = np.zeros(2) if is_slow else self._target(asked) - self._angles
        self._angles = self._angles + way * min(1.0, step / max(float(np.hypot(*way)), 1e-9))
        shaken = self._rng.normal(0, 1, 5)
        position = Position(
            math.radians(self._angles[0] + shaken[0]),
            math.radians(self._angles[1] + shaken[1]),
            math.radians(shaken[2]),
            (2 * shaken[3], 2 * shaken[4]),
            480 + 4 * float(self._rng.normal()),
        )
        image = self._species.scene(self._picture, position, self._rng)
        return np.clip(image + self._rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)

    def _target(self, asked: Movement | None) -> Grid:
        """(2,) degrees of turn and nod."""
        turn, nod = self._species.turn, self._species.nod
        targets = {
            Movement.LEFT: (turn, 0.0),
            Movement.RIGHT: (-turn, 0.0),
            Movement.UP: (0.0, -nod),
            Movement.DOWN: (0.0, nod),
        }
        return np.array((0.0, 0.0) if asked is None else targets[asked])

    def _recorded(self, wanted: Movement | None) -> Movement | None:
        """The film begins when the first prompt comes, and goes on by itself."""
        self._begun = self._begun or wanted is not None
        if not self._begun or not self._order:
            return None
        now = self._order[0]
        is_there = float(np.hypot(*(self._target(now) - self._angles))) < _THERE_DEGREES
        if is_there and now is self._wanted:
            self._order.pop(0)
        return self._order[0] if self._order else None
