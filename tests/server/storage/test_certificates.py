"""Wishes for certificates and what was ever revoked, in both databases: one wish for each, and nothing is forgotten."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from federation.errors import RefusedError
from federation.wire.certificates import Renewal
from server.database import connect, database_url
from server.storage.sqlstorage import open_storage
from tests.stored import NOW, digest

FIRST, SECOND = 2**159 + 7, 5
WISH, OTHER_WISH = Renewal(b"a request", b"a proof"), Renewal(b"another request", b"another proof")


@pytest.fixture
def storage(database):
    with open_storage(database) as storage:
        yield storage


def ask(storage, serial=FIRST, wish=WISH, *, key=1, ends_at=NOW + 100):
    return storage.ask_for_certificate(serial, wish, key_digest=digest(key), ends_at=ends_at)


def waiting(storage, now=NOW):
    return [(one.serial, one.key_digest, one.renewal) for one in storage.waiting_renewals(now=now)]


def test_a_wish_waits_until_it_is_answered_and_the_answer_stays_for_whoever_asks_again(storage):
    assert ask(storage) is None
    assert ask(storage, SECOND, OTHER_WISH, key=2) is None
    assert sorted(waiting(storage)) == sorted([(FIRST, digest(1), WISH), (SECOND, digest(2), OTHER_WISH)])
    (first,) = (one for one in storage.waiting_renewals(now=NOW) if one.serial == FIRST)
    storage.answer_renewal(first, b"a certificate")
    assert waiting(storage) == [(SECOND, digest(2), OTHER_WISH)]
    assert ask(storage) == ask(storage, wish=Renewal(b"the same key", b"signed again")) == b"a certificate"
    assert ask(storage, SECOND, OTHER_WISH, key=2) is None


def test_the_first_key_counts_and_a_second_one_is_told_what_that_may_mean(storage):
    ask(storage)
    with pytest.raises(RefusedError, match="somebody else has its key: tell the operator"):
        ask(storage, wish=OTHER_WISH, key=2)
    assert waiting(storage) == [(FIRST, digest(1), WISH)]


def test_two_who_ask_at_once_with_two_keys_are_one_wish_and_one_refusal(storage):
    outcomes, start = [], threading.Barrier(2)

    def call(key):
        start.wait()
        try:
            outcomes.append(ask(storage, key=key))
        except RefusedError:
            outcomes.append("refused")

    threads = [threading.Thread(target=call, args=(key,)) for key in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == ["None", "refused"]
    assert len(waiting(storage)) == 1


def test_a_wish_ends_with_its_certificate_and_is_swept(storage):
    ask(storage)
    ask(storage, SECOND, OTHER_WISH, key=2, ends_at=NOW + 50)
    assert [one[0] for one in waiting(storage, NOW + 49)] == [FIRST, SECOND] or len(waiting(storage, NOW + 49)) == 2
    assert [one[0] for one in waiting(storage, NOW + 50)] == [FIRST]
    storage.sweep(now=NOW + 50)
    assert [one[0] for one in waiting(storage, NOW)] == [FIRST]


def test_an_answer_to_a_wish_that_is_gone_or_of_another_key_changes_nothing(storage):
    ask(storage)
    (asked,) = storage.waiting_renewals(now=NOW)
    storage.sweep(now=NOW + 100)
    ask(storage, wish=OTHER_WISH, key=2)
    storage.answer_renewal(asked, b"a certificate")
    assert waiting(storage) == [(FIRST, digest(2), OTHER_WISH)]


def test_who_was_ever_revoked_is_remembered_for_each_authority(storage, database):
    assert storage.seen_revoked(digest(1)) == frozenset()
    storage.see_revoked(digest(1), frozenset({FIRST, SECOND}))
    storage.see_revoked(digest(1), frozenset({SECOND, 9}))
    storage.see_revoked(digest(2), frozenset({SECOND}))
    with open_storage(database) as other:
        assert other.seen_revoked(digest(1)) == {FIRST, SECOND, 9}
        assert other.seen_revoked(digest(2)) == {SECOND}


def test_what_is_waited_for_is_found_by_its_end_and_its_number_without_reading_all(tmp_path):
    with open_storage(tmp_path / "db"):
        engine = connect(database_url(tmp_path / "db"))
        with engine.connect() as run:
            plan = run.execute(sa.text("EXPLAIN QUERY PLAN DELETE FROM renewals WHERE ends_at <= 5")).all()
        engine.dispose()
    assert "renewals_by_end" in str(plan)
