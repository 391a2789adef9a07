"""The coordinator's side of secure aggregation, without any input or output: trusted with progress, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import PeerError, ProofError, RoundAbortedError, UsageError
from federation.secagg import masking
from federation.secagg.masking import Edge, Ring
from federation.secagg.messages import (
    COORDINATOR,
    Advertisement,
    EncryptedShares,
    KeyList,
    MaskedInput,
    MemberSignature,
    OpenedShares,
    PublicKeys,
    ShareKind,
    ShareList,
    Shares,
    SignatureList,
    Survivor,
    Survivors,
    SurvivorSignature,
    survivor_statement,
)
from federation.secagg.node import Stage
from federation.secagg.ranges import Ranges
from federation.secagg.session import Session, Verify, digest

ASKED: Final = {
    Stage.ADVERTISE: "advertise its keys",
    Stage.SHARE_KEYS: "share its keys",
    Stage.MASK_INPUT: "send its masked input",
    Stage.SIGN_SURVIVORS: "sign the survivor set",
    Stage.OPEN_SHARES: "open its shares",
}
"""What members are asked to do, in words."""


class Coordinator:
    """Collects the members' answers to one stage, then says what to ask in the next one.

    Call `receive` with whatever arrives and `advance` when everybody has answered or time is up. A member that sends
    nothing, or something wrong, is out from there on and stands in `faults`; the rest go on while enough are left.

    Args:
        session: the sum.
        verify: checks signatures by the roster's keys.
        names: what errors call the members, in the roster's order.

    Attributes:
        stage: what the members were asked last.
        waiting: members that may still answer.
        faults: why members are out, one clause for each.
        left_at: what they had been asked when they left.
    """

    def __init__(self, session: Session, verify: Verify, *, names: Sequence[str] = ()) -> None:
        self.session, self.stage = session, Stage.ADVERTISE
        self.waiting = set(session.members)
        self.faults: dict[int, str] = {}
        self.left_at: dict[int, Stage] = {}
        self._verify = verify
        self._names = dict(zip(session.members, names or [f"organisation {m}" for m in session.members], strict=True))
        self._context = session.digest
        self._keys: dict[int, PublicKeys] = {}
        self._shares: dict[int, dict[int, EncryptedShares]] = {}
        self._masked: dict[int, Ring] = {}
        self._signatures: dict[int, bytes] = {}
        self._opened: dict[int, dict[int, bytes]] = {}
        self._total: Ring | None = None

    @property
    def survivors(self) -> tuple[int, ...]:
        """Members whose inputs are in the sum, once masked inputs were collected."""
        return tuple(sorted(self._masked))

    @property
    def total(self) -> NDArray[np.int64]:
        """(size,) int64, the sum modulo 2^64 of the survivors' inputs.

        Raises:
            UsageError: the session has not ended.
        """
        if self._total is None:
            raise UsageError("this session has no sum yet")
        return self._total.astype(np.int64)

    # --------------------------------------------------------------------- when the total is one that nobody can make
    @property
    def ranges(self) -> Ranges:
        """What survivors prove after a total that honest members cannot make (`federation.secagg.ranges`)."""
        return Ranges(self._context, {member: self._seed_of(member) for member in self.survivors}, self.session.size)

    def require_range(self, member: int, ranges: Ranges, bound: int, shown: bytes) -> dict[Edge, bytes]:
        """Checks one survivor's proof; gives its commitments to pairwise masks, to compare with the others'.

        Raises:
            PeerError: it does not show that its input is in bounds.
        """
        gone = {}
        for dealer in self._shares.keys() - set(self.survivors):
            key = masking.private_key(self._seed_of(dealer), self.session.digest, b"mask key")
            low, high = sorted((dealer, member))
            theirs = self._keys[member].mask_key
            gone[low, high] = masking.pairwise_key(key, theirs, self._context, dealer, member)
        edges = [tuple(sorted((member, other))) for other in self.survivors if other != member]
        kept = ranges.edges_of(member, [(low, high) for low, high in edges])
        return ranges.check(member, self._masked[member], gone, kept, bound, shown)

    def _seed_of(self, dealer: int) -> bytes:
        """The seed of a dealer that a quorum opened: of its own mask if it survived, else of its pairwise ones."""
        return masking.combine({holder: shares[dealer] for holder, shares in self._opened.items()}, self.session.quorum)

    def receive(self, sender: int, message: bytes) -> None:
        """Takes one member's answer. A wrong one puts the member into `faults` and is not used.

        Args:
            sender: who the transport says it is from.
            message: foreign bytes.

        Raises:
            UsageError: nobody waits for this member.
        """
        if sender not in self.waiting:
            raise UsageError(f"nobody waits for organisation {sender}")
        self.waiting.remove(sender)
        accept = {
            Stage.ADVERTISE: self._accept_advertisement,
            Stage.SHARE_KEYS: self._accept_shares,
            Stage.MASK_INPUT: self._accept_masked,
            Stage.SIGN_SURVIVORS: self._accept_signature,
            Stage.OPEN_SHARES: self._accept_opened,
        }[self.stage]
        try:
            accept(sender, message)
        except (PeerError, ProofError) as error:
            self._leave(sender, f"sent a wrong answer when asked to {ASKED[self.stage]}: {error}")

    def lose(self, member: int, why: str) -> None:
        """Takes a member out that will not answer, or whose keys are not wanted; `why` goes on from its name."""
        self.waiting.discard(member)
        if self.stage is Stage.ADVERTISE:
            self._keys.pop(member, None)
        self._leave(member, why)

    def _leave(self, member: int, why: str) -> None:
        self.faults[member], self.left_at[member] = why, self.stage

    def advance(self) -> dict[int, bytes]:
        """Ends a stage. Whoever is still waited for is out.

        Returns:
            The next message for each member that is still in; empty when the sum is there.

        Raises:
            RoundAbortedError: too few members are left, or one dealt shares that fit nothing; names them.
        """
        for silent in self.waiting:
            self._leave(silent, f"did not {ASKED[self.stage]}")
        step = {
            Stage.ADVERTISE: self._list_keys,
            Stage.SHARE_KEYS: self._route_shares,
            Stage.MASK_INPUT: self._name_survivors,
            Stage.SIGN_SURVIVORS: self._list_signatures,
            Stage.OPEN_SHARES: self._unmask,
        }[self.stage]
        messages = step()
        self.stage, self.waiting = Stage(self.stage + 1), set(messages)
        return messages

    # ------------------------------------------------------------------------------------------ what is accepted
    def _accept_advertisement(self, sender: int, message: bytes) -> None:
        advertisement = Advertisement.from_bytes(message)
        self._require_from(sender, advertisement.sender, advertisement.context)
        keys = advertisement.keys
        signed = PublicKeys.signed(self._context, sender, keys.mask_key, keys.share_key, keys.self_commitment)
        self._verify(self.session.roster[sender - 1], signed, keys.signature)
        self._keys[sender] = keys

    def _accept_shares(self, sender: int, message: bytes) -> None:
        shares = Shares.from_bytes(message)
        self._require_from(sender, shares.sender, shares.context)
        if shares.members != tuple(sorted(self._keys)):
            raise PeerError("it dealt shares to others than the members that have keys")
        self._shares[sender] = {entry.member: entry for entry in shares.entries}

    def _accept_masked(self, sender: int, message: bytes) -> None:
        masked = MaskedInput.from_bytes(message)
        self._require_from(sender, masked.sender, masked.context)
        if len(masked.values) != self.session.size:
            raise PeerError(f"its vector holds {len(masked.values)} numbers and this session sums {self.session.size}")
        self._masked[sender] = masked.values

    def _accept_signature(self, sender: int, message: bytes) -> None:
        answer = SurvivorSignature.from_bytes(message)
        self._require_from(sender, answer.sender, answer.context)
        statement = survivor_statement(self._context, tuple(sorted(self._shares)), self.survivors)
        self._verify(self.session.roster[sender - 1], statement, answer.signature)
        self._signatures[sender] = answer.signature

    def _accept_opened(self, sender: int, message: bytes) -> None:
        opened = OpenedShares.from_bytes(message)
        self._require_from(sender, opened.sender, opened.context)
        if opened.members != tuple(sorted(self._shares)):
            raise PeerError("it opened shares of others than the dealers")
        for entry in opened.entries:
            dealt = self._shares[entry.member][sender]
            label, commitment, kind = (
                (b"self share", dealt.self_commitment, ShareKind.SELF_SEED)
                if entry.member in self._masked
                else (b"mask share", dealt.mask_commitment, ShareKind.MASK_SEED)
            )
            made = masking.commit(self._context, label, entry.member, sender, entry.share)
            if entry.kind is not kind or made != commitment:
                raise PeerError(f"it did not open the share that {self._names[entry.member]} dealt to it")
        self._opened[sender] = {entry.member: entry.share for entry in opened.entries}

    def _require_from(self, sender: int, named: int, context: bytes) -> None:
        if named != sender:
            raise PeerError(f"the message says that organisation {named} sent it")
        if context != self._context:
            raise PeerError("the message belongs to another session")

    # ------------------------------------------------------------------------------------------------ what is asked
    def _list_keys(self) -> dict[int, bytes]:
        members = self._require_enough(self._keys, self.session.fewest)
        keys = KeyList(self._context, COORDINATOR, tuple(self._keys[member] for member in members))
        message = keys.to_bytes()
        self._context = digest(b"intaglio secure aggregation v1 key list", message)
        return dict.fromkeys(members, message)

    def _route_shares(self) -> dict[int, bytes]:
        dealers = self._require_enough(self._shares, self.session.fewest)
        return {
            receiver: ShareList(
                self._context,
                COORDINATOR,
                tuple(replace(self._shares[dealer][receiver], member=dealer) for dealer in dealers),
            ).to_bytes()
            for receiver in dealers
        }

    def _name_survivors(self) -> dict[int, bytes]:
        members = self._require_enough(self._masked, self.session.fewest)
        message = Survivors(self._context, COORDINATOR, tuple(Survivor(member) for member in members)).to_bytes()
        return dict.fromkeys(members, message)

    def _list_signatures(self) -> dict[int, bytes]:
        members = self._require_enough(self._signatures, self.session.quorum)
        entries = tuple(MemberSignature(member, self._signatures[member]) for member in members)
        return dict.fromkeys(members, SignatureList(self._context, COORDINATOR, entries).to_bytes())

    def _unmask(self) -> dict[int, bytes]:
        self._require_enough(self._opened, self.session.quorum)
        size = self.session.size
        total: Ring = np.sum([self._masked[member] for member in self.survivors], axis=0, dtype=np.uint64)
        for dealer in self._shares:
            seed = self._seed_of(dealer)
            if dealer in self._masked:
                made = masking.commit(self.session.digest, b"self seed", dealer, dealer, seed)
                self._require_dealt(dealer, made, self._keys[dealer].self_commitment)
                total -= masking.self_mask(seed, self._context, size)
                continue
            key = masking.private_key(seed, self.session.digest, b"mask key")
            self._require_dealt(dealer, key.public_key().public_bytes_raw(), self._keys[dealer].mask_key)
            # What the survivors added for this one, it would have cancelled: add its side in its place.
            for survivor in self.survivors:
                theirs = self._keys[survivor].mask_key
                total += masking.pairwise_mask(key, theirs, self._context, dealer, survivor, size)
        self._total = total
        return {}

    def _require_enough(self, answered: Mapping[int, object], needed: int) -> tuple[int, ...]:
        members = tuple(sorted(answered))
        if len(members) < needed:
            out = "; ".join(f"{self._names[member]} {why}" for member, why in sorted(self.faults.items()))
            raise RoundAbortedError(
                f"{len(members)} of {len(self.session.roster)} organisations are left and {needed} are needed: {out}"
            )
        return members

    def _require_dealt(self, dealer: int, made: bytes, committed: bytes) -> None:
        if made != committed:
            raise RoundAbortedError(f"{self._names[dealer]} dealt shares of something else than its seed")
