"""Whether a face in a film turns as a head does, in an order that nobody knew before. NumPy only.

Theory of operation
-------------------
A picture that is turned before a camera moves by a homography. A head that turns does not: the tip of its nose moves
against the eyes and the mouth, and the ears move the other way. Seven numbers of a look say how far:

* eyes and mouth span a plane; nose and ears are written in its coordinates, in distances between the eyes. Whatever
  moves a plane from afar leaves them as they are. `Pose` says how far they are from where they were when the face
  looked into the camera: about the tangent of the angle by which a head has turned or nodded;
* a picture that is turned by 50 degrees, near enough for perspective to matter, looks like a head that has turned by 10
  (`python -m examples.presentation`). So a movement counts from 29 degrees on, or from 22 up or down. What is bent like
  a head and turned much further than a head need be does look like one: docs/pad.md says how far that goes;
* the order of movements follows from the session's nonce, and any other movement ends the film: whoever shows an old
  one has guessed the order or has not. And each movement has to be seen on its way, or somebody changed pictures. Every
  order goes both ways from where the film began, since that is only roughly asked to be the front.

A film ends after `MOST_SECONDS`. The looks are those of `client.faces.finding`, and of the page's detector, which is
the same; `tests/vectors/movements.json` has films as numbers that both judge alike. No frame is part of any judgement.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import statistics
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError

Points = NDArray[np.float64]
"""(n, 2) float64, x and y. Sensitive where they are somebody's landmarks."""

MOST_SECONDS: Final = 4.0
"""From the first movement's prompt to the end of the last one."""
PATIENCE_SECONDS: Final = 6.0
"""So long somebody is waited for who does not look into the camera."""
COUNT: Final = 3
"""Movements of a challenge."""
MIDDLE: Final = 0.15
"""Pose up to which a face looks into the camera."""

_TAG: Final = b"intaglio presentation challenge/1\0"
_NONCE_BYTES: Final = 32
_TURN, _NOD, _CLOSER = 0.55, 0.30, 1.25
_BACK: Final = 0.6
"""Share of these at which a movement is over."""
_WAY: Final = 0.25
"""Share of a movement from which on it is on its way."""
_STEADY: Final = 3
"""Looks whose median is judged, and that the first pose is the mean of."""
_LONGEST_GAP_SECONDS: Final = 0.5
_FARTHEST, _MOST_GROWTH = 1.5, 1.35
"""How far the eyes' middle moves from one look to the next, in distances of the eyes; and by what factor that grows."""
_NEAREST: Final = 1 / 5
"""Largest distance of the eyes, as a share of the frame's longer side: near by, perspective makes pictures deep."""
_NOSE: Final = np.array([0.42, 0.65])
"""How far the nose moves when a head turns, and when it nods, where ears move by 1 the other way: of the 40 people of
the ORL faces. Ears alone would do, since the detector knows what heads look like; together they are steadier."""
_SMALLEST: Final = 1e-3
"""Pixels."""
_FRONTAL_NOSE, _FRONTAL_EARS = 0.2, 0.4
"""How far nose and ears may be off the middle of a face that looks into the camera, in distances of the eyes."""


class Movement(Enum):
    """What is asked for. Left and right are the person's own."""

    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    CLOSER = "closer"


class Omission(Enum):
    """What somebody cannot do, or would rather not."""

    TURNING = "turning"
    NODDING = "nodding"


class Fault(Enum):
    """Why a film is refused. The value says what to do."""

    NOBODY = "no face looks into the camera: sit alone, upright and in the light, and look into it"
    TOO_NEAR = "the face is too near: move back until it fills a third of the picture"
    AWAY = "the face left the picture, or it is too dark to follow: stay in the picture, in more light"
    JUMPED = "the face jumped: move slowly, and keep the camera still"
    ANOTHER = "that was another movement than the one asked for: do what is asked, one after the other"
    TOO_LATE = "the face did not turn as a head does, or not far enough: turn your head, a hand's breadth to the side"


def challenge_of(nonce: bytes, omission: Omission | None = None) -> tuple[Movement, ...]:
    """The movements that a session asks for, in their order.

    Three, of which no two in a row are alike: 14 orders. Whoever leaves one kind out comes closer instead: 8 orders.
    Each has both left and right, or both up and down where turning is left out: a picture that is held turned away when
    the film begins has twice as far to turn the one way, and no way the other.

    Args:
        nonce: of the session, 32 random bytes that the server chose.
        omission: what the person leaves out.

    Raises:
        UsageError: it is no nonce.
    """
    if len(nonce) != _NONCE_BYTES:
        raise UsageError(f"a nonce has {_NONCE_BYTES} bytes, not {len(nonce)}")
    orders = orders_without(omission)
    return orders[int.from_bytes(hashlib.sha256(_TAG + nonce).digest()[:8], "big") % len(orders)]


