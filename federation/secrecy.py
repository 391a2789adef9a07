"""What every secret-bearing type does: it shows nothing, refuses pickling and compares in constant time."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Guarded:
    """Mixin for types that must not leak through logs, tracebacks, copies or pickles."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} refuses pickling and copying")


class Secret(Guarded):
    """Mixin for secrets that an encrypted wallet keeps."""

    def secret_bytes(self) -> bytes:
        """The secret itself. For an encrypted wallet only."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return hmac.compare_digest(self.secret_bytes(), other.secret_bytes())

    __hash__ = None  # type: ignore[assignment] # a secret is no dictionary key
