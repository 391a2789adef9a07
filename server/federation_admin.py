"""The coordinator's folder: keys, certificates, invitations and members.

::

    coordinator.pem       Ed25519 key that signs invitations
    federation.json       the federation's id and the gateway's address
    tls/                  authority, and the certificate of gateway and SuperLink
    superexec.secret      what processes on this machine show to get tasks from the SuperLink
    invitations/ID        open invitations
    used/ID               invitations that were answered
    members/NAME.json     who was approved: their signed request and their node's id
    revoked/NAME-NODE.json  who was a member
"""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from federation.errors import IntaglioError, RefusedError, UsageError
from federation.membership import (
    ID_BYTES,
    Invitation,
    SignedJoinRequest,
    invitation_from_text,
    invitation_to_text,
    require_address,
    require_organisation_name,
)
from federation.secagg.session import roster_to_text
from server.certificates import write_pki
from server.files import sync_directory, write_durably

KEY: Final = "coordinator.pem"
FEDERATION: Final = "federation.json"
TLS: Final = "tls"
SECRET: Final = "superexec.secret"  # noqa: S105 - a file's name
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
    """The federation in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            facts = json.loads((folder / FEDERATION).read_bytes())
            self.federation, self.address = bytes.fromhex(facts["federation"]), str(facts["address"])
            key = load_pem_private_key((folder / KEY).read_bytes(), password=None)
            self.authority = (folder / TLS / "ca.pem").read_text()
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise UsageError(f"{folder} holds no federation; run `intaglio-server federation init` first") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"{folder / KEY} must be an Ed25519 key")
        self._key = key

    @classmethod
    def create(cls, folder: Path, *, address: str, now: dt.datetime) -> Coordinator:
        """Makes a federation whose gateway is reached at `address` (``host:port``). Nothing is overwritten.

        The folder counts as a federation once its last file is there: after a crash, empty it and begin again.
        """
        require_address(address)
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty; name a new folder")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in _FOLDERS:
            (folder / name).mkdir(mode=0o700)
        hosts = list(dict.fromkeys([address.rpartition(":")[0], "localhost", "127.0.0.1"]))
        write_pki(folder / TLS, hosts=hosts, clients=[], now=now)
        key = Ed25519PrivateKey.generate()
        write_durably(folder / KEY, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        write_durably(folder / SECRET, secrets.token_bytes(_SECRET_BYTES))
        facts = {"federation": secrets.token_bytes(ID_BYTES).hex(), "address": address}
        write_durably(folder / FEDERATION, json.dumps(facts).encode())
        return cls(folder)

    def invite(self, name: str, *, now: int, days: int = 7) -> tuple[Invitation, str]:
        """A new invitation, and the line to send."""
        require_organisation_name(name)
        if self._member_path(name).exists():
            raise UsageError(f"{name} is a member; revoke it first, or choose another name")
        invitation = Invitation(
            self.federation,
            secrets.token_bytes(ID_BYTES),
            name,
            self.address,
            self.authority,
            self._key.public_key().public_bytes_raw(),
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
            signed.request.organisation_key == member.signed.request.organisation_key
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
        if not path.is_file():
            raise UsageError(f"{name} is not a member")
        member = Member.from_bytes(path.read_bytes())
        unregister(member.node)
        path.rename(self.folder / "revoked" / f"{name}-{member.node}.json")
        sync_directory(self.folder / "revoked")
        sync_directory(self.folder / "members")
        return member

    def members(self) -> tuple[Member, ...]:
        """All members by name."""
        return tuple(Member.from_bytes(path.read_bytes()) for path in sorted((self.folder / "members").glob("*.json")))

    def roster(self) -> str:
        """The members' keys and names, in the order of keys, as every member and the coordinator's runs need them."""
        members = sorted((member.signed.request.organisation_key, member.name) for member in self.members())
        return roster_to_text((key for key, _ in members), (name for _, name in members))

    def node_names(self) -> str:
        """Whose node is which, as a run needs it: ``id=name,id=name``."""
        return ",".join(f"{member.node}={member.name}" for member in self.members())

    def _member_path(self, name: str) -> Path:
        return self.folder / "members" / f"{name}.json"
