"""`intaglio-server` with a clock that jumps: every server of a campaign is this.

    python front_end.py CLOCK ARGUMENTS...

CLOCK holds eight bytes, a double: how many seconds this process's clock is ahead. `time.time` is replaced before
anything of the server is imported. Timers go on as they are, as they do when a machine's clock is set. The product has
no such hook.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time


def main() -> None:
    clock = sys.argv.pop(1)
    with open(clock, "rb") as file:  # noqa: PTH123 - nothing else is imported yet
        ahead = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    real = time.time
    time.time = lambda: real() + struct.unpack("d", ahead[:8])[0]
    from server.program import main as begin  # noqa: PLC0415 - see the top

    begin()


if __name__ == "__main__":
    main()
