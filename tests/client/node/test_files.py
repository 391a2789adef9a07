"""What a node makes of its files and of its configuration: each fault has words, and each number its own place."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict

from client.node import metrics as node_metrics
from client.node import reaching, records
from client.node.app import NotAgreedError, _delay_class, _ledgers, _require_agreed, _rest_of_class
from client.node.ledger import COORDINATOR, OWN, PEOPLE, Ledgers, WrongLedgerError
from client.node.metrics import NodeMetrics
from client.node.reaching import Reached, reach
from client.node.turns import TURNS, RepeatedError
from federation.errors import BudgetExhaustedError, PeerError, UnavailableError, UsageError
from federation.learning.evaluation_plan import EvaluationPlan, Group
from federation.learning.scales import ChipSet
from federation.membership.fleet import NEWEST_SECONDS, OLDEST_SECONDS
from federation.privacy.ledger import LedgerChain
from federation.privacy.plan import LARGEST_EPSILON, epsilon_of_gaussians
from federation.recognition.model import Adapter
from tests.federated import the_plan
from tests.people import synthetic_people


def a_context(**config):
    return Context(
        run_id=7, node_id=5, node_config={name.replace("_", "-"): value for name, value in config.items()},
        state=RecordDict(), run_config=config.pop("run_config", {}),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- configuration
def test_a_ledger_has_the_operator_s_folder_budget_and_delta_and_else_those_that_are_stated(tmp_path):
    told = _ledgers(a_context(ledgers=str(tmp_path), budget_epsilon=3.5, delta=2e-6))
    assert (told.folder, told.budget_epsilon, told.delta) == (tmp_path, 3.5, 2e-6)
    told = _ledgers(a_context(ledgers=str(tmp_path)))
    assert (told.budget_epsilon, told.delta) == (LARGEST_EPSILON, 1e-5)


def test_an_answer_waits_as_long_as_the_configuration_says_and_else_not_at_all():
    assert _delay_class(a_context(delay_class_seconds=1.5)) == 1.5
    assert _delay_class(a_context()) == 0.0


@pytest.mark.parametrize(
    ("seconds", "rest"), [(0.0, 2.0), (0.5, 1.5), (2.0, 0.0), (2.1, 1.9), (4.0, 0.0), (4.5, 3.5), (8.25, 7.75)]
)
def test_an_answer_ends_with_its_class(seconds, rest):
    assert _rest_of_class(seconds, 2.0) == pytest.approx(rest)
    assert _rest_of_class(seconds, 0.0) == 0.0


def test_what_the_operator_agreed_to_is_compared_at_its_bounds():
    plan = the_plan(4.0, colluders=2, dropouts=0)
    exact = epsilon_of_gaussians(plan.noise_multipliers, 1e-5)
    for config in ({}, {"max_epsilon": exact}, {"min_colluders": 2}, {"recipes": "threshold,moments,scales"}):
        _require_agreed(plan, a_context(delta=1e-5, **config))
    for config, said in (
        ({"max_epsilon": exact - 1e-6}, r"the plan asks for epsilon 4 at delta 1e-05, which is 3\.9\d at 1e-05"),
        ({"min_colluders": 3}, "the plan stands 2 colluders, and min-colluders is 3"),
        ({"recipes": "moments"}, "the plan sums moments, threshold, and recipes are moments"),
    ):
        with pytest.raises(NotAgreedError, match=said):
            _require_agreed(plan, a_context(delta=1e-5, **config))


@pytest.mark.parametrize(
    ("config", "run", "found"),
    [
        ({"embeddings": "/own.npz", "partition_id": 3}, {"organisations": "/all"}, "/own.npz"),
        ({"partition_id": 3}, {"organisations": "/all"}, "/all/3.npz"),
        ({"partition_id": 0}, {"organisations": "/all"}, "/all/0.npz"),
    ],
)
def test_a_file_is_the_node_s_own_and_else_that_of_its_part_of_a_simulation(config, run, found):
    assert str(records.path(a_context(**config, run_config=run), "embeddings", "{}.npz")) == found


@pytest.mark.parametrize(("config", "run"), [({}, {"organisations": "/all"}), ({"partition_id": 1}, {}), ({}, {})])
def test_a_file_that_nobody_named_is_said_by_its_key(config, run):
    with pytest.raises(UsageError, match='set groups="FILE" in this node\'s configuration'):
        records.path(a_context(**config, run_config=run), "groups", "{}.groups.json")


def test_whoever_takes_part_and_is_listed_is_measured_in_their_group(tmp_path):
    (tmp_path / "e.npz").write_bytes(synthetic_people(["anna", "ben", "cleo"]).to_bytes())
    (tmp_path / "g.json").write_text(json.dumps({"cleo": "x", "anna": "y", "gone": "y", "ben": 7}))
    context = a_context(embeddings=str(tmp_path / "e.npz"), groups=str(tmp_path / "g.json"))
    assert records.groups(context) == {"anna": "y", "cleo": "x"}
    facts = records.facts_of(context, the_plan())
    assert (facts.people, facts.dimension, len(facts.listed)) == (3, synthetic_people(["a"]).dimension, 3)
    assert facts.names_of(["ben", "stranger", "anna"]) == ["ben", "anna"]
    assert facts.listed == tuple(sorted(facts.listed))
    assert records.count(records.embeddings(context)) == 3


def test_people_are_listed_in_an_order_that_says_nothing_of_their_names_and_of_an_evaluation_those_in_groups(tmp_path):
    names = [f"person {number:02d}" for number in range(9)]
    (tmp_path / "e.npz").write_bytes(synthetic_people(names).to_bytes())
    (tmp_path / "g.json").write_text(json.dumps(dict.fromkeys([*names[2:6], "gone"], "odd")))
    context = a_context(embeddings=str(tmp_path / "e.npz"), groups=str(tmp_path / "g.json"))
    evaluation = EvaluationPlan.for_epsilon(
        8.0, delta=1e-5, groups=(Group("odd", 480, 480), Group("even", 480, 480)), people=960, organisations=4,
        release="ab" * 32, threshold=700, code_length=2048,
    )  # fmt: skip
    for plan, listed in ((the_plan(), names), (evaluation, names[2:6])):
        facts = records.facts_of(context, plan)
        digests = [hashlib.sha256(name.encode()).digest() for name in listed]
        assert (facts.people, facts.listed) == (len(listed), tuple(sorted(digests)))
        assert facts.listed != tuple(digests)


def test_nobody_takes_part_is_said(tmp_path):
    everybody = synthetic_people(["anna"])
    (tmp_path / "e.npz").write_bytes(everybody.of_people([]).to_bytes())
    with pytest.raises(UsageError, match="nobody of this organisation takes part"):
        records.facts_of(a_context(embeddings=str(tmp_path / "e.npz")), the_plan())
    assert np.unique(everybody.people).tolist() == ["anna"]


def test_a_question_reads_the_first_images_of_each_person_and_camera_and_no_damaged_row(tmp_path):
    """How long an answer takes must not be one person's doing, and none may fail because of one."""
    rows = synthetic_people(["anna", "ben"], images=records.MOST_IMAGES + 2)
    damaged = rows.embeddings.copy()
    damaged[np.flatnonzero(rows.people == "ben")[0]] = np.nan
    np.savez(tmp_path / "e.npz", embeddings=damaged, people=rows.people, profiles=rows.profiles, images=rows.images)
    found = records.embeddings(a_context(embeddings=str(tmp_path / "e.npz")))
    usable = rows.select(np.isfinite(damaged).all(axis=1))
    assert found.to_bytes() == usable.first_of_each(records.MOST_IMAGES).to_bytes()
    assert len(found) == 4 * records.MOST_IMAGES


