"""What a node keeps between two messages so that it can prove, when a sum was spoiled, that it was not its input.

Only the last sum can be asked about: what is kept goes when the next one begins. It holds the keys of pairwise masks,
and no seed of this node (`federation.secagg.ranges`).
"""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ConfigRecord, RecordDict

from federation.errors import PeerError
from federation.secagg import Node, Session, masking
from federation.secagg.graph import COMPLETE
from federation.secagg.messages import MaskedInput
from federation.secagg.ranges import Ranges

_PREFIX = "range of "


def masked(state: RecordDict, release: str, made: bytes) -> None:
    """Keeps what this node sent, in place of everything about earlier sums."""
    for name in [name for name in state if name.startswith(_PREFIX)]:
        del state[name]
    state[_PREFIX + release] = ConfigRecord({"masked": made})


def opened(state: RecordDict, release: str, node: Node) -> None:
    """Keeps what a proof needs besides, when this node has opened its shares.

    In a sparse graph it is nothing: a node has commitments of its neighbours alone, so a coordinator could choose the
    other seeds, and with them the signs, until an honest input is out of bounds for what its people are (ADR 0143).
    """
    before = state.config_records.get(_PREFIX + release, ConfigRecord())
    # Nothing is left when it was asked for a proof too early, or for another sum's input since.
    if len(node.session.roster) > COMPLETE or "masked" not in before:
        state[_PREFIX + release] = ConfigRecord({})
        return
    edges = sorted(node.edges.items())
    state[_PREFIX + release] = ConfigRecord(
        {
            "masked": before["masked"],
            "context": node.context,
            "adds": [adds for (adds, _), _ in edges],
            "subtracts": [subtracts for (_, subtracts), _ in edges],
            "keys": [key for _, key in edges],
            "survivors": list(node.commitments),
            "commitments": list(node.commitments.values()),
        }
    )


def prove(
    state: RecordDict,
    release: str,
    session: Session,
    member: int,
    seeds: Mapping[int, bytes],
    longest: float,
    std: float,
) -> bytes | None:
    """The proof, once; None when nothing is kept.

    Args:
        state: of the run.
        release: which sum.
        session: of that sum.
        member: this node.
        seeds: survivors' self-mask seeds, as the coordinator says.
        longest: L2 norm that this node's people can give to its input.
        std: of this node's noise, in units.

    Raises:
        PeerError: these are not the seeds that the survivors committed to.
        RefusedError: the input is not in bounds.
    """
    kept = state.config_records.get(_PREFIX + release, ConfigRecord())
    state[_PREFIX + release] = ConfigRecord({})
    if "keys" not in kept:
        return None

    def column(name: str) -> list[object]:
        return list(kept[name])  # type: ignore[arg-type]  # `opened` wrote a list

    committed = dict(zip(column("survivors"), column("commitments"), strict=True))
    if committed != {m: masking.commit(session.digest, b"self seed", m, m, seed) for m, seed in seeds.items()}:
        raise PeerError("these are not the seeds that the survivors committed to")
    ranges = Ranges(bytes(kept["context"]), seeds, session.size)  # type: ignore[arg-type]  # as above
    edges = zip(column("adds"), column("subtracts"), strict=True)
    keys = {
        (int(str(adds)), int(str(subtracts))): key for (adds, subtracts), key in zip(edges, column("keys"), strict=True)
    }
    values = MaskedInput.from_bytes(bytes(kept["masked"])).values  # type: ignore[arg-type]  # as above
    return ranges.show(member, values, keys, ranges.bound(longest, std))  # type: ignore[arg-type]  # keys are bytes
