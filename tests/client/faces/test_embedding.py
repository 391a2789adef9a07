"""From folders to embedding sets: the cache, what is left out, and crashes."""

import errno
import hashlib
import os
import stat
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from client.faces.datasets import face_folder
from client.faces.degradation import Condition, degrade
from client.faces.embedding import EmbeddingCache, embed_folder
from client.faces.formats import IMAGES as FORMATS_READ
from client.faces.images import UnusableImageError
from federation.errors import UsageError
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.recogniser import unit_rows
from federation.recognition.templates import ARCFACE
from tests import faces as real
from tests.faces import orl_image

PEOPLE, IMAGES = 3, 6
ALL = 2 * PEOPLE * IMAGES
"""Embeddings of everybody, clean and degraded."""


@pytest.fixture
def faces(tmp_path):
    """Three people of six images each."""
    for person in range(1, PEOPLE + 1):
        for number in range(1, IMAGES + 1):
            write(tmp_path / "faces" / f"person {person}" / f"{number}.pgm", orl_image(person + 1, number))
    return tmp_path / "faces"


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


class Thumbnails:
    """A recogniser that anybody can understand, and that records what it is asked."""

    name, dimension = "thumbnails", 100
    profile = SimpleNamespace(alignment=ARCFACE, moments=())

    def __init__(self, digest="0" * 64):
        self.digest = digest
        self.chips = 0

    def embed(self, chips):
        self.chips += len(chips)
        return unit_rows(chips[:, 5::11, 5::11, 1].reshape(len(chips), 100) + 1.0)


@cache
def chip(image):
    return real.aligner().chip(image)


class Aligner:
    """The real one, which looks at an image once in all tests."""

    def __init__(self, version=None):
        self.version = version or real.aligner().version
        self.looks = 0

    def chip(self, image, _profile):
        self.looks += 1
        return chip(image)


def embedded(root, recogniser=None, *, condition=Condition.MASK, aligner=None, **options):
    return embed_folder(
        face_folder(root),
        recogniser or Thumbnails(),
        condition,
        cache=root.parent / "cache",
        aligner=aligner or Aligner(),
        **options,
    )


def entries(root):
    return sorted((root.parent / "cache").iterdir())


def same(one, other):
    for name in ("embeddings", "people", "profiles", "images"):
        np.testing.assert_array_equal(getattr(one.embeddings, name), getattr(other.embeddings, name))
    return True


def test_every_image_gives_a_reference_and_a_probe(faces):
    result = embedded(faces)
    assert result.problems == ()
    rows = result.embeddings
    assert (len(rows), rows.dimension) == (ALL, 100)
    images = [orl_image(person, number) for person in range(2, PEOPLE + 2) for number in range(1, IMAGES + 1)]
    chips = np.stack([chip(image) for image in images])
    for profile, expected in ((REFERENCE, chips), (PROBE, degrade(chips, Condition.MASK, ARCFACE))):
        half = rows.select(rows.profiles == profile)
        np.testing.assert_array_equal(half.embeddings, Thumbnails().embed(expected))
        assert half.images.tolist() == [hashlib.sha256(image).hexdigest() for image in images]
        assert half.people.tolist() == [f"person {person}" for person in range(1, PEOPLE + 1) for _ in range(IMAGES)]


def test_progress_counts_every_image_and_reaches_the_total(faces):
    for number in range(40):  # more than fit in one batch
        write(faces / "person 2" / f"broken {number}.png", b"junk")
    seen = []
    embedded(faces, progress=lambda *counts: seen.append(counts))
    done, totals = zip(*seen, strict=True)
    assert set(totals) == {PEOPLE * IMAGES + 40}
    assert list(done) == sorted(set(done))
    assert done[-1] == totals[-1]


def test_faces_are_found_without_an_aligner_at_hand(faces):
    result = embed_folder(face_folder(faces), Thumbnails(), Condition.MASK, cache=faces.parent / "cache")
    assert same(result, embedded(faces))


# ---------------------------------------------------------------------- what is left out


def test_an_image_that_is_no_good_reference_is_left_out_by_its_file_though_its_probe_would_do(faces):
    class Strict(Aligner):
        def chip(self, image, profile):
            if profile == REFERENCE and image == orl_image(3, 1):
                raise UnusableImageError("the face is cut off", "leave room around the face")
            return super().chip(image, profile)

    result = embedded(faces, aligner=Strict())
    assert [str(problem) for problem in result.problems] == [
        f"{faces / 'person 2' / '1.pgm'}: the face is cut off; leave room around the face"
    ]
    assert len(result.embeddings) == ALL - 2


