/** Arithmetic in doubles against whole numbers of any size, and the opening of replies that a liar chooses. */

import { beforeAll, describe, expect, test } from 'vitest'

import { randomBytes } from '../src/bytes'
import { Field, Transform } from '../src/onebit/ntt'
import { OpeningKey } from '../src/onebit/opening'
import { PARAMETER_SETS, ternary } from '../src/onebit/parameters'
import { sumOf } from '../src/onebit/slots'

const words = (count: number): BigUint64Array => new BigUint64Array(randomBytes(8 * count).buffer)
const PRIMES = PARAMETER_SETS.flatMap(({ name, dataPrimes, plainModulus }) => [[`q_0 of ${name}`, Number(dataPrimes[0])], [`t of ${name}`, plainModulus]] as [string, number][])

describe.each(PRIMES)('modulo %s', (_, prime) => {
  const field = new Field(prime)
  const p = BigInt(prime)
  const EDGES = [0, 1, 2, prime - 1, prime - 2, (prime - 1) / 2, (prime + 1) / 2, Math.floor(Math.sqrt(prime)), Math.ceil(Math.sqrt(prime))]

  test('products, sums and differences are exact, at the edges and anywhere', () => {
    const drawn = Array.from(words(4000), (word) => Number(word % p))
    const pairs = [...EDGES.flatMap((left) => EDGES.map((right) => [left, right])), ...drawn.map((left, i) => [left, drawn[(7 * i + 1) % drawn.length]])]
    for (const [left, right] of pairs) {
      const [a, b] = [BigInt(left), BigInt(right)]
      expect([field.times(left, right), field.plus(left, right), field.minus(left, right)]).toEqual([(a * b) % p, (a + b) % p, (a - b + p) % p].map(Number))
    }
  })

  test('products next to a multiple of the prime are exact', () => {
    for (let i = 0; i < 2000; i++) {
      const left = Number(words(1)[0] % (p - 1n)) + 1
      const inverse = field.power(left, prime - 2)
      for (const near of [1, 2, prime - 1, prime - 2]) {
        const right = Number((BigInt(inverse) * BigInt(near)) % p)
        expect(field.times(left, right)).toBe(near)
      }
    }
  })

  test('the transform is that of the definition, and goes back', () => {
    const transform = new Transform(prime, 8)
    const values = Float64Array.from(words(8), (word) => Number(word % p))
    const there = values.slice()
    transform.forward(there)
    const psi = BigInt(field.smallestRoot(16))
    const odd = [0, 4, 2, 6, 1, 5, 3, 7].map((r) => {
      let [value, point] = [0n, 1n]
      for (let i = 0; i <= 2 * r; i++) point = (point * psi) % p
      for (const coefficient of [...values].reverse()) value = (value * point + BigInt(coefficient)) % p
      return Number(value)
    })
    expect([...there]).toEqual(odd)
    transform.backward(there)
    expect([...there]).toEqual([...values])
  })
})

test.each([103, 107])('a prime whose inverse is rounded down (%i) reduces its own multiples to zero', (prime) => {
  expect(prime * (1 / prime)).toBeLessThan(1)
  const field = new Field(prime)
  for (let left = 1; left < prime; left++) expect([field.plus(left, prime - left), field.times(left, field.power(left, prime - 2))]).toEqual([0, 1])
})

test('the sum of labels and corrections is that of whole numbers', () => {
  const [labels, corrections] = [words(4096), words(4096)]
  const bits = randomBytes(2048).map((byte) => byte & 1)
  for (const [some, others] of [[labels, corrections], [labels.map(() => 2n ** 64n - 1n), corrections.map(() => 2n ** 64n - 1n)]]) {
    const total = [0n, 0n]
    some.forEach((label, i) => { total[i & 1] += label + BigInt(bits[i >> 1]) * others[i] })
    expect(sumOf(some, bits, others)).toEqual(total.map((lane) => BigInt.asUintN(64, lane)))
  }
})

describe.each(PARAMETER_SETS)('a reply under $name', (parameters) => {
  const { ringDimension: n, dataPrimes: [q, dropped], plainModulus } = parameters
  const coefficients = ternary(n, randomBytes)
  let key: OpeningKey
  beforeAll(() => { key = new OpeningKey(parameters, coefficients) })

  test('decrypts to its phase, centred, modulo t and times q_1', () => {
    // c_1 = 0, so the phase is c_0, whose values are those of a polynomial that we choose.
    const [t, transform] = [BigInt(plainModulus), new Transform(Number(q), n)]
    const chosen = words(n).map((word) => word % q)
    ;[0n, 1n, q - 1n, (q - 1n) / 2n, (q + 1n) / 2n].forEach((edge, i) => { chosen[i] = edge })
    const values = Float64Array.from(chosen, Number)
    transform.forward(values)
    const components = new BigUint64Array(2 * n)
    values.forEach((value, i) => { components[i] = BigInt(value) })
    const expected = Array.from(chosen, (one) => Number(((((one > q / 2n ? one - q : one) % t + t) % t) * (dropped % t)) % t))
    expect([...key.decrypt(components)]).toEqual(expected)
  })

  test('with c_1 alone decrypts to a multiple of the secret', () => {
    const components = new BigUint64Array(2 * n).fill(1n, n) // c_1 = 1
    const t = BigInt(plainModulus)
    const expected = Array.from(coefficients, (one) => Number((((BigInt(one) + t) % t) * (dropped % t)) % t))
    expect([...key.decrypt(components)]).toEqual(expected)
  })
})
