"""A whole private run against a trivial Flower run of as many exchanges, both in this very call.

Both go through a SuperLink of their own and Flower's simulated nodes, with four organisations. The trivial one is what
Flower costs anyway: its nodes import torch, as Flower's own torch examples do, and answer each exchange with a vector
as long as ours. Ours does the accounting, the secure sums, the noise and two charged ledgers besides.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from examples.simulation import DIMENSION, synthetic_organisation
from federation.embeddings import EmbeddingSet
from server import local_run
from server.programs import program_path

ORGANISATIONS, PEOPLE, EXCHANGES = 4, 6, 8

_PROJECT = """
[project]
name = "trivial"
version = "0.0.1"
description = "What Flower costs anyway."
license = { file = "LICENSE" }
dependencies = ["flwr[simulation]>=1.41,<1.42"]
[tool.flwr.app]
publisher = "trivial"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["trivial.py", "LICENSE"]
[tool.flwr.app.components]
serverapp = "trivial:server"
clientapp = "trivial:client"
"""

_APP = f"""
import time
import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()
VECTOR = np.zeros({2 * DIMENSION})

@client.train()
def train(message, context):
    return Message(RecordDict({{"arrays": ArrayRecord({{"v": Array(VECTOR)}})}}), reply_to=message)

@server.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < {ORGANISATIONS}:
        time.sleep(0.1)
    for _ in range({EXCHANGES}):
        content = RecordDict({{"arrays": ArrayRecord({{"v": Array(VECTOR)}})}})
        answers = list(grid.send_and_receive([Message(content, node, "train") for node in nodes]))
        assert len(answers) == {ORGANISATIONS} and not any(answer.has_error() for answer in answers)
    print("trivial: done", flush=True)
"""


def _children_mebibytes() -> float:
    """The largest peak of any process that this one started and that has ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def trivial_run() -> float:
    """Seconds of the trivial run, from a stopped SuperLink to the end."""
    with tempfile.TemporaryDirectory(prefix="intaglio-trivial-") as name:
        folder = Path(name)
        application = folder / "application"
        application.mkdir()
        (application / "pyproject.toml").write_text(_PROJECT)
        (application / "trivial.py").write_text(_APP)
        shutil.copy(local_run.APP / "LICENSE", application)  # Flower packs no application without one
        environment = local_run._environment(folder)  # noqa: SLF001 - the same Flower as ours, on purpose
        begun = time.monotonic()
        with local_run._superlink(folder, environment) as address:  # noqa: SLF001 - as above
            home = folder / "flwr"
            home.mkdir(exist_ok=True)
            (home / "config.toml").write_text(
                f'[superlink]\ndefault = "x"\n\n[superlink.x]\naddress = "{address}"\ninsecure = true\n'
            )
            done = subprocess.run(  # noqa: S603 - our interpreter's program, no shell
                [
                    *(program_path("flwr"), "run", str(application), "x", "--stream"),
                    *("--federation-config", f"num-supernodes={ORGANISATIONS} client-resources-num-cpus=1"),
                ],
                cwd=application,
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
        if not re.search("trivial: done", done.stdout):
            sys.exit(f"the trivial run failed:\n{done.stdout}{done.stderr}")
        return time.monotonic() - begun


def our_run() -> float:
    """Seconds of one private run with the moments recipe, from a stopped SuperLink to the release."""
    random, start = np.random.default_rng(0), np.eye(DIMENSION)[0] * 0.93
    sets = [synthetic_organisation(PEOPLE, random) for _ in range(ORGANISATIONS)]
    renamed = [
        EmbeddingSet(s.embeddings, np.char.add(f"{index}-", s.people), s.profiles, s.images)
        for index, s in enumerate(sets)
    ]
    with tempfile.TemporaryDirectory(prefix="intaglio-bench-") as name:
        begun = time.monotonic()
        local_run.run_locally(
            renamed,
            start,
            epsilon=8.0,
            population="made up",
            ledger=Path(name) / "ledger.jsonl",
            budget_epsilon=8.0,
            model_name="synthetic",
            model_digest="ab" * 32,
        )
        return time.monotonic() - begun


_NODE = "import client.app"
_ACCOUNTING = f"{_NODE}; from federation.privacy import epsilon_of_gaussians as e; e((1.34, 0.67), 1e-5)"
_TRAINING = f"{_ACCOUNTING}; import federation.clipping"
OUR_MESSAGES = (_ACCOUNTING, _NODE, _TRAINING, _NODE, _NODE, _ACCOUNTING, _NODE, _NODE)
"""What a node loads and accounts for in each message of a run, in their order (`federation.rounds`)."""
TRIVIAL_MESSAGE = "import torch; from flwr.clientapp import ClientApp"


def node_processes() -> tuple[float, float]:
    """CPU seconds that one node's processes of a run take to start in a deployment, ours and the trivial one's.

    There Flower starts a process for every message. What is computed on data is in neither.
    """
    started = [sum(map(_cpu_seconds, codes)) for codes in (OUR_MESSAGES, (TRIVIAL_MESSAGE,) * EXCHANGES)]
    return started[0], started[1]


def _cpu_seconds(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], cwd=local_run.APP, check=True)  # noqa: S603 - our interpreter
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(rounds: int = 3) -> tuple[float, float, float, float]:
    """Median seconds of ours and of the trivial run, which take turns, and the peak MiB of a process of each."""
    ours, theirs, peak = [], [], [0.0, 0.0]
    for _ in range(rounds):
        theirs.append(trivial_run())
        peak[1] = _children_mebibytes()
        ours.append(our_run())
        peak[0] = _children_mebibytes()
    return float(np.median(ours)), float(np.median(theirs)), peak[0], peak[1]
