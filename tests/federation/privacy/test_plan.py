import dataclasses
import hashlib
import inspect
import json
import math
import re

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting import rdp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from federation.errors import BudgetExhaustedError, MalformedMessageError, UsageError
from federation.learning.evaluation_plan import EvaluationPlan, Group
from federation.privacy.ledger import LedgerChain, LedgerEntry
from federation.privacy.plan import (
    Adaptation,
    PrivacyPlan,
    epsilon_of,
    epsilon_of_gaussians,
    operating_system_noise,
)
from server.coordinator.ledger import PrivacyLedger

DELTA = 1e-5


def plan_for(epsilon=8.0, people=24, **changes):
    return PrivacyPlan.for_epsilon(
        epsilon, **{"delta": DELTA, "people": people, "organisations": 4, "dimension": 192, "directions": 58, **changes}
    )


# ---------------------------------------------------------------------------------------------------- accounting
def subsampled(sampling_prob, noise, steps):
    return dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(sampling_prob, dp.GaussianDpEvent(noise)), steps)


@pytest.mark.parametrize("noise_multipliers", [(0.3,), (1.34, 0.67), (20.0,) * 5, (9.9,), (10.1,), (300.0, 400.0)])
@pytest.mark.parametrize("delta", [1e-5, 1e-8])
def test_coarse_steps_of_the_accountant_stay_a_bound_and_close(noise_multipliers, delta):
    event = dp.ComposedDpEvent([dp.GaussianDpEvent(noise) for noise in noise_multipliers])
    assert 0 <= epsilon_of_gaussians(noise_multipliers, delta) - epsilon_of(event, delta) + 1e-9 < 1e-5


def test_the_order_of_releases_changes_nothing():
    assert epsilon_of_gaussians((0.67, 1.34), DELTA) == epsilon_of_gaussians((1.34, 0.67), DELTA)


def test_pld_gives_the_known_epsilon_and_rdp_a_looser_one():
    event = subsampled(0.1, 3.0, 512)
    assert epsilon_of(event, 1e-6) == pytest.approx(3.77, abs=0.005)
    accountant = rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.ADD_OR_REMOVE_ONE)
    assert accountant.compose(event).get_epsilon(1e-6) == pytest.approx(4.05, abs=0.005)


@pytest.mark.parametrize(
    ("event", "epsilon"),
    [
        (dp.GaussianDpEvent(0.6), 8.004),
        (dp.SelfComposedDpEvent(dp.GaussianDpEvent(5.0), 20), 3.849),
        (subsampled(0.1, 1.0, 300), 12.398),
        (dp.ComposedDpEvent([subsampled(0.1, 1.0, 100), dp.SelfComposedDpEvent(dp.GaussianDpEvent(3.0), 5)]), 7.908),
    ],
    ids=["one release", "twenty", "sampled", "mixed"],
)
def test_epsilon_of_known_mechanisms(event, epsilon):
    assert epsilon_of(event, DELTA) == pytest.approx(epsilon, abs=0.002)


@pytest.mark.parametrize(("epsilon", "noise"), [(1, 3.73), (2, 1.99), (4, 1.08), (8, 0.60)])
def test_the_noise_of_a_plan_is_the_analytic_one(epsilon, noise):
    assert plan_for(float(epsilon)).noise_multiplier == pytest.approx(noise, rel=0.005)


@given(one=st.floats(0.8, 20), other=st.floats(0.8, 20))
@settings(max_examples=10)
def test_two_gaussians_cost_what_one_of_their_joint_precision_costs(one, other):
    joint = 1 / math.sqrt(1 / one**2 + 1 / other**2)
    assert epsilon_of_gaussians((one, other), DELTA) == pytest.approx(
        epsilon_of_gaussians((joint,), DELTA), rel=2e-3, abs=1e-3
    )


# ---------------------------------------------------------------------------------------------------------- plan
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
def test_the_releases_of_a_plan_compose_to_its_epsilon(share):
    plan = plan_for(people=300, threshold_share=share)
    assert len(plan.events) == 2
    charged = epsilon_of_gaussians(plan.noise_multipliers, DELTA)
    assert charged <= plan.epsilon
    assert charged == pytest.approx(plan.epsilon, rel=0.005)


