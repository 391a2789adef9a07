"""Lines that nobody takes: a full disk, a reader that is gone. What they are about happens all the same."""

from __future__ import annotations

import json
import sys
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


def test_an_error_that_is_no_stream_s_is_told(monkeypatch):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=lambda _: 1 / 0, flush=lambda: None))
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        say("one")
