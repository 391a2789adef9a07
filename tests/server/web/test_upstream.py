"""The bridge's own certificate: a renewed one is taken up while it runs, and calls that run end as they began."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import shutil
import threading

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry

from federation.errors import UnavailableError, UsageError
from federation.wire.v1 import verification_pb2 as pb
from server.certificates import write_pki
from server.matching.serving import CALLS_OF_ONE
from server.people import authority
from server.storage.sqlstorage import open_storage
from server.visitors.door import opened_door
from server.web.metrics import BridgeMetrics
from server.web.upstream import CALL_SECONDS, CALLS, MatchingUpstream
from tests.running import RunningServer, a_release, a_service, public_rules

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

DAY = dt.timedelta(days=1)
CALL = "federation.wire.v1.LogService/GetCheckpoint"


def now():
    return dt.datetime.now(dt.UTC)


@pytest.fixture
def tls(tmp_path):
    """The authority's folder, with the service's pair."""
    write_pki(tmp_path / "tls", hosts=["localhost"], clients=["bridge"], now=now() - 350 * DAY)
    return tmp_path / "tls"


@pytest.fixture
def folder(tls, tmp_path):
    """The bridge's, which has neither the authority's key nor the service's."""
    made = tmp_path / "bridge"
    made.mkdir()
    for name in ("ca.pem", "bridge.pem", "bridge-key.pem"):
        shutil.copy(tls / name, made)
    return made


@pytest.fixture
def server(tls, workers, tmp_path, monkeypatch):
    monkeypatch.setattr("server.matching.serving._TENDING_SECONDS", 0.01)
    with open_storage(tmp_path / "matching.db") as storage:
        service = a_service(a_release(), storage, workers, public_rules(), tmp_path)
        with RunningServer(service, tls) as running:
            yield running


def checkpoint():
    return pb.GetCheckpointRequest().SerializeToString()


async def test_a_renewed_pair_is_shown_from_then_on_without_a_restart(server, tls, folder):
    """The old certificate is revoked afterwards, so whoever went on with it would be refused."""
    said = []
    upstream = MatchingUpstream(server.target, folder, "bridge", said.append)
    try:
        assert await upstream(CALL, checkpoint())
        serial = authority.known(tls)[1].serial
        authority.renew(tls, now=now(), names=("bridge",))
        shutil.copy(tls / "bridge-key.pem", folder)
        upstream.look()  # half of a copy
        assert await upstream(CALL, checkpoint())
        shutil.copy(tls / "bridge.pem", folder)
        upstream.look()
        authority.revoke_number(tls, serial, now=now())
        async with asyncio.timeout(30):
            while not server.admission._revoked:  # noqa: ASYNC110 - it is a thread of the server's that is waited for
                await asyncio.sleep(0.01)
        assert await upstream(CALL, checkpoint())
    finally:
        await upstream.close()
    end = now() + 397 * DAY
    assert f"the bridge's certificate was renewed; it ends on {end:%Y-%m-%d}" in said


@pytest.mark.parametrize("half", ["bridge.pem", "bridge-key.pem"])
async def test_half_of_a_renewed_pair_is_never_shown_also_where_the_bridge_connects_anew(server, tls, folder, half):
    """Whoever kept it was away from the next silence of the service on, until the other half came."""
    upstream = MatchingUpstream(server.target, folder, "bridge", print)
    try:
        authority.renew(tls, now=now(), names=("bridge",))
        shutil.copy(tls / half, folder)
        upstream.look()
        upstream._connect_anew()  # as after a silence
        assert await upstream(CALL, checkpoint())
    finally:
        await upstream.close()


