/** What the camera advises: one thing at a time, the most important first. */

import { describe, expect, test } from 'vitest'

import { ADVICE, advise, type Glance } from '../src/face/advice'
import type { Detection } from '../src/face/blazeface'
import { CATALOGUES } from '../src/page/texts'

const ALIGNMENT = { side: 112, points: [[382_900, 516_900], [735_300, 515_000], [560_200, 717_400], [560_200, 921_900]] as const }

/** A frame of 640 x 480 in one grey, with what lies outside of it and what its cut is filled with: a quarter of it is darker by `fine`. */
const frame = ({ grey = 128, over = 0, outside = 0, cut = 128, fine = 3 } = {}) => ({
  width: 640, height: 480, grey: () => grey, sharesOutside: () => ({ over, outside }),
  cut: () => Uint8Array.from({ length: 3 * 112 * 112 }, (_, i) => cut - (Math.floor(i / 3) % 2 === 0 && Math.floor(i / 336) % 2 === 0 ? fine : 0)),
})

/** A face with its eyes so far apart, turned to a side by that share of their distance, and tilted. */
function face({ x = 320, y = 240, eyes = 100, turned = 0, tilted = 0 } = {}): Detection {
  const angle = tilted * Math.PI / 180
  const at = (across: number, down: number) => ({ x: x + eyes * (across * Math.cos(angle) - down * Math.sin(angle)), y: y + eyes * (across * Math.sin(angle) + down * Math.cos(angle)) })
  return {
    score: 1, box: { left: x - eyes, top: y - eyes, right: x + eyes, bottom: y + eyes },
    landmarks: [at(-0.5, -0.3), at(0.5, -0.3), at(turned, 0.2), at(turned / 2, 0.6), at(-1, 0), at(1, 0)],
  }
}

const still = (one: Detection): Glance => ({ landmarks: one.landmarks.slice(0, 4) })
const said = (one: Detection, seen = frame(), before: Glance | null = still(one), profile: 'reference' | 'probe' = 'reference') => advise(seen, [one], ALIGNMENT, profile, before).advice

test('a face that is large, alone, in the middle, lit, upright and still is good', () => {
  expect(said(face())).toBeNull()
})

test.each([
  ['nobody', []], ['several', [face(), face({ x: 100 })]],
] as const)('%s is said of what is not one face', (advice, faces) => {
  expect(advise(frame(), faces, ALIGNMENT, 'probe', null)).toEqual({ advice, seen: null })
})

describe('one thing is said, and beyond its limit only', () => {
  test.each([
    ['far', face({ eyes: 47 }), face({ eyes: 49 })],
    ['near', face({ eyes: 174 }), face({ eyes: 172 })],
    ['off', face({ x: 443 }), face({ x: 437 })],
    ['off', face({ y: 115 }), face({ y: 123 })],
    ['straight', face({ turned: 0.31 }), face({ turned: -0.29 })],
    ['straight', face({ tilted: -21 }), face({ tilted: 19 })],
  ] as const)('%s', (advice, bad, good) => {
    expect([said(bad), said(good)]).toEqual([advice, null])
  })

  test.each([
    ['dark', { grey: 59 }, { grey: 61 }], ['bright', { grey: 236 }, { grey: 234 }], ['off', { over: 0.09 }, { over: 0.08 }], ['off', { outside: 0.26 }, { outside: 0.25 }],
    ['dark', { cut: 39 }, { cut: 40 }], ['bright', { cut: 250 }, { cut: 249 }],
  ] as const)('%s, of the frame: %j', (advice, bad, good) => {
    expect([said(face(), frame(bad)), said(face(), frame(good))]).toEqual([advice, null])
  })

  test('blurred, of what is to be a reference, and holding still comes first', () => {
    const seen = frame({ fine: 0 })
    expect([said(face(), seen), said(face(), seen, null), said(face(), seen, undefined, 'probe'), said(face())]).toEqual(['blurred', 'still', null, null])
  })

  test('still', () => {
    const moved = (by: number): Glance => still(face({ x: 320 + by }))
    expect([said(face(), frame(), moved(11)), said(face(), frame(), moved(9)), said(face(), frame(), null)]).toEqual(['still', null, 'still'])
  })
})

test('in a frame that stands upright the shorter side counts, and each direction has its own middle', () => {
  const upright = { ...frame(), width: 480, height: 640 }
  const told = (one: Parameters<typeof face>[0]): unknown => said(face({ x: 240, y: 320, ...one }), upright)
  expect([told({}), told({ eyes: 47 }), told({ eyes: 49 }), told({ eyes: 174 }), told({ eyes: 172 }), told({ x: 363 }), told({ x: 357 }), told({ y: 443 }), told({ y: 437 })])
    .toEqual([null, 'far', null, 'near', null, 'off', null, 'off', null])
})

test('of a probe less is asked than of a reference, as the gate does', () => {
  const seen = frame({ outside: 0.3, cut: 20 })
  expect([said(face(), seen), said(face(), seen, undefined, 'probe')]).toEqual(['off', null])
})

test('in a small frame a face is far that has too few pixels for what it is to serve as', () => {
  const small = { ...frame(), width: 150, height: 120 }
  const told = (eyes: number, profile: 'reference' | 'probe'): unknown => said(face({ x: 75, y: 60, eyes }), small, undefined, profile)
  expect([told(17.9, 'reference'), told(18, 'reference'), told(12.9, 'probe'), told(13, 'probe'), told(11.9, 'probe')]).toEqual(['far', null, 'far', null, 'far'])
})

test('what is most in the way comes first', () => {
  expect(said(face({ eyes: 30, x: 600, tilted: 45 }), frame({ grey: 0 }), null)).toBe('far')
  expect(said(face({ x: 600, tilted: 45 }), frame({ grey: 0 }), null)).toBe('off')
  expect(said(face({ tilted: 45 }), frame({ grey: 0 }), null)).toBe('dark')
})

test('the light is that of the whole face, in 24 by 24 places', () => {
  const seen: [number, number][] = []
  const one = face({ x: 300, y: 200, eyes: 120 })
  said(one, { ...frame(), grey: (x?: number, y?: number) => { seen.push([x!, y!]); return 128 } })
  const { left, top, right, bottom } = one.box
  const places = Array.from({ length: 24 }, (_, i) => (i + 0.5) / 24)
  const expected = places.flatMap((down) => places.map((across) => [left + across * (right - left), top + down * (bottom - top)]))
  const text = (all: number[][]): string[] => all.map(([x, y]) => `${x.toFixed(6)} ${y.toFixed(6)}`).sort()
  expect(text(seen)).toEqual(text(expected))
})

test.each([
  ['of a tenth and more in the light', 9, 100, 0.11, null], ['of less than a tenth in the light', 9, 100, 0.09, 'dark'],
  ['of a tenth and more in the shadow', 250, 100, 0.11, null], ['of less than a tenth in the shadow', 250, 100, 0.09, 'bright'],
] as const)('a face %s is judged by its numbers', (_, most, few, share, advice) => {
  let place = 0
  expect(said(face(), { ...frame(), grey: () => (place++ < share * 24 * 24 ? few : most) })).toBe(advice)
})

test('what fails otherwise is no advice', () => {
  expect(() => said(face(), { ...frame(), cut: () => { throw new RangeError('broken') } })).toThrow('broken')
})

test('every piece of advice is a message', () => {
  for (const advice of ADVICE) expect(CATALOGUES['en'][`advice.${advice}`]).toBeTruthy()
})
