"""A member that spoils a sum is named: every survivor shows that its own input was in bounds, and it cannot."""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from Crypto.PublicKey.ECC import EccPoint
from flwr.app import ConfigRecord, Message, RecordDict

import client.node.app
from federation.errors import MalformedMessageError, PeerError, RefusedError, RoundAbortedError
from federation.learning.rounds import (
    EVALUATE_THRESHOLD,
    MOMENTS,
    OPEN_SHARES,
    SHOW_RANGE,
    TRAIN_MOMENTS,
    Refusal,
    moments_request,
    protocol_content,
    range_request,
    read_range_request,
)
from federation.secagg import Node, masking
from federation.secagg import ranges as range_proofs
from federation.secagg.ranges import ROWS, Ranges
from federation.secagg.ring import SCALE
from tests.federated import CALLED, ledger_kinds, name_the_organisations, run, the_plan, write_federation
from tests.integration.lying import LyingCoordinator
from tests.public_people import public_centre
from tests.simulator import FIRST_NODE, InProcessGrid

SIZE = 40
GONE = 5
SOUTH = FIRST_NODE + 1


# ------------------------------------------------------------------------------------------------- the proof alone
class Members:
    """Four survivors and one that left, without any other exchange."""

    def __init__(self) -> None:
        self.context = os.urandom(32)
        self.seeds = {member: os.urandom(16) for member in (1, 2, 3, 4)}
        self.keys = {(low, high): os.urandom(32) for low in range(1, 5) for high in range(low + 1, GONE + 1)}
        self.ranges = Ranges(self.context, self.seeds, SIZE)
        self.bound = self.ranges.bound(6, 0.3 * SCALE)

    def keys_of(self, member):
        return {edge: key for edge, key in self.keys.items() if member in edge}

    def gone(self, member):
        return {edge: key for edge, key in self.keys_of(member).items() if GONE in edge}

    def masked(self, member, values):
        made = values.astype(np.int64).astype(np.uint64) + masking.self_mask(self.seeds[member], self.context, SIZE)
        for (adds, _), key in self.keys_of(member).items():
            mask = masking.mask(key, SIZE)
            made = made + mask if adds == member else made - mask
        return made

    def show(self, member, values):
        return self.ranges.show(member, self.masked(member, values), self.keys_of(member), self.bound)

    def check(self, member, values, shown):
        edges = self.ranges.edges_of(member, self.keys)
        return self.ranges.check(member, self.masked(member, values), self.gone(member), edges, self.bound, shown)


@pytest.fixture(scope="module")
def members():
    return Members()


def of_length(length):
    values = np.random.default_rng(3).normal(size=SIZE)
    return values / np.linalg.norm(values) * length * SCALE


@pytest.fixture(scope="module")
def shown(members):
    return members.show(1, of_length(6.0))


def test_an_input_in_bounds_is_shown_and_both_sides_of_a_mask_commit_to_the_same(members, shown):
    mine = members.check(1, of_length(6.0), shown)
    theirs = members.check(2, of_length(0.0), members.show(2, of_length(0.0)))
    assert set(mine) == {(1, 2), (1, 3), (1, 4)}
    assert mine[1, 2] == theirs[1, 2]
    assert mine[1, 3] != theirs[2, 3]


@pytest.mark.parametrize("length", [150.0, 1e4, 2.0**29])
def test_an_input_out_of_bounds_cannot_be_shown(members, length):
    with pytest.raises(RefusedError, match="longer than it may be"):
        members.show(1, of_length(length))


def test_no_proof_fits_another_input_and_none_another_member(members, shown):
    with pytest.raises(PeerError, match="does not hold"):
        members.check(1, of_length(150.0), shown)
    with pytest.raises(PeerError, match="does not hold"):
        members.check(2, of_length(6.0), shown)


def test_a_proof_of_other_seeds_or_another_session_is_none(members, shown):
    edges, gone = members.ranges.edges_of(1, members.keys), members.gone(1)
    for changed in (
        Ranges(os.urandom(32), members.seeds, SIZE),
        Ranges(members.context, {**members.seeds, 3: os.urandom(16)}, SIZE),
    ):
        with pytest.raises(PeerError, match="does not hold"):
            changed.check(1, members.masked(1, of_length(6.0)), gone, edges, members.bound, shown)
    with pytest.raises(PeerError, match=r"its proof does not hold"):
        members.ranges.check(1, members.masked(1, of_length(6.0)), gone, edges, members.bound + 1, shown)


