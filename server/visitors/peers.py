"""Who is calling, by certificate, and how often it may."""

from __future__ import annotations

import hashlib
import math
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import grpc
from cryptography import x509

from federation.errors import ProofError, UnavailableError, UsageError

_Context = grpc.aio.ServicerContext[Any, Any]
_REMEMBERED_PEERS = 10_000
_DIGESTED = 1024


def peer_of(context: _Context) -> bytes:
    """SHA-256 of the caller's certificate, 32 bytes.

    Raises:
        ProofError: the connection shows no certificate; the server was set up without mutual TLS.
    """
    shown = context.auth_context().get("x509_pem_cert") or ()
    for certificate in shown:
        return _digest_of(bytes(certificate))
    raise ProofError("show a client certificate")


def certificate_of(context: _Context) -> x509.Certificate:
    """The caller's certificate.

    Raises:
        ProofError: see `peer_of`.
    """
    for certificate in context.auth_context().get("x509_pem_cert") or ():
        return _read(bytes(certificate))
    raise ProofError("show a client certificate")


def name_of(context: _Context) -> str | None:
    """The one name in the caller's certificate, which its authority wrote there; None when it has none, or several."""
    names = list(context.auth_context().get("x509_common_name") or ())
    return names[0].decode(errors="replace") if len(names) == 1 else None


@lru_cache(maxsize=_DIGESTED)
def _digest_of(certificate: bytes) -> bytes:
    """SHA-256 of a certificate that stands in PEM, as each call of a connection shows it."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.decode("ascii"))).digest()


@lru_cache(maxsize=_DIGESTED)
def _read(certificate: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate)


@dataclass(frozen=True)
class PeerRate:
    """How often one certificate may call one server process.

    Attributes:
        calls_per_second: in the long run; a verification takes three.
        burst: calls at once after a rest.
    """

    calls_per_second: float = 200.0
    burst: int = 400

    def __post_init__(self) -> None:
        if not self.calls_per_second > 0 or self.burst < 1:
            raise UsageError("a rate needs more than 0 calls per second and a burst of at least 1")

    @classmethod
    def resting(cls, calls_per_second: float, seconds: float) -> PeerRate:
        """So many in the long run, and at once, after a rest, as many as in so many seconds."""
        if not math.isfinite(calls_per_second):
            raise UsageError("a rate is a number of calls per second")
        return cls(calls_per_second, burst=max(1, round(seconds * calls_per_second)))

    @classmethod
    def a_day(cls, most: int) -> PeerRate:
        """So many in a day, also all at once."""
        return cls(most / 86_400, burst=most)

    def times(self, factor: int) -> PeerRate:
        """So many times as often."""
        return PeerRate(factor * self.calls_per_second, factor * self.burst)


class PeerRates:
    """A token bucket for each peer. Remembers the ten thousand that called last.

    Args:
        rate: for each peer.
        excess: what is said to one that is beyond it.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        rate: PeerRate,
        excess: str = "this certificate calls too often; slow down",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = rate
        self._excess = excess
        self._clock = clock
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def require_room(self, peer: bytes) -> None:
        """Counts a call.

        Raises:
            UnavailableError: too many; says when there is room again.
        """
        wait = self.wait_of(peer)
        if wait:
            raise UnavailableError(self._excess, retry_after_seconds=wait)

    def wait_of(self, peer: bytes) -> float:
        """Counts a call, and says how many seconds too early it is; 0 when there is room for it."""
        now = self._clock()
        left, at = self._buckets.pop(peer, (float(self._rate.burst), now))
        left = min(self._rate.burst, left + max(0.0, now - at) * self._rate.calls_per_second)
        admitted = left >= 1
        self._buckets[peer] = (left - 1 if admitted else left, now)
        if len(self._buckets) > _REMEMBERED_PEERS:
            self._buckets.popitem(last=False)
        return 0.0 if admitted else (1 - left) / self._rate.calls_per_second
