"""What the gateway does with a call and between calls: every effect, in order, and what a failure leaves."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.node.joining import join
from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.membership.fleet import (
    NEWEST_SECONDS,
    NODE_KEY_HEADER,
    OLDEST_SECONDS,
    Answered,
    Asked,
    TurnedAway,
    node_fingerprint,
)
from server.certificates import write_loopback
from server.expiry import ends_at
from server.fleet import admission, call_log, gateway
from server.fleet.admission import Admitted, Members, TurnedBack
from server.fleet.call_log import CallLog, segments, verify
from server.fleet.expiry import GatewayCertificate
from server.fleet.gateway import Gateway
from server.fleet.members import Coordinator
from tests.server.fleet.test_gateway import signed

NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
SECONDS = int(NOW.timestamp())
CALLERS = {
    "n": Admitted("north", "a" * 32),
    "s": Admitted("south", "b" * 32),
    "late": TurnedBack("clock", "south", "set your clock"),
    "no": TurnedBack("stranger", "", "who are you?"),
}


class Scene:
    """A gateway whose surroundings write down what it does to them. Every look at the clock takes a second."""

    def __init__(self, answer=None, **options):
        self.told, self.time, self.full = [], 1000.0, False
        self.answer = answer or (lambda _: httpx.Response(200, content=b"reply"))
        self.members = SimpleNamespace(admit=self.admit, count=7)
        door = SimpleNamespace(
            is_member=lambda *who: self.told.append(("member", *who)),
            show_out_the_late=lambda: self.told.append("the late"),
            expect=lambda count: self.told.append(("expect", count)),
        )
        self.upstream = httpx.AsyncClient(transport=httpx.MockTransport(self.ask), base_url="https://superlink")
        log = SimpleNamespace(append=self.append, close=lambda: self.told.append("log closed"), is_broken=False)
        self.gateway = Gateway(
            self.upstream, log, self.members, **({"door": door, "clock": self.clock, "warn": self.warn} | options)
        )

    def clock(self):
        self.time += 1
        return self.time

    def admit(self, headers, now):
        self.told.append(("admit", headers["who"], now))
        return CALLERS[headers["who"]]

    def append(self, line):
        if self.full:
            raise OSError(28, "No space left on device", "a path of ours")
        self.told.append(line)

    def warn(self, line):
        self.told.append(("warn", line))

    async def ask(self, request):
        call = request.url.path
        self.told.append(("asked", call, request.content))
        answer = self.answer(call)
        return await answer if asyncio.iscoroutine(answer) else answer

    async def call(self, who="n", name="get-run", content=b"question", **headers):
        transport = httpx.ASGITransport(self.gateway.app(), client=("10.0.0.9", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as client:
            sent = {"who": who} | {key.replace("_", "-"): value for key, value in headers.items()}
            return await client.post(f"/v1/fleet/{name}", content=content, headers=sent)

    @property
    def left(self):
        """What a call leaves behind in the gateway."""
        return dict(+self.gateway._at_work), dict(self.gateway.refused), dict(self.gateway.clocks)


async def soon(condition):
    """Lets the others go on until something is so, and not for ever."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError


async def test_a_header_with_bytes_that_are_no_ascii_crosses_as_it_is_and_its_call_is_logged_to_its_end():
    crossed = []

    def answer(_):
        return httpx.Response(207, content=b"answer")

    scene = Scene(answer)
    scene.upstream.event_hooks["request"].append(keep(crossed))
    transport = httpx.ASGITransport(scene.gateway.app(), client=("10.0.0.9", 4711))
    odd = [(b"who", b"n"), (b"content-type", b"caf\xe9"), (b"flwr-x", b"\xff\xfe")]
    async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as client:
        reply = await client.post("/v1/fleet/get-run", content=b"question", headers=odd)
    assert (reply.status_code, reply.content) == (207, b"answer")
    assert crossed == [(b"content-type", b"caf\xe9"), (b"flwr-x", b"\xff\xfe")]
    assert [type(line) for line in scene.told if isinstance(line, Asked | Answered)] == [Asked, Answered]
    assert scene.left == ({}, {}, {})


