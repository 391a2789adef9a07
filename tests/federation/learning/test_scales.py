import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from client.faces.models import recogniser_for
from federation.errors import MalformedMessageError, UsageError
from federation.learning.scales import ChipSet, Descent, person_gradients, scales_sum
from federation.privacy.plan import SCALES, THRESHOLD, Adaptation, PrivacyPlan
from federation.rates import Basis
from federation.recognition.mobilefacenet import SIDE, TUNABLE
from federation.recognition.model import Adapter, ModelRelease
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.tunable import TunableMobileFaceNet
from tests.faces import shipped

NAMES = ["secret person a", "secret person b", "secret person c"]
NOWHERE = np.zeros(TUNABLE)


def plan_for(people=2000, **changes):
    values = {
        "epsilon": 8.0,
        "steps": 4,
        "organisations": 4,
        "dimension": 192,
        "directions": 58,
        "tuned": TUNABLE,
    } | changes
    return PrivacyPlan.for_epsilon(values.pop("epsilon"), delta=1e-5, people=people, **values)


def some_chips(images=(2, 1, 3), seed=0):
    """Chips that show nobody, of three people; the probe camera darkens."""
    people = [name for name, count in zip(NAMES, images, strict=True) for _ in range(count)]
    chips = np.random.default_rng(seed).integers(0, 256, (len(people), SIDE, SIDE, 3), dtype=np.uint8)
    return ChipSet(chips, chips // 3, np.array(people), np.array([f"{index:064x}" for index in range(len(people))]))


def plain_gradient(chips, scales):
    """The gradient of the people's mean losses, added up, by autograd alone."""
    network, total = TunableMobileFaceNet(shipped(), device="cpu"), torch.zeros(())
    tail = network.tuned(scales).tail()
    for name in sorted(set(chips.people.tolist())):
        mine = chips.of_people([name])
        targets = torch.from_numpy(shipped().embed(mine.reference))
        total = total + (1 - functional.cosine_similarity(tail(network.features(mine.probe)), targets)).mean()
    return torch.cat(torch.autograd.grad(total, tail.parameters_tuned())).numpy().astype(np.float64)


@pytest.mark.parametrize("scales", [NOWHERE, np.full(TUNABLE, 0.01)])
def test_without_clipping_and_noise_a_step_is_the_plaintext_one(scales):
    plan, chips = plan_for(gradient_clip=1000.0), some_chips()
    expected = plain_gradient(chips, scales)
    made = scales_sum(shipped(), chips, scales, plan) * plan.gradient_clip
    assert np.linalg.norm(made - expected) < 1e-4 * np.linalg.norm(expected)


def loss_of_numpy(chips, scales):
    """A person's mean loss by the network that needs no torch, whose tuned numbers are folded into its weights."""
    made, targets = shipped().tuned(scales).embed(chips.probe), shipped().embed(chips.reference)
    return 1 - float((made.astype(np.float64) * targets).sum(axis=1).mean())


@pytest.mark.parametrize("kind", ["slopes before", "factors", "slopes behind"])
def test_a_person_s_gradient_is_the_slope_of_their_loss(kind):
    """Along itself, so one wrong part of it would show. The other network is the judge."""
    chips, here = some_chips((1, 0, 2)), np.random.default_rng(4).normal(size=TUNABLE) * 0.01
    index = ["slopes before", "factors", "slopes behind"].index(kind)
    only = np.zeros((7, 3, 256))
    only[:, index] = 1
    for name, gradient in zip(
        [NAMES[0], NAMES[2]], person_gradients(shipped(), chips, here) * only.ravel(), strict=True
    ):
        length = np.linalg.norm(gradient)
        step = 0.001 * gradient / length
        ahead, behind = (loss_of_numpy(chips.of_people([name]), here + side * step) for side in (1, -1))
        assert (ahead - behind) / 0.002 == pytest.approx(length, rel=0.03)
        assert length > 0.01


def test_a_gradient_that_is_not_finite_counts_as_nobody():
    """Scales may be chosen so; and one person's alone takes nothing from the others."""
    chips, loud = some_chips((1, 1, 0)), np.sign(np.random.default_rng(0).normal(size=TUNABLE)) * 1e30
    assert not np.isfinite(person_gradients(shipped(), chips, loud)).all(axis=1).any()
    assert not scales_sum(shipped(), chips, loud, plan_for()).any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_one_gradient_that_is_not_finite_leaves_the_others_theirs(monkeypatch, wrong):
    gradients = np.random.default_rng(1).normal(size=(3, TUNABLE))
    gradients[1, 7] = wrong
    monkeypatch.setattr("federation.learning.scales.person_gradients", lambda *_, **__: gradients)
    with_them = scales_sum(shipped(), some_chips(), NOWHERE, plan_for())
    gradients = gradients[::2]
    assert np.array_equal(with_them, scales_sum(shipped(), some_chips(), NOWHERE, plan_for()))
    assert np.linalg.norm(with_them) == pytest.approx(np.sqrt(2), rel=0.1)


def test_federated_sums_equal_the_central_sum_without_noise():
    plan, chips = plan_for(), some_chips()
    parts = [scales_sum(shipped(), chips.of_people([name]), NOWHERE, plan) for name in NAMES]
    assert np.abs(np.sum(parts, axis=0) - scales_sum(shipped(), chips, NOWHERE, plan)).max() < 1e-5


def test_a_person_is_clipped_as_one_however_many_images_they_have():
    plan = plan_for(gradient_clip=1e-4)
    for images in ((1, 0, 0), (40, 0, 0)):  # 40: more than go through the network at once
        assert np.linalg.norm(scales_sum(shipped(), some_chips(images), NOWHERE, plan)) == pytest.approx(1, abs=1e-5)


def test_one_person_changes_the_sum_by_at_most_one():
    chips = some_chips()
    for clip in (1e-4, 0.05):
        plan = plan_for(gradient_clip=clip)
        everybody = scales_sum(shipped(), chips, NOWHERE, plan)
        for gone in NAMES:
            others = chips.of_people([name for name in NAMES if name != gone])
            assert np.linalg.norm(everybody - scales_sum(shipped(), others, NOWHERE, plan)) <= 1 + 1e-6


@pytest.mark.parametrize("others", [(1, 0), (31, 0), (0, 32)])  # 2, 32 and 33 images: 32 go through the network at once
def test_who_else_is_there_changes_not_even_the_last_bit_of_a_person_s_gradient(others):
    """Scales can be chosen that make a whole gradient of a rounding: one person more then moved another one's."""
    chips = some_chips((others[0], others[1], 1))
    alone = chips.of_people([NAMES[2]])
    gradients = [person_gradients(shipped(), of, NOWHERE)[-1] for of in (chips, alone)]
    assert np.array_equal(*gradients)
    embedded = [of.embed(shipped(), NOWHERE).of_people([NAMES[2]]).embeddings for of in (chips, alone)]
    assert np.array_equal(*embedded)


def watched_moves(monkeypatch):
    """Shapes of tensors that are brought to a device, with it, and of those that are brought back; in order.

    Without a GPU nothing moves, so it is looked at who is told to: images, and what they are compared with.
    """
    there, back, to, cpu = [], [], torch.Tensor.to, torch.Tensor.cpu

    def moved(tensor, *where, **named):
        if len(where) == 1 and isinstance(where[0], torch.device):
            there.append((tuple(tensor.shape), where[0]))
        return to(tensor, *where, **named)

    monkeypatch.setattr(torch.Tensor, "to", moved)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: back.append(tuple(tensor.shape)) or cpu(tensor))
    return there, back


