"""What a rulebook finds among its entries: all of them are looked at, and each by all that it is looked up by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.errors import ProofError, RefusedError
from federation.presentation.levels import PadLevel
from federation.rules.entries import jurisdictions_around
from federation.rules.policy import is_stopped, moratoria_of
from federation.rules.rulebook import Rulebook, RuleSigners, SignedRule
from tests.agreeing import (
    AUDIENCE,
    DAY,
    NOW,
    OTHER_AUDIENCE,
    OTHER_PURPOSE,
    PURPOSE,
    RULE_SIGNERS,
    SIGNERS,
    STRANGER,
    a_deployment,
    a_kiosk,
    a_lifting,
    a_moratorium,
    a_pack,
    a_rule,
    a_rulebook,
    an_exception,
    by,
    public,
    sha256,
)
from tests.values import GOOD

KIOSK = a_kiosk()
OTHER_KIOSK = a_kiosk(
    identifier="hall-2", deployment="munich-office", certificate=sha256("another"), begins_at=NOW, ends_at=NOW + 60
)
CATEGORY = a_rule().category.value


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, PadLevel.SUPERVISED),
        ({"checked": False}, PadLevel.NONE),
        ({"deployment": "munich-office"}, PadLevel.ON_DEVICE),
        ({"certificate": sha256("a stranger's")}, PadLevel.ON_DEVICE),
        ({"certificate": sha256("another")}, PadLevel.ON_DEVICE),
        ({"deployment": "munich-office", "certificate": sha256("another")}, PadLevel.SUPERVISED),
        ({"now": KIOSK.begins_at}, PadLevel.SUPERVISED),
        ({"now": KIOSK.begins_at - 1}, PadLevel.ON_DEVICE),
        ({"now": KIOSK.ends_at - 1}, PadLevel.SUPERVISED),
        ({"now": KIOSK.ends_at}, PadLevel.ON_DEVICE),
    ],
    ids=str,
)
def test_a_kiosk_is_one_of_its_own_deployment_with_its_own_certificate_in_its_time(changes, level):
    asked = {"deployment": "berlin-office", "checked": True, "certificate": KIOSK.certificate, "now": NOW} | changes
    for entries in ((KIOSK, OTHER_KIOSK), (OTHER_KIOSK, KIOSK)):
        assert a_rulebook(a_deployment(), *entries).pad_level(**asked) is level


def test_a_certificate_of_any_kiosk_that_ever_was_names_one_and_no_other_does():
    book = a_rulebook(a_deployment(), KIOSK, OTHER_KIOSK)
    asked = (KIOSK.certificate, OTHER_KIOSK.certificate, sha256("a stranger's"))
    assert [book.names_kiosk(certificate) for certificate in asked] == [True, True, False]


def test_a_device_may_go_to_each_later_deployment_of_the_same_operator_audience_and_law():
    former = a_deployment()
    later = a_deployment(identifier="second", begins_at=NOW)
    wider = a_deployment(identifier="third", begins_at=NOW + 1, jurisdictions=("DE", "DE-BY", "EU"))
    others = [
        a_deployment(identifier="at-once"),
        a_deployment(identifier="before", begins_at=former.begins_at - 1),
        a_deployment(identifier="other-operator", begins_at=NOW, operator="Andere GmbH"),
        a_deployment(identifier="other-audience", begins_at=NOW, audience=OTHER_AUDIENCE),
        a_deployment(identifier="other-law", begins_at=NOW, jurisdictions=("EU", "FR")),
        a_deployment(identifier="less-law", begins_at=NOW, jurisdictions=("EU",)),
    ]
    book = a_rulebook(former, others[0], later, *others[1:], wider)
    assert book.followers("berlin-office") == (later, wider)
    assert book.followers("second") == (wider,)
    assert book.followers("third") == ()
    assert book.followers("nobody") == ()


def test_the_highest_version_counts_once_it_has_begun_and_not_the_one_that_began_last():
    packs = [a_pack("DE", version=one, begins_at=NOW + at) for one, at in ((2, 20), (3, 10), (1, 0), (4, 99))]
    clients = [replace(GOOD["a client"], version=pack.version, begins_at=pack.begins_at) for pack in packs]
    deployment, identifier = clients[0].deployment, clients[0].identifier
    foreign = [replace(clients[3], identifier="zz.example"), replace(clients[3], deployment="elsewhere")]
    book = a_rulebook(*packs, a_pack("EU", version=9), *clients, *foreign)
    for at, version in ((-1, None), (0, 1), (9, 1), (10, 3), (20, 3), (98, 3), (99, 4)):
        found = book.pack("DE", NOW + at), book.client(deployment, identifier, NOW + at)
        assert [one and one.version for one in found] == [version, version]
    assert book.clients(deployment, identifier) == tuple(clients)
    assert sorted(book.changes_of_pack("DE", NOW + 10)) == [NOW + 20, NOW + 99]


def test_a_rulebook_is_never_younger_than_its_last_reading_and_admitting_again_changes_nothing():
    book = a_rulebook(a_deployment(), read_at=NOW)
    assert [book.read_again(NOW + second).read_at for second in (-1, 0, 1)] == [NOW, NOW, NOW + 1]
    assert book.read_again(NOW + 1).rules == book.rules
    assert book.admit(by(2, a_deployment())) is book


def test_every_moratorium_that_stops_a_purpose_now_is_found_and_none_that_will_or_that_stops_another():
    """By what any of the places calls the purpose, and for that audience and not for the deployment's own."""
    own = a_deployment(jurisdictions=("DE", "DE-BY", "EU"))
    stops = [
        a_moratorium(identifier="all", begins_at=NOW),
        a_moratorium(identifier="category", categories=(CATEGORY,)),
        a_moratorium(identifier="audience", audiences=(OTHER_AUDIENCE,)),
    ]
    later = a_moratorium(identifier="later", begins_at=NOW + 1)
    exception = an_exception(jurisdiction="EU", audience=OTHER_AUDIENCE)  # the one that says what the purpose is
    packs = (a_pack("DE", rules=()), a_pack("DE-BY", rules=()), a_pack("EU", rules=()))
    book = a_rulebook(own, *packs, exception, *stops, later)
    assert moratoria_of(own, OTHER_AUDIENCE, PURPOSE, book, NOW) == tuple(stops)
    assert moratoria_of(own, OTHER_AUDIENCE, OTHER_PURPOSE, book, NOW) == (stops[0], stops[2])
    assert moratoria_of(own, AUDIENCE, PURPOSE, book, NOW) == (stops[0],)
    assert moratoria_of(own, AUDIENCE, PURPOSE, book, NOW + 1) == (stops[0], later)
    assert not is_stopped(own, AUDIENCE, PURPOSE, a_rulebook(own, *packs, later), NOW)
    assert is_stopped(own, AUDIENCE, PURPOSE, a_rulebook(own, *packs, later), NOW + 1)


