"""A whole campaign: servers, people, strangers and faults for some time, and what is true at the end."""

from __future__ import annotations

import multiprocessing
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from federation.transparency import AttemptEntry, entry_from_bytes
from federation.transparency.entries import UNKNOWN
from server.log.storage import open_log_storage
from server.log.transparency_log import TransparencyLog
from server.matching.serving import SERVICE_NAME, health_of
from server.pairs import client_credentials
from server.storage.sqlstorage import open_storage
from tests.agreeing import AUDIENCE
from tests.campaign import honest, strangers
from tests.campaign.faults import Faults, commit
from tests.campaign.figures import Deed, Noticed, Struck, Trend, noticed, trends
from tests.campaign.ledger import Account, Row, holds, losses
from tests.campaign.schedule import draw, possible
from tests.campaign.town import HONEST, Town
from tests.running import LOG_SIGNER

DOORS = 4
"""Of each process of honest people: so many are served at once."""
SHARE = 0.7
"""Of the measured capacity."""
MOST_GROWTH_MB = 32.0
"""Most that memory of a process that lives on may grow in the last part of a run, as the fitted line says."""
_WARM_UP_SECONDS = 5.0
_CAPACITY_SECONDS = 12.0
_SETTLED_SHARE = 0.75
"""Memory is looked at from this part of a run on; see `schedule.draw`."""
_LAST_SECONDS = 15.0
"""Before the end nothing is struck, so that it can be seen whether people recover."""
_BREATH_SECONDS = 3.0
"""Between two faults at least, however long the first one took."""
_PROVED = 200
_PAGE = 1024
_MEGABYTES_A_MINUTE, _LEAST_MEGABYTES = 25, 768


@dataclass
class Campaign:
    """What happened, and what it says.

    Attributes:
        broken: promises that were not kept; nothing else decides whether a campaign passed.
    """

    database: str
    seconds: float
    seed: int
    date: str
    commit: str
    cores: int
    memory_gb: float
    capacity: float = 0.0
    rate: float = 0.0
    deeds: list[Deed] = field(default_factory=list)
    faults: list[Struck] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    hostile: dict[str, dict[str, int]] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    memory: list[Trend] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    load_before: float = 0.0

    @property
    def rows(self) -> list[Noticed]:
        """What was noticed, by kind of fault."""
        return noticed(self.deeds, self.faults)

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return asdict(self)


def run(
    database: str,
    minutes: float,
    seed: int | None = None,
    *,
    say: Callable[[str], None] = print,
    keep: Path | None = None,
) -> Campaign:
    """Runs one.

    Args:
        database: "sqlite" or "postgresql".
        minutes: with faults; preparing and checking come on top, some two minutes.
        seed: of faults and deeds; None draws one.
        say: is told how far it is.
        keep: where logs of the servers are copied to.
    """
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    day = time.strftime("%Y-%m-%d", time.gmtime())
    campaign = Campaign(database, 60 * minutes, seed, day, commit(), os.cpu_count() or 1, memory_gb)
    campaign.load_before = os.getloadavg()[0]
    say(f"seed {seed}, {database}, commit {campaign.commit}")
    with tempfile.TemporaryDirectory(prefix="campaign") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL's own user goes through it
        megabytes = max(_LEAST_MEGABYTES, int(_MEGABYTES_A_MINUTE * minutes))
        with Town(folder, database, megabytes) as town:
            try:
                _run(campaign, town, seed, say)
            finally:
                _keep_logs(folder, keep)
            campaign.memory = trends(town.samples, *_settled(campaign))
            campaign.starts = {f"front end {one.number + 1}": one.starts for one in town.front_ends}
            own = {f"front end {one.number + 1} ended by itself": one.own_ends for one in town.front_ends}
            campaign.starts |= own | ({"PostgreSQL ended by itself": town.postgres.own_ends} if town.postgres else {})
        campaign.broken += [f"a process is left over: {command}" for command in town.left_over]
        campaign.broken += [
            f"front end {one.number + 1} did not end, {one.hung} times" for one in town.front_ends if one.hung
        ]
    campaign.broken += _grown(campaign.memory) + _judged_deeds(campaign.deeds)
    return campaign


@dataclass
class _People:
    """A process of honest people."""

    process: BaseProcess
    orders: Connection
    out: Path


