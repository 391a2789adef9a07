"""What a coordinator that lies sees of people, besides noisy totals: nothing that differs when one of them does.

Every question of a run is asked with extreme numbers about pairs of data sets that differ in one person. What comes
back must be equal but for fresh randomness: an answer or not, its code, its length, what was charged.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

import client.node.app
from client.node.app import _rest_of_class
from client.node.ledger import OWN, PEOPLE
from federation.experiments.canary_chips import telling_scales
from federation.learning.evaluation_plan import EVALUATION, EvaluationPlan, Group
from federation.learning.moments import PublicCentre
from federation.learning.pairs import pair_sum
from federation.learning.rounds import (
    ADVERTISE,
    EVALUATE_RELEASE,
    EVALUATE_THRESHOLD,
    OPEN_SHARES,
    SHOW_RANGE,
    SIGN_SURVIVORS,
    TRAIN_MOMENTS,
    TRAIN_SCALES,
    Refusal,
    advertise_request,
    evaluation_request,
    moments_request,
    range_request,
    scales_request,
    sessions,
)
from federation.learning.scales import ChipSet
from federation.privacy.bounds import BOUNDS
from federation.privacy.ledger import LedgerChain
from federation.privacy.plan import MOMENTS, SCALES, THRESHOLD, PrivacyPlan
from federation.promise import PrivacyStatement
from federation.rates import Basis
from federation.recognition.mobilefacenet import SIDE, TUNABLE
from federation.recognition.model import Adapter, ModelRelease
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.tunable import TunableMobileFaceNet
from federation.secagg.ring import noise_std
from federation.secagg.session import roster_from_text
from tests.faces import shipped
from tests.federated import NAMES, OF_ORGANISATION, ORGANISATIONS, the_plan, write_federation
from tests.integration.lying import LyingCoordinator, Seen
from tests.people import DIMENSION, start_vector, synthetic_people
from tests.public_people import public_centre, synthetic_profile

LARGEST = np.finfo(np.float64).max
DIRECTIONS = synthetic_profile().directions
TINY = 5e-324
EVERYBODY = synthetic_people(NAMES)
VICTIM = OF_ORGANISATION[0][2]
TARGET = EVERYBODY.select((EVERYBODY.people == VICTIM) & (EVERYBODY.profiles == REFERENCE)).embeddings[0].astype(float)
TARGET /= np.linalg.norm(TARGET)


# ---------------------------------------------------------------------------------------------- people who differ
def archive(path, embeddings, people, profiles, images):
    """An embedding archive whose rows may be anything, as other means than ours could leave it."""
    np.savez(path.with_suffix(""), embeddings=embeddings, people=people, profiles=profiles, images=images)


def mine(keep=lambda _person: True):
    names = [name for name in OF_ORGANISATION[0] if keep(name)]
    rows = EVERYBODY.of_people(names)
    return [rows.embeddings.copy(), rows.people.copy(), rows.profiles.copy(), rows.images.copy()]


def with_rows(value):
    """The victim's embeddings are all one value."""
    rows = mine()
    rows[0][rows[1] == VICTIM] = value
    return rows


def without_profile(profile):
    rows = mine()
    kept = (rows[1] != VICTIM) | (rows[2] != profile)
    return [column[kept] for column in rows]


NEIGHBOURS = {
    "one person less": lambda: mine(lambda name: name != VICTIM),
    "as they are": mine,
    "somebody whose embeddings are NaN": lambda: with_rows(np.nan),
    "somebody whose embeddings are infinite": lambda: with_rows(np.inf),
    "somebody whose embeddings are zero": lambda: with_rows(0.0),
    "somebody whose embeddings are huge": lambda: with_rows(3e38),
    "somebody without a probe": lambda: without_profile(PROBE),
    "somebody without a reference": lambda: without_profile(REFERENCE),
    "somebody with one image": lambda: [
        column[~np.isin(rows[3], [f"{VICTIM}-{image}" for image in (1, 2, 3)])] for rows in [mine()] for column in rows
    ],
}


@pytest.fixture
def config(tmp_path):
    config = write_federation(tmp_path)
    for index, names in enumerate(OF_ORGANISATION):
        groups = dict.fromkeys(names, "common")
        (tmp_path / f"{index}.groups.json").write_text(json.dumps(groups))
    return config


