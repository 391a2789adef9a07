"""What a running server takes from its public rules and its releases: both sides of each bound, each field alone."""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.consent.assertion import Assertion, LogPosition, PairwiseSecret
from federation.consent.purposes import Category, Tier
from federation.errors import RefusedError, UsageError
from federation.presentation.levels import PadLevel
from federation.rules.entries import Issuer, Lifting, Moratorium, PolicyException, PurposeRule
from federation.rules.kiosks import Kiosk
from federation.rules.policy import LONGEST_RULES_AGE_SECONDS, Attempts, Request
from federation.rules.rulebook import Rulebook
from federation.transparency import PublicEntry, PublicKind
from federation.transparency.entries import UNKNOWN
from federation.wire.convert import SessionRequest
from server.rules import assertions, public
from server.rules.assertions import AssertionIssuer
from server.rules.public import PublicRules
from server.rules.releases import Releases
from tests.bundles import a_bundle, a_release
from tests.running import AUDIENCE, DEPLOYMENT, ISSUER, ISSUER_KEY, PURPOSE, a_rules_file, signed
from tests.server.login.sites import a_client

SITE, OTHER = "shop.example.org", "other.example"
DAY = 86_400


def rules_of(*entries, read_at):
    file = a_rules_file(*entries)
    return PublicRules(lambda: file, deployment=DEPLOYMENT, now=read_at)


# ---------------------------------------------------------------------------------------------------------- sites
def test_a_site_logs_people_in_while_its_deployment_runs_and_the_rules_are_fresh_to_the_second():
    file = a_rules_file(signed(a_client(begins_at=1_000_000_000, ends_at=4_000_000_000)))
    own = Rulebook.from_file(file, read_at=0).deployment(DEPLOYMENT)
    for read_at, now, is_there in (
        (own.begins_at, own.begins_at - 1, False),
        (own.begins_at, own.begins_at, True),
        (own.ends_at - 9, own.ends_at - 1, True),
        (own.ends_at - 9, own.ends_at, False),
        (own.begins_at, own.begins_at + LONGEST_RULES_AGE_SECONDS, True),
        (own.begins_at, own.begins_at + LONGEST_RULES_AGE_SECONDS + 1, False),
    ):
        found = PublicRules(lambda: file, deployment=DEPLOYMENT, now=read_at).client(SITE, now)
        assert (read_at, now, found is not None) == (read_at, now, is_there)


def test_rules_are_as_fresh_as_their_last_good_reading_and_a_bad_one_changes_nothing():
    file = a_rules_file(signed(a_client(begins_at=1_000_000_000, ends_at=4_000_000_000)))
    begin, current = Rulebook.from_file(file, read_at=0).deployment(DEPLOYMENT).begins_at, [file]

    def read():
        if isinstance(current[0], Exception):
            raise current[0]
        return current[0]

    rules = PublicRules(read, deployment=DEPLOYMENT, now=begin)
    stale = begin + LONGEST_RULES_AGE_SECONDS + 1
    more = file + b"\n" + signed(a_client(OTHER))
    for current[0], words in (
        (OSError(5, "input/output error"), "cannot read the rules: input/output error; no rules, no service"),
        (
            IsADirectoryError(21, "Is a directory", "folder/rules"),
            "^cannot read the rules folder/rules: Is a directory",
        ),
        (file[:-9], "the rules file is refused"),
        (a_rules_file(), "the rules file lost an entry or changed its signers"),
    ):
        with pytest.raises(UsageError, match=words):
            rules.read_again(stale)
        assert rules.client(SITE, stale) is None
        assert [entry.content for entry in rules.public_entries(stale)] == file.splitlines()[1:]
    current[0] = more
    rules.read_again(begin + 1)
    assert rules.client(SITE, stale) is not None
    assert rules.client(SITE, stale + 1) is None
    assert [entry.content for entry in rules.public_entries(stale)] == more.splitlines()[1:]


