"""Every cell, bar and tile of the organisation's page, written out: each has a number of its own."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree as ET

import pytest

from federation.audit.cells import Estimate, Limits
from federation.audit.cells import Rate as AuditedRate
from federation.consent.purposes import DAY_SECONDS
from federation.privacy.ledger import Account
from federation.release.manifest import Use as ReleaseUse
from federation.rules.entries import Moratorium, PolicyException
from server.coordinator.run_records import Attempt, DropOut, SumRecord
from server.dashboard import page
from server.dashboard.dashboard import RULES_END_SECONDS, ReleaseState
from server.dashboard.log import Use, Witnessed, WitnessState
from server.dashboard.page import dashboard_page
from server.dashboard.times import date, length, moment
from tests.bundles import a_bundle, a_cell, a_report, an_attack
from tests.server.dashboard.organisation import BUNDLE, RUN
from tests.server.dashboard.test_dashboard import LOG, NOW, QUIET, REASON, TODAY, at, with_rules

HTML = "{http://www.w3.org/1999/xhtml}"
USES = {
    Use(TODAY, "example.org", "door-access", "opened"): 1100,
    Use(TODAY, "example.org", "door-access", "limited"): 20,
    Use(TODAY - 6, "example.org", "door-access", "not-covered"): 3,
    Use(TODAY - 7, "example.org", "door-access", "opened"): 4000,
    Use(TODAY - 7, "example.org", "door-access", "limited"): 500,
    Use(TODAY - 29, "example.org", "door-access", "replayed"): 1120,
    Use(TODAY - 30, "example.org", "door-access", "prohibited"): 60_000,
    Use(TODAY, "other.example", "door-access", "opened"): 7,
    Use(TODAY, "example.org", "time-clock", "invalid"): 9,
}
ATTEMPT = RUN.attempts[0]
BEGAN = ATTEMPT.began_at
RUNS = (
    RUN,
    dataclasses.replace(
        RUN,
        run="71004",
        population="visitors",
        epsilon=3.5,
        delta=1e-6,
        recipe="scales",
        release="",
        attempts=(
            Attempt("71004", BEGAN + 1000, BEGAN + 1500, "south was silent", ("north", "south")),
            Attempt(
                "71005",
                BEGAN + 90_000,
                BEGAN + 97_300,
                "west was silent",
                ("north", "west"),
                (SumRecord("scales-1", ("north",)), SumRecord("scales-2", ("north",))),
                (DropOut("west", "share its keys", "", "it was silent"), DropOut("west", "share", "", "it refused")),
            ),
        ),
    ),
)
ACCOUNTS = (
    Account("staff", 8.0, 1e-5, 4.0, (("71003", (1.0,), "ab"), ("71004", (1.0,), ""))),
    Account("visitors", 6.0, 1e-6, 5.501, (("71005", (1.0,), ""),)),
    Account("nobody", 0.5, 1e-7, 0.0, ()),
)
WITNESSES = (
    WitnessState("one.example", Witnessed.VALID, NOW - 61),
    WitnessState("two.example", Witnessed.ABSENT),
    WitnessState("three.example", Witnessed.WRONG, NOW - 7200),
)
BUSY = dataclasses.replace(
    QUIET,
    log=dataclasses.replace(
        LOG, uses=USES, size=1234, signed_at=NOW - 180, witnesses=WITNESSES, strangers=("x.example", "y.example")
    ),
    accounts=ACCOUNTS,
    runs=RUNS,
    members=("east", "north", "south", "west"),
)


def words_of(element):
    return " ".join("".join(element.itertext()).split())


def read(dashboard):
    return ET.fromstring(dashboard_page(dashboard))  # noqa: S314 - our own page


def tables(dashboard):
    """The cells of each table, by the heading of its first column."""
    found = {}
    for table in read(dashboard).iter(f"{HTML}table"):
        head = [words_of(cell) for cell in table.iter(f"{HTML}th") if cell.get("scope") == "col"]
        body = [[words_of(cell) for cell in row] for row in table.find(f"{HTML}tbody")]
        assert {len(row) for row in body} <= {len(head)}
        found[head[0]] = body
    return found


def tiles(dashboard):
    page = read(dashboard)
    (shown,) = (each for each in page.iter(f"{HTML}ul") if each.get("class") == "tiles")
    return {words_of(tile[0]): (words_of(tile[1]), words_of(tile[2]), tile[1].get("class")) for tile in shown}


def facts(dashboard, section):
    page = read(dashboard)
    (found,) = (each for each in page.iter(f"{HTML}section") if each.get("aria-labelledby") == section)
    return [(words_of(fact[0]), words_of(fact[1])) for fact in found.iter(f"{HTML}div") if fact[0].tag == f"{HTML}dt"]


def test_a_release_stands_with_its_audit_end_signatures_rates_and_promise():
    promised, signed_at = BUNDLE.manifest.claims, date(BUNDLE.manifest.begins_at)
    rest = [
        (
            "False match rate",
            "FMR 0.1 % (0.05 to 0.2 % with 90 %), checked privately on 24 people of the run; at 300 bits",
        ),
        (
            "Stolen wallet, no face",
            "0 % (0 to 0.5) by the domain's mean, 0.3 % (0.1 to 2) by the best image, of 600 people",
        ),
        ("Privacy", f"epsilon {promised.promise_text}"),
        ("An attacker", promised.attacks_text),
        ("Measured by attack", "nobody measured"),
        ("Digest", promised.digest.hex()),
    ]
    audit = ("Audit", "PASS audit PASS on 50 people at limits of FMR 0.1 % and FNMR 10 %")
    ended = dataclasses.replace(BUSY, **at(BUNDLE.manifest.ends_at), release=ReleaseState(BUNDLE))
    refused = dataclasses.replace(BUSY, release=ReleaseState(BUNDLE, checked=True, fault=REASON))
    for dashboard, left, signatures in (
        (BUSY, "99 d", "of a maker and of an auditor that are trusted here"),
        (ended, "nothing", "not checked: no --release-trust says whose signatures count"),
        (refused, "99 d", f"do not let it be served: {REASON}"),
    ):
        valid = f"{signed_at} to {date(BUNDLE.manifest.ends_at)}, {left} left; general use"
        assert facts(dashboard, "release") == [audit, ("Valid", valid), ("Signatures", signatures), *rest]


def test_what_was_measured_of_a_release_stands_with_the_limits_that_it_was_measured_at():
    report = a_report(BUNDLE.release, limits=Limits(0.0008, 0.15, confidence=0.9))
    bundle = a_bundle(BUNDLE.release, report=report, epsilon_audit=an_attack(0.376), use=ReleaseUse.TRIAL)
    found = dataclasses.replace(BUSY, release=ReleaseState(bundle))
    assert ("Measured by attack", "epsilon at least 0.38") in facts(found, "release")
    said = [words_of(each) for each in read(found).iter(f"{HTML}caption")]
    limits = "false matches 0.08 %, false non-matches 15 %. Bounds are one-sided, at 90 % each."
    assert f"Every group against the limits: {limits}" in said
    assert "4 members, and the recorded runs" in said
    alone = read(dataclasses.replace(BUSY, members=("north",)))
    assert "1 member, and the recorded runs" in [words_of(each) for each in alone.iter(f"{HTML}caption")]


def test_requests_stand_by_purpose_and_requester_with_those_of_a_week_beside_all():
    assert tables(BUSY)["Purpose"] == [
        ["door-access", "example.org", "1,123", "23", "66,743", "61,643"],
        ["door-access", "other.example", "7", "0", "7", "0"],
        ["time-clock", "example.org", "9", "9", "9", "9"],
    ]


def test_refusals_stand_by_reason_with_those_of_a_week_beside_all():
    assert tables(BUSY)["Reason"] == [
        ["not enrolled, or no consent covers it", "3", "3"],
        ["too many attempts", "20", "520"],
        ["a nonce or session that was used before", "0", "1,120"],
        ["prohibited by the rules", "0", "60,000"],
        ["malformed, or not signed", "9", "9"],
    ]


def test_a_bar_stands_for_each_of_thirty_days_and_refused_above_served():
    page = read(BUSY)
    (chart,) = (each for each in page.iter(f"{HTML}svg") if "Requests" in each.get("aria-label", ""))
    bars = [[bar.get(name) for name in ("class", "x", "y", "width", "height")] for bar in chart.iter(f"{HTML}rect")]
    assert bars == [
        ["refused", "1", "75.11", "8", "24.89"],
        ["served", "221", "11.11", "8", "88.89"],
        ["refused", "221", "0.00", "8", "11.11"],
        ["refused", "231", "99.93", "8", "0.07"],
        ["served", "291", "75.40", "8", "24.60"],
        ["refused", "291", "74.76", "8", "0.64"],
    ]
    assert chart.get("aria-label") == "Requests on each of the last 30 days, 4500 on the busiest one."
    said = words_of(page)
    assert f"Requests a day from {date(NOW - 29 * DAY_SECONDS)} to {date(NOW)}; the tallest day has 4,500." in said


def test_tiles_say_what_is_worst_newest_and_of_a_week():
    shown = tiles(BUSY)
    claims, audited = BUNDLE.manifest.claims, BUNDLE.manifest.audited
    assert shown == {
        "Release audit": ("pass", f"{audited.text}; valid until {date(BUNDLE.manifest.ends_at)}", "PASS"),
        "Stated false match rate": ("0.1 %", claims.rate.text, "number"),
        "Requests, 7 days": ("1,139", "32 refused", "number"),
        "Log entries": ("1,234", "signed 3 min ago; 1 of 3 witnesses", "number"),
        "Epsilon spent": ("5.51", "of 6, for visitors", "number"),
        "Last run": ("aborted", date(BEGAN + 90_000), "FAIL"),
    }
    # Spent is what is nearest to its end, and not what is most.
    larger = dataclasses.replace(ACCOUNTS[0], cap_epsilon=20.0, epsilon=9.0)
    accounts = dataclasses.replace(BUSY, accounts=(larger, *ACCOUNTS[1:]))
    assert tiles(accounts)["Epsilon spent"] == shown["Epsilon spent"]
    unwatched = dataclasses.replace(BUSY, log=dataclasses.replace(BUSY.log, witnesses=()))
    assert tiles(unwatched)["Log entries"][1] == "signed 3 min ago; no witness"


def test_budgets_stand_with_what_is_left_and_how_many_runs_were_charged_and_released():
    assert tables(BUSY)["Population"] == [
        ["staff", "4.00", "4.00", "8", "1e-05", "2", "1"],
        ["visitors", "5.51", "0.49", "6", "1e-06", "1", "0"],
        ["nobody", "0.00", "0.50", "0.5", "1e-07", "0", "0"],
    ]
    meters = [each for each in read(BUSY).iter(f"{HTML}svg") if "meter" in each.get("class", "")]
    assert [(each.get("class").split(), each[1].get("width")) for each in meters] == [
        (["meter"], "50.0"),
        (["meter", "full"], "91.7"),
        (["meter"], "0.0"),
    ]


def test_members_stand_with_the_last_sum_that_has_an_input_of_theirs():
    assert tables(BUSY)["Member"] == [
        ["east", "0 runs", "0 runs", "never"],
        ["north", "2 runs", "0 runs", date(BEGAN + 90_000)],
        ["south", "2 runs", "0 runs", date(BEGAN)],
        ["west", "2 runs", "2 runs", date(BEGAN)],
    ]


def test_witnesses_stand_with_what_became_of_their_signature_and_when():
    assert tables(BUSY)["Witness"] == [
        ["one.example", "valid", moment(NOW - 61)],
        ["two.example", "absent", "none"],
        ["three.example", "wrong", moment(NOW - 7200)],
    ]
    assert dict(facts(BUSY, "log")) == {
        "Log": "example.org/log",
        "Head": f"1,234 entries; they give the signed root {LOG.root}",
        "Newest checkpoint": f"{moment(NOW - 180)}, 3 min ago",
        "Entries": "attempt 3, policy 6",
    }
    assert "not verified: x.example, y.example." in words_of(read(BUSY))


def test_runs_stand_newest_first_with_their_plan_sums_and_losses():
    assert facts(BUSY, "runs") == [
        ("Plan", "recipe scales, epsilon 3.5 at delta 1e-06 for visitors"),
        ("Rounds", "scales-1, scales-2: inputs of north"),
        ("Dropped out", "west, asked to share its keys: it was silent"),
        ("", "west, asked to share: it refused"),
        ("Ended because", "south was silent"),
        ("Ended because", "west was silent"),
        ("Plan", "recipe moments, epsilon 2 at delta 1e-05 for staff"),
        ("Rounds", "moments: inputs of north, south, west"),
        ("", "threshold: inputs of north, south"),
        ("Dropped out", "west of threshold, asked to sign the survivor set: it did not answer within 120 s"),
        ("Release", RUN.release),
    ]
    heads = [words_of(each) for each in read(BUSY).iter(f"{HTML}p") if each.get("class") == "run"]
    assert heads == [
        f"Run 71004 aborted {moment(BEGAN + 1000)}, took {length(96_300)}, 2 starts",
        f"Run 71003 released {moment(BEGAN)}, took 5 min",
    ]


def test_groups_stand_with_their_people_rates_bounds_and_verdict():
    women = dataclasses.replace(a_cell("f", 2, 0.0001, 0.0006), people=1050, eer=Estimate(0.0125))
    nobody = AuditedRate(0, 0, 0.0, 0.0, 1.0)
    men = dataclasses.replace(a_cell("m", 80, 0.006, 0.01), people=None, fnmr=nobody)
    bundle = a_bundle(BUNDLE.release, report=a_report(BUNDLE.release, (women, men)), begins_at=NOW - 1)
    assert tables(dataclasses.replace(QUIET, release=ReleaseState(bundle)))["Group"] == [
        ["f", "1,050", "0.02 %0.01 % to 0.06 %", "1 %0 % to 5 %", "1.25 %", "PASS"],
        ["m", "?", "0.8 %0.6 % to 1 %", "nonenothing is known", "none", "FAIL"],
    ]


PACK_ENDS = QUIET.rules.pack("DE", NOW).ends_at
PERMISSION = "The permission of DE for door-access"
STATES = {
    "in force": (at(NOW), "in force", "PASS"),
    "in force sixty days before its end": (at(PACK_ENDS - RULES_END_SECONDS), "in force", "PASS"),
    "ends within sixty days": (at(PACK_ENDS - RULES_END_SECONDS + 1), "ends soon", "INSUFFICIENT"),
}


@pytest.mark.parametrize(("changes", "state", "colour"), STATES.values(), ids=STATES)
def test_a_permission_says_how_it_stands(changes, state, colour):
    changed = dataclasses.replace(QUIET, **changes)
    row = next(row for row in tables(changed)["Rule"] if row[0] == PERMISSION)
    assert row == [PERMISSION, "policy version 1", date(PACK_ENDS), state]
    assert f'<span class="chip {colour}">{state}</span>' in dashboard_page(changed)


def test_a_deployment_says_whether_it_ended_begins_or_was_replaced():
    first = QUIET.rules.deployment("trial")
    longer, shorter = first.ends_at + DAY_SECONDS, first.ends_at - DAY_SECONDS
    later = dataclasses.replace(first, identifier="trial-2", begins_at=NOW + 9, ends_at=longer)
    other = dataclasses.replace(first, identifier="shop", audience="shop.example", begins_at=NOW + 7, ends_at=shorter)
    rules = with_rules(later, other)["rules"]
    rows = tables(dataclasses.replace(QUIET, rules=rules))["Rule"]
    assert [row for row in rows if "deployment" in row[0]] == [
        ["The deployment shop", "shop.example: door-access", date(shorter), f"begins {date(NOW + 7)}"],
        ["The deployment trial", "example.org: door-access", date(first.ends_at), "in force"],
        ["The deployment trial-2", "example.org: door-access", date(longer), f"begins {date(NOW + 9)}"],
    ]
    begun = tables(dataclasses.replace(QUIET, **at(NOW + 9), rules=rules))["Rule"]
    assert [row[3] for row in begun if "deployment" in row[0]] == ["in force", "replaced", "in force"]
    ended = tables(dataclasses.replace(QUIET, **at(first.ends_at)))["Rule"]
    assert [row[3] for row in ended if "deployment" in row[0]] == ["ended"]


def test_every_exception_stands_with_whose_it_is_and_until_when():
    allowed = QUIET.rules.pack("DE", NOW).rules[0]
    fair = PolicyException(
        "fair", "DE", "example.org", dataclasses.replace(allowed, ends_at=NOW + 70 * DAY_SECONDS), REASON
    )
    later = dataclasses.replace(
        fair, identifier="party", rule=dataclasses.replace(allowed, begins_at=NOW + 60, ends_at=NOW + 40 * DAY_SECONDS)
    )
    elsewhere = dataclasses.replace(fair, identifier="abroad", jurisdiction="FR")
    ended = dataclasses.replace(
        fair, identifier="old", rule=dataclasses.replace(allowed, begins_at=NOW - 9, ends_at=NOW)
    )
    rows = tables(dataclasses.replace(QUIET, **with_rules(fair, later, elsewhere, ended)))["Rule"]
    assert [row for row in rows if "exception" in row[0]] == [
        ["The exception fair in DE for door-access", "example.org", date(NOW + 70 * DAY_SECONDS), "in force"],
        [
            "The exception party in DE for door-access",
            "example.org",
            date(NOW + 40 * DAY_SECONDS),
            f"begins {date(NOW + 60)}",
        ],
    ]


def test_moratoria_come_first_with_their_reason_and_what_they_do():
    halts = (Moratorium("later", NOW + DAY_SECONDS, (), (), (), REASON), Moratorium("halt", NOW, (), (), (), REASON))
    rows = tables(dataclasses.replace(QUIET, **with_rules(*halts)))["Rule"]
    assert rows[:2] == [
        ["Moratorium halt", REASON, "it is lifted", "stops"],
        ["Moratorium later", REASON, "it is lifted", f"begins {date(NOW + DAY_SECONDS)}"],
    ]


@pytest.mark.parametrize(
    ("now", "soon", "said"),
    [
        (0, 0, "Everything is in order"),
        (0, 1, "1 thing needs attention soon"),
        (0, 2, "2 things need attention soon"),
        (1, 0, "1 thing needs attention now"),
        (1, 3, "1 thing needs attention now, and 3 soon"),
        (2, 1, "2 things need attention now, and 1 soon"),
    ],
)
def test_the_headline_counts_what_needs_attention(now, soon, said):
    wrong = tuple(WitnessState(f"wrong {number}", Witnessed.WRONG) for number in range(now))
    absent = tuple(WitnessState(f"absent {number}", Witnessed.ABSENT) for number in range(soon))
    changed = dataclasses.replace(QUIET, log=dataclasses.replace(LOG, witnesses=(*wrong, *absent) or LOG.witnesses))
    assert words_of(next(read(changed).iter(f"{HTML}h1"))) == said


EDGES = {
    "an export of an hour": ({"log": dataclasses.replace(LOG, signed_at=NOW - 3600, exported=True)}, 0),
    "an export that is a second older": ({"log": dataclasses.replace(LOG, signed_at=NOW - 3601, exported=True)}, 1),
    "a checkpoint of a day": ({"log": dataclasses.replace(LOG, signed_at=NOW - DAY_SECONDS)}, 0),
    "a checkpoint that is a second older": ({"log": dataclasses.replace(LOG, signed_at=NOW - DAY_SECONDS - 1)}, 1),
    "a budget that is spent to nine tenths": ({"accounts": (dataclasses.replace(ACCOUNTS[0], epsilon=7.2),)}, 0),
    "a budget that is spent to more": ({"accounts": (dataclasses.replace(ACCOUNTS[0], epsilon=7.201),)}, 1),
    "two of several budgets": (
        {"accounts": tuple(dataclasses.replace(ACCOUNTS[0], population=f"{n}", epsilon=7.0 + n / 2) for n in range(3))},
        2,
    ),
    "an audit that ends in two weeks": (at(BUNDLE.manifest.ends_at - 14 * DAY_SECONDS), 0),
    "an audit that ends a second sooner": (at(BUNDLE.manifest.ends_at - 14 * DAY_SECONDS + 1), 1),
}


@pytest.mark.parametrize(("changes", "count"), EDGES.values(), ids=EDGES)
def test_alarm_begins_where_it_is_said_to(changes, count):
    assert len(dataclasses.replace(QUIET, **changes).alerts) == count


@pytest.mark.parametrize(
    ("rate", "shown"),
    [
        (None, "none"),
        (float("nan"), "none"),
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.999, "99.9 %"),
        (0.9996, "100 %"),
        (0.1, "10 %"),
        (0.01234, "1.23 %"),
        (0.012, "1.2 %"),
        (0.001, "0.1 %"),
        (0.00012345, "0.0123 %"),
        (1e-6, "0.0001 %"),
        (1.234e-7, "0.0000123 %"),
    ],
)
def test_a_rate_has_three_digits_and_no_exponent(rate, shown):
    assert page._percent(rate) == shown


@pytest.mark.parametrize(("epsilon", "shown"), [(0.0, 0.0), (3.99, 3.99), (3.9901, 4.0), (0.001, 0.01), (1.25, 1.25)])
def test_what_was_spent_never_looks_like_less(epsilon, shown):
    assert page._rounded_up(epsilon) == shown


def test_inline_styles_become_the_attributes_that_they_stand_for():
    styled = """<g style="fill: none; stroke:#123"><path d="M0" style=""/></g><text style="font: 12px serif">x</text>"""
    plain = """<g fill="none" stroke="#123"><path d="M0"/></g><text font="12px serif">x</text>"""
    assert page._without_styles(styled) == plain
