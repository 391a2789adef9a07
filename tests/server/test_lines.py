"""Lines that nobody takes: a full disk, a reader that is gone. What they are about happens all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from server.lines import lines_of, say


class Full:
    """A stream whose disk is full, until there is room."""

    def __init__(self):
        self.has_room, self.taken = False, ""

    def write(self, text):
        if not self.has_room:
            raise OSError(28, "No space left on device")
        self.taken += text

    def flush(self):
        if not self.has_room:
            raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_logger_loses_what_there_is_no_room_for_and_goes_on_when_there_is(monkeypatch, name):
    stream = Full()
    monkeypatch.setattr(sys, name, stream)
    log = structlog.wrap_logger(lines_of(name)(), processors=[structlog.processors.JSONRenderer()])
    log.warning("lost", number=1)
    assert stream.taken == ""
    stream.has_room = True
    log.info("told", number=2)
    assert stream.taken.endswith("\n")
    assert json.loads(stream.taken) == {"event": "told", "number": 2}


def test_a_line_that_nobody_takes_is_lost_and_the_next_one_said(monkeypatch):
    stream = Full()
    monkeypatch.setattr(sys, "stderr", stream)
    say("one")
    stream.has_room = True
    say("two")
    assert stream.taken == "two\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_was_closed_before_the_process_began_takes_nothing(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, name, None)
    structlog.wrap_logger(lines_of(name)(), processors=[structlog.processors.JSONRenderer()]).warning("lost", number=1)
    say("two")
    assert capsys.readouterr() == ("", "" if name == "stderr" else "two\n")


LINES = """
import sys
from server.lines import lines_of, say
lines_of("stdout")().info("one")
say("two")
sys.exit(3)
"""


@pytest.mark.parametrize("full", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_lines_that_nobody_took_do_not_change_the_exit_code(full):
    streams = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    with Path("/dev/full").open("wb") as nowhere:
        streams |= dict.fromkeys(full, nowhere)
        buffered = os.environ | {"PYTHONUNBUFFERED": ""}
        ended = subprocess.run([sys.executable, "-c", LINES], check=False, env=buffered, **streams)
    assert ended.returncode == 3
    expected = {"stdout": b"one\n", "stderr": b"two\n"} | dict.fromkeys(full)
    assert {"stdout": ended.stdout, "stderr": ended.stderr} == expected


def test_an_error_that_is_no_stream_s_is_told(monkeypatch):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=lambda _: 1 / 0, flush=lambda: None))
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        say("one")
