"""Places: so many at once for each visitor, and nothing is remembered of who has none."""

import pytest

from federation.errors import UnavailableError, UsageError
from server.visitors.places import Places


def test_one_visitor_s_places_leave_room_for_another_and_come_back():
    places = Places(2, "calls of this certificate")
    with places.one(b"a"), places.one(b"a"):
        with pytest.raises(UnavailableError, match="2 calls of this certificate are under way"), places.one(b"a"):
            raise AssertionError
        with places.one(b"b"):
            assert places.visitors == 2
    assert places.visitors == 0
    with places.one(b"a"):
        pass


def test_who_leaves_one_of_two_places_has_the_other_still():
    places = Places(2, "calls")
    with places.one(b"a"):
        with places.one(b"a"):
            pass
        assert places.visitors == 1
        with places.one(b"a"), pytest.raises(UnavailableError, match="2 calls are under way"), places.one(b"a"):
            raise AssertionError
    assert places.visitors == 0


def test_a_place_comes_back_from_who_fails():
    places = Places(1, "calls")
    for _ in range(3):
        with pytest.raises(ZeroDivisionError, match="division"), places.one(b"a"):
            places.one(1 // 0)
    assert places.visitors == 0


def test_room_for_nobody_is_refused():
    with pytest.raises(UsageError, match="at least one"):
        Places(0, "calls")
