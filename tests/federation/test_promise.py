import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from federation.errors import UsageError
from federation.promise import AttackRates, PrivacyStatement, percent_up, share_up, text_of_attacks


@given(share=st.floats(0, 1))
def test_a_stated_share_is_never_below_the_true_one_by_more_than_the_rounding_of_a_float(share):
    stated = share_up(share)
    assert share - 1e-9 < stated <= min(1, share + 1.0001e-4)
    assert share_up(stated) == stated
    assert percent_up(share) == percent_up(stated)


@pytest.mark.parametrize(
    ("share", "text"), [(0.0768, "7.68 %"), (0.07681, "7.69 %"), (0.5, "50 %"), (1.0, "100 %"), (1e-9, "0.01 %")]
)
def test_per_cent_are_rounded_up(share, text):
    assert percent_up(share) == text


@given(mu=st.floats(1e-3, 8), innocents=st.sampled_from([1e-4, 0.001, 0.02, 0.4]))
def test_the_closed_form_is_that_of_a_threshold_on_a_shifted_normal(mu, innocents):
    rates = AttackRates.of_mu(mu, false_accusations=innocents)
    threshold = stats.norm.isf(innocents)
    assert rates.detected == pytest.approx(stats.norm(mu).sf(threshold), abs=1.01e-4)
    assert rates.detected >= min(stats.norm(mu).sf(threshold), 1) - 1e-9
    # The best guess at even odds takes the middle between both for its threshold.
    right = (stats.norm(mu).sf(mu / 2) + stats.norm.cdf(mu / 2)) / 2
    assert right - 1e-9 <= rates.right <= right + 1.01e-4
    rates.require_fits(mu)


def test_rates_of_less_noise_do_not_fit_more_and_the_other_way_round():
    rates = AttackRates.of_mu(1.5)
    for mu in (1.48, 1.502):
        with pytest.raises(UsageError, match="its noise allows"):
            rates.require_fits(mu)


@pytest.mark.parametrize(
    "rates",
    [
        (1.0, 0.6, 1.0),
        (0.0009, 0.6),
        (1.1, 0.6),
        (math.nan, 0.6),
        (0.1, 0.49),
        (0.1, 1.01),
        (1, 0.6),
        (0.1, 0.6, 0.0),
        (0.1, 0.6, 0.2),
    ],
)
def test_shares_that_no_attack_can_have_are_refused(rates):
    with pytest.raises(UsageError, match="attack"):
        AttackRates(*rates)


@pytest.mark.parametrize(
    ("innocents", "words"),
    [
        (0.001, "one innocent in a thousand"),
        (0.01, "one innocent in a hundred"),
        (0.1, "one innocent in ten"),
        (0.05, "5 % of the innocents"),
        (1e-6, "0.0001 % of the innocents"),
        (0.00012, "0.012 % of the innocents"),
    ],
)
def test_the_sentence_says_both_rates_and_whom_it_costs(innocents, words):
    text = AttackRates(0.2345, 0.7, innocents).text
    assert text == (
        f"Whoever accuses {words} finds at most 23.45 % of the members; of guesses at even odds at most 70 % are right."
    )


def test_where_nobody_was_asked_there_is_a_sentence_too():
    assert text_of_attacks(PrivacyStatement.nobody("person", "add_or_remove_one").attacks).startswith(
        "Nobody was asked"
    )
    assert text_of_attacks(AttackRates(0.2, 0.7)) == AttackRates(0.2, 0.7).text


def test_a_statement_counts_all_of_its_releases():
    one = PrivacyStatement.of_events("person", "add_or_remove_one", 8.0, 1e-5, (("moments", 0.61),), 24, 4)
    two = PrivacyStatement.of_events(
        "person", "add_or_remove_one", 8.0, 1e-5, (("moments", 0.9), ("threshold", 0.9)), 24, 4
    )
    assert one.mu == pytest.approx(1 / 0.61)
    assert two.mu == pytest.approx(math.sqrt(2) / 0.9)
    assert PrivacyStatement.nobody("person", "add_or_remove_one").mu == 0


@pytest.mark.parametrize("noise", [5e-324, 1e-200, 1e-9, 1e9, 1e200, 1.7e308])
@pytest.mark.parametrize("epsilon", [1e-300, 8.0, 1e308])
def test_whatever_a_foreign_statement_says_is_refused_and_nothing_worse(noise, epsilon):
    attacks = AttackRates(0.1, 0.7)
    with pytest.raises(UsageError, match=r"does not keep epsilon|its noise allows"):
        PrivacyStatement("person", "add_or_remove_one", epsilon, 1e-5, (("threshold", noise),), 24, 4, attacks)


