"""When a certificate ends, and what is said of it from 60 days before on."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Final

from cryptography import x509

from federation.errors import UsageError

WARN_DAYS: Final = 60


def ends_at(path: Path) -> dt.datetime:
    """When the certificate in a file ends.

    Raises:
        UsageError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} holds no certificate: {error}") from error


def days_left(end: dt.datetime, now: dt.datetime) -> float:
    """Days until a certificate ends; negative once it has."""
    return (end - now) / dt.timedelta(days=1)


def notice_of_end(what: str, end: dt.datetime, now: dt.datetime, advice: str) -> str:
    """A sentence about a certificate that ends within `WARN_DAYS`, or has ended; empty before."""
    left = days_left(end, now)
    if left > WARN_DAYS:
        return ""
    if left <= 0:
        return f"{what} expired on {end:%Y-%m-%d}: {advice}"
    return f"{what} expires on {end:%Y-%m-%d}, in {left:.0f} days: {advice}"
