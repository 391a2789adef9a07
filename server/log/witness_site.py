"""A witness over HTTP: the listener, and what one caller may have of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from federation.errors import IntaglioError
from federation.transparency.proofs import MAX_GROWTH_BYTES
from server.listening import read_body
from server.log.witness import Answer, Witness
from server.visitors.door import network_of
from server.visitors.peers import PeerRate, PeerRates

RATE: Final = PeerRate()
"""Of one address: a log asks once a batch, and a busy one that waits for nothing else has hundreds a second."""

log = structlog.get_logger(__name__)


def witness_app(
    witness: Witness,
    welcome: Callable[[Request], None],
    *,
    clock: Callable[[], int],
    rate: PeerRate = RATE,
) -> Starlette:
    """The two resources of a witness (https://c2sp.org/tlog-witness).

    Args:
        witness: what answers.
        welcome: is told of every request whose headers came.
        clock: seconds since 1970.
        rate: requests of one address.
    """
    rates = PeerRates(rate)

    async def guarded(request: Request, answer: Callable[[], Answer]) -> Response:
        try:
            made = await asyncio.to_thread(answer)
        except IntaglioError as error:  # of this witness's own files: no detail for strangers
            log.error("failed", error=type(error).__name__, reason=str(error))  # noqa: TRY400 - the traceback says no more
            return PlainTextResponse("this witness cannot answer now\n", 503)
        except OSError as error:
            log.error("failed", error=type(error).__name__, reason=error.strerror or "")  # noqa: TRY400 - as above
            return PlainTextResponse("this witness cannot answer now\n", 503)
        log.info("answered", path=request.url.path, status=made.status)
        return Response(made.body, made.status, media_type=made.media_type)

    def turned_away(request: Request) -> Response | None:
        welcome(request)
        wait = rates.wait_of(network_of(request.client.host).encode()) if request.client else 0.0
        if not wait:
            return None
        return PlainTextResponse("too many requests\n", 429, headers={"retry-after": str(max(1, round(wait)))})

    async def add_checkpoint(request: Request) -> Response:
        if (refused := turned_away(request)) is not None:
            return refused
        body = await read_body(request, MAX_GROWTH_BYTES)
        if body is None:
            return PlainTextResponse(f"a request has at most {MAX_GROWTH_BYTES} bytes\n", 400)
        return await guarded(request, lambda: witness.add_checkpoint(body, now=clock()))

    async def checkpoint(request: Request) -> Response:
        if (refused := turned_away(request)) is not None:
            return refused
        return await guarded(request, lambda: witness.checkpoint(request.path_params["origin"]))

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{origin}/checkpoint", checkpoint, methods=["GET"]),
        ]
    )
