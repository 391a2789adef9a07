"""Films of a head and of pictures before a camera that exists in numbers, looked at by the real detector.

The heads are simulated: a photograph of one of the ORL people on a head of usual shape (docs/pad.md).
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from client.device import challenge
from client.faces.filming import film
from client.faces.finding import FaceFinder
from client.faces.images import UnusableImageError, read_image
from examples.presentation.species import FRAMES_A_SECOND, GENUINE, Holder
from examples.presentation.surfaces import Picture
from federation.errors import UsageError
from federation.presentation.movements import Movement, challenge_of
from tests.faces import orl_image

VECTORS = Path(__file__).parents[2] / "vectors" / "movements.json"
ORDER = (Movement.LEFT, Movement.UP, Movement.RIGHT)


class Studio:
    """A camera before which somebody does what is told, and a clock that its frames move."""

    def __init__(self, species, *, person=1):
        pixels = read_image(orl_image(person, 1))
        self.finder = FaceFinder()
        picture = Picture.of(pixels, *self.finder.follow(pixels, None)[:2])
        self.holder = Holder(species, picture, np.random.default_rng(7))
        self.asked, self.told, self.frames = None, [], 0

    def tell(self, movement):
        self.asked = movement
        self.told.append(movement)

    def clock(self):
        return self.frames / FRAMES_A_SECOND

    def see(self):
        for number in itertools.count():
            self.frames = number
            yield self.holder.frame(self.clock(), self.asked)

    def film(self, movements=ORDER, wanted=2):
        return film(self.see(), self.finder, movements, wanted=wanted, tell=self.tell, clock=self.clock)


def test_a_head_that_does_what_it_is_told_is_filmed_and_frames_from_the_front_are_left():
    studio = Studio(GENUINE)
    taken = studio.film()
    assert studio.told == [None, *ORDER]
    assert len(taken.ways) == 3
    assert 1 <= len(taken.middles) <= 2
    for frame in taken.middles:
        right, left, nose, *_ = studio.finder.follow(frame, None)
        assert abs(nose[0] - (right[0] + left[0]) / 2) < 0.2 * np.hypot(*(left - right))


def test_an_empty_room_is_refused():
    studio = Studio(GENUINE)
    grey = np.full((64, 64, 3), 120, np.uint8)

    def empty():
        for number in itertools.count():
            studio.frames = FRAMES_A_SECOND * number
            yield grey

    with pytest.raises(UnusableImageError, match="no face looks into the camera"):
        film(empty(), studio.finder, ORDER, wanted=1, tell=studio.tell, clock=studio.clock)


def test_a_film_of_no_frame_that_could_be_compared_ends(monkeypatch):
    monkeypatch.setattr("federation.presentation.movements.MIDDLE", 0.0)
    written = json.loads(VECTORS.read_text())["films"]["a head"]
    looks = iter(written["looks"])
    finder = SimpleNamespace(follow=lambda *_: np.array(next(looks)[1:]).reshape(6, 2))
    frames = itertools.repeat(np.zeros((1, written["side"], 3), np.uint8))
    times = iter(look[0] for look in written["looks"])
    with pytest.raises(UnusableImageError, match="no face looks into the camera"):
        film(frames, finder, ORDER, wanted=2, tell=lambda _: None, clock=lambda: next(times))


def test_a_challenge_without_a_camera_is_refused_before_anything_is_loaded():
    with pytest.raises(UsageError, match="a challenge is filmed"):
        challenge.filmed_probe(None, without=None, model=None, release=None)


def test_every_movement_has_words():
    assert set(challenge._SAY) == {None, *Movement}
    assert set(challenge_of(bytes(32))) <= set(Movement)
