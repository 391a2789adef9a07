"""Folders of faces: what is in them, in which order, and what is left out and why."""

import errno
import importlib.util
from pathlib import Path

import pytest

from client.faces.datasets import face_folder, orl_faces
from client.faces.formats import IMAGES
from federation.errors import UsageError


@pytest.fixture
def root(tmp_path):
    """Two people, and files that are as good as images: nothing opens them here."""
    for name in ("anna/1.jpg", "anna/2.png", "bo/1.JPEG", "bo/2.pgm"):
        touch(tmp_path / "faces" / name)
    return tmp_path / "faces"


def touch(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"image")


def names(folder):
    return {person: [file.name for file in files] for person, files in folder.people.items()}


def problems(folder):
    assert all(problem.what_to_do for problem in folder.problems)
    return {problem.path.name: problem.problem for problem in folder.problems}


def test_a_sub_folder_is_a_person(root):
    assert names(face_folder(root)) == {"anna": ["1.jpg", "2.png"], "bo": ["1.JPEG", "2.pgm"]}
    assert face_folder(root).problems == ()


@pytest.mark.parametrize(
    "ordered",
    [
        ["1.pgm", "2.pgm", "10.pgm"],
        ["anna-2.png", "anna-10.png", "bo-1.png"],
        ["9.jpg", "9b.jpg", "10.jpg"],
        ["01.jpg", "1.jpg", "2.jpg"],
        ["1-2.jpg", "1-10.jpg", "2-1.jpg"],
        ["1.jpg", "a.jpg", "\u00b2.jpg", "\u0661.jpg"],
    ],
    ids=ascii,
)
def test_people_and_images_come_in_natural_order(tmp_path, ordered):
    for name in reversed(ordered):
        for person in reversed(ordered):
            touch(tmp_path / person / name)
    folder = face_folder(tmp_path)
    assert list(folder.people) == ordered
    assert all(files == ordered for files in names(folder).values())


def test_hidden_files_and_notes_are_passed_over(root):
    for name in (".git/1.jpg", "anna/.1.jpg", "anna/._1.jpg", "anna/notes.txt", "README", ".DS_Store"):
        touch(root / name)
    assert names(face_folder(root)) == {"anna": ["1.jpg", "2.png"], "bo": ["1.JPEG", "2.pgm"]}
    assert face_folder(root).problems == ()


def test_what_looks_like_an_image_but_is_left_out_is_reported(root):
    for name in ("anna/3.jp2", "anna/4.avif", "cy/1.svg", "loose.jpg"):
        touch(root / name)
    folder = face_folder(root)
    assert names(folder) == {"anna": ["1.jpg", "2.png"], "bo": ["1.JPEG", "2.pgm"]}
    unread = f"not a {IMAGES} image"
    assert problems(folder) == {
        "3.jp2": unread,
        "4.avif": unread,
        "1.svg": unread,
        "cy": "no images",
        "loose.jpg": "outside a person's folder",
    }


def test_two_folders_of_one_name_are_one_person_with_the_images_of_both(root):
    for folder, image in (("Andre\u0301", "1.jpg"), ("Andr\u00e9", "2.jpg")):
        touch(root / folder / image)
    assert names(face_folder(root))["Andr\u00e9"] == ["1.jpg", "2.jpg"]
    assert len(face_folder(root).people) == 3


def test_a_person_without_images_is_reported_with_what_to_do(root):
    (root / "empty").mkdir()
    (problem,) = face_folder(root).problems
    assert str(problem) == f"{root / 'empty'}: no images; add {IMAGES} files, or remove the folder"


def test_a_person_whose_folder_may_not_be_read_is_reported_and_the_rest_goes_on(root, monkeypatch):
    forbid(monkeypatch, root / "anna")
    folder = face_folder(root)
    assert list(folder.people) == ["bo"]
    assert problems(folder) == {"anna": "cannot be read: Permission denied"}


def test_a_root_that_may_not_be_read_says_so(root, monkeypatch):
    forbid(monkeypatch, root)
    with pytest.raises(UsageError, match="Permission denied; check its permissions"):
        face_folder(root)


def forbid(monkeypatch, folder):
    """Permissions do not bind the user that containers run tests as."""
    iterdir = Path.iterdir

    def guarded(path):
        if path == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", guarded)


def test_a_folder_without_people_says_what_it_needs(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        face_folder(tmp_path / "nothing")
    with pytest.raises(UsageError, match="one sub-folder for each person"):
        face_folder(tmp_path)
    touch(tmp_path / "loose.jpg")
    with pytest.raises(UsageError, match="one sub-folder for each person"):
        face_folder(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        face_folder(tmp_path / "loose.jpg")


def test_the_orl_faces_are_found_without_importing_their_package(monkeypatch):
    people = face_folder(orl_faces()).people
    assert [len(images) for images in people.values()] == [10] * 40  # without the copy of s14/1.pgm that lies in s10
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="--data"):
        orl_faces()
