"""When what a deployment serves by ends, so that somebody is told before nobody can be verified any more.

`federation.rules.policy` decides about a request. Moratoria are not asked here: they stop, and end nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from federation.rules.entries import Deployment, PolicyException, PolicyPack
from federation.rules.rulebook import Rulebook


@dataclass(frozen=True)
class PermissionEnd:
    """When the permission of one purpose in one jurisdiction ends, whatever allows it until then.

    Attributes:
        jurisdiction: whose.
        purpose: of the deployment.
        ends_at: first second at which nothing allows it any more, since 1970. In the past when it has ended.
    """

    jurisdiction: str
    purpose: str
    ends_at: int


def permission_ends(deployment: Deployment, rules: Rulebook, now: int) -> tuple[PermissionEnd, ...]:
    """The end of each permission that a deployment needs, the earliest first.

    A pack that follows another before that one ends goes on with what it allows. What was never allowed ends `now`,
    also when something is to allow it later: until then nobody is verified.

    Args:
        deployment: for its own audience, in all its jurisdictions.
        rules: as they are known; entries that are added later may change each end.
        now: seconds since 1970.
    """
    ends = [
        PermissionEnd(place, purpose, _end(place, deployment.audience, purpose, rules, now))
        for place in deployment.jurisdictions
        for purpose in deployment.purposes
    ]
    return tuple(sorted(ends, key=lambda end: end.ends_at))


def _end(place: str, audience: str, purpose: str, rules: Rulebook, now: int) -> int:
    def allows(at: int) -> bool:
        return rules.rule_in_force(place, audience, purpose, at) is not None

    ends = sorted({at for at in _times(place, rules) if allows(at - 1) and not allows(at)})
    if not allows(now):
        return max((at for at in ends if at <= now), default=now)
    return next(at for at in ends if at > now)


def _times(place: str, rules: Rulebook) -> Iterator[int]:
    """When what a place allows may end: a pack, a rule of one, an exception, or a pack that another one replaces."""
    for rule in rules.rules.values():
        match rule:
            case PolicyPack() if rule.jurisdiction == place:
                yield from (rule.begins_at, rule.ends_at, *(each.ends_at for each in rule.rules))
            case PolicyException() if rule.jurisdiction == place:
                yield rule.rule.ends_at
            case _:
                pass
