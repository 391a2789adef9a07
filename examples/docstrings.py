"""For the reference of the documentation site: doctests in docstrings are shown as code. Loaded by mkdocstrings."""

from __future__ import annotations

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).+)*", flags=re.MULTILINE)


def fenced(text: str) -> str:
    r"""A docstring whose doctests, up to the next empty line, stand in fences.

    >>> fenced("One.\\n\\n>>> 1 + 1\\n2\\n\\nTwo.")
    'One.\\n\\n```pycon\\n>>> 1 + 1\\n2\\n```\\n\\nTwo.'
    """
    return _DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", text)


class Doctests(griffe.Extension):
    """Fences doctests in everything that griffe reads."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:  # noqa: ANN401 - griffe's own
        """Called for each object."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
