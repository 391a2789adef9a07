"""A preparation from end to end, of pictures that are numbers: its order, what it says, what a refusal leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.faces.degradation import Condition
from client.node import preparing
from client.node.preparing import prepare
from client.preparing import parts
from client.preparing.crew import Crew
from client.preparing.parts import Recipe
from client.preparing.people import prepared_people, withdraw
from client.preparing.staging import Staging
from federation.errors import UnavailableError, UsageError
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE
from tests.client.preparing.test_joining import Numbers, digest_of, pictures
from tests.durable import files, is_locked


@pytest.fixture
def loaded(monkeypatch):
    """What was loaded, and with what; two pictures in a part."""
    monkeypatch.setattr(parts, "IMAGES_IN_A_PART", 2)
    asked, work = [], Numbers()
    recogniser = SimpleNamespace(digest=work.digest, profile=work.profile, embed=work.embed)
    finder = SimpleNamespace(version=work.version, chip=work.chip)
    monkeypatch.setattr(
        preparing, "load_recogniser", lambda *given, **named: asked.append((given, named)) or recogniser
    )
    monkeypatch.setattr(preparing, "aligner_for", lambda recogniser: asked.append(recogniser) or finder)
    monkeypatch.setattr(preparing, "recogniser_files", lambda recogniser: asked.append(recogniser) or {"weights": b"w"})
    return SimpleNamespace(asked=asked, work=work, recogniser=recogniser, finder=finder)


@pytest.fixture
def folder(tmp_path):
    return an_organisation(tmp_path / "north")


def an_organisation(folder, recipes='["moments", "threshold"]'):
    folder.mkdir()
    (folder / "policy.toml").write_text(
        "max-epsilon = 8.0\nbudget-epsilon = 8.0\ndelta = 1e-5\nmin-colluders = 1\n"
        f'recipes = {recipes}\napp-hashes = ["{"ab" * 32}"]\nhours = "00:00-00:00"\n'
    )
    return folder


def put(place, people):
    """Pictures in people's folders, and in those of their cameras where there are two."""
    for person, cameras in people.items():
        for camera, images in (cameras if isinstance(cameras, dict) else {"": cameras}).items():
            (place / person / camera).mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(images):
                (place / person / camera / f"{number}.pgm").write_bytes(image)
    return place


def rows_in(folder, name="embeddings.npz"):
    rows = EmbeddingSet.from_bytes((folder / name).read_bytes())
    return list(zip(rows.people.tolist(), rows.profiles.tolist(), rows.images.tolist(), strict=True))


def rows_of(person, numbers, sides=(REFERENCE, PROBE)):
    return [(person, side, digest_of(image)) for side in sides for image in pictures(*numbers)]


def test_a_preparation_counts_everything_in_its_own_place(tmp_path, folder, loaded):
    images = {"anna": pictures(1, 2, 3), "ben": [*pictures(4), b"dark"], "cleo": [b"dark"], "dora": pictures(7)}
    withdraw("dora", folder)
    seen = []
    done = prepare(
        put(tmp_path / "faces", images),
        folder,
        condition=Condition.MASK,
        model=tmp_path / "own",
        progress=lambda *n: seen.append(n),
    )
    assert dataclasses.replace(done, problems=()) == preparing.Preparation(
        people=2, prepared=2, images=4, looked=6, resumed=0, withdrawn=1, chips=False, problems=()
    )
    assert [(str(p.path.relative_to(tmp_path / "faces")), p.problem) for p in done.problems] == [
        ("ben/1.pgm", "it is too dark"),
        ("cleo/0.pgm", "it is too dark"),
        ("cleo", "no usable reference image of this person"),
    ]
    assert seen == [(0, 6), (2, 6), (3, 6), (5, 6), (6, 6)]
    assert rows_in(folder) == rows_of("anna", (1, 2, 3)) + rows_of("ben", (4,))
    assert sorted(rows_in(folder, "active.npz")) == sorted(rows_in(folder))
    made = prepared_people(folder)
    assert (made.made_with, made.model, made.chips) == ({"recogniser": "ab" * 32, "probe": "mask"}, {}, None)
    assert loaded.asked == [((tmp_path / "own",), {"one_thread": True}), loaded.recogniser]
    assert {image for image, _ in (each for each in loaded.work.asked if isinstance(each, tuple))}.isdisjoint(
        pictures(7)
    )
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".preparing-")) == []


