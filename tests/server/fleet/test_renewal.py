"""A federation that lives on: certificates, addresses and keys change, and what people were charged does not."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from typer.testing import CliRunner

import client.files
import client.node.joining
import client.node.renewing
import client.node.start
from client.cli import app as client_app
from client.node.joining import invitation_of, join
from client.node.ledger import OWN, Ledgers
from client.node.metrics import NodeMetrics
from client.node.reaching import Reached, reach
from client.node.renewing import gateway_of, rekey, take_notice, trust
from federation.errors import (
    MalformedMessageError,
    PeerError,
    ProofError,
    RefusedError,
    RoundAbortedError,
    UnavailableError,
    UsageError,
)
from federation.identity import IdentityKey
from federation.membership.fleet import NEWEST_SECONDS, OLDEST_SECONDS
from federation.membership.joining import JoinRequest, SignedJoinRequest, node_key_line
from federation.membership.renewal import Notice, Rekeying, notice_from_text, notice_to_text
from federation.secagg.session import roster_from_text
from server.certificates import renew_pki, write_pki
from server.cli import app as server_app
from server.fleet import upkeep_cli as federation_upkeep_cli
from server.fleet.expiry import ends_at
from server.fleet.gateway import gateway_server
from server.fleet.members import LOCK, Coordinator
from server.visitors.door import Door, opened_door
from tests.federated import run as run_federation
from tests.federated import write_federation
from tests.server.fleet.a_superlink import ASuperlink

NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
SECONDS = int(NOW.timestamp())
YEAR = dt.timedelta(days=365)


@pytest.fixture
def coordinator(tmp_path):
    return Coordinator.create(tmp_path / "coordinator", address="fed.example.org:8443", now=NOW)


@pytest.fixture
def members(coordinator, tmp_path):
    """Folders of two members who trust one roster."""
    folders = {}
    for number, name in enumerate(("north", "south")):
        _, text = coordinator.invite(name, now=SECONDS)
        signed = join(text, tmp_path / name, now=SECONDS)
        coordinator.approve(signed.to_bytes(), lambda *_, number=number: 100 + number, now=SECONDS)
        folders[name] = tmp_path / name
    for folder in folders.values():
        trust(coordinator.roster(), folder, replace=False)
    return folders


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def server(*arguments):
    return CliRunner().invoke(server_app, [str(argument) for argument in arguments])


def device(*arguments):
    return CliRunner().invoke(client_app, [str(argument) for argument in arguments])


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def names(path):
    found = certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


# ------------------------------------------------------------------------------------------------ certificates
def test_a_renewed_gateway_certificate_has_a_new_key_and_end_and_the_same_names_and_authority(coordinator):
    tls = coordinator.folder / "tls"
    before, old, authority = names(tls / "server.pem"), certificate(tls / "server.pem"), (tls / "ca.pem").read_bytes()
    assert coordinator.renew(now=NOW + YEAR) == NOW.replace(microsecond=0) + YEAR + dt.timedelta(days=397)
    new = certificate(tls / "server.pem")
    assert names(tls / "server.pem") == before
    assert new.public_key() != old.public_key()
    assert new.public_key() == load_pem_private_key((tls / "server-key.pem").read_bytes(), None).public_key()
    new.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    assert (tls / "ca.pem").read_bytes() == authority
    assert (tls / "server-key.pem").stat().st_mode & 0o777 == 0o600


def test_members_certificates_of_a_service_are_renewed_for_their_own_use(tmp_path):
    write_pki(tmp_path, hosts=["localhost"], clients=["door", "kiosk"], now=NOW)
    assert [path.name for path in renew_pki(tmp_path, now=NOW + YEAR)] == ["door.pem", "kiosk.pem", "server.pem"]
    for name in ("door", "kiosk"):
        new = certificate(tmp_path / f"{name}.pem")
        assert list(new.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
            ExtendedKeyUsageOID.CLIENT_AUTH
        ]
        assert new.subject.rfc4514_string() == f"CN={name}"
        assert new.not_valid_after_utc > NOW + YEAR


@pytest.mark.parametrize("missing", ["ca-key.pem", "ca.pem"])
def test_renewing_needs_the_authority_and_changes_nothing_without(coordinator, missing):
    tls = coordinator.folder / "tls"
    (tls / missing).unlink()
    before = files_of(tls)
    with pytest.raises(UsageError, match=r"this needs ca\.pem and ca-key\.pem in .*"):
        renew_pki(tls, now=NOW)
    assert files_of(tls) == before


def test_an_authority_that_has_ended_renews_nothing(coordinator):
    before = files_of(coordinator.folder)
    with pytest.raises(UsageError, match=r"the authority in .* ended on 2039-12-30"):
        coordinator.renew(now=NOW + 10 * YEAR)
    assert files_of(coordinator.folder) == before | {Path(LOCK): b""}


@pytest.mark.parametrize("name", ["server.pem", "server-key.pem"])
def test_a_renewal_is_written_durably(coordinator, monkeypatch, name):
    written = []
    monkeypatch.setattr(
        "server.certificates.write_durably", lambda path, data, **_: written.append(path.name) or path.write_bytes(data)
    )
    coordinator.renew(now=NOW)
    assert written == ["server-key.pem", "server.pem"]
    assert name in written


# ------------------------------------------------------------------------------------------------------ moving
def test_a_moved_gateway_is_followed_by_its_notice(coordinator, members):
    text = coordinator.move("new.example.org:443", now=NOW + YEAR)
    assert names(coordinator.folder / "tls" / "server.pem") == [
        "new.example.org",
        "fed.example.org",
        "localhost",
        "127.0.0.1",
    ]
    assert Coordinator(coordinator.folder).address == "new.example.org:443"
    assert gateway_of(members["north"]).address == "fed.example.org:8443"
    assert take_notice(text, members["north"]).address == "new.example.org:443"
    assert gateway_of(members["north"]).address == "new.example.org:443"
    assert gateway_of(members["south"]).address == "fed.example.org:8443"


def test_a_move_that_is_cut_off_once_it_ended_an_invitation_has_moved(coordinator, monkeypatch):
    """Nobody joins by a line of the old address, so the folder must no longer give out such lines."""
    monkeypatch.setattr(Coordinator, "_notice", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        coordinator.move("new.example.org:443", now=NOW)
    assert Coordinator(coordinator.folder).address == "new.example.org:443"


@pytest.mark.parametrize("name", ["../north", "North", "north/", ""])
def test_a_name_that_is_none_reaches_no_file(coordinator, members, name):
    before = {path: path.read_bytes() for path in coordinator.folder.rglob("*") if path.is_file()}
    (coordinator.folder / "north.json").write_bytes((coordinator.folder / "members" / "north.json").read_bytes())
    for asked in (
        lambda: coordinator.revoke(name, lambda _: 1 / 0),
        lambda: coordinator.invite(name, now=SECONDS),
    ):
        with pytest.raises(UsageError, match="an organisation's name is 1 to 32 of a-z"):
            asked()
    (coordinator.folder / "north.json").unlink()
    assert {path: path.read_bytes() for path in coordinator.folder.rglob("*") if path.is_file()} == before


def test_a_new_authority_reaches_members_by_notice_and_signs_the_gateway(coordinator, members):
    old = coordinator.authority
    text = coordinator.renew_authority(now=NOW + 9 * YEAR)
    assert coordinator.authority != old
    notice = take_notice(text, members["north"])
    assert (notice.authority, notice.address) == (coordinator.authority, "fed.example.org:8443")
    certificate(coordinator.folder / "tls" / "server.pem").verify_directly_issued_by(
        x509.load_pem_x509_certificate(notice.authority.encode())
    )


def test_open_invitations_end_with_a_move_because_they_name_the_old_address(coordinator, tmp_path):
    _, text = coordinator.invite("west", now=SECONDS)
    signed = join(text, tmp_path / "west", now=SECONDS)
    coordinator.move("new.example.org:443", now=NOW)
    with pytest.raises(RefusedError, match="no open invitation"):
        coordinator.check(signed.to_bytes(), now=SECONDS)


def test_an_older_notice_and_the_same_again_are_refused_and_change_nothing(coordinator, members):
    first = coordinator.move("one.example.org:1", now=NOW)
    second = coordinator.move("two.example.org:2", now=NOW + dt.timedelta(seconds=1))
    take_notice(second, members["north"])
    before = files_of(members["north"])
    for text in (first, second):
        with pytest.raises(UsageError, match="not newer"):
            take_notice(text, members["north"])
    assert files_of(members["north"]) == before


def test_notices_are_newer_than_the_ones_before_whatever_the_clock_says(coordinator, members):
    for address, now in (
        ("one.example.org:1", NOW + YEAR),
        ("two.example.org:2", NOW + YEAR),
        ("three.example.org:3", NOW),
    ):
        text = Coordinator(coordinator.folder).move(address, now=now)  # a command each, as on the coordinator's machine
        assert take_notice(text, members["north"]).address == address


def test_a_notice_is_on_disk_as_issued_before_anybody_has_it(coordinator, monkeypatch):
    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.fleet.members.write_durably", fails)
    with pytest.raises(OSError, match="No space left"):
        coordinator.notice(now=SECONDS)


def test_who_joined_later_follows_no_notice_from_before(coordinator, tmp_path):
    """It would bring back an address and an authority that were given up, perhaps because a key was stolen."""
    old = coordinator.move("old.example.org:1", now=NOW + YEAR)
    last = coordinator.renew_authority(now=NOW + 2 * YEAR)
    _, text = coordinator.invite("west", now=SECONDS)
    join(text, tmp_path / "west", now=SECONDS)
    before = files_of(tmp_path / "west")
    for notice in (old, last):
        with pytest.raises(UsageError, match="not newer"):
            take_notice(notice, tmp_path / "west")
    assert files_of(tmp_path / "west") == before
    assert take_notice(coordinator.notice(now=SECONDS), tmp_path / "west").authority == coordinator.authority


def test_a_notice_of_another_key_or_federation_is_refused(coordinator, members, tmp_path):
    other = Coordinator.create(tmp_path / "other", address="evil.example.org:1", now=NOW)
    before = files_of(members["north"])
    with pytest.raises(ProofError, match="signature"):
        take_notice(other.notice(now=SECONDS), members["north"])
    foreign = Notice(b"f" * 16, "evil.example.org:1", coordinator.authority, SECONDS)
    with pytest.raises(PeerError, match="another federation"):
        take_notice(notice_to_text(foreign, coordinator._key), members["north"])
    assert files_of(members["north"]) == before


@given(st.text(max_size=200))
def test_any_text_is_a_notice_or_malformed(text):
    invitation = type("Invited", (), {"coordinator": b"k" * 32, "federation": b"f" * 16})()
    with pytest.raises(MalformedMessageError, match="not a notice"):
        notice_from_text(text, invitation)


@pytest.mark.parametrize(
    "change", [lambda text: text[:-4], lambda text: text + "AAAA", lambda text: text.replace("-1:", "-2:")]
)
def test_a_damaged_notice_is_refused(coordinator, members, change):
    with pytest.raises((MalformedMessageError, ProofError), match=r"notice|signature"):
        take_notice(change(coordinator.notice(now=SECONDS)), members["north"])


# ---------------------------------------------------------------------------------------------------- new keys
class Nodes:
    """What the SuperLink was asked to accept and to forget."""

    def __init__(self):
        self.known, self.forgotten = {}, []

    def register(self, _name, key):
        self.known[key] = 500 + len(self.known)
        return self.known[key]

    def unregister(self, node):
        self.forgotten.append(node)


def test_an_organisation_gets_new_keys_and_keeps_its_ledgers_policy_and_people(coordinator, members):
    north, nodes = members["north"], Nodes()
    (north / "ledgers").mkdir()
    (north / "ledgers" / "own.jsonl").write_bytes(b"what was spent")
    (north / "policy.toml").write_text("our own words")
    before = files_of(north)
    rekeying = rekey(north)
    assert {name: data for name, data in files_of(north).items() if name in before} == before  # the old keys serve
    member = coordinator.rekey((north / "rekey.json").read_bytes(), nodes.register, nodes.unregister)
    assert (member.name, member.node, nodes.forgotten) == ("north", 500, [100])
    assert rekeying.old not in roster_from_text(coordinator.roster())
    assert trust(coordinator.roster(), north, replace=True)
    after = files_of(north)
    assert after[Path("ledgers/own.jsonl")] == b"what was spent"
    assert after[Path("policy.toml")] == b"our own words"
    assert {name for name in before if before[name] != after[name]} == {
        Path(name) for name in ("node", "node.pub", "organisation.pem", "request.json", "roster")
    }
    assert set(after) == set(before)  # nothing is left over
    key = load_ssh_private_key(after[Path("node")], None)
    assert nodes.known.keys() == {member.signed.request.node_key}
    assert member.signed.request.node_key in after[Path("node.pub")].decode()
    assert key.curve.name == "secp384r1"


def test_until_the_roster_has_them_the_new_keys_wait_and_the_old_ones_serve(coordinator, members):
    north = members["north"]
    rekey(north)
    own = (north / "organisation.pem").read_bytes()
    trust(coordinator.roster(), north, replace=True)
    assert (north / "organisation.pem").read_bytes() == own
    with pytest.raises(UsageError, match="new keys wait"):
        rekey(north)


@pytest.mark.parametrize("point", range(1, 6))
def test_a_crash_while_keys_change_places_is_mended_by_trusting_again(coordinator, members, monkeypatch, point):
    north, nodes, done = members["north"], Nodes(), []
    rekey(north)
    coordinator.rekey((north / "rekey.json").read_bytes(), nodes.register, nodes.unregister)
    original = client.node.renewing.replace_file

    def dies(path, data):
        done.append(path)
        if len(done) == point:
            raise KeyboardInterrupt
        original(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(client.node.renewing, "replace_file", dies)
        try:
            trust(coordinator.roster(), north, replace=True)
        except KeyboardInterrupt:
            assert not (north / "next").exists() or point <= 4
    trust(coordinator.roster(), north, replace=True)
    member = next(member for member in coordinator.members() if member.name == "north")
    key = IdentityKey.from_pem((north / "organisation.pem").read_bytes())
    assert key.public == member.signed.request.organisation_key
    assert member.signed.request.node_key in (north / "node.pub").read_text()
    assert (north / "request.json").read_bytes() == member.signed.to_bytes()
    assert not (north / "next").exists()


@pytest.mark.parametrize("point", range(1, 9))
def test_a_crash_while_keys_are_made_leaves_the_old_ones_and_is_mended_by_asking_again(
    coordinator, members, monkeypatch, tmp_path, point
):
    """Half of the new keys took the old ones' places with the next roster, and the node's old key was gone."""
    north, nodes, done = members["north"], Nodes(), []
    own, original = files_of(north), client.files.replace_file

    def dies(path, data):
        done.append(path)
        if len(done) == point:
            raise KeyboardInterrupt
        original(path, data)

    with monkeypatch.context() as patch:
        for module in (client.node.renewing, client.node.joining):
            patch.setattr(module, "replace_file", dies)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            rekey(north)
    _, text = coordinator.invite("west", now=SECONDS)
    coordinator.approve(join(text, tmp_path / "west", now=SECONDS).to_bytes(), lambda *_: 102, now=SECONDS)
    trust(coordinator.roster(), north, replace=True)
    for name in ("node", "node.pub", "organisation.pem", "request.json"):
        assert (north / name).read_bytes() == own[Path(name)], name
    rekey(north)
    member = coordinator.rekey((north / "rekey.json").read_bytes(), nodes.register, nodes.unregister)
    trust(coordinator.roster(), north, replace=True)
    assert member.signed.request.node_key in (north / "node.pub").read_text()
    assert not (north / "next").exists()


def test_a_request_for_keys_that_were_removed_is_never_sent(coordinator, members, monkeypatch):
    north = members["north"]
    rekey(north)
    shutil.rmtree(north / "next")
    with monkeypatch.context() as patch:
        patch.setattr(client.node.renewing.Rekeying, "sign", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            rekey(north)
    assert not (north / "rekey.json").exists()
    assert (
        rekey(north).signed.request.organisation_key
        in IdentityKey.from_pem((north / "next" / "organisation.pem").read_bytes()).public
    )


@pytest.mark.parametrize("step", ["unlink", "rename"])
def test_a_crash_before_new_keys_wait_leaves_no_old_request_beside_them(coordinator, members, monkeypatch, step):
    """The request would be sent for the keys that wait, and is for others."""
    north, nodes, original = members["north"], Nodes(), getattr(Path, step)
    rekey(north)
    shutil.rmtree(north / "next")

    def dies(path, *arguments, **named):
        if path in {north / "rekey.json", north / ".next"}:
            raise KeyboardInterrupt
        return original(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, dies)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            rekey(north)
    assert not (north / "next").exists()
    rekey(north)
    coordinator.rekey((north / "rekey.json").read_bytes(), nodes.register, nodes.unregister)
    trust(coordinator.roster(), north, replace=True)
    assert not (north / "next").exists()


def interrupted(*_):
    raise KeyboardInterrupt


def test_only_the_holder_of_the_old_key_gets_others(coordinator, members, tmp_path):
    rekeying, nodes, before = rekey(members["north"]), Nodes(), files_of(coordinator.folder)
    thief = IdentityKey.generate()
    forged = Rekeying(rekeying.old, rekeying.signed, Rekeying.sign(rekeying.signed, thief).signature)
    with pytest.raises(ProofError, match="old identity did not sign"):
        coordinator.rekey(forged.to_bytes(), nodes.register, nodes.unregister)
    with pytest.raises(RefusedError, match="no member north has the key"):
        coordinator.rekey(Rekeying.sign(rekeying.signed, thief).to_bytes(), nodes.register, nodes.unregister)
    south = IdentityKey.from_pem((members["south"] / "organisation.pem").read_bytes())
    with pytest.raises(RefusedError, match="no member north has the key"):  # south asks for north's place
        coordinator.rekey(Rekeying.sign(rekeying.signed, south).to_bytes(), nodes.register, nodes.unregister)
    assert files_of(coordinator.folder) == before
    assert not nodes.known


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (lambda true, false: true[:64] + false[64:], "ML-DSA part"),
        (lambda true, false: false[:64] + true[64:], "Ed25519 part"),
        (lambda true, _false: true[:64], "another length"),
        (lambda true, _false: true[64:], "another length"),
    ],
    ids=["ed25519 alone", "ml-dsa alone", "ed25519 and nothing", "ml-dsa and nothing"],
)
def test_one_part_of_the_old_identity_alone_gets_no_new_keys(coordinator, members, forge, said):
    rekeying, nodes, before = rekey(members["north"]), Nodes(), files_of(coordinator.folder)
    thief = Rekeying.sign(rekeying.signed, IdentityKey.generate())
    forged = Rekeying(rekeying.old, rekeying.signed, forge(rekeying.signature, thief.signature))
    with pytest.raises(ProofError, match=f"old identity did not sign this rekeying.*{said}"):
        coordinator.rekey(forged.to_bytes(), nodes.register, nodes.unregister)
    assert files_of(coordinator.folder) == before
    assert not nodes.known


@pytest.mark.parametrize("stays", [slice(32), slice(32, 64)], ids=["ed25519", "ml-dsa"])
@pytest.mark.parametrize("of", ["north", "south"])
def test_both_parts_of_an_identity_change_together(coordinator, members, stays, of):
    """A part that stays would be one that whoever took the old keys has; so would one of another member's."""
    invitation = invitation_of(members["north"])
    old = IdentityKey.from_pem((members["north"] / "organisation.pem").read_bytes())
    secret = bytearray(IdentityKey.generate().secret_bytes())
    secret[stays] = IdentityKey.from_pem((members[of] / "organisation.pem").read_bytes()).secret_bytes()[stays]
    new, node = IdentityKey.from_secret_bytes(bytes(secret)), ec.generate_private_key(ec.SECP384R1())
    request = JoinRequest(invitation.invitation, invitation.digest, "north", node_key_line(node), new.public)
    signed, nodes, before = SignedJoinRequest.sign(request, new, node), Nodes(), files_of(coordinator.folder)
    if of == "north":
        with pytest.raises(UsageError, match="the new keys are new, both of them"):
            Rekeying.sign(signed, old)
    else:
        with pytest.raises(RefusedError, match="a member has one of these keys already"):
            coordinator.rekey(Rekeying.sign(signed, old).to_bytes(), nodes.register, nodes.unregister)
    assert files_of(coordinator.folder) == before
    assert not nodes.known


