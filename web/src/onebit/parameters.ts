/** The frozen profile of the one-bit match. `federation/onebit/parameters.py` derives and checks every number. */

import type { RandomBytes } from '../bytes'

/** Profile `intaglio-onebit-2048/1`. */
export const PROFILE = {
  name: 'intaglio-onebit-2048/1',
  /** The number by which messages name it. */
  number: 1,
  /** N. */
  ringDimension: 8192,
  /** t = 4097 mod 8192: each of the N / 4 slots is the field of t^4 elements. */
  plainModulus: 67_104_769,
  /** q_0, q_1, q_2; a reply is switched down to q_0. */
  dataPrimes: [281_474_976_694_273n, 281_474_976_546_817n, 1_099_511_480_321n],
  /** Whole bytes of each prime. */
  primeBytes: [6, 6, 5],
  /** BGV correction factor of a reply: the inverse of q_1 q_2 mod t. */
  replyCorrection: inverse((281_474_976_546_817n * 1_099_511_480_321n) % 67_104_769n, 67_104_769n),
} as const

/** Slots of a plaintext: one code bit each. */
export const SLOTS = PROFILE.ringDimension / 4

const REPLY_PRIME = Number(PROFILE.dataPrimes[0])
/** The largest constant part of the rounding noise that a device accepts of its own key: q_0 / 128. */
const ROUNDING_CONSTANT_BOUND = Math.floor(Math.floor(REPLY_PRIME / 64) / 2)

function inverse(value: bigint, prime: bigint): bigint {
  let [result, base] = [1n, value % prime]
  for (let exponent = prime - 2n; exponent > 0n; exponent >>= 1n) {
    if (exponent & 1n) result = (result * base) % prime
    base = (base * base) % prime
  }
  return result
}

/**
 * A secret key: N coefficients in -1, 0, 1, uniform by rejection from the low two bits of 32-bit words.
 *
 * One key in millions has replies that could decrypt wrongly; it is drawn again.
 */
export function drawSecret(random: RandomBytes): Int8Array {
  for (;;) {
    const secret = ternary(random)
    if (roundingConstant(secret) <= ROUNDING_CONSTANT_BOUND) return secret
  }
}

function ternary(random: RandomBytes): Int8Array {
  const secret = new Int8Array(PROFILE.ringDimension)
  let drawn = 0
  while (drawn < secret.length) {
    const words = random(4 * (secret.length - drawn))
    for (let i = 0; i < words.length; i += 4) {
      const candidate = words[i] & 3
      if (candidate < 3) secret[drawn++] = candidate - 1
    }
  }
  return secret
}

/**
 * The largest of the first four coefficients of (t / 2) (1 + s + s^2) (1 + x + ... + x^(N-1)), by absolute value:
 * the part of a reply's rounding noise that depends on the key alone.
 */
export function roundingConstant(secret: Int8Array): number {
  const n = secret.length
  const total = secret.reduce((sum, one) => sum + one, 0)
  let running = 0
  const timesOnes = Int32Array.from(secret, (one) => 2 * (running += one) - total) // a coefficient that wraps changes sign
  let largest = 0
  for (let place = 0; place < 4; place++) {
    let square = 0
    for (let i = 0; i < n; i++) {
      const other = (place - i + n) % n
      square += secret[i] * (i <= place ? timesOnes[other] : -timesOnes[other])
    }
    largest = Math.max(largest, Math.abs(1 + timesOnes[place] + square))
  }
  return Math.floor((PROFILE.plainModulus * largest) / 2)
}
