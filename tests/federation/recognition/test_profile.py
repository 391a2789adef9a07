"""The document of everything that belongs to a recogniser: one form, one digest, and nothing out of range."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, UsageError
from federation.recognition.profile import (
    Clips,
    ColourOrder,
    ConditionMoments,
    FaceSet,
    Layout,
    Preprocessing,
    Provenance,
    RecogniserProfile,
)
from federation.recognition.templates import ARCFACE, DLIB, FACENET, KNOWN_ALIGNMENTS, Alignment

VECTOR = Path(__file__).parents[2] / "vectors/recognition/profile.json"
VECTOR_DIGEST = "dabef98f60b55ff69d6c095571d47ae5e7d7822bb1df7b8e5724cedf0adfc1ff"

CENTRES = {"clean": (0.5,) * 2 + (0.0,) * 62, "mask": (0.0,) * 63 + (-0.25,)}


def profile(**changes):
    values = {
        "name": "example",
        "network": "onnx",
        "weights_digest": hashlib.sha256(b"weights").hexdigest(),
        "alignment": ARCFACE,
        "preprocessing": Preprocessing(ColourOrder.BGR, (104_298, 117_001, 122_782), 256_000, Layout.NHWC, 1),
        "dimension": 64,
        "code_length": 1024,
        "moments": tuple(
            ConditionMoments(name, centre, 47_500 + n, 102 + n) for n, (name, centre) in enumerate(CENTRES.items())
        ),
        "sets": (FaceSet("london", 102, 204, "CC BY 4.0, DeBruine and Jones"), FaceSet("tokyo", 40, 80, "consented")),
        "clips": Clips(900, 15),
        "provenance": Provenance("a package", "MIT", "scraped, without consent"),
    }
    return RecogniserProfile(**values | changes)


def test_the_known_profile_has_its_known_bytes_and_digest():
    assert profile().to_bytes() == VECTOR.read_bytes()
    assert RecogniserProfile.from_bytes(VECTOR.read_bytes()) == profile()
    assert profile().digest == hashlib.sha256(VECTOR.read_bytes()).hexdigest() == VECTOR_DIGEST


def leaves(value, path=()):
    """Every place in a JSON value that holds no object and no list."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path
    else:
        for key, item in items:
            yield from leaves(item, (*path, key))


def changed(path, new):
    """The bytes of the known profile with another value in one place."""
    value = json.loads(VECTOR.read_bytes())
    place = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


LEAVES = list(leaves(json.loads(VECTOR.read_bytes())))


def test_every_field_is_in_the_digest():
    assert len(LEAVES) > 40
    for path in LEAVES:
        old = json.loads(VECTOR.read_bytes())
        for key in path:
            old = old[key]
        new = old + 1 if isinstance(old, int) else "z" + old[1:]  # a few give a wrong profile, and none the same one
        try:
            other = RecogniserProfile.from_bytes(changed(path, new))
        except MalformedMessageError:
            continue
        assert other.digest != profile().digest, path


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize(
    "wrong",
    [None, True, -1, 10**15, 1.5, "", " ", [], {}, "\n"],
    ids=["null", "true", "negative", "huge", "fraction", "empty", "space", "list", "object", "line"],
)
def test_a_field_out_of_range_is_refused(path, wrong):
    with pytest.raises(MalformedMessageError, match="recogniser profile"):
        RecogniserProfile.from_bytes(changed(path, wrong))


