"""A witness answers as tlog-witness says, never cosigns two trees of one log, and has written before it answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import httpx
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.errors import UnavailableError, UsageError
from federation.transparency import Checkpoint, Growth, KeyKind, NoteSigner, SignedCheckpoint, TreeHead
from federation.transparency.notes import SignedNote
from federation.transparency.proofs import MAX_GROWTH_BYTES
from federation.transparency.tree import node_hash
from server.log import witness_site
from server.log.witness import CheckpointFiles, Witness, origin_hash
from server.log.witness_site import witness_app
from server.visitors.entrance import IN_ALL
from server.visitors.peers import PeerRate
from tests.commands import Stand
from tests.transparency_log import NOW, SIGNER, WITNESSES, MemoryLog, cosigned

ANOTHER_LOG = NoteSigner("another.example/log", KeyKind.NOTE, b"\7" * 32)
IMPOSTOR = NoteSigner(SIGNER.key.name, KeyKind.NOTE, b"\10" * 32)


def a_forked_log(at=2):
    log = MemoryLog()
    log.leaves[at] = log.leaves[at + 1]
    return log


@pytest.fixture
def seen(tmp_path):
    folder = tmp_path / "seen"
    folder.mkdir()
    return folder


@pytest.fixture
def witness(seen):
    return Witness(WITNESSES[0], [SIGNER.key, ANOTHER_LOG.key], CheckpointFiles(seen))


def ask(witness, growth, now=NOW):
    return witness.add_checkpoint(growth if isinstance(growth, bytes) else growth.to_bytes(), now=now)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def verified(line, text, key):
    """An oracle: tlog-cosignature by hand. The time that the line states."""
    dash, name, encoded = line.decode().removesuffix("\n").split(" ")
    raw = base64.b64decode(encoded)
    assert (dash, name) == ("\u2014", key.name)
    assert raw[:4] == hashlib.sha256(f"{key.name}\n\x04".encode() + key.public_key).digest()[:4]
    time = int.from_bytes(raw[4:12], "big")
    Ed25519PublicKey.from_public_bytes(key.public_key).verify(raw[12:], f"cosignature/v1\ntime {time}\n{text}".encode())
    return time


# ---------------------------------------------------------------------- what it signs
def test_a_witness_cosigns_growth_step_by_step_and_dates_it(witness):
    log = MemoryLog()
    for old, new in [(0, 3), (3, 3), (3, 8), (8, 10)]:
        growth = log.growth(old, new)
        answer = ask(witness, growth, NOW + new)
        assert (answer.status, answer.media_type) == (200, "text/plain; charset=utf-8")
        assert verified(answer.body, growth.checkpoint.note.text, WITNESSES[0].key) == NOW + new


def test_a_witness_says_where_the_proof_should_begin(witness, seen):
    ask(witness, MemoryLog().growth(0, 6))
    before = files(seen)
    for old in (0, 3, 7):
        answer = ask(witness, MemoryLog().growth(old, 10))
        assert (answer.status, answer.body, answer.media_type) == (409, b"6\n", "text/x.tlog.size")
    assert files(seen) == before


def test_a_witness_never_goes_back(witness, seen):
    ask(witness, MemoryLog().growth(0, 6))
    before = files(seen)
    assert ask(witness, MemoryLog().growth(0, 4)).status == 409
    assert ask(witness, MemoryLog().growth(4, 4)).status == 409
    backwards = MemoryLog().growth(4, 4).to_bytes().replace(b"old 4\n", b"old 6\n")
    assert ask(witness, backwards).status == 400
    assert files(seen) == before


@pytest.mark.parametrize("new", [6, 10])
def test_a_witness_never_cosigns_a_fork_and_goes_on_with_the_honest_log(witness, seen, new):
    ask(witness, MemoryLog().growth(0, 6))
    before = files(seen)
    assert ask(witness, a_forked_log().growth(6, new)).status == 422
    assert files(seen) == before
    assert ask(witness, MemoryLog().growth(6, 10)).status == 200


def test_a_proof_that_is_damaged_or_out_of_place_is_refused(witness, seen):
    log = MemoryLog()
    from_nothing = Growth(0, (bytes(32),), log.signed(6))
    assert ask(witness, from_nothing).status == 422
    assert not list(seen.glob("*.checkpoint"))
    ask(witness, log.growth(0, 6))
    proof = log.growth(6).proof
    for wrong in ((), proof[:-1], (*proof, bytes(32)), (bytes(32), *proof[1:]), proof[::-1]):
        assert ask(witness, Growth(6, wrong, log.signed())).status == 422
    assert ask(witness, Growth(6, (bytes(32),), log.signed(6))).status == 422


def test_a_proof_of_63_hashes_is_read_and_one_of_64_is_no_request(witness):
    ask(witness, MemoryLog().growth(0, 6))
    line = base64.b64encode(bytes(32)) + b"\n"
    for hashes, status in [(63, 422), (64, 400)]:
        assert ask(witness, b"old 6\n" + hashes * line + b"\n" + MemoryLog().signed().to_bytes()).status == status


def test_unknown_logs_and_other_peoples_signatures_are_told_apart_and_nothing_is_kept_of_them(witness, seen):
    unknown = NoteSigner("unknown.example/log", KeyKind.NOTE, b"\7" * 32)
    assert ask(witness, MemoryLog(signer=unknown).growth(0)).status == 404
    assert ask(witness, MemoryLog(signer=IMPOSTOR).growth(0)).status == 403
    honest = MemoryLog().signed()
    stranger = SignedNote(honest.note.text, (WITNESSES[1].sign(honest.note.text, time=NOW),))
    assert ask(witness, Growth(0, (), SignedCheckpoint(stranger))).status == 403
    assert not list(seen.glob("*.checkpoint"))


def test_a_line_of_the_logs_key_that_does_not_verify_beside_one_that_does_is_refused(witness):
    honest, forked = MemoryLog().signed(), a_forked_log().signed()
    both = SignedNote(honest.note.text, (*honest.note.signatures, forked.note.signatures[0]))
    assert ask(witness, Growth(0, (), SignedCheckpoint(both))).status == 403


def test_two_logs_of_one_witness_know_nothing_of_each_other(witness):
    other = MemoryLog(signer=ANOTHER_LOG)
    assert ask(witness, MemoryLog().growth(0, 6)).status == 200
    assert ask(witness, other.growth(0, 3)).status == 200
    assert ask(witness, MemoryLog().growth(6, 8)).status == 200
    assert ask(witness, other.growth(3, 4)).status == 200


def test_a_log_that_was_empty_is_cosigned_and_then_grows_without_a_proof(witness):
    assert ask(witness, MemoryLog().growth(0, 0)).status == 200
    assert ask(witness, Growth(0, (bytes(32),), MemoryLog().signed(4))).status == 422
    assert ask(witness, MemoryLog().growth(0, 4)).status == 200


def test_a_plain_c2sp_log_that_does_not_date_its_checkpoints_is_cosigned(witness):
    signed = MemoryLog().signed()
    plain = SignedCheckpoint(SignedNote(signed.note.text, signed.note.signatures[:1]))
    assert ask(witness, Growth(0, (), plain)).status == 200


def test_a_checkpoint_with_as_many_signatures_as_there_may_be_is_cosigned(witness):
    signed = MemoryLog().signed()
    strangers = [NoteSigner(f"w{n}", KeyKind.COSIGNATURE, bytes([n]) * 32) for n in range(10, 40)]
    lines = [stranger.sign(signed.note.text, time=NOW) for stranger in strangers]
    crowded = SignedCheckpoint(SignedNote(signed.note.text, (*signed.note.signatures, *lines)))
    assert ask(witness, Growth(0, (), crowded)).status == 200


def test_nobody_is_told_a_time_of_1970(witness, seen):
    with pytest.raises(UsageError, match="1970"):
        ask(witness, MemoryLog().growth(0), now=0)
    assert not list(seen.glob("*.checkpoint"))


@given(data=st.binary(max_size=300) | st.integers(0, 120).map(lambda at: MemoryLog().growth(0).to_bytes()[:at]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_bytes_are_answered_and_nothing_is_signed(witness, seen, data):
    assert ask(witness, data).status in {400, 403, 404, 422}
    assert not list(seen.glob("*.checkpoint"))


def test_a_request_that_is_too_long_is_not_parsed(witness, monkeypatch):
    monkeypatch.setattr(Growth, "from_bytes", lambda _: pytest.fail("it was parsed"))
    assert ask(witness, bytes(MAX_GROWTH_BYTES + 1)).status == 400


def test_keys_of_another_kind_make_no_witness(seen):
    for signer, logs in [
        (SIGNER, [SIGNER.key]),
        (WITNESSES[0], [WITNESSES[1].key]),
        (WITNESSES[0], [SIGNER.key, IMPOSTOR.key]),
    ]:
        with pytest.raises(UsageError, match="a witness"):
            Witness(signer, logs, CheckpointFiles(seen))


# ---------------------------------------------------------------------- what it remembers
def test_a_witness_that_cannot_write_cosigns_nothing(witness, seen, monkeypatch):
    ask(witness, MemoryLog().growth(0, 6))
    before = files(seen)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnavailableError, match="No space left"):
        ask(witness, MemoryLog().growth(6, 8))
    assert files(seen) == before
    monkeypatch.undo()
    assert ask(witness, a_forked_log(7).growth(6, 9)).status == 200


def test_of_two_trees_that_come_at_once_one_is_cosigned(witness, seen):
    """Also by two processes, each with a `Witness` of its own: the lock is on the folder."""
    ask(witness, MemoryLog().growth(0, 4))
    another = Witness(WITNESSES[0], [SIGNER.key], CheckpointFiles(seen))
    for new in range(5, 10):
        last = witness._files.read(SIGNER.key.name).head.size
        sides = [MemoryLog(), a_forked_log(last - 1) if last < 9 else MemoryLog()]
        sides[1].leaves[last - 1] = MemoryLog().leaves[last - 1]
        sides[1].leaves[last:] = sides[1].leaves[last:][::-1]
        gate = threading.Barrier(2)

        def submit(who, log, *, gate=gate, last=last, new=new):
            gate.wait()
            return ask(who, log.growth(last, new)).status

        with ThreadPoolExecutor(2) as pool:
            statuses = list(pool.map(submit, (witness, another), sides))
        assert sorted(statuses) == [200, 409]
        if statuses[1] == 200:
            break  # from here on the other tree is the one that grows


def test_a_witness_does_not_take_a_damaged_memory_for_none(witness, seen):
    ask(witness, MemoryLog().growth(0, 6))
    (file,) = seen.glob("*.checkpoint")
    file.write_bytes(file.read_bytes()[:-5])
    for old in (0, 6):
        with pytest.raises(UsageError, match="damaged"):
            ask(witness, MemoryLog().growth(old, 10))


def with_size(data, size):
    return data.replace(b"\n6\n", b"\n%d\n" % size, 1)


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda data, _: with_size(data, 4),
        lambda data, _: with_size(data, 8),
        lambda _, __: MemoryLog().signed(4).to_bytes(),  # the log's own word is not the witness's
        lambda _, __: cosigned(MemoryLog().signed(4), [WITNESSES[1]]).to_bytes(),
        lambda _, another: another,
    ],
    ids=["a smaller size", "a larger size", "of the log alone", "of another witness", "of another log"],
)
def test_a_memory_that_is_not_what_this_witness_cosigned_lets_no_tree_in(witness, seen, spoiled):
    ask(witness, MemoryLog(signer=ANOTHER_LOG).growth(0, 4))
    (another,) = files(seen).keys() - {"lock"}
    ask(witness, MemoryLog().growth(0, 6))
    (own,) = files(seen).keys() - {"lock", another}
    (seen / own).write_bytes(spoiled((seen / own).read_bytes(), (seen / another).read_bytes()))
    before = files(seen)
    fork = node_hash(MemoryLog().signed(6).head.root, bytes(32))  # over what a tree of 4 has as its root now
    forked = SignedCheckpoint.sign(Checkpoint(SIGNER.key.name, TreeHead(8, fork)), SIGNER, time=NOW)
    for growth in (Growth(4, (bytes(32),), forked), MemoryLog().growth(6, 8), MemoryLog().growth(4, 8)):
        with pytest.raises(UsageError, match="damaged"):
            ask(witness, growth)
    with pytest.raises(UsageError, match="damaged"):
        witness.checkpoint(own.removesuffix(".checkpoint"))
    assert files(seen) == before
    assert ask(witness, MemoryLog(signer=ANOTHER_LOG).growth(4, 8)).status == 200


def test_a_memory_that_cannot_be_read_is_not_taken_for_none(witness, seen):
    path = seen / f"{origin_hash(SIGNER.key.name)}.checkpoint"
    path.symlink_to(path)
    with pytest.raises(UnavailableError, match="symbolic links"):
        ask(witness, MemoryLog().growth(0, 6))


def test_a_witness_goes_on_after_a_restart_where_it_stopped(witness, seen):
    ask(witness, MemoryLog().growth(0, 6))
    again = Witness(WITNESSES[0], [SIGNER.key], CheckpointFiles(seen))
    assert ask(again, MemoryLog().growth(0, 10)).status == 409
    assert ask(again, MemoryLog().growth(6, 10)).status == 200


def test_monitors_get_the_last_cosigned_checkpoint_with_both_signatures(witness):
    name = hashlib.sha256(SIGNER.key.name.encode()).hexdigest()
    assert witness.checkpoint(name).status == 404
    ask(witness, MemoryLog().growth(0, 6))
    shown = SignedCheckpoint.from_bytes(witness.checkpoint(name).body)
    assert shown.head.size == 6
    assert shown.require_signed_by(SIGNER.key) == NOW
    assert shown.note.verified([WITNESSES[0].key]) == {WITNESSES[0].key: NOW}
    for wrong in ("", "lock", "../seen/lock", name.upper(), name[:-1]):
        assert witness.checkpoint(wrong).status == 404


# ---------------------------------------------------------------------- over HTTP
class Site:
    def __init__(self, witness, **options):
        self.welcomed = 0
        app = witness_app(witness, self._welcome, clock=lambda: NOW, **options)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://witness.example")

    def _welcome(self, _request):
        self.welcomed += 1

    async def ask(self, body):
        return await self.client.post("/add-checkpoint", content=body)


async def test_the_site_answers_as_the_witness_does(witness):
    site = Site(witness)
    growth = MemoryLog().growth(0, 6)
    answer = await site.ask(growth.to_bytes())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    verified(answer.content, growth.checkpoint.note.text, WITNESSES[0].key)
    answer = await site.ask(growth.to_bytes())
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (409, "text/x.tlog.size", b"6\n")
    shown = await site.client.get(f"/{hashlib.sha256(SIGNER.key.name.encode()).hexdigest()}/checkpoint")
    assert SignedCheckpoint.from_bytes(shown.content).head.size == 6
    assert (await site.client.get("/add-checkpoint")).status_code == 405
    assert (await site.client.get("/nothing")).status_code == 404
    assert site.welcomed == 3


async def test_a_body_is_bounded_while_it_comes(witness):
    site, sent = Site(witness), []

    async def endless():
        while len(sent) < 10_000:
            sent.append(bytes(4096))
            yield sent[-1]

    assert (await site.ask(endless())).status_code == 400
    assert len(sent) * 4096 <= MAX_GROWTH_BYTES + 2 * 4096


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"), [400, 400, 429, 400]),
        (  # one customer has twice as much in all his links as in one of them
            ("2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1::3", "2001:db8:0:2::1", "2001:db8:0:3::1"),
            [400, 400, 429, 400, 429],
        ),
    ],
)
async def test_one_address_has_its_rate_and_another_one_its_own(witness, hosts, expected):
    app = witness_app(witness, lambda _: None, clock=lambda: NOW, rate=PeerRate(0.001, burst=2))
    statuses = []
    for host in hosts:
        transport = httpx.ASGITransport(app, client=(host, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://witness.example") as client:
            answer = await client.post("/add-checkpoint", content=b"nonsense")
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) > 100
    assert statuses == expected


async def test_reading_counts_for_the_rate_as_asking_does(witness):
    site = Site(witness, rate=PeerRate(0.001, burst=2))
    path = f"/{origin_hash(SIGNER.key.name)}/checkpoint"
    assert [(await site.client.get(path)).status_code for _ in range(3)] == [404, 404, 429]
    assert (await site.ask(b"nonsense")).status_code == 429


async def test_an_address_that_asks_on_many_connections_holds_up_nobody_else(witness, monkeypatch):
    """A log that is known and floods would otherwise have every thread, and the whole queue before the disk."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    gate, begun, original = threading.Event(), [], witness.add_checkpoint

    def held(body, *, now):
        if body == b"flood":
            begun.append(body)
            assert gate.wait(60)
        return original(body, now=now)

    monkeypatch.setattr(witness, "add_checkpoint", held)
    app = witness_app(witness, lambda _: None, clock=lambda: NOW)

    async def ask_from(host, content):
        transport = httpx.ASGITransport(app, client=(host, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://witness.example") as client:
            return (await client.post("/add-checkpoint", content=content)).status_code

    async with asyncio.TaskGroup() as group:
        flood = [group.create_task(ask_from("192.0.2.1", b"flood")) for _ in range(5)]
        try:
            answer = await asyncio.wait_for(ask_from("192.0.2.2", MemoryLog().growth(0, 6).to_bytes()), 30)
        finally:
            gate.set()
    assert (answer, [task.result() for task in flood], len(begun)) == (200, [400] * 5, 5)


async def test_strangers_write_few_lines_and_none_of_their_own_words(witness):
    site = Site(witness, rate=PeerRate(1000.0, burst=1000))
    with structlog.testing.capture_logs() as lines:
        for _ in range(100):
            assert (await site.client.get(f"/{'w' * 60_000}/checkpoint")).status_code == 404
    assert 0 < len(lines) < 70
    answered = {"event": "answered", "log_level": "info", "asked": "GET", "status": 404}
    assert lines == [answered] * len(lines)
    assert "www" not in str(lines)


async def test_what_fails_inside_says_nothing_to_strangers_and_signs_nothing(witness, seen):
    site = Site(witness)
    await site.ask(MemoryLog().growth(0, 6).to_bytes())
    (file,) = seen.glob("*.checkpoint")
    file.write_bytes(b"damaged")
    before = files(seen)
    with structlog.testing.capture_logs() as lines:
        answer = await site.ask(MemoryLog().growth(6, 8).to_bytes())
    assert (answer.status_code, answer.text) == (503, "this witness cannot answer now\n")
    ((event, level, error, reason),) = ((one["event"], one["log_level"], one["error"], one["reason"]) for one in lines)
    assert (event, level, error, files(seen)) == ("failed", "error", "UsageError", before)
    assert reason.startswith(f"what this witness remembers of {SIGNER.key.name} is damaged")


# ---------------------------------------------------------------------- as a server
def test_a_witness_serves_behind_its_door_and_says_where_while_it_does(tmp_path, witness, monkeypatch):
    ready, before = tmp_path / "ready.json", signal.getsignal(signal.SIGTERM)
    door = SimpleNamespace(getsockname=lambda: ("127.0.0.1", 7446))
    served = {}

    async def serve_at(at, server):
        served.update(door=at, server=server, said=json.loads(ready.read_text()))
        raise KeyboardInterrupt

    made = {
        "opened_door": nullcontext(door),
        "welcome_at": "welcome",
        "page_server": "a server",
        "witness_app": "the app",
    }
    seen = Stand(monkeypatch, "server.log.witness_site", made)
    monkeypatch.setattr(witness_site, "serve_at", serve_at)
    rate = PeerRate(3.0, burst=6)
    with pytest.raises(KeyboardInterrupt):
        witness_site.serve_witness(witness, host="127.0.0.1", port=7001, rate=rate, ready_file=ready)
    signal.signal(signal.SIGTERM, before)
    assert seen["opened_door"] == {"host": "127.0.0.1", "port": 7001, "in_all": IN_ALL}
    app = seen["witness_app"]
    assert (app["witness"], app["welcome"], app["rate"]) == (witness, "welcome", rate)
    assert abs(app["clock"]() - time.time()) < 60
    assert seen["page_server"]["app"] == "the app"
    assert (served["door"], served["server"]) == (door, "a server")
    assert served["said"] == {"port": 7446, "pid": os.getpid()}
    assert not ready.exists()
