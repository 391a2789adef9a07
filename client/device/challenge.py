"""The probe of a session that looks for presentation attacks: filmed under the movements that its nonce asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import typer

from federation.errors import UsageError
from federation.presentation.movements import Movement, Omission, challenge_of
from federation.recognition.fusing import fused
from federation.recognition.profiles import PROBE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from client.device.pictures import Left
    from federation.recognition.model import ModelRelease
    from federation.recognition.recogniser import Chips

ChallengeOption = Annotated[
    bool, typer.Option("--challenge", allow_from_autoenv=False, help="Move your head as it is asked. Needs --camera.")
]
WithoutOption = Annotated[
    Omission | None,
    typer.Option("--without", help="What you cannot do, or would rather not: you come closer instead."),
]
_SAY: Final = {
    None: "Look into the camera.",
    Movement.LEFT: "Turn your head to your left, a hand's breadth, and back.",
    Movement.RIGHT: "Turn your head to your right, a hand's breadth, and back.",
    Movement.UP: "Look up, and back.",
    Movement.DOWN: "Look down, and back.",
    Movement.CLOSER: "Come closer, and back.",
}


def _say(movement: Movement | None) -> None:
    typer.echo(_SAY[movement], err=True)


def filmed_probe(
    camera: int | None, *, without: Omission | None, model: Path | None, release: ModelRelease
) -> Callable[[bytes], NDArray[np.float64]]:
    """What makes the probe of a session from its nonce; see `client.device.verification.Probe`.

    Raises:
        UsageError: there is no camera, or the release is for another recogniser.
    """
    film = _filming(camera, without=without, model=model, release=release)
    return lambda nonce: film(nonce)[0]


def filmed_probes(
    camera: int | None, *, without: Omission | None, model: Path | None, release: ModelRelease, left: Left
) -> Callable[[bytes], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The same film twice, for whoever comes over: under the release that is left, and under the one that is entered.

    Raises:
        UsageError: as for `filmed_probe`; or the two recognisers cut faces differently.
    """
    from client.faces.models import recogniser_for, recogniser_of  # noqa: PLC0415 - recognisers are slow to load

    former = recogniser_of(left.release, left.model)
    leaving = recogniser_for(left.release, former, PROBE)
    if former.profile.alignment != recogniser_of(release, model).profile.alignment:
        raise UsageError("the recognisers of the two releases cut faces differently, so one film does not serve both")
    film = _filming(camera, without=without, model=model, release=release)

    def probes(nonce: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        entered, chips = film(nonce)
        adapted: NDArray[np.float64] = left.release.adapt(fused(leaving.embed(chips))[None], PROBE)[0]
        return adapted, entered

    return probes


def _filming(
    camera: int | None, *, without: Omission | None, model: Path | None, release: ModelRelease
) -> Callable[[bytes], tuple[NDArray[np.float64], Chips]]:
    """Adapted embedding (k,) of a film under a nonce, and the chips that it is the mean of."""
    from client.device.capture import frames_of  # noqa: PLC0415 - cameras and recognisers are slow to load
    from client.device.pictures import require_one_person  # noqa: PLC0415 - see above
    from client.faces.filming import film  # noqa: PLC0415 - see above
    from client.faces.finding import Aligner, FaceFinder  # noqa: PLC0415 - see above
    from client.faces.models import recogniser_for, recogniser_of  # noqa: PLC0415 - see above

    if camera is None:
        raise UsageError("a challenge is filmed: name a camera with --camera NUMBER, and no images")
    recogniser, finder = recogniser_for(release, recogniser_of(release, model), PROBE), FaceFinder()
    aligner = Aligner(recogniser.profile.alignment, finder)

    def probe(nonce: bytes) -> tuple[NDArray[np.float64], Chips]:
        movements = challenge_of(nonce, without)
        with frames_of(camera) as frames:
            taken = film(frames, finder, movements, wanted=release.frames, tell=_say)
        chips = np.stack([aligner.chip_of_pixels(frame, PROBE) for frame in (*taken.middles, *taken.ways)])
        embeddings = recogniser.embed(chips)
        mean, ways = fused(embeddings[: len(taken.middles)]), embeddings[len(taken.middles) :]
        names = ["the face from the front", *(f"the face in movement {1 + i}" for i in range(len(ways)))]
        require_one_person([mean, *ways], names, release)
        adapted: NDArray[np.float64] = release.adapt(mean[None], PROBE)[0]
        return adapted, chips[: len(taken.middles)]

    return probe
