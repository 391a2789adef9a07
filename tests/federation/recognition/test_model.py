import dataclasses
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, UsageError
from federation.groups import Alike, GroupBound, HeldFor, ThresholdFor
from federation.promise import PrivacyStatement
from federation.rates import Basis, StatedRate
from federation.recognition.model import Adapter, ModelRelease
from federation.recognition.profiles import PROBE, REFERENCE

STATEMENT = PrivacyStatement.of_events(
    privacy_unit="person",
    neighboring_relation="add_or_remove_one",
    epsilon=8.0,
    delta=1e-5,
    events=(("moments", 0.64), ("threshold", 1.9)),
    people_train=24,
    organisations=4,
)
PROJECTION = np.array([[2.0, 0.1, 0.0], [0.3, 1.0, -0.5]])
ADAPTER = Adapter({REFERENCE: np.array([0.9, 0.1]), PROBE: np.array([0.8, 0.3])}, PROJECTION)
NOBODY = PrivacyStatement.nobody("person", "add_or_remove_one")


def promised(*events):
    return PrivacyStatement.of_events("person", "add_or_remove_one", 8.0, 1e-5, events, 24, 4)


HELD = HeldFor(
    ThresholdFor.WORST_GROUP,
    0.01,
    102,
    (GroupBound("f", 49, 3, 2352, 0.0099),),
    (Alike("sex", 1.5, 1.0, 2.0),),
    "ab" * 32,
)


def a_release(**changes):
    fields = {
        "model_name": "a recogniser",
        "model_digest": "0a" * 32,
        "adapter": ADAPTER,
        "adaptation": "centre",
        "reason": "The noise is small.",
        "condition": "mask",
        "threshold": 700,
        "fmr": 0.01,
        "fmr_low": 0.005,
        "fmr_high": 0.02,
        "fmr_people": 24,
        "basis": Basis.CHECKED,
        "references": 2,
        "frames": 3,
        "privacy": STATEMENT,
        "created": "2025-01-02T03:04:05+00:00",
    }
    return ModelRelease(**{**fields, **changes})


def identity_release():
    return a_release(adapter=Adapter.identity(3), adaptation="none", reason="Too few people.")


def public_release():
    return a_release(adaptation="none", basis=Basis.PUBLIC, privacy=NOBODY)


def fair_release():
    fair = {"basis": Basis.LABELLED, "fmr_high": 0.0099, "fmr_people": 102, "held_for": HELD}
    return a_release(adaptation="none", privacy=NOBODY, **fair)


@pytest.mark.parametrize(
    "release", [a_release(), identity_release(), public_release()], ids=["adapted", "identity", "public"]
)
def test_a_release_survives_its_bytes(release):
    again = ModelRelease.from_bytes(release.to_bytes())
    assert again.to_bytes() == release.to_bytes()
    assert again.digest == release.digest
    assert again.privacy == release.privacy
    rows = np.eye(3)
    assert np.array_equal(again.adapt(rows, PROBE), release.adapt(rows, PROBE))
    assert (again.condition, again.basis, again.references, again.frames) == ("mask", release.basis, 2, 3)
    assert again.rate == StatedRate(0.01, 0.005, 0.02, release.basis, 24)


def test_each_field_of_a_release_comes_back_as_itself():
    """None is what another one is, or what it would be if nobody had said."""
    release = a_release(code_length=2048, threshold=1025, fmr=0.0125, fmr_people=77, references=4)
    again = ModelRelease.from_bytes(release.to_bytes())
    assert {**vars(again), "adapter": again.adapter.to_json()} == {**vars(release), "adapter": ADAPTER.to_json()}
    usual = vars(a_release())
    assert [name for name, value in vars(release).items() if value != usual[name]] == [
        "threshold", "fmr", "fmr_people", "code_length", "references",
    ]  # fmt: skip


def test_the_groups_that_a_rate_holds_for_survive_the_bytes():
    again = ModelRelease.from_bytes(fair_release().to_bytes())
    assert again.held_for == HELD
    assert again.rate.text.endswith("measured by group on 102 people who said which they are of")
    assert again.digest == fair_release().digest != replace(fair_release(), held_for=replace(HELD, alike=())).digest


def test_scales_survive_the_bytes_of_a_release_and_change_its_digest():
    tuned = a_release(adapter=Adapter(ADAPTER.centres, PROJECTION, {PROBE: np.arange(5.0)}))
    again = ModelRelease.from_bytes(tuned.to_bytes())
    assert np.array_equal(again.adapter.scales[PROBE], np.arange(5.0))
    assert again.to_bytes() == tuned.to_bytes()
    assert tuned.digest != a_release().digest
    for scales in (b'"AAA="', b"7", b'{"probe":""}', b'{"thermal":"AAAAAAAAAAA="}', b"{}"):
        damaged = a_release().to_bytes().replace(b'"threshold"', b'"scales":' + scales + b',"threshold"')
        with pytest.raises(MalformedMessageError, match="the bytes are not a model release of this"):
            ModelRelease.from_bytes(damaged)


