"""The guard: the organisation's policy holds whatever the coordinator sends."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.common.config import parse_config_args
from flwr.proto.fab_pb2 import Fab, GetFabResponse
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse, Run

import client.node.records
from client.node import start
from client.node.guard import guard_app
from client.node.reaching import Reached
from client.node.start import node_config, require_ready
from client.preparing import people
from client.preparing.people import withdraw
from federation.errors import PeerError, RefusedError, UnavailableError, UsageError
from federation.membership.fleet import NEWEST_SECONDS
from federation.membership.joining import LocalPolicy
from federation.recognition.embeddings import EmbeddingSet
from tests.commands import Stand
from tests.people import synthetic_people

APP = b"an application"
HASH = hashlib.sha256(APP).hexdigest()
NOON = 12 * 3600


def a_policy(*, digest=HASH, recipes=("moments",), opens=0, closes=0):
    return LocalPolicy(8.0, 16.0, 1e-5, 1, recipes, frozenset({digest}), opens, closes)


class Gateway:
    """A coordinator with one message waiting."""

    def __init__(self, kind="train.moments", app=APP, announced=HASH):
        self.asked, self.kind, self.app, self.announced = [], kind, app, announced

    def __call__(self, request):
        call = request.url.path.rpartition("/")[2]
        self.asked.append((call, request))
        answers = {
            "pull-messages": PullMessagesResponse(
                messages_list=[Message(metadata=Metadata(run_id=7, message_type=self.kind))]
            ),
            "get-run": GetRunResponse(run=Run(run_id=7, fab_hash=self.announced)),
            "get-fab": GetFabResponse(fab=Fab(hash_str=self.announced, content=self.app)),
        }
        body = answers[call].SerializeToString() if call in answers else b""
        return httpx.Response(200, content=body, headers={"content-type": "application/protobuf"})


def asking(gateway, policy, clock=NOON, tally=None):
    client = httpx.AsyncClient(transport=httpx.MockTransport(gateway), base_url="https://gateway")
    app = guard_app(client, policy, clock=lambda: clock, tally=tally)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://guard")


async def pulled(gateway, policy, clock=NOON, tally=None):
    question = PullMessagesRequest(node=Node(node_id=5)).SerializeToString()
    async with asking(gateway, policy, clock, tally) as client:
        reply = await client.post("/v1/fleet/pull-messages", content=question, headers={"flwr-timestamp": "now"})
    assert reply.status_code == 200
    return list(PullMessagesResponse.FromString(reply.content).messages_list)


class Two(Gateway):
    """A coordinator with a message that the policy allows, and then another one."""

    def __init__(self, kind, announced):
        super().__init__()
        self.second, self.runs = kind, {7: HASH, 9: announced}

    def __call__(self, request):
        answer = super().__call__(request)
        call = self.asked[-1][0]
        if call == "pull-messages":
            sent = [(7, self.kind), (9, self.second)]
            messages = [Message(metadata=Metadata(run_id=run, message_type=kind)) for run, kind in sent]
            return httpx.Response(200, content=PullMessagesResponse(messages_list=messages).SerializeToString())
        if call == "get-run":
            run = GetRunRequest.FromString(request.content).run_id
            return httpx.Response(200, content=GetRunResponse(run=Run(fab_hash=self.runs[run])).SerializeToString())
        return answer


@pytest.mark.parametrize(
    ("kind", "announced", "arrive", "why"),
    [
        ("train.moments", HASH, 2, {}),
        ("train.scales", HASH, 0, {"recipe": 1}),
        ("train.moments", "ab" * 32, 0, {"application": 1}),
    ],
)
async def test_each_of_several_messages_is_one_that_the_policy_names_or_none_arrives(kind, announced, arrive, why):
    tally = Counter()
    assert len(await pulled(Two(kind, announced), a_policy(), tally=tally)) == arrive
    assert tally == why


REFUSALS = {
    "hours": (Gateway(), a_policy(opens=60, closes=120)),
    "recipe": (Gateway(kind="train.scales"), a_policy()),
    "application": (Gateway(announced="ab" * 32), a_policy()),
}


@pytest.mark.parametrize(("gateway", "policy"), REFUSALS.values(), ids=REFUSALS)
async def test_every_refusal_is_counted_by_why(gateway, policy, request):
    tally = Counter()
    assert await pulled(gateway, policy, tally=tally) == []
    assert tally == {request.node.callspec.id: 1}


async def test_what_the_coordinator_says_of_this_node_s_clock_reaches_its_log_and_its_counts(caplog):
    tally = Counter()
    refusing = lambda _: httpx.Response(401, text="this node's clock is 8 s ahead of\nthe coordinator's")  # noqa: E731
    async with asking(refusing, a_policy(), tally=tally) as client:
        assert (await client.post("/v1/fleet/activate-node")).status_code == 401
    assert "does not take this node's calls: this node's clock is 8 s ahead of the coordinator's" in caplog.text
    assert tally == {"coordinator": 1}


async def test_an_answer_of_the_gateway_that_does_not_end_is_not_held(monkeypatch):
    monkeypatch.setattr("client.node.guard.MOST_BODY_BYTES", 200_000)
    sent = Counter()

    async def endless():
        while sent["chunks"] < 100:
            sent["chunks"] += 1
            yield b"x" * 65_536

    for call in ("pull-messages", "get-run", "activate-node"):
        sent.clear()
        async with asking(lambda _: httpx.Response(200, content=endless()), a_policy()) as client:
            assert (await client.post(f"/v1/fleet/{call}")).status_code == 502
        assert sent["chunks"] <= 5


class Chunks(httpx.AsyncByteStream):
    """A body that counts what was taken of it."""

    def __init__(self, *sizes):
        self.sizes, self.taken = sizes, 0

    async def __aiter__(self):
        for size in self.sizes:
            self.taken += 1
            yield bytes(size)


@pytest.mark.parametrize(("sizes", "taken", "status"), [((60, 40), 2, 200), ((60, 41, 1, 1), 2, 413)])
async def test_a_call_of_flower_is_held_up_to_the_longest_and_no_byte_beyond(monkeypatch, sizes, taken, status):
    monkeypatch.setattr("client.node.guard.MOST_BODY_BYTES", 100)
    gateway, body = Gateway(), Chunks(*sizes)
    fleet = guard_app(httpx.AsyncClient(transport=httpx.MockTransport(gateway), base_url="https://gateway"), a_policy())
    sent = body.__aiter__()

    async def receive():
        chunk = await anext(sent, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    answers = []

    async def send(message):
        answers.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/fleet/push-messages", "headers": [], "query_string": b""}
    await fleet(scope, receive, send)
    assert (answers[0]["status"], body.taken) == (status, taken)
    assert [(call, len(request.content)) for call, request in gateway.asked] == (
        [("push-messages", 100)] if status == 200 else []
    )


@pytest.mark.parametrize(("sizes", "status"), [((60, 40), 200), ((60, 41), 502)])
async def test_an_answer_of_the_gateway_is_held_up_to_the_longest_and_no_byte_beyond(monkeypatch, sizes, status):
    monkeypatch.setattr("client.node.guard.MOST_BODY_BYTES", 100)
    async with asking(lambda _: httpx.Response(200, stream=Chunks(*sizes)), a_policy()) as client:
        reply = await client.post("/v1/fleet/push-messages", content=b"")
    assert (reply.status_code, len(reply.content)) == (status, 100 if status == 200 else 0)


async def test_what_the_gateway_says_arrives_with_its_own_status_type_and_flower_s_headers(caplog):
    said = {"content-type": "application/protobuf", "flwr-x": "kept", "set-cookie": "a=b", "content-encoding": "gzip"}
    for status in (200, 401, 404, 500):
        asked = []

        def answer(request, status=status, asked=asked):
            asked.append(request)
            return httpx.Response(status, headers=said, content=gzip.compress(b"its body"))

        async with asking(answer, a_policy()) as client:
            reply = await client.post(
                "/v1/fleet/push-messages", content=b"ours", headers={"flwr-y": "1", "cookie": "c"}
            )
        assert (reply.status_code, reply.content) == (status, b"its body")
        assert {name: value for name, value in reply.headers.items() if name != "content-length"} == {
            "content-type": "application/protobuf",
            "flwr-x": "kept",
        }
        (request,) = asked
        assert (str(request.url), request.content) == ("https://gateway/v1/fleet/push-messages", b"ours")
        assert (request.headers["flwr-y"], request.headers.get("cookie")) == ("1", None)
    assert caplog.text.count("does not take this node's calls: its body") == 1


async def test_a_long_or_unprintable_complaint_of_the_coordinator_does_not_fill_the_log(caplog):
    text = "a\tb\x1b[31m" + 400 * "c"
    async with asking(lambda _: httpx.Response(401, text=text), a_policy()) as client:
        await client.post("/v1/fleet/activate-node")
    (said,) = [record.getMessage().partition(": ")[2] for record in caplog.records if "does not take" in record.msg]
    assert said == "a b [31m" + 292 * "c"


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (httpx.ReadTimeout, 504),
        (httpx.ConnectTimeout, 504),
        (httpx.ConnectError, 502),
        (httpx.RemoteProtocolError, 502),
    ],
)
@pytest.mark.parametrize("call", ["pull-messages", "get-run"])
async def test_a_gateway_that_does_not_answer_is_said_by_its_kind_whichever_call_it_is(failure, status, call):
    gateway = Gateway()

    def fail(request):
        if request.url.path.endswith(call):
            raise failure("", request=request)
        return gateway(request)

    async with asking(fail, a_policy()) as client:
        assert (await client.post("/v1/fleet/pull-messages", content=b"")).status_code == status


async def test_a_run_of_which_the_gateway_says_nothing_is_none_that_may_run(caplog):
    gateway, tally = Gateway(), Counter()

    def refusing(request):
        answer = gateway(request)
        return httpx.Response(404, content=answer.content) if request.url.path.endswith("get-run") else answer

    assert await pulled(refusing, a_policy(), tally=tally) == []
    assert tally == {"application": 1}
    assert "run 7 is of application , and app-hashes do not name it" in caplog.text


async def test_what_is_refused_is_named_in_the_log_with_its_run(caplog):
    await pulled(Gateway(kind="train." + 100 * "x"), a_policy())
    await pulled(Gateway(announced="cd" * 50), a_policy())
    async with asking(Gateway(app=b"another"), a_policy()) as client:
        await client.post("/v1/fleet/get-fab", content=b"")
    arrived = hashlib.sha256(b"another").hexdigest()
    assert [record.getMessage() for record in caplog.records if record.name == "client.node.guard"] == [
        f"refused: run 7 sent {'train.' + 58 * 'x'!r}, and the policy's recipes do not name it",
        f"refused: run 7 is of application {'cd' * 32}, and app-hashes do not name it",
        f"refused: the application that arrived is {arrived}, and app-hashes do not name it",
    ]


async def test_an_application_that_arrives_and_is_not_named_is_counted():
    tally = Counter()
    async with asking(Gateway(app=b"another"), a_policy(), tally=tally) as client:
        assert (await client.post("/v1/fleet/get-fab", content=b"")).status_code == 403
    assert tally == {"application": 1}


@pytest.mark.parametrize(("headers", "kind"), [({}, "application/protobuf"), ({"content-type": "x/y"}, "x/y")])
async def test_no_work_is_an_answer_of_the_kind_that_was_asked_for(headers, kind):
    async with asking(Gateway(), a_policy(opens=8 * 60, closes=11 * 60)) as client:
        reply = await client.post("/v1/fleet/pull-messages", content=b"", headers=headers)
    assert (reply.status_code, reply.content, reply.headers["content-type"]) == (200, b"", kind)


async def test_the_hours_are_looked_at_with_every_question():
    gateway, minutes = Gateway(), iter([8 * 60 - 1, 8 * 60, 11 * 60 - 1, 11 * 60])
    client = httpx.AsyncClient(transport=httpx.MockTransport(gateway), base_url="https://gateway")
    app = guard_app(client, a_policy(opens=8 * 60, closes=11 * 60), clock=lambda: 60.0 * next(minutes) + 0.9)
    found = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://guard") as node:
        for _ in range(4):
            reply = await node.post("/v1/fleet/pull-messages", content=b"")
            found.append(len(PullMessagesResponse.FromString(reply.content).messages_list))
    assert found == [0, 1, 1, 0]


async def test_outside_the_hours_a_node_may_still_sign_on_and_off():
    gateway = Gateway()
    async with asking(gateway, a_policy(opens=8 * 60, closes=11 * 60)) as client:
        for call in ("activate-node", "send-node-heartbeat", "push-messages", "deactivate-node"):
            assert (await client.post(f"/v1/fleet/{call}", content=b"")).status_code == 200
    assert len(gateway.asked) == 4


async def test_the_connection_to_the_gateway_is_closed_when_the_guard_ends():
    client = httpx.AsyncClient(transport=httpx.MockTransport(Gateway()))
    app = guard_app(client, a_policy())
    async with app.router.lifespan_context(app):
        assert not client.is_closed
    assert client.is_closed


async def test_work_that_the_policy_allows_arrives():
    gateway = Gateway()
    assert len(await pulled(gateway, a_policy())) == 1
    _, asked = gateway.asked[1]
    assert GetRunRequest.FromString(asked.content) == GetRunRequest(node=Node(node_id=5), run_id=7)
    assert asked.headers["flwr-timestamp"] == "now"


@pytest.mark.parametrize(
    ("gateway", "policy"),
    [
        (Gateway(kind="train.scales"), a_policy()),
        (Gateway(kind="evaluate.threshold"), a_policy()),
        (Gateway(announced="cd" * 32), a_policy()),
        (Gateway(), a_policy(digest="cd" * 32)),
    ],
    ids=["unknown recipe", "recipe not agreed to", "another application", "application not agreed to"],
)
async def test_work_that_the_policy_does_not_name_never_arrives(gateway, policy):
    assert not await pulled(gateway, policy)


async def test_outside_the_hours_nothing_is_even_asked_for():
    gateway = Gateway()
    assert not await pulled(gateway, a_policy(opens=8 * 60, closes=11 * 60))
    assert not gateway.asked


@pytest.mark.parametrize(
    ("app", "status"), [(APP, 200), (b"another application under the allowed hash", 403), (b"", 403)]
)
async def test_the_bytes_of_an_application_count_and_not_what_they_are_called(app, status):
    async with asking(Gateway(app=app), a_policy()) as client:
        assert (await client.post("/v1/fleet/get-fab", content=b"")).status_code == status


@pytest.mark.parametrize("call", ["get-fab", "pull-messages"])
async def test_an_answer_that_cannot_be_read_does_not_pass(call):
    async with asking(lambda _: httpx.Response(200, content=b"\xff junk"), a_policy()) as client:
        assert (await client.post(f"/v1/fleet/{call}", content=b"")).status_code == 403


async def test_a_gateway_that_is_down_is_a_gateway_error():
    def fail(request):
        raise httpx.ConnectError("down", request=request)

    async with asking(fail, a_policy()) as client:
        assert (await client.post("/v1/fleet/push-messages", content=b"")).status_code == 502


@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/fleet/register-node", "/health"])
async def test_nothing_but_fleet_calls_passes(path):
    gateway = Gateway()
    async with asking(gateway, a_policy()) as client:
        assert (await client.post(path, content=b"")).status_code == 404
    assert not gateway.asked


# --------------------------------------------------------------------------------------------------- starting a node
POLICY = (
    "max-epsilon = 2.0\nbudget-epsilon = 4.0\ndelta = 1e-5\nmin-colluders = 1\n"
    'recipes = ["moments"]\napp-hashes = [{}]\nhours = "00:00-00:00"\n'
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "policy.toml").write_text(POLICY.format(f'"{HASH}"'))
    (tmp_path / "roster").write_text("ab" * 32 + "\n")
    (tmp_path / "embeddings.npz").write_bytes(synthetic_people(["anna"]).to_bytes())
    return tmp_path


def test_a_node_hands_every_limit_and_every_file_to_the_application_as_flower_reads_them(folder):
    (folder / "policy.toml").write_text(
        "max-epsilon = 2.5\nbudget-epsilon = 4.5\ndelta = 2e-6\nmin-colluders = 3\n"
        f'recipes = ["moments", "threshold"]\napp-hashes = ["{HASH}"]\nhours = "00:00-00:00"\n'
    )
    assert parse_config_args([node_config(folder, require_ready(folder))]) == {
        "embeddings": f"{folder}/active.npz",
        "identity": f"{folder}/organisation.pem",
        "roster": f"{folder}/roster",
        "ledgers": f"{folder}/ledgers",
        "chips": f"{folder}/chips.npz",
        "model": f"{folder}/model",
        "groups": f"{folder}/groups.json",
        "recipes": "moments,threshold",
        "max-epsilon": 2.5,
        "budget-epsilon": 4.5,
        "delta": 2e-6,
        "min-colluders": 3,
        "delay-class-seconds": 2.0,
    }
    assert (folder / "active.npz").is_file()


def test_a_node_whose_policy_allows_no_application_does_not_start(folder):
    (folder / "policy.toml").write_text(POLICY.format(""))
    with pytest.raises(RefusedError, match="allows no application"):
        require_ready(folder)


@pytest.mark.parametrize("missing", ["policy.toml", "roster", "embeddings.npz"])
def test_a_node_without_a_file_says_which(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(UsageError, match=r"no roster is trusted yet|cannot read .*(embeddings\.npz|policy\.toml)"):
        require_ready(folder)


@pytest.mark.parametrize("name", ['a"quote', "an'apostrophe", "a space", "a\\backslash", "a\ttab", "a\nline"])
def test_a_folder_that_flower_cannot_be_told_is_refused(folder, name):
    with pytest.raises(UsageError, match="move the folder"):
        node_config(folder / name, require_ready(folder))


def test_a_running_node_leaves_a_person_out_from_the_withdrawal_on(folder):
    (folder / "embeddings.npz").write_bytes(synthetic_people(["anna", "ben"]).to_bytes())
    config = parse_config_args([node_config(folder, require_ready(folder))])
    context = Context(run_id=1, node_id=5, node_config=config, state=RecordDict(), run_config={})
    assert set(client.node.records.embeddings(context).people) == {"anna", "ben"}
    withdraw("ben", folder)
    assert set(client.node.records.embeddings(context).people) == {"anna"}


def test_a_node_whose_own_ledger_was_altered_does_not_start(folder):
    (folder / "ledgers").mkdir()
    (folder / "ledgers" / "own.jsonl").write_bytes(b"{}\n")
    with pytest.raises(UsageError, match=r"own\.jsonl was altered"):
        require_ready(folder)


@pytest.mark.parametrize(
    ("most", "said"), [(3, "1 people have more than 3 images of a camera; the first 3 take"), (4, "")]
)
def test_who_has_more_images_than_take_part_is_counted_in_the_log(folder, monkeypatch, caplog, most, said):
    parts = [synthetic_people(["anna"], images=4), synthetic_people(["ben"], images=3)]
    names = ("embeddings", "people", "profiles", "images")
    both = EmbeddingSet(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    (folder / "embeddings.npz").write_bytes(both.to_bytes())
    for place in (start, people):
        monkeypatch.setattr(place, "MOST_IMAGES", most)
    require_ready(folder)
    assert caplog.text.count("images of a camera") == bool(said)
    assert said in caplog.text


GATEWAY = "where the gateway is"


class Supernode:
    """Flower's program, as far as a node looks at it."""

    pid = 2**22 + 17  # of nobody: Linux has fewer

    def __init__(self, ends_with=None, *, stubborn=False):
        self.ends_with, self.stubborn, self.looks, self.events = ends_with, stubborn, 0, []

    def poll(self):
        self.looks += 1
        if self.looks == 3 and self.ends_with is None:
            signal.raise_signal(signal.SIGTERM)
        self.returncode = self.ends_with if self.looks >= 3 else None
        return self.returncode

    def terminate(self):
        self.events.append("asked to end")

    def wait(self, seconds=None):
        self.events.append(("waited for", seconds))
        if seconds is not None and self.stubborn:
            raise subprocess.TimeoutExpired("flower", seconds)


