"""What a passphrase seals: every byte of the file, what is fresh in each write, and how often the passphrase works."""

import hashlib
from dataclasses import replace

import pytest

from federation import sealing
from federation.errors import UsageError
from federation.sealing import Passphrase, ScryptCost, SealedKind, sealed, unsealed

THING = SealedKind("thing", b"intaglio thing..", version=3, when_older="make a new one")
OTHER = SealedKind("other", b"intaglio other..", version=3)
COST, DEARER = ScryptCost(15, 8, 1), ScryptCost(16, 8, 2)
CONTENT = b"what nobody else reads"


@pytest.fixture
def stretched(monkeypatch):
    """Costs and salts that the passphrase was stretched at, in order; the key is another one for each."""
    asked = []

    def derive(cost, passphrase, salt):
        asked.append((cost, salt))
        return hashlib.sha256(repr((cost, passphrase, salt)).encode()).digest()

    monkeypatch.setattr(ScryptCost, "derive_key", derive)
    return asked


def closed(ciphertext):
    """With a closing hash that fits, as whoever changes a file on purpose makes it."""
    return bytes(ciphertext) + hashlib.sha256(ciphertext).digest()


def test_a_file_is_laid_out_as_the_page_about_formats_says(stretched):
    data = sealed(CONTENT, THING, Passphrase("a long one"), DEARER)
    assert data[:20] == b"intaglio thing..\x03\x10\x08\x02"
    assert stretched == [(DEARER, data[20:36])]
    assert len(data) == 16 + 4 + 16 + 12 + len(CONTENT) + 16 + 32
    assert data == closed(data[:-32])
    assert CONTENT not in data
    assert unsealed(data, THING, Passphrase("a long one"), "f") == CONTENT


def test_a_program_stretches_once_for_a_salt_and_cost_and_draws_a_nonce_for_each_write(stretched):
    typed = Passphrase("a long one")
    first, second = (sealed(CONTENT, THING, typed, COST) for _ in range(2))
    assert first[20:36] == second[20:36]
    assert first[36:48] != second[36:48]
    dearer = sealed(CONTENT, THING, typed, DEARER)
    assert dearer[20:36] != first[20:36]
    strange = sealed(CONTENT, THING, Passphrase("a long one"), COST)
    assert len({data[20:36] for data in (first, dearer, strange)}) == 3
    del stretched[:]
    for data in (dearer, first, second, strange, strange, first):
        assert unsealed(data, THING, typed, "f") == CONTENT
    at = first[20:36], strange[20:36]
    assert stretched == [(COST, at[0]), (COST, at[1]), (COST, at[0])]


def test_one_salt_at_another_cost_is_another_key(stretched):
    typed = Passphrase("a long one")
    assert typed.key(COST, bytes(16)) != typed.key(DEARER, bytes(16))
    assert stretched == [(COST, bytes(16)), (DEARER, bytes(16))]


def test_no_byte_before_the_hash_can_be_changed_by_whoever_makes_the_hash_fit(stretched):
    data = sealed(CONTENT, THING, Passphrase("a long one"), COST)
    for place in range(len(data) - 32):
        changed = bytearray(data[:-32])
        changed[place] ^= 1
        with pytest.raises(UsageError, match=r"is not a thing|version|scrypt cost|wrong passphrase"):
            unsealed(closed(changed), THING, Passphrase("a long one"), "f")
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(UsageError, match=r"^f is not a thing of this|^the thing at f is damaged"):
            unsealed(bytes(changed), THING, Passphrase("a long one"), "f")


def test_one_kind_is_not_opened_as_another_whatever_its_first_bytes_say(stretched):
    data = sealed(CONTENT, THING, Passphrase("a long one"), COST)
    with pytest.raises(UsageError, match=r"^f is not a other of this project, or its first bytes are damaged$"):
        unsealed(data, OTHER, Passphrase("a long one"), "f")
    relabelled = closed(OTHER.magic + data[16:-32])
    with pytest.raises(UsageError, match=r"^wrong passphrase for f, or the file was changed on purpose$"):
        unsealed(relabelled, OTHER, Passphrase("a long one"), "f")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({16: 2}, "^the thing at f is of version 2, which is worth nothing now: make a new one$"),
        ({16: 4}, "^the thing at f has version 4; this program reads version 3$"),
        ({17: 14}, "^scrypt cost must have"),
        ({17: 21}, "^scrypt cost must have"),
        ({18: 7}, "^scrypt cost must have"),
        ({18: 9}, "^scrypt cost must have"),
        ({19: 0}, "^scrypt cost must have"),
        ({19: 5}, "^scrypt cost must have"),
    ],
    ids=str,
)
def test_another_version_and_a_cost_that_nobody_can_bear_are_refused_before_any_work(stretched, change, said):
    ciphertext = bytearray(sealed(CONTENT, THING, Passphrase("a long one"), COST)[:-32])
    for place, value in change.items():
        ciphertext[place] = value
    del stretched[:]
    with pytest.raises(UsageError, match=said):
        unsealed(closed(ciphertext), THING, Passphrase("a long one"), "f")
    assert stretched == []


@pytest.mark.parametrize("length", [0, 16, 48, 63])
def test_what_is_too_short_for_a_header_and_a_tag_is_damaged_however_its_hash_fits(stretched, length):
    data = sealed(b"", THING, Passphrase("a long one"), COST)
    assert unsealed(closed(data[:64]), THING, Passphrase("a long one"), "f") == b""
    with pytest.raises(UsageError, match="is damaged" if length >= 16 else "is not a thing"):
        unsealed(closed(data[:length]), THING, Passphrase("a long one"), "f")


def test_a_wrong_passphrase_is_told_from_damage_and_leaves_no_trace_of_the_key(stretched):
    data = sealed(CONTENT, THING, Passphrase("a long one"), COST)
    with pytest.raises(UsageError, match=r"^wrong passphrase for f, or") as refused:
        unsealed(data, THING, Passphrase("another one"), "f")
    assert (refused.value.__cause__, refused.value.__suppress_context__) == (None, True)


def test_a_passphrase_of_seven_characters_is_refused_before_it_is_stretched(stretched):
    with pytest.raises(UsageError, match=r"^the passphrase needs at least 8 characters$"):
        sealed(CONTENT, THING, Passphrase("7777777"), COST)
    assert stretched == []
    assert unsealed(sealed(CONTENT, THING, Passphrase("88888888"), COST), THING, Passphrase("88888888"), "f") == CONTENT


def test_scrypt_gets_the_cost_that_is_written_down(monkeypatch):
    asked = []

    class Recorded:
        def __init__(self, **given):
            asked.append(given)

        def derive(self, passphrase):
            asked.append(passphrase)
            return b"key"

    monkeypatch.setattr(sealing, "Scrypt", Recorded)
    assert replace(DEARER, p=3).derive_key("grüße", b"salt") == b"key"
    assert asked == [{"salt": b"salt", "length": 32, "n": 65536, "r": 8, "p": 3}, "grüße".encode()]
    assert ScryptCost() == ScryptCost(17, 8, 1)
