"""Where text becomes a name: of a person, of a group of people, of a column. The one place for all programs.

The same name typed on two systems, or unpacked from two archives, may be other bytes: letters with marks have two
forms in Unicode, and some file systems change one into the other. Names are compared in the composed form (NFC),
without white space around them. Whoever counts people counts these; else one would be two, with an epsilon for each.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, Final

from federation.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SURROGATES: Final = range(0xD800, 0xE000)
"""What bytes become that were not UTF-8, and what JSON and NumPy may hold besides."""
_FIRST_THAT_COMPOSES: Final = 0x300
"""Text whose characters all lie below is composed already: Unicode's quick check says yes for every one of them."""
_WHITE: Final = [place for place in range(1, _FIRST_THAT_COMPOSES) if chr(place).isspace()]


def name_of(text: str) -> str:
    r"""The name that a text stands for; of no text an empty one.

    >>> name_of("Andre\u0301 ") == "Andr\u00e9"
    True

    Raises:
        UsageError: it cannot be a name: its bytes were not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("a name is not UTF-8") from None  # the cause quotes it
    return unicodedata.normalize("NFC", text.strip())


def are_names(texts: NDArray[Any]) -> NDArray[Any]:
    """(n,) which of (n,) text can be names."""
    import numpy as np  # noqa: PLC0415 - see `names_of`

    characters = _characters(texts)
    return np.asarray(~((characters >= _SURROGATES.start) & (characters < _SURROGATES.stop)).any(axis=1))


def names_of(texts: NDArray[Any]) -> NDArray[Any]:
    """The same of an array (n,) of text. Where it is plain, that takes no more than a look at its characters.

    Raises:
        UsageError: one of them is not UTF-8.
    """
    import numpy as np  # noqa: PLC0415 - whoever reads no arrays needs none

    characters = _characters(texts)
    if ((characters < _FIRST_THAT_COMPOSES) & ~np.isin(characters, _WHITE)).all():
        return texts
    unique, places = np.unique(texts, return_inverse=True)
    return np.array([name_of(str(text)) for text in unique])[places]


def _characters(texts: NDArray[Any]) -> NDArray[Any]:
    """(n, length) code points of (n,) text, with zeros after the shorter ones."""
    import numpy as np  # noqa: PLC0415 - see `names_of`

    if texts.dtype.kind != "U":
        raise UsageError(f"names are an array of text, not of {texts.dtype}")
    return np.ascontiguousarray(texts).view(np.uint32).reshape(len(texts), -1 if texts.size else 0)
