"""Devices, witnesses and monitors against logs that lie."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.log import watching
from client.log.watching import LogMemory, LogTrust, Monitor, check_inclusion
from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    KeyKind,
    NoteSigner,
    SignedCheckpoint,
    entry_from_bytes,
)
from tests.transparency_log import NOW, SIGNER, TRUST, WITNESSES, MemoryLog, an_opening, cosigned, some_entries

KEYS = tuple(witness.key for witness in WITNESSES)
ANOTHER_LOG = NoteSigner("other.example", KeyKind.NOTE, b"\1" * 32)
IMPOSTOR = NoteSigner(SIGNER.key.name, KeyKind.NOTE, bytes(32))
TWO_OF_THREE = LogTrust(SIGNER.key, KEYS, threshold=2)


def a_forked_log(at=3):
    log = MemoryLog()
    log.leaves[at] = MemoryLog().leaves[at + 1]
    return log


# ------------------------------------------------------------------ whom to believe


def test_a_device_believes_a_fresh_checkpoint_of_the_log():
    TRUST.check(MemoryLog().signed(), now=NOW)


@pytest.mark.parametrize(("age", "wanted"), [(3600, True), (3601, False), (-60, True), (-61, False)])
def test_a_checkpoint_is_believed_for_an_hour_and_a_minute_ahead(age, wanted):
    if wanted:
        TRUST.check(MemoryLog().signed(), now=NOW + age)
    else:
        with pytest.raises(ProofError, match="seconds"):
            TRUST.check(MemoryLog().signed(), now=NOW + age)


def test_two_of_three_witnesses_are_enough_and_one_is_not():
    signed = MemoryLog().signed()
    TWO_OF_THREE.check(cosigned(signed, WITNESSES[:2]), now=NOW)
    TWO_OF_THREE.check(cosigned(signed, WITNESSES), now=NOW)
    with pytest.raises(ProofError, match="1 witnesses"):
        TWO_OF_THREE.check(cosigned(signed, WITNESSES[1:2]), now=NOW)


def test_one_witness_who_signs_twice_is_one_witness():
    signed = cosigned(MemoryLog().signed(), WITNESSES[:1])
    twice = replace(
        signed.note, signatures=(*signed.note.signatures, WITNESSES[0].sign(signed.note.text, time=NOW - 1))
    )
    with pytest.raises(ProofError, match="1 witnesses"):
        TWO_OF_THREE.check(SignedCheckpoint(twice), now=NOW)


@pytest.mark.parametrize(
    ("time", "counts"), [(NOW - 3601, False), (NOW - 3600, True), (NOW + 60, True), (NOW + 61, False)]
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_witness_who_signed_long_ago_or_in_the_future_does_not_count(time, counts, place):
    signed = MemoryLog().signed()
    for number, witness in enumerate(WITNESSES[:2]):
        signed = cosigned(signed, [witness], time=time if number == place else NOW)
    if counts:
        TWO_OF_THREE.check(signed, now=NOW)
        return
    with pytest.raises(ProofError, match=r"^1 witnesses signed the checkpoint lately, and 2 are needed$"):
        TWO_OF_THREE.check(signed, now=NOW)


def test_what_a_policy_says_of_clocks_counts_for_the_log_and_for_each_witness():
    trust = LogTrust(SIGNER.key, KEYS, threshold=1, max_age_seconds=10, max_ahead_seconds=2)
    witnessed = cosigned(MemoryLog().signed(), WITNESSES[:1])
    for now in (NOW + 10, NOW - 2):
        trust.check(witnessed, now=now)
    with pytest.raises(ProofError, match=r"^the checkpoint is 11 seconds old; at most 10 are allowed$"):
        trust.check(witnessed, now=NOW + 11)
    with pytest.raises(ProofError, match=r"^the checkpoint is dated 3 seconds in the future; check this clock$"):
        trust.check(witnessed, now=NOW - 3)
    for time in (NOW - 11, NOW + 3):
        with pytest.raises(ProofError, match=r"^0 witnesses"):
            trust.check(cosigned(MemoryLog().signed(), WITNESSES[:1], time=time), now=NOW)


def test_a_forged_cosignature_is_refused_even_where_it_is_not_needed():
    signed = cosigned(MemoryLog().signed(), WITNESSES)
    forged = replace(signed.note.signatures[-1], value=bytes(72))
    with pytest.raises(ProofError, match="does not verify"):
        TWO_OF_THREE.check(SignedCheckpoint(signed.note.with_signature(forged)), now=NOW)


@pytest.mark.parametrize(
    "arguments",
    [
        {"log_key": WITNESSES[0].key},
        {"witnesses": (SIGNER.key,)},
        {"witnesses": (KEYS[0], KEYS[0])},
        {"witnesses": (SIGNER.key.as_cosigner(),), "threshold": 1},
        {"witnesses": KEYS, "threshold": 4},
        {"threshold": -1},
        {"max_age_seconds": 0},
        {"max_ahead_seconds": -1},
    ],
)
def test_trust_that_makes_no_sense_cannot_be_built(arguments):
    with pytest.raises(
        UsageError, match=r"one key each|age limit|plain note key|cosignature key|the threshold is 0 to"
    ):
        LogTrust(**{"log_key": SIGNER.key} | arguments)


# ------------------------------------------------------------------ the device before it decrypts


def test_a_logged_session_passes_and_opens():
    entry = check_inclusion(MemoryLog().logged(4), TRUST, now=NOW)
    an_opening(4).check(entry)


@pytest.mark.parametrize(
    "damage",
    [
        lambda logged: replace(logged, index=3),
        lambda logged: replace(logged, entry=MemoryLog().leaves[3]),
        lambda logged: replace(logged, proof=logged.proof[1:]),
        lambda logged: replace(logged, checkpoint=a_forked_log().signed()),
        lambda logged: replace(logged, checkpoint=MemoryLog(time=NOW - 4000).signed()),
        lambda logged: replace(logged, checkpoint=MemoryLog(signer=ANOTHER_LOG).signed()),
        lambda logged: replace(logged, checkpoint=MemoryLog(signer=IMPOSTOR).signed()),
    ],
    ids=["index", "entry", "proof", "fork", "age", "another-log", "another-key"],
)
def test_a_session_that_is_not_in_the_log_is_refused(damage):
    with pytest.raises(
        ProofError, match=r"another root|hashes where|lacks a signature|4000 seconds old|of another log"
    ):
        check_inclusion(damage(MemoryLog().logged(4)), TRUST, now=NOW)


def test_a_leaf_that_is_no_entry_is_malformed():
    log = MemoryLog(leaves=[b"nonsense"])
    with pytest.raises(MalformedMessageError, match="an entry is not JSON"):
        check_inclusion(log.logged(0), TRUST, now=NOW)


# ------------------------------------------------------------------ what a device remembers


@given(st.integers(0, 10), st.integers(0, 10))
def test_memory_advances_exactly_along_an_honest_log(old, new):
    log = MemoryLog()
    memory = LogMemory.begin(log.signed(old), TRUST, now=NOW)
    if new >= old:
        assert memory.advance(log.growth(old, new), TRUST, now=NOW) == LogMemory(log.signed(new))
    else:
        with pytest.raises(ProofError, match="rolled back"):
            memory.advance(log.growth(0, new), TRUST, now=NOW)


@given(st.integers(0, 9), st.integers(1, 10), st.integers(1, 10))
def test_memory_never_advances_onto_a_fork(changed, old, new):
    honest, forked = MemoryLog(), a_forked_log(min(changed, 8))
    memory = LogMemory.begin(honest.signed(old), TRUST, now=NOW)
    if min(changed, 8) < old and new >= old:
        with pytest.raises(ProofError, match="fork"):
            memory.advance(forked.growth(old, new), TRUST, now=NOW)


def test_memory_refuses_another_log_an_old_signature_and_a_proof_from_elsewhere():
    memory = LogMemory.begin(MemoryLog().signed(4), TRUST, now=NOW)
    with pytest.raises(ProofError, match="another log"):
        memory.advance(MemoryLog(signer=ANOTHER_LOG).growth(4), LogTrust(ANOTHER_LOG.key), now=NOW)
    with pytest.raises(ProofError, match="seconds old"):
        memory.advance(MemoryLog().growth(4), TRUST, now=NOW + 4000)
    with pytest.raises(ProofError, match="begins at 3 entries; 4 are remembered"):
        memory.advance(MemoryLog().growth(3), TRUST, now=NOW)
    with pytest.raises(ProofError, match="seconds old"):
        LogMemory.begin(MemoryLog().signed(4), TRUST, now=NOW + 4000)


def test_from_an_empty_tree_nothing_is_proved():
    memory = LogMemory.begin(MemoryLog().signed(0), TRUST, now=NOW)
    with pytest.raises(ProofError, match="no proof from an empty tree; nothing is believed"):
        memory.advance(replace(MemoryLog().growth(0), proof=(bytes(32),)), TRUST, now=NOW)


# ------------------------------------------------------------------ monitor


def test_a_monitor_follows_in_steps_and_remembers(tmp_path):
    log, monitor = MemoryLog(leaves=[]), Monitor()
    for leaf in MemoryLog().leaves:
        log.leaves.append(leaf)
        monitor = Monitor.from_bytes(monitor.follow(log, TRUST, now=NOW).to_bytes())
    assert monitor.frontier.size == 10
    assert monitor == Monitor().follow(log, TRUST, now=NOW)


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=30)
def test_usage_equals_a_recount_of_the_raw_entries(first, second):
    log = MemoryLog(leaves=[entry.to_bytes() for entry in some_entries(first)])
    monitor = Monitor().follow(log, TRUST, now=NOW)
    log.leaves += [entry.to_bytes() for entry in some_entries(second)]
    usage = monitor.follow(log, TRUST, now=NOW).usage
    recount = [entry_from_bytes(leaf) for leaf in log.leaves]
    attempts = [entry for entry in recount if isinstance(entry, AttemptEntry)]
    assert sum(usage.attempts.values()) == len(attempts)
    for (requester, purpose, outcome), count in usage.attempts.items():
        assert count == sum((e.requester, e.purpose, e.outcome) == (requester, purpose, outcome) for e in attempts)
    assert usage.kinds == Counter(entry.kind.value for entry in recount)


def test_an_entry_about_several_refusals_counts_as_often_as_it_says():
    refused = AttemptEntry(NOW, "unknown", "unknown", AttemptOutcome.INVALID, bytes(32), count=810)
    log = MemoryLog(leaves=[entry.to_bytes() for entry in (refused, replace(refused, count=1))])
    usage = Monitor().follow(log, TRUST, now=NOW).usage
    assert usage.attempts == {("unknown", "unknown", "invalid"): 811}
    assert usage.kinds == {"attempt": 2}


def test_a_monitor_raises_on_a_rollback():
    log = MemoryLog()
    monitor = Monitor().follow(log, TRUST, now=NOW)
    log.shown = log.signed(9).to_bytes()
    with pytest.raises(ProofError, match="rolled back from 10 to 9"):
        monitor.follow(log, TRUST, now=NOW)


def test_a_monitor_raises_on_an_omission():
    for hidden in range(10):
        log = MemoryLog()
        log.shown = log.signed().to_bytes()
        del log.leaves[hidden]
        with pytest.raises(ProofError, match="holds back entry 9, which it signed"):
            Monitor().follow(log, TRUST, now=NOW)


@pytest.mark.parametrize("changed", range(10))
def test_a_monitor_raises_on_one_changed_entry_before_or_after_what_it_read(changed):
    honest, forked = MemoryLog(), MemoryLog()
    forked.leaves[changed] = honest.leaves[(changed + 1) % 10]
    with pytest.raises(ProofError, match="forked"):
        Monitor().follow(MemoryLog(leaves=forked.leaves, shown=honest.signed().to_bytes()), TRUST, now=NOW)
    if changed < 5:
        monitor = Monitor().follow(MemoryLog(leaves=honest.leaves[:5]), TRUST, now=NOW)
        with pytest.raises(ProofError, match="forked"):
            monitor.follow(forked, TRUST, now=NOW)


def test_a_monitor_raises_on_a_fork_of_the_same_size():
    monitor = Monitor().follow(MemoryLog(), TRUST, now=NOW)
    with pytest.raises(ProofError, match="forked"):
        monitor.follow(a_forked_log(), TRUST, now=NOW)


def test_a_monitor_raises_on_too_many_entries_at_once_and_on_what_is_no_entry():
    log = MemoryLog()
    log.entries = lambda start, stop: log.leaves[start:stop] * 2
    with pytest.raises(ProofError, match="holds back"):
        Monitor().follow(log, TRUST, now=NOW)
    with pytest.raises(ProofError, match="no entry"):
        Monitor().follow(MemoryLog(leaves=[b"nonsense"]), TRUST, now=NOW)


@pytest.mark.parametrize("most", [4, 3])
def test_a_monitor_reads_each_entry_once_and_no_more_than_it_can_use(monkeypatch, most):
    """However few are handed out at a time."""
    monkeypatch.setattr(watching, "_PAGE", 4)
    log, asked = MemoryLog(), []
    log.entries = lambda start, stop: asked.append((start, stop)) or log.leaves[start : min(stop, start + most)]
    begun = Monitor().follow(replace_leaves(log, 1), TRUST, now=NOW)
    asked.clear()
    monitor = begun.follow(log, TRUST, now=NOW)
    assert asked == {4: [(1, 5), (5, 9), (9, 10)], 3: [(1, 5), (4, 8), (7, 10)]}[most]
    assert monitor == Monitor().follow(MemoryLog(), TRUST, now=NOW)
    assert begun == Monitor().follow(replace_leaves(MemoryLog(), 1), TRUST, now=NOW), "what is remembered is a value"
    asked.clear()
    assert monitor.follow(log, TRUST, now=NOW) == monitor
    assert asked == []


def replace_leaves(log, size):
    return MemoryLog(leaves=log.leaves[:size])


def test_what_is_no_entry_is_said_with_its_page():
    log = MemoryLog()
    log.leaves[7] = b"nonsense"
    log.entries = lambda start, _stop: log.leaves[start : start + 3]
    with pytest.raises(ProofError, match=r"^something among the entries 6 to 8 is no entry$"):
        Monitor().follow(log, TRUST, now=NOW)


def test_a_monitor_remembers_size_tree_counts_and_checkpoint_under_their_names():
    log = MemoryLog()
    monitor = Monitor().follow(log, TRUST, now=NOW)
    attempts = Counter(
        (one.requester, one.purpose, "opened")
        for one in map(entry_from_bytes, log.leaves)
        if one.kind.value == "attempt"
    )
    kept = {
        "size": 10,
        "hashes": [digest.hex() for digest in monitor.frontier.hashes],
        "kinds": {"enrolment": 2, "attempt": 8},
        "attempts": [[*names, count] for names, count in sorted(attempts.items())],
        "checkpoint": log.signed().to_bytes().decode(),
    }
    assert len(kept["attempts"]) == 4
    assert json.loads(monitor.to_bytes()) == kept
    for name, wrong in [
        *((name, None) for name in kept if name not in {"kinds", "checkpoint"}),
        *(("size", 11), ("size", "10"), ("hashes", ["zz"]), ("hashes", [None]), ("checkpoint", "secret words")),
        *(("kinds", 5), ("attempts", [["a", "b", 1]]), ("checkpoint", 5)),
    ]:
        for damaged in (kept | {name: wrong}, {one: value for one, value in kept.items() if one != name}):
            with pytest.raises(MalformedMessageError, match=r"^not the memory of a monitor, or of another version$"):
                Monitor.from_bytes(json.dumps(damaged).encode())
    for nothing in (b"[]", b"5", b"[" * 100_000, b"\xff"):
        with pytest.raises(MalformedMessageError, match="not the memory of a monitor"):
            Monitor.from_bytes(nothing)


def test_a_monitor_raises_on_a_log_that_stands_still():
    with pytest.raises(ProofError, match="seconds old"):
        Monitor().follow(MemoryLog(), TRUST, now=NOW + 4000)


def test_a_monitor_reads_a_log_that_hands_out_one_entry_at_a_time():
    log = MemoryLog()
    log.entries = lambda start, _stop: log.leaves[start : start + 1]
    assert Monitor().follow(log, TRUST, now=NOW).frontier.size == 10


def test_what_the_log_did_not_sign_accuses_it_of_nothing():
    log = MemoryLog()
    monitor = Monitor().follow(log, TRUST, now=NOW)
    forked = a_forked_log()
    forked.signer = IMPOSTOR
    for size in (0, 6, 10):
        with pytest.raises(ProofError, match="signature"):
            monitor.check_seen(forked.signed(size), log, TRUST)


def test_what_people_were_shown_is_compared_with_what_the_monitor_read():
    log = MemoryLog()
    monitor = Monitor().follow(log, TRUST, now=NOW)
    for size in range(11):
        monitor.check_seen(log.signed(size), log, TRUST)
    for size in range(4, 11):
        with pytest.raises(ProofError, match="fork"):
            monitor.check_seen(a_forked_log().signed(size), log, TRUST)
    with pytest.raises(ProofError, match="shown 11 entries, this monitor 10"):
        monitor.check_seen(MemoryLog(leaves=[*log.leaves, b"more"]).signed(), log, TRUST)
    old, asked = MemoryLog(time=NOW - 10**8), []
    log.consistency_proof = lambda *sizes: asked.append(sizes) or old.consistency_proof(*sizes)
    for size in (0, 3):
        monitor.check_seen(old.signed(size), log, TRUST)
    assert asked == [(3, 10)]


@given(st.binary(max_size=40) | st.builds(lambda n: Monitor().to_bytes()[:n], st.integers(0, 90)))
def test_any_bytes_give_a_memory_or_a_malformed_message(data):
    try:
        Monitor.from_bytes(data)
    except MalformedMessageError:
        return
    assert data == Monitor().to_bytes()
