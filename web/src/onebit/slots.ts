/**
 * Slots, keys and labels: what both parties compute of a plaintext of the session. As `federation/onebit/slots.py`.
 *
 * Slot j of a polynomial modulo t is its residue modulo x^g - zeta_j, the g components of which are read off as the
 * values of g polynomials in y = x^g.
 */

import { type Bytes, concat, sha256, utf8 } from '../bytes'
import { type Transform, transformOf } from './ntt'
import type { Parameters } from './parameters'
import { SALT_BYTES, TOKEN_BYTES } from './wire'

const KEY_TAG = 1
const PAD_TAG = 2
const PAD_DOMAIN = utf8('intaglio one-bit pad v2')

const transform = ({ plainModulus, slots }: Parameters): Transform => transformOf(plainModulus, slots)

/** N coefficients mod t -> m slots of g components mod t, one after the other. */
export function toSlots(coefficients: Float64Array, parameters: Parameters): Int32Array {
  const { slots: m, slotDegree: g } = parameters
  const keys = new Int32Array(m * g)
  for (let component = 0; component < g; component++) {
    const column = new Float64Array(m)
    for (let row = 0; row < m; row++) column[row] = coefficients[g * row + component]
    transform(parameters).forward(column)
    for (let slot = 0; slot < m; slot++) keys[g * slot + component] = column[slot]
  }
  return keys
}

/** m bits as the constants of the slots -> N coefficients mod t. */
export function fromBits(bits: Uint8Array, parameters: Parameters): BigUint64Array {
  const constants = Float64Array.from(bits)
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

/**
 * S: the sum of all labels, and of the corrections of those slots whose bit is 1.
 *
 * It is made of pieces of 16 bits, because the time of a BigInt depends on its value.
 *
 * @param labels m of two lanes each, as are the corrections.
 */
export function sumOf(labels: BigUint64Array, bits: Uint8Array, corrections: BigUint64Array): [bigint, bigint] {
  const [pieces, added] = [labels, corrections].map(({ buffer, byteOffset, length }) => new Uint16Array(buffer, byteOffset, 4 * length))
  const sums = new Float64Array(8)
  for (let i = 0; i < pieces.length; i++) sums[i & 7] += pieces[i] + (added[i] & -bits[i >> 3])
  const lane = (start: number): bigint => BigInt.asUintN(64, [3, 2, 1, 0].reduce((all, piece) => (all << 16n) + BigInt(sums[start + piece]), 0n))
  return [lane(0), lane(4)]
}

/** KDF(salt, transcript, S): from a label to the pad of a token. */
export function pad(salt: Uint8Array, transcript: Uint8Array, label: readonly [bigint, bigint]): Bytes {
  const lanes = new Uint8Array(BigUint64Array.from(label).buffer)
  return sha256(concat(Uint8Array.of(PAD_TAG), sha256(concat(PAD_DOMAIN, salt, transcript)), lanes)).slice(0, TOKEN_BYTES)
}
