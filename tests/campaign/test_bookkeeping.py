"""A campaign cannot pass in silence: broken promises planted in its books are found, and its numbers are right."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from federation.onebit import Decision
from federation.transparency import Frontier, inclusion_proof
from tests.campaign import front_end
from tests.campaign.figures import AFTER_SECONDS, QUIET, Deed, Sample, Struck, fault_of, noticed, plain, trends
from tests.campaign.honest import Neighbourhood, read_events
from tests.campaign.ledger import Account, Row, holds, losses, roots_at
from tests.campaign.proxy import Proxy
from tests.campaign.report import BEGIN, END, placed, report
from tests.campaign.running import MOST_GROWTH_MB, Campaign, _grown, _judged_deeds, _sorted
from tests.campaign.schedule import ENDING, LASTING, draw, possible
from tests.campaign.town import Town

LEAVES = [b"entry %d" % n for n in range(13)]
ALICE, BOB, CAROL = ("aa" * 32, "bb" * 32, "cc" * 32)


def digest(leaf):
    return hashlib.sha256(leaf).hexdigest()


def accounts():
    return {
        ALICE: Account(ALICE, "enrolled", 5, 4, 2, 3, {3: digest(LEAVES[3]), 7: digest(LEAVES[7])}, [7]),
        BOB: Account(BOB, "revoked", 2, 2, 1, 1, {4: digest(LEAVES[4])}, [4]),
        CAROL: Account(CAROL, "erased", 1, 1, 1, 1, {5: digest(LEAVES[5])}, [5]),
    }


def rows():
    return {
        ALICE: Row(has_template=True, has_owner=True, openings=frozenset({2, 7}), attempts=4, successes=2),
        BOB: Row(has_template=False, has_owner=True, openings=frozenset({4, 6})),
        CAROL: Row(has_template=False, has_owner=False, openings=frozenset()),
    }


def heads():
    return {(size, root) for size, root in roots_at({1, 6, 13}, LEAVES).items()}


def found(changed=None, row=None, leaves=LEAVES, seen=None):
    """What is found with some fields of Alice's account or row changed."""
    people, stored = accounts(), rows()
    people[ALICE] = dataclasses.replace(people[ALICE], **changed or {})
    stored[ALICE] = dataclasses.replace(stored[ALICE], **row or {})
    return losses(people.values(), stored, leaves, heads() if seen is None else seen)


def test_kept_promises_are_not_reported():
    assert found() == []


@pytest.mark.parametrize(
    ("changed", "row", "says"),
    [
        ({}, {"has_template": False, "attempts": None, "successes": None}, "was enrolled, and is not"),
        ({"state": "revoked"}, {}, "was revoked, and is served"),
        (
            {"state": "erased"},
            {"has_template": False, "attempts": None, "openings": frozenset()},
            "erased, and is known",
        ),
        ({"state": "erased"}, {"has_template": False, "attempts": None, "has_owner": False}, "erased, and is known"),
        ({"state": "doubt"}, {}, "never learnt"),
        ({}, {"attempts": 3}, "sent 5 probes, learnt of 4, and 3 are counted"),
        ({}, {"attempts": 6}, "sent 5 probes, learnt of 4, and 6 are counted"),
        ({}, {"successes": 1}, "accepted 2 times, sent 3 tokens, and 1 are counted"),
        ({}, {"successes": 4}, "accepted 2 times, sent 3 tokens, and 4 are counted"),
        ({}, {"openings": frozenset({2})}, r"what stands behind entries \[7\] is gone"),
        ({"decisions": {3: digest(b"another")}}, {}, "entry 3 of the log does not say so"),
        ({"decisions": {13: digest(LEAVES[3])}}, {}, "entry 13 of the log does not say so"),
    ],
)
def test_a_planted_loss_is_found(changed, row, says):
    (line,) = found(changed, row)
    assert line.startswith("aaaaaaaa ")
    assert re.search(says, line)


def test_an_entry_that_is_lost_at_the_end_of_the_log_is_found():
    lines = found(leaves=LEAVES[:12])
    assert lines == ["a checkpoint of 13 entries was seen, and the log has 12"]


