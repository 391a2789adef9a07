"""What an operator sees of a federation: in words, as JSON, and as metrics. And that nothing outlives its parent."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import httpx
import pytest
from flwr.proto.node_pb2 import NodeInfo
from prometheus_client import CollectorRegistry, generate_latest
from typer.testing import CliRunner

from client.node import metrics as node_metrics
from client.node.joining import join
from client.node.ledger import OWN, PEOPLE, Ledgers
from client.node.metrics import NodeMetrics
from client.node.reaching import Reached
from federation.errors import UsageError
from federation.membership.fleet import tethered
from server.cli import app
from server.coordinator.ledger import PrivacyLedger
from server.fleet import status as federation_status
from server.fleet.admission import Members
from server.fleet.call_log import CallLog
from server.fleet.expiry import certificates, ends_at, notice_of_end
from server.fleet.gateway import Gateway
from server.fleet.members import Coordinator
from server.fleet.metrics import FederationMetrics
from server.fleet.run_queue import RunQueue
from server.fleet.submitting import remember_ledger
from server.visitors.door import Door
from tests.server.fleet.a_superlink import FIRST_RUN, ASuperlink, leave_record

NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
SECONDS = int(NOW.timestamp())


@pytest.fixture
def coordinator(tmp_path):
    """Three members, of whom one was never seen and one is unknown to the SuperLink; a ledger, two runs."""
    coordinator = Coordinator.create(tmp_path / "coordinator", address="fed.example.org:8443", now=NOW)
    for number, name in enumerate(("north", "south", "west")):
        _, text = coordinator.invite(name, now=SECONDS)
        signed = join(text, tmp_path / name, now=SECONDS)
        coordinator.approve(signed.to_bytes(), lambda *_, number=number: 100 + number, now=SECONDS)
    ledger = tmp_path / "ledger.jsonl"
    PrivacyLedger(ledger).reserve("staff", "1", (2.0,), cap_epsilon=8.0, cap_delta=1e-5)
    settings = {"ledger": str(ledger), "output": str(tmp_path / "release.json")}
    leave_record(settings, 1, b"a release")
    leave_record(settings, 2, None, reason="south was silent")
    remember_ledger(coordinator.folder, ledger)
    remember_ledger(coordinator.folder, ledger)
    remember_ledger(coordinator.folder, tmp_path / "gone.jsonl")
    return coordinator


@pytest.fixture
def superlink(monkeypatch):
    superlink = ASuperlink()
    came = dt.datetime(2029, 12, 31, 8, tzinfo=dt.UTC).isoformat()
    superlink.nodes = {
        100: NodeInfo(node_id=100, status="online", last_activated_at=came, registered_at=came),
        101: NodeInfo(node_id=101, status="registered", registered_at=came),
    }
    superlink.start_run(b"")
    monkeypatch.setattr(federation_status, "connected", superlink.connected)
    return superlink


def status(folder, *options):
    return CliRunner().invoke(app, ["federation", "status", str(folder), *options])


@pytest.mark.usefixtures("superlink")
def test_status_names_members_runs_budgets_and_certificates(coordinator):
    with RunQueue(coordinator.folder).turn("moments for staff", lambda: False, print):
        done = status(coordinator.folder)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "gateway at fed.example.org:8443; its SuperLink answers"
    assert "member north: online, since 2029-12-31T08:00:00Z" in lines
    assert "member south: offline, never seen" in lines
    assert "member west: the SuperLink does not know its node: revoke it and invite it again" in lines
    assert f"run {FIRST_RUN} is running" in lines
    assert "moments for staff has begun as 1 in the queue" in lines
    assert "runs: 1 aborted, 1 released" in lines
    assert next(line for line in lines if line.startswith("budget of staff: ")).endswith("of 8 is left")
    assert (
        f"the gateway's certificate ends on {ends_at(coordinator.folder / 'tls' / 'server.pem'):%Y-%m-%d}"
        in done.stdout
    )


@pytest.mark.usefixtures("superlink")
def test_status_as_json_says_the_same(coordinator):
    value = json.loads(status(coordinator.folder, "--json").stdout)
    assert value["members"] == {
        "north": {"online": True, "seen_at": int(dt.datetime(2029, 12, 31, 8, tzinfo=dt.UTC).timestamp())},
        "south": {"online": False, "seen_at": None},
        "west": None,
    }
    assert (value["under_way"], value["runs"]) == ([str(FIRST_RUN)], {"released": 1, "aborted": 1})
    assert 0 < value["epsilon_left"]["staff"] < 8
    assert set(value["certificates"]) == {"the gateway's certificate", "the authority of the gateway's certificate"}


def test_status_without_a_superlink_says_what_the_folder_knows_and_ends_with_4(coordinator):
    done = status(coordinator.folder)
    assert done.exit_code == 4
    assert "its SuperLink does not answer" in done.stdout
    assert "member north: nobody knows" in done.stdout
    assert "of 8 is left" in done.stdout


@pytest.mark.parametrize(
    ("days", "said"),
    [(61, ""), (60, "in 60 days: the coordinator runs"), (-1, "expired on 2031-02-02: the coordinator runs")],
)
def test_certificates_are_spoken_of_from_60_days_before_their_end(coordinator, days, said):
    gateway, authority = certificates(coordinator.folder)
    words = gateway.notice(gateway.ends_at - dt.timedelta(days=days))
    assert said in words if said else words == ""
    assert "renew --authority" in authority.notice(authority.ends_at)
    assert authority.notice(gateway.ends_at) == ""


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (dt.timedelta(days=60, seconds=1), ""),
        (dt.timedelta(days=60), "it expires on 2031-02-02, in 60 days: mend it"),
        (dt.timedelta(seconds=1), "it expires on 2031-02-02, in 0 days: mend it"),
        (dt.timedelta(0), "it expired on 2031-02-02: mend it"),
        (-dt.timedelta(seconds=1), "it expired on 2031-02-02: mend it"),
    ],
)
def test_an_end_is_spoken_of_to_the_second(left, said):
    end = dt.datetime(2031, 2, 2, 12, tzinfo=dt.UTC)
    assert notice_of_end("it", end, end - left, "mend it") == said


def test_a_damaged_record_or_ledger_is_named_and_the_rest_is_said(coordinator, superlink, tmp_path):
    (tmp_path / "ledger.jsonl").write_bytes(b"junk\n")
    done = status(coordinator.folder)
    assert done.exit_code == 0
    assert str(tmp_path / "ledger.jsonl") in done.stdout
    assert "member north: online" in done.stdout


# ------------------------------------------------------------------------------------------------------ metrics
def text_of(metrics):
    registry = CollectorRegistry()
    registry.register(metrics)
    return generate_latest(registry).decode()


@pytest.mark.enable_socket
@pytest.mark.usefixtures("superlink")
def test_metrics_of_a_coordinator_tell_runs_members_budgets_certificates_and_refusals(coordinator, tmp_path):
    upstream = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    gateway = Gateway(upstream, CallLog(tmp_path / "calls"), Members(coordinator.folder))
    gateway.refused.update({"stranger": 3, "clock": 2})
    gateway.clocks["south"] = "8 s ahead"
    with Door("127.0.0.1", 0) as door:
        door.turned_away["full"] += 4
        said = text_of(FederationMetrics(coordinator.folder, gateway, door, clock=lambda: NOW))
    for line in (
        "intaglio_federation_superlink_up 1.0",
        'intaglio_federation_runs{state="released"} 1.0',
        'intaglio_federation_runs{state="aborted"} 1.0',
        "intaglio_federation_runs_under_way 1.0",
        "intaglio_federation_runs_waiting 0.0",
        'intaglio_federation_member_online{member="north"} 1.0',
        'intaglio_federation_member_online{member="south"} 0.0',
        'intaglio_federation_certificate_days_left{certificate="the gateway\'s certificate"} 397.0',
        'intaglio_federation_member_clock_wrong{member="south"} 1.0',
        'intaglio_federation_refusals_total{reason="stranger"} 3.0',
        'intaglio_federation_refusals_total{reason="full"} 4.0',
        "intaglio_federation_connections 0.0",
    ):
        assert line in said
    assert 'intaglio_federation_epsilon_left{population="staff"}' in said
    assert 'member_seen_timestamp_seconds{member="south"}' not in said


def test_metrics_of_a_node_tell_budget_certificate_clock_and_refusals(tmp_path):
    ledgers = Ledgers(tmp_path / "ledgers", 16.0)
    metrics = NodeMetrics(ledgers, Counter({"recipe": 2, "coordinator": 1}), clock=lambda: SECONDS)
    before = text_of(metrics)
    assert "intaglio_node_epsilon_left 16.0" in before
    assert "intaglio_node_gateway_reached 0.0" in before
    assert "certificate_days_left" not in before
    (tmp_path / "ledgers").mkdir()
    (tmp_path / "ledgers" / OWN).write_bytes(b"damaged")
    damaged = text_of(metrics)  # the others are shown all the same
    assert "intaglio_node_epsilon_left" not in damaged
    assert 'intaglio_node_refusals_total{reason="recipe"} 2.0' in damaged
    (tmp_path / "ledgers" / OWN).unlink()
    ledgers.charge("a run/moments/of something", 2.0)
    metrics.reached = Reached(1.5, SECONDS + 10 * 86_400)
    after = text_of(metrics)
    (left,) = [float(line.split()[1]) for line in after.splitlines() if line.startswith("intaglio_node_epsilon_left ")]
    assert left == 16.0 - ledgers.own().accounts()[0].epsilon
    assert ledgers.own().accounts()[0].population == PEOPLE
    for line in (
        "intaglio_node_certificate_days_left 10.0",
        "intaglio_node_clock_ahead_seconds 1.5",
        'intaglio_node_refusals_total{reason="recipe"} 2.0',
    ):
        assert line in after


@pytest.mark.integration
@pytest.mark.enable_socket
def test_metrics_of_a_node_are_shown_on_the_chosen_interface_until_they_are_hidden(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    metrics = NodeMetrics(Ledgers(tmp_path, 16.0), Counter())
    hide = node_metrics.show(metrics, "127.0.0.1", port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        assert b"intaglio_node_epsilon_left 16.0" in reply.read()
    with pytest.raises(UsageError, match="cannot listen on"):
        node_metrics.show(metrics, "127.0.0.1", port)
    hide()
    with socket.create_server(("127.0.0.1", port)):
        pass


# ------------------------------------------------------------------------------------------- nothing is left over
def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def a_parent(tmp_path, tether):
    """A process that starts another one and waits; the two process ids."""
    command = ["/bin/sleep", "600"]
    command = tethered(command, interpreter=sys.executable, parent=0) if tether else command
    code = (
        "import json, os, subprocess, sys, time\n"
        "command = json.loads(sys.argv[1])\n"
        "if '0' in command: command[command.index('0')] = str(os.getpid())\n"
        "child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, json.dumps(command)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    while b"sleep" not in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]:
        time.sleep(0.01)
    return parent, child


@pytest.mark.integration
@pytest.mark.parametrize("tether", [True, False])
def test_what_is_tethered_dies_with_a_parent_that_is_killed_and_nothing_else_does(tmp_path, tether):
    parent, child = a_parent(tmp_path, tether)
    parent.kill()
    parent.communicate()
    if tether:
        end = time.monotonic() + 30
        while is_alive(child):
            assert time.monotonic() < end
            time.sleep(0.01)
    else:
        assert is_alive(child)
        os.kill(child, signal.SIGKILL)


@pytest.mark.integration
def test_what_is_tethered_to_a_process_that_is_gone_does_not_begin():
    command = tethered(["/bin/sleep", "600"], interpreter=sys.executable, parent=1)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "is gone" in done.stderr) == (1, True)
