"""What the coordinator's folder is written with by each command: every effect, in order, and what it says then."""

from __future__ import annotations

import datetime as dt
import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.node.joining import join
from client.node.renewing import rekey
from federation.errors import RefusedError, UsageError
from federation.membership.joining import invitation_from_text
from federation.membership.renewal import BEFORE_ALL, notice_from_text
from federation.secagg.session import roster_from_text, roster_names
from server.certificates import write_pki
from server.fleet import members as fleet
from server.fleet.members import Coordinator, Member

NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
SECONDS = int(NOW.timestamp())
DAY = 86_400


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    """Certificates of the first authority and of the next, by what makes them."""
    folder, made = tmp_path_factory.mktemp("authorities"), {}
    for name in ("write_pki", "replace_authority"):
        write_pki(folder / name, hosts=["localhost"], clients=[], now=NOW)
        made[name] = (folder / name / "ca.pem").read_text()
    return made


@pytest.fixture
def told(monkeypatch, tmp_path, authorities):
    """Every effect on the folder, in order."""
    told, write, rename, place = (
        [],
        fleet.write_durably,
        Path.rename,
        lambda path: path.relative_to(tmp_path).as_posix(),
    )

    def noted(name, does):
        def call(path, *more, **named):
            told.append((name, place(path), *map(str, more[1:]), *(f"{key} {value}" for key, value in named.items())))
            return does(path, *more, **named)

        return call

    def moved(path, target):
        told.append(("rename", place(path), place(target)))
        return rename(path, target)

    def pki(name):
        def make(tls, **named):
            told.append((name, place(tls), named))
            if name in authorities:
                tls.mkdir(exist_ok=True)
                (tls / "ca.pem").write_text(authorities[name])

        return make

    monkeypatch.setattr(fleet, "write_durably", noted("write", write))
    monkeypatch.setattr(fleet, "make_directory", noted("make", fleet.make_directory))
    monkeypatch.setattr(fleet, "sync_directory", noted("sync", lambda _: None))
    monkeypatch.setattr(Path, "rename", moved)
    for name in ("write_pki", "renew_pki", "replace_authority"):
        monkeypatch.setattr(fleet, name, pki(name))
    monkeypatch.setattr(fleet, "ends_at", lambda path: f"the end of {place(path)}")
    return told


@pytest.fixture
def coordinator(told, tmp_path):
    made = Coordinator.create(tmp_path / "c", address="fed.example.org:8443", now=NOW)
    told.clear()
    return made


def nodes(told, node):
    """(registers, unregisters): what the SuperLink is asked, in the order of everything else."""
    return (
        lambda name, key: told.append(("register", name, key.split()[0])) or node,
        lambda gone: told.append(("unregister", gone)),
    )


def joined(coordinator, folder, name, told, node):
    """Makes a member; gives its request."""
    _, text = coordinator.invite(name, now=SECONDS)
    signed = join(text, folder / name, now=SECONDS)
    coordinator.approve(signed.to_bytes(), nodes(told, node)[0], now=SECONDS)
    told.clear()
    return signed


def test_a_federation_is_one_once_its_last_file_is_there(told, tmp_path, authorities):
    made = Coordinator.create(tmp_path / "c", address="fed.example.org:8443", now=NOW)
    folders = ["c", "c/invitations", "c/used", "c/members", "c/revoked"]
    assert told == [
        *(("make", folder, "mode 448") for folder in folders),
        ("write_pki", "c/tls", {"hosts": ["fed.example.org", "localhost", "127.0.0.1"], "clients": [], "now": NOW}),
        ("write", "c/coordinator.pem"),
        ("write", "c/superexec.secret"),
        ("write", "c/federation.json"),
    ]
    facts = json.loads((tmp_path / "c/federation.json").read_bytes())
    assert facts == {"federation": made.federation.hex(), "address": "fed.example.org:8443", "noticed": BEFORE_ALL}
    assert (len(made.federation), len((tmp_path / "c/superexec.secret").read_bytes())) == (16, 32)
    assert made.authority == authorities["write_pki"]
    told.clear()
    with pytest.raises(UsageError, match=r"is not empty; name a new folder$"):
        Coordinator.create(tmp_path / "c", address="fed.example.org:8443", now=NOW)
    assert told == []
    Coordinator.create(tmp_path / "d", address="localhost:1", now=NOW)
    assert told[5][2]["hosts"] == ["localhost", "127.0.0.1"]


