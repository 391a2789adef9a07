/** A log of the tests' own: its trees and proofs are the definitions of RFC 6962, its notes those of C2SP, word for word. */

import { ed25519 } from '@noble/curves/ed25519.js'
import { sha256 } from '@noble/hashes/sha2.js'

import { type Bytes, concat, hex, utf8 } from '../src/bytes'
import type { LogReceipt } from '../src/log/entries'

const base64 = (data: Uint8Array): string => btoa(String.fromCharCode(...data))
const sorted = (value: any): any =>
  Array.isArray(value) ? value.map(sorted) : value !== null && typeof value === 'object' ? Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])])) : value
/** JSON with sorted keys: of ASCII, as all is that the tests put into a log. */
export const json = (value: unknown): Bytes => utf8(JSON.stringify(sorted(value)))

const half = (n: number): number => 2 ** Math.floor(Math.log2(n - 1))
/** MTH of section 2.1. */
export const root = (d: readonly Uint8Array[]): Uint8Array => d.length === 0
  ? sha256(new Uint8Array())
  : d.length === 1 ? sha256(concat(Uint8Array.of(0), d[0])) : sha256(concat(Uint8Array.of(1), root(d.slice(0, half(d.length))), root(d.slice(half(d.length)))))
/** PATH of section 2.1.1. */
export const path = (m: number, d: readonly Uint8Array[]): Uint8Array[] => {
  if (d.length === 1) return []
  const [left, right] = [d.slice(0, half(d.length)), d.slice(half(d.length))]
  return m < left.length ? [...path(m, left), root(right)] : [...path(m - left.length, right), root(left)]
}
const subproof = (m: number, d: readonly Uint8Array[], isWhole: boolean): Uint8Array[] => {
  if (m === d.length) return isWhole ? [] : [root(d)]
  const [left, right] = [d.slice(0, half(d.length)), d.slice(half(d.length))]
  return m <= left.length ? [...subproof(m, left, isWhole), root(right)] : [...subproof(m - left.length, right, false), root(left)]
}
/** PROOF of section 2.1.2. */
export const proof = (m: number, d: readonly Uint8Array[]): Uint8Array[] => subproof(m, d, true)

/** Whoever signs notes: a log, or a witness. */
export class Signer {
  readonly #secret: Uint8Array
  readonly #publicKey: Uint8Array

  constructor(readonly name: string, seed: number) {
    this.#secret = new Uint8Array(32).fill(seed)
    this.#publicKey = ed25519.getPublicKey(this.#secret)
  }

  #id(kind: number): Uint8Array {
    return sha256(concat(utf8(`${this.name}\n`), Uint8Array.of(kind), this.#publicKey)).slice(0, 4)
  }

  /** name+key id+key. */
  key(kind = 1): string {
    return `${this.name}+${hex(this.#id(kind))}+${base64(concat(Uint8Array.of(kind), this.#publicKey))}`
  }

  plain(text: string): string {
    return `\u2014 ${this.name} ${base64(concat(this.#id(1), ed25519.sign(utf8(text), this.#secret)))}\n`
  }

  dated(text: string, time: bigint | number): string {
    const stamp = new Uint8Array(8)
    new DataView(stamp.buffer).setBigUint64(0, BigInt(time))
    return `\u2014 ${this.name} ${base64(concat(this.#id(4), stamp, ed25519.sign(utf8(`cosignature/v1\ntime ${time}\n${text}`), this.#secret)))}\n`
  }
}

/** A checkpoint of some leaves, with lines of signatures. */
export const noteOf = (origin: string, leaves: readonly Uint8Array[], lines: (text: string) => string, more = ''): string => {
  const text = `${origin}\n${leaves.length}\n${base64(root(leaves))}\n${more}`
  return `${text}\n${lines(text)}`
}

/** A log in which something happens to people. */
export class Log {
  readonly leaves: Bytes[] = []
  readonly openings: Bytes[] = []

  constructor(readonly signer = new Signer('a.log', 1), readonly time = 1_900_000_000) {}

  /** Adds what happened, and says where. */
  add(kind: string, facts: Readonly<Record<string, unknown>>, clear: Readonly<Record<string, unknown>> = {}): number {
    const salt = new Uint8Array(32).fill(this.leaves.length + 1)
    const commitment = hex(sha256(concat(utf8('intaglio-log-commitment/1\0'), utf8(`${kind}\0`), salt, json(facts))))
    this.openings.push(json({ kind, facts, salt: hex(salt) }))
    return this.leaves.push(json({ kind, time: this.time - 5, version: 1, commitment, ...clear })) - 1
  }

  /** Adds what the operator declares, and says where. */
  declare(kind: string, content: string): number {
    this.openings.push(new Uint8Array())
    return this.leaves.push(json({ kind, time: this.time - 5, version: 1, content: btoa(content) })) - 1
  }

  /** The checkpoint of the first `size` entries. */
  note(size = this.leaves.length, time = this.time): string {
    return noteOf(this.signer.name, this.leaves.slice(0, size), (text) => this.signer.plain(text) + this.signer.dated(text, time))
  }

  /** That an entry stands there, in a tree of `size` that grew out of one of `since`. */
  receipt(position: number, { since = 0, size = this.leaves.length, time = this.time } = {}): LogReceipt {
    const leaves = this.leaves.slice(0, size)
    const lines = ['c2sp.org/tlog-proof@v1', `extra ${base64(leaves[position])}`, `index ${position}`, ...path(position, leaves).map(base64)]
    return { logged: utf8(`${lines.join('\n')}\n\n${this.note(size, time)}`), opening: this.openings[position], consistency: since === 0 ? [] : proof(since, leaves) }
  }
}
