"""A batch step by step, what of the log may be read by whom, and what a storage lets go. No database, no network."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from federation.errors import ProofError, UnavailableError, UsageError
from federation.wire.v1 import verification_pb2 as pb
from server.log import storage as storage_module
from server.log.publishing import LoggedError
from server.log.reads import LogService
from server.log.sequencer import MAX_BATCH, Sequencer
from server.log.storage import open_log_storage
from server.log.transparency_log import TransparencyLog
from tests.transparency_log import NOW, SIGNER, an_addition


class Log:
    """Writes down what is done with it; any step may fail once."""

    def __init__(self, witness_names=("first",)):
        self.steps, self.size, self.witness_names, self.fails = [], 0, list(witness_names), {}

    def step(self, name, *told):
        self.steps.append((name, *told) if told else name)
        if name in self.fails:
            raise self.fails.pop(name)

    def append_and_sign(self, batch):
        self.step("append", *batch)
        start, self.size = self.size, self.size + len(batch)
        return range(start, self.size), f"signed {self.size}"

    def witnessed(self, signed):
        self.step("witnessed", signed)
        return f"co{signed}"

    @contextmanager
    def snapshot(self):
        self.step("snapshot")
        try:
            yield
        finally:
            self.step("snapshot ends")

    def keep(self, cosigned):
        self.step("keep", cosigned)


async def added(log, *groups, **options):
    """What each group gets, when all come at once; their answers are steps too."""

    async def add(sequencer, group):
        def then(positions, under):
            log.step("read", positions, under)
            return positions

        try:
            return await sequencer.add_and_read(group, then)
        finally:
            log.step("answered")

    async with Sequencer(log, **options) as sequencer:
        return await asyncio.gather(*(add(sequencer, group) for group in groups), return_exceptions=True)


def until_answered(log, number):
    """Whoever asked gets the answer while this waits on the log's thread; an end of it, in case nobody does."""
    for _ in range(500):
        if log.steps.count("answered") == number:
            return
        time.sleep(0.001)


async def test_a_batch_is_signed_cosigned_read_and_answered_and_only_then_kept():
    log, keep = Log(), Log.keep
    log.keep = lambda cosigned: until_answered(log, 2) or keep(log, cosigned)
    assert await added(log, "ab", "c") == [range(2), range(2, 3)]
    assert log.steps == [
        ("append", "a", "b", "c"),
        ("witnessed", "signed 3"),
        "snapshot",
        ("read", range(2), "cosigned 3"),
        ("read", range(2, 3), "cosigned 3"),
        "snapshot ends",
        *["answered"] * 2,
        ("keep", "cosigned 3"),
    ]


async def test_without_witnesses_nothing_is_kept():
    log = Log(witness_names=())
    await added(log, "a")
    assert ("keep", "cosigned 1") not in log.steps


FAILS = {"append": UnavailableError, "witnessed": LoggedError, "snapshot": LoggedError}
"""By step, as what it is told: what came to the log before stands there for ever."""


@pytest.mark.parametrize(("step", "kind"), FAILS.items(), ids=FAILS)
async def test_everybody_of_a_batch_hears_of_what_failed_and_nothing_is_kept(step, kind):
    log = Log()
    log.fails[step] = UnavailableError("it is busy", retry_after_seconds=7.0)
    found = await added(log, "ab", "c")
    assert [(type(one), str(one), one.retry_after_seconds) for one in found] == [(kind, "it is busy", 7.0)] * 2
    assert not any(one[0] == "keep" for one in log.steps)


async def test_whose_reading_fails_fails_alone_and_the_next_one_reads_its_own_positions():
    log = Log()
    log.fails["read"] = ProofError("of the first alone")
    first, second = await added(log, "ab", "c")
    assert (type(first), second) == (ProofError, range(2, 3))
    assert log.steps.count("snapshot ends") == 1
    assert ("keep", "cosigned 3") in log.steps


