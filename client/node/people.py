"""Who takes part of an organisation's people: the prepared files in its folder, and who withdrew.

Theory of operation
-------------------
Embeddings, chips and the recogniser's weights belong together. `intaglio node prepare` writes all of them into a hidden
folder of their own, and one rename of a symbolic link puts them in the place of the old ones, all at the same moment::

    embeddings.npz -> prepared/embeddings.npz
    chips.npz      -> prepared/chips.npz
    model          -> prepared/model
    prepared       -> .prepared-0123456789abcdef        the link that is renamed

A crash before the rename leaves the old files, or none when there were none, and a stray hidden folder that the next
change removes. A crash after it leaves the new files, and `active.npz` of the old ones until the node starts again.

Embeddings that an organisation made by other means may lie in `embeddings.npz` as a plain file. They are read here and
never changed, and nothing is prepared beside them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from client.files import replace_file, sync_folder
from client.preparing.staging import forget
from federation.errors import RefusedError, UsageError
from federation.names import name_of, names_of
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE

if TYPE_CHECKING:
    from federation.learning.scales import ChipSet

EMBEDDINGS: Final = "embeddings.npz"
CHIPS: Final = "chips.npz"
MODEL: Final = "model"
GROUPS: Final = "groups.json"
ACTIVE: Final = "active.npz"
WITHDRAWN: Final = "withdrawn"

MOST_IMAGES: Final = 32
"""Of a person and a camera take part; the first ones. How long an answer takes must not be one person's doing."""
MOST_PAIRS: Final = 8
"""Of a person's pairs of chips go through a network that is tuned, black ones for those who have fewer (ADR 0140)."""