@pytest.mark.parametrize("innocents", [1e-30, 1e-9, 1e-5, 0.0011, 0.9])
def test_a_statement_cannot_choose_how_few_innocents_its_attacker_accuses(innocents):
    """With mu 1.64 a ten-millionth finds 0.02 %: true, and not what anybody takes it for."""
    attacks = AttackRates.of_mu(1 / 0.61, false_accusations=innocents)
    with pytest.raises(UsageError, match=r"accuse 0\.001"):
        PrivacyStatement("person", "add_or_remove_one", 8.0, 1e-5, (("moments", 0.61),), 24, 4, attacks)


@pytest.mark.parametrize("delta", [0.042, 0.99, 1.0, 1e300])
def test_a_delta_that_publishes_somebody_makes_no_epsilon_small(delta):
    with pytest.raises(UsageError, match="1/people"):
        PrivacyStatement.of_events("person", "add_or_remove_one", 8.0, delta, (("moments", 0.61),), 24, 4)
    for kept in (0.04, 1 / 24):
        assert PrivacyStatement.of_events("person", "add_or_remove_one", 8.0, kept, (("moments", 0.61),), 24, 4)


@pytest.mark.parametrize(("unit", "event"), [("per\x1b[2Json", "moments"), ("person", "moments\n"), ("", "moments")])
def test_a_statement_s_words_do_nothing_to_a_terminal(unit, event):
    with pytest.raises(UsageError, match="names for its events"):
        PrivacyStatement.of_events(unit, "add_or_remove_one", 8.0, 1e-5, ((event, 0.61),), 24, 4)


def test_either_rate_is_refused_as_soon_as_it_is_below_what_the_noise_allows():
    for mu, low in (
        (stats.norm.ppf(0.05 + 1e-7) - stats.norm.ppf(0.001), {"detected": 0.05}),
        (2 * stats.norm.ppf(0.75 + 1e-7), {"right": 0.75}),
    ):
        fits = AttackRates.of_mu(mu)
        fits.require_fits(mu)
        with pytest.raises(UsageError, match="its noise allows"):
            replace(fits, **low).require_fits(mu)


def test_an_epsilon_is_kept_at_its_delta_and_at_none_that_is_smaller():
    mu, epsilon = 1.5, 6.0
    delta = float(stats.norm.sf(epsilon / mu - mu / 2) - math.exp(epsilon) * stats.norm.sf(epsilon / mu + mu / 2))
    events = (("moments", 1 / mu),)
    assert PrivacyStatement.of_events("person", "add_or_remove_one", epsilon, delta * 1.0001, events, 24, 4)
    with pytest.raises(UsageError, match="does not keep epsilon"):
        PrivacyStatement.of_events("person", "add_or_remove_one", epsilon, delta * 0.9999, events, 24, 4)


@pytest.mark.parametrize("relation", ["replace", "replace_one", "add or remove one", "zero_out"])
def test_other_neighbours_have_other_numbers(relation):
    with pytest.raises(UsageError, match="neighbours add_or_remove_one"):
        PrivacyStatement.of_events("person", relation, 8.0, 1e-5, (("moments", 0.61),), 24, 4)


# --------------------------------------------------------------------------------------------- a statement, as a whole
EVENTS = (("moments", 5.0), ("threshold", 6.0))
MU = math.hypot(1 / 5, 1 / 6)
STATEMENT = PrivacyStatement(
    privacy_unit="household",
    neighboring_relation="add_or_remove_one",
    epsilon=2.5,
    delta=3e-6,
    events=EVENTS,
    people_train=41,
    organisations=7,
    attacks=AttackRates.of_mu(MU),
    colluders=3,
    dropouts=2,
)
SAID = {
    "attacks": {
        "detected": AttackRates.of_mu(MU).detected,
        "false_accusations": 0.001,
        "right": AttackRates.of_mu(MU).right,
    },
    "colluders": 3,
    "delta": 3e-6,
    "dropouts": 2,
    "epsilon": 2.5,
    "events": EVENTS,
    "neighboring_relation": "add_or_remove_one",
    "organisations": 7,
    "people_train": 41,
    "privacy_unit": "household",
}


def test_every_number_is_written_under_its_own_name_and_read_from_it():
    assert STATEMENT.to_json() == SAID
    listed = SAID | {"events": [list(event) for event in EVENTS]}  # as JSON has it
    assert PrivacyStatement.from_json(listed) == STATEMENT
    assert SAID["attacks"]["detected"] == pytest.approx(stats.norm(MU).sf(stats.norm.isf(0.001)), abs=1.01e-4)
    assert SAID["attacks"]["right"] == pytest.approx(stats.norm.cdf(MU / 2), abs=1.01e-4)
    rates = AttackRates(0.3, 0.8, 0.02)
    assert rates.to_json() == {"detected": 0.3, "false_accusations": 0.02, "right": 0.8}
    assert AttackRates.from_json(rates.to_json()) == rates
    nobody = PrivacyStatement.nobody("person", "add_or_remove_one")
    assert nobody.to_json() == {
        "attacks": None, "colluders": 0, "delta": 0.0, "dropouts": 0, "epsilon": 0.0, "events": (),
        "neighboring_relation": "add_or_remove_one", "organisations": 0, "people_train": 0, "privacy_unit": "person",
    }  # fmt: skip
    assert PrivacyStatement.from_json(nobody.to_json()) == nobody


