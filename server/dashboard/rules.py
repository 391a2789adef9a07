"""What the public rules let this organisation do, until when, and what stops it: for the organisation's page.

`federation.rules.policy` decides about a request. This sums up, for people, what it will find.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from federation.rules.entries import Deployment, Moratorium, PolicyException
from federation.rules.rulebook import Rulebook


@dataclass(frozen=True)
class Permission:
    """One thing that has to be allowed.

    Attributes:
        what: in words that begin a sentence.
        where: who or where it is about.
        begins_at: first second at which it holds.
        ends_at: first second at which it does not any more.
        is_replaced: whether another deployment is served in its place, or a newer pack follows before it ends.
    """

    what: str
    where: str
    begins_at: int
    ends_at: int
    is_replaced: bool = False


def permissions(book: Rulebook, now: int, served: str | None = None) -> tuple[Permission, ...]:
    """What the registered deployments need: themselves, and each of their purposes in each of their jurisdictions.

    Args:
        book: the public rules.
        now: seconds since 1970.
        served: identifier of the deployment that is served. Where nobody says so, it is the one that began last.
    """
    deployments = sorted(_deployments(book), key=lambda deployment: deployment.ends_at)
    begun = sorted((each for each in deployments if each.begins_at <= now), key=lambda deployment: deployment.begins_at)
    present = {deployment.audience: deployment for deployment in begun}
    if told := book.deployment(served or ""):
        present[told.audience] = told
    found = [
        Permission(
            f"The deployment {deployment.identifier}",
            f"{deployment.audience}: {', '.join(deployment.purposes)}",
            deployment.begins_at,
            deployment.ends_at,
            is_replaced=deployment.begins_at < present.get(deployment.audience, deployment).begins_at,
        )
        for deployment in deployments
    ]
    for place, purpose in _needed(book, now):
        found += _of_purpose(book, place, purpose, now)
    return tuple(found)


def missing(book: Rulebook, now: int) -> tuple[str, ...]:
    """What stops everybody, as sentences."""
    if not any(each.begins_at <= now < each.ends_at for each in _deployments(book)):
        return ("No deployment is in force: nobody can be verified.",)
    return tuple(
        f"Nothing allows {purpose} in {place}: nobody can be verified for it."
        for place, purpose in _needed(book, now)
        if not any(_of_purpose(book, place, purpose, now))
    )


def moratoria_now(book: Rulebook, now: int) -> tuple[Moratorium, ...]:
    """Those that stop something, or will."""
    return tuple(sorted(book.moratoria(now), key=lambda moratorium: moratorium.begins_at))


def _deployments(book: Rulebook) -> list[Deployment]:
    return [rule for rule in book.rules.values() if isinstance(rule, Deployment)]


def _needed(book: Rulebook, now: int) -> list[tuple[str, str]]:
    """Every place and purpose of a deployment that has not ended."""
    live = [deployment for deployment in _deployments(book) if now < deployment.ends_at]
    return sorted({(place, purpose) for each in live for place in each.jurisdictions for purpose in each.purposes})


def _of_purpose(book: Rulebook, place: str, purpose: str, now: int) -> Iterator[Permission]:
    pack = book.pack(place, now)
    if pack is not None:
        for rule in (rule for rule in pack.rules if rule.purpose == purpose):
            end, version = min(pack.ends_at, rule.ends_at), f"policy version {pack.version}"
            replaced = any(begin <= end for begin in book.changes_of_pack(place, now))
            what = f"The permission of {place} for {purpose}"
            yield Permission(what, version, max(pack.begins_at, rule.begins_at), end, replaced)
    for exception in book.rules.values():
        if isinstance(exception, PolicyException) and exception.jurisdiction == place:
            allowed = exception.rule
            if allowed.purpose == purpose and now < allowed.ends_at:
                what = f"The exception {exception.identifier} in {place} for {purpose}"
                yield Permission(what, exception.audience, allowed.begins_at, allowed.ends_at)
