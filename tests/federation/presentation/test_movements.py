"""A head that turns as it is asked passes; pictures, other orders, jumps and absences do not, and each is told why."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from federation.errors import UsageError
from federation.presentation.movements import (
    MOST_SECONDS,
    Fault,
    Look,
    Movement,
    Omission,
    Pose,
    Watcher,
    challenge_of,
    orders_without,
    pose_between,
)
from tests.federation.presentation.heads import ANGLES, HEAD, PICTURE, SIDE, Film, bent, judged, landmarks

LEFT, RIGHT, UP, DOWN, CLOSER = Movement
ORDER = (LEFT, UP, RIGHT)
VECTORS = Path(__file__).parents[2] / "vectors" / "movements.json"
QUICK = 4
"""Frames of a movement that leave time for three."""


@pytest.mark.parametrize("order", orders_without(None), ids=lambda order: "-".join(one.value for one in order))
def test_a_head_that_turns_as_it_is_asked_passes(order):
    watcher = judged(Film(HEAD).do(*order, count=QUICK).looks, order)
    assert (watcher.is_passed, watcher.fault, watcher.done) == (True, None, 3)
    assert watcher.wanted is None


@pytest.mark.parametrize("omission", list(Omission))
def test_whoever_leaves_something_out_comes_closer_instead(omission):
    for order in orders_without(omission):
        assert judged(Film(HEAD).do(*order, count=QUICK).looks, order).is_passed, order


def test_no_film_of_another_order_passes():
    orders = orders_without(None)
    films = {order: Film(HEAD).do(*order, count=QUICK).looks for order in orders[:6]}
    for (filmed, looks), asked in itertools.product(films.items(), orders):
        watcher = judged(looks, asked)
        assert watcher.is_passed is (filmed == asked)
        if filmed != asked:
            assert watcher.fault is Fault.ANOTHER


@pytest.mark.parametrize("order", [ORDER, (DOWN, LEFT, DOWN), (UP, RIGHT, UP)])
@pytest.mark.parametrize("points", [PICTURE, bent(300.0), bent(140.0)], ids=["flat", "slightly bent", "bent"])
def test_a_picture_that_is_turned_and_shaken_does_not_turn_as_a_head_does(order, points):
    rng = np.random.default_rng(3)
    film = Film(points).hold()
    for movement in order:
        turn, nod = ANGLES[movement]
        hands = rng.normal(0, 1, 4)
        film.go(1.2 * turn + hands[0], 1.2 * nod + hands[1], count=6, shift=4 * hands[2:]).hold(14).go(count=6)
    watcher = judged(film.looks, order)
    assert (watcher.fault, watcher.done) == (Fault.TOO_LATE, 0)


@pytest.mark.parametrize("omission", [None, *Omission])
@pytest.mark.parametrize("start", [(0, 0), (0, -40), (0, 40), (-32, 0), (32, 0), (-32, -40), (-32, 40)])
def test_a_bent_picture_that_is_held_turned_away_at_first_has_not_twice_the_way_for_every_movement(start, omission):
    ends = {LEFT: (45, start[1]), RIGHT: (-45, start[1]), UP: (start[0], -40), DOWN: (start[0], 40)}
    for order in orders_without(omission):
        film = Film(bent(90.0))
        film.pose = (*start, 500.0)
        film.hold(3)
        for movement in order:
            if movement is CLOSER:
                film.go(*start, distance=350.0, count=QUICK).hold(3).go(*start, count=QUICK)
            else:
                film.go(*ends[movement], count=QUICK).hold(3).go(*start, count=QUICK)
        assert not judged(film.hold(60).looks, order).is_passed, order


def test_a_small_turn_is_not_enough_and_takes_too_long():
    assert judged(Film(HEAD).hold().go(22, 0).hold(70).looks, ORDER).fault is Fault.TOO_LATE


def test_a_film_ends_after_four_seconds_to_the_look():
    film = Film(HEAD, rate=8).hold(3 + 32)
    assert film.looks[-1].seconds - film.looks[2].seconds == MOST_SECONDS
    assert judged(film.looks, ORDER).fault is None
    assert judged(film.hold(1).looks, ORDER).fault is Fault.TOO_LATE


def test_a_second_picture_in_the_place_of_the_first_jumps():
    assert judged(Film(HEAD).hold().go(36, 0, count=1).hold(4).looks, ORDER).fault is Fault.JUMPED


def changed_out_of_sight():
    """Somebody turns in part, is out of sight for two looks, and has turned whole when there is a face again."""
    film = Film(HEAD).hold().go(18, 0).hold(3)
    seen = len(film.looks)
    later = film.go(36, 0, count=2).hold(6).looks[seen + 2 :]
    return [*film.looks[:seen], None, None, *later]


def test_whoever_is_lost_from_sight_on_the_way_has_jumped():
    watcher = judged(changed_out_of_sight(), ORDER)
    assert (watcher.fault, watcher.done) == (Fault.JUMPED, 0)


def test_whoever_is_lost_from_sight_on_the_way_goes_the_way_again():
    film = Film(HEAD).hold().go(18, 0).hold(3)
    seen = len(film.looks)
    later = film.hold(2).go(count=3).go(36, 0, count=6).hold(3).looks[seen + 2 :]
    assert judged([*film.looks[:seen], None, None, *later], ORDER).done == 1


@pytest.mark.parametrize(
    "change",
    [{"shift": (200.0, 0.0)}, {"distance": 250.0}, {"distance": 1000.0}],
    ids=["beside", "nearer", "farther"],
)
def test_a_face_that_is_suddenly_elsewhere_jumps(change):
    assert judged(Film(HEAD).hold().go(count=1, **change).looks, ORDER).fault is Fault.JUMPED


@pytest.mark.parametrize(
    ("turn", "nod", "middle"),
    [
        (0.15, -0.15, True),
        (-0.15, 0.15, True),
        (0.16, 0, False),
        (-0.16, 0, False),
        (0, 0.16, False),
        (0, -0.16, False),
    ],
)
def test_who_turns_or_nods_does_not_look_into_the_camera(turn, nod, middle):
    assert Pose(turn, nod, 1.0).is_middle is middle


@pytest.mark.parametrize(
    ("nose", "ears", "begins"),
    [(0, 0, True), (19, 39, True), (21, 0, False), (-21, 0, False), (0, 41, False), (0, -41, False)],
)
def test_a_film_begins_with_nose_and_ears_in_the_middle_of_the_eyes(nose, ears, begins):
    """Eyes 100 pixels apart; the nose may be off by 0.2 of that, the ears' middle by 0.4."""
    points = [(0, 0), (100, 0), (50 + nose, 50), (50, 100), (-40 + ears, 0), (140 + ears, 0)]
    watcher = Watcher(ORDER)
    for at in range(4):
        watcher.see(Look(0.1 * at, np.array(points, dtype=float), 1000))
    assert (watcher.wanted is not None) is begins