def test_no_convolution_of_a_gradient_may_round_to_ten_bits_on_a_gpu(monkeypatch):
    """Nor add in any order. Neither forward nor backward, where Opacus runs the network in our place."""
    forward, forwards, backwards = torch.nn.Conv2d.forward, [], []

    def flags():
        return torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark

    def watched(layer, x):
        forwards.append(flags())
        made = forward(layer, x)
        if made.requires_grad:
            made.register_hook(lambda _: backwards.append(flags()))
        return made

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    before, network = flags(), TunableMobileFaceNet(shipped())
    there, back = watched_moves(monkeypatch)
    person_gradients(shipped(), some_chips((1, 0, 1)), NOWHERE)
    batch = (32, 3, SIDE, SIDE)
    assert there == [(batch, network.device), ((2, 192), network.device), (batch, network.device)]
    assert back == [(32, 192), (2, TUNABLE)]
    tail, head = (
        sum(isinstance(layer, torch.nn.Conv2d) for layer in part.modules()) for part in (network._tail, network._head)
    )
    assert forwards == [(False, True, False)] * 2 * (head + tail)  # references, and probes
    assert backwards == [(False, True, False)] * tail
    assert flags() == before


def test_images_of_one_person_never_move_the_gradient_of_another():
    chips = some_chips()
    before = person_gradients(shipped(), chips, NOWHERE)
    changed = chips.probe.copy()
    changed[chips.people == NAMES[0]] = 7
    after = person_gradients(shipped(), dataclasses.replace(chips, probe=changed), NOWHERE)
    assert not np.allclose(before[0], after[0])
    assert np.abs(before[1:] - after[1:]).max() < 1e-6


