"""Tickets in both databases: each makes one account, whoever brings it, however often, on however many front ends."""

from __future__ import annotations

import dataclasses
import multiprocessing
import sqlite3

import psycopg
import pytest
import sqlalchemy as sa

from federation.errors import RefusedError, UnavailableError, UsageError
from federation.onebit import Decision, Operation
from federation.transparency import PersonalKind
from federation.wire.devices import Admission, code_of
from server.database import connect, database_url, upgrade
from server.sql import Mode
from server.storage.sqlstorage import open_storage
from server.storage.storage import IssuedTicket, MissedEnd
from tests.stored import (
    DEVICE,
    KEY,
    NOW,
    OTHER_DEVICE,
    OTHER_KEY,
    THIRD_DEVICE,
    a_deed,
    a_head,
    a_session,
    a_template,
    a_ticket,
    account_of,
    an_open_session,
    at_its_end,
    decide,
    digest,
    revoke,
    start,
    take,
)

BOTH = {account_of(DEVICE), account_of(OTHER_DEVICE)}
NOT_VALID = "this ticket is not valid here"


@pytest.fixture
def storage(database):
    with open_storage(database) as storage:
        storage.issue(a_ticket())
        storage.issue(a_ticket(OTHER_DEVICE, client="bob", ends_at=NOW + 900))
        yield storage


def an_enrolment(number=1, *, device=DEVICE, account=None):
    """What a session of that number announces."""
    template = dataclasses.replace(a_template(device), account=account or account_of(device))
    session_id = a_session(number)
    return a_deed(number, kind=PersonalKind.ENROLMENT, key_id=template.key_id, session_id=session_id, template=template)


def accounts(storage, now=NOW):
    return {ticket.account for ticket in storage.tickets(now=now)}


def test_a_ticket_comes_back_whole_and_by_its_digest_alone(storage):
    assert storage.ticket(a_ticket().digest, now=NOW) == a_ticket()
    assert storage.ticket(a_ticket(OTHER_DEVICE).digest, now=NOW).client == "bob"
    assert storage.ticket(digest(1), now=NOW) is None
    assert [ticket.client for ticket in storage.tickets(now=NOW)] == [None, "bob"]


def test_a_ticket_is_good_until_its_end_and_not_at_it(storage):
    assert storage.ticket(a_ticket().digest, now=NOW + 599) == a_ticket()
    assert storage.ticket(a_ticket().digest, now=NOW + 600) is None
    assert accounts(storage, NOW + 600) == {account_of(OTHER_DEVICE)}


def test_no_two_tickets_have_one_digest_or_one_account(storage):
    third = a_ticket(THIRD_DEVICE)
    for copy in (
        dataclasses.replace(third, digest=a_ticket().digest),
        dataclasses.replace(third, account=a_ticket().account),
    ):
        with pytest.raises(RefusedError, match="issued already"):
            storage.issue(copy)
    assert accounts(storage) == BOTH


def test_a_match_spends_the_ticket_of_its_account_and_no_other(storage):
    session = at_its_end(storage, operation=Operation.ENROL, held=a_template())
    assert accounts(storage) == BOTH
    decide(storage, session)
    assert accounts(storage) == {account_of(OTHER_DEVICE)}
    assert storage.template(KEY) == a_template()


def test_no_match_spends_nothing(storage):
    decide(storage, at_its_end(storage, operation=Operation.ENROL, held=a_template()), Decision.NON_MATCH)
    assert accounts(storage) == BOTH
    assert storage.template(KEY) is None


def test_a_second_enrolment_with_a_ticket_is_refused_and_changes_nothing(storage):
    first = at_its_end(storage, number=1, operation=Operation.ENROL, held=a_template())
    copy = dataclasses.replace(a_template(THIRD_DEVICE), account=account_of(DEVICE))
    second = at_its_end(storage, number=2, operation=Operation.ENROL, held=copy, key_id=copy.key_id)
    decide(storage, first)
    with pytest.raises(RefusedError, match=NOT_VALID):
        decide(storage, second)
    assert storage.template(copy.key_id) is None
    assert accounts(storage) == {account_of(OTHER_DEVICE)}
    storage.require_new(copy.key_id)


