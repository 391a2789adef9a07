"""A PostgreSQL server of the tests' own, where PostgreSQL is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.postgres import MISSING, a_database, cluster, find_programs

__all__ = ["a_cluster", "a_database", "require_programs"]


def require_programs() -> Path:
    """Skips where PostgreSQL is not installed; in CI that is a failure, because CI's set-up installs it."""
    programs = find_programs()
    if programs is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return programs


@contextmanager
def a_cluster() -> Iterator[str]:
    """Starts a server and gives the URL of its database `postgres`; ends the process that it started."""
    require_programs()
    with cluster(lasts=False) as server:  # the tests kill clients, not the machine
        yield server.url
