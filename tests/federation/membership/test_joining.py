"""Joining: each step checks the one before, and the organisation's own word wins."""

from __future__ import annotations

import datetime as dt
import re
import time
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.cli import app as client_app
from client.node.joining import join, policy_of, trust_roster
from client.node.renewing import rekey
from client.preparing.people import refresh_active, withdraw
from federation.errors import IntaglioError, MalformedMessageError, PeerError, ProofError, RefusedError, UsageError
from federation.identity import IdentityKey
from federation.membership.joining import (
    JoinRequest,
    LocalPolicy,
    SignedJoinRequest,
    fingerprint,
    invitation_from_text,
    node_key_line,
)
from federation.membership.renewal import Notice
from federation.recognition.embeddings import EmbeddingSet
from federation.secagg.session import roster_from_text
from server.cli import app as server_app
from server.fleet.members import Coordinator
from tests.people import synthetic_people

NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
SECONDS = int(NOW.timestamp())
POLICY = """
max-epsilon = 4.0
budget-epsilon = 8.0
delta = 1e-5
min-colluders = 1
recipes = ["moments", "threshold"]
app-hashes = ["{digest}"]
hours = "{hours}"
"""


@pytest.fixture
def coordinator(tmp_path):
    return Coordinator.create(tmp_path / "coordinator", address="fed.example.org:8443", now=NOW)


def registered(nodes):
    def register(name, key):
        nodes[name] = key
        return 100 + len(nodes)

    return register


@pytest.fixture
def joined(coordinator, tmp_path):
    _, text = coordinator.invite("north", now=SECONDS)
    return join(text, tmp_path / "north", now=SECONDS)


def a_policy(*, digest="ab" * 32, hours="08:00-18:00"):
    return LocalPolicy.from_toml(POLICY.format(digest=digest, hours=hours))


# -------------------------------------------------------------------------------------------------- the whole way
def test_an_organisation_joins_is_approved_and_is_revoked(coordinator, tmp_path):
    nodes = {}
    for name in ("north", "south"):
        invitation, text = coordinator.invite(name, now=SECONDS)
        signed = join(text, tmp_path / name, now=SECONDS)
        assert invitation_from_text(text).coordinator_fingerprint == invitation.coordinator_fingerprint
        coordinator.approve((tmp_path / name / "request.json").read_bytes(), registered(nodes), now=SECONDS)
        assert nodes[name] == signed.request.node_key
    assert [member.name for member in coordinator.members()] == ["north", "south"]
    assert len(trust_roster(coordinator.roster(), tmp_path / "north")) == 2
    gone = []
    coordinator.revoke("north", gone.append)
    assert gone == [101]
    assert len(roster_from_text(coordinator.roster())) == 1
    with pytest.raises(UsageError, match="not a member"):
        coordinator.revoke("north", gone.append)


def test_flower_can_read_the_node_key(joined, tmp_path):
    key = load_ssh_private_key((tmp_path / "north" / "node").read_bytes(), password=None)
    assert node_key_line(key) == joined.request.node_key


def test_secrets_are_for_their_owner_only(coordinator, joined, tmp_path):
    for path in ("north/node", "north/organisation.pem", "coordinator/coordinator.pem", "coordinator/superexec.secret"):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o600


def test_an_invitation_is_used_once(coordinator, joined):
    nodes = {}
    coordinator.approve(joined.to_bytes(), registered(nodes), now=SECONDS)
    with pytest.raises(RefusedError, match="no open invitation"):
        coordinator.approve(joined.to_bytes(), registered(nodes), now=SECONDS)
    assert len(nodes) == 1


def test_two_answers_to_one_invitation_make_one_member(coordinator, tmp_path):
    _, text = coordinator.invite("north", now=SECONDS)
    first, second = (join(text, tmp_path / folder, now=SECONDS) for folder in ("one", "two"))
    coordinator.approve(first.to_bytes(), registered({}), now=SECONDS)
    with pytest.raises(RefusedError, match="there is no open invitation for this request"):
        coordinator.approve(second.to_bytes(), registered({}), now=SECONDS)


