"""The document of everything that belongs to a recogniser: one form, one digest, and nothing out of range."""

import base64
import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, UsageError
from federation.recognition.conditions import (
    QUANTILES,
    CameraCondition,
    DistancesAtWeight,
    FusionShift,
    ImpostorPrior,
    unmeasured,
)
from federation.recognition.numbers import SingleNumbers
from federation.recognition.profile import (
    Clips,
    ColourOrder,
    FaceSet,
    Layout,
    Preprocessing,
    Provenance,
    RecogniserProfile,
)
from federation.recognition.templates import ARCFACE, DLIB, FACENET, KNOWN_ALIGNMENTS, Alignment

VECTOR = Path(__file__).parents[2] / "vectors/recognition/profile.json"
VECTOR_DIGEST = "7093266de290f0016095f10ce943e548eccca9f0d7bcd256389fbc05b6e10ec4"

K, D = 16, 64


def singles(*numbers, shape=None):
    return SingleNumbers(struct.pack(f"<{len(numbers)}f", *numbers), shape or (len(numbers),))


def rows_of(first, second):
    """Sixteen directions, each of two numbers of an embedding that no other one has."""
    return singles(
        *(first * (j == 2 * i) + second * (j == 2 * i + 1) for i in range(K) for j in range(D)), shape=(K, D)
    )


def distances(n):
    return DistancesAtWeight(
        480_000 + n,
        -2_950_000 + n,
        (170_000 + n, 5_000 - n, 10_000_000 + n),
        singles(*((i - 128) / 32 + n for i in range(QUANTILES))),
        singles(*((i - 128) / 64 - n for i in range(QUANTILES))),
    )


def prior(n=0):
    return ImpostorPrior(
        2, 142 - n, 930_000 + n, FusionShift(-40 + n, 12_000), FusionShift(-60, 2_800 + n),
        tuple(distances(5 * n + w) for w in range(5)),
    )  # fmt: skip


def condition(name, n, **changes):
    values = {
        "centre": singles(*((i == n) * 0.5 for i in range(K))),
        "whitening": singles(*((i == j) + 1 / (8 + i + j + n) for i in range(K) for j in range(K)), shape=(K, K)),
        "people": 142,
        "prior": prior(n) if n < 2 else None,
    }
    return CameraCondition(name, **values | changes)


def profile(**changes):
    values = {
        "name": "example",
        "network": "onnx",
        "weights_digest": hashlib.sha256(b"weights").hexdigest(),
        "alignment": ARCFACE,
        "preprocessing": Preprocessing(ColourOrder.BGR, (104_298, 117_001, 122_782), 256_000, Layout.NHWC, 1),
        "dimension": D,
        "code_length": 1024,
        "subspace": rows_of(0.6, 0.8),
        "conditions": tuple(condition(name, n) for n, name in enumerate(("clean", "mask", "res16"))),
        "sets": (FaceSet("london", 102, 204, "CC BY 4.0, DeBruine and Jones"), FaceSet("tokyo", 40, 80, "consented")),
        "clips": Clips(900),
        "provenance": Provenance("a package", "MIT", "scraped, without consent"),
    }
    return RecogniserProfile(**values | changes)


def test_the_known_profile_has_its_known_bytes_and_digest():
    assert profile().to_bytes() == VECTOR.read_bytes()
    assert RecogniserProfile.from_bytes(VECTOR.read_bytes()) == profile()
    assert profile().digest == hashlib.sha256(VECTOR.read_bytes()).hexdigest() == VECTOR_DIGEST


def test_arrays_are_where_a_reader_by_hand_finds_them():
    value = json.loads(VECTOR.read_bytes())

    def floats(text):
        return np.frombuffer(base64.b64decode(text), "<f4")

    np.testing.assert_array_equal(floats(value["subspace"]).reshape(K, D), profile().subspace.array)
    assert [each["name"] for each in value["conditions"]] == ["clean", "mask", "res16"]
    for each, known in zip(value["conditions"], profile().conditions, strict=True):
        np.testing.assert_array_equal(floats(each["centre"]), known.centre.array)
        np.testing.assert_array_equal(floats(each["whitening"]).reshape(K, K), known.whitening.array)
    assert value["conditions"][2]["prior"] == "not measured"
    mask = value["conditions"][1]["prior"]
    assert (mask["sets"], mask["people"], mask["references"], mask["frames"]) == (2, 141, [-39, 12_000], [-60, 2_801])
    assert [each["mean_millionths"] for each in mask["at_weights"]] == [480_005 + w for w in range(5)]
    assert mask["at_weights"][1]["covariance_billionths"] == [170_006, 4_994, 10_000_006]
    assert floats(mask["at_weights"][4]["shape"])[[0, 256]].tolist() == [5.0, 13.0]
    assert floats(mask["at_weights"][4]["string"])[[0, 256]].tolist() == [-11.0, -7.0]


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
        new = (
            old + 1 if isinstance(old, int) else "yz"[old[0] != "z"] + old[1:]
        )  # a few give a wrong profile, none the same
        try:
            other = RecogniserProfile.from_bytes(changed(path, new))
        except MalformedMessageError:
            continue
        assert other.digest != profile().digest, path


