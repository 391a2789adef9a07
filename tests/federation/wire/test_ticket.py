"""A ticket's text comes back whatever hand copied it, and nothing else is one."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, UsageError
from federation.wire.ticket import TICKET_BYTES, Ticket

KNOWN = Ticket(bytes(range(20)))


def test_the_text_is_the_base32_of_rfc_4648_in_groups_of_four():
    assert KNOWN.reveal() == "aaaq-eaye-auda-ocaj-bifq-ydio-b4ib-ceqt"
    assert base64.b32decode(KNOWN.reveal().replace("-", "").upper()) == bytes(range(20))


@given(value=st.binary(min_size=20, max_size=20), data=st.data())
def test_a_text_comes_back_whatever_hand_copied_it(value, data):
    text = Ticket(value).reveal()
    copied = "".join(
        data.draw(st.sampled_from(["", " ", "\t", "-"])) + (letter.upper() if data.draw(st.booleans()) else letter)
        for letter in text
    )
    assert Ticket.from_text(copied) == Ticket(value)


@given(text=st.text(max_size=50))
def test_any_text_is_a_ticket_that_says_so_again_or_none(text):
    try:
        ticket = Ticket.from_text(text)
    except UsageError:
        return
    assert Ticket.from_text(ticket.reveal()) == ticket


@pytest.mark.parametrize(
    "text", ["", "a" * 31, "a" * 33, "a" * 40, "1" + "a" * 31, "a" * 24 + "=" * 8, "\u0430" * 32, "a_" * 16]
)
def test_what_is_no_ticket_is_refused_without_being_said_again(text):
    with pytest.raises(UsageError, match="that is no ticket") as caught:
        Ticket.from_text(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("length", [0, 19, 21, 32])
def test_a_ticket_has_20_bytes(length):
    with pytest.raises(MalformedMessageError, match=f"a ticket must have 20 bytes, not {length}"):
        Ticket(bytes(length))


def test_a_server_keeps_the_hash_that_the_formats_describe():
    assert KNOWN.digest == hashlib.sha256(b"intaglio-ticket/1\0" + bytes(range(20))).digest()


def test_tickets_are_drawn_and_shown_to_nobody_by_accident():
    drawn = {Ticket.draw().reveal() for _ in range(20)}
    assert len(drawn) == 20
    assert TICKET_BYTES == 20
    assert repr(KNOWN) == "Ticket(<redacted>)"