@pytest.fixture
def chips_of(tmp_path):
    """A folder with chips of some people and embeddings of others; gives the node's configuration."""

    def write(sitters, embedded):
        names = np.repeat(np.array(sitters), 10)
        faces = np.zeros((len(names), 112, 112, 3), np.uint8)
        faces[:, 0, 0, 0] = np.arange(len(names))
        images = np.array([f"{name} {number}" for number, name in enumerate(names)])
        (tmp_path / "chips.npz").write_bytes(ChipSet(faces, faces + 100, names, images).to_bytes())
        (tmp_path / "e.npz").write_bytes(synthetic_people(embedded).to_bytes())
        return a_context(
            embeddings=str(tmp_path / "e.npz"), chips=str(tmp_path / "chips.npz"), model=str(tmp_path / "model")
        )

    return write


def test_chips_are_those_of_people_who_take_part_and_the_first_of_each(chips_of):
    chips = records.chips(chips_of(["anna", "ben", "cleo"], ["anna", "cleo", "dora"]))
    assert chips.people.tolist() == ["anna"] * records.MOST_PAIRS + ["cleo"] * records.MOST_PAIRS
    assert chips.reference[:, 0, 0, 0].tolist() == [*range(records.MOST_PAIRS), *range(20, 20 + records.MOST_PAIRS)]
    assert records.pairs(5) == 5 * records.MOST_PAIRS