@pytest.mark.parametrize("error", [UnavailableError("it is busy"), RuntimeError("a mistake in the program")])
async def test_what_cannot_be_kept_is_nobody_s_error_and_the_next_batch_goes_on(error):
    log = Log()
    log.fails["keep"] = error
    async with Sequencer(log) as sequencer:
        assert await sequencer.add("a") == range(1)
        assert await sequencer.add("b") == range(1, 2)
    assert [one for one in log.steps if one[0] == "keep"] == [("keep", "cosigned 1"), ("keep", "cosigned 2")]


class Panic(BaseException):
    """As a library in Rust raises one: no `Exception`."""


TAKEN_FOR_THE_LOOP_S = [asyncio.CancelledError(), concurrent.futures.CancelledError("of another thread's call")]
"""The second is an `Exception`, which asyncio makes one of its own of."""


@pytest.mark.parametrize("error", [StopIteration("empty"), Panic("index out of bounds"), *TAKEN_FOR_THE_LOOP_S])
@pytest.mark.parametrize("step", ["append", "witnessed", "snapshot", "read", "keep"])
async def test_an_error_that_no_future_takes_and_one_that_is_no_exception_keep_nobody_waiting(step, error):
    log = Log()
    log.fails[step] = error
    async with asyncio.timeout(20):
        first, second, third = await added(log, "ab", "c", "x" * MAX_BATCH)
    whole = ("the log could not be written", FAILS.get(step))
    told = {"read": (f"a call on a thread ended with {type(error).__name__}", RuntimeError), "keep": None}.get(
        step, whole
    )
    assert first == range(2) if told is None else (str(first), type(first)) == told
    assert second == range(2, 3) if step in {"read", "keep"} else (str(second), type(second)) == whole
    begins = 0 if step == "append" else 3
    assert third == range(begins, begins + MAX_BATCH), "the next batch goes on"


async def test_a_proof_that_fails_ends_the_log_and_a_busy_database_does_not():
    log = Log()
    async with Sequencer(log) as sequencer:
        for error in (UnavailableError("busy"), OSError("disk"), UsageError("wrong")):
            log.fails["append"] = error
            with pytest.raises((UnavailableError, UsageError), match=r"busy|could not be written|wrong"):
                await sequencer.add("a")
        log.fails["append"] = ProofError("forked")
        for _ in range(2):
            with pytest.raises(ProofError, match="forked"):
                await sequencer.add("a")
    assert len(log.steps) == 4, "what came after it did not reach the log"


@pytest.mark.parametrize("step", FAILS)
async def test_wherever_a_batch_finds_the_log_damaged_nothing_more_is_added_to_it(step):
    """What a damaged log signs is evidence against whoever runs it, in the hands of its witnesses."""
    log = Log()
    async with Sequencer(log) as sequencer:
        log.fails[step] = ProofError("forked")
        for group in ("ab", "c"):
            with pytest.raises(ProofError, match=r"^forked$"):
                await sequencer.add(*group)
    assert [one for one in log.steps if one[0] in {"append", "keep"}] == [("append", "a", "b")]


