"""A log's tree and tiles by the texts of RFC 6962 and C2SP, for tests to judge ours by. It shares no code with them."""

from __future__ import annotations

import hashlib


def mth(leaves):
    """RFC 6962 section 2.1, by recursion."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + mth(leaves[:split]) + mth(leaves[split:])).digest()


def hash_tiles(leaves):
    """Path and content of every tile: MTH(D[(n 256 + i) 256^l : ...])."""
    files = {}
    for level in range(3):
        span = 256**level
        hashes = [mth(leaves[at * span : at * span + span]) for at in range(len(leaves) // span)]
        for number in range(-(-len(hashes) // 256)):
            part = hashes[number * 256 : number * 256 + 256]
            end = "" if len(part) == 256 else f".p/{len(part)}"
            files[f"tile/{level}/{number:03d}{end}"] = b"".join(part)
    return files