def test_a_plan_with_too_little_noise_does_not_add_up():
    plan = plan_for()
    with pytest.raises(UsageError, match="does not add up"):
        dataclasses.replace(plan, noise_multiplier=plan.noise_multiplier * 0.99)
    with pytest.raises(UsageError, match="does not add up"):
        dataclasses.replace(plan, epsilon=7.9)


FOR_EPSILON = {
    PrivacyPlan: {
        "delta": 2e-6,
        "people": 2000,
        "organisations": 7,
        "dimension": 190,
        "directions": 57,
        "threshold_share": 0.4,
        "centre_clip": 0.8,
        "colluders": 2,
        "dropouts": 1,
        "tuned": 100,
        "steps": 3,
        "gradient_clip": 0.07,
    },
    EvaluationPlan: {
        "delta": 2e-6,
        "groups": (Group("all", 4000, 4000),),
        "people": 4000,
        "organisations": 7,
        "release": "ab" * 32,
        "threshold": 700,
        "code_length": 2048,
        "bins": 6,
        "colluders": 2,
        "dropouts": 1,
        "largest_half_width": 0.2,
    },
}
"""What each plan is made for, nothing of it what it is by default."""


@pytest.mark.parametrize("kind", FOR_EPSILON)
def test_a_plan_for_an_epsilon_keeps_all_that_it_was_made_for(kind):
    asked = FOR_EPSILON[kind]
    assert asked.keys() == inspect.signature(kind.for_epsilon).parameters.keys() - {"epsilon"}
    plan = kind.for_epsilon(6, **asked)
    assert {name: getattr(plan, name) for name in asked} == asked
    assert (plan.epsilon, type(plan.epsilon)) == (6.0, float)


@pytest.mark.parametrize("kind", FOR_EPSILON)
def test_noise_is_asked_of_the_closed_form_first_and_then_of_the_accountant(kind, monkeypatch):
    """Tiny noise would keep the accountant busy; and what it says above the promise, though by a hair, is too much."""
    plan = kind.for_epsilon(6.0, **FOR_EPSILON[kind])
    for says, noise in ((lambda *_: 6.0 + 1e-9, plan.noise_multiplier), (lambda *_: pytest.fail("was asked"), 0.06)):
        for module in ("federation.privacy.plan", "federation.learning.evaluation_plan"):
            monkeypatch.setattr(f"{module}.epsilon_of_gaussians", says)
        with pytest.raises(UsageError, match=r"the noise is too small|does not add up"):
            dataclasses.replace(plan, noise_multiplier=noise)