async def test_a_call_that_runs_when_the_pair_changes_gets_its_answer(tls, folder):
    """A service of its own, which answers when it is told to."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def answer(_request, _context):
        begun.set()
        await go.wait()
        return b"an answer"

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("some.Service", {"Call": handler})])
    files = [(tls / name).read_bytes() for name in ("server-key.pem", "server.pem", "ca.pem")]
    credentials = grpc.ssl_server_credentials([(files[0], files[1])], files[2], require_client_auth=True)
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    upstream = MatchingUpstream(f"localhost:{port}", folder, "bridge", print)
    call = asyncio.ensure_future(upstream("some.Service/Call", b"a question"))
    await begun.wait()
    authority.renew(tls, now=now(), names=("bridge",))
    for name in ("bridge.pem", "bridge-key.pem"):
        shutil.copy(tls / name, folder)
    upstream.look()
    go.set()
    assert await call == b"an answer"
    await upstream.close()
    await server.stop(None)


async def test_what_ends_soon_is_said_once_a_day_and_is_a_number(tls, folder):
    today, said = [now()], []
    upstream = MatchingUpstream("localhost:1", folder, "bridge", said.append, clock=lambda: today[0])
    upstream.look()
    upstream.look()
    assert len(said) == 1
    assert "the bridge's certificate expires on" in said[0]
    assert "in 47 days" in said[0]
    today[0] += DAY
    upstream.look()
    assert "in 46 days" in said[1]
    registry = CollectorRegistry()
    with opened_door("127.0.0.1", 0) as door:
        metrics = BridgeMetrics(door)
        registry.register(metrics)
        assert registry.get_sample_value("intaglio_certificate_days_left", {"certificate": "bridge"}) is None
        metrics.watch_certificates(upstream.days_left)
        left = {
            name: registry.get_sample_value("intaglio_certificate_days_left", {"certificate": name})
            for name in ("bridge", "authority")
        }
    assert left == {"bridge": pytest.approx(46, abs=0.1), "authority": pytest.approx(3650 - 351, abs=1)}
    await upstream.close()


@pytest.mark.parametrize("wrong", ["missing", "damaged", "of no version", "another's key"])
async def test_a_bridge_without_a_pair_that_belongs_together_does_not_begin(tls, folder, wrong):
    if wrong == "missing":
        (folder / "bridge.pem").unlink()
    elif wrong == "damaged":
        (folder / "bridge.pem").write_bytes(b"torn")
    elif wrong == "of no version":
        whole = x509.load_pem_x509_certificate((folder / "bridge.pem").read_bytes()).public_bytes(Encoding.DER)
        odd = base64.b64encode(whole.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)).decode()
        (folder / "bridge.pem").write_text(f"-----BEGIN CERTIFICATE-----\n{odd}\n-----END CERTIFICATE-----\n")
    else:
        shutil.copy(tls / "server-key.pem", folder / "bridge-key.pem")
    with pytest.raises(UsageError, match=r"bridge(-key)?\.pem"):
        MatchingUpstream("localhost:1", folder, "bridge", print)


async def test_a_bridge_is_ready_while_its_service_says_so_and_no_longer(server, folder):
    upstream = MatchingUpstream(server.target, folder, "bridge", print)
    nobody = MatchingUpstream("localhost:1", folder, "bridge", print)
    try:
        with opened_door("127.0.0.1", 0) as door:
            metrics, registry = BridgeMetrics(door), CollectorRegistry()
            registry.register(metrics)
            assert registry.get_sample_value("intaglio_serving") == 0  # nobody has been asked
            metrics.watch_service(upstream.serves)
            await upstream.ask()
            await nobody.ask()
            assert (metrics.serves(), nobody.serves()) == (True, False)
            assert registry.get_sample_value("intaglio_serving") == 1
            await asyncio.wrap_future(server.begin_to_drain(0))
            await upstream.ask()
            assert registry.get_sample_value("intaglio_serving") == metrics.serves() == 0
    finally:
        await upstream.close()
        await nobody.close()


@pytest.fixture
async def lying(tls, folder):
    """What a service says of its health, and a bridge that asks it."""
    says = [b""]

    async def check(_request, _context):
        return says[0]

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(check)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})])
    files = [(tls / name).read_bytes() for name in ("server-key.pem", "server.pem", "ca.pem")]
    credentials = grpc.ssl_server_credentials([(files[0], files[1])], files[2], require_client_auth=True)
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    upstream = MatchingUpstream(f"localhost:{port}", folder, "bridge", print)
    yield says, upstream
    await upstream.close()
    await server.stop(None)


async def test_a_service_that_answers_nonsense_does_not_serve_and_is_asked_again(lying, caplog):
    """Bytes that were no message ended the bridge's task: it was never ready again, and took up no renewed pair."""
    says, upstream = lying
    serving = health_pb2.HealthCheckResponse(status="SERVING").SerializeToString()
    answers = [serving, b"\xff" * 5, serving, b"", b"\x08\x07", serving]
    told = []
    for says[0] in answers:
        await upstream.ask()
        told.append(upstream.serves())
    assert told == [answer == serving for answer in answers]
    assert caplog.text == ""  # gRPC would write a traceback each second