def _run(campaign: Campaign, town: Town, seed: int, say: Callable[[str], None]) -> None:
    spawn = multiprocessing.get_context("spawn")
    rushing, over = spawn.Event(), spawn.Event()
    policy = town.disk.path / "transparency" / "policy"
    with ExitStack() as ending:
        people = [_people(spawn, town, policy, number, seed) for number in range(HONEST)]
        ending.callback(_end, [one.process for one in people])
        _everybody(people, ("as fast as possible", _WARM_UP_SECONDS))
        came = sum(_everybody(people, ("as fast as possible", _CAPACITY_SECONDS)))
        campaign.capacity = came / _CAPACITY_SECONDS
        campaign.rate = SHARE * campaign.capacity
        say(f"capacity {campaign.capacity:.1f} deeds a second; {campaign.rate:.1f} come from now on")
        mine, theirs = spawn.Pipe()
        stranger = spawn.Process(
            target=strangers.live,
            args=(town.strangers_target, town.folder, policy, town.issuing, seed, rushing, over, theirs),
        )
        stranger.start()
        ending.callback(_end, [stranger])
        begun = time.monotonic()
        planned = draw(possible(campaign.database, has_disk=town.disk.is_mounted), campaign.seconds, seed)
        campaign.missing = [] if town.disk.is_mounted else ["disks: needs root, ext4 and loop devices"]
        until = begun + campaign.seconds
        for one in people:
            one.orders.send(("rate", campaign.rate / len(people), until))
        faults = Faults(town, rushing, seed)
        for one in planned:
            time.sleep(max(_BREATH_SECONDS, begun + one.at - time.monotonic()))
            if time.monotonic() > until - _LAST_SECONDS:
                break
            try:
                campaign.faults.append(faults.strike(one))
            except AssertionError as error:  # something did not start any more
                campaign.broken.append(f"{one.kind}: {str(error)[-500:]}")
                break
            last = campaign.faults[-1]
            say(f"{last.begun - begun:6.0f} s  {last.kind}, {last.ended - last.begun:.1f} s  {last.note}")
        struck = {one.kind for one in campaign.faults}
        campaign.missing += [
            f"{kind}: the time was over" for kind in dict.fromkeys(p.kind for p in planned) if kind not in struck
        ]
        for one in people:
            one.orders.recv()
        over.set()
        campaign.hostile = mine.recv()
        stranger.join(60)
        _require_healthy(campaign, town)
        say("all faults are over; everybody is asked")
        answers = _everybody(people, ("audit",))
        for one in people:
            one.process.join(60)
        _judge(campaign, town, people, answers, begun)


def _people(spawn: Any, town: Town, policy: Path, number: int, seed: int) -> _People:
    mine, theirs = spawn.Pipe()
    out = town.folder / f"people{number}.jsonl"
    place = honest.Place(town.target, town.folder, policy, f"person{number}", town.issuing)
    process = spawn.Process(target=honest.live, args=(place, number, seed, out, DOORS, theirs))
    process.start()
    return _People(process, mine, out)


def _everybody(people: list[_People], order: tuple[Any, ...]) -> list[Any]:
    for one in people:
        one.orders.send(order)
    return [one.orders.recv() for one in people]


def _end(processes: list[BaseProcess]) -> None:
    """After a failure; after a good run they have ended."""
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()


def _settled(campaign: Campaign) -> tuple[float, float]:
    """From when to when memory is looked at."""
    times = [deed.ended for deed in campaign.deeds]
    end = max(times, default=0.0)
    return end - (1 - _SETTLED_SHARE) * campaign.seconds, end


# ---------------------------------------------------------------------- what is true at the end


def _require_healthy(campaign: Campaign, town: Town) -> None:
    """Notes what does not come back by itself within half a minute."""
    for one in town.front_ends:
        deadline, said = time.monotonic() + 30, "it does not listen"
        while time.monotonic() < deadline and said:
            try:
                credentials = client_credentials(town.folder / "tls", "person0")
                health_of(f"localhost:{one.port}", credentials, service=SERVICE_NAME, timeout_seconds=5)
                said = ""
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not healthy
                said = str(error)
                time.sleep(0.5)
        if said:
            campaign.broken.append(f"front end {one.number + 1} is not healthy after all faults: {said}")