def test_keys_of_a_member_are_no_new_keys(coordinator, members):
    north, south = (IdentityKey.from_pem((f / "organisation.pem").read_bytes()) for f in members.values())
    mine = next(member for member in coordinator.members() if member.name == "north").signed
    with pytest.raises(UsageError, match="the new keys are new"):
        Rekeying.sign(mine, north)
    nodes = Nodes()
    with pytest.raises(RefusedError, match="no member north has the key"):
        coordinator.rekey(Rekeying.sign(mine, south).to_bytes(), nodes.register, nodes.unregister)
    rekey(members["north"])
    data = (members["north"] / "rekey.json").read_bytes()
    coordinator.rekey(data, nodes.register, nodes.unregister)
    with pytest.raises(RefusedError, match="no member north has the key"):  # the same request again
        coordinator.rekey(data, nodes.register, nodes.unregister)
    assert len(nodes.known) == 1


def test_the_old_member_is_kept_on_record(coordinator, members):
    old = (coordinator.folder / "members" / "north.json").read_bytes()
    rekey(members["north"])
    nodes = Nodes()
    coordinator.rekey((members["north"] / "rekey.json").read_bytes(), nodes.register, nodes.unregister)
    assert (coordinator.folder / "revoked" / "north-100.json").read_bytes() == old


