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
from pathlib import Path

import httpx
import pytest
import yaml
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab

from server.federation_admin import Coordinator
from server.federation_start import CALLS, running_superlink
from server.gateway import CallLog, gateway_app, gateway_server, superlink_client

CHECKOUT = Path(__file__).parents[1]
DEPLOYMENT = CHECKOUT / "examples" / "deployment"
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
    authority, tls = folder / "tls" / "ca.pem", folder / "tls"
    trusted = ssl.create_default_context(cafile=str(authority))
    with running_superlink(coordinator) as address:
        app = gateway_app(superlink_client(address, authority), CallLog.open(folder / CALLS))
        server = gateway_server(
            app, host="127.0.0.1", port=0, certificate=tls / "server.pem", key=tls / "server-key.pem"
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        with (
            httpx.Client(base_url=f"https://{address}", verify=trusted, trust_env=False) as superlink,
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
def test_a_fleet_call_without_a_node_key_gets_the_superlinks_401_through_the_gateway(doors):
    _, gateway = doors
    assert ask(gateway, "/v1/fleet/pull-messages", None) == 401


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
def test_a_coordinator_whose_superlink_is_killed_ends_with_everything_so_that_it_is_started_again(tmp_path):
    folder = tmp_path / "coordinator"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    Coordinator.create(folder, address=address, now=dt.datetime.now(dt.UTC))
    program = str(Path(sys.executable).parent / "intaglio-server")
    with subprocess.Popen([program, "federation", "start", str(folder)], stderr=subprocess.PIPE, text=True) as process:
        trusted = ssl.create_default_context(cafile=str(folder / "tls" / "ca.pem"))
        with httpx.Client(base_url=f"https://{address}", verify=trusted, trust_env=False) as gateway:
            while not (reached := _is_reached(gateway)) and process.poll() is None:
                time.sleep(0.2)
        assert reached
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        superlink = next(pid for pid in children if b"flower-superlink" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(int(superlink), signal.SIGKILL)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 4
    assert "SuperLink or its executor ended" in said
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def _is_reached(gateway):
    try:
        return gateway.get("/health").text == "ok"
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.timeout(2500)
def test_coordinator_and_three_organisations_train_on_one_machine(tmp_path):
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
    assert "is written" in done.stdout
    assert "stays charged" in done.stdout
    assert "this one goes on from moments" in done.stdout


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