def keep(crossed):
    async def look(request):
        crossed.extend(one for one in request.headers.raw if one[0] in {b"content-type", b"flwr-x"})

    return look


async def test_two_calls_at_once_are_each_logged_as_their_own_before_and_after():
    second = asyncio.Event()

    async def wait():
        await second.wait()
        return httpx.Response(207, content=b"late", headers={"content-type": "a/b", "flwr-x": "1", "set-cookie": "c"})

    def answer(call):
        if call.endswith("get-fab"):
            return wait()
        return httpx.Response(200, content=b"a longer one")

    scene = Scene(answer)
    first = asyncio.create_task(scene.call("n", "get-fab", b"one"))
    await soon(lambda: len(scene.told) == 4)
    assert (await scene.call("s", "get-run", b"three")).text == "a longer one"
    assert scene.left == ({"north": 1}, {}, {})
    second.set()
    reply = await first
    assert (reply.status_code, reply.content) == (207, b"late")
    kept = {name: reply.headers.get(name) for name in ("content-type", "flwr-x", "set-cookie")}
    assert kept == {"content-type": "a/b", "flwr-x": "1", "set-cookie": None}
    address, server = ("10.0.0.9", 4711), ("gateway", None)
    assert scene.told == [
        ("admit", "n", 1001.0),
        ("member", address, server, "north"),
        Asked(1002, 1, "get-fab", "a" * 32, 3),
        ("asked", "/v1/fleet/get-fab", b"one"),
        ("admit", "s", 1003.0),
        ("member", address, server, "south"),
        Asked(1004, 2, "get-run", "b" * 32, 5),
        ("asked", "/v1/fleet/get-run", b"three"),
        Answered(1005, 2, 12, 200),
        Answered(1006, 1, 4, 207),
    ]
    assert scene.left == ({}, {}, {})


def fails(error):
    def answer(_call):
        raise error

    return answer


ADMITTED = [("admit", "n", 1001.0), ("member", ("10.0.0.9", 4711), ("gateway", None), "north")]
PASSED = [*ADMITTED, Asked(1002, 1, "get-run", "a" * 32, 8), ("asked", "/v1/fleet/get-run", b"question")]
BACK = ("warn", "south: set your clock")
ENDS = {
    "no call of ours": ({}, {"name": "register-node"}, 404, "close", [], {}, {}),
    "a stranger": ({}, {"who": "no"}, 401, "close", [("admit", "no", 1001.0)], {"stranger": 1}, {}),
    "a wrong clock": (
        {},
        {"who": "late"},
        401,
        "close",
        [("admit", "late", 1001.0), BACK],
        {"clock": 1},
        {"south": "set your clock"},
    ),
    "too long": ({"most_body_bytes": 7}, {}, 413, "close", ADMITTED, {"length": 1}, {}),
    "as long as may be": ({"most_body_bytes": 8}, {}, 200, None, [*PASSED, Answered(1003, 1, 5, 200)], {}, {}),
    "upstream is slow": (
        {"answer": fails(httpx.ReadTimeout("x"))},
        {},
        504,
        None,
        [*PASSED, Answered(1003, 1, 0, 504)],
        {},
        {},
    ),
    "upstream is down": (
        {"answer": fails(httpx.ReadError("x"))},
        {},
        502,
        None,
        [*PASSED, Answered(1003, 1, 0, 502)],
        {},
        {},
    ),
}


@pytest.mark.parametrize(
    ("given", "asked", "status", "connection", "told", "refused", "clocks"), ENDS.values(), ids=ENDS
)
async def test_however_a_call_ends_it_is_counted_once_and_holds_no_place(
    given, asked, status, connection, told, refused, clocks
):
    scene = Scene(**given)
    reply = await scene.call(**asked)
    assert (reply.status_code, reply.headers.get("connection"), scene.told) == (status, connection, told)
    assert scene.left == ({}, refused, clocks)