def test_another_movement_than_the_one_asked_for_ends_the_film():
    assert judged(Film(HEAD).do(LEFT, count=QUICK).looks, (RIGHT, UP, RIGHT)).fault is Fault.ANOTHER
    watcher = judged(Film(HEAD).do(LEFT, LEFT, count=QUICK).looks, (LEFT, UP, LEFT))
    assert (watcher.fault, watcher.done) == (Fault.ANOTHER, 1)


def test_coming_closer_is_no_movement_unless_it_may_be_asked_for():
    assert judged(Film(HEAD).do(CLOSER, *ORDER, count=3).looks, ORDER).is_passed
    assert judged(Film(HEAD).do(CLOSER, count=QUICK).looks, (LEFT, CLOSER, LEFT)).fault is Fault.ANOTHER


def test_whoever_leaves_the_picture_begins_again():
    looks = Film(HEAD).hold(6).looks
    assert judged([*looks, *[None] * 5], ORDER).fault is None
    assert judged([*looks, *[None] * 9], ORDER).fault is Fault.AWAY
    later = Look(looks[-1].seconds + 0.6, looks[-1].landmarks, SIDE)
    assert judged([*looks, later], ORDER).fault is Fault.AWAY


def test_nobody_and_somebody_who_looks_aside_are_waited_for_six_seconds():
    assert judged([None] * 90, ORDER).fault is None
    assert judged([None] * 93, ORDER).fault is Fault.NOBODY
    aside = [Look(number / 15, landmarks(HEAD, 30), SIDE) for number in range(93)]
    assert judged(aside[:88], ORDER).wanted is None
    assert judged(aside, ORDER).fault is Fault.NOBODY


