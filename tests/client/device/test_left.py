"""Pictures of whoever comes over: which vector is made by which recogniser, and adapted by which release."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from client.device import pictures
from client.device.pictures import Left, Pictures
from federation.errors import UsageError
from federation.recognition.profiles import PROBE, REFERENCE

ALIGNMENTS = {"otherwise.onnx": "otherwise"}
"""How the recogniser of a model cuts faces, where it is not as the others do."""


@pytest.fixture
def told(monkeypatch):
    made = []

    def recogniser(release, frozen, profile):
        made.append(f"{release.name} {frozen.name} {profile}")
        number = {REFERENCE: 1.0, PROBE: 2.0}[profile] + (4 if release.name == "old" else 0)
        return SimpleNamespace(embed=lambda chips: np.array([[number, float(chips[0])]]))

    monkeypatch.setattr("client.faces.models.recogniser_for", recogniser)
    monkeypatch.setattr(
        "client.faces.models.recogniser_of",
        lambda release, model: SimpleNamespace(
            name=f"{release.name}/{model}", profile=SimpleNamespace(alignment=ALIGNMENTS.get(model, "alike"))
        ),
    )
    monkeypatch.setattr("client.faces.finding.aligner_for", lambda frozen: frozen.name)
    monkeypatch.setattr(
        pictures, "_cut", lambda _, aligner: made.append(aligner) or [np.array(n) for n in (10, 20, 30)]
    )
    monkeypatch.setattr(pictures, "require_one_person", lambda found, names, _: made.append(f"{len(found)} {names}"))
    monkeypatch.setattr(pictures, "fused", lambda rows: rows[0])
    return made


def release(name):
    return SimpleNamespace(name=name, adapt=lambda rows, profile: [f"{profile} {rows[0].tolist()} by {name}"])


def test_the_last_picture_is_embedded_twice_and_each_is_adapted_by_its_own_release(told):
    taken = Pictures((), 3, 2, confirmed=True)
    left = Left(release("old"), "former.onnx")
    found = pictures.reference_and_seconds(taken, model="m.onnx", release=release("now"), left=left)
    assert found == (
        f"{REFERENCE} [1.0, 10.0] by now",
        (f"{PROBE} [6.0, 30.0] by old", f"{PROBE} [2.0, 30.0] by now"),
    )
    assert told == [
        *[f"now now/m.onnx {REFERENCE}"] * 2,
        f"now now/m.onnx {PROBE}",
        "now/m.onnx",
        f"old old/former.onnx {PROBE}",
        "2 ['picture 1 of the camera', 'picture 2 of the camera', 'picture 3 of the camera']",
    ]


def test_whoever_enrols_has_every_picture_embedded_by_its_own_profile_and_the_averaged_ones_of_one_person(told):
    taken = Pictures((), 3, 2, confirmed=True)
    found = pictures.reference_and_second(taken, model="m.onnx", release=release("now"))
    assert found == (f"{REFERENCE} [1.0, 10.0] by now", f"{PROBE} [2.0, 30.0] by now")
    assert told == [
        *[f"now now/m.onnx {REFERENCE}"] * 2,
        f"now now/m.onnx {PROBE}",
        "now/m.onnx",
        "2 ['picture 1 of the camera', 'picture 2 of the camera', 'picture 3 of the camera']",
    ]


def test_whoever_verifies_has_all_pictures_embedded_as_probes(told):
    found = pictures.probe_of(Pictures((), 3, 3, confirmed=False), model="m.onnx", release=release("now"))
    assert found == f"{PROBE} [2.0, 10.0] by now"
    assert told == [*[f"now now/m.onnx {PROBE}"] * 3, "now/m.onnx"]


def test_where_the_other_recogniser_cuts_otherwise_the_last_picture_is_read_again_and_cut_for_it(
    told, tmp_path, monkeypatch
):
    files = tuple(tmp_path / name for name in ("one", "two", "three"))
    for number, file in enumerate(files):
        file.write_bytes(bytes([40 + number]))

    def aligner(frozen):
        def chip(image, profile):
            told.append(f"{frozen.name} cuts {image[0]} as {profile}")
            return np.array(image[0])

        return SimpleNamespace(name=frozen.name, chip=chip)

    monkeypatch.setattr("client.faces.finding.aligner_for", aligner)
    monkeypatch.setattr(
        pictures, "_cut", lambda _, aligner: told.append(aligner.name) or [np.array(n) for n in (1, 2, 3)]
    )
    left = Left(release("old"), "otherwise.onnx")
    taken = Pictures(files, None, 2, confirmed=True)
    found = pictures.reference_and_seconds(taken, model="m.onnx", release=release("now"), left=left)
    assert found == (
        f"{REFERENCE} [1.0, 1.0] by now",
        (f"{PROBE} [6.0, 42.0] by old", f"{PROBE} [2.0, 3.0] by now"),
    )
    assert told[3:] == [
        "now/m.onnx",
        f"old/otherwise.onnx cuts 42 as {PROBE}",
        f"old old/otherwise.onnx {PROBE}",
        f"2 {[str(file) for file in files]}",
    ]


def test_a_camera_serves_no_two_recognisers_that_cut_otherwise_and_nothing_is_cut(told):
    left = Left(release("old"), "otherwise.onnx")
    taken = Pictures((), 3, 2, confirmed=True)
    with pytest.raises(UsageError, match="cut faces differently: name images, and no camera"):
        pictures.reference_and_seconds(taken, model="m.onnx", release=release("now"), left=left)
    assert "now/m.onnx" not in told