def test_steps_bring_the_probes_to_the_references():
    plan, chips, descent = plan_for(), some_chips(), Descent.start()
    masked = chips.reference.copy()
    masked[:, SIDE // 2 :] = 90
    chips = dataclasses.replace(chips, probe=masked)

    def likeness(scales):
        embeddings = chips.embed(shipped(), scales)
        reference = embeddings.embeddings[embeddings.profiles == REFERENCE]
        return float((reference * embeddings.embeddings[embeddings.profiles == PROBE]).sum(axis=1).mean())

    before = likeness(None)
    for _ in range(3):
        descent = descent.step(scales_sum(shipped(), chips, descent.scales, plan), len(NAMES), 0.0)
    assert likeness(NOWHERE) == pytest.approx(before)
    assert 1 - likeness(descent.scales) < 0.8 * (1 - before)


def test_a_sum_of_nothing_but_noise_hardly_moves_anything():
    noise = np.random.default_rng(0).normal(size=TUNABLE) * 2.0
    clear = Descent.start().step(noise, 24, 0.02)
    drowned = Descent.start().step(noise, 24, 2.0)
    assert np.linalg.norm(drowned.scales) < 0.1 * np.linalg.norm(clear.scales)
    assert not Descent.start().step(NOWHERE, 24, 0.0).scales.any()


def test_steps_are_averaged_with_momentum_and_shortened_by_the_noise_that_the_average_carries():
    """Worked out with sums over the steps: weights 0.8^age, the noise's variance their squares, 5376 numbers."""
    totals, people, noise = np.random.default_rng(3).normal(size=(3, TUNABLE)) * 3, 40, 2.0
    descent, moved = Descent.start(), np.zeros(TUNABLE)
    for step in range(3):
        weights = [0.8 ** (step - age) for age in range(step + 1)]
        average = sum(w * total for w, total in zip(weights, totals, strict=False)) / people
        carried = TUNABLE * sum(w * w for w in weights) * (noise / people) ** 2
        length = math.sqrt(sum(average**2))
        moved = moved - 0.5 * (1 - carried / length**2) * average / length
        descent = descent.step(totals[step], people, noise)
        assert carried < length**2
        np.testing.assert_allclose(descent.scales, moved, atol=1e-12)


@pytest.mark.parametrize(
    "total", [np.zeros(TUNABLE - 1), *(np.full(TUNABLE, wrong) for wrong in (np.nan, np.inf, -np.inf))]
)
def test_a_total_of_another_form_is_refused(total):
    with pytest.raises(MalformedMessageError, match="finite numbers"):
        Descent.start().step(total, 24, 1.0)


def test_a_tuned_recogniser_is_another_one_and_leaves_the_frozen_one_alone():
    chips = some_chips().reference
    before = shipped().embed(chips)
    tuned = shipped().tuned(np.full(TUNABLE, 0.05))
    assert np.array_equal(shipped().tuned(NOWHERE).embed(chips), before)
    assert np.abs(tuned.embed(chips) - before).max() > 1e-3
    assert np.array_equal(shipped().embed(chips), before)
    assert len({shipped().digest, tuned.digest, shipped().tuned(NOWHERE).digest}) == 3


def test_a_release_is_applied_with_the_network_that_it_tunes():
    scales = np.full(TUNABLE, 0.01)
    identity = Adapter.identity(192).centres
    statement = plan_for().statement()
    release = ModelRelease(
        model_name="mobilefacenet",
        model_digest=shipped().digest,
        adapter=Adapter(identity, None, {PROBE: scales}),
        adaptation="scales",
        reason="a test",
        condition="mask",
        threshold=700,
        fmr=0.01,
        fmr_low=0.005,
        fmr_high=0.02,
        fmr_people=24,
        basis=Basis.CHECKED,
        privacy=statement,
        created="2025-01-02T03:04:05+00:00",
    )
    assert recogniser_for(release, shipped(), REFERENCE) is shipped()
    assert recogniser_for(release, shipped(), PROBE).digest == shipped().tuned(scales).digest
    other = dataclasses.replace(release, model_digest="0" * 64)
    with pytest.raises(UsageError, match="another recogniser"):
        recogniser_for(other, shipped(), PROBE)


@pytest.mark.parametrize("scales", [np.zeros(TUNABLE + 1), np.full(TUNABLE, np.inf)])
def test_scales_of_another_form_are_refused(scales):
    with pytest.raises(UsageError, match="numbers in the layers that may be tuned"):
        shipped().tuned(scales)


def test_a_vector_of_scales_covers_every_tunable_layer_once():
    network = TunableMobileFaceNet(shipped())
    before = torch.cat(network.tail().parameters_tuned()).detach()
    tail = network.tuned(np.arange(TUNABLE, dtype=np.float64)).tail()
    changes = torch.cat(tail.parameters_tuned()).detach() - before
    assert torch.allclose(changes, torch.arange(TUNABLE, dtype=torch.float32), atol=1e-3)
    assert sum(parameter.requires_grad for parameter in tail.parameters()) == len(tail.parameters_tuned()) == 3 * 7


def test_too_much_noise_asks_nobody_for_a_gradient():
    few = plan_for(people=24)
    assert (few.adaptation, few.events) == (Adaptation.NONE, ())
    plan = plan_for(people=400)
    assert plan.adaptation is Adaptation.NONE
    assert plan.events == ((THRESHOLD, plan.noise_multiplier),)
    assert "clips" in plan.planned_noise
    assert plan_for(people=2000).adaptation is Adaptation.SCALES


def test_every_step_is_charged_and_all_together_keep_the_promise():
    plan = plan_for(steps=5)
    assert [name for name, _ in plan.events] == [*(f"{SCALES}-{step}" for step in range(1, 6)), THRESHOLD]
    assert sum(1 / noise**2 for noise in plan.noise_multipliers) == pytest.approx(1 / plan.noise_multiplier**2)
    assert plan.release_size(f"{SCALES}-5") == TUNABLE
    assert PrivacyPlan.from_config(plan.to_config()) == plan


@pytest.mark.parametrize("change", [{"steps": 0}, {"tuned": 0}, {"steps": 65}, {"gradient_clip": 0.0}])
def test_a_plan_whose_steps_make_no_sense_cannot_be_built(change):
    with pytest.raises(
        UsageError, match=r"takes 1 to 64 steps|gradient_clip must be a positive float|steps must be from 0 to 64"
    ):
        plan_for(**change)


def told_apart():
    """Three people's chips, whose rows are all different in each column."""
    people = np.array(["b", "a", "b", "c", "b", "a"])
    chips = np.zeros((6, SIDE, SIDE, 3), np.uint8)
    chips[:, 0, 0, 0] = range(6)
    return ChipSet(chips, chips + 100, people, np.array([f"image {row}" for row in range(6)]))


def columns(chips):
    return (
        chips.reference[:, 0, 0, 0].tolist(),
        chips.probe[:, 0, 0, 0].tolist(),
        chips.people.tolist(),
        chips.images.tolist(),
    )


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda chips: ChipSet.from_bytes(chips.to_bytes()), [0, 1, 2, 3, 4, 5]),
        (lambda chips: chips.of_people(["b", "c"]), [0, 2, 3, 4]),
        (lambda chips: chips.first_of_each(2), [0, 1, 2, 3, 5]),
        (lambda chips: chips.first_of_each(1), [0, 1, 3]),
    ],
    ids=["bytes", "some people", "two of each", "one of each"],
)
def test_each_row_of_chips_keeps_all_that_belongs_to_it(change, rows):
    assert columns(change(told_apart())) == (
        rows,
        [100 + row for row in rows],
        ["babcba"[row] for row in rows],
        [f"image {row}" for row in rows],
    )


