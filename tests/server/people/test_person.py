"""One file for a person: what is looked at, issued, sealed and written, in which order, and what a failure leaves."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from federation.errors import UsageError
from federation.sealing import Passphrase, ScryptCost
from federation.wire.person import FILES, PERSON, PersonFile
from federation.wire.ticket import Ticket
from server.issuing import issue_client, issue_server, make_authority
from server.people import person as module
from server.people.person import write_person

NOW = dt.datetime(2026, 11, 1, 12, 30, 15, 900_000, tzinfo=dt.UTC)
TICKET, COST = Ticket(bytes(range(20))), ScryptCost(16)
PUBLIC = tuple(sorted(FILES - {"ca.pem", "client.pem", "client-key.pem"}))


class Scene:
    """An operator's folders, and parts that note what they are told."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.told, self.failing = folder, [], {}
        self.tls, self.out = folder / "tls", folder / "out"
        self.storage = SimpleNamespace(ping=lambda: self.note("database"))
        for made in (self.tls, self.out):
            made.mkdir()
        (self.tls / "ca.pem").write_bytes(b"the authority")
        for name in PUBLIC:
            (folder / f"operator-{name}").write_bytes(f"content of {name}".encode())
        monkeypatch.setattr(module, "authority", SimpleNamespace(issue=self.issue))
        monkeypatch.setattr(module, "issue_ticket", self.issue_ticket)
        monkeypatch.setattr(module, "sealed", self.sealed)
        monkeypatch.setattr(module, "write_new", self.write)

    def note(self, *call):
        self.told.append(call)
        if call[0] in self.failing:
            raise self.failing[call[0]]

    def issue(self, directory, name, *, now, days):
        self.note("certificate", directory, name, now, days)
        pair = [self.folder / "issued.pem", self.folder / "issued-key.pem"]
        for path in pair:
            path.write_bytes(f"content of {path.name}".encode())
        return pair

    def issue_ticket(self, storage, *, ends_at, client):
        self.note("ticket", storage, ends_at, client)
        return TICKET

    def sealed(self, content, kind, passphrase, cost):
        self.note("sealed", kind, passphrase.secret_bytes(), cost)
        self.content = content
        return b"what is sealed"

    def write(self, path, data):
        self.note("written", path, data)
        path.write_bytes(data)

    def run(self, **changes):
        usual = {
            "tls": self.tls,
            "public": {name: self.folder / f"operator-{name}" for name in PUBLIC},
            "server": "verify.example.org:7443",
            "deployment": "trial-2",
            "ticket_days": 3,
            "certificate_days": 40,
            "passphrase": Passphrase("four words of hers"),
            "now": NOW,
            "cost": COST,
        }
        path = changes.pop("path", self.out / "alice.intaglio")
        write_person(path, "alice", self.storage, **usual | changes)


@pytest.fixture
def scene(tmp_path, monkeypatch):
    return Scene(tmp_path, monkeypatch)


def steps(scene, *, days=40, cost=COST):
    return [
        ("database",),
        ("certificate", scene.tls, "alice", NOW, days),
        ("ticket", scene.storage, int(NOW.timestamp()) + 3 * 86_400, "alice"),
        ("sealed", PERSON, b"four words of hers", cost),
        ("written", scene.out / "alice.intaglio", b"what is sealed"),
    ]


def test_a_person_s_file_has_the_pair_and_the_ticket_that_were_just_issued_and_everything_under_its_own_name(scene):
    scene.run()
    assert scene.told == steps(scene)
    found = PersonFile.from_secret_bytes(scene.content)
    assert (found.server, found.deployment) == ("verify.example.org:7443", "trial-2")
    assert found.ticket.secret_bytes() == TICKET.secret_bytes()
    assert found.files == {name: f"content of {name}".encode() for name in PUBLIC} | {
        "ca.pem": b"the authority",
        "client.pem": b"content of issued.pem",
        "client-key.pem": b"content of issued-key.pem",
    }
    assert (scene.out / "alice.intaglio").read_bytes() == b"what is sealed"


def test_whoever_says_neither_days_nor_cost_gets_the_usual_ones(scene):
    scene.run(certificate_days=None, cost=None)
    assert scene.told == steps(scene, days=None, cost=ScryptCost())


def test_a_passphrase_of_the_shortest_length_seals(scene):
    scene.run(passphrase=Passphrase("8 chars!"))
    assert scene.told[3] == ("sealed", PERSON, b"8 chars!", COST)