def test_an_invitation_ends(coordinator, tmp_path):
    invitation, text = coordinator.invite("north", now=SECONDS, days=1)
    signed = join(text, tmp_path / "north", now=invitation.expires_at - 1)
    with pytest.raises(UsageError, match="expired"):
        coordinator.approve(signed.to_bytes(), registered({}), now=invitation.expires_at)
    with pytest.raises(UsageError, match="expired"):
        join(text, tmp_path / "late", now=invitation.expires_at)


def test_a_failed_registration_uses_the_invitation_up_and_makes_no_member(coordinator, joined):
    def fail(name, key):
        raise UsageError("the SuperLink is down")

    with pytest.raises(UsageError, match="down"):
        coordinator.approve(joined.to_bytes(), fail, now=SECONDS)
    assert not coordinator.members()
    with pytest.raises(RefusedError, match="there is no open invitation for this request"):
        coordinator.check(joined.to_bytes(), now=SECONDS)


def test_another_coordinator_does_not_take_the_request(joined, tmp_path):
    other = Coordinator.create(tmp_path / "other", address="fed.example.org:8443", now=NOW)
    with pytest.raises(RefusedError, match="there is no open invitation for this request"):
        other.check(joined.to_bytes(), now=SECONDS)


def test_a_request_for_another_name_does_not_answer_the_invitation(coordinator, tmp_path):
    invitation, _ = coordinator.invite("north", now=SECONDS)
    node, key = ec.generate_private_key(ec.SECP384R1()), IdentityKey.generate()
    request = JoinRequest(invitation.invitation, invitation.digest, "south", node_key_line(node), key.public)
    with pytest.raises(PeerError, match="does not answer"):
        coordinator.check(SignedJoinRequest.sign(request, key, node).to_bytes(), now=SECONDS)


@pytest.mark.parametrize("of", ["north", "south"])
@pytest.mark.parametrize("taken", ["organisation", "ed25519", "ml-dsa", "node"])
def test_nobody_joins_with_a_key_of_any_member(coordinator, tmp_path, of, taken):
    """Who has that member's secrets would be two members, and count twice where a majority counts."""
    for number, name in enumerate(("north", "south")):
        request = join(coordinator.invite(name, now=SECONDS)[1], tmp_path / name, now=SECONDS).to_bytes()
        coordinator.approve(request, lambda *_, number=number: number, now=SECONDS)
    invitation, _ = coordinator.invite("west", now=SECONDS)
    theirs = IdentityKey.from_pem((tmp_path / of / "organisation.pem").read_bytes()).secret_bytes()
    secret = bytearray(IdentityKey.generate().secret_bytes())
    part = {"organisation": slice(64), "ed25519": slice(32), "ml-dsa": slice(32, 64), "node": slice(0)}[taken]
    secret[part] = theirs[part]
    organisation, node = IdentityKey.from_secret_bytes(bytes(secret)), ec.generate_private_key(ec.SECP384R1())
    if taken == "node":
        node = load_ssh_private_key((tmp_path / of / "node").read_bytes(), password=None)
    request = JoinRequest(invitation.invitation, invitation.digest, "west", node_key_line(node), organisation.public)
    request = SignedJoinRequest.sign(request, organisation, node).to_bytes()
    before = {path: path.read_bytes() for path in coordinator.folder.rglob("*") if path.is_file()}
    with pytest.raises(RefusedError, match="a member has one of these keys already"):
        coordinator.approve(request, lambda *_: pytest.fail("it was registered"), now=SECONDS)
    assert {path: path.read_bytes() for path in coordinator.folder.rglob("*") if path.is_file()} == before