def test_chips_never_show():
    assert "secret" not in repr(some_chips())


# ------------------------------------------------------------------------------------------------ what is handed on
class NetworkThatIsAsked:
    """In the place of the network: what was asked of which, of how many chips, and where it runs."""

    def __init__(self, asked, name, recogniser, device):
        self.asked, self.name = asked, name
        asked.append((name, recogniser, device))

    def tuned(self, scales):
        return NetworkThatIsAsked(self.asked, "tuned", scales.tolist(), None)

    def directions(self, chips, at_least=0):
        self.asked.append((self.name, chips[:, 0, 0, 0].tolist(), at_least))
        made = np.zeros((len(chips), 192), np.float32)
        made[np.arange(len(chips)), chips[:, 0, 0, 0]] = 1
        made[chips[:, 0, 0, 0] == 104] = 0  # no direction
        return made


@pytest.fixture
def asked(monkeypatch):
    found = []
    monkeypatch.setattr(
        "federation.learning.scales.TunableMobileFaceNet",
        lambda recogniser, *, device=None: NetworkThatIsAsked(found, "frozen", recogniser, device),
    )
    return found


@pytest.mark.parametrize("scales", [None, np.arange(3.0)], ids=["frozen", "tuned"])
def test_references_are_embedded_as_they_were_and_probes_as_tuned_and_both_take_as_long_as_was_said(asked, scales):
    made = told_apart().embed("recogniser", scales, 77, device="somewhere")
    of_probes = "frozen" if scales is None else "tuned"
    assert asked == [
        ("frozen", "recogniser", "somewhere"),
        *([] if scales is None else [("tuned", [0.0, 1.0, 2.0], None)]),
        ("frozen", [0, 1, 2, 3, 4, 5], 77),
        (of_probes, [100, 101, 102, 103, 104, 105], 77),
    ]
    assert made.embeddings.argmax(axis=1).tolist() == [0, 1, 2, 3, 4, 5, 100, 101, 102, 103, 105]
    assert "".join(made.people) == "babcba" + "babca"
    assert made.profiles.tolist() == [REFERENCE] * 6 + [PROBE] * 5
    assert made.images.tolist() == [f"image {row}" for row in (*range(6), *range(4), 5)]


