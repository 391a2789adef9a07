"""A log as plain files: the checkpoint, tiles of 256 hashes, and bundles of 256 entries. Pure.

Any web server, or a copy on a disk, can hand out such a folder. A *tile* of level l holds hashes of 256^l entries each,
so the tree of RFC 6962 has every eighth of its levels in tiles, and the levels between are hashed from them. A *bundle*
holds the entries behind a tile of level 0. What is not full has its width in its name, so that no file ever changes but
the checkpoint.

A bundle holds the leaves as they are logged, and nothing else: they are public anyway, and openings are no leaves.

Source: https://c2sp.org/tlog-tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from federation.errors import MalformedMessageError, UsageError
from federation.transparency.proofs import MAX_ENTRY_BYTES
from federation.transparency.tree import HASH_BYTES, Node, NodeReader, node_hash

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
MAX_TILE_BYTES = TILE_WIDTH * HASH_BYTES
_LENGTH_BYTES = 2
MAX_BUNDLE_BYTES = TILE_WIDTH * (_LENGTH_BYTES + MAX_ENTRY_BYTES)
CHECKPOINT_FILE = "checkpoint"
ENTRIES = "entries"
"""What stands in the place of a level in the path of a bundle."""


@dataclass(frozen=True)
class Tile:
    """One file of a log.

    Attributes:
        level: of its hashes, 0 to 7 for any log; of a bundle `ENTRIES`.
        number: from the left, from 0.
        width: hashes or entries in it, 1 to 256.
    """

    level: int | str
    number: int
    width: int

    def __post_init__(self) -> None:
        if self.number < 0 or not 0 < self.width <= TILE_WIDTH:
            raise UsageError(f"a tile has a number from 0 on and 1 to {TILE_WIDTH} hashes")

    @property
    def path(self) -> str:
        """Where it lies.

        >>> Tile(ENTRIES, 1234067, 256).path
        'tile/entries/x001/x234/067'
        >>> Tile(0, 0, 70).path
        'tile/0/000.p/70'
        """
        return self.full_path if self.is_full else f"{self.partial_folder}/{self.width}"

    @property
    def full_path(self) -> str:
        """Where it lies once it is full."""
        digits = str(self.number)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[start : start + 3] for start in range(0, len(digits), 3)]
        return "/".join(["tile", str(self.level), *(f"x{group}" for group in groups[:-1]), groups[-1]])

    @property
    def partial_folder(self) -> str:
        """Where its narrower ones lie, while it fills."""
        return f"{self.full_path}.p"

    @property
    def is_full(self) -> bool:
        """Whether it never grows any more."""
        return self.width == TILE_WIDTH

    @property
    def nodes(self) -> list[Node]:
        """Of which its hashes are. Not for bundles."""
        if isinstance(self.level, str):
            raise UsageError("a bundle holds entries and no hashes")
        start = self.number * TILE_WIDTH
        return [(self.level * TILE_HEIGHT, index) for index in range(start, start + self.width)]


def tiles_of(size: int, *, since: int = 0) -> Iterator[Tile]:
    """The tiles of a log of `size` entries that one of `since` did not have yet, bundles first.

    Raises:
        UsageError: not 0 <= since <= size.
    """
    if not 0 <= since <= size:
        raise UsageError(f"a log of {size} entries does not come after one of {since}")
    yield from _row(ENTRIES, size, since)
    for level in count():
        hashes = size >> (TILE_HEIGHT * level)
        if not hashes:
            return
        yield from _row(level, hashes, since >> (TILE_HEIGHT * level))


def tile_at(level: int | str, number: int, size: int) -> Tile:
    """The tile with that number, as wide as it is in a log of `size` entries.

    Raises:
        UsageError: there is none.
    """
    hashes = size if isinstance(level, str) else size >> (TILE_HEIGHT * level)
    if not 0 <= number * TILE_WIDTH < hashes:
        raise UsageError(f"a log of {size} entries has no tile {number} of level {level}")
    return Tile(level, number, min(hashes - number * TILE_WIDTH, TILE_WIDTH))


def _row(level: int | str, hashes: int, already: int) -> Iterator[Tile]:
    for number in range(already // TILE_WIDTH, -(-hashes // TILE_WIDTH)):
        width = min(hashes - number * TILE_WIDTH, TILE_WIDTH)
        if width > already - number * TILE_WIDTH:
            yield Tile(level, number, width)


# ---------------------------------------------------------------------- hashes


def tile_from_bytes(data: bytes, tile: Tile) -> list[bytes]:
    """The hashes of a tile; of a wider one, the first.

    Raises:
        MalformedMessageError: there are fewer, or it is no tile.
    """
    if len(data) % HASH_BYTES or not tile.width * HASH_BYTES <= len(data) <= MAX_TILE_BYTES:
        raise MalformedMessageError(f"{tile.path} is no tile of {tile.width} hashes")
    return [data[at : at + HASH_BYTES] for at in range(0, tile.width * HASH_BYTES, HASH_BYTES)]


def nodes_from_tiles(size: int, fetch: Callable[[Tile], bytes]) -> NodeReader:
    """Reads nodes of a tree of `size` entries out of its tiles.

    Nothing of it is verified: a proof is, against a signed root.

    Args:
        size: of the tree.
        fetch: the bytes of a tile, or of a wider one that begins with it.

    Returns:
        A reader, which raises `MalformedMessageError` for bytes that are no tile and keeps what it fetched.
    """
    kept = dict[Tile, list[bytes]]()

    def hashes_of(tile: Tile) -> list[bytes]:
        if tile not in kept:
            kept[tile] = tile_from_bytes(fetch(tile), tile)
        return kept[tile]

    def read(wanted: Sequence[Node]) -> Mapping[Node, bytes]:
        found = dict[Node, bytes]()
        for level, index in wanted:
            if (index + 1) << level > size:
                continue  # no complete node of this tree
            row, height = divmod(level, TILE_HEIGHT)
            number, offset = divmod(index << height, TILE_WIDTH)
            part = hashes_of(tile_at(row, number, size))[offset : offset + (1 << height)]
            while len(part) > 1:
                part = [node_hash(left, right) for left, right in zip(part[::2], part[1::2], strict=True)]
            found[level, index] = part[0]
        return found

    return read


# ---------------------------------------------------------------------- entries


def bundle_to_bytes(entries: Sequence[bytes]) -> bytes:
    """Each entry with its length in two bytes before it.

    Raises:
        UsageError: too many entries, or one too long.
    """
    if not 0 < len(entries) <= TILE_WIDTH or any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
        raise UsageError(f"a bundle has 1 to {TILE_WIDTH} entries of at most {MAX_ENTRY_BYTES} bytes")
    return b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)


def bundle_from_bytes(data: bytes) -> list[bytes]:
    """Reads what `bundle_to_bytes` wrote.

    Raises:
        MalformedMessageError: not a bundle.
    """
    entries, at = list[bytes](), 0
    while at < len(data) and len(entries) <= TILE_WIDTH:
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "big")
        entries.append(data[start:at])
    if at != len(data) or not 0 < len(entries) <= TILE_WIDTH:
        raise MalformedMessageError(f"a bundle has 1 to {TILE_WIDTH} entries, each with its length before it")
    return entries