def test_a_request_answers_one_invitation_by_its_id_its_content_and_its_name(coordinator):
    invitation, _ = coordinator.invite("north", now=SECONDS)
    node = node_key_line(ec.generate_private_key(ec.SECP384R1()))
    request = JoinRequest(invitation.invitation, invitation.digest, "north", node, IdentityKey.generate().public)
    request.require_answers(invitation)
    for change in ({"invitation": bytes(16)}, {"invitation_digest": bytes(32)}, {"name": "south"}):
        other = replace(request, **change)
        with pytest.raises(PeerError, match=f"the request of {other.name} does not answer the invitation"):
            other.require_answers(invitation)
    with pytest.raises(PeerError, match="does not answer"):
        request.require_answers(replace(invitation, address="elsewhere.example:1"))
    known = Notice.of(replace(invitation, noticed_at=SECONDS - 9))
    assert known == Notice(invitation.federation, "fed.example.org:8443", invitation.authority, SECONDS - 9)
    invitation.require_open(invitation.expires_at - 1)
    with pytest.raises(UsageError, match="the invitation of north has expired"):
        invitation.require_open(invitation.expires_at)


def test_a_request_needs_both_private_keys(joined):
    node, key = ec.generate_private_key(ec.SECP384R1()), IdentityKey.generate()
    forged = SignedJoinRequest.sign(joined.request, key, node)
    true, false = joined.organisation_signature, forged.organisation_signature
    for organisation, said in (
        (false, "the identity of north did not sign this join request"),
        (false[:64] + true[64:], "identity of north .*Ed25519"),
        (true[:64] + false[64:], "identity of north .*ML-DSA"),
        (true[:64] + bytes(2420), "identity of north .*ML-DSA"),
        (true[:64], "identity of north .*another length"),
    ):
        with pytest.raises(ProofError, match=said):
            SignedJoinRequest.from_bytes(
                SignedJoinRequest(joined.request, organisation, joined.node_signature).to_bytes()
            )
    with pytest.raises(ProofError, match="the node key did not sign"):
        SignedJoinRequest.from_bytes(SignedJoinRequest(joined.request, true, forged.node_signature).to_bytes())


def test_whoever_swaps_keys_in_an_invitation_changes_the_fingerprint(coordinator, tmp_path):
    mallory = Coordinator.create(tmp_path / "mallory", address="fed.example.org:8443", now=NOW)
    real, _ = coordinator.invite("north", now=SECONDS)
    fake, _ = mallory.invite("north", now=SECONDS)
    assert real.coordinator_fingerprint != fake.coordinator_fingerprint


def test_joining_overwrites_nothing(coordinator, joined, tmp_path):
    before = (tmp_path / "north" / "node").read_bytes()
    _, text = coordinator.invite("north", now=SECONDS)
    with pytest.raises(UsageError, match="not overwritten"):
        join(text, tmp_path / "north", now=SECONDS)
    assert (tmp_path / "north" / "node").read_bytes() == before