def test_an_enrolment_whose_answer_is_asked_for_again_spends_one_ticket_once(storage):
    session = at_its_end(storage, operation=Operation.ENROL, held=a_template())
    for _ in range(2):
        decide(storage, session, held=a_template())
    assert storage.template(KEY) == a_template()
    assert accounts(storage) == {account_of(OTHER_DEVICE)}


def test_renewing_a_template_spends_no_ticket_and_keeps_the_account(storage):
    storage.enrol(a_template(THIRD_DEVICE))
    renewed = dataclasses.replace(a_template(OTHER_DEVICE), account=account_of(THIRD_DEVICE))
    third = a_template(THIRD_DEVICE).key_id
    decide(storage, at_its_end(storage, operation=Operation.RENEW_TEMPLATE, held=renewed, key_id=third))
    assert storage.template(OTHER_KEY).account == account_of(THIRD_DEVICE)
    assert storage.template(third) is None
    assert accounts(storage) == BOTH


# ---------------------------------------------------------------------- announcements


def test_a_session_announces_only_what_it_has_a_good_ticket_for(storage):
    stranger = an_enrolment(1, device=THIRD_DEVICE)
    ended = dataclasses.replace(an_enrolment(2), announced_at=NOW + 600)
    for deed in (stranger, ended):
        with pytest.raises(RefusedError, match=NOT_VALID):
            storage.announce(deed)
    assert storage.deeds() == []
    storage.announce(dataclasses.replace(an_enrolment(2), announced_at=NOW + 599))
    assert len(storage.deeds()) == 1


def test_of_two_sessions_with_one_ticket_one_is_announced(storage):
    first, copy = an_enrolment(1), an_enrolment(2, device=THIRD_DEVICE, account=account_of(DEVICE))
    storage.announce(first)
    with pytest.raises(UnavailableError, match="just enrolling with this ticket"):
        storage.announce(copy)
    storage.announce(an_enrolment(3, device=OTHER_DEVICE))  # somebody else's goes on
    storage.finish(first, now=NOW)
    storage.forget(first)
    with pytest.raises(RefusedError, match=NOT_VALID):
        storage.announce(copy)
    assert [deed.key_id for deed in storage.deeds()] == [OTHER_KEY]


def test_what_was_announced_and_never_logged_gives_the_ticket_back(storage):
    storage.announce(an_enrolment(1))
    storage.forget(an_enrolment(1))
    storage.announce(an_enrolment(2, device=THIRD_DEVICE, account=account_of(DEVICE)))
    assert accounts(storage) == BOTH


def test_a_session_announces_again_after_the_end_of_its_ticket(storage):
    """Its entry may be in the log by now."""
    storage.announce(an_enrolment(1))
    again = dataclasses.replace(an_enrolment(1), commitment=digest(50), announced_at=NOW + 10_000)
    storage.announce(again)
    assert len(storage.deeds()) == 2


def test_what_is_finished_spends_the_ticket_and_nothing_is_finished_without_one(storage):
    for _ in range(2):
        storage.finish(an_enrolment(1), now=NOW)
    assert storage.template(KEY) == a_template()
    assert accounts(storage) == {account_of(OTHER_DEVICE)}
    copy = an_enrolment(2, device=THIRD_DEVICE, account=account_of(DEVICE))
    storage.finish(copy, now=NOW)
    assert storage.template(copy.key_id) is None
    storage.require_new(copy.key_id)


# ---------------------------------------------------------------------- a device that another one lets in


def an_admission(number, device):
    """The first person's device lets another one in, in a session of that number."""
    let = Admission(DEVICE, code_of(a_template(device).key_id).digest, bytes(64), b"a transcript")
    template = dataclasses.replace(a_template(), admission=let.to_bytes())
    return a_deed(number, kind=PersonalKind.ADMISSION, session_id=a_session(number), template=template)


def let_in(storage, device=OTHER_DEVICE):
    """The first person is enrolled, and has let another device in."""
    storage.finish(an_enrolment(1), now=NOW)
    do(storage, an_admission(2, device))


