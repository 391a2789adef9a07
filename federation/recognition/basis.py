"""What a stated false match rate rests on."""

from __future__ import annotations

from enum import Enum


class Basis(Enum):
    """The value is in the release and in what its maker and auditor sign."""

    PUBLIC = "public"
    """Public sets of faces alone: an estimate for other people."""
    CHECKED = "checked"
    """The people of the run, too, through a private statistic."""
    MEASURED = "measured"
    """The same, and it was enough of them to narrow the interval."""