# ------------------------------------------------------------------------------------------------------ foreign bytes
@given(position=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_flipped_bit_in_an_invitation_is_seen(position, bit, shared_invitation):
    data = bytearray(shared_invitation.encode())
    data[position % len(data)] ^= 1 << bit
    with pytest.raises(
        (MalformedMessageError, ProofError),
        match=r"not an invitation of this version|not that of the key over this statement|not in canonical form",
    ):
        invitation_from_text(data.decode("latin-1"))


@pytest.fixture(scope="module")
def shared_invitation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "coordinator"
    _, text = Coordinator.create(folder, address="127.0.0.1:8443", now=NOW).invite("north", now=SECONDS)
    return text


@given(st.one_of(st.binary(max_size=100), st.text(max_size=60).map(str.encode)))
def test_junk_is_no_request(junk):
    with pytest.raises(MalformedMessageError, match="the bytes are not a join request of this"):
        SignedJoinRequest.from_bytes(junk)


@given(st.text(max_size=60))
def test_junk_is_no_invitation(junk):
    with pytest.raises(MalformedMessageError, match="this is not an invitation of this version"):
        invitation_from_text(junk)


def test_a_request_is_given_back_byte_for_byte(joined):
    assert SignedJoinRequest.from_bytes(joined.to_bytes()).to_bytes() == joined.to_bytes()


@pytest.mark.parametrize("name", ["", "a" * 33, "../north", "North", "-north", "north-", "no rth", "n\n"])
def test_names_that_are_no_file_names_are_refused(name, coordinator):
    with pytest.raises(UsageError, match="an organisation's name is 1 to 32 of a-z, 0-9"):
        coordinator.invite(name, now=SECONDS)


@pytest.mark.parametrize("address", ["", "host", "host:0", "host:70000", "host:1/x", "https://host:1", "-host:1"])
def test_addresses_are_host_and_port(address, tmp_path):
    with pytest.raises(UsageError, match="is no address: write HOST:PORT"):
        Coordinator.create(tmp_path / "coordinator", address=address, now=NOW)


def test_fingerprints_keep_keys_apart():
    assert fingerprint(b"ab", b"c") != fingerprint(b"a", b"bc")
    assert len(fingerprint(b"a").split()) == 10


# ---------------------------------------------------------------------------------------------------- the local policy
def test_a_new_organisation_allows_no_application(joined, tmp_path):
    assert not policy_of(tmp_path / "north").app_hashes


def test_only_listed_applications_and_recipes_are_allowed():
    policy = a_policy()
    assert policy.allows_app("ab" * 32)
    assert not policy.allows_app("cd" * 32)
    assert policy.allows_message("train.moments")
    assert policy.allows_message("query.advertise")
    assert not policy.allows_message("train.scales")
    assert not policy.allows_message("train")
    assert not policy.allows_message("reconnect")


@pytest.mark.parametrize(
    ("hours", "minute", "is_open"),
    [
        ("08:00-18:00", 8 * 60, True),
        ("08:00-18:00", 8 * 60 - 1, False),
        ("08:00-18:00", 18 * 60, False),
        ("22:00-06:00", 23 * 60, True),
        ("22:00-06:00", 5 * 60, True),
        ("22:00-06:00", 6 * 60, False),
        ("00:00-00:00", 700, True),
    ],
)
def test_hours_are_in_utc_and_may_pass_midnight(hours, minute, is_open):
    assert a_policy(hours=hours).is_open(SECONDS - SECONDS % 86400 + minute * 60) is is_open


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("max-epsilon = 4.0", "max-epsilon = 0.0"), "max-epsilon is a number such as 8.0, above"),
        (("max-epsilon = 4.0", "max-epsilon = nan"), "max-epsilon is a number such as 8.0, above"),
        (("max-epsilon = 4.0", 'max-epsilon = "4"'), "max-epsilon is a number such as 8.0, above"),
        (("max-epsilon = 4.0", ""), "a policy has exactly the keys app-hashes,"),
        (("budget-epsilon = 8.0", ""), "a policy has exactly the keys app-hashes,"),
        (("budget-epsilon = 8.0", "budget-epsilon = 65.0"), "budget-epsilon is a number such as 16.0,"),
        (("budget-epsilon = 8.0", "budget-epsilon = 8"), "budget-epsilon is a number such as 16.0,"),
        (("min-colluders = 1", "min-colluders = -1"), "min-colluders is a whole number, 0 or more"),
        (("min-colluders = 1", "min-colluders = true"), "min-colluders is a whole number, 0 or more"),
        (('["moments", "threshold"]', "[]"), "recipes are some of moments, scales,"),
        (('["moments", "threshold"]', '["moments", "anything"]'), "recipes are some of moments, scales,"),
        (('["moments", "threshold"]', '"moments"'), "recipes is a list of text"),
        (("ab" * 32, "AB" * 32), "app-hashes are SHA-256 digests, 64"),
        (("08:00-18:00", "8-18"), "hours are UTC such as"),
        (("08:00-18:00", "24:00-06:00"), "hours are UTC such as"),
        (("hours", "opening"), "a policy has exactly the keys app-hashes,"),
    ],
)
def test_a_wrong_policy_is_refused(change, words):
    text = POLICY.format(digest="ab" * 32, hours="08:00-18:00").replace(*change)
    with pytest.raises(UsageError, match=re.escape(words)):
        LocalPolicy.from_toml(text)


A_POLICY = POLICY.format(digest="ab" * 32, hours="08:00-18:00")


