"""Plan and ledger by their numbers alone: what a plan asks at which noise, what is charged for it, and when no more.

No accountant: plans are kept ones, and where a ledger asks what releases cost together, a sum of precisions answers.
"""

import dataclasses
import itertools
import json
import math
import re
from dataclasses import replace

import pytest
from scipy import stats

from federation.errors import BudgetExhaustedError, MalformedMessageError, ProofError, UsageError
from federation.privacy import ledger as ledgers
from federation.privacy import plan as plans
from federation.privacy import planning
from federation.privacy.epsilon_audit import AuditMethod, EpsilonAudit
from federation.privacy.gaussian import epsilon_of_a_person, mu_of_epsilon
from federation.privacy.ledger import Account, LedgerChain, LedgerEntry, ledger_from_file
from federation.privacy.plan import Adaptation, PrivacyPlan, gaussian_noise_multiplier
from federation.privacy.planning import epsilon_of_releases, noise_multiplier_for
from federation.promise import AttackRates

FIELDS = {
    "epsilon": 4.5,
    "delta": 3e-6,
    "noise_multiplier": 1.75,
    "people": 3000,
    "organisations": 11,
    "dimension": 190,
    "directions": 57,
    "threshold_share": 0.3,
    "centre_clip": 0.8,
    "colluders": 3,
    "dropouts": 2,
    "tuned": 0,
    "steps": 0,
    "gradient_clip": 0.07,
}
PROMISED = 11 - 3 - 2


def kept(**changes):
    return PrivacyPlan.from_kept_config(FIELDS | changes)


# ---------------------------------------------------------------------------------------------- what is asked of people
def test_every_release_of_the_moments_has_its_share_of_the_precision():
    plan = kept()
    expected = [("moments", 1.75 / math.sqrt(0.7)), ("threshold", 1.75 / math.sqrt(0.3))]
    assert [name for name, _ in plan.events] == [name for name, _ in expected]
    assert plan.noise_multipliers == pytest.approx([noise for _, noise in expected])
    assert (plan.recipe, plan.adaptation, plan.checks_threshold) == ("moments", Adaptation.CENTRE, True)
    assert (plan.moments_noise_multiplier, plan.threshold_noise_multiplier) == plan.noise_multipliers
    assert (plan.release_size("moments"), plan.release_size("threshold")) == (57, 3)
    assert (plan.longest("moments", 500), plan.longest("threshold", 500)) == (500.0, 250.0)
    more = math.sqrt(11 / PROMISED)
    assert plan.centre_noise_norm == pytest.approx(math.sqrt(57) * 0.8 * 1.75 / math.sqrt(0.7) * more / 3000)
    assert plan.share_noise == pytest.approx(math.sqrt(2 / 3) * 1.75 / math.sqrt(0.3) * more / 1500)
    assert plan.planned_noise == f"the planned noise on the centre is {plan.centre_noise_norm:.2f}"


def test_every_step_of_the_scales_has_its_part_of_their_share():
    plan = kept(tuned=130, steps=4)
    step, check = 1.75 / math.sqrt(0.7 / 4), 1.75 / math.sqrt(0.3)
    assert [name for name, _ in plan.events] == ["scales-1", "scales-2", "scales-3", "scales-4", "threshold"]
    assert plan.noise_multipliers == pytest.approx([step] * 4 + [check])
    assert pytest.approx(sum(1 / noise**2 for noise in plan.noise_multipliers)) == 1 / 1.75**2
    assert (plan.recipe, plan.adaptation, plan.checks_threshold) == ("scales", Adaptation.SCALES, True)
    assert (plan.moments_noise_multiplier, plan.threshold_noise_multiplier) == (math.inf, plan.noise_multipliers[-1])
    assert (plan.release_size("scales-4"), plan.release_size("threshold")) == (130, 3)
    assert (plan.longest("scales-4", 500), plan.longest("threshold", 500)) == (500.0, 250.0)
    # Averaged over all steps, the noise is that of one release with the whole share.
    more = math.sqrt(11 / PROMISED)
    assert plan.scales_noise_norm == pytest.approx(math.sqrt(130) * 1.75 / math.sqrt(0.7) * more / 3000)
    assert plan.planned_noise == f"the planned noise on the average gradient is {plan.scales_noise_norm:.2f} clips"