@pytest.mark.parametrize("days", [7, 30])
def test_an_invitation_names_everything_that_is_so_now_and_is_on_disk_before_anybody_has_it(
    coordinator, told, days, authorities
):
    coordinator._notice(now=SECONDS - 5)
    told.clear()
    named = {"days": days} if days != 7 else {}
    invitation, text = coordinator.invite("north", now=SECONDS, **named)
    identifier = invitation.invitation.hex()
    assert told == [("write", f"c/invitations/{identifier}")]
    assert (coordinator.folder / "invitations" / identifier).read_text() == text
    assert invitation_from_text(text) == invitation
    assert (invitation.federation, invitation.name, invitation.address) == (
        coordinator.federation,
        "north",
        "fed.example.org:8443",
    )
    assert (invitation.authority, invitation.coordinator) == (
        authorities["write_pki"],
        coordinator._key.public_key().public_bytes_raw(),
    )
    assert (invitation.noticed_at, invitation.expires_at) == (SECONDS - 5, SECONDS + days * DAY)
    assert len(invitation.invitation) == 16


def test_an_invitation_is_used_up_for_good_before_a_node_is_registered_and_a_member_is_written_last(
    coordinator, told, tmp_path
):
    _, text = coordinator.invite("north", now=SECONDS)
    signed = join(text, tmp_path / "north", now=SECONDS)
    identifier = signed.request.invitation.hex()
    told.clear()
    member = coordinator.approve(signed.to_bytes(), nodes(told, 100)[0], now=SECONDS)
    assert told == [
        ("rename", f"c/invitations/{identifier}", f"c/used/{identifier}"),
        ("sync", "c/used"),
        ("sync", "c/invitations"),
        ("register", "north", "ecdsa-sha2-nistp384"),
        ("write", "c/members/north.json"),
    ]
    assert member == Member(signed, 100) == Member.from_bytes((coordinator.folder / "members/north.json").read_bytes())


def test_a_member_is_forgotten_by_the_superlink_first_and_stays_one_when_that_fails(coordinator, told, tmp_path):
    for node, name in enumerate(("north", "south"), start=100):
        joined(coordinator, tmp_path, name, told, node)

    def fails(_node):
        raise UsageError("down")

    with pytest.raises(UsageError, match="down"):
        coordinator.revoke("south", fails)
    assert told == []
    assert coordinator.node_names() == "100=north,101=south"
    gone = coordinator.revoke("south", nodes(told, 0)[1])
    assert told == [
        ("unregister", 101),
        ("rename", "c/members/south.json", "c/revoked/south-101.json"),
        ("sync", "c/revoked"),
        ("sync", "c/members"),
    ]
    assert (gone.name, coordinator.node_names()) == ("south", "100=north")


def test_new_keys_are_registered_before_the_old_ones_are_kept_on_record_and_forgotten_last(coordinator, told, tmp_path):
    for node, name in enumerate(("north", "south"), start=100):
        joined(coordinator, tmp_path, name, told, node)
    old = coordinator.members()[1]
    (tmp_path / "south/roster").write_text(coordinator.roster())
    data = rekey(tmp_path / "south").to_bytes()
    told.clear()
    new = coordinator.rekey(data, *nodes(told, 103))
    assert told == [
        ("register", "south", "ecdsa-sha2-nistp384"),
        ("write", "c/revoked/south-101.json"),
        ("write", "c/members/south.json"),
        ("unregister", 101),
    ]
    assert Member.from_bytes((coordinator.folder / "revoked/south-101.json").read_bytes()) == old
    assert coordinator.members()[1] == new
    assert (new.node, new.signed.request.organisation_key != old.signed.request.organisation_key) == (103, True)


