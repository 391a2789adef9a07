"""The only door to the SuperLink: passes fleet calls of organisations on, and logs each.

Flower 1.41 serves control and runtime calls on the port of the fleet calls, without authentication: whoever reaches the
port starts code on the coordinator and on every node. So the SuperLink listens on loopback, and organisations reach
this gateway. It does not check node signatures: the SuperLink behind it does.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final, Self

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from federation.errors import UsageError
from federation.fleet import (
    CALLS,
    MOST_BODY_BYTES,
    NODE_KEY_HEADER,
    PREFIX,
    Call,
    line_digest,
    node_fingerprint,
    passed_on,
    verify_calls,
)

_UPSTREAM_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 30
_GRACE_SECONDS: Final = 10
_MOST_CONNECTIONS: Final = 256


class CallLog:
    """Appends calls to a file. Opening it checks every line that is there.

    A crash of this process loses nothing that was logged. A power cut may lose the last lines or leave half of one,
    which the next start cuts off.
    """

    def __init__(self, file: BinaryIO, head: str) -> None:
        self._file, self.head = file, head

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens or makes the log.

        Raises:
            MalformedMessageError, ProofError: somebody changed it. Keep it, and start another.
            UsageError: it cannot be written.
        """
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        except OSError as error:
            raise UsageError(f"cannot write the log {path}: {error.strerror}") from error
        whole, newline, _torn = file.read().rpartition(b"\n")
        try:
            _, head = verify_calls((whole + newline).splitlines(keepends=True))
        except BaseException:
            file.close()
            raise
        file.truncate(len(whole + newline))
        file.seek(0, os.SEEK_END)
        return cls(file, head)

    def append(self, call: Call) -> None:
        """Adds one line."""
        line = call.to_line(self.head)
        self._file.write(line)
        self._file.flush()
        self.head = line_digest(line)

    def close(self) -> None:
        """Makes the lines durable. A second time does nothing."""
        if self._file.closed:
            return
        os.fsync(self._file.fileno())
        self._file.close()


def gateway_app(upstream: httpx.AsyncClient, log: CallLog, *, most_body_bytes: int = MOST_BODY_BYTES) -> Starlette:
    """Answers fleet calls with what `upstream` answers, ``/health`` with ``ok``, and anything else with 404.

    Args:
        upstream: client for the SuperLink; closed when the application stops.
        log: gets one line for each call; closed when the application stops.
        most_body_bytes: longer requests get 413.
    """

    async def fleet(request: Request) -> Response:
        name = request.path_params["call"]
        if name not in CALLS:
            return Response(status_code=404)
        body = await read_body(request, most_body_bytes)
        answer = Response(status_code=413) if body is None else await _ask(upstream, request, name, body)
        log.append(
            Call(
                time=int(time.time()),
                name=name,
                node=node_fingerprint(request.headers.get(NODE_KEY_HEADER)),
                received=0 if body is None else len(body),
                sent=len(answer.body),
                status=answer.status_code,
            )
        )
        return answer

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await upstream.aclose()
        log.close()

    return Starlette(
        routes=[Route(PREFIX + "{call}", fleet, methods=["POST"]), Route("/health", health)], lifespan=lifespan
    )


async def read_body(request: Request, most: int) -> bytes | None:
    """The request's body, or None when it is longer than `most` bytes; not more than that is ever held."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                return None
    except ClientDisconnect:
        return None
    return bytes(body)


async def _ask(upstream: httpx.AsyncClient, request: Request, name: str, body: bytes) -> Response:
    try:
        reply = await upstream.post(PREFIX + name, content=body, headers=passed_on(request.headers))
    except httpx.TimeoutException:
        return Response(status_code=504)
    except httpx.TransportError:
        return Response(status_code=502)
    return Response(reply.content, reply.status_code, headers=passed_on(reply.headers))


def superlink_client(address: str, authority: Path) -> httpx.AsyncClient:
    """A client for the SuperLink at `address` (``host:port``), whose certificate is of `authority`."""
    return httpx.AsyncClient(
        base_url=f"https://{address}",
        verify=ssl.create_default_context(cafile=str(authority)),
        timeout=_UPSTREAM_SECONDS,
        trust_env=False,  # a proxy from the environment must not see calls to loopback
        follow_redirects=False,
    )


def gateway_server(app: Starlette, *, host: str, port: int, certificate: Path, key: Path) -> uvicorn.Server:
    """A TLS server for the gateway; `run()` serves until SIGTERM or SIGINT, and lets calls in flight end."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        limit_concurrency=_MOST_CONNECTIONS,
    )
    return uvicorn.Server(config)
