"""From an organisation's images to a node that takes part, and out again."""

from __future__ import annotations

import dataclasses
import datetime as dt
import errno
import json
import os
import re
import shutil
import stat
import threading
import unicodedata
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.common.config import parse_config_args
from typer.testing import CliRunner

import client.node.app
import client.preparing.people
from client.cli import app
from client.faces.degradation import Condition, degrade
from client.faces.formats import IMAGES
from client.faces.images import UnusableImageError
from client.faces.models import MOBILEFACENET, load_recogniser, recogniser_files
from client.node.joining import join, policy_of, trust_roster
from client.node.preparing import prepare
from client.node.start import node_config, require_ready
from client.preparing.people import changing, prepared_people, publish, refresh_active, withdraw
from federation.errors import RefusedError, UsageError
from federation.learning.scales import ChipSet
from federation.privacy.plan import PrivacyPlan
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.mobilefacenet import MobileFaceNetRecogniser
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.templates import ARCFACE
from server.fleet.members import Coordinator
from tests.faces import aligner, orl_image, shipped
from tests.federated import CALLED, run, the_release, write_federation
from tests.people import synthetic_people

NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
SCALES = '["moments", "scales", "threshold"]'


class Aligner:
    """The real one, which looks at an image once in all tests."""

    version = "as it looks in tests"

    def chip(self, image, _profile):
        return chip(image)


@cache
def chip(image):
    return aligner().chip(image)


@pytest.fixture(autouse=True)
def one_recogniser(monkeypatch):
    monkeypatch.setattr(
        "client.node.preparing.load_recogniser",
        lambda model, *, one_thread=False: load_recogniser(model, one_thread=one_thread) if model else shipped(),
    )


@pytest.fixture
def folder(tmp_path):
    return an_organisation(tmp_path / "north")


def an_organisation(folder, recipes=SCALES):
    """A folder with nothing but a policy: preparing needs no more."""
    folder.mkdir()
    (folder / "policy.toml").write_text(
        f"max-epsilon = 8.0\nbudget-epsilon = 8.0\ndelta = 1e-5\nmin-colluders = 1\nrecipes = {recipes}\n"
        f'app-hashes = ["{"ab" * 32}"]\nhours = "00:00-00:00"\n'
    )
    return folder


def some_images(place, people, numbers=(1, 2), camera=""):
    """Real faces: person n of the ORL set under a name."""
    for person, name in people.items():
        for number in numbers:
            path = place / name / camera / f"{number}.pgm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(orl_image(person, number))
    return place


def prepared(images, folder, **options):
    return prepare(images, folder, **{"condition": Condition.MASK, **options})


def embeddings_in(folder, name="embeddings.npz"):
    return EmbeddingSet.from_bytes((folder / name).read_bytes())


def chips_in(folder):
    return ChipSet.from_bytes((folder / "chips.npz").read_bytes())


def names_in(folder):
    """Who is in each of the three files."""
    return tuple(
        sorted(set(images.people.tolist()))
        for images in (embeddings_in(folder), chips_in(folder), embeddings_in(folder, "active.npz"))
    )


# ------------------------------------------------------------------------------------------------------ what is made
def test_images_become_embeddings_chips_and_a_model_that_belong_together(tmp_path, folder):
    done = prepared(some_images(tmp_path / "images", {2: "anna", 3: "ben"}), folder)
    assert (done.people, done.prepared, done.images, done.withdrawn, done.problems) == (2, 2, 4, 0, ())
    embeddings, chips = embeddings_in(folder), chips_in(folder)
    expected = np.stack([chip(orl_image(person, number)) for person in (2, 3) for number in (1, 2)])
    assert np.array_equal(chips.reference, expected)
    assert np.array_equal(chips.probe, degrade(expected, Condition.MASK, ARCFACE))
    assert chips.people.tolist() == ["anna", "anna", "ben", "ben"]
    for profile, side in ((REFERENCE, chips.reference), (PROBE, chips.probe)):
        mine = embeddings.select(embeddings.profiles == profile)
        assert np.abs(mine.embeddings - shipped().embed(side)).max() < 1e-5
        assert mine.images.tolist() == chips.images.tolist()
    assert load_recogniser(folder / "model").digest == shipped().digest
    assert names_in(folder) == (["anna", "ben"],) * 3


