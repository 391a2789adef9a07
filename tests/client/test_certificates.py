"""A device's pair on disk: another takes its place in its last days, at once or after a crash, and whole."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

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

    def __init__(self, folder):
        self.tls = folder / "tls"
        write_pki(self.tls, hosts=["localhost"], clients=["client", "other"], now=NOW)
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


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def belongs_together(tls):
    key = serialization.load_pem_private_key(tls.key, None)
    return key.public_key() == x509.load_pem_x509_certificate(tls.certificate).public_key()


def end_of(site):
    return x509.load_pem_x509_certificate(ClientTls.read(site.device).certificate).not_valid_after_utc


def test_a_certificate_that_does_not_end_soon_asks_for_nothing_and_nothing_is_written(site):
    before = site.files()
    site.follow(site.sign, now=LATE - dt.timedelta(days=30))
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
    assert site.said[0] == site.said[1]
    assert "ends on 2027-12-03; another is asked for, and the operator has not signed it yet" in site.said[0]
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


@pytest.mark.parametrize("step", range(1, 9))
def test_a_crash_at_any_step_leaves_a_pair_that_belongs_together_and_the_next_reader_finishes(site, monkeypatch, step):
    """Every name that appears or goes on this disk is one step."""
    steps = [0]

    def counted(original):
        def call(*arguments, **options):
            steps[0] += 1
            if steps[0] == step:
                raise Died
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(os, "unlink", counted(os.unlink))
        with contextlib.suppress(Died):
            site.follow(site.sign)
    was_offered = (site.device / "client-next.pem").exists()
    tls = ClientTls.read(site.device)
    assert belongs_together(tls)
    assert not was_offered or end_of(site) == LATE + dt.timedelta(days=397)
    assert not (site.device / "client-next.pem").exists()
    site.follow(site.sign)  # whatever it left, the device has its certificate after the next command
    assert end_of(site) == LATE + dt.timedelta(days=397)
    assert belongs_together(ClientTls.read(site.device))


def test_a_power_cut_between_two_removals_leaves_a_pair_that_can_be_read(site, tmp_path, monkeypatch):
    """Of names that go, any may be gone on disk and the others not, unless their folder was synced in between."""
    left, remove = {}, os.unlink
    with Disk(site.device) as disk:

        def removed(path, **named):
            remove(path, **named)
            path = Path(path)
            if path.parent == site.device and not path.name.startswith("."):
                left[path.name] = {name: data for name, data in disk.left().items() if name != path.name}

        monkeypatch.setattr(os, "unlink", removed)
        site.follow(site.sign)
    assert list(left) == ["client-next.pem", "client-next-key.pem"]
    for name, files in left.items():
        folder = tmp_path / f"without {name}"
        folder.mkdir()
        for each, data in files.items():
            (folder / each).write_bytes(data or b"")
        assert belongs_together(ClientTls.read(folder)), name


REFUSED = {
    "of another authority": "not signed by ca.pem",
    "for another name": "another key, name or use",
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_does_not_follow_is_not_taken(site, tmp_path, wrong):
    write_pki(tmp_path / "another", hosts=["localhost"], clients=[], now=NOW)
    maker = read_authority(tmp_path / "another" if "authority" in wrong else site.tls, now=LATE)
    before = site.files()
    site.follow(lambda _: issue_client(maker, "client" if "authority" in wrong else "other", now=LATE).certificate)
    after = site.files()
    del after["client-next-key.pem"]
    assert after == before
    assert len(site.said) == 1
    assert REFUSED[wrong] in site.said[0]


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
    (said,) = site.said
    assert "ends on 2027-12-03. The public rules name this kiosk by it" in said


def test_a_folder_that_cannot_be_written_leaves_the_pair_as_it_is(site, monkeypatch):
    def full(*_):
        raise UsageError("cannot write: the disk is full")

    before = site.files()
    monkeypatch.setattr("client.certificates.replace_file", full)
    site.follow(site.sign)
    assert site.asked == []
    assert "the disk is full" in site.said[0]
    assert site.files() == before
