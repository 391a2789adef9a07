import base64
import hashlib
import json
import os
import pickle
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.log.watching import LogMemory
from client.wallet import wallet as module
from client.wallet.wallet import WALLET, Enrolment, EnrolmentState, Wallet, create_wallet, read_wallet, write_wallet
from federation.errors import RefusedError, UsageError
from federation.onebit import TemplateSecret
from federation.onebit.parameters import ONEBIT_1024, ONEBIT_2048
from federation.sealing import Passphrase, ScryptCost, unsealed
from tests.agreeing import DEVICE, RECEIPT
from tests.transparency_log import MemoryLog

CHEAP = ScryptCost(log2_n=15)
PASSPHRASE = "correct horse battery"  # noqa: S105 - made up for the tests
ENROLMENT = Enrolment(
    "door-access", "example.org", bytes(range(32)), EnrolmentState.STARTED, "trial", b'{"receipt":"made up"}', 7
)
HEADER_BYTES = 48


SEEN = LogMemory(MemoryLog().signed())


@pytest.fixture(scope="module")
def wallet():
    enrolled = Wallet.generate().with_enrolment(ENROLMENT).with_log(SEEN)
    return enrolled.with_template_secret(TemplateSecret.generate(ONEBIT_1024))


@pytest.fixture(scope="module")
def sealed(wallet, tmp_path_factory):
    path = tmp_path_factory.mktemp("wallet") / "w"
    write_wallet(path, wallet, PASSPHRASE, CHEAP)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, sealed):
    file = tmp_path / "intaglio.wallet"
    file.write_bytes(sealed)
    return file


def secrets_of(wallet):
    """Signing key, code seed and pad."""
    secret = wallet.template_secret
    return (wallet.signing_key.private_bytes_raw(), *((secret.seed.value, secret.pad) if secret else ()))


def with_right_hash(data):
    return data + hashlib.sha256(data).digest()


@pytest.mark.parametrize("parameters", [ONEBIT_1024, ONEBIT_2048], ids=lambda each: each.name)
def test_a_wallet_comes_back_whole(tmp_path, wallet, parameters):
    written = wallet.with_template_secret(TemplateSecret.generate(parameters))
    write_wallet(tmp_path / "w", written, PASSPHRASE, CHEAP)
    opened = read_wallet(tmp_path / "w", PASSPHRASE)
    assert secrets_of(opened) == secrets_of(written)
    assert opened.template_secret.parameters is parameters
    assert (opened.key_id, opened.enrolment, opened.log) == (wallet.key_id, ENROLMENT, SEEN)


@pytest.mark.parametrize("state", EnrolmentState)
def test_what_a_wallet_does_not_have_is_not_there_when_it_comes_back(state):
    """Each alone, in the content that is sealed."""
    whole = Wallet.generate().with_enrolment(replace(ENROLMENT, state=state)).with_log(SEEN)
    for wallet in (
        whole,
        whole.with_log(None),
        replace(whole, enrolment=None),
        *(whole.with_enrolment(replace(whole.enrolment, **{name: None})) for name in ("deployment", "receipt")),
        whole.with_enrolment(replace(whole.enrolment, answers=0)),
    ):
        again = module._wallet_from_content(module._content_of(wallet), Path("w"))
        assert (again.key_id, again.template_secret) == (wallet.key_id, None)
        assert (again.enrolment, again.log) == (wallet.enrolment, wallet.log)


def test_what_is_sealed_stands_under_its_names(wallet):
    secret = wallet.template_secret
    assert json.loads(module._content_of(wallet)) == {
        "signing_key": base64.b64encode(wallet.signing_key.private_bytes_raw()).decode(),
        "template_secret": {
            "code_length": 1024,
            "seed_and_pad": base64.b64encode(secret.seed.value + secret.pad).decode(),
        },
        "enrolment": {
            "purpose": "door-access",
            "audience": "example.org",
            "release_digest": bytes(range(32)).hex(),
            "state": "started",
            "deployment": "trial",
            "receipt": '{"receipt":"made up"}',
            "answers": 7,
        },
        "log": SEEN.checkpoint.to_bytes().decode(),
    }


