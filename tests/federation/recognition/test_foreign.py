"""Models that users bring: what their file says, what their profile says, and which are refused."""

import hashlib
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from client.faces.models import load_recogniser
from federation.errors import UsageError
from federation.recognition.conditions import unmeasured
from federation.recognition.foreign import OnnxNetwork, OnnxRecogniser, require_sound
from federation.recognition.profile import ColourOrder, Layout, Preprocessing
from federation.recognition.templates import ARCFACE
from tests.faces import recogniser_of


def some_chips(count):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)


def some_images():
    """Of two people, as a model is fed."""
    return some_chips(2).astype(np.float32) + 1


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
    """An ONNX model that averages the pixels, takes sines of multiples of that, and adds a fixed vector."""
    side = 8
    wanted = [side if size == "side" else size for size in shape]
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["scalar"]),
        helper.make_node("Mul", ["scalar", "slope"], ["sloped"]),
        helper.make_node("Sin", ["sloped"], ["waves"]),
        helper.make_node("Add", ["waves", "offset"], ["embedding"]),
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
    recogniser = recogniser_of(a_model(shape, 96, kind), name="mine")
    chips = some_chips(2)
    embeddings = recogniser.embed(chips)
    assert (recogniser.name, recogniser.dimension, embeddings.shape) == ("mine", 96, (2, 96))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert recogniser.embed(chips[:0]).shape == (0, 96)


@pytest.mark.parametrize("colours", ColourOrder)
@pytest.mark.parametrize(("batch", "shape"), [(1, 1), (4, 4), (0, "n")])
def test_layout_and_preprocessing_are_those_of_the_profile(colours, batch, shape):
    chips = some_chips(11)  # more than go through at once, whatever the batch
    ordered = (chips if colours is ColourOrder.RGB else chips[..., ::-1]).astype(np.float32)
    for axes, layout in (([shape, 3, 8, 8], (0, 3, 1, 2)), ([shape, 8, 8, 3], (0, 1, 2, 3))):
        for kind, pixels in ((TensorProto.UINT8, ordered), (TensorProto.FLOAT, (ordered - 100) / 50)):
            scale = (0, 1_000) if kind == TensorProto.UINT8 else (100_000, 50_000)
            recogniser = recogniser_of(flattening(axes, kind), colours=colours, scale=scale)
            expected = pixels.transpose(layout).reshape(11, -1)
            expected /= np.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(recogniser.embed(chips), expected, atol=1e-6)
            assert recogniser.profile.preprocessing.batch == batch


CUDA, CPU = ("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["CPUExecutionProvider"], [CPU]),
        (["TensorrtExecutionProvider", "CPUExecutionProvider", "CUDAExecutionProvider"], [CUDA, CPU]),
    ],
    ids=["a CPU", "a GPU"],
)
@pytest.mark.parametrize("one_thread", [False, True])
def test_a_model_runs_on_cuda_before_the_cpu_and_nowhere_rounds_to_ten_bits(monkeypatch, there, taken, one_thread):
    """TF32 is that provider's default. A CPU shows none of it, so what the runtime is asked for is looked at."""
    asked, begun = [], onnxruntime.InferenceSession

    def watched(model, options, providers):
        asked.append((model, options.intra_op_num_threads, providers))
        return begun(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    model = a_model([1, 3, "side", "side"], 96)
    OnnxNetwork(model, one_thread=one_thread)
    assert asked == [(model, 1 if one_thread else 0, taken)]


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
    with pytest.raises(UsageError, match="weights lie in another file; save it with them inside"):
        OnnxNetwork(model)


def test_a_model_whose_embeddings_differ_in_length_is_refused():
    nodes = [  # the places of pixels that are at least 1: their number depends on the image
        helper.make_node("Floor", ["image"], ["floor"]),
        helper.make_node("NonZero", ["floor"], ["places"]),
        helper.make_node("Cast", ["places"], ["embedding"], to=TensorProto.FLOAT),
    ]
    model = serialised(nodes, (TensorProto.FLOAT, [1, 3, 8, 8]), (TensorProto.FLOAT, None))
    images = some_chips(2).astype(np.float32) / 128
    with pytest.raises(UsageError, match="differ in length"):
        OnnxNetwork(model).forward(images)


def test_a_model_that_fails_on_an_image_is_refused():
    nodes = [helper.make_node("Reshape", ["image", "shape"], ["embedding"])]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 191])
    model = serialised(nodes, (TensorProto.FLOAT, ["n", 3, 8, 8]), (TensorProto.FLOAT, None), [shape])
    with pytest.raises(UsageError, match="failed on an image"):
        OnnxNetwork(model)


