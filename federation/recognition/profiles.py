"""The camera profiles that releases know."""

from __future__ import annotations

from typing import Final

REFERENCE: Final = "reference"
"""Camera profile of the images that people enrol with."""
PROBE: Final = "probe"
"""Camera profile of the images that people verify with."""
PROFILES: Final = (REFERENCE, PROBE)
