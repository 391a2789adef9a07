"""Tiles and bundles lie where C2SP puts them, hold the hashes of RFC 6962, and damaged ones do not parse."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.transparency import Frontier, consistency_proof, inclusion_proof, verify_consistency
from federation.transparency.tiles import (
    ENTRIES,
    Tile,
    bundle_from_bytes,
    bundle_to_bytes,
    nodes_from_tiles,
    tile_at,
    tile_from_bytes,
    tiles_of,
)
from federation.transparency.tree import verify_inclusion
from tests.merkle import hash_tiles
from tests.transparency_log import MemoryLog

SIZES = [0, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_793]
LEAVES = [b"%d" % n for n in range(max(SIZES))]


@pytest.fixture(scope="module")
def nodes():
    return Frontier().grow(LEAVES)[1]


@pytest.mark.parametrize("size", SIZES)
def test_tiles_hold_the_hashes_that_c2sp_says_by_brute_force(nodes, size):
    made = {tile.path: b"".join(nodes[node] for node in tile.nodes) for tile in tiles_of(size) if tile.level != ENTRIES}
    assert made == hash_tiles(LEAVES[:size])


def test_the_example_of_c2sp_of_70000_entries():
    tiles = [tile for tile in tiles_of(70_000) if tile.level != ENTRIES]
    widths = {(level, full): 0 for level in range(3) for full in (True, False)}
    for tile in tiles:
        widths[tile.level, tile.is_full] += 1
    assert widths == {(0, True): 273, (0, False): 1, (1, True): 1, (1, False): 1, (2, True): 0, (2, False): 1}
    assert {tile.path for tile in tiles if not tile.is_full} == {
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    }


@pytest.mark.parametrize(
    ("number", "size", "path"),
    [
        (0, 1, "tile/entries/000.p/1"),
        (0, 256, "tile/entries/000"),
        (1, 257, "tile/entries/001.p/1"),
        (999, 256_000, "tile/entries/999"),
        (1000, 256_256, "tile/entries/x001/000"),
        (1234067, 315_921_408, "tile/entries/x001/x234/067"),
    ],
)
def test_bundles_lie_where_c2sp_puts_them(number, size, path):
    assert tile_at(ENTRIES, number, size).path == path


def test_there_is_no_tile_beyond_the_log():
    for level, number, size in [(ENTRIES, 0, 0), (ENTRIES, 1, 256), (ENTRIES, -1, 5), (1, 0, 255), (0, 1, 256)]:
        with pytest.raises(UsageError, match=f"no tile {number} of level {level}"):
            tile_at(level, number, size)
    for number, width in [(-1, 1), (0, 0), (0, 257)]:
        with pytest.raises(UsageError, match="1 to 256 hashes"):
            Tile(0, number, width)
    with pytest.raises(UsageError, match="does not come after"):
        list(tiles_of(5, since=6))


@given(st.lists(st.integers(0, 70_000), min_size=2, max_size=4).map(sorted))
@settings(max_examples=40)
def test_growing_in_steps_names_every_tile_that_a_reader_of_the_last_step_needs(steps):
    named = {tile for since, size in zip([0, *steps], steps, strict=False) for tile in tiles_of(size, since=since)}
    assert set(tiles_of(steps[-1])) <= named


def test_what_an_older_log_had_is_not_named_again():
    for since, size in [(300, 300), (256, 300), (300, 700)]:
        assert not set(tiles_of(size, since=since)) & set(tiles_of(since))


# ---------------------------------------------------------------------- proofs out of tiles
def served(size, nodes, lie=None):
    files = {tile: b"".join(nodes[node] for node in tile.nodes) for tile in tiles_of(size) if tile.level != ENTRIES}
    return nodes_from_tiles(size, lambda tile: (lie or {}).get(tile, files[tile]))


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_reader_of_tiles_proves_inclusion_growth_and_the_root(nodes, size):
    read, head = served(size, nodes), Frontier().grow(LEAVES[:size])[0].head
    assert Frontier.read(size, read).head == head
    for index in {0, size // 3, size - 1}:
        leaf = hashlib.sha256(b"\0" + LEAVES[index]).digest()
        verify_inclusion(leaf, index, head, inclusion_proof(index, size, read))
    for old in {1, size // 2 or 1, max(size - 1, 1), size}:
        verify_consistency(Frontier().grow(LEAVES[:old])[0].head, head, consistency_proof(old, size, read))


def test_each_tile_is_fetched_once_as_wide_as_it_is_in_that_log_and_only_where_it_is_needed(nodes):
    fetched = []

    def fetch(tile):
        fetched.append(tile)
        return b"".join(nodes[node] for node in tile.nodes)

    read = nodes_from_tiles(600, fetch)
    wanted = [(0, 3), (3, 70), (8, 1), (0, 599), (7, 1), (0, 4)]
    assert read(wanted) == {node: nodes[node] for node in wanted}
    assert fetched == [Tile(0, 0, 256), Tile(0, 2, 88), Tile(1, 0, 2)]
    assert read([(0, 255), (8, 0), (4, 33)]) == {node: nodes[node] for node in [(0, 255), (8, 0), (4, 33)]}
    assert fetched[3:] == []
    assert read([(0, 300)]) == {(0, 300): nodes[0, 300]}
    assert fetched[3:] == [Tile(0, 1, 256)]
    assert read([(9, 1), (0, 600)]) == {}


def test_the_tiles_of_a_log_come_with_bundles_first_and_each_once():
    assert list(tiles_of(600, since=300)) == [
        Tile(ENTRIES, 1, 256),
        Tile(ENTRIES, 2, 88),
        Tile(0, 1, 256),
        Tile(0, 2, 88),
        Tile(1, 0, 2),
    ]
    assert list(tiles_of(300, since=299)) == [Tile(ENTRIES, 1, 44), Tile(0, 1, 44)]
    assert list(tiles_of(0)) == []
    assert [tile.path for tile in tiles_of(257)] == [
        "tile/entries/000",
        "tile/entries/001.p/1",
        "tile/0/000",
        "tile/0/001.p/1",
        "tile/1/000.p/1",
    ]


def test_a_tile_that_lies_proves_nothing(nodes):
    first = tile_at(0, 0, 600)
    read = served(600, nodes, {first: bytes(32 * 256)})
    with pytest.raises(ProofError, match="is not in this tree"):
        verify_inclusion(
            hashlib.sha256(b"\0" + LEAVES[300]).digest(),
            300,
            Frontier().grow(LEAVES[:600])[0].head,
            inclusion_proof(300, 600, served(600, nodes, {tile_at(0, 1, 600): bytes(32 * 256)})),
        )
    assert Frontier.read(600, served(600, nodes, {tile_at(1, 0, 600): bytes(64)})).head != (
        Frontier().grow(LEAVES[:600])[0].head
    )
    assert read([(0, 3)]) == {(0, 3): bytes(32)}


def test_a_node_that_is_not_complete_is_not_read(nodes):
    assert served(300, nodes)([(8, 1), (9, 0), (0, 300), (2, 74)]) == {(2, 74): nodes[2, 74]}


@pytest.mark.parametrize("damaged", [b"", bytes(31), bytes(33), bytes(32), bytes(32 * 257)])
def test_a_tile_of_another_width_does_not_parse(damaged):
    with pytest.raises(MalformedMessageError, match=r"000.p/2 is no tile of 2 hashes"):
        tile_from_bytes(damaged, Tile(0, 0, 2))


def test_a_wider_tile_serves_for_a_narrower_one():
    data = b"".join(bytes([n]) * 32 for n in range(5))
    assert tile_from_bytes(data, Tile(0, 0, 2)) == [bytes(32), b"\1" * 32]


# ---------------------------------------------------------------------- bundles
def test_bundles_come_back_whole_and_damaged_ones_do_not():
    leaves = MemoryLog().leaves
    data = bundle_to_bytes(leaves)
    assert data == b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in leaves)
    assert bundle_from_bytes(data) == leaves
    for damaged in (b"", data[:-1], data + b"\0", b"\0", bytes(2 * 257)):
        with pytest.raises(MalformedMessageError, match="1 to 256 entries"):
            bundle_from_bytes(damaged)
    for entries in ([], [b""] * 257, [bytes(65_536)]):
        with pytest.raises(UsageError, match="1 to 256 entries"):
            bundle_to_bytes(entries)


def test_a_bundle_is_full_with_256_entries_of_the_longest():
    full = [b"%d" % place for place in range(256)]
    assert bundle_from_bytes(bundle_to_bytes(full)) == full
    assert bundle_from_bytes(bundle_to_bytes([bytes(65_535), b"x"])) == [bytes(65_535), b"x"]
    with pytest.raises(MalformedMessageError, match="1 to 256 entries"):
        bundle_from_bytes(bundle_to_bytes(full) + b"\0\1x")


@given(st.binary(max_size=600))
def test_any_bytes_give_a_bundle_that_writes_them_again_or_a_malformed_message(data):
    try:
        entries = bundle_from_bytes(data)
    except MalformedMessageError:
        return
    assert bundle_to_bytes(entries) == data
