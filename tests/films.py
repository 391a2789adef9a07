"""Films of somebody who does what a session asks, or holds up a picture, for cameras that are none.

Simulated (docs/pad.md): one of the ORL faces on a head of usual shape, or on paper.
"""

import io
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
from PIL import Image

from client.faces.filming import film
from client.faces.finding import FaceFinder
from client.faces.images import read_image
from examples.presentation.species import ATTACKS, FRAMES_A_SECOND, GENUINE, Holder
from examples.presentation.surfaces import Picture
from tests.faces import orl_image

BENT = next(one for one in ATTACKS if one.name == "print, bent")
HEAD = replace(GENUINE, turn=42, nod=40)
"""Somebody who turns and nods as far as is asked, and a little more."""
_BEGIN_SECONDS, _MOVEMENT_SECONDS = 0.4, 1.0
_CAMERA_FRAMES_A_SECOND = 30
"""Of a Motion JPEG file, as Chromium plays it."""


def picture_of(person, number=1):
    """A photograph, cut as for an attack."""
    pixels = read_image(orl_image(person, number))
    return Picture.of(pixels, *FaceFinder().follow(pixels, None)[:2])


def frames(species, person, order, *, seed=7):
    """(n, rows, columns, 3) uint8: looks into the camera, and then does what `order` says, a second for each."""
    holder = Holder(species, picture_of(person), np.random.default_rng(seed))
    times = np.arange(0, _BEGIN_SECONDS + _MOVEMENT_SECONDS * len(order), 1 / FRAMES_A_SECOND)
    begins = [_BEGIN_SECONDS + _MOVEMENT_SECONDS * number for number in range(len(order) + 1)]
    asked = [
        next((one for one, (begin, end) in zip(order, pairwise(begins), strict=True) if begin <= now < end), None)
        for now in times
    ]
    return [holder.frame(now, one) for now, one in zip(times, asked, strict=True)]


class Camera:
    """What a program's camera sees of somebody who does what the program says, in OpenCV's words; and its clock.

    Args:
        species: what stands before it.
        person: of the ORL faces.
        rate: frames a second, by its own clock.
    """

    def __init__(self, species, person, *, rate=FRAMES_A_SECOND):
        self._holder = Holder(species, picture_of(person), np.random.default_rng(7))
        self._rate, self._frames = rate, 0
        self.asked, self.told, self.is_on = None, [], False

    def tell(self, movement):
        """What is asked for now."""
        self.asked = movement
        self.told.append(movement)

    def clock(self):
        """Seconds."""
        return self._frames / self._rate

    def VideoCapture(self, _number):  # noqa: N802 - OpenCV's name
        self.is_on = True
        return self

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return self.is_on

    def read(self):
        self._frames += 1
        return True, self._holder.frame(self.clock(), self.asked)[:, :, ::-1]

    def release(self):
        self.is_on = False

    def stand_before(self, monkeypatch):
        """Lets `filmed_probe` see this."""
        monkeypatch.setattr("client.device.capture._opencv", lambda: self)
        monkeypatch.setattr("client.device.challenge._say", self.tell)
        monkeypatch.setattr("client.faces.filming.film", partial(film, clock=self.clock))


def motion_jpeg(shown, slowness=1):
    """The file that Chromium's fake camera plays, again and again; so many times slower than it was."""
    written = io.BytesIO()
    for frame in shown:
        one = io.BytesIO()
        Image.fromarray(frame).save(one, "JPEG", quality=95)
        written.write(one.getvalue() * (slowness * _CAMERA_FRAMES_A_SECOND // FRAMES_A_SECOND))
    return written.getvalue()
