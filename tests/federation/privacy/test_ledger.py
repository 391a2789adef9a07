"""Ledgers of coordinator and organisations: copies that show a rollback, a cap over all runs, the commands."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from client.node.ledger import COORDINATOR, OWN, PEOPLE, Ledgers, WrongLedgerError
from client.node.ledger_cli import ledger_app
from client.node.turns import TURNS, RepeatedError, Turns
from federation.errors import (
    BudgetExhaustedError,
    IntaglioError,
    MalformedMessageError,
    ProofError,
    RoundAbortedError,
    UsageError,
)
from federation.learning.rounds import ShownLedger
from federation.privacy.charges import charge_name
from federation.privacy.ledger import MOST_BYTES, LedgerChain, LedgerEntry
from federation.privacy.plan import MOMENTS, THRESHOLD
from federation.secagg import NodeSecrets, Stage
from server.coordinator.ledger import LedgerCopies, PrivacyLedger
from server.coordinator.ledger_cli import ledger_commands
from tests.crash_points import DIED, Deadline, in_a_child
from tests.federated import a_charge, agreed_on, reservation_of, run, the_chain, the_plan, write_federation
from tests.simulator import FIRST_NODE

CAP = {"cap_epsilon": 64.0, "cap_delta": 1e-5}


def written(path, *runs, noise=6.0):
    ledger = PrivacyLedger(path)
    for name in runs:
        ledger.reserve("orl", name, (noise,), **CAP)
        ledger.commit("orl", name, "ab" * 32)
    return ledger.chain()


def test_two_populations_of_one_ledger_have_nothing_to_do_with_each_other(tmp_path):
    """Each account is the one that it would be if the other people had a ledger of their own."""
    caps = {"staff": (64.0, 1e-5), "guests": (9.0, 1e-6)}
    runs = [("staff", "a", (6.0,)), ("guests", "b", (9.0, 8.0)), ("staff", "c", (7.0,)), ("guests", "d", (20.0,))]
    both = PrivacyLedger(tmp_path / "both.jsonl")
    alone = {name: PrivacyLedger(tmp_path / f"{name}.jsonl") for name in caps}
    for population, name, noise in runs:
        epsilon, delta = caps[population]
        for ledger in (both, alone[population]):
            ledger.reserve(population, name, noise, cap_epsilon=epsilon, cap_delta=delta)
    for ledger in (both, alone["guests"]):
        ledger.commit("guests", "b", "cd" * 32)
    chain = both.chain()
    assert chain.accounts() == tuple(one for ledger in alone.values() for one in ledger.chain().accounts())
    for population, ledger in alone.items():
        assert chain.charged(population) == ledger.chain().charged(population)
        assert [run for run, _, _ in ledger.chain().accounts()[0].runs] == (
            ["a", "c"] if population == "staff" else ["b", "d"]
        )
    with pytest.raises(UsageError, match="no open reservation for 'guests'"):
        both.commit("guests", "a", "ab" * 32)
    with pytest.raises(UsageError, match="the budget of 'guests' was set to epsilon 9"):
        both.reserve("guests", "e", (9.0,), cap_epsilon=64.0, cap_delta=1e-5)
    with pytest.raises(BudgetExhaustedError, match="budget of 'guests' is exhausted"):
        both.reserve("guests", "e", (0.4,), cap_epsilon=9.0, cap_delta=1e-6)
    assert both.chain() == chain
    both.reserve("staff", "e", (0.4,), cap_epsilon=64.0, cap_delta=1e-5)


# ------------------------------------------------------------------------------------------------- what extends what
def test_a_longer_ledger_extends_every_earlier_one(tmp_path):
    chain = written(tmp_path / "ledger", "1", "2")
    for length in range(len(chain.entries) + 1):
        chain.require_extends(LedgerChain(chain.entries[:length]))


def test_a_ledger_whose_end_is_missing_says_how_much(tmp_path):
    chain = written(tmp_path / "ledger", "1", "2")
    with pytest.raises(ProofError, match="its last 2 are gone, so an old copy was restored"):
        LedgerChain(chain.entries[:3]).require_extends(chain)


def test_a_ledger_that_was_continued_from_an_old_copy_says_from_where(tmp_path):
    chain = written(tmp_path / "ledger", "1", "2")
    shutil.copy(tmp_path / "ledger", tmp_path / "other")
    (tmp_path / "other").write_bytes(b"".join((tmp_path / "ledger").read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(ProofError, match="differ from entry 4 on"):
        written(tmp_path / "other", "3", "4").require_extends(chain)


@pytest.mark.parametrize(
    "data", [b"junk\n", b"no line feed", b"\n", b"x" * (MOST_BYTES + 1)], ids=["junk", "torn", "empty line", "huge"]
)
def test_foreign_bytes_are_a_ledger_or_malformed(data):
    with pytest.raises(MalformedMessageError, match="ledger"):
        LedgerChain.from_bytes(data)


LINE = {
    "delta": 0.125,
    "epsilon": 0.25,
    "kind": "reserve",
    "noise_multipliers": [2.0, 3.5],
    "population": "people",
    "previous": "a" * 64,
    "release": "ef" * 32,
    "run": "run 1",
}
OTHER = {"kind": "commit", "noise_multipliers": [2.0, 3.0], "delta": 0.25, "epsilon": 0.5}


def test_a_line_is_all_fields_and_a_hash_of_all_of_them_written_out_by_hand():
    body = (
        b'{"delta":0.125,"epsilon":0.25,"kind":"reserve","noise_multipliers":[2.0,3.5],"population":"people",'
        b'"previous":"%s","release":"%s","run":"run 1"}' % (b"a" * 64, b"ef" * 32)
    )
    entry = LedgerEntry(**LINE | {"noise_multipliers": (2.0, 3.5)})
    assert entry.hash == hashlib.sha256(body).hexdigest()
    line = body.replace(b'"kind"', b'"hash":"%s","kind"' % entry.hash.encode()) + b"\n"
    assert entry.to_line() == line
    assert LedgerEntry.from_line(line) == entry


@pytest.mark.parametrize("field", LINE)
def test_a_line_of_which_one_field_was_changed_alone_is_an_altered_one(field):
    entry = LedgerEntry(**LINE | {"noise_multipliers": (2.0, 3.5)})
    changed = json.loads(entry.to_line()) | {field: OTHER.get(field, "b" * 64)}
    line = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    with pytest.raises(MalformedMessageError, match=r"^a ledger line was altered: its hash does not fit its content$"):
        LedgerEntry.from_line(line)


@pytest.mark.parametrize("text", ["run\npeople: epsilon 0.00 of 8 is charged", "run\x1b[2J", "run\u2028"])
@pytest.mark.parametrize("field", ["population", "run", "release"])
def test_a_foreign_ledger_writes_nothing_of_its_own_into_what_is_shown_of_it(tmp_path, field, text):
    """Either side shows the other's: a line feed would begin a line that nobody could tell from ours."""
    data = written(tmp_path / "ledger", "run").to_bytes()
    (entry,) = (entry for entry in LedgerChain.from_bytes(data).entries if entry.kind == "open")
    with pytest.raises(UsageError, match="a field of the wrong kind"):
        replace(entry, **{field: text})
    line = json.loads(entry.to_line()) | {field: text}
    line["hash"] = hashlib.sha256(
        json.dumps({k: v for k, v in line.items() if k != "hash"}, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
    forged = json.dumps(line, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    with pytest.raises(MalformedMessageError, match="no ledger, or an altered one"):
        LedgerChain.from_bytes(forged)


def test_a_ledger_survives_the_wire(tmp_path):
    chain = written(tmp_path / "ledger", "1", "2")
    assert LedgerChain.from_bytes(chain.to_bytes()) == chain
    assert chain.to_bytes() == (tmp_path / "ledger").read_bytes()


# --------------------------------------------------------------------------------------------------- the coordinator's
def test_the_coordinator_notices_when_an_organisation_comes_back_with_an_old_ledger(tmp_path):
    copies, chain = LedgerCopies(tmp_path / "copies"), written(tmp_path / "ledger", "1", "2")
    copies.keep("north", chain.to_bytes())
    copies.keep("south", b"")
    with pytest.raises(ProofError, match=r"old copy was restored.*Send it .*north\.jsonl"):
        copies.keep("north", LedgerChain(chain.entries[:4]).to_bytes())
    assert (tmp_path / "copies" / "north.jsonl").read_bytes() == chain.to_bytes()


@pytest.mark.parametrize("name", ["../north", "a/b", "/north", ".", "..", "a%2Fb", "Süd west"])
def test_a_copy_lies_in_its_folder_whatever_the_organisation_is_called(tmp_path, name):
    folder, data = tmp_path / "all" / "copies", written(tmp_path / "ledger", "1").to_bytes()
    LedgerCopies(folder).keep(name, data)
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - {tmp_path / "ledger", folder / ".lock"}
    assert [path.parent for path in made] == [folder]
    with pytest.raises(ProofError, match="old copy was restored"):
        LedgerCopies(folder).keep(name, b"")


@pytest.mark.parametrize("runs", [("1",), ()], ids=["after entries", "first of all"])
@pytest.mark.parametrize("end", [1, 40, -1])
def test_a_charge_that_a_crash_cut_short_is_cut_off_by_the_next_one(tmp_path, runs, end):
    path = tmp_path / "ledger"
    path.write_bytes(whole := written(path, *runs).to_bytes())
    ledger = PrivacyLedger(path)
    ledger.reserve("staff", "cut", (9.0,), cap_epsilon=64.0, cap_delta=1e-5)
    line = path.read_bytes()[len(whole) :].splitlines(keepends=True)[0]
    path.write_bytes(whole + line[:end])
    ledger.reserve("staff", "next", (9.0,), cap_epsilon=64.0, cap_delta=1e-5)
    assert path.read_bytes().startswith(whole)
    chain = LedgerChain.from_bytes(path.read_bytes())
    assert [entry.run for entry in chain.entries if entry.kind == "reserve"] == [*runs, "next"]


def test_a_copy_that_was_altered_is_our_own_fault(tmp_path):
    copies = LedgerCopies(tmp_path)
    copies.keep("north", written(tmp_path / "ledger", "1").to_bytes())
    (tmp_path / "north.jsonl").write_bytes(b"junk\n")
    with pytest.raises(UsageError, match="altered"):
        copies.keep("north", b"")


# -------------------------------------------------------------------------------------------------- the organisation's
@pytest.fixture
def config(tmp_path):
    return write_federation(tmp_path)


@pytest.fixture
def plan():
    return the_plan()


def name_of(config, plan, release, run_id="1"):
    return charge_name(reservation_of(config, plan, run_id), release, "c" * 64)


def charge_all(ledgers, config, plan, run_id="1"):
    for release, noise in plan.events:
        ledgers.charge(name_of(config, plan, release, run_id), noise)


def test_an_organisation_charges_each_release_once(config, plan, tmp_path):
    ledgers = Ledgers(tmp_path / "own", 16.0, 1e-5)
    ledgers.admit(a_charge(config, plan), plan, agreed_on(config, plan))
    charge_all(ledgers, config, plan)
    charge_all(ledgers, config, plan)
    with pytest.raises(WrongLedgerError, match="other noise"):
        ledgers.charge(name_of(config, plan, MOMENTS), plan.moments_noise_multiplier / 2)
    assert ledgers.own().charged(PEOPLE) == plan.noise_multipliers


def test_an_organisation_opens_one_sum_for_a_charge(config, plan, tmp_path):
    ledgers = Ledgers(tmp_path / "own", 16.0, 1e-5)
    ledgers.admit(a_charge(config, plan), plan, agreed_on(config, plan))
    charge_all(ledgers, config, plan)
    ledgers.opened(name_of(config, plan, MOMENTS, "1"), "ab" * 32)
    with pytest.raises(RepeatedError, match=r"^$"):
        ledgers.opened(name_of(config, plan, MOMENTS, "1"), "cd" * 32)
    with pytest.raises(RepeatedError, match=r"^$"):
        ledgers.charge(name_of(config, plan, plan.events[0][0], "1"), plan.events[0][1])
    ledgers.opened(name_of(config, plan, THRESHOLD, "1"), "ab" * 32)
    with pytest.raises(UsageError, match="no open reservation"):
        ledgers.opened(name_of(config, plan, MOMENTS, "2"), "ab" * 32)


def test_an_organisation_s_cap_holds_over_all_runs_together(config, plan, tmp_path):
    ledgers = Ledgers(tmp_path / "own", 9.0, 1e-5)
    ledgers.admit(a_charge(config, plan), plan, agreed_on(config, plan))
    charge_all(ledgers, config, plan)
    before = ledgers.own()
    with pytest.raises(BudgetExhaustedError, match=r"epsilon 7\.98 of 9 is spent"):
        ledgers.admit(a_charge(config, plan, "2"), plan, agreed_on(config, plan))
    with pytest.raises(BudgetExhaustedError, match="the privacy budget of 'people of this"):
        ledgers.charge(name_of(config, plan, plan.events[0][0], "2"), plan.events[0][1])
    assert ledgers.own() == before


def test_the_cap_does_not_care_what_the_coordinator_calls_the_people(config, plan, tmp_path):
    ledgers = Ledgers(tmp_path / "own", 9.0, 1e-5)
    ledgers.admit(a_charge(config, plan), plan, agreed_on(config, plan))
    charge_all(ledgers, config, plan)
    coordinator = PrivacyLedger(tmp_path / "ledger.jsonl")
    coordinator.reserve(
        "the same people under another name", reservation_of(config, plan, "2"), plan.noise_multipliers, **CAP
    )
    with pytest.raises(BudgetExhaustedError, match="the privacy budget of 'people of this"):
        ledgers.admit(
            ShownLedger(coordinator.chain(), reservation_of(config, plan, "2")), plan, agreed_on(config, plan)
        )


def test_a_run_that_goes_on_needs_room_only_for_what_was_not_charged(config, plan, tmp_path):
    ledgers, shown = Ledgers(tmp_path / "own", 8.1, 1e-5), a_charge(config, plan)
    ledgers.admit(shown, plan, agreed_on(config, plan))
    ledgers.charge(name_of(config, plan, plan.events[0][0], "1"), plan.events[0][1])
    ledgers.admit(shown, plan, agreed_on(config, plan))
    ledgers.charge(name_of(config, plan, plan.events[1][0], "1"), plan.events[1][1])
    ledgers.admit(shown, plan, agreed_on(config, plan))
    assert len(ledgers.own().charged(PEOPLE)) == 2


def test_a_cap_can_be_lowered_and_not_raised(tmp_path, plan):
    Ledgers(tmp_path, 9.0, 1e-5).charge(*plan.events[0])
    with pytest.raises(UsageError, match="can be lowered and not raised"):
        Ledgers(tmp_path, 10.0, 1e-5).charge(*plan.events[1])
    with pytest.raises(BudgetExhaustedError, match="the privacy budget of 'people of this"):
        Ledgers(tmp_path, 7.5, 1e-5).charge(*plan.events[1])
    assert len(Ledgers(tmp_path, 9.0, 1e-5).charge(*plan.events[1]).charged(PEOPLE)) == 2


def test_an_organisation_refuses_a_coordinator_whose_ledger_went_back(config, plan, tmp_path):
    ledgers, first = Ledgers(tmp_path / "own", 64.0, 1e-5), a_charge(config, plan)
    ledgers.admit(first, plan, agreed_on(config, plan))
    ledgers.admit(a_charge(config, plan, "2"), plan, agreed_on(config, plan))
    with pytest.raises(WrongLedgerError, match=r"does not go on.*old copy was restored.*send it .*coordinator\.jsonl"):
        ledgers.admit(first, plan, agreed_on(config, plan))
    assert len(LedgerChain.from_bytes((tmp_path / "own" / COORDINATOR).read_bytes()).charged("synthetic")) == 4


def test_an_organisation_wants_to_see_its_run_charged(config, plan, tmp_path):
    ledgers, shown = Ledgers(tmp_path / "own", 64.0, 1e-5), a_charge(config, plan)
    ledgers.admit(shown, plan, agreed_on(config, plan))
    other = the_plan(6.0)
    for wrong, asked in [
        (ShownLedger(shown.chain, reservation_of(config, plan, "2")), plan),
        (shown, other),
        (ShownLedger(LedgerChain(), shown.reservation), plan),
    ]:
        with pytest.raises(
            WrongLedgerError,
            match=r"holds no charge for this run|for another plan, another roster|does not go on from the last one",
        ):
            ledgers.admit(wrong, asked, agreed_on(config, asked))
    coordinator = PrivacyLedger(tmp_path / "ledger.jsonl")
    coordinator.commit("synthetic", reservation_of(config, plan), "ab" * 32)
    with pytest.raises(WrongLedgerError, match="already"):
        ledgers.admit(ShownLedger(coordinator.chain(), reservation_of(config, plan)), plan, agreed_on(config, plan))


@pytest.mark.parametrize("name", [OWN, COORDINATOR])
def test_an_altered_file_stops_the_organisation(config, plan, tmp_path, name):
    ledgers = Ledgers(tmp_path / "own", 64.0, 1e-5)
    ledgers.admit(a_charge(config, plan), plan, agreed_on(config, plan))
    ledgers.charge(name_of(config, plan, plan.events[0][0], "1"), plan.events[0][1])
    path = tmp_path / "own" / name
    path.write_bytes(path.read_bytes().replace(b"8", b"9", 1))
    with pytest.raises(UsageError, match="altered; restore "):
        ledgers.admit(a_charge(config, plan, "2"), plan, agreed_on(config, plan))


@pytest.mark.parametrize(("epsilon", "delta"), [(64.0, 1e-6), (64.0, 1e-4), (65.0, 1e-5)])
def test_a_cap_stays_what_it_was_when_people_were_first_charged(config, plan, tmp_path, epsilon, delta):
    """At another delta the same noise is another epsilon, and what was spent would have to be counted anew."""
    Ledgers(tmp_path / "own", 64.0, 1e-5).charge("a run/moments/of something", 2.0)
    before, other = files_in(tmp_path / "own"), Ledgers(tmp_path / "own", epsilon, delta)
    for ask in (
        lambda: other.charge("another/moments/of something", 2.0),
        lambda: other.admit(a_charge(config, plan), plan, agreed_on(config, plan)),
    ):
        with pytest.raises(UsageError, match="when people were first charged: it"):
            ask()
    assert files_in(tmp_path / "own") == before


@pytest.mark.parametrize("charged", [False, True])
def test_an_own_ledger_that_is_gone_is_no_empty_one(config, plan, tmp_path, charged):
    """With it would go what these people were charged, and what was opened."""
    ledgers, shown = Ledgers(tmp_path / "own", 64.0, 1e-5), a_charge(config, plan)
    ledgers.admit(shown, plan, agreed_on(config, plan))
    name, noise = name_of(config, plan, plan.events[0][0], "1"), plan.events[0][1]
    if charged:
        ledgers.charge(name, noise)
    (tmp_path / "own" / OWN).rename(tmp_path / "kept")
    before = files_in(tmp_path / "own")
    for ask in (
        ledgers.own,
        lambda: ledgers.admit(shown, plan, agreed_on(config, plan)),
        lambda: ledgers.charge(name, noise),
        lambda: ledgers.opened(name, "ab" * 32),
    ):
        with pytest.raises(UsageError, match=r"is gone or empty, .* restore the newest copy that you have"):
            ask()
    assert files_in(tmp_path / "own") == before
    (tmp_path / "kept").rename(tmp_path / "own" / OWN)
    ledgers.charge(name, noise)
    assert ledgers.own().charged(PEOPLE) == (noise,)


@pytest.mark.parametrize("left", [COORDINATOR, TURNS])
@pytest.mark.parametrize("content", [None, b""])
def test_an_own_ledger_without_an_entry_is_none_beside_what_came_after_its_first(config, plan, tmp_path, left, content):
    """A file of no bytes is a valid chain of no entries, and a turn is taken long after the cap was set."""
    folder, shown = tmp_path / "own", a_charge(config, plan)
    Ledgers(folder, 64.0, 1e-5).admit(shown, plan, agreed_on(config, plan))
    Turns(folder).take(NodeSecrets.draw(), MOMENTS, Stage.SHARE_KEYS)
    for name in {OWN, COORDINATOR, TURNS} - {left}:
        (folder / name).unlink()
    if content is not None:
        (folder / OWN).write_bytes(content)
    before = files_in(folder)
    with pytest.raises(UsageError, match=r"own\.jsonl is gone or empty, "):
        Ledgers(folder, 64.0, 1e-5).admit(shown, plan, agreed_on(config, plan))
    assert files_in(folder) == before


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_no_charge_is_lost_or_doubled_when_an_organisation_is_killed_at_any_write(config, plan, tmp_path):
    """What was acknowledged is on disk; and what was charged is not charged, nor answered, again."""
    shown = a_charge(config, plan)

    def everything(folder):
        Ledgers(folder, 8.1, 1e-5).admit(shown, plan, agreed_on(config, plan))
        for release, noise in plan.events:
            Ledgers(folder, 8.1, 1e-5).charge(name_of(config, plan, release), noise)
            (folder / f"left {release}").touch()
            Ledgers(folder, 8.1, 1e-5).opened(name_of(config, plan, release), "ab" * 32)
            (folder / f"opened {release}").touch()

    for point in range(100):
        folder = tmp_path / str(point)

        def die_at(point=point, folder=folder):
            Deadline(point).install()
            everything(folder)

        code = in_a_child(die_at)
        own = Ledgers(folder, 8.1, 1e-5).own()
        charged = {release for release, _ in plan.events if own.reservation(name_of(config, plan, release))}
        committed = {release for release, _ in plan.events if own.release_of(name_of(config, plan, release))}
        assert {path.name.removeprefix("left ") for path in folder.glob("left *")} <= charged
        assert {path.name.removeprefix("opened ") for path in folder.glob("opened *")} <= committed
        Ledgers(folder, 8.1, 1e-5).admit(shown, plan, agreed_on(config, plan))
        for release, noise in plan.events:
            if release not in committed:
                Ledgers(folder, 8.1, 1e-5).charge(name_of(config, plan, release), noise)
                Ledgers(folder, 8.1, 1e-5).opened(name_of(config, plan, release), "ab" * 32)
            with pytest.raises(RepeatedError, match=r"^$"):
                Ledgers(folder, 8.1, 1e-5).charge(name_of(config, plan, release), noise)
        assert Ledgers(folder, 8.1, 1e-5).own().charged(PEOPLE) == plan.noise_multipliers
        if code != DIED:
            break
    assert code == 0
    assert point >= 5 * 6  # five writes, before and after: sync, rename, sync of the folder


# --------------------------------------------------------------------------------------------------- in a whole run
def test_both_sides_hold_the_same_ledgers_after_a_run(config, tmp_path):
    run(config)
    for index in range(4):
        copy = LedgerChain.from_bytes((tmp_path / f"{index}.ledgers" / COORDINATOR).read_bytes())
        the_chain(config).require_extends(copy)
        assert copy.reservation(reservation_of(config, the_plan())) is not None
    kept = sorted(path.read_bytes() for path in (tmp_path / "copies").glob("*.jsonl"))
    assert kept == sorted((tmp_path / f"{index}.ledgers" / OWN).read_bytes() for index in range(4))


def test_a_coordinator_that_restores_an_old_ledger_is_refused_by_everybody(config, tmp_path):
    config["budget-epsilon"] = 16.0
    run(config)
    saved = (tmp_path / "ledger.jsonl").read_bytes()
    run(config, run_id=2)
    (tmp_path / "ledger.jsonl").write_bytes(saved)
    with pytest.raises(RoundAbortedError, match="restore the ledger from the newest copy"):
        run(config, run_id=3)
    # As the message says.
    newest = (tmp_path / "0.ledgers" / COORDINATOR).read_bytes()
    assert len(newest) > len(saved)


def test_an_organisation_that_restores_an_old_ledger_is_named(config, tmp_path):
    config["budget-epsilon"] = 16.0
    run(config)
    saved = (tmp_path / "1.ledgers" / OWN).read_bytes()
    run(config, run_id=2)
    (tmp_path / "1.ledgers" / OWN).write_bytes(saved)
    config["epsilon"] = 2.0
    with pytest.raises(RoundAbortedError, match="its own ledger does not go on from the last one") as caught:
        run(config, run_id=3)
    assert f"node {FIRST_NODE + 1}" in str(caught.value)


def test_an_organisation_without_budget_ends_the_run_before_anything_of_anybody_leaves(config, tmp_path):
    with pytest.raises(RoundAbortedError, match="its own budget over all runs has no room"):
        run(config, node_configs={2: {"budget-epsilon": 7.0}})
    own = {path.parent.name: LedgerChain.from_bytes(path.read_bytes()) for path in tmp_path.glob(f"*.ledgers/{OWN}")}
    assert {name: [entry.kind for entry in chain.entries] for name, chain in own.items()} == {
        f"{index}.ledgers": ["open"] for index in (0, 1, 3)
    }


# ------------------------------------------------------------------------------------------------------- the commands
@pytest.mark.parametrize("commands", [ledger_app, ledger_commands], ids=["organisation", "coordinator"])
def test_the_commands_show_and_verify(commands, tmp_path):
    chain, path = written(tmp_path / "ledger", "one", "two"), tmp_path / "ledger"
    PrivacyLedger(path).reserve("orl", "three", (8.0,), **CAP)
    shown = CliRunner().invoke(commands, ["show", str(path)]).output
    assert "orl: epsilon" in shown
    assert "of 64 is charged" in shown
    assert "one: noise 6.000, released abababababababab" in shown
    assert "three: noise 8.000, charged" in shown
    (tmp_path / "old").write_bytes(chain.to_bytes())
    good = CliRunner().invoke(commands, ["verify", str(path), "--anchor", str(tmp_path / "old")])
    assert good.exit_code == 0
    assert good.output.startswith("6 entries, head ")
    rolled_back = CliRunner().invoke(commands, ["verify", str(tmp_path / "old"), "--anchor", str(path)])
    assert isinstance(rolled_back.exception, ProofError)
    torn = path.read_bytes()[:-3]
    path.write_bytes(torn)
    assert CliRunner().invoke(commands, ["verify", str(path)]).output.startswith("5 entries")
    assert path.read_bytes() == torn  # looking changes nothing
    path.write_bytes(torn.replace(b"one", b"two"))
    assert isinstance(CliRunner().invoke(commands, ["verify", str(path)]).exception, UsageError)
    assert isinstance(CliRunner().invoke(commands, ["show", str(tmp_path / "none")]).exception, IntaglioError)