def test_a_site_keeps_the_purposes_that_no_moratorium_stops_and_everything_else(monkeypatch):
    now = int(time.time())
    whole = a_client(purposes=("account-sign-in", "door-access", "time-clock"))
    rules, asked = rules_of(signed(whole), read_at=now), []
    stopped = {"account-sign-in"}

    def is_stopped(own, audience, purpose, _book, at):
        asked.append((own.identifier, audience, purpose, at))
        return purpose in stopped

    monkeypatch.setattr(public, "is_stopped", is_stopped)
    assert rules.client(SITE, now) == dataclasses.replace(whole, purposes=("door-access", "time-clock"))
    assert asked == [(DEPLOYMENT, SITE, purpose, now) for purpose in whole.purposes]
    stopped.update(whole.purposes)
    assert rules.client(SITE, now) is None


def test_a_name_is_one_for_the_log_when_it_is_a_site_of_this_deployment_and_no_other():
    elsewhere = a_client(OTHER, deployment="another")
    rules = rules_of(signed(a_client()), signed(elsewhere), read_at=int(time.time()))
    told = {audience: rules.registered(audience, PURPOSE) for audience in (AUDIENCE, SITE, OTHER)}
    assert told == {AUDIENCE: (AUDIENCE, PURPOSE), SITE: (SITE, PURPOSE), OTHER: (UNKNOWN, PURPOSE)}


# ------------------------------------------------------------------------------------------------------- the log
def test_each_rule_is_an_entry_of_its_kind_in_its_order_and_with_the_time_that_is_said():
    now = int(time.time())
    once = PurposeRule(PURPOSE, Category.PHYSICAL_ACCESS, Tier.MINIMAL, now, now + DAY)
    file = a_rules_file(
        signed(a_client()),
        signed(Kiosk("hall-1", DEPLOYMENT, bytes(32), "entrance hall, the porter", now, now + DAY)),
        signed(Moratorium("halt", now, (), (), (), "it is looked into by somebody")),
        signed(Lifting("halt", now + 1, "it was looked into by somebody")),
        signed(PolicyException("once", "DE", AUDIENCE, once, "because of what was found out")),
    )
    kinds = ["POLICY", "POLICY", "DEPLOYMENT", "DEPLOYMENT", "DEPLOYMENT", "MORATORIUM", "MORATORIUM", "POLICY"]
    rules = PublicRules(lambda: file, deployment=DEPLOYMENT, now=now)
    lines = file.splitlines()[1:]
    assert rules.public_entries(now + 7) == [
        PublicEntry(PublicKind[kind], now + 7, line) for kind, line in zip(kinds, lines, strict=True)
    ]


# ----------------------------------------------------------------------------------------------------- decisions
def test_everything_that_a_decision_rests_on_is_handed_on_in_its_own_place(monkeypatch):
    read_at = int(time.time())
    rules, asked = rules_of(read_at=read_at), []
    for name in ("decide", "decide_for_anybody"):
        monkeypatch.setattr(public, name, lambda request, *, name=name, **told: asked.append((name, request, told)))
    monkeypatch.setattr(public, "consent_to", lambda receipts, audience: (receipts, audience))
    binding, release = object(), object()
    usual = {"purpose": "a-purpose", "audience": "an.audience", "binding": binding, "release": release}
    for receipts, pad in ((b"two\nreceipts", PadLevel.ON_DEVICE), (b"", None)):
        rules.decide(**usual, receipts=receipts, pad=pad, now=read_at + 3)
    rules.decide_to_leave("a-purpose", "an.audience", binding, release, now=read_at + 4)
    request = Request(DEPLOYMENT, "an.audience", "a-purpose", binding)
    same = {"rules": rules._book, "release": release}
    every = same | {"attempts": Attempts(), "now": read_at + 3}
    given = (b"two\nreceipts", "an.audience")
    assert asked == [
        ("decide", request, every | {"consent": given, "pad": PadLevel.ON_DEVICE}),
        ("decide", request, every | {"consent": None, "pad": None}),
        ("decide_for_anybody", request, same | {"now": read_at + 4}),
    ]


# ---------------------------------------------------------------------------------------------------- assertions
def an_issuer(address=ISSUER.address, key=ISSUER_KEY):
    return AssertionIssuer(address, key, PairwiseSecret(bytes(range(32))), a_bundle())