def test_what_a_command_needs_is_looked_at_before_anything_is_done(coordinator, told, tmp_path):
    signed = joined(coordinator, tmp_path, "north", told, 100)
    for name, asked in (
        (
            "north is a member; revoke it first, or choose another name",
            lambda: coordinator.invite("north", now=SECONDS),
        ),
        ("west is not a member", lambda: coordinator.revoke("west", nodes(told, 0)[1])),
        ("west, zoo is not a member", lambda: coordinator.roster(["zoo", "north", "west"])),
    ):
        with pytest.raises(UsageError, match=f"^{name}$"):
            asked()
    with pytest.raises(RefusedError, match="no open invitation for this request of north; invite again"):
        coordinator.approve(signed.to_bytes(), nodes(told, 0)[0], now=SECONDS)
    assert told == []


def test_the_gateway_gets_a_certificate_and_nothing_else_changes(coordinator, told):
    assert coordinator.renew(now=NOW) == "the end of c/tls/server.pem"
    assert told == [("renew_pki", "c/tls", {"now": NOW})]


@pytest.fixture
def invited(coordinator, told):
    """Two open invitations, and what becomes of them at a move."""
    names = [coordinator.invite(name, now=SECONDS)[0].invitation.hex() for name in ("west", "east")]
    told.clear()
    return {("rename", f"c/invitations/{name}", f"c/used/{name}") for name in names}


def test_a_new_authority_signs_the_gateway_ends_all_invitations_and_is_in_a_notice_that_is_on_disk(
    coordinator, told, invited, authorities
):
    later = NOW + dt.timedelta(days=9)
    text = coordinator.renew_authority(now=later)
    assert told[:2] == [("replace_authority", "c/tls", {"now": later}), ("renew_pki", "c/tls", {"now": later})]
    assert set(told[2:4]) == invited
    assert told[4:] == [("sync", "c/used"), ("sync", "c/invitations"), ("write", "c/federation.json")]
    notice = notice_from_text(text, coordinator_of(coordinator))
    assert (notice.address, notice.authority, notice.issued_at) == (
        "fed.example.org:8443",
        authorities["replace_authority"],
        SECONDS + 9 * DAY,
    )
    assert coordinator.authority == notice.authority


def test_a_move_certifies_both_addresses_and_is_on_disk_before_invitations_end_and_a_notice_is_made(
    coordinator, told, invited, authorities
):
    text = coordinator.move("new.example.org:1", now=NOW)
    hosts = ["new.example.org", "fed.example.org", "localhost", "127.0.0.1"]
    assert told[:2] == [("renew_pki", "c/tls", {"now": NOW, "hosts": hosts}), ("write", "c/federation.json")]
    assert set(told[2:4]) == invited
    assert told[4:] == [("sync", "c/used"), ("sync", "c/invitations"), ("write", "c/federation.json")]
    notice = notice_from_text(text, coordinator_of(coordinator))
    assert (notice.address, notice.authority) == ("new.example.org:1", authorities["write_pki"])
    assert notice.issued_at == SECONDS
    facts = json.loads((coordinator.folder / "federation.json").read_bytes())
    assert facts == {"federation": coordinator.federation.hex(), "address": "new.example.org:1", "noticed": SECONDS}
    told.clear()
    coordinator.move("new.example.org:2", now=NOW)
    assert told[0][2]["hosts"] == ["new.example.org", "localhost", "127.0.0.1"]


def coordinator_of(coordinator):
    """What a member knows of it."""
    return type(
        "Invited",
        (),
        {"coordinator": coordinator._key.public_key().public_bytes_raw(), "federation": coordinator.federation},
    )()


@pytest.mark.parametrize(("now", "issued"), [(-5, 1), (0, 1), (1, 1), (900, 900)])
def test_a_notice_is_newer_than_the_one_before_and_on_disk_first(coordinator, told, now, issued):
    coordinator.notice(now=SECONDS)
    told.clear()
    other = Coordinator(coordinator.folder)
    assert notice_from_text(other.notice(now=SECONDS + now), coordinator_of(other)).issued_at == SECONDS + issued
    assert told == [("write", "c/federation.json")]
    assert json.loads((coordinator.folder / "federation.json").read_bytes())["noticed"] == SECONDS + issued
    again = notice_from_text(coordinator.notice(now=SECONDS), coordinator_of(other))
    assert again.issued_at == SECONDS + issued + 1


