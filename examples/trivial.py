"""What Flower costs anyway: an application that sends a vector of zeros to and fro, and does nothing else.

Its nodes import nothing at all; or torch, as Flower's own torch examples do; or Opacus too, as Flower's own example of
private training does, and as an organisation needs for our recipes.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[1]
EXCHANGES: Final = 8
"""As many as a run with the recipe `moments` has (`federation.learning.rounds`)."""
DONE: Final = "trivial: done"
"""What its last line says."""

_PROJECT = """
[project]
name = "trivial"
version = "0.0.1"
description = "What Flower costs anyway."
license = { file = "LICENSE" }
dependencies = ["flwr[simulation]>=1.42,<1.43"]
[tool.flwr.app]
publisher = "trivial"
fab-format-version = 1
flwr-version-target = "1.42.0"
fab-include = ["trivial.py", "LICENSE"]
[tool.flwr.app.components]
serverapp = "trivial:server"
clientapp = "trivial:client"
"""

# It asks for answers as often as `server.coordinator.secure_sums` does; Flower's `send_and_receive` waits for three
# seconds between questions in a deployment. The kind of message is one that a node's policy allows.
_APP = """
import time
import numpy as np
{imports}
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()

def content():
    return RecordDict({{"arrays": ArrayRecord({{"v": Array(np.zeros({numbers}))}})}})

@client.train("moments")
def train(message, context):
    return Message(content(), reply_to=message)

@server.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < {organisations}:
        time.sleep(0.1)
    for _ in range({exchanges}):
        waiting = set(grid.push_messages([Message(content(), node, "train.moments") for node in nodes]))
        while waiting:
            for answer in grid.pull_messages(list(waiting)):
                assert not answer.has_error()
                waiting.remove(answer.metadata.reply_to_message_id)
            if waiting:
                time.sleep(0.1)
    print("{done}", flush=True)
"""


def write_trivial(folder: Path, *, organisations: int, numbers: int, libraries: Sequence[str]) -> Path:
    """Writes the application into a new folder, and returns that.

    Args:
        folder: which does not exist.
        organisations: how many nodes it waits for.
        numbers: length of its vectors.
        libraries: what its nodes import.
    """
    folder.mkdir()
    (folder / "pyproject.toml").write_text(_PROJECT)
    imports = "\n".join(f"import {library}" for library in libraries)
    (folder / "trivial.py").write_text(
        _APP.format(imports=imports, numbers=numbers, organisations=organisations, exchanges=EXCHANGES, done=DONE)
    )
    shutil.copy(CHECKOUT / "LICENSE", folder)  # Flower packs no application without one
    return folder