def test_a_profile_of_another_model_is_refused():
    model, other = a_model(["n", 3, "side", "side"], 96), a_model(["n", 3, "side", "side"], 96, bias=2.0)
    profile = recogniser_of(model).profile
    with pytest.raises(UsageError, match="that of another file"):
        OnnxRecogniser(other, profile)
    with pytest.raises(UsageError, match="that of another file"):
        OnnxRecogniser(model, replace(profile, network="mobilefacenet"))


@pytest.mark.parametrize(
    "changes",
    [
        {"dimension": 97, "subspace": unmeasured(97)},
        {"alignment": ARCFACE.at(9)},
        {"preprocessing": Preprocessing(ColourOrder.RGB, (0, 0, 0), 1_000, Layout.NHWC, 0)},
        {"preprocessing": Preprocessing(ColourOrder.RGB, (0, 0, 0), 1_000, Layout.NCHW, 1)},
    ],
)
def test_a_profile_that_contradicts_the_model_is_refused(changes):
    model = a_model(["n", 3, "side", "side"], 96)
    with pytest.raises(UsageError, match="contradicts the model"):
        OnnxRecogniser(model, replace(recogniser_of(model).profile, **changes))


def test_chips_of_another_side_are_refused():
    with pytest.raises(UsageError, match="aligned chips"):
        recogniser_of(a_model(["n", 3, "side", "side"], 96)).embed(np.zeros((1, 9, 9, 3), np.uint8))


# ------------------------------------------------------------------------------------ models that tell nobody apart
def added(extra):
    """A model that flattens its image, after some nodes that turn `image` into `turned`."""
    nodes = [*extra, helper.make_node("Flatten", ["turned"], ["embedding"])]
    return serialised(nodes, (TensorProto.FLOAT, ["n", 3, 8, 8]), (TensorProto.FLOAT, None))


def test_a_model_that_embeds_everybody_alike_is_refused():
    constant = helper.make_node("Mul", ["image", "image"], ["square"]), helper.make_node("Sign", ["square"], ["turned"])
    with pytest.raises(UsageError, match="same embedding for different people"):
        require_sound(OnnxNetwork(added(constant)), some_images())


def test_a_model_that_normalises_over_its_batch_is_refused():
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("Add", ["centred", "centred"], ["doubled"]),
        helper.make_node("Add", ["doubled", "image"], ["turned"]),
    ]
    with pytest.raises(UsageError, match="depend on the other images of a batch"):
        require_sound(OnnxNetwork(added(nodes)), some_images())


def test_a_model_that_answers_differently_each_time_is_refused():
    nodes = [
        helper.make_node("RandomNormalLike", ["image"], ["noise"], scale=50.0),
        helper.make_node("Add", ["image", "noise"], ["turned"]),
    ]
    with pytest.raises(UsageError, match="another embedding for the same image each time"):
        require_sound(OnnxNetwork(added(nodes)), some_images())


def test_a_sound_model_passes():
    require_sound(OnnxNetwork(added([helper.make_node("Abs", ["image"], ["turned"])])), some_images())


def test_a_vector_without_a_direction_is_never_passed_on():
    with pytest.raises(UsageError, match="zero or not finite"):
        recogniser_of(a_model(["n", 3, "side", "side"], 96, bias=0.0)).embed(some_chips(1))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"", "an empty file"),
        (b"no model", "cannot load"),
        (a_model(["n", 3, "height", "width"], 96), "pass a model with one"),
        (a_model(["n", 1, "side", "side"], 96), "pass a model with one"),
        (flattening([65, 3, 8, 8]), "pass a model with one"),
        (flattening([1, 3, 8, 9]), "pass a model with one"),
        (flattening([1, 3, 0, 8]), "pass a model with one"),
        (flattening([1, 3, 10**9, 10**9]), "pass a model with one"),
        (flattening([1, 3, 8, 8], TensorProto.DOUBLE), "pass a model with one"),
        (flattening([1, 3, 8, 8], output=TensorProto.INT64), "output of floats"),
        (a_model(["n", 3, "side", "side"], 32), "64 to 1024"),
        (a_model(["n", 3, "side", "side"], 2000), "64 to 1024"),
    ],
)
def test_a_model_that_is_no_recogniser_is_refused(model, message):
    with pytest.raises(UsageError, match=message):
        OnnxNetwork(model)


