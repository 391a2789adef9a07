"""Folders of faces: every problem is reported by file, and the rest goes on."""

import hashlib
import importlib.util
import stat

import numpy as np
import pytest
from PIL import Image

from client.datasets import face_folder, orl_faces
from client.degradation import Condition
from client.embedding import EmbeddingCache, embed_folder
from federation.embeddings import PROBE, REFERENCE
from federation.errors import UsageError
from tests.faces import aligner, orl_image, shipped


@pytest.fixture
def faces(tmp_path):
    """Three people of six images each."""
    root = tmp_path / "faces"
    for person in (1, 2, 3):
        for number in range(1, 7):
            file = root / f"person {person}" / f"{number}.pgm"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(orl_image(person, number))
    return root


class Counting:
    """A recogniser that counts chips."""

    name, dimension, digest = "counting", 128, "0" * 64

    def __init__(self):
        self.chips = 0

    def embed(self, chips):
        self.chips += len(chips)
        return shipped().embed(chips)


def embedded(root, tmp_path, recogniser=None, **options):
    return embed_folder(
        face_folder(root),
        recogniser or shipped(),
        Condition.MASK,
        cache=tmp_path / "cache",
        aligner=aligner(),
        **options,
    )


def test_people_and_images_come_in_natural_order(faces):
    (faces / "person 1" / "10.pgm").write_bytes(orl_image(1, 10))
    (faces / "person 10").mkdir()
    (faces / "person 10" / "1.PGM").write_bytes(orl_image(4, 1))
    (faces / ".hidden").mkdir()
    (faces / "person 1" / "notes.txt").write_text("not an image")
    folder = face_folder(faces)
    assert list(folder.people) == ["person 1", "person 2", "person 3", "person 10"]
    assert [path.name for path in folder.people["person 1"]] == [f"{n}.pgm" for n in (1, 2, 3, 4, 5, 6, 10)]
    assert folder.problems == ()


def test_a_folder_without_people_says_what_it_needs(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        face_folder(tmp_path / "nothing")
    with pytest.raises(UsageError, match="one sub-folder for each person"):
        face_folder(tmp_path)


def test_the_orl_faces_are_found_without_importing_their_package(monkeypatch):
    assert len(face_folder(orl_faces()).people) == 40
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="--data"):
        orl_faces()


def test_every_image_gives_a_reference_and_a_probe(faces, tmp_path):
    seen = []
    result = embedded(faces, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (18, 18)
    assert result.problems == ()
    assert len(result.embeddings) == 36
    for profile in (REFERENCE, PROBE):
        rows = result.embeddings.select(result.embeddings.profiles == profile)
        assert len(set(rows.images.tolist())) == len(rows) == 18


def test_what_cannot_be_used_is_reported_and_the_rest_goes_on(faces, tmp_path):
    (faces / "empty").mkdir()
    (faces / "person 1" / "broken.jpg").write_bytes(b"junk")
    Image.new("RGB", (200, 200)).save(faces / "person 2" / "blank.png")
    for number in (1, 2):
        few = faces / "few" / f"{number}.pgm"
        few.parent.mkdir(exist_ok=True)
        few.write_bytes(orl_image(9, number))
    (faces / "person 3" / "copy.pgm").write_bytes(orl_image(3, 1))
    result = embedded(faces, tmp_path)
    reported = {problem.path.name: problem for problem in result.problems}
    assert set(reported) == {"empty", "broken.jpg", "blank.png", "few"}
    assert all(problem.what_to_do for problem in result.problems)
    assert "4 different ones" in str(reported["few"])
    assert sorted(set(result.embeddings.people.tolist())) == ["person 1", "person 2", "person 3"]
    assert len(result.embeddings) == 36  # the copy counts once


def test_when_nobody_is_left_the_error_names_files(tmp_path):
    root = tmp_path / "faces"
    (root / "one").mkdir(parents=True)
    (root / "one" / "a.png").write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"nobody has 4 usable images: .*a\.png"):
        embedded(root, tmp_path)


def test_an_image_is_embedded_once(faces, tmp_path):
    first, second = Counting(), Counting()
    one = embedded(faces, tmp_path, first)
    two = embedded(faces, tmp_path, second)
    assert (first.chips, second.chips) == (36, 0)
    np.testing.assert_array_equal(one.embeddings.embeddings, two.embeddings.embeddings)


def test_the_order_of_the_rows_does_not_depend_on_the_cache(faces, tmp_path):
    """Evaluation splits by it."""
    cold = embedded(faces, tmp_path)
    in_order = [hashlib.sha256(orl_image(1, number)).hexdigest() for number in range(1, 7)]
    assert cold.embeddings.images[:6].tolist() == in_order
    for entry in sorted((tmp_path / "cache").iterdir())[::3]:
        entry.unlink()
    part_warm = embedded(faces, tmp_path)
    np.testing.assert_array_equal(part_warm.embeddings.images, cold.embeddings.images)
    np.testing.assert_allclose(part_warm.embeddings.embeddings, cold.embeddings.embeddings, atol=1e-5)


def test_one_image_stands_for_one_person(faces, tmp_path):
    (faces / "person 2" / "stray.pgm").write_bytes(orl_image(1, 1))
    result = embedded(faces, tmp_path)
    (problem,) = result.problems
    assert (problem.path.name, problem.problem) == ("stray.pgm", "the same image as one of person 1")
    assert len(result.embeddings) == 36


def test_a_damaged_cache_entry_is_computed_again(faces, tmp_path):
    embedded(faces, tmp_path)
    entries = sorted((tmp_path / "cache").iterdir())
    entries[0].write_bytes(b"")
    entries[1].write_bytes(entries[1].read_bytes()[:-1])
    flipped = bytearray(entries[2].read_bytes())
    flipped[5] ^= 1
    entries[2].write_bytes(flipped)
    again = embedded(faces, tmp_path)
    assert len(again.embeddings) == 36
    sizes = {entry.stat().st_size for entry in (tmp_path / "cache").iterdir()}
    assert sizes == {128 * 4 + 32}


def test_another_recogniser_or_condition_does_not_hit(faces, tmp_path):
    embedded(faces, tmp_path, Counting())
    other = Counting()
    other.digest = "1" * 64
    embedded(faces, tmp_path, other)
    assert other.chips == 36
    condition = Counting()
    embed_folder(face_folder(faces), condition, Condition.RES16, cache=tmp_path / "cache", aligner=aligner())
    assert condition.chips == 36


def test_the_cache_is_closed_to_others(faces, tmp_path):
    embedded(faces, tmp_path)
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in (tmp_path / "cache").iterdir()} == {0o600}
    (tmp_path / "cache").chmod(0o750)
    with pytest.raises(UsageError, match="chmod 700"):
        embedded(faces, tmp_path)


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_crash_while_writing_leaves_nothing_half_done(tmp_path, monkeypatch, step):
    cache = EmbeddingCache(tmp_path, 4)

    def crash(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace" if step == "replace" else "os.fdopen", crash)
    with pytest.raises(KeyboardInterrupt):
        cache.put("key", np.ones(4, np.float32))
    monkeypatch.undo()
    assert cache.get("key") is None
    assert list(tmp_path.iterdir()) == []
