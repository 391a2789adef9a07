"""A log as plain files: the checkpoint, and bundles of 256 entries. Pure.

Any web server, or a copy on a disk, can hand out such a folder. The last bundle is partial and has its width in its
name, so that no file ever changes but the checkpoint.

Source: https://c2sp.org/tlog-tiles, the checkpoint and the entry bundles. The hash tiles are left out: who reads all
entries computes the tree.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.errors import MalformedMessageError, UsageError
from federation.transparency.proofs import MAX_ENTRY_BYTES

BUNDLE_ENTRIES = 256
CHECKPOINT_FILE = "checkpoint"
_LENGTH_BYTES = 2


def bundle_path(number: int, log_size: int) -> str:
    """Where bundle `number` of a log of `log_size` entries lies.

    >>> bundle_path(1234067, 1234067 * 256 + 256)
    'tile/entries/x001/x234/067'
    >>> bundle_path(0, 70)
    'tile/entries/000.p/70'

    Raises:
        UsageError: there is no such bundle.
    """
    width = min(log_size - number * BUNDLE_ENTRIES, BUNDLE_ENTRIES)
    if number < 0 or width <= 0:
        raise UsageError(f"a log of {log_size} entries has no bundle {number}")
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[start : start + 3] for start in range(0, len(digits), 3)]
    path = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return f"tile/entries/{path}" + ("" if width == BUNDLE_ENTRIES else f".p/{width}")


def bundle_to_bytes(entries: Sequence[bytes]) -> bytes:
    """Each entry with its length in two bytes before it.

    Raises:
        UsageError: too many entries, or one too long.
    """
    if not 0 < len(entries) <= BUNDLE_ENTRIES or any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
        raise UsageError(f"a bundle has 1 to {BUNDLE_ENTRIES} entries of at most {MAX_ENTRY_BYTES} bytes")
    return b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)


def bundle_from_bytes(data: bytes) -> list[bytes]:
    """Reads what `bundle_to_bytes` wrote.

    Raises:
        MalformedMessageError: not a bundle.
    """
    entries, at = list[bytes](), 0
    while at < len(data):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "big")
        entries.append(data[start:at])
    if at != len(data) or not 0 < len(entries) <= BUNDLE_ENTRIES:
        raise MalformedMessageError(f"a bundle has 1 to {BUNDLE_ENTRIES} entries, each with its length before it")
    return entries
