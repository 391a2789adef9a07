"""A run that dies goes on at the next start, or ends for good, and is charged once."""

import os
import signal
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import server.coordinator.app
from client.node.ledger import OWN, PEOPLE
from federation.errors import BudgetExhaustedError, RoundAbortedError, UsageError
from federation.learning.rounds import EVALUATE_THRESHOLD, OPEN_SHARES, SHARE_KEYS, TRAIN_MOMENTS
from federation.privacy.ledger import LedgerChain
from federation.recognition.conditions import CLEAN
from server.coordinator import local_run
from server.coordinator.checkpoint import Checkpoint, Progress
from server.coordinator.ledger import PrivacyLedger
from server.coordinator.secure_sums import SecureSums
from tests.crash_points import DIED, Deadline, in_a_child
from tests.federated import NAMES, ledger_kinds, run, the_chain, the_release, write_federation
from tests.public_people import synthetic_profile
from tests.simulator import InProcessGrid

ORGANISATIONS = 2


class Died(BaseException):
    """What nobody catches."""


@pytest.fixture
def config(tmp_path):
    """Two organisations, to be quick, whose budget is enough for two runs."""
    people = len(NAMES)  # planned, so that both sums are asked for; those of two organisations are there
    config = write_federation(tmp_path)
    roster = (tmp_path / "roster").read_text().splitlines(keepends=True)[:ORGANISATIONS]
    (tmp_path / "roster").write_text("".join(roster))
    return config | {
        "people": people,
        "num-organisations": ORGANISATIONS,
        "epsilon": 20.0,
        "budget-epsilon": 40.0,
        "round-deadline-seconds": 5.0,
    }


