"""What a worker process can be made to do at its end. In a module that a spawned process imports."""

from __future__ import annotations

import inspect
import os
import signal
import struct


def in_the_middle_of_an_answer() -> None:
    """A part of an answer of a thousand bytes is on its way, and the process is killed: by the kernel, say."""
    frame = inspect.currentframe()
    while "result_queue" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["result_queue"]._writer.fileno(), struct.pack("!i", 1000) + b"a part")
    os.kill(os.getpid(), signal.SIGKILL)