REFUSALS = {
    "the file is there": (
        lambda scene: (scene.out / "alice.intaglio").write_bytes(b"of before"),
        {},
        r"out/alice\.intaglio exists and is not overwritten; choose another file$",
    ),
    "no folder": (
        lambda scene: scene.out.rmdir(),
        {},
        r"^cannot write .*out/alice\.intaglio: there is no folder .*/out$",
    ),
    "short passphrase": (
        lambda _: None,
        {"passphrase": Passphrase("7 chars")},
        r"^the passphrase needs at least 8 characters$",
    ),
    "no rules": (
        lambda scene: (scene.folder / "operator-rules.jsonl").unlink(),
        {},
        r"^cannot read .*operator-rules\.jsonl: No such file or directory$",
    ),
    "no authority": (
        lambda scene: (scene.tls / "ca.pem").unlink(),
        {},
        r"^cannot read .*tls/ca\.pem: No such file or directory$",
    ),
    "no address": (lambda _: None, {"server": "verify.example.org"}, "HOST:PORT"),
    "no name": (lambda _: None, {"deployment": "NO NAME"}, "the deployment"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_is_wrong_is_said_before_anything_is_issued(scene, why):
    """Else somebody has a certificate and a ticket, and no file, and the next try is refused for the name."""
    happens, changes, said = REFUSALS[why]
    happens(scene)
    before = {path: path.read_bytes() for path in scene.folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=said):
        scene.run(**changes)
    assert scene.told == []
    assert {path: path.read_bytes() for path in scene.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("room", [0, 1])
def test_what_fits_to_the_byte_is_issued_and_one_byte_more_is_not(scene, monkeypatch, room):
    absent = dict.fromkeys(("client.pem", "client-key.pem"), b"") | {"ca.pem": b"the authority"}
    files = {name: f"content of {name}".encode() for name in PUBLIC} | absent
    size = len(PersonFile("verify.example.org:7443", "trial-2", TICKET, files).to_secret_bytes()) + (16 << 10)
    monkeypatch.setattr(module, "PERSON", SimpleNamespace(most_bytes=size - room))
    if room:
        with pytest.raises(
            UsageError, match=rf"out/alice\.intaglio would have up to {size} bytes, and {size - 1} are read$"
        ):
            scene.run()
        assert scene.told == []
    else:
        scene.run()
        assert len(scene.told) == 5


@pytest.mark.parametrize(
    ("part", "error", "said"),
    [
        ("database", UsageError("the database's disk is full"), "^the database's disk is full$"),
        ("certificate", UsageError("alice has a certificate"), "^alice has a certificate$"),
        ("ticket", UsageError("the database is of another schema"), "^the database is of another schema$"),
        ("written", PermissionError(13, "Permission denied"), r"^cannot write .*alice\.intaglio: Permission denied$"),
    ],
)
def test_what_fails_is_said_and_nothing_follows_it(scene, part, error, said):
    scene.failing[part] = error
    with pytest.raises(UsageError, match=said):
        scene.run()
    names = [call[0] for call in steps(scene)]
    assert scene.told == steps(scene)[: names.index(part) + 1]
    assert not list(scene.out.iterdir())


def test_a_pair_that_is_gone_again_has_no_ticket(scene, monkeypatch):
    issue = scene.issue
    monkeypatch.setattr(module.authority, "issue", lambda *a, **b: [path.unlink() or path for path in issue(*a, **b)])
    with pytest.raises(UsageError, match=r"^cannot read .*issued\.pem: No such file or directory$"):
        scene.run()
    assert [call[0] for call in scene.told] == ["database", "certificate"]


def test_a_name_that_no_file_may_have_is_said_before_anything_is_issued(scene):
    with pytest.raises(UsageError, match=r"^cannot write .*/a{300}: File name too long$"):
        scene.run(path=scene.out / ("a" * 300))
    assert scene.told == []
    assert list(scene.out.iterdir()) == []


@pytest.mark.parametrize("name", ["alice.pem", "alice-key.pem", "revoked.pem", "file.pem"])
def test_a_person_s_file_takes_no_certificate_s_place(scene, name):
    """The pair would be written there first; and under any name of that form each `pki` command would stumble on it."""
    (scene.folder / "link").symlink_to(scene.tls)
    for folder in (scene.tls, scene.folder / "link"):
        with pytest.raises(
            UsageError, match=rf"{name} would lie among the certificates as one of them; choose another"
        ):
            scene.run(path=folder / name)
    assert scene.told == []
    assert [path.name for path in scene.tls.iterdir()] == ["ca.pem"]


def test_a_person_s_file_may_lie_beside_certificates_and_have_any_name_elsewhere(scene):
    for path in (scene.tls / "alice.intaglio", scene.out / "alice.pem"):
        scene.run(path=path)
        assert path.read_bytes() == b"what is sealed"


@pytest.fixture
def beside_the_service(scene):
    """The service's certificate lies in the authority's folder, as `pki init` leaves it."""
    hosts = ["localhost", "*.example.org", "*.lan", "Gate.example.com", "192.0.2.7", "2001:db8::7"]
    issued = issue_server(make_authority(now=NOW), hosts, now=NOW)
    (scene.tls / "server.pem").write_bytes(issued.certificate.public_bytes(Encoding.PEM))
    return scene


@pytest.mark.parametrize(
    "server",
    ["localhost:7443", "verify.example.org:7443", "VERIFY.Example.org:1", "gate.example.com:7443", "192.0.2.7:7443",
     "[2001:db8::7]:7443"],
)  # fmt: skip
def test_a_file_names_a_host_that_the_service_s_certificate_is_for(beside_the_service, server):
    beside_the_service.run(server=server)
    assert beside_the_service.told == steps(beside_the_service)


@pytest.mark.parametrize(
    "server",
    ["127.0.0.1:7443", "example.org:7443", "a.b.example.org:7443", "verify.example.org.com:7443", "192.0.2.70:7443",
     "[2001:db8::8]:7443", "*:7443", "example.com:7443", "[2001:DB8::7]:443", "[2001:db8:0::7]:443", "gate.lan:1"],
)  # fmt: skip
def test_a_host_that_every_device_would_refuse_is_refused_before_anything_is_issued(beside_the_service, server):
    what = "is no address" if server == "*:7443" else "so no device would connect to .*: write a host that it is for"
    with pytest.raises(UsageError, match=what):
        beside_the_service.run(server=server)
    assert beside_the_service.told == []
    assert list(beside_the_service.out.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None])
def test_what_lies_in_the_place_of_the_service_s_certificate_and_is_none_is_named(scene, content):
    a_client = issue_client(make_authority(now=NOW), "bob", now=NOW).certificate.public_bytes(Encoding.PEM)
    (scene.tls / "server.pem").write_bytes(a_client if content is None else content)
    with pytest.raises(UsageError, match=r"server\.pem is no certificate of a server; restore it, or move it away"):
        scene.run()
    assert scene.told == []
    assert list(scene.out.iterdir()) == []
