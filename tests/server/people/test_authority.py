"""A second person, renewal and revocation of certificates: by two who work at once, and through crashes."""

from __future__ import annotations

import base64
import datetime as dt
import json
import shutil
import stat
import subprocess
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from federation.errors import ProofError, RefusedError, UsageError
from federation.wire.certificates import Renewal
from server import certificates, cli
from server.certificates import read_revoked, write_pki
from server.people import authority
from server.storage.schema import renewals
from server.storage.sqlstorage import open_storage
from tests.durable import act_while_another_process_writes, is_locked

NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def of_the_first_day(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "tls"
    write_pki(folder, hosts=["localhost"], clients=["alice", "bob"], now=NOW)
    return folder


@pytest.fixture
def tls(of_the_first_day, tmp_path):
    return shutil.copytree(of_the_first_day, tmp_path / "tls")


def certificate(tls, name):
    return x509.load_pem_x509_certificate((tls / f"{name}.pem").read_bytes())


def serial(tls, name):
    return certificate(tls, name).serial_number


def revoked(tls):
    return set(read_revoked(tls, certificate(tls, "ca")))


def states(tls, now=NOW):
    return [(one.name, one.state(now)) for one in authority.known(tls)]


def whole(tls):
    return {path.relative_to(tls): path.read_bytes() for path in tls.rglob("*") if path.is_file()}


def but_lock(tls):
    return {path: data for path, data in whole(tls).items() if path.name != ".lock"}


def typed(*arguments, expected=0):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expected, result.output
    return result


def test_a_second_person_gets_a_certificate_of_the_same_authority_that_openssl_takes(tls, tmp_path):
    alice = (tls / "alice.pem").read_bytes()
    authority.issue(tls, "carol", now=NOW)
    for name in ("alice", "carol"):
        command = ["openssl", "verify", "-purpose", "sslclient", "-attime", str(int(NOW.timestamp()) + 60)]
        assert subprocess.run([*command, "-CAfile", tls / "ca.pem", tls / f"{name}.pem"], check=False).returncode == 0
    key = serialization.load_pem_private_key((tls / "carol-key.pem").read_bytes(), None)
    assert key.public_key() == certificate(tls, "carol").public_key()
    assert stat.S_IMODE((tls / "carol-key.pem").stat().st_mode) == 0o600
    assert (tls / "alice.pem").read_bytes() == alice


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("alice", "alice has a certificate"),
        ("ca", "'ca' is the name of a file"),
        ("server", "'server' is the name of a file"),
        ("revoked", "'revoked' is the name of a file"),
        ("x-key", "letters, digits and dashes"),
        ("../x", "letters, digits and dashes"),
        ("", "letters, digits and dashes"),
        ("bøb", "letters, digits and dashes"),
    ],
)
def test_a_name_that_is_taken_or_cannot_be_one_gets_no_certificate(tls, name, said):
    before = whole(tls)
    with pytest.raises(UsageError, match=said):
        authority.issue(tls, name, now=NOW)
    assert {path: data for path, data in whole(tls).items() if path.name != ".lock"} == before


def test_without_the_authority_s_own_key_nothing_is_made_and_the_list_is_still_shown(tls, tmp_path):
    write_pki(tmp_path / "other", hosts=["localhost"], clients=[], now=NOW)
    (tls / "ca-key.pem").rename(tmp_path / "away.pem")
    for what in (
        lambda: authority.issue(tls, "carol", now=NOW),
        lambda: authority.renew(tls, now=NOW),
        lambda: authority.revoke(tls, "bob", now=NOW),
    ):
        with pytest.raises(UsageError, match=r"this needs ca\.pem and ca-key\.pem"):
            what()
    shutil.copy(tmp_path / "other" / "ca-key.pem", tls)
    with pytest.raises(UsageError, match=r"ca-key\.pem is not the key of"):
        authority.issue(tls, "carol", now=NOW)
    assert states(tls) == [("localhost", "in force"), ("alice", "in force"), ("bob", "in force")]


def test_an_authority_that_has_ended_makes_nothing(tls):
    with pytest.raises(UsageError, match=r"the authority in .* ended on 20"):
        authority.issue(tls, "carol", now=NOW + 11 * 366 * DAY)
    assert not (tls / "carol.pem").exists()


