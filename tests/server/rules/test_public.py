"""What a server's public rules let its log say, and when they end."""

import dataclasses
import datetime as dt
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.errors import UsageError
from federation.rules.entries import Moratorium
from federation.rules.rulebook import Rulebook, RuleSigners
from federation.transparency.entries import UNKNOWN
from server.rules.public import PublicRules
from tests.running import AUDIENCE, DEPLOYMENT, PURPOSE, a_rules_file, public_rules, signed


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ((AUDIENCE, PURPOSE), (AUDIENCE, PURPOSE)),
        (("ministry-1.example", PURPOSE), (UNKNOWN, PURPOSE)),
        ((AUDIENCE, "max-mustermann"), (AUDIENCE, UNKNOWN)),
        (("ministry-1.example", "max-mustermann"), (UNKNOWN, UNKNOWN)),
        ((PURPOSE, AUDIENCE), (UNKNOWN, UNKNOWN)),
    ],
)
def test_only_names_that_the_rules_register_are_named(asked, named):
    assert public_rules().registered(*asked) == named


def test_rules_are_only_ever_added_and_one_in_the_place_of_another_is_none_added():
    """Entries are compared, not counted: a moratorium that is exchanged for another one is gone."""
    begin = int(time.time()) - 60
    pause, other = (
        signed(Moratorium(name, begin, (), (), (), f"the {name} one of two of them")) for name in ("first", "second")
    )
    head = a_rules_file()
    current = {"file": head + b"\n" + pause}
    rules = PublicRules(lambda: current["file"], deployment=DEPLOYMENT, now=begin + 60)
    for changed in (head + b"\n" + other, head):
        current["file"] = changed
        with pytest.raises(UsageError, match="lost an entry or changed its signers"):
            rules.read_again(begin + 60)
        assert pause in {entry.content for entry in rules.public_entries(begin + 60)}
    current["file"] = head + b"\n" + pause + b"\n" + other
    rules.read_again(begin + 60)
    assert {pause, other} <= {entry.content for entry in rules.public_entries(begin + 60)}


def test_rules_whose_signers_are_others_are_refused_although_every_rule_stands_there_with_its_signatures():
    """Whoever adds a signer to the file signs the next rule alone."""
    file, now = a_rules_file(), int(time.time())
    head, *lines = file.splitlines()
    before = RuleSigners.from_bytes(head)
    current = [file]
    rules = PublicRules(lambda: current[0], deployment=DEPLOYMENT, now=now)
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    others = RuleSigners(before.public_keys | {stranger}, threshold=before.threshold)
    current[0] = b"\n".join([others.to_bytes(), *lines])
    assert Rulebook.from_file(current[0], read_at=now).signers == others  # as a file it could be read
    with pytest.raises(UsageError, match="changed its signers"):
        rules.read_again(now)
    current[0] = file
    rules.read_again(now)


def test_purposes_that_are_stopped_are_named_with_each_moratorium_that_stops_them_and_no_others():
    begin = int(time.time()) - 60
    file = a_rules_file()
    whole = Rulebook.from_file(file, read_at=begin).deployment(DEPLOYMENT)
    assert len(whole.purposes) == 1
    all_of_them = ("first", (), (), ()), ("second", ("EU",), (AUDIENCE,), ("physical-access",))
    of_others = ("third", ("US",), (), ()), ("fourth", (), ("ministry-1.example",), ())
    for scopes, named in (
        ([], {}),
        ([*of_others], {}),
        ([all_of_them[1], *of_others], {PURPOSE: f"{PURPOSE} is stopped by the moratorium 'second'"}),
        ([*all_of_them], {PURPOSE: f"{PURPOSE} is stopped by the moratorium 'first' and 'second'"}),
    ):
        pauses = [signed(Moratorium(scope[0], begin, *scope[1:], "it is looked into by somebody")) for scope in scopes]
        rules = PublicRules(lambda pauses=pauses: b"\n".join([file, *pauses]), deployment=DEPLOYMENT, now=begin)
        assert rules.stopped(begin) == named
        assert rules.stopped(begin - 1) == {}


def test_the_ends_are_those_of_the_deployment_and_of_the_permission_that_ends_first():
    file, now = a_rules_file(), int(time.time())
    book = Rulebook.from_file(file, read_at=now)
    whole, short = book.deployment(DEPLOYMENT), book.pack("EU", now)
    sooner = dataclasses.replace(short, version=2, begins_at=now, ends_at=now + 9 * 86_400)
    other = dataclasses.replace(whole, identifier="other", ends_at=now + 86_400)
    rules = public_rules(b"\n".join([file, signed(sooner), signed(other)]))
    today = dt.datetime.fromtimestamp(now, dt.UTC)
    deployment, permission = rules.endings(now)
    assert deployment.ends_at.timestamp() == whole.ends_at
    assert deployment.notice(today) == ""
    assert permission.notice(today) == (
        f"the permission of EU for {PURPOSE} expires on {today + dt.timedelta(days=9):%Y-%m-%d}, in 9 days: "
        "prolong it (`intaglio-server rules prolong`)"
    )
    assert deployment.notice(today + dt.timedelta(days=400)) == (
        f"the deployment trial expired on {deployment.ends_at:%Y-%m-%d}: "
        "register one that follows it (`intaglio-server rules register`) and serve that"
    )
