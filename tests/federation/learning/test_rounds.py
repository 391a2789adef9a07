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
    plan_kind,
    protocol_content,
    question_digest,
    range_request,
    read_advertise_request,
    read_evaluation_request,
    read_ledger,
    read_moments_request,
    read_people,
    read_protocol,
    read_range_request,
    read_scales_request,
    read_threshold_request,
    require_ring,
    scales_request,
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


# -------------------------------------------------------------------------------------------- the name of a question
FOUR = np.arange(4.0)


def named(record="arrays", key="start", array=FOUR, **facts):
    """One array in one record, and what a message says of it."""
    found = Array(array)
    given = {"dtype": found.dtype, "shape": found.shape, "stype": found.stype, "data": found.data} | facts
    return RecordDict({record: ArrayRecord({key: Array(**given)})})


DIFFERENT = {
    "arrays": named(),
    "another record": named(record="others"),
    "another key": named(key="end"),
    "other numbers": named(array=FOUR + 1),
    "another kind": named(dtype="int64"),
    "another shape": named(shape=(2, 2)),
    "another coding": named(stype="raw"),
    "two arrays": RecordDict({"arrays": ArrayRecord({"start": Array(FOUR), "subspace": Array(FOUR)})}),
    "the second other": RecordDict({"arrays": ArrayRecord({"start": Array(FOUR), "subspace": Array(FOUR + 1)})}),
    "a number": RecordDict({"pairs": ConfigRecord({"frames": 1})}),
    "of another record": RecordDict({"groups": ConfigRecord({"frames": 1})}),
    "of another name": RecordDict({"pairs": ConfigRecord({"references": 1})}),
    "another number": RecordDict({"pairs": ConfigRecord({"frames": 2})}),
    "a text": RecordDict({"pairs": ConfigRecord({"frames": "1"})}),
    "a truth": RecordDict({"pairs": ConfigRecord({"frames": True})}),
    "two numbers": RecordDict({"pairs": ConfigRecord({"frames": 1, "references": 1})}),
    "the second number": RecordDict({"pairs": ConfigRecord({"frames": 1, "references": 2})}),
    "both kinds": RecordDict({**named(), "pairs": ConfigRecord({"frames": 1})}),
    "nothing": RecordDict(),
}


def test_each_field_of_a_question_is_in_its_name_and_no_message_of_secure_aggregation_is():
    """What is charged once is one question: another one, however alike, is charged again."""
    names = {said: question_digest(content) for said, content in DIFFERENT.items()}
    assert len(set(names.values())) == len(DIFFERENT)
    for said, content in DIFFERENT.items():
        for messages in ({"moments": b"1"}, {"moments": b"2", "threshold": b"3"}):
            assert question_digest(RecordDict({**content, **protocol_content(messages)})) == names[said]


def test_records_and_their_fields_have_no_order_in_the_name_of_a_question():
    one = {"arrays": ArrayRecord({"a": Array(FOUR), "b": Array(FOUR + 1)}), "c": ConfigRecord({"d": 1, "e": 2})}
    other = {"c": ConfigRecord({"e": 2, "d": 1}), "arrays": ArrayRecord({"b": Array(FOUR + 1), "a": Array(FOUR)})}
    assert question_digest(RecordDict(one)) == question_digest(RecordDict(other))


# ------------------------------------------------------------------------------------------------ the other messages
def test_each_seed_of_a_proof_stays_with_its_member():
    content = range_request("threshold", {5: b"five", 2: b"two", 11: b"eleven"})
    assert read_range_request(content) == ("threshold", {2: b"two", 5: b"five", 11: b"eleven"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"release": b"threshold"}, "says nothing of a sum"),
        ({"release": None}, "says nothing of a sum"),
        ({"members": 2}, "says nothing of a sum"),
        ({"seeds": b"two"}, "says nothing of a sum"),
        ({"members": [2, 2]}, "not those of some members"),
        ({"members": [2]}, "not those of some members"),
        ({"members": [2, 5, 6]}, "not those of some members"),
        ({"members": [2.0, 5.0]}, "not those of some members"),
        ({"members": [True, False]}, "not those of some members"),
        ({"seeds": ["two", "five"]}, "not those of some members"),
        ({"seeds": [b"two", b"five", b"six"]}, "not those of some members"),
    ],
    ids=str,
)
def test_a_request_for_a_proof_of_another_form_is_refused(changes, said):
    fields = {"release": "threshold", "members": [2, 5], "seeds": [b"two", b"five"]}
    assert read_range_request(RecordDict({"range": ConfigRecord(fields)}))[1] == {2: b"two", 5: b"five"}
    changed = {name: value for name, value in (fields | changes).items() if value is not None}
    with pytest.raises(MalformedMessageError, match=said):
        read_range_request(RecordDict({"range": ConfigRecord(changed)}))


def test_scales_are_as_many_as_the_plan_tunes_and_within_their_own_bound():
    assert read_scales_request(scales_request(np.arange(5.0)), TUNED).tolist() == [0.0, 1, 2, 3, 4]
    most = BOUNDS["scales"][1]
    assert read_scales_request(scales_request(np.full(5, float(most))), TUNED).max() == most
    for wrong, said in (
        (np.zeros(4), "'scales' must be float64 of shape"),
        (np.zeros(5, np.float32), "'scales' must be float64 of shape"),
        (with_number(np.zeros(5), 1.001 * most), "all numbers of the scales"),
        (with_number(np.zeros(5), np.nan), "all numbers of the scales"),
    ):
        with pytest.raises(MalformedMessageError, match=said):
            read_scales_request(scales_request(wrong), TUNED)


def test_a_plan_is_read_as_what_it_is():
    measures = evaluation_of(a_release())
    for plan in (PLAN, TUNED, measures):
        assert plan_kind(plan.to_config()) is type(plan)
        assert read_advertise_request(advertise_request(plan, ShownLedger(CHAIN, "1:a")))[0] == plan


def test_an_answer_without_a_ledger_has_none_and_one_that_is_no_bytes_is_refused():
    assert read_ledger(protocol_content({"moments": b"keys"})) is None
    for record in ({}, {"lines": "text"}, {"lines": 7}):
        with pytest.raises(MalformedMessageError, match="its privacy ledger is not bytes"):
            read_ledger(RecordDict({"ledger": ConfigRecord(record)}))


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
