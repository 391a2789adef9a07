"""Which recogniser is loaded from where, under which profile, and what is said where one is missing: without any."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.faces import models
from client.faces.fetching import DETECTOR_FILES, WEIGHTS_FILE
from client.faces.models import (
    detector_files,
    load_mobilefacenet,
    load_recogniser,
    profile_beside,
    recogniser_files,
    recogniser_for,
    recogniser_of,
)
from federation.errors import MalformedMessageError, UsageError
from federation.recognition import foreign
from federation.recognition.mobilefacenet import SHIPPED_SETS


class Tunable:
    """Stands for the network that comes along; `tuned` is what it was tuned with."""

    def __init__(self, weights, profile):
        self.weights, self.profile, self.digest, self.tuned_with = weights, profile, profile.digest, None

    def tuned(self, scales):
        return SimpleNamespace(tuned_with=scales, of=self)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Weights, profiles and models as files; profiles are texts."""

    def profile(data):
        if data.startswith(b"torn"):
            raise MalformedMessageError("no profile")
        return SimpleNamespace(digest=data.decode(), to_bytes=lambda: data)

    def shipped(without=""):
        return profile(f"shipped without {without or 'nobody'}".encode())

    monkeypatch.setattr(models, "RecogniserProfile", SimpleNamespace(from_bytes=profile))
    monkeypatch.setattr(models, "MobileFaceNetRecogniser", Tunable)
    monkeypatch.setattr(models, "shipped_profile", shipped)
    monkeypatch.setattr(foreign, "OnnxRecogniser", lambda *given, **named: (given[0], given[1].digest, named))
    monkeypatch.setattr(models, "MOBILEFACENET", tmp_path / "weights/net.tflite")
    monkeypatch.setattr(models, "BLAZEFACE", tmp_path / "weights")
    files = {
        "weights/net.tflite": b"net",
        f"weights/{DETECTOR_FILES[0]}": b"bin",
        f"weights/{DETECTOR_FILES[1]}": b"json",
    }
    files |= {"own.onnx": b"own", "own.profile.json": b"of own", "bare.onnx": b"bare", "bad.onnx": b"bad"}
    files |= {
        "bad.profile.json": b"torn",
        f"kept/{WEIGHTS_FILE}": b"kept",
        "kept/mobilefacenet.profile.json": b"of kept",
    }
    files |= {f"half/{WEIGHTS_FILE}": b"half", "broken/mobilefacenet.profile.json": b"torn"}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_a_recogniser_is_loaded_with_the_profile_that_lies_with_it(shelf):
    alone = load_recogniser()
    assert (alone.weights, alone.digest) == (b"net", "shipped without nobody")
    kept = load_recogniser(shelf / "kept")
    assert (kept.weights, kept.digest) == (b"kept", "of kept")
    for one_thread in (False, True):
        loaded = load_recogniser(shelf / "own.onnx", one_thread=one_thread)
        assert loaded == (b"own", "of own", {"one_thread": one_thread})
    assert load_recogniser(shelf / "own.onnx")[2] == {"one_thread": False}
    assert profile_beside(Path("a/b.c.onnx")) == Path("a/b.c.profile.json")


WRONG = {
    "none.onnx": r"^there is no model at .*none\.onnx; name an \.onnx file$",
    "bare.onnx": r"^bare\.onnx has no profile, .* intaglio models profile .*bare\.onnx --faces DIR measures it",
    "bad.onnx": r"bad\.profile\.json is no recogniser profile of this version; make it anew$",
    "broken": r"broken/mobilefacenet\.profile\.json is no recogniser profile of this version; make it anew$",
    "half": r"^cannot read .*half/mobilefacenet\.profile\.json: No such file or directory$",
}


@pytest.mark.parametrize(("name", "said"), WRONG.items(), ids=WRONG)
def test_a_model_that_cannot_be_used_says_which_file_it_is(shelf, name, said):
    with pytest.raises(UsageError, match=said):
        load_recogniser(shelf / name)


def test_weights_that_are_missing_say_how_they_are_fetched(shelf, monkeypatch):
    assert detector_files() == (b"bin", b"json")
    (shelf / "weights/net.tflite").unlink()
    with pytest.raises(UsageError, match=r"^the recogniser's weights are missing: run `intaglio models fetch`"):
        load_recogniser()
    with pytest.raises(UsageError, match=r"^cannot read .*net\.tflite: No such file or directory$"):
        recogniser_files(Tunable(b"net", SimpleNamespace(digest="d", to_bytes=lambda: b"p")))
    for name in DETECTOR_FILES[::-1]:
        (shelf / "weights" / name).unlink()
        with pytest.raises(
            UsageError, match=rf"^the detector's weights are missing \(.*{name}\): run `intaglio models"
        ):
            detector_files()

    def forbidden(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(UsageError, match=r"^cannot read .*own\.profile\.json: Permission denied$"):
        load_recogniser(shelf / "own.onnx")


def test_the_files_of_a_recogniser_are_a_folder_that_can_be_loaded_and_of_another_there_are_none(shelf):
    tunable = load_mobilefacenet(SimpleNamespace(digest="d", to_bytes=lambda: b"of d"))
    assert recogniser_files(tunable) == {WEIGHTS_FILE: b"net", "mobilefacenet.profile.json": b"of d"}
    assert recogniser_files(load_recogniser(shelf / "own.onnx")) == {}
    (shelf / "written").mkdir()
    for name, data in recogniser_files(tunable).items():
        (shelf / "written" / name).write_bytes(data)
    assert load_recogniser(shelf / "written").digest == "of d"


def release(digest, scales=None):
    adapter = SimpleNamespace(scales=scales or {})
    return SimpleNamespace(model_digest=digest, model_name="a model", adapter=adapter)


def test_the_recogniser_of_a_release_is_under_whichever_shipped_profile_it_was_made_with(shelf):
    for without in ("nobody", *SHIPPED_SETS):
        found = recogniser_of(release(f"shipped without {without}"))
        assert (found.weights, found.digest) == (b"net", f"shipped without {without}")
    assert recogniser_of(release("another")).digest == "shipped without nobody"
    assert recogniser_of(release("shipped without orl"), shelf / "own.onnx")[1] == "of own"


def test_a_release_is_used_with_its_own_recogniser_alone_tuned_for_the_profiles_that_it_tunes(shelf):
    tunable, own = load_recogniser(shelf / "kept"), SimpleNamespace(digest="of kept")
    made = release("of kept", {"probe": "scales of probes", "other": "other scales"})
    assert recogniser_for(made, tunable, "reference") is tunable
    tuned = recogniser_for(made, tunable, "probe")
    assert (tuned.tuned_with, tuned.of) == ("scales of probes", tunable)
    assert recogniser_for(made, own, "reference") is own
    with pytest.raises(
        UsageError, match=r"^this release tunes the recogniser that comes with the project; leave --model"
    ):
        recogniser_for(made, own, "probe")
    with pytest.raises(UsageError, match=r"with another profile of it \(a model, another\); pass that one as --model$"):
        recogniser_for(release("another"), tunable, "reference")