def test_a_statement_of_events_has_no_colluders_and_the_rates_of_all_of_its_noise():
    made = PrivacyStatement.of_events("household", "add_or_remove_one", 2.5, 3e-6, EVENTS, 41, 7)
    assert made == replace(STATEMENT, colluders=0, dropouts=0)
    assert made.attacks.detected > AttackRates.of_mu(1 / 5).detected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"privacy_unit": 1}, "needs a unit"),
        ({"events": (("moments", 5.0), ("", 6.0))}, "names for its events"),
        ({"neighboring_relation": ""}, "names for its events"),
        ({"epsilon": 2}, "must be floats, and counts whole"),
        ({"delta": 0}, "must be floats, and counts whole"),
        ({"events": (("moments", 5.0), ("threshold", 6))}, "must be floats, and counts whole"),
        ({"people_train": 41.0}, "must be floats, and counts whole"),
        ({"organisations": 7.0}, "must be floats, and counts whole"),
        ({"colluders": 3.0}, "must be floats, and counts whole"),
        ({"dropouts": 2.0}, "must be floats, and counts whole"),
        ({"colluders": True}, "must be floats, and counts whole"),
        ({"events": ()}, "nothing to promise to any"),
        ({"epsilon": 0.0}, "must be positive floats"),
        ({"epsilon": math.inf}, "must be positive floats"),
        ({"delta": 0.0}, "must be positive floats"),
        ({"delta": math.nan}, "must be positive floats"),
        ({"events": (("moments", 5.0), ("threshold", -6.0))}, "must be positive floats"),
        ({"events": (("moments", 0.0), ("threshold", 6.0))}, "must be positive floats"),
        ({"people_train": 0}, "positive counts"),
        ({"organisations": 0}, "positive counts"),
        ({"delta": 0.0245}, "delta is at most 1/people"),
        ({"colluders": 7}, "more colluders or drop-outs than organisations"),
        ({"colluders": -1}, "more colluders or drop-outs than organisations"),
        ({"dropouts": 7}, "more colluders or drop-outs than organisations"),
        ({"dropouts": -1}, "more colluders or drop-outs than organisations"),
        ({"epsilon": 0.9}, "does not keep epsilon 0.9"),
        ({"delta": 3e-30}, "does not keep epsilon 2.5"),
        ({"events": (("moments", 5.0), ("threshold", 0.9))}, "does not keep epsilon"),
        ({"attacks": None}, "says what an attacker achieves"),
        ({"attacks": AttackRates.of_mu(MU, false_accusations=0.01)}, "accuse 0.001"),
        ({"attacks": AttackRates.of_mu(1.1 * MU)}, "its noise allows"),
        ({"attacks": AttackRates.of_mu(0.9 * MU)}, "its noise allows"),
    ],
)  # fmt: skip
def test_a_statement_that_is_wrong_in_one_thing_is_not_made(change, said):
    with pytest.raises(UsageError, match=said):
        replace(STATEMENT, **change)


def test_a_statement_at_the_very_edge_is_made():
    for change in (
        {"colluders": 6},
        {"dropouts": 6},
        {"colluders": 0, "dropouts": 0},
        {"people_train": 1, "organisations": 7},
    ):
        assert replace(STATEMENT, **change) != STATEMENT


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 1.0},
        {"delta": 1e-6},
        {"people_train": 1},
        {"organisations": 1},
        {"colluders": 1},
        {"dropouts": 1},
        {"attacks": AttackRates(0.1, 0.7)},
    ],
)
def test_who_asked_nobody_promises_nothing_at_all(change):
    with pytest.raises(UsageError, match="nothing to promise to any"):
        replace(PrivacyStatement.nobody("person", "add_or_remove_one"), **change)


def test_stated_shares_may_be_a_thousandth_too_cautious_and_no_more():
    exact = float(stats.norm(MU).sf(stats.norm.isf(0.001))), float(stats.norm.cdf(MU / 2))
    for place, name in enumerate(("detected", "right")):
        fits = AttackRates.of_mu(MU)
        replace(fits, **{name: exact[place] + 0.00099}).require_fits(MU)
        for wrong in (exact[place] + 0.00101, exact[place] - 1e-6):
            with pytest.raises(UsageError, match=f"at most {wrong:g}, and its noise allows {exact[place]:.4f}"):
                replace(fits, **{name: wrong}).require_fits(MU)
