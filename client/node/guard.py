"""The organisation's own door: passes its SuperNode's fleet calls to the gateway, where the local policy allows it.

Flower's SuperNode runs whatever application the SuperLink sends, at any hour. The guard stands between the two:

* outside the policy's hours, and for messages or applications that the policy does not name, the SuperNode hears that
  there is no work: the coordinator sees silence and names this organisation after its deadline;
* an application reaches the SuperNode only when the SHA-256 of its *bytes* is in the policy. SuperNode itself does not
  compare what it gets with what was announced.

It listens on loopback with a certificate of its own, made at every start, because Flower sends node keys over TLS only.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import logging
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from flwr.proto.fab_pb2 import GetFabResponse
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
from google.protobuf.message import DecodeError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from client.files import replace_file
from federation.membership.fleet import CALLS, MOST_BODY_BYTES, PREFIX, passed_on
from federation.membership.joining import LocalPolicy

_log = logging.getLogger(__name__)

_UPSTREAM_SECONDS: Final = 60.0
_GRACE_SECONDS: Final = 5
_CERTIFICATE_DAYS: Final = 3650
_OK: Final = 200
_UNAUTHORISED: Final = 401
_LONGEST_TEXT: Final = 300
_CHUNK_BYTES: Final = 1 << 16
_OF_A_BODY: Final = ("content-length", "content-encoding", "transfer-encoding")


def guard_app(
    gateway: httpx.AsyncClient,
    policy: LocalPolicy,
    *,
    clock: Callable[[], float] = time.time,
    tally: Counter[str] | None = None,
) -> Starlette:
    """Answers fleet calls with what `gateway` answers and `policy` allows, and anything else with 404.

    Args:
        gateway: client for the coordinator's gateway; closed when the application stops.
        policy: the organisation's.
        clock: seconds since 1970.
        tally: counts refusals by why: ``hours``, ``recipe``, ``application``, and ``coordinator`` for the other side's.
    """
    counted = Counter[str]() if tally is None else tally

    async def fleet(request: Request) -> Response:
        name, body = request.path_params["call"], bytearray()
        if name not in CALLS:
            return Response(status_code=404)
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BODY_BYTES:
                return Response(status_code=413)
        try:
            headers = passed_on(request.headers)
            return await _answer(gateway, policy, int(clock()), name, bytes(body), headers, counted)
        except (DecodeError, httpx.HTTPError) as error:
            return Response(status_code=next(status for kind, status in _FAILURES if isinstance(error, kind)))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await gateway.aclose()

    return Starlette(routes=[Route(PREFIX + "{call}", fleet, methods=["POST"])], lifespan=lifespan)


async def _answer(
    gateway: httpx.AsyncClient,
    policy: LocalPolicy,
    now: int,
    name: str,
    body: bytes,
    headers: dict[str, str],
    tally: Counter[str],
) -> Response:
    if name == "pull-messages" and not policy.is_open(now):
        tally["hours"] += 1
        return _no_work(headers)
    reply = await _asked(gateway, name, body, headers)
    if reply.status_code == _UNAUTHORISED:
        _log.warning("the coordinator does not take this node's calls: %s", _printable(reply.text))
        tally["coordinator"] += 1
    if reply.status_code == _OK:
        if name == "pull-messages" and not await _may_run(gateway, policy, body, headers, reply.content, tally):
            return _no_work(headers)
        if name == "get-fab" and not _is_allowed_app(policy, reply.content):
            tally["application"] += 1
            return Response(status_code=403)
    return Response(reply.content, reply.status_code, headers=passed_on(reply.headers))


_FAILURES: Final = ((DecodeError, 403), (httpx.TimeoutException, 504), (httpx.HTTPError, 502))
"""What the SuperNode hears when an answer cannot be read or does not come; the first that fits."""


async def _asked(gateway: httpx.AsyncClient, name: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    """What the gateway answers, which is never held beyond `MOST_BODY_BYTES`.

    Raises:
        httpx.HTTPError: there is no answer, or it is longer.
    """
    async with gateway.stream("POST", PREFIX + name, content=body, headers=headers) as reply:
        content = bytearray()
        async for chunk in reply.aiter_bytes(_CHUNK_BYTES):
            content += chunk
            if len(content) > MOST_BODY_BYTES:
                raise httpx.DecodingError("the gateway's answer is too long")
    named = [(key, value) for key, value in reply.headers.multi_items() if key not in _OF_A_BODY]
    return httpx.Response(reply.status_code, headers=named, content=bytes(content))


async def _may_run(
    gateway: httpx.AsyncClient,
    policy: LocalPolicy,
    question: bytes,
    headers: dict[str, str],
    content: bytes,
    tally: Counter[str],
) -> bool:
    """Whether all messages in an answer are of a kind, and of a run whose application, that the policy names."""
    for message in PullMessagesResponse.FromString(content).messages_list:
        kind, run_id = message.metadata.message_type, message.metadata.run_id
        if not policy.allows_message(kind):
            _log.warning("refused: run %d sent %r, and the policy's recipes do not name it", run_id, kind[:64])
            tally["recipe"] += 1
            return False
        # In the name of this very node: its signed headers cover a time and nothing else.
        node = PullMessagesRequest.FromString(question).node
        asked = GetRunRequest(node=node, run_id=run_id).SerializeToString()
        reply = await _asked(gateway, "get-run", asked, headers)
        digest = GetRunResponse.FromString(reply.content).run.fab_hash if reply.status_code == _OK else ""
        if not policy.allows_app(digest):
            _log.warning("refused: run %d is of application %s, and app-hashes do not name it", run_id, digest[:64])
            tally["application"] += 1
            return False
    return True


def _is_allowed_app(policy: LocalPolicy, content: bytes) -> bool:
    digest = hashlib.sha256(GetFabResponse.FromString(content).fab.content).hexdigest()
    if allowed := policy.allows_app(digest):
        return allowed
    _log.warning("refused: the application that arrived is %s, and app-hashes do not name it", digest)
    return False


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:_LONGEST_TEXT])


def _no_work(headers: dict[str, str]) -> Response:
    content_type = headers.get("content-type", "application/protobuf")
    return Response(PullMessagesResponse().SerializeToString(), headers={"content-type": content_type})


def gateway_client(address: str, authority: Path) -> httpx.AsyncClient:
    """A client for the gateway at `address`, whose certificate must be signed by `authority` and by nobody else."""
    return httpx.AsyncClient(
        base_url=f"https://{address}",
        verify=ssl.create_default_context(cafile=str(authority)),
        timeout=_UPSTREAM_SECONDS,
        follow_redirects=False,
    )


def guard_server(app: Starlette, *, port: int, certificate: Path, key: Path) -> uvicorn.Server:
    """A TLS server on loopback for the guard."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        log_config=None,  # its own closes every handler that there is, Flower's among them
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return uvicorn.Server(config)


def write_loopback_certificate(certificate: Path, key: Path, *, now: dt.datetime) -> None:
    """A new self-signed certificate for 127.0.0.1, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "intaglio guard")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=_CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(private, hashes.SHA256())
    )
    replace_file(key, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    replace_file(certificate, built.public_bytes(Encoding.PEM))
