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

    @property
    def text(self) -> str:
        """For people to read."""
        return {
            Basis.PUBLIC: "an estimate from public sets of faces",
            Basis.CHECKED: "checked privately on the people of the run",
            Basis.MEASURED: "measured privately on the people of the run",
        }[self]