def noise_at(limit, share, **changes):
    """The noise multiplier at which what a share of the precision leaves is `limit`; written out by hand."""
    given = FIELDS | changes
    size = {
        "centre": math.sqrt(given["directions"]) * given["centre_clip"],
        "scales": math.sqrt(given["tuned"]),
        "check": math.sqrt(2 / 3) * 2,
    }
    more = math.sqrt(given["organisations"] / (given["organisations"] - given["colluders"] - given["dropouts"]))
    return {name: limit[name] * math.sqrt(share[name]) * given["people"] / more / size[name] for name in limit}


LIMITS = {"centre": 0.4, "check": 0.09}
SHARED, ALONE = {"centre": 0.7, "check": 0.3}, {"centre": 1.0, "check": 1.0}
BELOW, ABOVE = 1 - 1e-9, 1 + 1e-9


def test_both_releases_are_made_while_each_is_good_for_something_with_its_share_and_then_the_check_alone():
    shared, alone = noise_at(LIMITS, SHARED), noise_at(LIMITS, ALONE)
    first, last = min(shared.values()), alone["check"]
    assert first < last
    both, check = (Adaptation.CENTRE, True), (Adaptation.NONE, True)
    for noise, asked in ((first * BELOW, both), (first * ABOVE, check), (last * BELOW, check)):
        plan = kept(noise_multiplier=noise)
        assert (plan.adaptation, plan.checks_threshold) == asked
        assert [name for name, _ in plan.events] == (["moments", "threshold"] if asked == both else ["threshold"])
    assert kept(noise_multiplier=last * BELOW).noise_multipliers == (last * BELOW,)
    beyond = kept(noise_multiplier=last * ABOVE)
    assert beyond.checks_threshold is False
    assert beyond.adaptation is (Adaptation.CENTRE if last < alone["centre"] else Adaptation.NONE)


@pytest.mark.parametrize(("people", "learns"), [(23, False), (24, True), (59, True)])
def test_who_are_too_few_to_check_learn_with_the_whole_precision(people, learns):
    alone = noise_at(LIMITS, ALONE, people=people)
    for noise, small in ((alone["centre"] * BELOW, True), (alone["centre"] * ABOVE, False)):
        plan = kept(people=people, noise_multiplier=noise)
        assert plan.checks_threshold is False
        assert plan.events == ((("moments", noise),) if learns and small else ())
        assert plan.adaptation is (Adaptation.CENTRE if learns and small else Adaptation.NONE)


def test_scales_are_tuned_up_to_a_tenth_of_a_clip_and_never_without_the_check():
    asked = {"tuned": 5000, "steps": 2}
    shared = noise_at({"scales": 0.1, "check": 0.09}, {"scales": 0.7, "check": 0.3}, **asked)
    assert shared["scales"] < shared["check"]
    for noise, adaptation in (
        (shared["scales"] * BELOW, Adaptation.SCALES),
        (shared["scales"] * ABOVE, Adaptation.NONE),
    ):
        plan = kept(noise_multiplier=noise, **asked)
        assert (plan.adaptation, plan.checks_threshold) == (adaptation, True)


def test_what_asks_nobody_charges_nothing():
    plan = kept(people=23)
    assert (plan.events, plan.noise_multipliers) == ((), ())
    said = plan.statement()
    assert (said.epsilon, said.people_train, said.events, said.attacks) == (0.0, 0, (), None)


