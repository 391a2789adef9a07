"""The recipe that tunes scale layers, through the real ServerApp and ClientApps. Its people are noise, not faces."""

import numpy as np
import pytest

import client.node.app
from client.faces.models import recogniser_files
from federation.errors import MalformedMessageError
from federation.learning.rounds import SHARE_KEYS, read_scales_request, scales_request
from federation.learning.scales import ChipSet, Descent, scales_sum
from federation.privacy.plan import PrivacyPlan
from federation.recognition.mobilefacenet import SIDE, TUNABLE, shipped_profile
from federation.recognition.model import Adapter, ModelRelease
from federation.recognition.profiles import PROBE, REFERENCE
from server.coordinator.local_run import run_locally
from tests.faces import shipped
from tests.federated import ORGANISATIONS, ledger_kinds, run, the_release, write_federation
from tests.simulator import FIRST_NODE

PEOPLE, STEPS, EPSILON = 8, 2, 8.0


def made_up_chips(people):
    names = np.array([f"secret person {index:03d}" for index in range(people)])
    chips = np.random.default_rng(3).integers(0, 256, (people, SIDE, SIDE, 3), dtype=np.uint8)
    return ChipSet(chips, chips // 3, names, np.array([f"{index:064x}" for index in range(people)]))


def write_model(folder):
    folder.mkdir()
    for name, data in recogniser_files(shipped()).items():
        (folder / name).write_bytes(data)
    return folder


def parts(chips):
    names = sorted(chips.people.tolist())
    return [chips.of_people(names[index::ORGANISATIONS]) for index in range(ORGANISATIONS)]


def the_plan():
    return PrivacyPlan.for_epsilon(
        EPSILON,
        delta=1e-5,
        people=PEOPLE,
        organisations=ORGANISATIONS,
        dimension=192,
        directions=shipped_profile().directions,
        tuned=TUNABLE,
        steps=STEPS,
    )


@pytest.fixture(scope="module")
def chips():
    return made_up_chips(PEOPLE)


@pytest.fixture(scope="module")
def embeddings(chips):
    return [mine.embed(shipped(), None).to_bytes() for mine in parts(chips)]


@pytest.fixture
def config(tmp_path, chips, embeddings, monkeypatch):
    """A run without noise in the ring, whose plan says so: with it, so few people would tune nothing."""
    monkeypatch.setattr(client.node.app, "discrete_noise", lambda size, _std: np.zeros(size, dtype=np.int64))
    monkeypatch.setattr(PrivacyPlan, "noise_with", lambda *_: 1e-9)
    for index, mine in enumerate(parts(chips)):
        (tmp_path / f"{index}.chips.npz").write_bytes(mine.to_bytes())
    values = write_federation(tmp_path)
    for index, mine in enumerate(embeddings):
        (tmp_path / f"{index}.npz").write_bytes(mine)
    write_model(tmp_path / "model")
    changes = {"recipe": "scales", "steps": STEPS, "gradient-clip": 0.05, "epsilon": EPSILON, "budget-epsilon": EPSILON}
    return {**values, **changes, "people": PEOPLE, "profile": "", "round-deadline-seconds": 60.0}


def test_a_run_tunes_the_probes_and_charges_every_step(config, chips, capsys):
    grid = run(config)
    release = the_release(config)
    assert release.adaptation == "scales"
    assert list(release.adapter.scales) == [PROBE]
    assert release.privacy.events == the_plan().events
    assert ledger_kinds(config) == ["open", "reserve", "commit"]
    assert len(grid.sent) == (2 + 3 * STEPS) * ORGANISATIONS
    said = capsys.readouterr().out
    assert "step 2 of 2: the sum over 4 of 4 organisations" in said
    assert "clips" in said
    assert ModelRelease.from_bytes(release.to_bytes()).to_bytes() == release.to_bytes()


def test_without_noise_the_federated_steps_are_the_central_ones(config, chips):
    run(config)
    plan, descent = the_plan(), Descent.start()
    for _ in range(STEPS):
        descent = descent.step(scales_sum(shipped(), chips, descent.scales, plan), PEOPLE, 1e-9)
    assert np.linalg.norm(descent.scales) > 0.01
    assert np.abs(the_release(config).adapter.scales[PROBE] - descent.scales).max() < 1e-5


def test_hopeless_noise_asks_for_no_step_and_needs_no_chips(config, tmp_path, monkeypatch):
    monkeypatch.undo()
    for index in range(ORGANISATIONS):
        (tmp_path / f"{index}.chips.npz").unlink()
    grid = run(config)
    assert not grid.sent
    assert not the_release(config).adapted
    assert "so nobody was asked" in the_release(config).reason


@pytest.mark.slow
@pytest.mark.parametrize("file", ["chips.npz", "npz"])
def test_an_organisation_whose_files_are_gone_in_the_middle_adds_noise_alone_and_nobody_else_can_tell(
    config, tmp_path, chips, caplog, file
):
    """Its own log says so. Its node would not have started like that (`client.node.start`)."""

    def gone(node, reply):
        if reply.metadata.message_type == SHARE_KEYS and node == FIRST_NODE + 2:
            (tmp_path / f"2.{file}").unlink()
        return reply

    run(config, tamper=gone)
    assert "it adds noise alone to scales-1" in caplog.text
    plan, descent = the_plan(), Descent.start()
    others = [part for number, part in enumerate(parts(chips)) if number != 2]
    for _ in range(STEPS):
        total = np.sum([scales_sum(shipped(), part, descent.scales, plan) for part in others], axis=0)
        descent = descent.step(total, PEOPLE, 1e-9)
    assert np.abs(the_release(config).adapter.scales[PROBE] - descent.scales).max() < 1e-5


def test_people_who_withdrew_take_no_part_though_their_chips_are_there(config, tmp_path, chips):
    gone = parts(chips)[0].people[0]
    embeddings = parts(chips)[0].embed(shipped(), None)
    (tmp_path / "0.npz").write_bytes(embeddings.select(embeddings.people != gone).to_bytes())
    run({**config, "people": PEOPLE - 1})
    assert the_release(config).privacy.people_train == PEOPLE - 1


@pytest.mark.slow
def test_somebody_with_embeddings_and_no_chips_adds_nothing_to_a_step(config, tmp_path, chips):
    mine = parts(chips)[0]
    (tmp_path / "0.chips.npz").write_bytes(mine.of_people(mine.people[1:].tolist()).to_bytes())
    run(config)
    assert the_release(config).privacy.people_train == PEOPLE


def test_a_request_for_a_step_must_carry_the_scales_so_far():
    plan = the_plan()
    assert np.array_equal(read_scales_request(scales_request(np.ones(TUNABLE)), plan), np.ones(TUNABLE))
    for wrong in (np.ones(3), np.full(TUNABLE, np.nan), np.ones(TUNABLE, np.float32)):
        with pytest.raises(
            MalformedMessageError, match=r"the array 'scales' must be float64|all numbers of the scales must be"
        ):
            read_scales_request(scales_request(wrong), plan)


def test_tuned_references_are_those_of_the_frozen_network(chips):
    scales = np.full(TUNABLE, 0.02)
    tuned, frozen = chips.embed(shipped(), scales), chips.embed(shipped(), None)
    assert np.array_equal(tuned.embeddings[tuned.profiles == REFERENCE], frozen.embeddings[:PEOPLE])
    assert np.abs(tuned.embeddings[tuned.profiles == PROBE] - frozen.embeddings[PEOPLE:]).max() > 1e-3
    adapter = Adapter(Adapter.identity(192).centres, None, {PROBE: scales})
    assert np.allclose(adapter.apply(tuned.embeddings, PROBE), tuned.embeddings, atol=1e-6)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
def test_a_local_run_through_flowers_own_processes_tunes_the_scales(tmp_path):
    mine, said = parts(made_up_chips(200)), []
    release = run_locally(
        [part.embed(shipped(), None) for part in mine],
        shipped().profile,
        "mask",
        epsilon=64.0,
        population="made up",
        ledger=tmp_path / "ledger.jsonl",
        budget_epsilon=64.0,
        recipe="scales",
        steps=1,
        chips=mine,
        model=write_model(tmp_path / "model"),
        progress=said.append,
    )
    assert release.adaptation == "scales"
    assert release.adapter.scales[PROBE].shape == (TUNABLE,)
    assert any(line.startswith("step 1 of 1") for line in said)