@pytest.mark.parametrize("line", A_POLICY.strip().splitlines(), ids=lambda line: line.partition(" ")[0])
@pytest.mark.parametrize("value", ["true", "-1", '"text"', "[7]", '["text", 7]', "[[]]", "[{}]", "{}", "1979-05-27"])
def test_a_value_of_another_kind_is_refused_by_the_name_of_its_key(line, value):
    """Also inside of a list, where what is no text may be nothing that a set can hold."""
    key, _, good = line.partition(" = ")
    kind = "is a list of text" if good.startswith("[") else "is a|are"
    with pytest.raises(UsageError, match=rf"^{key} ({kind})\b"):
        LocalPolicy.from_toml(A_POLICY.replace(line, f"{key} = {value}"))


@given(st.text(max_size=80))
def test_junk_is_no_policy(junk):
    with pytest.raises(IntaglioError, match=r"the policy is no TOML|a policy has exactly the keys"):
        LocalPolicy.from_toml(junk)


# ------------------------------------------------------------------------------------------------ roster and withdrawal
def test_a_roster_without_oneself_is_refused(joined, tmp_path):
    with pytest.raises(RefusedError, match="this organisation's key is not in the roster;"):
        trust_roster("ab" * 1344 + "\n", tmp_path / "north")


def test_a_changed_roster_is_taken_only_when_asked_for(joined, tmp_path):
    own = joined.request.organisation_key.hex() + "\n"
    for _ in range(2):  # the same again is no change
        trust_roster(own, tmp_path / "north")
    with pytest.raises(UsageError, match="--replace"):
        trust_roster(own + "ab" * 1344 + "\n", tmp_path / "north")
    trust_roster(own + "ab" * 1344 + "\n", tmp_path / "north", replace=True)


def test_a_roster_of_the_version_before_is_refused_and_says_what_to_do(joined, tmp_path):
    with pytest.raises(UsageError, match="with an Ed25519 key alone join anew"):
        trust_roster("ab" * 32 + "\n", tmp_path / "north")
    assert not (tmp_path / "north" / "roster").exists()


def test_a_person_who_withdraws_is_in_no_later_round(tmp_path):
    (tmp_path / "embeddings.npz").write_bytes(synthetic_people(["anna", "ben", "carla"]).to_bytes())
    assert set(refresh_active(tmp_path).people) == {"anna", "ben", "carla"}
    assert withdraw("ben", tmp_path) == 8
    assert set(EmbeddingSet.from_bytes((tmp_path / "active.npz").read_bytes()).people) == {"anna", "carla"}
    # New images of the same person do not bring them back.
    (tmp_path / "embeddings.npz").write_bytes(synthetic_people(["anna", "ben"], seed=1).to_bytes())
    assert set(refresh_active(tmp_path).people) == {"anna"}
    assert "ben" not in (tmp_path / "withdrawn").read_text()


def test_when_everybody_has_withdrawn_there_is_nothing_to_take_part_with(tmp_path):
    (tmp_path / "embeddings.npz").write_bytes(synthetic_people(["anna"]).to_bytes())
    with pytest.raises(RefusedError, match="nobody in this organisation takes part any"):
        withdraw("anna", tmp_path)
    assert not (tmp_path / "active.npz").exists()


# ------------------------------------------------------------------------------------------------------- the commands
def test_the_commands_compare_fingerprints_before_anything_is_made(coordinator, tmp_path):
    runner = CliRunner()
    invited = runner.invoke(server_app, ["federation", "invite", "north", str(coordinator.folder)])
    line, read_out = invited.stdout.strip(), invited.stderr.strip().rpartition(": ")[2]
    (tmp_path / "invitation").write_text(line)
    joining = ["join", str(tmp_path / "invitation"), str(tmp_path / "north")]
    wrong = runner.invoke(client_app, [*joining, "--fingerprint", "0000 " * 10])
    assert wrong.exit_code == 3
    assert "somebody changed it" in wrong.stderr
    assert not (tmp_path / "north").exists()
    silent = runner.invoke(client_app, joining)
    assert silent.exit_code == 2
    assert "--fingerprint" in silent.stderr
    done = runner.invoke(client_app, [*joining, "--fingerprint", read_out])
    assert done.exit_code == 0, done.stderr

    approving = ["federation", "approve", str(tmp_path / "north" / "request.json"), str(coordinator.folder)]
    refused = runner.invoke(server_app, [*approving, "--fingerprint", "0000 " * 10])
    assert refused.exit_code == 2
    assert not coordinator.members()
    own = runner.invoke(client_app, ["node", "fingerprint", str(tmp_path / "north")])
    assert own.stdout.strip() == done.stdout.strip().rpartition(": ")[2]