@given(st.binary(max_size=200))
def test_any_bytes_are_a_rekeying_or_malformed(data):
    with pytest.raises(MalformedMessageError, match="rekeying"):
        Rekeying.from_bytes(data)


# ------------------------------------------------------------------------------------------------- the ledgers
@pytest.fixture
def config(tmp_path):
    """Four organisations with names, and a budget for two runs."""
    config = write_federation(tmp_path) | {"budget-epsilon": 20.0}
    _call(config, "north", "south", "west", "east")
    return config


def _call(config, *called, fresh=()):
    """Writes names into the roster; `fresh` ones get other keys."""
    folder, lines = Path(config["organisations"]), []
    for index, name in enumerate(called):
        if name in fresh:
            (folder / f"{index}.pem").write_bytes(IdentityKey.generate().to_pem())
        lines.append((IdentityKey.from_pem((folder / f"{index}.pem").read_bytes()).public, name))
    (folder / "roster").write_text("".join(f"{key.hex()} {name}\n" for key, name in sorted(lines)))


def test_new_keys_go_on_from_the_ledger_of_the_old_ones(config, tmp_path):
    run_federation(config)
    spent = (tmp_path / "0.ledgers" / OWN).read_bytes()
    _call(config, "north", "south", "west", "east", fresh=("north",))
    run_federation(config, run_id=2)
    assert (tmp_path / "0.ledgers" / OWN).read_bytes().startswith(spent)
    assert sorted(path.name for path in (tmp_path / "copies").glob("*.jsonl")) == [
        "east.jsonl",
        "north.jsonl",
        "south.jsonl",
        "west.jsonl",
    ]