@pytest.mark.parametrize(
    ("shape", "kind", "said"),
    [
        (["n", 3, 9, 9], TensorProto.FLOAT, (Layout.NCHW, 9, 0, False, 3 * 81)),
        (["n", 10, 10, 3], TensorProto.UINT8, (Layout.NHWC, 10, 0, True, 300)),
        ([1, 8, 8, 3], TensorProto.FLOAT, (Layout.NHWC, 8, 1, False, 192)),
        ([64, 3, 8, 8], TensorProto.UINT8, (Layout.NCHW, 8, 64, True, 192)),
    ],
    ids=str,
)
def test_what_a_model_says_of_itself_is_read_from_it(shape, kind, said):
    model = flattening(shape, kind)
    network = OnnxNetwork(model)
    assert (network.layout, network.side, network.batch, network.raw, network.dimension) == said
    assert network.digest == hashlib.sha256(model).hexdigest()


@pytest.mark.parametrize("output", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_an_embedding_of_any_kind_of_fraction_becomes_one_of_ours(output):
    made = recogniser_of(flattening(["n", 8, 8, 3], output=output)).embed(some_chips(3))
    assert made.dtype == np.float32
    expected = (some_chips(3).astype(float).reshape(3, -1) - 127.5) / 127.5
    np.testing.assert_allclose(made, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-3)


@pytest.mark.parametrize(("numbers", "taken"), [(63, False), (64, True), (1024, True), (1025, False)])
def test_embeddings_are_as_long_as_the_match_was_analysed_for(numbers, taken):
    model = a_model(["n", 3, "side", "side"], numbers)
    if taken:
        assert OnnxNetwork(model).dimension == numbers
    else:
        with pytest.raises(UsageError, match=f"the model's embedding has {numbers} numbers; 64 to 1024"):
            OnnxNetwork(model)


def test_a_model_has_one_image_and_one_embedding():
    """A second of either may be what matters, or what it wants to be told."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    second = helper.make_tensor_value_info("second", TensorProto.FLOAT, [1, 3, 8, 8])
    embedding, other = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("embedding", "other"))
    nodes = [helper.make_node("Flatten", ["image"], ["embedding"]), helper.make_node("Neg", ["embedding"], ["other"])]
    for inputs, outputs in (([image, second], [embedding]), ([image], [embedding, other])):
        graph = helper.make_graph(nodes, "model", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        said = f"the model has {len(inputs)} inputs and {len(outputs)} outputs"
        with pytest.raises(UsageError, match=said):
            OnnxNetwork(model.SerializeToString())


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match="pip install"):
        OnnxNetwork(a_model(["n", 3, "side", "side"], 96))


def test_a_model_is_loaded_with_the_profile_beside_it(tmp_path):
    model = a_model(["n", 3, "side", "side"], 96)
    path, profile = tmp_path / "mine.onnx", tmp_path / "mine.profile.json"
    path.write_bytes(model)
    with pytest.raises(UsageError, match=r"has no profile.*intaglio models profile .*mine\.onnx --faces DIR"):
        load_recogniser(path)
    profile.write_bytes(recogniser_of(model, name="mine").profile.to_bytes())
    loaded = load_recogniser(path)
    assert (loaded.name, loaded.digest) == ("mine", recogniser_of(model, name="mine").profile.digest)
    profile.write_bytes(b"{}")
    with pytest.raises(UsageError, match="no recogniser profile of this version"):
        load_recogniser(path)


def test_a_model_that_scales_pixels_itself_is_refused_under_a_profile_that_scales_them_too():
    """Every score would be 1.0000, of the owner and of everybody else."""
    scaled = [
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["embedding"]),
    ]
    constants = [
        helper.make_tensor("mean", TensorProto.FLOAT, [1], [127.5]),
        helper.make_tensor("scale", TensorProto.FLOAT, [1], [1 / 127.5]),
    ]
    model = serialised(scaled, (TensorProto.FLOAT, ["n", 3, 8, 8]), (TensorProto.FLOAT, None), constants)
    with pytest.raises(UsageError, match="the same embedding for any picture: it may scale its input itself"):
        recogniser_of(model)
    assert recogniser_of(model, scale=(0, 1_000)).dimension == 192


def test_the_digest_covers_model_and_preprocessing():
    model = a_model(["n", 3, "side", "side"], 96)
    digests = {
        recogniser_of(model).digest,
        recogniser_of(model, scale=(0, 1_000)).digest,
        recogniser_of(model, colours=ColourOrder.BGR).digest,
        recogniser_of(a_model(["n", 3, "side", "side"], 128)).digest,
    }
    assert len(digests) == 4
