"""A real SuperLink: what a stranger reaches, with and without the gateway; and the whole deployment."""

from __future__ import annotations

import datetime as dt
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab

from federation.errors import UsageError
from federation.identity import IdentityKey
from federation.membership.joining import node_key_line
from federation.secagg.session import roster_to_text
from server.fleet.admission import Members
from server.fleet.call_log import CallLog
from server.fleet.gateway import Gateway, gateway_server, superlink_client
from server.fleet.members import Coordinator
from server.fleet.start import running_superlink
from server.fleet.submitting import packed
from server.fleet.superlink import CERTIFICATE, Superlink, connected
from server.visitors.door import opened_door
from tests.public_people import synthetic_profile

CHECKOUT = Path(__file__).parents[3]
DEPLOYMENT = CHECKOUT / "examples" / "deployment"
PROGRAM = str(Path(sys.executable).parent / "intaglio-server")
PROTOBUF = {"content-type": "application/protobuf"}
ATTACK = {
    "start-run": ("/v1/control/start-run", StartRunRequest(fab=Fab(content=b"code of a stranger"))),
    "acquire-task": ("/v1/runtime/acquire-task", None),
    "pull-task-input": ("/v1/runtime/pull-task-input", None),
    "list-runs": ("/v1/control/list-runs", ListRunsRequest()),
    "register-node": ("/v1/control/register-node", None),
}