WRONG = {
    "null": None,
    "true": True,
    "negative": -1,
    "huge": 10**15,
    "fraction": 1.5,
    "empty": "",
    "space": " ",
    "list": [],
    "object": {},
    "line": "\n",
}
SIGNED = {"log_spread_millionths", "covariance_billionths", "references", "frames"}
OUT_OF_RANGE = [
    pytest.param(path, wrong, id=f"{name}-{'.'.join(map(str, path))}")
    for path in LEAVES
    for name, wrong in WRONG.items()
    if name != "negative" or not SIGNED & set(path)
]


@pytest.mark.parametrize(("path", "wrong"), OUT_OF_RANGE)
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
    "another version": lambda data: data.replace(b"profile-2", b"profile-1"),
    "no text": lambda _data: b"\xff\xfe",
    "no object": lambda _data: b"[]",
    "deep": lambda _data: b"[" * 100_000,
    "long": lambda _data: b" " * (2 << 20 | 1),
    "an array with spare bits": lambda data: data.replace(b'A=="', b'B=="', 1),
    "an array of no whole numbers": lambda data: data.replace(b'AA=="', b'AAAA"', 1),
    "an array that is no base64": lambda data: data.replace(b'AA=="', b'A!=="', 1),
    "a prior of another name": lambda data: data.replace(b"not measured", b"not known", 1),
    "more directions than rows": lambda data: data.replace(b'"directions":16', b'"directions":17', 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_bytes_are_refused(damage):
    with pytest.raises(MalformedMessageError, match="recogniser profile"):
        RecogniserProfile.from_bytes(DAMAGE[damage](VECTOR.read_bytes()))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_the_one_error(data):
    with pytest.raises(MalformedMessageError, match="the bytes are not a recogniser profile of"):
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


CONDITIONS = profile().conditions


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dimension": 65}, "directions of a subspace have 65 numbers"),
        ({"conditions": CONDITIONS[::-1]}, "in the order of their names"),
        ({"conditions": (CONDITIONS[0], CONDITIONS[0])}, "each once"),
        ({"conditions": tuple(condition(f"c{n:02}", 2) for n in range(17))}, "at most 16"),
        ({"conditions": CONDITIONS[1:]}, "knows the condition clean"),
        ({"conditions": ()}, "not measured has no subspace"),
        ({"conditions": (), "subspace": unmeasured(D)}, "no subspace and no sets"),
        ({"sets": profile().sets[::-1]}, "in the order of their names"),
        ({"sets": profile().sets[1:]}, "more people than"),
        ({"conditions": (*CONDITIONS[:2], replace(CONDITIONS[2], people=143))}, "more people than"),
        (
            {
                "conditions": (
                    *CONDITIONS[:2],
                    replace(
                        CONDITIONS[2],
                        centre=singles(*[0.1] * 17),
                        whitening=singles(*(float(i == j) for i in range(17) for j in range(17)), shape=(17, 17)),
                    ),
                )
            },
            "every public centre has 16 numbers",
        ),
        ({"dimension": 63}, "64 to 1024"),
        ({"dimension": 1025}, "64 to 1024"),
        ({"code_length": 512}, "1024 or 2048"),
        ({"weights_digest": "A" * 64}, "lower-case hex"),
        ({"name": "Example"}, "name of a recogniser"),
        ({"subspace": rows_of(0.6, 0.81)}, "not orthonormal"),
        ({"subspace": singles(*([1.0] + [0.0] * 63) * K, shape=(K, D))}, "not orthonormal"),
        ({"subspace": singles(*[0.0] * 15 * D, shape=(15, D))}, "16 to 128 directions"),
        ({"subspace": singles(*[0.0] * 17 * D, shape=(17, D))}, "not orthonormal"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, reason):
    with pytest.raises(UsageError, match=reason):
        profile(**changes)


def test_a_subspace_of_another_size_than_the_centres_is_refused():
    bigger = singles(*(float(i == j) for i in range(17) for j in range(D)), shape=(17, D))
    with pytest.raises(UsageError, match="every public centre has 17 numbers"):
        profile(subspace=bigger)


def test_a_recogniser_that_was_not_measured_has_a_profile():
    bare = profile(subspace=unmeasured(D), conditions=(), sets=())
    assert RecogniserProfile.from_bytes(bare.to_bytes()) == bare
    assert bare.directions == 0


UNIT = tuple(float(i == j) for i in range(K) for j in range(K))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"centre": singles(*[0.5] * K)}, "norm of a public centre is at most 1"),
        ({"centre": singles(*[0.1] * K, shape=(4, 4))}, "maps what a centre has numbers for"),
        ({"centre": singles(*[0.1] * 15)}, "maps what a centre has numbers for"),
        ({"centre": singles(*[0.25 * 1.001] * K)}, "norm of a public centre is at most 1"),
        ({"whitening": singles(*UNIT[:16], 0.5, *UNIT[17:], shape=(K, K))}, "symmetric"),
        ({"whitening": singles(*UNIT[: 3 * K + 2], 0.5, *UNIT[3 * K + 3 :], shape=(K, K))}, "symmetric"),
        ({"whitening": singles(-1.0, *UNIT[1:], shape=(K, K))}, "positive"),
        ({"whitening": singles(20_000.0, *UNIT[1:], shape=(K, K))}, "at most 10000"),
        ({"people": 1}, "people of a condition"),
        ({"people": 141}, "more people than the centre"),
        ({"name": "Clean"}, "name of a condition"),
    ],
)
def test_a_condition_out_of_range_is_refused(changes, reason):
    with pytest.raises(UsageError, match=reason):
        CameraCondition(**{"name": "clean", **{n: getattr(CONDITIONS[0], n) for n in FIELDS}, **changes})


