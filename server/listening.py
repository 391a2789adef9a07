"""What everything that answers HTTP shares: how much of a body is held, what every answer says, the listener."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from federation.addresses import bare_host, cannot_listen

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "connect-src 'self'; img-src 'self' blob:; style-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""On every answer, also on workers, which have a policy of their own."""

_IDLE_SECONDS = 30
_GRACE_SECONDS = 10
MOST_CONNECTIONS = 256


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


@contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens, for a server that is to find its port taken before it begins.

    Raises:
        UsageError: nobody can listen there; says why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((bare_host(host), port), family=family)
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    with listening:
        yield listening


def routed(routes: Sequence[BaseRoute], **options: Any) -> Starlette:  # noqa: ANN401 - as Starlette has them
    """An application that answers these paths and no others.

    Starlette sends a path with a slash too many to where it would be right, at the host that the request names: a
    stranger may name any.
    """
    app = Starlette(routes=routes, **options)
    app.router.redirect_slashes = False
    return app


class SecurityHeaders:
    """Puts headers on every answer of an application.

    Args:
        app: the application.
        headers: by name.
    """

    def __init__(self, app: ASGIApp, headers: Mapping[str, str] = SECURITY_HEADERS) -> None:
        self._app, self._headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, send_guarded)


def page_server(app: ASGIApp, *, certificate: Path | None = None, key: Path | None = None) -> uvicorn.Server:
    """A server for a page; `serve(sockets)` runs until it is told to exit, and lets calls in flight end."""
    config = uvicorn.Config(
        app,
        loop="asyncio",  # another one would accept past a door
        http="h11",  # takes 64 KiB of address and headers; httptools takes what a stranger sends, into memory
        ssl_certfile=str(certificate) if certificate else None,
        ssl_keyfile=str(key) if key else None,
        log_config=None,  # its own closes every handler that there is, Flower's among them
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        limit_concurrency=MOST_CONNECTIONS,
    )
    return uvicorn.Server(config)