def test_a_statement_says_the_very_noise_that_is_added_and_charged(monkeypatch):
    asked = []

    class Curve:
        def rates(self):
            return AttackRates.of_mu(1 / 1.75)

    monkeypatch.setattr(plans, "trade_off", lambda *noise: asked.append(noise) or Curve())
    plan = kept(tuned=130, steps=4)
    said = plan.statement()
    assert said.events == plan.events
    assert asked == [(plan.noise_multipliers,)]
    assert (said.privacy_unit, said.neighboring_relation) == ("person of one organisation", "add_or_remove_one")
    assert (said.epsilon, said.delta, said.people_train, said.organisations) == (4.5, 3e-6, 3000, 11)
    assert (said.colluders, said.dropouts, said.attacks) == (3, 2, AttackRates.of_mu(1 / 1.75))


# ---------------------------------------------------------------------------------------------------- a plan is refused
@pytest.fixture
def adds_up(monkeypatch):
    """Every noise is enough."""
    monkeypatch.setattr(plans, "epsilon_of_gaussians", lambda *_: 0.0)
    monkeypatch.setattr(plans, "gaussian_noise_multiplier", lambda *_: 0.0)


@pytest.mark.usefixtures("adds_up")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"directions": 191}, "an embedding of 190 numbers has no 191 directions"),
        ({"tuned": 5}, "takes 1 to 64 steps"),
        ({"steps": 5}, "takes 1 to 64 steps"),
        ({"tuned": 5, "steps": 65}, "steps must be from 0 to 64"),
        ({"organisations": 7}, "7 organisations cannot stand 3 colluders and 2 drop-outs"),
        ({"organisations": 1, "colluders": 0, "dropouts": 0}, "at least 2"),
        ({"people": 10}, "10 people cannot fill 11 organisations"),
        ({"delta": 1.001 / 3000}, "too large for 3000 people"),
        ({"tuned": -1, "steps": 1}, "the plan's tuned must be a positive int"),
        ({"gradient_clip": 0.0}, "the plan's gradient_clip must be a positive float"),
        ({"gradient_clip": 1}, "the plan's gradient_clip must be a positive float"),
        ({"steps": 1.0, "tuned": 5}, "the plan's steps must be a positive int"),
        ({"dimension": 1025}, "dimension must be from 1 to 1024"),
        ({"noise_multiplier": 0.049}, "noise_multiplier must be from 0.05 to 10000"),
    ],
    ids=str,
)
def test_a_plan_that_is_wrong_in_one_thing_is_not_made_here_nor_from_the_wire(change, said):
    assert PrivacyPlan(**FIELDS) == kept()
    with pytest.raises(UsageError, match=said):
        PrivacyPlan(**FIELDS | change)
    with pytest.raises(MalformedMessageError, match="not a valid plan") as caught:
        PrivacyPlan.from_config(FIELDS | change)
    assert isinstance(caught.value.__cause__, UsageError)


@pytest.mark.parametrize("asked", [{}, {"tuned": 130, "steps": 4}])
def test_a_plan_adds_up_by_every_release_that_it_makes_at_its_own_delta(asked, monkeypatch):
    """First by the closed form and then by the accountant; either at the very promise, and not beyond."""
    calls = []
    answers = {"closed": 1.75, "accountant": 4.5}
    monkeypatch.setattr(
        plans, "gaussian_noise_multiplier", lambda *given: calls.append(("closed", *given)) or answers["closed"]
    )
    monkeypatch.setattr(
        plans, "epsilon_of_gaussians", lambda *given: calls.append(("accountant", *given)) or answers["accountant"]
    )
    plan = PrivacyPlan(**FIELDS | asked)
    assert calls == [("closed", 4.5, 3e-6), ("accountant", plan.noise_multipliers, 3e-6)]
    for wrong, beyond, count in (("closed", 1.7501, 1), ("accountant", 4.5001, 2)):
        del calls[:]
        with monkeypatch.context() as changed:
            changed.setitem(answers, wrong, beyond)
            with pytest.raises(
                UsageError, match=r"noise multiplier of 1.75 is too small for epsilon 4.5 at delta 3e-06"
            ):
                PrivacyPlan(**FIELDS | asked)
        assert len(calls) == count