async def test_a_bridge_is_ready_however_many_calls_are_under_way_and_none_of_them_is_lost(server, folder, monkeypatch):
    """Two bridges with one certificate, as the chart starts them, which have all places of that certificate."""
    go, places = threading.Event(), server.front_end._calls._places
    monkeypatch.setattr(server._service.log, "_checkpoint", checkpoint_after(go, server._service.log._checkpoint))
    one, other = (MatchingUpstream(server.target, folder, "bridge", print) for _ in range(2))

    async def taken(number):
        async with asyncio.timeout(30):
            while sum(places._taken.values()) < number:  # noqa: ASYNC110 - it is a thread of the server's that is waited for
                await asyncio.sleep(0.01)

    try:
        calls = [asyncio.ensure_future(one(CALL, checkpoint())) for _ in range(CALLS_OF_ONE + 8)]
        await taken(CALLS_OF_ONE - 1)
        calls.append(asyncio.ensure_future(other(CALL, checkpoint())))
        await taken(CALLS_OF_ONE)
        with pytest.raises(grpc.aio.AioRpcError, match="32 calls of this certificate are under way"):
            await other(CALL, checkpoint())
        for upstream in (one, other):
            await upstream.ask()
        assert (one.serves(), other.serves()) == (True, True)
    finally:
        go.set()
    assert all(await asyncio.gather(*calls))
    await one.close()
    await other.close()


async def test_a_call_that_follows_another_at_once_is_not_refused_by_the_connection(server, folder):
    """A stream counts a moment longer than its answer: at 32 of a connection some in a thousand got an RST_STREAM."""
    upstream = MatchingUpstream(server.target, folder, "bridge", print)
    asking = asyncio.ensure_future(upstream.tend())
    try:
        ended = await asyncio.gather(*(upstream(CALL, checkpoint()) for _ in range(2000)), return_exceptions=True)
    finally:
        asking.cancel()
        await upstream.close()
    refused = {str(error.details()) for error in ended if isinstance(error, grpc.aio.AioRpcError)}
    assert sum(isinstance(answer, bytes) for answer in ended) > CALLS_OF_ONE
    assert refused == {"this certificate calls too often; slow down"}


def checkpoint_after(go, made):
    def wait():
        assert go.wait(60)
        return made()

    return wait


class Channel:
    """Notes when it is closed."""

    def __init__(self, closed):
        self.closed = closed

    async def close(self, grace=None):
        self.closed.append(grace)


async def test_no_call_is_ended_by_the_end_of_its_connection_before_its_own(tls, folder, monkeypatch):
    """To whoever waits for it that looks like an end of their own, and the visitor would hear nothing of ours."""
    closed = []
    monkeypatch.setattr("server.web.upstream._connected", lambda *_: Channel(closed))
    upstream = MatchingUpstream("localhost:9", folder, "bridge", print)
    authority.renew(tls, now=now(), names=("bridge",))
    for name in ("bridge.pem", "bridge-key.pem"):
        shutil.copy(tls / name, folder)
    upstream.look()
    await asyncio.wait(set(upstream._closing))
    assert closed == [2 * CALL_SECONDS]
    await upstream.close()
    assert (closed, upstream._closing) == ([70.0, None], set())


async def test_whatever_looking_after_the_connection_ends_with_it_goes_on_and_says_so_once(folder, monkeypatch):
    """A certificate of a kind that nobody reads, and no pair was ever taken up again, nor the service found."""
    said, outcomes, done = [], [ValueError("odd"), ValueError("odd"), None, KeyError("other"), None], asyncio.Event()
    monkeypatch.setattr("server.web.upstream._connected", lambda *_: Channel([]))
    monkeypatch.setattr("server.web.upstream._ASK_SECONDS", 0.0)
    monkeypatch.setattr("server.web.upstream._LOOK_SECONDS", 0.0)
    upstream = MatchingUpstream("localhost:9", folder, "bridge", said.append)

    async def ask():
        if not outcomes:
            done.set()
            await asyncio.Event().wait()

    def look():
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    monkeypatch.setattr(upstream, "ask", ask)
    monkeypatch.setattr(upstream, "look", look)
    tending = asyncio.create_task(upstream.tend())
    await asyncio.wait({tending, asyncio.create_task(done.wait())}, return_when=asyncio.FIRST_COMPLETED)
    assert not tending.done()
    tending.cancel()
    await asyncio.wait({tending})
    assert said == [
        "the bridge cannot look after its connection: ValueError: odd",
        "the bridge cannot look after its connection: KeyError: 'other'",
    ]
    await upstream.close()