def test_who_joins_again_under_its_name_with_an_empty_folder_has_no_new_budget(config, tmp_path):
    """Today's attack: the same people, revoked and invited again, had a cap that began at 0."""
    run_federation(config)
    shutil.rmtree(tmp_path / "0.ledgers")
    _call(config, "north", "south", "west", "east", fresh=("north",))
    with pytest.raises(RoundAbortedError, match=r"its own ledger does not go on from the last one.*north\.jsonl"):
        run_federation(config, run_id=2)
    (tmp_path / "0.ledgers" / OWN).write_bytes((tmp_path / "copies" / "north.jsonl").read_bytes())
    run_federation(config, run_id=3)


# ------------------------------------------------------------------------------------ what a node is told
@contextmanager
def a_gateway(folder, *, date=None):
    """A gateway with the certificate in a folder, in a thread; gives its port."""
    headers = {"date": date} if date else {}
    app = Starlette(routes=[Route("/health", lambda _: PlainTextResponse("ok", headers=headers))])
    door = Door("127.0.0.1", 0)
    server_ = gateway_server(app, certificate=folder / "server.pem", key=folder / "server-key.pem")
    server_.config.date_header = date is None
    server_.config.server_header = False
    thread = threading.Thread(target=lambda: asyncio.run(server_._serve(sockets=[door])), daemon=True)
    thread.start()
    while not server_.started:
        time.sleep(0.01)
    try:
        yield door.getsockname()[1]
    finally:
        server_.should_exit = True
        thread.join()


