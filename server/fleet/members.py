"""The coordinator's folder: keys, certificates, invitations and members.

::

    coordinator.pem       Ed25519 key that signs invitations
    federation.json       the federation's id, the gateway's address, and when the last notice was issued
    tls/                  authority, and the certificate of gateway and SuperLink
    superexec.secret      what processes on this machine show to get tasks from the SuperLink
    coordinator.lock      held by whoever changes anything of this: several commands may run at once
    invitations/ID        open invitations
    used/ID               invitations that were answered, or ended by a move
    members/NAME.json     who was approved: their signed request and their node's id
    revoked/NAME-NODE.json  who was a member, or what its keys were before it had others
    queue/  ledgers.json  runs that wait, and the privacy ledgers of all (`server.fleet.run_queue`,
    `server.fleet.submitting`) calls/                the gateway's log (`server.fleet.call_log`)
"""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from federation.addresses import split
from federation.errors import IntaglioError, RefusedError, UsageError
from federation.identity import share_a_part
from federation.membership.joining import (
    ID_BYTES,
    Invitation,
    SignedJoinRequest,
    invitation_from_text,
    invitation_to_text,
    require_organisation_name,
)
from federation.membership.renewal import BEFORE_ALL, Notice, Rekeying, notice_to_text
from federation.secagg.session import roster_to_text
from server.certificates import renew_pki, replace_authority, write_pki
from server.expiry import ends_at
from server.files import locked, make_directory, sync_directory, write_durably

KEY: Final = "coordinator.pem"
FEDERATION: Final = "federation.json"
TLS: Final = "tls"
SECRET: Final = "superexec.secret"  # noqa: S105 - a file's name
LOCK: Final = "coordinator.lock"
_FOLDERS = ("invitations", "used", "members", "revoked")
_SECRET_BYTES = 32

Register = Callable[[str, str], int]
"""Registers (name, public key line) with the SuperLink, and returns the node's id."""
Unregister = Callable[[int], None]


@dataclass(frozen=True)
class Member:
    """An approved organisation.

    Attributes:
        signed: its join request.
        node: the id that Flower gave its node.
    """

    signed: SignedJoinRequest
    node: int

    @property
    def name(self) -> str:
        """What the coordinator calls it."""
        return self.signed.request.name

    def to_bytes(self) -> bytes:
        """JSON."""
        return json.dumps({"request": self.signed.to_bytes().decode(), "node": self.node}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Member:
        """Reads what `to_bytes` wrote.

        Raises:
            UsageError: other bytes.
        """
        try:
            value = json.loads(data)
            return cls(SignedJoinRequest.from_bytes(value["request"].encode()), int(value["node"]))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, IntaglioError) as error:
            raise UsageError("a file in members/ is not one that `federation approve` wrote") from error


