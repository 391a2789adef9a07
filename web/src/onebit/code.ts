/**
 * From a face embedding to a renewable binary code. See docs/onebit.md, section 2, and `federation/onebit/code.py`.
 *
 * The two implementations agree to the last few bits of a double. A code bit could differ only where a projection is
 * closer to zero than that, about once in 10^10 codes; no protocol step compares codes bit by bit.
 */

import { chacha20 } from '@noble/ciphers/chacha.js'

import { type RandomBytes, utf8 } from '../bytes'
import { UsageError } from '../errors'

export const SEED_BYTES = 32
const MINIMUM_DIMENSION = 16
// The 16-byte counter and nonce block of ChaCha20: one keystream for each seed.
const DOMAIN = utf8('intaglio code 1\0')

/** The secret from which one device expands its hyperplanes. */
export class CodeSeed {
  readonly #value: Uint8Array
  #planes: { readonly bits: number; readonly d: number; readonly rows: Float64Array } | undefined

  constructor(value: Uint8Array) {
    if (value.length !== SEED_BYTES) throw new UsageError(`a code seed has ${SEED_BYTES} bytes, got ${value.length}`)
    this.#value = value
  }

  /** A fresh seed: a new, unlinkable code of the same face. */
  static generate(random: RandomBytes): CodeSeed {
    return new CodeSeed(random(SEED_BYTES))
  }

  /** The 32 bytes, for the encrypted wallet. */
  secretBytes(): Uint8Array {
    return this.#value
  }

  /**
   * One bit for each hyperplane: 1 where (H vector)_i > 0. Biometric: does not leave the device.
   *
   * @param vector finite, not zero, already adapted by the model release.
   * @param bits length of the code.
   * @throws UsageError the vector is too short or long, zero or not finite.
   */
  code(vector: Float64Array, bits: number): Uint8Array {
    const d = vector.length
    if (d < MINIMUM_DIMENSION || d > bits) {
      throw new UsageError(`a code needs ${MINIMUM_DIMENSION} to ${bits} numbers, got ${d}`)
    }
    if (!vector.every(Number.isFinite) || vector.every((x) => x === 0)) {
      throw new UsageError('the embedding is zero or not finite; the recogniser failed on this image')
    }
    if (this.#planes?.bits !== bits || this.#planes.d !== d) this.#planes = { bits, d, rows: hyperplanes(this.#value, d, bits) }
    const { rows } = this.#planes
    return Uint8Array.from({ length: bits }, (_, bit) => Number(dot(rows, bit * d, vector, 0, d) > 0))
  }
}

/** (bits, dimension) stacked random orthogonal matrices, Haar distributed. Secret. */
function hyperplanes(seed: Uint8Array, dimension: number, bits: number): Float64Array {
  const blocks = Math.ceil(bits / dimension)
  const draws = gaussians(seed, blocks * dimension * dimension)
  const planes = new Float64Array(blocks * dimension * dimension)
  for (let start = 0; start < draws.length; start += dimension * dimension) {
    // The columns of each Gaussian matrix, made orthonormal in order: QR with a positive diagonal (Mezzadri 2007).
    for (let column = 0; column < dimension; column++) {
      const row = start + column * dimension
      for (let i = 0; i < dimension; i++) planes[row + i] = draws[start + i * dimension + column]
      for (let pass = 0; pass < 2; pass++) { // the second pass removes what rounding left of the first
        for (let other = start; other < row; other += dimension) {
          const shadow = dot(planes, row, planes, other, dimension)
          for (let i = 0; i < dimension; i++) planes[row + i] -= shadow * planes[other + i]
        }
      }
      const norm = Math.sqrt(dot(planes, row, planes, row, dimension))
      for (let i = 0; i < dimension; i++) planes[row + i] /= norm
    }
  }
  return planes.subarray(0, bits * dimension)
}

function dot(left: Float64Array, leftAt: number, right: Float64Array, rightAt: number, length: number): number {
  let sum = 0
  for (let i = 0; i < length; i++) sum += left[leftAt + i] * right[rightAt + i]
  return sum
}

/** `count` standard normal draws from the ChaCha20 keystream of `seed`, by Box and Muller. */
function gaussians(seed: Uint8Array, count: number): Float64Array {
  const pairs = Math.ceil(count / 2)
  const counter = new DataView(DOMAIN.buffer).getUint32(0, true)
  const keystream = chacha20(seed, DOMAIN.subarray(4), new Uint8Array(16 * pairs), undefined, counter)
  const words = new DataView(keystream.buffer, keystream.byteOffset)
  const uniform = (at: number): number => words.getUint32(at + 4, true) * 2 ** 21 + (words.getUint32(at, true) >>> 11)
  const draws = new Float64Array(2 * pairs)
  for (let pair = 0; pair < pairs; pair++) {
    const radius = Math.sqrt(-2 * Math.log((uniform(16 * pair) + 1) * 2 ** -53)) // in (0, 1]: the logarithm exists
    const angle = 2 * Math.PI * (uniform(16 * pair + 8) * 2 ** -53)
    draws[2 * pair] = radius * Math.cos(angle)
    draws[2 * pair + 1] = radius * Math.sin(angle)
  }
  return draws.subarray(0, count)
}
