"""The real ServerApp against real ClientApps: in one process, and once through Flower's own processes."""

import dataclasses
import math
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from scipy import stats

import client.node.app
import server.coordinator.app
import server.coordinator.secure_sums
from federation.errors import BudgetExhaustedError, RoundAbortedError, UsageError
from federation.identity import IdentityKey
from federation.learning.moments import Shift, moments_sum
from federation.learning.pairs import PairQuestion, pair_sum
from federation.learning.releasing import ReleaseTerms, observed_of, public_release
from federation.learning.rounds import (
    ADVERTISE,
    EVALUATE_THRESHOLD,
    OPEN_SHARES,
    SHARE_KEYS,
    SIGN_SURVIVORS,
    TRAIN_MOMENTS,
    Refusal,
    advertise_reply,
    advertise_request,
    protocol_content,
    threshold_request,
)
from federation.privacy.ledger import LedgerChain
from federation.privacy.plan import PrivacyPlan
from federation.rates import Basis
from federation.recognition.model import Adapter
from federation.secagg.messages import Survivors
from federation.secagg.ring import discrete_noise, noise_std
from server.coordinator.local_run import run_locally
from server.coordinator.run_records import RunRecords
from tests.federated import (
    NAMES,
    OF_ORGANISATION,
    ORGANISATIONS,
    a_charge,
    ledger_kinds,
    run,
    the_chain,
    the_plan,
    the_release,
    write_federation,
)
from tests.people import DIMENSION, synthetic_people
from tests.public_people import CONDITION, public_centre, synthetic_profile
from tests.simulator import FIRST_NODE, InProcessGrid, server_context

TERMS = ReleaseTerms(synthetic_profile(), CONDITION, 0.01, 2, 1)
DIRECTIONS = synthetic_profile().directions
QUESTION = threshold_request(TERMS.question(Shift.nothing(DIRECTIONS)))


def moments_with(**changes):
    """The question of the moments with other arrays."""
    asked = {"subspace": np.zeros((DIRECTIONS, DIMENSION)), "start": np.zeros(DIRECTIONS)} | changes
    named = {
        name: array if isinstance(array, Array) else Array(array) for name, array in asked.items() if array is not None
    }
    return RecordDict({"arrays": ArrayRecord(named)})


@pytest.fixture
def config(tmp_path):
    return write_federation(tmp_path)


def test_a_run_writes_a_release_and_settles_the_ledger(config, capsys):
    grid = run(config)
    release = the_release(config)
    assert release.adapted
    assert release.privacy.epsilon == 8.0
    assert release.privacy.people_train == len(NAMES)
    assert [name for name, _ in release.privacy.events] == ["moments", "threshold"]
    assert ledger_kinds(config) == ["open", "reserve", "commit"]
    entries = the_chain(config).entries
    assert entries[-1].release == release.digest
    assert tuple(noise for _, noise in release.privacy.events) == entries[1].noise_multipliers
    assert len(grid.sent) == 8 * ORGANISATIONS
    assert (release.privacy.colluders, release.privacy.dropouts) == (1, 0)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("intaglio: privacy: epsilon 8, delta 1e-05")
    assert said[1] == f"intaglio: privacy: {release.privacy.attacks.text}"
    assert said[2].endswith("nobody compares organisations' people; who is in two of them has epsilon 19.07 instead")
    assert said[3].endswith(
        "shows the coordinator totals only, and the promise holds even if 1 of the 4 organisations help it"
    )


