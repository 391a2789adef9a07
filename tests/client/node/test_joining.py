"""The organisation's folder: what joining, trusting, new keys and notices write there, and what a refusal leaves."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.node import renewing
from client.node.joining import POLICY, invitation_of, join, policy_of, trust_roster
from client.node.renewing import NEXT, gateway_of, rekey, take_notice, trust
from client.preparing.people import has_withdrawn, prepared_people, publish, refresh_active, withdraw
from federation.errors import IntaglioError, RefusedError, UsageError
from federation.identity import IdentityKey
from federation.membership.joining import (
    JoinRequest,
    SignedJoinRequest,
    fingerprint,
    invitation_from_text,
    node_key_line,
)
from federation.membership.renewal import Rekeying
from federation.privacy.bounds import BOUNDS
from server.fleet.members import Coordinator
from tests.client.preparing.test_taking_part import chips_of
from tests.durable import files
from tests.people import synthetic_people

NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
SECONDS = int(NOW.timestamp())
MADE = ["authority.pem", "invitation", "node", "node.pub", "organisation.pem", "policy.toml", "request.json"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A federation with the invitation of an organisation that has joined, once for all tests: keys take their time."""
    place = tmp_path_factory.mktemp("federation")
    coordinator = Coordinator.create(place / "coordinator", address="fed.example.org:8443", now=NOW)
    texts = {}
    for number, name in enumerate(("north", "south", "west")):
        _, texts[name] = coordinator.invite(name, now=SECONDS)
        signed = join(texts[name], place / name, now=SECONDS)
        coordinator.approve(signed.to_bytes(), lambda *_, number=number: 100 + number, now=SECONDS)
    trust(coordinator.roster(), place / "north", replace=False)
    return place, coordinator, texts


@pytest.fixture
def north(begun, tmp_path):
    """The folder of north, and nobody else's who reads this."""
    shutil.copytree(begun[0] / "north", tmp_path / "north")
    return tmp_path / "north"


@pytest.fixture(scope="module")
def rekeyed(begun, tmp_path_factory):
    """The folder of north with new keys that wait, and the roster that has them."""
    folder = tmp_path_factory.mktemp("rekeyed") / "north"
    shutil.copytree(begun[0] / "north", folder)
    rekey(folder)
    new = IdentityKey.from_pem((folder / NEXT / "organisation.pem").read_bytes()).public
    lines = begun[1].roster().splitlines()
    lines = [f"{new.hex()} north" if line.endswith(" north") else line for line in lines]
    return folder, "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------------------------- joining
def test_an_organisation_that_joins_has_two_keys_a_policy_and_what_it_was_sent(begun, tmp_path):
    _, _, texts = begun
    signed = join(f"  {texts['south']}\n\n", tmp_path / "south", now=SECONDS)
    made = {name: data for name, data in files(tmp_path / "south").items() if name != "node"}
    invitation = invitation_from_text(texts["south"])
    node = load_ssh_private_key((tmp_path / "south" / "node").read_bytes(), None)
    key = IdentityKey.from_pem(made.pop("organisation.pem"))
    expected = JoinRequest(invitation.invitation, invitation.digest, "south", node_key_line(node), key.public)
    assert signed.request == expected
    policy = made.pop("policy.toml").decode()
    assert made == {
        "node.pub": f"{node_key_line(node)} south\n".encode(),
        "invitation": texts["south"].strip().encode() + b"\n",
        "authority.pem": invitation.authority.encode(),
        "request.json": signed.to_bytes(),
    }
    assert (tmp_path / "south").stat().st_mode & 0o777 == 0o700
    said = [line for line in policy.splitlines() if line.startswith("# ") and line.split()[1] in BOUNDS]
    assert said == [f"# {name:20} {least:g} to {most:g}" for name, (least, most) in BOUNDS.items()]
    read = policy_of(tmp_path / "south")
    assert (read.max_epsilon, read.budget_epsilon, read.delta, read.min_colluders) == (8.0, 16.0, 1e-5, 1)
    assert (read.recipes, read.app_hashes) == (("moments", "threshold"), frozenset())
    assert all(read.is_open(SECONDS + 3600 * hour) for hour in range(24))


@pytest.mark.parametrize("name", MADE)
def test_whichever_of_its_files_is_there_nothing_is_made(begun, tmp_path, name):
    (tmp_path / name).write_bytes(b"somebody's")
    with pytest.raises(UsageError, match=rf"{name} exists and is not overwritten; name an empty folder"):
        join(begun[2]["south"], tmp_path, now=SECONDS)
    assert files(tmp_path) == {name: b"somebody's"}


def test_an_invitation_that_has_expired_makes_nothing(begun, tmp_path):
    text = begun[2]["south"]
    with pytest.raises(UsageError, match="expired"):
        join(text, tmp_path / "south", now=invitation_from_text(text).expires_at)
    assert not (tmp_path / "south").exists()


