"""What each command of a coordinator says, whole, on which stream, and what it leaves when somebody says no."""

from __future__ import annotations

import datetime as dt
import time
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from client.node.joining import join
from client.node.renewing import rekey, trust
from federation.errors import UsageError
from federation.membership.fleet import Asked
from federation.membership.joining import invitation_from_text
from federation.membership.renewal import notice_from_text
from federation.secagg.session import roster_names
from server.cli import app
from server.expiry import ends_at
from server.fleet import cli as fleet_cli
from server.fleet import upkeep_cli
from server.fleet.call_log import CallLog
from server.fleet.members import Coordinator
from tests.server.fleet.a_superlink import ASuperlink, leave_record
from tests.server.fleet.test_renewal import files_of

SEND = "send this line to every organisation: `intaglio node notice`. "


@pytest.fixture
def superlink(monkeypatch):
    superlink = ASuperlink()
    for module in (fleet_cli, upkeep_cli):
        monkeypatch.setattr(module, "connected", superlink.connected)
    return superlink


def run(*words, answer=None):
    """(exit status, stdout, stderr); with an answer, somebody sits there and gives it."""
    done = CliRunner().invoke(app, ["federation", *map(str, words)], input=answer)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def coordinator(tmp_path):
    return Coordinator.create(tmp_path / "c", address="fed.example.org:8443", now=dt.datetime.now(dt.UTC))


def a_request(coordinator, folder, name):
    _, text = coordinator.invite(name, now=int(time.time()))
    return join(text, folder / name, now=int(time.time())).request


@pytest.fixture
def two(coordinator, superlink, tmp_path):
    """Two members, whose nodes the SuperLink knows as 100 and 101."""
    for name in ("north", "south"):
        asked = a_request(coordinator, tmp_path, name)
        said = run("approve", tmp_path / name / "request.json", coordinator.folder, "--fingerprint", asked.fingerprint)
        node = {"north": 100, "south": 101}[name]
        assert said == (0, f"{name} is a member; its node is {node}\n", "")
    return coordinator.members()


def test_a_federation_is_made_and_somebody_invited_by_a_line_and_a_fingerprint_on_the_other_stream(tmp_path):
    code, out, err = run("init", tmp_path / "new", "--address", "fed.example.org:1")
    made = Coordinator(tmp_path / "new")
    assert (code, out, err) == (0, f"federation {made.federation.hex()} at fed.example.org:1\n", "")
    code, out, err = run("invite", "north", tmp_path / "new", "--days", 3)
    invitation = invitation_from_text(out.strip())
    assert (code, err) == (0, f"coordinator's fingerprint, to read out: {invitation.coordinator_fingerprint}\n")
    assert abs(invitation.expires_at - time.time() - 3 * 86_400) < 60


def test_members_and_their_roster_are_listed_all_or_some(two, coordinator):
    lines = [f"{member.name}  {member.node}  {member.signed.request.fingerprint}\n" for member in two]
    assert run("members", coordinator.folder) == (0, "".join(lines), "")
    assert run("roster", coordinator.folder) == (0, coordinator.roster(), "")
    code, out, _ = run("roster", coordinator.folder, "--member", "south")
    assert (code, out, roster_names(out)) == (0, coordinator.roster(["south"]), ("south",))


def test_a_membership_ends_with_a_word(two, coordinator, superlink):
    assert run("revoke", "south", coordinator.folder) == (0, "south is no member any more\n", "")
    assert [member.name for member in coordinator.members()] == ["north"]
    assert {node: state.status for node, state in superlink.nodes.items()} == {100: "registered", 101: "unregistered"}


