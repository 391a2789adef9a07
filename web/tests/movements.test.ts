/** Films as numbers, which the page judges as `federation/presentation/movements.py` does. */

import { describe, expect, test } from 'vitest'

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

describe('exactly at a bound a film goes on, and beyond it, it does not:', () => {
  /** A face that looks into the camera, with its eyes so far apart, so many pixels to the right. */
  const look = (seconds: number, eyes = 100, x = 0, side = 500) => ({ seconds, side, landmarks: [[-0.5, 0], [0.5, 0], [0, 0.4], [0, 1], [-0.9, 0.1], [0.9, 0.1]].map(([across, down]) => ({ x: x + across * eyes, y: down * eyes })) })
  const seen = (looks: (ReturnType<typeof look> | number)[], movements: Movement[] = ['closer', 'left', 'right']): Watcher => {
    const watcher = new Watcher(movements)
    for (const one of looks) typeof one === 'number' ? watcher.miss(one) : watcher.see(one)
    return watcher
  }
  const middle = [0, 0.1, 0.2].map((seconds) => look(seconds))

  test.each<[string, string | null, string | null, (more: number) => Watcher]>([
    ['a gap between two looks', null, 'away', (more) => seen([...middle, look(0.2 + 0.5 + more)])],
    ['a gap before a miss', null, 'away', (more) => seen([...middle, 0.2 + 0.5 + more])],
    ['growth', null, 'jumped', (more) => seen([...middle, look(0.3, 135 + 100 * more)], ['left', 'up', 'right'])],
    ['shrinking', null, 'jumped', (more) => seen([look(0, 135), look(0.1, 135), look(0.2, 135 + 100 * more), look(0.3, 100)].map((one) => ({ ...one, side: 900 })))],
    ['a way', null, 'jumped', (more) => seen([...middle, look(0.3, 100, 150 + 100 * more)])],
    ['a near face', null, 'too-near', (more) => seen([0, 0.1, 0.2].map((seconds) => look(seconds, 100, 0, 500 - 1000 * more)))],
    ['somebody who does not look into the camera', null, 'nobody', (more) => seen([0, 6 + more])],
    ['all movements', null, 'too-late', (more) => seen([...middle.map((one) => ({ ...one, seconds: 0 })), ...Array.from({ length: 9 }, (__, i) => look(4 * (i + 1) / 9 + (i === 8 ? more : 0)))])],
  ])('%s', (_, at, beyond, film) => {
    expect([film(0).fault, film(0.001).fault]).toEqual([at, beyond])
  })

  test('a movement is seen at all of it, after a quarter of it', () => {
    const came = (...sizes: number[]): [number, string | null, string | null] => { const { done, fault, onTheWay } = seen([...middle, ...sizes.flatMap((size, i) => [0.3, 0.4, 0.5].map((seconds) => look(seconds + 0.3 * i, size)))]); return [done, onTheWay, fault] }
    expect([came(106.25), came(106.2)]).toEqual([[0, 'closer', null], [0, null, null]])
    expect([came(106.25, 125), came(106.25, 124.9), came(106.2, 125)]).toEqual([[1, null, null], [0, 'closer', null], [0, null, 'jumped']])
  })
})
