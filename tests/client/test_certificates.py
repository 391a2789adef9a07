"""A device's pair on disk: another takes its place in its last days, at once or after a crash, and whole."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.certificates import PairFiles
from client.connection import ClientTls
from federation.errors import ProofError, RefusedError, UnavailableError, UsageError
from server.certificates import read_authority, write_pki
from server.issuing import issue_client
from server.people import authority
from tests.durable import Disk, held_elsewhere

NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
LATE = NOW + dt.timedelta(days=380)


class Site:
    """An authority, and the devices of two people with their pairs."""

    def __init__(self, folder, pki):
        self.tls = folder / "tls"
        shutil.copytree(pki, self.tls)
        self.device = folder / "device"
        self.device.mkdir()
        for name in ("ca.pem", "client.pem", "client-key.pem", "other.pem", "other-key.pem"):
            (self.device / name).write_bytes((self.tls / name).read_bytes())
        self.asked, self.said = [], []

    def sign(self, wish, *, now=LATE):
        """What the service answers once the operator has signed."""
        self.asked.append(wish)
        old = ClientTls.read(self.device).certificate
        return authority.follow(self.tls, x509.load_pem_x509_certificate(old).serial_number, wish, now=now)

    def wait(self, wish):
        self.asked.append(wish)

    def follow(self, ask, *, name="client", now=LATE):
        shown = ClientTls.read(self.device, name)
        shown.place.follow(shown, ask, self.said.append, now=now)

    def files(self):
        return {path.name: path.read_bytes() for path in self.device.iterdir() if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    made = tmp_path_factory.mktemp("pki") / "tls"
    write_pki(made, hosts=["localhost"], clients=["client", "other"], now=NOW)
    return made


@pytest.fixture
def site(tmp_path, pki):
    return Site(tmp_path, pki)


def belongs_together(tls):
    key = serialization.load_pem_private_key(tls.key, None)
    return key.public_key() == x509.load_pem_x509_certificate(tls.certificate).public_key()


def end_of(site):
    return x509.load_pem_x509_certificate(ClientTls.read(site.device).certificate).not_valid_after_utc


@pytest.mark.parametrize("days", [350, 366, 397], ids=["weeks before", "a day before", "it has ended"])
@pytest.mark.parametrize("is_kiosk", [False, True])
def test_a_certificate_that_does_not_end_soon_asks_for_nothing_and_nothing_is_said_or_written(site, days, is_kiosk):
    before = site.files()
    site.follow(None if is_kiosk else site.sign, now=NOW + dt.timedelta(days=days))
    assert (site.asked, site.said, site.files()) == ([], [], before)


def test_in_its_last_days_it_is_followed_by_one_of_a_new_key_and_nothing_else_changes(site):
    before, end = site.files(), end_of(site)
    site.follow(site.sign)
    assert end_of(site) == LATE + dt.timedelta(days=397) > end
    after = site.files()
    assert belongs_together(ClientTls.read(site.device))
    assert {name for name in after if after[name] != before.get(name)} == {"client.pem", "client-key.pem"}
    assert after.keys() == before.keys()
    assert stat.S_IMODE((site.device / "client-key.pem").stat().st_mode) == 0o600
    assert site.said == [f"this device has another certificate, which ends on {end_of(site):%Y-%m-%d}"]


def test_until_it_is_signed_the_same_key_is_asked_for_and_the_old_pair_stays(site):
    before = site.files()
    site.follow(site.wait)
    site.follow(site.wait)
    after = site.files()
    assert {wish.require_of(_certificate(before["client.pem"])).public_numbers() for wish in site.asked} == {
        serialization.load_pem_private_key(after.pop("client-next-key.pem"), None).public_key().public_numbers()
    }
    assert after == before
    said = "this device's certificate ends on 2027-12-03; another is asked for, and the operator has not signed it yet"
    assert site.said == [said, said]
    site.follow(site.sign)
    assert belongs_together(ClientTls.read(site.device))
    assert "client-next-key.pem" not in site.files()


def _certificate(pem):
    return x509.load_pem_x509_certificate(pem)


def test_the_key_that_a_change_left_is_not_asked_for_again(site):
    """The crash came when the pair had changed and the key's copy was still there."""
    site.follow(site.sign)
    (site.device / "client-next-key.pem").write_bytes((site.device / "client-key.pem").read_bytes())
    later = LATE + dt.timedelta(days=380)
    site.follow(lambda wish: site.sign(wish, now=later), now=later)
    assert end_of(site) == later + dt.timedelta(days=397)
    assert belongs_together(ClientTls.read(site.device))