@pytest.mark.usefixtures("adds_up")
def test_plans_at_the_very_edge_are_made():
    for change in (
        {"directions": 190},
        {"tuned": 1, "steps": 1},
        {"tuned": 5, "steps": 64},
        {"organisations": 8},
        {"organisations": 2, "colluders": 0, "dropouts": 0},
        {"organisations": 2, "colluders": 1, "dropouts": 0},
        {"people": 11},
        {"delta": 1 / 3000},
    ):
        assert dataclasses.asdict(PrivacyPlan(**FIELDS | change)) == FIELDS | change


@pytest.mark.parametrize(("steps", "releases"), [(0, 1), (3, 3), (64, 64), (1000, 64)])
def test_noise_grows_until_every_way_of_splitting_it_keeps_the_promise(steps, releases, monkeypatch):
    """Threshold and steps, steps alone, one alone: each of them may be the one that costs too much."""
    asked = []
    answers = iter([4.5, 4.5 + 1e-9, 4.5, 4.5, 4.5 + 1e-9, 4.5 + 1e-9, 4.5, 4.5, 4.5])
    monkeypatch.setattr(plans, "epsilon_of_gaussians", lambda *given: asked.append(given) or next(answers))
    monkeypatch.setattr(PrivacyPlan, "__post_init__", lambda _: None)
    named = {name: value for name, value in FIELDS.items() if name not in {"epsilon", "noise_multiplier", "steps"}}
    plan = PrivacyPlan.for_epsilon(4.5, **named, steps=steps)
    least = gaussian_noise_multiplier(4.5, 3e-6)
    splits = (0.3, *[0.7 / releases] * releases), (1 / releases,) * releases, (1.0,)
    tries = [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0), (4, 0), (4, 1), (4, 2)]
    for (noise, delta), (grown, split) in zip(asked, tries, strict=True):
        assert delta == 3e-6
        assert noise == pytest.approx([least * 1.002**grown / math.sqrt(share) for share in splits[split]])
    assert plan.noise_multiplier == pytest.approx(least * 1.002**4)
    assert dataclasses.asdict(plan) == named | {
        "epsilon": 4.5,
        "steps": steps,
        "noise_multiplier": plan.noise_multiplier,
    }


def test_the_exact_noise_is_where_balle_and_wang_say():
    for epsilon, delta in ((0.5, 1e-6), (4.5, 3e-6), (30.0, 1e-9)):
        noise = gaussian_noise_multiplier(epsilon, delta)
        above = stats.norm.sf(epsilon * noise - 1 / (2 * noise))
        below = stats.norm.sf(epsilon * noise + 1 / (2 * noise))
        assert above - math.exp(epsilon) * below == pytest.approx(delta, rel=1e-6)


# ------------------------------------------------------------------------------------------------------ what is charged
@pytest.fixture(autouse=True)
def precisions(monkeypatch):
    """What releases cost together is the sum of their precisions, times a thousand at the other delta."""
    monkeypatch.setattr(
        ledgers,
        "epsilon_of_gaussians",
        lambda noise, delta: math.fsum(noise_**-2 for noise_ in noise) * (1000 if delta == 2e-6 else 1),
    )


def chain_of(*steps, start=None):
    chain = start or LedgerChain()
    for step in steps:
        entry = step(chain)
        chain = LedgerChain((*chain.entries, entry))
    return chain


def opened(population, epsilon=10.0, delta=1e-6):
    return lambda chain: chain.next_open(population, epsilon=epsilon, delta=delta)


def reserved(population, run, *noise):
    return lambda chain: chain.next_reserve(population, run, noise)


def committed(population, run, release):
    return lambda chain: chain.next_commit(population, run, release)