def orders_without(omission: Omission | None) -> tuple[tuple[Movement, ...], ...]:
    """Every order that may be asked for; in the order of `Movement`, the first movement first.

    >>> [len(orders_without(omission)) for omission in (None, *Omission)]
    [14, 8, 8]
    """
    turns, nods = (Movement.LEFT, Movement.RIGHT), (Movement.UP, Movement.DOWN)
    allowed = {
        None: (*turns, *nods),
        Omission.TURNING: (*nods, Movement.CLOSER),
        Omission.NODDING: (*turns, Movement.CLOSER),
    }[omission]
    return tuple(
        order
        for order in itertools.product(allowed, repeat=COUNT)
        if all(one is not other for one, other in itertools.pairwise(order))
        and set(nods if omission is Omission.TURNING else turns) <= set(order)
    )


@dataclass(frozen=True)
class Look:
    """Where the face was at one moment. Sensitive.

    Attributes:
        seconds: when; of any clock that only goes forward.
        landmarks: (6, 2) right eye, left eye, tip of the nose, middle of the mouth, right ear, left ear, in pixels.
        side: pixels of the frame's longer side.
    """

    seconds: float
    landmarks: Points = field(repr=False)
    side: int


@dataclass(frozen=True)
class Pose:
    """How a face looks, against how it looked into the camera at first.

    Attributes:
        turn: about the tangent of the angle, to the person's left above 0.
        nod: likewise, down above 0.
        scale: its size against then.
    """

    turn: float
    nod: float
    scale: float

    @property
    def is_middle(self) -> bool:
        """Whether it looks into the camera."""
        return abs(self.turn) <= MIDDLE and abs(self.nod) <= MIDDLE

    @property
    def most(self) -> tuple[Movement, float]:
        """The movement that it is most of, and how much of it: 1 from where it counts."""
        shares = (
            (Movement.LEFT, self.turn / _TURN),
            (Movement.RIGHT, -self.turn / _TURN),
            (Movement.UP, -self.nod / _NOD),
            (Movement.DOWN, self.nod / _NOD),
        )
        found = max(shares, key=lambda one: one[1])
        return found if found[1] >= _WAY else (Movement.CLOSER, (self.scale - 1) / (_CLOSER - 1))


class Watcher:
    """Judges one film, look by look. Build it for a film; nothing is remembered of another.

    Attributes:
        fault: why the film is refused, or None.
        done: how many movements were seen.
        on_the_way: the last movement that was seen in part since one was seen whole, or None.
        pose: of the last look; None before the face has looked into the camera.
    """

    def __init__(self, movements: tuple[Movement, ...]) -> None:
        self._movements = movements
        self._first: list[Look] = []
        self._middle: _Middle | None = None
        self._poses: list[Pose] = []
        self._last: Look | None = None
        self._began: float | None = None
        self._now: Movement | None = None
        self.on_the_way: Movement | None = None
        self.fault: Fault | None = None
        self.done = 0
        self.pose: Pose | None = None

    @property
    def wanted(self) -> Movement | None:
        """What is asked for now; None before the face has looked into the camera, and when all is done or refused."""
        is_over = self.fault is not None or self.done == len(self._movements)
        return None if is_over or self._middle is None else self._movements[self.done]

    @property
    def is_passed(self) -> bool:
        """Whether all movements were seen, and nothing else."""
        return self.fault is None and self.done == len(self._movements)

    def see(self, look: Look) -> None:
        """Takes in the next look. After the end nothing changes any more."""
        if self.fault is not None or self.is_passed:
            return
        last, self._last = self._last or look, look
        if self._middle is None:
            self._wait(look)
            return
        self.fault = _fault_between(last, look)
        if self.fault is not None:
            return
        self._poses = [*self._poses, self._middle.pose_of(look)][-_STEADY:]
        self.pose = Pose(
            statistics.median(pose.turn for pose in self._poses),
            statistics.median(pose.nod for pose in self._poses),
            statistics.median(pose.scale for pose in self._poses),
        )
        self._follow(self.pose)
        if self.fault is None and not self.is_passed and look.seconds - self._middle.seconds > MOST_SECONDS:
            self.fault = Fault.TOO_LATE

    def miss(self, seconds: float) -> None:
        """Takes in a moment at which no face was found, or more than one. A movement on its way begins anew."""
        if self.fault is not None or self.is_passed:
            return
        if self._middle is None:
            self._first = []
            self._wait_since(seconds)
            return
        self._poses, self.on_the_way = [], None  # out of sight somebody else may take the place
        if self._last is not None and seconds - self._last.seconds > _LONGEST_GAP_SECONDS:
            self.fault = Fault.AWAY

    def _wait(self, look: Look) -> None:
        coordinates = _coordinates(look)
        is_frontal = abs(coordinates[0, 0]) <= _FRONTAL_NOSE and abs(coordinates[1:, 0].mean()) <= _FRONTAL_EARS
        self._first = [*self._first, look] if is_frontal else []
        if len(self._first) < _STEADY:
            self._wait_since(look.seconds)
            return
        self._middle = _Middle.of(self._first)
        if self._middle.size > _NEAREST * look.side:
            self.fault = Fault.TOO_NEAR

    def _wait_since(self, seconds: float) -> None:
        self._began = seconds if self._began is None else self._began
        if seconds - self._began > PATIENCE_SECONDS:
            self.fault = Fault.NOBODY

    def _follow(self, pose: Pose) -> None:
        """Which movement the face is in: one is left below `_BACK` of it, and entered at all of it, after a part."""
        movement, share = pose.most
        if movement is self._now and share >= _BACK:
            return
        if movement is Movement.CLOSER and Movement.CLOSER not in self._movements:
            share = 0.0
        if share < 1:
            self._now, self.on_the_way = None, movement if share >= _WAY else self.on_the_way
            return
        if movement is not self._movements[self.done]:
            self.fault = Fault.ANOTHER
        elif movement is not self.on_the_way:
            self.fault = Fault.JUMPED
        else:
            self.done += 1
        self._now, self.on_the_way = movement, None