def test_an_assertion_says_of_each_thing_what_it_was_made_of(monkeypatch):
    said, asked = [], []
    monkeypatch.setattr(Assertion, "sign", lambda self, key: said.append((self, key)) or "a token")
    consent = SimpleNamespace(current=SimpleNamespace(terms=SimpleNamespace(contest="mailto:contest@example.org")))
    monkeypatch.setattr(assertions, "consent_to", lambda *of: asked.append(of) or consent)
    head = SimpleNamespace(size=42, root=bytes([7] * 32))
    checkpoint = SimpleNamespace(checkpoint=SimpleNamespace(origin="example.org/log"), head=head)
    request = SessionRequest(bytes([1] * 32), "door-access", "shop.example.org", bytes([2] * 32))
    template = SimpleNamespace(receipts=b"receipts", account=bytes([3] * 16), audience="another.example")
    issuer, bundle = an_issuer(), a_bundle()
    logged = SimpleNamespace(index=17, checkpoint=checkpoint)
    assert issuer.issue(request, template, logged, pad=PadLevel.SUPERVISED, now=1_900_000_000) == "a token"
    assert asked == [(b"receipts", "shop.example.org")]
    whole = Assertion(
        issuer=ISSUER.address,
        audience="shop.example.org",
        subject=PairwiseSecret(bytes(range(32))).subject(account=bytes([3] * 16), audience="shop.example.org"),
        purpose="door-access",
        nonce=bytes([2] * 32),
        issued_at=1_900_000_000,
        expires_at=1_900_000_300,
        release_digest=bytes.fromhex(a_release().digest),
        rate=a_release().rate,
        audited=bundle.manifest.audited,
        log=LogPosition("example.org/log", 17, 42, bytes([7] * 32)),
        contest="mailto:contest@example.org",
        pad=PadLevel.SUPERVISED,
    )
    assert said == [(whole, ISSUER_KEY)]
    monkeypatch.setattr(assertions, "consent_to", lambda *_: None)
    with pytest.raises(RefusedError, match="the person withdrew"):
        issuer.issue(request, template, logged, pad=PadLevel.NONE, now=1_900_000_000)


def test_an_issuer_is_the_registered_one_by_its_address_and_its_key():
    other_key = Ed25519PrivateKey.generate()
    an_issuer().require_registered(ISSUER)
    for issuer in (an_issuer(address="https://other.example.org"), an_issuer(key=other_key)):
        with pytest.raises(UsageError, match="the public rules register another issuer"):
            issuer.require_registered(ISSUER)
    registered = Issuer("https://other.example.org", other_key.public_key().public_bytes_raw())
    an_issuer("https://other.example.org", other_key).require_registered(registered)


# ------------------------------------------------------------------------------------------------------ releases
def test_a_release_is_found_by_its_digest_and_the_parameters_of_its_template():
    bundles = [a_bundle(a_release(threshold)) for threshold in (300, 301, 302)]
    releases = Releases(bundles[0], bundles[1:])
    digests = [bytes.fromhex(bundle.release.digest) for bundle in bundles]
    assert [one.digest for one in releases.every] == digests
    assert releases.present is releases.every[0]
    for one, bundle in zip(releases.every, bundles, strict=True):
        assert releases.find(one.digest, one.parameters.name) is one
        assert releases.find(one.digest, "other parameters") is None
        assert (one.threshold, one.standing) == (bundle.release.threshold, bundle.manifest.standing)
        assert one.manifest == bundle.signed.to_bytes()
    assert releases.find(bytes(32), releases.present.parameters.name) is None


@pytest.mark.parametrize("twice", [(0, [0]), (0, [1, 1]), (0, [1, 0])])
def test_no_release_stands_there_twice(twice):
    present, former = twice
    bundles = [a_bundle(a_release(threshold)) for threshold in (300, 301)]
    with pytest.raises(UsageError, match="different ones, each named once"):
        Releases(bundles[present], [bundles[number] for number in former])
