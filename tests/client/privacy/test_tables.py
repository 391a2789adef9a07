"""What the commands about epsilon print, line by line: each number stands where it belongs."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from client import cli
from client.privacy import cli as privacy_cli
from federation.experiments.frontier import Method, Summary
from federation.promise import NOBODY_ASKED, AttackRates

PLAN = [
    *("privacy", "plan", "--epsilon", "3", "--delta", "2e-5", "--people", "5000", "--organisations", "7"),
    *("--directions", "40", "--colluders", "2", "--dropouts", "1", "--rounds", "2", "--images", "17"),
    *("--evaluation-epsilon", "2", "--false-accusations", "0.002", "--prior", "0.03"),
]


def lines_of(text):
    """Without boxes, spaces and empty lines."""
    plain = (" | ".join(part.strip() for part in re.split("[│┃]", line) if part.strip()) for line in text.splitlines())
    return [line for line in plain if re.search(r"\w", line)]


def printed(*words):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, [*words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_plan_says_every_number_in_its_own_place():
    odds = "of guesses at even odds at most 67.52 % are right."
    assert lines_of(printed(*PLAN)) == [
        "promise  epsilon 3 at delta 2e-05 for each person, add or remove one, all rounds together",
        "and  a private evaluation; everything together has epsilon 3.77",
        f"means  Whoever accuses 0.2 % of the innocents finds at most 2.45 % of the members; {odds}",
        "Where one suspect in 33.33 is a member: of those whom that attacker accuses, at most 27.41 % are members.",
        "rounds  2, each with epsilon 2.024; the accountant's total is 2.992",
        "noise  multiplier 1.902 a round (moments 2.690, threshold 2.690)",
        "shares  each of 7 organisations adds 0.951; the total carries 2.516",
        "adapts  centre; planned noise on the centre 0.00, learnt up to 0.4 from 24 people",
        "tau  checked by the people; planned noise on a share of distances 0.001, up to 0.09 from 60 people",
        "The same noise means",
        "who | epsilon | finds at most, accusing 0.2 % | right at even odds",
        "one person | 3.77 | 2.45 % | 67.52 %",
        "one person in two organisations | 8.59 | 14.42 % | 81.81 %",
        "one person in the place of another | 8.59 | 14.42 % | 81.81 %",
        "a household of 4, as one | 20.86 | 77.47 % | 96.54 %",
        "one person, after 10 times all of this | 15.31 | 49.74 % | 92.45 %",
        "One round, seen by",
        "who looks | at what | noise left | epsilon",
        "coordinator with 2 colluders and 1 gone | the total | 1.902 | 2.02",
        "coordinator alone, or anybody with the release | the total | 2.516 | 1.48",
        "another organisation alone | the total | 2.329 | 1.61",
        "coordinator with 3 colluders, more than planned and 1 gone | the total | 1.647 | 2.38",
        "coordinator without secure aggregation | each organisation's noisy sum | 0.951 | 4.47",
        "coordinator without secure aggregation, full noise in each sum | each organisation's noisy sum | 1.902 | 2.02",
        "If epsilon 3 were for an image",
        "images of a person | epsilon of the person",
        "1 | 3.0",
        "2 | 6.8",
        "5 | 21.6",
        "17 | 131.4",
    ]


def test_a_plan_says_the_same_to_programs():
    facts = json.loads(printed(*PLAN, "--json"))
    near = {
        "epsilon": 3.0,
        "delta": 2e-5,
        "rounds": 2,
        "epsilon_of_one_round": 2.024,
        "epsilon_of_all_rounds": 2.9923,
        "epsilon_of_everything": 3.7661,
        "members_among_the_accused": 0.27407,
        "noise_multiplier_of_one_round": 1.90194,
        "noise_share_of_one_organisation": 1.90194 / 4**0.5,  # 7 without 2 colluders and 1 that leaves
        "noise_in_the_total": 1.90194 / 4**0.5 * 7**0.5,
        "epsilon_in_two_organisations": 8.58943,
        "noise_on_the_centre": 0.00405,
        "noise_on_a_share_of_distances": 0.00116,
    }
    assert {name: facts[name] for name in near} == {
        name: pytest.approx(value, rel=2e-3) for name, value in near.items()
    }
    assert facts["attacks"] == {"detected": 0.0245, "false_accusations": 0.002, "right": 0.6752}
    assert (facts["adapts"], facts["checks_threshold"]) == ("centre", True)
    assert list(facts["releases_of_one_round"]) == ["moments", "threshold"]
    assert list(facts["epsilon_of_a_person_if_images_were_the_unit"]) == ["1", "2", "5", "17"]


def test_a_plan_that_asks_nobody_promises_what_it_was_asked_and_says_that_nobody_is_harmed():
    words = ("privacy", "plan", "--epsilon", "1", "--people", "24")
    facts = json.loads(printed(*words, "--images", "16", "--json"))
    assert list(facts["epsilon_of_a_person_if_images_were_the_unit"]) == ["1", "2", "5", "16"]
    nothing = (
        "attacks",
        "members_among_the_accused",
        "circumstances",
        "epsilon_of_everything",
        "releases_of_one_round",
    )
    assert [facts[name] for name in nothing] == [None, None, [], 0.0, {}]
    assert (facts["epsilon"], facts["adapts"], facts["checks_threshold"]) == (1.0, "none", False)
    assert facts["epsilon_in_two_organisations"] == facts["epsilon_of_a_person_if_images_were_the_unit"]["2"]
    lines = lines_of(printed(*words))
    assert lines[:2] == [
        "promise  epsilon 1 at delta 1e-05 for each person, add or remove one, the whole run",
        f"means  {NOBODY_ASKED} Nothing is charged: it could not help.",
    ]
    assert "tau  the public one; planned noise on a share of distances 0.294, up to 0.09 from 60 people" in lines
    assert not [line for line in lines if line.startswith("The same noise means")]


def test_what_has_no_noise_left_is_no_number():
    words = ("privacy", "plan", "--people", "900", "--organisations", "3", "--colluders", "2")
    observers = json.loads(printed(*words, "--json"))["observers"]
    assert [seen["epsilon"] is None for seen in observers] == [False, False, False, True, False, False]
    assert any(line.endswith("| 0.000 | no protection") for line in lines_of(printed(*words)))


# ------------------------------------------------------------------------------------------------------- the frontier
def summary(method, epsilon=0.0, people=0, **changes):
    usual = {"trials": 6, "deployed": "centre, checked", "eer": (0.101, 0.011), "tar": (0.802, 0.022)}
    usual |= {"fmr_at_threshold": (0.0103, 0.1), "tar_at_threshold": (0.704, 0.1), "interval_held": (0.75, 0.1)}
    usual |= {"attack_auc": (0.516, 0.1), "attack_tpr": (0.1, 0.1)}
    return Summary(method, epsilon, people, **(usual | changes))


SUMMARIES = [
    summary(Method.FROZEN, fmr_at_threshold=None, tar_at_threshold=None, interval_held=None, attack_auc=None,
            deployed="nothing", eer=(0.2, 0.0), tar=(0.5, 0.0)),
    summary(Method.PUBLIC, deployed="public", tar=(0.7, 0.0)),
    summary(Method.PRIVATE, 4.0, 24),
    summary(Method.PRIVATE, 8.0, 900, deployed="centre, public", tar=(0.9, 0.01)),
]  # fmt: skip


def test_the_frontier_s_tables_have_every_number_in_its_own_column(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    rates = {
        (8.0, 900): SimpleNamespace(rates=lambda: AttackRates(0.1234, 0.5678, 0.001)),
        (9.0, 24): SimpleNamespace(rates=lambda: AttackRates(0.2345, 0.6789, 0.001)),
    }
    monkeypatch.setattr(privacy_cli, "_curves", lambda *_: rates)
    needed = {4.0: None, 8.0: 712}
    monkeypatch.setattr("federation.experiments.frontier.fewest_people_for_scales", lambda epsilon, *_: needed[epsilon])
    frontier = SimpleNamespace(plan=lambda _: SimpleNamespace(directions=58), settings=None)
    wanted = [SimpleNamespace(epsilon=epsilon) for epsilon in (8.0, 4.0, 0.0)]
    privacy_cli._show_frontier(SUMMARIES, frontier, wanted, as_json=False)
    lines = [re.sub(" {2,}", " | ", line.strip()) for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "epsilon | people | learns, threshold | EER % | TAR % | FMR tau | TAR tau | held % | attack"
    assert lines[2:6] == [
        "frozen | nothing | 20.0±0.0 | 50.0±0.0",
        "public | public | 10.1±1.1 | 70.0±0.0 | 1.0 | 70.4 | 75 | 0.52",
        "4 | 24 | centre, checked | 10.1±1.1 | 80.2±2.2 | 1.0 | 70.4 | 75 | 0.52",
        "8 | 900 | centre, public | 10.1±1.1 | 90.0±1.0 | 1.0 | 70.4 | 75 | 0.52",
    ]
    assert lines[-1].startswith("Choose ")
    at = lines.index("epsilon | people | found | right | frozen | public")
    assert lines[at + 2 : at + 6] == [
        "4 | 24 | nobody asked | +30.2 | +10.2",
        "8 | 900 | 12.34 % | 56.78 % | +40.0 | +20.0",
        "4 | scales | nothing",
        "8 | scales | nothing below 712",
    ]
    privacy_cli._show_frontier(SUMMARIES, frontier, wanted, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["attacks"] == [
        {"epsilon": 8.0, "people": 900, "detected": 0.1234, "right": 0.5678, "false_accusations": 0.001},
        {"epsilon": 9.0, "people": 24, "detected": 0.2345, "right": 0.6789, "false_accusations": 0.001},
    ]
    assert told["scales_needs_people"] == {"4": None, "8": 712}
    assert [row["tar"][0] for row in told["rows"]] == [0.5, 0.7, 0.802, 0.9]