def notice_for(folder, port, *, authority=None):
    return Notice(b"f" * 16, f"localhost:{port}", (authority or (folder / "ca.pem")).read_text(), SECONDS)


@pytest.mark.integration
@pytest.mark.enable_socket
def test_a_node_sees_clock_and_certificate_of_its_gateway(tmp_path):
    now = dt.datetime.now(dt.UTC)
    write_pki(tmp_path, hosts=["localhost"], clients=[], now=now)
    with a_gateway(tmp_path) as port:
        reached = reach(notice_for(tmp_path, port), clock=lambda: time.time() + 100)
    assert abs(reached.ahead - 100) <= 3
    assert reached.ends_at == ends_at(tmp_path / "server.pem").timestamp()


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        (8.2, "8 s ahead of"),
        (-320.0, "320 s behind"),
        (float(NEWEST_SECONDS), f"{NEWEST_SECONDS} s ahead of"),
        (-float(OLDEST_SECONDS), f"{OLDEST_SECONDS} s behind"),
    ],
)
def test_a_clock_that_flower_would_not_take_is_named(ahead, said):
    with pytest.raises(UsageError, match=f"this machine's clock is {said}"):
        Reached(ahead, 0.0).require_clock()


@pytest.mark.parametrize("ahead", [4.0, -300.0])
def test_a_clock_within_the_bounds_is_taken(ahead):
    Reached(ahead, 0.0).require_clock()


