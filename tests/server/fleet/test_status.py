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
from types import SimpleNamespace

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
from federation.privacy.plan import epsilon_of_gaussians
from server.cli import app
from server.coordinator.ledger import PrivacyLedger
from server.expiry import ends_at, notice_of_end
from server.fleet import status as federation_status
from server.fleet.admission import Members
from server.fleet.call_log import CallLog
from server.fleet.expiry import certificates
from server.fleet.gateway import Gateway
from server.fleet.members import Coordinator
from server.fleet.metrics import FederationMetrics
from server.fleet.run_queue import RunQueue
from server.fleet.status import FederationStatus
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
    for end in ("", "completed"):
        superlink.start_run(b"")
        if end:
            superlink.end(list(superlink.runs)[-1], end)
    monkeypatch.setattr(federation_status, "connected", superlink.connected)
    return superlink


def status(folder, *options):
    return CliRunner().invoke(app, ["federation", "status", str(folder), *options])


def left_of_staff():
    return 8.0 - epsilon_of_gaussians((2.0,), 1e-5)


@pytest.fixture
def a_queue(coordinator):
    queue = RunQueue(coordinator.folder)
    with queue.turn("moments for staff", lambda: False, print):
        _, waits = queue._join("scales for visitors")
        yield
        waits.close()


@pytest.mark.usefixtures("superlink", "a_queue")
def test_status_names_members_runs_budgets_and_certificates(coordinator):
    done = status(coordinator.folder)
    assert done.exit_code == 0, done.output
    gateway, authority = (ends_at(coordinator.folder / "tls" / name) for name in ("server.pem", "ca.pem"))
    left = [(end - dt.datetime.now(dt.UTC)).total_seconds() / 86_400 for end in (gateway, authority)]
    assert done.stdout.splitlines() == [
        "gateway at fed.example.org:8443; its SuperLink answers",
        f"the gateway's certificate ends on {gateway:%Y-%m-%d}, in {left[0]:.0f} days",
        f"the authority of the gateway's certificate ends on {authority:%Y-%m-%d}, in {left[1]:.0f} days",
        "member north: online, since 2029-12-31T08:00:00Z",
        "member south: offline, never seen",
        "member west: the SuperLink does not know its node: revoke it and invite it again",
        f"run {FIRST_RUN} is running",
        "moments for staff has begun as 1 in the queue",
        "scales for visitors waits as 2 in the queue",
        "runs: 1 aborted, 1 released",
        f"budget of staff: {left_of_staff():.2f} of 8 is left",
    ]


@pytest.mark.usefixtures("superlink", "a_queue")
def test_status_as_json_says_the_same(coordinator):
    value = json.loads(status(coordinator.folder, "--json").stdout)
    ends = value.pop("certificates")
    assert value == {
        "address": "fed.example.org:8443",
        "superlink": True,
        "members": {
            "north": {"online": True, "seen_at": int(dt.datetime(2029, 12, 31, 8, tzinfo=dt.UTC).timestamp())},
            "south": {"online": False, "seen_at": None},
            "west": None,
        },
        "under_way": [str(FIRST_RUN)],
        "queue": ["moments for staff", "scales for visitors"],
        "runs": {"released": 1, "aborted": 1},
        "epsilon_left": {"staff": pytest.approx(left_of_staff())},
        "unreadable": [],
    }
    for what, name in (("", "server.pem"), ("the authority of ", "ca.pem")):
        left = ends_at(coordinator.folder / "tls" / name) - dt.datetime.now(dt.UTC)
        days = left.total_seconds() / 86_400
        assert ends.pop(f"{what}the gateway's certificate") == pytest.approx(days, abs=0.01)
    assert ends == {}


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
    named = [line for line in done.stdout.splitlines() if line.startswith(f"{tmp_path / 'ledger.jsonl'}: ")]
    value = json.loads(status(coordinator.folder, "--json").stdout)
    assert (len(named), value["unreadable"], value["epsilon_left"]) == (1, named, {})
    assert value["runs"] == {"released": 1, "aborted": 1}


@pytest.mark.usefixtures("superlink")
def test_a_ledger_is_summed_up_again_when_it_has_changed_and_not_with_every_look(coordinator, monkeypatch):
    looks = []
    read = lambda data: looks.append(data) or SimpleNamespace(accounts=lambda: (data,))  # noqa: E731 - one expression
    monkeypatch.setattr(federation_status, "ledger_from_file", read)
    ledger, other = (coordinator.folder.parent / name for name in ("ledger.jsonl", "other.jsonl"))
    first = ledger.read_bytes()
    for _ in range(2):
        assert FederationStatus.read(coordinator.folder).accounts == (first,)
    ledger.write_bytes(b"more")
    os.utime(ledger, ns=(1, ledger.stat().st_mtime_ns + 1))
    other.write_bytes(b"another")
    remember_ledger(coordinator.folder, other)
    assert FederationStatus.read(coordinator.folder).accounts == (b"more", b"another")
    assert looks == [first, b"more", b"another"]