def test_two_cameras_need_both_of_each_person_and_no_imitation(tmp_path, folder, loaded):
    both = {REFERENCE: pictures(1), PROBE: pictures(2, 3)}
    images = put(tmp_path / "faces", {"anna": both, "ben": {REFERENCE: pictures(4)}, "cleo": {PROBE: pictures(5)}})
    (images / "loose.pgm").write_bytes(b"outside of both cameras")
    done = prepare(images, folder)
    assert rows_in(folder) == rows_of("anna", (1,), (REFERENCE,)) + rows_of("anna", (2, 3), (PROBE,))
    assert sorted(str(p.path.relative_to(images)) for p in done.problems) == [
        "ben/probe",
        "cleo/reference",
        "loose.pgm",  # once, though it is in neither camera's folder
    ]
    assert (done.people, done.images, done.looked) == (1, 3, 3)
    assert prepared_people(folder).made_with == {"recogniser": "ab" * 32, "probe": "two cameras"}
    assert {camera for _, camera in (each for each in loaded.work.asked if isinstance(each, tuple))} == {
        REFERENCE,
        PROBE,
    }


def test_chips_and_weights_are_kept_where_the_policy_lists_the_recipe(tmp_path, loaded):
    folder = an_organisation(tmp_path / "south", '["moments", "scales", "threshold"]')
    done = prepare(put(tmp_path / "faces", {"anna": pictures(1, 2)}), folder, condition=Condition.MASK)
    made = prepared_people(folder)
    assert (done.chips, made.model) == (True, {"weights": b"w"})
    assert [len(chips) for chips in made.chips] == [2]
    assert loaded.asked[1] is loaded.recogniser


@pytest.mark.parametrize("fails", ["somebody else's model", "another way", "nobody"])
def test_a_preparation_that_is_refused_leaves_everything_as_it_was(tmp_path, loaded, monkeypatch, fails):
    folder = an_organisation(tmp_path / "south", '["moments", "scales", "threshold"]')
    prepare(put(tmp_path / "faces", {"anna": pictures(1, 2)}), folder, condition=Condition.MASK)
    before, looked = files(folder), len(loaded.work.asked)
    new = put(tmp_path / "new", {"ben": [b"dark"] if fails == "nobody" else pictures(3)})
    if fails == "somebody else's model":
        monkeypatch.setattr(preparing, "recogniser_files", lambda _: {})
    condition = Condition.RES16 if fails == "another way" else Condition.MASK
    said = {
        "somebody else's model": "leave the model of your own out, or take scales out of policy.toml",
        "another way": "1 people without images here were prepared for another recogniser or probe",
        "nobody": r"nobody is left to take part: .*ben/0\.pgm: it is too dark",
    }[fails]
    with pytest.raises(UsageError, match=said):
        prepare(new, folder, condition=condition, only=fails == "nobody")
    assert files(folder) == before
    assert (len(loaded.work.asked) > looked) is (fails == "nobody")


def test_who_stays_comes_after_those_who_are_new_and_who_withdrew_is_neither(tmp_path, folder, loaded):
    first = put(tmp_path / "first", {"anna": pictures(1), "ben": pictures(2), "cleo": pictures(3)})
    prepare(first, folder, condition=Condition.MASK)
    (folder / "withdrawn").write_text(f"{digest_of(b'cleo')}\n")
    second = put(tmp_path / "second", {"ben": [*pictures(5), *pictures(1)], "dora": pictures(6)})
    done = prepare(second, folder, condition=Condition.MASK)
    assert rows_in(folder) == rows_of("ben", (5,)) + rows_of("dora", (6,)) + rows_of("anna", (1,))
    assert (done.people, done.prepared, done.images, done.withdrawn) == (3, 2, 2, 0)
    assert [problem.problem for problem in done.problems] == ["the same image as one of another person"]
    assert loaded.asked


def test_whose_new_images_are_all_unusable_stays_as_they_were(tmp_path, folder, loaded):
    prepare(put(tmp_path / "first", {"anna": pictures(1)}), folder, condition=Condition.MASK)
    done = prepare(put(tmp_path / "second", {"anna": [b"dark"]}), folder, condition=Condition.MASK)
    assert rows_in(folder) == rows_of("anna", (1,))
    assert (done.people, done.prepared, done.images) == (1, 0, 0)
    assert loaded.asked


class Dying(Crew):
    """A crew that dies after so many parts, and says which it was asked for."""

    asked, after = (), 2

    def finished(self, parts, recipe, here):
        given = list(parts)
        type(self).asked = [(part.person, part.number) for part in given]
        for number, done in enumerate(super().finished(iter(given), recipe, here)):
            if number == self.after:
                raise UnavailableError("it died")
            yield done