@pytest.mark.parametrize(
    "change",
    [
        *({name: 5} for name in ("signing_key", "template_secret", "enrolment", "log")),
        *({name: "secret words"} for name in ("signing_key", "template_secret", "enrolment", "log")),
        *({"enrolment": {name: ["secret words"]}} for name in ("purpose", "audience", "release_digest", "state")),
        *({"enrolment": {name: "Secret Words"}} for name in ("release_digest", "state", "deployment", "answers")),
        *({"enrolment": {"answers": answers}} for answers in (-1, 501, True, None)),
        {"enrolment": {"receipt": 5}},
        {"template_secret": {"code_length": 1000}},
        {"template_secret": {"code_length": 2048}},
        {"template_secret": {"seed_and_pad": "secret words"}},
    ],
    ids=str,
)
def test_content_in_which_one_thing_is_something_else_is_no_wallet(wallet, change):
    content = json.loads(module._content_of(wallet))
    for name, value in change.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    said = "^the wallet at w opens, but another version of this program wrote it$"
    with pytest.raises(UsageError, match=said) as no:
        module._wallet_from_content(json.dumps(content).encode(), Path("w"))
    assert no.value.__cause__ is None
    for name in content:
        with pytest.raises(UsageError, match="another version"):
            module._wallet_from_content(json.dumps({k: v for k, v in content.items() if k != name}).encode(), Path("w"))


@pytest.mark.parametrize("content", [b"", b"[]", b"5", b"[" * 100_000, b"\xff"])
def test_content_that_is_something_else_altogether_is_no_wallet(content):
    with pytest.raises(UsageError, match="another version"):
        module._wallet_from_content(content, Path("w"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"purpose": "White Space"}, "purpose and audience are"),
        ({"audience": "White Space"}, "purpose and audience are"),
        ({"deployment": "White Space"}, "the deployment"),
        ({"release_digest": bytes(31)}, "32 bytes"),
        ({"release_digest": bytes(33)}, "32 bytes"),
        ({"answers": -1}, "0 to 500 sessions"),
        ({"answers": 501}, "0 to 500 sessions"),
        ({"answers": True}, "0 to 500 sessions"),
    ],
)
def test_an_enrolment_that_makes_no_sense_cannot_be_built(change, said):
    with pytest.raises(UsageError, match=said):
        replace(ENROLMENT, **change)


def test_one_template_answers_five_hundred_sessions_and_no_more():
    last = replace(ENROLMENT, answers=499).with_one_more_answer()
    assert last == replace(ENROLMENT, answers=500)
    with pytest.raises(RefusedError, match="has answered 500 sessions, all that one template may"):
        last.with_one_more_answer()
    assert ENROLMENT.with_one_more_answer() == replace(ENROLMENT, answers=8)


def test_who_agreed_to_nothing_has_no_consent():
    with pytest.raises(RefusedError, match="no receipt"):
        replace(ENROLMENT, receipt=None).require_consent()
    agreed = replace(ENROLMENT, receipt=RECEIPT.sign(DEVICE).to_bytes()).require_consent()
    assert [one.receipt for one in agreed.receipts] == [RECEIPT]


def test_a_step_further_changes_the_state_alone_and_only_the_last_one_lets_go_of_the_secrets(wallet):
    for state in EnrolmentState:
        after = wallet.with_state(state)
        assert after.enrolment == replace(ENROLMENT, state=state)
        assert (after.signing_key, after.log) == (wallet.signing_key, SEEN)
        assert after.template_secret is (None if state is EnrolmentState.REVOKED else wallet.template_secret)
    with pytest.raises(UsageError, match="not enrolled"):
        replace(wallet, enrolment=None).with_state(EnrolmentState.REVOKED)


def test_a_wallet_is_called_by_key_and_state(wallet):
    assert repr(wallet) == f"Wallet(key_id={wallet.key_id.hex()[:16]}, started, secrets=<redacted>)"
    assert "not enrolled" in repr(Wallet.generate())


def test_the_key_id_is_the_digest_of_the_devices_public_key_and_of_nothing_else(wallet):
    assert wallet.key_id == hashlib.sha256(wallet.signing_key.public_key().public_bytes_raw()).digest()


def test_a_wallet_that_was_read_makes_no_template_with_the_seed_and_pad_in_it(path):
    """So whatever became of a try to enrol, the next one draws others."""
    with pytest.raises(UsageError, match="serve one template"):
        read_wallet(path, PASSPHRASE).template_secret.template(np.ones(128))


def test_seed_and_pad_that_were_drawn_make_one_template(wallet):
    secret = TemplateSecret.generate(ONEBIT_1024)
    secret.template(np.ones(128))
    with pytest.raises(UsageError, match="serve one template"):
        secret.template(np.ones(128))


def test_what_is_revoked_keeps_neither_seed_nor_pad(tmp_path, wallet):
    revoked = wallet.with_state(EnrolmentState.REVOKED)
    assert revoked.template_secret is None
    write_wallet(tmp_path / "w", revoked, PASSPHRASE, CHEAP)
    again = read_wallet(tmp_path / "w", PASSPHRASE)
    assert (again.template_secret, again.key_id) == (None, wallet.key_id)
    with pytest.raises(UsageError, match="not enrolled"):
        again.require_template_secret()


