"""The one reader of TOML that a person wrote: a configuration, a policy, the settings of a run."""

from __future__ import annotations

import tomllib
from typing import Any

from federation.errors import UsageError


def read_toml(data: bytes | str, what: str) -> dict[str, Any]:
    """What a document says.

    Args:
        data: as a file holds it.
        what: the document, as a message begins: "the policy".

    Raises:
        UsageError: it is no TOML, or its author means to exhaust whoever reads it.
    """
    try:
        return tomllib.loads(data if isinstance(data, str) else data.decode())
    except UnicodeDecodeError:
        raise UsageError(f"{what} is no TOML: not UTF-8") from None  # the cause quotes the bytes
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{what} is no TOML: {error}") from None  # likewise
    except (RecursionError, ValueError):  # of tomllib, which does not call them errors of TOML
        raise UsageError(f"{what} has a list that is too deep or a number that is too long") from None