def test_an_entry_that_is_another_one_shows_in_every_checkpoint_over_it():
    lines = found(leaves=[*LEAVES[:8], b"another", *LEAVES[9:]])
    assert lines == ["a checkpoint of 13 entries was seen that is no beginning of the log"]


def test_a_checkpoint_of_a_fork_is_found():
    assert found(seen=heads() | {(6, "00" * 32)}) == [
        "a checkpoint of 6 entries was seen that is no beginning of the log"
    ]


def test_accounts_survive_a_file():
    for account in accounts().values():
        assert Account.from_json(json.loads(json.dumps(account.to_json()))) == account


def test_roots_are_those_of_the_log_s_own_tree():
    frontier, nodes = Frontier(), {}
    for size, leaf in enumerate(LEAVES, start=1):
        frontier, completed = frontier.grow([leaf])
        nodes |= completed
        assert roots_at({size}, LEAVES) == {size: frontier.head.root.hex()}
    assert roots_at({0}, LEAVES) == {0: hashlib.sha256().hexdigest()}
    root = frontier.head.root.hex()
    for position, leaf in enumerate(LEAVES):
        proof = inclusion_proof(position, len(LEAVES), lambda wanted: {node: nodes[node] for node in wanted})
        assert holds(leaf, position, len(LEAVES), proof, root)
        assert not holds(leaf + b"!", position, len(LEAVES), proof, root)
        assert not holds(leaf, (position + 1) % 13, len(LEAVES), proof, root)
        assert not holds(leaf, position, len(LEAVES), proof[:-1], root)
        assert not holds(leaf, position, len(LEAVES), [*proof, bytes(32)], root)


def test_what_people_write_down_comes_into_the_books(tmp_path):
    """A stranger who is accepted, an enrolment that is refused, a checkpoint, deeds; and a torn last line."""
    people = object.__new__(Neighbourhood)
    path = tmp_path / "people.jsonl"
    with path.open("a") as people._out:
        people._lock, people._heads = threading.Lock(), set()
        people._require(Decision.MATCH, Decision.MATCH, "verify")
        people._require(Decision.MATCH, Decision.NON_MATCH, "impostor")
        people._fact("lost", ["aa", "is refused"])
        people._fact("head", (6, "00" * 32))
        people._note(deed(1.0, 2.0))
        people._note(deed(3.0, 4.0))
        people._out.write('["deed", {"na')
    deeds, seen, broken = _sorted(read_events(path), begun=3.0)
    assert deeds == [deed(3.0, 4.0)]
    assert seen == {(6, "00" * 32)}
    assert broken == ["wrong: impostor match in the place of non-match", "lost: aa is refused"]


# ---------------------------------------------------------------------- figures

FAULTS = [Struck("disk full", 100.0, 106.0), Struck("restart", 200.0, 210.0), Struck("restart", 300.0, 301.0)]


def deed(due, ended, result="done", begun=None):
    return Deed("verify", due, due if begun is None else begun, ended, result)


@pytest.mark.parametrize(
    ("one", "kind"),
    [
        (deed(90.0, 99.0), QUIET),
        (deed(90.0, 101.0), "disk full"),
        (deed(106.0 + AFTER_SECONDS - 1, 150.0), "disk full"),
        (deed(106.0 + AFTER_SECONDS, 150.0), QUIET),
        (deed(100.0, 205.0), "restart"),
    ],
)
def test_a_deed_is_put_down_to_the_last_fault_that_it_overlaps(one, kind):
    assert fault_of(one, FAULTS) == kind


