"""Where Prometheus and probes look: numbers, health, and what strangers leave to others. Real sockets."""

import contextlib
import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from federation.errors import UsageError
from server import exposition
from server.exposition import PLACES, show

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]


def a_registry():
    registry = CollectorRegistry()
    Gauge("intaglio_tried", "Made up.", registry=registry).set(3)
    return registry


@contextlib.contextmanager
def shown(host="127.0.0.1", **options):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.create_server((host, 0), family=family)) as free:
        port = free.getsockname()[1]
    hide = show(a_registry(), host, port, **options)
    try:
        yield port
    finally:
        hide()


def read(port, path="/metrics", host="127.0.0.1"):
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_numbers_are_shown_on_the_chosen_interface_until_they_are_hidden():
    with shown("127.0.0.2") as port:
        assert "intaglio_tried 3.0" in read(port, host="127.0.0.2")[1]
        with pytest.raises(ConnectionRefusedError, match="refused"), socket.create_connection(("127.0.0.1", port)):
            pass
    with socket.create_server(("127.0.0.2", port)):
        pass


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_numbers_are_shown_on_ipv6(host):
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with contextlib.closing(socket.create_server(("::1", 0), family=socket.AF_INET6)) as free:
        port = free.getsockname()[1]
    hide = show(a_registry(), host, port)
    assert "intaglio_tried 3.0" in read(port, host="[::1]")[1]
    hide()


def test_health_is_said_in_a_status_that_a_probe_understands():
    serves = True
    with shown(serves=lambda: serves) as port:
        assert read(port, "/health") == (200, "SERVING\n")
        serves = False
        assert read(port, "/health") == (503, "NOT_SERVING\n")


def test_a_port_that_is_taken_says_so_and_so_does_an_interface_of_somebody_else():
    with shown() as port, pytest.raises(UsageError, match=r"cannot listen on .*: something else listens there"):
        show(a_registry(), "127.0.0.1", port)
    with pytest.raises(UsageError, match="that is no address of this machine"):
        show(a_registry(), "192.0.2.1", 9100)


def test_a_listener_ends_with_its_program_and_may_begin_again_at_once():
    """A thread that outlives it would keep a program that was told to stop; a port that is still closing, a restart."""
    assert exposition._Quiet.timeout == exposition.SECONDS == 5.0
    assert exposition._Listener.daemon_threads
    assert not exposition._Listener.block_on_close
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    for _ in range(2):
        hide = show(a_registry(), "127.0.0.1", port)
        assert read(port)[0] == 200  # the listener's side closes first, so its end of the connection lingers
        hide()


def test_silent_strangers_take_so_many_places_and_not_for_long(monkeypatch, capfd):
    monkeypatch.setattr(exposition._Quiet, "timeout", 0.2)
    with shown() as port, contextlib.ExitStack() as held:
        silent = [held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(PLACES)]
        late = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        assert late.recv(1) == b""  # no place was free; without the bound this would wait as the others do
        assert [each.recv(1) for each in silent] == [b""] * PLACES  # each was shown out in its time
        assert read(port)[0] == 200
    assert capfd.readouterr().err == ""
