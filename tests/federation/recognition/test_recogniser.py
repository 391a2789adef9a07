"""What every recogniser keeps to, by the one that comes with the project, and how recognisers are loaded."""

import dataclasses
import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from client.faces.models import (
    MOBILEFACENET,
    detector_files,
    load_recogniser,
    recogniser_files,
    recogniser_for,
    recogniser_of,
)
from federation.errors import UsageError
from federation.recognition.conditions import unmeasured
from federation.recognition.mobilefacenet import (
    SHIPPED_SETS,
    WEIGHTS_DIGEST,
    MobileFaceNet,
    MobileFaceNetRecogniser,
    bare_profile,
    shipped_profile,
)
from federation.recognition.profile import ColourOrder, Layout, Preprocessing
from federation.recognition.profiles import PROBE
from federation.recognition.templates import ARCFACE
from federation.recognition.tunable import TunableMobileFaceNet
from tests.bundles import a_release
from tests.faces import aligner, orl_image, shipped


def some_cuts(count):
    return np.random.default_rng(0).integers(0, 256, (count, 112, 112, 3), np.uint8)


def test_embeddings_have_unit_norm_and_do_not_depend_on_the_batch():
    cuts = some_cuts(9)  # more than go through the network at once
    together = shipped().embed(cuts)
    assert (together.shape, together.dtype) == ((9, 192), np.float32)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([shipped().embed(cut[None]) for cut in cuts]), together, atol=1e-5)
    assert shipped().embed(cuts[:0]).shape == (0, 192)


@pytest.mark.parametrize(
    "cuts",
    [np.zeros((1, 112, 112, 3), np.float32), np.zeros((112, 112, 3), np.uint8), np.zeros((1, 150, 150, 3), np.uint8)],
)
def test_what_is_no_aligned_cut_is_refused(cuts):
    with pytest.raises(UsageError, match=r"aligned chips, \(n, 112, 112, 3\)"):
        shipped().embed(cuts)


def test_two_images_of_one_person_are_more_alike_than_images_of_two():
    faces = [shipped().embed(aligner().chip(orl_image(*face))[None])[0] for face in ((2, 1), (2, 2), (3, 1), (3, 2))]
    cosines = np.array(faces) @ np.transpose(faces)
    assert min(cosines[0, 1], cosines[2, 3]) > cosines[:2, 2:].max() + 0.2


def test_what_comes_with_the_project_is_taken_when_nothing_is_named():
    loaded = load_recogniser()
    assert (loaded.name, loaded.dimension, loaded.digest) == ("mobilefacenet", 192, shipped_profile().digest)
    assert loaded.profile.weights_digest == WEIGHTS_DIGEST


def test_its_files_make_a_folder_that_is_loaded_again(tmp_path):
    for name, data in recogniser_files(shipped()).items():
        (tmp_path / name).write_bytes(data)
    again = load_recogniser(tmp_path)
    assert again.digest == shipped().digest
    np.testing.assert_array_equal(again.embed(some_cuts(1)), shipped().embed(some_cuts(1)))


def test_a_folder_with_other_files_says_what_is_wrong(tmp_path):
    files = recogniser_files(shipped())
    for broken, message in (
        ({}, "cannot read .*profile.json"),
        ({"mobilefacenet.profile.json": b"{}"}, r"profile\.json is no recogniser profile of this version"),
        ({"MobileFaceNet.tflite": b"no weights"}, "not the weights of MobileFaceNet"),
    ):
        for name, data in (files | broken if broken else {}).items():
            (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=message):
            load_recogniser(tmp_path)


def test_loading_says_how_to_get_missing_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("client.faces.models.MOBILEFACENET", tmp_path / "nothing")
    monkeypatch.setattr("client.faces.models.BLAZEFACE", tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"weights are missing: run `intaglio models fetch`.*make install.*--model"):
        load_recogniser()
    with pytest.raises(UsageError, match=r"detector's weights are missing.*intaglio models fetch.*make install"):
        detector_files()
    with pytest.raises(UsageError, match="cannot read"):
        recogniser_files(shipped())
    with pytest.raises(UsageError, match=r"no model at .*mine\.onnx; name an \.onnx file"):
        load_recogniser(tmp_path / "mine.onnx")


