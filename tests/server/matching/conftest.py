"""What most tests of a matching service stand on: its certificates, and an empty database."""

import pytest

from server.storage.sqlstorage import open_storage
from tests.running import a_pki


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return a_pki(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def storage(tmp_path):
    with open_storage(tmp_path / "matching.db") as storage:
        yield storage