async def test_what_belongs_together_is_in_one_batch_and_a_batch_holds_as_many_as_it_may():
    log, half = Log(), "h" * (MAX_BATCH // 2)
    found = await added(log, half, half, "a", "x" * MAX_BATCH, "b")
    assert [len(one) for one in found] == [512, 512, 1, 1024, 1]
    assert [len(one) - 1 for one in log.steps if one[0] == "append"] == [1024, 1, 1024, 1]


@pytest.mark.parametrize(("sizes", "turned_away"), [((2, 3), 0), ((2, 4), 1), ((6, 5), 1)])
async def test_exactly_as_many_may_wait_as_there_is_room_for(sizes, turned_away):
    found = await added(Log(), *("x" * size for size in sizes), max_waiting=5)
    assert sum(isinstance(one, UnavailableError) for one in found) == turned_away


async def test_a_sequencer_that_has_ended_has_no_thread_and_takes_nothing():
    sequencer = Sequencer(Log())
    with pytest.raises(UnavailableError, match="takes no entries now"):
        await sequencer.add("a")
    async with sequencer:
        await sequencer.add("a")
    with pytest.raises(RuntimeError, match="after shutdown"):
        sequencer._thread.submit(print)
    assert sequencer._task.done()


# ------------------------------------------------------------------------------------------------- over the network
class Read:
    """A log that is read; answers with what it was asked."""

    def __init__(self):
        self.steps, self.at, self.sizes = [], 6, [1]

    def sign(self, *, max_age_seconds):
        self.steps.append(("sign", max_age_seconds))

    def witnessed(self):
        self.steps.append("witnessed")
        return SimpleNamespace(to_bytes=lambda: b"cosigned")

    def position_of(self, content):
        self.steps.append(("position of", content))
        return self.at

    def prove(self, position, under):
        self.steps.append(("prove", position, under.to_bytes()))
        return SimpleNamespace(to_bytes=lambda: b"proved")

    def entries(self, start, stop):
        self.steps.append(("entries", start, stop))
        return [bytes([number]) * size for number, size in enumerate(self.sizes)]

    def consistency_proof(self, old, new):
        self.steps.append(("consistency", old, new))
        return (b"\1" * 32, b"\2" * 32)


@pytest.mark.parametrize(
    ("software", "at", "said"), [(b"program", 6, 7), (b"program", 0, 1), (b"program", None, 0), (None, 6, 0)]
)
async def test_a_checkpoint_is_signed_anew_before_witnesses_see_it_and_says_where_the_program_stands(
    software, at, said
):
    log = Read()
    log.at = at
    answer = await LogService(log, software).GetCheckpoint(pb.GetCheckpointRequest(), None)
    assert (answer.checkpoint, answer.software) == (b"cosigned", said)
    assert log.steps == [("sign", 60), "witnessed", *([("position of", software)] if software else [])]


async def test_a_proof_is_under_the_checkpoint_that_witnesses_saw():
    log = Read()
    answer = await LogService(log).GetInclusion(pb.GetInclusionRequest(position=5), None)
    assert (answer.logged, log.steps) == (b"proved", ["witnessed", ("prove", 5, b"cosigned")])


async def test_growth_is_proved_from_the_old_tree_to_the_new_one():
    log = Read()
    answer = await LogService(log).GetConsistency(pb.GetConsistencyRequest(old_size=3, new_size=9), None)
    assert (list(answer.proof), log.steps) == ([b"\1" * 32, b"\2" * 32], [("consistency", 3, 9)])


@pytest.mark.parametrize(("stop", "asked"), [(9, 9), (4 + 1024, 4 + 1024), (4 + 1025, 4 + 1024)])
async def test_a_page_has_so_many_entries(stop, asked):
    log = Read()
    await LogService(log).GetEntries(pb.GetEntriesRequest(start=4, stop=stop), None)
    assert log.steps == [("entries", 4, asked)]


@pytest.mark.parametrize(
    ("sizes", "given"),
    [([], 0), ([256 * 1024 + 1, 1], 1), ([1, 256 * 1024 - 1, 1], 2), ([1, 256 * 1024, 1], 1), ([256 * 1024], 1)],
)
async def test_a_page_has_so_many_bytes_and_one_entry_at_least(sizes, given):
    log = Read()
    log.sizes = sizes
    answer = await LogService(log).GetEntries(pb.GetEntriesRequest(start=0, stop=9), None)
    assert [len(entry) for entry in answer.entries] == sizes[:given]


# --------------------------------------------------------------------------------------------------- a log of its own
@pytest.fixture
def storage(tmp_path):
    opened = open_log_storage(tmp_path / "log.db")
    yield opened
    opened.close()


def test_what_no_checkpoint_covers_is_shown_to_nobody(storage):
    """Two entries and an opening are in the database that were never signed."""
    log = TransparencyLog(storage, SIGNER, clock=lambda: NOW)
    log.append([an_addition(1, b"one"), an_addition(2)])
    storage.append([an_addition(3, b"one"), an_addition(4)])
    assert [len(log.entries(0, stop)) for stop in (1, 2, 3, 9)] == [1, 2, 2, 2]
    assert [one.position for one in log.openings_between(0, 9)] == [0]
    for ask in (lambda: log.consistency_proof(1, 3), lambda: log.grow_from(3), lambda: log.prove(2)):
        with pytest.raises(UsageError, match=r"entries, not 3|no entry 2"):
            ask()
    _, grown = log.prove_growth(0, 2)
    assert (len(grown), log.prove_growth(0, 3)[1], log.prove_growth(0, 0)[1]) == (0, (), ())
    assert len(log.prove_growth(0, 1)[1]) == 1


def test_a_log_that_is_asked_whether_it_can_write_looks_for_its_key_writes_and_signs(storage, monkeypatch):
    steps = []
    names = {"witnessed": "cosigned", "sign": "signed", "keep": None}
    log = TransparencyLog(storage, SIGNER, clock=lambda: NOW, witnesses=None)
    monkeypatch.setattr("server.log.transparency_log.require_there", lambda key: steps.append(("key", key)))
    monkeypatch.setattr(storage, "ping", lambda: steps.append("write"))
    for name, gives in names.items():
        monkeypatch.setattr(
            log,
            name,
            lambda *args, name=name, gives=gives, **named: steps.append((name, *args, *named.values())) or gives,
        )
    log.ping()
    alone = [("key", SIGNER.private_key), "write", ("sign", 60)]
    assert steps == alone
    steps.clear()
    monkeypatch.setattr(log, "_witnesses", object())
    log.ping()
    assert steps == [*alone, ("witnessed",), ("keep", "cosigned")]


def test_two_snapshots_are_of_two_moments_and_none_is_left_when_one_fails(storage, tmp_path):
    another = open_log_storage(tmp_path / "log.db")
    seen = []
    for word in (b"first", b"second"):
        another.replace_checkpoint(lambda *_, word=word: word)
        with storage.snapshot():
            seen.append(storage.checkpoint())
            another.replace_checkpoint(lambda *_: b"meanwhile")
            seen.append(storage.checkpoint())

    def look_and_fail():
        with storage.snapshot():
            seen.append(storage.checkpoint())
            raise UsageError("of its own")

    with pytest.raises(UsageError, match="of its own"):
        look_and_fail()
    another.replace_checkpoint(lambda *_: b"after it")
    seen.append(storage.checkpoint())
    another.close()
    assert seen == [b"first", b"first", b"second", b"second", b"meanwhile", b"after it"]


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (sa.exc.OperationalError("SELECT", {}, Exception("no file\nmore")), UsageError),
        (UsageError("another's"), UsageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_database_that_is_not_opened_leaves_no_connection(tmp_path, monkeypatch, error, seen):
    left = []
    connect = storage_module.connect

    def watched(*args, **named):
        engine = connect(*args, **named)
        dispose = engine.dispose
        monkeypatch.setattr(engine, "dispose", lambda: left.append(engine.pool.checkedout()) or dispose())
        return engine

    def fails(*_):
        raise error

    monkeypatch.setattr(storage_module, "connect", watched)
    monkeypatch.setattr(storage_module.schema, "require", fails)
    with pytest.raises(seen, match=r"is not a usable database: no file$|another's|^$"):
        open_log_storage(tmp_path / "log.db")
    assert left == [0]


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize("read_only", [True, False])
def test_who_only_reads_makes_no_tables(tmp_path, monkeypatch, read_only, patient):
    open_log_storage(tmp_path / "log.db").close()
    prepared, opened = [], []
    connect = storage_module.connect
    monkeypatch.setattr(storage_module.schema, "prepare", prepared.append)
    monkeypatch.setattr(storage_module, "connect", lambda url, **named: opened.append(named) or connect(url, **named))
    open_log_storage(tmp_path / "log.db", read_only=read_only, patient=patient).close()
    assert (len(prepared), opened) == (0 if read_only else 1, [{"read_only": read_only, "patient": patient}])
