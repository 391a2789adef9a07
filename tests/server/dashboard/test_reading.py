"""Which sources are read, with what, in which order, and what a failure of one of them leaves for the next time."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
from types import SimpleNamespace

import pytest

from client.node.joining import join
from federation.consent.purposes import DAY_SECONDS
from federation.errors import ProofError, UsageError
from federation.release.manifest import ReleaseTrust
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    Checkpoint,
    Frontier,
    KeyKind,
    NoteSigner,
    PublicEntry,
    PublicKind,
    SignedCheckpoint,
)
from server.certificates import write_pki
from server.dashboard import cli as dashboard_cli
from server.dashboard import log as dashboard_log
from server.dashboard import sources as dashboard_sources
from server.dashboard.dashboard import Unreadable
from server.dashboard.log import LogKeys, LogReading, LogSource, Use
from server.dashboard.site import FreshPage
from server.dashboard.sources import DashboardReader, Sources
from server.expiry import ends_at
from server.fleet.members import Coordinator
from tests.bundles import TRUST
from tests.running import LOG_SIGNER, a_release
from tests.server.dashboard.organisation import BUNDLE, OTHER, RUN, WITNESS, an_organisation

NOW = 1_900_000_000
DAY = NOW // DAY_SECONDS


# -------------------------------------------------------------------------------------------------- all sources
def test_every_source_is_read_at_one_time_and_shown_in_its_place(tmp_path, monkeypatch):
    sources, spent = an_organisation(tmp_path), SimpleNamespace(accounts=lambda: ("staff", "visitors"))
    ledger = (tmp_path / "ledger.jsonl").read_bytes()
    monkeypatch.setattr(dashboard_sources, "ledger_from_file", lambda data: {ledger: spent}[data])
    looked = []
    served = dashboard_sources.require_servable
    monkeypatch.setattr(
        dashboard_sources,
        "require_servable",
        lambda *given, **named: looked.append((given, named)) or served(*given, **named),
    )
    made = dt.datetime.now(dt.UTC)
    coordinator = Coordinator.create(tmp_path / "federation", address="fed.example.org:1", now=made)
    for name in ("south", "north"):
        _, text = coordinator.invite(name, now=int(made.timestamp()))
        signed = join(text, tmp_path / name, now=int(made.timestamp()))
        coordinator.approve(signed.to_bytes(), lambda *_: 1, now=int(made.timestamp()))
    write_pki(tmp_path / "own", hosts=["localhost"], clients=["door"], now=made)
    own = tuple(tmp_path / "own" / f"{name}.pem" for name in ("server", "door"))
    sources = dataclasses.replace(sources, federation=tmp_path / "federation", certificates=own, deployment="trial")
    now = int(made.timestamp()) + 5
    found = DashboardReader(sources, clock=lambda: now + 0.9).read()
    ((bundle, trust), named) = looked[0]
    assert (bundle, trust, named) == (found.release.bundle, TRUST, {"now": now})
    assert (found.release.bundle.release.digest, found.release.checked, found.release.fault) == (
        BUNDLE.release.digest,
        True,
        "",
    )
    assert (found.now, found.deployment, found.members) == (now, "trial", ("north", "south"))
    assert (found.log.size, found.rules.read_at) == (8, now)
    assert (found.accounts, found.runs) == (("staff", "visitors"), (RUN,))
    tls = tmp_path / "federation/tls"
    assert [one.ends_at for one in found.certificates] == [ends_at(tls / "server.pem"), ends_at(tls / "ca.pem")]
    assert [(one.what, one.ends_at) for one in found.own] == [
        (f"the certificate in {path.name}", ends_at(path)) for path in own
    ]
    (own[1]).write_bytes(b"torn")
    (tls / "ca.pem").unlink()
    (tmp_path / "federation/members/south.json").write_bytes(b"torn")
    after = DashboardReader(sources, clock=lambda: now).read()
    torn = {name for name in found.__dict__ if isinstance(getattr(after, name), Unreadable)}
    assert torn == {"certificates", "own", "members"}


def test_what_sums_up_a_ledger_is_named_where_it_is_not_installed(tmp_path, monkeypatch):
    def missing(extra):
        raise UsageError(f"install intaglio[{extra}]")

    monkeypatch.setattr(dashboard_sources, "require_extra", missing)
    monkeypatch.setattr(dashboard_sources, "ledger_from_file", None)
    sources = Sources(tmp_path / "none", LogSource(tmp_path), ledger=tmp_path / "ledger.jsonl")
    found = DashboardReader(sources).read()
    assert (found.accounts, found.runs) == (Unreadable("install intaglio[train]"), ())


def test_what_nobody_named_is_not_read(tmp_path):
    whole = an_organisation(tmp_path)
    found = DashboardReader(Sources(whole.release, whole.log)).read()
    assert (found.rules, found.accounts, found.runs, found.members, found.certificates) == (None,) * 5
    assert (found.own, found.deployment, found.release.checked) == ((), None, False)


class Log:
    """A source whose keys change and which fails when it is told to; gives which reading it was asked with."""

    def __init__(self):
        self.keys_now, self.fails, self.asked = "keys", None, []

    def keys(self):
        return self.keys_now

    def read(self, reading):
        self.asked.append(reading)
        if self.fails:
            raise self.fails
        return "state"


def test_a_log_is_gone_on_with_where_it_was_until_its_keys_change_or_it_could_not_be_read(monkeypatch):
    made = []
    monkeypatch.setattr(dashboard_sources, "LogReading", lambda keys: made.append(keys) or f"reading {len(made)}")
    log = Log()
    reader = DashboardReader(Sources(None, log))
    reader._log()
    reader._log()
    log.keys_now = "others"
    reader._log()
    for error in (ProofError("forked"), KeyboardInterrupt()):
        log.fails = error
        with pytest.raises(type(error), match=f"^{error}$"):
            reader._log()
        log.fails = None
        reader._log()
    numbers = [int(reading.removeprefix("reading ")) for reading in log.asked]
    assert numbers == [1, 1, 2, 2, 3, 3, 4]
    assert made == ["keys", "others", "others", "others"]


# ---------------------------------------------------------------------------------------------------------- the log
def entry(number, *, requester="a", outcome=AttemptOutcome.OPENED, count=1, days_ago=0):
    time = NOW - days_ago * DAY_SECONDS
    return AttemptEntry(time, requester, "door", outcome, bytes([number]) * 32, count=count)


ENTRIES = [
    entry(1),
    PublicEntry(PublicKind.RELEASE, NOW, BUNDLE.signed.to_bytes()),
    entry(2, requester="b", outcome=AttemptOutcome.INVALID, count=5),
    PublicEntry(PublicKind.RELEASE, NOW, b"{}"),
    PublicEntry(PublicKind.POLICY, NOW, BUNDLE.signed.to_bytes()),
    entry(3, days_ago=1),
    entry(4),
]
LEAVES = [each.to_bytes() for each in ENTRIES]


def checkpoint(leaves, *, signer=LOG_SIGNER, time=NOW, witnesses=()):
    made = Checkpoint(signer.key.name, Frontier().grow(leaves)[0].head)
    note = SignedCheckpoint.sign(made, signer, time=time).note
    for witness in witnesses:
        note = note.with_signature(witness.sign(note.text, time=NOW + 7))
    return note.to_bytes()


class Leaves:
    """A log of these entries that gives a few of them at a time, and writes down what it was asked."""

    def __init__(self, leaves=LEAVES, *, stored=None, most=3, **named):
        self.leaves, self.most, self.asked = leaves, most, []
        self.stored = checkpoint(leaves, **named) if stored is None else stored

    def checkpoint(self):
        self.asked.append("checkpoint")
        return self.stored

    def entries(self, start, stop):
        self.asked.append((start, stop))
        return self.leaves[start : min(stop, start + self.most)]


KEYS = LogKeys(LOG_SIGNER.key, (OTHER.key, WITNESS.key))


def test_a_log_is_counted_once_to_its_end_and_the_next_time_from_there(monkeypatch):
    monkeypatch.setattr(dashboard_log, "_PAGE", 4)
    reading, first = LogReading(KEYS), Leaves(LEAVES[:5], witnesses=[WITNESS])
    state = reading.read(first)
    assert first.asked == ["checkpoint", (0, 4), (3, 5)]
    assert (state.size, state.uses) == (5, {Use(DAY, "a", "door", "opened"): 1, Use(DAY, "b", "door", "invalid"): 5})
    later = Leaves(time=NOW + 60, witnesses=[WITNESS, NoteSigner("stranger", KeyKind.COSIGNATURE, bytes(32))])
    state = reading.read(later)
    assert later.asked == ["checkpoint", (5, 7)]
    assert state == dataclasses.replace(
        state,
        origin=LOG_SIGNER.key.name,
        size=7,
        root=Frontier().grow(LEAVES)[0].head.root.hex(),
        signed_at=NOW + 60,
        strangers=("stranger",),
        kinds={"attempt": 4, "release": 2, "policy": 1},
        uses={
            Use(DAY, "a", "door", "opened"): 2,
            Use(DAY, "b", "door", "invalid"): 5,
            Use(DAY - 1, "a", "door", "opened"): 1,
        },
        releases=frozenset({BUNDLE.release.digest}),
        exported=False,
    )
    assert [(one.name, one.witnessed.value, one.signed_at) for one in state.witnesses] == [
        (OTHER.key.name, "absent", None),
        (WITNESS.key.name, "valid", NOW + 7),
    ]
    assert reading.read(Leaves()).uses == state.uses


STRANGER = NoteSigner(LOG_SIGNER.key.name, KeyKind.NOTE, bytes(32))
CHANGED = [*LEAVES[:2], entry(9).to_bytes(), *LEAVES[3:]]
SHOWN = {
    "the same": (LEAVES, LEAVES, None),
    "an older one": (LEAVES, LEAVES[:4], None),
    "a longer one": (LEAVES[:4], LEAVES, "^the log was rolled back from 7 to 4 entries$"),
    "another of its length": (LEAVES, CHANGED, "^the first 7 entries do not give the signed root: they were changed$"),
    "another that is shorter": (LEAVES, CHANGED[:4], "^the first 4 entries do not give the signed root"),
}


@pytest.mark.parametrize(("kept", "shown", "said"), SHOWN.values(), ids=SHOWN)
def test_a_log_goes_on_from_what_was_shown_to_everybody(kept, shown, said):
    if said is None:
        assert LogReading(KEYS).read(Leaves(kept), checkpoint(shown)).size == len(kept)
    else:
        with pytest.raises(ProofError, match=said):
            LogReading(KEYS).read(Leaves(kept), checkpoint(shown))


@pytest.mark.parametrize(
    ("leaves", "published", "said"),
    [
        (Leaves(stored=checkpoint(LEAVES, signer=STRANGER)), None, "lacks a signature of"),
        (Leaves(), checkpoint(LEAVES, signer=STRANGER), "lacks a signature of"),
        (Leaves(LEAVES[:6], stored=checkpoint(LEAVES)), None, "^entry 6 of the log is missing$"),
        (Leaves(CHANGED, stored=checkpoint(LEAVES)), None, "do not give the signed root"),
    ],
    ids=["a stranger's", "shown by a stranger", "one entry fewer", "another entry"],
)
def test_what_the_log_has_not_signed_or_does_not_hold_is_no_fact(leaves, published, said):
    with pytest.raises(ProofError, match=said):
        LogReading(KEYS).read(leaves, published)


def test_a_log_without_a_checkpoint_is_none():
    leaves = Leaves()
    leaves.stored = None
    with pytest.raises(ProofError, match=r"^the log has no signed checkpoint$"):
        LogReading(KEYS).read(leaves)


def test_keys_are_those_of_the_policy_and_others_each_once_in_their_order():
    lines = [
        f"log {LOG_SIGNER.key.to_text()}",
        f"witness b {OTHER.key.to_text()}",
        f"witness a {WITNESS.key.to_text()}",
    ]
    third = NoteSigner("third", KeyKind.COSIGNATURE, b"3" * 32).key
    text = "\n".join([*lines, "quorum none\n"])
    assert LogKeys.from_policy(text) == LogKeys(LOG_SIGNER.key, (OTHER.key, WITNESS.key))
    assert LogKeys.from_policy(text, [third, OTHER.key]).witnesses == (OTHER.key, WITNESS.key, third)


def test_what_was_published_is_looked_at_before_the_database_which_is_closed_whatever_happens(tmp_path, monkeypatch):
    told = []

    class Storage:
        def close(self):
            told.append("closed")

    monkeypatch.setattr(dashboard_log, "_read", lambda path: told.append(("read", path.name)) or b"shown")
    monkeypatch.setattr(
        dashboard_log, "open_log_storage", lambda place, **how: told.append(("open", place, how)) or Storage()
    )
    (tmp_path / "checkpoint").write_bytes(b"x")
    for source, place in (
        (LogSource(tmp_path, "postgresql://host/log"), "postgresql://host/log"),
        (LogSource(tmp_path), tmp_path / "log.db"),
    ):
        (tmp_path / "log.db").touch()
        for fails in (False, True):
            told.clear()

            def read(leaves, published, fails=fails):
                told.append(("reading", type(leaves).__name__, published))
                if fails:
                    raise ProofError("forked")
                return "state"

            reading = SimpleNamespace(read=read)
            if fails:
                with pytest.raises(ProofError, match=r"^forked$"):
                    source.read(reading)
            else:
                assert source.read(reading) == "state"
            assert told == [
                ("read", "checkpoint"),
                ("open", place, {"read_only": True}),
                ("reading", "Storage", b"shown"),
                "closed",
            ]


def test_entries_of_a_folder_are_those_of_their_bundle_and_a_bundle_may_fill_up_meanwhile(tmp_path, monkeypatch):
    files = {}
    monkeypatch.setattr(dashboard_log, "_read", lambda path: files[path.relative_to(tmp_path).as_posix()])
    monkeypatch.setattr(dashboard_log, "bundle_from_bytes", lambda data: data)
    whole = list(range(256, 512))
    files["tile/entries/001"] = whole
    files["checkpoint"] = checkpoint([b"%d" % number for number in range(300)])
    folder = dashboard_log.ExportedFolder(tmp_path)
    assert folder.entries(258, 290) == list(range(258, 290))
    assert folder.entries(258, 512) == list(range(258, 300)), "what came later is not of this checkpoint"
    (tmp_path / "tile/entries/001.p").mkdir(parents=True)
    (tmp_path / "tile/entries/001.p/44").touch()
    files["tile/entries/001.p/44"] = [-number for number in whole[:44]]
    assert folder.entries(298, 300) == [-298, -299]
    assert SignedCheckpoint.from_bytes(files["checkpoint"]).head.size == 300


# ---------------------------------------------------------------------------------------------------- the commands
async def test_a_page_is_as_old_as_its_sources_were_when_it_was_begun():
    now, made = [0.0], []

    def make():
        now[0] += 50
        made.append(now[0])
        return f"{len(made)}"

    page = FreshPage(make, every_seconds=60, clock=lambda: now[0])
    assert await page.content() == b"1"
    now[0] = 59.0
    assert await page.content() == b"1"
    now[0] = 60.0
    assert await page.content() == b"2"


@pytest.mark.parametrize("fails", [False, True])
async def test_certificates_are_looked_at_every_hour_while_the_page_is_served_and_not_after(monkeypatch, fails):
    told, ticks, page = [], asyncio.Queue(), object()

    async def sleep(seconds):
        told.append(("sleep", seconds))
        await ticks.get()

    async def serve(sockets):
        told.append(("serve", sockets))
        for _ in range(2):
            ticks.put_nowait(None)
            for _ in range(5):
                await asyncio.sleep(0)
        if fails:
            raise OSError("taken")

    monkeypatch.setattr(
        dashboard_cli, "asyncio", SimpleNamespace(create_task=asyncio.create_task, sleep=sleep, run=asyncio.run)
    )
    monkeypatch.setattr(dashboard_cli, "page_server", lambda app: {page: SimpleNamespace(serve=serve)}[app])
    notices = SimpleNamespace(look=lambda: told.append("look"))
    serving = dashboard_cli._serve(page, "a socket", notices)
    if fails:
        with pytest.raises(OSError, match="taken"):
            await serving
    else:
        await serving
    assert told == [("serve", ["a socket"]), *["look", ("sleep", 3600.0)] * 3]
    ticks.put_nowait(None)
    for _ in range(9):
        await asyncio.sleep(0)
    assert told.count("look") == 3
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_witness_s_key_that_is_none_is_named_as_the_option_and_every_key_counts():
    texts = [WITNESS.key.to_text(), OTHER.key.to_text()]
    assert dashboard_cli._keys(texts) == (WITNESS.key, OTHER.key)
    assert dashboard_cli._keys(None) == ()
    with pytest.raises(UsageError, match=r"^--witness: "):
        dashboard_cli._keys([texts[0], "x"])


def test_trust_is_of_a_release_and_not_of_its_makers_alone():
    assert ReleaseTrust.from_file(TRUST.to_bytes()) == TRUST
    assert a_release().digest == BUNDLE.release.digest
