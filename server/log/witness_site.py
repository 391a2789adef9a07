"""A witness over HTTP: the listener, and what one caller may have of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from federation.addresses import joined
from federation.errors import IntaglioError
from federation.transparency.proofs import MAX_GROWTH_BYTES
from server.files import write_durably
from server.lines import lines_of, say
from server.listening import page_server, read_body, routed
from server.log.witness import Answer, Witness
from server.threads import to_thread
from server.visitors.door import WIDER, networks_of, opened_door
from server.visitors.entrance import IN_ALL, serve_at, welcome_at
from server.visitors.peers import PeerRate, PeerRates

RATE: Final = PeerRate()
"""Of one address: a log asks once a batch, and a busy one that waits for nothing else has hundreds a second."""

_TOLD: Final = PeerRate(calls_per_second=1.0, burst=60)
"""Lines about answers: strangers write them, as many as they like and into a file that nobody bounds."""

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
    site = _Site(witness, welcome, clock, (PeerRates(rate), PeerRates(rate.times(WIDER))))
    return routed(
        [
            Route("/add-checkpoint", site.add_checkpoint, methods=["POST"]),
            Route("/{origin}/checkpoint", site.checkpoint, methods=["GET"]),
        ]
    )


@dataclass(frozen=True)
class _Site:
    witness: Witness
    welcome: Callable[[Request], None]
    clock: Callable[[], int]
    rates: tuple[PeerRates, PeerRates]
    """Of addresses, and of wider networks."""
    told: PeerRates = field(default_factory=lambda: PeerRates(_TOLD))
    turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    """Of addresses: one that asks on many connections has one thread and one place before the disk, as others have."""

    async def add_checkpoint(self, request: Request) -> Response:
        if (refused := self._turned_away(request)) is not None:
            return refused
        body = await read_body(request, MAX_GROWTH_BYTES)
        if body is None:
            return PlainTextResponse(f"a request has at most {MAX_GROWTH_BYTES} bytes\n", 400)
        return await self._answered(request, lambda: self.witness.add_checkpoint(body, now=self.clock()))

    async def checkpoint(self, request: Request) -> Response:
        if (refused := self._turned_away(request)) is not None:
            return refused
        return await self._answered(request, lambda: self.witness.checkpoint(request.path_params["origin"]))

    def _turned_away(self, request: Request) -> Response | None:
        self.welcome(request)
        networks = networks_of(request.client.host) if request.client else ()
        waits = (rates.wait_of(network.encode()) for rates, network in zip(self.rates, networks, strict=False))
        wait = max(waits, default=0.0)
        if not wait:
            return None
        return PlainTextResponse("too many requests\n", 429, headers={"retry-after": str(max(1, round(wait)))})

    def _turn_of(self, request: Request) -> asyncio.Lock:
        address = networks_of(request.client.host)[0] if request.client else ""
        return self.turns.setdefault(address, asyncio.Lock())

    async def _answered(self, request: Request, answer: Callable[[], Answer]) -> Response:
        try:
            async with self._turn_of(request):
                made = await to_thread(answer)
        except (IntaglioError, OSError) as error:  # of this witness's own files: no detail for strangers
            log.error("failed", error=type(error).__name__, reason=str(error))  # noqa: TRY400 - the traceback says no more
            return PlainTextResponse("this witness cannot answer now\n", 503)
        if not self.told.wait_of(b""):
            log.info("answered", asked=request.method, status=made.status)
        return Response(made.body, made.status, headers={"content-type": made.media_type})


def serve_witness(
    witness: Witness, *, host: str, port: int, rate: PeerRate = RATE, ready_file: Path | None = None
) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Raises:
        UsageError: the port is taken.
    """
    structlog.configure(logger_factory=lines_of("stdout"))
    # uvicorn raises the signal that ended it once more, when it has ended: this lets what comes after it happen.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with opened_door(host, port, in_all=IN_ALL) as door:
        app = witness_app(witness, welcome_at(door), clock=lambda: int(time.time()), rate=rate)
        told = {"port": door.getsockname()[1], "pid": os.getpid()}
        say(f"a witness listens on {joined(host, told['port'])}; Ctrl-C ends it")
        if ready_file:
            write_durably(ready_file, json.dumps(told).encode() + b"\n")
        try:
            asyncio.run(serve_at(door, page_server(app)))
        finally:
            if ready_file:
                ready_file.unlink(missing_ok=True)