def test_nothing_that_is_made_can_be_read_by_others(tmp_path, folder):
    umask = os.umask(0)
    try:
        prepared(some_images(tmp_path / "images", {2: "anna"}), folder)
    finally:
        os.umask(umask)
    made = (folder / "prepared").resolve()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (made, *made.rglob("*"))}
    assert modes == {0o700, 0o600}


class Strict(Aligner):
    """A gate that lets no first image through as a reference; it records what each image is to serve as."""

    def __init__(self):
        self.asked = []

    def chip(self, image, profile):
        self.asked.append(profile)
        if profile == REFERENCE and image in (orl_image(2, 1), orl_image(3, 1)):
            raise UnusableImageError("only 17 pixels lie between the eyes", "come closer")
        return super().chip(image, profile)


def test_a_poor_reference_is_left_out_by_its_file_and_the_same_image_is_good_enough_for_a_probe(tmp_path, folder):
    images = some_images(tmp_path / "images", {2: "anna", 3: "ben"}, camera="reference")
    some_images(images, {2: "anna", 3: "ben"}, camera="probe")
    done = prepared(images, folder, condition=None, aligner=Strict())
    assert sorted(map(str, done.problems)) == [
        f"{images / name / 'reference' / '1.pgm'}: only 17 pixels lie between the eyes; come closer"
        for name in ("anna", "ben")
    ]
    rows = embeddings_in(folder)
    used = {(str(p), str(c)) for p, c in zip(rows.people, rows.profiles, strict=True)}
    assert used == {(name, camera) for name in ("anna", "ben") for camera in (REFERENCE, PROBE)}
    assert np.count_nonzero(rows.profiles == REFERENCE) == 2
    assert np.count_nonzero(rows.profiles == PROBE) == 4


def test_an_image_that_imitates_the_probe_too_must_be_a_good_reference(tmp_path, folder):
    strict = Strict()
    done = prepared(some_images(tmp_path / "images", {2: "anna", 3: "ben"}), folder, aligner=strict)
    assert set(strict.asked) == {REFERENCE}
    assert (done.people, done.images, len(done.problems)) == (2, 2, 2)


def test_two_cameras_are_paired_and_every_image_is_in_a_pair(tmp_path, folder):
    images = some_images(tmp_path / "images", {2: "anna"}, (1, 2), "reference")
    some_images(images, {2: "anna"}, (3, 4, 5), "probe")
    some_images(images, {3: "ben"}, (1,), "reference")
    done = prepared(images, folder, condition=None)
    assert [str(problem).partition(": ")[2] for problem in done.problems] == [
        f"no images; add {IMAGES} files, or remove the folder"
    ]
    assert done.problems[0].path == images / "ben" / "probe"
    chips, embeddings = chips_in(folder), embeddings_in(folder)
    reference, probe = ([chip(orl_image(2, number)) for number in numbers] for numbers in ((1, 2, 1), (3, 4, 5)))
    assert np.array_equal(chips.reference, np.stack(reference))
    assert np.array_equal(chips.probe, np.stack(probe))
    assert embeddings.profiles.tolist() == [REFERENCE] * 2 + [PROBE] * 3
    assert done.images == 5


def test_no_more_of_a_person_lies_where_questions_read_it_than_takes_part(tmp_path, folder, monkeypatch):
    """Reading comes before every answer: a thousand pictures of somebody would make it half a second longer."""
    monkeypatch.setattr("client.preparing.people.MOST_IMAGES", 3)
    monkeypatch.setattr("client.preparing.people.MOST_PAIRS", 2)
    images = some_images(some_images(tmp_path / "images", {2: "anna"}, (1, 2, 3, 4, 5)), {3: "ben"}, (1,))
    assert prepared(images, folder).images == 6
    active = embeddings_in(folder, "active.npz")
    everything, chips = embeddings_in(folder), chips_in(folder)
    for person, most, pairs in (("anna", 3, 2), ("ben", 1, 1)):
        for profile in (REFERENCE, PROBE):
            of_each = [e.select((e.people == person) & (e.profiles == profile)) for e in (active, everything)]
            assert of_each[0].images.tolist() == of_each[1].images.tolist()[:most]
        assert np.array_equal(
            chips.of_people([person]).reference,
            np.stack([chip(orl_image(2 + (person == "ben"), n + 1)) for n in range(pairs)]),
        )
    assert len(everything) == 12  # more may take part one day


