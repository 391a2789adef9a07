"""In which order somebody who asks as an owner is known, judged and served, and what a refusal means at each step."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from federation.errors import IntaglioError, RefusedError, UnavailableError
from federation.transparency import AttemptOutcome, Opening, PersonalKind
from federation.wire.devices import Admission
from federation.wire.owner import OwnerOperation
from federation.wire.v1 import verification_pb2 as pb
from server.matching import owners as module
from server.matching.journal import Asking
from server.matching.owners import NOBODY, STRANGER, OwnerService, _page_of
from server.storage.storage import Owner
from tests.server.matching.calls import Calls
from tests.stored import DEVICE, KEY, NOW, OTHER_DEVICE, OTHER_KEY, a_template, digest

OWNER = Owner(DEVICE, "example.org")
LET_IN = Admission(DEVICE, digest(8), b"\x0b" * 64, b"a transcript")
DEVICES = (
    a_template(),
    dataclasses.replace(a_template(OTHER_DEVICE), enrolled_at=NOW + 3, admission=LET_IN.to_bytes()),
)
OPENINGS = {at: Opening(PersonalKind.ATTEMPT, {"key_id": KEY.hex()}, bytes([at]) * 32) for at in (2, 5, 7)}


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
            attempts_of=calls.of("attempts", [(NOW - 9, "match"), (NOW - 5, None)]),
            devices=calls.of("devices", DEVICES),
        )
        receipt = SimpleNamespace(to_proto=lambda: None)
        deeds = SimpleNamespace(
            finish=calls.later("finish"), revoke=calls.later("revoke", receipt), erase=calls.later("erase")
        )
        journal = SimpleNamespace(asked_by_an_owner=self.asked, openings=calls.of("openings", OPENINGS))
        self.service = OwnerService(self.storage, on_disk, journal, deeds, clock=lambda: NOW + 0.9)
        monkeypatch.setattr(module, "is_signed", calls.of("signed", signed))
        monkeypatch.setattr(module, "peer_of", lambda context: f"peer of {context}")
        monkeypatch.setattr(module, "proof_from_proto", lambda operation, _: calls.note("read", operation) or proof)
        monkeypatch.setattr(module, "read_revocation", lambda _: (proof, 5))
        monkeypatch.setattr(module, "read_export", lambda start: (proof, start))
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


EXPORT = [ASKED, *KNOWN, ("fresh", NOW), ("believed",), ("openings", KEY)]


async def test_an_owner_gets_everything_but_template_and_account_on_the_first_page_and_only_openings_on_the_next(
    monkeypatch,
):
    monkeypatch.setattr(module, "_PAGE_BYTES", 2 * len(OPENINGS[2].secret_bytes()))
    scene, template = Scene(monkeypatch), dataclasses.replace(a_template(), receipts=b"one\ntwo")
    answer = await scene.service.Export(0, "a context")
    assert scene.calls == [*EXPORT, ("template", KEY), ("attempts", KEY), ("devices", template.account)]
    assert [(one.position, one.opening) for one in answer.openings] == [
        (at, OPENINGS[at].secret_bytes()) for at in (2, 5)
    ]
    assert (list(answer.receipts), answer.next) == ([b"one", b"two"], 7)
    assert json.loads(answer.record) == {
        "account": "held",
        "attempts": [{"at": NOW - 9, "decision": "match"}, {"at": NOW - 5, "decision": "not known"}],
        "audience": "example.org",
        "device_public_key": DEVICE.hex(),
        "devices": [
            {"enrolled_at": NOW, "key_id": KEY.hex()},
            {"enrolled_at": NOW + 3, "key_id": OTHER_KEY.hex(), "admission": LET_IN.to_json()},
        ],
        "key_id": KEY.hex(),
        "template": {
            "bytes": len(template.template),
            "digest": hashlib.sha256(template.template).hexdigest(),
            "enrolled_at": NOW,
            "parameters": "profile/1",
            "purpose": "door-access",
            "release": "04" * 32,
        },
    }
    del scene.calls[:]
    answer = await scene.service.Export(7, "a context")
    assert scene.calls == EXPORT
    assert [one.position for one in answer.openings] == [7]
    assert (answer.record, list(answer.receipts), answer.next) == (b"", [], 0)


async def test_an_owner_whose_template_is_gone_gets_what_is_left(monkeypatch):
    scene = Scene(monkeypatch)
    scene.storage.template = scene.calls.of("template")
    answer = await scene.service.Export(0, "a context")
    assert scene.calls == [*EXPORT, ("template", KEY), ("attempts", KEY)]
    assert json.loads(answer.record).keys() == {"attempts", "audience", "device_public_key", "key_id"}
    assert (list(answer.receipts), len(answer.openings)) == ([], 3)
    answer = await scene.service.ListReceipts("a request", "a context")
    assert list(answer.receipts) == []


@pytest.mark.parametrize(("why", "outcome"), [("signed", AttemptOutcome.INVALID), ("fresh", AttemptOutcome.REPLAYED)])
async def test_whoever_is_refused_an_export_reads_nothing(monkeypatch, why, outcome):
    scene = Scene(monkeypatch)
    scene.calls.failing[why] = RefusedError("no")
    with pytest.raises(RefusedError, match=r"^no$"):
        await scene.service.Export(0, "a context")
    assert scene.calls == EXPORT[: [call[0] for call in EXPORT].index(why) + 1]
    assert scene.refused == (KEY, outcome)


async def test_an_erasure_tells_the_tombstone_and_a_revocation_its_entry(monkeypatch):
    for method, kind in (("Erase", pb.EraseResponse), ("Revoke", pb.RevokeResponse)):
        scene, log = Scene(monkeypatch), pb.LogReceipt(opening=b"what stands behind it")
        receipt = SimpleNamespace(to_proto=lambda log=log: log)
        setattr(scene.service._deeds, method.lower(), scene.calls.later(method.lower(), receipt))
        assert await getattr(scene.service, method)("a request", "a context") == kind(log=log)


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
