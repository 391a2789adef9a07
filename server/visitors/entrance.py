"""Where HTTP comes in: a socket for a page, or for a witness, with bounds for each address from the first byte on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from server.listening import MOST_CONNECTIONS
from server.visitors.door import networks_of

if TYPE_CHECKING:
    import uvicorn
    from starlette.requests import Request

    from server.visitors.door import Door

IN_ALL: Final = MOST_CONNECTIONS - 16
"""Connections at once: fewer than the server behind the door takes, which would turn everybody away alike."""


def welcome_at(door: Door) -> Callable[[Request], None]:
    """What tells a door that the headers of a request came over a connection, so that it may stay for a while."""

    def welcome(request: Request) -> None:
        if request.client is not None:
            door.is_member(request.client, request.scope.get("server"), networks_of(request.client.host)[0])

    return welcome


async def serve_at(door: Door, server: uvicorn.Server) -> None:
    """Serves whoever comes through a door, and shows out who dawdles, until the server is told to exit."""
    tending = asyncio.create_task(door.tend())
    try:
        await server.serve(sockets=[door])
    finally:
        tending.cancel()
