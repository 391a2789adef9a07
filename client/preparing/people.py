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
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from client.files import replace_file, sync_folder
from client.preparing.columns import Columns, Stored
from client.preparing.joining import Block
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

Kind = TypeVar("Kind", "EmbeddingSet", "ChipSet")

_COLUMNS: Final = ("embeddings", "people", "profiles", "images")
_CHIP_COLUMNS: Final = ("reference", "probe", "people", "images")
_EMBEDDINGS_AT_ONCE: Final = 1024
_CHIPS_AT_ONCE: Final = 64
"""Rows in memory: a megabyte or two of either kind."""
_PREPARED: Final = "prepared"
_MADE_WITH: Final = "made-with.json"
_MARK: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that runs read of an organisation's people, a few rows at a time. Sensitive.

    Attributes:
        embeddings: of everybody who was prepared and has not withdrawn; gone through as often as it is asked for.
        chips: for the recipe `scales`, of the same people; None when the policy does not list it.
        made_with: the recogniser and the probe camera, which must be the same for everybody.
        model: the recogniser's files by name; empty without chips.
    """

    embeddings: Iterable[EmbeddingSet] = field(repr=False)
    chips: Iterable[ChipSet] | None = field(repr=False)
    made_with: Mapping[str, str]
    model: Mapping[str, bytes] = field(repr=False)

    @cached_property
    def people(self) -> set[str]:
        """Names."""
        return {name for rows in self.embeddings for name in rows.people.tolist()}

    def of_people(self, people: set[str]) -> Prepared:
        """The same without everybody else."""
        chips = None if self.chips is None else _Of(self.chips, sorted(people))
        return Prepared(_Of(self.embeddings, sorted(people)), chips, self.made_with, self.model)

    def blocks(self, *, chips: bool = True) -> Iterator[Block]:
        """All rows: embeddings, and then chips if there are any and they are asked for."""
        yield from self.embeddings
        yield from (chips and self.chips) or ()


@dataclass(frozen=True, eq=False, repr=False)
class _Of(Generic[Kind]):
    """Those rows of others that show some people."""

    blocks: Iterable[Kind]
    people: list[str]

    def __iter__(self) -> Iterator[Kind]:
        return (block.of_people(self.people) for block in self.blocks)


@dataclass(frozen=True, repr=False)
class TakingPart:
    """What a node that starts must know of the people who take part: how many images, and not which.

    Attributes:
        images: number of images by person and camera profile.
        several: people with at least two images that differ.
    """

    images: Mapping[tuple[str, str], int]
    several: set[str]

    @property
    def people(self) -> set[str]:
        """Names."""
        return {person for person, _ in self.images}

    def with_camera(self, profile: str, more_than: int = 0) -> set[str]:
        """Names of people with more than so many images of a camera."""
        return {person for (person, camera), count in self.images.items() if camera == profile and count > more_than}


def has_withdrawn(people: set[str], folder: Path) -> set[str]:
    """Those of `people` who withdrew."""
    marks = _marks(folder)
    return {person for person in people if _mark(person) in marks}


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Holds off every other change of who takes part."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"cannot open {folder}: {error.strerror}; name the organisation's folder") from error
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
    place, advice = place.resolve(), "prepare the images again"
    chips = None
    if (place / CHIPS).exists():
        from federation.learning.scales import ChipSet  # noqa: PLC0415 - torch takes seconds, and few organisations keep chips

        chips = Stored(place / CHIPS, _CHIP_COLUMNS, _CHIPS_AT_ONCE, ChipSet, advice)
    try:
        made_with = json.loads(_read(place / _MADE_WITH, advice))
        model = {file.name: _read(file, advice) for file in (place / MODEL).iterdir()}
    except (ValueError, RecursionError, OSError) as error:
        raise UsageError(f"{place} is damaged; {advice}") from error
    return Prepared(_embeddings_in(place / EMBEDDINGS, advice), chips, made_with, model)


def publish(blocks: Iterable[Block], made_with: Mapping[str, str], model: Mapping[str, bytes], folder: Path) -> None:
    """Puts prepared people in the place of those before, all files at one moment. Call it inside `changing`.

    Args:
        blocks: embeddings, and chips where they are kept, in the order in which they are to lie; they are taken as
            they come. Whatever they raise leaves everything as it was.
        made_with: see `Prepared`.
        model: see `Prepared`.
        folder: the organisation's.

    Raises:
        UsageError: it cannot be written.
    """
    made = folder / f".{_PREPARED}-{secrets.token_hex(8)}"
    files = {_MADE_WITH: json.dumps(dict(made_with)).encode()}
    try:
        _write(made, blocks, files | {f"{MODEL}/{name}": data for name, data in model.items()})
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
        if not (folder / EMBEDDINGS).exists():  # somebody moved it away: a node that runs has the people all the same
            (folder / ACTIVE).unlink(missing_ok=True)
            sync_folder(folder)
            return 0
        out = sum(int((rows.people == person).sum()) for rows in _embeddings_in(folder / EMBEDDINGS))
        if (folder / _PREPARED).is_symlink() and (now := prepared_people(folder)) and out:
            publish(now.of_people(now.people - {person}).blocks(), now.made_with, now.model, folder)
        refresh_active(folder)
    return out


def refresh_active(folder: Path) -> TakingPart:
    """Counts the images of those who take part, and writes `MOST_IMAGES` of each person and camera.

    A running node reads the file anew for every message.

    Raises:
        RefusedError: nobody takes part.
        UsageError: there are no embeddings, or a file cannot be read or written.
    """
    marks, stays = _marks(folder), dict[str, bool]()
    images, seen, several = Counter[tuple[str, str]](), dict[str, str](), set[str]()
    with Columns(folder) as active:
        for rows in _embeddings_in(folder / EMBEDDINGS):
            labels = list(zip(rows.people.tolist(), rows.profiles.tolist(), rows.images.tolist(), strict=True))
            for person in {person for person, _, _ in labels} - stays.keys():
                stays[person] = _mark(person) not in marks
            used = np.zeros(len(rows), dtype=np.bool_)
            for row, (person, profile, image) in enumerate(labels):
                if stays[person]:
                    # What takes no part is not there to be read either: reading takes time before each answer.
                    used[row] = images[person, profile] < MOST_IMAGES
                    images[person, profile] += 1
                    if seen.setdefault(person, image) != image:
                        several.add(person)
            active.add(_columns_of(rows, _COLUMNS, used))
        if not images:
            (folder / ACTIVE).unlink(missing_ok=True)
            sync_folder(folder)
            raise RefusedError("nobody in this organisation takes part any more, so it has nothing to add")
        replace_file(folder / ACTIVE, active.write_to)
    return TakingPart(images, several)


def require_chips_of_all(active: TakingPart, folder: Path) -> None:
    """Raises UsageError unless everybody who takes part has chips, and the recogniser is there."""
    advice = "run `intaglio node prepare` again, or take the recipe scales out of policy.toml"
    try:
        with np.load(folder / CHIPS, allow_pickle=False) as archive:
            have = set(names_of(archive["people"]).tolist())
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"the policy lists the recipe scales, and {CHIPS} is missing or damaged; {advice}") from error
    if not (folder / MODEL).is_dir() or not have.issuperset(active.people):
        raise UsageError(
            f"the policy lists the recipe scales, and somebody has no chips, or {MODEL} is missing; {advice}"
        )


def with_more_than(active: TakingPart, most: int) -> int:
    """How many people have more images of a camera than `most`."""
    return len(active.with_camera(REFERENCE, most) | active.with_camera(PROBE, most))


def require_both_cameras(active: TakingPart) -> None:
    """Raises UsageError unless everybody who takes part has images of both cameras: who has not, would add nothing."""
    people = active.people
    without = people - (active.with_camera(REFERENCE) & active.with_camera(PROBE))
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


def require_groups(active: TakingPart, folder: Path) -> None:
    """Raises UsageError unless the list of groups is one, and says something of those whom it lists that can count."""
    advice = f"write {GROUPS}, or take the recipe evaluation out of policy.toml"
    listed = groups_from_json(_read(folder / GROUPS, advice))
    if not all(isinstance(group, str) for group in listed.values()):
        raise UsageError(f"{GROUPS} names a group, as text, for every person; {advice}")
    here = active.people & listed.keys()
    if not here or not here <= active.several:  # a reference and a probe of another image
        raise UsageError(f"{GROUPS} lists nobody who takes part, or somebody with fewer than two images; {advice}")


def _write(made: Path, blocks: Iterable[Block], files: Mapping[str, bytes]) -> None:
    """Writes all files of a preparation. A disk that fills up is left with none of them."""
    pairs = Counter[str]()
    try:
        for place in (made, made / MODEL):
            place.mkdir(mode=0o700)
        with Columns(made) as embeddings, Columns(made) as chips:
            for block in blocks:
                if isinstance(block, EmbeddingSet):
                    embeddings.add(_columns_of(block, _COLUMNS))
                    continue
                used = np.zeros(len(block), dtype=np.bool_)
                for row, person in enumerate(block.people.tolist()):
                    used[row] = pairs[person] < MOST_PAIRS  # no more pictures than take part
                    pairs[person] += 1
                chips.add(_columns_of(block, _CHIP_COLUMNS, used))
            for name, columns in ((EMBEDDINGS, embeddings), (CHIPS, chips)):
                if columns:
                    replace_file(made / name, columns.write_to)
        for name, data in files.items():
            replace_file(made / name, data)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _columns_of(
    block: Block, names: tuple[str, ...], used: NDArray[np.bool_] | slice = slice(None)
) -> dict[str, NDArray[Any]]:
    return {name: getattr(block, name)[used] for name in names}


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
    """Digests of those who withdrew. Raises UsageError for a damaged file: somebody could come back."""
    path, advice = folder / WITHDRAWN, "restore it: it says who withdrew"
    marks = set(_read(path, advice).decode(errors="replace").split()) if path.exists() else set[str]()
    if not all(_MARK.fullmatch(mark) for mark in marks):
        raise UsageError(f"{path} was altered; {advice}")
    return marks


def _embeddings_in(path: Path, advice: str = "run `intaglio node prepare`") -> Iterable[EmbeddingSet]:
    return Stored(path, _COLUMNS, _EMBEDDINGS_AT_ONCE, EmbeddingSet, advice)


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; {advice}") from error
