"""Pictures of one command: how many, each one once, all of one person, averaged before anything is adapted."""

import dataclasses
import io
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from client.device import pictures
from client.device.pictures import (
    Pictures,
    probe_of,
    probes_of,
    reference_and_second,
    references_of,
    require_different,
    require_one_person,
)
from client.faces.finding import Aligner, FaceFinder
from client.faces.images import UnusableImageError, read_image
from federation.errors import UsageError
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.templates import ARCFACE
from tests.bundles import DIMENSION, a_release
from tests.faces import orl_image
from tests.running import a_face

NAMES = ["one.jpg", "two.jpg", "three.jpg", "four.jpg", "five.jpg"]


def release(references=2, frames=3, **changes):
    return dataclasses.replace(a_release(), references=references, frames=frames, **changes)


def files(count):
    return [Path(name) for name in [*NAMES, "six.jpg", "seven.jpg"][:count]]


# ---------------------------------------------------------------------------------------------------------- how many
@pytest.mark.parametrize(("references", "named"), [(1, 2), (2, 2), (2, 3), (5, 2), (5, 6)])
def test_all_pictures_but_the_last_are_averaged_and_the_last_confirms(references, named):
    taken = references_of(files(named), None, release(references))
    assert taken.profiles == [REFERENCE] * (named - 1) + [PROBE]
    assert taken.names == [str(file) for file in files(named)]


@pytest.mark.parametrize(
    ("references", "named", "message"),
    [
        (1, 3, r"averages at most 1 picture, and one more confirms: name 2, not 3"),
        (2, 4, r"averages at most 2 pictures, and one more confirms: name 2 to 3, not 4"),
        (5, 7, r"name 2 to 6, not 7"),
        (2, 1, r"name 2 to 3, not 1, or --camera"),
        (2, 0, r"not 0, or --camera"),
    ],
)
def test_an_enrolment_with_too_many_or_too_few_pictures_is_refused_with_the_numbers(references, named, message):
    with pytest.raises(UsageError, match=message):
        references_of(files(named), None, release(references))


@pytest.mark.parametrize(
    ("frames", "named", "message"),
    [
        (1, 2, r"averages at most 1 picture: name 1, not 2"),
        (3, 4, r"averages at most 3 pictures: name 1 to 3, not 4"),
        (3, 0, r"name 1 to 3, not 0, or --camera"),
    ],
)
def test_a_comparison_with_too_many_pictures_or_none_is_refused_with_the_numbers(frames, named, message):
    with pytest.raises(UsageError, match=message):
        probes_of(files(named), None, release(frames=frames))


def test_fewer_pictures_than_the_threshold_is_set_for_are_said_in_one_line(capsys):
    references_of(files(2), None, release(2))
    assert capsys.readouterr().err == (
        "averaging 1 of the 2 pictures that the threshold is set for: you will be refused more often than with 3 "
        "pictures, the last of which confirms\n"
    )
    probes_of(files(2), None, release(frames=3))
    assert capsys.readouterr().err == (
        "comparing 2 of the 3 pictures that the threshold is set for: the chance of being refused is higher than with "
        "3\n"
    )


def test_as_many_pictures_as_the_threshold_is_set_for_are_passed_over_in_silence(capsys):
    references_of(files(3), None, release(2))
    references_of(None, 0, release(5))
    probes_of(files(3), None, release(frames=3))
    probes_of(None, 0, release(frames=2))
    assert capsys.readouterr() == ("", "")


def test_a_camera_takes_as_many_pictures_as_the_release_says_and_one_that_confirms():
    taken = references_of(None, 3, release(2))
    assert (taken.camera, taken.profiles) == (3, [REFERENCE, REFERENCE, PROBE])
    assert taken.names == [f"picture {number} of the camera" for number in (1, 2, 3)]
    assert probes_of(None, 3, release(frames=2)).profiles == [PROBE, PROBE]


@pytest.mark.parametrize("named", [references_of, probes_of])
def test_pictures_come_from_files_or_from_a_camera(named):
    with pytest.raises(UsageError, match="not both"):
        named(files(2), 0, release())