def test_a_fresh_wallet_has_no_enrolment_no_template_and_its_own_key(tmp_path, wallet):
    created = create_wallet(tmp_path / "new", PASSPHRASE, CHEAP)
    assert created.enrolment is None
    assert created.template_secret is None
    assert not set(secrets_of(created)) & set(secrets_of(wallet))
    with pytest.raises(UsageError, match="not enrolled"):
        created.require_enrolment()


def test_creating_never_overwrites(path, sealed):
    with pytest.raises(UsageError, match="exists"):
        create_wallet(path, PASSPHRASE, CHEAP)
    assert path.read_bytes() == sealed


def test_the_file_is_for_its_owner_only(tmp_path, wallet):
    old = os.umask(0)
    try:
        write_wallet(tmp_path / "w", wallet, PASSPHRASE, CHEAP)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) == 0o600


def test_two_writes_share_neither_salt_nor_nonce(path, sealed, wallet):
    write_wallet(path, wallet, PASSPHRASE, CHEAP)
    again = path.read_bytes()
    assert again[:20] == sealed[:20]
    assert again[20:36] != sealed[20:36]
    assert again[36:48] != sealed[36:48]


def test_one_passphrase_opens_and_writes_several_files_in_any_order(tmp_path):
    """Each has a salt of its own, and one another cost: what was stretched for one opens no other."""
    one, costs = Passphrase(PASSPHRASE), {"a": CHEAP, "b": CHEAP, "c": ScryptCost(16)}
    kept = {name: Wallet.generate().with_enrolment(ENROLMENT) for name in costs}
    for name, cost in costs.items():
        write_wallet(tmp_path / name, kept[name], PASSPHRASE, cost)
    for name in "abac":
        assert read_wallet(tmp_path / name, one).key_id == kept[name].key_id
        write_wallet(tmp_path / name, kept[name], one, costs[name])
    for name in costs:
        assert read_wallet(tmp_path / name, PASSPHRASE).key_id == kept[name].key_id


def test_no_secret_is_in_the_file(sealed, wallet):
    for secret in secrets_of(wallet):
        assert secret[:30] not in sealed
        assert base64.b64encode(secret)[:40] not in sealed
    assert b"signing_key" not in sealed


def test_missing_wrong_passphrase_and_damage_are_told_apart(path, sealed):
    with pytest.raises(UsageError, match=r"no wallet at .* wallet create"):
        read_wallet(path.with_name("elsewhere"), PASSPHRASE)
    with pytest.raises(UsageError, match="wrong passphrase"):
        read_wallet(path, PASSPHRASE + "!")
    path.write_bytes(sealed[:-1])
    with pytest.raises(UsageError, match="damaged"):
        read_wallet(path, PASSPHRASE)
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match="not a wallet"):
        read_wallet(path, PASSPHRASE)
    with path.open("wb") as file:
        file.truncate(5 << 20)
    with pytest.raises(UsageError, match="larger"):
        read_wallet(path, PASSPHRASE)


@given(data=st.data())
def test_any_damaged_byte_is_noticed_without_work(sealed, data):
    position = data.draw(st.one_of(st.integers(0, HEADER_BYTES + 32), st.integers(0, len(sealed) - 1)))
    flip = data.draw(st.integers(1, 255))
    damaged = sealed[:position] + bytes([sealed[position] ^ flip]) + sealed[position + 1 :]
    with pytest.raises(UsageError, match=r"damaged|not a wallet"):
        unsealed(damaged, WALLET, Passphrase(PASSPHRASE), Path("w"))


@given(cut=st.integers(0, 60_000))
def test_any_truncation_is_noticed(sealed, cut):
    with pytest.raises(UsageError, match=r"is damaged; take a copy|is not a wallet of this project"):
        unsealed(sealed[: cut % len(sealed)], WALLET, Passphrase(PASSPHRASE), Path("w"))


