"""A federation of four organisations with made-up people, in files as operators would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import client.node.app
import server.coordinator.app
from federation.identity import IdentityKey
from federation.learning.rounds import ShownLedger
from federation.privacy.charges import application_digest, reservation_name, run_digest
from federation.privacy.plan import PrivacyPlan, SumPlan
from federation.recognition.model import ModelRelease
from federation.secagg.session import roster_from_text, roster_to_text
from server.coordinator.ledger import PrivacyLedger
from tests.people import DIMENSION, synthetic_people
from tests.public_people import CONDITION, synthetic_profile
from tests.simulator import FIRST_NODE, InProcessGrid, server_context

ORGANISATIONS = 4
NAMES = [f"secret person {index:02d}" for index in range(64)]
OF_ORGANISATION = [NAMES[i::ORGANISATIONS] for i in range(ORGANISATIONS)]
CALLED = ("north", "south", "west", "east")


def write_identities(folder: Path, organisations: int = ORGANISATIONS, called: tuple[str, ...] = ()) -> None:
    keys = [IdentityKey.from_secret_bytes(bytes([index + 1]) * 64) for index in range(organisations)]
    for index, key in enumerate(keys):
        (folder / f"{index}.pem").write_bytes(key.to_pem())
    (folder / "roster").write_text(roster_to_text([key.public for key in keys], called))


def write_federation(folder: Path) -> dict[str, Any]:
    """Everything that a run needs; gives its configuration."""
    everybody = synthetic_people(NAMES)
    for index, names in enumerate(OF_ORGANISATION):
        (folder / f"{index}.npz").write_bytes(everybody.of_people(names).to_bytes())
    (folder / "profile.json").write_bytes(synthetic_profile().to_bytes())
    write_identities(folder)
    return {
        "recipe": "moments",
        "epsilon": 8.0,
        "delta": 1e-5,
        "profile": str(folder / "profile.json"),
        "condition": CONDITION,
        "fmr": 0.01,
        "references": 2,
        "frames": 1,
        "people": len(NAMES),
        "num-organisations": ORGANISATIONS,
        "threshold-share": 0.5,
        "steps": 4,
        "gradient-clip": 0.05,
        "colluders": 1,
        "dropouts": 0,
        "population": "synthetic",
        "ledger": str(folder / "ledger.jsonl"),
        "ledger-copies": str(folder / "copies"),
        "budget-epsilon": 8.0,
        "roster": str(folder / "roster"),
        "node-names": "",
        "members": "",
        "release": "",
        "evaluate-groups": "",
        "evaluation-bins": 12,
        "organisations": str(folder),
        "output": str(folder / "release.json"),
        "node-deadline-seconds": 0.05,
        "round-deadline-seconds": 0.3,
    }


def name_the_organisations(config: dict[str, Any]) -> None:
    """Puts names into the roster, and tells the coordinator whose node is which."""
    write_identities(Path(config["organisations"]), called=CALLED)
    config["node-names"] = ",".join(f"{FIRST_NODE + index}={name}" for index, name in enumerate(CALLED))


def run(config: dict[str, Any], *, run_id: int = 1, **grid: Any) -> InProcessGrid:
    nodes = grid.pop("grid", InProcessGrid)(
        client.node.app.app, grid.pop("nodes", ORGANISATIONS), config, run_id=run_id, **grid
    )
    server.coordinator.app.app(nodes, server_context(config, run_id=run_id))
    return nodes


def the_chain(config: dict[str, Any]) -> Any:
    return PrivacyLedger(Path(config["ledger"])).chain()


def ledger_kinds(config: dict[str, Any]) -> list[str]:
    return [entry.kind for entry in the_chain(config).entries]


def the_release(config: dict[str, Any]) -> ModelRelease:
    return ModelRelease.from_bytes(Path(config["output"]).read_bytes())


def the_plan(epsilon: float = 8.0, **change: Any) -> PrivacyPlan:
    directions = synthetic_profile().directions
    values = {"people": len(NAMES), "organisations": ORGANISATIONS, "dimension": DIMENSION, "directions": directions}
    values |= change
    return PrivacyPlan.for_epsilon(epsilon, delta=1e-5, **values)


def agreed_on(config: dict[str, Any], plan: SumPlan) -> str:
    return run_digest(plan, roster_from_text(Path(config["roster"]).read_text()), application_digest())


def reservation_of(config: dict[str, Any], plan: SumPlan, run_id: str = "1") -> str:
    return reservation_name(run_id, agreed_on(config, plan))


def a_charge(config: dict[str, Any], plan: SumPlan, run_id: str = "1", **change: Any) -> ShownLedger:
    """What a coordinator shows after it charged a plan."""
    ledger, name = PrivacyLedger(Path(config["ledger"])), reservation_of(config, plan, run_id)
    ledger.reserve("synthetic", name, plan.noise_multipliers, **({"cap_epsilon": 64.0, "cap_delta": 1e-5} | change))
    return ShownLedger(ledger.chain(), name)
