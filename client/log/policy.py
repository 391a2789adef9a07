"""Which log and which witnesses one believes, as a text file that people can read and compare.

::

    log example.org/intaglio+4c4568f0+AX...
    witness one witness.example.org/one+56a1bb51+BC...
    witness two witness.example.net/two+0ad1c3f2+BE...
    group both 2 one two
    quorum both

One log, any number of witnesses, and a quorum: ``none``, a witness, or a group of witnesses with how many of them must
have signed (a number, ``any`` or ``all``). Empty lines and lines that begin with # do not count.

Source: https://c2sp.org/tlog-policy. Groups of groups and addresses are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from client.log.watching import LogTrust
from client.terminal import read_file
from federation.errors import MalformedMessageError, UsageError
from federation.transparency import VerifierKey


def read_log_policy(path: Path) -> LogTrust:
    """The policy in a file.

    Raises:
        UsageError: unreadable, or not such a policy; the error names the line.
    """
    text = read_file(path).decode(errors="replace")
    try:
        return log_policy(text)
    except UsageError as error:
        raise UsageError(f"{path} is no policy for a log: {error}") from error


def log_policy(text: str) -> LogTrust:
    """The policy that `text` says.

    Raises:
        UsageError: it says none; the error names the line.
    """
    logs: list[VerifierKey] = []
    witnesses: dict[str, VerifierKey] = {}
    groups: dict[str, tuple[int, frozenset[str]]] = {"none": (0, frozenset())}
    quorum: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        match line.split():
            case [] | ["#", *_]:
                continue
            case [word, *_] if word.startswith("#"):
                continue
            case ["log", key]:
                logs.append(_key(key, number))
            case ["witness", name, key] if name not in witnesses and name not in groups:
                witnesses[name] = _key(key, number)
            case ["group", name, count, *members] if name not in witnesses and name not in groups:
                groups[name] = (_count(count, members, number), frozenset(members))
                if not groups[name][1] <= set(witnesses):
                    raise UsageError(f"line {number}: a group has witnesses that stand above it")
            case ["quorum", name] if quorum is None and (name in groups or name in witnesses):
                quorum = name
            case _:
                raise UsageError(f"line {number} is none of log, witness, group and quorum, or comes twice")
    if len(logs) != 1 or quorum is None:
        raise UsageError("a policy names one log and one quorum, which may be none")
    threshold, counted = groups.get(quorum, (1, frozenset({quorum})))
    return LogTrust(logs[0], tuple(witnesses[name] for name in sorted(counted)), threshold)


def _key(text: str, number: int) -> VerifierKey:
    try:
        return VerifierKey.from_text(text)
    except MalformedMessageError as error:
        raise UsageError(f"line {number}: {error}") from error


def _count(text: str, members: list[str], number: int) -> int:
    words = {"any": 1, "all": len(members)}
    count = words.get(text) or (int(text) if re.fullmatch("[0-9]{1,3}", text) else 0)
    if not 0 < count <= len(set(members)) == len(members):
        raise UsageError(f"line {number}: a group needs one to all of its different members")
    return count