@pytest.fixture(autouse=True)
def sums(monkeypatch):
    """The exact sums that were put under noise; and it was never noise alone, for want of one."""
    exact, logged = [], []
    original = client.node.app.noisy_input

    def remembered(session, values, people, noise_multiplier, **named):
        exact.append(values)
        return original(session, values, people, noise_multiplier, **named)

    monkeypatch.setattr(client.node.app, "noisy_input", remembered)
    monkeypatch.setattr(client.node.app._log, "exception", lambda text, *_: logged.append(text))
    monkeypatch.setattr("client.faces.models.load_recogniser", lambda _folder: shipped())
    yield exact
    assert not [text for text in logged if "noise alone" in text]


def seen_of_question(config, plan, kind, release, questions, *, prepare=lambda _folder: None):
    """What the coordinator sees of organisation 0 for each of many questions."""
    folder = Path(config["organisations"])
    prepare(folder)
    coordinator = LyingCoordinator(config, plan)
    first = [Seen.of(reply) for reply in coordinator.advertise().values()]
    first += [Seen.of(reply) for reply in coordinator.share().values()]
    coordinator.keep()
    seen = {"before": first}
    for name, request in questions.items():
        coordinator.back()
        reply = coordinator.question(0, kind, request, release)
        seen[name] = Seen.of(reply), own_charges(folder)
    return seen


def own_charges(folder):
    path = folder / "0.ledgers" / OWN
    return path.read_bytes() if path.exists() else b""


def require_same(views):
    """All data sets look alike, question by question."""
    (_, reference), *others = views.items()
    for name, other in others:
        for question, seen in reference.items():
            assert other[question] == seen, f"{question} tells: {name}"
    return reference


def arrays(**named):
    return RecordDict({"arrays": ArrayRecord({name: Array(value) for name, value in named.items()})})


def starts():
    public, axis = public_centre(), np.eye(DIRECTIONS)[5]

    def of(start, subspace=public.subspace):
        return arrays(start=start, subspace=subspace)

    towards = np.outer(axis, TARGET / np.abs(TARGET).max())
    return {
        **{f"start {value:g}": of(np.full(DIRECTIONS, value)) for value in (0.0, TINY, 4.0, -4.0, 1e-300)},
        "start of the victim": of(public.subspace @ TARGET),
        "start far along one axis": of(-2.9 * axis),
        "towards the victim": of(0 * axis, towards),
        "largest subspace": of(0 * axis, np.ones((DIRECTIONS, DIMENSION))),
        "nearly no subspace": of(0 * axis, np.full((DIRECTIONS, DIMENSION), TINY)),
        **{f"bad start {value}": of(np.full(DIRECTIONS, value)) for value in (4.01, LARGEST, np.inf, np.nan)},
        "bad subspace": of(0 * axis, towards * 1.001),
        "bad subspace of NaN": of(0 * axis, towards * np.nan),
        "no start": RecordDict(),
        "no subspace": arrays(start=axis),
        "a start too long": of(np.zeros(DIRECTIONS + 1)),
        "a start of text": RecordDict({"arrays": ConfigRecord({"start": "x"})}),
    }


def look_alike(config, tmp_path, people, plan, kind, release, questions, sums):
    """Asks the same of all data sets; nothing but the noisy sum may differ, and that by one person's worth.

    Gives the questions that are not understood; all others are answered.
    """
    views, exact = {}, {}
    for name, prepare in people.items():
        folder = tmp_path / f"{release} {len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        sums.clear()
        views[name] = seen_of_question(copied(config, folder), plan, kind, release, questions, prepare=prepare)
        exact[name] = list(sums)
    (fewest, least), *others = exact.items()  # the victim is not in the first
    for name, more in others:
        for without, with_one in zip(least, more, strict=True):
            assert np.isfinite(with_one).all()
            assert np.linalg.norm(with_one - without) <= 1 + 1e-6, f"{name} and {fewest} are further apart than one"
    codes = {question: seen[0].code for question, seen in require_same(views).items() if question != "before"}
    assert set(codes.values()) <= {None, Refusal.BAD_REQUEST.value}
    return {question for question, code in codes.items() if code}


