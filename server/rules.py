"""The public rules as a running server reads them: one file, read again every few seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from federation.consent import Consent
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError
from federation.policy import Allowed, Attempts, Refused, Request, decide
from federation.receipts import Binding, SignedReceipt
from federation.rulebook import Rulebook
from federation.statements import require_name


class PublicRules:
    """What this deployment may do. A moratorium that is appended to the file stops a running server.

    A file that lost an entry, or has other signers, is refused, and the rules that were read before count on until they
    are stale (`federation.policy`). Over restarts nothing is remembered here.

    Args:
        read: gives the rules file; see `Rulebook.from_file`.
        deployment: identifier under which this server is registered.
        now: seconds since 1970.

    Raises:
        UsageError: there are no rules that could be read, or the deployment does not stand in them.
    """

    def __init__(self, read: Callable[[], bytes], *, deployment: str, now: int) -> None:
        require_name("the deployment", deployment)
        self._read = read
        self._deployment = deployment
        self._book = self._parse(now)
        if self._book.deployment(deployment) is None:
            raise UsageError(f"no deployment {deployment!r} stands in the rules; register it first")

    @classmethod
    def open(cls, path: Path, *, deployment: str, now: int) -> PublicRules:
        """Rules from a file."""
        return cls(path.read_bytes, deployment=deployment, now=now)

    def read_again(self, now: int) -> None:
        """Takes in what was appended.

        Raises:
            UsageError: the file cannot be read, or is not the earlier one with more entries.
        """
        book = self._parse(now)
        if book.signers != self._book.signers or not self._book.rules.items() <= book.rules.items():
            raise UsageError("the rules file lost an entry or changed its signers; rules are only ever added")
        self._book = book

    def decide(
        self, *, purpose: str, audience: str, binding: Binding, receipt: bytes, stated_fmr: float, now: int
    ) -> Allowed | Refused:
        """Whether a template may be enrolled or compared; attempts are counted elsewhere. See `federation.policy`.

        Args:
            purpose: of the session.
            audience: of the session.
            binding: of the template, as this server knows it.
            receipt: signed receipt as it came; empty is none.
            stated_fmr: false match rate that the release states.
            now: seconds since 1970.

        Raises:
            MalformedMessageError: the receipt is none of this version.
        """
        return decide(
            Request(self._deployment, audience, purpose, binding),
            consent=Consent((SignedReceipt.from_bytes(receipt),)) if receipt else None,
            attempts=Attempts(),
            rules=self._book,
            stated_fmr=stated_fmr,
            now=now,
        )

    def _parse(self, now: int) -> Rulebook:
        try:
            return Rulebook.from_file(self._read(), read_at=now)
        except OSError as error:
            raise UsageError(f"cannot read the rules: {error.strerror}; no rules, no service") from error
        except (MalformedMessageError, ProofError, RefusedError) as error:
            raise UsageError(f"the rules file is refused: {error}") from error