# ---------------------------------------------------------------------------------------------------- each one once
class Once(Aligner):
    """The real one, which looks at an image once in all tests."""

    @cache  # noqa: B019 - there is one
    def chip(self, image, profile=REFERENCE):
        return super().chip(image, profile)


@cache
def cutter():
    return Once(ARCFACE, FaceFinder())


def chip(image):
    return cutter().chip(image, PROBE)


def saved_again(person, number, **options):
    buffer = io.BytesIO()
    Image.fromarray(read_image(orl_image(person, number))).save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{"format": "PNG"}, {"format": "JPEG", "quality": 95}])
def test_a_picture_that_was_saved_again_is_the_same_picture(options):
    chips = [chip(orl_image(1, 1)), chip(orl_image(1, 3)), chip(saved_again(1, 1, **options))]
    with pytest.raises(UsageError, match=r"^three.jpg is the same picture as one.jpg, which is not two: take another"):
        require_different(chips, NAMES)


def test_two_grey_levels_are_one_picture_and_a_little_more_are_two():
    picture = np.full((4, 4, 3), 100, np.uint8)
    for other, further in ((102, 103), (98, 97)):
        same = np.full_like(picture, other)
        with pytest.raises(UsageError, match=r"^two.jpg is the same picture as one.jpg"):
            require_different([picture, same], ["one.jpg", "two.jpg"])
        with pytest.raises(UsageError, match=r"^three.jpg is the same picture as two.jpg"):
            require_different([picture + np.uint8(50), picture, same], NAMES)
        same[0, 0, 0] = further
        require_different([picture, same], ["one.jpg", "two.jpg"])


@pytest.mark.parametrize(("person", "numbers"), [(24, (9, 10)), (31, (1, 8)), (19, (8, 9))])
def test_pictures_of_one_session_are_different_pictures(person, numbers):
    """Of all pairs of pictures of one person in ORL, those that differ least."""
    require_different([chip(orl_image(person, number)) for number in numbers], NAMES)


# ------------------------------------------------------------------------------------------------------- one person
def faces(*who):
    return [a_face(person, capture) for capture, person in enumerate(who)]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_pictures_of_one_person_pass(count):
    require_one_person(faces(*[1] * count), NAMES, release())


@pytest.mark.parametrize(
    ("who", "named"),
    [
        ((1, 2, 1), "two.jpg"),
        ((2, 1, 1), "one.jpg"),
        ((1, 1, 1, 2), "four.jpg"),
        ((1, 2, 1, 3, 1), "two.jpg and four.jpg"),
        ((1, 2, 1, 2, 1), "two.jpg and four.jpg"),
    ],
)
def test_a_picture_of_somebody_else_than_the_others_is_named(who, named):
    with pytest.raises(UsageError, match=rf"^{named}: of somebody else than the other pictures.*Nothing was sent$"):
        require_one_person(faces(*who), NAMES, release())


@pytest.mark.parametrize(
    ("who", "named"),
    [
        ((1, 2), "one.jpg and two.jpg"),
        ((1, 2, 3), "one.jpg and two.jpg and three.jpg"),
        ((1, 2, 1, 2), "one.jpg and two.jpg and three.jpg and four.jpg"),
    ],
)
def test_where_nobody_is_in_the_majority_all_are_named(who, named):
    with pytest.raises(UsageError, match=rf"^{named} do not show one person.*take others.*Nothing was sent$"):
        require_one_person(faces(*who), NAMES, release())


def turned(degrees):
    """Unit vectors in one plane."""
    vectors = np.zeros((len(degrees), DIMENSION))
    vectors[:, 0], vectors[:, 1] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return list(vectors)


def test_unlike_is_what_the_threshold_of_the_release_says():
    half = release(threshold=256)  # 256 of 1024 bits: an eighth of a turn
    require_one_person(turned([0, 44.9]), NAMES, half)
    with pytest.raises(UsageError, match="do not show one person"):
        require_one_person(turned([0, 45.1]), NAMES, half)
    across = np.eye(DIMENSION)[:2]  # a right angle without rounding: half of all bits
    require_one_person(across, NAMES, release(threshold=512))
    with pytest.raises(UsageError, match="do not show one person"):
        require_one_person(across, NAMES, release(threshold=511))
    require_one_person(turned([0, 40, 80]), NAMES, half)  # two that are far apart, and one that is like both


