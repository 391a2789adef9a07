"""What tests of the service share: a worker, and databases in an SQLite file or in a PostgreSQL server of their own."""

from __future__ import annotations

import asyncio
import gc
import itertools
import tempfile
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest
import structlog
from hypothesis import HealthCheck, settings

from federation.onebit import parameters_for
from federation.recognition.model import CODE_LENGTH
from server.database import database_url, upgrade
from server.matching.workers import MatchWorkers
from server.storage.schema import log_seen, metadata
from tests import tokens
from tests.postgres import a_cluster, a_database

# No test is timed: a machine may be busy with something else.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_LONGEST_FIRST = (
    "tests/web/test_web.py",
    "tests/web/",
    "tests/integration/",
    "tests/server/restoring/",
    "tests/field/",
    "tests/test_",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no process waits at the end for another's long file."""

    def place(item: pytest.Item) -> int:
        return next(
            (n for n, begins in enumerate(_LONGEST_FIRST) if item.nodeid.startswith(begins)), len(_LONGEST_FIRST)
        )

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing of a million objects that collecting makes is garbage: looking took a twelfth of all of a run's time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """What a command wrote its lines with: the next test has a server that would do so too."""
    structlog.reset_defaults()


@pytest.fixture(autouse=True, scope="session")
def _no_configuration_of_whoever_runs_the_tests(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def postgres_cluster():
    """URL of a running server."""
    with a_cluster() as url:
        yield url


@pytest.fixture
def empty_postgres(postgres_cluster):
    """URL of a database without tables."""
    return a_database(postgres_cluster)


@pytest.fixture(scope="session")
def _shared_postgres(postgres_cluster):
    url = a_database(postgres_cluster)
    upgrade(database_url(url))
    return url


@pytest.fixture
def prepared_postgres(_shared_postgres):
    """URL of a database with all tables and nothing in them."""
    with psycopg.connect(_shared_postgres) as connection:
        connection.execute("TRUNCATE " + ", ".join(name for name in metadata.tables if name != log_seen.name))
        connection.execute("UPDATE log_seen SET size = 0, root = sha256('')")
    return _shared_postgres


@pytest.fixture(scope="module")
def workers():
    """One process that compares."""
    pool = MatchWorkers(1, parameters_for(CODE_LENGTH), timeout_seconds=60)
    asyncio.run(pool.start())
    yield pool
    pool.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    """What `open_storage` takes, with nothing in it."""
    if request.param == "sqlite":
        return str(tmp_path / "matching.db")
    return request.getfixturevalue("prepared_postgres")


@pytest.fixture(scope="session")
def token_folder():
    """SoftHSM's, in memory where there is such a place: it waits for the disk some dozen times for each key."""
    tokens.require_library()
    memory = Path("/dev/shm")  # noqa: S108 - a folder of one's own in it
    with (
        tempfile.TemporaryDirectory(prefix="intaglio-softhsm-", dir=memory if memory.is_dir() else None) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(tokens.CONFIGURATION, str(tokens.configure(Path(folder))))
        yield Path(folder) / "tokens"


@pytest.fixture(scope="session")
def token_labels():
    """None is used twice."""
    return (f"token {number}" for number in itertools.count(1))


def _a_token(token_folder, token_labels, tmp_path):
    label = next(token_labels)
    made = tokens.SoftToken.initialised(label, token_folder, tmp_path / f"{label}.pin")
    yield made
    made.destroy()


@pytest.fixture
def token(token_folder, token_labels, tmp_path):
    """A new PKCS#11 token without keys."""
    yield from _a_token(token_folder, token_labels, tmp_path)


@pytest.fixture
def another_token(token_folder, token_labels, tmp_path):
    """One more of the same library."""
    yield from _a_token(token_folder, token_labels, tmp_path)