def test_the_roster_is_of_all_or_of_those_who_are_named_in_the_order_of_their_keys(coordinator, told, tmp_path):
    keys = {}
    for node, name in enumerate(("north", "south", "west"), start=100):
        keys[name] = joined(coordinator, tmp_path, name, told, node).request.organisation_key
    for names in ((), ("west", "north")):
        text, chosen = coordinator.roster(names), names or tuple(keys)
        in_order = sorted(chosen, key=keys.__getitem__)
        assert roster_names(text) == tuple(in_order)
        assert roster_from_text(text) == tuple(keys[name] for name in in_order)
    assert coordinator.node_names() == "100=north,101=south,102=west"


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("federation.json", None),
        ("federation.json", b"{"),
        ("federation.json", b"[]"),
        ("federation.json", b"[" * 100_000),
        ("federation.json", b'{"federation": "zz", "address": "a", "noticed": 1}'),
        ("federation.json", b'{"federation": "00", "noticed": 1}'),
        ("federation.json", b'{"federation": "00", "address": "a", "noticed": null}'),
        ("coordinator.pem", b"no key"),
        ("tls/ca.pem", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_folder_that_lacks_a_part_holds_no_federation(coordinator, file, data):
    path = coordinator.folder / file
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(UsageError, match=r"holds no federation; run `intaglio-server federation init` first$"):
        Coordinator(coordinator.folder)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"3",
        b"{}",
        b'{"request": 3, "node": 1}',
        b'{"request": "x", "node": 1}',
        b'{"request": null}',
    ],
    ids=lambda data: data[:20],
)
def test_a_file_that_is_no_member_s_is_named_as_such(data):
    with pytest.raises(UsageError, match=r"^a file in members/ is not one that `federation approve` wrote$"):
        Member.from_bytes(data)


