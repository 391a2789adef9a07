/** Films as numbers, which the page judges as `federation/presentation/movements.py` does. */

import { expect, test } from 'vitest'

import { fromHex } from '../src/bytes'
import { challengeOf, type Movement, type Omission, ordersWithout, Watcher } from '../src/face/movements'
import vectors from '../../tests/vectors/movements.json'
import { python } from './vectors'

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

test('made-up films are judged look by look as in Python, at every edge of what is allowed', async () => {
  const films = (await python('heads', { count: 250 })) as { movements: Movement[]; side: number; looks: { seconds: number; landmarks: [number, number][] | null; done: number; fault: string | null; onTheWay: string | null; wanted: string | null; pose: number[] | null }[] }[]
  const faults = new Map<unknown, number>()
  for (const [number, { movements, side, looks }] of films.entries()) {
    const watcher = new Watcher(movements)
    const judged = looks.map(({ seconds, landmarks }) => {
      if (landmarks === null) watcher.miss(seconds)
      else watcher.see({ seconds, landmarks: landmarks.map(([x, y]) => ({ x, y })), side })
      const { done, fault, onTheWay, wanted, pose } = watcher
      return [done, fault, onTheWay, wanted, ...(pose === null ? [] : [pose.turn, pose.nod, pose.scale].map((x) => x.toFixed(9)))].join(' ')
    })
    const expected = looks.map(({ done, fault, onTheWay, wanted, pose }) => [done, fault, onTheWay, wanted, ...(pose ?? []).map((x) => x.toFixed(9))].join(' '))
    expect(judged, `film ${number}`).toEqual(expected)
    faults.set(watcher.fault, (faults.get(watcher.fault) ?? 0) + 1)
  }
  expect([...faults.keys()].sort()).toEqual(['another', 'away', 'jumped', 'nobody', 'too-late', 'too-near', null].sort())
  for (const [fault, times] of faults) expect(times, String(fault)).toBeGreaterThan(4)
})