@dataclass(frozen=True, eq=False)
class _Middle:
    """How a face looks into the camera.

    Attributes:
        coordinates: (3, 2) of nose and ears.
        height: from the eyes to the mouth, in distances of the eyes.
        size: distance of the eyes, pixels.
        seconds: when it began to be asked for movements.
    """

    coordinates: Points = field(repr=False)
    height: float
    size: float
    seconds: float

    @classmethod
    def of(cls, looks: list[Look]) -> _Middle:
        """The mean of some looks."""
        coordinates = np.mean([_coordinates(look) for look in looks], axis=0)
        size = float(np.mean([_size(look) for look in looks]))
        height = float(np.mean([_height(look) for look in looks])) / size
        return cls(coordinates, height, size, looks[-1].seconds)

    def change_to(self, look: Look) -> Points:
        """(3, 2) how far nose and ears have moved against eyes and mouth, in distances of the eyes."""
        change: Points = (_coordinates(look) - self.coordinates) * np.array([1.0, self.height])
        return change

    def pose_of(self, look: Look) -> Pose:
        """Of a face that looked like this before it moved."""
        change = self.change_to(look)
        turn, nod = (_NOSE * change[0] - change[1] - change[2]) / (_NOSE**2 + 2)
        return Pose(float(turn), float(nod), _size(look) / self.size)


def pose_between(first: list[Look], look: Look) -> tuple[Pose, Points]:
    """The pose of a look against some first ones, and (3, 2) how far nose and ears have moved. For measuring."""
    middle = _Middle.of(first)
    return middle.pose_of(look), middle.change_to(look)


def _fault_between(last: Look, look: Look) -> Fault | None:
    """What is wrong between one look and the next."""
    if look.seconds - last.seconds > _LONGEST_GAP_SECONDS:
        return Fault.AWAY
    before, now = _size(last), _size(look)
    moved = (look.landmarks[:2].sum(axis=0) - last.landmarks[:2].sum(axis=0)) / 2
    is_far = math.hypot(*moved) > _FARTHEST * before
    return Fault.JUMPED if is_far or max(now / before, before / now) > _MOST_GROWTH else None


def _coordinates(look: Look) -> Points:
    """(3, 2) nose, right ear and left ear: along the eyes and down to the mouth, from the middle of the eyes."""
    across, down, origin = _axes(look)
    area = across[0] * down[1] - across[1] * down[0]
    if abs(area) < _SMALLEST**2:
        return np.full((3, 2), np.inf)
    rest = look.landmarks[[2, 4, 5]] - origin
    along = (rest[:, 0] * down[1] - rest[:, 1] * down[0]) / area
    below = (across[0] * rest[:, 1] - across[1] * rest[:, 0]) / area
    return np.stack([along, below], axis=1)


def _axes(look: Look) -> tuple[Points, Points, Points]:
    """From the right eye to the left one; from the middle of the eyes to the mouth; that middle."""
    right, left, _, mouth = look.landmarks[:4]
    return left - right, mouth - (right + left) / 2, (right + left) / 2


def _size(look: Look) -> float:
    """Distance of the eyes, pixels."""
    return max(math.hypot(*_axes(look)[0]), _SMALLEST)


def _height(look: Look) -> float:
    """From the eyes to the mouth, pixels."""
    return math.hypot(*_axes(look)[1])