def test_figures_of_made_up_events():
    deeds = [
        *(deed(float(n), n + 0.1) for n in range(50)),
        deed(50.0, 52.0),
        deed(101.0, 104.0, "UnavailableError"),
        deed(102.0, 103.0, "RefusedError"),
        deed(103.0, 108.0),
        deed(105.0, 109.5, begun=107.0),
        deed(201.0, 220.0, begun=212.0),
        deed(302.0, 303.0, "UnavailableError"),
    ]
    quiet, full, restart = noticed(deeds, FAULTS)
    assert (quiet.kind, quiet.deeds, quiet.done, quiet.refused) == (QUIET, 51, 51, Counter())
    assert (quiet.p50, quiet.longest) == (pytest.approx(0.1), pytest.approx(2.0))
    assert 0.1 < quiet.p99 < 2.0
    assert (full.times, full.deeds, full.done) == (1, 4, 2)
    assert full.refused == {"UnavailableError": 1, "RefusedError": 1}
    assert (full.p50, full.longest) == (pytest.approx(4.75), 5.0)
    assert full.recovery == (3.5,)  # the deed that began before the fault's end does not count, though it ended earlier
    assert (restart.times, restart.recovery, restart.never) == (2, (10.0,), 1)


def test_equal_sentences_are_equal_whatever_their_numbers():
    assert plain("localhost:41234 did not answer within 20 seconds") == plain(
        "localhost:7 did not answer within 3 seconds"
    )


def a_life(role, pid, grows, *, begin=0, count=100):
    return [Sample(float(begin + n), role, pid, int(1e8 + 1e6 * grows * n)) for n in range(count)]


def test_memory_that_grows_breaks_a_promise_and_one_spike_does_not():
    spike = [dataclasses.replace(s, resident=10 * s.resident) if s.at == 50 else s for s in a_life("steady", 2, 0.0)]
    leaks, newcomer = a_life("leaks", 1, 0.5), a_life("came late", 3, 9.0, begin=60, count=40)
    leaking, steady = trends([*leaks, *spike, *newcomer], 0.0, 99.0)
    assert (leaking.role, leaking.growth) == ("leaks", pytest.approx(49.5))
    assert (leaking.first, leaking.last) == (pytest.approx(102.25), pytest.approx(147.25))
    assert (steady.role, steady.growth) == ("steady", pytest.approx(0.0))
    (line,) = _grown([leaking, steady])
    assert line == f"leaks grew by 49.5 MB in 99 s, more than {MOST_GROWTH_MB:.0f}"


def test_what_no_fault_excuses_breaks_a_promise():
    bad = [
        deed(0, 1, "Mistake KeyError"),
        dataclasses.replace(deed(0, 1, "PeerError"), why="the server failed; its log"),
    ]
    assert _judged_deeds([deed(0, 1), deed(0, 1, "UnavailableError")]) == []
    assert len(_judged_deeds([deed(0, 1), *bad])) == 2
    assert _judged_deeds([]) == ["nobody did anything"]


def a_campaign(**changes):
    usual = {"deeds": [deed(0, 1), deed(101, 102, "UnavailableError")], "faults": FAULTS[:1], "checked": {"people": 3}}
    common = {
        "hostile": {"enrols without a ticket": {"RefusedError": 2}},
        "memory": trends(a_life("steady", 2, 0.0), 0, 99),
    }
    made = Campaign("sqlite", 3600.0, 7, "2026-01-01", "abc", 2, 25.0, capacity=20.0, rate=14.0)
    return dataclasses.replace(made, **usual | common | changes)


def test_the_page_says_what_is_in_the_books():
    page = report([a_campaign()])
    assert "**Promises broken: 0.**" in page
    assert "1 of 2 deeds went well (50.00%)" in page
    assert "| quiet |  | 1 | 100.0 | 1.00 | 1.00 | 1.0 |  |  |" in page
    assert "| disk full | 1 | 1 | 0.0 | 0.00 | 0.00 | 0.0 | never | 1 UnavailableError |" in page
    assert "| enrols without a ticket | 2 RefusedError |" in page
    assert "seed 7, 2 cores, 25 GB" in page
    broken = report([a_campaign(broken=["0a1b2c3d was lost", "99aa99aa was lost", "nobody came"])])
    assert "**Promises broken: 3.**\n\n- 2 x somebody was lost\n- 1 x nobody came\n" in broken


