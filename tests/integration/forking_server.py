"""Starts `intaglio-server` again and again, fast: everything is imported once, and every server is a fork of that.

    python forking_server.py

Each line of standard input holds the arguments of one server as JSON. The answer is its process id; when it has ended,
whatever ended it, an empty line follows. Match workers are forks too, made before the server listens.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys

from federation.recognition.model import CODE_LENGTH
from server.cli import app
from server.matching.workers import _prepare_worker


def serve(arguments: list[str], errors: str) -> None:
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), sys.stderr.fileno())
    fork = multiprocessing.get_context("fork")  # the command spawns, which would import everything again
    multiprocessing.get_context = lambda _method=None: fork
    app(arguments)


def main() -> None:
    _prepare_worker(CODE_LENGTH)  # builds the tables of the scheme
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                serve(order["arguments"], order["errors"])
            finally:
                os._exit(1)
        os.write(1, b"%d\n" % child)
        os.waitpid(child, 0)
        os.write(1, b"\n")


if __name__ == "__main__":
    main()
