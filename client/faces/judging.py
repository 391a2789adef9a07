"""The recogniser that a set of faces may be judged with: one whose profile these pictures had no part in.

Whoever judges a profile on the people that it was made of praises it. Which pictures the shipped profiles are made of
is known by the digests of their pixels, whatever a folder is called. Pictures that were saved anew with losses, or cut,
are not recognised: a digest is no likeness. Of a model of one's own, only the names of its sets are known.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
from functools import cache
from pathlib import Path
from typing import Final

from client.faces.datasets import FaceFolder
from client.faces.images import UnusableImageError, picture_digest, read_image
from client.faces.models import load_mobilefacenet, load_recogniser
from federation.errors import UsageError
from federation.recognition.mobilefacenet import shipped_profile
from federation.recognition.recogniser import Recogniser

DIGITS: Final = 16
"""Of a digest that are kept."""
_PICTURES: Final = "shipped-pictures.json"


@cache
def shipped_pictures() -> dict[str, frozenset[str]]:
    """By the name of a set that shipped profiles are made of, the first `DIGITS` of the digests of its pictures."""
    text = importlib.resources.files("federation.recognition").joinpath(_PICTURES).read_text("ascii")
    return {name: frozenset(digests) for name, digests in json.loads(text).items()}


def digests_of(folder: FaceFolder) -> set[str]:
    """What `shipped_pictures` says of a set, sorted there. Images that cannot be read are left out."""
    digests = set()
    for path in (path for paths in folder.people.values() for path in paths):
        with contextlib.suppress(OSError, UnusableImageError):
            digests.add(picture_digest(read_image(path.read_bytes()))[:DIGITS])
    return digests


def sets_shown(folder: FaceFolder) -> set[str]:
    """Names of the sets of shipped profiles of which a picture is in `folder`."""
    mine = digests_of(folder)
    return {name for name, digests in shipped_pictures().items() if mine & digests}


def judging_recogniser(root: Path, folder: FaceFolder, model: Path | None) -> Recogniser:
    """The recogniser to judge on `folder`.

    Args:
        root: where the folder lies.
        folder: the people whom it is judged on.
        model: see `load_recogniser`; without one, the shipped network under the profile that leaves these people out.

    Raises:
        UsageError: every profile there is was made of some of these people.
    """
    if model is not None:
        recogniser, name = load_recogniser(model), root.resolve().name.lower()
        if name in (faces.name for faces in recogniser.profile.sets):
            raise UsageError(
                f"the profile of {model.name} was made of a set called {name}, as this folder is: judge it under the "
                f"profile that `intaglio models profile` wrote without {name}, or on other people"
            )
        return recogniser
    shown = sorted(sets_shown(folder))
    if len(shown) > 1:
        raise UsageError(
            f"{root} has pictures of {' and '.join(shown)}, and every profile that ships was made of one of them: "
            "judge each alone"
        )
    return load_mobilefacenet(shipped_profile(without="".join(shown)))