async def test_a_full_disk_is_said_without_a_path_and_one_that_fills_up_meanwhile_keeps_no_answer_back():
    scene = Scene()
    scene.full = True
    assert (await scene.call()).status_code == 503
    assert scene.told == [
        *ADMITTED,
        ("warn", "a call is refused, because it cannot be logged: No space left on device"),
    ]
    scene.answer = lambda _: setattr(scene, "full", True) or httpx.Response(200, content=b"only copy")
    scene.full = False
    assert (await scene.call()).text == "only copy"
    assert scene.left == ({}, {"disk": 1}, {})


async def test_a_failure_of_the_program_or_of_the_caller_leaves_no_place_taken():
    """Else sixteen of them would keep a member out for good."""
    scene = Scene(fails(ZeroDivisionError("secret")))
    for _ in range(17):
        with pytest.raises(ZeroDivisionError, match="secret"):
            await scene.call()
    begun = asyncio.Event()

    async def never():
        begun.set()
        await asyncio.Event().wait()

    scene.answer = lambda _: never()
    gone = asyncio.create_task(scene.call())
    await begun.wait()
    assert scene.left == ({"north": 1}, {}, {})
    gone.cancel()
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await gone
    assert scene.left == ({}, {}, {})


async def test_a_member_that_has_too_many_calls_is_busy_and_its_clock_is_right_again():
    scene = Scene()
    scene.gateway.clocks |= {"north": "8 s ahead", "south": "9 s ahead"}
    scene.gateway._at_work["north"] = 16
    assert (await scene.call("n")).status_code == 503
    assert scene.told == ADMITTED
    assert scene.left == ({"north": 16}, {"busy": 1}, {"south": "9 s ahead"})
    scene.gateway._at_work["north"] = 15
    assert (await scene.call("n")).status_code == 200
    assert scene.left == ({"north": 15}, {"busy": 1}, {"south": "9 s ahead"})


async def test_a_clock_that_stays_wrong_is_said_once_with_its_last_words_and_again_when_it_was_right(monkeypatch):
    scene = Scene()
    for words in ("first", "second"):
        monkeypatch.setitem(CALLERS, "late", TurnedBack("clock", "south", words))
        assert (await scene.call("late")).text == words
    assert scene.gateway.clocks == {"south": "second"}
    await scene.call("s")
    await scene.call("late")
    said = [told[1] for told in scene.told if isinstance(told, tuple) and told[0] == "warn"]
    assert said == ["south: first", "south: second"]
    assert scene.gateway.refused == {"clock": 3}


async def test_calls_are_numbered_as_they_are_passed_on_and_those_that_were_not_leave_no_gap():
    scene = Scene(most_body_bytes=7)
    statuses = [
        (await scene.call(content=content)).status_code for content in (b"too long", b"one", b"too long", b"two")
    ]
    assert statuses == [413, 200, 413, 200]
    assert [told.number for told in scene.told if isinstance(told, Asked)] == [1, 2]
    assert [told.answers for told in scene.told if isinstance(told, Answered)] == [1, 2]
    assert scene.left == ({}, {"length": 2}, {})


async def test_everybody_who_is_turned_away_is_counted_in_the_log_whoever_it_was():
    scene = Scene()
    for who in ("no", "late", "no", "s", "late", "no"):
        await scene.call(who)
    scene.told.clear()
    scene.gateway.count_strangers()
    assert scene.told == [TurnedAway(int(scene.time), 5)]
    assert scene.gateway.refused == {"stranger": 3, "clock": 2}


async def test_a_gateway_without_a_door_passes_calls_on_and_does_its_chores():
    scene = Scene(door=None)
    assert (await scene.call()).status_code == 200
    scene.gateway._tend_the_door()
    assert scene.told == [ADMITTED[0], *PASSED[2:], Answered(1003, 1, 5, 200)]


