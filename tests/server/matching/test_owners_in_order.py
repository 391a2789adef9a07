"""In which order somebody who asks as an owner is known, judged and served, and what a refusal means at each step."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from federation.errors import IntaglioError, RefusedError, UnavailableError
from federation.transparency import AttemptOutcome, Opening, PersonalKind
from federation.wire.owner import OwnerOperation
from server.matching import owners as module
from server.matching.journal import Asking
from server.matching.owners import NOBODY, STRANGER, OwnerService, _page_of
from server.storage.storage import Owner
from tests.server.matching.calls import Calls
from tests.stored import DEVICE, KEY, NOW, OTHER_KEY, a_template, digest

OWNER = Owner(DEVICE, "example.org")


class Scene:
    """The owners' calls, whose parts note what they are told."""

    def __init__(self, monkeypatch, *, owner=OWNER, signed=True, erased=False):
        self.calls = calls = Calls()
        self.asking, self.refused = None, None
        proof = SimpleNamespace(key_id=KEY, audience="example.org", signature=b"signature", statement=b"statement")
        proof.require_fresh = calls.of("fresh")
        self.storage = SimpleNamespace(
            owner=calls.of("owner", owner),
            template=calls.of("template", dataclasses.replace(a_template(), receipts=b"one\ntwo")),
            is_erased_by=calls.of("erased?", erased),
        )
        receipt = SimpleNamespace(to_proto=lambda: None)
        deeds = SimpleNamespace(
            finish=calls.later("finish"), revoke=calls.later("revoke", receipt), erase=calls.later("erase")
        )
        journal = SimpleNamespace(asked_by_an_owner=self.asked)
        self.service = OwnerService(self.storage, on_disk, journal, deeds, clock=lambda: NOW + 0.9)
        monkeypatch.setattr(module, "is_signed", calls.of("signed", signed))
        monkeypatch.setattr(module, "peer_of", lambda context: f"peer of {context}")
        monkeypatch.setattr(module, "proof_from_proto", lambda operation, _: calls.note("read", operation) or proof)
        monkeypatch.setattr(module, "read_revocation", lambda _: (proof, 5))
        monkeypatch.setattr(module, "request_digest", lambda _: digest(7))

    @asynccontextmanager
    async def asked(self, peer):
        self.calls.note("asked", peer)
        self.asking = Asking()
        try:
            yield self.asking
        except IntaglioError:
            self.refused = self.asking.key_id, self.asking.refusal
            raise
        self.calls.note("believed")


async def on_disk(call, *arguments):
    return call(*arguments)


ASKED, KNOWN = (
    ("asked", "peer of a context"),
    [("finish",), ("owner", KEY), ("signed", DEVICE, b"signature", b"statement")],
)
LISTS, ERASES = ("read", OwnerOperation.LIST_RECEIPTS), ("read", OwnerOperation.ERASE)
HEARD = {
    "ListReceipts": [ASKED, LISTS, *KNOWN, ("fresh", NOW), ("believed",), ("template", KEY)],
    "Revoke": [ASKED, *KNOWN, ("believed",), ("revoke", KEY, digest(7), 5)],
    "Erase": [ASKED, ERASES, ("erased?", KEY, digest(7)), *KNOWN, ("believed",), ("erase", KEY, digest(7))],
}


@pytest.mark.parametrize("method", HEARD)
async def test_whoever_asks_is_known_before_anything_is_done_and_what_is_under_way_is_done_before_that(
    monkeypatch, method
):
    scene = Scene(monkeypatch)
    answer = await getattr(scene.service, method)("a request", "a context")
    assert scene.calls == HEARD[method]
    assert (scene.asking.key_id, scene.refused) == (KEY, None)
    if method == "ListReceipts":
        assert list(answer.receipts) == [b"one", b"two"]


STRANGERS = {
    "nobody": ({"owner": None}, NOBODY, None),
    "not signed": ({"signed": False}, DEVICE, KEY),
    "another audience": ({"owner": Owner(DEVICE, "other.example.org")}, DEVICE, KEY),
}


@pytest.mark.parametrize("method", HEARD)
@pytest.mark.parametrize("why", STRANGERS)
async def test_a_stranger_gets_one_answer_after_the_same_work_and_nothing_is_done(monkeypatch, method, why):
    changes, key, named = STRANGERS[why]
    scene = Scene(monkeypatch, **changes)
    with pytest.raises(RefusedError, match=f"^{STRANGER}$"):
        await getattr(scene.service, method)("a request", "a context")
    wanted = HEARD[method]
    before = wanted[: wanted.index(KNOWN[-1])]
    assert scene.calls == [*before, ("signed", key, b"signature", b"statement")]
    assert scene.refused == (named, AttemptOutcome.INVALID)


async def test_an_old_request_is_refused_as_replayed_and_shows_nothing(monkeypatch):
    scene = Scene(monkeypatch)
    scene.calls.failing["fresh"] = RefusedError("too old")
    with pytest.raises(RefusedError, match=r"^too old$"):
        await scene.service.ListReceipts("a request", "a context")
    assert scene.calls == HEARD["ListReceipts"][:-2]
    assert scene.refused == (KEY, AttemptOutcome.REPLAYED)


async def test_an_erasure_that_was_done_is_answered_again_without_an_owner(monkeypatch):
    scene = Scene(monkeypatch, owner=None, erased=True)
    assert not (await scene.service.Erase("a request", "a context")).HasField("log")
    assert scene.calls == [*HEARD["Erase"][:3], ("believed",)]


@pytest.mark.parametrize(("method", "deed"), [("Revoke", "revoke"), ("Erase", "erase")])
async def test_a_deed_that_fails_is_no_refusal(monkeypatch, method, deed):
    scene = Scene(monkeypatch)
    scene.calls.failing[deed] = UnavailableError("not now")
    with pytest.raises(UnavailableError, match="not now"):
        await getattr(scene.service, method)("a request", "a context")
    assert (scene.calls, scene.refused) == (HEARD[method], None)


def test_a_page_has_what_fits_and_at_least_one_and_says_where_the_next_one_begins(monkeypatch):
    openings = {at: Opening(PersonalKind.ATTEMPT, {"key_id": OTHER_KEY.hex()}, bytes([at]) * 32) for at in (2, 5, 7, 9)}
    size = len(openings[2].secret_bytes())
    for room, pages in ((2 * size, [[2, 5], [7, 9]]), (2 * size - 1, [[2], [5], [7], [9]]), (1, [[2], [5], [7], [9]])):
        monkeypatch.setattr(module, "_PAGE_BYTES", room)
        found, start = [], 0
        while not found or start:
            page, start = _page_of(openings, start)
            assert all(page[at] is openings[at] for at in page)
            found.append(list(page))
        assert found == pages
    assert _page_of({}, 0) == ({}, 0)
    assert _page_of(openings, 10) == ({}, 0)
