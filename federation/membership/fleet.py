"""What may pass between a SuperNode and the SuperLink, the log of it, and how both start. Pure: both sides use it.

Flower serves its fleet, control and runtime calls on one port, and its node authentication covers the fleet calls only.
So the coordinator shows organisations a gateway that knows the calls below and nothing else, and each organisation has
a guard of its own between its SuperNode and that gateway.

Each line of a log holds the SHA-256 of the line before: a line that is changed, dropped or moved breaks the chain. Its
head must be kept elsewhere for a cut at the end to be seen. A call is logged before it is passed on, so nothing that
left is missing, and once more when its answer is there.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import PurePath
from typing import Final

from federation.errors import MalformedMessageError, ProofError
from federation.statements import JsonValue, canonical_bytes

PREFIX: Final = "/v1/fleet/"

CALLS: Final = frozenset(
    {
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    }
)
"""All fleet calls of Flower 1.42 but those by which a node registers itself: the operator registers nodes."""

NODE_KEY_HEADER: Final = "flwr-public-key"
SIGNATURE_HEADER: Final = "flwr-signature"
TIME_HEADER: Final = "flwr-timestamp"
OLDEST_SECONDS: Final = 305
"""Flower takes a node's signature of this age, and one that is `NEWEST_SECONDS` ahead, by the SuperLink's clock."""
NEWEST_SECONDS: Final = 5
MOST_REQUEST_BYTES: Final = 16 << 20
"""Of a node's call. Flower sends arrays in objects of 5 MB."""
MOST_BODY_BYTES: Final = 64 << 20
"""Of anything that a guard holds; applications have at most 10 MB."""

_PASSED_ON = frozenset({"content-type", "accept"})
_FLOWER_PREFIX = "flwr-"
FIRST_PREVIOUS: Final = "0" * 64


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that cross a proxy: content types and Flower's own. All others belong to one connection.

    Of a name that comes twice the first crosses, which is the one that a look at ``headers[name]`` finds.
    """
    passed = dict[str, str]()
    for name, value in headers.items():
        lowered = name.lower()
        if lowered in _PASSED_ON or lowered.startswith(_FLOWER_PREFIX):
            passed.setdefault(lowered, value)
    return passed


def node_fingerprint(header: str | None) -> str:
    """Names the node key that a call claims: 32 hex digits of its SHA-256, or ``none``."""
    try:
        key = b64decode(header or "", validate=True)
    except ValueError:
        return "none"
    return hashlib.sha256(key).hexdigest()[:32] if key else "none"


@dataclass(frozen=True)
class Asked:
    """One call, before it is passed on: who, what, how much; never a body.

    Attributes:
        time: seconds since 1970.
        number: of the call, from 1 in each life of the gateway.
        call: which, one of `CALLS`.
        node: fingerprint of the node's key.
        received: bytes of the request.
    """

    time: int
    number: int
    call: str
    node: str
    received: int


@dataclass(frozen=True)
class Answered:
    """The answer to a call. A call without one was answered by nobody, or the disk was full.

    Attributes:
        time: seconds since 1970.
        answers: number of the call.
        sent: bytes of the answer.
        status: HTTP status of the answer.
    """

    time: int
    answers: int
    sent: int
    status: int


@dataclass(frozen=True)
class TurnedAway:
    """Calls of whoever is no member, counted and not named: strangers do not fill the disk.

    Attributes:
        time: seconds since 1970, when they were counted.
        strangers: how many since the last such line.
    """

    time: int
    strangers: int


Line = Asked | Answered | TurnedAway
_KINDS: Final = {frozenset(field.name for field in fields(kind)): kind for kind in (Asked, Answered, TurnedAway)}


def to_line(line: Line, previous: str) -> bytes:
    """The line after the one whose digest is `previous`, 64 hex digits."""
    values: dict[str, JsonValue] = {**asdict(line), "previous": previous}
    return canonical_bytes(values) + b"\n"


def line_digest(line: bytes) -> str:
    """What the next line calls `previous`."""
    return hashlib.sha256(line).hexdigest()


def verify_calls(lines: Iterable[bytes], previous: str = FIRST_PREVIOUS) -> tuple[int, str]:
    """How many calls a log holds, and its head.

    Args:
        lines: of the log, or of a segment of it.
        previous: head of what comes before.

    Raises:
        MalformedMessageError: a line is not one that `to_line` wrote.
        ProofError: a line does not follow from the one before.
    """
    count = 0
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            claimed = value.pop("previous")
            read = _KINDS[frozenset(value)](**value)
            same = to_line(read, claimed) == line
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise MalformedMessageError(f"line {number} of the log is not a call") from error
        if not same:
            raise MalformedMessageError(f"line {number} of the log is not a call")
        if claimed != previous:
            raise ProofError(f"line {number} of the log does not follow from the line before")
        count, previous = count + isinstance(read, Asked), line_digest(line)
    return count, previous


def flower_environment(inherited: Mapping[str, str], *, home: PurePath, interpreter: str) -> dict[str, str]:
    """The variables for Flower's processes: no telemetry, no updates, nothing installed, one thread, no line kept back.

    Args:
        inherited: the caller's own variables.
        home: folder for what Flower writes.
        interpreter: path of our Python, whose programs come first.
    """
    return {
        **inherited,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "PATH": f"{PurePath(interpreter).parent}:{inherited.get('PATH', '/bin:/usr/bin')}",
    }


_TETHER: Final = """\
import ctypes, os, signal, sys
parent, program = int(sys.argv[1]), sys.argv[2]
if ctypes.CDLL(None).prctl(1, signal.SIGKILL) or os.getppid() != parent:
    sys.exit("the process that started this one is gone")
os.execv(program, sys.argv[2:])
"""


def tethered(command: Sequence[str], *, interpreter: str, parent: int) -> list[str]:
    """A command that Linux kills when its parent dies, however that dies (`PR_SET_PDEATHSIG`, 1 in prctl's table).

    Flower's processes would go on without us, take work, and run it under keys and ledgers that nobody watches. The
    signal is for the one process; Flower's own children look after it every 0.2 s.

    Args:
        command: path of the program and its arguments.
        interpreter: path of our Python.
        parent: process id of the caller. It must not start this from a thread that ends earlier.
    """
    return [interpreter, "-I", "-S", "-c", _TETHER, str(parent), *command]
