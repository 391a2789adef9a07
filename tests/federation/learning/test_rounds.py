"""What a run's messages carry, field by field: each number of somebody else within the bound of its own name."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from federation.errors import MalformedMessageError, UsageError
from federation.identity import IDENTITY_BYTES
from federation.learning.evaluation_plan import EvaluationPlan, Group
from federation.learning.moments import PublicCentre
from federation.learning.pairs import PairQuestion
from federation.learning.rounds import (
    Refusal,
    ShownLedger,
    advertise_reply,
    advertise_request,
    evaluation_request,
    moments_request,
    read_advertise_request,
    read_evaluation_request,
    read_ledger,
    read_moments_request,
    read_people,
    read_protocol,
    read_threshold_request,
    require_ring,
    sessions,
    threshold_request,
)
from federation.privacy.bounds import BOUNDS
from federation.privacy.ledger import LedgerChain
from federation.privacy.plan import PrivacyPlan
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE
from federation.secagg.ring import noise_std
from tests.bundles import a_release

ROSTER = tuple(bytes([number]) * IDENTITY_BYTES for number in range(1, 8))
PLAN = PrivacyPlan.for_epsilon(
    8.0, delta=1e-5, people=300, organisations=7, dimension=20, directions=16, colluders=3, dropouts=1
)
TUNED = PrivacyPlan.for_epsilon(
    8.0, delta=1e-5, people=4000, organisations=7, dimension=20, directions=16, tuned=5, steps=2
)
CHAIN = LedgerChain((LedgerChain().next_open("people", epsilon=8.0, delta=1e-5),))


# ------------------------------------------------------------------------------------------------------------- sums
def test_the_sums_of_a_run_are_those_of_its_plan():
    for plan in (PLAN, TUNED):
        made = sessions(plan, "run 7", ROSTER)
        assert list(made) == [name for name, _ in plan.events]
        for name, session in made.items():
            assert (session.run, session.release, session.agreement) == ("run 7", name, plan.digest)
            assert (session.roster, session.size) == (ROSTER, plan.release_size(name))
            assert (session.colluders, session.dropouts) == (plan.colluders, plan.dropouts)


@pytest.mark.parametrize("count", [6, 8])
def test_a_roster_of_another_size_than_the_plan_has_no_sum(count):
    with pytest.raises(UsageError, match=f"the roster names {count} organisations and the plan is for 7"):
        sessions(PLAN, "run", (*ROSTER, b"h" * IDENTITY_BYTES)[:count])


def test_each_sum_has_room_for_its_people_and_its_noise(monkeypatch):
    """By what the two checks are asked: the noise of one member, and all people of the plan."""
    asked = []
    monkeypatch.setattr("federation.learning.rounds.require_std", asked.append)
    monkeypatch.setattr("federation.learning.rounds.require_headroom", lambda *rest: asked.append(rest))
    require_ring(PLAN, "run", ROSTER)
    expected = []
    for (_, noise), session in zip(PLAN.events, sessions(PLAN, "run", ROSTER).values(), strict=True):
        std = noise_std(noise, session.size) / np.sqrt(7 - 3 - 1)
        expected += [pytest.approx(std), (session, 300, pytest.approx(std))]
    assert asked == expected


@pytest.mark.parametrize("check", ["require_std", "require_headroom"])
def test_what_does_not_fit_into_a_sum_is_refused(check, monkeypatch):
    def refuse(*_):
        raise UsageError("does not fit")

    monkeypatch.setattr(f"federation.learning.rounds.{check}", refuse)
    with pytest.raises(UsageError, match="does not fit"):
        require_ring(PLAN, "run", ROSTER)


# -------------------------------------------------------------------------------------------------- bounds by name
CENTRES = {REFERENCE: np.zeros(16), PROBE: np.full(16, 0.5)}
PROJECTION = np.eye(16, 20)


def a_question(**changes):
    fields = {"adapter": Adapter(CENTRES, PROJECTION), "edges": (0.2, 0.3), "references": 2, "frames": 1} | changes
    return PairQuestion(**fields)


def with_number(array, value):
    changed = np.array(array)
    changed.flat[-1] = value
    return changed


def asked_about(name, value):
    """A request in which one number of that name is `value`, and how a node reads it."""
    centre, scales = PublicCentre(PROJECTION, np.zeros(16)), {PROBE: np.zeros(5)}
    match name:
        case "subspace":
            return lambda: read_moments_request(
                moments_request(replace(centre, subspace=with_number(PROJECTION, value))), PLAN
            )
        case "start":
            return lambda: read_moments_request(
                moments_request(replace(centre, start=with_number(np.zeros(16), value))), PLAN
            )
        case "reference centre" | "probe centre":
            changed = {**CENTRES, name.split()[0]: with_number(np.zeros(16), value)}
            question = a_question(adapter=Adapter(changed, PROJECTION))
        case "projection":
            question = a_question(adapter=Adapter(CENTRES, with_number(PROJECTION, value)))
        case "scales":
            question = a_question(adapter=Adapter(CENTRES, PROJECTION, {PROBE: with_number(scales[PROBE], value)}))
        case "first edge":
            question = a_question(edges=(value, 0.9985))
        case "second edge":
            question = a_question(edges=(0.0015, value))
        case _:
            question = a_question(**{name: value})
    return lambda: read_threshold_request(threshold_request(question), TUNED)


BOUND_OF = {
    "subspace": "subspace",
    "start": "start",
    "reference centre": "centre",
    "probe centre": "centre",
    "projection": "projection",
    "scales": "scales",
    "first edge": "edge",
    "second edge": "edge",
    "references": "references",
    "frames": "frames",
}


@pytest.mark.parametrize("name", BOUND_OF)
def test_each_number_of_a_question_is_within_the_bound_of_its_own_name(name):
    least, most = BOUNDS[BOUND_OF[name]]
    whole = name in {"references", "frames"}
    step = 1 if whole else 1e-3 * (most - least)
    inside = [int(end) if whole else float(end) for end in (least, most)]
    if name == "first edge":
        inside = [least]  # nothing lies between the second one and the end
    if name == "second edge":
        inside = [most]
    for value in inside:
        asked_about(name, value)()
    for value in (inside[0] - step if name != "second edge" else least / 2, most + step):
        with pytest.raises(MalformedMessageError, match="out of bounds"):
            asked_about(name, int(value) if whole else float(value))()


@pytest.mark.parametrize("edges", [(0.3, 0.3), (0.3, 0.2)])
def test_edges_are_two_and_rise(edges):
    with pytest.raises(MalformedMessageError, match="not in order"):
        read_threshold_request(threshold_request(a_question(edges=edges)), PLAN)
    for other in ([0.2], [0.2, 0.3, 0.4], [1, 2]):
        content = threshold_request(a_question())
        content["pairs"] = ConfigRecord({"edges": other, "references": 1, "frames": 1})
        with pytest.raises(MalformedMessageError, match="two edges"):
            read_threshold_request(content, PLAN)


def test_a_question_comes_back_as_it_was_asked_and_tuned_only_where_the_plan_tunes():
    tuned = a_question(adapter=Adapter(CENTRES, PROJECTION, {PROBE: np.arange(5.0)}), edges=(0.125, 0.375), frames=3)
    for plan, scales in ((TUNED, [0.0, 1, 2, 3, 4]), (PLAN, None)):
        read = read_threshold_request(threshold_request(tuned), plan)
        assert (read.edges, read.references, read.frames) == ((0.125, 0.375), 2, 3)
        assert np.array_equal(read.adapter.projection, PROJECTION)
        assert all(np.array_equal(read.adapter.centres[side], CENTRES[side]) for side in CENTRES)
        assert {side: found.tolist() for side, found in read.adapter.scales.items()} == (
            {PROBE: scales} if scales else {}
        )


@pytest.mark.parametrize("name", ["subspace", "start"])
@pytest.mark.parametrize(
    "damage", [lambda a: a.astype(np.float32), lambda a: a[..., :-1].copy(), lambda a: a[None].copy()], ids="tsd"
)
def test_an_array_of_another_kind_or_shape_is_none(name, damage):
    arrays = {"subspace": PROJECTION, "start": np.zeros(16)}
    damaged = {key: damage(each) if key == name else each for key, each in arrays.items()}
    content = RecordDict({"arrays": ArrayRecord({key: Array(each) for key, each in damaged.items()})})
    with pytest.raises(MalformedMessageError, match=f"the array '{name}' must be float64 of shape"):
        read_moments_request(content, PLAN)
    content = RecordDict({"arrays": ArrayRecord({key: Array(each) for key, each in arrays.items() if key != name})})
    with pytest.raises(MalformedMessageError, match=f"the array '{name}' is missing"):
        read_moments_request(content, PLAN)


def evaluation_of(of, **changes):
    facts = {"release": of.digest, "threshold": of.threshold} | changes
    return EvaluationPlan.for_epsilon(
        8.0, delta=1e-6, groups=(Group("all", 4000, 4000),), people=4000, organisations=4, **facts
    )


def test_a_release_is_measured_when_it_is_the_plans_and_each_of_its_arrays_is_bounded():
    release = a_release()
    assert read_evaluation_request(evaluation_request(release), evaluation_of(release)).digest == release.digest
    for changes in ({"release": "ab" * 32}, {"threshold": 299}):
        with pytest.raises(MalformedMessageError, match="not the one that the plan names, or has another threshold"):
            read_evaluation_request(evaluation_request(release), evaluation_of(release, **changes))
    size, far = 16, {name: 2.0 * BOUNDS[name][1] for name in ("centre", "projection", "scales")}
    good = {"centres": {REFERENCE: np.zeros(size), PROBE: np.zeros(size)}, "projection": np.eye(size, 20)}
    for name, parts in {
        "centre": good | {"centres": {**good["centres"], PROBE: np.full(size, far["centre"])}},
        "projection": good | {"projection": np.full((size, 20), far["projection"])},
        "scales": good | {"scales": {PROBE: np.full(3, far["scales"])}},
    }.items():
        other = replace(release, adapter=Adapter(**parts))
        with pytest.raises(MalformedMessageError, match=f"all numbers of the {name}"):
            read_evaluation_request(evaluation_request(other), evaluation_of(other))


# ------------------------------------------------------------------------------------------------ the other messages
def test_a_proposal_comes_back_with_the_ledger_and_the_reservation_and_not_without():
    shown = ShownLedger(CHAIN, "1:" + "a" * 64)
    plan, found = read_advertise_request(advertise_request(PLAN, shown))
    assert (plan, found) == (PLAN, shown)
    for missing in ("lines", "reservation"):
        content = advertise_request(PLAN, shown)
        content["ledger"] = ConfigRecord({k: v for k, v in content["ledger"].items() if k != missing})
        with pytest.raises(MalformedMessageError, match="lacks the coordinator's privacy ledger"):
            read_advertise_request(content)


@pytest.mark.parametrize("people", [0, -1, 1.0])
def test_people_are_a_whole_number_of_at_least_one(people):
    content = advertise_reply({"moments": b"keys"}, 24, CHAIN)
    assert (read_people(content), read_protocol(content)) == (24, {"moments": b"keys"})
    assert read_ledger(content) == CHAIN.to_bytes()
    with pytest.raises(MalformedMessageError, match="number of people is missing or wrong"):
        read_people(RecordDict({"metrics": MetricRecord({"people": people})}))


@pytest.mark.parametrize("record", [{}, {"moments": "keys"}, {"moments": b"keys", "threshold": 7}])
def test_messages_of_secure_aggregation_are_bytes_all_of_them(record):
    with pytest.raises(MalformedMessageError, match="are missing"):
        read_protocol(RecordDict({"secagg": ConfigRecord(record)}))


def test_every_refusal_has_words_of_its_own_and_each_code_of_flower_says_what_happened():
    texts = [Refusal.describe(refusal.value) for refusal in Refusal]
    assert texts == [refusal.text for refusal in Refusal]
    assert len(set(texts)) == len(texts)
    said = {
        Refusal.BAD_REQUEST: "did not understand",
        Refusal.NOT_AGREED: "outside what its operator agreed to",
        Refusal.REPEATED: "once in a run and in its turn",
        Refusal.BAD_DATA: "embeddings are missing or do not fit",
        Refusal.INTERNAL: "it failed",
        Refusal.NOT_TRUSTED: "that honest parties never send, or too few",
        Refusal.WRONG_LEDGER: "ledger does not extend the copy",
        Refusal.NO_BUDGET: "its own budget over all runs has no room",
    }
    assert all(words in refusal.text for refusal, words in said.items())
    assert said.keys() == set(Refusal)
    flowers = {
        ErrorCode.MESSAGE_UNAVAILABLE: "did not answer in time",
        ErrorCode.NODE_UNAVAILABLE: "went away",
        ErrorCode.LOAD_CLIENT_APP_EXCEPTION: "could not be loaded",
        ErrorCode.CLIENT_APP_CRASHED: "crashed or was killed",
        99: "it failed",
    }
    for code, words in flowers.items():
        assert re.fullmatch(rf".*{words}.* \(Flower reports error code {int(code)}\)", Refusal.describe(int(code)))
