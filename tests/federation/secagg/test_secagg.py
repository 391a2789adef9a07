"""Secure aggregation gives the exact sum over whoever survived, or ends and says who is missing."""

import re
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, RefusedError, RoundAbortedError, UsageError
from federation.identity import verify_identity
from federation.secagg import Node, NodeSecrets, Session, Stage
from federation.secagg.entries import Member as MemberEntry
from federation.secagg.entries import Reader
from federation.secagg.graph import Shape
from federation.secagg.messages import SignatureList
from federation.secagg.protocol import run_secagg
from federation.secagg.session import roster_from_text, roster_names, roster_to_text
from tests.federation.secagg.parties import SIZE, STEPS, Parties, identity, inputs_of, session_of, shaped, signers

STAGES = [stage for stage in Stage if stage is not Stage.ENDED]


def total_of(session, leaves=None, **more):
    return run_secagg(session, inputs_of(session), sign=signers(session), verify=verify_identity, leaves=leaves, **more)


def expected(session, survivors):
    return np.sum([inputs_of(session)[member] for member in survivors], axis=0)


def plans():
    """Every number of organisations up to 6 with every number of failures that it can stand."""
    for n, colluders, dropouts in product(range(2, 7), range(6), range(6)):
        if colluders < n and n > colluders + 2 * dropouts:
            yield n, colluders, dropouts


@pytest.mark.parametrize(("n", "colluders", "dropouts"), list(plans()))
def test_every_survivor_set_gives_the_sum_over_it_or_ends_the_round(n, colluders, dropouts):
    session = session_of(n, colluders=colluders, dropouts=dropouts)
    for k in range(dropouts + 2):
        for gone in combinations(session.members, k):
            leaves = dict.fromkeys(gone, Stage.MASK_INPUT)
            if k > dropouts:
                with pytest.raises(RoundAbortedError, match="did not send its masked input") as caught:
                    total_of(session, leaves)
                assert all(
                    f"organisation {member} did not send its masked input" in str(caught.value) for member in gone
                )
            else:
                survivors = [member for member in session.members if member not in gone]
                assert (total_of(session, leaves) == expected(session, survivors)).all()


@pytest.mark.parametrize("first", STAGES)
@pytest.mark.parametrize("second", STAGES)
def test_members_may_leave_at_any_stage(first, second):
    session = session_of(6, colluders=1, dropouts=2)
    survivors = [m for m in session.members if m > 2 or (first, second)[m - 1] > Stage.MASK_INPUT]
    assert (total_of(session, {1: first, 2: second}) == expected(session, survivors)).all()


@pytest.mark.parametrize("stage", STAGES)
def test_too_many_leaving_at_any_stage_ends_the_round_with_their_names(stage):
    session = session_of(4, colluders=1, dropouts=1)
    with pytest.raises(RoundAbortedError, match=r"2 of 4 organisations are left and 3 are needed") as caught:
        total_of(session, {2: stage, 3: stage})
    assert "organisation 2 did not" in str(caught.value)
    assert "organisation 3 did not" in str(caught.value)
    assert "organisation 1" not in str(caught.value)


def test_leaving_after_the_masked_input_needs_no_planned_drop_out():
    session = session_of(4, colluders=1, dropouts=0)
    assert (total_of(session, {4: Stage.SIGN_SURVIVORS}) == expected(session, session.members)).all()


@pytest.mark.parametrize("first", STAGES)
@pytest.mark.parametrize("second", STAGES)
def test_members_of_a_sparse_graph_may_leave_at_any_stage(first, second):
    with shaped(7, 3):
        session = session_of(9, colluders=1, dropouts=3)
        survivors = [m for m in session.members if m > 2 or (first, second)[m - 1] > Stage.MASK_INPUT]
        assert (total_of(session, {1: first, 2: second}) == expected(session, survivors)).all()


