"""The real ServerApp against real ClientApps: in one process, and once through Flower's own processes."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from people import DIMENSION, start_vector, synthetic_people
from simulator import FIRST_NODE, InProcessGrid, server_context

import client.app
import server.app
from federation.errors import BudgetExhaustedError, RoundAbortedError, UsageError
from federation.evaluation import choose_threshold, impostor_summary
from federation.privacy import PrivacyPlan
from federation.release import ModelRelease
from federation.rounds import EVALUATE_THRESHOLD, TRAIN_MOMENTS, Refusal, moments_request, share_reply
from federation.training import build_adapter, moments_share
from server.ledger import PrivacyLedger
from server.local_run import run_locally

ORGANISATIONS = 4
NAMES = [f"secret person {index:02d}" for index in range(24)]
OF_ORGANISATION = [NAMES[i::ORGANISATIONS] for i in range(ORGANISATIONS)]


@pytest.fixture
def config(tmp_path):
    everybody = synthetic_people(NAMES)
    for index, names in enumerate(OF_ORGANISATION):
        (tmp_path / f"{index}.npz").write_bytes(everybody.of_people(names).to_bytes())
    np.save(tmp_path / "start.npy", start_vector())
    return {
        "epsilon": 8.0,
        "delta": 1e-5,
        "fmr": 0.01,
        "people": len(NAMES),
        "num-organisations": ORGANISATIONS,
        "dimension": DIMENSION,
        "threshold-share": 0.2,
        "centre-clip": 0.65,
        "scatter-clip": 0.015,
        "population": "synthetic",
        "ledger": str(tmp_path / "ledger.jsonl"),
        "budget-epsilon": 8.0,
        "public-start": str(tmp_path / "start.npy"),
        "organisations": str(tmp_path),
        "output": str(tmp_path / "release.json"),
        "model-name": "synthetic",
        "model-digest": "ab" * 32,
        "node-deadline-seconds": 0.05,
        "round-deadline-seconds": 0.3,
    }


def run(config, **grid):
    nodes = InProcessGrid(client.app.app, grid.pop("nodes", ORGANISATIONS), config, **grid)
    server.app.app(nodes, server_context(config))
    return nodes


def ledger_kinds(config):
    return [entry.kind for entry in PrivacyLedger(server.app.Path(config["ledger"])).chain().entries]


def the_release(config):
    with open(config["output"], "rb") as file:  # noqa: PTH123 - a string from the configuration
        return ModelRelease.from_bytes(file.read())


def test_a_run_writes_a_release_and_settles_the_ledger(config, capsys):
    grid = run(config)
    release = the_release(config)
    assert release.adapted
    assert release.privacy.epsilon == 8.0
    assert release.privacy.people_train == len(NAMES)
    assert [name for name, _ in release.privacy.events] == ["moments", "threshold"]
    assert ledger_kinds(config) == ["open", "reserve", "commit"]
    entries = PrivacyLedger(server.app.Path(config["ledger"])).chain().entries
    assert entries[-1].release == release.digest
    assert tuple(noise for _, noise in release.privacy.events) == entries[1].noise_multipliers
    assert len(grid.sent) == 2 * ORGANISATIONS
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("intaglio: privacy: epsilon 8, delta 1e-05")
    assert any("must not look at single organisations' sums" in line for line in said)


def test_without_noise_the_federated_release_is_the_central_one(config, monkeypatch):
    monkeypatch.setattr(client.app, "operating_system_noise", np.zeros)
    run(config)
    plan = PrivacyPlan.for_epsilon(8.0, delta=1e-5, people=len(NAMES), organisations=ORGANISATIONS, dimension=DIMENSION)
    everybody, start = synthetic_people(NAMES), start_vector()
    trained = build_adapter(moments_share(everybody, start, plan, noise=np.zeros), start, plan)
    release = the_release(config)
    for profile, centre in trained.adapter.centres.items():
        assert np.abs(release.adapter.centres[profile] - centre).max() < 1e-6
    total = sum(
        impostor_summary(everybody.of_people(names), trained.adapter, trained.prior) for names in OF_ORGANISATION
    )
    threshold = choose_threshold(
        total, trained.prior, pairs=len(NAMES), noise_multiplier=plan.threshold_noise_multiplier, fmr=0.01
    )
    assert release.threshold == threshold


def test_two_runs_never_agree_on_the_noise(config, tmp_path):
    centres = []
    for index in range(2):
        config["ledger"] = str(tmp_path / f"ledger {index}")
        run(config)
        centres.append(the_release(config).adapter.centres["probe"])
    assert not np.isclose(*centres, atol=1e-12).any()


def test_no_key_of_the_configuration_is_a_seed_and_every_key_has_a_default(config):
    import tomllib  # noqa: PLC0415 - only here

    with (server.app.Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        defaults = tomllib.load(file)["tool"]["flwr"]["app"]["config"]
    assert set(defaults) == set(config)
    assert not [key for key in defaults if "seed" in key or "noise" in key]
    assert {key: type(value) for key, value in defaults.items()} == {key: type(value) for key, value in config.items()}


def test_hopeless_noise_deploys_nothing_and_asks_for_the_threshold_only(config):
    config["epsilon"] = 0.5
    grid = run(config)
    release = the_release(config)
    assert not release.adapted
    assert "more harm than good" in release.reason
    assert {m.metadata.message_type for m in grid.sent} == {EVALUATE_THRESHOLD}
    assert [name for name, _ in release.privacy.events] == ["threshold"]


def test_enough_people_deploy_the_whitening_too(config, tmp_path):
    config["people"] = 100 * ORGANISATIONS
    for index in range(ORGANISATIONS):
        people = synthetic_people([f"{index}-{i}" for i in range(100)], seed=index)
        (tmp_path / f"{index}.npz").write_bytes(people.to_bytes())
    run(config)
    assert the_release(config).adaptation == "centre and scatter"
    assert the_release(config).adapter.whitening is not None


def test_a_second_run_past_the_budget_asks_nobody(config):
    run(config)
    before = the_release(config).digest
    grid = InProcessGrid(client.app.app, ORGANISATIONS, config)
    context = server_context(config)
    context.run_id = 2
    with pytest.raises(BudgetExhaustedError):
        server.app.app(grid, context)
    assert not grid.sent
    assert the_release(config).digest == before


# ---------------------------------------------------------------------------------------------------- wrong nodes
BAD = FIRST_NODE + 1


def replaced(content):
    """The second organisation answers every question with this."""

    def tamper(node, reply):
        if node == BAD:
            reply.content = content(reply)
        return reply

    return tamper


def share_of(reply):
    return reply.content["arrays"]["share"].numpy()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda r: share_reply(share_of(r) * np.nan, 6), "not finite"),
        (lambda r: share_reply(share_of(r)[:-1], 6), "shape"),
        (lambda r: share_reply(share_of(r).astype(np.float32), 6), "float64"),
        (lambda r: share_reply(share_of(r)[None], 6), "shape"),
        (lambda r: share_reply(share_of(r) + 3, 6), "longer than 6 people"),
        (lambda r: share_reply(share_of(r) + 1e300, 6), "longer than 6 people"),
        (lambda r: share_reply(share_of(r), 0), "number of people"),
        (lambda r: RecordDict({"arrays": ArrayRecord({"share": Array(share_of(r))})}), "number of people"),
        (lambda _reply: RecordDict({"metrics": MetricRecord({"people": 6})}), "missing"),
        (
            lambda _reply: RecordDict(
                {
                    "arrays": ArrayRecord({"share": Array("float64", (64,), "numpy.ndarray", b"junk")}),
                    "metrics": MetricRecord({"people": 6}),
                }
            ),
            "decoded",
        ),
    ],
    ids=["nan", "short", "float32", "extra axis", "too long", "huge", "nobody", "no count", "no share", "junk"],
)
def test_a_wrong_reply_ends_the_run_names_its_node_and_says_the_cost(config, damage, said):
    with pytest.raises(RoundAbortedError, match=said) as caught:
        run(config, tamper=replaced(damage))
    assert f"node {BAD} " in str(caught.value)
    assert "epsilon 8 stays charged" in str(caught.value)
    assert ledger_kinds(config) == ["open", "reserve"]
    assert not server.app.Path(config["output"]).exists()


def test_a_silent_node_ends_the_run_at_the_deadline(config):
    with pytest.raises(RoundAbortedError, match=rf"node {BAD} did not answer train.moments within 0.3 s") as caught:
        run(config, tamper=lambda node, reply: None if node == BAD else reply)
    assert "stays charged" in str(caught.value)


def test_a_wrong_number_of_people_is_refused(config):
    config["people"] = 25
    with pytest.raises(RoundAbortedError, match="25 people and the organisations hold 24"):
        run(config)


@pytest.mark.parametrize("nodes", [3, 5])
def test_a_wrong_number_of_nodes_ends_the_run_before_anything_is_charged(config, nodes):
    with pytest.raises(RoundAbortedError, match="charged"):
        run(config, nodes=nodes)
    assert not server.app.Path(config["ledger"]).exists()


def test_what_goes_wrong_in_a_node_stays_there(config, monkeypatch):
    def explode(*_args, **_more):
        raise RuntimeError(f"{NAMES[0]} scored 0.93 in /home/operator")

    monkeypatch.setattr(client.app, "moments_share", explode)
    replies = []
    with pytest.raises(RoundAbortedError, match="its own log says more") as caught:
        run(config, tamper=lambda _node, reply: replies.append(reply) or reply)
    assert all(reply.error.code == Refusal.INTERNAL.value for reply in replies)
    assert all(reply.error.reason == Refusal.INTERNAL.text for reply in replies)
    assert "secret person" not in str(caught.value)


def test_foreign_error_texts_are_not_repeated(config):
    def angry(node, reply):
        if node != BAD:
            return reply
        return Message(Error(code=77, reason="<script>"), reply_to=asked[node])

    asked = {}
    original = client.app.app

    class Remembering:
        def __call__(self, message, context):
            asked[context.node_id] = message
            return original(message, context)

    grid = InProcessGrid(Remembering(), ORGANISATIONS, config, tamper=angry)
    with pytest.raises(RoundAbortedError, match="error code 77") as caught:
        server.app.app(grid, server_context(config))
    assert "<script>" not in str(caught.value)


def question(plan):
    return Message(moments_request(plan, start_vector()), FIRST_NODE, TRAIN_MOMENTS)


def ask(grid, content, message_type=TRAIN_MOMENTS):
    (reply,) = grid.send_and_receive([Message(content, FIRST_NODE, message_type)])
    return reply


@pytest.fixture
def plan():
    return PrivacyPlan.for_epsilon(8.0, delta=1e-5, people=24, organisations=4, dimension=DIMENSION)


def test_a_node_answers_a_question_once_in_a_run(config, plan):
    grid = InProcessGrid(client.app.app, 1, config)
    assert ask(grid, moments_request(plan, start_vector())).has_content()
    assert ask(grid, moments_request(plan, start_vector())).error.code == Refusal.REPEATED.value


@pytest.mark.parametrize("limit", [{"max-epsilon": 4.0}, {"max-organisations": 3}])
def test_a_node_keeps_its_operators_limits(config, plan, limit):
    grid = InProcessGrid(client.app.app, 1, config, node_configs={0: limit})
    assert ask(grid, moments_request(plan, start_vector())).error.code == Refusal.NOT_AGREED.value


def without_noise(request):
    request["plan"]["noise_multiplier"] = 0.01
    return request


@pytest.mark.parametrize(
    "damage",
    [
        lambda _request: RecordDict(),
        without_noise,
        lambda request: RecordDict({"plan": request["plan"]}),
        lambda request: RecordDict({**request, "arrays": ArrayRecord({"start": Array(np.full(DIMENSION, np.nan))})}),
    ],
    ids=["empty", "too little noise", "no start", "start not finite"],
)
@pytest.mark.parametrize("message_type", [TRAIN_MOMENTS, EVALUATE_THRESHOLD])
def test_a_node_does_its_own_accounting_and_refuses_wrong_questions(config, plan, damage, message_type):
    grid = InProcessGrid(client.app.app, 1, config)
    reply = ask(grid, damage(moments_request(plan, start_vector())), message_type)
    assert reply.error.code == Refusal.BAD_REQUEST.value


def test_a_node_reads_its_own_embeddings_first(config, plan, tmp_path):
    own = tmp_path / "own.npz"
    own.write_bytes(synthetic_people(["only one"]).to_bytes())
    grid = InProcessGrid(client.app.app, 1, config, node_configs={0: {"embeddings": str(own)}})
    assert ask(grid, moments_request(plan, start_vector())).content["metrics"]["people"] == 1


@pytest.mark.parametrize("node_config", [{"embeddings": "/nowhere.npz"}, {"partition-id": 17}])
def test_a_node_without_embeddings_refuses(config, plan, node_config):
    grid = InProcessGrid(client.app.app, 1, config, node_configs={0: node_config})
    assert ask(grid, moments_request(plan, start_vector())).error.code == Refusal.BAD_DATA.value


# --------------------------------------------------------------------------------------------- wrong configuration
@pytest.mark.parametrize(
    ("key", "value"),
    [("epsilon", 0.0), ("epsilon", "8"), ("fmr", True), ("population", ""), ("output", 5), ("public-start", "/none")],
)
def test_a_wrong_configuration_ends_the_run_before_anything_is_charged(config, key, value):
    config[key] = value
    with pytest.raises(UsageError):
        run(config)
    assert not server.app.Path(config["ledger"]).exists()


def test_a_start_of_another_shape_is_refused(config, tmp_path):
    np.save(tmp_path / "start.npy", np.zeros(DIMENSION + 1))
    with pytest.raises(UsageError, match="public start"):
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
        "model_name": "synthetic",
        "model_digest": "ab" * 32,
    }
    organisations = [everybody.of_people(names) for names in OF_ORGANISATION]
    release = run_locally(organisations, start_vector(), **settings, progress=said.append)
    assert release.adapted
    assert any(line.startswith("privacy: epsilon 8") for line in said)
    with pytest.raises(BudgetExhaustedError):
        run_locally(organisations, start_vector(), **settings)