def do(storage, deed):
    storage.announce(deed)
    storage.finish(deed, now=NOW)
    storage.forget(deed)


def test_while_one_device_enrols_no_other_takes_the_place_of_its_ticket(storage):
    """Else it spent the other's, or its enrolment stood in the log and was never done."""
    let_in(storage)
    enrolment = an_enrolment(3, device=OTHER_DEVICE, account=account_of(DEVICE))
    storage.announce(enrolment)
    with pytest.raises(UnavailableError, match="a device that was let in before is just enrolling"):
        storage.announce(an_admission(4, THIRD_DEVICE))
    assert storage.deeds() == [enrolment]
    storage.finish(enrolment, now=NOW)
    storage.forget(enrolment)
    assert storage.template(OTHER_KEY).admission == an_admission(2, OTHER_DEVICE).template.admission
    do(storage, an_admission(4, THIRD_DEVICE))
    assert accounts(storage) == BOTH  # the next device's, and somebody else's


def test_while_a_ticket_takes_the_place_of_another_nobody_enrols_with_either(storage):
    let_in(storage)
    admission = an_admission(3, THIRD_DEVICE)
    storage.announce(admission)
    enrolment = an_enrolment(4, device=OTHER_DEVICE, account=account_of(DEVICE))
    with pytest.raises(UnavailableError, match="just enrolling with this ticket, or lets in another"):
        storage.announce(enrolment)
    storage.announce(an_enrolment(5, device=b"\4" * 32, account=account_of(OTHER_DEVICE)))  # somebody else's goes on
    storage.finish(admission, now=NOW)
    storage.forget(admission)
    with pytest.raises(RefusedError, match=NOT_VALID):
        storage.announce(enrolment)
    storage.announce(an_enrolment(6, device=THIRD_DEVICE, account=account_of(DEVICE)))


def test_a_ticket_is_spent_by_the_device_that_was_let_in_alone(storage):
    let_in(storage, THIRD_DEVICE)
    copy = dataclasses.replace(a_template(OTHER_DEVICE), account=account_of(DEVICE))
    session = at_its_end(storage, number=3, operation=Operation.ENROL, held=copy, key_id=copy.key_id)
    with pytest.raises(RefusedError, match=NOT_VALID):
        decide(storage, session)
    assert storage.template(copy.key_id) is None
    assert accounts(storage) == BOTH


def test_an_admission_that_was_done_and_ended_is_not_done_again_by_a_slow_front_end(storage):
    storage.finish(an_enrolment(1), now=NOW)
    admission = an_admission(2, OTHER_DEVICE)
    do(storage, admission)
    do(storage, an_enrolment(3, device=OTHER_DEVICE, account=account_of(DEVICE)))
    again = an_admission(4, THIRD_DEVICE)
    storage.announce(again)
    (seen,) = storage.deeds()
    storage.finish(again, now=NOW)
    storage.forget(again)
    revoke(storage, OTHER_KEY)
    assert accounts(storage) == {account_of(OTHER_DEVICE)}
    storage.finish(seen, now=NOW)
    assert accounts(storage) == {account_of(OTHER_DEVICE)}


def test_a_revocation_waits_for_whoever_enrols_with_a_ticket_of_that_account(storage, database):
    """Else it takes the ticket of an enrolment that is announced in the same moment, and will be logged."""
    if "://" not in database:
        pytest.skip("SQLite's writer holds the only lock")
    let_in(storage)
    session = at_its_end(storage, number=3, operation=Operation.REMOVE_DEVICE, held=a_template())
    with storage._begin(Mode.DURABLE) as run, open_storage(database) as other:
        storage._lock(run, account_of(DEVICE))
        run.hear_the_rest()
        other._database._take = lambda take=other._database._take: _impatient(take())
        for use in (
            lambda: revoke(other),
            lambda: other.finish(a_deed(5), now=NOW),
            lambda: other.finish(a_deed(5, kind=PersonalKind.ERASURE), now=NOW),
            lambda: decide(other, session, held=a_template()),
        ):
            with pytest.raises(UnavailableError, match="busy"):
                use()
    assert storage.template(KEY) == a_template()
    assert accounts(storage) == BOTH


