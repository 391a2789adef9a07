"""A set of faces is judged by a profile that its pictures had no part in, whatever the folder is called."""

from types import SimpleNamespace

import pytest
from PIL import Image

from client.faces import judging
from client.faces.datasets import FaceFolder, face_folder, orl_faces
from client.faces.judging import DIGITS, digests_of, judging_recogniser, sets_shown, shipped_pictures
from federation.errors import UsageError
from federation.recognition.mobilefacenet import SHIPPED_SETS, shipped_profile
from tests.faces import orl_image


@pytest.fixture
def folder(tmp_path):
    """A folder of another name, with two people and nobody of a public set."""
    for person in ("anna", "bert"):
        (tmp_path / "mine" / person).mkdir(parents=True)
        for number in (1, 2):
            grey = b"P5 92 112 255\n" + f"{person}{number}".encode().ljust(92 * 112)
            (tmp_path / "mine" / person / f"{number}.pgm").write_bytes(grey)
    (tmp_path / "mine/bert/3.png").write_bytes(b"no image")
    return tmp_path / "mine"


def judged(folder, model=None):
    return judging_recogniser(folder, face_folder(folder), model).digest


def test_the_pictures_of_all_shipped_sets_are_known():
    pictures = shipped_pictures()
    assert {name: len(digests) for name, digests in pictures.items()} == {
        faces.name: faces.images for faces in shipped_profile().sets
    }
    assert tuple(sorted(pictures)) == SHIPPED_SETS
    assert digests_of(face_folder(orl_faces())) == pictures["orl"]
    assert {len(digest) for digests in pictures.values() for digest in digests} == {DIGITS}


def test_people_of_no_public_set_are_judged_by_the_profile_that_devices_use(folder):
    assert sets_shown(face_folder(folder)) == set()
    assert judged(folder) == shipped_profile().digest


def test_a_copied_picture_under_another_name_and_format_takes_its_set_out_of_the_profile(folder, tmp_path):
    (tmp_path / "face.pgm").write_bytes(orl_image(7, 4))
    Image.open(tmp_path / "face.pgm").save(folder / "bert/4.png")
    assert sets_shown(face_folder(folder)) == {"orl"}
    assert judged(folder) == shipped_profile(without="orl").digest


def test_pictures_of_two_sets_are_judged_by_no_profile(folder, monkeypatch):
    known = dict.fromkeys(SHIPPED_SETS, frozenset[str]())
    people = face_folder(folder).people
    anna, bert = (frozenset(digests_of(FaceFolder({name: people[name]}, ()))) for name in ("anna", "bert"))
    monkeypatch.setattr(judging, "shipped_pictures", lambda: known | {"canada": anna, "london": bert})
    with pytest.raises(UsageError, match=r"has pictures of canada and london, .* judge each alone"):
        judged(folder)
    monkeypatch.setattr(judging, "shipped_pictures", lambda: known | {"london": bert})
    assert judged(folder) == shipped_profile(without="london").digest


def test_a_model_of_ones_own_is_not_judged_on_a_set_of_its_profile(folder, monkeypatch, tmp_path):
    own = SimpleNamespace(digest="ab" * 32, profile=shipped_profile())
    monkeypatch.setattr(judging, "load_recogniser", lambda model: {"own.onnx": own}[model.name])
    assert judged(folder, tmp_path / "own.onnx") == own.digest
    folder.rename(tmp_path / "London")
    with pytest.raises(UsageError, match=r"own\.onnx was made of a set called london, as this folder is"):
        judged(tmp_path / "London", tmp_path / "own.onnx")