async def test_as_many_calls_reach_the_superlink_at_once_as_members_make(tmp_path):
    """Each member's node waits in one call for its next task; a bound would keep the others' answers back."""
    write_loopback(tmp_path / "pem", tmp_path / "key", now=NOW)
    client = gateway.superlink_client("127.0.0.1:9", tmp_path / "pem")
    pool = client._transport._pool
    assert (pool._max_connections, pool._max_keepalive_connections) == (sys.maxsize, 16)
    await client.aclose()


# --------------------------------------------------------------------------------------------- between calls
async def test_chores_are_done_every_second_and_strangers_counted_every_minute_and_once_more_at_the_end(monkeypatch):
    scene, ticks, slept = Scene(clock=lambda: scene.time), asyncio.Queue(), []
    outcomes = [None, OSError("torn"), OSError("torn"), OSError("other"), None, OSError("other")]

    def chore():
        outcome = outcomes.pop(0)
        scene.told.append("chore")
        if outcome:
            raise outcome

    async def sleep(seconds):
        slept.append(seconds)
        await ticks.get()

    scene.gateway._chores = [chore, lambda: scene.told.append("last")]
    monkeypatch.setattr(gateway, "asyncio", SimpleNamespace(create_task=asyncio.create_task, sleep=sleep))
    said = {}
    async with scene.gateway.app().router.lifespan_context(None):
        for number, (seconds, strangers) in enumerate([(0, 2), (59.9, 1), (0.1, 0), (0, 0), (0, 0), (0, 3)]):
            scene.time += seconds
            await soon(lambda number=number: len(slept) > number)
            said[number], scene.told[:] = list(scene.told), []
            scene.gateway._uncounted += strangers
            ticks.put_nowait(None) if number < 5 else None
    every = ["the late", ("expect", 7), "chore"]
    assert said == {
        0: [*every, "last"],
        1: [*every, ("warn", "OSError: torn"), "last"],
        2: [*every, "last", TurnedAway(1060, 3)],
        3: [*every, ("warn", "OSError: other"), "last"],
        4: [*every, "last"],
        5: [*every, ("warn", "OSError: other"), "last"],
    }
    assert scene.told == [TurnedAway(1060, 3), "log closed"]
    assert scene.upstream.is_closed
    assert set(slept) == {1}
    ticks.put_nowait(None)
    for _ in range(9):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(("since", "is_counted"), [(-3600.0, True), (-0.5, True), (0.0, False), (59.5, False)])
async def test_a_clock_that_is_set_back_does_not_put_off_the_count_of_strangers(monkeypatch, since, is_counted):
    scene, slept = Scene(clock=lambda: scene.time), asyncio.Event()

    async def sleep(_):
        slept.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(gateway, "asyncio", SimpleNamespace(create_task=asyncio.create_task, sleep=sleep))
    scene.gateway._counted_at, scene.gateway._uncounted = scene.time - since, 3
    tending = asyncio.create_task(scene.gateway._every_second())
    await slept.wait()
    tending.cancel()
    await asyncio.wait([tending])
    assert scene.told == ["the late", ("expect", 7), *[TurnedAway(1000, 3)] * is_counted]


def test_strangers_that_could_not_be_counted_are_counted_with_the_next():
    scene = Scene()
    scene.gateway._uncounted, scene.full = 4, True
    scene.gateway.count_strangers()
    scene.gateway._uncounted += 1
    scene.full = False
    scene.gateway.count_strangers()
    scene.gateway.count_strangers()
    assert scene.told == [TurnedAway(1004, 5)]


async def test_a_log_that_cannot_be_written_is_a_gateway_that_is_not_well():
    scene = Scene()
    for is_broken, said in ((False, (200, "ok")), (True, (503, "the log cannot be written"))):
        scene.gateway._log.is_broken = is_broken
        transport = httpx.ASGITransport(scene.gateway.app())
        async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as client:
            reply = await client.get("/health")
        assert (reply.status_code, reply.text) == said