def test_a_face_that_is_too_near_is_told_so():
    looks = [Look(number / 15, landmarks(HEAD, distance=220), SIDE) for number in range(4)]
    assert judged(looks, ORDER).fault is Fault.TOO_NEAR


def test_after_its_end_a_film_changes_nothing_any_more():
    passed = judged(Film(HEAD).do(*ORDER, count=QUICK).looks, ORDER)
    pose = passed.pose
    passed.see(Look(99.0, landmarks(PICTURE), SIDE))
    passed.miss(199.0)
    assert (passed.is_passed, passed.fault, passed.pose) == (True, None, pose)
    refused = judged([None] * 93, ORDER)
    refused.see(Look(99.0, landmarks(HEAD), SIDE))
    assert refused.fault is Fault.NOBODY


@pytest.mark.parametrize("spoiled", [np.zeros((6, 2)), np.full((6, 2), 7.0)])
def test_landmarks_on_one_point_are_no_face_that_looks_into_the_camera(spoiled):
    watcher = judged([Look(number / 15, spoiled, SIDE) for number in range(5)], ORDER)
    assert watcher.wanted is None
    assert not watcher.is_passed


def test_what_is_asked_for_is_told_as_soon_as_the_face_looks_into_the_camera():
    watcher, asked = Watcher(ORDER), []
    for look in Film(HEAD).hold(3).looks:
        asked.append(watcher.wanted)
        watcher.see(look)
    assert asked == [None] * 3
    assert watcher.wanted is LEFT


def test_as_soon_as_a_movement_is_done_none_is_on_its_way():
    watcher, done, seen = Watcher(ORDER), 0, []
    for look in Film(HEAD).do(*ORDER, count=QUICK).looks:
        watcher.see(look)
        if watcher.done > done:
            seen.append((watcher.done, watcher.on_the_way, watcher.wanted))
        done = watcher.done
    assert seen == [(1, None, UP), (2, None, RIGHT), (3, None, None)]


def moved(nose, right_ear, left_ear, scale=1.0):
    """Against a face whose eyes are 100 pixels apart and whose mouth is 80 below; in distances of the eyes."""
    points = np.array([(-50, 0), (50, 0), (3, 45), (0, 80), (-90, 10), (94, 12)], dtype=float)
    later = points.copy()
    later[[2, 4, 5]] += 100 * np.array([nose, right_ear, left_ear])
    first = [Look(0.1 * at, points + np.array((400, 300)), 1000) for at in range(3)]
    return pose_between(first, Look(0.3, later * scale + np.array((410, 290)), 1000))


@pytest.mark.parametrize(("turn", "nod"), [(0.3, 0.0), (0.0, 0.2), (-0.5, 0.3), (0.2, -0.4)])
@pytest.mark.parametrize("scale", [0.8, 1.2])
def test_a_pose_is_how_far_nose_and_ears_have_moved_against_each_other(turn, nod, scale):
    """A head's nose moves by 0.42 and 0.65 where its ears move by 1 the other way."""
    pose, change = moved((0.42 * turn, 0.65 * nod), (-turn, -nod), (-turn, -nod), scale)
    assert (pose.turn, pose.nod, pose.scale) == pytest.approx((turn, nod, scale))
    assert change == pytest.approx(np.array([(0.42 * turn, 0.65 * nod), (-turn, -nod), (-turn, -nod)]), abs=1e-9)