def copied(config, folder):
    """The same federation in another folder."""
    source = Path(config["organisations"])
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".jsonl":
            (folder / path.name).write_bytes(path.read_bytes())
    return {k: v.replace(str(source), str(folder)) if isinstance(v, str) else v for k, v in config.items()}


PEOPLE_BY_NAME = {
    name: lambda folder, rows=rows: archive(folder / "0.npz", *rows()) for name, rows in NEIGHBOURS.items()
}


@pytest.mark.parametrize("clip", [1e-3, 10.0], ids=["least clip", "most clip"])
def test_what_comes_back_for_moments_is_the_same_whoever_is_there(config, tmp_path, sums, clip):
    plan = the_plan(centre_clip=clip, people=10_000)
    refused = look_alike(config, tmp_path, PEOPLE_BY_NAME, plan, TRAIN_MOMENTS, MOMENTS, starts(), sums)
    assert refused == {name for name in starts() if name.startswith(("bad ", "no ", "a start"))}


def thresholds():
    most, subspace = float(BOUNDS["projection"][1]), public_centre().subspace

    def of(projection=subspace, centre=None, edges=(0.4, 0.6), references=1, frames=1):
        centre = np.zeros(DIRECTIONS) if centre is None else centre
        named = {REFERENCE: centre, PROBE: centre} | ({} if projection is None else {"projection": projection})
        pairs = {"edges": list(edges), "references": references, "frames": frames}
        return RecordDict({**arrays(**named), "pairs": ConfigRecord(pairs)})

    shape, towards = (DIRECTIONS, DIMENSION), subspace @ TARGET
    line = np.outer(towards, TARGET) / np.abs(np.outer(towards, TARGET)).max()
    return {
        "nothing": of(None, np.zeros(DIMENSION)),
        "the subspace": of(),
        "centre at the victim": of(centre=towards),
        "largest centre": of(centre=np.full(DIRECTIONS, most)),
        "along the victim": of(line * most),
        "along the victim, less a little": of(line * most, towards * 14.0),
        "across the victim": of(subspace - np.outer(towards, TARGET)),
        "nearly nothing": of(np.full(shape, TINY)),
        "all zero": of(np.zeros(shape)),
        "all zero and no centre": of(np.zeros(shape), np.zeros(DIRECTIONS), (0.499, 0.5)),
        "narrowest bins": of(edges=(0.001, 0.0010001)),
        "last edges": of(edges=(0.998, 0.999)),
        "as many images as may be": of(references=5, frames=3),
        "the oracle of old": of(line * LARGEST),
        "infinite": of(np.full(shape, np.inf)),
        "a centre too far": of(centre=np.full(DIRECTIONS, 1e200)),
        "no first bin": of(edges=(0.0, 0.5)),
        "edges of NaN": of(edges=(float("nan"), 0.5)),
        "edges that cross": of(edges=(0.6, 0.4)),
        "no images": of(references=0),
        "too many frames": of(frames=4),
    }


REFUSED = {"the oracle of old", "infinite", "a centre too far", "no first bin", "edges of NaN", "edges that cross"}


def test_what_comes_back_for_the_threshold_is_the_same_whoever_is_there(config, tmp_path, sums, monkeypatch):
    """The number of people is public, and a constant to the promise: that of the largest of these data sets."""
    constant = len(OF_ORGANISATION[0])
    monkeypatch.setattr(client.node.app, "pair_sum", lambda rows, asked, **_: pair_sum(rows, asked, constant))
    refused = look_alike(
        config, tmp_path, PEOPLE_BY_NAME, the_plan(), EVALUATE_THRESHOLD, THRESHOLD, thresholds(), sums
    )
    assert refused == REFUSED | {"no images", "too many frames"}


# ------------------------------------------------------------------------------------------------------- evaluation
def a_release(adapter):
    return ModelRelease(
        model_name="synthetic",
        model_digest="ab" * 32,
        adapter=adapter,
        adaptation="centre",
        reason="made up",
        condition="mask",
        threshold=700,
        code_length=2048,
        fmr=0.01,
        fmr_low=0.005,
        fmr_high=0.02,
        fmr_people=24,
        basis=Basis.CHECKED,
        privacy=PrivacyStatement.of_events("person", "add_or_remove_one", 8.0, 1e-5, (("threshold", 1.0),), 24, 4),
        created="2030-01-01T00:00:00+00:00",
    )


