"""Runs the whole federation on one machine: a private SuperLink, simulated organisations, one result.

The SuperLink is ours from start to end: own folder, own free port, loopback only, stopped afterwards. A shared one
would run the `client` and `server` packages of whichever checkout started it first. Its control interface has no
password, so anybody with an account on the machine could submit code to it while it runs: this is for demos and tests.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from federation.errors import BudgetExhaustedError, IntaglioError, RoundAbortedError, UnavailableError, UsageError
from federation.identity import IdentityKey
from federation.learning.evaluation_plan import EVALUATE, Group
from federation.learning.group_rates import EvaluationReport
from federation.learning.scales import ChipSet
from federation.membership.fleet import flower_environment
from federation.privacy.plan import MOMENTS, SCALES
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import ModelRelease
from federation.recognition.profile import RecogniserProfile
from federation.secagg.session import roster_to_text
from server.coordinator.application import application_files
from server.coordinator.programs import program_path, stop_group

APP = Path(__file__).resolve().parents[2]
"""The checkout that is packed and run."""

_Settings = dict[str, str | float | int]
_STARTUP_SECONDS = 30.0
_OUR_LINE = re.compile(r"intaglio: (.*)")
_ERROR_LINE = re.compile(r"federation\.errors\.(\w+): (.*)")
_ERRORS = {kind.__name__: kind for kind in (UsageError, BudgetExhaustedError, RoundAbortedError)}


def run_locally(
    organisations: Sequence[EmbeddingSet],
    profile: RecogniserProfile,
    condition: str,
    *,
    epsilon: float,
    population: str,
    ledger: Path,
    budget_epsilon: float,
    delta: float = 1e-5,
    fmr: float = 0.01,
    references: int = 1,
    frames: int = 1,
    recipe: str = MOMENTS,
    steps: int = 4,
    chips: Sequence[ChipSet] = (),
    model: Path | None = None,
    timeout_seconds: float = 300.0,
    progress: Callable[[str], None] = lambda _line: None,
) -> ModelRelease:
    """Trains with Flower on this machine, every organisation in a process that sees its own embeddings only.

    Args:
        organisations: one embedding set for each.
        profile: of the recogniser that embedded the images.
        condition: camera condition of the profile that probes were taken under.
        epsilon: for each person, all releases of the run together.
        population: whose budget pays.
        ledger: the privacy ledger's file.
        budget_epsilon: cap on everything ever released about the population.
        delta: probability of the promise failing.
        fmr: false match rate that the threshold is for.
        references: images that are averaged for a template.
        frames: images that are averaged for a probe.
        recipe: `MOMENTS` or `SCALES`.
        steps: how many steps the recipe `SCALES` takes.
        chips: for it, one set for each organisation; not looked at when the planned noise rules it out.
        model: for it, the folder with the recogniser's weights.
        timeout_seconds: for the whole run.
        progress: gets every line that the coordinator says.

    Raises:
        UsageError: the application's files are not where they should be.
        BudgetExhaustedError: the population's budget has no room; nothing was released.
        RoundAbortedError: the run had no result; says why.
        UnavailableError: Flower's SuperLink did not start.
    """
    with _folder(organisations) as (folder, common):
        for index, images in enumerate(chips):
            (folder / f"{index}.chips.npz").write_bytes(images.to_bytes())
        if model is not None:
            (folder / "model").symlink_to(model.resolve())
        (folder / "profile.json").write_bytes(profile.to_bytes())
        settings: _Settings = common | {
            "epsilon": float(epsilon),
            "delta": float(delta),
            "fmr": float(fmr),
            "profile": str(folder / "profile.json"),
            "condition": condition,
            "references": references,
            "frames": frames,
            "recipe": recipe,
            "steps": steps,
            "population": population,
            "ledger": str(ledger.resolve()),
            "budget-epsilon": float(budget_epsilon),
        }
        return ModelRelease.from_bytes(_carry_out(folder, settings, timeout_seconds, progress))


def evaluate_locally(
    organisations: Sequence[EmbeddingSet],
    groups_of_people: Sequence[Mapping[str, str]],
    release: ModelRelease,
    groups: Sequence[Group],
    *,
    epsilon: float,
    population: str,
    ledger: Path,
    budget_epsilon: float,
    delta: float = 1e-5,
    timeout_seconds: float = 300.0,
    progress: Callable[[str], None] = lambda _line: None,
) -> EvaluationReport:
    """Measures a release privately with Flower on this machine (`server.coordinator.evaluating`).

    Args:
        organisations: one embedding set for each.
        groups_of_people: for each organisation, the group of everybody who is to be measured.
        release: what is measured.
        groups: whose rates are wanted.
        epsilon: for each person.
        population: whose budget pays.
        ledger: the privacy ledger's file.
        budget_epsilon: cap on everything ever released about the population.
        delta: probability of the promise failing.
        timeout_seconds: for the whole run.
        progress: gets every line that the coordinator says.

    Raises:
        UsageError, BudgetExhaustedError, RoundAbortedError, UnavailableError: as for `run_locally`.
    """
    with _folder(organisations) as (folder, common):
        for index, group_of in enumerate(groups_of_people):
            (folder / f"{index}.groups.json").write_text(json.dumps(dict(group_of)))
        (folder / "groups.json").write_text(json.dumps([asdict(group) for group in groups]))
        (folder / "measured.json").write_bytes(release.to_bytes())
        settings: _Settings = common | {
            "epsilon": float(epsilon),
            "delta": float(delta),
            "people": sum(len(group_of) for group_of in groups_of_people),
            "recipe": EVALUATE,
            "population": population,
            "ledger": str(ledger.resolve()),
            "budget-epsilon": float(budget_epsilon),
            "release": str(folder / "measured.json"),
            "evaluate-groups": str(folder / "groups.json"),
        }
        return EvaluationReport.from_bytes(_carry_out(folder, settings, timeout_seconds, progress))


@contextmanager
def _folder(organisations: Sequence[EmbeddingSet]) -> Iterator[tuple[Path, _Settings]]:
    """A folder with the organisations' embeddings and keys, of mode 0700, while a run lasts; and what every run needs.

    Raises:
        UsageError: the application's files are not where they should be.
    """
    if not (APP / "pyproject.toml").is_file():
        raise UsageError("local runs pack the application from its checkout; run from a clone of the repository")
    with tempfile.TemporaryDirectory(prefix="intaglio-run-") as name:
        folder = Path(name)
        for index, organisation in enumerate(organisations):
            (folder / f"{index}.npz").write_bytes(organisation.to_bytes())
        keys = [IdentityKey.generate() for _ in organisations]
        for index, key in enumerate(keys):
            (folder / f"{index}.pem").write_bytes(key.to_pem())
        (folder / "roster").write_text(roster_to_text(key.public for key in keys))
        yield (
            folder,
            {
                "people": sum(len(set(organisation.people.tolist())) for organisation in organisations),
                "num-organisations": len(organisations),
                "ledger-copies": str(folder / "copies"),  # the organisations' keys and ledgers end with the run
                "organisations": str(folder),
                "roster": str(folder / "roster"),
                "output": str(folder / "result.json"),
            },
        )


def _carry_out(folder: Path, settings: _Settings, timeout_seconds: float, progress: Callable[[str], None]) -> bytes:
    """Runs what `folder` holds, and gives the result."""
    (folder / "run.toml").write_text(_toml(settings))
    environment, output = _environment(folder), Path(str(settings["output"]))
    organisations = int(settings["num-organisations"])
    with _superlink(folder, environment) as address:
        nodes = f"num-supernodes={organisations} client-resources-num-cpus=1"
        if settings["recipe"] != SCALES:  # what each process imports takes longer than what all organisations compute
            nodes += " init-args-num-cpus=1"
        error = _submit(folder, environment, address, nodes, timeout_seconds, progress)
    if not output.is_file():
        raise error or RoundAbortedError("the federated run ended without a result and did not say why")
    return output.read_bytes()


def _toml(settings: _Settings) -> str:
    """Flat TOML. Literal strings, so that nothing in a value is an escape.

    Raises:
        UsageError: a text does not fit into one.
    """
    lines = (f"{key} = " + (f"'{value}'" if isinstance(value, str) else repr(value)) for key, value in settings.items())
    text = "\n".join(lines) + "\n"
    try:
        is_same = tomllib.loads(text) == settings
    except tomllib.TOMLDecodeError:
        is_same = False
    if not is_same:
        raise UsageError("names and paths of a run must be plain text without quotes or line breaks")
    return text


def _environment(folder: Path) -> dict[str, str]:
    return flower_environment(os.environ, home=folder / "flwr", interpreter=sys.executable) | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


@contextmanager
def _superlink(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """A SuperLink of our own on a free port, stopped with everything that it started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "superlink.log"
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our interpreter's program, no shell
            [
                program_path("flower-superlink"),
                "--insecure",
                "--simulation",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            cwd=APP,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"127.0.0.1:{port}"
        _await_health(process, f"http://{address}/health", log)
        yield address
    finally:
        stop_group(process)


def _await_health(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _STARTUP_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1.0):  # noqa: S310 - loopback, our own process
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    tail = log.read_text(errors="replace").splitlines()[-1:]
    raise UnavailableError(f"Flower's SuperLink did not start: {' '.join(tail) or 'it said nothing'}")


def _submit(
    folder: Path,
    environment: dict[str, str],
    address: str,
    nodes: str,
    timeout_seconds: float,
    progress: Callable[[str], None],
) -> IntaglioError | None:
    """Submits the run and follows its log to the end. Returns the coordinator's error, if it had one.

    `nodes` is Flower's configuration of those that it simulates.
    """
    home = folder / "flwr"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "intaglio"\n\n[superlink.intaglio]\naddress = "{address}"\ninsecure = true\n'
    )
    command = [
        *(program_path("flwr"), "run", ".", "intaglio", "--stream", "--run-config", str(folder / "run.toml")),
        *("--federation-config", nodes),
    ]
    error: IntaglioError | None = None
    with (
        application_files(APP) as files,
        subprocess.Popen(  # noqa: S603 - our interpreter's program, no shell
            command,
            cwd=files,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        watchdog = threading.Timer(timeout_seconds, process.kill)
        watchdog.start()
        assert process.stdout is not None  # noqa: S101 - for the type checker: stdout is a pipe
        for line in process.stdout:
            if ours := _OUR_LINE.search(line):
                progress(ours[1].strip())
            elif failure := _ERROR_LINE.search(line):
                error = _ERRORS.get(failure[1], RoundAbortedError)(failure[2].strip())
        watchdog.cancel()
    if process.returncode == -signal.SIGKILL:
        return RoundAbortedError(
            f"the run took longer than {timeout_seconds:g} s and was stopped; what it reserved stays charged"
        )
    return error