@pytest.mark.parametrize(
    ("nose", "right_ear", "left_ear", "turn", "nod"),
    [
        ((0.1, 0.1), (0, 0), (0, 0), 0.042 / (0.42**2 + 2), 0.065 / (0.65**2 + 2)),
        ((0, 0), (0.1, 0.2), (0, 0), -0.1 / (0.42**2 + 2), -0.2 / (0.65**2 + 2)),
        ((0, 0), (0, 0), (0.1, 0.2), -0.1 / (0.42**2 + 2), -0.2 / (0.65**2 + 2)),
    ],
)
def test_nose_and_each_ear_count_by_how_far_they_move_in_a_head(nose, right_ear, left_ear, turn, nod):
    """The pose that fits all three best, by least squares."""
    pose, _ = moved(nose, right_ear, left_ear)
    assert (pose.turn, pose.nod) == pytest.approx((turn, nod))


# ---------------------------------------------------------------- both sides of each bound


def face(seconds, eyes=100.0, beside=0.0, side=1000, *, below=0.0):
    """Looks into the camera; the eyes so many pixels apart, their middle so many off where it usually is."""
    middle = [400 + beside, 300 + below]
    points = np.array([(-0.5, 0), (0.5, 0), (0, 0.5), (0, 1), (-0.9, 0), (0.9, 0)]) * eyes + middle
    return Look(seconds, points, side)


def aside(seconds):
    """The tip of the nose is where that of somebody is who looks elsewhere."""
    points = face(seconds).landmarks
    points[2, 0] += 30
    return Look(seconds, points, 1000)


def begun():
    """Has seen three looks up to a quarter of a second."""
    watcher = Watcher(ORDER)
    for seconds in (0.0, 0.125, 0.25):
        watcher.see(face(seconds))
    assert (watcher.wanted, watcher.fault) == (LEFT, None)
    return watcher


LATER = 2.0**-10


@pytest.mark.parametrize(("seconds", "fault"), [(7.0, None), (7.0 + LATER, Fault.NOBODY)])
def test_nobody_is_waited_for_longer_than_six_seconds_from_the_first_look(seconds, fault):
    for last in ("miss", "see"):
        watcher = Watcher(ORDER)
        watcher.miss(1.0)
        watcher.see(aside(3.0))
        if last == "miss":
            watcher.miss(seconds)
        else:
            watcher.see(aside(seconds))
        assert (watcher.fault, watcher.wanted) == (fault, None)


@pytest.mark.parametrize(("seconds", "fault"), [(0.75, None), (0.75 + LATER, Fault.AWAY)])
def test_a_face_may_be_away_for_half_a_second_from_the_last_look(seconds, fault):
    seen, missed, both = begun(), begun(), begun()
    seen.see(face(seconds))
    missed.miss(seconds)
    both.miss(0.5)
    both.see(face(seconds))
    assert [watcher.fault for watcher in (seen, missed, both)] == [fault] * 3


@pytest.mark.parametrize(("side", "fault"), [(500, None), (499, Fault.TOO_NEAR)])
def test_eyes_are_a_fifth_of_the_longer_side_apart_at_most(side, fault):
    watcher = Watcher(ORDER)
    for seconds in (0.0, 0.125, 0.25):
        watcher.see(face(seconds, side=side))
    assert (watcher.fault, watcher.wanted) == (fault, None if fault else LEFT)


@pytest.mark.parametrize(
    ("eyes", "beside", "fault"),
    [
        (100.0, 150.0, None),
        (100.0, -150.0, None),
        (100.0, 150.5, Fault.JUMPED),
        (100.0, -150.5, Fault.JUMPED),
        (130.0, 160.0, Fault.JUMPED),
        (80.0, 140.0, None),
        (135.0, 0.0, None),
        (136.0, 0.0, Fault.JUMPED),
        (75.0, 0.0, None),
        (74.0, 0.0, Fault.JUMPED),
    ],
)
def test_a_face_moves_one_and_a_half_of_its_last_eyes_and_grows_or_shrinks_by_a_third_at_most(eyes, beside, fault):
    for off in ({"beside": beside}, {"below": beside}, {"beside": 0.8 * beside, "below": 0.6 * beside}):
        watcher = begun()
        watcher.see(face(0.3, eyes, **off))
        assert (watcher.fault, watcher.pose is None) == (fault, fault is not None)