def test_those_that_end_soon_are_made_again_to_the_second_and_of_the_names_that_were_given(tls):
    authority.issue(tls, "carol", now=NOW + DAY)
    end = certificate(tls, "alice").not_valid_after_utc

    def again(now, within, *names):
        renewed = authority.renew(tls, now=now, names=names, ending_within=within)
        return sorted(path.stem for path in renewed)

    second = dt.timedelta(seconds=1)
    assert again(end - 60 * DAY - second, 60 * DAY) == []
    assert again(end - 60 * DAY, 60 * DAY, "bob", "carol") == ["bob"]
    assert again(end - 60 * DAY, 60 * DAY) == ["alice", "server"]
    assert again(end - 59 * DAY, 60 * DAY) == ["carol"]


def test_each_number_keeps_the_time_at_which_it_was_revoked(tls):
    bob, alice = serial(tls, "bob"), serial(tls, "alice")
    authority.revoke(tls, "bob", now=NOW + DAY)
    authority.revoke(tls, "alice", now=NOW + 2 * DAY)
    authority.revoke_number(tls, 7, now=NOW + 3 * DAY)
    authority.revoke_number(tls, bob, now=NOW + 4 * DAY)
    found = read_revoked(tls, certificate(tls, "ca"))
    assert found == {bob: NOW + DAY, alice: NOW + 2 * DAY, 7: NOW + 3 * DAY}


def test_a_number_whose_certificate_gave_way_to_another_frees_no_name(tls):
    first = serial(tls, "bob")
    authority.renew(tls, now=NOW + DAY, names=("bob",))
    second = serial(tls, "bob")
    assert authority.revoke_number(tls, first, now=NOW + 2 * DAY)
    assert (serial(tls, "bob"), (tls / "bob-key.pem").exists()) == (second, True)
    assert revoked(tls) == {first}


def test_certificates_of_one_name_are_listed_as_they_end(tls, monkeypatch):
    numbers = iter([900, 500, 100])
    monkeypatch.setattr(x509, "random_serial_number", lambda: next(numbers))
    for day in (1, 2, 3):
        authority.renew(tls, now=NOW + day * DAY, names=("bob",))
    listed = [one for one in authority.known(tls) if one.name == "bob"]
    assert [one.serial for one in listed][1:] == [900, 500, 100]
    assert [one.is_present for one in listed] == [False, False, False, True]
    ends = listed[0].ends_at
    assert [listed[0].state(ends + change) for change in (-DAY, 0 * DAY)] == [
        "in force, and another was made since",
        "ended",
    ]


def test_revoking_ends_every_certificate_that_a_name_ever_had_and_nobody_else_s(tls):
    first, alice = serial(tls, "bob"), serial(tls, "alice")
    authority.renew(tls, now=NOW + DAY)
    second = serial(tls, "bob")
    assert set(authority.revoke(tls, "bob", now=NOW + 2 * DAY)) == {first, second} == revoked(tls)
    assert alice not in revoked(tls)
    assert not (tls / "bob.pem").exists()
    assert not (tls / "bob-key.pem").exists()
    assert authority.revoke(tls, "bob", now=NOW + 3 * DAY) == []
    authority.issue(tls, "bob", now=NOW + 3 * DAY)
    assert serial(tls, "bob") not in revoked(tls)
    assert [state for name, state in states(tls, NOW + 3 * DAY) if name == "bob"] == [
        "revoked on 2026-11-03",
        "revoked on 2026-11-03",
        "in force",
    ]
    authority.revoke(tls, "alice", now=NOW + 4 * DAY)
    assert {first, second, alice} < revoked(tls)


@pytest.mark.parametrize("name", ["carol", "localhost"])
def test_who_never_had_a_client_s_certificate_is_not_revoked(tls, name):
    with pytest.raises(UsageError, match=f"no certificate of '{name}' was ever made"):
        authority.revoke(tls, name, now=NOW)
    assert revoked(tls) == set()


