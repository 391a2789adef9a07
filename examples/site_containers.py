"""A site of `deploy/compose.yaml` in real containers: `python -m examples.site_containers`, after `make wheel`.

It builds both images, makes keys, rules and log, brings PostgreSQL to the schema, has people enrol and verify with a
witness that cosigns, kills the matching service, takes the database away and gives it back, and ends everything. It
needs Docker with its compose plugin, or podman with podman-compose. What it says is asserted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from examples import crowd
from examples.demo.verifying import BUNDLE, DEPLOYMENT, TERMS, TRUST, Server
from examples.deployment.containers import NO_ENGINE, Engine, find_engine, require_confined
from examples.deployment.processes import say
from federation.transparency import LogPolicy
from federation.wire.ticket import Ticket

ROOT: Final = Path(__file__).resolve().parents[1]
BASE: Final = "python:3.11-slim"
IMAGES: Final = {"service": "intaglio-service", "bridge": "intaglio-bridge"}
_ORIGIN, _CLIENTS = "http://localhost:8080", ("bridge", "person")
_START_SECONDS, _PEOPLE = 180.0, 3
_LISTENS = "import socket; socket.create_connection(('127.0.0.1', 7446)); print('open')"
_SCRAPE = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9100{}').read().decode())"


def build(engine: Engine, base: str, options: Sequence[str]) -> None:
    """Builds both images from the wheel in dist, and says how large they are."""
    if len(list((ROOT / "dist").glob("*.whl"))) != 1:
        raise SystemExit("one wheel is wanted in dist: run `make wheel`")
    for target, image in IMAGES.items():
        named = ("--file", ROOT / "deploy/Containerfile", "--target", target, "--tag", image)
        engine.call("build", *named, "--build-arg", f"BASE={base}", *options, ROOT, seconds=3600)
        size = int(engine.call("image", "inspect", "--format", "{{.Size}}", image))
        say(f"image {image} on {base} has {size / 1e6:.0f} MB")


def intaglio_server(*arguments: object) -> str:
    """Our own program on this machine: whoever makes keys does so before anything runs."""
    command = [str(Path(sys.executable).with_name("intaglio-server")), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - no shell


@dataclass(frozen=True)
class Site(Server):
    """The one in containers, whose database nobody else reaches.

    Attributes:
        engine: runs commands inside.
    """

    engine: Engine

    def ticket(self) -> Ticket:
        """A new one, as its operator issues it."""
        return Ticket.from_text(self.engine.inside("matching", "intaglio-server", "tickets", "issue").strip())


def prepare(site: Path, engine: Engine) -> Site:
    """Everything that the containers mount, as docs/operations.md says; how a person reaches it."""
    matching, bridge, witness, keys = (site / name for name in ("matching", "bridge", "witness", "keys"))
    for folder in (matching, bridge / "tls", witness):
        folder.mkdir(parents=True)
    crowd.write_release(matching)
    (matching / "terms.json").write_text(json.dumps(asdict(TERMS)))
    hosts = ("--host", "localhost", "--host", "matching")
    intaglio_server("pki", "init", keys, *hosts, *(part for name in _CLIENTS for part in ("--client", name)))
    (matching / "tls").mkdir()
    for name in ("ca.pem", "server.pem", "server-key.pem"):
        (matching / "tls" / name).write_bytes((keys / name).read_bytes())
    for name in ("ca.pem", "bridge.pem", "bridge-key.pem"):
        (bridge / "tls" / name).write_bytes((keys / name).read_bytes())
    intaglio_server("log", "init", matching / "log", "verify.example.org/log")
    cosigner = intaglio_server("log", "witness-init", witness / "memory", "witness.example.org/one").strip()
    policy = matching / "log" / "policy"
    log_key = LogPolicy.from_text(policy.read_text()).log_key.to_text()
    (witness / "log.pub").write_text(log_key + "\n")
    policy.write_text(f"log {log_key}\nwitness one {cosigner} http://witness:7446\nquorum one\n")
    intaglio_server("assertions", "init", matching / "assertions", "--issuer", "https://verify.example.org")
    named = ("--terms", matching / "terms.json", "--release", matching / BUNDLE, "--deployment", DEPLOYMENT)
    intaglio_server("rules", "init", matching / "rules", *named, "--assertions", matching / "assertions")
    password = secrets.token_hex(16)
    (site / "database.password").write_text(password)
    (matching / "pgpass").write_text(f"database:5432:*:intaglio:{password}\n")
    shared = f'release = "{BUNDLE}"\nrelease-trust = "{TRUST}"\ntls = "tls"\ndeployment = "{DEPLOYMENT}"\n'
    rules = f'{shared}rules = "{{}}"\n'
    (matching / "intaglio-server.toml").write_text(
        rules.format("rules/rules.jsonl") + 'log = "log"\nassertions = "assertions"\n'
    )
    for name in (BUNDLE, TRUST, "terms.json"):
        (bridge / name).write_bytes((matching / name).read_bytes())
    (bridge / "rules.jsonl").write_bytes((matching / "rules/rules.jsonl").read_bytes())
    (bridge / "policy").write_bytes(policy.read_bytes())
    (bridge / "intaglio-server.toml").write_text(
        rules.format("rules.jsonl") + 'log-policy = "policy"\nterms = "terms.json"\n\n["web start"]\n'
        f'server = "matching:7443"\norigin = "{_ORIGIN}"\nclient = "bridge"\n'
    )
    person = site / "person"
    person.mkdir()
    for name, kept in (("ca.pem", "ca.pem"), ("person.pem", "client.pem"), ("person-key.pem", "client-key.pem")):
        (person / kept).write_bytes((keys / name).read_bytes())
    for name, source in (("rules.jsonl", bridge), ("policy", bridge), (BUNDLE, bridge)):
        (person / name).write_bytes((source / name).read_bytes())
    (matching / "pgpass").chmod(0o600)
    return Site("localhost:7443", person, person / "rules.jsonl", person / "policy", "in its container", 0, engine)


def wait_until(reached: Callable[[], bool], what: str, engine: Engine, service: str = "matching") -> None:
    """Returns once something is so of a service, whose words are shown when it never is."""
    end = time.monotonic() + _START_SECONDS
    while not reached():
        if time.monotonic() > end:
            raise SystemExit(f"{what} in vain; {service} said:\n{engine.log(service)[-3000:]}")
        time.sleep(0.5)


def health(engine: Engine, service: str) -> str:
    """What `/health` inside a container says."""
    return engine.inside(service, "python", "-c", _SCRAPE.format("/health"), check=False).strip()


def _serves(engine: Engine, service: str) -> bool:
    return health(engine, service) == "SERVING"


def metric(engine: Engine, service: str, name: str) -> float:
    """Sum of a metric's samples."""
    text = engine.inside(service, "python", "-c", _SCRAPE.format("/metrics"))
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, flags=re.MULTILINE)))