# ------------------------------------------------------------------------------------------- several commands at once
CHANGES = {
    "invite": lambda one, *_: one.invite("west", now=SECONDS),
    "approve": lambda one, told, joins, _: one.approve(joins.to_bytes(), nodes(told, 102)[0], now=SECONDS),
    "revoke": lambda one, told, *_: one.revoke("north", nodes(told, 0)[1]),
    "rekey": lambda one, told, _, rekeys: one.rekey(rekeys.to_bytes(), *nodes(told, 103)),
    "renew": lambda one, *_: one.renew(now=NOW),
    "renew the authority": lambda one, *_: one.renew_authority(now=NOW),
    "move": lambda one, *_: one.move("new.example.org:1", now=NOW),
    "notice": lambda one, *_: one.notice(now=SECONDS),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whoever_changes_a_federation_does_so_alone_and_knows_what_another_process_changed_before(
    coordinator, told, tmp_path, monkeypatch, change
):
    joined(coordinator, tmp_path, "north", told, 100)
    (tmp_path / "north/roster").write_text(coordinator.roster())
    _, text = coordinator.invite("east", now=SECONDS)
    asks = join(text, tmp_path / "east", now=SECONDS), rekey(tmp_path / "north")
    facts = json.loads((coordinator.folder / "federation.json").read_bytes())
    (coordinator.folder / "federation.json").write_text(
        json.dumps(facts | {"address": "moved.example.org:2", "noticed": SECONDS + 77})
    )

    @contextmanager
    def locked(path):
        told.append(("lock", path.relative_to(tmp_path).as_posix(), coordinator.address))
        yield
        told.append("unlock")

    looked = Coordinator._read
    monkeypatch.setattr(fleet, "locked", locked)
    monkeypatch.setattr(Coordinator, "_read", lambda self: told.append("read") or looked(self))
    told.clear()
    change(coordinator, told, *asks)
    assert told[:2] == [("lock", "c/coordinator.lock", "fed.example.org:8443"), "read"]
    assert told.index("unlock") == len(told) - 1
    assert coordinator.address in {"moved.example.org:2", "new.example.org:1"}
    assert coordinator._noticed_at in {SECONDS + 77, SECONDS + 78}


def test_of_two_invitations_of_one_name_the_second_is_refused_and_stays_open(coordinator, told, tmp_path):
    texts = [coordinator.invite("north", now=SECONDS)[1] for _ in range(2)]
    first, second = (
        join(text, tmp_path / f"north-{number}", now=SECONDS).to_bytes() for number, text in enumerate(texts)
    )
    coordinator.approve(first, nodes(told, 100)[0], now=SECONDS)
    told.clear()
    with pytest.raises(UsageError, match=r"^north is a member; revoke it first$"):
        coordinator.approve(second, nodes(told, 101)[0], now=SECONDS)
    assert (told, coordinator.node_names()) == ([], "100=north")
    assert len(list((coordinator.folder / "invitations").iterdir())) == 1
    coordinator.revoke("north", nodes(told, 0)[1])
    assert coordinator.approve(second, nodes(told, 101)[0], now=SECONDS).node == 101


def test_a_node_that_cannot_be_registered_makes_no_member_and_changes_none(coordinator, told, tmp_path):
    joined(coordinator, tmp_path, "north", told, 100)
    (tmp_path / "north/roster").write_text(coordinator.roster())
    before, keys = coordinator.members(), rekey(tmp_path / "north").to_bytes()
    _, text = coordinator.invite("south", now=SECONDS)
    asks = join(text, tmp_path / "south", now=SECONDS)

    def fails(*_):
        raise UsageError("the SuperLink refuses")

    told.clear()
    with pytest.raises(UsageError, match="the SuperLink refuses"):
        coordinator.rekey(keys, fails, nodes(told, 0)[1])
    assert (told, coordinator.members()) == ([], before)
    assert list((coordinator.folder / "revoked").iterdir()) == []
    with pytest.raises(UsageError, match="the SuperLink refuses"):
        coordinator.approve(asks.to_bytes(), fails, now=SECONDS)
    assert coordinator.members() == before
    used = coordinator.folder / "used" / asks.request.invitation.hex()
    assert (used.is_file(), list((coordinator.folder / "invitations").iterdir())) == (True, [])


def test_new_keys_stand_when_the_old_node_cannot_be_forgotten(coordinator, told, tmp_path):
    """Nobody asks the old node for anything; asking again finds the new one."""
    joined(coordinator, tmp_path, "north", told, 100)
    (tmp_path / "north/roster").write_text(coordinator.roster())

    def fails(node):
        told.append(("fails", node))
        raise UsageError("the SuperLink went away")

    with pytest.raises(UsageError, match="the SuperLink went away"):
        coordinator.rekey(rekey(tmp_path / "north").to_bytes(), nodes(told, 103)[0], fails)
    assert told[-1] == ("fails", 100)
    assert coordinator.node_names() == "103=north"
    assert (coordinator.folder / "revoked/north-100.json").is_file()


def test_what_another_process_did_while_one_waited_for_the_folder_is_known(coordinator, told, tmp_path, monkeypatch):
    joined(coordinator, tmp_path, "north", told, 100)
    _, text = coordinator.invite("south", now=SECONDS)
    asks = join(text, tmp_path / "south", now=SECONDS)
    other, lock = Coordinator(coordinator.folder), fleet.locked

    def meanwhile(does):
        @contextmanager
        def locked(path):
            monkeypatch.setattr(fleet, "locked", lock)
            does()
            told.clear()
            with lock(path):
                yield

        monkeypatch.setattr(fleet, "locked", locked)

    meanwhile(lambda: other.revoke("north", nodes(told, 0)[1]))
    with pytest.raises(UsageError, match=r"^north is not a member$"):
        coordinator.revoke("north", nodes(told, 0)[1])
    assert told == []
    meanwhile(lambda: other.approve(asks.to_bytes(), nodes(told, 101)[0], now=SECONDS))
    with pytest.raises(UsageError, match=r"^south is a member; revoke it first, or choose another name$"):
        coordinator.invite("south", now=SECONDS)
    assert told == []
    _, text = coordinator.invite("west", now=SECONDS)
    west = join(text, tmp_path / "west", now=SECONDS)
    meanwhile(lambda: other.move("new.example.org:1", now=NOW))  # which ends all invitations
    with pytest.raises(RefusedError, match="no open invitation for this request of west; invite again"):
        coordinator.approve(west.to_bytes(), nodes(told, 102)[0], now=SECONDS)
    assert told == []
    assert coordinator.node_names() == "101=south"
