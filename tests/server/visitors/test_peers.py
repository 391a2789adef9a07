"""Who is calling, by the one name of a certificate; buckets of peers: who called last is remembered."""

from types import SimpleNamespace

import pytest

from federation.errors import UsageError
from server.visitors import peers
from server.visitors.peers import PeerRate, PeerRates, name_of


@pytest.mark.parametrize(
    ("shown", "name"),
    [({}, None), ([], None), ([b"alice"], "alice"), ([b"alice", b"bob"], None), ([b"al\xffice"], "al\ufffdice")],
)
def test_whoever_shows_several_names_or_none_has_none(shown, name):
    """Else a ticket that is for one certificate would open for another that names that one too."""
    context = SimpleNamespace(auth_context=lambda: {"x509_common_name": shown} if shown != {} else {})
    assert name_of(context) == name


def test_who_comes_too_early_waits_for_what_is_missing_and_the_early_call_counts_for_nothing():
    now = [0.0]
    rates = PeerRates(PeerRate(2.0, burst=1), clock=lambda: now[0])
    assert [rates.wait_of(b"a") for _ in range(3)] == [0.0, 0.5, 0.5]
    now[0] = 0.375
    assert [rates.wait_of(b"a") for _ in range(2)] == [0.125, 0.125]
    now[0] = 0.5
    assert rates.wait_of(b"a") == 0.0
    now[0] = 100.0
    assert [rates.wait_of(b"a") for _ in range(2)] == [0.0, 0.5], "a rest saves up a burst and no more"


def test_a_clock_that_goes_back_costs_nobody_more_than_the_wait_that_there_was():
    now = [5000.0]
    rates = PeerRates(PeerRate(2.0, burst=3), clock=lambda: now[0])
    assert [rates.wait_of(b"a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    now[0] = 1000.0
    assert rates.wait_of(b"a") == 0.5
    now[0] = 1000.5
    assert [rates.wait_of(b"a") for _ in range(2)] == [0.0, 0.5]


def test_a_rate_may_be_a_day_s_or_so_many_times_as_much():
    assert PeerRate(1.5, burst=4).times(3) == PeerRate(4.5, burst=12)
    assert PeerRate.a_day(864) == PeerRate(0.01, burst=864)


def test_when_there_are_too_many_the_one_who_has_not_called_for_longest_is_forgotten(monkeypatch):
    """Else somebody who is slowed down would call with two new certificates and be forgotten himself."""
    monkeypatch.setattr(peers, "_REMEMBERED_PEERS", 2)
    rates = PeerRates(PeerRate(1.0, burst=1), clock=lambda: 0.0)
    assert [rates.wait_of(peer) for peer in (b"a", b"b", b"a", b"c")] == [0.0, 0.0, 1.0, 0.0]
    assert [rates.wait_of(peer) for peer in (b"a", b"c")] == [1.0, 1.0]
    assert rates.wait_of(b"b") == 0.0


@pytest.mark.parametrize("rate", ["nan", "inf", "-inf", "1e999"])
def test_a_rate_that_is_no_number_is_refused(rate):
    """The command line takes each of them for a number."""
    with pytest.raises(UsageError, match=r"^a rate is a number of calls per second$"):
        PeerRate.resting(float(rate), 3)


def test_after_a_rest_as_many_come_at_once_as_else_in_those_seconds_and_one_in_any_case():
    assert PeerRate.resting(7.0, 12) == PeerRate(7.0, burst=84)
    assert PeerRate.resting(0.1, 3) == PeerRate(0.1, burst=1)
    for none in (0.0, -2.0):
        with pytest.raises(UsageError, match="a rate needs more than 0 calls per second"):
            PeerRate.resting(none, 3)