def test_what_cannot_be_used_is_reported_and_the_rest_goes_on(faces):
    (faces / "empty").mkdir()
    write(faces / "person 1" / "broken.jpg", b"junk")
    Image.new("RGB", (200, 200)).save(faces / "person 2" / "blank.png")
    for number in (1, 2, 3):
        write(faces / "few" / f"{number}.pgm", orl_image(9, number))
    write(faces / "few" / "copy.pgm", orl_image(9, 1))
    result = embedded(faces)
    reported = {problem.path.name: problem for problem in result.problems}
    assert {name: problem.problem for name, problem in reported.items()} == {
        "empty": "no images",
        "broken.jpg": f"not a {FORMATS_READ} image",
        "blank.png": "no face found",
        "few": "3 different usable images of few",
    }
    assert reported["few"].what_to_do == "a person needs 4; add some"
    assert all(problem.what_to_do for problem in result.problems)
    assert sorted(set(result.embeddings.people.tolist())) == ["person 1", "person 2", "person 3"]
    assert len(result.embeddings) == ALL


def test_an_image_that_may_not_be_read_is_reported(faces, monkeypatch):
    forbidden, read = faces / "person 1" / "3.pgm", Path.read_bytes

    def guarded(path):
        if path == forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", guarded)
    (problem,) = embedded(faces).problems
    assert str(problem) == f"{forbidden}: cannot be read: Permission denied; check its permissions"


def test_an_image_that_vanishes_after_it_was_listed_is_reported(faces):
    folder = face_folder(faces)
    (faces / "person 1" / "3.pgm").unlink()
    result = embed_folder(folder, Thumbnails(), Condition.MASK, cache=faces.parent / "cache", aligner=Aligner())
    (problem,) = result.problems
    assert (problem.path.name, len(result.embeddings)) == ("3.pgm", ALL - 2)


def test_when_nobody_is_left_the_error_names_files(tmp_path):
    write(tmp_path / "faces" / "one" / "a.png", b"junk")
    with pytest.raises(UsageError, match=r"nobody has 4 usable images: .*a\.png: not a JPEG"):
        embedded(tmp_path / "faces")


@pytest.mark.parametrize("copies", [1, 40], ids=["in one batch", "over several batches"])
def test_copies_of_an_image_count_once(faces, copies):
    before = embedded(faces)
    for number in range(copies):
        write(faces / "person 1" / f"copy {number}.pgm", orl_image(2, 2))
    after = embedded(faces)
    assert after.problems == ()
    assert same(before, after)


def test_one_image_stands_for_one_person(faces):
    write(faces / "person 2" / "stray.pgm", orl_image(2, 1))
    result = embedded(faces)
    (problem,) = result.problems
    assert (problem.path.name, problem.problem) == ("stray.pgm", "the same image as one of person 1")
    assert len(result.embeddings) == ALL


def test_a_file_that_is_no_image_is_reported_wherever_it_lies(faces):
    for person in (1, 1, 2):
        write(faces / f"person {person}" / "empty.pgm", b"")
        write(faces / f"person {person}" / "nothing.pgm", b"")
    assert [problem.problem for problem in embedded(faces).problems] == ["the file is empty"] * 4


# ---------------------------------------------------------------------- the cache


def test_an_image_is_looked_at_and_embedded_once(faces):
    first, second, looks = Thumbnails(), Thumbnails(), Aligner()
    one = embedded(faces, first)
    two = embedded(faces, second, aligner=looks)
    assert (first.chips, second.chips, looks.looks) == (ALL, 0, 0)
    assert same(one, two)


def test_rows_are_in_the_order_of_the_files_whatever_the_cache_held(faces):
    """Evaluation splits a person's images by it."""
    cold = embedded(faces)
    for entry in entries(faces)[::3]:
        entry.unlink()
    assert same(cold, embedded(faces))


@pytest.mark.parametrize(
    "damage",
    [
        lambda _content: b"",
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: bytes(len(content)),
        lambda content: content[4:-32] + hashlib.sha256(content[4:-32]).digest(),
    ],
    ids=["empty", "truncated", "longer", "a bit of the body", "a bit of the digest", "zeros", "another dimension"],
)
def test_a_damaged_entry_is_computed_again(faces, damage):
    one = embedded(faces)
    undamaged = {entry: entry.read_bytes() for entry in entries(faces)}
    damaged = entries(faces)[7]
    damaged.write_bytes(damage(damaged.read_bytes()))
    again = Thumbnails()
    assert same(one, embedded(faces, again))
    assert again.chips == 2  # the image of that entry, clean and degraded
    assert {entry: entry.read_bytes() for entry in entries(faces)} == undamaged


def test_another_recogniser_condition_or_aligner_does_not_hit(faces):
    embedded(faces)
    others = [Thumbnails("1" * 64), Thumbnails(), Thumbnails()]
    embedded(faces, others[0])
    embedded(faces, others[1], condition=Condition.RES16)
    embedded(faces, others[2], aligner=Aligner("another version"))
    assert [other.chips for other in others] == [ALL] * 3


