"""The log policy of a device or a monitor, from its file; the format is `federation.transparency.policy`'s."""

from __future__ import annotations

from pathlib import Path

from client.log.watching import LogTrust
from client.terminal import read_file
from federation.errors import UsageError
from federation.transparency import LogPolicy


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
    policy = LogPolicy.from_text(text)
    return LogTrust(policy.log_key, policy.counted, policy.threshold)