def test_the_first_three_looks_are_three_in_a_row():
    """Somebody else may have taken the place in between."""
    for between in (lambda watcher: watcher.miss(0.3), lambda watcher: watcher.see(aside(0.3))):
        watcher, wanted = Watcher(ORDER), []
        watcher.see(face(0.1))
        watcher.see(face(0.2))
        between(watcher)
        for seconds in (0.4, 0.5, 0.6):
            wanted.append(watcher.wanted)
            watcher.see(face(seconds))
        assert (wanted, watcher.wanted) == ([None] * 3, LEFT)


# ---------------------------------------------------------------- what a pose is made of, and when a movement begins


def straight(seconds, eyes, height, nose, ears):
    """A face whose eyes lie level, with nose and ears where they are said to be, in pixels from the eyes' middle."""
    points = [(-eyes / 2, 0), (eyes / 2, 0), nose, (0, height), *ears]
    return Look(seconds, np.array(points, dtype=float) + np.array((400, 300)), 1000)


def test_a_pose_is_told_from_the_mean_of_all_first_looks():
    """No two of them have one size, one height, one nose or one ear in common. By hand, in distances of the eyes."""
    first = [
        straight(0.1, 80, 60, (8, 24), ((-72, 6), (76, 12))),
        straight(0.2, 100, 90, (-5, 54), ((-95, 0), (90, 27))),
        straight(0.3, 120, 120, (24, 72), ((-96, 24), (132, 12))),
    ]
    pose, change = pose_between(first, straight(0.4, 90, 72, (27, 18), ((-63, 36), (99, -18))))
    nose, right, left = (
        np.mean([(8 / 80, 24 / 60), (-5 / 100, 54 / 90), (24 / 120, 72 / 120)], axis=0),
        np.mean([(-72 / 80, 6 / 60), (-95 / 100, 0), (-96 / 120, 24 / 120)], axis=0),
        np.mean([(76 / 80, 12 / 60), (90 / 100, 27 / 90), (132 / 120, 12 / 120)], axis=0),
    )
    down = (60 + 90 + 120) / (80 + 100 + 120)  # from the eyes to the mouth
    for moved_by, now, then in zip(
        change, ((27 / 90, 18 / 72), (-63 / 90, 36 / 72), (99 / 90, -18 / 72)), (nose, right, left), strict=True
    ):
        assert moved_by == pytest.approx([now[0] - then[0], (now[1] - then[1]) * down])
    assert pose.scale == pytest.approx(90 / 100)


def posed(seconds, turn=0.0, nod=0.0, scale=1.0):
    """The face of `face`, turned, nodded and come closer by so much."""
    middle = np.array((400, 300))
    points = face(seconds).landmarks - middle
    points[2] += (42 * turn, 65 * nod)
    points[4:] -= (100 * turn, 100 * nod)
    return Look(seconds, points * scale + middle, 1000)


def test_a_pose_is_the_middle_of_the_last_three_and_of_none_from_before_the_face_was_lost():
    watcher, seen = begun(), []
    for number, pose in enumerate(
        [(0.1, 0.02, 1.02), (0.3, -0.06, 1.1), (0.2, 0.05, 0.98), (0.05, 0.0, 1.2), None, (0.12, -0.03, 1.01)]
    ):
        if pose is None:
            watcher.miss(0.3 + 0.05 * number)
        else:
            watcher.see(posed(0.3 + 0.05 * number, *pose))
        seen.append((watcher.pose.turn, watcher.pose.nod, watcher.pose.scale, watcher.on_the_way))
    assert [one[:3] for one in seen] == [
        pytest.approx(pose)
        for pose in (
            (0.1, 0.02, 1.02),
            (0.2, -0.02, 1.06),
            (0.2, 0.02, 1.02),
            (0.2, 0.0, 1.1),
            (0.2, 0.0, 1.1),
            (0.12, -0.03, 1.01),
        )
    ]
    assert [one[3] for one in seen] == [None, LEFT, LEFT, LEFT, None, None]
    assert (watcher.fault, watcher.done, watcher.wanted) == (None, 0, LEFT)


