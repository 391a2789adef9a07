"""When the permissions of a deployment end, with packs that follow, end early, and are banned."""

import pytest

from federation.rules.ends import PermissionEnd, permission_ends
from tests.agreeing import (
    DAY,
    NOW,
    OTHER_PURPOSE,
    PURPOSE,
    a_deployment,
    a_moratorium,
    a_pack,
    a_rule,
    a_rulebook,
    an_exception,
)


def pack(days, version=1, *, begins=-1, place="DE", rule_days=None):
    """One that allows the purpose, or with `rule_days` for shorter; times in days from now."""
    rule = a_rule(ends_at=NOW + DAY * (days if rule_days is None else rule_days), begins_at=NOW - 900 * DAY)
    return a_pack(place, rule, version=version, begins_at=NOW + begins * DAY, ends_at=NOW + days * DAY)


def ban(version, *, begins):
    other = a_rule(purpose=OTHER_PURPOSE)
    return a_pack("DE", other, version=version, begins_at=NOW + begins * DAY)


ENDS = {
    "the pack": ((pack(40),), 40),
    "its rule, before it": ((pack(40, rule_days=30),), 30),
    "the pack that follows in time": ((pack(40), pack(90, 2, begins=39)), 90),
    "the pack that follows at once": ((pack(40), pack(90, 2, begins=40)), 90),
    "the first one where the next comes too late": ((pack(40), pack(90, 2, begins=41)), 40),
    "the first one where the next allows something else": ((pack(40), ban(2, begins=20)), 20),
    "a later version that ends earlier": ((pack(400), pack(90, 2)), 90),
    "an exception that lasts longer": ((pack(20), an_exception()), 30),
    "the pack, whatever an exception says": ((pack(40), an_exception()), 40),
    "a pack that has ended": ((pack(-3, begins=-20),), -3),
    "a pack that has ended, until another begins": ((pack(-3, begins=-20), pack(9, 2, begins=4)), -3),
    "a pack that was replaced by a ban": ((pack(40, begins=-20), ban(2, begins=-6)), -6),
    "a pack after a gap": ((pack(-9, begins=-20), pack(40, 2, begins=-2)), 40),
    "the last one of two that have ended": ((pack(-9, begins=-20), pack(-3, 2, begins=-6)), -3),
    "the first of many gaps": (tuple(pack(9 * n, n, begins=9 * n - 4) for n in range(10, 0, -1)), 0),
    "the next of many ends": (tuple(pack(9 * n - 2, n, begins=9 * n - 9) for n in range(1, 30)), 7),
    "this moment ends": ((pack(0),), 0),
    "this moment where a pack is to begin": ((pack(40, begins=2),), 0),
    "nothing": ((ban(1, begins=-1),), 0),
}


@pytest.mark.parametrize(("rules", "days"), ENDS.values(), ids=ENDS)
def test_a_permission_ends_with_what_allows_it_last_without_a_gap(rules, days):
    found = permission_ends(a_deployment(), a_rulebook(*rules, pack(900, place="EU")), NOW)
    assert set(found) == {
        PermissionEnd("DE", PURPOSE, NOW + days * DAY),
        PermissionEnd("EU", PURPOSE, NOW + 900 * DAY),
    }


def test_the_earliest_comes_first_of_every_purpose_in_every_place():
    both = (a_rule(purpose=OTHER_PURPOSE, ends_at=NOW + 50 * DAY), a_rule(ends_at=NOW + 60 * DAY))
    book = a_rulebook(a_pack("DE", *both), a_pack("EU", *both, ends_at=NOW + 55 * DAY))
    found = permission_ends(a_deployment(purposes=(OTHER_PURPOSE, PURPOSE)), book, NOW)
    assert [(end.jurisdiction, end.purpose, (end.ends_at - NOW) // DAY) for end in found] == [
        ("DE", OTHER_PURPOSE, 50),
        ("EU", OTHER_PURPOSE, 50),
        ("EU", PURPOSE, 55),
        ("DE", PURPOSE, 60),
    ]


def test_a_moratorium_stops_and_ends_nothing_and_an_exception_for_others_does_not_help():
    others = an_exception(audience="other.example")
    book = a_rulebook(pack(20), pack(20, place="EU"), others, a_moratorium())
    assert {end.ends_at for end in permission_ends(a_deployment(), book, NOW)} == {NOW + 20 * DAY}
