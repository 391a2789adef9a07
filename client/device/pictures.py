"""The pictures of one command: where they come from, what is asked of them, and the vectors that they become.

Enrolment averages some pictures and confirms them by one more; whatever compares averages some. What is wrong with
pictures is found here, before anything is sent: too many of them, a poor one, the same one twice, or one of somebody
else among those that are to be averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import click
import numpy as np
import typer
from numpy.typing import NDArray

from client.faces.formats import IMAGES
from client.terminal import read_file
from federation.errors import UsageError
from federation.recognition.fusing import fused
from federation.recognition.model import ModelRelease
from federation.recognition.profiles import PROBE, REFERENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from client.faces.finding import Aligner
    from federation.recognition.recogniser import Chips

_SAME_GREY: Final = 2.0
"""Mean difference of two cuts, in grey levels of 255, up to which they are one picture, perhaps saved or scaled anew.
Neighbouring pictures of one session of ORL differ by 3.6 and more."""

ReferencesArgument = Annotated[
    list[Path] | None,
    typer.Argument(help=f"Images of the face, {IMAGES}: all but the last are averaged, the last confirms them."),
]
ProbesArgument = Annotated[
    list[Path] | None,
    typer.Argument(help=f"Fresh images of the face, which are averaged: {IMAGES}."),
]
CameraOption = Annotated[
    int | None,
    typer.Option("--camera", min=0, help="Number of a camera, 0 for the first, instead of images. Needs OpenCV."),
]


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of a command come from.

    Attributes:
        files: in the order in which they were named; none where there is a camera.
        camera: its number, or None.
        averaged: how many are averaged.
        confirmed: whether one more confirms those.
    """

    files: tuple[Path, ...]
    camera: int | None
    averaged: int
    confirmed: bool

    @property
    def profiles(self) -> list[str]:
        """Camera profile of each picture."""
        return [REFERENCE] * self.averaged + [PROBE] if self.confirmed else [PROBE] * self.averaged

    @property
    def names(self) -> list[str]:
        """What each picture is called in a message."""
        count = self.averaged + self.confirmed
        return [str(file) for file in self.files] or [f"picture {place + 1} of the camera" for place in range(count)]


@dataclass(frozen=True)
class Left:
    """The release that somebody leaves, and the recogniser that it is for; see `reference_and_seconds`.

    Attributes:
        release: under which they are enrolled.
        model: its recogniser; see `client.faces.models.load_recogniser`.
    """

    release: ModelRelease
    model: Path | None


def references_of(files: Sequence[Path] | None, camera: int | None, release: ModelRelease) -> Pictures:
    """The pictures of an enrolment: some to average, and one that confirms them. Nothing is opened.

    Says on the error output when they are fewer than the threshold is set for.

    Raises:
        UsageError: too few or too many for the release; or files and a camera.
    """
    named = _named(files, camera)
    most = release.references
    if camera is None and not 2 <= len(named) <= most + 1:  # noqa: PLR2004 - one, and one that confirms it
        many = "2" if most == 1 else f"2 to {most + 1}"
        raise UsageError(
            f"this release averages at most {most} picture{'s' * (most > 1)}, and one more confirms: name {many}, not "
            f"{len(named)}, or --camera NUMBER"
        )
    averaged = most if camera is not None else len(named) - 1
    if averaged < most:
        typer.echo(
            f"averaging {averaged} of the {most} pictures that the threshold is set for: you will be refused more "
            f"often than with {most + 1} pictures, the last of which confirms",
            err=True,
        )
    return Pictures(named, camera, averaged, confirmed=True)


