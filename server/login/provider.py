"""The provider over HTTP: what browsers and sites ask for, beside the page. Decides nothing; `protocol` does.

::

    site ──► authorize ──► the page, /?login=HANDLE ──► asked ──► the face ──► answer ──► finish ──► site
             sets a cookie                              these three want that cookie

A login goes on only in the browser that began it: its cookie is a secret of this login alone, which no other site's
page sends (`SameSite=Strict`) and no neighbour under the same domain can plant (`__Host-`). There is no session: nobody
is logged in here, so there is nothing to ride on or to fix beforehand. A browser is sent to no other address than one
that the public rules register for the client.
"""

from __future__ import annotations

import asyncio
import html
import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from authlib.oauth2.rfc6749 import OAuth2Error
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from federation.consent.assertion import MOST_TOKEN_CHARACTERS
from federation.errors import IntaglioError, MalformedMessageError, RefusedError, UnavailableError
from server.listening import SECURITY_HEADERS, SecurityHeaders, read_body, routed
from server.login.discovery import DISCOVERY, KEYS, PREFIX, RESPONSE_MODES, TOKEN, USERINFO, described
from server.login.logins import LOGIN_SECONDS, digest_of
from server.login.protocol import Provider
from server.threads import Aside, to_thread
from server.visitors.door import WIDER, networks_of
from server.visitors.peers import PeerRate, PeerRates
from server.visitors.places import Places
from server.visitors.sessions import OpenSessions

CALL_HEADER: Final = "x-intaglio"
_MOST_BODY_BYTES: Final = 16 * 1024
_MOST_PARAMETERS: Final = 32
_MOST_HANDLE: Final = 64
_BODY_SECONDS: Final = 15.0
_SEEN_BY_ALL: Final = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}
"""What holds no cookie and no secret of this origin, for clients that are pages themselves."""
_SCRIPT: Final = "document.forms[0].submit()"
_SCRIPT_DIGEST: Final = "sha256-ePniVEkSivX/c7XWBGafqh8tSpiRrKiqYeqbG7N1TOE="
_NOTHING: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_FORM_POLICY: Final = f"default-src 'none'; script-src '{_SCRIPT_DIGEST}'; base-uri 'none'; frame-ancestors 'none'"
"""For the form that a browser brings to a site. Its address is a registered one, and no markup of others is in it;
`form-action` would stop a site that sends the browser on to another host of its own."""


@dataclass(frozen=True)
class LoginLimits:
    """What one address may have, an IPv4 address or a network of IPv6; a wider network has twice as much.

    Attributes:
        rate: of calls of browsers.
        token_rate: of calls of sites, behind whose address all of their people are.
        calls: at once.
        logins: under way.
    """

    rate: PeerRate = field(default_factory=lambda: PeerRate(calls_per_second=5.0, burst=60))
    token_rate: PeerRate = field(default_factory=lambda: PeerRate(calls_per_second=50.0, burst=200))
    calls: int = 8
    logins: int = 100

    @property
    def wider(self) -> LoginLimits:
        """What several addresses have together that may be one visitor's."""
        return LoginLimits(
            self.rate.times(WIDER), self.token_rate.times(WIDER), WIDER * self.calls, WIDER * self.logins
        )


class _Visitors:
    """Who may have how much of the provider."""

    def __init__(self, limits: LoginLimits) -> None:
        excess = "this address calls too often; slow down"
        self._rates = {False: PeerRates(limits.rate, excess), True: PeerRates(limits.token_rate, excess)}
        self._places = Places(limits.calls, "calls of this address")
        self._logins = OpenSessions(limits.logins, LOGIN_SECONDS)

    def admit(self, held: ExitStack, visitor: bytes, *, is_site: bool) -> None:
        """Room for one call, until `held` is closed; raises UnavailableError when there is none."""
        held.enter_context(self._places.one(visitor))
        self._rates[is_site].require_room(visitor)

    def beginning(self, held: ExitStack, visitor: bytes) -> Callable[[bytes], None]:
        """Room for one login; gives what is told its name once it has begun."""
        return held.enter_context(self._logins.opening(visitor))

    def ended(self, login: bytes) -> None:
        """A login came to its end."""
        self._logins.ended(login)


Endpoint = Callable[[Request], Awaitable[Response]]


