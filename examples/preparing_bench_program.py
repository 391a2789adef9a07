"""The program that `examples.preparing_bench` measures: prepares a folder and prints what that took, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from examples.preparing_bench import measured_here

if __name__ == "__main__":
    print(json.dumps(measured_here(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
