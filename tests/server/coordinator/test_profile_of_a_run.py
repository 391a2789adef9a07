"""The recogniser profile that a run names: whatever else stands at that path ends in words for the operator."""

import pytest

from federation.errors import UsageError
from server.coordinator.app import TrainingSettings
from server.coordinator.runs import RunConfig
from tests.public_people import synthetic_profile


def nothing(_):
    pass


def a_folder(path):
    path.mkdir()


def bytes_of(data):
    return lambda path: path.write_bytes(data)


@pytest.mark.parametrize(
    "put",
    [
        nothing,
        a_folder,
        bytes_of(b""),
        bytes_of(b"\xff\x00"),
        bytes_of(b"[]"),
        bytes_of(b"{}"),
        bytes_of(synthetic_profile().to_bytes()[:-9]),
    ],
)
def test_what_is_no_profile_is_named_to_the_operator(tmp_path, put):
    path = tmp_path / "profile.json"
    put(path)
    with pytest.raises(UsageError, match=r"profile must name a recogniser profile.*profile\.json"):
        TrainingSettings.read(RunConfig({"recipe": "moments", "profile": str(path)}))
