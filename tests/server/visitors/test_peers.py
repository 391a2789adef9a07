"""Buckets of peers: who called last is remembered."""

from server.visitors import peers
from server.visitors.peers import PeerRate, PeerRates


def test_when_there_are_too_many_the_one_who_has_not_called_for_longest_is_forgotten(monkeypatch):
    """Else somebody who is slowed down would call with two new certificates and be forgotten himself."""
    monkeypatch.setattr(peers, "_REMEMBERED_PEERS", 2)
    rates = PeerRates(PeerRate(1.0, burst=1), clock=lambda: 0.0)
    assert [rates.wait_of(peer) for peer in (b"a", b"b", b"a", b"c")] == [0.0, 0.0, 1.0, 0.0]
    assert [rates.wait_of(peer) for peer in (b"a", b"c")] == [1.0, 1.0]
    assert rates.wait_of(b"b") == 0.0