async def test_a_look_that_fails_is_said_once_however_often_the_service_is_asked_between_two(folder, monkeypatch):
    said, looks, now = [], [], [100.0]
    monkeypatch.setattr("server.web.upstream._connected", lambda *_: Channel([]))
    upstream = MatchingUpstream("localhost:9", folder, "bridge", said.append)
    outcomes = {3: None, 5: KeyError("other")}

    async def ask():
        now[0] += 2.0

    def look():
        looks.append(now[0])
        if (outcome := outcomes.get(len(looks), ValueError("odd"))) is not None:
            raise outcome

    async def sleep(_):
        if len(looks) == 6:
            raise asyncio.CancelledError("the bridge ends")

    monkeypatch.setattr(upstream, "ask", ask)
    monkeypatch.setattr(upstream, "look", look)
    monkeypatch.setattr("server.web.upstream.time.monotonic", lambda: now[0])
    monkeypatch.setattr("server.web.upstream.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError, match="the bridge ends"):
        await upstream.tend()
    assert looks == [106.0, 112.0, 118.0, 124.0, 130.0, 136.0]
    odd, other = (
        f"the bridge cannot look after its connection: {what}" for what in ("ValueError: odd", "KeyError: 'other'")
    )
    assert said == [odd, odd, other, odd]
    await upstream.close()


async def test_a_visitor_who_finds_no_room_all_the_time_hears_it(folder, monkeypatch):
    monkeypatch.setattr("server.web.upstream.CALL_SECONDS", 0.01)
    upstream = MatchingUpstream("localhost:1", folder, "bridge", print)
    for _ in range(CALLS):
        await upstream._free.acquire()
    with pytest.raises(UnavailableError, match="too many visitors are here now"):
        await upstream(CALL, checkpoint())
    await upstream.close()


async def test_a_connection_on_which_nothing_is_heard_is_given_up(lying, folder, monkeypatch):
    """As after a host went without a word, and another has its address. gRPC alone waited for more than 40 seconds."""
    monkeypatch.setattr("server.web.upstream._ANSWER_SECONDS", 0.5)
    says, whole = lying
    says[0] = health_pb2.HealthCheckResponse(status="SERVING").SerializeToString()
    gone, joined = set[int](), list[asyncio.Task[None]]()

    async def pass_on(reader, writer, number):
        with contextlib.closing(writer):
            while data := await reader.read(65536):
                if number not in gone:
                    writer.write(data)

    async def join(reader, writer):
        port, number = int(whole._target.partition(":")[2]), len(joined)
        there = await asyncio.open_connection("localhost", port)
        joined.append(asyncio.ensure_future(pass_on(reader, there[1], number)))
        joined.append(asyncio.ensure_future(pass_on(there[0], writer, number)))

    host = await asyncio.start_server(join, "127.0.0.1", 0)
    upstream = MatchingUpstream(f"localhost:{host.sockets[0].getsockname()[1]}", folder, "bridge", print)
    await upstream.ask()
    assert upstream.serves()
    gone.add(0)
    await upstream.ask()
    await upstream.ask()
    assert (upstream.serves(), len(joined)) == (False, 2)  # ten seconds have not passed
    monkeypatch.setattr("server.web.upstream._OLD_SECONDS", 0.1)
    await upstream.ask()
    monkeypatch.setattr("server.web.upstream._OLD_SECONDS", 10.0)
    await upstream.ask()
    assert (upstream.serves(), len(joined)) == (True, 4)
    await upstream.close()
    await asyncio.gather(*upstream._closing)
    await asyncio.gather(*joined, return_exceptions=True)
    host.close()
    await host.wait_closed()
