"""The organisation's page as it is served: to this machine, read-only, and made again when it is old."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from server import cli
from server.certificates import write_pki
from server.dashboard import cli as dashboard_cli
from server.dashboard.page import POLICY
from server.dashboard.site import PATH, FreshPage, organisation_app
from server.listening import SECURITY_HEADERS
from tests.commands import handed
from tests.server.dashboard.organisation import BUNDLE, an_organisation, options

ORIGIN = "http://localhost:8090"


def browser(page, base_url=ORIGIN):
    app = organisation_app(page, ["localhost", "127.0.0.1"])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url)


def a_page(content="<!DOCTYPE html>", **more):
    return FreshPage(lambda: content, **({"every_seconds": 60.0} | more))


async def test_get_and_head_give_the_page_and_nothing_else_is_there():
    async with browser(a_page()) as client:
        got, head = await client.get(PATH), await client.head(PATH)
        assert (got.status_code, got.text) == (200, "<!DOCTYPE html>")
        assert got.headers["content-type"] == "text/html; charset=utf-8"
        assert (head.status_code, head.content) == (200, b"")
        assert (await client.get("/")).headers["location"] == PATH
        for path in ("/index.html", "/deployment.json", "/intaglio/", f"{PATH}/staff"):
            assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_can_be_sent(method):
    async with browser(a_page()) as client:
        assert (await client.request(method, PATH)).status_code == 405


async def test_every_answer_has_the_headers_of_the_person_s_page_and_allows_no_script():
    async with browser(a_page()) as client:
        for path in (PATH, "/elsewhere"):
            headers = (await client.get(path)).headers
            assert set(SECURITY_HEADERS) <= set(headers)
            assert headers["content-security-policy"] == f"{POLICY}; frame-ancestors 'none'"
            assert "script" not in headers["content-security-policy"]
            assert headers["permissions-policy"].startswith("camera=()")
        assert (await client.get(PATH)).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.0.2.1"])
async def test_a_name_that_somebody_pointed_here_is_refused(host):
    async with browser(a_page("secret"), base_url=f"http://{host}:8090") as client:
        answer = await client.get(PATH)
    assert answer.status_code == 400
    assert "secret" not in answer.text


async def test_a_name_without_its_www_is_refused_and_led_nowhere():
    app = organisation_app(a_page(), ["www.office.example"])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://www.office.example") as client:
        answers = [await client.get(PATH, headers=named) for named in ({}, {"host": "office.example"})]
    assert [(answer.status_code, "location" in answer.headers) for answer in answers] == [(200, False), (400, False)]


async def test_the_page_is_made_again_only_when_it_is_old():
    made, now = [], [0.0]
    page = FreshPage(lambda: made.append(None) or f"{len(made)}", every_seconds=60, clock=lambda: now[0])
    assert await page.content() == b"1"
    now[0] = 59.9
    assert await page.content() == b"1"
    now[0] = 60.0
    assert await page.content() == b"2"


async def test_many_who_ask_at_once_wait_for_one_page_and_the_loop_goes_on():
    begun, go, threads = threading.Event(), threading.Event(), []

    def make():
        threads.append(threading.get_ident())
        begun.set()
        assert go.wait(30)
        return "page"

    page = FreshPage(make, every_seconds=60)
    waiting = [asyncio.create_task(page.content()) for _ in range(5)]
    assert await asyncio.to_thread(begun.wait, 30), "the loop is free while the page is made"
    go.set()
    assert await asyncio.gather(*waiting) == [b"page"] * 5
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_a_page_that_failed_is_tried_again():
    outcomes = [ZeroDivisionError("once"), "page"]

    def make():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    page = FreshPage(make, every_seconds=60)
    with pytest.raises(ZeroDivisionError, match=r"^once$"):
        await page.content()
    assert await page.content() == b"page"


@pytest.mark.integration
@pytest.mark.enable_socket
def test_the_command_serves_what_is_there_and_ends_when_told(tmp_path):
    an_organisation(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=350)
    write_pki(tmp_path / "tls", hosts=["localhost"], clients=[], now=ago)
    named = f"--certificate={tmp_path / 'tls' / 'server.pem'}"
    arguments = ["web", "organisation", *options(tmp_path), f"--port={port}", "--every=1", named]
    program = str(Path(sys.executable).parent / "intaglio-server")
    with subprocess.Popen([program, *arguments], stderr=subprocess.PIPE, text=True) as process:
        try:
            page = served(f"http://127.0.0.1:{port}{PATH}", process)
            assert BUNDLE.release.digest in page
            assert "The certificate in server.pem expires on" in page
            (tmp_path / "rules.jsonl").write_bytes(b"torn")
            deadline = time.monotonic() + 30
            while "The rules could not be read" not in served(f"http://127.0.0.1:{port}{PATH}", process):
                assert time.monotonic() < deadline
        finally:
            process.terminate()
        log = process.stderr.read()
    assert f"http://localhost:{port}{PATH}" in log
    assert log.count("the certificate in server.pem expires on") == 1


def served(url, process):
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = httpx.get(url, timeout=30, trust_env=False)
        except httpx.TransportError:
            assert process.poll() is None
            assert time.monotonic() < deadline
        else:
            assert answer.status_code == 200
            return answer.text


def test_the_command_says_in_its_log_which_of_the_certificates_that_it_was_given_end(monkeypatch, capsys):
    words = ["--release", "r.zip", "--log", "log", "--certificate", "one.pem", "--certificate", "two.pem"]
    found = handed(cli.app, "server.dashboard.cli:DailyNotices", "web", "organisation", *words)
    read, say, clock = found.values()
    monkeypatch.setattr(dashboard_cli, "certificates_in", lambda paths: (*paths, "read"))
    assert read() == (Path("one.pem"), Path("two.pem"), "read")
    say("one.pem ends soon")
    assert capsys.readouterr() == ("", "one.pem ends soon\n")
    assert clock().tzinfo is dt.UTC
