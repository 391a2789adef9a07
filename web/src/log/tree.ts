/** The Merkle tree of RFC 6962: what a reader checks. As `federation/transparency/tree.py`. */

import { type Bytes, concat, equal, sha256 } from '../bytes'
import { ProofError } from '../errors'

/** A tree, named by its size and root. */
export interface TreeHead {
  readonly size: number
  readonly root: Uint8Array
}

/** Of a tree without entries. */
export const EMPTY_ROOT = sha256(new Uint8Array())

/** Hash of one entry. */
export const leafHash = (entry: Uint8Array): Bytes => sha256(concat(Uint8Array.of(0), entry))
const nodeHash = (left: Uint8Array, right: Uint8Array): Bytes => sha256(concat(Uint8Array.of(1), left, right))

/**
 * Returns when the entry with hash `leaf` is number `index` of a tree.
 *
 * @throws ProofError it is not proved.
 */
export function verifyInclusion(leaf: Uint8Array, index: number, head: TreeHead, proof: readonly Uint8Array[]): void {
  if (!(index >= 0 && index < head.size)) throw new ProofError(`entry ${index} cannot be in a tree of ${head.size}`)
  const { siblings } = path(head.size, index, (low, high) => high - low === 1)
  requireHashes([leaf, ...proof], 1 + siblings.length)
  const root = proof.reduce<Uint8Array>((hash, sibling, i) => (siblings[i] ? nodeHash(sibling, hash) : nodeHash(hash, sibling)), leaf)
  if (!equal(root, head.root)) throw new ProofError(`entry ${index} is not in this tree of ${head.size}`)
}

/**
 * Returns when `newer` begins with all entries of `older`, in order.
 *
 * @throws ProofError it is not proved.
 */
export function verifyConsistency(older: TreeHead, newer: TreeHead, proof: readonly Uint8Array[]): void {
  if (!(older.size > 0 && older.size <= newer.size)) {
    throw new ProofError(`a tree of ${older.size} cannot be shown to have grown into one of ${newer.size}`)
  }
  const { low, siblings } = path(newer.size, older.size - 1, (_, high) => high === older.size)
  const hashes = low === 0 ? [older.root, ...proof] : [...proof] // a part from 0 on is the whole older tree
  requireHashes(hashes, 1 + siblings.length)
  let [oldRoot, newRoot] = [hashes[0], hashes[0]]
  hashes.slice(1).forEach((sibling, i) => {
    // What stands left of the old edge is part of both trees.
    ;[oldRoot, newRoot] = siblings[i] ? [nodeHash(sibling, oldRoot), nodeHash(sibling, newRoot)] : [oldRoot, nodeHash(newRoot, sibling)]
  })
  if (!equal(oldRoot, older.root) || !equal(newRoot, newer.root)) {
    throw new ProofError(`the tree of ${newer.size} entries does not begin with the tree of ${older.size}: the log forked`)
  }
}

/** From the part that ends the path up to the root: where that part begins, and whether each sibling stands left. */
function path(size: number, leaf: number, isEnd: (low: number, high: number) => boolean): { low: number; siblings: boolean[] } {
  let [low, high] = [0, size]
  const siblings: boolean[] = []
  while (!isEnd(low, high)) {
    let half = 1
    while (2 * half < high - low) half *= 2
    const right = leaf >= low + half
    siblings.unshift(right)
    ;[low, high] = right ? [low + half, high] : [low, low + half]
  }
  return { low, siblings }
}

function requireHashes(hashes: readonly Uint8Array[], count: number): void {
  if (hashes.length !== count) throw new ProofError(`the proof has ${hashes.length} hashes where ${count} are needed`)
  if (hashes.some((hash) => hash.length !== 32)) throw new ProofError('every hash of a proof has 32 bytes')
}