@pytest.mark.parametrize(
    ("listed", "expected"), [(None, ["anna", "cleo"]), ({"cleo": "x", "gone": "x"}, ["cleo"]), ({}, [])]
)
def test_a_tuned_network_embeds_the_listed_ones_and_else_everybody_without_denormal_numbers(
    chips_of, monkeypatch, listed, expected
):
    context, seen = chips_of(["anna", "cleo", "left"], ["anna", "cleo"]), []
    adapter = Adapter.identity(192)
    everybody = records.embedded(context, adapter, 7, listed)
    assert sorted(set(everybody.people.tolist())) == expected

    @contextmanager
    def no_denormals():
        seen.append("in")
        yield
        seen.append("out")

    monkeypatch.setattr(records, "no_denormals", no_denormals)
    monkeypatch.setattr(records, "recogniser", lambda asked: seen.append(asked) or "a network")
    monkeypatch.setattr(
        ChipSet, "embed", lambda self, *given: seen.append((sorted(set(self.people.tolist())), *given)) or "embedded"
    )
    scales = np.arange(4.0)
    tuned = SimpleNamespace(scales={"probe": scales})
    assert records.embedded(context, tuned, 7, listed) == "embedded"
    assert seen == ["in", context, (expected, "a network", scales, 7 * records.MOST_PAIRS), "out"]


def test_only_the_network_that_comes_with_the_project_is_tuned(chips_of, monkeypatch):
    asked = []
    monkeypatch.setattr("client.faces.models.load_recogniser", lambda path: asked.append(path) or "somebody's own")
    context = chips_of(["anna"], ["anna"])
    with pytest.raises(UsageError, match="the recipe scales tunes the recogniser that comes with the project"):
        records.recogniser(context)
    assert [str(path) for path in asked] == [context.node_config["model"]]


def test_threads_and_denormal_numbers_are_as_before_also_after_a_failure():
    """What runs next in this process would be slower, or would take small numbers for zero."""
    before, small = torch.get_num_threads(), torch.full((4,), 1e-39)
    torch.set_num_threads(3)
    try:
        inside = []
        with pytest.raises(TypeError, match="no number"), records.no_denormals():
            raise TypeError("no number", inside.append((torch.get_num_threads(), (small * 1.0).count_nonzero())))
        assert inside == [(1, 0)]
        assert (torch.get_num_threads(), (small * 1.0).count_nonzero()) == (3, 4)
    finally:
        torch.set_num_threads(before)


# --------------------------------------------------------------------------------------------------------- ledgers
def test_a_ledger_that_cannot_be_used_says_where(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"the ledgers in .*file/ledgers cannot be used: \w+"):
        Ledgers(tmp_path / "file/ledgers", 8.0, 1e-5).charge("a/moments", 2.0)
    (tmp_path / "ledgers").mkdir()
    (tmp_path / "ledgers" / OWN).mkdir()
    with pytest.raises(UsageError, match=r"cannot read .*own\.jsonl: Is a directory"):
        Ledgers(tmp_path / "ledgers", 8.0, 1e-5).own()


@pytest.mark.parametrize(
    ("name", "advice"),
    [(OWN, "restore the newest copy that you have"), (COORDINATOR, "restore it from another organisation")],
)
def test_a_ledger_that_was_altered_says_whom_to_ask(tmp_path, name, advice):
    own = Ledgers(tmp_path, 8.0, 1e-5)
    own.charge("a/moments", 2.0)
    (tmp_path / name).write_bytes(b"{}\n")
    with pytest.raises(UsageError, match=f"{name} was altered; {advice}"):
        own._read(name)


@pytest.mark.parametrize("left", [COORDINATOR, TURNS])
def test_an_own_ledger_that_is_gone_is_missed_where_anything_was_kept_after_it(tmp_path, left):
    own = Ledgers(tmp_path, 8.0, 1e-5)
    assert own.own() == LedgerChain()
    (tmp_path / left).write_bytes(b"")
    for content in (None, b""):
        if content is not None:
            (tmp_path / OWN).write_bytes(content)
        with pytest.raises(UsageError, match=r"own\.jsonl is gone or empty"):
            own.own()


def test_a_charge_is_made_once_for_its_noise_and_within_the_budget(tmp_path):
    own = Ledgers(tmp_path / "ledgers", 3.0, 1e-5)
    first = own.charge("a/moments", 2.0)
    assert own.folder.stat().st_mode & 0o777 == 0o700
    assert own.charge("a/moments", 2.0) == first == own.own()
    with pytest.raises(WrongLedgerError, match="charged before, for other noise"):
        own.charge("a/moments", 2.5)
    with pytest.raises(BudgetExhaustedError, match="exhausted"):
        own.charge("b/moments", 1.0)
    (account,) = own.own().accounts()
    assert (account.population, account.cap_epsilon, account.delta) == (PEOPLE, 3.0, 1e-5)
    assert account.epsilon == pytest.approx(epsilon_of_gaussians((2.0,), 1e-5))
    assert own.own() == first


