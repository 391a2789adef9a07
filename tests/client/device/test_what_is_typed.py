"""Words of a command line that name something: one device, a nonce, a purpose; and how a device is listed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client.device import devices_cli, verify_cli
from client.wallet.wallet import Wallet
from federation.errors import UsageError
from federation.wire.devices import Admission, ListedDevice
from tests.agreeing import NOW, TERMS, a_key

MINE = Wallet(a_key(21))
ADMITTED = Admission(MINE.device_public_key, bytes(32), bytes(64), b"t")
DEVICES = (
    ListedDevice(bytes.fromhex("1122334455") + bytes(27), NOW, ADMITTED),
    ListedDevice(bytes.fromhex("1122334466") + bytes(27), NOW + 1, None),
    ListedDevice(
        bytes.fromhex("aabbccdd") + bytes(28), NOW + 2, Admission(bytes([9]) * 32, bytes(32), bytes(64), b"t")
    ),
    ListedDevice(MINE.key_id, NOW + 3, None),
)


@pytest.mark.parametrize(("name", "place"), [("1122334455", 0), ("1122334466", 1), ("AABBCCDD", 2), ("aabbccdd0", 2)])
def test_a_device_is_named_by_the_beginning_of_its_name(name, place):
    assert devices_cli._named(DEVICES, name) is DEVICES[place]


@pytest.mark.parametrize("name", ["11223344", "aabbccd", "", "1122334457", "2233445500"])
def test_a_beginning_that_is_short_or_of_several_or_of_none_names_no_device(name):
    with pytest.raises(
        UsageError, match=rf"^no device, or more than one, is called {name}; see `intaglio device list`$"
    ):
        devices_cli._named(DEVICES, name)


def test_a_device_is_listed_by_what_it_is_since_when_and_who_let_it_in():
    unknown = ", which is not among these: renewed or removed since, or never yours"
    stranger = DEVICES[2].admission.key_id.hex()[:16]
    assert [tuple(devices_cli._row(one, MINE, DEVICES).items()) for one in DEVICES] == [
        tuple(zip(("name", "which", "since", "how"), row, strict=True))
        for row in (
            (
                "1122334455000000",
                "another one",
                "2030-01-01T00:00:00Z",
                f"let in by {MINE.key_id.hex()[:16]}",
            ),
            ("1122334466000000", "another one", "2030-01-01T00:00:01Z", "enrolled with a ticket, or renewed"),
            ("aabbccdd00000000", "another one", "2030-01-01T00:00:02Z", f"let in by {stranger}{unknown}"),
            (MINE.key_id.hex()[:16], "this one", "2030-01-01T00:00:03Z", "enrolled with a ticket, or renewed"),
        )
    ]


def test_a_nonce_is_64_hex_digits_or_none_at_all():
    assert verify_cli._nonce(None) == b""
    assert verify_cli._nonce("aB" * 32) == b"\xab" * 32
    for wrong in ("", "ab" * 31 + "a", "ab" * 32 + "a", "ab" * 33, "ag" * 32, " " + "ab" * 31 + "a", "ab" * 32 + "\n"):
        with pytest.raises(UsageError, match=r"^the nonce is 64 hex digits, as the audience gave them$"):
            verify_cli._nonce(wrong)


def test_of_several_purposes_one_has_to_be_chosen_and_no_other_can_be():
    one, two = (
        replace(TERMS, purposes=purposes) for purposes in (("door-access",), ("account-sign-in", "door-access"))
    )
    assert verify_cli._purpose_of(one, None) == "door-access"
    assert [verify_cli._purpose_of(two, purpose) for purpose in two.purposes] == ["account-sign-in", "door-access"]
    both = "these terms are for account-sign-in, door-access"
    for terms, purpose, words in (
        (two, None, f"{both}; choose one with --purpose"),
        (two, "payment", f"{both}, not for payment"),
        (one, "account-sign-in", "these terms are for door-access, not for account-sign-in"),
    ):
        with pytest.raises(UsageError, match=f"^{words}$"):
            verify_cli._purpose_of(terms, purpose)
