"""Films of somebody who does what a session asks, or holds up a picture, for cameras that are none.

Simulated (docs/pad.md): one of the ORL faces on a head of usual shape, or on paper.
"""

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
from PIL import Image

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


def motion_jpeg(film, slowness=1):
    """The file that Chromium's fake camera plays, again and again; so many times slower than it was."""
    written = io.BytesIO()
    for frame in film:
        one = io.BytesIO()
        Image.fromarray(frame).save(one, "JPEG", quality=95)
        written.write(one.getvalue() * (slowness * _CAMERA_FRAMES_A_SECOND // FRAMES_A_SECOND))
    return written.getvalue()
