/**
 * Arithmetic modulo a prime of at most 50 bits, and the negacyclic transform over it. As `federation/onebit/ntt.py`.
 *
 * Residues are whole numbers in doubles. Nothing here branches on one, skips zeros or allocates by size, because a server
 * that lies chooses what a reply decrypts to. JavaScript promises no constant time; this is as near as it gets.
 *
 * A product of two residues is taken apart into the double next to it and what that is off by, both exact (Dekker 1971).
 * The quotient by the prime is estimated in doubles and off by one at most, so what remains lies between -prime and
 * 2 prime, and is exact too. Adding a half before the last quotient is rounded keeps it away from whole numbers.
 */

const SPLITTER = 2 ** 27 + 1

/** A prime with what is needed to reduce by it. */
export class Field {
  readonly prime: number
  readonly #inverse: number

  /** @param prime below 2^50. */
  constructor(prime: number) {
    this.prime = prime
    this.#inverse = 1 / prime
  }

  /** A whole number between -2^50 and 2^50 modulo the prime; for larger quotients than 2^21 the prime has fewer than 30 bits. */
  reduce(value: number): number {
    return value - this.prime * Math.floor((value + 0.5) * this.#inverse)
  }

  plus(left: number, right: number): number {
    return this.reduce(left + right)
  }

  minus(left: number, right: number): number {
    return this.reduce(left - right)
  }

  times(left: number, right: number): number {
    const prime = this.prime
    const product = left * right
    const quotient = Math.floor(product * this.#inverse)
    const multiple = quotient * prime
    let spread = SPLITTER * left
    const leftHigh = spread - (spread - left)
    const leftLow = left - leftHigh
    spread = SPLITTER * right
    const rightHigh = spread - (spread - right)
    const rightLow = right - rightHigh
    spread = SPLITTER * quotient
    const quotientHigh = spread - (spread - quotient)
    const quotientLow = quotient - quotientHigh
    spread = SPLITTER * prime
    const primeHigh = spread - (spread - prime)
    const primeLow = prime - primeHigh
    const off = leftLow * rightLow - (product - leftHigh * rightHigh - leftLow * rightHigh - leftHigh * rightLow)
    const multipleOff = quotientLow * primeLow - (multiple - quotientHigh * primeHigh - quotientLow * primeHigh - quotientHigh * primeLow)
    return this.reduce(product - multiple + (off - multipleOff))
  }

  power(base: number, exponent: number): number {
    let result = 1
    for (; exponent > 0; exponent = Math.floor(exponent / 2)) {
      if (exponent % 2 === 1) result = this.times(result, base)
      base = this.times(base, base)
    }
    return result
  }

  /** The smallest element of multiplicative order `order`, a power of two that divides prime - 1. */
  smallestRoot(order: number): number {
    let root = 0
    for (let candidate = 2; root === 0 || this.power(root, order / 2) !== this.prime - 1; candidate++) {
      root = this.power(candidate, (this.prime - 1) / order)
    }
    const square = this.times(root, root)
    let smallest = root
    for (let i = 1; i < order / 2; i++) {
      root = this.times(root, square)
      smallest = Math.min(smallest, root)
    }
    return smallest
  }
}

/**
 * Between the coefficients of a polynomial modulo x^n + 1 and its values at the odd powers of psi, in place.
 *
 * The order of values and the root are SEAL's (Longa and Naehrig 2016, algorithms 1 and 2, with the smallest root).
 */
export class Transform {
  readonly field: Field
  readonly #powers: Float64Array
  readonly #inverses: Float64Array
  readonly #inverseSize: number

  constructor(prime: number, size: number) {
    const field = new Field(prime)
    this.field = field
    const root = field.smallestRoot(2 * size)
    this.#powers = reversedPowers(root, size, field)
    this.#inverses = reversedPowers(field.power(root, prime - 2), size, field)
    this.#inverseSize = field.power(size, prime - 2)
  }

  forward(values: Float64Array): void {
    const [field, size] = [this.field, values.length]
    for (let blocks = 1; blocks < size; blocks *= 2) {
      const half = size / (2 * blocks)
      for (let block = 0; block < blocks; block++) {
        const factor = this.#powers[blocks + block]
        for (let i = 2 * half * block; i < half * (2 * block + 1); i++) {
          const turned = field.times(values[i + half], factor)
          values[i + half] = field.minus(values[i], turned)
          values[i] = field.plus(values[i], turned)
        }
      }
    }
  }

  backward(values: Float64Array): void {
    const [field, size] = [this.field, values.length]
    for (let blocks = size / 2; blocks >= 1; blocks /= 2) {
      const half = size / (2 * blocks)
      for (let block = 0; block < blocks; block++) {
        const factor = this.#inverses[blocks + block]
        for (let i = 2 * half * block; i < half * (2 * block + 1); i++) {
          const difference = field.minus(values[i], values[i + half])
          values[i] = field.plus(values[i], values[i + half])
          values[i + half] = field.times(difference, factor)
        }
      }
    }
    for (let i = 0; i < size; i++) values[i] = field.times(values[i], this.#inverseSize)
  }
}

/** The first `count` powers of `root`; power r stands at the place whose bits are those of r reversed. */
function reversedPowers(root: number, count: number, field: Field): Float64Array {
  const powers = new Float64Array(count)
  let current = 1
  for (let r = 0; r < count; r++) {
    let place = 0
    for (let bit = 1; bit < count; bit *= 2) place = 2 * place + Number((r & bit) !== 0)
    powers[place] = current
    current = field.times(current, root)
  }
  return powers
}

const transforms = new Map<string, Transform>()

/** The transform of that prime and size. Making it takes some milliseconds, once. */
export function transformOf(prime: number, size: number): Transform {
  const name = `${prime} ${size}`
  let found = transforms.get(name)
  if (found === undefined) transforms.set(name, (found = new Transform(prime, size)))
  return found
}
