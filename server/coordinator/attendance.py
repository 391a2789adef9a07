"""Who takes part in a run: the roster's organisations, as many as are there at the deadline and as the plan needs.

A plan that stands d drop-outs begins without d organisations, as it goes on without them later: who is absent from the
start is a drop-out that came early. A node of an organisation that is not in the run's roster is not asked, and holds
nobody up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from flwr.serverapp import Grid

from federation.errors import RoundAbortedError, UsageError
from federation.privacy.plan import SumPlan

_POLL_SECONDS = 0.1
_SAY_SECONDS = 10.0


class Roster(Protocol):
    """Who may take part; `server.coordinator.secure_sums.Members` knows."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the organisations are called."""

    @property
    def nodes(self) -> Mapping[int, str]:
        """Flower's node ids and whose they are."""


class Attending(Protocol):
    """The settings that matter here; `server.coordinator.runs.RunSettings` has them."""

    @property
    def plan(self) -> SumPlan:
        """How many organisations there are, and how many may be absent."""

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of the members to ask; none means all."""

    @property
    def node_deadline_seconds(self) -> float:
        """How long to wait for all of them."""


def await_nodes(
    grid: Grid, settings: Attending, roster: Roster, say: Callable[[str], None]
) -> tuple[list[int], dict[int, str]]:
    """Waits until every organisation that is asked is there, or until the deadline.

    Args:
        grid: Flower's.
        settings: of the run.
        roster: whose nodes count. Where nobody knows whose node is which, all that are connected count.
        say: is told who is awaited.

    Returns:
        The ids of the nodes to ask, in order; and of the others of the roster, with why they are not asked.

    Raises:
        UsageError: a chosen member is not in the roster, or they are too few for the plan.
        RoundAbortedError: fewer than the plan needs are there; nothing was asked of them and nothing was charged.
    """
    plan, deadline = settings.plan, settings.node_deadline_seconds
    fewest = plan.organisations - plan.dropouts
    of_roster = {node: name for node, name in roster.nodes.items() if name in roster.names}
    _require_choice(settings.chosen, roster.names, fewest)
    wanted = {node: name for node, name in of_roster.items() if not settings.chosen or name in settings.chosen}
    begun = told = time.monotonic()
    while True:
        connected = sorted(grid.get_node_ids())
        nodes = [node for node in connected if node in wanted] if wanted else connected
        if wanted and len(nodes) == len(wanted) >= fewest:
            break
        if not wanted and len(nodes) >= plan.organisations:
            break
        missing = [name for node, name in wanted.items() if node not in nodes]
        if time.monotonic() - begun >= deadline:
            break
        if time.monotonic() - told >= _SAY_SECONDS:
            told = time.monotonic()
            say(f"{len(nodes)} of {plan.organisations} organisations are there{_without(missing, ', waiting for')}")
        time.sleep(_POLL_SECONDS)
    _require_enough(nodes, plan, deadline, [wanted[node] for node in wanted if node not in nodes], named=bool(wanted))
    why = {node: f"it was not there within {deadline:g} s" for node in wanted if node not in nodes}
    why |= {node: "it was not chosen for this run" for node in of_roster if node not in wanted}
    say(
        f"{len(nodes)} of {plan.organisations} organisations are there"
        + (f"; the run begins without {', '.join(sorted(of_roster[node] for node in why))}" if why else "")
    )
    return nodes, why


def _require_choice(chosen: Sequence[str], names: Sequence[str], fewest: int) -> None:
    if strangers := sorted(set(chosen) - set(names)):
        raise UsageError(f"members names {', '.join(strangers)}, and the roster does not")
    if chosen and len(set(chosen)) < fewest:
        raise UsageError(f"members names {len(set(chosen))} organisations, and the plan needs {fewest}")


def _require_enough(nodes: list[int], plan: SumPlan, deadline: float, missing: Sequence[str], *, named: bool) -> None:
    fewest = plan.organisations - plan.dropouts
    if len(nodes) < fewest:
        needed = f" and {fewest} are needed" if plan.dropouts else ""
        raise RoundAbortedError(
            f"only {len(nodes)} of {plan.organisations} organisations were there within {deadline:g} s{needed}"
            f"{_without(missing, ', without')}; nothing was asked of them and nothing was charged. Start the others "
            "and run again"
        )
    if not named and len(nodes) > plan.organisations:
        raise RoundAbortedError(
            f"{len(nodes)} nodes are connected and the plan is for {plan.organisations} organisations; nothing was "
            "charged. Set num-organisations to the number of nodes, or name whose node is which in node-names"
        )


def _without(names: Sequence[str], words: str) -> str:
    return f"{words} {', '.join(sorted(names))}" if names else ""