def test_without_the_recipe_in_the_policy_no_picture_of_a_face_is_kept(tmp_path):
    folder = an_organisation(tmp_path / "north", '["moments", "threshold"]')
    assert not prepared(some_images(tmp_path / "images", {2: "anna"}), folder).chips
    assert {path.name for path in (folder / "prepared").resolve().rglob("*")} == {
        "embeddings.npz",
        "made-with.json",
        "model",
    }
    assert not (folder / "chips.npz").exists()
    assert require_ready_without_roster(folder) == ["anna"]


def require_ready_without_roster(folder):
    (folder / "roster").touch()
    require_ready(folder)
    return sorted(set(embeddings_in(folder, "active.npz").people.tolist()))


def test_images_that_cannot_be_used_are_listed_by_path_and_the_rest_goes_on(tmp_path, folder):
    images = some_images(tmp_path / "images", {2: "anna", 3: "ben"})
    (images / "anna" / "broken.jpg").write_bytes(b"junk")
    shutil.copy(images / "anna" / "1.pgm", images / "ben" / "stray.pgm")
    (images / "carla").mkdir()
    (images / "carla" / "only.png").write_bytes(b"junk")
    done = prepared(images, folder)
    assert {str(problem.path.relative_to(images)): problem.problem for problem in done.problems} == {
        "anna/broken.jpg": f"not a {IMAGES} image",
        "ben/stray.pgm": "the same image as one of another person",
        "carla/only.png": f"not a {IMAGES} image",
        "carla": "no usable reference image of this person",
    }
    assert names_in(folder) == (["anna", "ben"],) * 3
    assert done.images == 4


def test_when_nothing_can_be_prepared_nothing_changes_and_it_says_why(tmp_path, folder):
    prepared(some_images(tmp_path / "images", {2: "anna"}), folder)
    (tmp_path / "junk" / "ben").mkdir(parents=True)
    (tmp_path / "junk" / "ben" / "1.png").write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"nobody is left to take part: .*1\.png: not a JPEG"):
        prepared(tmp_path / "junk", folder, only=True)
    with pytest.raises(UsageError, match="imitate the probe camera with --condition"):
        prepared(tmp_path / "images", folder, condition=None)
    assert names_in(folder) == (["anna"],) * 3


# -------------------------------------------------------------------------------------------------------- once again
def test_people_are_added_and_replaced_and_taken_out_only_when_asked(tmp_path, folder):
    prepared(some_images(tmp_path / "first", {2: "anna", 3: "ben"}), folder)
    again = some_images(tmp_path / "second", {4: "carla"})
    some_images(again, {2: "anna"}, (5,))
    done = prepared(again, folder)
    assert (done.people, done.prepared, done.images) == (3, 2, 2 + 1)
    assert names_in(folder) == (["anna", "ben", "carla"],) * 3
    chips = chips_in(folder)
    assert np.array_equal(chips.reference[chips.people == "anna"], [chip(orl_image(2, 5))])
    assert np.array_equal(
        embeddings_in(folder).of_people(["carla"]).embeddings[:2],
        shipped().embed(chips.reference[chips.people == "carla"]),
    )
    assert len(list(folder.glob(".prepared-*"))) == 1
    for kind, name in ((EmbeddingSet, "embeddings.npz"), (EmbeddingSet, "active.npz"), (ChipSet, "chips.npz")):
        data = (folder / name).read_bytes()
        assert kind.from_bytes(data).to_bytes() == data  # streamed, and the bytes are those of the whole
    prepared(again, folder, only=True)
    assert names_in(folder) == (["anna", "carla"],) * 3