# ------------------------------------------------------------------------------------------------------ metrics
def text_of(metrics):
    registry = CollectorRegistry()
    registry.register(metrics)
    return generate_latest(registry).decode()


def samples(metrics):
    """Every value that Prometheus would read."""
    said = (line.rpartition(" ") for line in text_of(metrics).splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in said}


@pytest.mark.enable_socket
@pytest.mark.usefixtures("superlink", "a_queue")
def test_metrics_of_a_coordinator_tell_runs_members_budgets_certificates_and_refusals(coordinator, tmp_path):
    upstream = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    gateway = Gateway(upstream, CallLog(tmp_path / "calls"), Members(coordinator.folder))
    gateway.refused.update({"stranger": 3, "clock": 2, "full": 1})
    gateway.clocks["south"] = "8 s ahead"
    came = dt.datetime(2029, 12, 31, 8, tzinfo=dt.UTC).timestamp()
    with Door("127.0.0.1", 0) as door, socket.create_connection(door.getsockname()[:2]):
        connection, _ = door.accept()
        door.turned_away["full"] += 4
        found = samples(FederationMetrics(coordinator.folder, gateway, door, clock=lambda: NOW))
        connection.close()
    assert found.pop('intaglio_federation_epsilon_left{population="staff"}') == pytest.approx(left_of_staff())
    assert {name.removeprefix("intaglio_federation_"): value for name, value in found.items()} == {
        "superlink_up": 1,
        'runs{state="released"}': 1,
        'runs{state="aborted"}': 1,
        "runs_under_way": 1,
        "runs_waiting": 1,
        'member_online{member="north"}': 1,
        'member_online{member="south"}': 0,
        'member_seen_timestamp_seconds{member="north"}': came,
        'certificate_days_left{certificate="the gateway\'s certificate"}': 397,
        'certificate_days_left{certificate="the authority of the gateway\'s certificate"}': 3650,
        'member_clock_wrong{member="south"}': 1,
        "connections": 1,
        'refusals_total{reason="stranger"}': 3,
        'refusals_total{reason="clock"}': 2,
        'refusals_total{reason="full"}': 5,
    }


@pytest.mark.enable_socket
def test_metrics_of_a_coordinator_without_a_superlink_tell_that(coordinator, tmp_path):
    upstream = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    gateway = Gateway(upstream, CallLog(tmp_path / "calls"), Members(coordinator.folder))
    with Door("127.0.0.1", 0) as door:
        found = samples(FederationMetrics(coordinator.folder, gateway, door, clock=lambda: NOW))
    assert found["intaglio_federation_superlink_up"] == found["intaglio_federation_runs_under_way"] == 0
    assert not any("member_online" in name for name in found)
    assert found['intaglio_federation_runs{state="released"}'] == 1


def test_metrics_of_a_node_tell_budget_certificate_clock_and_refusals(tmp_path):
    ledgers = Ledgers(tmp_path / "ledgers", 16.0, 1e-5)
    refused = {
        'intaglio_node_refusals_total{reason="recipe"}': 2,
        'intaglio_node_refusals_total{reason="coordinator"}': 1,
    }
    metrics = NodeMetrics(ledgers, Counter({"recipe": 2, "coordinator": 1}), clock=lambda: SECONDS)
    silent = {"intaglio_node_gateway_reached": 0} | refused
    assert samples(metrics) == {"intaglio_node_epsilon_left": 16} | silent
    (tmp_path / "ledgers").mkdir()
    (tmp_path / "ledgers" / OWN).write_bytes(b"damaged")
    assert samples(metrics) == silent  # the others are shown all the same
    (tmp_path / "ledgers" / OWN).unlink()
    metrics.reached = Reached(1.5, SECONDS + 10 * 86_400)
    for charged in (("a run/moments/of something", 2.0), ("another/moments/of something", 3.0)):
        ledgers.charge(*charged)
        (account,) = ledgers.own().accounts()
        assert account.population == PEOPLE
        assert samples(metrics) == refused | {
            "intaglio_node_epsilon_left": 16 - account.epsilon,
            "intaglio_node_gateway_reached": 1,
            "intaglio_node_certificate_days_left": 10,
            "intaglio_node_clock_ahead_seconds": 1.5,
        }


@pytest.mark.integration
@pytest.mark.enable_socket
def test_metrics_of_a_node_are_shown_on_the_chosen_interface_until_they_are_hidden(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    metrics = NodeMetrics(Ledgers(tmp_path, 16.0, 1e-5), Counter())
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