def test_a_node_warns_from_60_days_before_the_end():
    day, end = 86_400, SECONDS + 100 * 86_400
    assert Reached(0.0, end).warning(end - 61 * day) == ""
    assert "expires on 2030-04-11, in 60 days: remind the coordinator" in Reached(0.0, end).warning(end - 60 * day)
    assert Reached(0.0, end).warning(end - 60 * day - 1) == ""


CASES = {
    "expired": (-398, PeerError, "has expired.*federation renew"),
    "not yet": (+2, UsageError, "not valid yet by this machine's clock"),
}


@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.parametrize(("days", "error", "said"), CASES.values(), ids=CASES)
def test_a_certificate_out_of_its_time_says_so_and_what_to_do(tmp_path, days, error, said):
    write_pki(tmp_path, hosts=["localhost"], clients=[], now=dt.datetime.now(dt.UTC))
    authority = tmp_path / "authority.pem"
    authority.write_bytes((tmp_path / "ca.pem").read_bytes())
    renew_pki(tmp_path, now=dt.datetime.now(dt.UTC) + dt.timedelta(days=days))
    with a_gateway(tmp_path) as port, pytest.raises(error, match=said):
        reach(notice_for(tmp_path, port, authority=authority))


@pytest.mark.integration
@pytest.mark.enable_socket
def test_another_authority_is_named_with_the_notice_as_cure(tmp_path):
    for name in ("one", "two"):
        write_pki(tmp_path / name, hosts=["localhost"], clients=[], now=dt.datetime.now(dt.UTC))
    with a_gateway(tmp_path / "one") as port, pytest.raises(PeerError, match=r"is not the gateway .* node notice"):
        reach(notice_for(tmp_path / "two", port))


