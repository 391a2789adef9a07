"""How the organisation's page writes times: in UTC, and short."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"))


def date(seconds: int) -> str:
    """The day.

    >>> date(1_763_000_000)
    '13 Nov 2025'
    """
    return f"{datetime.fromtimestamp(seconds, UTC):%-d %b %Y}"


def moment(seconds: int) -> str:
    """Day and minute.

    >>> moment(1_763_000_000)
    '13 Nov 2025, 02:13 UTC'
    """
    return f"{datetime.fromtimestamp(seconds, UTC):%-d %b %Y, %H:%M} UTC"


def length(seconds: int) -> str:
    """How long, in the largest unit that fits.

    >>> length(7300), length(30)
    ('2 h', 'less than 1 min')
    """
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{seconds // unit} {name}"
    return "less than 1 min"
