"""Films as numbers before a finder that reads them: which frames are compared, how, and what is said meanwhile.

No picture is looked at, so this takes milliseconds; `tests.client.faces.test_filming` has a head before the detector.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from client.device import challenge
from client.device.pictures import Left
from client.faces.filming import Film, film
from client.faces.images import UnusableImageError
from federation.errors import UsageError
from federation.presentation.movements import Fault, Movement, Omission, challenge_of
from federation.recognition.profiles import PROBE

FILMS = json.loads((Path(__file__).parents[2] / "vectors" / "movements.json").read_text())["films"]
FAULTS = {fault.name.lower().replace("_", "-"): fault for fault in Fault}


class Written:
    """A film that was written down, and a clock that its frames move. Where there is no look, there is no face."""

    def __init__(self, name, *, height=1):
        written = FILMS[name]
        self.movements = tuple(Movement(one) for one in written["movements"])
        self.looks, self.side, self.fault = written["looks"], written["side"], written["fault"]
        self.height, self.now, self.told, self.before = height, 0, [], []

    def frames(self):
        for number in range(len(self.looks)):
            self.now = number
            yield np.full((self.height, self.side, 3), self.now, np.uint8)

    def follow(self, frame, before):
        assert frame[0, 0, 0] == self.now
        self.before.append(before)
        look = self.looks[self.now]
        if look is None:
            raise UnusableImageError("no face found", "")
        return np.array(look[1:]).reshape(6, 2)

    def clock(self):
        look = self.looks[self.now]
        return self.now / 15 if look is None else look[0]

    def film(self, wanted=2):
        return film(self.frames(), self, self.movements, wanted=wanted, tell=self.told.append, clock=self.clock)


def numbers(frames):
    return [int(frame[0, 0, 0]) for frame in frames]


@pytest.mark.parametrize("wanted", [1, 2, 9])
@pytest.mark.parametrize("name", ["a head", "a head that comes closer"])
def test_frames_from_the_front_are_compared_apart_from_each_other_and_one_of_each_movement(name, wanted):
    written = Written(name)
    taken = written.film(wanted)
    assert written.told == [None, *written.movements]
    middles, ways = numbers(taken.middles), numbers(taken.ways)
    times = [written.looks[number][0] for number in middles]
    assert middles == {"a head": [3, 17, 27], "a head that comes closer": [3, 16, 21, 26]}[name][:wanted]
    assert all(later - earlier >= 0.3 - 1e-9 for earlier, later in pairwise(times))
    assert len(ways) == len(written.movements) == len(set(ways))
    assert ways == sorted(ways)
    assert not set(ways) & set(middles)
    # Of each movement the first frame in which it was on its way, so the head has turned less than at the end
    assert ways == [7, 18, 29]


@pytest.mark.parametrize("name", [name for name, written in FILMS.items() if written["fault"]])
def test_a_film_that_is_refused_ends_at_once_and_says_why_and_what_to_do(name):
    written = Written(name)
    with pytest.raises(UnusableImageError, match=r".") as refused:
        written.film()
    problem, _, what_to_do = FAULTS[written.fault].value.partition(": ")
    assert (refused.value.problem, refused.value.what_to_do) == (problem, what_to_do)
    assert written.told[0] is None
    assert written.told[1:] == list(written.movements[: len(written.told) - 1])


def test_where_a_face_was_is_handed_on_and_forgotten_where_it_is_lost():
    written = Written("changed out of sight")
    with pytest.raises(UnusableImageError, match="jumped"):
        written.film()
    for number, before in enumerate(written.before):
        last = written.looks[number - 1] if number else None
        assert (before is None) is (last is None)
        assert before is None or np.array_equal(before, np.array(last[1:]).reshape(6, 2))


def test_the_side_of_a_frame_is_its_longer_one():
    """A face that is a part of a narrow picture is not too near."""
    high = Written("a head", height=1300)
    high.looks = [[time, *(2 * x for x in points)] for time, *points in high.looks]
    assert len(high.film().ways) == 3


# ---------------------------------------------------------------- the probe

NONCE = bytes(range(32))


class Recogniser:
    """Embeds a chip by the number that is in it."""

    def __init__(self, name, alignment="as usual"):
        self.name, self.profile = name, SimpleNamespace(alignment=alignment)

    def embed(self, chips):
        angles = np.pi * chips[:, 0, 0, 0] / 720
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


class Release:
    """Says by which release and profile a vector is adapted."""

    frames = 4

    def __init__(self, name):
        self.name, self.adapted = name, []

    def adapt(self, rows, profile):
        self.adapted.append((profile, np.degrees(np.arctan2(rows[0, 1], rows[0, 0])) * 4))
        return [self]


@pytest.fixture
def studio(monkeypatch):
    """Everything around a film: who is asked for what, in order."""
    told = []
    taken = Film(
        tuple(np.full((2, 2, 3), n, np.uint8) for n in (10, 20)),
        tuple(np.full((2, 2, 3), n, np.uint8) for n in (60, 70, 80)),
    )
    made = SimpleNamespace(told=told, film=taken, alignments={})

    @contextmanager
    def frames_of(camera):
        told.append(f"camera {camera} on")
        try:
            yield "frames"
        finally:
            told.append(f"camera {camera} off")

    def filmed(frames, finder, movements, *, wanted, tell):
        told.append(f"film {frames} {finder} {movements == challenge_of(NONCE, made.without)} {wanted}")
        tell(Movement.LEFT)
        if made.film is None:
            raise UnusableImageError("the face jumped", "move slowly")
        return made.film

    class Aligner:
        def __init__(self, alignment, finder):
            told.append(f"aligner {alignment} {finder}")

        def chip_of_pixels(self, frame, profile):
            told.append(f"chip {frame[0, 0, 0]} {profile}")
            return frame

    def checked(embeddings, names, release):
        angles = [round(float(np.degrees(np.arctan2(*one[::-1]))) * 4) for one in embeddings]
        told.append(f"one person {angles} {names} {release.name}")

    made.without = None
    monkeypatch.setattr("client.device.capture.frames_of", frames_of)
    monkeypatch.setattr("client.faces.filming.film", filmed)
    monkeypatch.setattr("client.faces.finding.Aligner", Aligner)
    monkeypatch.setattr("client.faces.finding.FaceFinder", lambda: "finder")
    monkeypatch.setattr("client.device.pictures.require_one_person", checked)
    named = "client.faces.models."
    alignments = made.alignments
    monkeypatch.setattr(
        f"{named}recogniser_of",
        lambda release, model: Recogniser(f"{release.name} {model}", alignments.get(release.name)),
    )
    monkeypatch.setattr(
        f"{named}recogniser_for",
        lambda release, frozen, profile: told.append(f"recogniser {release.name} {frozen.name} {profile}") or frozen,
    )
    return made


SEEN = [
    "camera 3 on",
    "film frames finder True 4",
    "camera 3 off",
    *(f"chip {number} {PROBE}" for number in (10, 20, 60, 70, 80)),
    f"one person [15, 60, 70, 80] {['the face from the front', *(f'the face in movement {n}' for n in (1, 2, 3))]} now",
]


@pytest.mark.parametrize("without", [None, *Omission])
def test_a_probe_is_the_mean_of_the_frames_from_the_front_where_the_movements_are_of_the_same_person(
    studio, without, capsys
):
    release, studio.without = Release("now"), without
    probe = challenge.filmed_probe(3, without=without, model="m.onnx", release=release)
    assert studio.told == [f"recogniser now now m.onnx {PROBE}", "aligner None finder"]
    assert probe(NONCE) is release
    assert studio.told[2:] == SEEN
    assert release.adapted == [(PROBE, pytest.approx(15))]
    assert capsys.readouterr() == ("", "Turn your head to your left, a hand's breadth, and back.\n")


def test_whoever_comes_over_is_filmed_once_and_compared_under_both_releases(studio):
    now, old = Release("now"), Release("old")
    probes = challenge.filmed_probes(3, without=None, model="m.onnx", release=now, left=Left(old, "former.onnx"))
    assert studio.told[:2] == [f"recogniser old old former.onnx {PROBE}", f"recogniser now now m.onnx {PROBE}"]
    studio.told.clear()
    assert probes(NONCE) == (old, now)
    assert studio.told == SEEN
    assert (old.adapted, now.adapted) == ([(PROBE, pytest.approx(15))], [(PROBE, pytest.approx(15))])


def test_one_film_does_not_serve_recognisers_that_cut_faces_differently(studio):
    studio.alignments["old"] = "otherwise"
    with pytest.raises(UsageError, match="cut faces differently"):
        challenge.filmed_probes(3, without=None, model=None, release=Release("now"), left=Left(Release("old"), None))


def test_a_challenge_without_a_camera_is_refused_before_anything_is_loaded(studio):
    with pytest.raises(UsageError, match=r"^a challenge is filmed: name a camera with --camera NUMBER, and no images$"):
        challenge.filmed_probe(None, without=None, model=None, release=Release("now"))
    assert studio.told == []


def test_the_camera_is_switched_off_when_the_film_is_refused_and_nothing_is_cut(studio):
    studio.film = None
    with pytest.raises(UnusableImageError, match="the face jumped"):
        challenge.filmed_probe(3, without=None, model=None, release=Release("now"))(NONCE)
    assert studio.told[-1] == "camera 3 off"


def test_each_movement_is_asked_for_in_its_own_words_on_the_error_output(capsys):
    said = {}
    for movement in (None, *Movement):
        challenge._say(movement)
        said[movement] = capsys.readouterr()
    assert [line.out for line in said.values()] == [""] * 6
    words = {None: "into the camera", Movement.LEFT: "your left", Movement.RIGHT: "your right"}
    words |= {Movement.UP: "Look up", Movement.DOWN: "Look down", Movement.CLOSER: "closer"}
    for movement, word in words.items():
        assert [one for one in said if word in said[one].err] == [movement]
