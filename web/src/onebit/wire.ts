/**
 * The byte formats of the one-bit match. See docs/formats.md and `federation/onebit/wire.py`.
 *
 * Any bytes give a value or MalformedMessageError, and what parses serialises to the same bytes.
 */

import { type Bytes, concat, packBits } from '../bytes'
import { MalformedMessageError } from '../errors'
import type { Parameters } from './parameters'

export const TOKEN_BYTES = 16
export const SALT_BYTES = 16
export const TEMPLATE_SALT_BYTES = 32
/** Length of the seed that SEAL expands to the second polynomial of a fresh ciphertext. */
export const SEED_BYTES = 64
const LABEL_BYTES = 16
const DIGEST_BYTES = 32
const COUNT_BYTES = 2
const MAGIC = [0x49, 0x54, 0x47, 0x32] // ITG2
const PREAMBLE_BYTES = 8

/** What a message carries. */
const Kind = { TEMPLATE: 1, PROBE: 2, REPLY: 3 } as const

const preamble = (kind: number, parameters: Parameters): Bytes => Uint8Array.from([...MAGIC, kind, parameters.number, 0, 0])

function body(data: Uint8Array, kind: number, parameters: Parameters): Uint8Array {
  if (preamble(kind, parameters).some((byte, i) => data[i] !== byte)) {
    throw new MalformedMessageError('not a message of this kind, version and parameter set')
  }
  return data.subarray(PREAMBLE_BYTES)
}

const bitsOf = (prime: bigint): number => prime.toString(2).length
const packedLength = ({ ringDimension }: Parameters, prime: bigint): number => (ringDimension * bitsOf(prime)) / 8

/** Residues, bit by bit, the lowest first: n times the bits of `prime`, n a multiple of eight. */
function packResidues(residues: BigUint64Array, prime: bigint): Bytes {
  const bits = bitsOf(prime)
  const length = (residues.length * bits) / 8
  const words = new DataView(new ArrayBuffer(length + 8)) // the last words reach over the end
  residues.forEach((residue, i) => {
    const at = i * bits
    words.setBigUint64(at >> 3, words.getBigUint64(at >> 3, true) | (residue << BigInt(at & 7)), true)
  })
  return new Uint8Array(words.buffer, 0, length)
}

/** Reverses `packResidues`. Throws MalformedMessageError when a residue is not below `prime`. */
function unpackResidues(data: Uint8Array, prime: bigint): BigUint64Array {
  const bits = bitsOf(prime)
  const words = new DataView(concat(data, new Uint8Array(8)).buffer)
  const residues = new BigUint64Array((8 * data.length) / bits)
  for (let i = 0; i < residues.length; i++) {
    const at = i * bits
    residues[i] = BigInt.asUintN(bits, words.getBigUint64(at >> 3, true) >> BigInt(at & 7))
  }
  if (residues.some((residue) => residue >= prime)) throw new MalformedMessageError('a residue is not below its prime')
  return residues
}

/** What a server stores of a face: a salt and the code under a one-time pad, m zeros and ones. A device only writes it. */
export function paddedTemplate(salt: Uint8Array, bits: Uint8Array, parameters: Parameters): Bytes {
  return concat(preamble(Kind.TEMPLATE, parameters), salt, packBits(bits))
}

/** A fresh encryption: its first polynomial, and a seed from which the server expands the second. A device only writes it. */
export interface Probe {
  readonly seed: Uint8Array
  /** For each prime, N residues in NTT form. */
  readonly residues: readonly BigUint64Array[]
}

/** Serialises. */
export function probeMessage({ seed, residues }: Probe, parameters: Parameters): Bytes {
  return concat(preamble(Kind.PROBE, parameters), seed, ...residues.map((row, i) => packResidues(row, parameters.dataPrimes[i])))
}

/** What the server answers. */
export class Reply {
  readonly parameters: Parameters
  /** Both components modulo q_0, one after the other, NTT form. */
  readonly components: BigUint64Array
  /** In every hash of the session. */
  readonly salt: Uint8Array
  /** SHA-256 of the session's token. */
  readonly tokenDigest: Uint8Array
  /** g_j, two lanes for each slot. */
  readonly corrections: BigUint64Array
  /** 16 bytes for each accepted distance: the token under one pad each, shuffled. */
  readonly table: Uint8Array

  private constructor(parameters: Parameters, components: BigUint64Array, salt: Uint8Array, tokenDigest: Uint8Array, corrections: BigUint64Array, table: Uint8Array) {
    this.parameters = parameters
    this.components = components
    this.salt = salt
    this.tokenDigest = tokenDigest
    this.corrections = corrections
    this.table = table
  }

  /** Serialises. */
  toBytes(): Bytes {
    const n = this.parameters.ringDimension
    const packed = [this.components.subarray(0, n), this.components.subarray(n)].map((one) => packResidues(one, this.parameters.replyPrime))
    const corrections = new Uint8Array(this.corrections.buffer, this.corrections.byteOffset, this.corrections.byteLength)
    const entries = this.table.length / TOKEN_BYTES
    const count = Uint8Array.of(entries & 0xff, entries >> 8)
    return concat(preamble(Kind.REPLY, this.parameters), ...packed, this.salt, this.tokenDigest, corrections, count, this.table)
  }

  /**
   * Parses.
   *
   * @throws MalformedMessageError wrong preamble, length, residue or table size.
   */
  static fromBytes(data: Uint8Array, parameters: Parameters): Reply {
    const inner = body(data, Kind.REPLY, parameters)
    const saltAt = 2 * packedLength(parameters, parameters.replyPrime)
    const digestAt = saltAt + SALT_BYTES
    const correctionsAt = digestAt + DIGEST_BYTES
    const countAt = correctionsAt + parameters.slots * LABEL_BYTES
    const tableAt = countAt + COUNT_BYTES
    if (inner.length < tableAt) throw new MalformedMessageError(`a reply of ${data.length} bytes is too short`)
    const entries = inner[countAt] | (inner[countAt + 1] << 8)
    if (entries < 1 || entries > parameters.slots || inner.length !== tableAt + entries * TOKEN_BYTES) {
      throw new MalformedMessageError('the length of a reply does not fit its table')
    }
    return new Reply(
      parameters,
      unpackResidues(inner.subarray(0, saltAt), parameters.replyPrime),
      inner.slice(saltAt, digestAt),
      inner.slice(digestAt, correctionsAt),
      new BigUint64Array(inner.slice(correctionsAt, countAt).buffer),
      inner.slice(tableAt),
    )
  }
}