@pytest.mark.parametrize(
    ("region", "position", "flip", "message"),
    [
        ("magic", 3, 1, "not a wallet"),
        ("a version of before", 16, 3, "create a new wallet and enrol again"),
        ("a version to come", 16, 1, "version 3; this program reads version 2"),
        ("cost that is cheap and allowed", 17, 15 ^ 16, "changed on purpose"),
        ("cost that eats the memory", 17, 15 ^ 31, "scrypt cost"),
        ("cost that is weak", 17, 15 ^ 10, "scrypt cost"),
        ("block size", 18, 8 ^ 9, "scrypt cost"),
        ("parallelism", 19, 1 ^ 2, "changed on purpose"),
        ("parallelism that never ends", 19, 1 ^ 255, "scrypt cost"),
        ("salt", 20, 1, "changed on purpose"),
        ("nonce", 47, 1, "changed on purpose"),
        ("first byte of the ciphertext", 48, 1, "changed on purpose"),
        ("middle of the ciphertext", 300, 1, "changed on purpose"),
        ("tag", -1, 128, "changed on purpose"),
    ],
)
def test_a_forger_who_mends_the_hash_changes_nothing(path, sealed, region, position, flip, message):
    forged = bytearray(sealed[:-32])
    forged[position] ^= flip
    path.write_bytes(with_right_hash(bytes(forged)))
    with pytest.raises(UsageError, match=message):
        read_wallet(path, PASSPHRASE)


def test_content_of_another_version_is_no_traceback(monkeypatch, path, wallet):
    monkeypatch.setattr(module, "_content_of", lambda _: b'{"signing_key": "secret words"}')
    write_wallet(path, wallet, PASSPHRASE, CHEAP)
    with pytest.raises(UsageError, match="another version") as caught:
        read_wallet(path, PASSPHRASE)
    assert caught.value.__cause__ is None
    assert "secret words" not in str(caught.value)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_wallet_and_no_litter(path, sealed, wallet, monkeypatch, step):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if step == "fsync" else Path, step, full_disk)
        with pytest.raises(UsageError, match="No space"):
            write_wallet(path, wallet.with_state(EnrolmentState.REVOKED), PASSPHRASE, CHEAP)
    assert path.read_bytes() == sealed
    assert list(path.parent.iterdir()) == [path]


def test_a_crash_leaves_the_old_wallet_or_the_new_one(path, wallet, monkeypatch, tmp_path_factory):
    crashes = tmp_path_factory.mktemp("crashes")
    replace = Path.replace

    def replace_with_snapshots(self, target):
        shutil.copytree(path.parent, crashes / "before")
        replace(self, target)
        shutil.copytree(path.parent, crashes / "after")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_with_snapshots)
        write_wallet(path, wallet.with_state(EnrolmentState.ENROLLED), PASSPHRASE, CHEAP)
    states = [read_wallet(crashes / when / path.name, PASSPHRASE).enrolment.state for when in ("before", "after")]
    assert states == [EnrolmentState.STARTED, EnrolmentState.ENROLLED]


def test_a_directory_that_is_not_there_says_so(tmp_path, wallet):
    with pytest.raises(UsageError, match="cannot write"):
        write_wallet(tmp_path / "no" / "w", wallet, PASSPHRASE, CHEAP)


def test_a_short_passphrase_is_refused(tmp_path, wallet):
    with pytest.raises(UsageError, match="8 characters"):
        write_wallet(tmp_path / "w", wallet, "1234567", CHEAP)


def test_a_wallet_shows_no_secret_and_refuses_pickling(wallet):
    shown = repr(wallet) + str(wallet) + repr([wallet])
    for secret in secrets_of(wallet):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
    assert "redacted" in shown
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(wallet)


def test_a_revoked_wallet_is_of_no_more_use(wallet):
    with pytest.raises(UsageError, match=r"revoked for good; create .* or name the one that `intaglio renew` made"):
        wallet.with_state(EnrolmentState.REVOKED).require_enrolment()


@pytest.mark.parametrize("name", ["", "Upper", "a" * 65, "white space", "-dash", "ünï", "new\nline"])
def test_purposes_and_audiences_are_plain_names(name):
    with pytest.raises(UsageError, match="purpose and audience"):
        Enrolment(name, "example.org", bytes(32), EnrolmentState.STARTED)


def test_one_program_stretches_a_passphrase_once_and_never_encrypts_twice_alike(tmp_path, monkeypatch):
    stretched = []
    original = ScryptCost.derive_key
    monkeypatch.setattr(ScryptCost, "derive_key", lambda *a: stretched.append(1) or original(*a))
    passphrase, cost = Passphrase(PASSPHRASE), ScryptCost(15)
    wallet = create_wallet(tmp_path / "w", passphrase, cost)
    files = []
    for _ in range(3):
        write_wallet(tmp_path / "w", wallet, passphrase, cost)
        files.append((tmp_path / "w").read_bytes())
    assert len(stretched) == 1
    assert len({data[36:48] for data in files}) == 3  # nonces
    assert read_wallet(tmp_path / "w", PASSPHRASE).key_id == wallet.key_id
    assert PASSPHRASE not in repr(passphrase)
