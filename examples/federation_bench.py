"""A whole private run against trivial Flower runs of as many exchanges, all in this very call.

All go through a SuperLink of their own and Flower's simulated nodes, with four organisations, and take turns. Ours
does the accounting, the secure sums, the noise and two charged ledgers besides. The peers are `examples.trivial`: one
imports Opacus with torch, as Flower's own example of private training does and as ours does in one message of eight;
one torch alone, as Flower's own torch examples do; and one nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from examples.made_up import CONDITION, made_up_profile
from examples.simulation import DIMENSION, synthetic_organisation
from examples.trivial import DONE, write_trivial
from examples.usage import Meter, Usage
from federation.recognition.embeddings import EmbeddingSet
from server.coordinator import local_run
from server.coordinator.programs import program_path

ORGANISATIONS, PEOPLE, _PUBLIC_PEOPLE = 4, 6, 45

OURS: Final = "ours"
PEERS: Final = {"trivial run": (), "trivial run, torch": ("torch",), "trivial run, Opacus": ("torch", "opacus")}
"""The others who take part, and what their nodes import."""


def trivial_run(libraries: Sequence[str]) -> None:
    """From a stopped SuperLink to the end."""
    with tempfile.TemporaryDirectory(prefix="intaglio-trivial-") as name:
        folder = Path(name)
        application = write_trivial(
            folder / "application", organisations=ORGANISATIONS, numbers=2 * DIMENSION, libraries=libraries
        )
        environment = local_run._environment(folder)  # noqa: SLF001 - the same Flower as ours, on purpose
        with local_run._superlink(folder, environment) as address:  # noqa: SLF001 - as above
            home = folder / "flwr"
            home.mkdir(exist_ok=True)
            (home / "config.toml").write_text(
                f'[superlink]\ndefault = "x"\n\n[superlink.x]\naddress = "{address}"\ninsecure = true\n'
            )
            done = subprocess.run(  # noqa: S603 - our interpreter's program, no shell
                [
                    *(program_path("flwr"), "run", ".", "x", "--stream"),
                    *("--federation-config", f"num-supernodes={ORGANISATIONS} client-resources-num-cpus=1"),
                ],
                cwd=application,
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
        if DONE not in done.stdout:
            sys.exit(f"the trivial run failed:\n{done.stdout}{done.stderr}")


def our_run() -> None:
    """One private run with the moments recipe, from a stopped SuperLink to the release."""
    random = np.random.default_rng(0)
    profile = made_up_profile({"nowhere": synthetic_organisation(_PUBLIC_PEOPLE, random)})
    sets = [synthetic_organisation(PEOPLE, random) for _ in range(ORGANISATIONS)]
    renamed = [
        EmbeddingSet(s.embeddings, np.char.add(f"{index}-", s.people), s.profiles, s.images)
        for index, s in enumerate(sets)
    ]
    with tempfile.TemporaryDirectory(prefix="intaglio-bench-") as name:
        local_run.run_locally(
            renamed,
            profile,
            CONDITION,
            epsilon=8.0,
            population="made up",
            ledger=Path(name) / "ledger.jsonl",
            budget_epsilon=8.0,
        )


def measure(runs: int) -> dict[str, Usage]:
    """Medians of all who take part in the local runs, by name."""
    with Meter() as meter:
        peers = {name: partial(trivial_run, libraries) for name, libraries in PEERS.items()}
        return take_turns(meter, {OURS: our_run, **peers}, runs)


def take_turns(meter: Meter, contestants: Mapping[str, Callable[[], None]], runs: int) -> dict[str, Usage]:
    """Medians of what each used, one after the other, so many times."""
    used: dict[str, list[Usage]] = {name: [] for name in contestants}
    for _ in range(runs):
        for name, contestant in contestants.items():
            meter.begin()
            contestant()
            used[name].append(meter.usage())
    return {name: Usage(*map(statistics.median, zip(*map(astuple, all_), strict=True))) for name, all_ in used.items()}
