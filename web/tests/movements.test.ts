/** Films as numbers, which the page judges as `federation/presentation/movements.py` does. */

import { expect, test } from 'vitest'

import { fromHex } from '../src/bytes'
import { challengeOf, type Movement, type Omission, ordersWithout, Watcher } from '../src/face/movements'
import vectors from '../../tests/vectors/movements.json'

test.each(vectors.challenges)('$nonce asks for what it asks for in Python', ({ nonce, without, movements }) => {
  expect(challengeOf(fromHex(nonce), without as Omission | null)).toEqual(movements)
})

test('there are as many orders as in Python', () => {
  expect([null, 'turning', 'nodding'].map((omission) => ordersWithout(omission as Omission | null).length)).toEqual([14, 8, 8])
  expect(() => challengeOf(new Uint8Array(31))).toThrow('a nonce has 32 bytes')
})

test.each(Object.entries(vectors.films))('the film of %s is judged as in Python', (_, { movements, side, looks, done, fault }) => {
  const watcher = new Watcher(movements as Movement[])
  looks.forEach((look, number) => {
    if (look === null) { watcher.miss(number / 15); return }
    const [seconds, ...numbers] = look
    const landmarks = Array.from({ length: 6 }, (_, i) => ({ x: numbers[2 * i], y: numbers[2 * i + 1] }))
    watcher.see({ seconds, landmarks, side })
  })
  expect([watcher.done, watcher.fault]).toEqual([done, fault])
  expect(watcher.isPassed).toBe(fault === null)
})