class Logged(InProcessGrid):
    """Writes down which node was asked to open what; its own durable steps are not the coordinator's."""

    deadline: Deadline | None = None

    def _deliver(self, message):
        if self.deadline:
            self.deadline.paused = True
        if message.metadata.message_type == OPEN_SHARES:
            ((release, _),) = message.content["secagg"].items()
            log = os.open(Path(self.folder) / "asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(log, f"{release} {message.metadata.dst_node_id}\n".encode())
            os.close(log)
        try:
            return super()._deliver(message)
        finally:
            if self.deadline:
                self.deadline.paused = False


def start(config, run_id, deadline=None):
    grid = type("Grid", (Logged,), {"folder": config["organisations"], "deadline": deadline})
    return run(config, run_id=run_id, nodes=ORGANISATIONS, grid=grid)


def asked(config):
    path = Path(config["organisations"]) / "asked"
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def require_one_release_for_one_charge(config):
    """Whatever happened: goes on or ends for good at the second start, and a third one is a new run."""
    reserved_at_death = ledger_kinds(config).count("reserve")
    finished = ledger_kinds(config)[-1:] == ["commit"]
    try:
        start(config, 2)
    except RoundAbortedError as error:
        assert "new charge" in str(error)  # noqa: PT017 - both ends are right, and which one depends on the point
        assert ledger_kinds(config) == ["open", "reserve"]
        assert max(asked(config).values(), default=1) == 1
        before = asked(config)
        start(config, 3)
        assert ledger_kinds(config) == ["open", "reserve", "reserve", "commit"]
        assert all(count == 1 for count in (asked(config) - before).values())
        outcome = "ended"
    else:
        # When everything was over but the removal of the last trace, the second start may be a whole new run.
        again = finished and len(the_chain(config).entries) > 3
        assert ledger_kinds(config) == ["open", "reserve", "commit", *(["reserve", "commit"] if again else [])]
        assert max(asked(config).values()) == (2 if again else 1)
        outcome = "again" if again else "went on" if reserved_at_death else "from the start"
    assert the_chain(config).entries[-1].release == the_release(config).digest
    assert not Path(f"{config['output']}.unfinished").exists()
    return outcome


STEPS = {
    "begin": (Checkpoint, "begin", 1, "from the start", "from the start"),
    "reserve": (PrivacyLedger, "reserve", 1, "from the start", "went on"),
    "asking for moments": (SecureSums, "collect", 1, "went on", "ended"),
    "opening moments": (Checkpoint, "opening", 1, "went on", "ended"),
    "moments opened": (Checkpoint, "opened", 1, "ended", "went on"),
    "opening the threshold": (Checkpoint, "opening", 2, "went on", "ended"),
    "threshold opened": (Checkpoint, "opened", 2, "ended", "went on"),
    "release made": (Checkpoint, "made", 1, "went on", "went on"),
    "commit": (PrivacyLedger, "commit", 1, "went on", "went on"),
    "removed": (Checkpoint, "remove", 1, "went on", "again"),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_died_goes_on_or_ends_and_is_charged_once(config, monkeypatch, step, when):
    owner, name, which, *outcomes = STEPS[step]
    original, calls = getattr(owner, name), []

    def dies(*args, **named):
        calls.append(None)
        if len(calls) == which and when == "before":
            raise Died
        result = original(*args, **named)
        if len(calls) == which:
            raise Died
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(Died):
            start(config, 1)
    assert require_one_release_for_one_charge(config) == outcomes[when == "after"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_coordinator_that_is_killed_at_any_write_releases_once_for_a_charge(config, tmp_path):
    outcomes = Counter()
    template = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for point in range(500):
        folder = tmp_path / f"run {point}"
        folder.mkdir()
        for name, data in template.items():
            (folder / name).write_bytes(data)
        here = {k: v.replace(str(tmp_path), str(folder)) if isinstance(v, str) else v for k, v in config.items()}

        def die_at(point=point, here=here):
            torch.set_num_threads(1)  # threads of the parent do not live on in a fork
            deadline = Deadline(point)
            deadline.install()
            start(here, 1, deadline)

        code = in_a_child(die_at)
        if code != DIED:
            break
        outcomes[require_one_release_for_one_charge(here)] += 1
    assert code == 0
    assert set(outcomes) >= {"from the start", "went on", "ended"}


def test_what_a_run_that_goes_on_releases_is_what_it_opened_before(config, monkeypatch):
    """The first sum is on disk: the second start asks for the second one only, and uses the very same numbers."""
    seen = []
    original = Checkpoint.opened

    def remembered(self, release, total):
        original(self, release, total)
        seen.append((release, total.total.tolist()))
        if len(seen) == 1:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "opened", remembered)
        with pytest.raises(Died):
            start(config, 1)
    built = []
    monkeypatch.setattr(
        server.coordinator.app.Shift, "of", lambda total, *_, **__: built.append(total.tolist()) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        start(config, 2)
    assert built == [seen[0][1]]


def test_organisations_are_charged_once_for_a_run_that_goes_on(config, monkeypatch, tmp_path):
    def dies(*_args):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "made", dies)
        with pytest.raises(Died):
            start(config, 1)
    start(config, 2)
    for index in range(ORGANISATIONS):
        own = LedgerChain.from_bytes((tmp_path / f"{index}.ledgers" / OWN).read_bytes())
        assert len(own.charged(PEOPLE)) == 2


def test_organisations_give_a_coordinator_that_forgets_no_second_sum(config, monkeypatch, tmp_path):
    """Its file says that nothing was opened. Theirs say otherwise."""
    checkpoint, begun = Path(f"{config['output']}.unfinished"), []
    original = Checkpoint.begin

    def begin(self, *args):
        progress = original(self, *args)
        begun.append(checkpoint.read_bytes())
        return progress

    def dies(*_args):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "begin", begin)
        patch.setattr(Checkpoint, "opened", dies)
        with pytest.raises(Died):
            start(config, 1)
    checkpoint.write_bytes(begun[0])
    with pytest.raises(RoundAbortedError, match="it answers every request once"):
        start(config, 2)
    assert set(asked(config).values()) == {1}


@pytest.mark.parametrize("stage", [SHARE_KEYS, TRAIN_MOMENTS, EVALUATE_THRESHOLD])
def test_a_run_that_ended_before_anything_was_opened_goes_on_under_its_charge(config, stage):
    def silent(_node, reply):
        return None if reply.metadata.message_type == stage else reply

    config["round-deadline-seconds"] = 0.3
    with pytest.raises(RoundAbortedError, match="it goes on under this charge"):
        run(config, nodes=ORGANISATIONS, tamper=silent)
    start(config, 2)
    assert ledger_kinds(config) == ["open", "reserve", "commit"]


@pytest.mark.parametrize("name", ["profile", "condition", "fmr", "references", "frames"])
def test_other_settings_are_another_run(config, monkeypatch, capsys, tmp_path, name):
    """Each that no plan holds, and that its sums or its release depend on."""
    another = tmp_path / "another.json"
    another.write_bytes(replace(synthetic_profile(), name="another").to_bytes())
    others = {"profile": str(another), "condition": CLEAN, "fmr": 0.02, "references": 1, "frames": 2}

    def dies(*_args):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "opening", dies)
        with pytest.raises(Died):
            start(config, 1)
    assert config[name] != others[name]
    start(config | {name: others[name]}, 2)
    assert "is given up, and its charge stays" in capsys.readouterr().out
    assert ledger_kinds(config) == ["open", "reserve", "reserve", "commit"]


