"""dlib's network against its own, and how recognisers are loaded."""

import errno
import importlib.util
import json
from functools import cache
from pathlib import Path

import dlib
import numpy as np
import pytest
import torch

from client.faces.models import SHIPPED, detector_files, load_recogniser, recogniser_files
from federation.errors import UsageError
from federation.recognition.recogniser import CHIP_SIDE
from federation.recognition.resnet import ResNetRecogniser
from tests.faces import aligner, orl_image, shipped


def dlib_descriptor():
    package = importlib.util.find_spec("face_recognition_models")
    folder = Path(next(iter(package.submodule_search_locations))) / "models"
    return dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))


@cache
def weight_files():
    return [(SHIPPED / f"face_recognition_model{end}").read_bytes() for end in (".bin", "-weights_manifest.json")]


def test_embeddings_agree_with_dlibs_own_descriptor_on_equal_chips():
    chips = np.stack([aligner().chip(orl_image(person, 1)) for person in (1, 2, 9, 17, 31, 40)])
    descriptor = dlib_descriptor()
    theirs = np.array([descriptor.compute_face_descriptor(chip) for chip in chips])
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    cosines = (shipped().embed(chips) * theirs).sum(axis=1)
    assert cosines.min() >= 0.999


def test_embeddings_have_unit_norm_and_do_not_depend_on_the_batch():
    chips = np.random.default_rng(0).integers(0, 256, (3, CHIP_SIDE, CHIP_SIDE, 3), np.uint8)
    together = shipped().embed(chips)
    assert together.shape == (3, 128)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([shipped().embed(chip[None]) for chip in chips]), together, atol=1e-5)
    assert shipped().embed(chips[:0]).shape == (0, 128)


@pytest.mark.parametrize(
    "chips",
    [np.zeros((1, 150, 150, 3), np.float32), np.zeros((150, 150, 3), np.uint8), np.zeros((1, 96, 96, 3), np.uint8)],
)
def test_what_is_no_aligned_chip_is_refused(chips):
    with pytest.raises(UsageError, match="aligned chips"):
        shipped().embed(chips)


def test_cuda_is_taken_where_torch_has_it(monkeypatch):
    chosen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.nn.Module.to", lambda self, device: chosen.append(device) or self)
    ResNetRecogniser(*weight_files())
    assert [device.type for device in chosen] == ["cuda"]


def test_weights_of_something_else_are_refused():
    weights, manifest = weight_files()
    for broken in ((weights[:-1], manifest), (weights, b"{}"), (weights, manifest[:100]), (b"", b"[]")):
        with pytest.raises(UsageError, match="not the weights"):
            ResNetRecogniser(*broken)


def test_a_device_that_is_named_wins_over_cuda(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert ResNetRecogniser(*weight_files(), device="cpu").device.type == "cpu"


def test_on_a_gpu_cudnn_is_used_but_never_its_ten_bit_mode(monkeypatch):
    recogniser, seen = ResNetRecogniser(*weight_files(), device="cpu"), []
    cudnn = torch.backends.cudnn
    for half in (recogniser._network.head, recogniser._network.tail):
        half.register_forward_hook(lambda *_: seen.append((cudnn.enabled, cudnn.allow_tf32)))
    recogniser.embed(np.zeros((1, CHIP_SIDE, CHIP_SIDE, 3), np.uint8))
    assert seen == 2 * [(True, False)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "another"),
        ("name", []),
        ("shape", 864),
        ("shape", [-1]),
        ("shape", ["a"]),
        ("shape", [10**30]),
        ("quantization", None),
        ("quantization", {"scale": 1}),
        ("quantization", {"scale": 10**400, "min": 0}),
    ],
)
def test_a_changed_manifest_is_refused(key, value):
    weights, manifest = weight_files()
    groups = json.loads(manifest)
    groups[0]["weights"][0][key] = value
    with pytest.raises(UsageError, match="not the weights"):
        ResNetRecogniser(weights, json.dumps(groups).encode())


def test_loading_says_how_to_get_missing_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("client.faces.models.SHIPPED", tmp_path / "nothing")
    monkeypatch.setattr("client.faces.models.MOBILEFACENET", tmp_path / "nothing")
    monkeypatch.setattr("client.faces.models.BLAZEFACE", tmp_path / "nothing")
    for name in (None, Path("resnet29"), Path("mobilefacenet")):
        with pytest.raises(UsageError, match=r"make install.*--model"):
            load_recogniser(name)
    with pytest.raises(UsageError, match=r"detector's weights are missing.*make install"):
        detector_files()
    with pytest.raises(UsageError, match=r"no model at .*mobilefacenet or resnet29"):
        load_recogniser(tmp_path / "mine.onnx")
    with pytest.raises(UsageError, match="cannot read"):
        load_recogniser(tmp_path)


def test_a_recogniser_that_comes_with_the_project_is_chosen_by_name():
    assert load_recogniser(Path("resnet29")).digest == load_recogniser().digest == shipped().digest
    chosen = load_recogniser(Path("mobilefacenet"))
    assert (chosen.name, chosen.dimension, chosen.digest) == ("mobilefacenet", 192, chosen.profile.digest)
    assert recogniser_files(shipped()) == {}


def test_a_model_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "mine.onnx")

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(UsageError, match=r"cannot read mine\.onnx: Permission denied"):
        load_recogniser(tmp_path / "mine.onnx")