@pytest.fixture
def two():
    """Two populations, of which either has charges of its own; of each one run is released."""
    return chain_of(
        opened("staff"),
        opened("guests", 7.0, 2e-6),
        reserved("staff", "a", 1.0, 0.5),
        reserved("guests", "b", 20.0),
        reserved("staff", "c", 0.8),
        committed("guests", "b", "ab" * 32),
        committed("staff", "c", "cd" * 32),
    )


def test_each_entry_says_what_it_is_about_and_nothing_else(two):
    nothing = {"run": "", "noise_multipliers": (), "epsilon": 0.0, "delta": 0.0, "release": ""}
    expected = [
        {"kind": "open", "population": "staff", "epsilon": 10.0, "delta": 1e-6},
        {"kind": "open", "population": "guests", "epsilon": 7.0, "delta": 2e-6},
        {"kind": "reserve", "population": "staff", "run": "a", "noise_multipliers": (1.0, 0.5)},
        {"kind": "reserve", "population": "guests", "run": "b", "noise_multipliers": (20.0,)},
        {"kind": "reserve", "population": "staff", "run": "c", "noise_multipliers": (0.8,)},
        {"kind": "commit", "population": "guests", "run": "b", "release": "ab" * 32},
        {"kind": "commit", "population": "staff", "run": "c", "release": "cd" * 32},
    ]
    before = ["0" * 64, *(entry.hash for entry in two.entries[:-1])]
    assert [dataclasses.asdict(entry) for entry in two.entries] == [
        nothing | one | {"previous": previous} for one, previous in zip(expected, before, strict=True)
    ]
    assert two.head == two.entries[-1].hash
    assert LedgerChain.from_bytes(two.to_bytes()) == two


def test_each_population_has_its_own_cap_charges_and_runs(two):
    assert (two.charged("staff"), two.charged("guests"), two.charged("others")) == ((1.0, 0.5, 0.8), (20.0,), ())
    assert two.accounts() == (
        Account("staff", 10.0, 1e-6, 1 + 4 + 0.8**-2, (("a", (1.0, 0.5), ""), ("c", (0.8,), "cd" * 32))),
        Account("guests", 7.0, 2e-6, 1000 / 400, (("b", (20.0,), "ab" * 32),)),
    )
    assert (two.release_of("a"), two.release_of("b"), two.release_of("x")) == ("", "ab" * 32, "")
    assert (two.reservation("c"), two.reservation("x")) == (two.entries[4], None)
    assert (two.opening("guests"), two.opening("x")) == (two.entries[1], None)


def test_what_an_attacker_finds_follows_from_everything_that_one_population_was_charged(two):
    staff, guests = two.accounts()
    assert staff.attacks == AttackRates.of_mu(math.sqrt(1 + 4 + 0.8**-2))
    assert guests.attacks == AttackRates.of_mu(1 / 20)
    assert replace(guests, runs=()).attacks is None
    assert str(replace(guests, runs=(), epsilon=0.0)).splitlines() == [
        "guests: epsilon 0.00 of 7 is charged and 7.00 left, at delta 2e-06",
        "  Nobody was asked for anything, so nobody can be found in it.",
    ]
    assert str(staff).splitlines()[2:] == ["  a: noise 1.000, 0.500, charged", f"  c: noise 0.800, released {'cd' * 8}"]


