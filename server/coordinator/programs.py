"""Flower's programs, as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from federation.errors import UsageError

_STOP_SECONDS: Final = 10.0


def program_path(name: str) -> str:
    """The path of a program that was installed with the project.

    Raises:
        UsageError: it is not there.
    """
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise UsageError(f"{name} is not installed beside this Python; install the project first")
    return str(path)


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group that `process` leads: itself, and everything that it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(_STOP_SECONDS)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