def _judge(campaign: Campaign, town: Town, people: list[_People], answers: list[dict[str, Any]], begun: float) -> None:
    events = [event for one in people for event in honest.read_events(one.out)]
    campaign.deeds, heads, told = _sorted(events, begun)
    campaign.broken += told
    accounts = list[Account]()
    for answer in answers:
        accounts += [Account.from_json(fields) for fields in answer["accounts"]]
        campaign.broken += answer["problems"]
    names = ("verified", "exported", "proofs")
    campaign.checked = {name: sum(answer[name] for answer in answers) for name in names}
    # Servers of this tree put finished deeds right every few seconds; they have ended, so what is stored is all.
    for one in town.front_ends:
        one.stop()
    campaign.broken += _judge_stored(campaign, town, accounts, heads)
    said = town.fsck()
    if "entries give the signed root" not in said:
        campaign.broken.append(f"log fsck said: {said}")
    reconciled = town.reconcile()
    if any(not line.startswith("0 ") for line in reconciled.splitlines()[:-1]):
        campaign.broken.append(f"database reconcile found something: {reconciled}")


def _sorted(events: list[tuple[str, Any]], begun: float) -> tuple[list[Deed], set[tuple[int, str]], list[str]]:
    """Deeds that ended since then, checkpoints that were believed, and promises that people saw broken at any time."""
    deeds = [Deed(**content) for kind, content in events if kind == "deed" and content["ended"] >= begun]
    heads = {(size, root) for size, root in (content for kind, content in events if kind == "head")}
    broken = [f"{kind}: {' '.join(content)}" for kind, content in events if kind in ("wrong", "lost")]
    return deeds, heads, broken


def _judge_stored(campaign: Campaign, town: Town, accounts: list[Account], heads: set[tuple[int, str]]) -> list[str]:
    database, log_database = town.locations(direct=True)
    with open_storage(database) as storage, closing(open_log_storage(log_database)) as log:
        transparency = TransparencyLog(log, LOG_SIGNER, clock=lambda: int(time.time()))
        size = transparency.checkpoint().head.size
        leaves = list[bytes]()
        while len(leaves) < size:
            leaves += log.entries(len(leaves), min(len(leaves) + _PAGE, size))
        rows = {account.key_id: _row(storage, log, bytes.fromhex(account.key_id)) for account in accounts}
        head = transparency.checkpoint().head
        found = losses(accounts, rows, leaves, heads | {(head.size, head.root.hex())})
        decisions = sorted({position for account in accounts for position in account.decisions})
        for position in decisions[:: max(1, len(decisions) // _PROVED)]:
            logged = transparency.prove(position)
            if not holds(leaves[position], position, head.size, logged.proof, head.root.hex()):
                found.append(f"the proof of entry {position} does not lead to the last checkpoint")
    named = Counter(entry.requester for entry in map(entry_from_bytes, leaves) if isinstance(entry, AttemptEntry))
    found += [f"a stranger wrote {name} into the log" for name in named if name not in (AUDIENCE, UNKNOWN)]
    states = Counter(account.state for account in accounts)
    campaign.checked |= {
        "people": len(accounts),
        **states,
        "decisions": sum(len(account.decisions) for account in accounts),
        "probes sent": sum(account.sent for account in accounts),
        "checkpoints seen": len(heads),
        "entries of the log": len(leaves),
    }
    return found


def _row(storage: Any, log: Any, key_id: bytes) -> Row:
    template = storage.template(key_id)
    history = storage.history(key_id) if template else None
    return Row(
        has_template=template is not None,
        has_owner=storage.owner(key_id) is not None,
        openings=frozenset(log.openings(key_id)),
        attempts=history.attempts if history else None,
        successes=history.attempts - history.failures if history else None,
    )


def _grown(memory: list[Trend]) -> list[str]:
    return [
        f"{one.role} grew by {one.growth:.1f} MB in {one.seconds:.0f} s, more than {MOST_GROWTH_MB:.0f}"
        for one in memory
        if one.growth > MOST_GROWTH_MB
    ]


def _judged_deeds(deeds: list[Deed]) -> list[str]:
    """Whatever no fault excuses: an error of a server or a device that nobody wrote a sentence for."""
    mistakes = Counter(f"{deed.result}: {deed.why}" for deed in deeds if _is_a_mistake(deed))
    found = [f"{count} times {text}" for text, count in mistakes.items()]
    return found if deeds else [*found, "nobody did anything"]


def _is_a_mistake(deed: Deed) -> bool:
    return deed.result.startswith("Mistake") or "the server failed" in deed.why


def _keep_logs(folder: Path, keep: Path | None) -> None:
    if keep is None:
        return
    keep.mkdir(parents=True, exist_ok=True)
    for path in [*folder.glob("*.log"), *folder.glob("*.jsonl")]:
        (keep / path.name).write_bytes(path.read_bytes())