def test_the_digest_of_a_known_release_does_not_change():
    assert a_release().digest == "7951de7e8d1430dac42e90a9db5f3a5d979479e9cb3d9770c0ed3db32e374be8"


def test_adapt_is_the_written_formula():
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]], dtype=np.float32)
    adapted = a_release().adapt(rows, PROBE)
    expected = np.array([[2.0 - 0.8, 0.3 - 0.3], [0.06 - 0.8, 0.6 - 0.4 - 0.3]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert adapted.dtype == np.float64
    assert (ADAPTER.dimension, ADAPTER.size, adapted.shape) == (3, 2, (2, 2))
    assert np.allclose(adapted, expected, atol=1e-12)


def test_the_identity_release_changes_nothing():
    rows = np.array([[0.6, 0.8, 0.0]])
    release = identity_release()
    assert not release.adapted
    assert np.allclose(release.adapt(rows, REFERENCE), rows)
    assert release.adapt(rows[:0], REFERENCE).shape == (0, 3)


@pytest.mark.parametrize(("adaptation", "adapted"), [("none", False), ("centre", True), ("scales", True)])
def test_what_was_learnt_of_people_is_said_whatever_it_is(adaptation, adapted):
    assert a_release(adaptation=adaptation).adapted is adapted


def test_numbers_too_large_for_any_direction_give_none_and_leave_the_others_theirs():
    adapter = Adapter({PROBE: np.zeros(2)}, np.array([[1e308, 0.0], [1e308, 1.0]]))
    adapted = adapter.apply(np.array([[10.0, 0.0], [0.0, 1.0]]), PROBE)
    assert adapted.tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_an_embedding_at_the_centre_has_no_direction():
    adapter = Adapter({PROBE: np.array([0.6, 0.2])}, np.array([[1.0, 0.0, 0.0], [0.0, 0.25, 0.0]]))
    assert np.array_equal(adapter.apply(np.array([[0.6, 0.8, 0.0]]), PROBE), np.zeros((1, 2)))


def test_unknown_profiles_and_wrong_shapes_are_refused():
    with pytest.raises(UsageError, match="camera profiles"):
        a_release().adapt(np.eye(3), "thermal")
    with pytest.raises(UsageError, match="must be"):
        a_release().adapt(np.eye(4), PROBE)


@pytest.mark.parametrize("dimension", [1, 1024])
@pytest.mark.parametrize("projected", [True, False])
def test_a_release_of_the_least_and_of_the_largest_dimension_is_read(dimension, projected):
    """What may be built may be read: reading looks at the dimension again."""
    adapter = Adapter({PROBE: np.zeros(dimension)}, np.eye(dimension) if projected else None)
    release = a_release(adapter=adapter)
    assert release.dimension == dimension
    assert ModelRelease.from_bytes(release.to_bytes()).to_bytes() == release.to_bytes()


def test_a_release_cannot_be_changed_afterwards():
    centre = np.zeros(3)
    adapter = Adapter({PROBE: centre}, None)
    centre[0] = 1
    assert adapter.centres[PROBE][0] == 0
    with pytest.raises(ValueError, match="read-only"):
        adapter.centres[PROBE][0] = 1
    with pytest.raises(TypeError, match="'mappingproxy' object does not support item"):
        adapter.centres["other"] = centre


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_name": ""}, "a release needs a model name, a reason and"),
        ({"model_digest": "0A" * 32}, "the model digest must be a SHA-256 in"),
        ({"model_digest": "0a" * 31}, "the model digest must be a SHA-256 in"),
        ({"threshold": -1}, "the threshold must be a whole number of"),
        ({"threshold": 2048}, "the threshold must be a whole number of"),
        ({"threshold": 7.0}, "the threshold must be a whole number of"),
        ({"threshold": True}, "the threshold must be a whole number of"),
        ({"fmr": 0.0}, "the false match rate must be a float"),
        ({"fmr": 1}, "the false match rate must be a float"),
        ({"fmr_low": 0}, "the interval of the false match rate is one"),
        ({"fmr_low": -0.001}, "the interval of the false match rate lies"),
        ({"fmr_low": 0.03}, "the interval of the false match rate lies"),
        ({"fmr_low": 0.015}, "the interval of the false match rate lies"),
        ({"fmr_high": 1.001}, "the interval of the false match rate lies"),
        ({"fmr_people": 0}, "a false match rate says what it rests on,"),
        ({"fmr_people": 24.0}, "a false match rate says what it rests on,"),
        ({"fmr_high": float("nan")}, "the interval of the false match rate lies"),
        ({"basis": "checked"}, "a false match rate says what it rests on,"),
        ({"basis": Basis.CHECKED, "privacy": NOBODY}, "the rate of a release rests on what is"),
        ({"basis": Basis.LABELLED}, "the rate of a release rests on labelled"),
        ({"held_for": HELD}, "the rate of a release rests on labelled"),
        (
            {"held_for": HELD, "basis": Basis.LABELLED, "fmr_high": 0.01, "fmr_people": 101},
            "a rate that every large group keeps has",
        ),
        (
            {"held_for": HELD, "basis": Basis.LABELLED, "fmr_high": 0.0101, "fmr_people": 102},
            "a rate that every large group keeps has",
        ),
        (
            {"held_for": HELD, "basis": Basis.LABELLED, "fmr": 0.02, "fmr_high": 0.01, "fmr_people": 102},
            "the groups of a release were held to",
        ),
        ({"held_for": replace(HELD, fmr=0.02, rule=ThresholdFor.EVERYBODY)}, "the groups of a release were held to"),
        ({"basis": Basis.MEASURED, "privacy": NOBODY}, "the rate of a release rests on what is"),
        ({"basis": Basis.CHECKED, "privacy": promised(("moments", 0.64))}, "the rate of a release rests on what is"),
        ({"basis": Basis.MEASURED, "privacy": promised(("scales-1", 0.9))}, "the rate of a release rests on what is"),
        ({"adaptation": "centre and scatter"}, "a release adapts one of these: none,"),
        ({"condition": ""}, "a release needs a model name, a reason and"),
        ({"references": 0}, "a release is for 1 to 5 references and 1 to"),
        ({"references": 6}, "a release is for 1 to 5 references and 1 to"),
        ({"references": True}, "a release is for 1 to 5 references and 1 to"),
        ({"frames": 0}, "a release is for 1 to 5 references and 1 to"),
        ({"frames": 4}, "a release is for 1 to 5 references and 1 to"),
        ({"code_length": 1023}, "codes have 1024 or 2048 bits in this format"),
        ({"created": "yesterday"}, "the time of creation must be ISO 8601"),
        ({"created": "2025-01-02T03:04:05"}, "the time of creation must be UTC, as"),
        ({"created": "2025-01-02T03:04:05+01:00"}, "the time of creation must be UTC, as"),
        ({"created": "2025-01-02T03:04:05Z"}, "the time of creation must be UTC, as"),
    ],
    ids=str,
)
def test_a_wrong_release_cannot_be_built(change, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        a_release(**change)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (({}, None), "an adapter needs the centre of at least one"),
        (({PROBE: np.zeros((2, 2))}, None), "all centres must be vectors of one length,"),
        (({PROBE: np.zeros(2), REFERENCE: np.zeros(3)}, None), "all centres must be vectors of one length,"),
        (({PROBE: np.zeros(2, np.float32)}, None), "the numbers of a release must be finite"),
        (({PROBE: np.array([np.nan, 0.0])}, None), "the numbers of a release must be finite"),
        (({PROBE: np.zeros(2)}, np.zeros((3, 2))), "the projection must be 2 x d, with d from 2"),
        (({PROBE: np.zeros(2)}, np.zeros((3, 3))), "the projection must be 2 x d, with d from 2"),
        (({PROBE: np.zeros(2)}, np.zeros((2, 1))), "the projection must be 2 x d, with d from 2"),
        (({PROBE: np.zeros(2)}, np.zeros(2)), "the projection must be 2 x d, with d from 2"),
        (({PROBE: np.zeros(2)}, np.zeros((2, 1025))), "the projection must be 2 x d, with d from 2"),
        (({PROBE: np.zeros(2)}, None, {PROBE: np.zeros((2, 2))}), "scales must be vectors, for camera profiles"),
        (({PROBE: np.zeros(2)}, None, {PROBE: np.zeros(0)}), "scales must be vectors, for camera profiles"),
        (({PROBE: np.zeros(2)}, None, {PROBE: np.array([np.inf])}), "the numbers of a release must be finite"),
        (({PROBE: np.zeros(2)}, None, {REFERENCE: np.zeros(4)}), "scales must be vectors, for camera profiles"),
    ],
)
def test_a_wrong_adapter_cannot_be_built(arrays, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        Adapter(*arrays)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epsilon": 8}, "epsilon, delta and noise multipliers must"),
        ({"delta": -1.0}, "epsilon, delta and noise multipliers must"),
        ({"dropouts": 4}, "a privacy statement cannot stand more colluders or"),
        ({"colluders": 4}, "a privacy statement cannot stand more colluders or"),
        ({"people_train": 0}, "a privacy statement needs positive counts"),
        ({"privacy_unit": ""}, "a privacy statement needs a unit, a"),
        ({"events": (("x", 0.0),)}, "epsilon, delta and noise multipliers must"),
        ({"events": ()}, "who released nothing of people has nothing"),
        ({"attacks": None}, "a privacy statement says what an attacker"),
        ({"attacks": 0.1}, "a privacy statement says what an attacker"),
    ],
)
def test_a_wrong_statement_cannot_be_built(change, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        dataclasses.replace(STATEMENT, **change)


def test_a_statement_whose_noise_does_not_keep_its_epsilon_cannot_be_built():
    assert promised(("moments", 0.6003)).epsilon == 8.0  # 8.0 needs 0.60015
    with pytest.raises(UsageError, match="does not keep epsilon 8"):
        promised(("moments", 0.6))


@pytest.mark.parametrize("change", [{"detected": 0.0716}, {"right": 0.795}, {"detected": 0.08}, {"right": 0.9}])
def test_a_statement_that_allows_attackers_something_else_than_its_noise_cannot_be_built(change):
    attacks = STATEMENT.attacks
    assert (attacks.detected, attacks.right) == (0.0748, 0.7952)
    with pytest.raises(UsageError, match="its noise allows"):
        dataclasses.replace(STATEMENT, attacks=dataclasses.replace(attacks, **change))


def test_who_asked_nobody_states_no_attack():
    with pytest.raises(UsageError, match="nothing to promise"):
        dataclasses.replace(NOBODY, attacks=STATEMENT.attacks)


def changed(path, value):
    document = json.loads(a_release().to_bytes())
    *folders, key = path
    target = document
    for folder in folders:
        target = target[folder]
    target[key] = value
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        a_release().to_bytes() + b"\n",
        a_release().to_bytes().replace(b'"fmr":0.01', b'"fmr":1e-2'),
        a_release().to_bytes().replace(b'"fmr":0.01', b'"fmr":0.5,"fmr":0.01'),
        a_release().to_bytes().replace(b'"fmr":0.01', b'"fmr":NaN'),
        changed(("format",), "intaglio-model-release-3"),
        changed(("held_for",), {}),
        changed(("held_for",), "everybody"),
        changed(("privacy", "attacks"), None),
        changed(("privacy", "events"), [["threshold", 1e-200]]),
        changed(("privacy", "events"), [["threshold", 5e-324]]),
        changed(("privacy", "events"), [["threshold", 1e308]]),
        changed(("privacy", "attacks", "detected"), 0.0717),
        changed(("privacy", "attacks", "right"), 0.7),
        changed(("privacy", "attacks", "false_accusations"), 0.0009),
        changed(("privacy", "attacks", "false_accusations"), 0),
        changed(("dimension",), 4),
        changed(("dimension",), 10**400),
        changed(("unknown",), 1),
        changed(("threshold",), "700"),
        changed(("projection",), "AAAA"),
        changed(("projection",), "not base64"),
        changed(("projection",), None),
        changed(("whitening",), None),
        changed(("basis",), "hoped"),
        changed(("fmr_low",), 0),
        changed(("fmr_people",), 0),
        changed(("fmr_people",), "24"),
        changed(("references",), 2.0),
        changed(("frames",), "3"),
        changed(("condition",), 7),
        changed(("centres",), {}),
        changed(("centres", PROBE), None),
        changed(("privacy", "events"), [["moments", 0.64, 1]]),
        changed(("privacy", "epsilon"), 8),
    ],
    ids=lambda data: data[:24].decode("latin-1"),
)
def test_damaged_bytes_are_malformed(data):
    with pytest.raises(MalformedMessageError, match="model release"):
        ModelRelease.from_bytes(data)


@given(position=st.integers(0, len(a_release().to_bytes()) - 1), byte=st.integers(0, 255))
@settings(max_examples=300)
def test_a_changed_byte_gives_another_release_or_is_malformed(position, byte):
    original = a_release().to_bytes()
    data = original[:position] + bytes([byte]) + original[position + 1 :]
    try:
        release = ModelRelease.from_bytes(data)
    except MalformedMessageError:
        return
    assert release.to_bytes() == data


def test_reading_a_release_needs_nothing_heavy():
    code = (
        "import sys, federation.recognition.model\n"
        "print(sorted({'torch', 'opacus', 'flwr', 'dp_accounting', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
