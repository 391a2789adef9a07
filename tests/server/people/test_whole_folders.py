"""What each deed of an authority leaves of its whole folder, file by file, and what it answers; and each refusal."""

from __future__ import annotations

import datetime as dt
import shutil
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import RefusedError, UsageError
from federation.wire.certificates import Renewal
from server.certificates import write_pki
from server.people import authority
from server.people.authority import Known
from tests.durable import act_while_another_process_writes, is_locked

NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
LATE = NOW + 380 * DAY
"""In the last days of what was made at `NOW`."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two people, of whom one has another certificate than at first, and somebody who was revoked before."""
    folder = tmp_path_factory.mktemp("made") / "tls"
    write_pki(folder, hosts=["localhost"], clients=["alice", "bob", "eve"], now=NOW)
    authority.revoke(folder, "eve", now=NOW + DAY)
    authority.renew(folder, now=NOW + 2 * DAY, names=("alice",), days=300)
    return folder


@pytest.fixture
def tls(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tls")


def files(tls):
    found = {path.relative_to(tls).as_posix(): path.read_bytes() for path in tls.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if name != ".lock"}


def changes(tls, before):
    """Names of files that are new, that are others than before, and that are gone."""
    after = files(tls)
    common = before.keys() & after.keys()
    other = {name for name in common if before[name] != after[name]}
    return set(after) - common, other, set(before) - common


def certificate(tls, name):
    return x509.load_pem_x509_certificate((tls / f"{name}.pem").read_bytes())


def key(tls, name):
    return serialization.load_pem_private_key((tls / f"{name}-key.pem").read_bytes(), None)


def register(one):
    return f"former/{one.serial_number:x}.pem"


def listed(tls):
    crl = x509.load_pem_x509_crl((tls / "revoked.pem").read_bytes())
    assert crl.is_signature_valid(certificate(tls, "ca").public_key())
    return crl, [(one.serial_number, one.revocation_date_utc) for one in crl]


def of_eve(tls):
    (one,) = [one for one in authority.known(tls) if one.name == "eve"]
    return one.serial


def wish(tls, name, own=None):
    return Renewal.sign(certificate(tls, name), key(tls, name), own or ec.generate_private_key(ec.SECP256R1()))


def test_a_certificate_is_issued_with_its_pair_and_its_place_in_the_register_and_nothing_else(tls):
    before = files(tls)
    assert authority.issue(tls, "carol", now=NOW + DAY, days=90) == [tls / "carol.pem", tls / "carol-key.pem"]
    new = certificate(tls, "carol")
    assert changes(tls, before) == ({"carol.pem", "carol-key.pem", register(new)}, set(), set())
    assert files(tls)[register(new)] == files(tls)["carol.pem"]
    assert key(tls, "carol").public_key() == new.public_key()
    assert new.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "carol"
    usage = new.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert (new.not_valid_after_utc, new.issuer) == (NOW + 91 * DAY, certificate(tls, "ca").subject)
    modes = {name: stat.S_IMODE((tls / name).stat().st_mode) for name in ("carol.pem", "carol-key.pem", register(new))}
    assert modes == {"carol.pem": 0o644, "carol-key.pem": 0o600, register(new): 0o644}


def test_what_is_made_again_takes_the_place_of_a_pair_and_both_are_in_the_register(tls):
    before, old = files(tls), {name: certificate(tls, name) for name in ("bob", "server")}
    assert authority.renew(tls, now=NOW + 3 * DAY, names=("server", "bob"), days=70) == [
        tls / "bob.pem",
        tls / "server.pem",
    ]
    new = {name: certificate(tls, name) for name in old}
    pairs = {f"{name}{end}" for name in old for end in (".pem", "-key.pem")}
    made = {register(one) for one in new.values()} | {register(old["server"])}  # a client's is there from its beginning
    assert changes(tls, before) == (made, pairs, set())
    for name, one in new.items():
        assert files(tls)[register(one)] == files(tls)[f"{name}.pem"]
        assert (one.not_valid_after_utc, one.subject) == (NOW + 73 * DAY, old[name].subject)
        assert key(tls, name).public_key() == one.public_key()


def test_who_is_revoked_is_on_the_list_with_all_numbers_beside_those_of_before_and_the_pair_goes(tls):
    before, eve, ca = files(tls), of_eve(tls), certificate(tls, "ca")
    numbers = [one.serial for one in authority.known(tls) if one.name == "alice"]
    assert sorted(authority.revoke(tls, "alice", now=NOW + 4 * DAY)) == sorted(numbers)
    assert changes(tls, before) == (set(), {"revoked.pem"}, {"alice.pem", "alice-key.pem"})
    crl, found = listed(tls)
    times = {eve: NOW + DAY} | dict.fromkeys(numbers, NOW + 4 * DAY)
    assert (len(numbers), found) == (2, sorted(times.items()))
    assert (crl.issuer, crl.last_update_utc) == (ca.subject, NOW + 4 * DAY)
    assert crl.next_update_utc == dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
    assert isinstance(crl.signature_hash_algorithm, hashes.SHA256)
    assert stat.S_IMODE((tls / "revoked.pem").stat().st_mode) == 0o644


AGAIN = {
    "a name": lambda tls: authority.revoke(tls, "eve", now=NOW + 5 * DAY),
    "a number": lambda tls: authority.revoke_number(tls, of_eve(tls), now=NOW + 5 * DAY),
}


@pytest.mark.parametrize("how", AGAIN)
def test_whoever_is_revoked_twice_is_not_written_twice(tls, how):
    before = files(tls)
    assert not AGAIN[how](tls)
    assert changes(tls, before) == (set(), set(), set())


def test_one_number_ends_one_certificate_and_frees_the_name_only_if_it_lies_under_it(tls):
    before = files(tls)
    first, second = sorted((one for one in authority.known(tls) if one.name == "alice"), key=lambda one: one.is_present)
    assert authority.revoke_number(tls, first.serial, now=NOW + 4 * DAY) is True
    assert changes(tls, before) == (set(), {"revoked.pem"}, set())
    assert authority.revoke_number(tls, second.serial, now=NOW + 5 * DAY) is True
    assert changes(tls, before) == (set(), {"revoked.pem"}, {"alice.pem", "alice-key.pem"})
    times = {of_eve(tls): NOW + DAY, first.serial: NOW + 4 * DAY, second.serial: NOW + 5 * DAY}
    assert listed(tls)[1] == sorted(times.items())


def test_a_pair_that_somebody_put_there_is_in_the_register_before_it_goes(tls):
    """From another machine's folder of the same authority, which has no register of it."""
    (tls / register(certificate(tls, "bob"))).unlink()
    before, bob = files(tls), certificate(tls, "bob")
    assert authority.revoke(tls, "bob", now=NOW + 4 * DAY) == [bob.serial_number]
    assert changes(tls, before) == ({register(bob)}, {"revoked.pem"}, {"bob.pem", "bob-key.pem"})
    assert authority.revoke(tls, "bob", now=NOW + 5 * DAY) == []


def test_what_follows_lies_under_its_name_without_a_key_and_in_the_register(tls):
    before, old = files(tls), certificate(tls, "bob")
    own = ec.generate_private_key(ec.SECP256R1())
    new = authority.follow(tls, old.serial_number, wish(tls, "bob", own), now=LATE, days=60)
    assert changes(tls, before) == ({register(new)}, {"bob.pem"}, {"bob-key.pem"})
    assert files(tls)["bob.pem"] == files(tls)[register(new)] == new.public_bytes(serialization.Encoding.PEM)
    assert (new.public_key(), new.subject) == (own.public_key(), old.subject)
    assert new.not_valid_after_utc == LATE + 60 * DAY
    assert stat.S_IMODE((tls / "bob.pem").stat().st_mode) == 0o644


def test_a_client_who_is_called_as_the_server_is_gets_no_certificate_for_the_server_s_key(tls):
    authority.issue(tls, "localhost", now=NOW)
    before, own = files(tls), certificate(tls, "localhost")
    with pytest.raises(RefusedError, match="what is asked for localhost is a key that has another certificate"):
        authority.follow(tls, own.serial_number, wish(tls, "localhost", key(tls, "server")), now=LATE)
    assert changes(tls, before) == (set(), set(), set())


def test_everything_that_was_made_is_known_by_name_and_end_without_the_key(tls):
    (tls / "ca-key.pem").unlink()
    ca, (bob, alice, server) = certificate(tls, "ca"), (certificate(tls, name) for name in ("bob", "alice", "server"))
    kept = [x509.load_pem_x509_certificate(path.read_bytes()) for path in (tls / "former").iterdir()]
    (first,) = [one for one in kept if authority.name_of(one) == "alice" and one != alice]
    (eve,) = [one for one in kept if authority.name_of(one) == "eve"]
    assert ca.serial_number not in {one.serial for one in authority.known(tls)}
    assert authority.known(tls) == [
        Known("localhost", False, server.serial_number, NOW + 397 * DAY, None, True),
        Known("alice", True, alice.serial_number, NOW + 302 * DAY, None, True),
        Known("alice", True, first.serial_number, NOW + 397 * DAY, None, False),
        Known("bob", True, bob.serial_number, NOW + 397 * DAY, None, True),
        Known("eve", True, eve.serial_number, NOW + 397 * DAY, NOW + DAY, False),
    ]


DEEDS = {
    "issue": lambda tls: authority.issue(tls, "carol", now=NOW),
    "renew": lambda tls: authority.renew(tls, now=NOW),
    "revoke": lambda tls: authority.revoke(tls, "bob", now=NOW),
    "revoke_number": lambda tls: authority.revoke_number(tls, 7, now=NOW),
    "follow": lambda tls: authority.follow(tls, 7, "a wish", now=NOW),
}


@pytest.mark.parametrize("what", DEEDS)
def test_a_folder_that_is_not_there_is_named_and_is_not_made(tmp_path, what):
    with pytest.raises(UsageError, match=r"^cannot work in .*/nowhere: No such file or directory$") as caught:
        DEEDS[what](tmp_path / "nowhere")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", DEEDS)
def test_a_disk_that_takes_nothing_is_said_of_the_folder_and_the_lock_is_given_back(tls, monkeypatch, what):
    def full(*_, **__):
        assert is_locked(tls / ".lock")
        raise OSError(28, "No space left on device")

    for name in ("read_authority", "renew_pki"):
        monkeypatch.setattr(authority, name, full)
    with pytest.raises(UsageError, match=r"^cannot work in .*/tls: No space left on device$"):
        DEEDS[what](tls)
    assert not is_locked(tls / ".lock")


def test_who_was_revoked_while_somebody_waited_for_the_folder_gets_no_certificate(tls, monkeypatch):
    bob, asked = certificate(tls, "bob").serial_number, wish(tls, "bob")
    copy = shutil.copytree(tls, tls.with_name("copy"))
    authority.revoke_number(copy, bob, now=NOW + 4 * DAY)

    def follows():
        with pytest.raises(RefusedError, match="the certificate of bob was revoked"):
            authority.follow(tls, bob, asked, now=LATE)

    act_while_another_process_writes(
        tls / ".lock", follows, lambda: shutil.copy(copy / "revoked.pem", tls / "revoked.pem"), monkeypatch
    )


@pytest.mark.parametrize("name", ["carol", "ca", "bob-key", "revoked", "former/x"])
def test_where_one_of_the_names_has_no_certificate_nothing_is_made_again(tls, name):
    shutil.copy(tls / "bob.pem", tls / "former" / "x.pem")
    before = files(tls)
    with pytest.raises(UsageError, match=rf"^there is no certificate of {name!r} in .*/tls; `intaglio-server pki list"):
        authority.renew(tls, now=NOW + 3 * DAY, names=("bob", name))
    assert changes(tls, before) == (set(), set(), set())


def test_one_whose_key_is_elsewhere_keeps_the_others_that_were_named_from_being_made_again(tls):
    (tls / "alice-key.pem").unlink()
    before = files(tls)
    with pytest.raises(UsageError, match=r"^the key of alice is with its device, which asks for the next certificate"):
        authority.renew(tls, now=NOW + 3 * DAY, names=("bob", "alice"))
    assert changes(tls, before) == (set(), set(), set())