# ----------------------------------------------------------------------------------------------- who is let in
@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A coordinator's folder with two members, and their nodes' keys."""
    folder, keys = tmp_path_factory.mktemp("federation"), {}
    coordinator = Coordinator.create(folder / "coordinator", address="localhost:9", now=NOW)
    for name in ("north", "south"):
        _, text = coordinator.invite(name, now=SECONDS)
        coordinator.approve(join(text, folder / name, now=SECONDS).to_bytes(), lambda *_: 1, now=SECONDS)
        keys[name] = load_ssh_private_key((folder / name / "node").read_bytes(), password=None)
    return folder / "coordinator", keys


@pytest.mark.parametrize(
    ("ahead", "reason"),
    [
        (NEWEST_SECONDS - 0.5, None),
        (float(NEWEST_SECONDS), "clock"),
        (0.5 - OLDEST_SECONDS, None),
        (-float(OLDEST_SECONDS), "clock"),
    ],
)
def test_a_signature_is_taken_up_to_the_bounds_of_flower_and_not_at_them(federation, ahead, reason):
    folder, keys = federation
    for name, key in keys.items():
        headers = signed(key, ahead=ahead)
        found = Members(folder).admit(headers, SECONDS)
        if reason is None:
            assert found == Admitted(name, node_fingerprint(headers[NODE_KEY_HEADER]))
        else:
            assert (found.reason, found.name) == (reason, name)


def test_a_member_whose_file_could_not_be_read_for_a_while_is_taken_again_within_a_minute(federation, tmp_path):
    """Its file is whole again, and the folder's own time does not tell."""
    folder, keys = federation
    shutil.copytree(folder / "members", tmp_path / "members")
    path, now = tmp_path / "members" / "north.json", [1000.0]
    whole, members = path.read_bytes(), Members(tmp_path, clock=lambda: now[0])
    path.write_bytes(b"{")

    def taken():
        return [isinstance(members.admit(signed(keys[name]), SECONDS), Admitted) for name in ("north", "south")]

    assert taken() == [False, True]
    path.write_bytes(whole)
    now[0] += 59.9
    members.look()
    assert taken() == [False, True]
    now[0] += 0.1
    members.look()
    assert taken() == [True, True]
    assert members.count == 2


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_a_moment_without_room_for_a_file_makes_no_member_a_stranger(federation, monkeypatch, code):
    folder, keys = federation
    now, read = [1000.0], Path.read_bytes
    members = Members(folder, clock=lambda: now[0])
    assert members.count == 2
    now[0] += 60

    def none(_):
        raise OSError(code, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", none)
    with pytest.raises(OSError, match="Too many open files"):
        members.look()
    for name in ("north", "south"):
        assert members.admit(signed(keys[name]), SECONDS).name == name
    monkeypatch.setattr(Path, "read_bytes", read)
    members.look()
    assert members.count == 2


def test_a_minute_in_which_a_member_came_begins_anew_and_nobody_reads_every_second(federation, tmp_path, monkeypatch):
    folder, _ = federation
    shutil.copytree(folder / "members", tmp_path / "members")
    read, now = [], [1000.0]
    monkeypatch.setattr(admission, "_keys", lambda _: read.append(now[0]) or [])
    members = Members(tmp_path, clock=lambda: now[0])
    for _ in range(130):
        members.look()
        now[0] += 1
        if now[0] == 1031:
            (tmp_path / "members" / "one.json").touch()
    assert read == [1000.0, 1031.0, 1091.0]


@pytest.mark.parametrize("name", ["flwr-public-key", "flwr-signature"])
def test_a_header_with_a_sign_too_many_is_not_the_one_without_it(federation, name):
    """The log and the SuperLink would take it for another's, or for nobody's."""
    folder, keys = federation
    headers, members = signed(keys["north"]), Members(folder)
    assert members.admit(headers, SECONDS).name == "north"
    for at in (0, 7, len(headers[name])):
        more = headers | {name: f"{headers[name][:at]}!{headers[name][at:]}"}
        assert members.admit(more, SECONDS) == TurnedBack("stranger", "", "no member signed this call")


def test_a_member_whose_file_is_damaged_keeps_nobody_else_out(federation, tmp_path):
    folder, keys = federation
    copy = tmp_path / "members"
    copy.mkdir()
    for name in keys:
        (copy / f"{name}.json").write_bytes((folder / "members" / f"{name}.json").read_bytes())
    (copy / "north.json").write_bytes(b"torn")
    (copy / "east.json").mkdir()
    members = Members(tmp_path)
    assert members.count == 1
    assert members.admit(signed(keys["north"]), SECONDS) == TurnedBack("stranger", "", "no member signed this call")
    assert members.admit(signed(keys["south"]), SECONDS).name == "south"


def test_a_member_that_comes_while_the_others_are_read_is_known_with_the_next_call(federation, tmp_path, monkeypatch):
    folder, _ = federation
    (tmp_path / "members").mkdir()
    read, reads, members = admission._keys, [], Members(tmp_path)

    def meanwhile(place):
        found = read(place)
        if not reads:
            (place / "south.json").write_bytes((folder / "members" / "south.json").read_bytes())
            os.utime(place, ns=(1, place.stat().st_mtime_ns + 1))
        reads.append(place)
        return found

    monkeypatch.setattr(admission, "_keys", meanwhile)
    assert [members.count, members.count, members.count] == [0, 1, 1]
    assert len(reads) == 2, "the folder is read when it changed, and not with every call"


def test_members_are_read_again_after_a_disk_that_failed_and_a_clock_that_was_set_back(
    federation, tmp_path, monkeypatch
):
    folder, _ = federation
    (tmp_path / "members").mkdir()
    read, members, fails = admission._keys, Members(tmp_path), [OSError(5, "Input/output error"), None]

    def keys(place):
        if error := fails.pop(0):
            raise error
        return read(place)

    monkeypatch.setattr(admission, "_keys", keys)
    with pytest.raises(OSError, match="Input/output error"):
        members.admit(signed(federation[1]["south"]), SECONDS)
    assert (members.count, members.count, fails) == (0, 0, [])
    monkeypatch.setattr(admission, "_keys", read)
    (tmp_path / "members/south.json").write_bytes((folder / "members/south.json").read_bytes())
    os.utime(tmp_path / "members", ns=(1, 1))
    assert members.admit(signed(federation[1]["south"]), SECONDS).name == "south"


# ------------------------------------------------------------------------------------------------ its certificate
def test_a_renewed_certificate_that_could_not_be_taken_is_taken_with_the_next_look_and_said_once(tmp_path):
    paths, said, taken, fails = (tmp_path / "pem", tmp_path / "key"), [], [], [OSError(24, "Too many open files")]
    write_loopback(*paths, now=NOW)
    certificate = GatewayCertificate(*paths, said.append, clock=lambda: NOW)

    def load(*given):
        if fails:
            raise fails.pop()
        taken.append(given)

    certificate.context = SimpleNamespace(load_cert_chain=load)
    certificate.look()
    assert (taken, len(fails)) == ([], 1)
    said.clear()
    write_loopback(*paths, now=NOW + dt.timedelta(days=5))
    with pytest.raises(OSError, match="Too many open files"):
        certificate.look()
    assert (taken, said) == ([], [])
    for _ in range(2):
        certificate.look()
    assert taken == [paths]
    assert [line for line in said if "renewed" in line] == [
        f"the gateway's certificate was renewed; it ends on {ends_at(paths[0]):%Y-%m-%d}"
    ]
    os.utime(paths[1], ns=(1, 1))
    certificate.look()
    assert taken == [paths, paths]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda paths: paths[0].unlink(), "^cannot read .*/server.pem or server-key.pem: No such file or directory"),
        (lambda paths: paths[1].unlink(), "^cannot read .*/server.pem or server-key.pem: No such file or directory"),
        (lambda paths: paths[1].write_bytes(b"a key"), "^server.pem is damaged, or server-key.pem is not its key"),
        (lambda paths: paths[0].write_bytes(paths[1].read_bytes()), "^server.pem is damaged, or server-key.pem is not"),
    ],
    ids=["no certificate", "no key", "a damaged key", "two keys"],
)
def test_a_gateway_without_a_certificate_and_its_key_says_so_before_it_listens(tmp_path, damage, said):
    paths = tmp_path / "server.pem", tmp_path / "server-key.pem"
    write_loopback(*paths, now=NOW)
    assert GatewayCertificate(*paths, print).context is None
    damage(paths)
    with pytest.raises(UsageError, match=said) as told:
        GatewayCertificate(*paths, print)
    assert "`intaglio-server federation renew`" in str(told.value)