def test_a_charge_is_taken_up_to_the_very_cap_and_nothing_of_it_is_given_back(two):
    """Of staff 6.5625 of 10 is charged, of guests 2.5 of 7: what is left counts, for each population its own."""
    staff, guests = (10 - 6.5625) ** -0.5, (4.5 / 1000) ** -0.5
    for population, least, delta_times in (("staff", staff, 1), ("guests", guests, 1000)):
        entry = two.next_reserve(population, "new", (least * (1 + 1e-9),))
        assert (entry.noise_multipliers, entry.previous) == ((least * (1 + 1e-9),), two.head)
        cap, spent = {"staff": (10, 6.5625), "guests": (7, 2.5)}[population]
        said = (
            f"the privacy budget of {population!r} is exhausted: epsilon {spent:.2f} of {cap} is spent, and this run "
            f"would bring it to {spent + delta_times * (least * 0.9) ** -2:.2f}; nothing was released. Plan a smaller "
            "epsilon"
        )
        with pytest.raises(BudgetExhaustedError, match=f"^{re.escape(said)}$"):
            two.next_reserve(population, "new", (least * 0.9,))
    with pytest.raises(BudgetExhaustedError, match="bring it to"):
        two.next_reserve("staff", "new", (staff * 1.5, staff * 1.2))  # together, not each alone
    with pytest.raises(BudgetExhaustedError, match=r"of 6\.6 is spent"):
        two.next_reserve("staff", "new", (9.0,) * 4, at_most_epsilon=6.6)
    assert two.next_reserve("staff", "new", (9.0,), at_most_epsilon=6.6).population == "staff"


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (reserved("others", "new", 9.0), "^population 'others' has no budget; open one first$"),
        (reserved("staff", "a", 9.0), "^run 'a' is in the privacy ledger already"),
        (reserved("staff", "b", 9.0), "^run 'b' is in the privacy ledger already"),  # of the other population
        (reserved("staff", "new"), "^a reservation needs the positive noise multiplier of every event$"),
        (reserved("staff", "new", 9.0, 0.0), "^a reservation needs the positive noise"),
        (reserved("staff", "new", 9.0, -9.0), "^a reservation needs the positive noise"),
        (reserved("staff", "new", math.inf), "^a reservation needs the positive noise"),
        (reserved("staff", "new", math.nan), "^a reservation needs the positive noise"),
        (committed("staff", "b", "ef" * 32), "^run 'b' has no open reservation for 'staff'$"),
        (committed("guests", "a", "ef" * 32), "^run 'a' has no open reservation for 'guests'$"),
        (committed("staff", "c", "ef" * 32), "^run 'c' has no open reservation for 'staff'$"),
        (committed("staff", "x", "ef" * 32), "^run 'x' has no open reservation for 'staff'$"),
        (
            opened("staff", 10.0, 2e-6),
            "^the budget of 'staff' was set to epsilon 10, delta 1e-06 and cannot be changed",
        ),
        (opened("staff", 7.0), "^the budget of 'staff' was set to epsilon 10, delta 1e-06 and cannot be changed"),
        (opened("", 7.0), "^a budget needs a population"),
        (opened("new", 0.0), "^a budget needs a population"),
        (opened("new", 64.1), "^a budget needs a population"),
        (opened("new", math.nan), "^a budget needs a population"),
        (opened("new", 7.0, 0.0), "^a budget needs a population"),
        (opened("new", 7.0, 1.0), "^a budget needs a population"),
    ],
)
def test_no_entry_follows_that_must_not(two, refused, said):
    with pytest.raises(UsageError, match=said):
        refused(two)


def test_an_entry_counts_for_what_its_kind_says_whatever_else_is_in_it(two):
    """A chain shows that nothing was changed, and not that whoever began it kept the rule."""
    fields = {"population": "new", "run": "n", "noise_multipliers": (3.0,), "epsilon": 5.0, "delta": 1e-6}
    for kind in ("open", "reserve", "commit"):
        entry = LedgerEntry(kind, **fields, release="ef" * 32, previous=two.head)
        chain = LedgerChain((*two.entries, entry))
        assert chain.reservation("n") == (entry if kind == "reserve" else None)
        assert chain.opening("new") == (entry if kind == "open" else None)
        assert chain.release_of("n") == ("ef" * 32 if kind == "commit" else "")
        assert [one.population for one in chain.accounts()] == ["staff", "guests", *(["new"] if kind == "open" else [])]
        assert chain.charged("new") == (3.0,)  # whatever it is called, what was charged stays charged