def test_any_part_that_is_changed_is_noticed(members, shown):
    bits = sum(range_proofs._bits(members.bound, 3))
    points, scalars = 3 * ROWS + 3 * ROWS * bits, 3 * ROWS * bits
    assert len(shown) == 33 * points + 32 * scalars
    rng = np.random.default_rng(5)
    for part in [*rng.integers(0, points, 3) * 33, *(33 * points + rng.integers(0, scalars, 3) * 32)]:
        for offset in (0, 17):
            damaged = bytearray(shown)
            damaged[part + offset] ^= 1
            with pytest.raises(PeerError, match=r"its proof does not hold"):
                members.check(1, of_length(6.0), bytes(damaged))


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"\0", lambda _: b""])
def test_a_proof_of_another_length_is_none(members, shown, damage):
    with pytest.raises(MalformedMessageError, match="another length"):
        members.check(1, of_length(6.0), damage(shown))


def test_a_number_that_is_too_large_is_refused(members, shown):
    """Else one proof would have many encodings."""
    order = range_proofs._ORDER
    zero = int.from_bytes(shown[-32:], "big")
    damaged = shown[:-32] + ((zero + order) % 2**256).to_bytes(32, "big")
    with pytest.raises(PeerError, match=r"its proof does not hold"):
        members.check(1, of_length(6.0), damaged)


def test_a_mask_that_is_not_the_one_agreed_on_shows_in_the_pair(members):
    """Who adds a lie to its input can call it a mask. Then the other one commits to another mask."""
    lie = of_length(1e6)
    keys = {**members.keys_of(1), (1, 2): os.urandom(32)}
    other_mask = masking.mask(keys[1, 2], SIZE) - masking.mask(members.keys[1, 2], SIZE)
    spoiled = members.masked(1, of_length(0.0)) + other_mask
    shown = members.ranges.show(1, spoiled, keys, members.bound)
    edges = members.ranges.edges_of(1, members.keys)
    mine = members.ranges.check(1, spoiled, members.gone(1), edges, members.bound, shown)
    theirs = members.check(2, of_length(0.0), members.show(2, of_length(0.0)))
    assert mine[1, 2] != theirs[1, 2]
    assert lie.any()


def test_signs_are_as_often_plus_as_minus_and_differ_with_every_seed(members):
    signs = Ranges(members.context, members.seeds, 10_000).signs
    assert signs.shape == (ROWS, 10_000)
    assert (np.abs(signs.mean(axis=1) - 0.5) < 0.03).all()
    assert len({row.tobytes() for row in signs}) == ROWS
    others = Ranges(members.context, {**members.seeds, 4: bytes(16)}, 10_000).signs
    assert 0.4 < (signs == others).mean() < 0.6


def test_signed_sums_of_an_honest_input_stay_in_bounds_and_those_of_a_long_one_do_not():
    rng, inside = np.random.default_rng(8), 0
    for number in range(300):
        ranges = Ranges(struct.pack("<32s", b"%d" % number), {1: bytes([number % 256]) * 16}, 64)
        bound = ranges.bound(6, 0.3 * SCALE)
        direction = rng.normal(size=64)
        honest = 6 * SCALE * direction / np.linalg.norm(direction) + rng.normal(size=64) * 0.3 * SCALE
        sums = [value - (value >> 63 << 64) for value in ranges.sums(honest.astype(np.int64).astype(np.uint64))]
        assert max(map(abs, sums)) <= bound
        long = 4 * bound * direction / np.linalg.norm(direction)
        sums = [value - (value >> 63 << 64) for value in ranges.sums(long.astype(np.int64).astype(np.uint64))]
        inside += max(map(abs, sums)) <= bound
    assert inside == 0


def test_points_have_one_encoding_and_nothing_else_is_a_point():
    for point in (range_proofs._G, range_proofs._H, range_proofs._G * 12345):
        data = range_proofs._encoded(point)
        assert range_proofs._point(data) == point
        for wrong in (b"\4" + data[1:], data[:-1], data + b"\0", data[:1] + b"\xff" * 32):
            with pytest.raises(MalformedMessageError, match="no point"):
                range_proofs._point(wrong)
    assert EccPoint(range_proofs._H.x, range_proofs._H.y, "p256") == range_proofs._H


# ------------------------------------------------------------------------------------------------- in a whole run
@pytest.fixture
def config(tmp_path, monkeypatch):
    """Two signed sums are enough for lies as large as these, and a quarter of the work."""
    monkeypatch.setattr(range_proofs, "ROWS", 2)
    config = write_federation(tmp_path)
    name_the_organisations(config)
    return config | {"round-deadline-seconds": 120.0}


@pytest.fixture
def hurried(monkeypatch):
    """A coordinator that waits a thousandth of the time."""
    clock = SimpleNamespace(monotonic=lambda: 1000 * time.monotonic(), sleep=time.sleep)
    monkeypatch.setattr("server.coordinator.secure_sums.time", clock)


