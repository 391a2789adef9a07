"""What stands in a certificate: who may do what with it, for whom, and from when until when. Nothing else."""

from __future__ import annotations

import datetime as dt
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from client.node.guard import write_loopback_certificate
from federation.errors import UsageError
from server import certificates
from server.certificates import read_authority, renew_pki, write_loopback, write_pki
from server.issuing import issue_client, issue_server, make_authority
from server.pairs import client_credentials
from server.people import authority as people
from tests.commands import Stand

NOW = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
EARLIER = NOW - dt.timedelta(minutes=5)
AUTHORITY = make_authority(now=NOW)
SIGNS = ["crl_sign", "key_cert_sign"]
USES = [
    *("content_commitment", "crl_sign", "data_encipherment", "digital_signature"),
    *("key_agreement", "key_cert_sign", "key_encipherment"),
]


def profile(certificate):
    """Everything but keys and serial number."""
    told = {
        "version": certificate.version.name,
        "subject": [(one.oid, one.value) for one in certificate.subject],
        "issuer": [(one.oid, one.value) for one in certificate.issuer],
        "from": certificate.not_valid_before_utc,
        "until": certificate.not_valid_after_utc,
        "hash": certificate.signature_hash_algorithm.name,
        "curve": certificate.public_key().curve.name,
    }
    for one in certificate.extensions:
        told[one.oid._name] = (one.critical, said_by(one.value))
    return told


def said_by(extension):
    match extension:
        case x509.BasicConstraints():
            return extension.ca, extension.path_length
        case x509.KeyUsage():
            return [name for name in USES if getattr(extension, name)]
        case x509.ExtendedKeyUsage():
            return list(extension)
        case x509.SubjectAlternativeName():
            return [one.value for one in extension]
        case x509.SubjectKeyIdentifier():
            return extension.digest
        case _:
            return extension.key_identifier


def named(name):
    return [(NameOID.COMMON_NAME, name)]


def key_of(certificate):
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def of(subject, issuer, days, *, certificate):
    """What every certificate here has."""
    common = {"version": "v3", "hash": "sha256", "curve": "secp256r1", "from": EARLIER}
    common |= {"subject": named(subject), "issuer": named(issuer), "until": NOW + dt.timedelta(days=days)}
    return common | {"subjectKeyIdentifier": (False, key_of(certificate))}


def test_an_authority_signs_end_certificates_and_lists_and_nothing_else():
    assert profile(AUTHORITY.certificate) == of(
        "intaglio authority", "intaglio authority", 3650, certificate=AUTHORITY.certificate
    ) | {"basicConstraints": (True, (True, 0)), "keyUsage": (True, SIGNS)}
    AUTHORITY.certificate.verify_directly_issued_by(AUTHORITY.certificate)


ENDS = {
    "basicConstraints": (True, (False, None)),
    "keyUsage": (True, ["digital_signature"]),
    "authorityKeyIdentifier": (False, key_of(AUTHORITY.certificate)),
}


def test_a_server_s_certificate_is_for_its_names_and_addresses_and_for_servers_alone():
    made = issue_server(AUTHORITY, ["verify.example.org", "10.0.0.7", "::1"], now=NOW)
    assert profile(made.certificate) == ENDS | of(
        "verify.example.org", "intaglio authority", 397, certificate=made.certificate
    ) | {
        "extendedKeyUsage": (False, [ExtendedKeyUsageOID.SERVER_AUTH]),
        "subjectAltName": (
            False,
            ["verify.example.org", ipaddress.ip_address("10.0.0.7"), ipaddress.ip_address("::1")],
        ),
    }
    made.certificate.verify_directly_issued_by(AUTHORITY.certificate)
    assert made.key.public_key() == made.certificate.public_key()


def test_a_client_s_certificate_is_for_clients_alone_and_has_no_address():
    made = issue_client(AUTHORITY, "alice", now=NOW)
    assert profile(made.certificate) == ENDS | of("alice", "intaglio authority", 397, certificate=made.certificate) | {
        "extendedKeyUsage": (False, [ExtendedKeyUsageOID.CLIENT_AUTH])
    }
    made.certificate.verify_directly_issued_by(AUTHORITY.certificate)
    assert made.key.public_key() == made.certificate.public_key()