def test_a_ledger_that_lost_the_charge_of_a_run_that_asked_is_not_charged_again(config, monkeypatch, tmp_path):
    def dies(*_args):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "made", dies)
        with pytest.raises(Died):
            start(config, 1)
    (tmp_path / "ledger.jsonl").write_bytes(b"")
    with pytest.raises(UsageError, match="old copy was restored"):
        start(config, 2)
    assert ledger_kinds(config) == []


def test_a_budget_without_room_leaves_no_unfinished_run(config):
    config["budget-epsilon"] = 10.0
    with pytest.raises(BudgetExhaustedError, match="the privacy budget of 'synthetic' is"):
        start(config, 1)
    assert not Path(f"{config['output']}.unfinished").exists()


def test_two_runs_do_not_write_one_release(config, tmp_path):
    with Checkpoint.lock(tmp_path / "release.json"), pytest.raises(UsageError, match="another run"):
        start(config, 1)
    assert not Path(config["ledger"]).exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda _: b"{}", lambda data: data.replace(b"1", b'"', 1)])
def test_a_damaged_checkpoint_says_what_to_do(config, tmp_path, damage):
    checkpoint = tmp_path / "release.json.unfinished"
    with Checkpoint.lock(tmp_path / "release.json") as unfinished:
        unfinished.begin("ab" * 32, "7")
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(UsageError, match="remove it to give up the run"):
        start(config, 1)


# ------------------------------------------------------------------------------------------ with Flower's own processes
def end_everything(folder):
    """SIGKILL for every process of the SuperLink in `folder`, its ServerApp and nodes, as a power cut would."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"FLWR_HOME={folder}".encode() in environment and int(process.name) != os.getpid():
            os.kill(int(process.name), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.timeout(900)
def test_a_run_whose_processes_are_all_killed_goes_on_after_a_new_start(config, tmp_path):
    config["round-deadline-seconds"], config["node-deadline-seconds"] = 120.0, 60.0
    (tmp_path / "run.toml").write_text(local_run._toml(config))
    unfinished, said, over = Path(f"{config['output']}.unfinished"), [], threading.Event()

    def kill_after_the_first_sum():
        while not over.wait(0.02):
            if unfinished.exists() and Progress.from_bytes(unfinished.read_bytes()).sums:
                end_everything(tmp_path)
                return

    def submitted():
        environment = local_run._environment(tmp_path)
        with local_run._superlink(tmp_path, environment) as address:
            return local_run._submit(tmp_path, environment, address, ORGANISATIONS, 240.0, said.append)

    killer = threading.Thread(target=kill_after_the_first_sum)
    killer.start()
    assert isinstance(submitted(), RoundAbortedError)
    over.set()
    killer.join()
    assert ledger_kinds(config) == ["open", "reserve"]
    assert submitted() is None
    assert any("this one goes on from moments" in line for line in said)
    assert ledger_kinds(config) == ["open", "reserve", "commit"]
    assert the_release(config).adapted
