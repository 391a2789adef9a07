"""What lies on the coordinator's disk after each step of a run, and after each refusal: record, copies, checkpoint."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from federation.errors import MalformedMessageError, ProofError, RoundAbortedError, UsageError
from federation.privacy.ledger import LedgerChain
from server.coordinator import ledger as ledger_module
from server.coordinator.checkpoint import Checkpoint, Progress
from server.coordinator.ledger import LedgerCopies, PrivacyLedger
from server.coordinator.run_records import Attempt, DropOut, RunRecord, RunRecords, SumRecord
from server.coordinator.secure_sums import OpenedSum

BEGAN = 1_893_456_000
FACTS = RunRecord("7", "staff", 4.5, 2e-6, "moments", (Attempt("9", BEGAN),))
WEST, SOUTH = (DropOut(name, "share its keys", "", f"{name} was silent") for name in ("west", "south"))
MOMENTS, THRESHOLD = SumRecord("moments", ("north", "south")), SumRecord("threshold", ("north",))


# ------------------------------------------------------------------------------------------------------- the record
class Watched:
    """One start; what its record on disk says can be looked at between its steps."""

    def __init__(self, folder):
        self.now, self.out = BEGAN + 5.9, []
        self.records = RunRecords(folder / "runs", lambda: self.now)
        earlier = Attempt("8", BEGAN - 900, BEGAN - 800, "too few", ("north",), (MOMENTS,), (WEST,))
        self.records.folder.mkdir()
        before = replace(FACTS, attempts=(earlier,), goes_on=True)
        (self.records.folder / "7.json").write_bytes(before.to_bytes())
        self.earlier = earlier

    @property
    def drop_outs(self):
        return list(self.out)

    def kept(self):
        (record,) = self.records.all()
        assert record.attempts[0] == self.earlier
        return record, record.attempts[-1]


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path)


def test_a_record_says_after_each_step_what_was_opened_and_who_was_out_by_then(watched):
    with watched.records.attempt(FACTS, goes_on=lambda: True) as record:
        begun = FACTS.attempts[0]
        assert watched.kept() == (replace(FACTS, attempts=(watched.earlier, begun)), begun)
        watched.out = [WEST]
        record.opened(MOMENTS)  # an earlier start recorded it
        assert watched.kept()[1] == begun
        record.ask(("north", "south", "west"), watched)
        asked = replace(begun, asked=("north", "south", "west"), drop_outs=(WEST,))
        assert watched.kept()[1] == asked
        watched.out = [WEST, SOUTH]
        record.opened(THRESHOLD)
        opened = replace(asked, sums=(THRESHOLD,), drop_outs=(WEST, SOUTH))
        assert watched.kept()[1] == opened
        watched.out = [SOUTH]
        record.release("ab" * 32)
        found, last = watched.kept()
    assert last == replace(opened, ended_at=BEGAN + 5, drop_outs=(SOUTH,))
    assert (found.release, found.goes_on, found.sums) == ("ab" * 32, False, (MOMENTS, THRESHOLD))
    assert watched.kept() == (found, last), "nothing is written when it is over"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RoundAbortedError("only one is left"), "only one is left"),
        (ZeroDivisionError("a secret"), "the program failed: ZeroDivisionError"),
    ],
)
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_record_of_a_start_that_failed_says_why_who_was_out_and_whether_it_goes_on_at_its_end(
    watched, error, reason, goes_on
):
    answers = iter([goes_on])
    opened = watched.records.attempt(FACTS, goes_on=lambda: next(answers))

    def fails(record):
        record.ask(("north", "south"), watched)
        watched.out = [SOUTH]
        raise error

    with pytest.raises(type(error), match=str(error)), opened as record:
        fails(record)
    found, last = watched.kept()
    assert last == Attempt("9", BEGAN, BEGAN + 5, reason, ("north", "south"), (), (SOUTH,))
    assert (found.goes_on, found.release) == (goes_on, "")


def test_a_start_whose_process_is_ended_is_recorded_as_not_ended(watched):
    with pytest.raises(KeyboardInterrupt), watched.records.attempt(FACTS, goes_on=lambda: True):
        raise KeyboardInterrupt
    assert watched.kept() == (replace(FACTS, attempts=(watched.earlier, *FACTS.attempts)), FACTS.attempts[0])


def test_a_record_that_cannot_be_written_lets_nothing_begin(tmp_path, monkeypatch):
    (tmp_path / "runs").write_bytes(b"a file")
    begun = []
    with (
        pytest.raises(
            UsageError, match=r"^the record of the run cannot be written to .*/runs/7\.json: (File exists|Not)"
        ),
        RunRecords(tmp_path / "runs").attempt(FACTS, goes_on=lambda: True),
    ):
        begun.append(1)
    assert begun == []


@pytest.mark.parametrize(
    ("last", "ended"),
    [
        (Attempt("9", BEGAN), (BEGAN + 5, "it did not end, and a run with other settings took its place; what")),
        (Attempt("9", BEGAN, BEGAN + 2, "too few"), (BEGAN + 2, "too few")),
    ],
)
def test_a_run_that_is_given_up_keeps_its_other_starts_and_its_own_end(watched, last, ended):
    other = replace(FACTS, run="11", goes_on=True)
    (watched.records.folder / "7.json").write_bytes(
        replace(FACTS, attempts=(watched.earlier, last), goes_on=True).to_bytes()
    )
    (watched.records.folder / "11.json").write_bytes(other.to_bytes())
    watched.records.give_up("7")
    watched.records.give_up("nobody's")
    left = {record.run: record for record in watched.records.all()}
    given_up = left["7"].attempts[-1]
    assert (left["7"].goes_on, left["7"].attempts[0], left["11"]) == (False, watched.earlier, other)
    assert (given_up.ended_at, given_up.reason[: len(ended[1])]) == ended
    assert len(left) == 2


# ------------------------------------------------------------------------------------------------ copies of ledgers
def a_chain(*runs, population="people"):
    chain = LedgerChain()
    chain = LedgerChain((chain.next_open(population, epsilon=64.0, delta=1e-5),))
    for run in runs:
        chain = LedgerChain((*chain.entries, chain.next_reserve(population, run, (9.0,))))
    return chain


@pytest.fixture
def copies(tmp_path):
    """What two organisations showed."""
    found = LedgerCopies(tmp_path / "copies")
    found.keep("north", a_chain("1", "2").to_bytes())
    found.keep("south", a_chain("3").to_bytes())
    return found


def kept(copies):
    return {path.name: path.read_bytes() for path in copies.folder.glob("*.jsonl")}


def test_a_longer_ledger_takes_the_place_of_its_own_copy_and_the_same_one_is_not_written(copies, monkeypatch):
    written, write = [], ledger_module.write_durably
    monkeypatch.setattr(
        ledger_module, "write_durably", lambda path, data: written.append(path.name) or write(path, data)
    )
    before = kept(copies)
    copies.keep("north", a_chain("1", "2").to_bytes())
    assert (kept(copies), written) == (before, [])
    copies.keep("north", a_chain("1", "2", "4").to_bytes())
    assert kept(copies) == before | {"north.jsonl": a_chain("1", "2", "4").to_bytes()}
    assert written == ["north.jsonl"]


WRONG = {
    "an older one": (a_chain("1"), r"old copy was restored.*\. Send it .*/north\.jsonl, to restore it from$"),
    "one that went on otherwise": (
        a_chain("1", "5", "6"),
        r"^its own ledger does not go on from the last one: .*north\.js",
    ),
    "another's": (
        a_chain("3", "7", "8"),
        r"^its own ledger does not go on from the last one: .*Send it .*north\.jsonl",
    ),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_ledger_that_does_not_go_on_leaves_every_copy(copies, which):
    chain, words = WRONG[which]
    before = kept(copies)
    with pytest.raises(ProofError, match=words) as caught:
        copies.keep("north", chain.to_bytes())
    assert isinstance(caught.value.__cause__, ProofError)
    assert kept(copies) == before


def test_who_is_to_blame_for_a_ledger_that_is_none_is_whose_it_is(copies):
    before = kept(copies)
    with pytest.raises(MalformedMessageError, match="ledger"):
        copies.keep("north", b"junk\n")
    assert kept(copies) == before
    (copies.folder / "south.jsonl").write_bytes(b"junk\n")
    with pytest.raises(UsageError, match=r"/south\.jsonl was altered; move it away once the organisation's"):
        copies.keep("south", a_chain("3", "4").to_bytes())
    assert kept(copies) == before | {"south.jsonl": b"junk\n"}
    copies.keep("north", a_chain("1", "2", "4").to_bytes())


def test_a_copy_is_read_and_replaced_while_nobody_else_does(copies, monkeypatch):
    """Else of two starts the later one could put the older ledger back."""
    steps = []
    monkeypatch.setattr(
        ledger_module,
        "fcntl",
        SimpleNamespace(LOCK_EX=fcntl.LOCK_EX, flock=lambda file, how: steps.append((Path(file.name).name, how))),
    )
    monkeypatch.setattr(LedgerChain, "require_extends", lambda *_: steps.append("compared"))
    monkeypatch.setattr(ledger_module, "write_durably", lambda path, _: steps.append(f"wrote {path.name}"))
    copies.keep("north", a_chain("1", "2", "4").to_bytes())
    assert steps == [(".lock", fcntl.LOCK_EX), "compared", "wrote north.jsonl"]


def test_a_copy_that_cannot_be_written_is_named(copies, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = kept(copies)
    monkeypatch.setattr(ledger_module, "write_durably", full)
    with pytest.raises(UsageError, match=r"^cannot keep .*/north\.jsonl: No space left on device$"):
        copies.keep("north", a_chain("1", "2", "4").to_bytes())
    assert kept(copies) == before


# ------------------------------------------------------------------------------------------------------ the ledger
def test_a_charge_is_on_disk_before_it_is_told_and_a_new_file_s_name_too(tmp_path, monkeypatch):
    steps, path = [], tmp_path / "deep" / "ledger.jsonl"
    monkeypatch.setattr(
        ledger_module, "os", SimpleNamespace(fsync=lambda _: steps.append(path.read_bytes().count(b"\n")))
    )
    monkeypatch.setattr(ledger_module, "sync_directory", lambda folder: steps.append(folder.name))
    ledger = PrivacyLedger(path)
    heads = [ledger.reserve("staff", "1", (9.0,), cap_epsilon=16.0, cap_delta=1e-5)]
    assert steps == [1, "deep", 2]
    steps.clear()
    heads += [
        ledger.reserve("staff", "2", (9.0,), cap_epsilon=16.0, cap_delta=1e-5),
        ledger.commit("staff", "1", "ab" * 32),
        ledger.reserve("visitors", "3", (8.0,), cap_epsilon=4.0, cap_delta=1e-6),
    ]
    assert steps == [3, 4, 5, 6]
    chain = ledger.chain()
    assert [(entry.kind, entry.population, entry.run) for entry in chain.entries] == [
        ("open", "staff", ""),
        ("reserve", "staff", "1"),
        ("reserve", "staff", "2"),
        ("commit", "staff", "1"),
        ("open", "visitors", ""),
        ("reserve", "visitors", "3"),
    ]
    assert (chain.release_of("1"), chain.release_of("2")) == ("ab" * 32, "")
    assert heads == [LedgerChain(chain.entries[:count]).head for count in (2, 3, 4, 6)]
    assert [(account.population, account.cap_epsilon, account.delta) for account in chain.accounts()] == [
        ("staff", 16.0, 1e-5),
        ("visitors", 4.0, 1e-6),
    ]


# -------------------------------------------------------------------------------------------------- the checkpoint
OPENED = {
    "moments": OpenedSum(np.array([1.5, -2.0]), 3.5, 40, 30, 4, ("north", "south")),
    "threshold": OpenedSum(np.array([4.0]), 7.25, 39, 29, 3, ("north",)),
}


def test_each_step_of_an_unfinished_run_is_in_its_file_beside_what_was_there(tmp_path):
    output = tmp_path / "release.json"
    with Checkpoint.lock(output) as checkpoint:
        assert (checkpoint.path, checkpoint.progress) == (tmp_path / "release.json.unfinished", None)
        done = checkpoint.begin("ab" * 32, "7:cd")
        steps = [done]
        for name, total in OPENED.items():
            checkpoint.opening(name)
            done = replace(done, opening=(*done.opening, name))
            steps.append(Progress.from_bytes(checkpoint.path.read_bytes()))
            assert (steps[-1].to_bytes(), steps[-1].lost) == (done.to_bytes(), (name,))
            checkpoint.opened(name, total)
            done = replace(done, sums={**done.sums, name: total})
            assert checkpoint.path.read_bytes() == checkpoint.progress.to_bytes() == done.to_bytes()
            assert done.lost == ()
        checkpoint.made(b"a release")
        done = replace(done, result=b"a release")
        assert checkpoint.path.read_bytes() == checkpoint.progress.to_bytes() == done.to_bytes()
    with Checkpoint.lock(output) as again:
        assert again.progress.to_bytes() == done.to_bytes()
        again.remove()
        assert (again.progress, again.path.exists()) == (None, False)
        again.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".release.json.lock"]


def test_one_process_works_on_a_result_and_others_on_theirs(tmp_path):
    with Checkpoint.lock(tmp_path / "release.json") as checkpoint, Checkpoint.lock(tmp_path / "other.json"):
        checkpoint.begin("ab" * 32, "7:cd")
        with pytest.raises(UsageError, match=r"^another run writes .*/release\.json: wait for it, or end the Serv"):
            Checkpoint.lock(tmp_path / "release.json").__enter__()
    with Checkpoint.lock(tmp_path / "release.json") as checkpoint:
        assert checkpoint.progress.reservation == "7:cd"
    with (
        pytest.raises(UsageError, match=r"/nowhere/release\.json cannot be written: No such file or directory$"),
        Checkpoint.lock(tmp_path / "nowhere" / "release.json"),
    ):
        pass


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"[" * 9000, b'{"version": 2}', b"\xff"])
def test_what_is_no_checkpoint_is_left_where_it_is_and_named(tmp_path, content):
    path = tmp_path / "release.json.unfinished"
    path.write_bytes(content)
    with (
        pytest.raises(
            UsageError, match=r"/release\.json\.unfinished is not what this version wrote; remove it to give up"
        ),
        Checkpoint.lock(tmp_path / "release.json"),
    ):
        pass
    assert path.read_bytes() == content
    path.unlink()
    with Checkpoint.lock(tmp_path / "release.json") as checkpoint:
        assert checkpoint.progress is None
