"""A private run against trivial ones through the same deployment, which stays up for all of them.

SuperLink with TLS and node authentication, gateway, and three organisations with guard, policy and SuperNode, as
`examples.deployment` sets them up; Flower starts a process for every message. The peers are `examples.trivial`. Their
messages pass gateway, guards and policies like ours.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from examples.deployment.__main__ import (
    DIMENSION,
    ORGANISATIONS,
    join_all,
    set_up,
    write_settings,
)
from examples.deployment.processes import await_health, await_log, running
from examples.federation_bench import OURS, PEERS, take_turns
from examples.trivial import DONE, write_trivial
from examples.usage import Meter, Usage
from server.fleet.members import Coordinator
from server.fleet.submitting import packed
from server.fleet.superlink import connected

_RUN_SECONDS = 900.0


def measure(runs: int) -> dict[str, Usage]:
    """Medians of all who take part, by name: from the submission of a run to the end of what it says.

    The memory is that of the whole deployment, SuperLink and SuperNodes too.
    """
    with tempfile.TemporaryDirectory(prefix="intaglio-deployment-") as name, contextlib.ExitStack() as stack:
        folder, meter = Path(name), stack.enter_context(Meter())
        address, application = set_up(folder)
        server = stack.enter_context(
            running(folder / "coordinator.log", "intaglio-server", "federation", "start", folder / "coordinator")
        )
        await_health(address, folder / "coordinator" / "tls" / "ca.pem", server)
        peers = {
            name: write_trivial(
                folder / f"trivial-{len(libraries)}",
                organisations=len(ORGANISATIONS),
                numbers=2 * DIMENSION,
                libraries=libraries,
            )
            for name, libraries in PEERS.items()
        }
        join_all(folder, application, *peers.values())
        for organisation in ORGANISATIONS:
            log = folder / f"{organisation}.log"
            node = stack.enter_context(running(log, "intaglio", "node", "start", folder / organisation))
            await_log(log, "SuperNode ID", 1, node)
        coordinator = Coordinator(folder / "coordinator")
        settings = tomllib.loads(write_settings(folder).read_text())
        settings["node-names"] = coordinator.node_names()
        contestants = {OURS: partial(_run, coordinator, application, settings, "is written")}
        contestants |= {name: partial(_run, coordinator, peer, {}, DONE) for name, peer in peers.items()}
        return take_turns(meter, contestants, runs)


def _run(coordinator: Coordinator, application: Path, settings: Mapping[str, str | float], last: str) -> None:
    with connected(coordinator.folder) as superlink:
        run = superlink.start(packed(application), settings)
        said = list(superlink.lines(run, until=time.monotonic() + _RUN_SECONDS))
    if not any(last in line for line in said):
        sys.exit("\n".join(["a run failed:", *said]))
