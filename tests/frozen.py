"""What a version writes, frozen so that later ones must read it: `python -m tests.frozen`, once for each release.

It writes tests/vectors/releases/VERSION: a server's databases after two people enrolled, verified, and one of them
revoked; log, rules, bundle, terms and trust; the wallets; and `facts.json` with what has to be found in them. The
people are made up, and the passphrase is public.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
import time
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.connection import ClientTls
from client.device.verification import Device
from client.log.policy import read_log_policy
from client.rights.conditions import Conditions
from client.rights.owner import Owner
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet, write_wallet
from examples.crowd import face, write_release
from examples.demo.verifying import BUNDLE, DEPLOYMENT, TERMS, TRUST, Server, one_server, prepare_server
from federation.onebit import Decision
from federation.release.bundle import Bundle
from federation.rules.rulebook import Rulebook
from federation.sealing import ScryptCost

RELEASES = Path(__file__).parent / "vectors/releases"
PASSPHRASE = "correct horse battery"  # noqa: S105 - public
DATABASE, LOG_DATABASE, FACTS = "matching.db", "log/log.db", "facts.json"
PEOPLE = {"stays": 1, "revoked": 2}


@dataclass(frozen=True)
class _Visit:
    """What a person needs to come to a server."""

    server: Server
    bundle: Bundle

    def device(self, wallet: Wallet, **brought: Any) -> Device:
        """Opened by the caller."""
        conditions = Conditions(
            rules=Rulebook.from_file(self.server.rules.read_bytes(), read_at=int(time.time())),
            log=read_log_policy(self.server.log_policy),
            release=self.bundle.release,
            standing=self.bundle.manifest.standing,
            terms=TERMS,
        )
        how = {"target": self.server.target, "tls": ClientTls.read(self.server.tls), "conditions": conditions}
        return Device(wallet, **how, **brought)

    def enrolled(self, person: int) -> Wallet:
        """The wallet of a person who enrolled and verified once."""
        digest = bytes.fromhex(self.bundle.release.digest)
        begun = Enrolment(TERMS.purposes[0], TERMS.audience, digest, EnrolmentState.STARTED, deployment=DEPLOYMENT)
        with self.device(Wallet.generate().with_enrolment(begun), ticket=self.server.ticket()) as device:
            assert device.enrol(face(person), face(person, 1)).decision is Decision.MATCH
            wallet = device.wallet
        with self.device(wallet) as device:
            assert device.verify(face(person, 2)).decision is Decision.MATCH
            return device.wallet

    def revoked(self, wallet: Wallet) -> Wallet:
        """The same after it was revoked."""
        with Owner(wallet, target=self.server.target, tls=ClientTls.read(self.server.tls)) as owner:
            return owner.revoke(read_log_policy(self.server.log_policy))


def freeze(target: Path) -> None:
    """Writes what this version writes into a new folder."""
    with tempfile.TemporaryDirectory(prefix="intaglio-frozen-") as name:
        folder = Path(name)
        bundle = write_release(folder)
        with ExitStack() as running:
            prepare_server(folder, running, witnesses=0)
            server = running.enter_context(one_server(folder, "server", database=str(folder / DATABASE)))
            visit = _Visit(server, bundle)
            wallets = {name: visit.enrolled(person) for name, person in PEOPLE.items()}
            wallets["revoked"] = visit.revoked(wallets["revoked"])
        for file in (DATABASE, LOG_DATABASE):
            with sqlite3.connect(folder / file) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                database.execute("PRAGMA journal_mode = DELETE")
                database.execute("VACUUM")
            database.close()
        target.mkdir(parents=True)
        (target / "log").mkdir()
        kept = (DATABASE, LOG_DATABASE, "log/key", "log/policy", "log/checkpoint", BUNDLE, TRUST, "terms.json")
        for file in kept:
            shutil.copyfile(folder / file, target / file)
        shutil.copyfile(server.rules, target / "rules.jsonl")
        for who, wallet in wallets.items():
            write_wallet(target / f"{who}.wallet", wallet, PASSPHRASE, ScryptCost(15))
        facts = {
            "deployment": DEPLOYMENT,
            "release": bundle.release.digest,
            "keys": {who: wallet.key_id.hex() for who, wallet in wallets.items()},
            "made_at": int(time.time()),
        }
        (target / FACTS).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    version = tomllib.loads((RELEASES.parents[2] / "pyproject.toml").read_text())["project"]["version"]
    freeze(RELEASES / version)
    sys.stdout.write(f"tests/vectors/releases/{version} is what {version} writes\n")
