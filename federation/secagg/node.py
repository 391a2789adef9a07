"""One organisation's side of secure aggregation, without any input or output."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from federation.errors import PeerError, ProofError, RefusedError, UsageError
from federation.secagg import masking
from federation.secagg.masking import NONCE_BYTES, SEED_BYTES, Edge, Ring
from federation.secagg.messages import (
    Advertisement,
    EncryptedShares,
    KeyList,
    MaskedInput,
    OpenedShare,
    OpenedShares,
    PublicKeys,
    ShareKind,
    ShareList,
    Shares,
    SignatureList,
    Survivors,
    SurvivorSignature,
    survivor_statement,
)
from federation.secagg.session import Random, Session, Sign, Verify, digest
from federation.secrecy import Secret


class Stage(IntEnum):
    """What a node does next, in order."""

    ADVERTISE = 0
    SHARE_KEYS = 1
    MASK_INPUT = 2
    SIGN_SURVIVORS = 3
    OPEN_SHARES = 4
    ENDED = 5


@dataclass(frozen=True, eq=False, repr=False)
class NodeSecrets(Secret):
    """A node's three secrets in one session. Never used in another one.

    Attributes:
        self_seed: 16 bytes, of the mask that a quorum opens when this node survives.
        mask_seed: 16 bytes, of the key for pairwise masks, which a quorum opens when this node leaves.
        share_seed: 16 bytes, of the key that others encrypt shares for; never opened.
    """

    self_seed: bytes
    mask_seed: bytes
    share_seed: bytes

    def __post_init__(self) -> None:
        if any(len(seed) != SEED_BYTES for seed in (self.self_seed, self.mask_seed, self.share_seed)):
            raise UsageError(f"every secret of a node has {SEED_BYTES} bytes")

    @classmethod
    def draw(cls, random: Random = os.urandom) -> Self:
        """Fresh secrets."""
        return cls(random(SEED_BYTES), random(SEED_BYTES), random(SEED_BYTES))

    def secret_bytes(self) -> bytes:
        """48 bytes, for a node's own memory between two messages."""
        return self.self_seed + self.mask_seed + self.share_seed

    @classmethod
    def from_secret_bytes(cls, data: bytes) -> Self:
        """Reads what `secret_bytes` gave."""
        return cls(data[:SEED_BYTES], data[SEED_BYTES : 2 * SEED_BYTES], data[2 * SEED_BYTES :])


