"""One organisation's side of secure aggregation, without any input or output."""

from __future__ import annotations

import hmac
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from federation.errors import PeerError, ProofError, RefusedError, UsageError
from federation.secagg import masking
from federation.secagg.entries import Confirmation, EncryptedShares, OpenedShare, PublicKeys, ShareKind, members_of
from federation.secagg.graph import CHOICE_BYTES, Graph
from federation.secagg.masking import CLASSICAL_BYTES, SEED_BYTES, Edge, HybridKey, Ring
from federation.secagg.messages import (
    Advertisement,
    KeyList,
    MaskedInput,
    OpenedShares,
    ShareList,
    Shares,
    SignatureList,
    Survivors,
    SurvivorSignature,
    numbers,
    survivor_statement,
)
from federation.secagg.remembered import NodeSecrets, Stage
from federation.secagg.session import Random, Session, Sign, Verify


@dataclass(frozen=True, eq=False, repr=False)
class _Dealt:
    """What a dealer gave to this node."""

    own: bytes
    mask: bytes
    confirmation_key: bytes
    pair_key: bytes


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
        random: for shares.
        charge: names what pays for this node's input, once it is known: from its masked input on.
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
        charge: str = "",
    ) -> None:
        if member not in session.members:
            raise UsageError(f"the roster has no member {member}")
        self.session, self.member, self.stage = session, member, Stage.ADVERTISE
        self._secrets, self._sign, self._verify, self._random = secrets, sign, verify, random
        self._mask_key = HybridKey(secrets.mask_seed, session.digest, b"mask key")
        self._share_key = HybridKey(secrets.share_seed, session.digest, b"share key")
        self._choice = masking.derive(secrets.share_seed, session.digest, b"choice", CHOICE_BYTES)
        self._context, self._charge = b"", charge.encode()
        self._graph: Graph
        self._dealers_keys: dict[int, tuple[bytes, bytes]] = {}
        self._commitments: dict[int, bytes] = {}
        self._holders: tuple[int, ...] = ()
        self._dealers: tuple[int, ...] = ()
        self._held: dict[int, _Dealt] = {}
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
        charge: str = "",
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
            charge: see `Node`.
        """
        node = cls(session, member, secrets, sign=sign, verify=verify, random=random, charge=charge)
        accept = (node._accept_keys, node._accept_shares, node._accept_survivors)
        node.stage = Stage.SHARE_KEYS
        for check, message in zip(accept, received, strict=False):
            with node._answering(node.stage):
                check(message)
        return node

    def advertise(self) -> bytes:
        """Fresh public keys and the choice of holders, signed."""
        with self._answering(Stage.ADVERTISE):
            context, keys = self.session.digest, self._own_keys(b"")
            return Advertisement(context, self._own_keys(self._sign(keys.signed(context)))).to_bytes()

    def share_keys(self, message: bytes) -> bytes:
        """Takes everybody's choices and some keys; gives shares of both seeds, encrypted for each holder.

        Raises:
            PeerError: the message is malformed, of another session, or has not the members that it should have.
            ProofError: a member's signature does not verify.
            RefusedError: too few members are there, or it is not the time for this.
        """
        with self._answering(Stage.SHARE_KEYS):
            keys, threshold = self._accept_keys(message), self.session.shape.threshold
            own = masking.split(self._secrets.self_seed, threshold, self._holders, self._random)
            mask = masking.split(self._secrets.mask_seed, threshold, self._holders, self._random)
            entries = tuple(self._encrypted(keys[holder], own[holder], mask[holder]) for holder in self._holders)
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
            RefusedError: see `share_keys`.
        """
        with self._answering(Stage.MASK_INPUT):
            if values.shape != (self.session.size,) or values.dtype != np.int64:
                raise UsageError(f"this session sums vectors of {self.session.size} int64 numbers")
            self._accept_shares(message)
            masked = self._masked(values.astype(np.uint64))
            confirmations = tuple(
                Confirmation(holder, masking.confirmation(self._confirmation_key(holder), self._context, self._told))
                for holder in self._masked_with
            )
            return MaskedInput(self._context, self.member, masked, confirmations).to_bytes()

    def sign_survivors(self, message: bytes) -> bytes:
        """Takes the survivor set; gives a signature on it. A node signs one set in its life.

        Raises:
            PeerError: see `share_keys`.
            RefusedError: too few survived for the noise to suffice, or for somebody's secret to be opened by as many
                as must; or it is not the time for this.
        """
        with self._answering(Stage.SIGN_SURVIVORS):
            self._accept_survivors(message)
            return SurvivorSignature(self._context, self.member, self._sign(self._statement)).to_bytes()

    def open_shares(self, message: bytes) -> bytes:
        """Takes the committee's signatures; gives one share about every dealer whose shares this node holds.

        Of a survivor it is the self-mask seed's, of everybody else the mask seed's, and never both. Of a survivor that
        did not mask with the dealers that this node was told, or under another charge, it is none.

        Raises:
            PeerError: see `share_keys`.
            ProofError: a signature is not on the set that this node signed.
            RefusedError: too few signed, or it is not the time for this.
        """
        with self._answering(Stage.OPEN_SHARES):
            listed = SignatureList.from_bytes(message)
            self._require_context(listed.context, self._context)
            signers = set(self.session.committee(self._context)) & set(self._survivors)
            self._require_members(members_of(listed.signatures), signers, self.session.shape.quorum)
            for entry in listed.signatures:
                self._verify_member(entry.member, self._statement, entry.signature)
            self._require_exactly(members_of(listed.confirmations), set(self._held) & set(self._survivors))
            confirmed = {entry.member for entry in listed.confirmations if self._is_confirmed(entry)}
            opened = (
                OpenedShare(dealer, ShareKind.SELF_SEED, dealt.own)
                if dealer in self._survivors
                else OpenedShare(dealer, ShareKind.MASK_SEED, dealt.mask)
                for dealer, dealt in self._held.items()
                if dealer in confirmed or dealer not in self._survivors
            )
            return OpenedShares(self._context, self.member, tuple(opened)).to_bytes()

    # ----------------------------------------------------------------------------- what a proof of range is made from
    @property
    def commitments(self) -> dict[int, bytes]:
        """What survivors committed their self-mask seeds with: all of them in a complete graph, else neighbours."""
        return {member: made for member, made in self._commitments.items() if member in self._survivors}

    @property
    def context(self) -> bytes:
        """What everything in this session is bound to, once keys were listed."""
        return self._context

    @property
    def edges(self) -> dict[Edge, bytes]:
        """The key of each mask in this node's input but its own, by who adds it and who subtracts it. Sensitive."""
        mine = {(self.member, holder): self._pair_key(holder) for holder in self._masked_with}
        theirs = {(dealer, self.member): dealt.pair_key for dealer, dealt in self._held.items()}
        return {edge: key for edge, key in (mine | theirs).items() if edge[0] != edge[1]}

    # ------------------------------------------------------------------------------------------ what is accepted
    def _accept_keys(self, message: bytes) -> dict[int, PublicKeys]:
        listed = KeyList.from_bytes(message)
        self._require_context(listed.context, self.session.digest)
        there = members_of(listed.lines)
        self._require_members(there, self.session.members, self.session.fewest)
        self._require_me(there)
        self._graph = self.session.graph({line.member: line.choice for line in listed.lines})
        self._holders = tuple(sorted(set(self._graph.holders_of(self.member)) & set(there)))
        self._require_exactly(members_of(listed.entries), set(self._holders) | set(self._graph.dealers_to(self.member)))
        lines = {line.member: line for line in listed.lines}
        for keys in listed.entries:
            if keys.line != lines[keys.member]:
                raise PeerError(f"this node was shown other keys of organisation {keys.member} than the others")
            self._verify_member(keys.member, keys.signed(self.session.digest), keys.signature)
        entries = {keys.member: keys for keys in listed.entries}
        if (mine := entries[self.member]) != self._own_keys(mine.signature):
            raise PeerError("the key list holds keys that this node advertised in another session")
        # From here on everything is bound to these very keys, fresh ones of every member among them.
        self._context = listed.digest
        # Later only the X25519 halves are needed, to open what was dealt. A thousand whole lists would fill a machine.
        self._dealers_keys = {
            member: (keys.mask_key[:CLASSICAL_BYTES], keys.share_key[:CLASSICAL_BYTES])
            for member, keys in entries.items()
        }
        self._commitments = {member: keys.self_commitment for member, keys in entries.items()}
        return entries

    def _accept_shares(self, message: bytes) -> None:
        listed = ShareList.from_bytes(message)
        self._require_context(listed.context, self._context)
        dealers = members_of(listed.dealers)
        self._require_members(dealers, self._graph.members, self.session.fewest)
        self._require_me(dealers)
        self._require_exactly(members_of(listed.entries), set(self._graph.dealers_to(self.member)) & set(dealers))
        self._dealers = dealers
        self._held = {entry.member: self._decrypted(entry) for entry in listed.entries}

    def _accept_survivors(self, message: bytes) -> None:
        listed = Survivors.from_bytes(message)
        self._require_context(listed.context, self._context)
        survivors = members_of(listed.entries)
        self._require_members(survivors, self._dealers, self.session.fewest)
        self._require_me(survivors)
        self._graph.require_held(survivors, survivors, self.session.shape.threshold)
        self._survivors = survivors

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
    def _require_exactly(found: tuple[int, ...], expected: set[int]) -> None:
        if set(found) != expected:
            raise PeerError("a list is not about those whose shares this node holds, or who hold its own")

    @staticmethod
    def _require_members(found: tuple[int, ...], allowed: Collection[int], fewest: int) -> None:
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

    def _is_confirmed(self, word: Confirmation) -> bool:
        """Whether a dealer masked with the dealers that this node was told, and is charged for the same sum."""
        key = self._held[word.member].confirmation_key
        return hmac.compare_digest(masking.confirmation(key, self._context, self._told), word.code)

    # ------------------------------------------------------------------------------------------------- mathematics
    @property
    def _statement(self) -> bytes:
        return survivor_statement(self._context, self._dealers, self._survivors)

    @property
    def _told(self) -> bytes:
        """What is confirmed. Who opens for another charge could be made to open a second sum for this one."""
        return numbers(self._dealers) + self._charge

    @property
    def _masked_with(self) -> tuple[int, ...]:
        """The holders whose masks this node adds; itself among them, with whom there is none."""
        return tuple(holder for holder in self._holders if holder in self._dealers)

    def _own_keys(self, signature: bytes) -> PublicKeys:
        seed, context = self._secrets.self_seed, self.session.digest
        commitment = masking.commit(context, b"self seed", self.member, self.member, seed)
        mask_key, share_key = self._mask_key.public, self._share_key.public
        return PublicKeys(self.member, self._choice, mask_key, share_key, commitment, signature)

    def _pair_key(self, holder: int) -> bytes:
        return masking.pair_key(self._secrets.mask_seed, self._context, self.member, holder)

    def _confirmation_key(self, holder: int) -> bytes:
        return masking.confirmation_key(self._secrets.share_seed, self._context, self.member, holder)

    def _encrypted(self, theirs: PublicKeys, own: bytes, mask: bytes) -> EncryptedShares:
        context, holder = self._context, theirs.member
        pair = self._pair_key(holder)
        sealed_mask = masking.seal_pair_key(self._mask_key, theirs.mask_key, pair, context, self.member, holder)
        dealt = EncryptedShares(
            holder,
            masking.commit(context, b"self share", self.member, holder, own),
            masking.commit(context, b"mask share", self.member, holder, mask),
            masking.commit(context, b"pair key", self.member, holder, pair),
            sealed_mask,
            b"",
        )
        plaintext = own + mask + self._confirmation_key(holder)
        purpose = b"shares %d to %d" % (self.member, holder)
        sealed = masking.seal(self._share_key, theirs.share_key, plaintext, context, purpose, dealt.bound)
        return replace(dealt, sealed_shares=sealed)

    def _decrypted(self, entry: EncryptedShares) -> _Dealt:
        context, dealer = self._context, entry.member
        mask_key, share_key = self._dealers_keys[dealer]
        try:
            plaintext = masking.unseal(
                self._share_key,
                share_key,
                entry.sealed_shares,
                context,
                b"shares %d to %d" % (dealer, self.member),
                entry.bound,
            )
            pair_key = masking.unseal_pair_key(
                self._mask_key, mask_key, entry.sealed_mask, context, dealer, self.member
            )
        except ProofError as error:
            raise ProofError(f"the shares of organisation {dealer} do not verify") from error
        own, mask, confirmation_key = (plaintext[at : at + SEED_BYTES] for at in range(0, 3 * SEED_BYTES, SEED_BYTES))
        made = (
            masking.commit(context, b"self share", dealer, self.member, own),
            masking.commit(context, b"mask share", dealer, self.member, mask),
            masking.commit(context, b"pair key", dealer, self.member, pair_key),
        )
        if made != (entry.self_commitment, entry.mask_commitment, entry.pair_commitment):
            raise PeerError(f"the shares of organisation {dealer} are not the ones that it committed to")
        return _Dealt(own, mask, confirmation_key, pair_key)

    def _masked(self, values: Ring) -> Ring:
        """Adds the own mask and one for each holder, and takes off one for each dealer."""
        size = self.session.size
        values = values + masking.self_mask(self._secrets.self_seed, self._context, size)
        for holder in self._masked_with:
            if holder != self.member:
                values += masking.mask(self._pair_key(holder), size)
        for dealer, dealt in self._held.items():
            if dealer != self.member:
                values -= masking.mask(dealt.pair_key, size)
        return values


def _words(stage: Stage) -> str:
    return stage.name.lower().replace("_", " ")
