"""The only door to the SuperLink: passes fleet calls of members' nodes on, and logs each.

Flower 1.42 serves control and runtime calls on the port of the fleet calls, without authentication: whoever reaches the
port starts code on the coordinator and on every node. So the SuperLink listens on loopback, and organisations reach
this gateway. What it does with a call, in this order, so that a stranger costs next to nothing:

    a place at the door -> the call's name -> a member's signature -> the body, by a deadline -> the log -> SuperLink

A call that cannot be logged is not passed on: a full disk makes everybody wait, and loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from federation.membership.fleet import CALLS, MOST_REQUEST_BYTES, PREFIX, Answered, Asked, TurnedAway, passed_on
from server.fleet.admission import Members, TurnedBack
from server.fleet.call_log import CallLog
from server.listening import read_body, routed
from server.visitors.door import Door

_UPSTREAM_SECONDS: Final = 60.0
_BODY_SECONDS: Final = 120.0
_IDLE_SECONDS: Final = 30
_GRACE_SECONDS: Final = 10
_MOST_CALLS_OF_A_MEMBER: Final = 16
_COUNT_SECONDS: Final = 60
_CLOSE: Final = {"connection": "close"}


class Gateway:
    """What the gateway knows while it runs.

    Args:
        upstream: client for the SuperLink; closed when the application stops.
        log: gets two lines for each call; closed when the application stops.
        members: whose calls are taken.
        door: that connections come through; None in tests without any.
        chores: called every second.
        most_body_bytes: longer requests get 413.
        body_seconds: slower ones get 408.
        clock: seconds since 1970.
        warn: gets a line for the operator.

    Attributes:
        refused: how many calls were not passed on, by why.
        clocks: members whose clocks are wrong, and what they were told last.
    """

    def __init__(
        self,
        upstream: httpx.AsyncClient,
        log: CallLog,
        members: Members,
        *,
        door: Door | None = None,
        chores: Sequence[Callable[[], None]] = (),
        most_body_bytes: int = MOST_REQUEST_BYTES,
        body_seconds: float = _BODY_SECONDS,
        clock: Callable[[], float] = time.time,
        warn: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._upstream, self._log, self._members, self._door = upstream, log, members, door
        self._chores, self._most_body_bytes, self._body_seconds = chores, most_body_bytes, body_seconds
        self._clock, self._warn = clock, warn
        self._number, self._uncounted, self._counted_at = 0, 0, 0.0
        self._at_work = Counter[str]()
        self._failed: dict[Callable[[], None], str] = {}
        self.refused = Counter[str]()
        self.clocks: dict[str, str] = {}

    def app(self) -> Starlette:
        """Answers fleet calls with what the SuperLink answers, ``/health`` with ``ok``, and anything else with 404."""
        routes = [Route(PREFIX + "{call}", self._fleet, methods=["POST"]), Route("/health", self._health)]
        return routed(routes, lifespan=self._lifespan)

    async def _fleet(self, request: Request) -> Response:
        name = request.path_params["call"]
        if name not in CALLS:
            return Response(status_code=404, headers=_CLOSE)
        caller = self._members.admit(request.headers, self._clock())
        if isinstance(caller, TurnedBack):
            return self._turn_back(caller)
        self.clocks.pop(caller.name, None)
        if self._door is not None:
            self._door.is_member(request.client, request.scope.get("server"), caller.name)
        if self._at_work[caller.name] >= _MOST_CALLS_OF_A_MEMBER:
            return self._refuse("busy", 503)
        self._at_work[caller.name] += 1
        try:
            return await self._pass_on(request, name, caller.node)
        finally:
            self._at_work[caller.name] -= 1

    async def _pass_on(self, request: Request, name: str, node: str) -> Response:
        try:
            async with asyncio.timeout(self._body_seconds):
                body = await read_body(request, self._most_body_bytes)
        except TimeoutError:
            return self._refuse("slow", 408)
        if body is None:
            return self._refuse("length", 413)
        self._number += 1
        number = self._number
        try:
            self._log.append(Asked(int(self._clock()), number, name, node, len(body)))
        except OSError as error:
            self._say(f"a call is refused, because it cannot be logged: {error.strerror or error}")
            return self._refuse("disk", 503)
        answer = await _ask(self._upstream, request, name, body)
        with contextlib.suppress(OSError):  # the answer may be the only copy of a message: it goes out all the same
            self._log.append(Answered(int(self._clock()), number, len(answer.body), answer.status_code))
        return answer

    def _turn_back(self, caller: TurnedBack) -> Response:
        self._uncounted += 1
        if caller.name and caller.name not in self.clocks:
            self._say(f"{caller.name}: {caller.words}")
        if caller.name:
            self.clocks[caller.name] = caller.words
        self.refused[caller.reason] += 1
        return PlainTextResponse(caller.words, 401, headers=_CLOSE)

    def _refuse(self, reason: str, status: int) -> Response:
        self.refused[reason] += 1
        return Response(status_code=status, headers=_CLOSE)

    async def _health(self, _: Request) -> Response:
        if self._log.is_broken:
            return PlainTextResponse("the log cannot be written", 503)
        return PlainTextResponse("ok")

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._every_second())
        yield
        task.cancel()
        await self._upstream.aclose()
        self.count_strangers()
        self._log.close()

    async def _every_second(self) -> None:
        while True:
            for chore in (self._tend_the_door, *self._chores):
                self._do(chore)
            if not 0 <= self._clock() - self._counted_at < _COUNT_SECONDS:  # it may have been set back
                self.count_strangers()
            await asyncio.sleep(1)

    def _tend_the_door(self) -> None:
        if self._door is not None:
            self._door.show_out_the_late()
            self._door.expect(self._members.count)

    def _do(self, chore: Callable[[], None]) -> None:
        """A chore that fails must not end the others: without them, nobody would ever be shown out again."""
        try:
            chore()
        except Exception as error:  # noqa: BLE001 - whatever it is
            words = f"{type(error).__name__}: {error}"
            if words != self._failed.get(chore):
                self._say(words)
            self._failed[chore] = words
        else:
            self._failed.pop(chore, None)

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # it may go to the disk that is full, or to nobody any more
            self._warn(line)

    def count_strangers(self) -> None:
        """One line for all who were turned away since the last one."""
        self._counted_at = self._clock()
        if self._uncounted:
            with contextlib.suppress(OSError):  # the next line counts them too
                self._log.append(TurnedAway(int(self._clock()), self._uncounted))
                self._uncounted = 0


async def _ask(upstream: httpx.AsyncClient, request: Request, name: str, body: bytes) -> Response:
    try:
        headers = httpx.Headers(passed_on(request.headers), encoding="latin-1")  # as Starlette reads them
        reply = await upstream.post(PREFIX + name, content=body, headers=headers)
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
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=_MOST_CALLS_OF_A_MEMBER),
        trust_env=False,  # a proxy from the environment must not see calls to loopback
        follow_redirects=False,
    )


def gateway_server(app: Starlette, *, certificate: Path, key: Path) -> uvicorn.Server:
    """A TLS server for the gateway; `run(sockets=[door])` serves until SIGTERM or SIGINT, and lets calls in flight end.

    Its `config.ssl` may be given another certificate while it serves; connections from then on see that one.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",  # another one would accept past the door
        http="h11",  # takes 64 KiB of address and headers; httptools takes what a stranger sends, into memory
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        log_config=None,  # its own closes every handler that there is, Flower's among them
        log_level="error",  # what uvicorn only warns of, a stranger writes as often as he likes
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    config.load()
    return uvicorn.Server(config)
