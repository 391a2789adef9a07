"""The public rules as a running server reads them: one file, read again every few seconds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from federation.consent.life import consent_to
from federation.consent.receipts import Binding
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError
from federation.presentation.levels import PadLevel
from federation.release.manifest import Standing
from federation.rules.clients import Client
from federation.rules.ends import permission_ends
from federation.rules.entries import Deployment, Issuer, Lifting, Moratorium, PolicyException, PolicyPack, Rule
from federation.rules.kiosks import Kiosk
from federation.rules.policy import (
    LONGEST_RULES_AGE_SECONDS,
    Allowed,
    Attempts,
    Refused,
    Request,
    decide,
    decide_for_anybody,
    is_stopped,
    moratoria_of,
)
from federation.rules.rulebook import Rulebook, SignedRule
from federation.statements import require_name
from federation.transparency import PublicEntry, PublicKind
from federation.transparency.entries import UNKNOWN
from server.expiry import Ending

_KINDS: dict[type[Rule], PublicKind] = {
    PolicyPack: PublicKind.POLICY,
    PolicyException: PublicKind.POLICY,
    Deployment: PublicKind.DEPLOYMENT,
    Client: PublicKind.DEPLOYMENT,
    Kiosk: PublicKind.DEPLOYMENT,
    Moratorium: PublicKind.MORATORIUM,
    Lifting: PublicKind.MORATORIUM,
}
_REGISTER = "register one that follows it (`intaglio-server rules register`) and serve that"
_PROLONG = "prolong it (`intaglio-server rules prolong`)"


class PublicRules:
    """What this deployment may do. A moratorium that is appended to the file stops a running server.

    A file that lost an entry, or has other signers, is refused, and the rules that were read before count on until they
    are stale (`federation.rules.policy`). Over restarts nothing is remembered here.

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
        self._file, self._book = self._parse(now)
        own = self._book.deployment(deployment)
        if own is None:
            raise UsageError(f"no deployment {deployment!r} stands in the rules; register it first")
        self._own = own

    @classmethod
    def open(cls, path: Path, *, deployment: str, now: int) -> PublicRules:
        """Rules from a file."""
        return cls(path.read_bytes, deployment=deployment, now=now)

    @property
    def issuer(self) -> Issuer | None:
        """Who is registered to sign this deployment's assertions. A deployment never changes, so neither does this."""
        registered = self._book.deployment(self._deployment)
        return registered.issuer if registered else None

    def client(self, identifier: str, now: int) -> Client | None:
        """The site of that identifier, when it may log people in at `now`, with the purposes that no moratorium stops.

        Never a deployment's audience, of this one or of another with the same issuer of assertions: its nonces are any
        32 bytes, so one of them may be a login's.
        """
        own, client = self._book.deployment(self._deployment), self._book.client(self._deployment, identifier, now)
        if own is None or client is None:
            return None
        deployments = (rule for rule in self._book.rules.values() if isinstance(rule, Deployment))
        if any(rule.audience == identifier and rule.issuer == own.issuer for rule in deployments):
            return None
        is_open = own.begins_at <= now < own.ends_at and now <= self._book.read_at + LONGEST_RULES_AGE_SECONDS
        purposes = tuple(name for name in client.purposes if not is_stopped(own, identifier, name, self._book, now))
        return replace(client, purposes=purposes) if is_open and client.is_in_force(now) and purposes else None

    def read_again(self, now: int) -> None:
        """Takes in what was appended.

        Raises:
            UsageError: the file cannot be read, or is not the earlier one with more entries.
        """
        file, book = self._parse(now)
        if book.signers != self._book.signers or not self._book.rules.items() <= book.rules.items():
            raise UsageError("the rules file lost an entry or changed its signers; rules are only ever added")
        self._file, self._book = file, book

    def endings(self, now: int) -> tuple[Ending, ...]:
        """When what this server serves by ends: its deployment, and the first of the permissions that it needs."""
        own = self._own
        first = permission_ends(own, self._book, now)[0]
        ends = (
            (f"the deployment {own.identifier}", own.ends_at, _REGISTER),
            (f"the permission of {first.jurisdiction} for {first.purpose}", first.ends_at, _PROLONG),
        )
        return tuple(Ending(what, dt.datetime.fromtimestamp(at, dt.UTC), advice) for what, at, advice in ends)

    def stopped(self, now: int) -> dict[str, str]:
        """Purposes of this server's own audience that a moratorium stops now, and what is said of each."""
        own = self._own
        found = {purpose: moratoria_of(own, own.audience, purpose, self._book, now) for purpose in own.purposes}
        named = {purpose: " and ".join(repr(one.identifier) for one in each) for purpose, each in found.items() if each}
        return {purpose: f"{purpose} is stopped by the moratorium {names}" for purpose, names in named.items()}

    def public_entries(self, now: int) -> list[PublicEntry]:
        """Every signed rule as an entry for the log, dated `now` (seconds since 1970)."""
        return [
            PublicEntry(_KINDS[type(SignedRule.from_bytes(line).rule)], now, line)
            for line in self._file.splitlines()[1:]
        ]

    def registered(self, audience: str, purpose: str) -> tuple[str, str]:
        """Both as the log may name them in clear: in the place of what this deployment is not registered for, unknown.

        Else whoever asks could write any name into a log that never forgets.
        """
        own = self._book.deployment(self._deployment)
        is_known = own is not None and (audience == own.audience or self._book.clients(self._deployment, audience))
        return audience if is_known else UNKNOWN, purpose if own is not None and purpose in own.purposes else UNKNOWN

    def pad_level(self, *, checked: bool, certificate: bytes, now: int) -> PadLevel:
        """What stands between a presentation attack and a comparison here; see `Rulebook.pad_level`."""
        return self._book.pad_level(self._deployment, checked=checked, certificate=certificate, now=now)

    def decide(
        self,
        *,
        purpose: str,
        audience: str,
        binding: Binding,
        receipts: bytes,
        release: Standing,
        pad: PadLevel | None,
        now: int,
    ) -> Allowed | Refused:
        """Whether a template may be enrolled or compared; attempts count elsewhere. See `federation.rules.policy`.

        Args:
            purpose: of the session.
            audience: of the session.
            binding: of the template, as this server knows it.
            receipts: signed receipts as they came, one in a line; empty is none.
            release: what the manifest of the release says.
            pad: of this comparison; None for an enrolment.
            now: seconds since 1970.

        Raises:
            MalformedMessageError: a receipt is none of this version.
        """
        return decide(
            Request(self._deployment, audience, purpose, binding),
            consent=consent_to(receipts, audience) if receipts else None,
            attempts=Attempts(),
            rules=self._book,
            release=release,
            pad=pad,
            now=now,
        )

    def decide_to_leave(
        self, purpose: str, audience: str, binding: Binding, release: Standing, *, now: int
    ) -> Allowed | Refused:
        """Whether a template of a former release may be compared to be left; see `decide_for_anybody`.

        Args:
            purpose: of the session.
            audience: of the session.
            binding: of the template that is left.
            release: what the manifest of its release says.
            now: seconds since 1970.
        """
        request = Request(self._deployment, audience, purpose, binding)
        return decide_for_anybody(request, rules=self._book, release=release, now=now)

    def _parse(self, now: int) -> tuple[bytes, Rulebook]:
        try:
            file = self._read()
            return file, Rulebook.from_file(file, read_at=now)
        except OSError as error:
            named = f" {error.filename}" if error.filename else ""
            raise UsageError(f"cannot read the rules{named}: {error.strerror}; no rules, no service") from error
        except (MalformedMessageError, ProofError, RefusedError) as error:
            raise UsageError(f"the rules file is refused: {error}") from error