def test_no_picture_is_unlike_itself_however_little_the_release_accepts():
    """The angle of a vector with itself is not always zero in floating point."""
    for person in range(20):
        require_one_person(faces(person), NAMES, release(threshold=0))


def test_half_of_them_is_no_majority():
    """Each of the first and the last is unlike two of three others, and the two between them unlike one."""
    with pytest.raises(UsageError, match=r"^one.jpg and four.jpg do not show one person"):
        require_one_person(turned([0, 30, 50, 80]), NAMES, release(threshold=256))


def test_pictures_are_compared_as_the_release_adapts_references():
    shift = np.zeros(DIMENSION)
    shift[0] = 0.7
    adapter = Adapter({REFERENCE: shift, PROBE: np.zeros(DIMENSION)}, None)
    near = turned([10, 40])
    require_one_person(near, NAMES, release(threshold=256))
    with pytest.raises(UsageError, match="do not show one person"):  # 62 degrees apart, seen from the centre
        require_one_person(near, NAMES, release(threshold=256, adapter=adapter, adaptation="centre"))


# --------------------------------------------------------------------------------------------------- what they become
def test_embeddings_are_averaged_before_they_are_adapted(monkeypatch):
    """By hand: the mean of unit vectors, of unit norm, less the centre, of unit norm."""
    rng = np.random.default_rng(5)
    centres = {profile: rng.normal(size=DIMENSION) / 20 for profile in (REFERENCE, PROBE)}
    centred = release(adapter=Adapter(centres, None), adaptation="centre")
    looks = faces(1, 1, 1)
    monkeypatch.setattr(pictures, "embed", lambda *_, **__: looks)

    def expected(vectors, profile):
        mean = sum(vectors) / len(vectors)
        less = mean / np.sqrt(mean @ mean) - centres[profile]
        return less / np.sqrt(less @ less)

    taken = references_of(files(3), None, centred)
    reference, second = reference_and_second(taken, model=None, release=centred)
    np.testing.assert_allclose(reference, expected(looks[:2], REFERENCE), atol=1e-12)
    np.testing.assert_allclose(second, expected(looks[2:], PROBE), atol=1e-12)
    probe = probe_of(probes_of(files(3), None, centred), model=None, release=centred)
    np.testing.assert_allclose(probe, expected(looks, PROBE), atol=1e-12)


def test_the_picture_that_confirms_is_no_outlier_here(monkeypatch):
    """Whether it matches is for the session to say, which proves that the template works."""
    monkeypatch.setattr(pictures, "embed", lambda *_, **__: faces(1, 1, 2))
    reference_and_second(references_of(files(3), None, release()), model=None, release=release())


class Recogniser:
    """Remembers which cuts it saw."""

    def __init__(self):
        self.profile = SimpleNamespace(network="mobilefacenet", alignment=ARCFACE)
        self.seen = []

    def embed(self, chips):
        self.seen += list(chips)
        return np.ones((len(chips), DIMENSION)) / np.sqrt(DIMENSION)


@pytest.fixture
def recognisers(monkeypatch):
    """A frozen one for references, and a tuned one for probes."""
    each = {REFERENCE: Recogniser(), PROBE: Recogniser()}
    monkeypatch.setattr("client.faces.models.load_recogniser", lambda _: each[REFERENCE])
    monkeypatch.setattr("client.faces.models.recogniser_for", lambda _release, _frozen, profile: each[profile])
    monkeypatch.setattr("client.faces.finding.aligner_for", lambda _: cutter())
    return each


@pytest.fixture
def album(tmp_path):
    for number in (1, 3):
        (tmp_path / f"{number}.pgm").write_bytes(orl_image(1, number))
    small = Image.fromarray(read_image(orl_image(1, 6))).resize((46, 56), Image.Resampling.BOX)
    small.save(tmp_path / "small.png")  # 16 pixels between the eyes
    return tmp_path