def evaluation_plan(release, groups=("common",), people=960):
    share = people // len(groups)
    return EvaluationPlan.for_epsilon(
        8.0,
        delta=1e-5,
        groups=tuple(Group(name, share, share) for name in groups),
        people=people,
        organisations=ORGANISATIONS,
        release=release.digest,
        threshold=release.threshold,
        code_length=release.code_length,
        bins=2,
    )


def in_groups(change):
    def prepare(folder):
        listed = dict.fromkeys(OF_ORGANISATION[0], "common")
        change(listed)
        (folder / "0.groups.json").write_text(json.dumps(listed))

    return prepare


LISTED = {
    "the victim is alone in another group": in_groups(lambda listed: listed.update({VICTIM: "rare"})),
    "the victim's group is a number": in_groups(lambda listed: listed.update({VICTIM: 3})),
    "the victim is not listed": in_groups(lambda listed: listed.pop(VICTIM)),
    "somebody unknown is listed": in_groups(lambda listed: listed.update({"nobody": "common"})),
}


@pytest.mark.parametrize(
    "adapter",
    [
        Adapter({REFERENCE: start_vector(), PROBE: start_vector()}, None),
        Adapter({REFERENCE: TARGET * 14.0, PROBE: -TARGET}, np.outer(TARGET, TARGET) * 14.0),
        Adapter.identity(DIMENSION),
    ],
    ids=["centre", "along the victim", "identity"],
)
def test_what_comes_back_for_an_evaluation_is_the_same_whoever_is_there(config, tmp_path, sums, adapter):
    release = a_release(adapter)
    questions = {
        "the release": evaluation_request(release),
        "another release": evaluation_request(dataclasses.replace(release, threshold=701)),
        "no release": RecordDict(),
    }
    refused = look_alike(
        config,
        tmp_path,
        PEOPLE_BY_NAME | LISTED,
        evaluation_plan(release),
        EVALUATE_RELEASE,
        EVALUATION,
        questions,
        sums,
    )
    assert refused == {"another release", "no release"}


def test_a_release_with_numbers_out_of_bounds_is_not_measured(config, tmp_path, sums):
    release = a_release(Adapter.identity(DIMENSION))
    loud = a_release(Adapter({REFERENCE: TARGET, PROBE: TARGET}, np.eye(DIMENSION) * LARGEST))
    for wanted, refused in ((release, set()), (loud, {"it"})):
        question = {"it": evaluation_request(wanted)}
        plan = evaluation_plan(wanted)
        folder = tmp_path / wanted.digest
        folder.mkdir()
        assert refused == look_alike(config, folder, PEOPLE_BY_NAME, plan, EVALUATE_RELEASE, EVALUATION, question, sums)


# ----------------------------------------------------------------------------------------------------------- scales
SITTERS = [f"sitter {number}" for number in range(3)]


def made_up_chips(change=lambda _reference, _probe: None):
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 255, (2, len(SITTERS), 14, 14, 3))
    reference, probe = (np.kron(side, np.ones((1, 8, 8, 1))).astype(np.uint8) for side in blocks)
    change(reference, probe)
    return ChipSet(reference, probe, np.array(SITTERS), np.array([f"{name} 0" for name in SITTERS]))


def sitting(chips, *, embedded=None):
    def prepare(folder):
        (folder / "0.chips.npz").write_bytes(chips.to_bytes())
        (folder / "0.npz").write_bytes((embedded or made_up_chips()).embed(shipped(), None).to_bytes())
        if not (folder / "model").exists():
            (folder / "model").mkdir()  # `load_recogniser` is replaced

    return prepare


def black(reference, probe):
    reference[0], probe[0] = 0, 0


def ramp(reference, probe):
    probe[0] = np.linspace(0, 255, SIDE)[:, None, None].astype(np.uint8)


SITTING = {
    "one person less": sitting(made_up_chips().of_people(SITTERS[1:]), embedded=made_up_chips().of_people(SITTERS[1:])),
    "as they are": sitting(made_up_chips()),
    "somebody's images are black": sitting(made_up_chips(black)),
    "somebody looks otherwise": sitting(made_up_chips(ramp)),
    "somebody has embeddings and no chips": sitting(made_up_chips().of_people(SITTERS[1:])),
    "somebody has chips and withdrew": sitting(made_up_chips(), embedded=made_up_chips().of_people(SITTERS[1:])),
}
LOUD = np.random.default_rng(0).normal(size=TUNABLE)