# -------------------------------------------------------------------------------------------------------- trusting
def test_a_roster_that_is_trusted_is_told_by_fingerprint_and_name_and_which_one_was_read_out(begun, north):
    _, coordinator, _ = begun
    told = trust_roster(coordinator.roster(), north)
    lines = [line.split(" ") for line in coordinator.roster().splitlines()]
    own = "  (you read this one out)"
    assert sorted(name for _, name in lines) == ["north", "south", "west"]
    assert list(told) == [
        f"{fingerprint(bytes.fromhex(key))}  {name}{own if name == 'north' else ''}" for key, name in lines
    ]


def test_a_roster_that_is_refused_leaves_the_one_before(begun, north):
    _, coordinator, _ = begun
    before, text = files(north), coordinator.roster()
    others = "".join(line for line in text.splitlines(keepends=True) if not line.endswith(" north\n"))
    changed = text.replace(" west\n", "\n")
    for roster, replace, error, said in (
        (others, True, RefusedError, "this organisation's key is not in the roster"),
        (changed, False, UsageError, "another roster is trusted already; compare the fingerprints, then say --replace"),
        ("no roster\n", True, UsageError, "roster"),
    ):
        with pytest.raises(error, match=said):
            trust(roster, north, replace=replace)
        assert files(north) == before
    trust(changed, north, replace=True)
    assert files(north) == before | {"roster": changed.encode()}


# -------------------------------------------------------------------------------------------------------- new keys
def test_new_keys_wait_with_a_request_that_the_old_one_signed(north):
    before = files(north)
    made = rekey(north)
    after = files(north)
    waiting = {name.removeprefix(f"{NEXT}/"): data for name, data in after.items() if name.startswith(f"{NEXT}/")}
    assert sorted(waiting) == MADE
    assert {name: data for name, data in after.items() if not name.startswith(NEXT)} == before | {
        "rekey.json": made.to_bytes()
    }
    assert Rekeying.from_bytes(after["rekey.json"]) == made
    assert made.old == IdentityKey.from_pem(before["organisation.pem"]).public
    assert made.signed == SignedJoinRequest.from_bytes(waiting["request.json"])
    for name in ("organisation.pem", "node"):
        assert waiting[name] != before[name]
    assert waiting["invitation"] == before["invitation"]
    with pytest.raises(UsageError, match=r"new keys wait in .*next; send .*rekey\.json, or remove both of them"):
        rekey(north)
    assert files(north) == after
    (north / "rekey.json").unlink()
    assert rekey(north).signed == made.signed  # a request that was lost is made anew, and the keys are the same
    shutil.rmtree(north / NEXT)
    assert rekey(north).signed != made.signed


def test_a_request_for_other_keys_is_gone_from_the_disk_before_new_ones_wait(north, monkeypatch):
    rekey(north)
    shutil.rmtree(north / NEXT)
    steps, unlink, rename, sync = [], Path.unlink, Path.rename, renewing.sync_folder

    def noting(what, original):
        return lambda path, *given, **how: steps.append((what, path.name)) or original(path, *given, **how)

    monkeypatch.setattr(Path, "unlink", noting("unlink", unlink))
    monkeypatch.setattr(Path, "rename", noting("rename", rename))
    monkeypatch.setattr(renewing, "sync_folder", noting("sync", sync))
    rekey(north)
    steps = [step for step in steps if step[1] in {"rekey.json", ".next", "north"}]
    assert steps == [("unlink", "rekey.json"), ("sync", "north"), ("rename", ".next"), ("sync", "north")]


def test_what_is_not_joined_gets_no_new_keys(tmp_path):
    (tmp_path / NEXT).mkdir()
    with pytest.raises(UsageError, match=r"cannot read .*organisation\.pem: No such file or directory; run `intaglio"):
        rekey(tmp_path)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("replace", [False, True])
def test_new_keys_take_the_old_ones_places_only_with_a_roster_that_is_taken(rekeyed, tmp_path, replace):
    """Else the node had keys that are in no roster that it trusts."""
    source, roster = rekeyed
    folder = tmp_path / "north"
    shutil.copytree(source, folder)
    (folder / POLICY).write_text("our own words")
    before = files(folder)
    if not replace:
        with pytest.raises(UsageError, match="another roster is trusted already"):
            trust(roster, folder, replace=False)
        assert files(folder) == before
        return
    trust(roster, folder, replace=True)
    moved = ("organisation.pem", "node", "node.pub", "request.json")
    assert files(folder) == {
        name: before[f"{NEXT}/{name}"] if name in moved else data
        for name, data in before.items()
        if not name.startswith(NEXT) and name != "rekey.json"
    } | {"roster": roster.encode()}