@pytest.mark.integration
@pytest.mark.enable_socket
def test_a_gateway_that_is_down_is_unavailable(tmp_path):
    write_pki(tmp_path, hosts=["localhost"], clients=[], now=dt.datetime.now(dt.UTC))
    with Door("127.0.0.1", 0) as door:
        port = door.getsockname()[1]
    with pytest.raises(UnavailableError, match="does not answer"):
        reach(notice_for(tmp_path, port))


@pytest.fixture
def shown(tmp_path):
    return NodeMetrics(Ledgers(tmp_path / "ledgers", 16.0, 1e-5), Counter())


@pytest.mark.parametrize("error", [PeerError("it has expired"), UsageError("the clock is wrong")])
def test_what_supernode_would_fail_of_ends_a_start_and_is_said_later(shown, monkeypatch, caplog, error):
    def fails(_gateway):
        raise error

    monkeypatch.setattr(client.node.start, "reach", fails)
    with pytest.raises(type(error), match=str(error)):
        client.node.start.look(None, shown, starting=True)
    client.node.start.look(None, shown, starting=False)
    assert str(error) in caplog.text
    assert shown.reached is None


def test_a_gateway_that_is_down_does_not_end_a_start(shown, monkeypatch, caplog):
    def fails(_gateway):
        raise UnavailableError("it does not answer")

    monkeypatch.setattr(client.node.start, "reach", fails)
    client.node.start.look(None, shown, starting=True)
    assert "it does not answer" in caplog.text


def test_a_clock_that_is_wrong_ends_a_start_and_a_certificate_that_ends_soon_is_said(shown, monkeypatch, caplog):
    monkeypatch.setattr(client.node.start, "reach", lambda _gateway: Reached(8.0, time.time() + 10 * 86_400))
    with pytest.raises(UsageError, match="8 s ahead"):
        client.node.start.look(None, shown, starting=True)
    assert "in 10 days" in caplog.text
    assert shown.reached is not None


@pytest.mark.enable_socket
def test_a_port_that_is_taken_is_our_own_fault():
    with Door("127.0.0.1", 0) as door:
        port = door.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}"), opened_door("127.0.0.1", port):
            pass


# ------------------------------------------------------------------------------------------------ the commands
def test_the_commands_of_renewal_end_well_and_say_what_comes_next(coordinator, members, tmp_path, monkeypatch):
    superlink, folder = ASuperlink(), coordinator.folder
    monkeypatch.setattr(federation_upkeep_cli, "connected", superlink.connected)
    done = server("federation", "renew", folder)
    assert (done.exit_code, "ends on" in done.stdout) == (0, True)
    done = server("federation", "move", "new.example.org:8443", folder)
    assert done.exit_code == 0
    (tmp_path / "notice").write_text(done.stdout)
    done = device("node", "notice", tmp_path / "notice", members["north"])
    assert (done.exit_code, "new.example.org:8443" in done.stdout) == (0, True)
    done = device("node", "rekey", members["north"])
    assert (done.exit_code, "Your new fingerprint" in done.stdout) == (0, True)
    read_out, request = done.stdout.rpartition(": ")[2], members["north"] / "rekey.json"
    done = server("federation", "rekey", request, folder, "--fingerprint", read_out)
    assert (done.exit_code, "north has new keys; its node is 100" in done.stdout) == (0, True), done.output
    assert server("federation", "renew", folder, "--authority").exit_code == 0
    write_pki(tmp_path / "tls", hosts=["localhost"], clients=["door"], now=NOW)
    done = server("pki", "renew", tmp_path / "tls")
    assert (done.exit_code, done.stdout.count("ends on")) == (0, 2)


def test_new_keys_wait_for_a_run_that_is_under_way(coordinator, members, monkeypatch):
    superlink = ASuperlink()
    superlink.start_run(b"")
    monkeypatch.setattr(federation_upkeep_cli, "connected", superlink.connected)
    read_out = rekey(members["north"]).signed.request.fingerprint
    request = members["north"] / "rekey.json"
    done = server("federation", "rekey", request, coordinator.folder, "--fingerprint", read_out)
    assert (done.exit_code, "is under way" in done.stderr) == (2, True)
    assert not superlink.nodes