def some_scales():
    return {
        "none": np.zeros(TUNABLE),
        "telling": telling_scales(shipped()),
        "the loudness that told one of six apart": np.clip(LOUD * 10**3.6385, *BOUNDS["scales"]),
        "loudest": np.sign(LOUD) * BOUNDS["scales"][1],
        "all off": np.full(TUNABLE, BOUNDS["scales"][0]),
        "too loud": LOUD * 1e30,
        "NaN": np.full(TUNABLE, np.nan),
    }


def scales_plan():
    return PrivacyPlan.for_epsilon(
        64.0, delta=1e-5, people=4000, organisations=ORGANISATIONS, dimension=192, directions=58, tuned=TUNABLE, steps=1
    )


@pytest.fixture(scope="module")
def embedded():
    return made_up_chips().embed(shipped(), None).to_bytes()


@pytest.fixture
def sitters(config, tmp_path, embedded):
    for index in range(1, ORGANISATIONS):
        (tmp_path / f"{index}.npz").write_bytes(embedded)
    return config


FEW = ("one person less", "as they are", "somebody has embeddings and no chips"), ("telling", "loudest", "too loud")
ALL = tuple(SITTING), tuple(some_scales())
SOME_AND_ALL = pytest.mark.parametrize(
    ("people", "scales"), [pytest.param(*FEW, id="some"), pytest.param(*ALL, id="all", marks=pytest.mark.slow)]
)


@SOME_AND_ALL
def test_what_comes_back_for_a_step_of_tuning_is_the_same_whoever_is_there(sitters, tmp_path, sums, people, scales):
    questions = {name: scales_request(some_scales()[name]) for name in scales}
    who = {name: SITTING[name] for name in people}
    refused = look_alike(sitters, tmp_path, who, scales_plan(), TRAIN_SCALES, f"{SCALES}-1", questions, sums)
    assert refused == {"too loud", "NaN"} & set(scales)


@SOME_AND_ALL
def test_what_comes_back_for_the_threshold_of_a_tuned_network_is_the_same_whoever_is_there(
    sitters, tmp_path, sums, monkeypatch, people, scales
):
    constant = len(SITTERS)
    monkeypatch.setattr(client.node.app, "pair_sum", lambda rows, asked, **_: pair_sum(rows, asked, constant))
    questions = {}
    for name in scales:
        named = {REFERENCE: np.zeros(192), PROBE: np.zeros(192), SCALES: some_scales()[name]}
        pairs = {"edges": [0.4, 0.6], "references": 1, "frames": 1}
        questions[name] = RecordDict({**arrays(**named), "pairs": ConfigRecord(pairs)})
    who = {name: SITTING[name] for name in people}
    refused = look_alike(sitters, tmp_path, who, scales_plan(), EVALUATE_THRESHOLD, THRESHOLD, questions, sums)
    assert refused == {"too loud", "NaN"} & set(scales)


# ------------------------------------------------------------------------------------------- before and after a sum
def test_what_comes_back_for_a_plan_is_the_same_whoever_is_there(config, tmp_path):
    """A plan with any number out of its bound is refused, whoever is asked; an honest one is answered."""
    fields = the_plan().to_config()
    wrong = [{name: value} for name in fields for value in (-1.0, 0.0, TINY, LARGEST, float("inf"), float("nan"), -1)]
    wrong += [{"centre_clip": 1.67e-308}, {"people": 10**15}, {"dimension": 10**6}, {"steps": 10**6, "tuned": 3}, {}]
    views = {}
    for name, prepare in (PEOPLE_BY_NAME | LISTED).items():
        folder = tmp_path / name
        folder.mkdir()
        here = copied(config, folder)
        prepare(folder)
        coordinator = LyingCoordinator(here, the_plan(), organisations=[0])
        coordinator.keep()
        request = advertise_request(coordinator.plan, coordinator.shown)
        views[name] = {}
        for number, change in enumerate(wrong):
            coordinator.back()
            lying = RecordDict({**request, "plan": ConfigRecord({**fields, **change})})
            views[name][number] = Seen.of(coordinator.ask(0, ADVERTISE, lying)), own_charges(folder)
    codes = [seen.code for seen, _ in require_same(views).values()]
    answered = [change for change, code in zip(wrong, codes, strict=True) if code is None]
    assert answered == [{}]
    assert set(codes) <= {None, Refusal.BAD_REQUEST.value, Refusal.WRONG_LEDGER.value}


