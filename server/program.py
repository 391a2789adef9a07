"""Where `intaglio-server` begins: without the packages of its role it says so, and needs none to say it."""

from __future__ import annotations

import sys

from federation.commandline.extras import require_extra
from federation.commandline.version import versions
from federation.errors import UsageError

_INTERRUPTED_EXIT = 130  # as in `federation.commandline.program`, which may not be importable


def main() -> None:
    """Entry point of the command."""
    if sys.argv[1:] == ["--version"]:  # whoever asks why something is missing
        for name, found in versions("intaglio-server").items():
            print(name, found)  # noqa: T201 - there may be nothing better
        return
    try:
        require_extra("service")
    except UsageError as error:
        print(f"intaglio-server {error}", file=sys.stderr)  # noqa: T201 - there may be nothing better
        sys.exit(error.exit_code)
    try:
        from server.cli import main as begin  # noqa: PLC0415 - see the top

        begin()
    except KeyboardInterrupt:  # while it is imported, which takes a second; a command ends so by itself
        sys.exit(_INTERRUPTED_EXIT)