@pytest.mark.parametrize("module", ["client.node.app", "server.coordinator.app"])
def test_the_processes_of_a_run_start_without_what_takes_seconds_to_import(module):
    heavy = {"torch", "opacus", "dp_accounting", "sklearn", "pandas", "scipy.stats"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def without_noise_in_the_ring(size, _std):
    return np.zeros(size, dtype=np.int64)


def test_without_noise_the_federated_release_is_the_central_one(config, monkeypatch):
    """Exact but for the fixed point: less than half a unit of 2^-32 for each organisation."""
    monkeypatch.setattr(client.node.app, "discrete_noise", without_noise_in_the_ring)
    run(config)
    plan, everybody, terms = the_plan(), synthetic_people(NAMES), TERMS
    moments_noise, threshold_noise = (plan.noise_with(noise, ORGANISATIONS) for noise in plan.noise_multipliers)
    shift = Shift.of(moments_sum(everybody, public_centre(), plan), plan, noise_multiplier=moments_noise, people=64)
    release, adapter = the_release(config), terms.adapter(shift)
    for profile, centre in adapter.centres.items():
        assert np.abs(release.adapter.centres[profile] - centre).max() < 1e-8
    question = PairQuestion(release.adapter, terms.question(shift).edges, 2, 1)
    total = sum(pair_sum(everybody.of_people(names), question, 16) for names in OF_ORGANISATION)
    observed = observed_of(total, people=64, noise_multiplier=threshold_noise)
    threshold = terms.threshold(shift, observed, members=64)
    assert (release.threshold, release.basis) == (threshold.bits, threshold.basis)
    assert (release.fmr_low, release.fmr_high) == pytest.approx((threshold.fmr_low, threshold.fmr_high), abs=1e-5)


def test_the_total_carries_the_planned_noise(config, monkeypatch):
    """The honest ones' shares alone reach the promise: three of four reach it, and all four have more."""
    drawn = []

    def remembered(size, std):
        drawn.append(discrete_noise(size, std))
        return drawn[-1]

    monkeypatch.setattr(client.node.app, "discrete_noise", remembered)
    run(config)
    plan = the_plan()
    noise = [vector / noise_std(plan.moments_noise_multiplier, len(vector)) for vector in drawn if len(vector) > 3]
    assert [len(vector) for vector in noise] == [plan.directions] * ORGANISATIONS
    honest = np.sum(noise[:3], axis=0)
    assert stats.kstest(honest, "norm").pvalue > 1e-6
    assert 0.5 < honest.std() < 1.6


def test_two_runs_never_agree_on_the_noise(config):
    centres, config["budget-epsilon"] = [], 16.0
    for run_id in (1, 2):
        run(config, run_id=run_id)
        centres.append(the_release(config).adapter.centres["probe"])
    assert not np.isclose(*centres, atol=1e-12).any()


def test_no_key_of_the_configuration_is_a_seed_and_every_key_has_a_default(config):
    import tomllib  # noqa: PLC0415 - only here

    with (server.coordinator.app.Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        defaults = tomllib.load(file)["tool"]["flwr"]["app"]["config"]
    assert set(defaults) == set(config)
    assert not [key for key in defaults if "seed" in key or "noise" in key]
    assert {key: type(value) for key, value in defaults.items()} == {key: type(value) for key, value in config.items()}


def folder_of(config):
    return {
        path.name: path.read_bytes()
        for path in sorted(server.coordinator.app.Path(config["organisations"]).rglob("*"))
        if path.is_file()
    }


def test_a_run_that_could_not_help_anybody_makes_a_public_release_without_asking_or_charging(config, tmp_path, capsys):
    config["epsilon"] = 0.5
    before = folder_of(config)
    grid = run(config, nodes=0)
    release = the_release(config)
    assert not grid.sent
    assert (release.basis, release.adapted, release.privacy.events, release.privacy.epsilon) == (
        Basis.PUBLIC,
        False,
        (),
        0.0,
    )
    expected = public_release(TERMS, created=datetime.fromisoformat(release.created), reason=release.reason)
    assert release.to_bytes() == expected.to_bytes()
    assert "so nobody was asked" in release.reason
    assert "nothing is asked of anybody and nothing is charged" in capsys.readouterr().out
    after = folder_of(config)
    records = [name for name in after if name.endswith(".json") and name not in before and name != "release.json"]
    assert set(after) - set(before) <= {"release.json", ".release.json.lock", *records}
    assert {name: after[name] for name in before} == before
    (record,) = RunRecords.beside(tmp_path / "ledger.jsonl").all()
    assert (record.outcome.value, record.release, record.sums) == ("released", release.digest, ())
    run(config, nodes=0, run_id=2)
    assert not (tmp_path / "ledger.jsonl").exists()


def test_a_public_release_leaves_a_ledger_as_it_is(config, tmp_path):
    run(config)
    before = (tmp_path / "ledger.jsonl").read_bytes()
    config["epsilon"] = 0.5
    run(config, nodes=0, run_id=2)
    assert the_release(config).basis is Basis.PUBLIC
    assert (tmp_path / "ledger.jsonl").read_bytes() == before


def test_few_people_with_a_large_epsilon_learn_the_centre_alone(config, tmp_path):
    config["people"] = 24
    for index, names in enumerate(OF_ORGANISATION):
        (tmp_path / f"{index}.npz").write_bytes(synthetic_people(NAMES).of_people(names[:6]).to_bytes())
    grid = run(config)
    release = the_release(config)
    assert release.adapted
    assert release.basis is Basis.PUBLIC
    assert [name for name, _ in release.privacy.events] == ["moments"]
    assert EVALUATE_THRESHOLD not in {m.metadata.message_type for m in grid.sent}
    assert len(grid.sent) == 5 * ORGANISATIONS


def test_people_under_much_noise_check_the_threshold_alone(config, tmp_path):
    config["epsilon"], config["people"] = 1.0, 100
    for index in range(ORGANISATIONS):
        people = synthetic_people([f"{index}-{i}" for i in range(25)], seed=index)
        (tmp_path / f"{index}.npz").write_bytes(people.to_bytes())
    grid = run(config)
    release = the_release(config)
    assert [name for name, _ in release.privacy.events] == ["threshold"]
    assert not release.adapted
    assert release.basis in {Basis.CHECKED, Basis.MEASURED}
    assert TRAIN_MOMENTS not in {m.metadata.message_type for m in grid.sent}
    assert "more than a check" in release.reason


def test_who_comes_after_the_advertisement_is_in_no_pair(config, tmp_path, monkeypatch):
    """Else N_k would be too small, and one person could change the sum by more than 1."""
    asked = []

    def counted(embeddings, question, members):
        asked.append((set(embeddings.people.tolist()), members))
        return pair_sum(embeddings, question, members)

    def come(_node, reply):
        if reply.metadata.message_type == TRAIN_MOMENTS:
            more = [*OF_ORGANISATION[0][1:], "a newcomer", "another"]
            (tmp_path / "0.npz").write_bytes(synthetic_people(more).to_bytes())
        return reply

    monkeypatch.setattr(client.node.app, "pair_sum", counted)
    run(config, tamper=come)
    assert asked[0] == (set(OF_ORGANISATION[0][1:]), 16)
    assert asked[1] == (set(OF_ORGANISATION[1]), 16)


def test_a_second_run_past_the_budget_asks_nobody(config):
    run(config)
    before = the_release(config).digest
    grid = InProcessGrid(client.node.app.app, ORGANISATIONS, config, run_id=2)
    with pytest.raises(BudgetExhaustedError, match=r"budget of 'synthetic' is exhausted: epsilon 7\.98 of 8"):
        server.coordinator.app.app(grid, server_context(config, run_id=2))
    assert not grid.sent
    assert the_release(config).digest == before


# ---------------------------------------------------------------------------------------------------- wrong nodes
BAD = FIRST_NODE + 1


def replaced(message_type, content):
    """The second organisation answers the first question of a kind with this."""
    asked = []

    def tamper(node, reply):
        if node == BAD and reply.metadata.message_type == message_type and not asked:
            asked.append(True)
            reply.content = content(reply)
        return reply

    return tamper


def with_protocol(change):
    """Changes the messages of secure aggregation in a reply."""

    def damage(reply):
        messages = {name: change(bytes(data)) for name, data in reply.content["secagg"].items()}
        return RecordDict({**reply.content, **protocol_content(messages)})

    return damage


WRONG_REPLIES = {
    "nobody": (
        ADVERTISE,
        lambda r: RecordDict({**r.content, "metrics": MetricRecord({"people": 0})}),
        "number of people",
    ),
    "no count": (ADVERTISE, lambda r: RecordDict({"secagg": r.content["secagg"]}), "number of people"),
    "no keys": (ADVERTISE, lambda r: RecordDict({"metrics": r.content["metrics"]}), "missing"),
    "keys of one release": (
        ADVERTISE,
        lambda r: advertise_reply({"moments": r.content["secagg"]["moments"]}, 16, LedgerChain()),
        "not for the plan's releases",
    ),
    "junk keys": (ADVERTISE, with_protocol(lambda _: b"junk"), "too short"),
    "unsigned keys": (ADVERTISE, with_protocol(lambda data: data[:-1] + bytes([data[-1] ^ 1])), "does not verify"),
    "no shares": (SHARE_KEYS, lambda _: RecordDict(), "missing"),
    "text for shares": (SHARE_KEYS, lambda _: RecordDict({"secagg": ConfigRecord({"moments": "x"})}), "missing"),
    "junk shares": (SHARE_KEYS, with_protocol(lambda data: data[:-1]), "bytes are missing"),
    "short vector": (TRAIN_MOMENTS, with_protocol(lambda data: data[:-8]), "bytes are missing"),
    "vector of another sender": (
        TRAIN_MOMENTS,
        with_protocol(lambda data: data[:6] + b"\1\0" + data[8:]),
        "says that organisation 1 sent it",
    ),
}


@pytest.mark.parametrize(("message_type", "damage", "said"), WRONG_REPLIES.values(), ids=WRONG_REPLIES)
def test_a_wrong_reply_ends_the_run_names_its_sender_and_says_the_cost(config, message_type, damage, said):
    with pytest.raises(RoundAbortedError, match=said) as caught:
        run(config, tamper=replaced(message_type, damage))
    assert f"node {BAD}" in str(caught.value) or "organisation 2 " in str(caught.value)
    assert "epsilon 8 stays charged" in str(caught.value)
    assert ledger_kinds(config) == ["open", "reserve"]
    assert not server.coordinator.app.Path(config["output"]).exists()


@pytest.mark.parametrize(("message_type", "damage", "said"), WRONG_REPLIES.values(), ids=WRONG_REPLIES)
def test_with_a_planned_drop_out_the_run_goes_on_without_the_wrong_one(config, message_type, damage, said):
    config["dropouts"], config["epsilon"], config["budget-epsilon"] = 1, 16.0, 16.0
    run(config, tamper=replaced(message_type, damage))
    assert the_release(config).adapted


def test_questions_are_made_and_sent_in_slices(config, monkeypatch):
    """All of them together, for a thousand organisations, would fill the coordinator's machine."""
    pushed = []

    class Slices(InProcessGrid):
        def push_messages(self, messages):
            pushed.append(len(messages))
            return super().push_messages(messages)

    monkeypatch.setattr(server.coordinator.secure_sums, "_SENT_AT_ONCE", 3)
    run(config, grid=Slices)
    assert the_release(config).adapted
    assert pushed == [3, 1] * 8


@pytest.mark.slow
def test_a_spoiled_sum_is_noticed_when_honest_ones_could_not_make_it(config):
    """Nobody can see which organisation spoiled it."""

    def spoil(data):
        return data[:51] + bytes([data[51] ^ 0x40]) + data[52:]  # the first number's highest byte

    with pytest.raises(RoundAbortedError, match="organisation 2 did not show that its input is in bounds"):
        run(config, tamper=replaced(TRAIN_MOMENTS, with_protocol(spoil)))


@pytest.mark.parametrize(
    "stage", [ADVERTISE, SHARE_KEYS, TRAIN_MOMENTS, SIGN_SURVIVORS, OPEN_SHARES, EVALUATE_THRESHOLD]
)
def test_a_planned_drop_out_at_any_stage_leaves_a_release_of_the_others(config, monkeypatch, stage):
    monkeypatch.setattr(client.node.app, "discrete_noise", without_noise_in_the_ring)
    config["dropouts"], config["epsilon"], config["budget-epsilon"] = 1, 16.0, 16.0
    left = []

    def leave(node, reply):
        left.extend([node] if node == BAD and reply.metadata.message_type == stage else [])
        return None if node == BAD and left else reply

    run(config, tamper=leave)
    release = the_release(config)
    names = [
        n
        for i in range(4)
        if stage in {SIGN_SURVIVORS, OPEN_SHARES, EVALUATE_THRESHOLD} or i != 1
        for n in OF_ORGANISATION[i]
    ]
    expected = probe_centre_by_hand(names, the_plan(16.0, dropouts=1), organisations=len(names) // 16)
    assert np.abs(release.adapter.centres["probe"] - expected).max() < 1e-6  # clips leave two millionths of room
    for wrong in (names[:-16], [*names, *(n for n in NAMES if n not in names)][: 80 - len(names)]):
        other = probe_centre_by_hand(wrong, the_plan(16.0, dropouts=1), organisations=len(wrong) // 16)
        assert sorted(wrong) == sorted(names) or np.abs(release.adapter.centres["probe"] - other).max() > 1e-4


def probe_centre_by_hand(names, plan, *, organisations):
    """Of these people alone, one after the other: nothing here is what organisations or the coordinator compute with.

    Two organisations are planned to be honest and there: each of `organisations` draws noise for one of two.
    """
    profile, everybody = synthetic_profile(), synthetic_people(NAMES)
    centres = {name: profile.condition(name).centre.array for name in ("clean", CONDITION)}
    offsets = []
    for name in names:
        rows = {"reference": [], "probe": []}
        for vector, person, side in zip(everybody.embeddings, everybody.people, everybody.profiles, strict=True):
            if person == name:
                rows[side].append(vector.astype(np.float64))
        middle = sum(sum(each) / len(each) for each in rows.values()) / 2
        offset = profile.subspace.array @ middle - (centres["clean"] + centres[CONDITION]) / 2
        offsets.append(offset * min(1.0, plan.centre_clip / math.sqrt(offset @ offset)))
    mean = sum(offsets) / len(names)
    noise = plan.moments_noise_multiplier * math.sqrt(organisations / 2) * plan.centre_clip / len(names)
    weight = max(0.0, 1 - len(mean) * noise**2 / (mean @ mean))
    return profile.condition(CONDITION).whitening.array @ (
        (0.75 + 0.25 * weight) * (centres[CONDITION] + weight * mean)
    )


def test_more_drop_outs_than_planned_end_the_run_with_their_names_and_the_cost(config):
    config["dropouts"], config["epsilon"], config["budget-epsilon"] = 1, 16.0, 16.0
    gone = {FIRST_NODE, BAD}

    def leave(node, reply):
        return None if node in gone and reply.metadata.message_type == TRAIN_MOMENTS else reply

    with pytest.raises(RoundAbortedError, match="2 of 4 organisations are left and 3 are needed") as caught:
        run(config, tamper=leave)
    assert all(f"node {node}" in str(caught.value) for node in gone)
    assert "epsilon 16 stays charged" in str(caught.value)


def is_moments(reply):
    return reply.metadata.message_type == TRAIN_MOMENTS


def test_a_silent_node_ends_the_run_at_the_deadline(config):
    with pytest.raises(
        RoundAbortedError, match=rf"node {BAD}\): it did not answer train.moments within 0.3 s"
    ) as caught:
        run(config, tamper=lambda node, reply: None if node == BAD and is_moments(reply) else reply)
    assert "stays charged" in str(caught.value)


def test_more_people_than_planned_are_refused_and_the_message_says_what_to_do(config):
    config["people"] = 63
    with pytest.raises(RoundAbortedError, match=r"at most 63 people and the organisations hold 64: ") as caught:
        run(config)
    assert "organisation 1 16, organisation 2 16" in str(caught.value)
    assert "With people = 64 it is another run at another charge" in str(caught.value)
    assert ledger_kinds(config) == ["open", "reserve"]


def test_fewer_people_than_planned_go_on_under_the_planned_noise(config, capsys):
    config["people"] = 65
    run(config)
    assert the_release(config).adapted
    assert "the organisations hold 64 people of the 65 that were planned for" in capsys.readouterr().out


def test_somebody_who_withdraws_between_two_starts_costs_no_second_charge(config):
    def silent(node, reply):
        return None if node == BAD and reply.metadata.message_type == SHARE_KEYS else reply

    with pytest.raises(RoundAbortedError, match="it goes on under this charge"):
        run(config, tamper=silent)
    left = synthetic_people(NAMES).of_people(OF_ORGANISATION[0][1:])
    (server.coordinator.app.Path(config["organisations"]) / "0.npz").write_bytes(left.to_bytes())
    run(config, run_id=2)
    assert ledger_kinds(config) == ["open", "reserve", "commit"]


@pytest.mark.parametrize("nodes", [3, 5])
def test_a_wrong_number_of_nodes_ends_the_run_before_anything_is_charged(config, nodes):
    with pytest.raises(RoundAbortedError, match="charged"):
        run(config, nodes=nodes)
    assert not server.coordinator.app.Path(config["ledger"]).exists()


def explode(*_args, **_more):
    raise RuntimeError(f"{NAMES[0]} scored 0.93 in /home/operator")


def test_what_goes_wrong_in_a_node_stays_there(config, monkeypatch):
    monkeypatch.setattr("client.node.app.records.facts_of", explode)
    replies = []
    with pytest.raises(RoundAbortedError, match="its own log says more") as caught:
        run(config, tamper=lambda _node, reply: replies.append(reply) or reply)
    assert len(replies) == ORGANISATIONS
    assert all(reply.error.code == Refusal.INTERNAL.value for reply in replies)
    assert all(reply.error.reason == Refusal.INTERNAL.text for reply in replies)
    assert "secret person" not in str(caught.value)


def test_what_goes_wrong_with_people_does_not_even_show(config, monkeypatch, caplog):
    """It is charged; whether they could be read is theirs. So the organisation adds noise alone."""
    monkeypatch.setattr("federation.learning.moments.moments_sum", explode)
    replies = []
    run(config, tamper=lambda _node, reply: replies.append(reply) or reply)
    assert len([reply for reply in replies if is_moments(reply) and reply.has_content()]) == ORGANISATIONS
    assert caplog.text.count("it adds noise alone to moments") == ORGANISATIONS


def test_foreign_error_texts_are_not_repeated(config):
    def angry(node, reply):
        if node != BAD:
            return reply
        return Message(Error(code=77, reason="<script>"), reply_to=asked[node])

    asked = {}
    original = client.node.app.app

    class Remembering:
        def __call__(self, message, context):
            asked[context.node_id] = message
            return original(message, context)

    grid = InProcessGrid(Remembering(), ORGANISATIONS, config, tamper=angry)
    with pytest.raises(RoundAbortedError, match="error code 77") as caught:
        server.coordinator.app.app(grid, server_context(config))
    assert "<script>" not in str(caught.value)


def ask(grid, content, message_type=ADVERTISE):
    (reply,) = grid.send_and_receive([Message(content, FIRST_NODE, message_type)])
    return reply


@pytest.fixture
def plan():
    return the_plan()


def test_a_node_takes_one_plan_in_a_run(config, plan):
    grid, request = InProcessGrid(client.node.app.app, 1, config), advertise_request(plan, a_charge(config, plan))
    assert ask(grid, request).has_content()
    assert ask(grid, request).error.code == Refusal.REPEATED.value


@pytest.mark.parametrize("stage", [SHARE_KEYS, TRAIN_MOMENTS, EVALUATE_THRESHOLD, SIGN_SURVIVORS, OPEN_SHARES])
def test_a_node_answers_nothing_out_of_turn_and_nothing_afterwards(config, plan, stage):
    grid = InProcessGrid(client.node.app.app, 1, config)
    anything = protocol_content({"threshold": b"x"} if stage == EVALUATE_THRESHOLD else {"moments": b"x"})
    assert ask(grid, anything, stage).error.code == Refusal.REPEATED.value
    assert ask(grid, advertise_request(plan, a_charge(config, plan))).has_content()
    first = ask(grid, anything, stage).error.code
    assert first == (Refusal.BAD_REQUEST if stage == SHARE_KEYS else Refusal.REPEATED).value
    assert ask(grid, anything, SHARE_KEYS).error.code == Refusal.REPEATED.value


def test_a_question_that_is_repeated_gets_no_second_answer(config):
    """A coordinator that sends every request twice gets one answer to each, and no release."""
    codes = []

    class Twice(InProcessGrid):
        def push_messages(self, messages):
            messages = list(messages)
            identifiers = super().push_messages(messages)
            again = self.pull_messages(super().push_messages(messages))
            codes.extend(repeated.error.code if repeated.has_error() else None for repeated in again)
            return identifiers

    with pytest.raises(RoundAbortedError, match=r"answers every request once in a run and in its turn"):
        server.coordinator.app.app(Twice(client.node.app.app, ORGANISATIONS, config), server_context(config))
    assert set(codes) == {Refusal.REPEATED.value}


def test_a_node_forgets_its_secrets_when_its_part_is_done(config):
    grid = run(config)
    for context in grid.contexts.values():
        kept = [record for name, record in context.state.config_records.items() if name.startswith("sum of")]
        assert len(kept) == 2
        assert not any(record for record in kept)


@pytest.mark.parametrize("limit", [{"max-epsilon": 4.0}, {"min-colluders": 2}])
def test_a_node_keeps_its_operators_limits(config, plan, limit):
    grid = InProcessGrid(client.node.app.app, 1, config, node_configs={0: limit})
    assert ask(grid, advertise_request(plan, a_charge(config, plan))).error.code == Refusal.NOT_AGREED.value


def test_a_limit_holds_at_the_operator_s_delta_whatever_the_plan_s(config):
    """A plan of epsilon 8 at 1e-3 is 10.49 at 1e-5."""
    loose = PrivacyPlan.for_epsilon(8.0, delta=1e-3, people=64, organisations=4, dimension=DIMENSION, directions=24)
    for delta, code in ((1e-5, Refusal.NOT_AGREED.value), (1e-3, None)):
        limits = {"max-epsilon": 8.0, "delta": delta}
        grid = InProcessGrid(client.node.app.app, 1, config, node_configs={0: limits})
        ledger = {"ledger": config["ledger"] + str(delta)}
        reply = ask(grid, advertise_request(loose, a_charge(config | ledger, loose, cap_delta=1e-3)))
        assert (reply.error.code if reply.has_error() else None) == code


def without_noise(request):
    request["plan"]["noise_multiplier"] = 0.01
    return request


@pytest.mark.parametrize("damage", [lambda _request: RecordDict(), without_noise], ids=["empty", "too little noise"])
def test_a_node_does_its_own_accounting_and_refuses_wrong_plans(config, plan, damage):
    grid = InProcessGrid(client.node.app.app, 1, config)
    assert ask(grid, damage(advertise_request(plan, a_charge(config, plan)))).error.code == Refusal.BAD_REQUEST.value


@pytest.mark.parametrize(
    ("message_type", "wrong"),
    [
        (TRAIN_MOMENTS, RecordDict()),
        (TRAIN_MOMENTS, moments_with(start=np.full(DIRECTIONS, np.nan))),
        (TRAIN_MOMENTS, moments_with(start=np.zeros(DIRECTIONS - 1))),
        (TRAIN_MOMENTS, moments_with(subspace=np.zeros((DIRECTIONS, DIMENSION - 1)))),
        (TRAIN_MOMENTS, moments_with(subspace=np.full((DIRECTIONS, DIMENSION), 1.01))),
        (TRAIN_MOMENTS, moments_with(start=None)),
        (TRAIN_MOMENTS, moments_with(start=Array("float64", (DIRECTIONS,), "numpy.ndarray", b"no"))),
        (EVALUATE_THRESHOLD, RecordDict()),
        (EVALUATE_THRESHOLD, RecordDict({"pairs": QUESTION["pairs"]})),
        (EVALUATE_THRESHOLD, RecordDict({"arrays": QUESTION["arrays"]})),
        (EVALUATE_THRESHOLD, threshold_request(PairQuestion(Adapter.identity(DIMENSION - 1), (0.2, 0.3), 1, 1))),
        *(
            (EVALUATE_THRESHOLD, RecordDict({**QUESTION, "pairs": ConfigRecord({**QUESTION["pairs"], **change})}))
            for change in (
                {"edges": [0.3, 0.2]},
                {"edges": [0.2, 0.2]},
                {"edges": [0.2]},
                {"edges": [0.2, 0.3, 0.4]},
                {"edges": [0.0, 0.3]},
                {"edges": [0.2, float("nan")]},
                {"edges": [1, 2]},
                {"edges": 0.2},
                {"references": 0},
                {"references": 6},
                {"references": 1.0},
                {"frames": 4},
                {"frames": True},
            )
        ),
    ],
)
def test_nodes_refuse_wrong_requests(config, message_type, wrong):
    codes = []

    class Lying(InProcessGrid):
        def push_messages(self, messages):
            messages = list(messages)
            for message in messages:
                if message.metadata.message_type == message_type:
                    message.content = RecordDict({**wrong, "secagg": message.content["secagg"]})
            return super().push_messages(messages)

    def listen(_node, reply):
        if reply.has_error():
            codes.append(reply.error.code)
        return reply

    with pytest.raises(RoundAbortedError, match="did not understand"):
        server.coordinator.app.app(
            Lying(client.node.app.app, ORGANISATIONS, config, tamper=listen), server_context(config)
        )
    assert set(codes) == {Refusal.BAD_REQUEST.value}


def test_nodes_refuse_a_coordinator_that_names_other_survivors(config):
    """One that is told otherwise is no use; two of four leave no quorum on either set."""

    class Lying(InProcessGrid):
        def _deliver(self, message):
            if message.metadata.message_type == SIGN_SURVIVORS and message.metadata.dst_node_id in told:
                ((release, data),) = message.content["secagg"].items()
                survivors = Survivors.from_bytes(data)
                fewer = dataclasses.replace(survivors, entries=survivors.entries[:3])
                message.content = protocol_content({release: fewer.to_bytes()})
            return super()._deliver(message)

    config["dropouts"], config["epsilon"], config["budget-epsilon"] = 1, 16.0, 16.0
    told = {FIRST_NODE, BAD}
    with pytest.raises(RoundAbortedError, match="2 of 4 organisations are left and 3 are needed"):
        server.coordinator.app.app(Lying(client.node.app.app, ORGANISATIONS, config), server_context(config))


def test_a_node_reads_its_own_embeddings_first(config, plan, tmp_path):
    own = tmp_path / "own.npz"
    own.write_bytes(synthetic_people(["only one"]).to_bytes())
    grid = InProcessGrid(client.node.app.app, 1, config, node_configs={0: {"embeddings": str(own)}})
    assert ask(grid, advertise_request(plan, a_charge(config, plan))).content["metrics"]["people"] == 1


@pytest.mark.parametrize(
    "node_config",
    [{"embeddings": "/nowhere.npz"}, {"partition-id": 17}, {"identity": "/nowhere.pem"}, {"roster": "/nowhere"}],
)
def test_a_node_without_its_files_refuses(config, plan, node_config):
    grid = InProcessGrid(client.node.app.app, 1, config, node_configs={0: node_config})
    assert ask(grid, advertise_request(plan, a_charge(config, plan))).error.code == Refusal.BAD_DATA.value


def wrong_identity(kind):
    key = {
        "p-256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ed25519 alone": lambda: Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32),
    }[kind]()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("kind", ["p-256", "ed25519 alone", "a stranger's", "junk"])
def test_a_node_refuses_an_identity_that_is_not_in_the_roster(config, plan, tmp_path, kind):
    whole = {"junk": b"junk", "a stranger's": IdentityKey.from_secret_bytes(bytes([99]) * 64).to_pem()}
    (tmp_path / "0.pem").write_bytes(whole[kind] if kind in whole else wrong_identity(kind))
    grid = InProcessGrid(client.node.app.app, 1, config)
    assert ask(grid, advertise_request(plan, a_charge(config, plan))).error.code == Refusal.BAD_DATA.value


def test_two_nodes_with_one_identity_end_the_run(config, tmp_path):
    (tmp_path / "1.pem").write_bytes((tmp_path / "0.pem").read_bytes())
    with pytest.raises(RoundAbortedError, match="organisation 1, which another node is") as caught:
        run(config)
    assert f"node {BAD}" in str(caught.value)


@pytest.mark.parametrize("text", ["not hex", "", "ab\ncd\n"])
def test_a_wrong_roster_ends_the_run_before_anything_is_charged(config, tmp_path, text):
    (tmp_path / "roster").write_text(text)
    with pytest.raises(
        UsageError, match=r"Ed25519 and ML-DSA-44 together|one public identity a line|the plan is for 4"
    ):
        run(config)
    assert not server.coordinator.app.Path(config["ledger"]).exists()


# --------------------------------------------------------------------------------------------- wrong configuration
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", "8"),
        ("fmr", True),
        ("population", ""),
        ("output", 5),
        ("profile", "/none"),
        ("profile", __file__),
        ("condition", "moonlight"),
        ("condition", ""),
        ("fmr", 0.0009),
        ("fmr", 0.06),
        ("references", 0),
        ("references", 6),
        ("references", 1.0),
        ("frames", 4),
        ("roster", "/none"),
        ("colluders", -1),
        ("dropouts", 1.0),
        ("dropouts", 2),
    ],
)
def test_a_wrong_configuration_ends_the_run_before_anything_is_charged(config, key, value):
    config[key] = value
    with pytest.raises(UsageError):
        run(config)
    assert not server.coordinator.app.Path(config["ledger"]).exists()


def test_a_false_match_rate_that_nobody_can_state_is_refused_with_the_reason(config):
    config["fmr"] = 0.0001
    with pytest.raises(UsageError, match=r"below 0\.001 cannot be stated"):
        run(config)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
def test_a_local_run_through_flowers_own_processes(tmp_path):
    everybody, said = synthetic_people(NAMES), []
    settings = {
        "epsilon": 8.0,
        "population": "synthetic",
        "ledger": tmp_path / "ledger.jsonl",
        "budget_epsilon": 8.0,
        "references": 2,
    }
    organisations = [everybody.of_people(names) for names in OF_ORGANISATION]
    release = run_locally(organisations, synthetic_profile(), CONDITION, **settings, progress=said.append)
    assert release.adapted
    assert any(line.startswith("privacy: epsilon 8") for line in said)
    with pytest.raises(BudgetExhaustedError, match="is exhausted: epsilon"):
        run_locally(organisations, synthetic_profile(), CONDITION, **settings)
