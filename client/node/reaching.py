"""Whether a node can work with the gateway: its certificate, this machine's clock. Looked at before a start, and daily.

Flower's SuperNode says "failed to activate" for either and goes. Here each has its name and its cure.
"""

from __future__ import annotations

import datetime as dt
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from federation.errors import PeerError, UnavailableError, UsageError
from federation.membership.fleet import NEWEST_SECONDS, OLDEST_SECONDS
from federation.membership.renewal import Notice

WARN_DAYS: Final = 60
_SECONDS: Final = 10.0
_EXPIRED, _NOT_YET = 10, 9  # OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID
_ROUNDING: Final = 0.5
"""The gateway tells whole seconds: on average it is half a second later."""


@dataclass(frozen=True)
class Reached:
    """What the gateway shows.

    Attributes:
        ahead: seconds that this machine's clock is ahead of the gateway's; negative when it is behind.
        ends_at: when its certificate ends, seconds since 1970.
    """

    ahead: float
    ends_at: float

    def days_left(self, now: float) -> float:
        """Until its certificate ends."""
        return (self.ends_at - now) / 86_400

    def require_clock(self) -> None:
        """Raises UsageError when Flower would not take this machine's signatures."""
        if not -OLDEST_SECONDS < self.ahead < NEWEST_SECONDS:
            side = "ahead of" if self.ahead > 0 else "behind"
            raise UsageError(
                f"this machine's clock is {abs(self.ahead):.0f} s {side} the coordinator's, which takes its signatures "
                f"when it is at most {NEWEST_SECONDS} s ahead and {OLDEST_SECONDS} s behind. Set both clocks by NTP"
            )

    def warning(self, now: float) -> str:
        """What to tell the operator; empty when all is well."""
        if self.days_left(now) <= WARN_DAYS:
            end = dt.datetime.fromtimestamp(self.ends_at, dt.UTC)
            return (
                f"the gateway's certificate expires on {end:%Y-%m-%d}, in {self.days_left(now):.0f} days: remind the "
                "coordinator to run `intaglio-server federation renew`"
            )
        return ""


def reach(gateway: Notice, *, clock: Callable[[], float] = time.time) -> Reached:
    """Asks the gateway for its health.

    Args:
        gateway: where it is and who signs its certificate.
        clock: this machine's, seconds since 1970.

    Raises:
        UnavailableError: it does not answer.
        PeerError: its certificate has expired, or is of another authority; says who does what.
        UsageError: its certificate is not valid yet by this machine's clock.
    """
    trusted = ssl.create_default_context(cadata=gateway.authority)
    try:
        with (
            httpx.Client(verify=trusted, timeout=_SECONDS) as client,
            client.stream("GET", f"https://{gateway.address}/health") as reply,
        ):
            told = parsedate_to_datetime(reply.headers["date"]).timestamp() + _ROUNDING
            ahead = clock() - told
            shown = reply.extensions["network_stream"].get_extra_info("ssl_object").getpeercert()
            return Reached(ahead, ssl.cert_time_to_seconds(shown["notAfter"]))
    except httpx.TransportError as error:
        raise _explained(error, gateway) from error
    except (LookupError, ValueError) as error:
        raise PeerError(f"{gateway.address} is no gateway: its answer has no time") from error


def _explained(error: BaseException, gateway: Notice) -> UnavailableError | PeerError | UsageError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return UnavailableError(f"the gateway at {gateway.address} does not answer: {error}")
    if cause.verify_code == _EXPIRED:
        return PeerError(
            f"the certificate of the gateway at {gateway.address} has expired, by this machine's clock: the "
            "coordinator runs `intaglio-server federation renew`, and nothing changes here"
        )
    if cause.verify_code == _NOT_YET:
        return UsageError(
            f"the certificate of the gateway at {gateway.address} is not valid yet by this machine's clock, which is "
            "behind: set it by NTP"
        )
    return PeerError(
        f"whoever answers at {gateway.address} is not the gateway that this organisation joined: "
        f"{cause.verify_message}. If the coordinator moved it or has a new authority, it sends a notice for "
        "`intaglio node notice`"
    )