def test_new_keys_need_what_the_member_reads_out(coordinator, members, monkeypatch):
    """Whoever stole the old key, or kept a request that the member gave up, has a request that is signed well."""
    superlink, before = ASuperlink(), files_of(coordinator.folder)
    monkeypatch.setattr(federation_upkeep_cli, "connected", superlink.connected)
    abandoned = rekey(members["north"]).signed.request.fingerprint
    given_up = (members["north"] / "rekey.json").read_bytes()
    (members["north"] / "rekey.json").unlink()
    shutil.rmtree(members["north"] / "next")
    read_out = rekey(members["north"]).signed.request.fingerprint
    assert read_out != abandoned
    (coordinator.folder.parent / "kept.json").write_bytes(given_up)
    kept = coordinator.folder.parent / "kept.json"
    done = server("federation", "rekey", kept, coordinator.folder, "--fingerprint", read_out)
    assert (done.exit_code, "an earlier one" in done.stderr) == (2, True)
    done = server("federation", "rekey", kept, coordinator.folder)
    assert (done.exit_code, "pass what the organisation read out" in done.stderr) == (2, True)
    assert files_of(coordinator.folder) == before
    assert not superlink.nodes


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["federation", "renew", "NOWHERE"], 2),
        (["federation", "move", "no address", "HERE"], 2),
        (["federation", "move", "a.example:1", "NOWHERE"], 2),
        (["federation", "rekey", "NOWHERE", "HERE"], 2),
        (["federation", "rekey", "JUNK", "HERE"], 4),
        (["federation", "status", "NOWHERE"], 2),
        (["federation", "status", "HERE"], 4),
        (["federation", "calls", "HERE"], 2),
        (["federation", "stop", "1", "HERE"], 4),
        (["federation", "roster", "HERE", "--member", "stranger"], 2),
        (["federation", "roster", "NOWHERE"], 2),
        (["federation", "members", "NOWHERE"], 2),
        (["federation", "runs", "HERE"], 2),
        (["federation", "app-hash", "HERE"], 2),
        (["federation", "start", "NOWHERE"], 2),
        (["federation", "init", "HERE", "--address", "a.example:1"], 2),
        (["federation", "invite", "north", "HERE"], 2),
        (["federation", "invite", "NO NAME", "HERE"], 2),
        (["federation", "approve", "NOWHERE", "HERE", "--fingerprint", "x"], 2),
        (["federation", "approve", "JUNK", "HERE", "--fingerprint", "x"], 4),
        (["federation", "approve", "USED", "HERE", "--fingerprint", "x"], 3),
        (["federation", "revoke", "stranger", "HERE"], 4),
        (["pki", "renew", "NOWHERE"], 2),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)
def test_a_command_of_the_coordinator_that_fails_does_not_end_with_0(coordinator, members, tmp_path, arguments, code):
    (tmp_path / "junk").write_bytes(b"junk")
    places = {
        "HERE": coordinator.folder,
        "NOWHERE": tmp_path / "nowhere",
        "JUNK": tmp_path / "junk",
        "USED": members["north"] / "request.json",
    }
    before = files_of(coordinator.folder)
    done = server(*(places.get(argument, argument) for argument in arguments))
    assert (done.exit_code, isinstance(done.exception, SystemExit)) == (code, True), done.output
    after = {name: data for name, data in files_of(coordinator.folder).items() if name != Path("queue/.lock")}
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["join", "JUNK", "NEW", "--fingerprint", "x"], 4),
        (["join", "INVITATION", "NEW", "--fingerprint", "x"], 3),
        (["join", "NOWHERE", "NEW", "--fingerprint", "x"], 2),
        (["node", "fingerprint", "NOWHERE"], 2),
        (["node", "trust", "JUNK", "HERE"], 2),
        (["node", "notice", "JUNK", "HERE"], 4),
        (["node", "notice", "NOWHERE", "HERE"], 2),
        (["node", "rekey", "NOWHERE"], 2),
        (["node", "start", "NOWHERE"], 2),
        (["node", "start", "HERE"], 3),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_a_command_of_an_organisation_that_fails_does_not_end_with_0(coordinator, members, tmp_path, arguments, code):
    (tmp_path / "junk").write_bytes(b"junk")
    (tmp_path / "invitation").write_text(coordinator.invite("west", now=int(time.time()))[1])
    places = {
        "HERE": members["north"],
        "NEW": tmp_path / "new",
        "NOWHERE": tmp_path / "nowhere",
        "JUNK": tmp_path / "junk",
        "INVITATION": tmp_path / "invitation",
    }
    before = files_of(members["north"])
    done = device(*(places.get(argument, argument) for argument in arguments))
    assert (done.exit_code, isinstance(done.exception, SystemExit)) == (code, True), done.output
    assert files_of(members["north"]) == before
