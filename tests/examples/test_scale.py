"""The arithmetic of docs/scale.md, worked out by hand here."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from examples import scale
from examples.scale import Assumptions, Constants, limits, needs
from federation.errors import UsageError

CONSTANTS = Constants(
    front_end_cpu_ms=7.0,
    match_cpu_ms=14.0,
    database_cpu_ms=3.5,
    open_seconds=0.1,
    upload_bytes=80_000,
    reply_bytes=120_000,
    wal_bytes=4_000,
    person_bytes=3_000,
    attempt_bytes=250,
    entry_bytes=1_000,
    batch_ms=4.0,
    entry_ms=0.1,
    sqlite_ms=3.5,
    fsck_us=36.0,
    dump_us=3.6,
)
ASSUMED = Assumptions(
    busy=0.7, mean_of_peak=0.5, abandoned=0.01, machine_cores=10, network_bytes=1e9, postgres_connections=100
)


def limit(words, constants=CONSTANTS, assumed=ASSUMED):
    (found,) = [one for one in limits(constants, assumed) if words in one.what]
    return found.per_second


def test_needs_are_cores_bytes_and_hours():
    found = needs(CONSTANTS, ASSUMED, per_second=1000, people=1e7)
    assert (found.front_ends, found.match_cores, found.database_cores) == (10, 20, 5)  # 7, 14, 3.5 cores at 0.7
    assert found.machines == 3
    assert found.network_bytes == 2e8
    assert found.database_network_bytes == 1.2e8
    assert found.wal_bytes == 4e6
    assert found.people_bytes == 3e10
    in_a_year = 1000 * 0.5 * 365 * 86_400
    assert found.attempt_bytes == pytest.approx(250 * in_a_year)
    assert found.log_bytes == pytest.approx(1000 * in_a_year)
    assert found.dump_hours == pytest.approx(in_a_year / 1e9)
    assert found.fsck_hours == pytest.approx(in_a_year / 1e8)


def test_half_a_core_is_a_core_and_a_core_and_a_bit_are_two():
    assert needs(CONSTANTS, ASSUMED, per_second=1, people=1).front_ends == 1
    assert needs(CONSTANTS, ASSUMED, per_second=101, people=1).front_ends == 2


def test_limits_are_the_largest_loads_that_each_part_bears():
    assert limit("calls a second") == pytest.approx(200 / 3)
    open_for = 0.99 * 0.1 + 0.01 * 60  # abandoned ones for a minute
    assert limit("128 open") == pytest.approx(128 / open_for)
    assert limit("1024 open") == pytest.approx(1024 / open_for)
    assert limit("one core") == pytest.approx(100)
    assert limit("128 calls") == pytest.approx(1280)
    assert limit("SQLite") == pytest.approx(200)
    assert limit("connections") == pytest.approx(10 * 100)  # ten front ends with five to each of two databases
    assert limit("10 cores") == pytest.approx(2000)
    assert limit("network") == pytest.approx(1e9 * 0.7 / 120_000)
    assert limit("the log") == pytest.approx(1000 * 0.7 * 1024 / (4 + 102.4))


def test_what_ends_first_comes_first():
    found = [one.per_second for one in limits(CONSTANTS, ASSUMED)]
    assert found == sorted(found)
    slow = dataclasses.replace(CONSTANTS, sqlite_ms=1000.0)
    assert limits(slow, ASSUMED)[0].what == "SQLite's one writer"


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "3", True])
def test_a_constant_that_was_not_measured_is_refused(value):
    with pytest.raises(UsageError, match="fsck_us must be a number above 0"):
        dataclasses.replace(CONSTANTS, fsck_us=value)


def test_the_command_prints_every_constant_need_and_limit(tmp_path):
    file = tmp_path / "scale.json"
    file.write_text(json.dumps({"constants": dataclasses.asdict(CONSTANTS)}))
    printed = CliRunner().invoke(scale.app, ["--constants", str(file)]).stdout
    named = [*dataclasses.fields(Constants), *dataclasses.fields(Assumptions), *dataclasses.fields(scale.Needs)]
    assert not [field.name for field in named if field.name not in printed]
    assert not [one.what for one in limits(CONSTANTS, Assumptions()) if one.what not in printed]


@pytest.mark.parametrize("content", ["", "{}", '{"constants": {"fsck_us": 1}}', '{"constants": 3}'])
def test_a_file_of_another_version_is_named_with_the_command_that_makes_one(tmp_path, content):
    file = tmp_path / "scale.json"
    file.write_text(content)
    with pytest.raises(UsageError, match="--measure"):
        Constants.from_file(file)


def test_a_file_that_is_not_there_is_named_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(UsageError, match="--measure"):
        Constants.from_file(tmp_path / "scale.json")
