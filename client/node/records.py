"""What a question may read of an organisation's people. Nothing here fails because of one person.

The files were checked when the node started (`client.node.start.require_ready`). A question is no place to complain
about them: whether it is answered would say something about people, exactly and for nothing (ADR 0140). So rows that
are wrong are left out, a person whose part is missing adds zero, and who is in no group of the plan counts nowhere.
What is left to fail is a file that is gone or damaged as a whole. That is noticed before a run begins, where only
`Facts` are read; later on the organisation adds noise alone, and its own log says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from flwr.app import Context

from client.preparing.people import MOST_IMAGES, MOST_PAIRS, groups_from_json
from federation.errors import UsageError
from federation.learning.evaluation_plan import EvaluationPlan
from federation.privacy.plan import SCALES, SumPlan
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE

if TYPE_CHECKING:
    from federation.learning.scales import ChipSet
    from federation.recognition.mobilefacenet import MobileFaceNetRecogniser

_Images = TypeVar("_Images", "EmbeddingSet", "ChipSet")

# Flower may start a process for every message, and most need neither torch nor Opacus: what trains is imported where it
# is used, which saves each of those processes seconds.


@dataclass(frozen=True)
class Facts:
    """What is settled about an organisation's people when a run begins; all but `listed` is said to everybody.

    Attributes:
        people: how many take part in a run.
        dimension: length of their embeddings.
        listed: SHA-256 of the name of each, in order. Sensitive: for this node alone.
    """

    people: int
    dimension: int
    listed: tuple[bytes, ...] = field(default=(), repr=False)

    def listed_of(self, images: _Images) -> _Images:
        """Those who took part when the run began: no more people than were advertised, whoever has come since.

        Whoever came is left out by their own name, and who left is missing: nobody's place depends on anybody else.
        """
        return images.of_people(self.names_of(np.unique(images.people).tolist()))

    def names_of(self, names: Iterable[str]) -> list[str]:
        """Those of some names that took part when the run began."""
        listed = frozenset(self.listed)
        return [name for name in names if _digest(name) in listed]


def facts_of(context: Context, plan: SumPlan) -> Facts:
    """The facts for a plan.

    Raises:
        UsageError: nobody takes part, or there are no embeddings.
        OSError: a file is missing.
    """
    everybody = embeddings(context)
    names = groups(context) if isinstance(plan, EvaluationPlan) else np.unique(everybody.people).tolist()
    if not names:
        raise UsageError("nobody of this organisation takes part")
    return Facts(len(names), everybody.dimension, tuple(sorted(_digest(name) for name in names)))


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def count(images: EmbeddingSet | ChipSet) -> int:
    """How many people."""
    return len(set(images.people.tolist()))


def embeddings(context: Context) -> EmbeddingSet:
    """The organisation's embeddings, of those who take part, `MOST_IMAGES` of each person and camera."""
    archive = path(context, "embeddings", "{}.npz").read_bytes()
    return EmbeddingSet.usable_from_bytes(archive).first_of_each(MOST_IMAGES)


def embedded(context: Context, adapter: Adapter, people: int, listed: Iterable[str] | None = None) -> EmbeddingSet:
    """The same; with a recogniser that was tuned, made by it.

    Args:
        context: of the run.
        adapter: of the release.
        people: how many this organisation said that it has: the time says no more than this.
        listed: whose; everybody's when not given.
    """
    names = None if listed is None else sorted(listed)
    if (tuned := adapter.scales.get(PROBE)) is None:
        everybody = embeddings(context)
        return everybody if names is None else everybody.of_people(names)
    mine = chips(context)
    with no_denormals():
        theirs = mine if names is None else mine.of_people(names)
        return theirs.embed(recogniser(context), tuned, pairs(people))


def pairs(people: int) -> int:
    """How many pairs of chips a network works on for so many people."""
    return people * MOST_PAIRS


def chips(context: Context) -> ChipSet:
    """The organisation's chips, of those who take part and have some, `MOST_PAIRS` of each person."""
    from federation.learning.scales import ChipSet  # noqa: PLC0415 - see the top

    people = sorted(set(embeddings(context).people.tolist()))  # without those who withdrew
    return (
        ChipSet.from_bytes(path(context, "chips", "{}.chips.npz").read_bytes())
        .of_people(people)
        .first_of_each(MOST_PAIRS)
    )


def groups(context: Context) -> dict[str, str]:
    """The group of everybody who takes part and is listed; nobody else is measured.

    Raises:
        UsageError: the list is no such list.
    """
    listed = groups_from_json(path(context, "groups", "{}.groups.json").read_bytes())
    here = sorted(set(embeddings(context).people.tolist()) & listed.keys())  # without those who withdrew
    return {person: listed[person] for person in here if isinstance(listed[person], str)}


def recogniser(context: Context) -> MobileFaceNetRecogniser:
    """The network that a run tunes."""
    from client.faces.models import load_recogniser  # noqa: PLC0415 - see the top
    from federation.recognition.mobilefacenet import MobileFaceNetRecogniser  # noqa: PLC0415 - see the top

    loaded = load_recogniser(path(context, "model", "model"))
    if not isinstance(loaded, MobileFaceNetRecogniser):
        raise UsageError(f"the recipe {SCALES} tunes the recogniser that comes with the project, not an ONNX file")
    return loaded


@contextmanager
def no_denormals() -> Iterator[None]:
    """Lets torch take denormal numbers for zero: arithmetic on them is slow, and scales could make it somebody's.

    Torch does so in the thread that asks for it, and its others would go on: what became of a person's image would
    depend on whose thread it is in, and so on who else is there. So there is one thread meanwhile.
    """
    import torch  # noqa: PLC0415 - see the top

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def path(context: Context, key: str, local: str) -> Path:
    """A file from the node's configuration, or from the folder of a local simulation.

    Raises:
        UsageError: neither names it.
    """
    own = context.node_config.get(key)
    folder, partition = context.run_config.get("organisations"), context.node_config.get("partition-id")
    if own is not None:
        return Path(str(own))
    if folder and partition is not None:
        return Path(str(folder)) / local.format(int(partition))
    raise UsageError(f'set {key}="FILE" in this node\'s configuration')
