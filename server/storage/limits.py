"""How often one template may be tried: the rule that bounds guessing. Pure; the storage counts."""

from __future__ import annotations

from dataclasses import dataclass

from federation.errors import RefusedError, UnavailableError, UsageError
from federation.rules.policy import Attempts


class TooSoonError(UnavailableError):
    """Too soon after the last failure: the one reason to try again later that is about the person and no disk."""


@dataclass(frozen=True)
class AttemptHistory:
    """Attempts against one template. An attempt whose decision is not known counts as a failure.

    Attributes:
        attempts: all of them.
        failures: those that did not end in a match.
        failures_in_a_row: attempts since the last match.
        last_at: when the last one was opened, seconds since 1970, or None.
    """

    attempts: int
    failures: int
    failures_in_a_row: int
    last_at: int | None


@dataclass(frozen=True)
class AttemptLimits:
    """Five failures are free, then waiting doubles; fifty failures, or five hundred attempts, end the template's life.

    So NIST SP 800-63B bounds failures (revision 4, section 3.2.3) for systems without presentation attack detection.
    Yes-or-no answers reconstruct a template after thousands of queries, and a *match* is an answer too: whoever was
    accepted once goes on from there, bit by bit, with few failures. An honest device stops at five hundred by itself.

    Attributes:
        free_failures: failures in a row before waiting begins.
        first_delay_seconds: the first wait; it doubles with every further failure, up to a day.
        lifetime_failures: failures after which only a new enrolment helps.
        lifetime_attempts: attempts of any outcome, likewise; the last ones may renew the template.
    """

    free_failures: int = 5
    first_delay_seconds: int = 30
    lifetime_failures: int = 50
    lifetime_attempts: int = 500

    def __post_init__(self) -> None:
        if not 0 < self.free_failures <= self.lifetime_failures or self.first_delay_seconds < 1:
            raise UsageError("limits need 0 < free failures <= lifetime failures and a delay of at least a second")
        if self.lifetime_attempts < self.lifetime_failures:
            raise UsageError("limits need at least as many attempts in a lifetime as failures")

    def standing(self, history: AttemptHistory) -> Attempts:
        """What `federation.rules.policy.decide` needs to know of the counters of one template."""
        excess = history.failures_in_a_row - self.free_failures
        if excess < 0 or history.last_at is None:
            wait_until = 0
        else:
            wait_until = history.last_at + min(self.first_delay_seconds * 2**excess, 86_400)
        used_up = history.failures >= self.lifetime_failures or history.attempts >= self.lifetime_attempts
        return Attempts(used_up=used_up, wait_until=wait_until)

    def require_room(self, history: AttemptHistory, *, now: int) -> None:
        """Returns when another attempt may be made at `now` (seconds since 1970).

        Raises:
            RefusedError: the template has used up its failures.
            TooSoonError: too soon after the last failure.
        """
        standing = self.standing(history)
        if standing.used_up:
            spent = f"{history.failures} failures" if history.failures >= self.lifetime_failures else "all its attempts"
            raise RefusedError(f"this template is closed after {spent}; revoke it and enrol with a new wallet")
        remaining = standing.wait_until - now
        if remaining > 0:
            raise TooSoonError(
                f"{history.failures_in_a_row} attempts in a row have failed; try again in {remaining} seconds",
                retry_after_seconds=remaining,
            )