def test_gradients_of_few_chips_take_as_long_as_was_said_on_both_sides_and_where_it_was_said(monkeypatch):
    sides, devices = [], []
    network = TunableMobileFaceNet(shipped(), device="cpu")
    monkeypatch.setattr(
        "federation.learning.scales.TunableMobileFaceNet",
        lambda recogniser, *, device=None: devices.append((recogniser, device)) or network,
    )

    def batches(side, at_least):
        sides.append((side[:, 0, 0, 0].tolist(), at_least))
        return iter(())

    monkeypatch.setattr("federation.learning.scales.equal_batches", batches)
    assert person_gradients(shipped(), told_apart(), NOWHERE, 77, device="somewhere").shape == (3, TUNABLE)
    assert sides == [([0, 1, 2, 3, 4, 5], 77), ([100, 101, 102, 103, 104, 105], 77)]
    assert devices == [(shipped(), "somewhere")]


def test_a_step_hands_on_all_that_it_is_given_and_clips_in_units_of_the_clip(monkeypatch):
    given = []

    def gradients(*arguments, **named):
        given.append((arguments, named))
        rows = np.zeros((2, TUNABLE))
        rows[0, 0], rows[1, 1] = 0.05, 0.4
        return rows

    monkeypatch.setattr("federation.learning.scales.person_gradients", gradients)
    chips, plan = told_apart(), plan_for(gradient_clip=0.2)
    total = scales_sum("recogniser", chips, NOWHERE, plan, 77, device="somewhere")
    assert given == [(("recogniser", chips, NOWHERE, 77), {"device": "somewhere"})]
    assert total[:2] == pytest.approx([0.25, 1.0], abs=1e-5)
    assert not total[2:].any()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x93NUMPY"])
def test_what_is_no_archive_of_chips_is_refused(data):
    with pytest.raises(UsageError, match="align the images again"):
        ChipSet.from_bytes(data)


def test_chips_without_their_other_half_are_refused():
    chips = some_chips()
    for column in ("reference", "probe", "people", "images"):
        with pytest.raises(UsageError, match="every row"):
            dataclasses.replace(chips, **{column: getattr(chips, column)[1:]})
    with pytest.raises(UsageError, match="aligned chips"):
        dataclasses.replace(chips, probe=chips.probe[:, :10])


def test_nobody_adds_zero_to_a_step():
    assert np.array_equal(scales_sum(shipped(), some_chips().of_people([]), NOWHERE, plan_for()), np.zeros(TUNABLE))