def test_a_preparation_that_died_goes_on_with_the_parts_that_are_missing(tmp_path, folder, loaded):
    images = put(tmp_path / "faces", {"anna": pictures(1, 2, 3), "ben": pictures(4, 5, 6)})
    before = files(folder)
    with pytest.raises(UnavailableError, match="it died"):
        prepare(images, folder, condition=Condition.MASK, crew=Dying(), aligner=loaded.finder)
    assert Dying.asked == [("anna", 0), ("anna", 1), ("ben", 0), ("ben", 1)]
    assert {name: data for name, data in files(folder).items() if not name.startswith(".preparing-")} == before
    seen = []
    Dying.after = 9
    try:
        done = prepare(
            images,
            folder,
            condition=Condition.MASK,
            crew=Dying(),
            aligner=loaded.finder,
            progress=lambda *n: seen.append(n),
        )
    finally:
        Dying.after = 2
    assert Dying.asked == [("ben", 0), ("ben", 1)]
    assert (seen, done.looked, done.resumed, done.images) == ([(3, 6), (5, 6), (6, 6)], 6, 3, 6)


@pytest.mark.parametrize(("processes", "used"), [(3, 1), (2, 2)])
def test_processes_are_begun_only_for_more_parts_than_there_are_of_them(tmp_path, monkeypatch, processes, used):
    """They take longer to start."""
    monkeypatch.setattr(parts, "IMAGES_IN_A_PART", 1)
    crews = []
    monkeypatch.setattr(Crew, "finished", lambda self, parts, *_: crews.append((self.processes, len(parts))) or [])
    recipe = Recipe("ab" * 32, "v", None, 0, None)
    given = list(parts.parts_of("anna", REFERENCE, [Path(name) for name in "abc"]))
    (tmp_path / "north").mkdir()
    preparing._make_parts(
        given, recipe, Staging(tmp_path / "north", recipe), Crew(processes), SimpleNamespace(), lambda *_: None
    )
    assert crews == [(used, 3)]


def test_who_withdraws_during_the_work_is_neither_joined_nor_counted_and_others_wait_for_the_folder(
    tmp_path, folder, loaded, monkeypatch
):
    images = put(tmp_path / "faces", {"anna": pictures(1), "ben": pictures(2)})
    held = []
    publish = preparing.publish
    monkeypatch.setattr(preparing, "publish", lambda *given: held.append(is_locked(folder)) or publish(*given))
    done = prepare(
        images, folder, condition=Condition.MASK,
        progress=lambda count, total: withdraw("ben", folder) if count == total else None,
    )  # fmt: skip
    assert rows_in(folder) == rows_of("anna", (1,))
    assert (done.people, done.prepared, done.withdrawn, held) == (1, 1, 1, [True])
    assert loaded.asked


def test_what_an_unfinished_preparation_has_of_somebody_who_withdrew_is_gone_before_the_work(tmp_path, folder, loaded):
    """The crash came between their mark and the rest of the withdrawal."""
    images = put(tmp_path / "faces", {"anna": pictures(1), "ben": pictures(2)})
    with pytest.raises(UnavailableError, match="it died"):
        prepare(
            images, folder, condition=Condition.MASK, crew=Dying(), aligner=loaded.finder, progress=dying_at_the_end
        )
    assert len(list(folder.glob(".preparing-*/*"))) == 2
    (folder / "withdrawn").write_text(f"{digest_of(b'ben')}\n")
    seen = []
    prepare(images, folder, condition=Condition.MASK, progress=lambda *_: seen.append(staged(folder)))
    assert seen[0] == [digest_of(b"anna")]


def dying_at_the_end(done, total):
    if done == total:
        raise UnavailableError("it died")


def staged(folder):
    return [path.name.partition("-")[0] for path in folder.glob(".preparing-*/*")]


def test_a_preparation_that_cannot_be_published_keeps_what_it_made(tmp_path, folder, loaded, monkeypatch):
    images = put(tmp_path / "faces", {"anna": pictures(1, 2, 3), "ben": pictures(4)})

    def full(*_):
        raise UsageError("the disk is full; what was there is unchanged")

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "publish", full)
        with pytest.raises(UsageError, match="the disk is full"):
            prepare(images, folder, condition=Condition.MASK)
    assert sorted(set(staged(folder))) == sorted([digest_of(b"anna"), digest_of(b"ben")])
    assert prepare(images, folder, condition=Condition.MASK).resumed == 4
    assert loaded.asked