def ask(client, path, message):
    body = b"" if message is None else message.SerializeToString()
    return client.post(path, content=body, headers=PROTOBUF).status_code


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    """Clients of the SuperLink and of the gateway in front of it, with the authority's certificate and no key."""
    folder = tmp_path_factory.mktemp("deployment") / "coordinator"
    coordinator = Coordinator.create(folder, address="127.0.0.1:9", now=dt.datetime.now(dt.UTC))
    tls = folder / "tls"
    with running_superlink(coordinator) as address, opened_door("127.0.0.1", 0) as door:
        own, trusted = (ssl.create_default_context(cafile=str(tls / name)) for name in (CERTIFICATE, "ca.pem"))
        upstream = superlink_client(address, tls / CERTIFICATE)
        app = Gateway(upstream, CallLog.of(folder), Members(folder), door=door).app()
        server = gateway_server(app, certificate=tls / "server.pem", key=tls / "server-key.pem")
        thread = threading.Thread(target=server.run, args=([door],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        port = door.getsockname()[1]
        with (
            httpx.Client(base_url=f"https://{address}", verify=own, trust_env=False) as superlink,
            httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trusted, trust_env=False) as gateway,
        ):
            yield superlink, gateway
        server.should_exit = True
        thread.join()


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.parametrize("attack", ATTACK)
def test_a_stranger_reaches_no_control_and_no_runtime_call_through_the_gateway(doors, attack):
    _, gateway = doors
    assert gateway.get("/health").text == "ok"
    assert ask(gateway, *ATTACK[attack]) == 404


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
def test_the_superlink_gives_no_task_without_the_secret_though_it_lists_runs_for_anybody(doors):
    superlink, _ = doors
    assert ask(superlink, *ATTACK["acquire-task"]) == 401
    # The reason for the gateway. When this fails, Flower has closed the hole: see whether the gateway is still needed.
    assert ask(superlink, *ATTACK["list-runs"]) == 200


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
def test_a_fleet_call_without_a_member_s_signature_gets_401_of_the_superlink_and_of_the_gateway(doors):
    for door in doors:
        assert ask(door, "/v1/fleet/pull-messages", None) == 401


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
def test_a_real_superlink_registers_nodes_once_and_forgets_them(doors):
    superlink = Superlink(doors[0])
    keys = [node_key_line(ec.generate_private_key(ec.SECP384R1())) for _ in range(2)]
    first, second = (superlink.register(f"node-{number}", key) for number, key in enumerate(keys))
    assert superlink.register("again", keys[0]) == first
    assert {node: state.is_online for node, state in superlink.nodes().items()} == {first: False, second: False}
    superlink.unregister(first)
    superlink.unregister(first)
    assert set(superlink.nodes()) == {second}
    superlink.unregister(second)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
def test_a_real_superlink_starts_a_run_tells_what_it_says_and_how_it_ended_and_stops_another(doors, tmp_path):
    superlink, until = Superlink(doors[0]), time.monotonic() + 120
    fab = packed(CHECKOUT)
    failing = superlink.start(fab, {"ledger": str(tmp_path / "ledger"), "epsilon": 3, "population": "people"})
    said = "\n".join(superlink.lines(failing, until=until))
    assert "federation.errors.UsageError: set roster in the run configuration" in said
    assert (superlink.run(failing).is_over, superlink.run(failing).end) == (True, "failed")
    stopped = superlink.start(fab, {})
    superlink.stop(stopped)
    assert superlink.run(stopped).end == "stopped"
    assert [state.run for state in superlink.runs()][-2:] == [failing, stopped]
    with pytest.raises(UsageError, match="refused stop-run with status"):
        superlink.stop(stopped)
    with pytest.raises(UsageError, match="refused start-run with status"):
        superlink.start(fab, {"epsilom": 1.0})


@contextmanager
def a_coordinator_process(folder):
    """`federation start` in a process of its own, once its gateway answers; and the ids of what it started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    if not folder.exists():
        Coordinator.create(folder, address=address, now=dt.datetime.now(dt.UTC))
    address = Coordinator(folder).address
    with subprocess.Popen([PROGRAM, "federation", "start", str(folder)], stderr=subprocess.PIPE, text=True) as process:
        try:
            trusted = ssl.create_default_context(cafile=str(folder / "tls" / "ca.pem"))
            with httpx.Client(base_url=f"https://{address}", verify=trusted, trust_env=False) as gateway:
                while not (reached := _is_reached(gateway)) and process.poll() is None:
                    time.sleep(0.2)
            assert reached
            yield process, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        finally:
            process.kill()


def of_program(name, pids):
    return next(pid for pid in pids if name in Path(f"/proc/{pid}/cmdline").read_bytes())


def await_end(pids):
    """Waits for processes that nobody reaps but init, which may take a moment; a zombie has ended."""
    end = time.monotonic() + 30
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() < end, pids
        time.sleep(0.05)


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.parametrize("program", [b"flower-superlink", b"flower-superexec"])
def test_a_coordinator_whose_part_is_killed_ends_with_everything_so_that_it_is_started_again(tmp_path, program):
    with a_coordinator_process(tmp_path / "coordinator") as (process, children):
        os.kill(int(of_program(program, children)), signal.SIGKILL)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 4
        assert "SuperLink or its executor ended" in said
        await_end(children)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
def test_kill_9_of_a_coordinator_in_a_run_leaves_no_orphan_and_the_next_start_ends_that_run(tmp_path):
    folder = tmp_path / "coordinator"
    with a_coordinator_process(folder) as (process, children), connected(folder) as superlink:
        second = subprocess.run([PROGRAM, "federation", "start", folder], capture_output=True, text=True, check=False)
        assert (second.returncode, "a coordinator runs on" in second.stderr) == (4, True)
        settings = settings_of(tmp_path, 64) | {"node-deadline-seconds": 600.0}
        run = superlink.start(packed(CHECKOUT), settings)
        said = next(line for line in superlink.lines(run, until=time.monotonic() + 60) if "trust: " in line)
        assert "secure aggregation" in said
        superexec = of_program(b"flower-superexec", children)
        apps = Path(f"/proc/{superexec}/task/{superexec}/children").read_text().split()
        assert b"serverapp" in Path(f"/proc/{apps[-1]}/cmdline").read_bytes()
        process.kill()
        process.wait()
        await_end([*children, *apps])
    with a_coordinator_process(folder), connected(folder) as superlink:
        assert superlink.run(run).end == "stopped"


def settings_of(folder, people):
    """Settings that a ServerApp reads and then waits for nodes with."""
    (folder / "profile.json").write_bytes(synthetic_profile().to_bytes())
    keys = [IdentityKey.generate().public for _ in range(2)]
    (folder / "roster").write_text(roster_to_text(keys, ("north", "south")))
    return {
        "people": people,
        "num-organisations": 2,
        "population": "people",
        "ledger": str(folder / "ledger.jsonl"),
        "roster": str(folder / "roster"),
        "profile": str(folder / "profile.json"),
        "output": str(folder / "release.json"),
    }


def _is_reached(gateway):
    try:
        return gateway.get("/health").text == "ok"
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.timeout(2500)
def test_four_organisations_live_through_years_on_one_machine(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "examples.deployment", "--folder", str(tmp_path / "federation")],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for said in (
        "the run begins without east",
        "the gateway's certificate ends on",
        "east has new keys",
        "waiting for south since",
        "SuperLink went away while the run was under way",
        "this one goes on from moments",
        "the organisations hold 95 people of the 96 that were planned for",
        "calls, from the first on, head ",
    ):
        assert said in done.stdout
    assert done.stdout.count("is on disk, ") == 2


def test_the_compose_file_shows_the_gateway_and_nothing_else():
    services = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())["services"]
    assert set(services) == {"coordinator", "north", "south", "west"}
    # Containers of organisations reach the coordinator over the network of the file; only the gateway listens there.
    assert all("ports" not in service for name, service in services.items() if name != "coordinator")
    assert services["coordinator"]["ports"] == ["8443:8443"]
    for service in services.values():
        assert service["init"] is True
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert (DEPLOYMENT / service["build"]["dockerfile"].removeprefix("examples/deployment/")).is_file()


def test_every_organisation_mounts_its_own_folder_only():
    services = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        sources = {volume.rpartition(":")[0] for volume in service["volumes"]}
        assert sources == {f"${{FEDERATION:-./federation}}/{name}"}
