"""The shelf of prepared material, with comparisons that are made up."""

from __future__ import annotations

import pytest

from federation.errors import MalformedMessageError
from server import preparing
from server.preparing import Shelf

NOW = [0.0]


class FakeMaterial:
    made = 0

    def __init__(self, reference, threshold):
        FakeMaterial.made += 1
        self.name = (reference, threshold, FakeMaterial.made)
        self.is_spent = False

    def answer(self, probe, _transcript):
        assert not self.is_spent
        self.is_spent = True
        if probe == b"bad":
            raise MalformedMessageError("bad")
        return self.name


class FakeReference:
    @staticmethod
    def from_bytes(public_key, template):
        return public_key + template


@pytest.fixture
def shelf(monkeypatch):
    monkeypatch.setattr(preparing, "prepare", FakeMaterial)
    monkeypatch.setattr(preparing, "Reference", FakeReference)
    monkeypatch.setattr(FakeMaterial, "made", 0)
    NOW[0] = 0.0
    return Shelf(capacity=2, lifetime_seconds=10, clock=lambda: NOW[0])


def compare(shelf, key_id=b"k", probe=b"probe", threshold=600):
    return shelf.match(key_id, b"key " + key_id, b"template", probe, b"transcript", threshold)


def test_material_is_made_when_idle_and_used_once(shelf):
    first, was_ready = compare(shelf)
    assert not was_ready
    assert shelf.fill()
    assert not shelf.fill()
    assert shelf.depth == 1
    second, was_ready = compare(shelf)
    assert was_ready
    assert shelf.depth == 0
    third, was_ready = compare(shelf)
    assert not was_ready
    assert [made for _, _, made in (first, second, third)] == [1, 2, 3]


def test_a_bad_probe_spends_the_material(shelf):
    compare(shelf)
    shelf.fill()
    with pytest.raises(MalformedMessageError):
        compare(shelf, probe=b"bad")
    assert shelf.depth == 0


def test_material_is_for_one_template_and_one_threshold(shelf):
    compare(shelf)
    shelf.fill()
    assert not compare(shelf, b"other")[1]
    assert not compare(shelf, threshold=601)[1]


def test_the_template_that_was_used_last_is_prepared_first(shelf):
    compare(shelf, b"1")
    compare(shelf, b"2")
    shelf.fill()
    assert compare(shelf, b"2")[1]
    assert not compare(shelf, b"1")[1]


def test_the_shelf_is_bounded_and_drops_what_was_used_longest_ago(shelf):
    for key_id in (b"1", b"2", b"1", b"3"):
        compare(shelf, key_id)
    while shelf.fill():
        pass
    assert shelf.depth == 2
    assert compare(shelf, b"1")[1]
    assert compare(shelf, b"3")[1]


def test_what_nobody_asks_for_is_dropped_after_a_while(shelf):
    compare(shelf, b"1")
    NOW[0] = 5
    compare(shelf, b"2")
    while shelf.fill():
        pass
    NOW[0] = 10
    shelf.tidy()
    assert shelf.depth == 1
    assert compare(shelf, b"2")[1]


def test_an_erased_template_is_forgotten_at_once(shelf):
    compare(shelf)
    compare(shelf, threshold=601)
    shelf.fill()
    shelf.forget(b"k")
    assert shelf.depth == 0
    assert not shelf.fill()