# ---------------------------------------------------------------------- taken back, swept, void


def test_a_ticket_that_is_taken_back_is_gone_and_the_other_stays(storage):
    assert storage.withdraw(a_ticket().digest)
    assert not storage.withdraw(a_ticket().digest)
    assert accounts(storage) == {account_of(OTHER_DEVICE)}
    with pytest.raises(RefusedError, match=NOT_VALID):
        storage.announce(an_enrolment(1))


def test_a_ticket_that_is_being_used_is_not_taken_back(storage):
    """Its enrolment stands in the log, perhaps, and will be done."""
    storage.announce(an_enrolment(1))
    assert not storage.withdraw(a_ticket().digest)
    storage.finish(an_enrolment(1), now=NOW)
    assert storage.template(KEY) == a_template()


def test_tickets_are_swept_an_hour_after_their_end_unless_somebody_is_enrolling(storage):
    def left():
        return accounts(storage, NOW - 1)

    storage.announce(an_enrolment(1))
    storage.sweep(now=NOW + 900 + 3599)
    assert left() == BOTH
    storage.sweep(now=NOW + 900 + 3600)
    assert left() == {account_of(DEVICE)}
    storage.forget(an_enrolment(1))
    storage.sweep(now=NOW + 900 + 3600)
    assert left() == set()


@pytest.mark.parametrize("keeps_tickets", [True, False])
def test_a_database_that_is_caught_up_has_all_tickets_or_none(storage, keeps_tickets):
    void = storage.catch_up([MissedEnd(KEY, NOW, digest(1))], a_head(5), keeps_tickets=keeps_tickets)
    assert void == (0 if keeps_tickets else 2)
    assert accounts(storage) == (BOTH if keeps_tickets else set())


# ---------------------------------------------------------------------- values, sessions


def test_a_session_remembers_the_account_of_its_ticket(storage):
    session = dataclasses.replace(an_open_session(operation=Operation.ENROL), account=account_of(DEVICE))
    start(storage, session)
    assert take(storage, session).account == account_of(DEVICE)
    other = start(storage, an_open_session(number=2))
    assert take(storage, other).account is None


@pytest.mark.parametrize("account", [b"", bytes(15), bytes(17), None])
def test_no_template_and_no_ticket_is_without_an_account(account):
    with pytest.raises(UsageError, match="a ticket's digest has 32 bytes, and its account 16"):
        IssuedTicket(digest(1), account or b"", None, NOW)
    with pytest.raises(UsageError, match="account has 16 bytes"):
        dataclasses.replace(a_template(), account=account)


def test_neither_a_template_nor_a_ticket_nor_a_session_prints_an_account(storage):
    session = dataclasses.replace(an_open_session(), account=account_of(DEVICE))
    for shown in (a_template(), a_ticket(), session, an_enrolment()):
        for form in (account_of(DEVICE).hex(), repr(account_of(DEVICE))):
            assert form not in repr(shown)


# ---------------------------------------------------------------------- two front ends


def enrol_at_once(database, number, ready, go, outcome):
    """One of two front ends that each want to enrol somebody else with the same tickets; says how many it did."""
    done = 0
    with open_storage(database) as storage:
        ready.release()
        go.wait(60)
        for person in range(10):
            account = account_of(bytes([person]) * 32)
            deed = an_enrolment(100 * number + person, device=bytes([100 + 10 * number + person]) * 32, account=account)
            try:
                storage.announce(deed)
            except (RefusedError, UnavailableError):
                continue
            storage.finish(deed, now=NOW)
            storage.forget(deed)
            done += 1
    outcome.put(done)


