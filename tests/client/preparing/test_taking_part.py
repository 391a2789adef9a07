"""Who takes part: in which order a withdrawal and a publication happen, what a failure leaves, and what is counted."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.preparing import people, staging
from client.preparing.parts import Made, Part, Recipe
from client.preparing.people import (
    Prepared,
    TakingPart,
    groups_from_json,
    has_withdrawn,
    prepared_people,
    publish,
    refresh_active,
    require_both_cameras,
    require_chips_of_all,
    require_groups,
    with_more_than,
    withdraw,
)
from client.preparing.staging import Staging, forget
from federation.errors import RefusedError, UsageError
from federation.learning.scales import ChipSet
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE
from tests.durable import files, is_locked
from tests.people import synthetic_people

RECIPE = Recipe("ab" * 32, "as in tests", None, 0, None)


def chips_of(*names, each=2):
    people = np.repeat(np.array(names), each)
    faces = np.zeros((len(people), 112, 112, 3), np.uint8)
    return ChipSet(faces, faces, people, np.array([f"{name} {n}" for n, name in enumerate(people)]))


@pytest.fixture
def folder(tmp_path):
    """Of three people who were prepared, with chips."""
    made = tmp_path / "north"
    made.mkdir()
    names = ["anna", "ben", "cleo"]
    publish([synthetic_people(names), chips_of(*names)], {"recogniser": "r"}, {"weights": b"w"}, made)
    refresh_active(made)
    return made


def those_in(folder):
    found = [EmbeddingSet.from_bytes((folder / name).read_bytes()) for name in ("embeddings.npz", "active.npz")]
    chips = ChipSet.from_bytes((folder / "chips.npz").read_bytes()) if (folder / "chips.npz").exists() else None
    return [sorted(set(each.people.tolist())) for each in (*found, *([chips] if chips else []))]


# ------------------------------------------------------------------------------------------------------- withdrawing
def test_a_withdrawal_is_marked_first_and_everything_of_it_happens_while_nobody_else_changes_anything(
    folder, monkeypatch
):
    """Whatever a crash leaves undone, the mark keeps them out."""
    steps = []

    def noting(name):
        original = getattr(people, name)

        def noted(*given, **named):
            first = given[0].name if isinstance(given[0], Path) else given[0] if isinstance(given[0], list) else ""
            steps.append((name, first))
            assert is_locked(folder)
            return original(*given, **named)

        monkeypatch.setattr(people, name, noted)

    for name in ("replace_file", "forget", "publish", "refresh_active"):
        noting(name)
    assert withdraw("ben", folder) == 8
    assert [step for step in steps if step[0] != "replace_file" or step[1] in {"withdrawn", "active.npz"}] == [
        ("replace_file", "withdrawn"),
        ("forget", ["ben"]),
        ("publish", ""),
        ("refresh_active", "north"),
        ("replace_file", "active.npz"),
    ]
    assert not is_locked(folder)
    made = prepared_people(folder)
    assert (those_in(folder), made.made_with, made.model) == (
        [["anna", "cleo"]] * 3,
        {"recogniser": "r"},
        {"weights": b"w"},
    )


def test_several_who_withdraw_are_all_marked_and_out_and_nobody_else_is(folder, monkeypatch):
    monkeypatch.setattr(people, "_EMBEDDINGS_AT_ONCE", 3)  # everybody is in several blocks
    monkeypatch.setattr(people, "_CHIPS_AT_ONCE", 1)
    for name, out in (("ben", 8), ("anna", 8), ("ben", 0), ("stranger", 0)):
        assert withdraw(name, folder) == out
    assert those_in(folder) == [["cleo"]] * 3
    rows = synthetic_people(["anna", "ben", "cleo"]).of_people(["cleo"])
    assert (folder / "embeddings.npz").read_bytes() == rows.to_bytes()
    assert (folder / "chips.npz").read_bytes() == chips_of("anna", "ben", "cleo").of_people(["cleo"]).to_bytes()
    lines = (folder / "withdrawn").read_text().splitlines()
    assert (lines, len(lines)) == (sorted(set(lines)), 3)
    assert has_withdrawn({"anna", "ben", "cleo", "stranger", "dora"}, folder) == {"anna", "ben", "stranger"}


def test_a_mark_that_is_there_is_no_excuse_to_leave_anything_of_the_person(folder, monkeypatch):
    """A crash came between the mark and the rest; withdrawing again does the rest."""
    with monkeypatch.context() as patch:
        patch.setattr(people, "forget", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError, match="division by zero"):
            withdraw("ben", folder)
    assert those_in(folder) == [["anna", "ben", "cleo"]] * 3
    before = (folder / "withdrawn").read_bytes()
    assert withdraw("ben", folder) == 8
    assert (those_in(folder), (folder / "withdrawn").read_bytes()) == ([["anna", "cleo"]] * 3, before)


def test_embeddings_that_were_made_by_other_means_stay_and_who_withdrew_is_not_active(tmp_path):
    (tmp_path / "embeddings.npz").write_bytes(synthetic_people(["anna", "ben"]).to_bytes())
    before = (tmp_path / "embeddings.npz").read_bytes()
    assert withdraw("ben", tmp_path) == 8
    assert (tmp_path / "embeddings.npz").read_bytes() == before
    assert those_in(tmp_path) == [["anna", "ben"], ["anna"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["active.npz", "embeddings.npz", "withdrawn"]


def test_who_is_not_there_changes_no_file_but_the_marks(folder):
    before = files(folder)
    assert withdraw("stranger", folder) == 0
    after = files(folder)
    assert after.pop("withdrawn")
    assert after == before


# ---------------------------------------------------------------------------------------------------- what is active
def test_what_is_active_is_the_first_images_of_each_person_and_camera_and_nobody_who_withdrew(tmp_path, monkeypatch):
    monkeypatch.setattr(people, "MOST_IMAGES", 2)
    monkeypatch.setattr(people, "_EMBEDDINGS_AT_ONCE", 3)  # a person's images are in several blocks
    rows = synthetic_people(["anna", "ben", "cleo"], images=3)
    one = synthetic_people(["dora"], images=1)
    columns = ("embeddings", "people", "profiles", "images")
    both = EmbeddingSet(*(np.concatenate([getattr(part, name) for part in (rows, one)]) for name in columns))
    (tmp_path / "embeddings.npz").write_bytes(both.to_bytes())
    for name in ("ben", "stranger"):
        withdraw(name, tmp_path)
    found = refresh_active(tmp_path)
    counts = {(name, profile): 3 for name in ("anna", "cleo") for profile in (REFERENCE, PROBE)}
    assert dict(found.images) == counts | {("dora", REFERENCE): 1, ("dora", PROBE): 1}
    assert found.several == {"anna", "cleo"}
    expected = both.of_people(["anna", "cleo", "dora"]).first_of_each(2)
    assert EmbeddingSet.from_bytes((tmp_path / "active.npz").read_bytes()).to_bytes() == expected.to_bytes()


def test_nobody_who_takes_part_leaves_nothing_to_be_read(tmp_path):
    (tmp_path / "embeddings.npz").write_bytes(synthetic_people(["anna"]).to_bytes())
    refresh_active(tmp_path)
    (tmp_path / "withdrawn").write_text(f"{people._mark('anna')}\n")
    with pytest.raises(RefusedError, match="nobody in this organisation takes part any more"):
        refresh_active(tmp_path)
    assert not (tmp_path / "active.npz").exists()


TAKING_PART = TakingPart(
    {("anna", REFERENCE): 3, ("anna", PROBE): 1, ("ben", REFERENCE): 1, ("ben", PROBE): 4, ("cleo", REFERENCE): 2},
    {"anna"},
)


def test_people_are_counted_by_camera():
    assert TAKING_PART.people == {"anna", "ben", "cleo"}
    assert TAKING_PART.with_camera(REFERENCE) == {"anna", "ben", "cleo"}
    assert TAKING_PART.with_camera(PROBE) == {"anna", "ben"}
    assert TAKING_PART.with_camera(REFERENCE, 2) == {"anna"}
    assert [with_more_than(TAKING_PART, most) for most in (0, 1, 2, 3, 4)] == [3, 3, 2, 1, 0]
    with pytest.raises(UsageError, match="1 of 3 people lack images of the reference or the probe camera"):
        require_both_cameras(TAKING_PART)
    probes = TakingPart({("anna", PROBE): 1, ("ben", REFERENCE): 1, ("ben", PROBE): 1}, set())
    with pytest.raises(UsageError, match="1 of 2 people lack"):
        require_both_cameras(probes)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "chips.npz").unlink(), r"chips\.npz is missing or damaged"),
        (lambda folder: (folder / "chips.npz").resolve().write_bytes(b"junk"), r"chips\.npz is missing or damaged"),
        (lambda folder: (folder / "model").unlink(), "somebody has no chips, or model is missing"),
        (
            lambda folder: (folder / "chips.npz").resolve().write_bytes(chips_of("anna", "ben").to_bytes()),
            "has no chips",
        ),
    ],
    ids=["gone", "damaged", "no weights", "somebody without"],
)
def test_the_recipe_that_needs_chips_needs_them_of_everybody_and_the_weights(folder, spoil, said):
    active = refresh_active(folder)
    require_chips_of_all(active, folder)
    spoil(folder)
    with pytest.raises(UsageError, match=said):
        require_chips_of_all(active, folder)


def test_a_list_of_groups_names_people_in_one_form_and_nobody_in_what_is_said():
    assert groups_from_json('{"Zoe\u0308": "x", "ben": 3}'.encode()) == {"Zo\u00eb": "x", "ben": 3}
    for wrong in (b"", b"[]", b'"x"', b"[" * 100_000, b"\xff"):
        with pytest.raises(UsageError, match=r'^groups\.json holds JSON such as \{"PERSON": "GROUP"\}$'):
            groups_from_json(wrong)


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ({"anna": "x", "ben": 3}, "names a group, as text, for every person"),
        ({"anna": "x", "ben": "y"}, "lists nobody who takes part, or somebody with fewer than two images"),
        ({"dora": "x"}, "lists nobody who takes part, or somebody with fewer than two images"),
        ({}, "lists nobody who takes part, or somebody with fewer than two images"),
        ({"anna": "x", "dora": "y"}, None),
    ],
)
def test_groups_are_texts_of_people_with_two_images_some_of_whom_take_part(tmp_path, listed, said):
    (tmp_path / "groups.json").write_text(json.dumps(listed))
    if said is None:
        require_groups(TAKING_PART, tmp_path)
        return
    with pytest.raises(
        UsageError, match=rf"groups\.json {said}; write groups\.json, or take the recipe evaluation out of"
    ):
        require_groups(TAKING_PART, tmp_path)


# -------------------------------------------------------------------------------------------------------- publishing
@pytest.mark.parametrize("name", ["embeddings.npz", "chips.npz", "model"])
def test_whichever_file_was_made_by_other_means_is_not_overwritten(folder, name):
    (folder / name).unlink()
    (folder / name).write_bytes(b"somebody's work")
    with pytest.raises(UsageError, match=rf"{name} was made by other means and is not overwritten; move it away"):
        prepared_people(folder)


def test_of_a_person_as_many_pairs_are_kept_as_take_part_in_whichever_blocks_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(people, "MOST_PAIRS", 3)
    first, second = chips_of("anna", "ben"), chips_of("anna", "ben", "cleo")
    publish([first, synthetic_people(["anna"]), second], {}, {}, tmp_path)
    kept = ChipSet.from_bytes((tmp_path / "chips.npz").read_bytes())
    assert kept.people.tolist() == ["anna", "anna", "ben", "ben", "anna", "ben", "cleo", "cleo"]
    assert kept.images.tolist() == [*first.images.tolist(), *second.images[[0, 2, 4, 5]].tolist()]


def test_what_was_prepared_before_and_what_crashes_left_goes_and_nothing_else(folder):
    strays = [".prepared-0000", ".prepared-1111.link"]
    (folder / strays[0] / "model").mkdir(parents=True)
    (folder / strays[1]).symlink_to(strays[0])
    (folder / "kept").mkdir()
    old = (folder / "prepared").readlink().name
    publish([synthetic_people(["dora"])], {}, {"weights": b"v"}, folder)
    new = (folder / "prepared").readlink().name
    assert new != old
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == [new]
    assert (folder / "kept").is_dir()
    assert prepared_people(folder).people == {"dora"}
    assert not (folder / "chips.npz").exists()


@pytest.mark.parametrize("step", ["first folder", "weights", "a name", "the draft", "the last"])
def test_a_disk_that_is_full_at_any_step_leaves_what_was_there(folder, monkeypatch, step):
    before, left = files(folder), {"first folder": 0, "weights": 1}.get(step, 0)
    full = OSError(errno.ENOSPC, "No space left on device")

    def failing(original, after):
        calls = []

        def call(*given, **named):
            calls.append(given)
            if len(calls) > after:
                raise full
            return original(*given, **named)

        return call

    owner, name = {
        "first folder": (Path, "mkdir"),
        "weights": (Path, "mkdir"),
        "a name": (people, "replace_file"),
        "the draft": (Path, "symlink_to"),
        "the last": (Path, "replace"),
    }[step]
    if step == "the last":
        draft = Path.replace
        monkeypatch.setattr(
            Path, "replace", lambda path, to: failing(draft, 0)() if to.name == "prepared" else draft(path, to)
        )
    else:
        monkeypatch.setattr(owner, name, failing(getattr(owner, name), left))
    with pytest.raises(
        UsageError, match=r"cannot write to .*north: No space left on device; what was there is unchanged"
    ):
        publish([synthetic_people(["dora"])], {}, {}, folder)
    monkeypatch.undo()
    assert {name: data for name, data in files(folder).items() if not name.startswith(".prepared-")} == {
        name: data for name, data in before.items() if not name.startswith(".prepared-")
    }
    assert prepared_people(folder).people == {"anna", "ben", "cleo"}
    publish([synthetic_people(["dora"])], {}, {}, folder)
    assert len(list(folder.glob(".prepared-*"))) == 1


def test_prepared_people_are_gone_through_without_chips_or_with_them():
    names = ["anna", "ben"]
    whole = Prepared([synthetic_people([name]) for name in names], [chips_of(name) for name in names], {}, {})
    assert [type(block) for block in whole.blocks()] == [EmbeddingSet] * 2 + [ChipSet] * 2
    assert [type(block) for block in whole.blocks(chips=False)] == [EmbeddingSet] * 2
    assert [type(block) for block in replace(whole, chips=None).blocks()] == [EmbeddingSet] * 2
    assert whole.people == {"anna", "ben"}
    some = whole.of_people({"ben", "dora"})
    assert some.people == {"ben"}
    assert [sorted(set(block.people.tolist())) for block in some.blocks()] == [[], ["ben"]] * 2


# ----------------------------------------------------------------------------------------------------- finished parts
def a_part(tmp_path, person="anna", camera=REFERENCE, number=0):
    paths = tuple(tmp_path / "faces" / person / f"{n}.png" for n in range(2))
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a picture")
    return Part(person, camera, number, paths)


def made(*images):
    rows = np.eye(len(images), 4, dtype=np.float32)
    return Made(images, tuple(range(len(images))), rows, rows[:0], np.zeros((0, 4, 4, 3), np.uint8), ())


@pytest.mark.parametrize("step", ["open", "write", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")]
)
def test_a_result_that_cannot_be_kept_leaves_the_one_before_and_no_half(tmp_path, monkeypatch, step, error):
    kept, part = Staging(tmp_path, RECIPE), a_part(tmp_path)
    kept.put(part, made("a" * 64))
    (place,) = tmp_path.glob(".preparing-*")
    before = files(place)

    def fails(*_given, **_named):
        raise error

    with monkeypatch.context() as patch:
        if step == "open":
            patch.setattr(staging.os, "open", fails)
        elif step == "replace":
            patch.setattr(Path, "replace", fails)
        else:
            patch.setattr(staging, "_listing", fails)
        with pytest.raises(UsageError, match=rf"cannot write to .*: {error.strerror}; what was prepared stays"):
            kept.put(part, made("b" * 64))
    assert files(place) == before
    assert kept.get(part).images == ("a" * 64,)


def test_results_of_people_cameras_and_parts_are_kept_apart_and_forgotten_together(tmp_path):
    kept = Staging(tmp_path, RECIPE)
    asked = [
        ("anna", REFERENCE, 0),
        ("anna", PROBE, 0),
        ("anna", REFERENCE, 1),
        ("ben", REFERENCE, 0),
        ("cleo", PROBE, 2),
    ]
    given = [a_part(tmp_path, *each) for each in asked]
    for number, part in enumerate(given):
        kept.put(part, made(f"{number:064x}"))
    assert [kept.get(part).images for part in given] == [(f"{number:064x}",) for number in range(5)]
    forget(["anna", "cleo"], tmp_path)
    assert [kept.has(part) for part in given] == [False, False, False, True, False]
    kept.remove()
    assert list(tmp_path.glob(".preparing-*")) == []
    forget(["ben"], tmp_path)


def test_a_draft_that_got_its_name_meanwhile_is_forgotten_under_that_name(tmp_path, monkeypatch):
    """Another process works on somebody who withdraws: what was a draft when the folder was listed is none any more."""
    kept, part = Staging(tmp_path, RECIPE), a_part(tmp_path)
    kept.put(part, made("a" * 64))
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda *given: [place_of(glob(*given)).with_name("a draft"), *glob(*given)])
    forget(["anna"], tmp_path)
    monkeypatch.undo()
    assert not kept.has(part)


def place_of(found):
    return next(iter(found))


def test_a_folder_of_another_recipe_goes_and_nothing_that_is_called_otherwise(tmp_path):
    for name in (".preparing-0000", ".prepared-0000", "preparing-0000"):
        (tmp_path / name).mkdir()
    Staging(tmp_path, RECIPE)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([".prepared-0000", f".preparing-{RECIPE.digest[:16]}", "preparing-0000"])
    Staging(tmp_path, RECIPE)
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_a_folder_that_cannot_be_written_begins_no_preparation(tmp_path, monkeypatch):
    (tmp_path / ".preparing-0000").mkdir()

    def fails(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", fails)
    with pytest.raises(UsageError, match=r"cannot write to .*: Permission denied"):
        Staging(tmp_path, RECIPE)
    assert [path.name for path in tmp_path.iterdir()] == [".preparing-0000"]


@pytest.mark.parametrize("change", ["size", "time", "name", "gone", "order"])
def test_a_result_is_of_the_very_images_of_which_it_was_made(tmp_path, change):
    kept, part = Staging(tmp_path, RECIPE), a_part(tmp_path)
    kept.put(part, made("a" * 64))
    first = part.paths[0]
    about = first.stat()
    if change == "size":
        first.write_bytes(b"another picture")
        os.utime(first, ns=(about.st_atime_ns, about.st_mtime_ns))
    elif change == "time":
        os.utime(first, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    elif change == "gone":
        part.paths[1].unlink()
    else:
        renamed = first.rename(first.with_name("9.png")) if change == "name" else first
        part = replace(part, paths=(part.paths[1], first) if change == "order" else (renamed, part.paths[1]))
    assert kept.get(part) is None
    assert not kept.has(part)
