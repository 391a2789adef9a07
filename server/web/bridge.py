"""From a browser's HTTP to the matching service's gRPC, and the page itself. Translates; decides nothing.

A browser cannot speak gRPC with a client certificate, so this process does: it sends what a page posts to one method
of this project's services, byte for byte, and gives back the answer. It holds no key of anybody, sees ciphertexts and
signatures only, and everything that matters is checked behind it or in the page.

A call must come from the page's own origin and carry a header that no form can send; it shows no cookie, so
another site has nothing to ride on.

To the matching service all visitors are one certificate, so each address has bounds of its own below those of that
certificate: connections (`server.visitors.door`), calls at once and a second, open sessions, enrolments. For sessions
the bridge looks at which one an answer opened and a message ended, and at nothing else.
"""

from __future__ import annotations

import asyncio
import gzip
import mimetypes
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import grpc
from google.protobuf.message import DecodeError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from federation.errors import IntaglioError, MalformedMessageError, RefusedError, UnavailableError, UsageError
from federation.wire.convert import MAX_MESSAGE_BYTES
from federation.wire.status import RETRY_AFTER_KEY, status_of
from federation.wire.v1 import verification_pb2 as pb
from server.listening import SecurityHeaders, read_body, routed
from server.storage.sessions import SessionLimits
from server.visitors.door import WIDER, networks_of
from server.visitors.peers import PeerRate, PeerRates
from server.visitors.places import Places
from server.visitors.sessions import OpenSessions

