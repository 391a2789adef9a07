"""The probe of a session that asks for movements, by the command line's camera: who is filmed, and what is refused."""

import dataclasses

import numpy as np
import pytest

from client.device.challenge import filmed_probe
from client.faces.images import UnusableImageError
from federation.presentation.movements import Movement, challenge_of
from tests.films import BENT, HEAD, Camera
from tests.web.site import orl_release

ORDER = Movement.LEFT, Movement.UP, Movement.RIGHT
NONCE = next(bytes([n]) * 32 for n in range(256) if challenge_of(bytes([n]) * 32) == ORDER)


@pytest.fixture(scope="module")
def release():
    """That averages one frame."""
    return dataclasses.replace(orl_release(), references=1, frames=1)


def test_a_bent_print_that_is_turned_and_shaken_before_the_camera_is_refused_and_told_what_to_do(release, monkeypatch):
    camera = Camera(BENT, 1, rate=5)
    camera.stand_before(monkeypatch)
    probe = filmed_probe(0, without=None, model=None, release=release)
    with pytest.raises(UnusableImageError, match="the face did not turn as a head does, or not far enough") as refused:
        probe(NONCE)
    assert "turn your head" in refused.value.what_to_do
    assert camera.told == [None, Movement.LEFT]
    assert not camera.is_on


@pytest.mark.slow
def test_a_head_that_obeys_is_filmed_and_compared_by_a_frame_from_the_front(release, monkeypatch):
    camera = Camera(HEAD, 1)
    camera.stand_before(monkeypatch)
    vector = filmed_probe(0, without=None, model=None, release=release)(NONCE)
    assert np.linalg.norm(vector) > 0
    assert camera.told == [None, *ORDER]
    assert not camera.is_on