HALF_HEARD = {
    "nothing": lambda _: "",
    "the first group": lambda groups: groups[0],
    "all but the last": lambda groups: " ".join(groups[:-1]),
    "all but the first": lambda groups: " ".join(groups[1:]),
    "all and more": lambda groups: " ".join([*groups, groups[0]]),
    "in another order": lambda groups: " ".join(groups[::-1]),
    "its last letter another": lambda groups: " ".join(groups)[:-1] + ("0" if groups[-1][-1] != "0" else "1"),
    "its first letter another": lambda groups: ("0" if groups[0][0] != "0" else "1") + " ".join(groups)[1:],
}
"""What somebody may type who was read a fingerprint, of its ten groups: none of it is the same."""


@pytest.mark.parametrize("heard", HALF_HEARD.values(), ids=HALF_HEARD)
def test_a_fingerprint_is_the_same_as_a_whole_or_not_at_all(coordinator, tmp_path, heard):
    (_, line), folder = coordinator.invite("north", now=int(time.time())), tmp_path / "north"
    (tmp_path / "invitation").write_text(line)
    join_it = ["join", str(tmp_path / "invitation"), str(folder), "--fingerprint"]
    approve = ["federation", "approve", str(folder / "request.json"), str(coordinator.folder), "--fingerprint"]
    rekey_it = ["federation", "rekey", str(folder / "rekey.json"), str(coordinator.folder), "--fingerprint"]
    runner, of_coordinator = CliRunner(), invitation_from_text(line).coordinator_fingerprint

    refused = runner.invoke(client_app, [*join_it, heard(of_coordinator.split())])
    assert (refused.exit_code, "not the fingerprint" in refused.stderr, folder.exists()) == (3, True, False)

    signed = join(line, folder, now=int(time.time()))
    refused = runner.invoke(server_app, [*approve, heard(signed.request.fingerprint.split())])
    assert (refused.exit_code, "not the fingerprint" in refused.stderr, coordinator.members()) == (2, True, ())

    coordinator.approve(signed.to_bytes(), lambda *_: 100, now=int(time.time()))
    trust_roster(coordinator.roster(), folder, replace=False)
    members, asked = coordinator.members(), rekey(folder).signed.request
    refused = runner.invoke(server_app, [*rekey_it, heard(asked.fingerprint.split())])
    assert (refused.exit_code, "not the fingerprint" in refused.stderr, coordinator.members()) == (2, True, members)


@pytest.mark.parametrize(
    "typed", [str.upper, lambda read_out: read_out.replace(" ", "")], ids=["capitals", "no spaces"]
)
def test_a_fingerprint_is_the_same_however_it_is_typed(coordinator, tmp_path, typed):
    """Who left out the spaces was told that somebody had changed the invitation."""
    (_, line), folder = coordinator.invite("south", now=int(time.time())), tmp_path / "south"
    (tmp_path / "invitation").write_text(line)
    read_out = invitation_from_text(line).coordinator_fingerprint
    words = ["join", str(tmp_path / "invitation"), str(folder), "--fingerprint", typed(read_out)]
    done = CliRunner().invoke(client_app, words)
    assert (done.exit_code, (folder / "request.json").exists()) == (0, True), done.output


def test_a_withdrawal_by_command_says_how_much_it_took_out(tmp_path):
    (tmp_path / "embeddings.npz").write_bytes(synthetic_people(["anna", "ben"]).to_bytes())
    done = CliRunner().invoke(client_app, ["node", "withdraw", "ben", str(tmp_path)])
    assert done.stdout == "8 embeddings take no part any more\n"


def test_a_node_that_is_not_ready_says_why(joined, tmp_path):
    refused = CliRunner().invoke(client_app, ["node", "start", str(tmp_path / "north")])
    assert refused.exit_code == 3
    assert "allows no application" in refused.stderr