def test_a_session_of_the_sparse_graph_gives_the_exact_sum():
    """101 organisations are the fewest that do not all hold shares of each other."""
    session = session_of(101, colluders=25, dropouts=5, size=2)
    assert session.shape.holders < 40
    leaves = {3: Stage.ADVERTISE, 30: Stage.SHARE_KEYS, 60: Stage.MASK_INPUT, 90: Stage.OPEN_SHARES}
    survivors = [member for member in session.members if leaves.get(member, Stage.ENDED) > Stage.MASK_INPUT]
    assert (total_of(session, leaves) == expected(session, survivors)).all()


def test_a_member_whose_secrets_nobody_could_open_ends_the_round_before_masks_are_asked_for():
    with shaped(2, 2):
        session, said = session_of(6, colluders=0, dropouts=2), ""
        for _ in range(30):  # members draw their holders: nine times in ten somebody needs both of those who left
            try:
                total_of(session, {1: Stage.ADVERTISE, 2: Stage.SHARE_KEYS})
            except RoundAbortedError as error:
                said = str(error)
                break
    assert re.search(r"1 of those that hold shares of .* and 2 are needed", said)
    assert "organisation 1 did not advertise its keys" in said


@given(st.integers(0, 2**32), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3))
def test_sums_wrap_around_modulo_two_to_the_64(seed, numbers):
    session = session_of(3, colluders=0, dropouts=0, size=2)
    inputs = {m: np.array([numbers[m - 1], seed]) for m in session.members}
    total = run_secagg(session, inputs, sign=signers(session), verify=verify_identity)
    wrapped = (sum(numbers) + 2**63) % 2**64 - 2**63
    assert total.tolist() == [wrapped, 3 * seed]


@pytest.mark.parametrize("stage", STEPS)
def test_a_node_can_be_resumed_between_any_two_messages(stage):
    parties = Parties(session_of())
    received = {member: [] for member in parties.session.members}
    asked = dict.fromkeys(parties.session.members, b"")
    for now in STAGES:
        for member, message in asked.items():
            if now is stage and member == 2:
                parties.nodes[2] = Node.resume(
                    parties.session,
                    2,
                    NodeSecrets.from_secret_bytes(parties.nodes[2]._secrets.secret_bytes()),
                    received[2],
                    sign=identity(2).sign,
                    verify=verify_identity,
                )
            parties.coordinator.receive(member, parties.answer(member, now, message))
            if now is not Stage.ADVERTISE:
                received[member].append(message)
        asked = parties.coordinator.advance()
    assert not parties.coordinator.faults
    assert (parties.coordinator.total == expected(parties.session, parties.session.members)).all()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("wrong", STAGES)
def test_a_question_out_of_turn_is_refused_and_ends_the_node(stage, wrong):
    parties = Parties(session_of())
    asked = parties.until(stage)
    if wrong is not stage:
        with pytest.raises(RefusedError, match="this node was asked to"):
            parties.answer(1, wrong, asked[1])
        with pytest.raises(RefusedError, match="when it was to ended; it takes no more part"):
            parties.answer(1, stage, asked[1])
    else:
        parties.answer(1, stage, asked[1])
        with pytest.raises(RefusedError, match="this node was asked to"):
            parties.answer(1, stage, asked[1])


@pytest.mark.parametrize("stage", STEPS)
def test_a_node_that_got_nonsense_takes_no_more_part(stage):
    parties = Parties(session_of())
    asked = parties.until(stage)
    with pytest.raises(MalformedMessageError, match="a message of 8 bytes is too short"):
        parties.answer(1, stage, b"nonsense")
    with pytest.raises(RefusedError, match="takes no more part"):
        parties.answer(1, stage, asked[1])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("where", ["front", "context", "middle", "end", "short", "long"])
