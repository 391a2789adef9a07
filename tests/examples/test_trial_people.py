"""People of a trial: they come along, are never the one who enrols, and the profile was made without them."""

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from client.audit.scoring import read_labels
from client.faces.datasets import face_folder, orl_faces
from client.faces.judging import sets_shown
from examples import trial_people
from federation.recognition.mobilefacenet import shipped_profile
from federation.recognition.profile import RecogniserProfile
from tests.faces import orl_image


def typed(*arguments):
    return CliRunner().invoke(trial_people.app, [str(argument) for argument in arguments])


def test_a_trial_has_one_person_who_enrols_and_others_who_are_measured_under_a_profile_without_them(tmp_path):
    folder = tmp_path / "new" / "trial"
    assert typed(folder, "--people", 3).exit_code == 0
    found = face_folder(folder / "faces")
    assert len(found.people) == 3
    assert "s2" not in found.people
    assert all(len(pictures) == 10 for pictures in found.people.values())
    labels = read_labels(folder / "labels.csv", ["group"])
    assert labels == {"group": dict.fromkeys(found.people, "everybody")}
    assert sets_shown(found) == {"orl"}
    assert RecogniserProfile.from_bytes((folder / "profile.json").read_bytes()) == shipped_profile("orl")
    pictures = [folder / f"{name}.png" for name in ("one", "two", "three", "four", "five", "six")]
    shown = [Image.open(picture).tobytes() for picture in pictures]
    (tmp_path / "first.pgm").write_bytes(orl_image(2, 1))
    assert len(set(shown)) == 6
    assert shown[0] == Image.open(tmp_path / "first.pgm").tobytes()


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path):
    (tmp_path / "mine").touch()
    refused = typed(tmp_path)
    assert (refused.exit_code, refused.stderr) == (2, f"cannot make {tmp_path}: File exists\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("people", [1, 40])
def test_one_person_alone_meets_nobody_and_the_one_who_enrols_is_not_measured(tmp_path, people):
    assert len(list(Path(orl_faces()).glob("s*"))) == 40
    assert typed(tmp_path / "new", "--people", people).exit_code == 2
    assert not (tmp_path / "new").exists()
