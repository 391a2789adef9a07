"""The torch network against the NumPy one, whose numbers are those of TensorFlow Lite (`test_networks`)."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from client.faces.models import load_recogniser, recogniser_files
from federation.errors import UsageError
from federation.recognition.mobilefacenet import FIRST_TUNED, LAST_TUNED, TUNABLE
from federation.recognition.tunable import BATCH, TunableMobileFaceNet, equal_batches, exact
from tests.faces import shipped

SCALES = np.random.default_rng(2).normal(size=TUNABLE) * 0.02


def some_chips(count=3):
    """A pattern, a ramp and noise: they show nobody."""
    chips = np.random.default_rng(0).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)
    y, x = np.mgrid[:112, :112]
    chips[0] = ((3 * x + y * y // 5) % 256)[..., None]
    chips[1] = (255 * x // 111)[..., None]
    return chips


def cosines(one, other):
    return (one.astype(np.float64) * other).sum(axis=1)


@pytest.mark.parametrize("scales", [None, np.zeros(TUNABLE), SCALES], ids=["frozen", "zero", "tuned"])
def test_both_networks_embed_alike(scales):
    chips, recogniser, network = some_chips(), shipped(), TunableMobileFaceNet(shipped())
    if scales is not None:
        recogniser, network = recogniser.tuned(scales), network.tuned(scales)
    assert cosines(recogniser.embed(chips), network.directions(chips)).min() > 0.99999


def test_no_convolution_may_round_to_ten_bits_on_a_gpu(monkeypatch):
    """TF32 is cuDNN's default there. A CPU has none, so the permission is looked at, wherever a convolution asks it."""
    seen, network = [], TunableMobileFaceNet(shipped())
    forward = torch.nn.Conv2d.forward

    def watched(layer, x):
        flags = torch.backends.cudnn
        seen.append((flags.allow_tf32, flags.deterministic, flags.benchmark))
        return forward(layer, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    before = torch.backends.cudnn.allow_tf32
    network.directions(some_chips())
    network.tuned(SCALES).directions(some_chips())
    layers = sum(
        isinstance(module, torch.nn.Conv2d) for part in (network._head, network._tail) for module in part.modules()
    )
    assert seen == [(False, True, False)] * 2 * layers
    assert torch.backends.cudnn.allow_tf32 == before


def test_scales_change_an_embedding_and_leave_the_frozen_networks_alone():
    chips, network = some_chips(), TunableMobileFaceNet(shipped())
    before, theirs = shipped().embed(chips), network.directions(chips)
    assert cosines(shipped().tuned(SCALES).embed(chips), before).max() < 0.9999
    assert cosines(network.tuned(SCALES).directions(chips), before).max() < 0.9999
    assert np.array_equal(shipped().embed(chips), before)
    assert np.array_equal(network.directions(chips), theirs)


def test_every_number_is_another_one_of_the_tuned_blocks():
    """In turn the slopes of `widen`, the factors of `look` and its slopes, block by block, and nothing else."""
    frozen, tuned = shipped().network, shipped().network.tuned(np.arange(1.0, TUNABLE + 1))
    seen = []
    for before, after in zip(frozen.blocks[FIRST_TUNED:][:7], tuned.blocks[FIRST_TUNED:][:7], strict=True):
        seen += [after.widen.slope - before.widen.slope]
        seen += [(after.look.weights / before.look.weights)[1, 1] - 1, after.look.slope - before.look.slope]
        assert np.allclose(after.look.bias / before.look.bias, after.look.weights[1, 1] / before.look.weights[1, 1])
        assert after.narrow is before.narrow
        assert after.widen.weights is before.widen.weights
    assert np.allclose(np.concatenate(seen), np.arange(1, TUNABLE + 1), rtol=1e-3)
    assert len(frozen.blocks) == len(tuned.blocks)
    untouched = [*range(FIRST_TUNED), *range(LAST_TUNED + 1, len(frozen.blocks))]
    assert all(tuned.blocks[index] is frozen.blocks[index] for index in untouched)


@pytest.mark.parametrize("scales", [np.zeros(TUNABLE + 1), np.full(TUNABLE, np.inf), np.zeros((1, TUNABLE))])
def test_scales_of_another_form_are_refused_by_both(scales):
    for network in (shipped(), TunableMobileFaceNet(shipped())):
        with pytest.raises(UsageError, match="5376 numbers"):
            network.tuned(scales)


def test_a_tuned_recogniser_is_named_by_the_frozen_one_and_by_all_scales():
    def sha(data):
        return hashlib.sha256(data).digest()

    last = SCALES.copy()
    last[-1] += 1e-12
    for scales in (SCALES, last):
        parts = (b"mobilefacenet scales 1", shipped().digest.encode(), np.array(scales, "<f8").tobytes())
        assert shipped().tuned(scales).digest == sha(b"".join(map(sha, parts))).hex()
    assert shipped().tuned(last).digest != shipped().tuned(SCALES).digest


def test_nothing_has_a_gradient_but_the_tuned_numbers_of_a_tail_that_is_to_be_trained():
    """A copy: training it leaves the network as it was. Its mode is that in which Opacus listens."""
    network = TunableMobileFaceNet(shipped(), device="cpu")
    tuned = network.tuned(SCALES)
    for one in (network, tuned):
        parameters = [*one._head.parameters(), *one._tail.parameters()]
        assert len(parameters) > 100
        assert not any(parameter.requires_grad for parameter in parameters)
    tail = tuned.tail()
    wanted = {id(parameter) for parameter in tail.parameters_tuned()}
    assert {id(parameter) for parameter in tail.parameters() if parameter.requires_grad} == wanted
    assert [parameter.numel() for parameter in tail.parameters_tuned()] == [256] * 21
    assert tail.training
    before = [parameter.clone() for parameter in tuned._tail.parameters()]
    with torch.no_grad():
        for parameter in tail.parameters():
            parameter.add_(1)
    assert all(map(torch.equal, tuned._tail.parameters(), before))
    assert tuned._head is network._head
    assert tuned.device == network.device == torch.device("cpu")


def test_scales_beyond_all_measure_give_no_direction_and_no_warning():
    loud = np.sign(SCALES) * 1e300
    assert not TunableMobileFaceNet(shipped()).tuned(loud).directions(some_chips()).any()
    with pytest.raises(UsageError, match="zero or not finite"):
        shipped().tuned(loud).embed(some_chips())


def test_chips_of_another_side_are_refused():
    with pytest.raises(UsageError, match="112, 112"):
        TunableMobileFaceNet(shipped()).directions(np.zeros((1, 150, 150, 3), np.uint8))


def test_the_network_runs_where_it_is_told_to_and_else_on_cuda_where_there_is_any():
    assert TunableMobileFaceNet(shipped(), device="cpu").device.type == "cpu"
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert TunableMobileFaceNet(shipped()).device.type == expected


def test_all_of_the_network_and_its_images_are_where_it_runs(monkeypatch):
    """A device of no numbers, which every machine has; and a GPU that only is said to be there."""
    network = TunableMobileFaceNet(shipped(), device="meta")
    tuned = [*network.tail().parameters(), *network.tuned(SCALES)._tail.parameters()]
    for tensor in (*network._head.parameters(), *network._tail.parameters(), *tuned, network.features(some_chips())):
        assert tensor.device.type == "meta"
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, where: asked.append(where.type) or module)
    assert TunableMobileFaceNet(shipped()).device.type == "cuda"
    assert TunableMobileFaceNet(shipped(), device="cpu").device.type == "cpu"
    assert asked == ["cuda", "cuda", "cpu", "cpu"]


