"""The latest checkpoint may lie on another disk, behind a link in the log's folder."""

import pytest
from typer.testing import CliRunner

import server.cli
from server.log.cli import opened_log


@pytest.mark.integration
def test_a_link_to_another_disk_stays_one_and_the_checkpoint_is_behind_it(tmp_path):
    folder, disk = tmp_path / "log", tmp_path / "disk"
    disk.mkdir()
    done = CliRunner().invoke(server.cli.app, ["log", "init", str(folder), "example.org/log"])
    assert done.exit_code == 0, done.output
    (folder / "checkpoint").symlink_to(disk / "checkpoint")
    with opened_log(folder, None) as log:
        shown = log.checkpoint().to_bytes()
    assert (folder / "checkpoint").is_symlink()
    assert (disk / "checkpoint").read_bytes() == shown