def test_what_comes_back_when_a_sum_is_settled_and_opened_is_as_long_whoever_is_there(config, tmp_path):
    lengths = {}
    for name, prepare in PEOPLE_BY_NAME.items():
        folder = tmp_path / name
        folder.mkdir()
        here = copied(config, folder)
        prepare(folder)
        coordinator = LyingCoordinator(here, the_plan())
        coordinator.advertise()
        coordinator.share()
        lengths[name], original = [], coordinator.ask

        def ask(index, kind, content, seen=lengths[name], original=original):
            reply = original(index, kind, content)
            if index == 0:
                seen.append((kind, Seen.of(reply).code, Seen.of(reply).length))
            return reply

        coordinator.ask = ask
        assert coordinator.open(TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS, openers=range(4)) == [
            0,
            1,
            2,
            3,
        ]
        assert {kind for kind, _, _ in lengths[name]} == {TRAIN_MOMENTS, SIGN_SURVIVORS, OPEN_SHARES}
    assert len({tuple(seen) for seen in lengths.values()}) == 1


def test_the_charge_is_on_disk_before_anything_of_the_people_is_read(config, tmp_path, monkeypatch):
    read, folder = [], tmp_path / "0.ledgers"
    coordinator = LyingCoordinator(config, the_plan())
    coordinator.advertise()
    coordinator.share()
    original = Path.read_bytes

    def traced(path):
        if path.suffix in {".npz", ".json"}:
            charged = LedgerChain.from_bytes(original(folder / OWN)).charged(PEOPLE)
            read.append((path.name, charged))
        return original(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", traced)
        assert coordinator.question(0, TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS).has_content()
    assert read == [("0.npz", (the_plan().moments_noise_multiplier,))]


@pytest.mark.parametrize(
    "wrong",
    [moments_request(PublicCentre(public_centre().subspace, np.full(DIRECTIONS, 4.01))), RecordDict()],
    ids=["out of bounds", "no question"],
)
def test_a_question_that_is_refused_reads_nothing_and_charges_nothing(config, tmp_path, wrong):
    coordinator = LyingCoordinator(config, the_plan())
    coordinator.advertise()
    coordinator.share()
    for name in ("0.npz", "0.groups.json"):
        (tmp_path / name).unlink()
    assert coordinator.question(0, TRAIN_MOMENTS, wrong, MOMENTS).error.code == Refusal.BAD_REQUEST.value
    own = LedgerChain.from_bytes((tmp_path / "0.ledgers" / OWN).read_bytes())
    assert (own.charged(PEOPLE), [entry.kind for entry in own.entries]) == ((), ["open"])


def test_a_message_of_secure_aggregation_that_is_wrong_charges_nothing(config, tmp_path):
    """Another organisation may have spoiled it, and this one's people must not pay."""
    coordinator = LyingCoordinator(config, the_plan())
    coordinator.advertise()
    coordinator.share()
    lists = coordinator.asked[MOMENTS]
    lists[1] = lists[1][:-1] + bytes([lists[1][-1] ^ 1])
    reply = coordinator.question(0, TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS)
    assert reply.error.code == Refusal.NOT_TRUSTED.value
    own = LedgerChain.from_bytes((tmp_path / "0.ledgers" / OWN).read_bytes())
    assert (own.charged(PEOPLE), [entry.kind for entry in own.entries]) == ((), ["open"])


def test_refused_is_nothing_that_people_decide():
    """Whoever adds a refusal has to say here that it comes before anybody is read, or depends on nobody."""
    before_people_are_read = {
        Refusal.BAD_REQUEST,
        Refusal.NOT_AGREED,
        Refusal.REPEATED,
        Refusal.NOT_TRUSTED,
        Refusal.WRONG_LEDGER,
        Refusal.NO_BUDGET,
    }
    of_files_as_a_whole_when_a_run_begins = {Refusal.BAD_DATA, Refusal.INTERNAL}
    assert set(Refusal) == before_people_are_read | of_files_as_a_whole_when_a_run_begins


# ------------------------------------------------------------------------------------------------------------ delays
def test_an_answer_takes_as_long_as_its_class():
    assert _rest_of_class(0.3, 0.0) == 0.0
    for seconds, whole in ((0.0, 2.0), (0.1, 2.0), (2.0, 2.0), (2.1, 4.0), (4.1, 8.0), (63.0, 64.0)):
        assert seconds + _rest_of_class(seconds, 2.0) == pytest.approx(whole)


def test_answers_that_needed_people_wait_for_the_end_of_their_class(config, monkeypatch):
    slept, clock = [], iter(np.arange(0, 1e6, 0.7))
    monkeypatch.setattr(client.node.app.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(client.node.app.time, "sleep", slept.append)
    configs = {index: {"delay-class-seconds": 2.0} for index in range(ORGANISATIONS)}
    coordinator = LyingCoordinator(config, the_plan(), node_configs=configs)
    coordinator.advertise()
    assert slept == [pytest.approx(1.3)] * ORGANISATIONS
    coordinator.share()
    assert len(slept) == ORGANISATIONS
    coordinator.question(0, TRAIN_MOMENTS, RecordDict(), MOMENTS)
    assert slept == [pytest.approx(1.3)] * (ORGANISATIONS + 1)
    coordinator.ask(0, SHOW_RANGE, range_request(MOMENTS, {}))
    assert slept == [pytest.approx(1.3)] * (ORGANISATIONS + 2)


def many_of_one(pairs):
    """Everybody as they are, and so many pairs of the victim."""
    chips = made_up_chips()
    rows = np.r_[np.zeros(pairs, dtype=int), np.arange(1, len(SITTERS))]
    return ChipSet(chips.reference[rows], chips.probe[rows], chips.people[rows], chips.images[rows])


@pytest.mark.parametrize(
    "prepare",
    [sitting(many_of_one(1)), sitting(many_of_one(90)), SITTING["somebody has embeddings and no chips"]],
    ids=["one pair", "ninety pairs", "no pair"],
)
def test_a_network_works_as_long_on_three_people_however_many_images_they_have(sitters, monkeypatch, prepare):
    """A day's images of one person decided after which power of two the answer left."""
    monkeypatch.setattr(client.node.app.records, "MOST_PAIRS", 20)  # of three people: two batches of 32
    worked = Counter()

    def counting(self, chips, original=TunableMobileFaceNet.features):
        worked[len(chips)] += 1
        return original(self, chips)

    monkeypatch.setattr(TunableMobileFaceNet, "features", counting)
    prepare(Path(sitters["organisations"]))
    worked.clear()
    coordinator = LyingCoordinator(sitters, scales_plan())
    coordinator.advertise()
    coordinator.share()
    coordinator.question(0, TRAIN_SCALES, scales_request(np.zeros(TUNABLE)), f"{SCALES}-1")
    assert worked == {32: 4}  # two batches of references and two of probes
    tuned = {REFERENCE: np.zeros(192), PROBE: np.zeros(192), SCALES: telling_scales(shipped())}
    worked.clear()
    pairs = ConfigRecord({"edges": [0.4, 0.6], "references": 1, "frames": 1})
    coordinator.question(0, EVALUATE_THRESHOLD, RecordDict({**arrays(**tuned), "pairs": pairs}), THRESHOLD)
    assert worked == {32: 4}


def test_no_thread_of_torch_keeps_denormal_numbers_while_people_are_looked_at():
    """A thread that does would make something else of an image than the others: what, is up to who comes before it."""
    before, small = torch.get_num_threads(), torch.full((1 << 22,), 1e-39)
    torch.set_num_threads(4)
    try:
        assert (small * 1.0).count_nonzero() == len(small)  # all four threads are there, and keep them
        with client.node.app.records.no_denormals():
            assert (small * 1.0).count_nonzero() == 0
        assert (small * 1.0).count_nonzero() == len(small)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_a_tuned_network_takes_denormal_numbers_for_zero_while_it_looks_at_people(sitters, monkeypatch):
    """Arithmetic on them is slow on some processors, so their time would tell whose numbers are small."""
    seen, original = [], client.node.app.records.recogniser

    def looked(context):
        seen.append(float(torch.tensor(1e-38) * torch.tensor(1e-2)))
        return original(context)

    monkeypatch.setattr(client.node.app.records, "recogniser", looked)
    sitting(made_up_chips())(Path(sitters["organisations"]))
    coordinator = LyingCoordinator(sitters, scales_plan())
    coordinator.advertise()
    coordinator.share()
    coordinator.question(0, TRAIN_SCALES, scales_request(np.zeros(TUNABLE)), f"{SCALES}-1")
    assert seen == [0.0]
    assert float(torch.tensor(1e-38) * torch.tensor(1e-2)) > 0


# --------------------------------------------------------------------------------------------- who came since it began
def grown(rows):
    """Rows of everybody, and of many more people, who came after the run had begun."""
    embeddings, people, profiles, images = rows
    more = [np.array([f"newcomer {n} {name}" for name in people.tolist()]) for n in range(3)]
    return np.tile(embeddings, (4, 1)), np.concatenate([people, *more]), np.tile(profiles, 4), np.tile(images, 4)


@pytest.mark.parametrize("kind", [MOMENTS, THRESHOLD, EVALUATION])
def test_whoever_came_since_a_run_began_is_in_none_of_its_sums(config, tmp_path, sums, kind):
    """Else one person more changes an average over the advertised number by more than one, or the sum is too long."""
    release = a_release(Adapter.identity(DIMENSION))
    plan, message, request = {
        MOMENTS: (the_plan(), TRAIN_MOMENTS, moments_request(public_centre())),
        THRESHOLD: (the_plan(), EVALUATE_THRESHOLD, thresholds()["the subspace"]),
        EVALUATION: (evaluation_plan(release), EVALUATE_RELEASE, evaluation_request(release)),
    }[kind]
    coordinator = LyingCoordinator(config, plan)
    coordinator.advertise()
    coordinator.share()
    coordinator.keep()
    assert coordinator.question(0, message, request, kind).has_content()
    rows = grown(mine())
    archive(tmp_path / "0.npz", *rows)
    (tmp_path / "0.groups.json").write_text(json.dumps(dict.fromkeys(np.unique(rows[1]).tolist(), "common")))
    coordinator.back()
    assert coordinator.question(0, message, request, kind).has_content()
    archive(tmp_path / "0.npz", *mine(lambda person: person != VICTIM))
    coordinator.back()
    assert coordinator.question(0, message, request, kind).has_content()
    as_it_began, with_newcomers, without_one = sums
    assert np.array_equal(as_it_began, with_newcomers)
    assert 0 < np.linalg.norm(as_it_began - without_one) <= 1 + 1e-6


def test_an_organisation_that_cannot_read_its_people_adds_all_of_its_noise_and_nothing_else(config, monkeypatch):
    """The others count on its noise; and its answer must not show that there was nothing to hide."""
    plan, logged = the_plan(), []
    monkeypatch.setattr(client.node.app._log, "exception", lambda *said: logged.append(said))
    roster = roster_from_text(Path(config["roster"]).read_text())
    session, noise = sessions(plan, "1", roster)[MOMENTS], plan.moments_noise_multiplier

    def gone():
        raise OSError

    drawn = np.concatenate([client.node.app._noisy(session, gone, noise) for _ in range(40)])
    assert drawn.std() == pytest.approx(session.noise_share(noise_std(noise, session.size)), rel=0.15)
    assert len(logged) == 40


@pytest.mark.parametrize("release", [MOMENTS, THRESHOLD])
def test_no_release_is_answered_by_the_sum_of_another_kind(config, tmp_path, sums, release):
    """It would carry the noise of the release that was named."""
    coordinator = LyingCoordinator(config, the_plan())
    coordinator.advertise()
    coordinator.share()
    kind, request = {
        MOMENTS: (EVALUATE_THRESHOLD, thresholds()["the subspace"]),
        THRESHOLD: (TRAIN_MOMENTS, moments_request(public_centre())),
    }[release]
    assert coordinator.question(0, kind, request, release).error.code == Refusal.BAD_REQUEST.value
    own = LedgerChain.from_bytes((tmp_path / "0.ledgers" / OWN).read_bytes())
    assert (own.charged(PEOPLE), sums) == ((), [])
