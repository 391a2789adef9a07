/**
 * Slots, keys and labels: what both parties compute of a plaintext of the session. As `federation/onebit/slots.py`.
 *
 * Slot j of a polynomial modulo t is its residue modulo x^g - zeta_j, the g components of which are read off as the
 * values of g polynomials in y = x^g. The order of values and the root are those of `federation/onebit/ntt.py`, which
 * are SEAL's.
 */

import { type Bytes, concat, sha256, utf8 } from '../bytes'
import type { Parameters } from './parameters'
import { SALT_BYTES, TOKEN_BYTES } from './wire'

const KEY_TAG = 1
const PAD_TAG = 2
const PAD_DOMAIN = utf8('intaglio one-bit pad v2')

/** Product modulo a prime below 2^30, of residues below it. */
function times(left: number, right: number, prime: number): number {
  // The quotient is off by one at most, and the remainder, between -prime and 2 prime, is exact modulo 2^32.
  const quotient = Math.floor((left * right) / prime)
  let remainder = (Math.imul(left, right) - Math.imul(quotient, prime)) | 0
  remainder += prime & (remainder >> 31)
  remainder -= prime
  return remainder + (prime & (remainder >> 31))
}

function plus(left: number, right: number, prime: number): number {
  const sum = left + right - prime
  return sum + (prime & (sum >> 31))
}

function minus(left: number, right: number, prime: number): number {
  const difference = left - right
  return difference + (prime & (difference >> 31))
}

function power(base: number, exponent: number, prime: number): number {
  let result = 1
  for (; exponent > 0; exponent = Math.floor(exponent / 2)) {
    if (exponent % 2 === 1) result = times(result, base, prime)
    base = times(base, base, prime)
  }
  return result
}

/** The smallest element of multiplicative order `order`, a power of two that divides prime - 1. */
function smallestRoot(prime: number, order: number): number {
  let root = 0
  for (let candidate = 2; root === 0 || power(root, order / 2, prime) !== prime - 1; candidate++) {
    root = power(candidate, (prime - 1) / order, prime)
  }
  const square = times(root, root, prime)
  let smallest = root
  for (let i = 1; i < order / 2; i++) {
    root = times(root, square, prime)
    smallest = Math.min(smallest, root)
  }
  return smallest
}

/** Between the coefficients of a polynomial modulo x^n + 1 and its values at the odd powers of psi, in place. */
class Transform {
  readonly #prime: number
  readonly #powers: Int32Array
  readonly #inverses: Int32Array

  constructor(prime: number, size: number) {
    this.#prime = prime
    const root = smallestRoot(prime, 2 * size)
    this.#powers = reversedPowers(root, size, prime)
    this.#inverses = reversedPowers(power(root, prime - 2, prime), size, prime)
  }

  forward(values: Int32Array): void {
    const [prime, size] = [this.#prime, values.length]
    for (let blocks = 1; blocks < size; blocks *= 2) {
      const half = size / (2 * blocks)
      for (let block = 0; block < blocks; block++) {
        const factor = this.#powers[blocks + block]
        for (let i = 2 * half * block; i < half * (2 * block + 1); i++) {
          const turned = times(values[i + half], factor, prime)
          values[i + half] = minus(values[i], turned, prime)
          values[i] = plus(values[i], turned, prime)
        }
      }
    }
  }

  backward(values: Int32Array): void {
    const [prime, size] = [this.#prime, values.length]
    for (let blocks = size / 2; blocks >= 1; blocks /= 2) {
      const half = size / (2 * blocks)
      for (let block = 0; block < blocks; block++) {
        const factor = this.#inverses[blocks + block]
        for (let i = 2 * half * block; i < half * (2 * block + 1); i++) {
          const difference = minus(values[i], values[i + half], prime)
          values[i] = plus(values[i], values[i + half], prime)
          values[i + half] = times(difference, factor, prime)
        }
      }
    }
    const inverse = power(size, prime - 2, prime)
    values.forEach((value, i) => { values[i] = times(value, inverse, prime) })
  }
}

/** The first `count` powers of `root`; power r stands at the place whose bits are those of r reversed. */
function reversedPowers(root: number, count: number, prime: number): Int32Array {
  const powers = new Int32Array(count)
  let current = 1
  for (let r = 0; r < count; r++) {
    let place = 0
    for (let bit = 1; bit < count; bit *= 2) place = 2 * place + Number((r & bit) !== 0)
    powers[place] = current
    current = times(current, root, prime)
  }
  return powers
}

const transforms = new Map<Parameters, Transform>()

function transform(parameters: Parameters): Transform {
  let found = transforms.get(parameters)
  if (found === undefined) transforms.set(parameters, (found = new Transform(parameters.plainModulus, parameters.slots)))
  return found
}

/** N coefficients mod t -> m slots of g components mod t, one after the other. */
export function toSlots(coefficients: BigUint64Array, parameters: Parameters): Int32Array {
  const { slots: m, slotDegree: g } = parameters
  const keys = new Int32Array(m * g)
  for (let component = 0; component < g; component++) {
    const column = Int32Array.from({ length: m }, (_, row) => Number(coefficients[g * row + component]))
    transform(parameters).forward(column)
    column.forEach((value, slot) => { keys[g * slot + component] = value })
  }
  return keys
}

/** m bits as the constants of the slots -> N coefficients mod t. */
export function fromBits(bits: Uint8Array, parameters: Parameters): BigUint64Array {
  const constants = Int32Array.from(bits)
  transform(parameters).backward(constants)
  const coefficients = new BigUint64Array(parameters.ringDimension)
  constants.forEach((value, row) => { coefficients[parameters.slotDegree * row] = BigInt(value) })
  return coefficients
}

/**
 * H(salt, j, kappa_j) of every slot: the first 16 bytes of SHA-256(1, salt, j, kappa_j).
 *
 * @returns m elements of (Z mod 2^64)^2, one after the other.
 */
export function hashKeys(salt: Uint8Array, keys: Int32Array, parameters: Parameters): BigUint64Array {
  const { slots, slotDegree: g } = parameters
  const input = new Uint8Array(1 + SALT_BYTES + 4 + 4 * g)
  const words = new DataView(input.buffer, 1 + SALT_BYTES)
  input[0] = KEY_TAG
  input.set(salt, 1)
  const labels = new BigUint64Array(2 * slots)
  for (let j = 0; j < slots; j++) {
    words.setUint32(0, j, true)
    for (let component = 0; component < g; component++) words.setUint32(4 + 4 * component, keys[g * j + component], true)
    const digest = new DataView(sha256(input).buffer)
    labels[2 * j] = digest.getBigUint64(0, true)
    labels[2 * j + 1] = digest.getBigUint64(8, true)
  }
  return labels
}

/** KDF(salt, transcript, S): from a label to the pad of a token. */
export function pad(salt: Uint8Array, transcript: Uint8Array, label: readonly [bigint, bigint]): Bytes {
  const lanes = new Uint8Array(BigUint64Array.from(label).buffer)
  return sha256(concat(Uint8Array.of(PAD_TAG), sha256(concat(PAD_DOMAIN, salt, transcript)), lanes)).slice(0, TOKEN_BYTES)
}