def test_each_picture_is_cut_and_embedded_as_what_it_serves(recognisers, album):
    named = [album / name for name in ("1.pgm", "3.pgm", "small.png")]
    embedded = pictures.embed(references_of(named, None, release()), model=None, release=release())
    assert len(embedded) == 3
    expected = [chip(file.read_bytes()) for file in named]
    np.testing.assert_array_equal(recognisers[REFERENCE].seen, expected[:2])
    np.testing.assert_array_equal(recognisers[PROBE].seen, expected[2:])


def test_a_poor_reference_is_refused_by_its_name(recognisers, album):
    named = [album / name for name in ("1.pgm", "small.png", "3.pgm")]
    with pytest.raises(UnusableImageError, match=r"small.png: only 1[67] pixels.*18 are needed to enrol: come closer"):
        pictures.embed(references_of(named, None, release()), model=None, release=release())
    assert recognisers[REFERENCE].seen == []


def test_a_picture_that_was_averaged_confirms_nothing(recognisers, album):
    (album / "again.pgm").write_bytes(orl_image(1, 1))
    named = [album / name for name in ("1.pgm", "3.pgm", "again.pgm")]
    with pytest.raises(UsageError, match=r"again.pgm is the same picture as .*1.pgm"):
        pictures.embed(references_of(named, None, release()), model=None, release=release())
    assert recognisers[PROBE].seen == []


def test_a_probe_is_not_averaged_with_itself(recognisers, album):
    named = [album / "1.pgm", album / "1.pgm"]
    with pytest.raises(UsageError, match=r"1.pgm is the same picture as .*1.pgm"):
        pictures.embed(probes_of(named, None, release()), model=None, release=release())


LOOK = "Look into the camera and press a key"
TURN = "; then turn your head a little, until 2 pictures are taken"
AWAY = "Look away and into the camera again, and press a key: one more picture confirms."


@pytest.mark.parametrize(
    ("taken", "said", "asked"),
    [
        (references_of(None, 3, release()), [f"{LOOK}{TURN}.", AWAY], [(2, REFERENCE), (1, PROBE)]),
        (references_of(None, 3, release(1)), [f"{LOOK}.", AWAY], [(1, REFERENCE), (1, PROBE)]),
        (probes_of(None, 3, release(frames=2)), [f"{LOOK}{TURN}."], [(2, PROBE)]),
        (probes_of(None, 3, release(frames=1)), [f"{LOOK}."], [(1, PROBE)]),
    ],
    ids=["two references", "one reference", "two probes", "one probe"],
)
def test_a_camera_gives_what_is_averaged_and_after_a_pause_a_picture_that_confirms(
    recognisers, monkeypatch, taken, said, asked
):
    told, numbers = [], iter(range(1, 9))
    monkeypatch.setattr("click.pause", lambda text, err: told.append((text, err)))
    monkeypatch.setattr(cutter(), "chip_of_pixels", lambda frame, profile: told.append(profile) or frame)

    def capture(find, count, *, camera):
        told.append((count, camera))
        return [find(np.full((2, 2, 3), next(numbers), np.uint8)) for _ in range(count)]

    monkeypatch.setattr("client.device.capture.capture_faces", capture)
    embedded = pictures.embed(taken, model=None, release=release())
    expected = [
        [(text, True), (count, 3), *[profile] * count] for text, (count, profile) in zip(said, asked, strict=True)
    ]
    assert told == [one for step in expected for one in step]
    assert len(embedded) == len(taken.profiles)
    seen = {profile: [int(chip[0, 0, 0]) for chip in each.seen] for profile, each in recognisers.items()}
    places = {profile: [1 + n for n, one in enumerate(taken.profiles) if one == profile] for profile in seen}
    assert seen == places


def test_an_image_that_is_not_there_says_so(recognisers, tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*missing"):
        pictures.embed(Pictures((tmp_path / "missing.png",), None, 1, confirmed=False), model=None, release=release())
