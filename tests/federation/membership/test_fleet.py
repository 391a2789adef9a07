"""What crosses between node and coordinator, and how Flower is started: all of it, as it is written down."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from base64 import b64encode
from pathlib import PurePath

import pytest
from flwr.proto import fleet_pb2

from federation.errors import MalformedMessageError, ProofError
from federation.membership.fleet import (
    CALLS,
    Answered,
    Asked,
    TurnedAway,
    flower_environment,
    line_digest,
    node_fingerprint,
    passed_on,
    tethered,
    to_line,
    verify_calls,
)

OURS = {
    "FLWR_HOME": "/data/flower",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "NO_COLOR": "1",
    "NO_PROXY": "127.0.0.1,localhost",
}


@pytest.mark.parametrize(
    ("inherited", "path"),
    [({"PATH": "/usr/local/bin:/bin"}, "/opt/env/bin:/usr/local/bin:/bin"), ({}, "/opt/env/bin:/bin:/usr/bin")],
)
def test_flower_gets_what_we_say_whatever_the_caller_has_and_the_rest_of_the_caller_s(inherited, path):
    others = dict.fromkeys(OURS, "the caller's") | {"LANG": "C", "SSL_CERT_FILE": "/ca.pem"} | inherited
    found = flower_environment(others, home=PurePath("/data/flower"), interpreter="/opt/env/bin/python3")
    assert found == {"LANG": "C", "SSL_CERT_FILE": "/ca.pem", **OURS, "PATH": path}


def test_what_crosses_a_proxy_crosses_in_lower_case_and_of_a_name_that_comes_twice_the_first():
    headers = {
        "Flwr-Public-Key": "first",
        "flwr-public-key": "second",
        "FLWR-signature": "signed",
        "Content-Type": "application/grpc",
        "ACCEPT": "*/*",
        "Cookie": "no",
        "authorization": "no",
        "x-flwr-public-key": "no",
        "accept-encoding": "no",
    }
    assert passed_on(headers) == {
        "flwr-public-key": "first",
        "flwr-signature": "signed",
        "content-type": "application/grpc",
        "accept": "*/*",
    }


def test_a_node_is_named_by_half_of_the_hash_of_its_key():
    assert node_fingerprint(b64encode(b"key").decode()) == hashlib.sha256(b"key").hexdigest()[:32]
    assert [node_fingerprint(header) for header in (None, "", "a", "a2V5!")] == ["none"] * 4


def test_a_segment_goes_on_from_the_head_before_it_and_only_calls_count():
    lines, previous = [], "ab" * 32
    for line in (
        Answered(1, 7, 2, 200),
        Asked(2, 8, "get-run", "c" * 32, 3),
        TurnedAway(3, 9),
        Asked(4, 9, "", "d", 0),
    ):
        lines.append(to_line(line, previous))
        previous = line_digest(lines[-1])
    assert lines[1] == (
        b'{"call":"get-run","node":"cccccccccccccccccccccccccccccccc","number":8,"previous":"%s","received":3,"time":2}\n'
        % hashlib.sha256(lines[0]).hexdigest().encode()
    )
    assert verify_calls(lines, "ab" * 32) == (2, previous)
    assert verify_calls([], "ab" * 32) == (0, "ab" * 32)


def test_what_is_tethered_is_our_python_alone_with_parent_and_command_behind_it():
    began = tethered(["/bin/node", "--flag"], interpreter="/opt/env/bin/python3", parent=77)
    assert began[:4] == ["/opt/env/bin/python3", "-I", "-S", "-c"]
    assert began[5:] == ["77", "/bin/node", "--flag"]


A_LOG = [Asked(5, 1, "get-run", "a" * 32, 7), Answered(6, 1, 9, 200), Asked(7, 2, "pull-messages", "b" * 32, 8)]


def written(lines, previous="0" * 64):
    made = []
    for line in lines:
        made.append(to_line(line, previous))
        previous = line_digest(made[-1])
    return made


DAMAGED = {
    "a line changed": (lambda log: [log[0].replace(b'"received":7', b'"received":6'), *log[1:]], "line 2 .* follow"),
    "the last line changed": (lambda log: [*log[:2], log[2].replace(b"pull", b"push")], None),
    "a line dropped": (lambda log: [log[0], log[2]], "line 2 .* follow"),
    "the first dropped": (lambda log: log[1:], "line 1 .* follow"),
    "two exchanged": (lambda log: [log[0], log[2], log[1]], "line 2 .* follow"),
    "a line twice": (lambda log: [log[0], log[0], *log[1:]], "line 2 .* follow"),
    "no line's end": (lambda log: [*log[:2], log[2].rstrip()], "line 3 .* is not a call"),
    "a blank": (lambda log: [log[0], b" " + log[1], log[2]], "line 2 .* is not a call"),
    "a field more": (lambda log: [log[0], log[1].replace(b"{", b'{"a":1,'), log[2]], "line 2 .* is not a call"),
    "a field less": (lambda log: [log[0].replace(b'"number":1,', b""), *log[1:]], "line 1 .* is not a call"),
    "no previous": (lambda log: [log[0], b'{"strangers":1,"time":1}\n', log[2]], "line 2 .* is not a call"),
    "a list": (lambda log: [*log, b"[]\n"], "line 4 .* is not a call"),
    "no JSON": (lambda log: [*log, b"\xff\n"], "line 4 .* is not a call"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGED.values(), ids=DAMAGED)
def test_a_log_that_somebody_touched_is_no_log_from_the_line_after_and_its_end_shows_in_the_head(damage, said):
    log = written(A_LOG)
    assert verify_calls(log) == (2, line_digest(log[-1]))
    if said is None:
        assert verify_calls(damage(log)) == (2, line_digest(damage(log)[-1]))
        assert line_digest(damage(log)[-1]) != line_digest(log[-1])
        return
    with pytest.raises(ProofError if "follow" in said else MalformedMessageError, match=f"^{said}"):
        verify_calls(damage(log))


def test_all_fleet_calls_of_flower_pass_but_those_by_which_a_node_registers_itself():
    """So that an update of Flower with a call more is looked at."""
    calls = {
        re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
        for name in fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].methods_by_name
    }
    assert calls >= CALLS
    assert calls - CALLS == {"register-node", "unregister-node"}


def test_the_tether_dies_with_its_parent_is_nobody_s_else_s_and_becomes_the_command():
    (code,) = tethered(["/bin/echo", "one", "two"], interpreter=sys.executable, parent=os.getpid())[4:5]
    for parent, answer in (
        (os.getpid(), (0, b"one two\n", b"")),
        (1, (1, b"", b"the process that started this one is gone\n")),
    ):
        command = tethered(["/bin/echo", "one", "two"], interpreter=sys.executable, parent=parent)
        assert command[4] == code
        done = subprocess.run(command, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == answer
