"""A film of a face that moves as a session asks, and the frames of it that are compared. Nothing of it is kept.

The frames that are compared come from the film that is judged. Whoever moves his own head and then holds up a picture
leaves the camera's sight for it, or jumps, or is quicker than two frames (docs/pad.md). And the faces in the movements,
from when each is on its way, have to be of the same person as the frames that are compared, which whoever embeds them
asks (`Film.ways`). At the end of a movement a face is too far from the front for the recogniser.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from client.faces.images import UnusableImageError
from federation.presentation.movements import Fault, Look, Movement, Watcher

if TYPE_CHECKING:
    from client.faces.finding import FaceFinder
    from federation.recognition.cropping import Pixels, Points

_APART_SECONDS: Final = 0.3
"""Between frames that are compared: neighbours are nearly one picture."""


@dataclass(frozen=True, eq=False)
class Film:
    """What is left of a film that passed. Sensitive.

    Attributes:
        middles: frames in which the face looks into the camera, at most as many as were wanted, at least one.
        ways: one frame of each movement, from when it was on its way.
    """

    middles: tuple[Pixels, ...] = field(repr=False)
    ways: tuple[Pixels, ...] = field(repr=False)


def film(
    frames: Iterable[Pixels],
    finder: FaceFinder,
    movements: tuple[Movement, ...],
    *,
    wanted: int,
    tell: Callable[[Movement | None], None],
    clock: Callable[[], float] = time.monotonic,
) -> Film:
    """Watches until all movements were made, or the film is refused. Runs on the person's device.

    Args:
        frames: (height, width, 3) uint8 RGB, as they come.
        finder: of faces.
        movements: that are asked for.
        wanted: how many frames are to be compared, at most.
        tell: is given what to do, whenever that changes; None for looking into the camera.
        clock: seconds.

    Raises:
        UnusableImageError: the film is refused; says what to do.
    """
    watcher, before, told = Watcher(movements), None, False
    middles: list[tuple[float, Pixels]] = []
    ways: list[Pixels] = []
    way: Pixels | None = None
    asked: Movement | None = None
    for frame in frames:
        now, done, begun = clock(), watcher.done, watcher.on_the_way
        before = _looked_at(watcher, finder, frame, before, now)
        if not (watcher.is_passed or watcher.fault) and (watcher.wanted is not asked or not told):
            asked, told = watcher.wanted, True
            tell(asked)
        if watcher.on_the_way is not None and watcher.on_the_way is watcher.wanted and begun is not watcher.wanted:
            way = frame
        is_middle = before is not None and watcher.pose is not None and watcher.pose.is_middle
        if is_middle and len(middles) < wanted and (not middles or now - middles[-1][0] >= _APART_SECONDS):
            middles.append((now, frame))
        if watcher.done > done and way is not None:
            ways.append(way)
        if watcher.fault is not None:
            break
        if watcher.is_passed:
            if not middles:
                break  # no frame to compare will come any more
            return Film(tuple(frame for _, frame in middles), tuple(ways))
    problem, _, what_to_do = (watcher.fault or Fault.NOBODY).value.partition(": ")
    raise UnusableImageError(problem, what_to_do)


def _looked_at(watcher: Watcher, finder: FaceFinder, frame: Pixels, before: Points | None, now: float) -> Points | None:
    """Where the face is, which the watcher is told."""
    try:
        found = finder.follow(frame, before)
    except UnusableImageError:
        watcher.miss(now)
        return None
    watcher.see(Look(now, found, max(frame.shape[:2])))
    return found