def test_shares_are_opened_once_for_a_charge_and_for_none_that_was_never_made(tmp_path):
    own = Ledgers(tmp_path, 8.0, 1e-5)
    own.charge("a/moments", 4.0)
    charged = own.charge("b/moments", 4.0)
    with pytest.raises(UsageError, match="c/moments"):
        own.opened("c/moments", "cd" * 32)
    assert own.own() == charged
    opened = own.opened("a/moments", "ab" * 32)
    assert own.own() == opened
    assert [entry.kind for entry in opened.entries] == ["open", "reserve", "reserve", "commit"]
    assert (opened.release_of("a/moments"), opened.release_of("b/moments")) == (
        "ab" * 32,
        charged.release_of("b/moments"),
    )
    for again in (lambda: own.opened("a/moments", "cd" * 32), lambda: own.charge("a/moments", 4.0)):
        with pytest.raises(RepeatedError, match=r"^$"):
            again()
    assert own.own() == opened
    own.opened("b/moments", "ab" * 32)


def test_a_budget_may_be_lowered_and_neither_raised_nor_counted_at_another_delta(tmp_path):
    Ledgers(tmp_path, 6.0, 1e-5).charge("a/moments", 3.0)
    before = (tmp_path / OWN).read_bytes()
    for ledgers, said in (
        (Ledgers(tmp_path, 6.5, 1e-5), r"budget-epsilon is 6\.5 and was 6 when people were first charged"),
        (Ledgers(tmp_path, 6.0, 1e-6), "delta is 1e-06 and was 1e-05"),
    ):
        with pytest.raises(UsageError, match=said):
            ledgers.charge("b/moments", 3.0)
    with pytest.raises(BudgetExhaustedError, match="exhausted"):
        Ledgers(tmp_path, 1.5, 1e-5).charge("b/moments", 3.0)
    assert (tmp_path / OWN).read_bytes() == before
    Ledgers(tmp_path, 5.0, 1e-5).charge("b/moments", 3.0)


# ---------------------------------------------------------------------------------------------------- the gateway
GATEWAY = SimpleNamespace(address="fed.example.org:8443", authority="")


@pytest.fixture
def answering(monkeypatch):
    """A gateway that answers with these headers."""

    def answer(headers, **more):
        shown = SimpleNamespace(getpeercert=lambda: {"notAfter": "Jan  5 09:34:43 2030 GMT"})
        stream = SimpleNamespace(get_extra_info=lambda _: shown)
        reply = httpx.Response(200, headers=headers, extensions={"network_stream": stream}, **more)
        asked = []

        class Client(httpx.Client):
            def __init__(self, **options):
                asked.append(options["timeout"])
                transport = httpx.MockTransport(lambda request: asked.append(str(request.url)) or reply)
                super().__init__(transport=transport)

        monkeypatch.setattr(reaching.httpx, "Client", Client)
        monkeypatch.setattr(reaching.ssl, "create_default_context", lambda cadata: (asked.append(cadata), None)[1])
        return asked

    return answer


def test_a_gateway_tells_its_time_and_when_its_certificate_ends(answering):
    asked = answering({"date": "Tue, 01 Jan 2030 12:00:00 GMT"})
    noon = 1_893_499_200
    reached = reach(SimpleNamespace(address="fed.example.org:8443", authority="an authority"), clock=lambda: noon + 3.0)
    assert reached == Reached(2.5, ssl.cert_time_to_seconds("Jan  5 09:34:43 2030 GMT"))
    assert asked == ["an authority", 10.0, "https://fed.example.org:8443/health"]
    assert reached.days_left(noon) == pytest.approx(3 + (21 * 3600 + 34 * 60 + 43) / 86_400)


def test_of_a_gateway_s_answer_no_more_is_read_than_its_head(answering):
    """Whoever answers in its place could send for ever."""

    class Endless(httpx.SyncByteStream):
        taken, closed = 0, False

        def __iter__(self):
            Endless.taken += 1
            yield b"x"

        def close(self):
            Endless.closed = True

    answering({"date": "Tue, 01 Jan 2030 12:00:00 GMT"}, stream=Endless())
    reach(GATEWAY, clock=lambda: 0.0)
    assert (Endless.taken, Endless.closed) == (0, True)


