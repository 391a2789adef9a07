"""The program that `examples.preparing_bench` measures: prepares a folder, and prints how far it is and what came out.

A line for each part, of how many images are done; and at last what became of them, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from client.faces.degradation import Condition
from client.faces.models import load_recogniser
from client.node.preparing import prepare
from client.preparing.crew import Crew
from client.preparing.parts import Workshop
from examples.preparing_stand_ins import SaidAligner, StandInWorkshop


def main(images: Path, folder: Path, processes: int, ray: str, model: str) -> None:
    """Prepares; without Ray where `ray` is empty, and with stand-ins for the networks where a model of theirs is."""
    stand_in = Path(model) if model else None
    aligner = SaidAligner(load_recogniser(stand_in, one_thread=True)) if stand_in else None
    crew = Crew(processes, ray or None, StandInWorkshop if stand_in else Workshop)
    done = prepare(
        images,
        folder,
        condition=Condition.MASK,
        model=stand_in,
        aligner=aligner,
        crew=crew,
        progress=lambda done, total: print(done, total, flush=True),
    )
    print(json.dumps({"people": done.people, "used": done.images, "resumed": done.resumed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
