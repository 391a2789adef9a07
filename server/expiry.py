"""When a certificate or a rule ends, and what is said of it from 60 days before on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from federation.errors import UsageError

WARN_DAYS: Final = 60


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate in a file.

    Raises:
        UsageError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} holds no certificate: {error}") from error


def ends_at(path: Path) -> dt.datetime:
    """When the certificate in a file ends. Raises what `read_certificate` does."""
    return read_certificate(path).not_valid_after_utc


def days_left(end: dt.datetime, now: dt.datetime) -> float:
    """Days until something ends; negative once it has."""
    return (end - now) / dt.timedelta(days=1)


def notice_of_end(what: str, end: dt.datetime, now: dt.datetime, advice: str) -> str:
    """A sentence about what ends within `WARN_DAYS`, or has ended; empty before."""
    left = days_left(end, now)
    if left > WARN_DAYS:
        return ""
    if left <= 0:
        return f"{what} expired on {end:%Y-%m-%d}: {advice}"
    return f"{what} expires on {end:%Y-%m-%d}, in {left:.0f} days: {advice}"


@dataclass(frozen=True)
class Ending:
    """When a certificate, or what the public rules allow, ends.

    Attributes:
        what: as in a sentence.
        ends_at: when.
        advice: what to do before that.
    """

    what: str
    ends_at: dt.datetime
    advice: str

    def notice(self, now: dt.datetime) -> str:
        """What to say from 60 days before its end on; empty before."""
        return notice_of_end(self.what, self.ends_at, now, self.advice)


def certificates_in(paths: Sequence[Path]) -> tuple[Ending, ...]:
    """Those in some files.

    Raises:
        UsageError: one holds none.
    """
    return tuple(
        Ending(f"the certificate in {path.name}", ends_at(path), f"renew {path}, or have it renewed") for path in paths
    )


class DailyNotices:
    """Says what ends soon, once a day.

    Args:
        read: what ends, as it is now.
        say: gets a line for each that ends soon, or for what cannot be read.
        clock: the time.
    """

    def __init__(
        self, read: Callable[[], Sequence[Ending]], say: Callable[[str], None], clock: Callable[[], dt.datetime]
    ) -> None:
        self._read, self._say, self._clock = read, say, clock
        self._said_on: dt.date | None = None

    def look(self) -> None:
        """Call it often."""
        now = self._clock()
        if self._said_on == now.date():
            return
        self._said_on = now.date()
        try:
            notices = [one.notice(now) for one in self._read()]
        except UsageError as error:
            notices = [str(error)]
        for line in filter(None, notices):
            self._say(line)