def test_the_same_cap_again_is_no_entry_and_a_new_one_at_the_very_edge_is(two):
    assert opened("staff")(two) is None
    assert opened("guests", 7.0, 2e-6)(two) is None
    entry = opened("new", 64)(two)
    assert (entry.epsilon, type(entry.epsilon), entry.delta) == (64.0, float, 1e-6)


# ------------------------------------------------------------------------------------------------------- what was there
@pytest.mark.parametrize(("place", "change"), list(itertools.product(range(7), ["without", "twice", "first"])))
def test_no_entry_is_left_out_repeated_or_moved(two, place, change):
    entries = list(two.entries)
    one = entries[place]
    if change == "without":
        entries.remove(one)
        broken = place + 1
    elif change == "twice":
        entries.insert(place, one)
        broken = place + 2
    else:
        entries.remove(one)
        entries.insert(0, one)
        broken = 2 if place == 0 else 1
    if entries in (list(two.entries), list(two.entries[:-1])):
        assert LedgerChain(tuple(entries))  # nothing moved, or the end was cut off, which a chain cannot show
        return
    with pytest.raises(UsageError, match=f"^the privacy ledger is broken at entry {broken}: it does not follow from"):
        LedgerChain(tuple(entries))


def test_a_copy_is_extended_from_any_of_its_beginnings_and_a_shorter_or_another_ledger_says_what_is_wrong(two):
    """How many are gone, and from where on two ledgers differ, counted from one."""
    for length in range(8):
        earlier = LedgerChain(two.entries[:length])
        two.require_extends(earlier)
        if length < 7:
            with pytest.raises(
                ProofError, match=f"holds {length} entries and the earlier copy 7: its last {7 - length} "
            ):
                earlier.require_extends(two)
    for kept_entries in range(1, 7):
        other = chain_of(opened("strangers"), start=LedgerChain(two.entries[:kept_entries]))
        for one, earlier in ((other, two), (two, other)):
            with pytest.raises(ProofError, match=f"differ from entry {kept_entries + 1} on"):
                one.require_extends(earlier)


def test_a_torn_last_line_is_left_out_of_a_file_and_of_nothing_else(two):
    data = two.to_bytes()
    assert ledger_from_file(data) == two
    assert ledger_from_file(data[:-1]).entries == two.entries[:-1]
    assert ledger_from_file(data + b"{").entries == two.entries
    assert ledger_from_file(b"{") == LedgerChain()
    with pytest.raises(MalformedMessageError, match="whole lines of at most"):
        LedgerChain.from_bytes(data[:-1])
    lines = data.splitlines(keepends=True)
    lines[2] = lines[2].replace(b"staff", b"guest")
    with pytest.raises(UsageError, match=r"^the privacy ledger was altered at entry 3; restore it from a copy$"):
        ledger_from_file(b"".join(lines))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "close"},
        {"population": "a\nb"},
        {"run": "a\x1b"},
        {"release": 1},
        {"previous": None},
        {"noise_multipliers": (1.0, 0.0)},
        {"noise_multipliers": (1.0, -1.0)},
        {"noise_multipliers": (1,)},
        {"noise_multipliers": (math.inf,)},
        {"epsilon": -1.0},
        {"epsilon": 1},
        {"delta": math.nan},
        {"delta": True},
    ],
)
def test_an_entry_with_a_field_of_the_wrong_kind_is_none(change):
    entry = LedgerEntry("reserve", "staff", "a", (2.0,), 0.0, 0.0, "", "0" * 64)
    with pytest.raises(UsageError, match="a ledger entry has a field of the wrong kind"):
        replace(entry, **change)


def refused_by(call, error):
    """What an expected error came from."""
    with pytest.raises(error, match=r".") as caught:
        call()
    return type(caught.value.__cause__)


