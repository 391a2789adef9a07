"""What the coordinator asks of its SuperLink, byte for byte, and what it makes of every answer: without any."""

from __future__ import annotations

import datetime as dt
import ssl
from types import SimpleNamespace

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.proto import control_pb2 as pb
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import Run, RunStatus

from federation.errors import PeerError, UnavailableError, UsageError
from federation.membership.joining import node_key_line
from server.certificates import write_loopback
from server.fleet import superlink as fleet
from server.fleet.superlink import ADDRESS, CERTIFICATE, NodeState, RunState, Superlink, connected

REQUESTS = {
    "start-run": pb.StartRunRequest,
    "list-runs": pb.ListRunsRequest,
    "stop-run": pb.StopRunRequest,
    "stream-logs": pb.StreamLogsRequest,
    "list-nodes": pb.ListNodesRequest,
    "register-node": pb.RegisterNodeRequest,
    "unregister-node": pb.UnregisterNodeRequest,
}
DAY = 86_400
NOON = int(dt.datetime(2029, 12, 31, 12, tzinfo=dt.UTC).timestamp())


def at(seconds):
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()


class Asked:
    """A SuperLink that gives what it was made with, one answer after the other, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers, self.calls, self.headers, self.waits = list(answers), [], [], []

    def __call__(self, request):
        prefix, _, call = request.url.path.rpartition("/")
        assert (request.method, prefix) == ("POST", "/v1/control")
        self.calls.append((call, REQUESTS[call].FromString(request.read())))
        self.waits.append(request.extensions["timeout"])
        self.headers.append({name: request.headers.get(name) for name in ("content-type", "accept")})
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, content=answer.SerializeToString())

    @property
    def superlink(self):
        return Superlink(httpx.Client(transport=httpx.MockTransport(self), base_url="https://superlink"))


def scalars(request):
    return {key: (value.WhichOneof("scalar"), getattr(value, value.WhichOneof("scalar"))) for key, value in request}


def test_a_run_is_started_with_its_application_and_every_setting_in_its_own_kind():
    asked = Asked(pb.StartRunResponse(run_id=7))
    settings = {"people": 64, "epsilon": 8.0, "population": "staff", "again": True}
    assert asked.superlink.start(b"the application", settings) == 7
    ((call, request),) = asked.calls
    assert (call, request.fab.content) == ("start-run", b"the application")
    assert scalars(request.override_config.items()) == {
        "people": ("sint64", 64),
        "epsilon": ("double", 8.0),
        "population": ("string", "staff"),
        "again": ("bool", True),
    }
    assert asked.headers == [dict.fromkeys(("content-type", "accept"), "application/protobuf")]


def test_a_run_that_was_not_taken_has_no_identifier():
    with pytest.raises(UsageError, match=r"did not take the run: is the application larger than 10 MB\?"):
        Asked(pb.StartRunResponse()).superlink.start(b"x", {})


RUNS = {
    9: Run(run_id=9, pending_at=at(3), status=RunStatus(status="running")),
    5: Run(run_id=5, pending_at=at(1), status=RunStatus(status="finished", sub_status="failed", details="no memory")),
    6: Run(run_id=6, pending_at=at(2), status=RunStatus(status="finished", sub_status="completed")),
}
STATES = {
    9: RunState(9, "running", "", ""),
    5: RunState(5, "finished", "failed", "no memory"),
    6: RunState(6, "finished", "completed", ""),
}


def test_runs_come_oldest_first_and_one_of_them_is_asked_for_by_name():
    asked = Asked(pb.ListRunsResponse(run_dict=RUNS), pb.ListRunsResponse(run_dict=RUNS))
    assert asked.superlink.runs() == (STATES[5], STATES[6], STATES[9])
    assert asked.superlink.run(6) == STATES[6]
    assert asked.calls == [
        ("list-runs", pb.ListRunsRequest(limit=100)),
        ("list-runs", pb.ListRunsRequest(run_id=6)),
    ]
    assert [state.is_over for state in STATES.values()] == [False, True, True]


def test_a_run_is_stopped_by_name_and_one_that_is_over_says_so():
    asked = Asked(pb.StopRunResponse(success=True), pb.StopRunResponse(success=False))
    asked.superlink.stop(5)
    with pytest.raises(UsageError, match=r"^run 6 is over, or was never begun$"):
        asked.superlink.stop(6)
    assert asked.calls == [("stop-run", pb.StopRunRequest(run_id=run)) for run in (5, 6)]


KEYS = [ec.generate_private_key(ec.SECP384R1()) for _ in range(3)]
LINES = [node_key_line(key) for key in KEYS]
PEMS = [key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in KEYS]
NODES = pb.ListNodesResponse(
    nodes_info=[
        NodeInfo(node_id=1, status="online", last_activated_at=at(NOON), public_key=PEMS[0]),
        NodeInfo(
            node_id=2,
            status="offline",
            last_activated_at=at(NOON),
            last_deactivated_at=at(NOON + DAY),
            public_key=PEMS[1],
        ),
        NodeInfo(
            node_id=3, status="online", last_activated_at=at(NOON + DAY), last_deactivated_at=at(NOON), public_key=b"3"
        ),
        NodeInfo(node_id=4, status="registered", public_key=b"4"),
        NodeInfo(node_id=5, status="unregistered", last_activated_at=at(NOON), public_key=PEMS[2]),
    ]
)


def test_nodes_are_those_that_were_not_forgotten_with_when_they_came_or_went_last():
    asked = Asked(NODES)
    assert asked.superlink.nodes() == {
        1: NodeState(1, True, NOON, PEMS[0]),
        2: NodeState(2, False, NOON + DAY, PEMS[1]),
        3: NodeState(3, True, NOON + DAY, b"3"),
        4: NodeState(4, False, None, b"4"),
    }
    assert asked.calls == [("list-nodes", pb.ListNodesRequest())]


def test_a_node_is_registered_under_its_name_and_key_once_and_one_that_was_forgotten_anew():
    asked = Asked(NODES, NODES, pb.RegisterNodeResponse(node_id=6))
    assert asked.superlink.register("south", LINES[1]) == 2
    assert asked.superlink.register("west", LINES[2]) == 6
    assert asked.calls == [
        ("list-nodes", pb.ListNodesRequest()),
        ("list-nodes", pb.ListNodesRequest()),
        ("register-node", pb.RegisterNodeRequest(public_key=PEMS[2], name="west")),
    ]


def test_a_node_is_forgotten_and_one_that_is_not_known_need_not_be():
    asked = Asked(NODES, pb.UnregisterNodeResponse(), NODES, NODES)
    for node in (2, 5, 6):
        asked.superlink.unregister(node)
    assert [call for call, _ in asked.calls] == ["list-nodes", "unregister-node", "list-nodes", "list-nodes"]
    assert asked.calls[1][1] == pb.UnregisterNodeRequest(node_id=2)


WRONG = {
    "nobody listens": (httpx.ConnectError("secret"), UnavailableError, r"SuperLink does not answer; start it with"),
    "it says nothing": (httpx.ReadTimeout("secret"), UnavailableError, r"SuperLink does not answer; start it with"),
    "it failed": (
        httpx.Response(500, json={"detail": "disk"}),
        UnavailableError,
        r"^the SuperLink failed at stop-run with status 500: disk$",
    ),
    "it failed without a word": (
        httpx.Response(503, text="<html>"),
        UnavailableError,
        r"^the SuperLink failed at stop-run with status 503: no reason given$",
    ),
    "it refuses": (
        httpx.Response(404, json={"detail": "Run ID not found."}),
        UsageError,
        r"^the SuperLink refused stop-run with status 404: Run ID not found\.$",
    ),
    "it refuses with a list": (httpx.Response(400, json=["x"]), UsageError, r"with status 400: no reason given$"),
    "it refuses with other words": (httpx.Response(400, json={"x": 1}), UsageError, r"status 400: no reason given$"),
    "it leads elsewhere": (httpx.Response(307, headers={"location": "/"}), UsageError, r"status 307: no reason given$"),
    "another message": (
        httpx.Response(200, content=b"\xff"),
        PeerError,
        r"^the SuperLink's answer to stop-run cannot be read$",
    ),
}


@pytest.mark.parametrize(("answer", "error", "said"), WRONG.values(), ids=WRONG)
def test_an_answer_that_is_none_says_which_call_it_was_and_whose_fault_it_is(answer, error, said):
    with pytest.raises(error, match=said):
        Asked(answer).superlink.stop(5)


# ------------------------------------------------------------------------------------------------ what a run says
def frames(*messages):
    return b"".join(
        len(data := message.SerializeToString()).to_bytes(4, "big") + data
        for message in (pb.StreamLogsResponse(log_output=text, latest_timestamp=time) for text, time in messages)
    )


def stream(*pieces):
    def content():
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    return httpx.Response(200, content=content())


class Clock:
    """Goes on by a second whenever it is looked at."""

    def __init__(self):
        self.now = 0

    def monotonic(self):
        self.now += 1
        return self.now


def lines_of(*answers, until=1000, monkeypatch):
    monkeypatch.setattr(fleet, "time", Clock())
    asked = Asked(*answers)
    return list(asked.superlink.lines(7, until=until)), asked


def test_lines_are_whole_however_they_were_cut_and_after_silence_only_new_ones_are_asked_for(monkeypatch):
    said = frames(("one\ntw", 3.0), ("o\n", 5.0), ("thr", 2.0))  # the newest is not the last
    heard, asked = lines_of(
        stream(said[:3], said[3:9], said[9:], httpx.ReadTimeout("nothing new")),
        stream(httpx.ReadTimeout("nothing new")),
        stream(frames(("ee\n\nfour", 6.0))),
        monkeypatch=monkeypatch,
    )
    assert heard == ["one", "two", "three", "", "four"]
    assert asked.calls == [
        ("stream-logs", pb.StreamLogsRequest(run_id=7, after_timestamp=after)) for after in (0.0, 5.0, 5.0)
    ]
    assert asked.headers[0] == {
        "content-type": "application/protobuf",
        "accept": "application/flower-protobuf-stream",
    }
    assert asked.waits == [{"connect": 30.0, "read": 2.0, "write": 30.0, "pool": 30.0}] * 3


def test_a_run_that_ends_with_a_line_says_nothing_after_it(monkeypatch):
    assert lines_of(stream(frames(("one\n", 1.0))), monkeypatch=monkeypatch)[0] == ["one"]


def test_whoever_listens_stops_when_it_is_time_while_a_run_speaks_and_while_it_is_silent(monkeypatch):
    talks = stream(*(frames((f"{number}\n", 1.0)) for number in range(9)))
    assert lines_of(talks, until=3, monkeypatch=monkeypatch)[0] == ["0", "1"]
    silence = [stream(httpx.ReadTimeout("nothing new")) for _ in range(9)]
    heard, asked = lines_of(*silence, until=3, monkeypatch=monkeypatch)
    assert (heard, len(asked.calls)) == ([], 2)


def test_a_superlink_that_goes_away_in_the_middle_says_how_to_go_on(monkeypatch):
    for gone in (httpx.ReadError("secret"), httpx.RemoteProtocolError("secret"), httpx.ConnectTimeout("secret")):
        with pytest.raises(
            UnavailableError, match=r"went away while the run was under way\. Start it with .* same run"
        ):
            lines_of(stream(frames(("one\n", 1.0)), gone), monkeypatch=monkeypatch)


def test_a_log_that_is_refused_says_so_and_a_message_without_end_is_not_waited_for(monkeypatch):
    refusal = iter([b'{"detail": "Run ', b'ID not found."}'])
    with pytest.raises(UsageError, match=r"refused stream-logs with status 404: Run ID not found\."):
        lines_of(httpx.Response(404, content=refusal), monkeypatch=monkeypatch)
    monkeypatch.setattr(fleet, "_MOST_FRAME_BYTES", 20)
    kept = len(pb.StreamLogsResponse(log_output="x" * 9, latest_timestamp=1.0).SerializeToString())
    assert kept == 20
    assert lines_of(stream(frames(("x" * 9, 1.0))), monkeypatch=monkeypatch)[0] == ["x" * 9]
    with pytest.raises(PeerError, match=r"^the SuperLink sent a message of 21 bytes for a log$"):
        lines_of(stream((21).to_bytes(4, "big")), monkeypatch=monkeypatch)


# -------------------------------------------------------------------------------------------------- where it is
def test_the_superlink_is_the_one_of_the_folder_by_its_own_certificate_and_is_left_closed(tmp_path, monkeypatch):
    (tmp_path / "tls").mkdir()
    write_loopback(tmp_path / "tls" / CERTIFICATE, tmp_path / "key", now=dt.datetime.now(dt.UTC))
    (tmp_path / ADDRESS).write_text("127.0.0.1:9\n")
    made, trusted = [], ssl.create_default_context(cafile=str(tmp_path / "tls" / CERTIFICATE)).get_ca_certs()

    class Client(httpx.Client):
        def __init__(self, **named):
            made.append((self, named))
            super().__init__(**named)

    monkeypatch.setattr(fleet, "httpx", SimpleNamespace(Client=Client))
    with connected(tmp_path):
        ((client, named),) = made
        assert not client.is_closed
    assert client.is_closed
    assert named.pop("verify").get_ca_certs() == trusted
    assert named == {"base_url": "https://127.0.0.1:9", "timeout": 30.0, "trust_env": False}


@pytest.mark.parametrize("missing", [ADDRESS, f"tls/{CERTIFICATE}"])
def test_without_its_address_or_certificate_nobody_is_asked(tmp_path, missing):
    (tmp_path / "tls").mkdir()
    write_loopback(tmp_path / "tls" / CERTIFICATE, tmp_path / "key", now=dt.datetime.now(dt.UTC))
    (tmp_path / ADDRESS).write_text("127.0.0.1:9")
    (tmp_path / missing).unlink()
    with pytest.raises(UnavailableError, match="does not answer; start it with"), connected(tmp_path):
        pass
