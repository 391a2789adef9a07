/**
 * The byte formats of the one-bit match. See docs/formats.md and `federation/onebit/wire.py`.
 *
 * Any bytes give a value or MalformedMessageError, and what parses serialises to the same bytes.
 */

import { type Bytes, concat } from '../bytes'
import { MalformedMessageError } from '../errors'
import { PROFILE, SLOTS } from './parameters'

export const TOKEN_BYTES = 32
export const SEED_BYTES = 64
export const HEAD_COEFFICIENTS = 4
const DIGEST_BYTES = 32
const COUNT_BYTES = 2
const MAGIC = [0x49, 0x54, 0x47, 0x31] // ITG1

/** What a message carries. */
export const Kind = { PUBLIC_KEY: 1, CIPHERTEXT: 2, REPLY: 3 } as const
export type Kind = (typeof Kind)[keyof typeof Kind]

const preamble = (kind: Kind): Bytes => Uint8Array.from([...MAGIC, kind, PROFILE.number, 0, 0])
const PREAMBLE_BYTES = 8

/** Length of every seeded message. */
export const SEEDED_LENGTH =
  PREAMBLE_BYTES + SEED_BYTES + PROFILE.ringDimension * PROFILE.primeBytes.reduce<number>((sum, width) => sum + width, 0)

function body(data: Uint8Array, kind: Kind): Uint8Array {
  if (data.length < PREAMBLE_BYTES || preamble(kind).some((byte, i) => data[i] !== byte)) {
    throw new MalformedMessageError('not a message of this kind, version and profile')
  }
  return data.subarray(PREAMBLE_BYTES)
}

function packResidues(residues: BigUint64Array, width: number): Bytes {
  const words = new Uint8Array(residues.buffer, residues.byteOffset, residues.byteLength)
  const packed = new Uint8Array(residues.length * width)
  for (let i = 0; i < residues.length; i++) packed.set(words.subarray(8 * i, 8 * i + width), width * i)
  return packed
}

function unpackResidues(data: Uint8Array, prime: bigint, width: number): BigUint64Array {
  const residues = new BigUint64Array(data.length / width)
  const words = new Uint8Array(residues.buffer)
  for (let i = 0; i < residues.length; i++) words.set(data.subarray(width * i, width * (i + 1)), 8 * i)
  if (residues.some((residue) => residue >= prime)) throw new MalformedMessageError('a residue is not below its prime')
  return residues
}

/** A fresh ciphertext or public key: the first polynomial, and the seed of the second. */
export class SeededMessage {
  readonly kind: Kind
  readonly seed: Uint8Array
  /** For each prime, N residues in NTT form. */
  readonly residues: readonly BigUint64Array[]

  constructor(kind: Kind, seed: Uint8Array, residues: readonly BigUint64Array[]) {
    this.kind = kind
    this.seed = seed
    this.residues = residues
  }

  /** Serialises. */
  toBytes(): Bytes {
    return concat(preamble(this.kind), this.seed, ...this.residues.map((row, i) => packResidues(row, PROFILE.primeBytes[i])))
  }

  /**
   * Parses.
   *
   * @throws MalformedMessageError wrong preamble, length or residue.
   */
  static fromBytes(data: Uint8Array, kind: Kind): SeededMessage {
    const inner = body(data, kind)
    if (data.length !== SEEDED_LENGTH) {
      throw new MalformedMessageError(`a message of this kind has ${SEEDED_LENGTH} bytes, got ${data.length}`)
    }
    let offset = SEED_BYTES
    const residues = PROFILE.dataPrimes.map((prime, i) => {
      const width = PROFILE.primeBytes[i]
      const start = offset
      offset += PROFILE.ringDimension * width
      return unpackResidues(inner.subarray(start, offset), prime, width)
    })
    return new SeededMessage(kind, inner.slice(0, SEED_BYTES), residues)
  }
}

/** What the server answers: four coefficients, two polynomials, and the accept table. */
export class Reply {
  /** Coefficients 0..3 of the first component, in coefficient form, flooded. */
  readonly head: BigUint64Array
  /** Second component, NTT form. */
  readonly second: BigUint64Array
  /** Third component, NTT form. */
  readonly third: BigUint64Array
  /** SHA-256 of the session's token. */
  readonly tokenDigest: Uint8Array
  /** 32 bytes for each accepted distance: the token under one pad each, shuffled. */
  readonly table: Uint8Array

  private constructor(residues: BigUint64Array, tokenDigest: Uint8Array, table: Uint8Array) {
    this.head = residues.subarray(0, HEAD_COEFFICIENTS)
    this.second = residues.subarray(HEAD_COEFFICIENTS, HEAD_COEFFICIENTS + PROFILE.ringDimension)
    this.third = residues.subarray(HEAD_COEFFICIENTS + PROFILE.ringDimension)
    this.tokenDigest = tokenDigest
    this.table = table
  }

  /** Serialises. */
  toBytes(): Bytes {
    const width = PROFILE.primeBytes[0]
    const entries = this.table.length / TOKEN_BYTES
    const polynomials = [this.head, this.second, this.third].map((part) => packResidues(part, width))
    const count = Uint8Array.from([entries & 0xff, entries >> 8])
    return concat(preamble(Kind.REPLY), ...polynomials, this.tokenDigest, count, this.table)
  }

  /**
   * Parses.
   *
   * @throws MalformedMessageError wrong preamble, length, residue or table size.
   */
  static fromBytes(data: Uint8Array): Reply {
    const inner = body(data, Kind.REPLY)
    const width = PROFILE.primeBytes[0]
    const digestAt = width * (HEAD_COEFFICIENTS + 2 * PROFILE.ringDimension)
    const tableAt = digestAt + DIGEST_BYTES + COUNT_BYTES
    if (inner.length < tableAt) throw new MalformedMessageError(`a reply of ${data.length} bytes is too short`)
    const entries = inner[tableAt - 2] | (inner[tableAt - 1] << 8)
    if (entries < 1 || entries > SLOTS || inner.length !== tableAt + entries * TOKEN_BYTES) {
      throw new MalformedMessageError('the length of a reply does not fit its table')
    }
    return new Reply(
      unpackResidues(inner.subarray(0, digestAt), PROFILE.dataPrimes[0], width),
      inner.slice(digestAt, digestAt + DIGEST_BYTES),
      inner.slice(tableAt),
    )
  }
}