def test_an_image_of_somebody_who_stays_is_no_image_of_somebody_new(tmp_path, folder):
    prepared(some_images(tmp_path / "first", {2: "anna"}), folder)
    done = prepared(some_images(tmp_path / "second", {2: "ben"}, (1, 3)), folder)
    assert [problem.path.name for problem in done.problems] == ["1.pgm"]
    assert done.images == 1


def test_people_prepared_in_another_way_are_never_mixed(tmp_path, folder, monkeypatch):
    first = some_images(tmp_path / "first", {2: "anna", 3: "ben"})
    prepared(first, folder)
    new = some_images(tmp_path / "second", {4: "carla"})
    said = "2 people without images here were prepared for another recogniser or probe"
    with monkeypatch.context() as patched:
        patched.delattr("client.preparing.parts.Workshop.make")  # before hours of work
        with pytest.raises(UsageError, match=said):
            prepared(new, folder, condition=Condition.RES16)
    assert not list(folder.glob(".preparing-*"))
    assert names_in(folder) == (["anna", "ben"],) * 3
    prepared(first, folder, condition=Condition.RES16)  # everybody's images are there
    prepared(new, folder, condition=Condition.MASK, only=True)
    assert names_in(folder) == (["carla"],) * 3


def test_chips_are_kept_and_deleted_as_the_policy_changes(tmp_path):
    folder = an_organisation(tmp_path / "north", '["moments", "threshold"]')
    images = some_images(tmp_path / "images", {2: "anna"})
    prepared(images, folder)
    policy = (folder / "policy.toml").read_text()
    (folder / "policy.toml").write_text(policy.replace('["moments", "threshold"]', SCALES))
    (folder / "roster").touch()
    with pytest.raises(UsageError, match=r"chips\.npz is missing .* `intaglio node prepare` again"):
        require_ready(folder)
    with pytest.raises(UsageError, match="without chips"):
        prepared(some_images(tmp_path / "second", {4: "carla"}), folder)
    prepared(images, folder)
    require_ready(folder)
    (folder / "policy.toml").write_text(policy)
    prepared(images, folder)
    assert not (folder / "chips.npz").exists()


def test_a_node_that_agreed_to_scales_does_not_start_while_somebody_has_no_chips(tmp_path, folder):
    prepared(some_images(tmp_path / "images", {2: "anna", 3: "ben"}), folder)
    (folder / "roster").touch()
    require_ready(folder)
    chips = chips_in(folder).of_people(["anna"])
    (folder / "chips.npz").unlink()
    (folder / "chips.npz").write_bytes(chips.to_bytes())
    with pytest.raises(UsageError, match="somebody has no chips"):
        require_ready(folder)


def test_embeddings_made_by_other_means_are_not_overwritten(tmp_path, folder):
    (folder / "embeddings.npz").write_bytes(b"somebody's work")
    for only in (False, True):
        with pytest.raises(UsageError, match="made by other means and is not overwritten"):
            prepared(some_images(tmp_path / "images", {2: "anna"}), folder, only=only)
    assert (folder / "embeddings.npz").read_bytes() == b"somebody's work"


def test_people_are_prepared_with_the_recogniser_that_is_named(tmp_path):
    folder = an_organisation(tmp_path / "south", recipes='["moments", "threshold"]')
    images = some_images(tmp_path / "images", {2: "anna", 3: "ben"})
    named = tmp_path / "named"
    named.mkdir()
    other = MobileFaceNetRecogniser(MOBILEFACENET.read_bytes(), dataclasses.replace(shipped().profile, name="another"))
    for name, data in recogniser_files(other).items():
        (named / name).write_bytes(data)
    assert prepared(images, folder, model=named).people == 2
    assert prepared_people(folder).made_with["recogniser"] == other.digest != shipped().digest
    embeddings = embeddings_in(folder)
    assert (embeddings.dimension, len(embeddings)) == (192, 8)
    clean = embeddings.select(embeddings.profiles == REFERENCE)
    cosines = clean.embeddings @ clean.embeddings.T
    same = clean.people[:, None] == clean.people
    assert cosines[same].min() > 0.6 > cosines[~same].max()