# ---------------------------------------------------------------------------------------------------- the log
def test_a_segment_that_follows_a_long_one_is_gone_on_with(tmp_path):
    """Only the end of the one before is read."""
    log = CallLog(tmp_path / "calls", segment_bytes=3 * call_log._TAIL_BYTES)
    number = 0
    while len(segments(tmp_path / "calls")) < 2:
        number += 1
        log.append(Asked(1, number, "get-run", "a" * 32, 1))
    log.close()
    before, _ = segments(tmp_path / "calls")
    assert before.stat().st_size >= 3 * call_log._TAIL_BYTES
    again = CallLog(tmp_path / "calls")
    assert again.head == log.head
    again.append(Asked(1, number + 1, "get-run", "a" * 32, 1))
    again.close()
    assert verify(tmp_path / "calls") == (number + 1, again.head, True)
    torn = before.read_bytes()[:-1]
    before.write_bytes(torn)
    with pytest.raises(ProofError, match=r"^000001\.jsonl of the log is cut off, and there is a segment after it$"):
        CallLog(tmp_path / "calls")


def test_a_next_segment_that_cannot_be_begun_leaves_the_last_one_as_it_is(tmp_path, monkeypatch):
    log, opened = CallLog(tmp_path / "calls", segment_bytes=1), os.open
    log.append(Asked(1, 1, "get-run", "a" * 32, 1))
    head, before = log.head, {path.name: path.read_bytes() for path in segments(tmp_path / "calls")}

    def full(path, *how):
        if str(path).endswith("000002.jsonl"):
            raise OSError(28, "No space left on device")
        return opened(path, *how)

    with monkeypatch.context() as patch:
        patch.setattr(call_log.os, "open", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                log.append(Asked(2, 2, "get-run", "a" * 32, 2))
            assert (log.is_broken, log.head) == (True, head)
    assert {path.name: path.read_bytes() for path in segments(tmp_path / "calls")} == before
    log.append(Asked(3, 3, "get-run", "a" * 32, 3))
    assert (log.is_broken, verify(tmp_path / "calls")) == (False, (2, log.head, True))
    log.close()
    log.close()


def test_a_segment_that_cannot_be_closed_is_left_all_the_same_and_the_next_one_is_written_to(tmp_path, monkeypatch):
    """Its number may be another file's by then: a connection's, say."""
    log, close = CallLog(tmp_path / "calls", segment_bytes=1), os.close
    log.append(Asked(1, 1, "get-run", "a" * 32, 1))
    closed = []

    def failing(file):
        close(file)
        closed.append(file)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(call_log.os, "close", failing)
        with pytest.raises(OSError, match="Input/output error"):
            log.append(Asked(2, 2, "get-run", "a" * 32, 2))
    assert (log.is_broken, closed) == (True, [closed[0]])
    log.append(Asked(3, 3, "get-run", "a" * 32, 3))
    assert (log.is_broken, verify(tmp_path / "calls")) == (False, (2, log.head, True))
    assert [path.name for path in segments(tmp_path / "calls")] == ["000001.jsonl", "000002.jsonl"]
    log.close()


def test_a_segment_is_durable_before_the_next_is_there_and_the_oldest_goes_after_it(tmp_path, monkeypatch):
    told, names = [], {}

    def noted(name, does, path_of):
        def call(*given):
            told.append((name, path_of(given[0])))
            return does(*given)

        return call

    opened, unlink = os.open, Path.unlink

    def open_it(path, *how):
        told.append(("open", Path(path).name))
        descriptor = opened(path, *how)
        names[descriptor] = Path(path).name
        return descriptor

    monkeypatch.setattr(call_log.os, "open", open_it)
    for name in ("fsync", "close", "truncate"):
        monkeypatch.setattr(call_log.os, name, noted(name, getattr(os, name), lambda file: names.get(file, file)))
    monkeypatch.setattr(call_log, "sync_directory", lambda folder: told.append(("sync", folder.name)))
    monkeypatch.setattr(Path, "unlink", noted("unlink", unlink, lambda path: path.name))
    log = CallLog(tmp_path / "calls", segment_bytes=1, kept=1)
    assert told[-3:] == [("open", "000001.jsonl"), ("sync", "calls"), ("truncate", "000001.jsonl")]
    log.append(Asked(1, 1, "get-run", "a" * 32, 1))
    told.clear()
    log.append(Asked(2, 2, "get-run", "a" * 32, 1))
    assert told == [
        ("fsync", "000001.jsonl"),
        ("open", "000002.jsonl"),
        ("close", "000001.jsonl"),
        ("unlink", "000001.jsonl"),
        ("sync", "calls"),
    ]
    told.clear()
    log.close()
    log.close()
    assert told == [("fsync", "000002.jsonl"), ("close", "000002.jsonl")]


def test_a_log_has_one_file_open_however_many_segments_it_began_and_none_once_it_is_closed(tmp_path):
    open_files = lambda: len(list(Path("/proc/self/fd").iterdir()))  # noqa: E731 - short
    before = open_files()
    log = CallLog(tmp_path / "calls", segment_bytes=1)
    for number in range(5):
        log.append(Asked(1, number, "get-run", "a" * 32, 1))
        assert open_files() == before + 1
    log.close()
    assert open_files() == before


def test_a_segment_that_is_none_or_cannot_be_read_is_named(tmp_path):
    (tmp_path / "000001.jsonl").write_bytes(b"junk\n")
    with pytest.raises(MalformedMessageError, match=r"^000001\.jsonl: line 1 of the log is not a call"):
        verify(tmp_path)
    (tmp_path / "000001.jsonl").unlink()
    (tmp_path / "000001.jsonl").mkdir()
    with pytest.raises(UsageError, match=r"^cannot read .*000001\.jsonl: Is a directory$"):
        verify(tmp_path)


def test_whoever_keeps_fewer_segments_from_now_on_has_fewer_after_the_next(tmp_path):
    for kept, lines, left in ((9, 4, ["000001", "000002", "000003", "000004"]), (2, 1, ["000004", "000005"])):
        log = CallLog(tmp_path / "calls", segment_bytes=1, kept=kept)
        for _ in range(lines):
            log.append(Asked(1, 1, "get-run", "a" * 32, 1))
        log.close()
        assert [path.stem for path in segments(tmp_path / "calls")] == left


def test_segments_are_in_the_order_of_their_numbers_however_many_digits_they_have(tmp_path):
    for name in ("999999", "1000000", "000002"):
        (tmp_path / f"{name}.jsonl").touch()
    assert [path.stem for path in segments(tmp_path)] == ["000002", "999999", "1000000"]


def test_a_log_counts_all_calls_of_all_segments_and_none_twice(tmp_path):
    line = len(call_log.to_line(Asked(1, 1, "get-run", "a" * 32, 1), "0" * 64))
    log = CallLog(tmp_path / "calls", segment_bytes=2 * line)
    for number in range(1, 6):
        log.append(Asked(1, number, "get-run", "a" * 32, 1))
    log.close()
    kept = Counter({path.name: path.read_bytes().count(b"\n") for path in segments(tmp_path / "calls")})
    assert kept == {"000001.jsonl": 2, "000002.jsonl": 2, "000003.jsonl": 1}
    assert verify(tmp_path / "calls") == (5, log.head, True)