DAMAGE = {
    "cut short": lambda data: data[:-1],
    "bytes behind it": lambda data: data + b"\n",
    "a space more": lambda data: data.replace(b":", b": ", 1),
    "a field twice": lambda data: data.replace(b'{"', b'{"name":"example","', 1),
    "a field too many": lambda data: data.replace(b'{"alignment"', b'{"aaa":1,"alignment"', 1),
    "a field too few": lambda data: data.replace(b'"code_length":1024,', b""),
    "another version": lambda data: data.replace(b"profile-1", b"profile-2"),
    "no text": lambda _data: b"\xff\xfe",
    "no object": lambda _data: b"[]",
    "deep": lambda _data: b"[" * 100_000,
    "long": lambda _data: b" " * (1 << 20 | 1),
    "a centre with spare bits": lambda data: data.replace(b"A==", b"B==", 1),
    "a centre of no whole numbers": lambda data: data.replace(b"AA==", b"AAAA", 1),
    "a centre that is no base64": lambda data: data.replace(b"AA==", b"A!==", 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_bytes_are_refused(damage):
    with pytest.raises(MalformedMessageError, match="recogniser profile"):
        RecogniserProfile.from_bytes(DAMAGE[damage](VECTOR.read_bytes()))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_the_one_error(data):
    with pytest.raises(MalformedMessageError):
        RecogniserProfile.from_bytes(data)


@given(position=st.integers(0, len(VECTOR.read_bytes()) - 1), byte=st.integers(0, 255))
def test_what_parses_gives_its_bytes_back(position, byte):
    data = bytearray(VECTOR.read_bytes())
    data[position] = byte
    try:
        read = RecogniserProfile.from_bytes(bytes(data))
    except MalformedMessageError:
        return
    assert read.to_bytes() == bytes(data)


MOMENTS = profile().moments


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dimension": 65}, "centre has 65 numbers"),
        ({"moments": MOMENTS[::-1]}, "in the order of their names"),
        ({"moments": (MOMENTS[0], MOMENTS[0])}, "each once"),
        ({"moments": tuple(replace(MOMENTS[0], condition=f"c{n:02}") for n in range(17))}, "at most 16"),
        ({"sets": profile().sets[::-1]}, "in the order of their names"),
        ({"sets": profile().sets[1:]}, "more people than"),
        ({"dimension": 63}, "64 to 1024"),
        ({"dimension": 1025}, "64 to 1024"),
        ({"code_length": 512}, "1024 or 2048"),
        ({"weights_digest": "A" * 64}, "lower-case hex"),
        ({"name": "Example"}, "name of a recogniser"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, reason):
    with pytest.raises(UsageError, match=reason):
        profile(**changes)


@pytest.mark.parametrize(
    ("centre", "reason"),
    [
        ((0.1,) * 64, "float32"),  # 0.1 is none
        ((0.5,) * 64, "norm is at most 1"),
        ((float("nan"),) * 64, "finite"),
        ((1e300,) * 64, "norm is at most 1"),
        ((1,) * 64, "finite floats"),
    ],
)
def test_a_centre_is_a_mean_of_unit_vectors(centre, reason):
    with pytest.raises(UsageError, match=reason):
        ConditionMoments("clean", centre, 1, 2)


def test_the_norm_of_a_centre_is_said():
    assert profile().moments_of("mask").mean_norm == 0.25
    assert profile().moments_of("clean").mean_norm == pytest.approx(0.5**0.5)


def test_a_condition_that_was_not_measured_is_refused_with_the_command_that_measures():
    with pytest.raises(UsageError, match=r"clean, mask; not res16.*intaglio models profile"):
        profile().moments_of("res16")


@pytest.mark.parametrize("template", KNOWN_ALIGNMENTS)
def test_a_template_keeps_its_shape_at_another_size(template):
    doubled = template.at(2 * template.side)
    assert doubled.points == tuple((2 * x, 2 * y) for x, y in template.points)
    assert doubled.at(template.side) == template


def test_the_templates_differ_in_how_much_of_the_head_they_show():
    shares = [(t.points[1][0] - t.points[0][0]) / t.side / 10_000 for t in (ARCFACE, FACENET, DLIB)]
    assert shares == pytest.approx([0.3146, 0.3057, 0.3503], abs=1e-3)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (ARCFACE.points[:3], "a point for each"),
        (((0, 0), (1_120_000, 0), (0, 0), (0, 1_120_001)), "inside the cut"),
        ((ARCFACE.points[1], ARCFACE.points[0], *ARCFACE.points[2:]), "right eye lies left"),
        (((0, 0), (500_000, 0), (0, 0), (900_000, 0)), "right eye lies left"),
        (((0.0, 0), (500_000, 0), (0, 0), (0, 900_000)), "inside the cut"),
    ],
)
def test_points_that_align_nothing_are_refused(points, reason):
    with pytest.raises(UsageError, match=reason):
        Alignment("other", 112, points)