def spoiling(by=1 << 45, show=lambda reply: reply):
    """South adds a lot to its masked input; and what happens to its proof."""

    def tamper(node, reply):
        if node == SOUTH and reply.metadata.message_type == TRAIN_MOMENTS:
            data = bytes(reply.content["secagg"]["moments"])
            lie = np.frombuffer(data[44:52], dtype="<u8") + np.uint64(by)  # the first number
            lied = data[:44] + lie.astype("<u8").tobytes() + data[52:]
            reply.content = RecordDict({**reply.content, **protocol_content({"moments": lied})})
        if node == SOUTH and reply.metadata.message_type == SHOW_RANGE:
            return show(reply)
        return reply

    return tamper


def test_who_spoils_a_sum_is_named_and_nobody_else(config):
    with pytest.raises(RoundAbortedError, match="the sum for moments was spoiled") as caught:
        run(config, tamper=spoiling())
    assert "south did not show that its input is in bounds" in str(caught.value)
    assert not [name for name in CALLED if name != "south" and name in str(caught.value)]
    assert "stays charged" in str(caught.value)
    assert ledger_kinds(config) == ["open", "reserve"]


@pytest.mark.usefixtures("hurried")
def test_masks_with_one_that_left_are_no_excuse_and_no_fault(config):
    """The others added and took off masks with east. Its opened seed gives both."""
    config["dropouts"], spoil = 1, spoiling()

    def tamper(node, reply):
        return None if reply.metadata.message_type == TRAIN_MOMENTS and node == FIRST_NODE + 3 else spoil(node, reply)

    with pytest.raises(RoundAbortedError, match="the sum for moments was spoiled") as caught:
        run(config, tamper=tamper)
    assert "south did not show that its input is in bounds" in str(caught.value)
    assert not [name for name in ("north", "west", "east") if name in str(caught.value)]


def test_a_total_of_pairs_that_is_longer_than_half_of_the_people_is_refused(config):
    """South adds what would pass in a sum of one record for each of 64 people, and no pairs of theirs can make."""

    def tamper(node, reply):
        if node == SOUTH and reply.metadata.message_type == EVALUATE_THRESHOLD:
            data = bytes(reply.content["secagg"]["threshold"])
            lie = np.frombuffer(data[44:52], dtype="<u8") + np.uint64(50 << 32)
            lied = data[:44] + lie.astype("<u8").tobytes() + data[52:]
            reply.content = RecordDict({**reply.content, **protocol_content({"threshold": lied})})
        return reply

    with pytest.raises(RoundAbortedError, match="the sum for threshold was spoiled: the total is longer than 32 "):
        run(config, tamper=tamper)


def test_beyond_a_complete_graph_nobody_is_asked_to_prove_anything(config, monkeypatch):
    monkeypatch.setattr("server.coordinator.secure_sums.COMPLETE", 3)
    asked, spoil = [], spoiling()

    def tamper(node, reply):
        asked.append(reply.metadata.message_type)
        return spoil(node, reply)

    with pytest.raises(RoundAbortedError, match="No one can say which: beyond 3 organisations"):
        run(config, tamper=tamper)
    assert SHOW_RANGE not in asked


def test_beyond_a_complete_graph_a_node_proves_nothing_and_keeps_nothing(config, monkeypatch):
    """It knows what its neighbours committed to only: a coordinator could choose other seeds, and so the signs."""
    monkeypatch.setattr("client.node.proofs.COMPLETE", 3)
    coordinator = opened_moments(config, the_plan())
    seeds = dict(coordinator.sums[MOMENTS].ranges.seeds)
    assert coordinator.ask(0, SHOW_RANGE, range_request(MOMENTS, seeds)).error.code == Refusal.REPEATED.value
    for context in coordinator.grid.contexts.values():
        assert not any(record for name, record in context.state.config_records.items() if name.startswith("range of"))


@pytest.mark.usefixtures("hurried")
def test_who_spoils_a_sum_and_says_nothing_is_named(config):
    with pytest.raises(RoundAbortedError, match=r"south did not show .*did not answer query.show_range"):
        run(config, tamper=spoiling(show=lambda _reply: None))


def test_who_spoils_a_sum_and_shows_the_proof_of_another_is_named(config):
    others, spoil = [], spoiling()

    def tamper(node, reply):
        if reply.metadata.message_type == SHOW_RANGE and node != SOUTH:
            others.append(reply.content)
        if reply.metadata.message_type == SHOW_RANGE and node == SOUTH:
            reply.content = others[0]
        return spoil(node, reply)

    with pytest.raises(RoundAbortedError, match="south did not show"):
        run(config, tamper=tamper)


