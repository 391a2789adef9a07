"""The coordinator waits for Flower's SuperLink: through everything that comes before it answers, and not for ever."""

from __future__ import annotations

import datetime as dt
import http.client
import io
import ssl
import urllib.error
import urllib.request

import pytest

from federation.errors import UnavailableError
from server.certificates import write_loopback
from server.fleet import start

NOT_YET = {
    "nobody listens": urllib.error.URLError(ConnectionRefusedError(111, "Connection refused")),
    "it ends the connection": ConnectionResetError(104, "Connection reset by peer"),
    "it says nothing": TimeoutError("timed out"),
    "it says that it is not ready": urllib.error.HTTPError(
        "", 503, "starting", http.client.HTTPMessage(), io.BytesIO()
    ),
    "its certificate is another one": urllib.error.URLError("certificate verify failed"),
}


class Time:
    """Stands still but for who sleeps."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Waits while the answers are those that are given; gives how often it asked, and for how long."""
    write_loopback(tmp_path / "certificate", tmp_path / "key", now=dt.datetime.now(dt.UTC))
    trusted = ssl.create_default_context(cafile=str(tmp_path / "certificate")).get_ca_certs()
    clock = Time()
    monkeypatch.setattr(start, "time", clock)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:2")

    def wait(answers):
        left, count = iter(answers), 0

        def answer(opener, address, timeout):
            nonlocal count
            count += 1
            kinds = {type(one): one for one in opener.handlers}
            assert kinds[urllib.request.HTTPSHandler]._context.get_ca_certs() == trusted
            assert urllib.request.ProxyHandler not in kinds
            assert (address, timeout) == ("https://127.0.0.1:1/health", 2.0)
            if (said := next(left)) is not None:
                raise said
            return io.BytesIO()

        monkeypatch.setattr(urllib.request.OpenerDirector, "open", answer)
        begun = clock.now
        try:
            start._await_health("127.0.0.1:1", tmp_path / "certificate")
        finally:
            wait.seconds = clock.now - begun
        return count

    return wait


def test_it_asks_again_whatever_comes_before_the_answer(asked):
    assert asked([*NOT_YET.values(), None]) == len(NOT_YET) + 1
    assert asked([None]) == 1


@pytest.mark.parametrize("said", NOT_YET.values(), ids=NOT_YET)
def test_it_waits_for_a_minute_and_then_says_where_to_look(asked, said):
    with pytest.raises(UnavailableError, match=r"did not start; superlink\.log in the coordinator's folder says why"):
        asked(iter(lambda: said, None))
    assert start._STARTUP_SECONDS <= asked.seconds < start._STARTUP_SECONDS + 1