@pytest.mark.parametrize(
    ("write", "name"), [(write_loopback, "intaglio loopback"), (write_loopback_certificate, "intaglio guard")]
)
def test_a_certificate_of_this_machine_alone_is_for_its_own_address(tmp_path, write, name):
    write(tmp_path / "own.pem", tmp_path / "own-key.pem", now=NOW)
    made = x509.load_pem_x509_certificate((tmp_path / "own.pem").read_bytes())
    told = profile(made)
    told.pop("subjectKeyIdentifier", None)
    expected = of(name, name, 3650, certificate=made)
    expected.pop("subjectKeyIdentifier")
    assert told == expected | {
        "basicConstraints": (True, (True, 0)),
        "subjectAltName": (False, [ipaddress.ip_address("127.0.0.1")]),
    }
    made.verify_directly_issued_by(made)
    key = load_pem_private_key((tmp_path / "own-key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == made.public_key()
    assert (tmp_path / "own-key.pem").stat().st_mode & 0o777 == 0o600


def test_no_two_certificates_have_one_number_or_one_key():
    made = [issue_client(AUTHORITY, "alice", now=NOW).certificate for _ in range(3)]
    assert len({one.serial_number for one in made}) == len({key_of(one) for one in made}) == 3


@pytest.mark.parametrize(
    ("hosts", "clients"), [([], ["alice"]), (["a"], ["alice", "alice"]), (["a"], ["ca"]), (["a"], ["server"])]
)
def test_names_that_would_be_one_file_make_nothing(tmp_path, hosts, clients):
    with pytest.raises(UsageError, match="at least one host, and clients that differ"):
        write_pki(tmp_path / "tls", hosts=hosts, clients=clients, now=NOW)
    assert not (tmp_path / "tls").exists()


def test_a_client_s_certificate_is_kept_before_its_pair_lies_where_it_may_be_moved_away(tmp_path, monkeypatch):
    """Else whoever kills `pki init` late has a pair that works, and that no name revokes."""
    steps, write = [], certificates.write_new
    monkeypatch.setattr(certificates, "keep", lambda _, one: steps.append(people.name_of(one)))
    monkeypatch.setattr(
        certificates, "write_new", lambda path, *a, **k: steps.append(path.name) or write(path, *a, **k)
    )
    write_pki(tmp_path / "tls", hosts=["localhost"], clients=["alice", "bob"], now=NOW)
    pairs = {name: [f"{name}.pem", f"{name}-key.pem"] for name in ("ca", "server", "alice", "bob")}
    assert steps == [*pairs["ca"], *pairs["server"], "alice", *pairs["alice"], "bob", *pairs["bob"]]
    steps.clear()
    with pytest.raises(UsageError, match=r"ca\.pem exists and is not overwritten; name an empty directory"):
        write_pki(tmp_path / "tls", hosts=["localhost"], clients=["carol"], now=NOW)
    assert steps == ["ca.pem"], "nothing is kept of an authority that is not there"


def test_certificates_of_another_authority_are_not_listed_as_this_one_s(tmp_path):
    tls = tmp_path / "tls"
    write_pki(tls, hosts=["localhost"], clients=["alice", "bob"], now=NOW)
    people.renew(tls, now=NOW, names=("bob",))
    listed = people.known(tls)
    assert [(one.name, one.is_client, one.is_present) for one in listed] == [
        ("localhost", False, True),
        ("alice", True, True),
        ("bob", True, True),
        ("bob", True, False),
    ]
    write_loopback(tls / "carol.pem", tls / "carol-key.pem", now=NOW)
    (tls / "former/0ff.pem").write_bytes((tls / "carol.pem").read_bytes())
    assert people.known(tls) == listed


def test_renewing_keeps_whose_and_for_what_and_makes_another_key(tmp_path):
    write_pki(tmp_path, hosts=["a.example", "10.0.0.7"], clients=["alice"], now=NOW)
    before = {
        name: x509.load_pem_x509_certificate((tmp_path / f"{name}.pem").read_bytes()) for name in ("server", "alice")
    }
    later = NOW + dt.timedelta(days=300)
    renew_pki(tmp_path, now=later)
    for name, old in before.items():
        new = x509.load_pem_x509_certificate((tmp_path / f"{name}.pem").read_bytes())
        own = {"from", "until", "subjectKeyIdentifier"}
        kept, now = profile(old), profile(new)
        assert {key: value for key, value in now.items() if key not in own} == {
            key: value for key, value in kept.items() if key not in own
        }
        assert (now["from"], now["until"]) == (later - dt.timedelta(minutes=5), later + dt.timedelta(days=397))
        assert key_of(new) != key_of(old)


def test_an_authority_signs_until_the_second_at_which_it_ends(tmp_path):
    write_pki(tmp_path, hosts=["localhost"], clients=["alice"], now=NOW)
    end = NOW + dt.timedelta(days=3650)
    assert read_authority(tmp_path, now=end - dt.timedelta(seconds=1)).certificate.not_valid_after_utc == end
    with pytest.raises(UsageError, match=r"^the authority in .* ended on 2036-10-29$"):
        read_authority(tmp_path, now=end)


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What becomes of three pairs of an authority and one of somebody else's, in order."""
    write_pki(tmp_path, hosts=["localhost"], clients=["alice", "bob"], now=NOW)
    write_loopback(tmp_path / "own.pem", tmp_path / "own-key.pem", now=NOW)
    told, write = [], certificates.write_durably

    def noted(path, data, **how):
        told.append(path.name)
        write(path, data, **how)

    monkeypatch.setattr(certificates, "write_durably", noted)
    return told


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_gives_way_is_kept_before_key_and_certificate_follow_and_nobody_else_s_pair_is_touched(told, tmp_path):
    before = files(tmp_path)
    renewed = renew_pki(
        tmp_path,
        now=NOW,
        is_due=lambda path, old: (path.stem, old.subject.rfc4514_string()) != ("alice", "CN=alice"),
        before=lambda one: told.append((one.subject.rfc4514_string(), one.public_bytes(Encoding.PEM))),
    )
    written = files(tmp_path)
    assert told == [
        *(("CN=bob", which["bob.pem"]) for which in (before, written)),
        *("bob-key.pem", "bob.pem"),
        *(("CN=localhost", which["server.pem"]) for which in (before, written)),
        *("server-key.pem", "server.pem"),
    ]
    assert [path.name for path in renewed] == ["bob.pem", "server.pem"]
    assert {name for name in written if written[name] != before[name]} == {*told[2:4], *told[6:]}


def test_a_pair_whose_old_certificate_cannot_be_kept_stays_and_so_does_one_of_which_none_can_be_made(told, tmp_path):
    before = files(tmp_path)

    def fails(old):
        told.append(old.subject.rfc4514_string())
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match=r"^cannot renew the certificates in .*No space left"):
        renew_pki(tmp_path, now=NOW, before=fails)
    assert told == ["CN=alice"]
    with pytest.raises(UsageError, match="1 to 3650 days are"):
        renew_pki(tmp_path, now=NOW, days=3651, before=fails)
    assert (told, files(tmp_path)) == (["CN=alice"], before)


def test_a_program_s_pair_goes_to_its_channel_each_file_in_its_own_place(tmp_path, monkeypatch):
    for name in ("ca.pem", "bob.pem", "bob-key.pem"):
        (tmp_path / name).write_text(f"in {name}")
    taken = Stand(monkeypatch, "server.pairs", {"grpc.ssl_channel_credentials": "credentials"})
    assert client_credentials(tmp_path, "bob") == "credentials"
    given = {"root_certificates": b"in ca.pem", "private_key": b"in bob-key.pem", "certificate_chain": b"in bob.pem"}
    assert taken["grpc.ssl_channel_credentials"] == given