def held(watcher, *poses, seconds=0.3):
    """Each pose for three looks, so that it is the one that counts."""
    for pose in poses:
        for _ in range(3):
            watcher.see(posed(seconds, **pose))
            seconds += 0.03125
    return watcher.done, watcher.fault, watcher.on_the_way


MORE = 1e-3


@pytest.mark.parametrize(
    ("movement", "axis", "middle", "whole"),
    [
        (LEFT, "turn", 0, 0.55),
        (RIGHT, "turn", 0, -0.55),
        (UP, "nod", 0, -0.30),
        (DOWN, "nod", 0, 0.30),
        (CLOSER, "scale", 1, 0.25),
    ],
)
def test_a_movement_counts_from_its_whole_after_a_quarter_and_is_over_below_six_tenths(movement, axis, middle, whole):
    other = LEFT if movement is not LEFT else UP

    def asked():
        watcher = Watcher((movement, other, movement))
        for seconds in (0.0, 0.125, 0.25):
            watcher.see(face(seconds))
        return watcher

    def share(of):
        return {axis: middle + of * whole}

    on_the_way, hardly = share(0.25 + MORE), share(0.25 - MORE)
    assert held(asked(), hardly) == (0, None, None)
    assert held(asked(), hardly, share(1 + MORE)) == (0, Fault.JUMPED, None)
    assert held(asked(), on_the_way) == (0, None, movement)
    assert held(asked(), on_the_way, share(0.1)) == (0, None, movement)
    assert held(asked(), on_the_way, share(1 - MORE)) == (0, None, movement)
    assert held(asked(), on_the_way, share(0.1), share(1 + MORE)) == (1, None, None)
    done = (on_the_way, share(1 + MORE))
    assert held(asked(), *done, share(0.6 + MORE)) == (1, None, None)
    assert held(asked(), *done, share(0.6 + MORE), share(1.1)) == (1, None, None)
    assert held(asked(), *done, share(0.6 - MORE)) == (1, None, movement)
    assert held(asked(), *done, share(0.6 - MORE), share(1.1)) == (1, Fault.ANOTHER, None)


def test_a_look_that_ends_the_last_movement_ends_the_film_even_if_it_is_the_first_after_four_seconds():
    """And one that does not comes too late."""
    for last, found in ((-0.56, (3, None)), (-0.54, (2, Fault.TOO_LATE))):
        watcher = begun()
        held(watcher, {"turn": 0.2}, {"turn": 0.56}, {"turn": 0.1}, {"nod": -0.1}, {"nod": -0.31}, {}, seconds=0.5)
        for at in range(12):
            watcher.see(posed(1.25 + 0.25 * at, turn=-0.4 if at > 8 else 0.0))
        assert (watcher.done, watcher.fault, watcher.on_the_way) == (2, None, RIGHT)
        watcher.see(posed(4.25, turn=last))  # the middle of three is still on its way
        assert (watcher.done, watcher.fault) == (2, None)
        watcher.see(posed(4.5, turn=last))
        assert (watcher.done, watcher.fault, watcher.is_passed) == (*found, found[0] == 3)


# ---------------------------------------------------------------- what is asked for


def test_every_order_is_as_likely_as_any_other_and_follows_from_the_nonce():
    nonces = [hashlib.sha256(str(number).encode()).digest() for number in range(2800)]
    drawn = Counter(map(challenge_of, nonces))
    assert set(drawn) == set(orders_without(None))
    assert sum((count - 200) ** 2 / 200 for count in drawn.values()) < 39  # chi-squared of 13: 1 in 5000
    assert challenge_of(nonces[0]) == challenge_of(nonces[0])