FIELDS = ("centre", "whitening", "people", "prior")


@pytest.mark.parametrize(
    ("field", "wrong", "reason"),
    [
        ("mean_millionths", 0, "mean of impostor distances"),
        ("log_spread_millionths", 1, "logarithm of their spread"),
        ("covariance_billionths", (1, 1), "is three"),
        ("covariance_billionths", (4, 2, 1), "not positive definite"),
        ("covariance_billionths", (0, 0, 1), "a variance"),
        ("shape", singles(*range(QUANTILES - 1)), "257 quantiles"),
        ("shape", singles(*(float(-i) for i in range(QUANTILES))), "in order"),
        ("shape", singles(*[1.0] * QUANTILES), "differ"),
        ("string", singles(*(float(i) for i in range(QUANTILES))), "at most 100 spreads"),
    ],
)
def test_distances_out_of_range_are_refused(field, wrong, reason):
    with pytest.raises(UsageError, match=reason):
        replace(distances(0), **{field: wrong})


@pytest.mark.parametrize(
    ("field", "wrong", "reason"),
    [
        ("sets", 0, "sets of a prior"),
        ("people", 1, "people of a prior"),
        ("coupling_millionths", -1, "coupling"),
        ("at_weights", prior().at_weights[:4], "5 weights"),
    ],
)
def test_a_prior_out_of_range_is_refused(field, wrong, reason):
    with pytest.raises(UsageError, match=reason):
        replace(prior(), **{field: wrong})


@pytest.mark.parametrize(("people", "images"), [(0, 5), (6, 5), (True, 5), (5, 5.0), (1, 10_000_001)])
def test_a_set_of_faces_has_people_and_an_image_of_each(people, images):
    assert FaceSet("tokyo", 5, 5, "consented").images == 5
    with pytest.raises(UsageError, match=r"whole numbers of people|an image of each"):
        FaceSet("tokyo", people, images, "consented")


@pytest.mark.parametrize("raw", [struct.pack("<f", float("nan")), struct.pack("<f", float("inf")), b"\0" * 5])
def test_single_numbers_are_finite_and_as_many_as_said(raw):
    with pytest.raises(UsageError, match=r"finite float32|shape"):
        SingleNumbers(raw, (1,))


def test_single_numbers_of_an_array_are_the_nearest():
    numbers = SingleNumbers.of(np.array([[0.1, -2.0]]))
    assert (numbers.shape, numbers.values) == ((1, 2), (float(np.float32(0.1)), -2.0))
    assert numbers.array.dtype == np.float64
    with pytest.raises(UsageError, match="finite float32"):
        SingleNumbers.of(np.array([1e300]))


def test_the_norm_of_a_centre_is_said():
    assert profile().condition("mask").mean_norm == 0.5


def test_a_condition_that_was_not_measured_is_refused_with_the_command_that_measures():
    with pytest.raises(UsageError, match=r"clean, mask, res16; not fog.*intaglio models profile"):
        profile().condition("fog")


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
