"""For how long, for whom and by whom a certificate is made, and which files hold it: no two values are the same."""

from __future__ import annotations

import datetime as dt
import os
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.errors import UsageError
from server.certificates import read_authority, read_revoked, renew_pki, require_client_name, write_pair, write_pki
from server.issuing import certify_client, issue_again, issue_client, issue_server, make_authority

NOW = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
AUTHORITY, OTHER = make_authority(now=NOW), make_authority(now=NOW - 3620 * DAY)
KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(autouse=True)
def _umask():
    """Whatever that of whoever runs the tests is."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def names_of(certificate):
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(one.value) for one in found]


def told(certificate):
    """Whose, for what, for which addresses, and for how many days from NOW on."""
    usage = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    days = (certificate.not_valid_after_utc - NOW) / DAY
    return certificate.subject.rfc4514_string(), usage, names_of(certificate), days


SERVERS, CLIENTS = [ExtendedKeyUsageOID.SERVER_AUTH], [ExtendedKeyUsageOID.CLIENT_AUTH]
MAKERS = {
    "server": lambda by, **how: issue_server(by, ["a.example", "10.0.0.7"], now=NOW, **how).certificate,
    "client": lambda by, **how: issue_client(by, "alice", now=NOW, **how).certificate,
    "device": lambda by, **how: certify_client(by, "alice", KEY.public_key(), now=NOW, **how),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_certificate_lives_as_long_as_was_asked_and_its_authority_allows(kind):
    make = MAKERS[kind]
    whose = ("CN=a.example", SERVERS, ["a.example", "10.0.0.7"]) if kind == "server" else ("CN=alice", CLIENTS, [])
    for by, days, lives in ((AUTHORITY, None, 397), (AUTHORITY, 1, 1), (AUTHORITY, 3650, 3650), (OTHER, 30, 30)):
        made = make(by, days=days)
        assert told(made) == (*whose, lives)
        made.verify_directly_issued_by(by.certificate)
    for by, days, most in ((AUTHORITY, 0, 3650), (AUTHORITY, 3651, 3650), (OTHER, 31, 30)):
        end = f"{by.certificate.not_valid_after_utc:%Y-%m-%d}"
        words = f"a certificate of {days} days is none of this authority, which ends on {end}: 1 to {most} days are"
        with pytest.raises(UsageError, match=words):
            make(by, days=days)
    if kind == "device":
        assert made.public_key() == KEY.public_key()


NO_HOSTS = [
    "",
    "b\u00fccher.example",
    "\uff12",
    "a b",
    "a\nb",
    "b.example:7443",
    "[::1]:7443",
    "bob@b.example",
    "https://b.example",
]


@pytest.mark.parametrize("host", [*NO_HOSTS, "b.example/", ".", "-b", "b.example.", "*", "a.*.example", "[b.example]"])
def test_what_nobody_can_call_a_server_by_is_in_no_certificate_and_no_file(tmp_path, host):
    with pytest.raises(UsageError, match=r"is no host: write a name .* or an address, without a port$"):
        write_pki(tmp_path / "tls", hosts=["a.example", host], clients=["alice"], now=NOW)
    assert list(tmp_path.iterdir()) == []


def test_a_server_is_called_by_names_and_addresses_in_every_form_that_clients_use():
    hosts = ["B.example", "*.b.example", "xn--bcher-kva.example", "b_1", "10.0.0.7", "::1", "[2001:db8::7]"]
    made = issue_server(AUTHORITY, hosts, now=NOW).certificate
    assert names_of(made) == [*hosts[:-1], "2001:db8::7"]


@pytest.mark.parametrize(
    ("old", "hosts", "days", "made"),
    [
        ("server", [], None, ("CN=a.example", SERVERS, ["a.example", "10.0.0.7"], 397)),
        ("server", [], 41, ("CN=a.example", SERVERS, ["a.example", "10.0.0.7"], 41)),
        ("server", ["b.example", "::1"], 43, ("CN=b.example", SERVERS, ["b.example", "::1"], 43)),
        ("client", [], None, ("CN=alice", CLIENTS, [], 397)),
        ("client", ["b.example"], 47, ("CN=alice", CLIENTS, [], 47)),
    ],
)
def test_a_certificate_is_made_again_for_the_same_use_and_a_server_for_new_names_where_there_are_any(
    old, hosts, days, made
):
    before = MAKERS[old](OTHER)
    after = issue_again(AUTHORITY, before, hosts, now=NOW, days=days)
    assert told(after.certificate) == made
    assert after.key.public_key() == after.certificate.public_key() != before.public_key()
    after.certificate.verify_directly_issued_by(AUTHORITY.certificate)


def test_a_key_is_not_shown_with_its_certificate_and_a_name_that_none_can_carry_is_refused():
    assert repr(issue_client(AUTHORITY, "alice", now=NOW)) == "Issued(CN=alice, key=<redacted>)"
    for name in ("", "x" * 65):
        with pytest.raises(UsageError, match=f"a certificate cannot carry the name '{name}': "):
            issue_client(AUTHORITY, name, now=NOW)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a b", "letters, digits and dashes, and do not end in -key"),
        ("älice", "letters, digits and dashes, and do not end in -key"),
        ("alice-key", "letters, digits and dashes, and do not end in -key"),
        ("-", "letters, digits and dashes, and do not end in -key"),
        ("../a", "letters, digits and dashes, and do not end in -key"),
        ("ca", "'ca' is the name of a file that is no client's"),
        ("server", "'server' is the name of a file that is no client's"),
        ("revoked", "'revoked' is the name of a file that is no client's"),
    ],
)
def test_a_client_has_the_name_of_a_file_of_its_own(tmp_path, name, said):
    with pytest.raises(UsageError, match=said):
        require_client_name(name)
    if name not in {"ca", "server"}:
        with pytest.raises(UsageError, match=said):
            write_pki(tmp_path / "tls", hosts=["a"], clients=["alice", name], now=NOW)
    assert list(tmp_path.iterdir()) == []
    require_client_name("alice-2")


def read(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def modes(folder):
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


def test_an_authority_is_written_with_every_pair_and_the_register_of_its_clients(tmp_path):
    tls = tmp_path / "a folder" / "tls"
    written = write_pki(tls, hosts=["a.example", "b.example"], clients=["alice", "bob"], now=NOW, days=33)
    files = [f"{name}{end}" for name in ("ca", "server", "alice", "bob") for end in (".pem", "-key.pem")]
    assert written == [tls / name for name in files]
    assert stat.S_IMODE(tls.stat().st_mode) == 0o700
    former = {f"former/{read(tls / f'{name}.pem').serial_number:x}.pem": 0o644 for name in ("alice", "bob")}
    expected = {name: 0o600 if "-key" in name else 0o644 for name in files} | former | {"former": 0o700}
    assert modes(tls) == expected
    for name in ("alice", "bob"):
        kept = tls / f"former/{read(tls / f'{name}.pem').serial_number:x}.pem"
        assert kept.read_bytes() == (tls / f"{name}.pem").read_bytes()
    assert [told(read(tls / f"{name}.pem")) for name in ("server", "alice", "bob")] == [
        ("CN=a.example", SERVERS, ["a.example", "b.example"], 33),
        ("CN=alice", CLIENTS, [], 33),
        ("CN=bob", CLIENTS, [], 33),
    ]
    assert read(tls / "ca.pem").not_valid_after_utc == NOW + 3650 * DAY
    for name in ("ca", "server", "alice", "bob"):
        key = load_pem_private_key((tls / f"{name}-key.pem").read_bytes(), None)
        assert key.public_key() == read(tls / f"{name}.pem").public_key()
        read(tls / f"{name}.pem").verify_directly_issued_by(read(tls / "ca.pem"))
    with pytest.raises(UsageError, match=r"ca\.pem exists and is not overwritten; name an empty directory"):
        write_pki(tls, hosts=["c"], clients=["carol"], now=NOW)
    assert modes(tls) == expected


def test_pairs_are_renewed_for_new_names_and_days_and_whoever_read_a_key_reads_the_next(tmp_path):
    write_pki(tmp_path, hosts=["a.example"], clients=["alice"], now=NOW)
    (tmp_path / "server-key.pem").chmod(0o640)
    renew_pki(tmp_path, now=NOW, hosts=["b.example"], days=51)
    assert told(read(tmp_path / "server.pem")) == ("CN=b.example", SERVERS, ["b.example"], 51)
    assert told(read(tmp_path / "alice.pem")) == ("CN=alice", CLIENTS, [], 51)
    assert [modes(tmp_path)[name] for name in ("server-key.pem", "alice-key.pem", "server.pem")] == [
        0o640,
        0o600,
        0o644,
    ]
    carol = issue_client(AUTHORITY, "carol", now=NOW)
    assert write_pair(tmp_path, "carol", carol) == [tmp_path / "carol.pem", tmp_path / "carol-key.pem"]
    assert (read(tmp_path / "carol.pem"), modes(tmp_path)["carol-key.pem"]) == (carol.certificate, 0o600)


def test_an_authority_is_read_with_its_own_key_or_not_at_all(tmp_path):
    write_pki(tmp_path / "one", hosts=["a"], clients=[], now=NOW)
    write_pki(tmp_path / "two", hosts=["a"], clients=[], now=NOW)
    one = tmp_path / "one"
    read_back = read_authority(one, now=NOW)
    assert (read_back.certificate, read_back.key.public_key()) == (
        read(one / "ca.pem"),
        read(one / "ca.pem").public_key(),
    )
    (one / "ca-key.pem").write_bytes((tmp_path / "two" / "ca-key.pem").read_bytes())
    with pytest.raises(UsageError, match=r"ca-key\.pem is not the key of .*one/ca\.pem"):
        read_authority(one, now=NOW)
    for name in ("ca-key.pem", "ca.pem"):
        (one / name).unlink()
        with pytest.raises(UsageError, match=r"this needs ca\.pem and ca-key\.pem in .*one: "):
            read_authority(one, now=NOW)


def a_list(by, *serials):
    builder = x509.CertificateRevocationListBuilder().issuer_name(by.certificate.subject)
    builder = builder.last_update(NOW).next_update(NOW + DAY)
    for number, serial in enumerate(serials):
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - number * DAY).build()
        builder = builder.add_revoked_certificate(one)
    return builder.sign(by.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_those_who_were_revoked_are_those_of_the_list_that_the_authority_signed(tmp_path):
    path = tmp_path / "revoked.pem"
    assert read_revoked(tmp_path, AUTHORITY.certificate) == {}
    path.write_bytes(a_list(AUTHORITY, 7, 2**158 + 1))
    assert read_revoked(tmp_path, AUTHORITY.certificate) == {7: NOW, 2**158 + 1: NOW - DAY}
    for content in (a_list(OTHER, 7), b"no list", b""):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"revoked\.pem is no list of revoked certificates that the authority be"):
            read_revoked(tmp_path, AUTHORITY.certificate)
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match=r"cannot read .*revoked\.pem: Is a directory"):
        read_revoked(tmp_path, AUTHORITY.certificate)