def test_a_statement_says_of_its_plan_what_it_promises_and_to_whom():
    plan = plan_for(4.0, 300, organisations=7, colluders=2, dropouts=1)
    said = plan.statement()
    assert (said.people_train, said.organisations, said.colluders, said.dropouts) == (300, 7, 2, 1)
    assert (said.epsilon, said.delta, said.events) == (4.0, DELTA, plan.events)
    mu = math.hypot(*(1 / noise for noise in plan.noise_multipliers))
    exact = stats.norm(mu).sf(stats.norm.isf(0.001)), stats.norm.cdf(mu / 2)
    for stated, least in zip((said.attacks.detected, said.attacks.right), exact, strict=True):
        assert least <= stated <= least + 2e-4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epsilon": 0.0}, "the plan's epsilon must be a positive"),
        ({"epsilon": math.nan}, "the plan's epsilon must be a positive"),
        ({"epsilon": 65.0}, "epsilon must be from 0.01 to 64, got 65"),
        ({"epsilon": 1e-9}, "epsilon must be from 0.01 to 64, got 1e-09"),
        ({"delta": 1e-300}, "delta must be from 1e-12 to 0.001, got"),
        ({"delta": 0.0}, "the plan's delta must be a positive float,"),
        ({"delta": 0.1}, "delta must be from 1e-12 to 0.001, got 0.1"),
        ({"people": 3}, "3 people cannot fill 4 organisations"),
        ({"people": 24.0}, "the plan's people must be a positive int,"),
        ({"people": True}, "the plan's people must be a positive int,"),
        ({"organisations": 0}, "the plan's organisations must be a positive"),
        ({"organisations": 1}, "1 organisations cannot stand 1 colluders"),
        ({"colluders": -1}, "the plan's colluders must be a positive"),
        ({"colluders": 4}, "4 organisations cannot stand 4 colluders"),
        ({"colluders": True}, "the plan's colluders must be a positive"),
        ({"dropouts": 2}, "4 organisations cannot stand 1 colluders"),
        ({"dropouts": 0.0}, "the plan's dropouts must be a positive int,"),
        ({"noise_multiplier": math.inf}, "the plan's noise_multiplier must be a"),
        ({"threshold_share": 1.0}, "threshold_share must be from 0.001 to"),
        ({"centre_clip": -1.0}, "the plan's centre_clip must be a positive"),
        ({"centre_clip": "0.9"}, "the plan's centre_clip must be a positive"),
        ({"directions": 0}, "the plan's directions must be a positive"),
        ({"directions": 193}, "an embedding of 192 numbers has no 193"),
        ({"directions": 58.0}, "the plan's directions must be a positive"),
    ],
    ids=str,
)
def test_a_plan_out_of_range_cannot_be_built(change, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        dataclasses.replace(plan_for(), **change)


def test_delta_must_be_smaller_than_one_over_the_people():
    with pytest.raises(UsageError, match="delta"):
        plan_for(people=200_000, delta=1e-4)


@pytest.mark.parametrize(
    ("epsilon", "people", "asked"),
    [
        (1.0, 24, []),
        (2.0, 24, []),
        (4.0, 24, ["moments"]),
        (8.0, 24, ["moments"]),
        (64.0, 23, []),
        (8.0, 59, ["moments"]),
        (0.5, 60, []),
        (1.0, 60, []),
        (2.0, 60, ["moments", "threshold"]),
        (8.0, 60, ["moments", "threshold"]),
        (1.0, 100, ["threshold"]),
        (1.0, 250, ["moments", "threshold"]),
    ],
)
def test_the_plan_alone_decides_what_is_asked(epsilon, people, asked):
    plan = plan_for(epsilon, people)
    assert [name for name, _ in plan.events] == asked
    assert plan.checks_threshold == ("threshold" in asked)
    assert plan.adaptation is (Adaptation.CENTRE if "moments" in asked else Adaptation.NONE)


def test_half_of_the_precision_goes_to_each_of_two_releases_and_all_of_it_to_one_alone():
    both = plan_for(2.0, 60)
    assert both.moments_noise_multiplier == both.threshold_noise_multiplier
    assert both.noise_multiplier**-2 == pytest.approx(sum(noise**-2 for noise in both.noise_multipliers))
    centre, check = plan_for(4.0, 24), plan_for(1.0, 100)
    assert centre.events == (("moments", centre.noise_multiplier),)
    assert check.events == (("threshold", check.noise_multiplier),)
    assert (centre.threshold_noise_multiplier, check.moments_noise_multiplier) == (math.inf, math.inf)


def test_a_plan_that_asks_nothing_costs_nothing_and_says_so():
    plan = plan_for(1.0)
    statement = plan.statement()
    assert (plan.events, plan.noise_multipliers) == ((), ())
    assert epsilon_of_gaussians(plan.noise_multipliers, DELTA) == 0
    assert (statement.epsilon, statement.delta, statement.events) == (0.0, 0.0, ())
    assert (statement.people_train, statement.organisations) == (0, 0)
    assert PrivacyPlan.from_config(plan.to_config()) == plan


def test_planned_noise_is_what_the_sums_will_carry():
    """Of a record clipped to 0.9 and averaged over people; and of three shares whose weights add up to half of them."""
    plan = plan_for(2.0, 100)
    draws = np.random.default_rng(0).normal(size=(4000, 58)) * plan.noise_with(plan.moments_noise_multiplier, 4)
    assert plan.centre_noise_norm == pytest.approx(np.sqrt(((0.9 * draws / 100) ** 2).sum(axis=1).mean()), rel=0.01)
    noise = draws[:, :3].ravel() * plan.threshold_noise_multiplier / plan.moments_noise_multiplier
    assert plan.share_noise == pytest.approx((noise * np.sqrt(2 / 3) / 50).std(), rel=0.03)
    alone, check = plan_for(4.0, 24), plan_for(1.0, 100)  # one release has all of the precision
    draws = np.random.default_rng(1).normal(size=(4000, 58))
    for one, noise in ((alone, alone.moments_noise_multiplier), (check, check.threshold_noise_multiplier)):
        carried = draws * one.noise_with(noise, 4)
        if one is alone:
            found = np.sqrt(((0.9 * carried / 24) ** 2).sum(axis=1).mean())
            assert one.centre_noise_norm == pytest.approx(found, rel=0.01)
        else:
            assert one.share_noise == pytest.approx((carried * np.sqrt(2 / 3) / 50).std(), rel=0.03)


def test_no_honest_sum_of_pairs_is_longer_than_half_of_its_people():
    plan = plan_for(64.0, 80)
    assert [plan.longest(name, 24) for name, _ in plan.events] == [24, 12]


def test_sizes_of_releases_are_the_directions_and_three_bins():
    assert [plan_for(2.0, 60).release_size(name) for name in ("moments", "threshold")] == [58, 3]


@pytest.mark.parametrize(("colluders", "dropouts", "survivors"), [(0, 0, 4), (1, 0, 4), (1, 1, 3), (3, 0, 4)])
def test_the_honest_survivors_alone_carry_the_promised_noise(colluders, dropouts, survivors):
    plan = plan_for(colluders=colluders, dropouts=dropouts)
    each = plan.noise_with(1.0, 1)
    assert math.sqrt(survivors - colluders) * each == pytest.approx(1)
    assert plan.noise_with(1.0, survivors) >= 1
    assert plan.noise_with(2.0, survivors) == pytest.approx(2 * math.sqrt(survivors) * each)


def test_what_is_adapted_is_decided_for_the_noise_that_everybody_adds():
    assert plan_for().centre_noise_norm == pytest.approx(plan_for(colluders=0).centre_noise_norm * math.sqrt(4 / 3))
    assert plan_for(4.0).adaptation is Adaptation.CENTRE
    assert plan_for(4.0, dropouts=1).adaptation is Adaptation.NONE


def test_what_is_agreed_on_is_every_field_of_a_plan_each_under_its_name():
    plan = plan_for()
    fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    assert plan.digest == hashlib.sha256(json.dumps(dict(sorted(fields.items()))).encode()).digest()
    others = [PrivacyPlan.from_kept_config(fields | {name: value + 1}).digest for name, value in fields.items()]
    assert len({plan.digest, *others}) == len(fields) + 1 == 15


def test_a_plan_survives_the_wire_and_a_false_one_does_not():
    plan = plan_for()
    assert PrivacyPlan.from_config(plan.to_config()) == plan
    for damage in (
        {"noise_multiplier": 0.1},
        {"epsilon": "8"},
        {"unknown": 1},
    ):
        with pytest.raises(MalformedMessageError, match="the privacy plan in the message is not a"):
            PrivacyPlan.from_config({**plan.to_config(), **damage})
    with pytest.raises(MalformedMessageError, match="the privacy plan in the message is not a"):
        PrivacyPlan.from_config({})


# --------------------------------------------------------------------------------------------------------- noise
def test_noise_is_standard_normal_and_a_wrong_scale_is_not():
    samples = operating_system_noise(200_000)
    assert stats.kstest(samples, "norm").pvalue > 1e-6
    assert stats.kstest(samples * 1.05, "norm").pvalue < 1e-6
    assert abs(np.corrcoef(samples[:-1], samples[1:])[0, 1]) < 0.015


def test_noise_does_not_repeat():
    assert not np.isclose(operating_system_noise(64), operating_system_noise(64)).any()
    assert operating_system_noise(0).shape == (0,)


# -------------------------------------------------------------------------------------------------------- ledger
CAP = {"cap_epsilon": 8.0, "cap_delta": DELTA}


@pytest.fixture
def ledger(tmp_path):
    return PrivacyLedger(tmp_path / "folder" / "ledger.jsonl")


def test_reservations_compose_and_the_cap_holds(ledger):
    ledger.reserve("orl", "run 1", (1.08,), **CAP)  # epsilon 4
    ledger.commit("orl", "run 1", "ab" * 32)
    ledger.reserve("orl", "run 2", (1.2,), **CAP)
    before = ledger.path.read_bytes()
    with pytest.raises(BudgetExhaustedError, match="exhausted"):
        ledger.reserve("orl", "run 3", (0.8,), **CAP)
    assert ledger.path.read_bytes() == before
    assert ledger.chain().charged("orl") == (1.08, 1.2)


def test_a_reservation_that_never_fits_writes_nothing(ledger):
    with pytest.raises(BudgetExhaustedError, match="the privacy budget of 'orl' is exhausted:"):
        ledger.reserve("orl", "run 1", (0.3,), **CAP)
    assert ledger.path.read_bytes() == b""


def test_populations_have_budgets_of_their_own(ledger):
    ledger.reserve("one", "run 1", (0.61,), **CAP)
    ledger.reserve("other", "run 2", (0.61,), **CAP)
    with pytest.raises(BudgetExhaustedError, match="the privacy budget of 'one' is exhausted:"):
        ledger.reserve("one", "run 3", (1.0,), **CAP)


def test_a_cap_is_set_once(ledger):
    ledger.reserve("orl", "run 1", (5.0,), **CAP)
    for other in ({"cap_epsilon": 9.0, "cap_delta": DELTA}, {"cap_epsilon": 8.0, "cap_delta": 1e-6}):
        with pytest.raises(UsageError, match="cannot be changed"):
            ledger.reserve("orl", "run 2", (5.0,), **other)


def test_a_run_is_charged_once_and_committed_once(ledger):
    ledger.reserve("orl", "run 1", (5.0,), **CAP)
    with pytest.raises(UsageError, match="already"):
        ledger.reserve("orl", "run 1", (5.0,), **CAP)
    ledger.commit("orl", "run 1", "ab" * 32)
    for population, run in (("orl", "run 1"), ("orl", "run 2"), ("other", "run 1")):
        with pytest.raises(UsageError, match="no open reservation"):
            ledger.commit(population, run, "ab" * 32)


@pytest.fixture
def written(ledger):
    for number in range(3):
        ledger.reserve("orl", f"run {number}", (6.0,), **CAP)
        ledger.commit("orl", f"run {number}", "ab" * 32)
    return ledger.path.read_bytes()


def test_a_file_cut_at_any_byte_keeps_every_whole_line_and_can_be_written_again(tmp_path, written):
    path = tmp_path / "cut.jsonl"
    ends = [0, *(index + 1 for index, byte in enumerate(written) if byte == ord("\n"))]
    for cut in range(len(written) + 1):
        path.write_bytes(written[:cut])
        whole = sum(end <= cut for end in ends) - 1
        chain = PrivacyLedger(path).chain()
        assert len(chain.entries) == whole
        # A charge whose line was whole is never lost: it had been acknowledged.
        assert len(chain.charged("orl")) == sum(e.kind == "reserve" for e in chain.entries)
        assert path.read_bytes() == written[: ends[whole]]
    path.write_bytes(written[:-5])
    PrivacyLedger(path).reserve("orl", "run 9", (6.0,), **CAP)
    assert len(PrivacyLedger(path).chain().charged("orl")) == 4


def test_another_file_may_be_no_ledger_at_all_and_a_later_entry_is_of_one(tmp_path, written):
    path = tmp_path / "release.zip"
    for data, said in ((b"PK and more", "at entry 1, or this is none;"), (written + b"PK\n", r"at entry \d+; restore")):
        path.write_bytes(data + b"\n")
        with pytest.raises(UsageError, match=f"^the privacy ledger was altered {said}"):
            PrivacyLedger(path).chain()


def test_any_changed_byte_is_noticed(tmp_path, written):
    path = tmp_path / "changed.jsonl"
    last = written.rindex(b"\n", 0, -1)
    for position in range(0, last, 7):
        path.write_bytes(written[:position] + bytes([written[position] ^ 1]) + written[position + 1 :])
        with pytest.raises(UsageError, match="the privacy ledger was altered at entry"):
            PrivacyLedger(path).chain()


@pytest.mark.parametrize("damage", [lambda ls: ls[1:], lambda ls: [ls[1], ls[0], *ls[2:]], lambda ls: [*ls, ls[-1]]])
def test_lines_removed_swapped_or_repeated_break_the_chain(tmp_path, written, damage):
    path = tmp_path / "moved.jsonl"
    path.write_bytes(b"".join(damage(written.splitlines(keepends=True))))
    with pytest.raises(UsageError, match="broken"):
        PrivacyLedger(path).chain()


@given(st.binary(max_size=400))
def test_any_bytes_are_a_ledger_line_or_malformed(data):
    try:
        entry = LedgerEntry.from_line(data)
    except MalformedMessageError:
        return
    assert entry.to_line() == data


def test_the_head_moves_with_every_entry(ledger):
    heads = {LedgerChain().head, ledger.reserve("orl", "run", (5.0,), **CAP), ledger.commit("orl", "run", "ab" * 32)}
    assert len(heads) == 3
    assert ledger.chain().head in heads


def test_a_folder_in_the_ledgers_place_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be opened"):
        PrivacyLedger(tmp_path).chain()


@pytest.mark.parametrize("epsilon", [0.5, 8.0, 64.0])
@pytest.mark.parametrize("people", [8, 24, 59, 60, 200, 700, 5000])
def test_a_network_is_never_tuned_without_a_threshold_that_its_people_checked(epsilon, people):
    """What is publicly known of distances is about the frozen one."""
    for organisations in (2, 4):
        plan = plan_for(epsilon, people=people, organisations=organisations, tuned=5376, steps=1)
        assert (plan.adaptation is Adaptation.SCALES) <= plan.checks_threshold
        if plan.adaptation is Adaptation.SCALES:
            assert [name for name, _ in plan.events] == ["scales-1", "threshold"]
            assert plan.scales_noise_norm <= 0.1


def a_ledger(*noise, cap=16.0):
    chain = LedgerChain((LedgerChain().next_open("people", epsilon=cap, delta=DELTA),))
    for number, one in enumerate(noise):
        chain = LedgerChain((*chain.entries, chain.next_reserve("people", f"run {number}", one)))
    return chain


@pytest.mark.parametrize(("at_most", "counts"), [(2.0, 2.0), (8.0, 4.0), (math.inf, 4.0)])
def test_the_smaller_of_two_caps_counts(at_most, counts):
    """Of noise 1.0 once, which is epsilon 4.4; with noise 3.0, which is 1.2, either allows it."""
    ledger = a_ledger(cap=4.0)
    with pytest.raises(BudgetExhaustedError, match=rf"epsilon 0\.00 of {counts:g} is spent, .* bring it to 4\.\d\d;"):
        ledger.next_reserve("people", "run", (1.0,), at_most_epsilon=at_most)
    assert ledger.next_reserve("people", "run", (3.0,), at_most_epsilon=at_most).run == "run"


def test_what_is_charged_is_rounded_up_and_what_is_left_down():
    (account,) = a_ledger((4.0,), (3.0, 3.0)).accounts()
    spent = math.ceil(100 * epsilon_of_gaussians((3.0, 3.0, 4.0), DELTA)) / 100
    assert account.epsilon < spent
    first, found, *runs = str(account).splitlines()
    assert first == f"people: epsilon {spent:.2f} of 16 is charged and {16 - spent:.2f} left, at delta 1e-05"
    assert round(16 - account.epsilon, 2) != round(16 - spent, 2)
    assert found.startswith("  Whoever accuses one innocent in a thousand finds at most 0.53 %")
    assert runs == ["  run 0: noise 4.000, charged", "  run 1: noise 3.000, 3.000, charged"]