def test_a_refusal_keeps_what_it_came_from(two):
    audit = EpsilonAudit(8.0, 1e-5, 7.25, 0.95, 4000, AuditMethod.GAUSSIAN)
    lines = two.to_bytes().replace(b"guests", b"guestz", 1)
    causes = [
        (lambda: LedgerEntry.from_line(b"{"), MalformedMessageError, json.JSONDecodeError),
        (lambda: LedgerEntry.from_line(b"{}\n"), MalformedMessageError, KeyError),
        (lambda: LedgerChain.from_lines([b"{"]), UsageError, MalformedMessageError),
        (lambda: LedgerChain.from_bytes(lines), MalformedMessageError, UsageError),
        (lambda: EpsilonAudit.from_bytes(b"{"), MalformedMessageError, json.JSONDecodeError),
        (lambda: EpsilonAudit.from_fields({}), MalformedMessageError, KeyError),
        (lambda: EpsilonAudit.from_fields(audit.to_fields() | {"runs": 0}), MalformedMessageError, UsageError),
        (lambda: noise_multiplier_for(1e-5, 1e-12), UsageError, ValueError),
    ]
    for call, error, cause in causes:
        assert refused_by(call, error) is cause


# -------------------------------------------------------------------------------------------------- many equal releases
def test_many_releases_are_one_of_less_noise(monkeypatch):
    monkeypatch.setattr(planning, "epsilon_of_gaussians", lambda *given: given)
    assert epsilon_of_releases(3.0, 2e-6, releases=4) == ((1.5,), 2e-6)
    assert epsilon_of_releases(0.05, 2e-6) == ((0.05,), 2e-6)
    assert epsilon_of_releases(1e4, 2e-6) == ((1e4,), 2e-6)


def test_noise_for_many_releases_grows_until_the_accountant_agrees(monkeypatch):
    asked, answers = [], iter([2.5001, 2.5001, 2.5])
    monkeypatch.setattr(planning, "epsilon_of_gaussians", lambda *given: asked.append(given) or next(answers))
    noise = noise_multiplier_for(2.5, 2e-6, releases=4)
    one = gaussian_noise_multiplier(2.5, 2e-6)
    assert noise == pytest.approx(2 * one * 1.002**2, rel=1e-7)
    assert [each for (each,), _ in asked] == pytest.approx([one, one * 1.002, one * 1.002**2], rel=1e-7)
    assert {delta for _, delta in asked} == {2e-6}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: epsilon_of_releases(0.0499, 2e-6), r"noise multipliers are from 0\.05 to 10000"),
        (lambda: epsilon_of_releases(10_001.0, 2e-6), r"noise multipliers are from 0\.05 to 10000"),
        (lambda: epsilon_of_releases(1.0, 0.0), "delta is between 0 and 1"),
        (lambda: epsilon_of_releases(1.0, 1.0), "delta is between 0 and 1"),
        (lambda: epsilon_of_releases(1.0, 2e-6, releases=0), "there is at least one release"),
        (lambda: noise_multiplier_for(0.0, 2e-6), r"noise needs an epsilon in \(0, 64\]"),
        (lambda: noise_multiplier_for(64.1, 2e-6), r"noise needs an epsilon in \(0, 64\]"),
        (lambda: noise_multiplier_for(1.0, 0.0), r"a delta in \(0, 1\)"),
        (lambda: noise_multiplier_for(1.0, 1.0), r"a delta in \(0, 1\)"),
        (lambda: noise_multiplier_for(1.0, 2e-6, releases=0), "and a release"),
        (lambda: epsilon_of_a_person(1.0, 2e-6, 0), "a person counts at least once"),
        (lambda: mu_of_epsilon(1.0, 0.0), "needs noise that is out of range"),
        (lambda: mu_of_epsilon(1.0, 1.0), "needs noise that is out of range"),
        (lambda: mu_of_epsilon(0.0, 2e-6), "needs noise that is out of range"),
        (lambda: mu_of_epsilon(500.0, 2e-6), "needs noise that is out of range"),
    ],
)
def test_no_number_of_a_promise_is_out_of_range(call, said):
    with pytest.raises(UsageError, match=said):
        call()