class LoginSite:
    """The provider as an ASGI application, for the paths of `paths`.

    Args:
        provider: decides.
        acr: what its logins may be worth at present, as ID tokens say it.
        limits: of one address.
        welcome: is told of every request whose headers have come, before its body.
    """

    paths: Final = (DISCOVERY, PREFIX)

    def __init__(
        self,
        provider: Provider,
        *,
        acr: Sequence[str],
        limits: LoginLimits | None = None,
        welcome: Callable[[Request], None] = lambda _: None,
    ) -> None:
        limits = limits or LoginLimits()
        self._provider = provider
        self._signing = Aside("the key that signs ID tokens")  # which a token may have
        self._origin: str = provider.issuer
        self._acr = acr
        self._bounds = _Visitors(limits), _Visitors(limits.wider)
        self._welcome = welcome
        self._secure = self._origin.startswith("https://")
        browsers: Iterable[tuple[str, Endpoint, list[str]]] = (
            ("authorize", self._authorize, ["GET", "POST"]),
            ("asked", self._asked, ["POST"]),
            ("answer", self._answer, ["POST"]),
            ("finish", self._finish, ["GET"]),
        )
        sites: Iterable[tuple[str, Endpoint, list[str]]] = (
            (TOKEN, self._token, ["POST"]),
            (USERINFO, self._userinfo, ["GET", "POST"]),
            (KEYS, self._keys, ["GET"]),
            (DISCOVERY, self._discovery, ["GET"]),
        )
        routes = [
            *(Route(PREFIX + name, self._bounded(call, is_site=False), methods=how) for name, call, how in browsers),
            *(Route(path, self._bounded(call, is_site=True), methods=how) for path, call, how in sites),
        ]
        self.app: ASGIApp = SecurityHeaders(routed(routes), _HEADERS)

    def beside(self, other: ASGIApp) -> ASGIApp:
        """Both as one application: these paths, and for all others the other one."""

        async def serve(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - as ASGI has it
            mine = scope["type"] == "http" and any(
                scope["path"] == path or (path.endswith("/") and scope["path"].startswith(path)) for path in self.paths
            )
            await (self.app if mine else other)(scope, receive, send)

        return serve

    # ------------------------------------------------------------------ for a person's browser

    async def _authorize(self, request: Request) -> Response:
        try:
            parameters = _parameters(await _form(request) if request.method == "POST" else request.url.query)
        except MalformedMessageError as error:
            return _page(str(error))
        browser = secrets.token_urlsafe(32)
        with ExitStack() as held:
            begun = [
                visitors.beginning(held, network)
                for visitors, network in zip(self._bounds, _networks(request), strict=False)
            ]
            try:
                handle = await to_thread(self._provider.ask, parameters, browser=browser)
            except OAuth2Error as error:
                return self._refused(parameters, error)
            for tell in begun:
                tell(digest_of(handle))
        response = RedirectResponse(f"{self._origin}/?{urlencode({'login': handle})}", 303)
        response.set_cookie(
            self._cookie(handle), browser, max_age=LOGIN_SECONDS, secure=self._secure, httponly=True, samesite="strict"
        )
        return response

    async def _asked(self, request: Request) -> Response:
        told = await self._own_page(request)
        handle = _text(told, "login", _MOST_HANDLE)
        login = await to_thread(self._provider.asked, handle, browser=self._browser(request, handle))
        return JSONResponse({"request": login.request.to_bytes().decode()})

    async def _answer(self, request: Request) -> Response:
        told = await self._own_page(request)
        handle, assertion = _text(told, "login", _MOST_HANDLE), _text(told, "assertion", MOST_TOKEN_CHARACTERS)
        browser = self._browser(request, handle)
        await to_thread(self._provider.answer, handle, assertion, browser=browser)
        return Response(status_code=204)

    async def _finish(self, request: Request) -> Response:
        parameters = _parameters(request.url.query)
        handle, browser = parameters.get("login", ""), self._browser(request, parameters.get("login", ""))
        end = self._provider.give_up if parameters.get("refused") == "1" else self._provider.finish
        login, told = await to_thread(end, handle, browser=browser)
        for visitors in self._bounds:
            visitors.ended(login.handle_digest)
        response = _sent(login.request.redirect_uri, told, login.asked.get("response_mode", "query"))
        response.delete_cookie(self._cookie(handle), secure=self._secure, httponly=True, samesite="strict")
        return response

    def _refused(self, parameters: Mapping[str, str], error: OAuth2Error) -> Response:
        """To the site only when its address is one that the rules register; else to the person."""
        if error.redirect_uri is None:
            return _page(f"{error.error}: {error.description}")
        told = [("error", error.error), *([("error_description", error.description)] if error.description else [])]
        mode = parameters.get("response_mode", "query")
        mode = mode if mode in RESPONSE_MODES else "query"
        return _sent(error.redirect_uri, self._provider.told(parameters, told), mode)

    def _cookie(self, handle: str) -> str:
        return f"{'__Host-' if self._secure else ''}login-{digest_of(handle).hex()[:16]}"

    def _browser(self, request: Request, handle: str) -> str:
        return request.cookies.get(self._cookie(handle), "")

    async def _own_page(self, request: Request) -> dict[str, Any]:
        """What a script of the page itself sends.

        Raises:
            RefusedError: another site, a form or a stray program does.
            MalformedMessageError: it is no JSON object.
        """
        headers = request.headers
        if headers.get("origin") != self._origin or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise RefusedError("only the page of this server may call it")
        if headers.get(CALL_HEADER) != "1" or headers.get("content-type") != "application/json":
            raise RefusedError(f"a call carries {CALL_HEADER}: 1 and JSON")
        try:
            told = json.loads(await _form(request))
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise MalformedMessageError("the page sends a JSON object")
        return told

    # ------------------------------------------------------------------ for a site

    async def _token(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            return JSONResponse({"error": "invalid_request"}, 400, headers=_SEEN_BY_ALL)
        try:
            parameters = _parameters(await _form(request))
        except MalformedMessageError as error:
            told = {"error": "invalid_request", "error_description": str(error)}
            return JSONResponse(told, 400, headers=_SEEN_BY_ALL)
        shown = {"Authorization": request.headers["authorization"]} if "authorization" in request.headers else {}
        status, body, headers = await self._signing(self._provider.exchange, parameters, shown)
        return JSONResponse(body, status, headers=dict(headers) | _SEEN_BY_ALL)

    async def _userinfo(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        subject = None
        if scheme.lower() == "bearer" and len(token) <= _MOST_HANDLE:
            subject = await to_thread(self._provider.subject_of, token)
        if subject is None:
            headers = _SEEN_BY_ALL | {"www-authenticate": 'Bearer error="invalid_token"'}
            return Response(status_code=401, headers=headers)
        return JSONResponse({"sub": subject}, headers=_SEEN_BY_ALL)

    async def _keys(self, _: Request) -> Response:
        return JSONResponse(self._provider.keys.jwks, headers=_SEEN_BY_ALL)

    async def _discovery(self, _: Request) -> Response:
        algorithms = [algorithm.value for algorithm in self._provider.keys.keys]
        return JSONResponse(described(self._origin, algorithms, self._acr), headers=_SEEN_BY_ALL)

    def _bounded(self, call: Endpoint, *, is_site: bool) -> Endpoint:
        """The same with room for each address, and with errors as answers."""

        async def answering(request: Request) -> Response:
            self._welcome(request)
            try:
                with ExitStack() as held:
                    for visitors, network in zip(self._bounds, _networks(request), strict=False):
                        visitors.admit(held, network, is_site=is_site)
                    return await call(request)
            except UnavailableError as error:
                seconds = max(1, round(error.retry_after_seconds or 1))
                return PlainTextResponse(str(error), 503, headers={"retry-after": str(seconds)})
            except RefusedError as error:
                return PlainTextResponse(str(error), 403)
            except IntaglioError as error:
                return PlainTextResponse(str(error), 400)

        async def bounded(request: Request) -> Response:
            response = await answering(request)
            response.headers.setdefault("content-security-policy", _NOTHING)
            return response

        return bounded


_HEADERS: Final = {name: value for name, value in SECURITY_HEADERS.items() if name != "content-security-policy"} | {
    "cache-control": "no-store"
}


def _sent(redirect_uri: str, told: list[tuple[str, str]], mode: str) -> Response:
    """The browser on its way to a site: by an address, or by a form that it submits."""
    if mode == "form_post":
        inputs = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">' for name, value in told
        )
        content = (
            f'<!doctype html><meta charset="utf-8"><title>Back to the site</title>'
            f'<form method="post" action="{html.escape(redirect_uri)}">{inputs}<noscript><button>Go back</button>'
            f"</noscript></form><script>{_SCRIPT}</script>"
        )
        return HTMLResponse(content, headers={"content-security-policy": _FORM_POLICY})
    joint = "&" if "?" in redirect_uri else "?"
    return Response(status_code=303, headers={"location": f"{redirect_uri}{joint}{urlencode(told)}"})


def _page(problem: str) -> Response:
    """What a person is told when no site may be."""
    text = f"A site sent you here in a way that does not work, so nothing was told to it.\n\n{problem}\n"
    return PlainTextResponse(text, 400)


async def _form(request: Request) -> str:
    """A body of text.

    Raises:
        MalformedMessageError: it is too long, or no UTF-8, or its sender left.
        UnavailableError: it did not come in time.
    """
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await read_body(request, _MOST_BODY_BYTES)
    except TimeoutError:
        raise UnavailableError(f"the request did not come within {_BODY_SECONDS:.0f} seconds") from None
    if body is None:
        raise MalformedMessageError(f"a request has at most {_MOST_BODY_BYTES} bytes")
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise MalformedMessageError("a request is UTF-8") from None


def _parameters(encoded: str) -> dict[str, str]:
    """Parameters of a query or a form, each once (RFC 6749, section 3.1).

    Raises:
        MalformedMessageError: too many or too long, not UTF-8, or one of them twice.
    """
    if len(encoded) > _MOST_BODY_BYTES:
        raise MalformedMessageError(f"parameters have at most {_MOST_BODY_BYTES} bytes")
    try:
        pairs = parse_qsl(encoded, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="strict")
    except ValueError:
        raise MalformedMessageError(f"there are at most {_MOST_PARAMETERS} parameters, in UTF-8") from None
    parameters = dict(pairs)
    if len(parameters) != len(pairs):
        raise MalformedMessageError("each parameter stands there once")
    return {name: value for name, value in parameters.items() if value}  # an empty one is none (section 3.1)


def _text(told: Mapping[str, Any], name: str, most: int) -> str:
    value = told.get(name)
    if not isinstance(value, str) or len(value) > most or not value.isascii():
        raise MalformedMessageError(f"{name} is ASCII text of at most {most} characters")
    return value


def _networks(request: Request) -> tuple[bytes, ...]:
    """For whom a call counts, the narrowest first."""
    return tuple(network.encode() for network in networks_of(request.client.host)) if request.client else (b"",)