def story(engine: Engine, server: Server) -> None:
    """The whole story, once images and files are there."""
    engine.composed("up", "-d", "database")
    wait_until(
        lambda: "accepting" in engine.inside("database", "pg_isready", check=False), "waited", engine, "database"
    )
    said = engine.composed("run", "--rm", "-T", "--no-deps", "migrate")
    assert "has schema" in said, said
    say(said.strip().splitlines()[-1])
    require_confined(engine, "matching")
    engine.composed("up", "-d", "witness")
    # A log waits for no witness that was silent when it was asked last.
    wait_until(
        lambda: "open" in engine.inside("witness", "python", "-c", _LISTENS, check=False), "waited", engine, "witness"
    )
    engine.composed("up", "-d", "matching", "bridge")
    for service in ("matching", "bridge"):
        wait_until(partial(_serves, engine, service), f"waited for {service}", engine, service)
    say("matching service and bridge say SERVING at /health")
    crowd.enrol([1, 2, 3], server, server.tls / BUNDLE)
    crowd.verify_again(_PEOPLE, time.time())
    assert metric(engine, "matching", "intaglio_witness_silent") == 0
    compared = metric(engine, "matching", "intaglio_prepared_material_total")
    say(f"three people enrolled and verified on PostgreSQL: {compared:.0f} comparisons, each cosigned by the witness")
    page = engine.inside("bridge", "python", "-c", _SCRAPE.replace("9100{}", "8080/deployment.json"))
    assert json.loads(page)["deployment"] == DEPLOYMENT
    say("the bridge serves the page and its deployment")
    engine.inside("matching", "sh", "-c", "kill -9 -1", check=False)
    wait_until(lambda: health(engine, "matching") == "SERVING", "waited for the matching service again", engine)
    crowd.verify_again(_PEOPLE, time.time())
    say(f"its processes were killed; the engine started it again {engine.state('matching', '{{.RestartCount}}')} times")
    engine.composed("stop", "database")
    wait_until(lambda: metric(engine, "matching", "intaglio_serving") == 0, "waited for NOT_SERVING", engine)
    engine.composed("start", "database")
    wait_until(lambda: health(engine, "matching") == "SERVING", "waited for SERVING with the database", engine)
    crowd.verify_again(_PEOPLE, time.time())
    say("without its database it says NOT_SERVING, and serves again with it")
    engine.composed("stop", "bridge", "matching", "witness", "database")
    ended = {name: engine.state(name, "{{.State.ExitCode}}") for name in ("bridge", "matching", "witness")}
    assert set(ended.values()) == {"0"}, f"not everything ended by itself when it was asked to: {ended}"
    say("bridge, matching service and witness ended when they were asked to")


def run(base: str, postgres: str, options: Sequence[str]) -> None:
    """Everything, and nothing of it is left but the images."""
    with tempfile.TemporaryDirectory(prefix="intaglio-site-") as name:
        site = Path(name) / "site"
        variables = {"SITE": str(site), "POSTGRES_IMAGE": postgres, "PODMAN_USERNS": ""}
        engine = find_engine(site, file=ROOT / "deploy/compose.yaml", project="intaglio-site", variables=variables)
        if engine is None:
            raise SystemExit(NO_ENGINE)
        site.mkdir()
        build(engine, base, options)
        server = prepare(site, engine)
        engine.composed("down", "--volumes", check=False)  # what a run before this one left when it was killed
        owned = " ".join(f"/folder/{name}" for name in ("matching", "bridge", "witness"))
        engine.as_root(IMAGES["service"], "chown", "--recursive", "10001", *owned.split())
        try:
            story(engine, server)
        finally:
            engine.composed("down", "--volumes", check=False)
            engine.as_root(IMAGES["service"], "chown", "--recursive", str(os.getuid()), "/folder")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default=BASE, help=f"image with Python 3.11 and its venv (default: {BASE})")
    parser.add_argument("--postgres", default="postgres:17", help="image of PostgreSQL (default: postgres:17)")
    parser.add_argument(
        "--build-option", action="append", default=[], help="one more for the engine's build; repeatable"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the containers end too
    with contextlib.suppress(KeyboardInterrupt):
        run(options.base, options.postgres, options.build_option)


if __name__ == "__main__":
    main()