def test_the_cache_is_closed_to_others_whatever_the_umask(faces):
    umask = os.umask(0)
    try:
        embedded(faces)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((faces.parent / "cache").stat().st_mode) == 0o700
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in entries(faces)} == {0o600}
    (faces.parent / "cache").chmod(0o750)
    with pytest.raises(UsageError, match="chmod 700"):
        embedded(faces)


def test_a_name_in_the_cache_tells_neither_the_person_nor_the_image(faces):
    embedded(faces)
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in faces.rglob("*.pgm")}
    assert all(len(entry.name) == 64 for entry in entries(faces))
    assert not digests & {entry.name for entry in entries(faces)}


def test_a_cache_that_cannot_be_made_says_so(faces):
    (faces.parent / "cache").write_bytes(b"a file")
    with pytest.raises(UsageError, match=r"cannot write the embedding cache .*: File exists; make room"):
        embedded(faces)


# ---------------------------------------------------------------------- crashes

KEY, OLD, NEW = "ab" * 32, np.zeros(4, np.float32), np.ones(4, np.float32)


class DyingFile:
    """Writes half of what it gets, then fails."""

    def __init__(self, descriptor, failure):
        self._file = open(descriptor, "wb")  # noqa: SIM115, PTH123 - closed by the block that it stands in for
        self._failure = failure

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, content):
        self._file.write(content[: len(content) // 2])
        self._file.flush()
        raise self._failure


def break_off(monkeypatch, step, failure):
    """Lets the next `put` fail: half-way through the file, or when the file is to take its place."""

    def fail(*_):
        raise failure

    if step == "write":
        monkeypatch.setattr(os, "fdopen", lambda descriptor, _mode: DyingFile(descriptor, failure))
    else:
        monkeypatch.setattr(Path, "replace", fail)


@pytest.fixture(params=["before an entry", "over an entry"])
def cache_folder(request, tmp_path):
    """An `EmbeddingCache`, what it holds under KEY, and its files."""
    cache = EmbeddingCache(tmp_path / "cache", 4)
    if request.param == "over an entry":
        cache.put(KEY, OLD)
    return cache, cache.get(KEY), {file: file.read_bytes() for file in (tmp_path / "cache").iterdir()}


@pytest.mark.parametrize("step", ["write", "replace"])
@pytest.mark.parametrize(
    ("failure", "raised"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "No space left on device"), UsageError)],
    ids=["interrupted", "disk full"],
)
def test_a_failed_write_leaves_what_was_there(cache_folder, tmp_path, monkeypatch, step, failure, raised):
    cache, before, files = cache_folder
    break_off(monkeypatch, step, failure)
    with pytest.raises(raised, match="No space left on device; make room" if raised is UsageError else None):
        cache.put(KEY, NEW)
    monkeypatch.undo()
    np.testing.assert_array_equal(cache.get(KEY), before)
    assert {file: file.read_bytes() for file in (tmp_path / "cache").iterdir()} == files
    cache.put(KEY, NEW)
    np.testing.assert_array_equal(cache.get(KEY), NEW)


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_killed_process_leaves_what_was_there_and_a_stray_file(cache_folder, tmp_path, monkeypatch, step):
    """As if killed: nothing that follows in the program runs, the clearing up neither."""
    cache, before, _files = cache_folder
    break_off(monkeypatch, step, SystemExit())
    monkeypatch.setattr(Path, "unlink", lambda *_: None)
    with pytest.raises(SystemExit):
        cache.put(KEY, NEW)
    monkeypatch.undo()
    np.testing.assert_array_equal(cache.get(KEY), before)
    (stray,) = {file.name for file in (tmp_path / "cache").iterdir()} - {KEY}
    assert len(stray) < len(KEY)  # so no entry is ever read from it
    cache.put(KEY, NEW)
    np.testing.assert_array_equal(cache.get(KEY), NEW)


def test_an_entry_that_may_not_be_read_is_computed_again(tmp_path, monkeypatch):
    cache = EmbeddingCache(tmp_path, 4)
    cache.put(KEY, OLD)

    def forbidden(_path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert cache.get(KEY) is None


def test_a_run_that_was_broken_off_goes_on_where_it_was(faces):
    class Dying(Thumbnails):
        def embed(self, chips):
            if self.chips == 2 * IMAGES:  # after the first person
                raise KeyboardInterrupt
            return super().embed(chips)

    with pytest.raises(KeyboardInterrupt):
        embedded(faces, Dying())
    rest = Thumbnails()
    result = embedded(faces, rest)
    assert rest.chips == ALL - 2 * IMAGES
    assert len(result.embeddings) == ALL