# ---------------------------------------------------------------- who signs what

NEEDED = {
    "pack": (a_pack(), (1, 2, 3)),
    "deployment": (a_deployment(), (1, 2, 3)),
    "client": (GOOD["a client"], (1, 2, 3)),
    "kiosk": (a_kiosk(), (1, 2, 3)),
    "exception": (an_exception(), (2, 2, 3)),
    "lifting": (a_lifting(), (2, 2, 3)),
    "moratorium": (a_moratorium(), (1, 1, 1)),
}
"""Of each kind, how many signatures it needs where the threshold is one, two and three."""


@pytest.mark.parametrize(("rule", "needed"), NEEDED.values(), ids=NEEDED)
@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_each_kind_of_rule_needs_as_many_signers_as_its_kind_says(rule, needed, threshold):
    signers = RuleSigners(RULE_SIGNERS.public_keys, threshold)
    begun = Rulebook(signers, NOW).admit(by(1, a_moratorium()))
    standing = dict(begun.rules)
    count = needed[threshold - 1]
    assert signers.signatures_needed(rule) == count
    for signed in range(4):
        if signed >= count:
            assert dict(begun.admit(by(signed, rule)).rules) == standing | {rule.name: rule}
        else:
            with pytest.raises(ProofError, match=f"^{rule.name} needs {count} different signatures and has {signed}$"):
                begun.admit(by(signed, rule))
        assert dict(begun.rules) == standing
        assert begun.read_at == NOW


def test_a_rules_file_is_its_signers_and_then_its_entries_in_their_order():
    entries = [by(1, a_moratorium()), by(2, a_lifting()), by(3, a_pack("FR", version=7)), by(2, a_kiosk())]
    lines = [RULE_SIGNERS.to_bytes(), *(entry.to_bytes() for entry in entries)]
    book = Rulebook.from_file(b"\n".join(lines) + b"\n", read_at=NOW + 5)
    assert (book.signers, book.read_at) == (RULE_SIGNERS, NOW + 5)
    assert list(book.rules.items()) == [(entry.rule.name, entry.rule) for entry in entries]
    assert book == Rulebook.read(RULE_SIGNERS, lines[1:], read_at=NOW + 5)
    assert not Rulebook.from_file(lines[0], read_at=1).rules
    with pytest.raises(RefusedError, match="does not follow on a moratorium"):
        Rulebook.from_file(b"\n".join([lines[0], lines[2], lines[1]]), read_at=NOW)
    for more in (by(1, a_pack("IT")), by(0, a_pack("IT")).signed_by(SIGNERS[2]).signed_by(STRANGER)):
        with pytest.raises(ProofError, match="pack IT 1"):
            Rulebook.from_file(b"\n".join([*lines, more.to_bytes()]), read_at=NOW)