def test_a_model_of_ones_own_cannot_be_prepared_for_the_recipe_scales(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("client.node.preparing.load_recogniser", lambda _model, **_: SimpleNamespace(digest="ab" * 32))
    with pytest.raises(UsageError, match="the policy lists the recipe scales"):
        prepared(some_images(tmp_path / "images", {2: "anna"}), folder, model=tmp_path / "own.onnx")
    assert sorted(path.name for path in folder.iterdir()) == ["policy.toml"]


# -------------------------------------------------------------------------------------------------------- withdrawing
def test_who_withdraws_is_deleted_and_never_comes_back(tmp_path, folder):
    images = some_images(tmp_path / "images", {2: "anna", 3: "ben"})
    prepared(images, folder)
    assert withdraw("ben", folder) == 4
    assert names_in(folder) == (["anna"],) * 3
    assert len(list(folder.glob(".prepared-*"))) == 1
    opened = []

    class Watching(Aligner):
        def chip(self, image, profile):
            opened.append(image)
            return super().chip(image, profile)

    done = prepared(images, folder, aligner=Watching())
    assert (done.people, done.withdrawn) == (1, 1)
    assert set(opened) == {orl_image(2, 1), orl_image(2, 2)}
    assert names_in(folder) == (["anna"],) * 3
    with pytest.raises(RefusedError, match="nobody"):
        withdraw("anna", folder)
    assert not len(chips_in(folder))
    assert not (folder / "active.npz").exists()


def test_who_withdraws_is_read_by_no_node_that_runs_though_the_embeddings_were_moved_away(tmp_path, folder):
    prepared(some_images(tmp_path / "images", {2: "anna", 3: "ben"}), folder)
    (folder / "embeddings.npz").rename(folder / "away.npz")
    assert (folder / "active.npz").exists()
    assert withdraw("ben", folder) == 0
    assert not (folder / "active.npz").exists()
    (folder / "away.npz").rename(folder / "embeddings.npz")
    refresh_active(folder)  # as the node does when it starts
    assert names_in(folder)[-1] == ["anna"]


def test_who_withdraws_while_images_are_prepared_stays_out(tmp_path, folder):
    images = some_images(tmp_path / "images", {2: "anna", 3: "ben"})
    staged = []

    def withdrawing(count, total):
        staged.append(len(list(folder.glob(".preparing-*/*"))))
        if count == total:
            withdraw("ben", folder)
            staged.append(len(list(folder.glob(".preparing-*/*"))))

    done = prepared(images, folder, progress=withdrawing)
    assert (done.people, done.withdrawn) == (1, 1)
    assert names_in(folder) == (["anna"],) * 3
    assert staged[-1] == staged[-2] // 2 > 0  # what the unfinished preparation had of him is gone at once


def test_who_withdrew_just_before_a_crash_goes_with_the_next_change(tmp_path, folder, monkeypatch):
    prepared(some_images(tmp_path / "images", {2: "anna", 3: "ben"}), folder)
    with monkeypatch.context() as crash:
        crash.setattr("client.preparing.people.publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError, match="division by zero"):
            withdraw("ben", folder)
    refresh_active(folder)  # as the node does when it starts
    assert names_in(folder) == (["anna", "ben"], ["anna", "ben"], ["anna"])
    prepared(some_images(tmp_path / "second", {4: "carla"}), folder)
    assert names_in(folder) == (["anna", "carla"],) * 3


def test_a_node_that_starts_waits_for_a_withdrawal_to_be_done(tmp_path, folder):
    prepared(some_images(tmp_path / "images", {2: "anna", 3: "ben"}), folder)
    (folder / "roster").touch()
    (folder / "active.npz").unlink()
    starting = threading.Thread(target=lambda: require_ready(folder))
    with changing(folder):
        starting.start()
        starting.join(0.3)
        assert starting.is_alive()
        assert not (folder / "active.npz").exists()
    starting.join()
    assert (folder / "active.npz").exists()


def test_one_name_typed_on_two_systems_is_one_person(tmp_path, folder):
    name = "zoë"
    decomposed, as_composed = (unicodedata.normalize(form, name) for form in ("NFD", "NFC"))
    assert decomposed != as_composed
    prepared(some_images(tmp_path / "images", {2: decomposed, 3: "ben"}), folder)
    assert withdraw(decomposed, folder) == 4
    assert names_in(folder) == (["ben"],) * 3
    assert prepared(some_images(tmp_path / "again", {2: as_composed, 3: "ben"}), folder).withdrawn == 1


# ------------------------------------------------------------------------------------------------------------ crashes
def test_a_disk_that_fills_up_is_left_as_it_was(tmp_path, folder, monkeypatch):
    prepared(some_images(tmp_path / "images", {2: "anna"}), folder)
    before = sorted(path.name for path in folder.iterdir())
    with monkeypatch.context() as full:
        failure = OSError(errno.ENOSPC, "No space left on device")
        full.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(failure))
        with pytest.raises(UsageError, match="No space left on device; what was there is unchanged"):
            prepared(some_images(tmp_path / "second", {3: "ben"}), folder)
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".preparing-")) == before
    assert names_in(folder) == (["anna"],) * 3


