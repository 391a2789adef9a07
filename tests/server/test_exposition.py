"""Where Prometheus and probes look: numbers, health, and what strangers leave to others. Real sockets."""

import contextlib
import socket
import threading
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from federation.errors import UsageError
from server import exposition
from server.exposition import PLACES, PLACES_OF_ONE, show

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
    assert exposition.SECONDS == 5.0
    assert exposition._Listener.daemon_threads
    assert not exposition._Listener.block_on_close
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    for _ in range(2):
        hide = show(a_registry(), "127.0.0.1", port)
        assert read(port)[0] == 200  # the listener's side closes first, so its end of the connection lingers
        hide()


def test_strangers_take_so_many_places_and_not_for_long(monkeypatch, capfd):
    """Also those who send a byte now and then, each in time for the next read."""
    monkeypatch.setattr(exposition, "SECONDS", 0.5)
    with shown("0.0.0.0") as port, contextlib.ExitStack() as held:  # noqa: S104 - strangers come from several addresses

        def stranger(place):
            connected = socket.create_connection(("127.0.0.1", port), 10, (f"127.0.0.{2 + place % 2}", 0))
            return held.enter_context(connected)

        def is_shown_out(connected):
            with contextlib.suppress(ConnectionError):
                return connected.recv(1) == b""
            return True

        slow = [stranger(place) for place in range(PLACES)]
        assert is_shown_out(stranger(0))  # no place was free; without the bound this would wait as the others do
        leaving = set()
        while len(leaving) < PLACES:
            for one in set(slow) - leaving:
                one.settimeout(0.01)
                try:
                    one.sendall(b"G")
                    leaving |= {one} if is_shown_out(one) else set()
                except TimeoutError:
                    pass
                except ConnectionError:
                    leaving.add(one)
        assert read(port)[0] == 200
    assert capfd.readouterr().err == ""


def test_who_came_when_there_was_no_thread_holds_no_place_afterwards(monkeypatch):
    """Health was answered to nobody any more once its asker had met that eight times."""
    start, left = threading.Thread.start, [PLACES_OF_ONE]

    def none(thread):
        if left[0] and thread is not threading.main_thread() and thread.name.startswith("Thread-"):
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    with shown() as port:
        monkeypatch.setattr(threading.Thread, "start", none)
        for _ in range(PLACES_OF_ONE):
            with socket.create_connection(("127.0.0.1", port), 10) as turned_away:
                assert turned_away.recv(1) == b""
        assert left == [0]
        assert read(port, "/health")[0] == 200


def test_one_address_leaves_places_to_whoever_looks_whether_this_runs():
    with shown("0.0.0.0") as port, contextlib.ExitStack() as held:  # noqa: S104 - as above
        for _ in range(PLACES_OF_ONE):
            held.enter_context(socket.create_connection(("127.0.0.1", port), 10, ("127.0.0.2", 0)))
        late = held.enter_context(socket.create_connection(("127.0.0.1", port), 10, ("127.0.0.2", 0)))
        assert late.recv(1) == b""
        assert read(port)[0] == 200
