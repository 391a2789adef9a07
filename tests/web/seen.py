"""Drawings that are cut and searched by Python, for the page to do the same: `web/tests/finding.test.ts`.

What is looked for is a rectangle of one colour, so both sides search with the same few lines in place of a network.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from client.faces.finding import FaceFinder
from client.faces.images import UnusableImageError
from federation.errors import UsageError
from federation.recognition.blazeface import SIDE, BlazeFace, Detection, _places
from federation.recognition.cropping import Pixels, Similarity, cut, placed, shares_outside
from federation.recognition.templates import ARCFACE

_MARKS = np.array([(0.3, 0.35), (0.72, 0.33), (0.5, 0.55), (0.52, 0.8), (0.05, 0.4), (0.97, 0.41)])
_LEAST, _LARGE = 12, 10_000


def drawn(scene: Any) -> Pixels:
    """Faint stripes, and rectangles of a channel each, whose upper half is brighter."""
    rows, columns = np.mgrid[0 : scene["height"], 0 : scene["width"]]
    image = np.repeat(((7 * columns + 13 * rows) % 64)[..., None], 3, axis=2).astype(np.uint8)
    for left, top, width, height, channel, is_upright in scene["faces"]:
        for begin, end, level in ((0, height // 2, 255), (height // 2, height, 200)):
            part = image[top + begin : top + end, left : left + width]
            part[:] = 0
            part[..., channel] = level if is_upright else 455 - level
    return image


class _Rectangles:
    """In the place of the network."""

    def detect(self, square: Pixels, *, sure: float = 0.5) -> list[Detection]:
        found = []
        for channel in range(3):
            others = [other for other in range(3) if other != channel]
            here = (square[..., channel] > 150) & (square[..., others] < 100).all(axis=2)
            if here.sum() < _LEAST:
                continue
            rows, columns = np.nonzero(here.any(axis=1))[0], np.nonzero(here.any(axis=0))[0]
            low, high = np.array([columns[0], rows[0]]), np.array([columns[-1], rows[-1]]) + 1
            middle = (int(rows[0]) + int(rows[-1]) + 1) // 2
            halves = (slice(low[1], middle), slice(middle, high[1]))
            levels = [square[half, low[0] : high[0], channel].mean() for half in halves]
            score = 0.7 + (levels[0] - levels[1]) / 550 - 1 / len(rows) - 0.25 * (here.sum() > _LARGE)
            if score >= sure:
                found.append(Detection(float(score), np.array([*low, *high], float), low + _MARKS * (high - low)))
        return sorted(found, key=lambda one: -one.score)


def seen(request: Any) -> list[Any]:
    """Of each drawing: landmarks as a reference and as a probe, and in a film with and without the place of before."""
    finder = FaceFinder.__new__(FaceFinder)
    finder._detector = _Rectangles()  # type: ignore[assignment]
    answers = []
    for scene in request["scenes"]:
        image = drawn(scene)
        before = scene.get("before")
        looks = [
            partial(finder.follow, image, None) if look == "film" else partial(finder.landmarks, image, look)
            for look in scene["looks"]
        ]
        if before:
            looks.append(partial(finder.follow, image, np.array(before, float)))
        answers.append([_found(look) for look in looks])
    return answers


def _found(look: Any) -> Any:
    try:
        return look().tolist()
    except UnusableImageError as error:
        return str(error)


def cuts(request: Any) -> list[Any]:
    """Of each row: the cut at a place, and for landmarks where they bring it and how much of it lies outside."""
    image = drawn(request["scene"])
    rows = []
    for a, b, e, f, side in request["places"]:
        place = Similarity(complex(a, b), complex(e, f))
        landmarks = place.apply(np.array(ARCFACE.pixels) * side / ARCFACE.side)
        brought = placed(landmarks, ARCFACE)
        rows.append(
            {
                "cut": cut(image, place, side).ravel().tolist(),
                "landmarks": landmarks.tolist(),
                "placed": [brought.turn.real, brought.turn.imag, brought.shift.real, brought.shift.imag],
                "outside": shares_outside(image, landmarks, ARCFACE),
            }
        )
    return rows


def aligned(request: Any) -> list[bool]:
    """Whether each four landmarks align a face."""
    answers = []
    for landmarks in request["landmarks"]:
        try:
            placed(np.array([[np.nan if x is None else x for x in point] for point in landmarks], float), ARCFACE)
        except UsageError:
            answers.append(False)
        else:
            answers.append(True)
    return answers


class _Said(BlazeFace):
    """A network that says what it is told to."""

    def __init__(self, logits: Any, distances: Any) -> None:
        self._said = np.array(logits, np.float32), np.array(distances, np.float32)
        self._places = _places()

    def _forward(self, _x: Any) -> Any:
        return self._said


def merged(request: Any) -> list[Any]:
    """The faces that come of what the network says of some of its places."""
    answers = []
    for said, sure in request["squares"]:
        logits, distances = np.full(896, -200.0), np.zeros((896, 16))
        for place, logit, numbers in said:
            logits[place], distances[place] = logit, numbers
        network = _Said(logits, distances)
        found = network.detect(np.zeros((SIDE, SIDE, 3), np.uint8), sure=sure)
        answers.append([[one.score, one.box.tolist(), one.landmarks.tolist()] for one in found])
    return answers