class Killed(BaseException):
    """As if the machine stopped."""


def test_a_crash_at_any_write_leaves_all_of_the_old_files_or_all_of_the_new(tmp_path, monkeypatch):
    new = an_organisation(tmp_path / "new")
    prepared(some_images(tmp_path / "images", {2: "anna", 3: "ben"}), new)
    both = dataclasses.replace(client.preparing.people.prepared_people(new), model={"weights": b"small ones"})
    seen = set()
    for before in (None, {"anna"}):
        for last in range(100):
            folder = an_organisation(tmp_path / f"{before} {last}")
            if before:
                put(both.of_people(before), folder)
            with monkeypatch.context() as crash:
                die_after(last, crash)
                try:
                    put(both, folder)
                    break
                except Killed:
                    pass
            files = [folder / name for name in ("embeddings.npz", "chips.npz", "model")]
            there = {path.exists() for path in files}
            assert len(there) == 1
            if there == {True}:
                (inside,) = {tuple(sorted(set(images.people))) for images in (embeddings_in(folder), chips_in(folder))}
                assert (folder / "model" / "weights").read_bytes() == b"small ones"
            seen.add((before and "anna", inside if there == {True} else None))
            put(both, folder)  # goes on, and clears up
            assert len(list(folder.glob(".prepared-*"))) == 1
        else:
            pytest.fail("it never came to its end")
    assert seen == {
        (None, None),
        (None, ("anna", "ben")),
        ("anna", ("anna",)),
        ("anna", ("anna", "ben")),
    }


