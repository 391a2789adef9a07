"""Many images: parts, their results on disk, who makes them, and what a kill leaves."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.faces.degradation import Condition
from client.node.preparing import prepare
from client.preparing import crew, parts, staging
from client.preparing.crew import Crew
from client.preparing.joining import Joining
from client.preparing.parts import Made, Part, Recipe, Workshop, parts_of, read_images
from client.preparing.people import has_withdrawn, publish, refresh_active, withdraw
from client.preparing.staging import Staging, forget
from federation.errors import MalformedMessageError, UsageError
from federation.learning.scales import ChipSet
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.templates import ARCFACE
from tests.faces import aligner, orl_image, shipped

RECIPE = Recipe("ab" * 32, "as in tests", Condition.MASK, 2, None)


def an_organisation(folder):
    folder.mkdir()
    (folder / "policy.toml").write_text(
        "max-epsilon = 8.0\nbudget-epsilon = 8.0\ndelta = 1e-5\nmin-colluders = 1\n"
        f'recipes = ["moments", "threshold"]\napp-hashes = ["{"ab" * 32}"]\nhours = "00:00-00:00"\n'
    )
    return folder


def some_images(place, people=("anna", "ben", "cleo"), numbers=(1, 2)):
    for person, name in enumerate(people, 2):
        for number in numbers:
            path = place / name / f"{number}.pgm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(orl_image(person, number))
    return place


def a_part(tmp_path, person="anna", number=0):
    return Part(person, "reference", number, tuple(sorted((some_images(tmp_path / "faces") / person).iterdir())))


def made_of(*images):
    rows = np.eye(len(images), 8, dtype=np.float32)
    return Made(
        images, tuple(range(len(images))), rows, rows, np.zeros((0, 4, 4, 3), np.uint8), ((7, "dark", "light"),)
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "prepared").iterdir() if path.is_file()}


@pytest.fixture
def small(monkeypatch):
    """Parts of one image, so that a few images are many parts."""
    monkeypatch.setattr(parts, "IMAGES_IN_A_PART", 1)


def test_all_images_of_a_person_are_in_parts_of_at_most_32():
    found = list(parts_of("anna", "probe", [str(number) for number in range(70)]))
    assert [(part.number, len(part.paths)) for part in found] == [(0, 32), (1, 32), (2, 6)]
    assert [path for part in found for path in part.paths] == [str(number) for number in range(70)]


def test_a_result_survives_its_bytes_and_other_bytes_are_none():
    made = made_of("a" * 64, "b" * 64)
    again = Made.from_bytes(made.to_bytes())
    assert (again.images, again.places, again.problems) == (made.images, made.places, made.problems)
    assert np.array_equal(again.embeddings, made.embeddings)
    assert Made.from_bytes(made_of().to_bytes()).images == ()
    for damaged in (b"", made.to_bytes()[:-40], b"PK" + bytes(60)):
        with pytest.raises(MalformedMessageError, match="no finished part"):
            Made.from_bytes(damaged)
    assert "aaaa" not in repr(made)


@pytest.mark.parametrize(
    "change",
    [
        {"recogniser": "cd" * 32},
        {"aligner": "another"},
        {"condition": None},
        {"condition": Condition.RES16},
        {"chips": 0},
    ],
)
def test_what_decides_a_result_decides_where_it_is_kept_and_other_recipes_leave_nothing(tmp_path, change):
    part = a_part(tmp_path)
    Staging(tmp_path, RECIPE).put(part, made_of("a" * 64))
    other = Staging(tmp_path, replace(RECIPE, **change))
    assert not other.has(part)
    assert not Staging(tmp_path, RECIPE).has(part)  # the other one deleted it


def test_a_model_that_moved_is_the_same_model(tmp_path):
    part = a_part(tmp_path)
    Staging(tmp_path, RECIPE).put(part, made_of("a" * 64))
    assert Staging(tmp_path, replace(RECIPE, model=tmp_path)).has(part)


def test_a_result_is_used_while_its_images_are_the_same(tmp_path):
    kept, part = Staging(tmp_path, RECIPE), a_part(tmp_path)
    kept.put(part, made_of("a" * 64, "b" * 64))
    assert kept.get(part).images == ("a" * 64, "b" * 64)
    assert not kept.has(replace(part, paths=part.paths[:1]))
    assert not kept.has(replace(part, number=1))
    about = part.paths[1].stat()
    part.paths[1].write_bytes(orl_image(9, 9))
    os.utime(part.paths[1], ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    assert not kept.has(part)
    kept.put(part, made_of("c" * 64))
    part.paths[0].unlink()
    assert not kept.has(part)


def test_a_damaged_result_is_none_and_nobody_else_reads_any(tmp_path):
    kept, part = Staging(tmp_path, RECIPE), a_part(tmp_path)
    kept.put(part, made_of("a" * 64))
    (folder,) = tmp_path.glob(".preparing-*")
    (file,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    assert "anna" not in file.name
    data = file.read_bytes()
    for damaged in (data[:-1], data[:100], b"", data[:50] + bytes([data[50] ^ 1]) + data[51:]):
        file.write_bytes(damaged)
        assert not kept.has(part)
    file.write_bytes(data)
    assert kept.has(part)


def test_a_disk_that_is_full_leaves_no_half_of_a_result(tmp_path, monkeypatch):
    kept, part = Staging(tmp_path, RECIPE), a_part(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging.os, "fdopen", full)
    with pytest.raises(UsageError, match="No space left on device; what was prepared stays"):
        kept.put(part, made_of("a" * 64))
    (folder,) = tmp_path.glob(".preparing-*")
    assert list(folder.iterdir()) == []


def test_who_withdraws_is_forgotten_in_every_unfinished_preparation(tmp_path):
    folder = an_organisation(tmp_path / "north")
    kept, anna, ben = Staging(folder, RECIPE), a_part(tmp_path), a_part(tmp_path, "ben", 3)
    for part in (anna, replace(anna, camera="probe"), ben):
        kept.put(part, made_of("a" * 64))
    withdraw("anna", folder)
    assert [kept.has(anna), kept.has(replace(anna, camera="probe")), kept.has(ben)] == [False, False, True]
    forget(["ben"], folder)
    assert not kept.has(ben)
    assert has_withdrawn({"anna", "ben"}, folder) == {"anna"}


def test_who_withdraws_is_forgotten_also_in_what_a_crash_left_half_written(tmp_path, monkeypatch):
    folder = an_organisation(tmp_path / "north")
    kept, anna, ben = Staging(folder, RECIPE), a_part(tmp_path), a_part(tmp_path, "ben", 3)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        for part in (anna, ben):
            with pytest.raises(KeyboardInterrupt):
                kept.put(part, made_of("a" * 64))
    (staged,) = folder.glob(".preparing-*")
    assert len(list(staged.iterdir())) == 2
    withdraw("anna", folder)
    (left,) = staged.iterdir()
    assert not kept.has(ben), "nobody reads it"
    forget(["ben"], folder)
    assert not left.exists()


def test_a_machine_with_other_weights_is_refused():
    recipe = Recipe(shipped().digest, aligner().version, None, 0, None)
    assert Workshop(recipe, shipped(), aligner()).recipe is recipe
    for other in (replace(recipe, recogniser="ab" * 32), replace(recipe, aligner="another")):
        with pytest.raises(UsageError, match="another recogniser or detector"):
            Workshop(other, shipped(), aligner())


def test_what_becomes_of_an_image_does_not_depend_on_its_neighbours_being_usable(tmp_path):
    recipe = Recipe(shipped().digest, aligner().version, Condition.MASK, 1, None)
    work = Workshop(recipe, shipped(), aligner())
    part = a_part(tmp_path)
    part.paths[0].write_bytes(b"no image")
    gone = part.paths[0].with_name("0.pgm")
    images = read_images(replace(part, paths=(gone, *part.paths, part.paths[1])))
    made = work.make("reference", images)
    assert (len(made.images), made.places, len(made.chips)) == (1, (2,), 1)
    assert [place for place, _, _ in made.problems] == [0, 1]
    assert "cannot be read: No such file" in made.problems[0][1]
    assert np.allclose(made.embeddings, work.make("reference", images[2:3]).embeddings, atol=1e-6)


def test_one_process_and_two_make_the_same_bytes_and_leave_nothing_else(tmp_path, small):
    images, found = some_images(tmp_path / "faces"), []
    for processes in (1, 2):
        folder = an_organisation(tmp_path / f"north {processes}")
        seen = []
        done = prepare(
            images,
            folder,
            condition=Condition.MASK,
            crew=Crew(processes),
            progress=lambda count, total, seen=seen: seen.append((count, total)),
        )
        assert (done.people, done.images, done.looked, done.resumed) == (3, 6, 6, 0)
        assert seen == [(count, 6) for count in range(7)]
        assert not list(folder.glob(".preparing-*"))
        found.append(contents(folder))
    assert found[0] == found[1]
    assert EmbeddingSet.from_bytes(found[0]["embeddings.npz"]).to_bytes() == found[0]["embeddings.npz"]


KILLED = """
import sys
from pathlib import Path
from client.faces.degradation import Condition
from client.node.preparing import prepare
from client.preparing import parts
from client.preparing.crew import Crew

