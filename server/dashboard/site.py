"""Serves the organisation's page to the organisation: a listener of its own, read-only, with nothing else on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from server.dashboard.page import POLICY
from server.listening import SECURITY_HEADERS, SecurityHeaders, routed
from server.threads import to_thread

PATH = "/organisation"
_HEADERS = {
    **SECURITY_HEADERS,
    "content-security-policy": f"{POLICY}; frame-ancestors 'none'",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), display-capture=()",
}


class FreshPage:
    """A page that is made again when somebody asks and it is older than a while; in a thread, one at a time.

    Args:
        make: makes it.
        every_seconds: how old it may be.
        clock: seconds, of no particular beginning.
    """

    def __init__(
        self, make: Callable[[], str], *, every_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make, self._every_seconds, self._clock = make, every_seconds, clock
        self._made: tuple[float, bytes] | None = None
        self._lock = asyncio.Lock()

    async def content(self) -> bytes:
        """The page."""
        async with self._lock:
            if self._made is None or self._clock() - self._made[0] >= self._every_seconds:
                began = self._clock()
                self._made = began, (await to_thread(self._make)).encode()
            return self._made[1]


def organisation_app(page: FreshPage, names: Sequence[str]) -> ASGIApp:
    """The page at `PATH`, for GET and HEAD.

    Args:
        page: to show.
        names: hosts that browsers may call this by. Another name is refused: a foreign site whose name was made to
            point here (DNS rebinding) could read the page otherwise.
    """

    async def show(_request: Request) -> Response:
        return Response(await page.content(), media_type="text/html", headers={"cache-control": "no-store"})

    async def lead_there(_request: Request) -> Response:
        return RedirectResponse(PATH)

    routes = [Route(PATH, show, methods=["GET"]), Route("/", lead_there, methods=["GET"])]
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=list(names), www_redirect=False)
    return SecurityHeaders(routed(routes, middleware=[guard]), _HEADERS)