def test_orders_have_three_movements_no_two_in_a_row_alike_and_both_ways():
    for order in orders_without(None):
        assert len(order) == 3
        assert order[0] is not order[1]
        assert order[1] is not order[2]
        assert {LEFT, RIGHT} <= set(order)
        assert CLOSER not in order
    for omission, left, others in (
        (Omission.TURNING, {UP, DOWN}, {LEFT, RIGHT}),
        (Omission.NODDING, {LEFT, RIGHT}, {UP, DOWN}),
    ):
        for order in orders_without(omission):
            assert left <= set(order)
            assert others.isdisjoint(order)


@pytest.mark.parametrize("nonce", [b"", bytes(31), bytes(33)])
def test_only_a_nonce_makes_a_challenge(nonce):
    with pytest.raises(UsageError, match="a nonce has 32 bytes"):
        challenge_of(nonce)


def test_a_look_shows_no_landmark():
    assert "landmarks" not in repr(Look(0.0, landmarks(HEAD), SIDE))


# ---------------------------------------------------------------- what both languages judge alike


def films():
    """Looks and what was asked, by name; the page's tests judge the same numbers."""
    near = [Look(number / 15, landmarks(HEAD, distance=220), SIDE) for number in range(4)]
    return {
        "a head": (Film(HEAD).do(*ORDER, count=QUICK).looks, ORDER),
        "a head that comes closer": (Film(HEAD).do(UP, CLOSER, DOWN, count=QUICK).looks, (UP, CLOSER, DOWN)),
        "another order": (Film(HEAD).do(*ORDER, count=QUICK).looks, (RIGHT, UP, LEFT)),
        "a picture": (Film(PICTURE).hold().go(50, 0).hold(60).looks, ORDER),
        "a bent picture": (Film(bent(140.0)).hold().go(43, 0).hold(60).looks, ORDER),
        "two pictures": (Film(HEAD).hold().go(36, 0, count=1).hold(4).looks, ORDER),
        "changed out of sight": (changed_out_of_sight(), ORDER),
        "nobody": ([None] * 93, ORDER),
        "away": ([*Film(HEAD).hold(6).looks, *[None] * 9], ORDER),
        "too near": (near, ORDER),
    }


def name_of(fault):
    return fault and fault.name.lower().replace("_", "-")


def vectors():
    nonces = [hashlib.sha256(f"vector {number}".encode()).digest() for number in range(6)]
    omissions = (None, None, None, Omission.TURNING, Omission.NODDING, None)
    told = {}
    for name, (looks, order) in films().items():
        watcher = judged(looks, order)
        rows = [look and [round(look.seconds, 6), *np.round(look.landmarks, 3).ravel().tolist()] for look in looks]
        told[name] = {
            "movements": [one.value for one in order],
            "side": SIDE,
            "looks": rows,
            "done": watcher.done,
            "fault": name_of(watcher.fault),
        }
    return {
        "challenges": [
            {"nonce": n.hex(), "without": o and o.value, "movements": [one.value for one in challenge_of(n, o)]}
            for n, o in zip(nonces, omissions, strict=True)
        ],
        "films": told,
    }


def test_the_films_that_the_page_judges_too_are_these():
    assert json.loads(VECTORS.read_text()) == json.loads(json.dumps(vectors()))
    faults = {film["fault"] for film in vectors()["films"].values()}
    assert faults == {None, *map(name_of, Fault)}


def test_the_films_are_judged_from_the_file_as_they_were_made():
    for name, film in json.loads(VECTORS.read_text())["films"].items():
        looks = [look and Look(look[0], np.array(look[1:]).reshape(6, 2), film["side"]) for look in film["looks"]]
        watcher = judged(looks, [Movement(one) for one in film["movements"]])
        assert (watcher.done, name_of(watcher.fault)) == (film["done"], film["fault"]), name