def test_the_list_is_one_that_openssl_reads_and_believes(tls):
    authority.revoke(tls, "bob", now=NOW)
    shown = subprocess.run(
        ["openssl", "crl", "-in", tls / "revoked.pem", "-CAfile", tls / "ca.pem", "-noout", "-text"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "verify OK" in shown.stderr
    assert shown.stdout.count("Serial Number:") == 1


@pytest.mark.parametrize("damage", ["another authority's", "cut", "empty", "altered"])
def test_a_list_that_the_authority_did_not_sign_is_refused(tls, tmp_path, damage):
    authority.revoke(tls, "bob", now=NOW)
    path = tls / "revoked.pem"
    whole_list = path.read_bytes()
    match damage:
        case "another authority's":
            write_pki(tmp_path / "other", hosts=["localhost"], clients=["bob"], now=NOW)
            authority.revoke(tmp_path / "other", "bob", now=NOW)
            shutil.copy(tmp_path / "other" / "revoked.pem", path)
        case "cut":
            path.write_bytes(whole_list[:-60])
        case "empty":
            path.write_bytes(b"")
        case _:
            der = bytearray(x509.load_pem_x509_crl(whole_list).public_bytes(serialization.Encoding.DER))
            der[len(der) // 2] ^= 1
            path.write_bytes(_pem(bytes(der)))
    for what in (
        lambda: authority.known(tls),
        lambda: authority.revoke(tls, "alice", now=NOW),
    ):
        with pytest.raises(UsageError, match="is no list of revoked certificates that the authority"):
            what()
    assert (tls / "alice.pem").exists()


def _pem(der):
    return b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n"


def test_renewing_one_of_several_keeps_the_others_and_the_old_one_in_mind(tls):
    before, alice, server = serial(tls, "bob"), serial(tls, "alice"), serial(tls, "server")
    assert [path.name for path in authority.renew(tls, now=NOW + DAY, names=("bob",))] == ["bob.pem"]
    assert serial(tls, "bob") != before
    assert (serial(tls, "alice"), serial(tls, "server")) == (alice, server)
    assert [state for name, state in states(tls) if name == "bob"] == [
        "in force, and another was made since",
        "in force",
    ]
    with pytest.raises(UsageError, match="there is no certificate of 'carol'"):
        authority.renew(tls, now=NOW, names=("carol",))


def test_a_timer_renews_what_ends_soon_and_nothing_else(tls):
    within = dt.timedelta(days=60)
    authority.issue(tls, "carol", now=NOW + 100 * DAY)
    assert authority.renew(tls, now=NOW + 336 * DAY, ending_within=within) == []
    renewed = authority.renew(tls, now=NOW + 338 * DAY, ending_within=within)
    assert [path.name for path in renewed] == ["alice.pem", "bob.pem", "server.pem"]
    assert authority.renew(tls, now=NOW + 338 * DAY, ending_within=within) == []


@pytest.mark.parametrize("what", ["issue", "renew", "revoke"])
def test_two_who_work_in_one_folder_do_it_one_after_the_other(tls, monkeypatch, what):
    """What one of them read before it had the lock would be old: a revocation would get lost."""
    act = {
        "issue": lambda: authority.issue(tls, "carol", now=NOW),
        "renew": lambda: authority.renew(tls, now=NOW, names=("alice",)),
        "revoke": lambda: authority.revoke(tls, "alice", now=NOW),
    }[what]
    copy = tls.with_name("copy")
    shutil.copytree(tls, copy)
    bob = serial(tls, "bob")
    authority.revoke(copy, "bob", now=NOW)
    act_while_another_process_writes(
        tls / ".lock", act, lambda: shutil.copy(copy / "revoked.pem", tls / "revoked.pem"), monkeypatch
    )
    assert bob in revoked(tls)
    assert not is_locked(tls / ".lock")


@pytest.mark.parametrize("step", range(1, 9))
def test_a_revocation_that_dies_at_any_step_is_finished_by_doing_it_again(tls, monkeypatch, step):
    authority.renew(tls, now=NOW, names=("bob",))
    serials = {one.serial for one in authority.known(tls) if one.name == "bob"}
    assert dying(monkeypatch, step, lambda: authority.revoke(tls, "bob", now=NOW)) == (step <= 5)
    left = {one.serial for one in authority.known(tls) if one.name == "bob"}
    assert left == serials, "a certificate that was handed out is known, whatever died"
    authority.revoke(tls, "bob", now=NOW)
    assert serials <= revoked(tls)
    assert not (tls / "bob.pem").exists()


def test_an_operator_adds_lists_renews_and_removes_a_person(tmp_path):
    tls = tmp_path / "tls"
    typed("pki", "init", tls, "--client", "alice")
    assert "bob.pem ends on 20" in typed("pki", "issue", tls, "bob").stdout
    assert "bob has a certificate" in typed("pki", "issue", tls, "bob", expected=2).stderr
    assert "server.pem ends on" in typed("pki", "renew", tls, "server").stdout
    facts = json.loads(typed("pki", "list", tls, "--json").stdout)
    assert [(one["name"], one["use"]) for one in facts] == [
        ("localhost", "server"),
        ("localhost", "server"),
        ("alice", "client"),
        ("bob", "client"),
    ]
    assert "1 certificates of bob are revoked" in typed("pki", "revoke", tls, "bob").stdout
    assert "bob was revoked before" in typed("pki", "revoke", tls, "bob").stdout
    shown = typed("pki", "list", tls).stdout
    assert [line.split("  ")[0] for line in shown.splitlines() if "revoked on" in line] == ["bob"]
    assert typed("pki", "renew", tls, "--ending-within", 60).stdout == ""


def days_of(tls, name, since):
    return (certificate(tls, name).not_valid_after_utc - since).days


def test_whoever_makes_a_certificate_says_how_long_it_lives_and_of_none_else_s(tmp_path):
    tls = tmp_path / "tls"
    write_pki(tls, hosts=["localhost"], clients=["alice", "bob"], now=NOW, days=200)
    authority.issue(tls, "carol", now=NOW, days=90)
    authority.issue(tls, "dora", now=NOW)
    assert [days_of(tls, name, NOW) for name in ("server", "alice", "carol", "dora")] == [200, 200, 90, 397]
    assert days_of(tls, "ca", NOW) == 3650
    later = NOW + 100 * DAY
    authority.renew(tls, now=later, names=("server", "alice"), days=30)
    asked, ending = wish(tls), NOW + 190 * DAY
    authority.follow(tls, serial(tls, "bob"), asked, now=ending, days=60)
    assert [days_of(tls, name, later) for name in ("server", "alice")] == [30, 30]
    assert days_of(tls, "bob", ending) == 60
    assert days_of(tls, "dora", NOW) == 397


@pytest.mark.parametrize("days", [0, -1, 11, 10**12])
def test_a_certificate_that_would_outlive_its_authority_or_be_none_is_not_made(tls, days):
    late = NOW + 3640 * DAY
    authority.renew(tls, now=late - 390 * DAY, names=("bob",))
    asked, number, before = wish(tls), serial(tls, "bob"), but_lock(tls)
    for what in (
        lambda: authority.issue(tls, "carol", now=late, days=days),
        lambda: authority.renew(tls, now=late, days=days),
        lambda: authority.follow(tls, number, asked, now=late, days=days),
    ):
        with pytest.raises(UsageError, match=r"ends on 2036-10-29: 1 to 10 days are"):
            what()
    assert but_lock(tls) == before
    authority.issue(tls, "carol", now=late, days=10)
    assert certificate(tls, "carol").not_valid_after_utc == certificate(tls, "ca").not_valid_after_utc


def test_an_operator_says_the_days_of_a_certificate_by_one_name_everywhere(tmp_path):
    tls, database = tmp_path / "tls", tmp_path / "matching.db"
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)  # as certificates tell it
    typed("pki", "init", tls, "--client", "alice", "--certificate-days", 20)
    typed("pki", "issue", tls, "bob", "--certificate-days", 90)
    assert [days_of(tls, name, now) for name in ("server", "alice", "bob")] == [20, 20, 90]
    with open_storage(database) as storage:
        end = int((now + 20 * DAY).timestamp())
        storage.ask_for_certificate(serial(tls, "alice"), wish(tls, "alice"), key_digest=b"a" * 32, ends_at=end)
    typed("pki", "sign", tls, "--database", database, "--certificate-days", 50)
    typed("pki", "renew", tls, "bob", "--certificate-days", 7)
    assert [days_of(tls, name, now) for name in ("alice", "bob")] == [50, 7]
    for command in (["init", tmp_path / "new"], ["issue", tls, "carol"], ["renew", tls]):
        for days in (0, 3651):
            said = typed("pki", *command, "--certificate-days", days, expected=2).stderr
            assert "1<=x<=3650" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("renewed", [False, True])
def test_a_pair_that_was_moved_away_and_not_copied_is_revoked_all_the_same(tls, renewed):
    authority.issue(tls, "carol", now=NOW)
    if renewed:
        authority.renew(tls, now=NOW, names=("carol",))
    serials = {one.serial for one in authority.known(tls) if one.name == "carol"}
    for name in ("carol.pem", "carol-key.pem"):
        (tls / name).unlink()
    assert set(authority.revoke(tls, "carol", now=NOW)) == serials
    assert len(serials) == 1 + renewed


# ---------------------------------------------------------------------- what follows a certificate that ends

LATE = NOW + 380 * DAY
"""In the last days of what was made at `NOW`."""


def wish(tls, name="bob", *, key=None):
    """As the device makes it that has the pair of that name."""
    own = serialization.load_pem_private_key((tls / f"{name}-key.pem").read_bytes(), None)
    return Renewal.sign(certificate(tls, name), own, key or ec.generate_private_key(ec.SECP256R1()))


def test_what_follows_has_the_name_of_the_old_one_and_a_key_that_only_the_device_has(tls):
    old, asked, before = certificate(tls, "bob"), wish(tls), whole(tls)
    new = authority.follow(tls, old.serial_number, asked, now=LATE)
    assert new.subject == old.subject
    assert new.public_key() == asked.require_of(old) != old.public_key()
    assert new.not_valid_after_utc == LATE + 397 * DAY
    assert certificate(tls, "bob") == new
    assert not (tls / "bob-key.pem").exists()
    assert states(tls, LATE).count(("bob", "in force, and another was made since")) == 1
    after = whole(tls)
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed - {".lock"} == {"bob.pem", "bob-key.pem", f"{new.serial_number:x}.pem"}
    assert set(authority.revoke(tls, "bob", now=LATE)) == {old.serial_number, new.serial_number}


def test_asked_again_it_is_the_same_and_no_third(tls):
    serial, asked = certificate(tls, "bob").serial_number, wish(tls)
    first = authority.follow(tls, serial, asked, now=LATE)
    assert authority.follow(tls, serial, asked, now=LATE + DAY) == first
    assert [one.name for one in authority.known(tls)].count("bob") == 2


def dying(monkeypatch, step, act):
    """Does something that dies before its nth write, removal or sync in an authority's folder; whether it did."""
    steps = [0]

    def counted(original):
        def call(*arguments, **options):
            steps[0] += 1
            if steps[0] == step:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in (
            (authority, "write_durably"),
            (certificates, "write_durably"),
            (authority, "sync_directory"),
            (authority.Path, "unlink"),
        ):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            act()
        except KeyboardInterrupt:
            return True
    return False


@pytest.mark.parametrize("step", range(1, 6))
def test_what_follows_is_the_same_one_whatever_step_died_and_the_old_one_s_key_never_lies_beside_it(
    tls, monkeypatch, step
):
    """With a key beside it, it would be taken for a pair that was made here, and be renewed in its device's place."""
    old, asked = certificate(tls, "bob"), wish(tls)

    def follow():
        return authority.follow(tls, old.serial_number, asked, now=LATE)

    assert dying(monkeypatch, step, follow) == (step <= 4)
    assert certificate(tls, "bob") == old or not (tls / "bob-key.pem").exists()
    kept = {one.serial for one in authority.known(tls) if one.name == "bob"}
    new = follow()
    assert step == 1 or new.serial_number in kept, "a second one was made"
    assert (certificate(tls, "bob"), (tls / "bob-key.pem").exists()) == (new, False)
    assert {one.serial for one in authority.known(tls) if one.name == "bob"} == {old.serial_number, new.serial_number}


ENDS = {
    "a name": lambda tls, _: authority.revoke(tls, "bob", now=NOW),
    "a number": lambda tls, number: authority.revoke_number(tls, number, now=NOW),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("step", range(1, 7))
def test_a_certificate_is_on_the_list_before_its_file_goes_and_its_file_goes_before_its_key(
    tls, monkeypatch, how, step
):
    number = serial(tls, "bob")
    assert dying(monkeypatch, step, lambda: ENDS[how](tls, number)) == (step <= 5)
    has_gone = not (tls / "bob.pem").exists()
    assert (tls / "bob-key.pem").exists() or has_gone
    assert revoked(tls) == {number} or not has_gone
    assert {one.serial for one in authority.known(tls) if one.name == "bob"} == {number}
    assert revoked(tls) == (set() if step == 1 else {number})


@pytest.mark.parametrize("step", range(1, 10))
def test_what_was_made_again_is_in_the_register_whatever_step_died_and_so_is_what_it_took_the_place_of(
    tls, monkeypatch, step
):
    """A timer does not make it again, and whoever moves the pair to its device leaves the register alone."""
    before = {name: serial(tls, name) for name in ("alice", "bob")}
    again = ("alice", "bob")
    assert dying(monkeypatch, step, lambda: authority.renew(tls, now=NOW + DAY, names=again)) == (step <= 8)
    kept = {int(path.stem, 16) for path in (tls / "former").iterdir()}
    assert kept >= set(before.values()) | {serial(tls, name) for name in again}


@pytest.mark.parametrize("step", range(1, 5))
def test_a_certificate_is_in_the_register_before_anybody_can_take_its_pair_away(tls, monkeypatch, step):
    assert dying(monkeypatch, step, lambda: authority.issue(tls, "carol", now=NOW)) == (step <= 3)
    kept = {x509.load_pem_x509_certificate(path.read_bytes()) for path in (tls / "former").iterdir()}
    assert [authority.name_of(one) for one in kept].count("carol") == (step > 1)
    assert (tls / "carol-key.pem").exists() == (step > 2)
    assert (tls / "carol.pem").exists() == (step > 3)
    if step > 3:
        assert certificate(tls, "carol") in kept


def test_neither_a_stranger_nor_the_service_gets_a_certificate_of_somebody_s(tls):
    """The service can put any wish beside any number; the old key's signature decides."""
    before = whole(tls)
    with pytest.raises(ProofError, match="not signed with the key of the certificate that ends"):
        authority.follow(tls, certificate(tls, "bob").serial_number, wish(tls, "alice"), now=LATE)
    assert but_lock(tls) == {path: data for path, data in before.items() if path.name != ".lock"}


NOT_FOLLOWED = {
    "revoked": (lambda tls: authority.revoke_number(tls, serial(tls, "alice"), now=NOW), LATE, "alice was revoked"),
    "ended": (lambda _: None, NOW + 398 * DAY, "ended on 2027-12-03 and renews nothing"),
    "not ending soon": (lambda _: None, NOW + 366 * DAY, "in its last 30 days"),
    "not made here": (lambda tls: shutil.rmtree(tls / "former") or (tls / "alice.pem").unlink(), LATE, "no client's"),
}


@pytest.mark.parametrize("why", NOT_FOLLOWED)
def test_nothing_follows_a_certificate(tls, why):
    happens, now, said = NOT_FOLLOWED[why]
    asked, number = wish(tls, "alice"), serial(tls, "alice")
    happens(tls)
    before = whole(tls)
    with pytest.raises(RefusedError, match=said):
        authority.follow(tls, number, asked, now=now)
    assert but_lock(tls) == {path: data for path, data in before.items() if path.name != ".lock"}


@pytest.mark.parametrize("where", ["", authority.FORMER])
def test_what_another_authority_of_the_same_name_made_is_none_of_ours(tls, tmp_path, where):
    write_pki(tmp_path / "others", hosts=["localhost"], clients=["mallory"], now=NOW)
    (tls / where).mkdir(exist_ok=True)
    shutil.copy(tmp_path / "others/mallory.pem", tls / where / "mallory.pem")
    assert certificate(tmp_path / "others", "mallory").issuer == certificate(tls, "ca").subject
    before = whole(tls)
    assert {name for name, _ in states(tls)} == {"alice", "bob", "localhost"}
    with pytest.raises(UsageError, match="no certificate of 'mallory' was ever made"):
        authority.revoke(tls, "mallory", now=NOW)
    assert but_lock(tls) == {path: data for path, data in before.items() if path.name != ".lock"}


def key_of(tls, name):
    return serialization.load_pem_private_key((tls / f"{name}-key.pem").read_bytes(), None)


@pytest.mark.parametrize("whose", ["alice", "server", "ca"])
def test_a_key_that_has_another_certificate_is_in_no_second_one_and_brings_nobody_another_name(tls, whose):
    """Whoever had two of them had the second one's certificate laid under the first one's name."""
    asked, before = wish(tls, key=key_of(tls, whose)), whole(tls)
    with pytest.raises(RefusedError, match="what is asked for bob is a key that has another certificate"):
        authority.follow(tls, serial(tls, "bob"), asked, now=LATE)
    assert but_lock(tls) == {path: data for path, data in before.items() if path.name != ".lock"}


def test_a_key_whose_certificate_was_revoked_is_in_no_other(tls):
    first, key = serial(tls, "bob"), key_of(tls, "bob")
    authority.renew(tls, now=NOW, names=("bob",))
    authority.revoke_number(tls, first, now=NOW)
    asked, before = wish(tls, key=key), whole(tls)
    with pytest.raises(RefusedError, match="what is asked for bob is a key that has another certificate"):
        authority.follow(tls, serial(tls, "bob"), asked, now=LATE)
    assert but_lock(tls) == {path: data for path, data in before.items() if path.name != ".lock"}


def test_a_pair_that_was_made_here_since_is_not_lost_to_whoever_has_the_former_one(tls):
    """A bridge's pair is made again by a timer and lies here; its former one is in force to its end."""
    first, asked = certificate(tls, "bob"), wish(tls)
    authority.renew(tls, now=NOW + 340 * DAY, names=("bob",))
    pair = [(tls / name).read_bytes() for name in ("bob.pem", "bob-key.pem")]
    new = authority.follow(tls, first.serial_number, asked, now=LATE)
    assert [(tls / name).read_bytes() for name in ("bob.pem", "bob-key.pem")] == pair
    assert authority.follow(tls, first.serial_number, asked, now=LATE) == new
    assert {first.serial_number, new.serial_number, serial(tls, "bob")} == set(authority.revoke(tls, "bob", now=LATE))


def test_nothing_follows_the_server_s_certificate_this_way(tls):
    with pytest.raises(RefusedError, match="no client's certificate"):
        authority.follow(tls, serial(tls, "server"), wish(tls, "server"), now=LATE)


def test_a_pair_that_lies_with_its_device_is_not_renewed_here(tls):
    number = serial(tls, "bob")
    authority.follow(tls, number, wish(tls), now=LATE)
    with pytest.raises(UsageError, match="the key of bob is with its device, which asks"):
        authority.renew(tls, now=LATE, names=("bob",))
    assert {path.stem for path in authority.renew(tls, now=LATE)} == {"alice", "server"}


# ---------------------------------------------------------------------- pairs that were moved away, and numbers


def test_a_pair_of_the_first_day_that_was_moved_to_its_device_is_revoked_by_its_name(tls):
    number = serial(tls, "bob")
    for name in ("bob.pem", "bob-key.pem"):
        (tls / name).unlink()
    assert ("bob", "in force, and another was made since") in states(tls)
    assert authority.revoke(tls, "bob", now=NOW) == [number]
    assert revoked(tls) == {number}


def test_one_certificate_is_revoked_by_its_number_and_its_holder_s_other_stays(tls):
    first = serial(tls, "bob")
    authority.renew(tls, now=NOW, names=("bob",))
    assert authority.revoke_number(tls, first, now=NOW)
    assert not authority.revoke_number(tls, first, now=NOW)
    assert revoked(tls) == {first}
    assert (tls / "bob.pem").exists()
    assert authority.revoke_number(tls, serial(tls, "bob"), now=NOW)
    assert not (tls / "bob.pem").exists()
    assert not (tls / "bob-key.pem").exists()


def test_a_number_that_nobody_kept_is_revoked_too_and_a_server_s_is_not(tls):
    assert authority.revoke_number(tls, 0xABCDEF, now=NOW)
    assert revoked(tls) == {0xABCDEF}
    with pytest.raises(UsageError, match="the number of a server's certificate"):
        authority.revoke_number(tls, serial(tls, "server"), now=NOW)
    with pytest.raises(UsageError, match="the number of the authority itself"):
        authority.revoke_number(tls, serial(tls, "ca"), now=NOW)
    for wrong in (0, -1, 1 << 160):
        with pytest.raises(UsageError, match="1 to 40 hex digits"):
            authority.revoke_number(tls, wrong, now=NOW)
    assert revoked(tls) == {0xABCDEF}


def test_a_certificate_that_somebody_kept_as_another_file_does_not_take_the_one_of_its_name_along(tls):
    first = serial(tls, "bob")
    (tls / "bob.pem").rename(tls / "bob-before.pem")
    authority.issue(tls, "bob", now=NOW + DAY)
    before = {name: (tls / name).read_bytes() for name in ("bob.pem", "bob-key.pem", "bob-before.pem")}
    assert authority.revoke_number(tls, first, now=NOW + 2 * DAY)
    assert revoked(tls) == {first}
    assert {name: (tls / name).read_bytes() for name in before} == before


def test_an_operator_revokes_by_a_number_as_the_list_shows_it(tls):
    facts = json.loads(typed("pki", "list", tls, "--json").stdout)
    number = next(one["serial"] for one in facts if one["name"] == "bob")
    assert number in typed("pki", "list", tls).stdout
    told = f"certificate {number} of bob"
    for said in (number[:16], f"00{number[:2]}:{number[2:8].upper()}", number):
        is_first = not revoked(tls)
        answer = typed("pki", "revoke", tls, "--serial", said).stdout
        assert answer == f"{told} {'is revoked from now on' if is_first else 'was revoked before'}\n"
    assert {f"{one:x}" for one in revoked(tls)} == {number}
    mistyped = number[:-1] + f"{int(number[-1], 16) ^ 1:x}"
    told = typed("pki", "revoke", tls, "--serial", mistyped, expected=2).stderr
    assert f"{mistyped} begins as the number of a certificate of bob does, and is none" in told
    unknown = next(f"{one:x}" * 8 for one in range(1 << 12, 1 << 16) if not number.startswith(f"{one:x}"))
    for short in ("deadbeef", unknown[:31]):
        assert "no certificate that is kept here" in typed("pki", "revoke", tls, "--serial", short, expected=2).stderr
    assert {f"{one:x}" for one in revoked(tls)} == {number}
    assert f"{unknown}, which is not kept here, is revoked" in typed("pki", "revoke", tls, "--serial", unknown).stdout
    assert {f"{one:x}" for one in revoked(tls)} == {number, unknown}
    assert "no number of a certificate" in typed("pki", "revoke", tls, "--serial", "bob", expected=2).stderr
    assert "name a person or a device" in typed("pki", "revoke", tls, expected=2).stderr
    assert "name a person or a device" in typed("pki", "revoke", tls, "bob", "--serial", "1", expected=2).stderr


def test_a_beginning_that_several_numbers_have_or_that_is_short_revokes_none_of_them(tls, monkeypatch):
    known = {0xABCDEF1234: "alice", 0xABCDEF12: "carol", 0xABCDEF1356: "bob", 0xAB12: "dan"}
    monkeypatch.setattr(
        authority, "known", lambda _: [SimpleNamespace(serial=n, name=name) for n, name in known.items()]
    )
    told = typed("pki", "revoke", tls, "--serial", "abcdef1", expected=2).stderr
    assert "abcdef1 may be the beginning of many numbers: give 8 digits or more" in told
    known[0xABCDEF1399] = "erin"
    told = typed("pki", "revoke", tls, "--serial", "abcdef13", expected=2).stderr
    assert "2 certificates have numbers that begin with abcdef13; give the whole one" in told
    assert revoked(tls) == set()
    for said, whose in (
        ("ab12", "ab12 of dan"),
        ("abcdef12", "abcdef12 of carol"),
        ("abcdef123", "abcdef1234 of alice"),
    ):
        assert f"certificate {whose} is revoked" in typed("pki", "revoke", tls, "--serial", said).stdout
    assert revoked(tls) == {0xAB12, 0xABCDEF12, 0xABCDEF1234}


def test_an_operator_signs_what_waits_in_the_database_and_is_told_what_is_not_signed(tmp_path):
    tls, database, now = tmp_path / "aged", tmp_path / "matching.db", dt.datetime.now(dt.UTC)
    write_pki(tls, hosts=["localhost"], clients=["alice", "bob"], now=now - 380 * DAY)
    asked = {name: wish(tls, "alice") for name in ("alice", "bob")}  # bob's as a service puts it that was taken over
    numbers, end = {name: serial(tls, name) for name in asked}, int((now + 17 * DAY).timestamp())
    with open_storage(database) as storage:
        for name, one in asked.items():
            storage.ask_for_certificate(numbers[name], one, key_digest=name.encode().ljust(32), ends_at=end)
    result = typed("pki", "sign", tls, "--database", database)
    assert result.stdout.startswith("alice  ends on 20")
    refused = f"not signed for {numbers['bob']:x}: the request is not signed with the key of the certificate that ends"
    assert refused in result.stderr
    assert typed("pki", "sign", tls, "--database", database).stdout == ""
    with open_storage(database) as storage:
        options = {"key_digest": b"alice".ljust(32), "ends_at": end}
        answer = storage.ask_for_certificate(numbers["alice"], asked["alice"], **options)
        (left,) = storage.waiting_renewals(now=int(now.timestamp()))
    assert x509.load_der_x509_certificate(answer) == certificate(tls, "alice")
    assert left.serial == numbers["bob"]


def test_a_row_that_is_no_wish_keeps_nobody_else_from_what_they_asked_for(tmp_path):
    """A service that was taken over wrote it, and the timer would sign for nobody until somebody found the row."""
    tls, database, now = tmp_path / "aged", tmp_path / "matching.db", dt.datetime.now(dt.UTC)
    write_pki(tls, hosts=["localhost"], clients=["alice"], now=now - 380 * DAY)
    end = int((now + 17 * DAY).timestamp())
    rows = [(1, b"", b"x"), (2, b"x", b"x" * 2049), (3, b"x", b"x")]
    with open_storage(database) as storage:
        with storage._begin() as run:
            for number, request, proof in rows:
                values = {"serial": number.to_bytes(20, "big"), "key_digest": bytes([number]) * 32, "ends_at": end}
                run.execute(renewals.insert(), values | {"request": request, "proof": proof, "certificate": None})
        storage.ask_for_certificate(serial(tls, "alice"), wish(tls, "alice"), key_digest=b"a" * 32, ends_at=end)
    result = typed("pki", "sign", tls, "--database", database)
    assert result.stdout.startswith("alice  ends on 20")
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        f"not signed for {number}" for number, *_ in rows
    ]
