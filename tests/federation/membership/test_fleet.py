"""What crosses between node and coordinator, and how Flower is started: all of it, as it is written down."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from pathlib import PurePath

import pytest

from federation.membership.fleet import (
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