class Node:
    """The five answers of one member, each given once and in order.

    Whatever goes wrong ends the node for good: it refuses everything afterwards, so that no second question can get
    what the first one did not. `resume` rebuilds a node from its secrets and the messages it got.

    Args:
        session: the sum to take part in.
        member: this node's number in the roster.
        secrets: fresh ones, unless resuming.
        sign: signs with this member's long-lived key.
        verify: checks signatures by the roster's keys.
        random: for nonces.
    """

    def __init__(
        self,
        session: Session,
        member: int,
        secrets: NodeSecrets,
        *,
        sign: Sign,
        verify: Verify,
        random: Random = os.urandom,
    ) -> None:
        if member not in session.members:
            raise UsageError(f"the roster has no member {member}")
        self.session, self.member, self.stage = session, member, Stage.ADVERTISE
        self._secrets, self._sign, self._verify, self._random = secrets, sign, verify, random
        self._mask_key = masking.private_key(secrets.mask_seed, session.digest, b"mask key")
        self._share_key = masking.private_key(secrets.share_seed, session.digest, b"share key")
        self._context = b""
        self._keys: dict[int, PublicKeys] = {}
        self._held: dict[int, tuple[bytes, bytes]] = {}
        self._survivors: tuple[int, ...] = ()

    @classmethod
    def resume(
        cls,
        session: Session,
        member: int,
        secrets: NodeSecrets,
        received: Sequence[bytes],
        *,
        sign: Sign,
        verify: Verify,
        random: Random = os.urandom,
    ) -> Self:
        """The node that has answered the messages in `received`, and checks them again.

        Args:
            session: see `Node`.
            member: see `Node`.
            secrets: the ones that it advertised.
            received: the key list, then the share list, then the survivors; as far as it got.
            sign: see `Node`.
            verify: see `Node`.
            random: see `Node`.
        """
        node = cls(session, member, secrets, sign=sign, verify=verify, random=random)
        accept = (node._accept_keys, node._accept_shares, node._accept_survivors)
        node.stage = Stage.SHARE_KEYS
        for check, message in zip(accept, received, strict=False):
            with node._answering(node.stage):
                check(message)
        return node

    def advertise(self) -> bytes:
        """Fresh public keys, signed."""
        with self._answering(Stage.ADVERTISE):
            context = self.session.digest
            mask_key, share_key = _public(self._mask_key), _public(self._share_key)
            commitment = masking.commit(context, b"self seed", self.member, self.member, self._secrets.self_seed)
            signature = self._sign(PublicKeys.signed(context, self.member, mask_key, share_key, commitment))
            keys = PublicKeys(self.member, mask_key, share_key, commitment, signature)
            return Advertisement(context, keys).to_bytes()

    def share_keys(self, message: bytes) -> bytes:
        """Takes everybody's keys; gives shares of both seeds, encrypted for each of them.

        Raises:
            PeerError: the message is malformed, of another session, or has too few members.
            ProofError: a member's signature does not verify.
            RefusedError: it is not the time for this.
        """
        with self._answering(Stage.SHARE_KEYS):
            self._accept_keys(message)
            members = tuple(self._keys)
            own = masking.split(self._secrets.self_seed, self.session.quorum, members)
            mask = masking.split(self._secrets.mask_seed, self.session.quorum, members)
            entries = tuple(self._encrypted(member, own[member], mask[member]) for member in members)
            return Shares(self._context, self.member, entries).to_bytes()

    def mask_input(self, message: bytes, values: NDArray[np.int64]) -> bytes:
        """Takes the shares meant for this node; gives its vector under all masks.

        Args:
            message: the share list.
            values: (session.size,) int64, noise included. Sensitive.

        Raises:
            UsageError: the vector has another shape.
            PeerError: see `share_keys`; or a member's shares do not fit what it committed to.
            ProofError: a member's shares do not verify.
            RefusedError: it is not the time for this.
        """
        with self._answering(Stage.MASK_INPUT):
            if values.shape != (self.session.size,) or values.dtype != np.int64:
                raise UsageError(f"this session sums vectors of {self.session.size} int64 numbers")
            self._accept_shares(message)
            return MaskedInput(self._context, self.member, self._masked(values.astype(np.uint64))).to_bytes()

    def sign_survivors(self, message: bytes) -> bytes:
        """Takes the survivor set; gives a signature on it. A node signs one set in its life.

        Raises:
            PeerError: see `share_keys`.
            RefusedError: too few survived for the noise to suffice, or it is not the time for this.
        """
        with self._answering(Stage.SIGN_SURVIVORS):
            self._accept_survivors(message)
            return SurvivorSignature(self._context, self.member, self._sign(self._statement)).to_bytes()

    def open_shares(self, message: bytes) -> bytes:
        """Takes the survivors' signatures; gives one share about every dealer.

        Of a survivor it is the self-mask seed's, of everybody else the mask seed's, and never both.

        Raises:
            PeerError: see `share_keys`.
            ProofError: a signature is not on the set that this node signed.
            RefusedError: too few signed, or it is not the time for this.
        """
        with self._answering(Stage.OPEN_SHARES):
            listed = SignatureList.from_bytes(message)
            self._require_context(listed.context, self._context)
            self._require_members(listed.members, self._survivors, self.session.quorum)
            for entry in listed.entries:
                self._verify_member(entry.member, self._statement, entry.signature)
            return OpenedShares(
                self._context,
                self.member,
                tuple(
                    OpenedShare(dealer, ShareKind.SELF_SEED, own)
                    if dealer in self._survivors
                    else OpenedShare(dealer, ShareKind.MASK_SEED, mask)
                    for dealer, (own, mask) in self._held.items()
                ),
            ).to_bytes()

    # ----------------------------------------------------------------------------- what a proof of range is made from
    @property
    def commitments(self) -> dict[int, bytes]:
        """What each survivor committed its self-mask seed with, once survivors were signed."""
        return {member: self._keys[member].self_commitment for member in self._survivors}

    @property
    def context(self) -> bytes:
        """What everything in this session is bound to, once keys were listed."""
        return self._context

    @property
    def edges(self) -> dict[Edge, bytes]:
        """The key of each mask in this node's input but its own, by who adds it and who subtracts it. Sensitive."""
        found = {}
        for dealer in self._held:
            if dealer != self.member:
                theirs = self._keys[dealer].mask_key
                key = masking.pairwise_key(self._mask_key, theirs, self._context, self.member, dealer)
                low, high = sorted((self.member, dealer))
                found[low, high] = key
        return found

    # ------------------------------------------------------------------------------------------ what is accepted
    def _accept_keys(self, message: bytes) -> None:
        listed = KeyList.from_bytes(message)
        self._require_context(listed.context, self.session.digest)
        self._require_members(listed.members, self.session.members, self.session.fewest)
        self._require_me(listed.members)
        for keys in listed.entries:
            signed = PublicKeys.signed(
                self.session.digest, keys.member, keys.mask_key, keys.share_key, keys.self_commitment
            )
            self._verify_member(keys.member, signed, keys.signature)
        self._keys = {keys.member: keys for keys in listed.entries}
        if self._keys[self.member].mask_key != _public(self._mask_key):
            raise PeerError("the key list holds keys that this node advertised in another session")
        # From here on everything is bound to these very keys, fresh ones of every member among them.
        self._context = digest(b"intaglio secure aggregation v1 key list", message)

    def _accept_shares(self, message: bytes) -> None:
        listed = ShareList.from_bytes(message)
        self._require_context(listed.context, self._context)
        self._require_members(listed.members, tuple(self._keys), self.session.fewest)
        self._require_me(listed.members)
        self._held = {entry.member: self._decrypted(entry) for entry in listed.entries}

    def _accept_survivors(self, message: bytes) -> None:
        listed = Survivors.from_bytes(message)
        self._require_context(listed.context, self._context)
        self._require_members(listed.members, tuple(self._held), self.session.fewest)
        self._require_me(listed.members)
        self._survivors = listed.members

    @contextmanager
    def _answering(self, stage: Stage) -> Iterator[None]:
        """Lets one answer through; anything else, and any failure within, ends the node."""
        now, self.stage = self.stage, Stage.ENDED
        if now is not stage:
            raise RefusedError(
                f"this node was asked to {_words(stage)} when it was to {_words(now)}; it takes no more part"
            )
        yield
        self.stage = Stage(stage + 1)

    def _require_me(self, found: tuple[int, ...]) -> None:
        if self.member not in found:
            raise PeerError("a list leaves out the member that it was sent to")

    @staticmethod
    def _require_context(found: bytes, expected: bytes) -> None:
        if found != expected:
            raise PeerError("a message belongs to another session, or members were told different keys")

    @staticmethod
    def _require_members(found: tuple[int, ...], allowed: tuple[int, ...], fewest: int) -> None:
        if not set(found) <= set(allowed):
            raise PeerError("a list names members that cannot be in it")
        if len(found) < fewest:
            raise RefusedError(
                f"only {len(found)} organisations are left and {fewest} are needed; this node stops here"
            )

    def _verify_member(self, member: int, signed: bytes, signature: bytes) -> None:
        try:
            self._verify(self.session.roster[member - 1], signed, signature)
        except ProofError as error:
            raise ProofError(f"the signature of organisation {member} does not verify") from error

    # ------------------------------------------------------------------------------------------------- mathematics
    @property
    def _statement(self) -> bytes:
        return survivor_statement(self._context, tuple(self._held), self._survivors)

    def _encrypted(self, receiver: int, own: bytes, mask: bytes) -> EncryptedShares:
        commitments = (
            masking.commit(self._context, b"self share", self.member, receiver, own),
            masking.commit(self._context, b"mask share", self.member, receiver, mask),
        )
        theirs = self._keys[receiver].share_key
        cipher = masking.share_cipher(self._share_key, theirs, self._context, self.member, receiver)
        nonce = self._random(NONCE_BYTES)
        ciphertext = cipher.encrypt(nonce, own + mask, self._context + b"".join(commitments))
        return EncryptedShares(receiver, *commitments, nonce, ciphertext)

    def _decrypted(self, entry: EncryptedShares) -> tuple[bytes, bytes]:
        dealer, theirs = entry.member, self._keys[entry.member].share_key
        commitments = (entry.self_commitment, entry.mask_commitment)
        try:
            cipher = masking.share_cipher(self._share_key, theirs, self._context, dealer, self.member)
            both = masking.open_shares(cipher, entry.nonce, entry.ciphertext, self._context + b"".join(commitments))
        except ProofError as error:
            raise ProofError(f"the shares of organisation {dealer} do not verify") from error
        own, mask = both[:SEED_BYTES], both[SEED_BYTES:]
        made = (
            masking.commit(self._context, b"self share", dealer, self.member, own),
            masking.commit(self._context, b"mask share", dealer, self.member, mask),
        )
        if made != commitments:
            raise PeerError(f"the shares of organisation {dealer} are not the ones that it committed to")
        return own, mask

    def _masked(self, values: Ring) -> Ring:
        size = self.session.size
        values = values + masking.self_mask(self._secrets.self_seed, self._context, size)
        for dealer in self._held:
            if dealer != self.member:
                theirs = self._keys[dealer].mask_key
                values += masking.pairwise_mask(self._mask_key, theirs, self._context, self.member, dealer, size)
        return values


def _public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _words(stage: Stage) -> str:
    return stage.name.lower().replace("_", " ")