def test_who_masks_with_another_key_than_agreed_stands_beside_whom_it_contradicts(config, monkeypatch):
    """South calls its lie a mask. Its own proof holds; north's, of the mask between them, says otherwise."""
    original = Node._decrypted

    def other_key(node, entry):
        made = original(node, entry)
        return replace(made, pair_key=bytes(32)) if (entry.member, node.member) == (1, 2) else made

    monkeypatch.setattr(Node, "_decrypted", other_key)
    with pytest.raises(
        RoundAbortedError, match="north and south say different things of the mask between them"
    ) as caught:
        run(config)
    assert "did not show" not in str(caught.value)
    assert not [name for name in ("west", "east") if name in str(caught.value)]


def opened_moments(config, plan):
    coordinator = LyingCoordinator(config, plan)
    coordinator.advertise()
    coordinator.share()
    assert coordinator.open(TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS, openers=range(4))
    return coordinator


def test_who_is_asked_for_a_proof_before_it_opened_the_sum_opens_it_and_proves_nothing(config):
    coordinator = LyingCoordinator(config, the_plan())
    coordinator.advertise()
    coordinator.share()
    ask = coordinator.ask

    def early(index, kind, content):
        if kind == OPEN_SHARES:
            assert ask(index, SHOW_RANGE, range_request(MOMENTS, {1: bytes(32)})).error.code == Refusal.REPEATED.value
        return ask(index, kind, content)

    coordinator.ask = early
    assert coordinator.open(TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS, openers=range(4)) == [0, 1, 2, 3]
    seeds = dict(coordinator.sums[MOMENTS].ranges.seeds)
    assert ask(0, SHOW_RANGE, range_request(MOMENTS, seeds)).error.code == Refusal.REPEATED.value


def test_a_node_shows_its_range_once_and_for_the_survivors_own_seeds_only(config):
    coordinator = opened_moments(config, the_plan())
    seeds = dict(coordinator.sums[MOMENTS].ranges.seeds)
    assert coordinator.ask(0, SHOW_RANGE, range_request("threshold", seeds)).error.code == Refusal.REPEATED.value
    assert coordinator.ask(0, SHOW_RANGE, range_request("other", seeds)).error.code == Refusal.BAD_REQUEST.value
    for wrong in ({**seeds, 1: bytes(16)}, {m: seed for m, seed in seeds.items() if m != 2}, {}):
        coordinator.keep()
        reply = coordinator.ask(0, SHOW_RANGE, range_request(MOMENTS, wrong))
        assert reply.error.code == Refusal.NOT_TRUSTED.value
        assert coordinator.ask(0, SHOW_RANGE, range_request(MOMENTS, seeds)).error.code == Refusal.REPEATED.value
        coordinator.back()
    assert coordinator.ask(0, SHOW_RANGE, range_request(MOMENTS, seeds)).has_content()
    assert coordinator.ask(0, SHOW_RANGE, range_request(MOMENTS, seeds)).error.code == Refusal.REPEATED.value


def test_nothing_is_kept_for_a_proof_but_of_the_last_sum_and_no_seed(config):
    grid = run(config)
    for context in grid.contexts.values():
        kept = [name for name in context.state.config_records if name.startswith("range of")]
        assert kept == ["range of threshold"]
        assert set(context.state.config_records[kept[0]]) == {
            "masked",
            "context",
            "adds",
            "subtracts",
            "keys",
            "survivors",
            "commitments",
        }


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"release": 1, "members": [1], "seeds": [b""]},
        {"release": "x", "members": [1, 1], "seeds": [b"", b""]},
        {"release": "x", "members": [1], "seeds": []},
        {"release": "x", "members": [1.5], "seeds": [b""]},
        {"release": "x", "members": [1], "seeds": ["text"]},
    ],
    ids=str,
)
def test_a_wrong_request_for_a_proof_is_malformed(fields):
    with pytest.raises(MalformedMessageError, match=r"not those of some members|says nothing of a sum that was opened"):
        read_range_request(RecordDict({"range": ConfigRecord(fields)}))


def test_a_node_that_was_asked_nothing_has_nothing_to_show(config):
    grid = InProcessGrid(client.node.app.app, 1, config)
    (reply,) = grid.send_and_receive([Message(range_request(MOMENTS, {1: bytes(16)}), FIRST_NODE, SHOW_RANGE)])
    assert reply.error.code == Refusal.REPEATED.value


def test_a_proof_takes_as_many_steps_whatever_the_number(monkeypatch):
    """Else the time of it would tell how many bits of the number are 1."""
    steps, original = Counter(), EccPoint.__add__

    def counted(point, other):
        steps[number] += 1
        return original(point, other)

    monkeypatch.setattr(EccPoint, "__add__", counted)
    bound = (1 << 8) - 1
    for number in (-bound, 0, bound):
        range_proofs._BitProof.draw(number % (1 << 64), 5, bound, 3)
    assert len(set(steps.values())) == 1