def test_new_keys_take_their_places_also_where_somebody_removed_the_request(rekeyed, tmp_path):
    source, roster = rekeyed
    folder = tmp_path / "north"
    shutil.copytree(source, folder)
    (folder / "rekey.json").unlink()
    trust(roster, folder, replace=True)
    assert (folder / "roster").read_text() == roster
    assert not (folder / NEXT).exists()


def test_a_roster_without_the_new_keys_leaves_them_waiting(begun, rekeyed, tmp_path):
    folder = tmp_path / "north"
    shutil.copytree(rekeyed[0], folder)
    before = files(folder)
    trust(begun[1].roster(), folder, replace=False)
    assert files(folder) == before


def test_new_keys_are_in_their_places_one_after_the_other_and_the_identity_first(rekeyed, tmp_path, monkeypatch):
    """Trusting again moves the rest whenever the identity has gone, whatever roster is named."""
    steps, folder = [], tmp_path / "north"
    shutil.copytree(rekeyed[0], folder)
    original, unlink, rmtree = renewing.replace_file, Path.unlink, shutil.rmtree
    monkeypatch.setattr(renewing, "replace_file", lambda path, data: steps.append(path.name) or original(path, data))
    monkeypatch.setattr(
        Path, "unlink", lambda path, **how: steps.append(f"- {path.parent.name}/{path.name}") or unlink(path, **how)
    )
    monkeypatch.setattr(
        renewing.shutil, "rmtree", lambda path, **how: steps.append(f"- {path.name}") or rmtree(path, **how)
    )
    trust(rekeyed[1], folder, replace=True)
    steps = [step for step in steps if not step.startswith("- north/.")]
    assert steps == [
        "organisation.pem",
        "- next/organisation.pem",
        "node",
        "- next/node",
        "node.pub",
        "- next/node.pub",
        "request.json",
        "- next",
        "- north/rekey.json",
    ]


# --------------------------------------------------------------------------------------------------------- notices
def test_the_gateway_is_where_the_newest_notice_says_and_else_where_the_invitation_did(begun, north):
    _, coordinator, _ = begun
    before = files(north)
    invited = gateway_of(north)
    assert (invited.address, invited.authority) == ("fed.example.org:8443", coordinator.authority)
    text = coordinator.notice(now=SECONDS)
    taken = take_notice(f"\n {text} \n", north)
    assert gateway_of(north) == taken
    assert files(north) == before | {"notice": text.strip().encode() + b"\n"}
    with pytest.raises(UsageError, match="this notice is not newer than what is known already"):
        take_notice(text, north)
    assert files(north) == before | {"notice": text.strip().encode() + b"\n"}


# ------------------------------------------------------------------------------------------------- damaged files
@pytest.fixture
def folder(north, begun):
    (north / "notice").write_text(begun[1].notice(now=SECONDS))
    gateway_of(north)
    publish([synthetic_people(["anna", "ben"]), chips_of("anna", "ben")], {"recogniser": "r"}, {"weights": b"w"}, north)
    withdraw("ben", north)
    return north


READERS = {
    "invitation": (invitation_of, gateway_of),
    "policy.toml": (policy_of,),
    "notice": (gateway_of,),
    "roster": (lambda folder: trust_roster((folder / "kept").read_text(), folder),),
    "organisation.pem": (rekey, lambda folder: trust_roster((folder / "kept").read_text(), folder)),
    "withdrawn": (
        lambda folder: has_withdrawn({"ben"}, folder),
        refresh_active,
        lambda folder: withdraw("anna", folder),
    ),
    "prepared/made-with.json": (prepared_people,),
    "prepared/model": (prepared_people,),
    "embeddings.npz": (refresh_active,),
}
DAMAGES = {
    "bytes that are no text": b"\xff\xfe",
    "other text": b"{",
    "a folder": None,
}


SAID = r"cannot read .*; |is damaged; |was altered; |no archive that|not an? (invitation|notice)|is no TOML|private key"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_said_and_changes_nothing(folder, name, damage):
    shutil.copy(folder / "roster", folder / "kept")
    for read in READERS[name]:
        if read is not rekey and name != "withdrawn":
            read(folder)
    path = folder / name
    if path.is_dir():
        path = path / "weights"
    path.resolve().unlink()
    path = path.resolve()
    if DAMAGES[damage] is None:
        path.mkdir()
    else:
        path.write_bytes(DAMAGES[damage])
    before = files(folder)
    for read in READERS[name]:
        if name in {"roster", "prepared/model"} and damage != "a folder":
            continue  # any text is another roster, and any bytes are weights
        with pytest.raises(IntaglioError, match=SAID) as caught:
            read(folder)
        assert files(folder) == before
        if damage == "a folder":
            assert isinstance(caught.value, UsageError)
            assert path.name in str(caught.value)