PREFIX: Final = "/intaglio/"
MEDIA_TYPE: Final = "application/x-protobuf"
CALL_HEADER: Final = "x-intaglio"
STATUS_HEADER: Final = "x-intaglio-status"
SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["VerificationService"].full_name
METHODS: Final = frozenset(
    f"{service.full_name}/{method.name}"
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
"""Everything that may be called."""
_OPENS: Final[Mapping[str, Any]] = {
    f"{SERVICE_NAME}/StartEnrolment": pb.StartEnrolmentResponse,
    f"{SERVICE_NAME}/StartVerification": pb.StartVerificationResponse,
}
"""What opens a session, and the answer that names it."""
_ENROLS: Final = f"{SERVICE_NAME}/StartEnrolment"
_ENDS: Final = f"{SERVICE_NAME}/SubmitToken"
_BODY_SECONDS = 30.0
_PIECE_BYTES = 64 * 1024
_MOST_DETAILS = 500
_OF_GRPC = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""Where nobody of ours has spoken, unless it says when to come back."""
_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}

Upstream = Callable[[str, bytes], Awaitable[bytes]]
"""Sends a message to one of `METHODS`; raises `grpc.aio.AioRpcError`."""


@dataclass(frozen=True)
class Site:
    """What this process serves besides calls.

    Attributes:
        origin: of the page as browsers see it, such as ``https://verify.example.org``.
        files: content and media type by path.
        live: reads files that change while this process runs, by path.
        packed: the files that gzip makes smaller, by path. They are the same for everybody and hold no secret.
    """

    origin: str
    files: Mapping[str, tuple[bytes, str]] = field(repr=False)
    live: Mapping[str, Callable[[], bytes]] = field(default_factory=dict, repr=False)
    packed: Mapping[str, bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        scheme, separator, host = self.origin.partition("://")
        if scheme not in {"http", "https"} or not separator or not host or "/" in host:
            raise UsageError(f"an origin is http(s)://HOST or http(s)://HOST:PORT, not {self.origin!r}")
        if scheme == "http" and host.partition(":")[0] not in {"localhost", "127.0.0.1"}:
            raise UsageError("browsers allow no camera and no keys over http except on localhost; use https")
        packed = {path: gzip.compress(data, mtime=0) for path, (data, _) in self.files.items()}
        smaller = {path: data for path, data in packed.items() if len(data) < len(self.files[path][0])}
        object.__setattr__(self, "packed", smaller)

    @classmethod
    def read(
        cls,
        folder: Path,
        origin: str,
        added: Mapping[str, bytes],
        live: Mapping[str, Callable[[], bytes]] | None = None,
    ) -> Site:
        """Reads the built page once, so that nothing but these files can ever be asked for.

        Args:
            folder: what `make web` built.
            origin: of the page.
            added: files to serve beside it, by path.
            live: reads those that change, by path.

        Raises:
            UsageError: there is no page in `folder`.
        """
        if not (folder / "index.html").is_file():
            raise UsageError(f"there is no page in {folder}; build it with `make web`")
        files = {
            f"/{path.relative_to(folder).as_posix()}": (path.read_bytes(), _media_type(path.name))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        files["/"] = files["/index.html"]
        return cls(origin, files | {path: (data, _media_type(path)) for path, data in added.items()}, live or {})


@dataclass(frozen=True)
class AddressLimits:
    """What one address may have, an IPv4 address or a network of IPv6. Each is well below what the bridge itself has.

    A wider network, which one customer may have whole, has `wider` ones.

    Attributes:
        rate: of calls.
        calls: at once.
        sessions: that are open.
        enrolments: that may begin in a day.
    """

    rate: PeerRate = field(default_factory=lambda: PeerRate(calls_per_second=5.0, burst=60))
    calls: int = 8
    sessions: int = 10
    enrolments: int = 100

    @property
    def wider(self) -> AddressLimits:
        """What several addresses have together that may be one visitor's."""
        return AddressLimits(self.rate.times(WIDER), WIDER * self.calls, WIDER * self.sessions, WIDER * self.enrolments)


class _Visitors:
    """Who may have how much of the bridge: addresses, or wider networks.

    Args:
        limits: of each of them.
    """

    def __init__(self, limits: AddressLimits) -> None:
        self._rates = PeerRates(limits.rate, "this address calls too often; slow down")
        self._enrolments = PeerRates(
            PeerRate.a_day(limits.enrolments), "too many enrolments began from this address; try again later"
        )
        self._places = Places(limits.calls, "calls of this address")
        self._sessions = OpenSessions(limits.sessions, SessionLimits.lifetime_seconds)

    @contextmanager
    def admitted(self, visitor: bytes, method: str) -> Iterator[Callable[[bytes, bytes], None]]:
        """Room for one call; gives what is told message and answer of a call that went well.

        Raises:
            UnavailableError: there is none; says when to come back.
        """
        with ExitStack() as held:
            held.enter_context(self._places.one(visitor))
            self._rates.require_room(visitor)
            if method == _ENROLS:
                self._enrolments.require_room(visitor)
            opened = held.enter_context(self._sessions.opening(visitor)) if method in _OPENS else None

            def answered(message: bytes, answer: bytes) -> None:
                if opened is not None:
                    opened(_OPENS[method].FromString(answer).session.session_id)
                if method == _ENDS:
                    self._sessions.ended(pb.SubmitTokenRequest.FromString(message).session_id)

            yield answered


def bridge_app(
    upstream: Upstream,
    site: Site,
    limits: AddressLimits | None = None,
    welcome: Callable[[Request], None] = lambda _: None,
    answered: Callable[[Literal["bridge", "service"], str], None] = lambda *_: None,
    *,
    require_passing: Callable[[], None] = lambda: None,
) -> ASGIApp:
    """Answers calls with what `upstream` answers, and serves the files of `site`. Anything else is 404.

    Args:
        upstream: the matching service.
        site: the page.
        limits: of one address.
        welcome: is told of every request whose headers have come, before its body.
        answered: is told of every call who answered it, and with which status.
        require_passing: is asked before each call; raises `UsageError` where none may be passed on.
    """
    limits = limits or AddressLimits()
    bounds = _Visitors(limits), _Visitors(limits.wider)

    async def call(request: Request) -> Response:
        method = request.path_params["method"]
        if method not in METHODS:
            return Response(status_code=404)
        try:
            _require_own_page(request, site.origin)
            _require_passing(require_passing)
            with ExitStack() as held:
                told = [
                    held.enter_context(visitors.admitted(network, method))
                    for visitors, network in zip(bounds, _networks(request), strict=False)
                ]
                body = await _body(request)
                answer = await upstream(method, body)
                for tell in told:
                    tell(body, answer)
        except IntaglioError as error:
            answered("bridge", status_of(error).name)
            return _refusal(error)
        except grpc.aio.AioRpcError as error:
            answered("service", error.code().name)
            return _failure(error)
        except DecodeError:
            answered("service", grpc.StatusCode.INTERNAL.name)
            return _answer(grpc.StatusCode.INTERNAL, "the matching service answered with what is no message", None)
        answered("service", grpc.StatusCode.OK.name)
        return Response(answer, media_type=MEDIA_TYPE)

    async def file(request: Request) -> Response:
        return _file(site, request)

    async def welcomed(request: Request) -> Response:
        welcome(request)
        return await (call if request.method == "POST" else file)(request)

    routes = [
        Route(PREFIX + "{method:path}", welcomed, methods=["POST"]),
        Route("/{path:path}", welcomed, methods=["GET"]),
    ]
    return SecurityHeaders(routed(routes))


def _networks(request: Request) -> tuple[bytes, ...]:
    """For whom a call counts, the narrowest first."""
    return tuple(network.encode() for network in networks_of(request.client.host)) if request.client else (b"",)


async def _body(request: Request) -> bytes:
    """What was sent.

    Raises:
        MalformedMessageError: it is longer than any message, or its sender left.
        UnavailableError: it did not come in time.
    """
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await read_body(request, MAX_MESSAGE_BYTES)
    except TimeoutError:
        raise UnavailableError(f"the message did not come within {_BODY_SECONDS:.0f} seconds") from None
    if body is None:
        raise MalformedMessageError(f"a message has at most {MAX_MESSAGE_BYTES} bytes")
    return body


def _file(site: Site, request: Request) -> Response:
    path = request.url.path
    if path in site.live:
        try:
            return Response(site.live[path](), media_type="text/plain", headers={"cache-control": "no-store"})
        except (OSError, UsageError):  # it cannot be read now, or says what no browser may follow
            return Response(status_code=503)
    if path not in site.files:
        return Response(status_code=404)
    content, media_type = site.files[path]
    # Names of built files change with their content; the page itself must always be the newest.
    lasting = path.startswith("/assets/")
    headers = {"cache-control": "public, max-age=31536000, immutable" if lasting else "no-store"}
    if path in site.packed:
        headers["vary"] = "accept-encoding"
        if _takes_gzip(request.headers.get("accept-encoding", "")):
            content, headers["content-encoding"] = site.packed[path], "gzip"
    headers["content-length"] = str(len(content))
    return StreamingResponse(_pieces(content), media_type=media_type, headers=headers)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    """Each waits until the one before has left: else who reads nothing has the whole file lie in memory once more."""
    for start in range(0, len(content), _PIECE_BYTES):
        yield content[start : start + _PIECE_BYTES]
        await asyncio.sleep(0)  # so that a reader's end is heard of before the next, which would be a line in the log


def _require_own_page(request: Request, origin: str) -> None:
    """Returns when a script of the page itself calls.

    Raises:
        RefusedError: another site, a form or a stray program does.
    """
    headers = request.headers
    if headers.get("origin") != origin or headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise RefusedError("only the page of this server may call it")
    if headers.get(CALL_HEADER) != "1" or headers.get("content-type") != MEDIA_TYPE:
        raise RefusedError(f"a call carries {CALL_HEADER}: 1 and a body of the type {MEDIA_TYPE}")


def _require_passing(asked: Callable[[], None]) -> None:
    """Returns when this bridge may pass calls on. Why not is its operator's business, and names files.

    Raises:
        UnavailableError: it may not.
    """
    try:
        asked()
    except UsageError as error:
        raise UnavailableError("this service passes nothing on now; its operator has to set it right") from error


def _takes_gzip(accepted: str) -> bool:
    """Whether a list of encodings (RFC 9110, section 12.5.3) names gzip without forbidding it."""
    for coding in accepted.lower().split(","):
        name, _, weight = coding.replace(" ", "").partition(";q=")
        if name in {"gzip", "x-gzip"}:
            return not re.fullmatch(r"0(\.0*)?", weight)
    return False


def _refusal(error: IntaglioError) -> Response:
    seconds = error.retry_after_seconds if isinstance(error, UnavailableError) else None
    return _answer(status_of(error), str(error), None if seconds is None else f"{seconds:.3f}")


def _failure(error: grpc.aio.AioRpcError) -> Response:
    trailing = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
    retry_after = trailing.get(RETRY_AFTER_KEY)
    if error.code() in _OF_GRPC and retry_after is None:
        return _answer(error.code(), "the matching service cannot be reached", None)  # gRPC's own words name addresses
    return _answer(error.code(), (error.details() or "")[:_MOST_DETAILS], retry_after)


def _answer(code: grpc.StatusCode, text: str, retry_after: str | None) -> Response:
    headers = {STATUS_HEADER: code.name, "cache-control": "no-store"}
    if retry_after is not None:
        headers[RETRY_AFTER_KEY] = retry_after
    return PlainTextResponse(text, _HTTP.get(code, 502), headers=headers)


def _media_type(name: str) -> str:
    known = {".wasm": "application/wasm", ".js": "text/javascript", ".bin": "application/octet-stream"}
    return known.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
