"""Files: every connection is one."""

import os
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[3]
_SCRIPT = """
import resource
from server.visitors.door import take_all_files

most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most // 2, most))
take_all_files()
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most))
"""


def test_a_process_takes_as_many_files_as_it_ever_may():
    environment = os.environ | {"PYTHONPATH": str(HOUSE)}
    done = subprocess.run([sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
