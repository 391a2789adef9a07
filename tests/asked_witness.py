"""A witness on loopback, honest or not: a socket, a thread, and a script of what to answer."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

from server.log.witness import CheckpointFiles, Witness


def response(status, body=b"", *, headers=()):
    """HTTP by hand."""
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def swallowing():
    """The address of a listener that lets nobody in any more, and sends nobody away."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as waiting:
        for _ in range(4):
            caller = waiting.enter_context(socket.socket())
            caller.setblocking(False)
            with suppress(BlockingIOError):
                caller.connect(listener.getsockname())
        yield listener.getsockname()


def honest(signer, logs, folder, *, clock=lambda: int(time.time())):
    """A script that answers as a witness does."""
    folder.mkdir(exist_ok=True)
    witness = Witness(signer, logs, CheckpointFiles(folder))

    def answer(body):
        made = witness.add_checkpoint(body, now=clock())
        return response(made.status, made.body)

    return answer


class AskedWitness:
    """Listens on loopback until it is closed.

    Args:
        script: from the body of a request to the bytes of the answer; None closes the connection. It may block.
        port: 0 for any free one.
        tls: a context for https; None for http.
    """

    def __init__(self, script, *, port=0, tls=None) -> None:
        self.script, self.bodies, self.connections, self._tls = script, [], 0, tls
        self._socket = socket.create_server(("127.0.0.1", port))
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{self._socket.getsockname()[1]}"
        self._open = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """No more connections, and an end to those that there are."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(10)

    def hang_up(self) -> None:
        """Ends the connections that there are."""
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            if self._tls is not None:
                try:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                except OSError:  # the other side does not want this certificate
                    connection.close()
                    continue
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._answer, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _answer(self, connection) -> None:
        with suppress(OSError, ValueError), connection.makefile("rb") as file:
            while head := file.readline():
                length = 0
                while (line := file.readline()) not in {b"\r\n", b""}:
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                assert head == b"POST /add-checkpoint HTTP/1.1\r\n"
                self.bodies.append(file.read(length))
                answer = self.script(self.bodies[-1])
                if answer is None:
                    break
                for part in [answer] if isinstance(answer, bytes) else answer:
                    connection.sendall(part)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
