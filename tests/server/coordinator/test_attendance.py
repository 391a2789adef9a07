"""Who takes part: the roster's organisations, as many as are there at the deadline, and nobody else."""

from pathlib import Path

import pytest

from federation.errors import RoundAbortedError, UsageError
from server.coordinator import attendance
from server.coordinator.run_records import RunRecords
from tests.federated import (
    CALLED,
    ledger_kinds,
    name_the_organisations,
    run,
    the_release,
    write_federation,
    write_identities,
)
from tests.simulator import FIRST_NODE, InProcessGrid

ALL = [FIRST_NODE + index for index in range(4)]


@pytest.fixture
def config(tmp_path):
    """Four organisations with names, of which one may be missing."""
    config = write_federation(tmp_path) | {"dropouts": 1, "epsilon": 16.0, "budget-epsilon": 16.0}
    name_the_organisations(config)
    return config


def asked(grid):
    return sorted({message.metadata.dst_node_id for message in grid.sent})


def the_record(config):
    (record,) = RunRecords.beside(Path(config["ledger"])).all()
    return record


def test_a_run_begins_at_its_deadline_without_an_absent_planned_drop_out_and_says_so(config, capsys):
    grid = run(config, nodes=3)
    assert asked(grid) == ALL[:3]
    assert the_release(config).privacy.dropouts == 1
    (out,) = the_record(config).drop_outs
    assert (out.member, out.stage, out.release) == ("east", "advertise its keys", "")
    assert out.why == "it was not there within 0.05 s"
    assert "3 of 4 organisations are there; the run begins without east" in capsys.readouterr().out


def test_everybody_who_is_there_in_time_takes_part(config):
    grid = run(config)
    assert asked(grid) == ALL
    assert the_record(config).drop_outs == ()


def test_without_a_planned_drop_out_an_absent_organisation_ends_the_run_and_nothing_is_charged(config):
    config["dropouts"] = 0
    with pytest.raises(RoundAbortedError, match=r"only 3 of 4 organisations were there within 0.05 s, without east"):
        run(config, nodes=3)
    assert not Path(config["ledger"]).exists()


def test_one_more_absent_than_planned_ends_the_run_and_nothing_is_charged(config):
    with pytest.raises(RoundAbortedError, match="and 3 are needed, without east, west"):
        run(config, nodes=2)
    assert not Path(config["ledger"]).exists()


def test_a_node_of_a_member_outside_the_roster_is_not_asked_and_holds_nobody_up(config):
    config["node-names"] += f",{FIRST_NODE + 4}=newcomer"
    grid = run(config, nodes=5)
    assert asked(grid) == ALL
    assert ledger_kinds(config) == ["open", "reserve", "commit"]


def test_a_node_that_is_no_member_s_is_not_asked_and_holds_nobody_up(config):
    assert asked(run(config, nodes=5)) == ALL


def test_only_chosen_members_are_asked_and_the_others_count_as_planned_drop_outs(config):
    config["members"] = "north, south,east"
    grid = run(config)
    assert asked(grid) == [ALL[0], ALL[1], ALL[3]]
    (out,) = the_record(config).drop_outs
    assert (out.member, out.why) == ("west", "it was not chosen for this run")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ("north,south", "names 2 organisations, and the plan needs 3"),
        ("north,south,moon", "names moon, and the roster"),
    ],
    ids=["too few", "stranger"],
)
def test_a_wrong_choice_asks_nobody_and_charges_nothing(config, members, said):
    config["members"] = members
    with pytest.raises(UsageError, match=said):
        run(config)
    assert not Path(config["ledger"]).exists()


def test_a_roster_without_names_takes_whoever_is_connected_and_exactly_as_many(config):
    write_identities(Path(config["organisations"]))
    config |= {"node-names": "", "dropouts": 0}
    with pytest.raises(RoundAbortedError, match="5 nodes are connected and the plan is for 4"):
        run(config, nodes=5)
    assert asked(run(config)) == ALL


class Late(InProcessGrid):
    """The last node comes after some polls."""

    polls = 0

    def get_node_ids(self):
        type(self).polls += 1
        return super().get_node_ids() if self.polls > 5 else super().get_node_ids()[:-1]


def test_a_late_node_is_awaited_by_name_and_takes_part(config, monkeypatch, capsys):
    monkeypatch.setattr(attendance, "_SAY_SECONDS", 0.0)
    monkeypatch.setattr(attendance, "_POLL_SECONDS", 0.0)
    config["node-deadline-seconds"] = 60.0
    assert asked(run(config, grid=type("Grid", (Late,), {"polls": 0}))) == ALL
    said = capsys.readouterr().out
    assert "3 of 4 organisations are there, waiting for east" in said
    assert "4 of 4 organisations are there" in said


def test_lines_say_which_exchange_is_under_way_and_who_is_awaited(config, monkeypatch, capsys):
    monkeypatch.setattr("server.coordinator.secure_sums._SAY_SECONDS", 0.0)
    run(config, tamper=lambda node, reply: None if node == ALL[1] else reply)
    said = capsys.readouterr().out
    assert f"keys: waiting for {CALLED[1]} since 0 s" in said
    assert "keys: 3 of 4 answered in 0 s" in said
