"""Sessions of each visitor, as whoever passes calls on counts them."""

import pytest

from federation.errors import UnavailableError, UsageError
from server.visitors.sessions import OpenSessions


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def sessions(now):
    return OpenSessions(2, 60.0, clock=lambda: now[0])


def open_one(sessions, visitor, session_id):
    with sessions.opening(visitor) as opened:
        opened(session_id)


def test_sessions_expire_and_the_oldest_says_when_there_is_room(sessions, now):
    open_one(sessions, b"a", b"1")
    now[0] = 10.0
    open_one(sessions, b"a", b"2")
    open_one(sessions, b"b", b"3")
    with pytest.raises(UnavailableError, match="2 sessions of this address are open") as caught:
        open_one(sessions, b"a", b"4")
    assert caught.value.retry_after_seconds == 50
    assert sessions.count == 3
    now[0] = 60.0
    open_one(sessions, b"a", b"4")
    now[0] = 120.0
    assert sessions.count == 0


def test_sessions_that_are_being_opened_count(sessions):
    with sessions.opening(b"a"), sessions.opening(b"a"):
        with pytest.raises(UnavailableError, match="are open") as caught, sessions.opening(b"a"):
            raise AssertionError
        assert caught.value.retry_after_seconds == 60
        with sessions.opening(b"b"):
            pass
    open_one(sessions, b"a", b"1")  # none of them came to be


def test_nothing_is_remembered_of_who_has_no_session(sessions):
    """Every address that ever came would be held in memory."""
    for number in range(3):
        with sessions.opening(b"%d" % number):
            assert len(sessions._opening) == 1
        with pytest.raises(ZeroDivisionError, match="division"), sessions.opening(b"%d" % number):
            raise ZeroDivisionError("division")
    assert not sessions._opening
    assert not sessions._open


def test_a_session_that_ended_makes_room_once(sessions):
    open_one(sessions, b"a", b"1")
    open_one(sessions, b"a", b"2")
    for _ in range(2):
        sessions.ended(b"1")
    open_one(sessions, b"a", b"3")
    with pytest.raises(UnavailableError, match="are open"):
        open_one(sessions, b"a", b"4")


@pytest.mark.parametrize(("most", "seconds"), [(0, 60.0), (1, 0.0)])
def test_limits_that_leave_no_room_are_refused(most, seconds):
    with pytest.raises(UsageError, match="at least one session"):
        OpenSessions(most, seconds)
    assert OpenSessions(1, 0.5).count == 0
