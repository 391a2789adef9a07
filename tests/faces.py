"""Real faces and what finds them, loaded once."""

from functools import cache

from client.faces.alignment import FaceAligner
from client.faces.datasets import orl_faces
from client.faces.models import load_recogniser


@cache
def aligner():
    return FaceAligner()


@cache
def shipped():
    return load_recogniser()


@cache
def orl_image(person, number):
    """The bytes of one of the ORL faces."""
    return (orl_faces() / f"s{person}" / f"{number}.pgm").read_bytes()
