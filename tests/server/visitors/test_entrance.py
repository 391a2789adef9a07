"""The bridge's socket: what silent, slow and many visitors of one address leave to others. Real sockets."""

import asyncio
import contextlib
import datetime as dt
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from federation.errors import UsageError
from server.certificates import renew_pki
from server.listening import MOST_CONNECTIONS, page_server
from server.visitors.door import MEMBER_SECONDS, PER_ADDRESS, STRANGER_SECONDS, Door, opened_door
from server.visitors.entrance import IN_ALL, serve_at, welcome_at
from server.web.bridge import CALL_HEADER, MEDIA_TYPE, PREFIX, Site, bridge_app
from tests.running import a_pki, write_release, write_rules

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

HOUSE = Path(__file__).parents[3]
SITE = Site("https://verify.example.org", {"/": (b"<!doctype html>", "text/html")})


async def nobody(_method, _body):
    raise AssertionError


@contextlib.asynccontextmanager
async def open_page(door):
    server = page_server(bridge_app(nobody, SITE, welcome=welcome_at(door)))
    serving = asyncio.create_task(serve_at(door, server))
    try:
        yield door.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


def a_door(**options):
    return Door("0.0.0.0", 0, in_all=IN_ALL, **options)  # noqa: S104 - all of loopback's addresses


async def page_for(address, port):
    transport = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        return (await client.get(f"http://127.0.0.1:{port}/")).status_code


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - it is the kernel that is waited for
            await asyncio.sleep(0.01)


def connected(port, address="127.0.0.1"):
    connection = socket.create_connection(("127.0.0.1", port), source_address=(address, 0))
    connection.setblocking(False)
    return connection


@pytest.mark.parametrize("sends", [b"", b"GET / HT"], ids=["silence", "headers"])
async def test_silent_sockets_of_one_address_leave_the_page_to_others(sends):
    """As many as the server takes of everybody: each of them got 503 then."""
    with a_door() as door, contextlib.ExitStack() as held:
        async with open_page(door) as port:
            for _ in range(MOST_CONNECTIONS):
                await asyncio.get_running_loop().sock_sendall(held.enter_context(connected(port)), sends)
            await until(lambda: door.turned_away["address"] == MOST_CONNECTIONS - PER_ADDRESS)
            assert door.visitors == PER_ADDRESS
            assert await page_for("127.0.0.2", port) == 200


async def test_silent_sockets_of_many_addresses_leave_the_page_to_who_asks():
    with a_door() as door, contextlib.ExitStack() as held:
        async with open_page(door) as port:
            for number in range(MOST_CONNECTIONS):
                held.enter_context(connected(port, f"127.0.1.{1 + number // 8}"))
            await until(lambda: door.turned_away["full"] == MOST_CONNECTIONS - IN_ALL)
            assert await page_for("127.0.0.2", port) == 200


async def test_who_is_silent_is_shown_out_in_time_and_who_asked_may_stay():
    now = [0.0]
    with a_door(clock=lambda: now[0]) as door, connected(door.getsockname()[1]) as silent:
        async with open_page(door) as port, httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 200
            await until(lambda: door.visitors == 2)
            now[0] = STRANGER_SECONDS
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(silent, 1), 30) == b""
            await until(lambda: door.visitors == 1)
            assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 200
            now[0] += MEMBER_SECONDS
            await until(lambda: door.visitors == 0)


async def test_the_door_turns_away_before_the_server_behind_it_does():
    assert PER_ADDRESS < IN_ALL < MOST_CONNECTIONS


def test_the_command_serves_through_its_door_until_it_is_told_to_stop(tmp_path):
    write_release(tmp_path)
    write_rules(tmp_path)
    a_pki(tmp_path / "tls")
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_bytes(b"<!doctype html>")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = {"release": "release.zip", "release-trust": "trust.json", "rules": "rules.jsonl", "terms": "terms.json"}
    files |= {"tls": "tls", "page": "page", "log-policy": "transparency/policy"}
    options = {name: tmp_path / file for name, file in files.items()} | {"server": "localhost:1", "port": port}
    options |= {"origin": f"http://localhost:{port}", "peer-sessions": 3, "peer-enrolments": 5}
    program = "from server.web import upstream; upstream._LOOK_SECONDS = 0.05; from server.cli import main; main()"
    command = [sys.executable, "-c", program, "web", "start"]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = os.environ | {"PYTHONPATH": str(HOUSE)}
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as serving,
        httpx.Client(transport=httpx.HTTPTransport(retries=20), timeout=60) as client,
    ):
        try:
            assert "serving http://localhost" in serving.stderr.readline()
            answer = client.get(f"http://127.0.0.1:{port}/")
            assert (answer.status_code, answer.content) == (200, b"<!doctype html>")
            renew_pki(tmp_path / "tls", now=dt.datetime.now(dt.UTC))
            assert "the bridge's certificate was renewed" in serving.stderr.readline()
            call = f"http://127.0.0.1:{port}{PREFIX}federation.wire.v1.LogService/GetCheckpoint"
            headers = {"origin": f"http://localhost:{port}", CALL_HEADER: "1", "content-type": MEDIA_TYPE}
            assert client.post(call, headers=headers).text == "the matching service cannot be reached"
            with (tmp_path / "rules.jsonl").open("ab") as rules:  # a kiosk, by the certificate that is shown since
                shown = x509.load_pem_x509_certificate((tmp_path / "tls" / "client.pem").read_bytes())
                rules.write(shown.fingerprint(hashes.SHA256()).hex().encode())
            assert "its operator has to set it right" in client.post(call, headers=headers).text
            with connected(port):
                serving.send_signal(signal.SIGTERM)
                assert serving.wait(60) in {0, -signal.SIGTERM}
            assert "Traceback" not in serving.stderr.read()
        finally:
            serving.kill()


def test_a_port_that_is_taken_ends_the_command_with_a_sentence():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError, match="cannot listen on") as caught,
        opened_door("127.0.0.1", taken.getsockname()[1]),
    ):
        raise AssertionError
    assert str(caught.value).endswith(": something else listens there")