def test_a_tampered_answer_counts_as_none_and_names_its_sender(stage, where):
    def damage(now, member, answer):
        if now is not stage or member != 2:
            return answer
        if where == "short":
            return answer[:-1]
        if where == "long":
            return answer + b"\0"
        # Nobody can see a change in one number of a masked vector, in a ciphertext or in a code for another member.
        at = {"front": 0, "context": 20, "middle": 41 if stage is Stage.MASK_INPUT else len(answer) // 2}.get(where, -1)
        return bytes(byte ^ (i == at % len(answer)) for i, byte in enumerate(answer))

    session = session_of(4, colluders=0, dropouts=1)
    if (stage, where) == (Stage.MASK_INPUT, "end"):
        assert (total_of(session, tamper=damage) == expected(session, session.members)).all()  # one holder of four
    elif stage is Stage.SHARE_KEYS and where in {"middle", "end"}:
        with pytest.raises(Exception, match="the shares of organisation 2 do not verify"):
            total_of(session, tamper=damage)
    elif stage in {Stage.SIGN_SURVIVORS, Stage.OPEN_SHARES}:
        assert (total_of(session, tamper=damage) == expected(session, session.members)).all()
    else:
        assert (total_of(session, tamper=damage) == expected(session, [1, 3, 4])).all()


def test_the_coordinator_says_what_was_wrong_with_whose_answer():
    parties = Parties(session_of())
    parties.coordinator.receive(3, b"nonsense")
    assert parties.coordinator.faults[3].startswith("sent a wrong answer when asked to advertise its keys: ")
    with pytest.raises(UsageError, match="nobody waits"):
        parties.coordinator.receive(3, parties.answer(3, Stage.ADVERTISE))
    with pytest.raises(UsageError, match="no sum yet"):
        _ = parties.coordinator.total


def test_a_vector_of_another_shape_or_type_does_not_leave_its_node():
    for wrong in (np.zeros(SIZE + 1, dtype=np.int64), np.zeros(SIZE)):
        parties = Parties(session_of())
        asked = parties.until(Stage.MASK_INPUT)
        with pytest.raises(UsageError, match="int64"):
            parties.nodes[1].mask_input(asked[1], wrong)


def test_secrets_stay_out_of_sight():
    secrets = NodeSecrets.draw()
    assert repr(secrets) == "NodeSecrets(<redacted>)"
    with pytest.raises(UsageError, match="32 bytes"):
        NodeSecrets.from_secret_bytes(secrets.secret_bytes()[:-1])
    parties = Parties(session_of())
    message = SignatureList.from_bytes(parties.until(Stage.OPEN_SHARES)[1])
    assert "signature=" not in repr(message)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"roster": ()}, "secure aggregation is for 2 to 1024"),
        ({"roster": (b"one",)}, "secure aggregation is for 2 to 1024"),
        ({"roster": (b"same", b"same", b"other", b"more")}, "every organisation needs a key of its own,"),
        ({"roster": (b"", b"a", b"b", b"c")}, "every organisation needs a key of its own,"),
        ({"roster": tuple(b"%d" % i for i in range(1025))}, "secure aggregation is for 2 to 1024"),
        ({"run": ""}, "a session's run and release need 1 to 256"),
        ({"release": "x" * 257}, "a session's run and release need 1 to 256"),
        ({"agreement": b"short"}, "the agreement is a SHA-256 digest, and"),
        ({"size": 0}, "the agreement is a SHA-256 digest, and"),
        ({"size": 2**20 + 1}, "the agreement is a SHA-256 digest, and"),
        ({"colluders": -1}, "4 organisations cannot stand -1 colluders"),
        ({"colluders": 4}, "4 organisations cannot stand 4 colluders"),
        ({"colluders": 2}, "4 organisations cannot stand 2 colluders"),
        ({"dropouts": 2}, "4 organisations cannot stand 1 colluders"),
        ({"dropouts": -1}, "4 organisations cannot stand 1 colluders"),
    ],
    ids=str,
)
def test_a_session_that_protects_nobody_cannot_exist(change, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        replace(session_of(4, colluders=1, dropouts=1), **change)


def test_a_session_may_be_as_large_and_as_small_as_its_bounds_say():
    base, two = session_of(4, colluders=1, dropouts=1), (b"a", b"b" * 2048)
    least = replace(base, roster=two, colluders=1, dropouts=0, run="r", release="m", size=1)
    assert (least.fewest, least.noise_sharers, least.members) == (2, 1, (1, 2))
    for text in ("x" * 256, "\u00e9" * 128):
        assert replace(base, run=text, release=text, size=2**20).run == text
        for name in ("run", "release"):
            with pytest.raises(UsageError, match="need 1 to 256 bytes each"):
                replace(base, **{name: text + "x"})
    with pytest.raises(UsageError, match="a key of its own, of 1 to 2048 bytes"):
        replace(base, roster=(b"a", b"b" * 2049, b"c", b"d"))
    most = replace(base, roster=tuple(b"%d" % number for number in range(1024)), colluders=0, dropouts=50)
    assert (len(most.members), most.members[-1], most.fewest) == (1024, 1024, 974)
    assert MemberEntry.read(EntryReader((1024).to_bytes(2, "little"))) == MemberEntry(1024)


class EntryReader(Reader):
    """Reads entries alone."""

    def __init__(self, data):
        self._data, self._at = data, 0


def test_a_roster_is_read_as_it_was_written_and_who_has_no_name_in_it_has_a_number():
    keys = tuple(identity(member).public for member in (1, 2, 3))
    text = roster_to_text(keys, ["north", ""])
    assert text == f"{keys[0].hex()} north\n{keys[1].hex()}\n{keys[2].hex()}\n"
    assert roster_from_text(text) == roster_from_text(text.replace("north", "the north side")) == keys
    assert roster_names(text) == ("north", "organisation 2", "organisation 3")
    assert roster_names(text.replace("north", " the north side ")) == (
        "the north side",
        "organisation 2",
        "organisation 3",
    )
    for wrong, said in (
        (f"{text}zz\n", r"^a roster holds one public identity a line, in hex"),
        (f"{text}{keys[0].hex()[:-2]} west\n", r"^a public identity in a roster has 1344 bytes"),
        (f"{text}{keys[0].hex()}00\n", r"^a public identity in a roster has 1344 bytes"),
    ):
        with pytest.raises(UsageError, match=said):
            roster_from_text(wrong)


def test_every_field_changes_the_digest():
    session = session_of(6, colluders=1, dropouts=1)
    changes = [
        {"run": "run 2"},
        {"release": "threshold"},
        {"agreement": bytes(32)},
        {"size": SIZE + 1},
        {"colluders": 2},
        {"dropouts": 2},
        {"roster": session.roster[::-1]},
        {"run": "run 1moment", "release": "s"},
    ]
    digests = {session.digest} | {replace(session, **change).digest for change in changes}
    assert len(digests) == len(changes) + 1


@given(st.integers(2, 100), st.integers(0, 99), st.integers(0, 99))
def test_two_quorums_share_an_honest_member_and_colluders_are_none(n, colluders, dropouts):
    try:
        session = Session("r", "m", bytes(32), tuple(b"%d" % i for i in range(n)), 1, colluders, dropouts)
    except UsageError:
        assert n <= colluders + 2 * dropouts
        return
    assert session.shape == Shape(n, session.shape.quorum, n, session.shape.quorum)
    assert 2 * session.shape.quorum - n > colluders
    assert session.shape.quorum <= session.fewest == n - dropouts
    assert session.noise_sharers >= 1
    assert session.noise_share(1.0) ** 2 * session.noise_sharers == pytest.approx(1)


def test_the_simulation_puts_everybody_into_one_sum_with_one_noise(capsys):
    from examples.simulation import main  # noqa: PLC0415 - it loads Opacus

    main([8, 4], epsilon=64.0)
    *_, four, memory = capsys.readouterr().out.splitlines()
    assert four.startswith("    4 |    1   1 |    4    3 |")
    measured, planned, promised = map(float, four.rpartition("|")[2].split())
    assert measured == pytest.approx(planned, rel=0.5)  # five deviations of the spread of 58 numbers
    assert planned == pytest.approx(promised * (3 / 2) ** 0.5, abs=2e-3)  # three are left, two are sure to be honest
    assert memory.startswith("peak memory")
