"""The whole list of what needs attention, with two of everything: which, since when, and in which order."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from federation.audit.cells import Limits
from federation.consent.purposes import DAY_SECONDS
from federation.privacy.ledger import Account
from federation.release.manifest import Use as ReleaseUse
from federation.rules.entries import Moratorium, PolicyException
from federation.verdict import Verdict
from server.coordinator.run_records import Attempt, DropOut
from server.dashboard.dashboard import RULES_END_SECONDS, ReleaseState, Unreadable, uses_by_purpose
from server.dashboard.log import Use, Witnessed, WitnessState
from server.dashboard.rules import Permission, missing, permissions
from server.dashboard.times import date, length
from server.expiry import Ending
from tests.bundles import VERDICTS, a_bundle, a_report, wolves
from tests.server.dashboard.organisation import BUNDLE
from tests.server.dashboard.test_dashboard import (
    ENDS,
    GOOD_RUN,
    LOG,
    NOW,
    QUIET,
    REASON,
    RULES,
    SEEN,
    TODAY,
    at,
    with_rules,
)

END_OF_RULES = "What to do stands under “The rules end” in docs/operations.md."


def said(**changes):
    return [(alert.now, alert.text) for alert in dataclasses.replace(QUIET, **changes).alerts]


# ------------------------------------------------------------------------------------------------------ the release
def of_bundle(verdict, *, use=ReleaseUse.GENERAL, wolf=None, begins_at=NOW - 1, fault=""):
    report = a_report(BUNDLE.release, VERDICTS[verdict], wolf=wolf, limits=Limits(1e-3, 0.1))
    bundle = a_bundle(BUNDLE.release, report=report, use=use, begins_at=begins_at)
    return {"release": ReleaseState(bundle, fault=fault)}


TRIALS = "The audit could not tell enough: only trials of the lowest tier may use this release."
WORTH = "A stolen wallet without a face is worth too much, or nobody knows: it is not served."
FAILED, INVALID = (
    "The audit failed, so the release is not served.",
    "The release is not valid now, so it is not served.",
)
RELEASES = {
    "passed": (of_bundle(Verdict.PASS, wolf=wolves()), []),
    "could not tell": (of_bundle(Verdict.INSUFFICIENT, use=ReleaseUse.TRIAL, wolf=wolves()), [(False, TRIALS)]),
    "failed": (of_bundle(Verdict.FAIL, wolf=wolves()), [(True, FAILED)]),
    "failed, and no longer valid": (
        of_bundle(Verdict.FAIL, wolf=wolves(), begins_at=NOW + 1),
        [(True, INVALID)],
    ),
    "begins now": (of_bundle(Verdict.PASS, wolf=wolves(), begins_at=NOW), []),
    "begins in a second": (of_bundle(Verdict.PASS, wolf=wolves(), begins_at=NOW + 1), [(True, INVALID)]),
    "ends in a second": (
        of_bundle(Verdict.PASS, wolf=wolves(), begins_at=NOW + 1 - 100 * DAY_SECONDS),
        [(False, f"The release's audit ends on {date(NOW + 1)}: audit it again.")],
    ),
    "ends now": (of_bundle(Verdict.PASS, wolf=wolves(), begins_at=NOW - 100 * DAY_SECONDS), [(True, INVALID)]),
    "may not be served, whatever else": (
        of_bundle(Verdict.FAIL, fault="no maker", begins_at=NOW + 1),
        [(True, "The release may not be served: no maker.")],
    ),
    "nobody knows what a wallet is worth": (of_bundle(Verdict.PASS), [(True, WORTH)]),
    "a trial of which nobody knows": (of_bundle(Verdict.PASS, use=ReleaseUse.TRIAL), []),
    "a trial in which a wallet is worth too much": (
        of_bundle(Verdict.PASS, use=ReleaseUse.TRIAL, wolf=wolves(2400, 0.9)),
        [(True, WORTH)],
    ),
}


@pytest.mark.parametrize(("changes", "alerts"), RELEASES.values(), ids=RELEASES)
def test_what_keeps_a_release_back_is_said_once_and_the_first_of_it(changes, alerts):
    log = dataclasses.replace(LOG, releases=frozenset({"ab" * 32, BUNDLE.release.digest}))
    assert said(**changes, log=log) == alerts


# ---------------------------------------------------------------------------------------------------------- the log
def test_every_witness_is_spoken_of_and_what_cannot_wait_first():
    states = (
        WitnessState("absent-1", Witnessed.ABSENT),
        WitnessState("wrong-1", Witnessed.WRONG, NOW),
        WitnessState("awake", Witnessed.VALID, NOW - DAY_SECONDS),
        WitnessState("asleep-1", Witnessed.VALID, NOW - DAY_SECONDS - 1),
        WitnessState("asleep-2", Witnessed.VALID, NOW - 3 * DAY_SECONDS),
        WitnessState("absent-2", Witnessed.ABSENT),
        WitnessState("wrong-2", Witnessed.WRONG),
    )
    assert said(log=dataclasses.replace(LOG, witnesses=states)) == [
        *((True, f"The newest checkpoint has a signature of wrong-{n} that does not verify.") for n in (1, 2)),
        (False, "absent-1 has not cosigned the newest checkpoint."),
        (False, f"asleep-1 last looked at the log on {date(NOW - DAY_SECONDS - 1)}."),
        (False, f"asleep-2 last looked at the log on {date(NOW - 3 * DAY_SECONDS)}."),
        (False, "absent-2 has not cosigned the newest checkpoint."),
    ]


def test_requests_are_summed_over_requesters_and_a_week_and_every_purpose_of_which_most_are_refused_is_named():
    uses = {
        Use(TODAY, "a", "z-door", "limited"): 11,
        Use(TODAY - 6, "b", "z-door", "not-covered"): 0,
        Use(TODAY - 6, "b", "z-door", "opened"): 9,
        Use(TODAY - 7, "b", "z-door", "opened"): 1000,
        Use(TODAY, "a", "clock", "limited"): 7,
        Use(TODAY - 6, "b", "clock", "replayed"): 6,
        Use(TODAY, "a", "clock", "opened"): 12,
        Use(TODAY, "b", "few", "limited"): 19,
        Use(TODAY, "b", "half", "limited"): 20,
        Use(TODAY, "a", "half", "opened"): 20,
    }
    log = dataclasses.replace(LOG, uses=uses)
    assert said(log=log) == [
        (False, "13 of 25 requests for clock were refused in the last 7 days."),
        (False, "11 of 20 requests for z-door were refused in the last 7 days."),
    ]
    assert uses_by_purpose(log)["z-door"] == {"limited": 11, "not-covered": 0, "opened": 1009}
    assert uses_by_purpose(log, TODAY) == {}


# ------------------------------------------------------------------------------------------------------- the ledger
def test_every_budget_that_is_nearly_spent_is_named_by_its_population():
    accounts = (
        Account("staff", 8.0, 1e-5, 7.3, ()),
        Account("visitors", 1.0, 1e-5, 0.9, ()),
        Account("guests", 2.0, 1e-5, 2.0, ()),
    )
    assert said(accounts=accounts) == [
        (False, f"The privacy budget of {name} is nearly spent.") for name in ("staff", "guests")
    ]


def a_run(name, *, goes_on=False, release="", began=(NOW - 9000, NOW - 3601), ended=NOW - 5, reason="", drop_outs=()):
    first = Attempt(name, began[0], began[0] + 1, "the first reason")
    last = Attempt(name, began[1], ended, reason, drop_outs=drop_outs)
    return dataclasses.replace(GOOD_RUN, run=name, release=release, goes_on=goes_on, attempts=(first, last))


def test_every_run_that_died_or_was_interrupted_is_named_and_of_the_last_one_why_it_ended_or_who_dropped_out():
    died, younger = a_run("1", ended=None), a_run("2", ended=None, began=(NOW - 90_000, NOW - 3600))
    interrupted = [a_run(name, goes_on=True) for name in ("3", "4")]
    aborted = a_run("5", reason="south was silent")
    outs = tuple(DropOut(name, "share its keys", "", "it was silent") for name in ("west", "north", "west"))
    dropped = a_run("6", release="ab" * 32, drop_outs=outs)
    every = [
        (False, f"Run 1 began on {date(NOW - 3601)} and has not ended. If it died, start it again."),
        *((False, f"Run {n} was interrupted: start it again, and it goes on under its charge.") for n in (3, 4)),
    ]
    runs = (died, younger, *interrupted)
    assert said(runs=(*runs, dropped, aborted)) == [
        *every,
        (False, "The last run ended without a release: south was silent"),
    ]
    assert said(runs=(*runs, aborted, dropped)) == [*every, (False, "Dropped out of the last run: west, north.")]
    assert said(runs=()) == []


# ---------------------------------------------------------------------------------------------------- certificates
def ending(what, seconds):
    return Ending(what, dt.datetime.fromtimestamp(NOW + seconds, dt.UTC), "mend it")


def test_every_certificate_of_both_lists_is_spoken_of_by_when_it_ends():
    theirs = (ending("the gateway's", 9), ending("the authority's", 61 * DAY_SECONDS), ending("the third", 0))
    own = (ending("one of ours", 60 * DAY_SECONDS), ending("another of ours", -1))
    day = dt.datetime.fromtimestamp(NOW, dt.UTC)
    assert said(certificates=theirs, own=own) == [
        (True, f"The third expired on {day:%Y-%m-%d}: mend it."),
        (True, f"Another of ours expired on {day - dt.timedelta(seconds=1):%Y-%m-%d}: mend it."),
        (False, f"The gateway's expires on {day + dt.timedelta(seconds=9):%Y-%m-%d}, in 0 days: mend it."),
        (False, f"One of ours expires on {day + dt.timedelta(days=60):%Y-%m-%d}, in 60 days: mend it."),
    ]
    assert said(certificates=Unreadable("torn"), own=own[:1]) == [
        (True, "The federation's certificates could not be read: torn"),
        (False, f"One of ours expires on {day + dt.timedelta(days=60):%Y-%m-%d}, in 60 days: mend it."),
    ]


# ---------------------------------------------------------------------------------------------------------- rules
def test_moratoria_stop_from_their_first_second_on_and_are_said_in_their_order():
    halts = [
        Moratorium(name, NOW + begin, (), (), (), f"{REASON} {name}")
        for name, begin in (("later", 90_000), ("now", 0), ("soon", 1))
    ]
    assert said(**with_rules(*halts)) == [
        (True, f"The moratorium now stops verification: {REASON} now"),
        (False, f"The moratorium soon will stop verification from {date(NOW + 1)} on: {REASON} soon"),
        (False, f"The moratorium later will stop verification from {date(NOW + 90_000)} on: {REASON} later"),
    ]


def ends_on(what):
    return (False, f"{what} ends on {date(ENDS)}. {END_OF_RULES}")


def test_what_ends_within_sixty_days_is_said_of_deployment_and_of_each_jurisdiction_to_the_second():
    everything = [
        ends_on("The deployment trial"),
        *(ends_on(f"The permission of {place} for door-access") for place in ("DE", "EU")),
    ]
    of_rules = lambda alerts: [alert for alert in alerts if alert[1].endswith(END_OF_RULES)]  # noqa: E731 - short
    assert of_rules(said(**at(ENDS - RULES_END_SECONDS))) == []
    assert of_rules(said(**at(ENDS - RULES_END_SECONDS + 1))) == everything
    assert of_rules(said(**at(ENDS - 1))) == everything
    assert said(**at(ENDS))[1:] == [
        (True, "No deployment is in force: nobody can be verified."),
        (True, f"The deployment trial has ended on {date(ENDS)}. {END_OF_RULES}"),
    ]


def test_every_purpose_and_place_that_nothing_allows_is_named():
    trial = RULES.deployment("trial")
    shop = dataclasses.replace(
        trial,
        identifier="shop",
        audience="shop.example",
        purposes=("door-access", "time-clock"),
        jurisdictions=("DE", "EU", "FR"),
        begins_at=NOW + 5,
        ends_at=ENDS + 3600,
    )
    allowed = dataclasses.replace(RULES.pack("DE", NOW).rules[0], begins_at=NOW + 7, ends_at=NOW + 90 * DAY_SECONDS)
    fair = PolicyException("fair", "FR", "shop.example", allowed, REASON)
    words = "Nothing allows {} in {}: nobody can be verified for it."
    needs = [("time-clock", "DE"), ("time-clock", "EU"), ("door-access", "FR"), ("time-clock", "FR")]
    book = with_rules(shop)["rules"]
    begins, ends = book.deployment("trial").begins_at, book.deployment("shop").ends_at
    assert missing(book, NOW) == tuple(words.format(*need) for need in needs)
    assert missing(with_rules(shop, fair)["rules"], NOW) == tuple(words.format(*needs[n]) for n in (0, 1, 3))
    assert missing(book, ends) == ("No deployment is in force: nobody can be verified.",)
    assert missing(book, ends - 1) == tuple(words.format(*need) for need in needs), "what ended is said to have ended"
    assert missing(book, begins) == tuple(words.format(*need) for need in needs)
    assert missing(book, begins - 1) == ("No deployment is in force: nobody can be verified.",)


def test_a_permission_holds_from_the_later_begin_to_the_earlier_end_of_pack_and_rule():
    pack = RULES.pack("DE", NOW)
    (rule,) = pack.rules
    newer = dataclasses.replace(
        pack,
        version=2,
        begins_at=NOW - 50,
        ends_at=NOW + 100 * DAY_SECONDS,
        rules=(dataclasses.replace(rule, begins_at=NOW - 40, ends_at=NOW + 70 * DAY_SECONDS),),
    )
    of_germany = lambda *more: [  # noqa: E731 - one expression
        each for each in permissions(with_rules(*more)["rules"], NOW) if " of DE " in each.what
    ]
    name = "The permission of DE for door-access"
    assert of_germany(newer) == [Permission(name, "policy version 2", NOW - 40, NOW + 70 * DAY_SECONDS)]
    longer = dataclasses.replace(
        newer,
        ends_at=NOW + 69 * DAY_SECONDS,
        rules=(dataclasses.replace(rule, begins_at=NOW - 60, ends_at=NOW + 70 * DAY_SECONDS),),
    )
    assert of_germany(longer) == [Permission(name, "policy version 2", NOW - 50, NOW + 69 * DAY_SECONDS)]
    for begins, replaced in ((0, True), (1, False)):
        following = dataclasses.replace(
            pack, version=3, begins_at=NOW + 69 * DAY_SECONDS + begins, ends_at=NOW + 200 * DAY_SECONDS
        )
        (found,) = of_germany(longer, following)
        assert found.is_replaced is replaced


def test_every_rule_of_a_pack_allows_its_own_purpose():
    pack, trial = RULES.pack("DE", NOW), RULES.deployment("trial")
    (door,) = pack.rules
    clock = dataclasses.replace(door, purpose="time-clock", ends_at=NOW + 80 * DAY_SECONDS)
    newer = dataclasses.replace(pack, version=2, begins_at=NOW - 50, rules=(door, clock))
    both = dataclasses.replace(
        trial, identifier="both", audience="shop.example", purposes=("door-access", "time-clock")
    )
    book = with_rules(newer, both)["rules"]
    found = {each.what: each.ends_at for each in permissions(book, NOW) if " of DE " in each.what}
    assert found == {
        "The permission of DE for door-access": ENDS,
        "The permission of DE for time-clock": NOW + 80 * DAY_SECONDS,
    }
    assert missing(book, NOW) == ("Nothing allows time-clock in EU: nobody can be verified for it.",)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "less than 1 min"),
        (59, "less than 1 min"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (86_399, "23 h"),
        (86_400, "1 d"),
        (86_400 * 400, "400 d"),
    ],
)
def test_a_length_is_in_the_largest_unit_that_it_fills(seconds, words):
    assert length(seconds) == words


def test_a_quiet_organisation_has_no_alarm_of_any_kind():
    assert said() == []
    assert SEEN.signed_at == NOW - 60