_PREPARED: Final = "prepared"
_MADE_WITH: Final = "made-with.json"


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that runs read of an organisation's people. Sensitive: its repr shows sizes only.

    Attributes:
        embeddings: of everybody who was prepared and has not withdrawn.
        chips: for the recipe `scales`, of the same people; None when the policy does not list it.
        made_with: the recogniser and the probe camera, which must be the same for everybody.
        model: the recogniser's files by name; empty without chips.
    """

    embeddings: EmbeddingSet
    chips: ChipSet | None
    made_with: Mapping[str, str]
    model: Mapping[str, bytes] = field(repr=False)

    @property
    def people(self) -> set[str]:
        """Names."""
        return set(self.embeddings.people.tolist())

    def of_people(self, people: set[str]) -> Prepared:
        """The same without everybody else."""
        names = sorted(people)
        chips = None if self.chips is None else self.chips.of_people(names)
        return Prepared(self.embeddings.of_people(names), chips, self.made_with, self.model)


def has_withdrawn(people: set[str], folder: Path) -> set[str]:
    """Those of `people` who withdrew."""
    marks = _marks(folder)
    return {person for person in people if _mark(person) in marks}


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Holds off every other change of who takes part."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # released when it is closed, or when the process dies
        yield
    finally:
        os.close(descriptor)


def prepared_people(folder: Path) -> Prepared | None:
    """What was prepared last, or None.

    Raises:
        UsageError: a file is damaged, or the embeddings there were made by other means.
    """
    for name in (EMBEDDINGS, CHIPS, MODEL):
        if (folder / name).exists() and not (folder / name).is_symlink():
            raise UsageError(
                f"{folder / name} was made by other means and is not overwritten; move it away to prepare images"
            )
    place = folder / _PREPARED
    if not place.exists():
        return None
    embeddings = EmbeddingSet.from_bytes(_read(place / EMBEDDINGS, "prepare the images again"))
    chips = None
    if (place / CHIPS).exists():
        from federation.learning.scales import ChipSet  # noqa: PLC0415 - torch takes seconds, and few organisations keep chips

        chips = ChipSet.from_bytes((place / CHIPS).read_bytes())
    made_with = json.loads(_read(place / _MADE_WITH, "prepare the images again"))
    return Prepared(embeddings, chips, made_with, {file.name: file.read_bytes() for file in (place / MODEL).iterdir()})


def publish(prepared: Prepared, folder: Path) -> None:
    """Puts prepared people in the place of those before, all files at one moment. Call it inside `changing`."""
    made = folder / f".{_PREPARED}-{secrets.token_hex(8)}"
    files = {EMBEDDINGS: prepared.embeddings.to_bytes(), _MADE_WITH: json.dumps(dict(prepared.made_with)).encode()}
    if prepared.chips is not None:
        files[CHIPS] = prepared.chips.first_of_each(MOST_PAIRS).to_bytes()  # no more pictures than take part
    try:
        _write(made, files | {f"{MODEL}/{name}": data for name, data in prepared.model.items()})
        for name in (EMBEDDINGS, CHIPS, MODEL):
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(Path(_PREPARED) / name)  # leads nowhere until something is prepared
        draft = made.with_name(f"{made.name}.link")
        draft.symlink_to(made.name)
        sync_folder(folder)
        draft.replace(folder / _PREPARED)  # before this line everything is the old; after it everything is the new
        sync_folder(folder)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}; what was there is unchanged") from error
    _remove_all_but(made.name, folder)


def withdraw(person: str, folder: Path) -> int:
    """Excludes a person from every later round, for good; returns how many embeddings that takes out.

    What was prepared of them is deleted. Images outside the folder are the organisation's to delete.

    The mark comes first: a crash after it leaves a person marked, and the next start of the node takes them out.

    Raises:
        RefusedError: nobody is left.
        UsageError: a file cannot be read or written.
    """
    person = name_of(person)
    with changing(folder):
        marks = _marks(folder)
        if (mark := _mark(person)) not in marks:
            replace_file(folder / WITHDRAWN, "".join(f"{line}\n" for line in sorted({*marks, mark})).encode())
        forget([person], folder)
        if not (folder / EMBEDDINGS).exists():
            return 0
        out = int((_everybody(folder).people == person).sum())
        if (folder / _PREPARED).is_symlink() and (now := prepared_people(folder)) and out:
            publish(now.of_people(now.people - {person}), folder)
        refresh_active(folder)
    return out


def refresh_active(folder: Path) -> EmbeddingSet:
    """Returns the embeddings of those who take part, and writes `MOST_IMAGES` of each person and camera.

    A running node reads the file anew for every message.

    Raises:
        RefusedError: nobody takes part.
        UsageError: there are no embeddings, or a file cannot be read or written.
    """
    marks, everybody = _marks(folder), _everybody(folder)
    names, inverse = np.unique(everybody.people, return_inverse=True)
    stays = np.array([_mark(str(name)) not in marks for name in names], dtype=np.bool_)
    active = everybody.select(stays[inverse])
    if not len(active):
        (folder / ACTIVE).unlink(missing_ok=True)
        raise RefusedError("nobody in this organisation takes part any more, so it has nothing to add")
    # What takes no part is not there to be read either: reading takes time before each answer.
    replace_file(folder / ACTIVE, active.first_of_each(MOST_IMAGES).to_bytes())
    return active


def require_chips_of_all(active: EmbeddingSet, folder: Path) -> None:
    """Raises UsageError unless everybody who takes part has chips, and the recogniser is there."""
    advice = "run `intaglio node prepare` again, or take the recipe scales out of policy.toml"
    try:
        with np.load(folder / CHIPS, allow_pickle=False) as archive:
            have = set(names_of(archive["people"]).tolist())
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"the policy lists the recipe scales, and {CHIPS} is missing or damaged; {advice}") from error
    if not (folder / MODEL).is_dir() or not have.issuperset(active.people.tolist()):
        raise UsageError(
            f"the policy lists the recipe scales, and somebody has no chips, or {MODEL} is missing; {advice}"
        )


def with_more_than(active: EmbeddingSet, most: int) -> int:
    """How many people have more images of a camera than `most`."""
    cameras = (active.people[active.profiles == profile] for profile in (REFERENCE, PROBE))
    counted = [np.unique(people, return_counts=True) for people in cameras]
    return len({str(name) for names, counts in counted for name in names[counts > most]})


def require_both_cameras(active: EmbeddingSet) -> None:
    """Raises UsageError unless everybody who takes part has images of both cameras: who has not, would add nothing."""
    people = set(active.people.tolist())
    without = people - set.intersection(
        *(set(active.people[active.profiles == profile].tolist()) for profile in (REFERENCE, PROBE))
    )
    if without:
        raise UsageError(
            f"{len(without)} of {len(people)} people lack images of the reference or the probe camera; run `intaglio "
            "node prepare` again, or leave them out"
        )


def groups_from_json(data: bytes) -> dict[str, Any]:
    """What `GROUPS` says of each person.

    Raises:
        UsageError: it is no such list, or a name is none. Says nobody's name: whoever reads a log need not learn it.
    """
    try:
        listed = json.loads(data)
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, dict):
        raise UsageError(f'{GROUPS} holds JSON such as {{"PERSON": "GROUP"}}')
    return {name_of(person): group for person, group in listed.items()}


def require_groups(active: EmbeddingSet, folder: Path) -> None:
    """Raises UsageError unless the list of groups is one, and says something of those whom it lists that can count."""
    advice = f"write {GROUPS}, or take the recipe evaluation out of policy.toml"
    listed = groups_from_json(_read(folder / GROUPS, advice))
    if not all(isinstance(group, str) for group in listed.values()):
        raise UsageError(f"{GROUPS} names a group, as text, for every person; {advice}")
    here = [person for person in np.unique(active.people).tolist() if person in listed]
    images = [len(set(active.images[active.people == person].tolist())) for person in here]
    if not here or min(images) < 2:  # noqa: PLR2004 - a reference and a probe of another image
        raise UsageError(f"{GROUPS} lists nobody who takes part, or somebody with fewer than two images; {advice}")


def _write(made: Path, files: Mapping[str, bytes]) -> None:
    """Writes all files of a preparation. A disk that fills up is left with none of them."""
    try:
        for place in (made, made / MODEL):
            place.mkdir(mode=0o700)
        for name, data in files.items():
            replace_file(made / name, data)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _remove_all_but(name: str, folder: Path) -> None:
    """Deletes what was prepared earlier, and what crashes left. No power cut brings somebody back who withdrew."""
    for stray in folder.glob(f".{_PREPARED}-*"):
        if stray.is_symlink():
            stray.unlink()
        elif stray.name != name:
            shutil.rmtree(stray)
    sync_folder(folder)


def _mark(person: str) -> str:
    # Names of people who left need not be kept in clear. Whoever holds both files can still match them.
    return hashlib.sha256(name_of(person).encode()).hexdigest()


def _marks(folder: Path) -> set[str]:
    path = folder / WITHDRAWN
    return set(path.read_text().split()) if path.exists() else set()


def _everybody(folder: Path) -> EmbeddingSet:
    return EmbeddingSet.from_bytes(_read(folder / EMBEDDINGS, "run `intaglio node prepare`"))


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; {advice}") from error
