"""Writes the log as static files, for any web server to hand out: monitors then cost the service nothing.

Only what is new is written. Bundles and tiles come first and the checkpoint last, each durable before the next step:

* a crash before the checkpoint leaves the old log whole, and files beside it that the next run finds and compares;
* a file that is there with other bytes is never overwritten: it was damaged, or this is the folder of another log;
* before the checkpoint is written, the tree is computed back from the files that a reader will find.

Narrower tiles are deleted once the full one is there and a checkpoint needs them no more; readers then take the full
one. A crash before that leaves them, which wastes some space.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from federation.errors import MalformedMessageError, ProofError, UnavailableError
from federation.transparency import Frontier, SignedCheckpoint
from federation.transparency.tiles import (
    CHECKPOINT_FILE,
    ENTRIES,
    TILE_WIDTH,
    Tile,
    bundle_to_bytes,
    nodes_from_tiles,
    tiles_of,
)
from server.files import PUBLIC, locked, make_directory, sync_directory, write_durably
from server.log.publishing import read_published
from server.log.transparency_log import TransparencyLog


def write_tiles(log: TransparencyLog, folder: Path) -> SignedCheckpoint:
    """Brings a folder up to the log's last checkpoint, with the cosignatures that its witnesses give in time.

    Args:
        log: what is written.
        folder: made when missing; of this log and nothing else.

    Returns:
        The checkpoint that the folder shows now.

    Raises:
        ProofError: the folder shows another log than this one, or a later state of it; or a file is damaged.
        UnavailableError: something cannot be written now.
        UsageError: what stands in the place of the checkpoint is none.
    """
    try:
        make_directory(folder)
        with locked(folder / ".lock"):
            return _write(log, folder)
    except OSError as error:
        raise UnavailableError(f"cannot write the log into {folder}: {error.strerror}") from error


def _write(log: TransparencyLog, folder: Path) -> SignedCheckpoint:
    shown = folder / CHECKPOINT_FILE
    log.sign(max_age_seconds=60)
    checkpoint, since = log.witnessed(), 0
    if shown.exists():
        before = read_published(shown)
        before.require_signed_by(log.key)
        log.require_begins_with(before.head)
        since = before.head.size
    new = list(tiles_of(checkpoint.head.size, since=since))
    for tile in new:
        _write_tile(log, folder, tile)
    _sync_names(folder, new)
    _require_tree(folder, checkpoint)
    # A crash before this line leaves the log as it was shown before, and files that nobody asks for yet.
    write_durably(shown, checkpoint.to_bytes(), mode=PUBLIC)
    for tile in new:
        if tile.is_full and (narrower := folder / tile.partial_folder).exists():
            shutil.rmtree(narrower)
    return checkpoint


def _write_tile(log: TransparencyLog, folder: Path, tile: Tile) -> None:
    if tile.level == ENTRIES:
        start = tile.number * TILE_WIDTH
        data = bundle_to_bytes(log.entries(start, start + tile.width))
    else:
        found = log.nodes(tile.nodes)
        if len(found) != tile.width:
            raise ProofError(f"the stored tree lacks nodes of {tile.path}; `log fsck` says more")
        data = b"".join(found[node] for node in tile.nodes)
    path = folder / tile.path
    if path.exists():
        if path.read_bytes() != data:
            raise ProofError(f"{path} is not what the log has there, and a tile never changes; see what happened to it")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, data, mode=PUBLIC)


def _sync_names(folder: Path, tiles: list[Tile]) -> None:
    """Makes every name on the way to the tiles durable, those too that a run left which died before it came to that."""
    for above in {above for tile in tiles for above in (folder / tile.path).parents if above.is_relative_to(folder)}:
        sync_directory(above)


def _require_tree(folder: Path, checkpoint: SignedCheckpoint) -> None:
    """Returns when the hashes that a reader finds give the signed root."""

    def fetch(tile: Tile) -> bytes:
        return (folder / tile.path).read_bytes()

    head = checkpoint.head
    try:
        if Frontier.read(head.size, nodes_from_tiles(head.size, fetch)).head == head:
            return
    except MalformedMessageError as error:
        raise ProofError(f"{folder}: {error}") from error
    except FileNotFoundError as error:
        raise ProofError(
            f"{error.filename} is missing, and a tile never goes; write the log into a new folder"
        ) from error
    raise ProofError(f"the tiles in {folder} do not give the signed root; write the log into a new folder")
