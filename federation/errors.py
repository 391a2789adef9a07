"""The whole error family. Who is to blame comes first.

::

    IntaglioError
    ├── UsageError              we were called wrongly: a bad argument, file or configuration
    │   └── BudgetExhaustedError    the privacy ledger has no room for the release that was asked for
    ├── PeerError               the other side is to blame
    │   └── MalformedMessageError   bytes from outside that no honest peer sends
    ├── ProofError              a signature, token or proof did not verify
    ├── RefusedError            a valid request that policy does not allow
    ├── RoundAbortedError       a federated round could not end; says what it cost
    └── UnavailableError        try again later

Messages say what to do. They carry sizes, counts, names and ids; never scores, embeddings or keys.
"""

from __future__ import annotations

from typing import ClassVar


class IntaglioError(Exception):
    """Root of every error that this project raises on purpose.

    Attributes:
        exit_code: what a command ends with; 0 and 1 are left to decisions.
    """

    exit_code: ClassVar[int] = 4


class UsageError(IntaglioError):
    """The caller, a file that it named or a configuration is wrong. The message says how to mend it."""

    exit_code = 2


class BudgetExhaustedError(UsageError):
    """The privacy ledger has no room left for this release."""


class PeerError(IntaglioError):
    """The other party broke the protocol."""


class MalformedMessageError(PeerError):
    """Foreign bytes that no honest peer sends. The only error that parsers raise."""


class ProofError(IntaglioError):
    """A signature, token or proof did not verify."""


class RefusedError(IntaglioError):
    """A well-formed request that is not allowed. "Not enrolled" and "no consent" look the same to a stranger."""

    exit_code = 3


class RoundAbortedError(IntaglioError):
    """A federated round ended without a result. The message says what privacy budget it cost."""


class UnavailableError(IntaglioError):
    """A resource is busy or down.

    Attributes:
        retry_after_seconds: how long to wait before the next try.
    """

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