def test_what_a_signer_signs_is_the_rule_under_its_tag_and_signing_adds_to_what_stands():
    rule = a_kiosk()
    for order in ((0, 2), (2, 0)):
        signed = SignedRule(rule)
        for number in order:
            signed = signed.signed_by(SIGNERS[number])
        assert signed.rule == rule
        assert dict(signed.signatures).keys() == {public(SIGNERS[0]), public(SIGNERS[2])}
        for number in order:
            written = signed.to_bytes().partition(b'{"rule":')[2].rpartition(b',"signatures":')[0]
            SIGNERS[number].public_key().verify(
                dict(signed.signatures)[public(SIGNERS[number])], b"intaglio-rule/1\0" + written
            )


@pytest.mark.parametrize(
    "other",
    [
        a_pack(ends_at=NOW + 5),
        a_deployment(operator="Andere GmbH"),
        a_kiosk(place="cellar"),
        an_exception(audience=OTHER_AUDIENCE),
        a_moratorium(begins_at=NOW - 2 * DAY),
        a_lifting(lifted_at=NOW + 1),
    ],
    ids=lambda rule: rule.name,
)
def test_a_rule_is_never_edited_and_the_first_one_of_a_name_stays(other):
    firsts = (a_pack(), a_deployment(), a_kiosk(), an_exception(), a_moratorium(), a_lifting())
    book = a_rulebook(*firsts)
    with pytest.raises(RefusedError, match=f"there is another {other.name} already"):
        book.admit(by(3, other))
    assert list(book.rules.values()) == list(firsts)
    for first in firsts:
        assert book.admit(by(3, first)) is book


# ---------------------------------------------------------------- moratoria, one of two lifted


def test_a_lifting_ends_the_moratorium_that_it_names_and_no_other_from_its_second():
    first, second = a_moratorium(identifier="first"), a_moratorium(identifier="second", begins_at=NOW + 3)
    book = a_rulebook(first, second, a_lifting(moratorium="first", lifted_at=NOW + 9))
    assert [book.moratoria(at) for at in (NOW - 2 * DAY, NOW + 8, NOW + 9)] == [(first, second)] * 2 + [(second,)]
    both = book.admit(by(2, a_lifting(moratorium="second", lifted_at=NOW + 4)))
    assert [both.moratoria(NOW + at) for at in (3, 4, 8, 9)] == [(first, second), (first,), (first,), ()]
    assert book.moratoria(NOW + 9) == (second,)


@pytest.mark.parametrize(
    "lifting",
    [
        a_lifting(moratorium="third", lifted_at=NOW + 9),
        a_lifting(moratorium="second", lifted_at=NOW + 3),
        a_lifting(moratorium="second", lifted_at=NOW + 2),
        a_lifting(moratorium="berlin-office", lifted_at=NOW + 9),
    ],
    ids=["of no name", "in its first second", "before it", "of a deployment"],
)
def test_a_lifting_that_follows_on_no_moratorium_of_its_name_is_refused_and_nothing_of_it_stays(lifting):
    first, second = a_moratorium(identifier="first"), a_moratorium(identifier="second", begins_at=NOW + 3)
    book = a_rulebook(a_deployment(), first, second)
    with pytest.raises(RefusedError, match=f"^{lifting.name} does not follow on a moratorium of that name$"):
        book.admit(by(3, lifting))
    assert list(book.rules.values()) == [a_deployment(), first, second]
    assert book.moratoria(NOW + 99) == (first, second)
    assert book.admit(by(2, replace(lifting, moratorium="second", lifted_at=NOW + 4))).moratoria(NOW + 4) == (first,)


# ---------------------------------------------------------------- places


def test_the_wider_law_of_a_place_is_its_country_s_and_of_twenty_seven_countries_the_union_s():
    union = [
        "AT", "BE", "BG", "HR", "CY", "CZ", "DK", "EE", "FI", "FR", "DE", "GR", "HU", "IE",
        "IT", "LV", "LT", "LU", "MT", "NL", "PL", "PT", "RO", "SK", "SI", "ES", "SE",
    ]  # fmt: skip
    assert len(union) == 27
    for country in union:
        assert jurisdictions_around(country) == tuple(sorted((country, "EU")))
        assert jurisdictions_around(f"{country}-X1") == tuple(sorted((country, f"{country}-X1", "EU")))
    for country in ("GB", "NO", "CH", "IS", "LI", "UA", "TR", "US", "EL", "UK"):
        assert jurisdictions_around(country) == (country,)
        assert jurisdictions_around(f"{country}-X1") == (country, f"{country}-X1")
    assert jurisdictions_around("EU") == ("EU",)