def told(done, total):
    print(done, flush=True)
    if done == 3:
        sys.stdin.read()  # until it is killed

if __name__ == "__main__":
    parts.IMAGES_IN_A_PART = 1
    prepare(Path(sys.argv[1]), Path(sys.argv[2]), condition=Condition.MASK, crew=Crew(2), progress=told)
"""


def test_a_preparation_that_is_killed_goes_on_where_it_was_and_its_processes_die_with_it(tmp_path, small):
    images, folder = some_images(tmp_path / "faces"), an_organisation(tmp_path / "north")
    whole = an_organisation(tmp_path / "whole")
    prepare(images, whole, condition=Condition.MASK)
    (tmp_path / "killed.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in (str(Path.cwd()), *sys.path) if path)}
    with subprocess.Popen(
        [sys.executable, tmp_path / "killed.py", images, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert [process.stdout.readline() for _ in range(4)] == [f"{done}\n" for done in range(4)]
        workers = children(process.pid)
        assert len(workers) >= 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    end = time.monotonic() + 30
    while any(is_alive(worker) for worker in workers):
        assert time.monotonic() < end, "a worker outlived the process that began it"
        time.sleep(0.05)
    assert not (folder / "prepared").exists()
    seen = []
    done = prepare(images, folder, condition=Condition.MASK, progress=lambda *now: seen.append(now))
    assert done.resumed == 3
    assert seen[0] == (3, 6)
    assert contents(folder) == contents(whole)


def children(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True).stdout
    return [int(line) for line in listed.split()]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - no file, a process
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_putting_together_takes_the_memory_of_one_person_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr("client.preparing.people._CHIPS_AT_ONCE", 8)
    monkeypatch.setattr("client.preparing.people._EMBEDDINGS_AT_ONCE", 64)

    def most(people):
        folder, listed = an_organisation(tmp_path / f"{people}"), tmp_path / f"images of {people}"
        kept, random = Staging(folder, RECIPE), np.random.default_rng(people)
        for number in range(people):
            (listed / f"{number}").mkdir(parents=True)
            (listed / f"{number}" / "1.png").write_bytes(b"nobody opens it")
            digests = tuple(f"{number:062x}{image:02x}" for image in range(4))
            rows = random.standard_normal((2, 4, 64)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=2, keepdims=True)
            chips = np.full((2, 112, 112, 3), number % 256, np.uint8)
            kept.put(the_part_of(listed, number), Made(digests, (0, 0, 0, 0), rows[0], rows[1], chips, ()))
        joining = Joining(RECIPE, kept, ARCFACE, [])
        blocks = (
            block
            for n in range(people)
            for block in joining.person(f"{n}", {"reference": the_part_of(listed, n).paths})
        )
        tracemalloc.start()
        try:
            publish(blocks, {}, {}, folder)
            assert len(refresh_active(folder).people) == joining.images // 4 == people
            assert withdraw("7", folder) == 8
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def the_part_of(listed, number):
        return Part(f"{number}", "reference", 0, (listed / f"{number}" / "1.png",))

    most(8)  # what is cached
    few, many = most(30), most(120)
    size = sum((tmp_path / "120" / name).stat().st_size for name in ("embeddings.npz", "chips.npz"))
    assert len(ChipSet.from_bytes((tmp_path / "120" / "chips.npz").read_bytes())) == 119 * 2
    assert many - few < size / 10  # digests and names of the others
    assert many < size / 3


def test_an_image_that_changes_while_others_are_prepared_is_said(tmp_path):
    images, folder = some_images(tmp_path / "faces"), an_organisation(tmp_path / "north")

    def told(done, total):
        if done == total:
            (images / "ben" / "1.pgm").write_bytes(orl_image(9, 9) + b"\n")

    with pytest.raises(UsageError, match="ben changed while images were prepared"):
        prepare(images, folder, condition=Condition.MASK, progress=told)
    (parts,) = (path for path in folder.iterdir() if path.name != "policy.toml")  # anna was on her way already
    assert parts.name.startswith(".preparing-")


@pytest.mark.parametrize(
    ("options", "said"), [({"processes": 0}, "at least one process"), ({"ray": "auto"}, "install")]
)
def test_a_crew_that_cannot_work_is_refused(options, said, monkeypatch):
    monkeypatch.setattr(crew.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=said):
        Crew(**options)


ON_RAY = """
import sys
from pathlib import Path
from client.faces.degradation import Condition
from client.node.preparing import prepare
from client.preparing import parts
from client.preparing.crew import Crew