def test_what_goes_wrong_while_people_come_in_leaves_everything_as_it_was(tmp_path, folder):
    prepared(some_images(tmp_path / "images", {2: "anna", 3: "ben"}), folder)
    now = prepared_people(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def coming():
        yield from now.blocks()
        raise UsageError("an image changed")

    with pytest.raises(UsageError, match="an image changed"):
        publish(coming(), now.made_with, now.model, folder)
    chips = (folder / "chips.npz").read_bytes()
    (folder / "chips.npz").resolve().write_bytes(chips[:5000] + bytes([chips[5000] ^ 1]) + chips[5001:])
    with pytest.raises(UsageError, match=r"chips\.npz is no archive that this version reads; prepare the images again"):
        put(now, folder)
    (folder / "chips.npz").resolve().write_bytes(chips)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def put(prepared, folder):
    publish(prepared.blocks(), prepared.made_with, prepared.model, folder)


def die_after(last, crash):
    """Lets so many durable steps happen, and none after them: clearing up neither."""
    left = [last]

    def around(function):
        def call(*arguments, **named):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return function(*arguments, **named)

        return call

    for owner, name in ((os, "fsync"), (os, "rename"), (Path, "replace"), (Path, "symlink_to"), (Path, "mkdir")):
        crash.setattr(owner, name, around(getattr(owner, name)))
    unlink = Path.unlink
    crash.setattr(Path, "unlink", lambda path, **named: unlink(path, **named) if left[0] else None)
    crash.setattr(shutil, "rmtree", around(shutil.rmtree))


# ----------------------------------------------------------------------------------------------------------- the node
@pytest.mark.slow
def test_nodes_made_by_the_commands_take_part_in_a_run_that_tunes_the_scales(tmp_path, monkeypatch):
    """Noise is left out, and the plan says so: with it, so few people would tune nothing."""
    monkeypatch.setattr(client.node.app, "discrete_noise", lambda size, _std: np.zeros(size, dtype=np.int64))
    monkeypatch.setattr(PrivacyPlan, "noise_with", lambda *_: 1e-9)
    coordinator = Coordinator.create(tmp_path / "coordinator", address="127.0.0.1:8443", now=NOW)
    called = CALLED[:2]
    for name in called:
        _, text = coordinator.invite(name, now=int(NOW.timestamp()))
        join(text, tmp_path / name, now=int(NOW.timestamp()))
        coordinator.approve((tmp_path / name / "request.json").read_bytes(), lambda *_: 7, now=int(NOW.timestamp()))
        policy = (tmp_path / name / "policy.toml").read_text()
        policy = policy.replace('recipes = ["moments", "threshold"]', f"recipes = {SCALES}")
        (tmp_path / name / "policy.toml").write_text(policy.replace("app-hashes = []", f'app-hashes = ["{"ab" * 32}"]'))
    configs, people = {}, 0
    for index, name in enumerate(called):
        folder = tmp_path / name
        trust_roster(coordinator.roster(), folder)
        images = some_images(tmp_path / f"images of {name}", {2 * index + n: f"{name} {n}" for n in (1, 2)}, (1,))
        done = CliRunner().invoke(app, ["node", "prepare", str(images), str(folder), "--condition", "mask"])
        assert done.exit_code == 0, done.stderr
        people += 2
        configs[index] = parse_config_args([node_config(folder, require_ready(folder))])
    withdrawn = CliRunner().invoke(app, ["node", "withdraw", "north 1", str(tmp_path / "north")])
    assert withdrawn.stdout == "2 embeddings take no part any more\n"
    (tmp_path / "run").mkdir()
    config = write_federation(tmp_path / "run")
    (tmp_path / "run" / "roster").write_text(coordinator.roster())
    config |= {"recipe": "scales", "steps": 1, "profile": "", "num-organisations": 2, "people": people - 1}
    run({**config, "round-deadline-seconds": 60.0}, nodes=2, node_configs=configs)
    assert the_release(config).adaptation == "scales"
    assert the_release(config).adapter.scales[PROBE].any()
    assert the_release(config).privacy.people_train == people - 1


# ------------------------------------------------------------------------------------------------------- the commands
def test_the_command_says_what_it_did_and_names_nobody_who_withdrew(tmp_path, folder):
    images = some_images(tmp_path / "images", {2: "anna", 3: "ben"})
    (images / "anna" / "broken.jpg").write_bytes(b"junk")
    nobody = CliRunner().invoke(app, ["node", "withdraw", "ben", str(folder)])
    assert nobody.stdout == "nobody of that name takes part; the name is marked, and will not take part later either\n"
    done = CliRunner().invoke(app, ["node", "prepare", str(images), str(folder), "--condition", "mask"])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [
        "people who take part: 1, of whom 1 come from 2 images here",
        "chips of their faces are kept for the recipe scales, as policy.toml says",
    ]
    broken, withdrew, rate = done.stderr.splitlines()
    assert broken.startswith(f"left out: {images / 'anna' / 'broken.jpg'}: not a {IMAGES} image; convert it")
    assert withdrew == "left out, because they withdrew: 1"
    assert re.fullmatch(r"looked at 3 images: [0-9.]+ a second", rate)
    again = CliRunner().invoke(app, ["node", "prepare", str(images), str(folder), "--condition", "mask", "--json"])
    facts = json.loads(again.stdout)
    assert facts | {"problems": 1} == {
        "people": 1,
        "prepared": 1,
        "images": 2,
        "looked": 3,
        "resumed": 0,
        "withdrawn": 1,
        "chips": True,
        "problems": 1,
    }


def test_preparing_before_joining_says_what_comes_first(tmp_path):
    some_images(tmp_path / "images", {2: "anna"})
    (tmp_path / "north").mkdir()
    done = CliRunner().invoke(app, ["node", "prepare", str(tmp_path / "images"), str(tmp_path / "north")])
    assert done.exit_code == 2
    assert "policy.toml" in done.stderr


def test_a_new_policy_agrees_to_no_recipe_that_keeps_pictures(tmp_path):
    coordinator = Coordinator.create(tmp_path / "coordinator", address="127.0.0.1:8443", now=NOW)
    _, text = coordinator.invite("north", now=int(NOW.timestamp()))
    join(text, tmp_path / "north", now=int(NOW.timestamp()))
    assert "scales" not in policy_of(tmp_path / "north").recipes
    assert SCALES in (tmp_path / "north" / "policy.toml").read_text()


# -------------------------------------------------------------------------- what a question may not complain about
def ready(folder):
    (folder / "roster").write_text("ab" * 32 + "\n")
    return require_ready(folder)


def test_a_node_whose_people_lack_a_camera_does_not_start(tmp_path):
    folder = an_organisation(tmp_path / "north", '["moments", "threshold"]')
    everybody = synthetic_people(["anna", "ben"])
    kept = (everybody.people != "anna") | (everybody.profiles != PROBE)
    (folder / "embeddings.npz").write_bytes(everybody.select(kept).to_bytes())
    with pytest.raises(UsageError, match="1 of 2 people lack images of the reference or the probe camera"):
        ready(folder)
    (folder / "embeddings.npz").write_bytes(everybody.to_bytes())
    assert ready(folder).delta == 1e-5


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (None, r"cannot read .*groups\.json: No such file or directory; write"),
        ("{", "holds JSON such as"),
        ("[]", "holds JSON such as"),
        ('{"\\ud800": "x"}', "not UTF-8"),
        ('{"anna": 3}', "names a group, as text"),
        ('{"nobody": "x"}', "lists nobody"),
        ('{"anna": "x", "one image": "x"}', "fewer than two images"),
    ],
)
def test_a_node_whose_groups_say_nothing_does_not_start(tmp_path, listed, said):
    folder = an_organisation(tmp_path / "north", '["moments", "threshold", "evaluation"]')
    parts = [synthetic_people(["anna"]), synthetic_people(["one image"], images=1)]
    names = ("embeddings", "people", "profiles", "images")
    both = EmbeddingSet(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    (folder / "embeddings.npz").write_bytes(both.to_bytes())
    if listed is not None:
        (folder / "groups.json").write_text(listed)
    with pytest.raises(UsageError, match=said):
        ready(folder)
    (folder / "groups.json").write_text('{"anna": "x"}')
    assert ready(folder).recipes[-1] == "evaluation"


def test_a_damaged_row_stops_a_node_that_starts_and_changes_nobody_else_in_a_question(tmp_path):
    folder = an_organisation(tmp_path / "north", '["moments", "threshold"]')
    rows = synthetic_people(["anna", "ben"])
    damaged = rows.embeddings.copy()
    damaged[rows.people == "anna"] = np.nan
    np.savez(folder / "embeddings", embeddings=damaged, people=rows.people, profiles=rows.profiles, images=rows.images)
    with pytest.raises(UsageError, match="finite and of unit norm"):
        ready(folder)
    left = EmbeddingSet.usable_from_bytes((folder / "embeddings.npz").read_bytes())
    assert left.to_bytes() == rows.of_people(["ben"]).to_bytes()


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("said", ["NFC", "NFD"])
def test_who_withdraws_is_out_in_whichever_form_a_name_was_written(tmp_path, stored, said):
    """Also in embeddings that an organisation made by other means, with another person of nearly that name."""
    name, other = unicodedata.normalize(stored, "Zoë"), "Zoe"
    (tmp_path / "embeddings.npz").write_bytes(synthetic_people([name, other]).to_bytes())
    assert withdraw(unicodedata.normalize(said, "Zoë"), tmp_path) == 8
    assert refresh_active(tmp_path).people == {other}
    assert client.preparing.people.has_withdrawn({name, other}, tmp_path) == {name}
