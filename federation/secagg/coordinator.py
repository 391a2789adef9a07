"""The coordinator's side of secure aggregation, without any input or output: trusted with progress, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import PeerError, ProofError, RefusedError, RoundAbortedError, UsageError
from federation.secagg import masking
from federation.secagg.entries import (
    Confirmation,
    EncryptedShares,
    Member,
    MemberSignature,
    PublicKeys,
    ShareKind,
    members_of,
)
from federation.secagg.graph import Graph
from federation.secagg.masking import Edge, HybridKey, Ring
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
    survivor_statement,
)
from federation.secagg.ranges import Ranges
from federation.secagg.remembered import Stage
from federation.secagg.session import Session, Verify

ASKED: Final = {
    Stage.ADVERTISE: "advertise its keys",
    Stage.SHARE_KEYS: "share its keys",
    Stage.MASK_INPUT: "send its masked input",
    Stage.SIGN_SURVIVORS: "sign the survivor set",
    Stage.OPEN_SHARES: "open its shares",
}
"""What members are asked to do, in words."""


class Messages(Mapping[int, bytes]):
    """The next message for each of some members, made when it is looked up: all of them together can fill a machine."""

    def __init__(self, members: Sequence[int], make: Callable[[int], bytes]) -> None:
        self._members, self._make = dict.fromkeys(members), make

    def __getitem__(self, member: int) -> bytes:
        if member not in self._members:
            raise KeyError(member)
        return self._make(member)

    def __iter__(self) -> Iterator[int]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


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
        self._graph: Graph
        self._masked: dict[int, Ring] = {}
        self._confirmed: dict[int, dict[int, bytes]] = {}
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
        gone = dict[Edge, bytes]()
        for left in self._shares.keys() - set(self.survivors):
            seed = self._seed_of(left)
            if member in self._shares[left]:
                gone[left, member] = masking.pair_key(seed, self._context, left, member)
            if left in self._shares[member]:
                key = HybridKey(seed, self.session.digest, b"mask key")
                gone[member, left] = self._unsealed(key, member, left)
        kept = [edge for other in self.survivors if other != member for edge in ((member, other), (other, member))]
        edges = ranges.edges_of(member, [(dealer, holder) for dealer, holder in kept if holder in self._shares[dealer]])
        return ranges.check(member, self._masked[member], gone, edges, bound, shown)

    def _seed_of(self, dealer: int) -> bytes:
        """The seed of a dealer that its holders opened: of its own mask if it survived, else of its pairwise ones."""
        shares = {holder: opened[dealer] for holder, opened in self._opened.items() if dealer in opened}
        return masking.combine(shares, self.session.shape.threshold)

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

    def advance(self) -> Mapping[int, bytes]:
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
        self._verify(self.session.roster[sender - 1], keys.signed(self._context), keys.signature)
        masking.require_usable(keys.mask_key)
        masking.require_usable(keys.share_key)
        self._keys[sender] = keys

    def _accept_shares(self, sender: int, message: bytes) -> None:
        shares = Shares.from_bytes(message)
        self._require_from(sender, shares.sender, shares.context)
        if set(members_of(shares.entries)) != set(self._graph.holders_of(sender)) & set(self._keys):
            raise PeerError("it dealt shares to others than the holders that it chose")
        self._shares[sender] = {entry.member: entry for entry in shares.entries}

    def _accept_masked(self, sender: int, message: bytes) -> None:
        masked = MaskedInput.from_bytes(message)
        self._require_from(sender, masked.sender, masked.context)
        if len(masked.values) != self.session.size:
            raise PeerError(f"its vector holds {len(masked.values)} numbers and this session sums {self.session.size}")
        if set(members_of(masked.confirmations)) != set(self._shares[sender]) & set(self._shares):
            raise PeerError("it confirmed its dealers to others than its holders")
        self._masked[sender] = masked.values
        self._confirmed[sender] = {entry.member: entry.code for entry in masked.confirmations}

    def _accept_signature(self, sender: int, message: bytes) -> None:
        answer = SurvivorSignature.from_bytes(message)
        self._require_from(sender, answer.sender, answer.context)
        statement = survivor_statement(self._context, tuple(sorted(self._shares)), self.survivors)
        self._verify(self.session.roster[sender - 1], statement, answer.signature)
        self._signatures[sender] = answer.signature

    def _accept_opened(self, sender: int, message: bytes) -> None:
        opened = OpenedShares.from_bytes(message)
        self._require_from(sender, opened.sender, opened.context)
        found, held = set(members_of(opened.entries)), set(self._dealers_to(sender))
        if not held - self._masked.keys() <= found <= held:
            raise PeerError("it opened shares of others than the dealers whose shares it holds")
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
    def _dealers_to(self, holder: int) -> tuple[int, ...]:
        return tuple(dealer for dealer in self._graph.dealers_to(holder) if dealer in self._shares)

    def _list_keys(self) -> Mapping[int, bytes]:
        members = self._require_enough(self._keys, self.session.fewest)
        self._graph = self.session.graph({member: self._keys[member].choice for member in members})
        self._require_held(members, members)
        lines, session = tuple(self._keys[member].line for member in members), self._context

        def make(member: int) -> bytes:
            near = set(self._graph.holders_of(member)) & set(self._keys) | set(self._graph.dealers_to(member))
            return KeyList(session, lines, tuple(self._keys[other] for other in sorted(near))).to_bytes()

        self._context = KeyList(session, lines, ()).digest
        return Messages(members, make)

    def _route_shares(self) -> Mapping[int, bytes]:
        dealers = self._require_enough(self._shares, self.session.fewest)
        self._require_held(dealers, dealers)
        listed = tuple(map(Member, dealers))

        def make(holder: int) -> bytes:
            dealt = ((dealer, self._shares[dealer][holder]) for dealer in self._dealers_to(holder))
            entries = tuple(replace(entry, member=dealer) for dealer, entry in dealt)
            return ShareList(self._context, listed, entries).to_bytes()

        return Messages(dealers, make)

    def _name_survivors(self) -> Mapping[int, bytes]:
        members = self._require_enough(self._masked, self.session.fewest)
        self._require_held(self._shares, members)
        message = Survivors(self._context, tuple(map(Member, members))).to_bytes()
        return dict.fromkeys(members, message)

    def _list_signatures(self) -> Mapping[int, bytes]:
        committee = set(self.session.committee(self._context))
        signed = {member: signature for member, signature in self._signatures.items() if member in committee}
        quorum = self._require_enough(signed, self.session.shape.quorum)[: self.session.shape.quorum]
        signatures = tuple(MemberSignature(member, signed[member]) for member in quorum)

        def make(holder: int) -> bytes:
            confirmations = tuple(
                Confirmation(dealer, self._confirmed[dealer][holder])
                for dealer in self._dealers_to(holder)
                if dealer in self._masked
            )
            return SignatureList(self._context, signatures, confirmations).to_bytes()

        return Messages(sorted(self._signatures), make)

    def _unmask(self) -> Mapping[int, bytes]:
        self._require_enough(self._opened, self.session.shape.threshold)
        self._require_held(self._shares, self._opened)
        self._require_confirmed()
        size = self.session.size
        total: Ring = np.sum([self._masked[member] for member in self.survivors], axis=0, dtype=np.uint64)
        for dealer in self._shares:
            seed = self._seed_of(dealer)
            if dealer in self._masked:
                made = masking.commit(self.session.digest, b"self seed", dealer, dealer, seed)
                self._require_dealt(dealer, made, self._keys[dealer].self_commitment)
                total -= masking.self_mask(seed, self._context, size)
                continue
            key = HybridKey(seed, self.session.digest, b"mask key")
            self._require_dealt(dealer, key.public, self._keys[dealer].mask_key)
            total += self._side_of(dealer, seed, key)
        self._total = total
        return {}

    def _side_of(self, gone: int, seed: bytes, key: HybridKey) -> Ring:
        """What one that left would have added against the masks that the survivors share with it."""
        side: Ring = np.zeros(self.session.size, dtype=np.uint64)
        for holder, dealt in self._shares[gone].items():
            if holder in self._masked:
                pair = masking.pair_key(seed, self._context, gone, holder)
                # The holder saw that its key is the one committed to. Another one would be taken for the holder's lie.
                made = masking.commit(self._context, b"pair key", gone, holder, pair)
                self._require_dealt(gone, made, dealt.pair_commitment)
                side += masking.mask(pair, self.session.size)
        for dealer in self._dealers_to(gone):
            if dealer in self._masked:
                side -= masking.mask(self._unsealed(key, dealer, gone), self.session.size)
        return side

    def _unsealed(self, key: HybridKey, dealer: int, gone: int) -> bytes:
        """The key that a dealer sealed to one that left, whose mask key was opened."""
        sealed, theirs = self._shares[dealer][gone].sealed_mask, self._keys[dealer].mask_key
        try:
            return masking.unseal_pair_key(key, theirs, sealed, self._context, dealer, gone)
        except ProofError as error:
            raise RoundAbortedError(f"{self._names[dealer]} sealed no mask for {self._names[gone]}") from error

    def _require_enough(self, answered: Mapping[int, object], needed: int) -> tuple[int, ...]:
        members = tuple(sorted(answered))
        if len(members) < needed:
            raise RoundAbortedError(
                f"{len(members)} of {len(self.session.roster)} organisations are left and {needed} are needed: "
                f"{self._reasons}"
            )
        return members

    def _require_held(self, members: Iterable[int], there: Iterable[int]) -> None:
        """Ends the round when a secret of somebody could not be opened by those who are there."""
        try:
            self._graph.require_held(members, there, self.session.shape.threshold)
        except RefusedError as error:
            raise RoundAbortedError(f"{error}: {self._reasons}") from error

    def _require_confirmed(self) -> None:
        """Ends the round when too many holders do not open a survivor: its word to them was false, or theirs is."""
        for dealer in self.survivors:
            holders = [holder for holder in self._shares[dealer] if holder in self._opened]
            kept = [self._names[holder] for holder in holders if dealer not in self._opened[holder]]
            if len(holders) - len(kept) < self.session.shape.threshold:
                raise RoundAbortedError(
                    f"{self._names[dealer]} masked with others or under another charge than {len(kept)} of "
                    f"{len(holders)} that hold its shares were told, or they say so falsely: {', '.join(kept)}"
                )

    @property
    def _reasons(self) -> str:
        return "; ".join(f"{self._names[member]} {why}" for member, why in sorted(self.faults.items()))

    def _require_dealt(self, dealer: int, made: bytes, committed: bytes) -> None:
        if made != committed:
            raise RoundAbortedError(f"{self._names[dealer]} dealt shares of something else than its seed")