@pytest.mark.parametrize("answer", ["n\n", "\n", "y\n"])
def test_whoever_sits_there_is_asked_whether_it_is_the_same_and_anything_but_yes_changes_nothing(
    coordinator, superlink, tmp_path, monkeypatch, answer
):
    """`--fingerprint` is for who has it in writing; on the telephone one is asked."""
    asked = a_request(coordinator, tmp_path, "north")
    monkeypatch.setattr(upkeep_cli, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    question = f"north must read out: {asked.fingerprint}\nIs it the same? [y/N]: "
    before = files_of(coordinator.folder)
    words = ("approve", tmp_path / "north/request.json", coordinator.folder)
    code, out, err = run(*words, answer=answer)
    if answer != "y\n":
        assert (code, out.startswith(question)) == (130, True)
        assert (files_of(coordinator.folder), superlink.calls) == (before, [])
        code, out, err = run(*words, answer="y\n")
    assert (code, err) == (0, "")
    assert out.endswith("north is a member; its node is 100\n")
    trust(coordinator.roster(), tmp_path / "north", replace=False)
    asked = rekey(tmp_path / "north").signed.request
    question = f"north must read out: {asked.fingerprint}\nIs it the same? [y/N]: "
    before, calls = files_of(coordinator.folder), len(superlink.calls)
    words = ("rekey", tmp_path / "north/rekey.json", coordinator.folder)
    code, out, err = run(*words, answer=answer)
    assert out.startswith(question)
    if answer == "y\n":
        assert code == 0
        assert out.endswith("north has new keys; its node is 101. Give everybody the new roster\n")
        assert err == f"its new fingerprint, for the others: {asked.fingerprint}\n"
        assert superlink.nodes[100].status == "unregistered"
    else:
        assert (code, files_of(coordinator.folder), len(superlink.calls)) == (130, before, calls)


def test_a_request_is_looked_at_before_anybody_is_asked_and_approved_by_the_same_clock(
    coordinator, superlink, tmp_path, monkeypatch
):
    asked, told = a_request(coordinator, tmp_path, "north"), []
    for name in ("check", "approve"):
        does = getattr(Coordinator, name)

        def noted(self, data, *more, now, name=name, does=does):
            told.append((name, now))
            return does(self, data, *more, now=now)

        monkeypatch.setattr(Coordinator, name, noted)
    compare = fleet_cli.require_read_out
    monkeypatch.setattr(fleet_cli, "require_read_out", lambda *given: told.append(given) or compare(*given))
    words = ("approve", tmp_path / "north/request.json", coordinator.folder, "--fingerprint", asked.fingerprint)
    assert run(*words)[0] == 0
    now = told[0][1]
    assert told == [("check", now), (asked, asked.fingerprint), ("approve", now), ("check", now)]
    assert abs(now - time.time()) < 60


READ_OUT = "0a1b 2c3d 4e5f"


@pytest.mark.parametrize("said", [READ_OUT, "  0a1b\t2c3d \n 4e5f ", "0a1b2c3d4e5f", "0A1B 2C3D4E5f"])
def test_a_fingerprint_may_be_written_with_any_spaces_or_none_and_in_capitals(said):
    upkeep_cli.require_read_out(SimpleNamespace(name="north", fingerprint=READ_OUT), said)


@pytest.mark.parametrize(
    "said",
    ["", "0a1b", "0a1b 2c3d", "0a1b 2c3d 4e5e", "0a1b 2c3e 4e5f", "0a1c 2c3d 4e5f", "2c3d 4e5f", f"{READ_OUT} 6071"],
)
def test_a_fingerprint_that_is_another_in_any_part_is_not_the_same(said):
    with pytest.raises(UsageError, match=r"^that is not the fingerprint of the request of north: somebody changed it"):
        upkeep_cli.require_read_out(SimpleNamespace(name="north", fingerprint=READ_OUT), said)


def test_where_nobody_can_be_asked_nothing_is_taken_for_the_same(monkeypatch):
    monkeypatch.setattr(upkeep_cli, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: False)))
    with pytest.raises(UsageError, match=r"^there is no terminal to ask; pass what the organisation read out as"):
        upkeep_cli.require_read_out(SimpleNamespace(name="north", fingerprint=READ_OUT), None)


def test_new_keys_wait_for_every_run_and_name_the_one_that_is_under_way(two, coordinator, superlink, tmp_path):
    trust(coordinator.roster(), tmp_path / "south", replace=False)
    asked = rekey(tmp_path / "south").signed.request
    for _ in range(2):
        superlink.start_run(b"")
    first, second = superlink.runs
    superlink.end(first, "completed")
    before = files_of(coordinator.folder)
    words = ("rekey", tmp_path / "south/rekey.json", coordinator.folder, "--fingerprint", asked.fingerprint)
    said = f"run {second} is under way and asks for the old keys; wait for it, or stop it"
    code, out, err = run(*words)
    assert (code, out, said in " ".join(err.split())) == (2, "", True)
    assert (files_of(coordinator.folder), list(superlink.nodes)) == (before, [100, 101])


def test_certificates_and_addresses_are_renewed_with_the_line_that_everybody_needs(coordinator):
    knows = SimpleNamespace(
        coordinator=coordinator._key.public_key().public_bytes_raw(), federation=coordinator.federation
    )
    code, out, err = run("renew", coordinator.folder)
    end = ends_at(coordinator.folder / "tls/server.pem")
    assert (code, out, err) == (0, f"the gateway's certificate ends on {end:%Y-%m-%d}\n", "")
    authority = coordinator.authority
    code, out, err = run("renew", coordinator.folder, "--authority")
    notice = notice_from_text(out.strip(), knows)
    assert (code, err) == (0, f"{SEND}Until then its node is not served\n")
    assert (notice.address, notice.authority == authority) == ("fed.example.org:8443", False)
    code, out, err = run("move", "new.example.org:2", coordinator.folder)
    assert (code, err) == (0, f"{SEND}Open invitations have ended\n")
    assert notice_from_text(out.strip(), knows).address == "new.example.org:2"


def test_runs_of_every_ledger_of_a_folder_are_listed(tmp_path):
    for number, ledger in enumerate(("b", "a"), start=1):
        settings = {"ledger": str(tmp_path / ledger), "output": str(tmp_path / f"{ledger}.json")}
        leave_record(settings, number, None, reason=f"reason {number}")
    code, out, err = run("runs", tmp_path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [lines[0], lines[3]] == ["2: aborted", "1: aborted"]
    assert [lines[2], lines[5]] == ["  reason 2", "  reason 1"]
    assert lines[1].endswith(", 1 start, moments, epsilon 8, delta 1e-05, for people")


def test_the_log_of_calls_is_checked_whole_and_its_head_is_said(coordinator):
    log = CallLog(coordinator.folder / "calls", segment_bytes=1, kept=2)
    for number in range(1, 5):
        log.append(Asked(1, number, "get-run", "a" * 32, 1))
        said = "from the first on" if number < 3 else "older ones were removed"
        assert run("calls", coordinator.folder) == (0, f"{min(number, 2)} calls, {said}, head {log.head}\n", "")
    log.close()