class GuardServer:
    """A guard that listens at once, and until it is told to end."""

    def __init__(self):
        self.started, self.should_exit, self.ended = True, False, threading.Event()

    def run(self):
        while not self.should_exit:
            time.sleep(0.01)
        time.sleep(0.02)  # it closes its connections
        self.ended.set()


@pytest.fixture
def running(folder, monkeypatch):
    """Runs a node without Flower and without a coordinator; gives what everything was called with."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    gateway = SimpleNamespace(address="fed.example.org:8443", authority="an authority")
    monkeypatch.setattr(start, "gateway_of", lambda _: gateway)

    def tethered(command, *, interpreter, parent):
        assert (interpreter, parent) == (sys.executable, os.getpid()), "else Flower outlives this process"
        return command

    monkeypatch.setattr(start, "tethered", tethered)
    monkeypatch.setattr(start, "reach", lambda _: Reached(0.25, 2e9))

    def killpg(group, number):
        assert group == Supernode.pid
        killed.append(number)
        run.supernode.events.append("killed")
        if len(killed) > 1:
            raise ProcessLookupError

    class Impatient(threading.Event):
        def wait(self, _seconds=None):
            return self.is_set()

    def thread(*, target, daemon):
        assert daemon, "a guard that goes on would keep this process alive"
        return threading.Thread(target=target, daemon=True)

    monkeypatch.setattr(start, "threading", SimpleNamespace(Thread=thread, Event=Impatient))
    monkeypatch.setattr(start.os, "killpg", killpg)
    killed = []

    def run(supernode, *, guard=None, failing=None, folder=folder, **options):
        guard = guard or GuardServer()
        hidden = []
        made = {"guard_app": "the guard", "gateway_client": "a client", "guard_server": guard}
        seen = Stand(monkeypatch, "client.node.start", made | {"show": lambda: hidden.append(True)})
        if failing:
            monkeypatch.setattr(start, "show", failing)
        started = []
        monkeypatch.setattr(
            start.subprocess, "Popen", lambda *words, **named: started.append((*words, named)) or supernode
        )
        run.supernode, run.guard, run.started, run.killed = supernode, guard, started, killed
        status = start.run_node(folder, **options)
        assert guard.ended.is_set(), "the guard was not waited for"
        assert killed == [signal.SIGKILL], "what Flower started would go on"
        ((command, named),) = started
        return SimpleNamespace(status=status, seen=seen, command=command, named=named, hidden=hidden, gateway=gateway)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_node_starts_flower_behind_its_own_guard_and_with_nobody_else_s_certificate(folder, running):
    done = running(Supernode(5), metrics=("127.0.0.3", 9003))
    assert done.status == 5
    (program, *words) = done.command
    options = dict(zip(words[::2], words[1::2], strict=True))
    port, own_port = options.pop("--superlink"), options.pop("--port")
    assert Path(program).name == "flower-supernode"
    assert options == {
        "--root-certificates": f"{folder}/guard.pem",
        "--auth-supernode-private-key": f"{folder}/node",
        "--host": "127.0.0.1",
        "--node-config": node_config(folder, require_ready(folder)),
    }
    assert port == f"127.0.0.1:{done.seen['guard_server']['port']}"
    assert own_port.isdecimal()
    assert own_port != port.rpartition(":")[2]
    environment = done.named.pop("env")
    assert environment["FLWR_HOME"] == f"{folder}/flower"
    assert done.named == {"cwd": folder, "stdin": subprocess.DEVNULL, "start_new_session": True}
    guard, asked = done.seen["guard_app"], done.seen["gateway_client"]
    assert (guard["gateway"], guard["policy"].app_hashes) == ("a client", frozenset({HASH}))
    assert asked == {"address": "fed.example.org:8443", "authority": folder / "authority.pem"}
    assert (folder / "authority.pem").read_text() == "an authority"
    served = done.seen["guard_server"]
    assert (served["app"], served["certificate"], served["key"]) == (
        "the guard",
        folder / "guard.pem",
        folder / "guard-key.pem",
    )
    shown = done.seen["show"]
    assert (shown["host"], shown["port"], done.hidden) == ("127.0.0.3", 9003, [True])
    guard["tally"]["hours"] += 3
    values = {sample.name: sample.value for family in shown["metrics"].collect() for sample in family.samples}
    assert values["intaglio_node_refusals_total"] == 3
    assert values["intaglio_node_clock_ahead_seconds"] == 0.25
    assert values["intaglio_node_epsilon_left"] == 4.0


def test_a_node_that_is_told_to_end_ends_flower_gently_first_and_ends_well(running, capsys):
    supernode = Supernode()
    done = running(supernode)
    assert "this node takes part at fed.example.org:8443; Ctrl-C ends it" in "".join(capsys.readouterr())
    assert done.status == 0
    assert done.seen.calls["show"] == []
    assert supernode.events == ["asked to end", ("waited for", 10.0), "killed", ("waited for", None)]


def test_a_node_that_is_started_from_elsewhere_hands_on_where_its_folder_really_is(folder, running, monkeypatch):
    """Flower runs in another folder than this command."""
    monkeypatch.chdir(folder.parent)
    done = running(Supernode(0), folder=Path(folder.name))
    assert done.named["cwd"] == folder
    assert node_config(folder, require_ready(folder)) in done.command
    assert done.seen["guard_server"]["key"] == folder / "guard-key.pem"


@pytest.mark.parametrize("error", [UnavailableError("down"), PeerError("expired")])
def test_a_gateway_that_does_not_answer_is_not_shown_as_it_was_before(monkeypatch, caplog, error):
    def fails(_):
        raise error

    shown = SimpleNamespace(reached=Reached(0.25, 2e9))
    monkeypatch.setattr(start, "reach", fails)
    start.look(GATEWAY, shown, starting=False)
    assert shown.reached is None
    assert str(error) in caplog.text
    wrong = Reached(NEWEST_SECONDS + 1.0, 2e9)
    monkeypatch.setattr(start, "reach", lambda asked: {GATEWAY: wrong}[asked])
    start.look(GATEWAY, shown, starting=False)
    assert shown.reached == wrong


def test_a_flower_that_does_not_end_is_killed_and_waited_for(running):
    supernode = Supernode(stubborn=True)
    assert running(supernode).status == 0
    assert supernode.events == ["asked to end", ("waited for", 10.0), "killed", ("waited for", None)]


def test_a_flower_that_ended_by_itself_is_not_asked_to(running):
    supernode = Supernode(3)
    assert running(supernode).status == 3
    assert supernode.events == ["killed", ("waited for", None)]


@pytest.mark.parametrize("signs", [[signal.SIGTERM], [signal.SIGINT]], ids=["SIGTERM", "SIGINT"])
def test_either_signal_ends_a_node_well(running, signs):
    class Told(Supernode):
        def poll(self):
            self.looks += 1
            if self.looks == 2:
                for sign in signs:
                    signal.raise_signal(sign)

    supernode = Told()
    assert running(supernode).status == 0
    assert supernode.events[0] == "asked to end"


@pytest.mark.parametrize("step", ["show", "look"])
def test_whatever_ends_a_node_flower_and_guard_end_with_it(running, monkeypatch, step):
    supernode, looks = Supernode(9), []
    clock = iter(range(0, 10**9, 7 * 3600))

    def fails(*_given, starting=True):
        looks.append(starting)
        if step == "show" or len(looks) > 1:
            raise UsageError("it failed")

    if step == "look":
        monkeypatch.setattr(start, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        monkeypatch.setattr(start, "look", fails)
    with pytest.raises(UsageError, match="it failed"):
        running(supernode, metrics=("127.0.0.3", 9003) if step == "show" else None, failing=fails)
    assert supernode.events == ["asked to end", ("waited for", 10.0), "killed", ("waited for", None)]
    assert running.killed == [signal.SIGKILL]
    assert running.guard.ended.is_set()


class NoServer(GuardServer):
    """A guard that does not come to listen: it ends at once, or never."""

    def __init__(self, *, ends):
        super().__init__()
        self.started, self.should_exit = False, ends


@pytest.mark.parametrize(("ends", "least"), [(True, 0.0), (False, 20.0)])
def test_a_guard_that_does_not_listen_starts_no_flower(running, monkeypatch, ends, least):
    clock = [100.0]
    passing = {
        "time": lambda: 0.0,
        "monotonic": lambda: clock[0],
        "sleep": lambda seconds: clock.append(clock.pop() + seconds),
    }
    monkeypatch.setattr(start, "time", SimpleNamespace(**passing))
    guard = NoServer(ends=ends)
    with pytest.raises(UnavailableError, match="the guard of this node did not start; its port may be taken"):
        running(Supernode(), guard=guard)
    assert running.started == []
    assert least <= clock[0] - 100 <= 20.1
    guard.should_exit = True


def test_a_node_looks_at_its_gateway_again_after_six_hours_and_not_before(running, monkeypatch):
    hours, looks, clock = iter([0.0, 5.99, 6.0, 11.9, 12.1]), [], [100.0]

    def look(gateway, shown, *, starting):
        assert (gateway.address, shown.reached) == ("fed.example.org:8443", None)
        looks.append((clock[0], starting))

    monkeypatch.setattr(start, "look", look)

    class Slow(Supernode):
        def poll(self):
            hour = next(hours, None)
            if hour is None:
                self.returncode = 7
                return 7
            clock[0] = 100.0 + 3600 * hour
            return None

    monkeypatch.setattr(start.time, "monotonic", lambda: clock[0])
    assert running(Slow()).status == 7
    assert looks == [(100.0, True), (100.0 + 6 * 3600, False), (100.0 + 12.1 * 3600, False)]