def test_the_page_replaces_the_marked_part_of_a_document():
    document = f"before\n{BEGIN}old\n{END}\nafter\n"
    once = placed(document, "new")
    assert once == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert placed(once, "new") == once
    with pytest.raises(ValueError, match="no <!-- begin"):
        placed("no marks", "new")
    assert BEGIN in (Path(__file__).parents[2] / "docs/reliability.md").read_text()


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("minutes", [4, 60])
def test_every_kind_of_fault_is_planned_and_no_server_ends_in_the_last_third(database, minutes):
    kinds, seconds = possible(database, has_disk=True), 60.0 * minutes
    for seed in range(20):
        planned = draw(kinds, seconds, seed)
        assert {one.kind for one in planned} == set(kinds)
        assert all(one.at < 2 / 3 * seconds for one in planned if one.kind in ENDING)
        assert [one.at for one in planned] == sorted(one.at for one in planned)
        assert planned[0].at >= 0.1 * seconds
    assert draw(kinds, seconds, 3) == draw(kinds, seconds, 3) != draw(kinds, seconds, 4)


def test_what_a_machine_cannot_do_is_not_planned():
    assert set(possible("sqlite", has_disk=False)) & {"disk full", "disk slow", "disk frozen", "database cut"} == set()
    assert set(possible("sqlite", has_disk=True)) | set(possible("postgresql", has_disk=True)) == {*ENDING, *LASTING}


def test_a_server_s_clock_jumps_and_comes_back(tmp_path):
    """The hook is in the campaign's own program: the server's settings know nothing of it."""
    clock = tmp_path / "clock"
    clock.write_bytes(struct.pack("d", 1800.0))
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import runpy, struct, sys, time, types

real, program = time.time, types.ModuleType("server.program")

def main():
    print(round(time.time() - real()))
    with open({str(clock)!r}, "r+b") as file:
        file.write(struct.pack("d", -30.0))
    print(round(time.time() - real()), sys.argv[1:])

program.main = main
sys.modules |= {{"server": types.ModuleType("server"), "server.program": program}}
sys.argv = ["front_end.py", {str(clock)!r}, "matching"]
runpy.run_path({front_end.__file__!r}, run_name="__main__")
"""
    )
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["1800", "-30", "['matching']"]


@pytest.mark.integration
def test_a_network_is_cut_slowed_and_left_half_open():
    with socket.create_server(("127.0.0.1", 0)) as listening, Proxy(lambda: [listening.getsockname()[1]]) as proxy:

        def connected():
            caller = socket.create_connection(("127.0.0.1", proxy.port), timeout=30)
            answerer, _ = listening.accept()
            answerer.settimeout(30)
            return caller, answerer

        caller, answerer = connected()
        caller.sendall(b"one")
        assert answerer.recv(10) == b"one"
        proxy.slow(0.2)
        begun = time.monotonic()
        answerer.sendall(b"two")
        assert caller.recv(10) == b"two"
        assert time.monotonic() - begun >= 0.2
        proxy.half_open()
        caller.sendall(b"swallowed")
        answerer.settimeout(0.2)
        with pytest.raises(TimeoutError, match="timed out"):
            answerer.recv(10)
        proxy.whole()
        with caller, answerer:
            assert ended(caller)
        proxy.cut()
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as refused:
            assert ended(refused)
        proxy.whole()
        caller, answerer = connected()
        with caller, answerer:
            caller.sendall(b"three")
            assert answerer.recv(10) == b"three"


def ended(connection):
    try:
        return connection.recv(10) == b""
    except ConnectionResetError:
        return True


def test_a_process_that_outlives_its_town_is_named_and_ended(tmp_path, monkeypatch):
    town = Town(tmp_path, "sqlite", 1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=town.environment) as process:
        while process.pid not in town.processes():
            pass  # its program is just being loaded
        moments = iter([0.0, 1.0, 20.0])
        monkeypatch.setattr("tests.campaign.town.time.monotonic", lambda: next(moments))
        monkeypatch.setattr("tests.campaign.town.time.sleep", lambda _: None)
        town._end_all()
        assert process.wait() == -signal.SIGKILL
    (command,) = town.left_over
    assert "input()" in command


def test_the_makefile_names_the_campaign():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "-m tests.campaign $(ARGS)" in makefile
