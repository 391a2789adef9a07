"""What the organisation's page knows, and what it says that needs somebody's attention. Values only.

Everything is public, or the organisation's own. There is no view of a person: the log says nothing about anybody, and
no key id, no receipt and no opening is read for this. A source that cannot be read is a fact too (`Unreadable`).
`server.dashboard.sources` reads, `server.dashboard.page` writes HTML.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

from federation.audit.wolf import require_tame
from federation.consent.purposes import DAY_SECONDS
from federation.errors import RefusedError
from federation.privacy.ledger import Account
from federation.release.bundle import Bundle
from federation.release.manifest import Manifest, Use
from federation.rules.rulebook import Rulebook
from federation.transparency import AttemptOutcome
from federation.verdict import Verdict
from server.coordinator.run_records import Outcome, RunRecord
from server.dashboard.log import LogState, Witnessed
from server.dashboard.rules import missing, moratoria_now, permissions
from server.dashboard.times import date, length
from server.expiry import WARN_DAYS, Ending

RECENT_DAYS: Final = 7
SOON_SECONDS: Final = 14 * DAY_SECONDS
RULES_END_SECONDS: Final = WARN_DAYS * DAY_SECONDS
_NEARLY_SPENT = 0.9
_EXPORT_IS_OLD_SECONDS = 3600
_NOBODY_ASKS_SECONDS = DAY_SECONDS
_WITNESS_SLEEPS_SECONDS = DAY_SECONDS
_RUN_LASTS_SECONDS = 3600
_MANY_REFUSALS = 0.5
_FEWEST_REQUESTS = 20
_RULES_END = "What to do stands under “The rules end” in docs/operations.md."


@dataclass(frozen=True)
class Unreadable:
    """A source that was named and could not be read.

    Attributes:
        reason: what to show.
    """

    reason: str


@dataclass(frozen=True)
class ReleaseState:
    """The release that is served.

    Attributes:
        bundle: its parts fit each other.
        checked: whether somebody said whose signatures count.
        fault: why those do not let it be served; empty when they do, or nothing was checked.
    """

    bundle: Bundle
    checked: bool = False
    fault: str = ""


@dataclass(frozen=True)
class Alert:
    """Something that needs attention.

    Attributes:
        now: whether people are turned away, or harmed, while nobody acts.
        text: a sentence or two.
    """

    now: bool
    text: str


@dataclass(frozen=True)
class Dashboard:
    """What the page says. None is a source that nobody named.

    Attributes:
        release: that is served.
        log: of the matching service.
        rules: that server and devices follow.
        accounts: of the privacy ledger.
        runs: that the ledger paid for, in the order in which they began.
        members: names of the federation's members.
        now: seconds since 1970.
        certificates: of the federation's gateway.
        own: certificates that somebody named.
        deployment: that is served; None where nobody said which.
    """

    release: ReleaseState | Unreadable
    log: LogState | Unreadable
    rules: Rulebook | Unreadable | None
    accounts: tuple[Account, ...] | Unreadable | None
    runs: tuple[RunRecord, ...] | Unreadable | None
    members: tuple[str, ...] | Unreadable | None
    now: int
    certificates: tuple[Ending, ...] | Unreadable | None = None
    own: tuple[Ending, ...] | Unreadable | None = None
    deployment: str | None = None

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """What somebody should look at; first what cannot wait."""
        found = [*self._unreadable(), *self._of_release(), *self._of_log(), *self._of_use()]
        found += [*self._of_rules(), *self._of_ledger(), *self._of_runs(), *self._of_certificates()]
        return tuple(sorted(found, key=lambda alert: not alert.now))

    def _unreadable(self) -> Iterator[Alert]:
        sources = {
            "release": self.release,
            "log": self.log,
            "rules": self.rules,
            "privacy ledger": self.accounts,
            "records of runs": self.runs,
            "list of members": self.members,
            "federation's certificates": self.certificates,
            "certificates": self.own,
        }
        for name, source in sources.items():
            if isinstance(source, Unreadable):
                yield Alert(True, f"The {name} could not be read: {source.reason}")

    def _of_release(self) -> Iterator[Alert]:
        if isinstance(self.release, Unreadable):
            return
        manifest = self.release.bundle.manifest
        if self.release.fault:
            yield Alert(True, f"The release may not be served: {self.release.fault}.")
        elif not manifest.begins_at <= self.now < manifest.ends_at:
            yield Alert(True, "The release is not valid now, so it is not served.")
        elif manifest.audit.verdict is Verdict.FAIL:
            yield Alert(True, "The audit failed, so the release is not served.")
        elif manifest.audit.verdict is Verdict.INSUFFICIENT:
            yield Alert(False, "The audit could not tell enough: only trials of the lowest tier may use this release.")
        elif not _is_tame(manifest):
            yield Alert(True, "A stolen wallet without a face is worth too much, or nobody knows: it is not served.")
        if 0 < manifest.ends_at - self.now < SOON_SECONDS:
            yield Alert(False, f"The release's audit ends on {date(manifest.ends_at)}: audit it again.")
        if isinstance(self.log, LogState) and manifest.claims.digest.hex() not in self.log.releases:
            yield Alert(False, "The log does not publish this release: no server has started with it.")

    def _of_log(self) -> Iterator[Alert]:
        if isinstance(self.log, Unreadable):
            return
        age = self.now - self.log.signed_at
        if self.log.exported and age > _EXPORT_IS_OLD_SECONDS:
            yield Alert(True, f"The log was last exported {length(age)} ago: whoever follows the files refuses them.")
        elif not self.log.exported and age > _NOBODY_ASKS_SECONDS:
            words = "A server signs anew when a device asks, so none does, or the server stands still."
            yield Alert(False, f"The log's newest checkpoint is {length(age)} old. {words}")
        if not self.log.witnesses:
            yield Alert(False, "No witness is named, so nobody outside is known to compare what this log shows.")
        for witness in self.log.witnesses:
            if witness.witnessed is Witnessed.WRONG:
                yield Alert(True, f"The newest checkpoint has a signature of {witness.name} that does not verify.")
            elif witness.witnessed is Witnessed.ABSENT:
                yield Alert(False, f"{witness.name} has not cosigned the newest checkpoint.")
            elif witness.signed_at is not None and self.now - witness.signed_at > _WITNESS_SLEEPS_SECONDS:
                yield Alert(False, f"{witness.name} last looked at the log on {date(witness.signed_at)}.")

    def _of_use(self) -> Iterator[Alert]:
        if isinstance(self.log, Unreadable):
            return
        recent = uses_by_purpose(self.log, self.now // DAY_SECONDS - RECENT_DAYS)
        for purpose, outcomes in sorted(recent.items()):
            asked = sum(outcomes.values())
            refused = asked - outcomes[AttemptOutcome.OPENED.value]
            if asked >= _FEWEST_REQUESTS and refused > _MANY_REFUSALS * asked:
                words = f"{refused} of {asked} requests for {purpose} were refused in the last {RECENT_DAYS} days."
                yield Alert(False, words)

    def _of_rules(self) -> Iterator[Alert]:
        if not isinstance(self.rules, Rulebook):
            return
        for moratorium in moratoria_now(self.rules, self.now):
            begun = moratorium.begins_at <= self.now
            when = "stops verification" if begun else f"will stop verification from {date(moratorium.begins_at)} on"
            yield Alert(begun, f"The moratorium {moratorium.identifier} {when}: {moratorium.reason}")
        for words in missing(self.rules, self.now):
            yield Alert(True, words)
        for permission in permissions(self.rules, self.now, self.deployment):
            if permission.is_replaced:
                continue
            if permission.ends_at <= self.now:
                yield Alert(True, f"{permission.what} has ended on {date(permission.ends_at)}. {_RULES_END}")
            elif permission.ends_at - self.now < RULES_END_SECONDS:
                yield Alert(False, f"{permission.what} ends on {date(permission.ends_at)}. {_RULES_END}")

    def _of_ledger(self) -> Iterator[Alert]:
        if not isinstance(self.accounts, tuple):
            return
        for account in self.accounts:
            if account.epsilon > _NEARLY_SPENT * account.cap_epsilon:
                yield Alert(False, f"The privacy budget of {account.population} is nearly spent.")

    def _of_certificates(self) -> Iterator[Alert]:
        now = dt.datetime.fromtimestamp(self.now, dt.UTC)
        known = [each for each in (self.certificates, self.own) if isinstance(each, tuple)]
        for certificate in chain.from_iterable(known):
            if words := certificate.notice(now):
                yield Alert(certificate.ends_at <= now, f"{words[0].upper()}{words[1:]}.")

    def _of_runs(self) -> Iterator[Alert]:
        if not isinstance(self.runs, tuple):
            return
        for run in self.runs:
            last = run.attempts[-1]
            if run.outcome is Outcome.NOT_ENDED and self.now - last.began_at > _RUN_LASTS_SECONDS:
                since = date(last.began_at)
                yield Alert(False, f"Run {run.run} began on {since} and has not ended. If it died, start it again.")
            if run.outcome is Outcome.INTERRUPTED:
                yield Alert(False, f"Run {run.run} was interrupted: start it again, and it goes on under its charge.")
        if self.runs and self.runs[-1].outcome is Outcome.ABORTED:
            yield Alert(False, f"The last run ended without a release: {self.runs[-1].attempts[-1].reason}")
        if self.runs and self.runs[-1].outcome is Outcome.RELEASED and self.runs[-1].drop_outs:
            names = ", ".join(dict.fromkeys(out.member for out in self.runs[-1].drop_outs))
            yield Alert(False, f"Dropped out of the last run: {names}.")


def _is_tame(manifest: Manifest) -> bool:
    """Whether a release is served for all that a string without a face is worth."""
    try:
        require_tame(manifest.audit.wolf, manifest.claims.fmr, general=manifest.use is Use.GENERAL)
    except RefusedError:
        return False
    return True


def uses_by_purpose(log: LogState, after_day: int = -1) -> Mapping[str, Counter[str]]:
    """Requests by purpose and outcome, on days after `after_day` (days since 1970)."""
    found = dict[str, Counter[str]]()
    for use, count in log.uses.items():
        if use.day > after_day:
            found.setdefault(use.purpose, Counter())[use.outcome] += count
    return found
