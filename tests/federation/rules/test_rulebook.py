"""What a rulebook finds among its entries: all of them are looked at, and each by all that it is looked up by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.presentation.levels import PadLevel
from federation.rules.policy import is_stopped, moratoria_of
from tests.agreeing import (
    AUDIENCE,
    NOW,
    OTHER_AUDIENCE,
    OTHER_PURPOSE,
    PURPOSE,
    a_deployment,
    a_kiosk,
    a_moratorium,
    a_pack,
    a_rule,
    a_rulebook,
    an_exception,
    by,
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