if __name__ == "__main__":
    parts.IMAGES_IN_A_PART = 1
    print(prepare(Path(sys.argv[1]), Path(sys.argv[2]), condition=Condition.MASK, crew=Crew(ray=sys.argv[3])))
"""


@pytest.mark.slow
@pytest.mark.integration
def test_ray_makes_the_same_bytes_and_an_address_where_nobody_is_is_said(tmp_path, small):
    images = some_images(tmp_path / "faces")
    alone, cluster, other = (an_organisation(tmp_path / name) for name in ("alone", "cluster", "other"))
    prepare(images, alone, condition=Condition.MASK)
    assert "people=3" in on_ray(tmp_path, images, cluster, "local").stdout
    assert contents(alone) == contents(cluster)
    assert not list(cluster.glob(".preparing-*"))
    refused = on_ray(tmp_path, images, other, "127.0.0.1:1")
    assert refused.returncode != 0
    assert "UnavailableError: no Ray cluster answers at 127.0.0.1:1" in refused.stderr


def on_ray(tmp_path, images, folder, address):
    """In a program of its own: Ray opens sockets, and leaves processes to end by themselves."""
    (tmp_path / "on_ray.py").write_text(ON_RAY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in (str(Path.cwd()), *sys.path) if path)}
    command = [sys.executable, tmp_path / "on_ray.py", images, folder, address]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
