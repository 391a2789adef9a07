"""Files under a passphrase: what they are sealed with, how much of one is read, and a backup's content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.wallet import backup, sealed
from client.wallet.backup import BACKUP, Backup
from client.wallet.sealed import seal, unseal
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet
from federation.errors import UsageError
from federation.sealing import Passphrase, ScryptCost, SealedKind
from federation.wire.owner import OwnerOperation, OwnerProof
from tests.agreeing import DEVICE

KIND = SealedKind("thing", b"intaglio thing..", version=1, most_bytes=5)
ENROLMENT = Enrolment("door-access", "example.org", bytes(32), EnrolmentState.ENROLLED, "trial")


@pytest.fixture
def told(monkeypatch):
    """What is encrypted, written and decrypted, in order; nothing is."""
    told = []

    def say(name):
        return lambda *given: told.append((name, *given)) or name.encode()

    monkeypatch.setattr(sealed, "sealed", say("sealed"))
    monkeypatch.setattr(sealed, "replace_file", say("replace_file"))
    monkeypatch.setattr(sealed, "unsealed", say("unsealed"))
    return told


@pytest.mark.parametrize(
    ("cost", "used"), [((), ScryptCost(17, 8, 1)), ((ScryptCost(15, 8, 2),), ScryptCost(15, 8, 2))]
)
def test_what_is_sealed_is_of_its_kind_under_its_passphrase_at_its_cost(told, cost, used):
    typed = Passphrase("typed before")
    seal(Path("w"), b"content", KIND, typed, *cost)
    seal(Path("w"), b"content", KIND, "typed now", *cost)
    (_, content, kind, first, at), written, (_, _, _, second, _), _ = told
    assert (content, kind, at, written) == (b"content", KIND, used, ("replace_file", Path("w"), b"sealed"))
    assert first is typed
    assert second.secret_bytes() == b"typed now"


def test_a_sealed_file_is_read_up_to_the_most_that_its_kind_has(told, tmp_path, monkeypatch):
    path, typed = tmp_path / "f", Passphrase("typed before")
    path.write_bytes(b"12345")
    assert unseal(path, KIND, typed) == b"unsealed"
    assert told == [("unsealed", b"12345", KIND, typed, path)]
    assert told[0][3] is typed
    unseal(path, KIND, "typed now")
    assert told.pop()[3].secret_bytes() == b"typed now"
    path.write_bytes(b"123456")
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read before it was looked at"))
    with pytest.raises(UsageError, match=rf"^{path} is not a thing: it is larger than any thing$"):
        unseal(path, KIND, typed)
    with pytest.raises(UsageError, match=rf"^the thing at {tmp_path}/g cannot be read: No such file or directory$"):
        unseal(tmp_path / "g", KIND, typed)
    assert len(told) == 1


# ---------------------------------------------------------------------- backups
def a_backup():
    return Backup.of(Wallet(DEVICE).with_enrolment(ENROLMENT), now=1234)


def test_a_backup_is_a_revocation_that_is_signed_now_for_where_the_wallet_is_enrolled():
    proof = a_backup().revocation
    wallet = Wallet(DEVICE)
    assert proof == OwnerProof.sign(
        OwnerOperation.REVOKE, DEVICE, key_id=wallet.key_id, audience="example.org", issued_at=1234
    )
    assert proof.signature.hex() not in repr(a_backup())


@pytest.fixture
def content(monkeypatch):
    """What was sealed, which is unsealed again."""
    kept = {}

    def sealing(path, data, *how):
        kept.update({"data": data, "to": (path, *how)})

    def unsealing(path, *how):
        assert (path, *how) == kept["to"]
        return kept["data"]

    monkeypatch.setattr(backup, "seal", sealing)
    monkeypatch.setattr(backup, "unseal", unsealing)
    return kept


def test_a_backup_comes_back_as_it_was(content):
    a_backup().write(Path("b"), "typed now")
    assert content["to"] == (Path("b"), BACKUP, "typed now")
    assert Backup.read(Path("b"), "typed now") == a_backup()


@pytest.mark.parametrize(
    "change",
    [
        *({name: 5} for name in ("audience", "key_id", "signature")),
        *({name: "secret words"} for name in ("audience", "key_id", "signature")),
        *({"issued_at": time} for time in ("now", None, -1, 1 << 63, [])),
        {"key_id": "ab" * 31},
        {"signature": "ab" * 63},
        b"[]",
        b"5",
        b"[" * 100_000,
        b"\xff",
    ],
    ids=lambda change: str(change)[:40],
)
def test_a_backup_whose_content_is_something_else_is_none(content, change):
    a_backup().write(Path("b"), "typed now")
    whole = json.loads(content["data"])
    content["data"] = change if isinstance(change, bytes) else json.dumps(whole | change).encode()
    said = "^the backup at b opens, but another version of this program wrote it$"
    with pytest.raises(UsageError, match=said) as refused:
        Backup.read(Path("b"), "typed now")
    assert refused.value.__cause__ is None
    for name in whole:
        content["data"] = json.dumps({one: value for one, value in whole.items() if one != name}).encode()
        with pytest.raises(UsageError, match=said):
            Backup.read(Path("b"), "typed now")