class Died(BaseException):
    """Nothing of ours catches it."""


DONE = [
    *("sync .client-next-key.pem", "name client-next-key.pem", "sync device", "asked"),
    *("sync .client-next.pem", "name client-next.pem", "sync device"),
    *("sync .client-key.pem", "name client-key.pem", "sync device"),
    *("sync .client.pem", "name client.pem", "sync device"),
    *("gone client-next.pem", "sync device", "gone client-next-key.pem", "sync device"),
]
"""All that a change does, in order."""


class Steps:
    """What is done on disk, and when the service is asked. The step of that number fails, before it does anything."""

    def __init__(self, site, monkeypatch, fails, error):
        self.site, self.fails, self.error, self.told = site, fails, error, []
        for name, word, place in (("fsync", "sync", 0), ("replace", "name", 1), ("unlink", "gone", 0)):
            monkeypatch.setattr(os, name, self._told(word, place, getattr(os, name)))

    def _told(self, word, place, original):
        def call(*given, **named):
            one = given[place]
            path = Path(f"/proc/self/fd/{one}").readlink() if isinstance(one, int) else Path(one)
            is_draft = path.name.startswith(".")
            if path.is_relative_to(self.site.device) and (word != "gone" or not is_draft):
                self._step(f"{word} {path.name.rpartition('.')[0] if is_draft else path.name}")
            return original(*given, **named)

        return call

    def _step(self, step):
        self.told.append(step)
        if len(self.told) - 1 == self.fails:
            raise self.error

    def sign(self, wish):
        self._step("asked")
        return self.site.sign(wish)


def test_the_new_key_is_on_disk_before_anybody_hears_of_it_and_the_certificate_before_anything_of_the_old_goes(
    site, monkeypatch
):
    with monkeypatch.context() as patch:
        steps = Steps(site, patch, None, None)
        site.follow(steps.sign)
    assert steps.told == DONE


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [Died(), FULL], ids=["a crash", "a full disk"])
@pytest.mark.parametrize("step", range(len(DONE)))
def test_whatever_fails_at_any_step_leaves_a_pair_that_belongs_together_and_the_next_reader_finishes(
    site, monkeypatch, step, error
):
    if DONE[step] == "asked" and error is FULL:
        error = UnavailableError("nobody is there")
    with monkeypatch.context() as patch:
        steps = Steps(site, patch, step, error)
        with contextlib.suppress(Died):
            site.follow(steps.sign)
    assert steps.told[: step + 1] == DONE[: step + 1]
    if isinstance(error, Died):
        assert site.said == []
    else:
        (said,) = site.said
        words = "nobody is there" if DONE[step] == "asked" else "No space left on device"
        assert said.startswith("this device's certificate ends on 2027-12-03, and no other was to be had: ")
        assert words in said
    was_offered = (site.device / "client-next.pem").exists()
    tls = ClientTls.read(site.device)
    assert belongs_together(tls)
    assert not was_offered or end_of(site) == LATE + dt.timedelta(days=397)
    assert not (site.device / "client-next.pem").exists()
    site.follow(site.sign)  # whatever it left, the device has its certificate after the next command
    assert end_of(site) == LATE + dt.timedelta(days=397)
    assert belongs_together(ClientTls.read(site.device))
    assert len({wish.request for wish in site.asked}) <= 2


class Cuts(Disk):
    """What a power cut would leave after each step; and where a name goes, also without that name."""

    def __init__(self, folder):
        super().__init__(folder)
        self.moments = []

    def _step(self, what, path):
        super()._step(what, path)
        self.moments.append((f"{what} {path.name}", self.left()))