def test_batches_are_full_and_there_are_as_many_as_was_asked_for():
    chips = some_chips(BATCH + 1)
    for at_least, real in ((0, [BATCH, 1]), (3 * BATCH, [BATCH, 1, 0])):
        counts, batches = zip(*equal_batches(chips, at_least), strict=True)
        assert list(counts) == real
        assert {len(batch) for batch in batches} == {BATCH}
        assert np.array_equal(np.concatenate(batches)[: len(chips)], chips)
        assert not np.concatenate(batches)[len(chips) :].any()


def test_a_release_is_applied_without_torch():
    """A person's device has none."""
    code = (
        "import sys, numpy as np\n"
        "sys.modules['torch'] = None\n"
        "from tests.faces import shipped\n"
        f"tuned = shipped().tuned(np.full({TUNABLE}, 0.01))\n"
        "print(tuned.embed(np.zeros((1, 112, 112, 3), np.uint8)).shape)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 192)"


def test_the_files_of_a_recogniser_that_can_be_tuned_load_as_the_same_one(tmp_path):
    for name, data in recogniser_files(shipped()).items():
        (tmp_path / name).write_bytes(data)
    assert load_recogniser(tmp_path).digest == shipped().digest
    assert load_recogniser(tmp_path).tuned(SCALES).digest == shipped().tuned(SCALES).digest
    (tmp_path / "mobilefacenet.profile.json").write_bytes(b"{}")
    with pytest.raises(UsageError, match="profile"):
        load_recogniser(tmp_path)


@pytest.mark.parametrize(
    ("backend", "operation"),
    [("generic", "all"), ("cuda", "all"), ("cuda", "conv")],
    ids=["all", "cuDNN", "its-layers"],
)
def test_no_layer_rounds_whichever_of_torch_s_settings_allows_it_and_the_setting_is_there_afterwards(
    backend, operation
):
    """TF32 is allowed at three levels; what is forbidden at one alone is taken from the next above it."""
    of, setting = torch.backends, torch._C._set_fp32_precision_setter
    before = torch._C._get_fp32_precision_getter(backend, operation)

    def levels():
        return of.fp32_precision, of.cudnn.fp32_precision, of.cudnn.conv.fp32_precision

    setting(backend, operation, "tf32")
    try:
        allowed = levels()
        with exact():
            inside = of.cudnn.conv.fp32_precision
        assert (allowed[-1], inside, levels()) == ("tf32", "ieee", allowed)
    finally:
        setting(backend, operation, before)
