"""Where Prometheus, and whoever restarts or routes, looks: `/metrics` and `/health`. What stands there rooms say.

The listener may be open to other machines, so strangers get little of it: `PLACES` at once, half of them from one
address, and `SECONDS` each. Without these bounds silent connections would take threads and files from the service
beside it, and slow ones the places of whoever restarts it when nobody answers.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from federation.addresses import bare_host, cannot_listen

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

PLACES: Final = 16
PLACES_OF_ONE: Final = 8
SECONDS: Final = 5.0


def show(
    registry: CollectorRegistry, host: str, port: int, *, serves: Callable[[], bool] = lambda: True
) -> Callable[[], None]:
    """Answers, without encryption and whoever asks, until the returned function is called.

    Args:
        registry: what Prometheus is shown.
        host: interface.
        port: any but 0.
        serves: whether `/health` says 200 or 503.

    Raises:
        UsageError: the port is taken, or the interface is none of this machine's.
    """
    metrics = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/health":
            numbers: Iterable[bytes] = metrics(environ, start_response)
            return numbers
        said, status = (b"SERVING\n", "200 OK") if serves() else (b"NOT_SERVING\n", "503 Service Unavailable")
        start_response(status, [("content-type", "text/plain"), ("content-length", str(len(said)))])
        return [said]

    kind = _Listener6 if ":" in host else _Listener
    try:
        server = make_server(bare_host(host), port, answer, kind, handler_class=_Quiet)
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the name that the base class gives it
        """Says nothing: a stranger would write the lines."""


class _Listener(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = PLACES

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401 - the base class's own
        self._lock = threading.Lock()
        self._begun = dict[socket.socket, tuple[str, float]]()
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Without the base class's look-up of its own name, which may take a resolver's time."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base class's own
        """Nobody waits for a place: whoever finds none is shown out."""
        address = str(client_address[0])
        with self._lock:
            taken = Counter(whose for whose, _ in self._begun.values())
            if taken.total() < PLACES and taken[address] < PLACES_OF_ONE:
                self._begun[request] = address, time.monotonic()
        if request not in self._begun:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # there is no thread for it
            with self._lock:
                del self._begun[request]
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base class's own
        """As the base class does, and gives the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                del self._begun[request]

    def service_actions(self) -> None:
        """Twice a second: ends what was begun too long ago, however often a byte of it comes."""
        with self._lock:
            late = [one for one, (_, since) in self._begun.items() if time.monotonic() - since > SECONDS]
        for request in late:
            with contextlib.suppress(OSError):  # it has just ended by itself
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """Says nothing: whoever leaves in the middle would write the lines."""


class _Listener6(_Listener):
    address_family = socket.AF_INET6
