"""The one list of image formats: what the decoders may parse, and what people are told (ADR 215).

The page has the same list (`web/src/page/pictures.ts`), without what browsers do not read.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

READS_HEIC: Final = find_spec("pi_heif") is not None
FORMATS: Final = MappingProxyType(
    {
        "JPEG": frozenset({".jpg", ".jpeg", ".jpe", ".jfif"}),
        "PNG": frozenset({".png"}),
        "WEBP": frozenset({".webp"}),
        "GIF": frozenset({".gif"}),
        "BMP": frozenset({".bmp"}),
        "TIFF": frozenset({".tif", ".tiff"}),
        "PPM": frozenset({".pgm", ".ppm", ".pnm"}),
    }
    | ({"HEIF": frozenset({".heic", ".heif"})} if READS_HEIC else {})
)
"""By Pillow's name, what such files are called. Every further parser would be a further way in."""
IMAGES: Final = f"JPEG, PNG, WebP, GIF, BMP, TIFF{', HEIC' * READS_HEIC} or PGM"
"""The same for people."""