def probes_of(files: Sequence[Path] | None, camera: int | None, release: ModelRelease) -> Pictures:
    """The pictures of a comparison. Nothing is opened.

    Says on the error output when they are fewer than the threshold is set for.

    Raises:
        UsageError: none, or too many for the release; or files and a camera.
    """
    named = _named(files, camera)
    most = release.frames
    if camera is None and not 1 <= len(named) <= most:
        many = "1" if most == 1 else f"1 to {most}"
        raise UsageError(
            f"this release averages at most {most} picture{'s' * (most > 1)}: name {many}, not {len(named)}, or "
            "--camera NUMBER"
        )
    averaged = most if camera is not None else len(named)
    if averaged < most:
        typer.echo(
            f"comparing {averaged} of the {most} pictures that the threshold is set for: the chance of being refused "
            f"is higher than with {most}",
            err=True,
        )
    return Pictures(named, camera, averaged, confirmed=False)


def reference_and_second(
    pictures: Pictures, *, model: Path | None, release: ModelRelease
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Adapted embeddings (k,): of the pictures that are averaged, and of the one that confirms them. Sensitive.

    Args:
        pictures: from `references_of`.
        model: recogniser; see `client.faces.models.load_recogniser`.
        release: what they are adapted by.

    Raises:
        UsageError: a picture is of no use, there twice, or of somebody else than the others.
    """
    *references, second = embed(pictures, model=model, release=release)
    require_one_person(references, pictures.names, release)
    return _adapted(references, REFERENCE, release), _adapted([second], PROBE, release)


def reference_and_seconds(
    pictures: Pictures, *, model: Path | None, release: ModelRelease, left: Left
) -> tuple[NDArray[np.float64], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """As `reference_and_second`, and the confirming picture twice: under the release that is left, and under this one.

    Args:
        pictures: from `references_of`.
        model: recogniser of `release`.
        release: that is entered.
        left: the other one.

    Raises:
        UsageError: as there; or the two recognisers cut faces differently, and there is a camera.
    """
    *references, second, again = embed(pictures, model=model, release=release, left=left)
    require_one_person(references, pictures.names, release)
    seconds = _adapted([again], PROBE, left.release), _adapted([second], PROBE, release)
    return _adapted(references, REFERENCE, release), seconds


def probe_of(pictures: Pictures, *, model: Path | None, release: ModelRelease) -> NDArray[np.float64]:
    """Adapted embedding (k,) of pictures from `probes_of`; else as `reference_and_second`."""
    return _adapted(embed(pictures, model=model, release=release), PROBE, release)


def embed(
    pictures: Pictures, *, model: Path | None, release: ModelRelease, left: Left | None = None
) -> list[NDArray[np.floating[Any]]]:
    """The embedding (d,) of every picture, unit norm, not adapted. Sensitive.

    With a release that is left the last picture comes once more at the end, as that one's recogniser embeds it.

    Raises:
        UsageError: the release is for another recogniser; or a picture is of no use, or there twice; or the recognisers
            of two releases cut faces differently, and there is a camera.
    """
    # Here and not above: detector and recogniser take a while to load, and most commands need neither.
    from client.faces.finding import aligner_for  # noqa: PLC0415 - see above
    from client.faces.models import recogniser_for, recogniser_of  # noqa: PLC0415 - see above

    frozen = recogniser_of(release, model)
    recognisers = {profile: recogniser_for(release, frozen, profile) for profile in pictures.profiles}
    former = None if left is None else recogniser_of(left.release, left.model)
    is_cut_alike = former is None or former.profile.alignment == frozen.profile.alignment
    if pictures.camera is not None and not is_cut_alike:
        raise UsageError("the recognisers of the two releases cut faces differently: name images, and no camera")
    chips = _cut(pictures, aligner_for(frozen))
    embedded = [
        recognisers[profile].embed(chip[None])[0] for chip, profile in zip(chips, pictures.profiles, strict=True)
    ]
    if left is not None and former is not None:
        chip = chips[-1] if is_cut_alike else aligner_for(former).chip(read_file(pictures.files[-1]), PROBE)
        embedded.append(recogniser_for(left.release, former, PROBE).embed(chip[None])[0])
    return embedded


def _cut(pictures: Pictures, aligner: Aligner) -> list[Chips]:
    """The chip (side, side, 3) of every picture. Sensitive."""
    from client.faces.images import UnusableImageError  # noqa: PLC0415 - see `embed`

    if pictures.camera is not None:
        return _filmed(pictures, pictures.camera, aligner.chip_of_pixels)
    chips = []
    for file, profile in zip(pictures.files, pictures.profiles, strict=True):
        try:
            chips.append(aligner.chip(read_file(file), profile))
        except UnusableImageError as error:
            raise UnusableImageError(f"{file}: {error.problem}", error.what_to_do) from error
    require_different(chips, pictures.names)
    return chips


def require_different(chips: Sequence[Chips], names: Sequence[str]) -> None:
    """Returns when no two cuts are of one picture: what a picture and its copy have in common is no person.

    Args:
        chips: (side, side, 3) uint8 each.
        names: of the pictures.

    Raises:
        UsageError: two are; names them.
    """
    for later, chip in enumerate(chips):
        for earlier, other in enumerate(chips[:later]):
            if float(np.abs(chip.astype(np.int16) - other).mean()) <= _SAME_GREY:
                raise UsageError(
                    f"{names[later]} is the same picture as {names[earlier]}, which is not two: take another. Nothing "
                    "was sent"
                )


def require_one_person(
    embeddings: Sequence[NDArray[np.floating[Any]]], names: Sequence[str], release: ModelRelease
) -> None:
    """Returns when pictures that are to be averaged are of one person, as far as the release can tell.

    Two are unlike when the share of bits in which their codes would differ, on average over all seeds, is more than the
    threshold allows: that is their angle in parts of a half turn. So the answer is the same on every try. A picture is
    an outlier when it is unlike more than half of the others.

    Args:
        embeddings: (d,) each, of references, not adapted.
        names: of the pictures.
        release: its adapter and threshold.

    Raises:
        UsageError: there are outliers; names them.
    """
    adapted = release.adapt(np.stack(embeddings), REFERENCE)
    unlike = np.arccos(np.clip(adapted @ adapted.T, -1, 1)) / np.pi > release.threshold / release.code_length
    np.fill_diagonal(unlike, val=False)
    outliers = [
        name for name, row in zip(names, unlike, strict=False) if 2 * np.count_nonzero(row) > len(embeddings) - 1
    ]
    if not outliers:
        return
    listed = " and ".join(outliers)
    if 2 * len(outliers) < len(embeddings):
        raise UsageError(
            f"{listed}: of somebody else than the other pictures, or too unlike them; leave out, or take another. "
            "Nothing was sent"
        )
    raise UsageError(
        f"{listed} do not show one person, or are too unlike each other; take others, from the front and in even "
        "light. Nothing was sent"
    )


def _named(files: Sequence[Path] | None, camera: int | None) -> tuple[Path, ...]:
    named = tuple(files or ())
    if camera is not None and named:
        raise UsageError("name images or --camera, not both")
    return named


def _adapted(
    embeddings: Sequence[NDArray[np.floating[Any]]], profile: str, release: ModelRelease
) -> NDArray[np.float64]:
    adapted: NDArray[np.float64] = release.adapt(fused(np.stack(embeddings))[None], profile)[0]
    return adapted


def _filmed(pictures: Pictures, camera: int, find: Callable[[Chips, str], Chips]) -> list[Chips]:
    """A chip for each picture, from a few seconds of camera; one that confirms the others is of another sitting."""
    from client.device.capture import capture_faces  # noqa: PLC0415 - see `embed`

    def seconds_of(count: int, profile: str, what_to_do: str) -> list[Chips]:
        click.pause(what_to_do, err=True)  # goes on by itself where there is no terminal
        return capture_faces(lambda frame: find(frame, profile), count, camera=camera)

    look = "Look into the camera and press a key"
    if pictures.averaged > 1:
        look += f"; then turn your head a little, until {pictures.averaged} pictures are taken"
    taken = seconds_of(pictures.averaged, pictures.profiles[0], f"{look}.")
    if pictures.confirmed:
        taken += seconds_of(
            1, PROBE, "Look away and into the camera again, and press a key: one more picture confirms."
        )
    return taken
