"""Made-up films of heads, many of them at the edges of what is allowed, and how each look of them is judged."""

from __future__ import annotations

import random

import numpy as np

from federation.presentation.movements import Look, Movement, Omission, Watcher, orders_without

_SIDE = 640
_NOSE = 0.42, 0.65
_HEIGHT = 1.1
_ORDERS = [order for omission in (None, *Omission) for order in orders_without(omission)]
_SHARES = 0.0, 0.2, 0.26, 0.3, 0.5, 0.59, 0.61, 0.8, 0.99, 1.01, 1.2
_POSES = {
    Movement.LEFT: (0.55, 0, 0),
    Movement.RIGHT: (-0.55, 0, 0),
    Movement.UP: (0, -0.3, 0),
    Movement.DOWN: (0, 0.3, 0),
    Movement.CLOSER: (0, 0, 0.25),
}


def films(count):
    """A list of movements with looks (None where no face was found, with the time), and the judgement after each."""
    return [_film(random.Random(number)) for number in range(count)]  # noqa: S311 - the same in every run


def _film(draw):
    movements = draw.choice(_ORDERS)
    watcher, seen = Watcher(movements), []
    for seconds, landmarks in _looks(draw, movements):
        if landmarks is None:
            watcher.miss(seconds)
        else:
            watcher.see(Look(seconds, landmarks, _SIDE))
        seen.append(
            {
                "seconds": seconds,
                "landmarks": None if landmarks is None else landmarks.tolist(),
                "done": watcher.done,
                "fault": watcher.fault and watcher.fault.name.lower().replace("_", "-"),
                "onTheWay": watcher.on_the_way and watcher.on_the_way.value,
                "wanted": watcher.wanted and watcher.wanted.value,
                "pose": watcher.pose and [watcher.pose.turn, watcher.pose.nod, watcher.pose.scale],
            }
        )
        if watcher.fault or watcher.is_passed:
            break
    return {"movements": [one.value for one in movements], "side": _SIDE, "looks": seen}


def _looks(draw, movements):
    now, size = 0.0, draw.choice([60, 80, 90, 100, 110, 120, 125, 127.9, 128, 128.1])
    for _ in range(draw.choice([0] * 8 + [3, 3, 40])):
        now += draw.choice([1 / 16, 0.25, 0.5, 0.5])
        kind = draw.choice(["none", "nose", "ears", "front"])
        off = {"nose": draw.choice([0.19, 0.21, -0.21]), "ears": draw.choice([0.39, 0.41, -0.41])}
        yield now, None if kind == "none" else _face(size, **{one: off[one] for one in off if one == kind})
    for _ in range(3):
        now += draw.choice([1 / 16, 1 / 16, 0.25])
        yield now, _face(size)
    at, still = 0.0, draw.random() < 0.08
    for number in range(24):
        movement = movements[min(number // 3, 2)] if draw.random() < 0.95 else draw.choice(list(Movement))
        share = draw.choice(_SHARES) if draw.random() < 0.2 else (0.3, 1.1, 0.0)[number % 3]
        share = 0.0 if still else share
        turn, nod, closer = (share * one for one in _POSES[movement])
        for _ in range(draw.choice([1, 2, 3, 3, 3])):
            now += draw.choice([1 / 16] * 40 + [0.125] * 30 + [0.5] * 6 + [0.5625])
            if draw.random() < 0.01:
                at += draw.choice([1.4, 1.6]) * size
            growth = draw.choice([1.3, 1.4, 1 / 1.3, 1 / 1.4]) if draw.random() < 0.01 else 1
            is_lost = draw.random() < 0.03
            yield now, None if is_lost else _face(size * (1 + closer) * growth, turn=turn, nod=nod, at=at)


def _face(size, *, nose=0.0, ears=0.0, turn=0.0, nod=0.0, at=0.0):
    """Six landmarks of a face whose eyes are so far apart: off the front from the first, or moved since."""
    height = _HEIGHT * size
    points = {
        "nose": (nose + _NOSE[0] * turn, 0.5 + _NOSE[1] * nod / _HEIGHT),
        "right": (ears - 0.9 - turn, 0.1 - nod / _HEIGHT),
        "left": (ears + 0.9 - turn, 0.1 - nod / _HEIGHT),
    }
    nose_at, right, left = (np.array([x * size, y * height]) for x, y in points.values())
    eyes = np.array([-size / 2, 0]), np.array([size / 2, 0])
    return np.stack([*eyes, nose_at, np.array([0, height]), right, left]) + np.array([_SIDE / 2 + at, 200])