def test_a_model_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "mine.onnx")

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(UsageError, match=r"cannot read mine\.onnx: Permission denied"):
        load_recogniser(tmp_path / "mine.onnx")


@pytest.mark.parametrize("without", ["", *SHIPPED_SETS])
def test_a_release_of_any_profile_that_ships_needs_no_model_to_be_named(without):
    """The demo's release leaves out the people whom it shows, and README enrols under it."""
    release = dataclasses.replace(a_release(), model_digest=shipped_profile(without).digest)
    found = recogniser_of(release)
    assert recogniser_for(release, found, PROBE).digest == found.digest == release.model_digest


def test_a_release_of_another_profile_says_which_and_a_model_that_is_named_is_taken(tmp_path):
    release = dataclasses.replace(a_release(), model_digest="0" * 64)
    with pytest.raises(UsageError, match=r"another recogniser, or with another profile of it \(.*, 0{64}\)"):
        recogniser_for(release, recogniser_of(release), PROBE)
    for name, content in recogniser_files(shipped()).items():
        (tmp_path / name).write_bytes(content)
    left_out = dataclasses.replace(release, model_digest=shipped_profile("orl").digest)
    assert recogniser_of(left_out, tmp_path).digest == shipped().digest != left_out.model_digest


# ------------------------------------------------------------------------------------------------ two profiles at once
OTHER = Preprocessing(ColourOrder.BGR, (100_000, 110_000, 120_000), 64_000, Layout.NHWC, 0)


def under(**changes):
    """The network under a profile that differs from the one that ships."""
    return MobileFaceNetRecogniser(MOBILEFACENET.read_bytes(), dataclasses.replace(bare_profile(), **changes))


def test_each_recogniser_feeds_its_network_as_its_own_profile_says(monkeypatch):
    """And says whose profile it has. With torch and without."""
    first, second = under(), under(name="other", preprocessing=OTHER)
    assert [(one.name, one.dimension, one.digest) for one in (first, second)] == [
        (one.profile.name, 192, one.profile.digest) for one in (first, second)
    ]
    assert (first.profile, second.name, first.digest != second.digest) == (bare_profile(), "other", True)
    cuts, seen = some_cuts(9), []
    values = cuts.astype(np.float32)
    expected = [(values - 127.5) / 128, (values[..., ::-1] - np.array([100, 110, 120])) / 64]
    monkeypatch.setattr(MobileFaceNet, "forward", lambda _, x: seen.append(x) or np.eye(len(x), 192, dtype=np.float32))
    for one, fed in zip((first, second, first), (*expected, expected[0]), strict=True):
        seen.clear()
        one.embed(cuts)
        assert [len(some) for some in seen] == [8, 1]
        np.testing.assert_allclose(np.concatenate(seen), fed, atol=1e-5)
    for one, fed in zip((first, second), expected, strict=True):
        network = TunableMobileFaceNet(one, device="cpu")
        network._head = torch.nn.Identity()
        np.testing.assert_allclose(network.features(cuts).numpy().transpose(0, 2, 3, 1), fed, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": "onnx"}, "the profile mobilefacenet is not that of MobileFaceNet"),
        ({"weights_digest": "0" * 64}, "the profile mobilefacenet is not that of MobileFaceNet"),
        ({"alignment": ARCFACE.at(113)}, "takes cuts of 112 pixels and gives 192 numbers"),
        ({"dimension": 193, "subspace": unmeasured(193)}, "takes cuts of 112 pixels and gives 192 numbers"),
    ],
    ids=["network", "weights", "side", "dimension"],
)
def test_the_profile_of_another_recogniser_is_refused(changes, said):
    with pytest.raises(UsageError, match=said):
        under(**changes)


def test_a_profile_without_some_faces_is_asked_for_by_the_name_of_a_set_that_there_is():
    digests = {shipped_profile(without).digest for without in ("", *SHIPPED_SETS)}
    assert len(digests) == 1 + len(SHIPPED_SETS)
    for without in SHIPPED_SETS:
        assert without not in {faces.name for faces in shipped_profile(without).sets}
    with pytest.raises(UsageError, match="shipped profiles leave out canada, london, orl, not paris"):
        shipped_profile("paris")
