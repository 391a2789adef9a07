"""The benchmark's meter of processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from examples.usage import Meter

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads Linux's /proc"),
]


def used_by(meter, mebibytes):
    """What a program uses that fills so much memory, and ends once it was seen."""
    code = f"import sys; filled = b'x' * ({mebibytes} << 20); print(flush=True); sys.stdin.read()"
    meter.begin()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        while (usage := meter.usage()).largest_mebibytes <= mebibytes:
            pass
        process.stdin.close()
    return usage


def test_each_program_has_its_own_peak_and_not_that_of_the_one_before():
    with Meter() as meter:
        large, small = used_by(meter, 200), used_by(meter, 1)
    assert large.peak_mebibytes >= large.largest_mebibytes > 200
    assert small.largest_mebibytes < 100


def test_cpu_time_is_of_what_was_started_in_the_context_and_not_of_this_process():
    code = "import time\nwhile time.process_time() < 1: pass"
    with Meter() as meter:
        sum(range(20_000_000))
        assert meter.usage().cpu_seconds == 0
        subprocess.run([sys.executable, "-c", code], check=True)
        assert 0.5 < meter.usage().cpu_seconds < 2