def test_a_power_cut_at_any_step_leaves_a_pair_that_can_be_read(site, tmp_path, monkeypatch):
    """Of names that go, any may be gone on disk and the others not, unless their folder was synced in between."""
    remove, gone = os.unlink, []
    with Cuts(site.device) as disk:

        def removed(path, **named):
            remove(path, **named)
            path = Path(path)
            if path.parent == site.device and not path.name.startswith("."):
                gone.append(path.name)
                without = {name: data for name, data in disk.left().items() if name != path.name}
                disk.moments.append((f"gone {path.name}", without))

        monkeypatch.setattr(os, "unlink", removed)
        site.follow(site.sign)
    assert gone == ["client-next.pem", "client-next-key.pem"]
    for number, (moment, files) in enumerate(disk.moments):
        folder = tmp_path / f"cut {number}"
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data or b"")
        assert belongs_together(ClientTls.read(folder)), moment


REFUSED = {
    "of another authority": ("another", "client", LATE, "not signed by ca.pem"),
    "for another name": ("tls", "other", LATE, "another key, name or use"),
    "for another key": ("tls", "client", LATE, "another key, name or use"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_does_not_follow_is_not_taken(site, tmp_path, wrong):
    write_pki(tmp_path / "another", hosts=["localhost"], clients=[], now=NOW)
    folder, name, now, words = REFUSED[wrong]
    maker = read_authority(tmp_path / folder, now=LATE)
    before = site.files()
    site.follow(lambda _: issue_client(maker, name, now=now).certificate)
    after = site.files()
    del after["client-next-key.pem"]
    assert after == before
    assert len(site.said) == 1
    assert words in site.said[0]


def test_what_begins_later_than_now_is_not_taken(site):
    before = site.files()
    site.follow(lambda wish: site.sign(wish, now=LATE + dt.timedelta(days=1)))
    after = site.files()
    del after["client-next-key.pem"]
    assert after == before
    (said,) = site.said
    assert "is not in force" in said


def test_who_finds_another_certificate_in_the_place_of_the_one_that_is_shown_asks_for_none(site):
    shown = ClientTls.read(site.device)
    site.follow(site.sign)
    site.asked.clear()
    site.said.clear()
    before = site.files()
    shown.place.follow(shown, site.sign, site.said.append, now=LATE)
    assert (site.asked, site.files()) == ([], before)
    assert site.said == [
        "this device's certificate ends on 2027-12-03, and no other was to be had: another command has just taken it up"
    ]


@pytest.mark.parametrize("junk", [{"certificate": b"x"}, {"authority": b"x"}], ids=lambda junk: next(iter(junk)))
def test_what_cannot_be_read_is_followed_by_nothing(site, junk):
    before, shown = site.files(), replace(ClientTls.read(site.device), **junk)
    shown.place.follow(shown, site.sign, site.said.append, now=LATE)
    assert (site.asked, site.said, site.files()) == ([], [], before)


def _pem(key, encryption=serialization.NoEncryption()):  # noqa: B008 - it has no state
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


KEYS = {
    "junk": (b"x", "the device's key cannot be read"),
    "locked": (
        _pem(ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"x")),
        "the device's key cannot be read",
    ),
    "of another kind": (
        _pem(Ed25519PrivateKey.generate()),
        "this device has another kind of key than NIST P-256; whoever made its certificate renews it",
    ),
}


@pytest.mark.parametrize("name", ["client-key.pem", "client-next-key.pem"])
@pytest.mark.parametrize("kind", KEYS)
def test_with_a_key_of_no_use_nobody_is_asked_and_nothing_is_written(site, name, kind):
    key, words = KEYS[kind]
    (site.device / name).write_bytes(key)
    before = site.files()
    site.follow(site.sign)
    assert (site.asked, site.files()) == ([], before)
    assert site.said == [f"this device's certificate ends on 2027-12-03, and no other was to be had: {words}"]


@pytest.mark.parametrize("error", [RefusedError("revoked"), UnavailableError("nobody is there"), ProofError("forged")])
def test_whatever_goes_wrong_is_said_and_raises_nothing(site, error):
    def ask(_):
        raise error

    before = ClientTls.read(site.device)
    site.follow(ask)
    assert site.said == [f"this device's certificate ends on 2027-12-03, and no other was to be had: {error}"]
    assert ClientTls.read(site.device) == before


def test_while_another_command_has_the_pair_nobody_asks(site):
    with held_elsewhere(site.device / ".client.pem.lock"):
        site.follow(site.sign)
    assert site.asked == []
    assert "another command works with" in site.said[0]


def test_a_key_that_is_no_file_is_named(site):
    (site.device / "client-next-key.pem").mkdir()
    site.follow(site.sign)
    assert site.asked == []
    assert site.said[0].endswith(f"cannot read {site.device / 'client-next-key.pem'}: Is a directory")


def test_a_change_that_another_command_has_just_finished_is_not_finished_again(site, monkeypatch):
    site.follow(site.wait)
    offered, pending = site.device / "client-next.pem", site.device / "client-next-key.pem"
    offered.write_bytes(site.sign(site.asked[0]).public_bytes(serialization.Encoding.PEM))

    @contextlib.contextmanager
    def late(path):
        assert path == site.device / "client.pem"
        (site.device / "client-key.pem").write_bytes(pending.read_bytes())
        path.write_bytes(offered.read_bytes())
        offered.unlink()
        pending.unlink()
        yield

    monkeypatch.setattr("client.certificates.alone_with", late)
    assert belongs_together(ClientTls.read(site.device))
    assert end_of(site) == LATE + dt.timedelta(days=397)


def test_a_pair_of_which_half_has_changed_while_it_is_read_is_read_again(site, monkeypatch):
    """The other command was killed between the key and the certificate."""
    site.follow(site.wait)
    new, pending = site.sign(site.asked[0]), site.device / "client-next-key.pem"
    place, read = ClientTls.read(site.device).place, PairFiles._key.fget

    def change(files):
        monkeypatch.setattr(PairFiles, "_key", property(read))
        (site.device / "client-next.pem").write_bytes(new.public_bytes(serialization.Encoding.PEM))
        read(files).write_bytes(pending.read_bytes())
        return read(files)

    monkeypatch.setattr(PairFiles, "_key", property(change))
    certificate, key = place.read()
    assert x509.load_pem_x509_certificate(certificate) == new
    assert belongs_together(ClientTls(b"", certificate, key))


def test_a_reader_waits_for_no_half_of_a_change(site):
    """The other command has put the new key in its place and not yet the certificate."""
    site.follow(site.wait)
    (wish,) = site.asked
    new = site.sign(wish)
    (site.device / "client-next.pem").write_bytes(new.public_bytes(serialization.Encoding.PEM))
    with held_elsewhere(site.device / ".client.pem.lock"), pytest.raises(UnavailableError, match="another command"):
        ClientTls.read(site.device)
    assert belongs_together(ClientTls.read(site.device))


def test_a_pair_that_changes_while_it_is_read_is_read_again(site, monkeypatch):
    """The whole change happens between the reading of the certificate and that of the key."""
    read, done = PairFiles._certificate.fget, threading.Event()

    def slow(files):
        path = read(files)
        if done.is_set():
            return path
        done.set()
        content = path.read_bytes()
        site.follow(site.sign)

        class Once(type(path)):
            def read_bytes(self):
                return content

        return Once(path)

    shown = ClientTls.read(site.device)
    monkeypatch.setattr(PairFiles, "_certificate", property(slow))
    certificate, key = shown.place.read()
    assert certificate != shown.certificate
    assert key != shown.key
    assert belongs_together(ClientTls(shown.authority, certificate, key))


def test_of_a_kiosk_nobody_asks_because_the_rules_name_its_certificate(site):
    before = site.files()
    site.follow(None)
    assert site.files() == before
    assert site.said == [
        (
            "this device's certificate ends on 2027-12-03. The public rules name this kiosk by it: the operator issues "
            "another, and has them name that"
        )
    ]


def test_a_folder_that_cannot_be_written_leaves_the_pair_as_it_is(site, monkeypatch):
    def full(*_):
        raise UsageError("cannot write: the disk is full")

    before = site.files()
    monkeypatch.setattr("client.certificates.replace_file", full)
    site.follow(site.sign)
    assert site.asked == []
    assert "the disk is full" in site.said[0]
    assert site.files() == before