class Coordinator:
    """The federation in a folder. Several processes may change it at once: they do so one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read()

    def _read(self) -> None:
        folder = self.folder
        try:
            facts = json.loads((folder / FEDERATION).read_bytes())
            self.federation, self.address = bytes.fromhex(facts["federation"]), str(facts["address"])
            self._noticed_at = int(facts["noticed"])
            key = load_pem_private_key((folder / KEY).read_bytes(), password=None)
            self.authority = (folder / TLS / "ca.pem").read_text()
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise UsageError(f"{folder} holds no federation; run `intaglio-server federation init` first") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"{folder / KEY} must be an Ed25519 key")
        self._key = key

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the folder meanwhile, and what another process changed before is known."""
        with locked(self.folder / LOCK):
            self._read()
            yield

    @classmethod
    def create(cls, folder: Path, *, address: str, now: dt.datetime) -> Coordinator:
        """Makes a federation whose gateway is reached at `address` (``host:port``). Nothing is overwritten.

        The folder counts as a federation once its last file is there: after a crash, empty it and begin again.
        """
        host, _ = split(address)
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty; name a new folder")
        make_directory(folder, mode=0o700)
        for name in _FOLDERS:
            make_directory(folder / name, mode=0o700)
        hosts = list(dict.fromkeys([host, "localhost", "127.0.0.1"]))
        write_pki(folder / TLS, hosts=hosts, clients=[], now=now)
        key = Ed25519PrivateKey.generate()
        write_durably(folder / KEY, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        write_durably(folder / SECRET, secrets.token_bytes(_SECRET_BYTES))
        write_durably(folder / FEDERATION, _facts(secrets.token_bytes(ID_BYTES), address, BEFORE_ALL))
        return cls(folder)

    def invite(self, name: str, *, now: int, days: int = 7) -> tuple[Invitation, str]:
        """A new invitation, and the line to send."""
        require_organisation_name(name)
        with self._alone():
            if self._member_path(name).exists():
                raise UsageError(f"{name} is a member; revoke it first, or choose another name")
            invitation = Invitation(
                self.federation,
                secrets.token_bytes(ID_BYTES),
                name,
                self.address,
                self.authority,
                self._key.public_key().public_bytes_raw(),
                self._noticed_at,
                now + days * 24 * 3600,
            )
            text = invitation_to_text(invitation, self._key)
            write_durably(self.folder / "invitations" / invitation.invitation.hex(), text.encode())
            return invitation, text

    def check(self, data: bytes, *, now: int) -> SignedJoinRequest:
        """Checks a join request against the invitation that it answers.

        Raises:
            MalformedMessageError, ProofError, PeerError: the request is wrong.
            RefusedError: there is no such invitation, or it was used.
            UsageError: the invitation has expired.
        """
        signed = SignedJoinRequest.from_bytes(data)
        path = self.folder / "invitations" / signed.request.invitation.hex()
        if not path.is_file():
            raise RefusedError(f"there is no open invitation for this request of {signed.request.name}; invite again")
        invitation = invitation_from_text(path.read_text())
        signed.request.require_answers(invitation)
        invitation.require_open(now)
        if any(
            share_a_part(signed.request.organisation_key, member.signed.request.organisation_key)
            or signed.request.node_key == member.signed.request.node_key
            for member in self.members()
        ):
            raise RefusedError("a member has one of these keys already")
        return signed

    def approve(self, data: bytes, register: Register, *, now: int) -> Member:
        """Makes an organisation a member: after somebody has compared its fingerprint.

        The invitation is used up first. A crash after that leaves no member, or a node that the SuperLink knows and
        this folder does not: invite again; the stray node has a key that nobody else has.
        """
        with self._alone():
            signed = self.check(data, now=now)
            identifier, name = signed.request.invitation.hex(), signed.request.name
            if self._member_path(name).exists():
                raise UsageError(f"{name} is a member; revoke it first")
            (self.folder / "invitations" / identifier).rename(self.folder / "used" / identifier)
            sync_directory(self.folder / "used")
            sync_directory(self.folder / "invitations")
            member = Member(signed, register(name, signed.request.node_key))
            write_durably(self._member_path(name), member.to_bytes())
            return member

    def revoke(self, name: str, unregister: Unregister) -> Member:
        """Ends a membership: the SuperLink forgets the node first, then the roster does.

        Raises:
            UsageError: there is no such member.
        """
        require_organisation_name(name)
        path = self._member_path(name)
        with self._alone():
            if not path.is_file():
                raise UsageError(f"{name} is not a member")
            member = Member.from_bytes(path.read_bytes())
            unregister(member.node)
            path.rename(self.folder / "revoked" / f"{name}-{member.node}.json")
            sync_directory(self.folder / "revoked")
            sync_directory(self.folder / "members")
            return member

    def rekey(self, data: bytes, register: Register, unregister: Unregister) -> Member:
        """Gives a member the new keys that it asks for with its old one.

        A crash leaves the old member, and perhaps a node of the new key, which doing it again finds; or the new member
        and the old node, which nobody asks for anything.

        Raises:
            MalformedMessageError, ProofError: the request is wrong.
            RefusedError: no member has the old keys, or one has the new ones.
        """
        rekeying = Rekeying.from_bytes(data)
        new = rekeying.signed.request
        with self._alone():
            members = self.members()
            old = next((member for member in members if member.signed.request.organisation_key == rekeying.old), None)
            if old is None or old.name != new.name:
                raise RefusedError(f"no member {new.name} has the key that asks for others")
            if any(
                share_a_part(new.organisation_key, member.signed.request.organisation_key)
                or new.node_key == member.signed.request.node_key
                for member in members
            ):
                raise RefusedError("a member has one of these keys already")
            member = Member(rekeying.signed, register(new.name, new.node_key))
            write_durably(self.folder / "revoked" / f"{old.name}-{old.node}.json", old.to_bytes())
            write_durably(self._member_path(old.name), member.to_bytes())
            unregister(old.node)
            return member

    def renew(self, *, now: dt.datetime) -> dt.datetime:
        """Gives the gateway a new certificate of the same authority, and returns when it ends. Nobody need know.

        Raises:
            UsageError: the authority's key is not there, or it has ended.
        """
        with self._alone():
            renew_pki(self.folder / TLS, now=now)
            return ends_at(self.folder / TLS / "server.pem")

    def renew_authority(self, *, now: dt.datetime) -> str:
        """Makes another authority and a certificate of it, and returns the notice that every organisation needs.

        Until it has taken the notice, an organisation's node does not reach the gateway. A crash leaves files that do
        not fit together: do it again.
        """
        with self._alone():
            replace_authority(self.folder / TLS, now=now)
            renew_pki(self.folder / TLS, now=now)
            self._read()
            self._end_invitations()
            return self._notice(now=int(now.timestamp()))

    def move(self, address: str, *, now: dt.datetime) -> str:
        """Gives the gateway another address, and returns the notice that every organisation needs.

        Its certificate names both addresses until the next move. A crash leaves the old address with that certificate,
        or the new one.

        Raises:
            UsageError: it is no address, or the certificate cannot be renewed.
        """
        with self._alone():
            hosts = [split(new)[0] for new in (address, self.address)]
            renew_pki(self.folder / TLS, now=now, hosts=list(dict.fromkeys([*hosts, "localhost", "127.0.0.1"])))
            write_durably(self.folder / FEDERATION, _facts(self.federation, address, self._noticed_at))
            self.address = address
            self._end_invitations()
            return self._notice(now=int(now.timestamp()))

    def notice(self, *, now: int) -> str:
        """The line that tells an organisation where the gateway is and who signs its certificate.

        It is newer than any before, whatever the clock says: two within a second, or one after a clock was set back,
        would never be taken. That is on disk before anybody can have the line.
        """
        with self._alone():
            return self._notice(now=now)

    def _notice(self, *, now: int) -> str:
        issued_at = max(now, self._noticed_at + 1)
        write_durably(self.folder / FEDERATION, _facts(self.federation, self.address, issued_at))
        self._noticed_at = issued_at
        return notice_to_text(Notice(self.federation, self.address, self.authority, issued_at), self._key)

    def _end_invitations(self) -> None:
        """Open ones name what is no longer so."""
        for path in (self.folder / "invitations").iterdir():
            path.rename(self.folder / "used" / path.name)
        sync_directory(self.folder / "used")
        sync_directory(self.folder / "invitations")

    def members(self) -> tuple[Member, ...]:
        """All members by name."""
        return tuple(Member.from_bytes(path.read_bytes()) for path in sorted((self.folder / "members").glob("*.json")))

    def roster(self, names: Sequence[str] = ()) -> str:
        """The members' keys and names, in the order of keys, as every member and the coordinator's runs need them.

        Args:
            names: of the members that take part; none means all.

        Raises:
            UsageError: one is no member.
        """
        if strangers := sorted(set(names) - {member.name for member in self.members()}):
            raise UsageError(f"{', '.join(strangers)} is not a member")
        members = sorted(
            (member.signed.request.organisation_key, member.name)
            for member in self.members()
            if not names or member.name in names
        )
        return roster_to_text((key for key, _ in members), (name for _, name in members))

    def node_names(self) -> str:
        """Whose node is which, as a run needs it: ``id=name,id=name``."""
        return ",".join(f"{member.node}={member.name}" for member in self.members())

    def _member_path(self, name: str) -> Path:
        return self.folder / "members" / f"{name}.json"


def _facts(federation: bytes, address: str, noticed_at: int) -> bytes:
    return json.dumps({"federation": federation.hex(), "address": address, "noticed": noticed_at}).encode()
