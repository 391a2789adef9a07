"""The units: systemd takes them, their commands exist and find their files, and they may do little."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.starting import parameters_of
from tests.operations import PAGE, blocks_of

FOLDER = Path(__file__).parents[2] / "deploy/systemd"
ONCE = FOLDER / "intaglio-certificates.service"
BACKUP = FOLDER / "intaglio-backup.service"
DAILY = (ONCE, BACKUP)
"""What a timer starts, as root: the authority's key is nobody else's, and no service removes a backup."""
TIMERS = [unit.with_suffix(".timer") for unit in DAILY]
UNITS = sorted(set(FOLDER.glob("*.service")) - set(DAILY))
BY_NAME = pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
MOST_EXPOSED = dict.fromkeys(UNITS, 15) | dict.fromkeys(DAILY, 22)
"""Tenths of systemd's own measure, 0 to 100: the network is most of it, and that it is root of the one that is."""
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


def lines(unit, key):
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), flags=re.MULTILINE)


def started(unit, tmp_path, command=None):
    (command,) = [command] if command else lines(unit, "ExecStart")
    (settings,) = [text for kind, text in blocks_of(PAGE.read_text()) if "# intaglio-server.toml" in text]
    (tmp_path / "intaglio-server.toml").write_text(settings)
    reads = "INTAGLIO_SERVER_CONFIG" in lines(unit, "Environment")[0]
    return parameters_of(shlex.split(command), tmp_path / "intaglio-server.toml" if reads else "")


@BY_NAME
def test_the_command_exists_and_the_page_s_settings_are_all_that_it_needs(unit, tmp_path):
    assert started(unit, tmp_path)["host"] == "127.0.0.1"


@BY_NAME
def test_what_is_written_is_the_unit_s_own_folder(unit, tmp_path):
    own = {f"/var/lib/{name}" for name in lines(unit, "StateDirectory")}
    written = {key: started(unit, tmp_path).get(key) for key in ("log_directory", "database", "directory")}
    for place in map(str, filter(None, written.values())):
        assert any(place.startswith(folder) for folder in own), place
    assert lines(unit, "ProtectSystem") == ["strict"]


def test_each_runs_as_somebody_else_and_the_bridge_sees_nothing_of_the_service():
    users = [lines(unit, "User")[0] for unit in UNITS]
    assert len(set(users)) == len(users) == 3
    made = (UNITS[0].parent / "intaglio.sysusers").read_text()
    assert set(re.findall(r"^u (\S+)", made, flags=re.MULTILINE)) == set(users)
    (bridge,) = [unit for unit in UNITS if "bridge" in unit.name]
    assert lines(bridge, "InaccessiblePaths") == ["-/var/lib/intaglio -/etc/intaglio"]


def test_the_timer_signs_for_devices_and_renews_what_the_page_says_where_the_authority_s_key_is(tmp_path):
    sign, renew, *rest = lines(ONCE, "ExecStart")
    assert shlex.split(sign)[1:3] == ["pki", "sign"]
    signs, renews = started(ONCE, tmp_path, sign), started(ONCE, tmp_path, renew)
    tls = "/etc/intaglio/tls"
    assert (signs["directory"], signs["database"]) == (tls, "/var/lib/intaglio/matching.db")
    assert (renews["directory"], renews["names"], renews["ending_within"]) == (tls, ("server", "bridge"), 60)
    assert lines(ONCE, "ConditionPathExists") == [f"{tls}/ca-key.pem"]
    assert [shlex.split(each)[0] for each in rest] == ["/bin/cp"]
    *_, to = shlex.split(rest[-1])
    assert lines(ONCE, "ReadWritePaths") == [f"{tls} -{to} -/var/lib/intaglio"]
    assert lines(ONCE, "CapabilityBoundingSet") == ["CAP_DAC_OVERRIDE CAP_CHOWN"]


def test_the_backup_is_of_what_the_page_s_settings_name_and_where_no_service_writes(tmp_path):
    said = started(BACKUP, tmp_path)
    state = "/var/lib/intaglio"
    assert (said["database"], said["log_directory"]) == (f"{state}/matching.db", f"{state}/log")
    assert (said["folder"], said["log_database"], said["keep_days"]) == ("/srv/backup", None, 30)
    assert lines(BACKUP, "ReadWritePaths") == [f"/srv -{state}"]
    assert lines(BACKUP, "CapabilityBoundingSet") == ["CAP_DAC_OVERRIDE CAP_CHOWN"]


@pytest.mark.parametrize("timer", TIMERS, ids=lambda path: path.stem)
def test_a_timer_comes_every_day_makes_up_for_what_it_missed_and_the_page_enables_it(timer):
    assert (lines(timer, "OnCalendar"), lines(timer, "Persistent")) == (["daily"], ["yes"])
    assert f"systemctl enable --now {timer.name}" in PAGE.read_text()


@needs_systemd
def test_systemd_finds_nothing_to_complain_about(tmp_path):
    for unit in (*UNITS, *DAILY, *TIMERS):
        (tmp_path / unit.name).write_text(re.sub(r"/opt/intaglio/bin/\S+", "/bin/true", unit.read_text()))
    done = verified(tmp_path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_a_unit_with_a_word_that_systemd_does_not_know_is_noticed(tmp_path):
    text = UNITS[0].read_text().replace("ProtectHome=", "ProtectHomes=")
    (tmp_path / UNITS[0].name).write_text(re.sub(r"/opt/intaglio/bin/\S+", "/bin/true", text))
    assert "'ProtectHomes'" in verified(tmp_path).stderr


def verified(folder):
    files = sorted(map(str, folder.glob("*.*")))
    return subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)


@needs_systemd
@pytest.mark.parametrize("unit", MOST_EXPOSED, ids=lambda path: path.stem)
def test_systemd_s_own_measure_of_exposure_is_low(unit):
    most = f"--threshold={MOST_EXPOSED[unit]}"
    command = ["systemd-analyze", "security", "--offline=true", most, "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-400:]


@needs_systemd
def test_a_unit_without_its_bounds_is_over_that_measure(tmp_path):
    bare = re.sub(
        r"^(Protect|Private|Restrict|System|Capability|NoNew).*\n", "", UNITS[0].read_text(), flags=re.MULTILINE
    )
    (tmp_path / UNITS[0].name).write_text(bare)
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED[ONCE]}", "--no-pager"]
    done = subprocess.run([*command, tmp_path / UNITS[0].name], capture_output=True, text=True, check=False)
    assert done.returncode != 0