@pytest.mark.integration
def test_a_ticket_that_is_used_twice_at_once_enrols_one(database):
    devices = [bytes([100 + n]) * 32 for n in range(30)]
    with open_storage(database) as storage:
        for person in range(10):
            storage.issue(a_ticket(bytes([person]) * 32))
    context = multiprocessing.get_context("spawn")
    ready, go, outcome = context.Semaphore(0), context.Event(), context.Queue()
    racers = [context.Process(target=enrol_at_once, args=(database, n, ready, go, outcome)) for n in range(2)]
    for racer in racers:
        racer.start()
    for _ in racers:
        assert ready.acquire(timeout=60)
    go.set()
    assert sum(outcome.get(timeout=60) for _ in racers) == 10
    for racer in racers:
        racer.join()
    with open_storage(database) as storage:
        enrolled = [storage.template(a_template(device).key_id) for device in devices]
        assert len({one.account for one in enrolled if one}) == sum(one is not None for one in enrolled) == 10
        assert storage.tickets(now=NOW) == []


def test_a_transaction_that_looks_for_a_ticket_waits_for_whoever_uses_it(storage, database):
    """In PostgreSQL nothing but the account's lock keeps two front ends apart; SQLite has one writer."""
    if "://" not in database:
        pytest.skip("SQLite's writer holds the only lock")
    with storage._begin(Mode.DURABLE) as run, open_storage(database) as other:
        storage._lock(run, account_of(DEVICE))
        run.hear_the_rest()
        with other._begin(Mode.DURABLE) as theirs:
            theirs.execute(sa.text("SET LOCAL lock_timeout = 50"))
        other._database._take = lambda take=other._database._take: _impatient(take())
        for use in (
            lambda: other.announce(an_enrolment(1)),
            lambda: other.finish(an_enrolment(1), now=NOW),
            lambda: other.withdraw(a_ticket().digest),
        ):
            with pytest.raises(UnavailableError, match="busy"):
                use()
    assert accounts(storage) == BOTH


def _impatient(driver):
    driver.execute("SET lock_timeout = 50")
    return driver


# ---------------------------------------------------------------------- a database of before


@pytest.fixture(params=["sqlite", "postgres"])
def before(request, tmp_path):
    """A database without accounts, in which two people are enrolled, and one renewal and one enrolment under way."""
    is_file = request.param == "sqlite"
    address = str(tmp_path / "old.db") if is_file else request.getfixturevalue("empty_postgres")
    url = database_url(address)
    upgrade(url, "0006")
    engine = connect(url)
    kept = ("device_public_key", "template", "release_digest", "parameters", "purpose", "audience", "enrolled_at")
    with engine.begin() as run:
        for device in (DEVICE, OTHER_DEVICE):
            template = a_template(device)
            row = {name: getattr(template, name) for name in kept} | {"key_id": template.key_id, "receipts": b"x\x9c"}
            run.execute(sa.insert(sa.table("templates", *map(sa.column, row))).values(row))
        for number, (kind, key_id, device) in enumerate(
            [("renewal", KEY, DEVICE), ("enrolment", a_template(THIRD_DEVICE).key_id, THIRD_DEVICE)]
        ):
            row = {name: getattr(a_template(device), name) for name in kept} | {"receipts": b"x\x9c"}
            row |= {"commitment": digest(number), "kind": kind, "key_id": key_id, "announced_at": NOW}
            row |= {"request_digest": digest(9), "session_id": a_session(number)}
            run.execute(sa.insert(sa.table("deeds", *map(sa.column, row))).values(row))
    engine.dispose()
    return address


def rows(address, statement):
    if "://" in address:
        with psycopg.connect(address) as connection:
            return [tuple(map(_plain, row)) for row in connection.execute(statement)]
    connection = sqlite3.connect(address)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def _plain(value):
    return bytes(value) if isinstance(value, memoryview) else value


def test_everybody_of_before_gets_an_account_of_16_bytes_and_what_is_under_way_has_the_right_one(before):
    upgrade(database_url(before))
    templates = dict(rows(before, "SELECT key_id, account FROM templates"))
    deeds = dict(rows(before, "SELECT kind, account FROM deeds"))
    tickets = rows(before, "SELECT account, client, ends_at, length(digest) FROM tickets")
    assert set(templates) == {KEY, OTHER_KEY}
    assert len({*templates.values(), *deeds.values()}) == 3
    assert {len(account) for account in templates.values()} == {16}
    assert deeds["renewal"] == templates[KEY]
    assert tickets == [(deeds["enrolment"], None, NOW + 3600, 32)]