@pytest.mark.parametrize("headers", [{}, {"date": "soon"}])
def test_what_answers_without_a_time_is_no_gateway(answering, headers):
    answering(headers)
    with pytest.raises(PeerError, match=r"fed\.example\.org:8443 is no gateway: its answer has no time"):
        reach(GATEWAY)


def refused_by(code, words=""):
    """What httpx raises of a handshake: OpenSSL's own error is the cause of a cause, or its context."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, words
    return error


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
@pytest.mark.parametrize(
    ("cause", "kind", "said"),
    [
        (OSError("refused"), UnavailableError, r"^the gateway at fed\.example\.org:8443 does not answer: all failed$"),
        (
            refused_by(10),
            PeerError,
            "certificate of the gateway at .* has expired, by this machine's clock: the coordi",
        ),
        (refused_by(9), UsageError, "certificate of the gateway at .* is not valid yet by this machine's clock, which"),
        (refused_by(19, "self-signed"), PeerError, "whoever answers at .* is not the gateway .* joined: self-signed"),
    ],
    ids=["down", "expired", "not yet", "another authority"],
)
def test_a_handshake_that_fails_is_said_with_its_cure(monkeypatch, link, cause, kind, said):
    outer, inner = httpx.ConnectError("all failed"), OSError("in between")
    setattr(outer, link, inner)
    setattr(inner, link, cause)

    def fails(*_, **__):
        raise outer

    monkeypatch.setattr(reaching.ssl, "create_default_context", lambda cadata: cadata)
    monkeypatch.setattr(reaching.httpx, "Client", fails)
    with pytest.raises(kind, match=said):
        reach(GATEWAY)


def test_a_clock_is_taken_within_its_bounds_and_a_warning_begins_with_the_sixtieth_day():
    for ahead, taken in (
        (-OLDEST_SECONDS, False),
        (-OLDEST_SECONDS + 0.01, True),
        (NEWEST_SECONDS - 0.01, True),
        (NEWEST_SECONDS, False),
    ):
        if taken:
            Reached(ahead, 0.0).require_clock()
            continue
        with pytest.raises(UsageError, match=f"at most {NEWEST_SECONDS} s ahead and {OLDEST_SECONDS} s behind"):
            Reached(ahead, 0.0).require_clock()
    assert Reached(0.0, 86_400.0 * 10).days_left(86_400.0 * 7.5) == 2.5


def test_what_is_left_of_a_budget_is_composed_anew_only_when_the_ledger_has_changed(tmp_path, monkeypatch):
    own, composed = Ledgers(tmp_path, 8.0, 1e-5), []
    accounts = LedgerChain.accounts
    monkeypatch.setattr(LedgerChain, "accounts", lambda self: composed.append(self) or accounts(self))
    metrics = NodeMetrics(own, Counter())
    for charges in range(1, 3):
        own.charge(f"{charges}/moments", 4.0)
        for _ in range(2):
            left = next(iter(metrics.collect())).samples[0]
            assert left.value == pytest.approx(8.0 - epsilon_of_gaussians((4.0,) * charges, 1e-5))
        assert len(composed) == charges


def test_metrics_that_are_hidden_answer_nobody_and_leave_nothing_open(monkeypatch):
    steps = []
    server = SimpleNamespace(shutdown=lambda: steps.append("shutdown"), server_close=lambda: steps.append("close"))
    thread = SimpleNamespace(join=lambda: steps.append("join"))
    shown = []
    monkeypatch.setattr(
        node_metrics, "start_http_server", lambda port, **named: shown.append((port, named)) or (server, thread)
    )
    metrics = NodeMetrics(SimpleNamespace(own=LedgerChain, budget_epsilon=8.0), Counter({"hours": 2, "recipe": 3}))
    hide = node_metrics.show(metrics, "[::1]", 9003)
    ((port, named),) = shown
    assert (port, named["addr"], steps) == (9003, "::1", [])
    samples = [sample for family in named["registry"].collect() for sample in family.samples]
    refused = {sample.labels["reason"]: sample.value for sample in samples if sample.name.endswith("refusals_total")}
    assert refused == {"hours": 2, "recipe": 3}
    hide()
    assert steps == ["shutdown", "close", "join"]


def test_a_port_that_metrics_cannot_have_is_said(monkeypatch):
    def taken(*_, **__):
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(node_metrics, "start_http_server", taken)
    metrics = NodeMetrics(SimpleNamespace(own=LedgerChain, budget_epsilon=8.0), Counter())
    with pytest.raises(UsageError, match=r"cannot listen on 127\.0\.0\.3:9003"):
        node_metrics.show(metrics, "127.0.0.3", 9003)
