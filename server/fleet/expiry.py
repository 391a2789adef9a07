"""When the certificates of a federation end, and who must do what before that. Spoken of from 60 days before on."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from federation.errors import UsageError
from server.expiry import DailyNotices, Ending, ends_at

_RENEW_GATEWAY: Final = "the coordinator runs `intaglio-server federation renew`; nothing else changes"
_RENEW_AUTHORITY: Final = (
    "the coordinator runs `intaglio-server federation renew --authority`, and sends everybody the notice that it prints"
)


class GatewayCertificate:
    """The gateway's certificate while it serves: taken anew when it was renewed, spoken of when it ends soon.

    Args:
        path: of the certificate.
        key: of its key.
        say: gets a line for the operator.
        clock: the time.

    Attributes:
        context: what serves it; set it once it is made.

    Raises:
        UsageError: certificate or key cannot be read, or do not belong together.
    """

    def __init__(
        self,
        path: Path,
        key: Path,
        say: Callable[[str], None],
        *,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self.path, self.key, self._say = path, key, say
        self.context: ssl.SSLContext | None = None
        try:
            self._served = self._state()
            self._require_pair()
        except OSError as error:
            raise UsageError(
                f"cannot read {self.path} or {self.key.name}: {error.strerror}; let this user read both, or "
                + _RENEW_GATEWAY
            ) from error
        self._notices = DailyNotices(
            lambda: (Ending("the gateway's certificate", ends_at(path), _RENEW_GATEWAY),), say, clock
        )

    def look(self) -> None:
        """Takes a renewed certificate, and warns once a day. Call it often.

        Raises:
            UsageError: what lies there cannot be taken, and what was served before still is.
        """
        try:
            self._take_renewed()
        finally:
            self._notices.look()

    def _take_renewed(self) -> None:
        if (state := self._state()) == self._served or self.context is None:
            return
        self._require_pair()
        self.context.load_cert_chain(self.path, self.key)
        self._served = state
        self._say(f"the gateway's certificate was renewed; it ends on {ends_at(self.path):%Y-%m-%d}")

    def _require_pair(self) -> None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.path, self.key)
        except ssl.SSLError as error:  # the key is new and the certificate is not yet, for a moment or since a crash
            raise UsageError(
                f"{self.path.name} is damaged, or {self.key.name} is not its key; the next start will fail: "
                + _RENEW_GATEWAY
            ) from error

    def _state(self) -> tuple[int, int]:
        return self.path.stat().st_mtime_ns, self.key.stat().st_mtime_ns


def certificates(folder: Path) -> tuple[Ending, ...]:
    """The gateway's, and its authority's.

    Raises:
        UsageError: one cannot be read.
    """
    tls = folder / "tls"
    return (
        Ending("the gateway's certificate", ends_at(tls / "server.pem"), _RENEW_GATEWAY),
        Ending("the authority of the gateway's certificate", ends_at(tls / "ca.pem"), _RENEW_AUTHORITY),
    )
