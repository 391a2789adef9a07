"""The organisation's page: what it says, what it raises alarm about, and that nobody is on it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import doctest
import re
import sys
from xml.etree import ElementTree as ET

import pytest

from federation.audit.cells import Limits
from federation.consent.purposes import DAY_SECONDS
from federation.privacy.ledger import Account
from federation.release.manifest import Use as ReleaseUse
from federation.rules.entries import Lifting, Moratorium
from federation.rules.rulebook import Rulebook
from server.coordinator import run_records
from server.coordinator.run_records import Attempt, RunRecord
from server.dashboard import page as page_module
from server.dashboard import times as dashboard_times
from server.dashboard.dashboard import RECENT_DAYS, Dashboard, ReleaseState, Unreadable
from server.dashboard.log import LogState, Use, Witnessed, WitnessState
from server.dashboard.page import POLICY, dashboard_page
from server.dashboard.rules import permissions
from server.dashboard.times import date
from server.expiry import Ending
from tests.bundles import a_bundle, a_report, wolves
from tests.running import a_rules_file, signed
from tests.server.dashboard.organisation import BUNDLE, RUN, WITNESS

NOW = BUNDLE.manifest.begins_at + DAY_SECONDS
TODAY = NOW // DAY_SECONDS
RELEASE = ReleaseState(BUNDLE, checked=True)
SEEN = WitnessState(WITNESS.key.name, Witnessed.VALID, NOW - 60)
LOG = LogState(
    "example.org/log",
    9,
    "0f" * 32,
    NOW - 60,
    (SEEN,),
    (),
    {"attempt": 3, "policy": 6},
    {Use(TODAY, "example.org", "door-access", "opened"): 3},
    frozenset({BUNDLE.release.digest}),
)
RULES = Rulebook.from_file(a_rules_file(releases=(BUNDLE.release,)), read_at=NOW)
ENDS = RULES.deployment("trial").ends_at
ACCOUNT = Account("staff", 8.0, 1e-5, 4.0, (("71003", (1.0,), "ab"), ("71004", (1.0,), "")))
GOOD_RUN = dataclasses.replace(RUN, attempts=(dataclasses.replace(RUN.attempts[0], drop_outs=()),))
QUIET = Dashboard(RELEASE, LOG, RULES, (ACCOUNT,), (GOOD_RUN,), ("north", "south"), NOW)
REASON = "something was found that has to be looked at first"


def use(**counts):
    """A log with requests of today; names have an underscore for a hyphen."""
    uses = {Use(TODAY, "a", "door-access", name.replace("_", "-")): count for name, count in counts.items()}
    return dataclasses.replace(LOG, uses=uses)


def witnessed(*states):
    return {"log": dataclasses.replace(LOG, witnesses=states)}


def last_run(**changes):
    attempts = {name: changes.pop(name) for name in ("ended_at", "reason", "drop_outs", "began_at") if name in changes}
    attempt = dataclasses.replace(GOOD_RUN.attempts[0], **attempts)
    return {"runs": (dataclasses.replace(GOOD_RUN, attempts=(attempt,), **changes),)}


def with_rules(*more):
    file = b"\n".join([a_rules_file(releases=(BUNDLE.release,)), *map(signed, more)])
    return {"rules": Rulebook.from_file(file, read_at=NOW)}


def at(now):
    """The same organisation at another time; its log goes on."""
    signed_at = dataclasses.replace(SEEN, signed_at=now)
    return {"now": now, "log": dataclasses.replace(LOG, signed_at=now, witnesses=(signed_at,))}


def test_the_page_says_between_what_the_stated_rate_lies_and_on_what_it_rests():
    claims = BUNDLE.manifest.claims
    page = dashboard_page(QUIET)
    assert "Stated false match rate" in page
    assert page.count(claims.rate.text) == 2
    assert claims.attacks.text in page


def of_wolf(rates):
    """A release for general use whose audit tried strings without a face, or did not."""
    bundle = a_bundle(BUNDLE.release, report=a_report(BUNDLE.release, wolf=rates), begins_at=BUNDLE.manifest.begins_at)
    return {
        "release": ReleaseState(bundle),
        "log": dataclasses.replace(LOG, releases=frozenset({bundle.release.digest})),
    }


def test_what_a_stolen_wallet_is_worth_without_a_face_stands_beside_the_false_match_rate():
    assert "0 % (0 to 0.5) by the domain's mean".replace("'", "&#39;") in dashboard_page(QUIET)
    assert ">not measured<" in dashboard_page(dataclasses.replace(QUIET, **of_wolf(None)))


def test_a_quiet_day_is_said_to_be_one():
    assert QUIET.alerts == ()
    assert "Everything is in order" in dashboard_page(QUIET)


OLD_EXPORT = dataclasses.replace(LOG, signed_at=NOW - 7200, exported=True)
MORATORIUM = Moratorium("halt", NOW - 1, (), (), (), REASON)


def certificate(days):
    end = dt.datetime.fromtimestamp(NOW + days * DAY_SECONDS, dt.UTC)
    advice = "the coordinator runs `intaglio-server federation renew`; nothing else changes"
    return {"certificates": (Ending("the gateway's certificate", end, advice),)}


def own_certificate(days):
    end = dt.datetime.fromtimestamp(NOW + days * DAY_SECONDS, dt.UTC)
    return {"own": (Ending("the certificate in server.pem", end, "renew tls/server.pem, or have it renewed"),)}


ALERTS = {
    "expired": (at(BUNDLE.manifest.ends_at), True, "not valid now"),
    "expires soon": (at(BUNDLE.manifest.ends_at - DAY_SECONDS), False, "audit it again"),
    "not servable": ({"release": ReleaseState(BUNDLE, checked=True, fault="no maker")}, True, "no maker"),
    "not in the log": ({"log": dataclasses.replace(LOG, releases=frozenset())}, False, "does not publish this release"),
    "old export": ({"log": OLD_EXPORT}, True, "last exported 2 h ago"),
    "old log": ({"log": dataclasses.replace(LOG, signed_at=NOW - 2 * DAY_SECONDS)}, False, "checkpoint is 2 d old"),
    "no witness": (witnessed(), False, "No witness is named"),
    "absent witness": (witnessed(WitnessState("w", Witnessed.ABSENT)), False, "w has not cosigned"),
    "wrong witness": (witnessed(WitnessState("w", Witnessed.WRONG)), True, "does not verify"),
    "witness asleep": (witnessed(dataclasses.replace(SEEN, signed_at=NOW - 2 * DAY_SECONDS)), False, "last looked"),
    "a stolen wallet is worth too much": (of_wolf(wolves(2400, 0.9)), True, "A stolen wallet without a face is worth"),
    "nobody knows what it is worth": (of_wolf(None), True, "A stolen wallet without a face is worth"),
    "refusals": ({"log": use(opened=5, limited=20)}, False, "20 of 25 requests for door-access were refused"),
    "moratorium": (with_rules(MORATORIUM), True, REASON),
    "moratorium to come": (
        with_rules(dataclasses.replace(MORATORIUM, begins_at=NOW + DAY_SECONDS)),
        False,
        "will stop verification from",
    ),
    "rules end in two months": (at(ENDS - 59 * DAY_SECONDS), False, "The permission of DE for door-access ends on"),
    "deployment ends in two months": (at(ENDS - 59 * DAY_SECONDS), False, "The deployment trial ends on"),
    "deployment ended": (at(ENDS), True, "No deployment is in force"),
    "budget": ({"accounts": (dataclasses.replace(ACCOUNT, epsilon=7.5),)}, False, "budget of staff is nearly spent"),
    "run died": (last_run(release="", ended_at=None, began_at=NOW - 7200), False, "has not ended"),
    "run interrupted": (last_run(release="", goes_on=True), False, "goes on under its charge"),
    "run aborted": (last_run(release="", reason="south was silent"), False, "south was silent"),
    "drop-out": ({"runs": (RUN,)}, False, "Dropped out of the last run: west"),
    "gateway's certificate ends soon": (certificate(59), False, "The gateway's certificate expires on"),
    "gateway's certificate has ended": (certificate(-1), True, "federation renew`; nothing else changes."),
    "a certificate of its own ends soon": (own_certificate(59), False, "The certificate in server.pem expires on"),
    "a certificate of its own has ended": (own_certificate(-1), True, "renew tls/server.pem, or have it renewed."),
    "a certificate of its own that is unreadable": (
        {"own": Unreadable("torn")},
        True,
        "The certificates could not be read: torn",
    ),
    "unreadable certificates": (
        {"certificates": Unreadable("torn")},
        True,
        "The federation's certificates could not be read: torn",
    ),
    "unreadable release": ({"release": Unreadable("torn")}, True, "The release could not be read: torn"),
    "unreadable log": ({"log": Unreadable("torn")}, True, "The log could not be read: torn"),
    "unreadable rules": ({"rules": Unreadable("torn")}, True, "The rules could not be read: torn"),
    "unreadable ledger": ({"accounts": Unreadable("torn")}, True, "The privacy ledger could not be read: torn"),
    "unreadable runs": ({"runs": Unreadable("torn")}, True, "The records of runs could not be read: torn"),
    "unreadable members": ({"members": Unreadable("torn")}, True, "The list of members could not be read: torn"),
}


@pytest.mark.parametrize(("changes", "now", "words"), ALERTS.values(), ids=ALERTS)
def test_what_needs_attention_is_said(changes, now, words):
    changed = dataclasses.replace(QUIET, **changes)
    (alert,) = [alert for alert in changed.alerts if words in alert.text]
    assert alert.now is now
    assert "attention" in re.search(r"<h1>(.*?)</h1>", dashboard_page(changed))[1]


CALM = {
    "gateway's certificate of 61 days": certificate(61),
    "a certificate of its own of 61 days": own_certificate(61),
    "log that nobody asked for an hour": {"log": dataclasses.replace(LOG, signed_at=NOW - 7200)},
    "few refusals": {"log": use(limited=19)},
    "old refusals": {
        "log": dataclasses.replace(LOG, uses={Use(TODAY - RECENT_DAYS, "a", "door-access", "limited"): 900})
    },
    "half refused": {"log": use(opened=20, limited=20)},
    "moratorium that was lifted": with_rules(
        dataclasses.replace(MORATORIUM, begins_at=NOW - 10), Lifting("halt", NOW - 1, REASON)
    ),
    "run under way": last_run(release="", ended_at=None, began_at=NOW - 60),
    "nothing named": {"rules": None, "accounts": None, "runs": None, "members": None},
}


@pytest.mark.parametrize("changes", CALM.values(), ids=CALM)
def test_what_is_usual_raises_no_alarm(changes):
    assert dataclasses.replace(QUIET, **changes).alerts == ()


def test_what_cannot_wait_comes_first():
    alerts = dataclasses.replace(QUIET, runs=(RUN,), log=OLD_EXPORT).alerts
    assert [alert.now for alert in alerts] == [True, False]


def test_rules_that_end_after_two_months_are_not_spoken_of_yet():
    changed = dataclasses.replace(QUIET, **at(ENDS - 61 * DAY_SECONDS))
    assert not any("The rules end" in alert.text for alert in changed.alerts)
    assert ">ends soon<" not in dashboard_page(changed)
    assert ">ends soon<" in dashboard_page(dataclasses.replace(QUIET, **at(ENDS - 59 * DAY_SECONDS)))


SERVED = RULES.deployment("trial")
FOLLOWING = dataclasses.replace(SERVED, identifier="next", begins_at=NOW - 60, ends_at=NOW + DAY_SECONDS)
OTHERS = dataclasses.replace(SERVED, identifier="others", audience="other.example", ends_at=NOW + 9 * DAY_SECONDS)


@pytest.mark.parametrize(
    ("served", "replaced"),
    [(None, ["trial"]), ("next", ["trial"]), ("trial", []), ("nobody-s", ["trial"])],
)
def test_the_deployment_that_is_served_is_never_said_to_be_replaced_and_one_before_it_is(served, replaced):
    """However soon it ends: the one that ends last is not for that the one that is served."""
    book = with_rules(FOLLOWING, OTHERS)["rules"]
    names = [each.what.removeprefix("The deployment ") for each in permissions(book, NOW, served) if each.is_replaced]
    assert names == replaced
    changed = dataclasses.replace(QUIET, rules=book, deployment=served)
    said = [alert.text for alert in changed.alerts if alert.text.startswith("The deployment")]
    assert any(text.startswith(f"The deployment next ends on {date(NOW + DAY_SECONDS)}.") for text in said)
    assert any("The rules end" in text and "others ends on" in text for text in said)
    assert (">replaced<" in dashboard_page(changed)) == bool(replaced)
    later = dataclasses.replace(QUIET, **at(NOW + 2 * DAY_SECONDS), rules=book, deployment=served)
    assert any(alert.now and alert.text.startswith("The deployment next has ended on") for alert in later.alerts)
    at_last = dataclasses.replace(QUIET, **at(ENDS - DAY_SECONDS), rules=book, deployment=served)
    told = any(alert.text.startswith("The deployment trial ends on") for alert in at_last.alerts)
    assert told == (replaced == [])


def test_a_deployment_that_begins_later_replaces_nothing_yet():
    book = with_rules(dataclasses.replace(FOLLOWING, begins_at=NOW + 60))["rules"]
    assert not any(each.is_replaced for each in permissions(book, NOW))
    assert any(each.is_replaced for each in permissions(book, NOW + 60))


def test_a_pack_that_a_newer_one_replaces_in_time_is_not_about_to_end():
    pack = RULES.pack("DE", NOW)
    newer = dataclasses.replace(pack, version=2, begins_at=pack.ends_at - 1, ends_at=pack.ends_at + 9 * DAY_SECONDS)
    changed = dataclasses.replace(QUIET, **at(ENDS - DAY_SECONDS), **with_rules(newer))
    assert not any("of DE for" in alert.text for alert in changed.alerts)
    assert any("of EU for" in alert.text for alert in changed.alerts)


HOSTILE = "<script>alert(1)</script>\"'&"


def hostile_page():
    log = dataclasses.replace(
        LOG,
        origin=HOSTILE,
        uses={Use(TODAY, HOSTILE, HOSTILE, "opened"): 1},
        witnesses=(WitnessState(HOSTILE, Witnessed.ABSENT),),
        strangers=(HOSTILE,),
    )
    record = RUN.to_bytes().replace(b"it did not answer within 120 s", HOSTILE.replace('"', '\\"').encode())
    run = dataclasses.replace(RunRecord.from_bytes(record), population=HOSTILE)
    account = dataclasses.replace(ACCOUNT, population=HOSTILE)
    changes = {"log": log, "runs": (run,), "accounts": (account,), "members": (HOSTILE,), "rules": Unreadable(HOSTILE)}
    return dashboard_page(dataclasses.replace(QUIET, **changes))


@pytest.mark.parametrize("page", [dashboard_page(QUIET), hostile_page()], ids=["quiet", "hostile"])
def test_the_page_loads_nothing_runs_nothing_and_escapes_every_name(page):
    assert "<script" not in page
    assert not re.search(r"(?:src|action)\s*=|url\((?!#)|@import| on\w+=", page)
    assert re.findall(r'\bhref="(?!#)([^"]*)"', page) == ["data:,"]
    assert not re.search(r"<[^>]* style=", page), "the policy allows no inline style"
    assert POLICY.replace("'", "&#39;") in page
    assert "unsafe" not in POLICY
    ET.fromstring(page)  # noqa: S314 - our own page


def test_the_page_says_what_runs_what_it_costs_and_who_takes_part():
    page = dashboard_page(dataclasses.replace(QUIET, runs=(RUN,)))
    words = ["staff", "4.00", "north", "south", "door-access", "example.org/log", WITNESS.key.name, "sign the survivor"]
    for word in [*words, BUNDLE.release.digest, "moments: inputs of north, south, west", "The deployment trial"]:
        assert word in page, word


def test_det_curves_have_labelled_axes_of_normal_deviates():
    page = dashboard_page(QUIET)
    plot = page[page.index('<figure class="det">') : page.index("</figure>")]
    for words in ("false match rate, %", "false non-match rate, %", ">0.01<", ">1<", ">20<", ">f<", ">m<"):
        assert words in plot


def test_without_matplotlib_the_page_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "federation.audit.plots", None)
    monkeypatch.delattr("federation.audit.plots", raising=False)
    assert "intaglio[audit]" in dashboard_page(QUIET)


def test_a_source_that_cannot_be_read_costs_its_section_only():
    page = dashboard_page(dataclasses.replace(QUIET, release=Unreadable("torn"), log=Unreadable("forked")))
    assert page.count("Could not be read") == 3  # the log has two sections
    for words in ("torn", "forked", "staff", "north", "The deployment trial"):
        assert words in page


def test_a_source_that_nobody_named_says_which_option_it_has():
    page = dashboard_page(dataclasses.replace(QUIET, rules=None, accounts=None, runs=None, members=None))
    for option in ("--rules", "--ledger", "--federation"):
        assert f"no <code>{option}</code> was named" in page


def test_spent_epsilon_is_rounded_up_and_charges_without_a_release_are_counted():
    page = dashboard_page(dataclasses.replace(QUIET, accounts=(dataclasses.replace(ACCOUNT, epsilon=3.9911),)))
    assert "<td>4.00</td><td>4.00</td><td>8</td><td>1e-05</td><td>2</td><td>1</td>" in page


def test_a_member_stands_with_the_runs_that_asked_it_and_that_it_dropped_out_of():
    died = dataclasses.replace(RUN, run="71004", release="", attempts=(Attempt("71004", NOW, None, "", ("west",)),))
    page = dashboard_page(dataclasses.replace(QUIET, members=("north", "west", "new"), runs=(RUN, died)))
    cells = r"<td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>"
    began = date(BUNDLE.manifest.begins_at)
    for name, row in {
        "north": ("1 run", "0 runs", began),
        "west": ("2 runs", "1 run", began),
        "new": ("0 runs", "0 runs", "never"),
    }.items():
        assert re.search(f'<th scope="row">{name}</th>{cells}', page).groups() == row


def test_many_runs_show_the_newest():
    runs = tuple(dataclasses.replace(GOOD_RUN, run=f"run-{number}") for number in range(25))
    page = dashboard_page(dataclasses.replace(QUIET, runs=runs))
    assert "Run run-24 " in re.sub(r"</?strong>", "", page)
    assert "run-4<" not in page
    assert "And 5 earlier ones" in page


def test_equal_values_give_equal_pages():
    assert dashboard_page(QUIET) == dashboard_page(QUIET)


def test_the_style_sheet_is_the_one_that_the_policy_names():
    page = dashboard_page(QUIET)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert style == page_module._CSS


@pytest.mark.parametrize("module", [dashboard_times, run_records], ids=lambda module: module.__name__)
def test_the_examples_in_the_code_are_true(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize(
    ("limits", "use", "colour", "word"),
    [
        (Limits(1e-3, 0.05), ReleaseUse.GENERAL, "PASS", "pass"),
        (Limits(1e-3, 0.1), ReleaseUse.GENERAL, "PASS", "pass"),
        (Limits(1e-3, 0.6), ReleaseUse.GENERAL, "INSUFFICIENT", "pass"),
        (Limits(1e-3, 0.05), ReleaseUse.TRIAL, "INSUFFICIENT", "trial, pass"),
    ],
)
def test_a_pass_is_green_for_general_use_and_at_limits_that_mean_something(limits, use, colour, word):
    report = a_report(BUNDLE.release, limits=limits)
    bundle = a_bundle(BUNDLE.release, report=report, use=use, begins_at=BUNDLE.manifest.begins_at)
    page = dashboard_page(dataclasses.replace(QUIET, release=ReleaseState(bundle)))
    assert f'<li><span>Release audit</span><strong class="{colour}">{word}</strong>' in page
    assert f'<span class="chip {colour}">PASS</span> {bundle.manifest.audited.text}' in page
