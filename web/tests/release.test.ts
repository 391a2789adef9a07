/** Model releases, as the Python side writes them. */

import { beforeAll, expect, test } from 'vitest'

import { utf8 } from '../src/bytes'
import { MalformedMessageError, RefusedError, UsageError } from '../src/errors'
import { ModelRelease, type Profile } from '../src/face/release'
import { ONEBIT_1024, ONEBIT_2048 } from '../src/onebit/parameters'
import { python } from './vectors'

interface Known {
  readonly release: string
  readonly digest: string
  readonly embedding: readonly number[]
  readonly adapted: Readonly<Record<Profile, readonly number[]>>
}
let known: Known

beforeAll(async () => {
  known = (await python('release', { seed: 1 })) as Known
})

test.each(['reference', 'probe'] as const)('an embedding of the %s profile is adapted as in Python', (profile) => {
  const release = new ModelRelease(utf8(known.release))
  const adapted = release.adapt(Float64Array.from(known.embedding), profile)
  adapted.forEach((x, i) => { expect(x).toBeCloseTo(known.adapted[profile][i], 12) })
})

test('a release is known by the digest of its bytes', () => {
  expect(new ModelRelease(utf8(known.release)).digest).toBe(known.digest)
})

test('it says how often somebody else is accepted, what that rests on, and how many pictures it takes', () => {
  const { fmr, threshold, references, frames } = new ModelRelease(utf8(known.release))
  expect(fmr).toEqual({ stated: 0.01, low: 0.004, high: 0.025, basis: 'checked', people: 24, condition: 'mask' })
  expect([threshold, references, frames]).toEqual([600, 2, 3])
})

test('without a projection, embeddings are only centred', () => {
  const text = known.release.replace('"dimension":16', '"dimension":6').replace(/"projection":"[^"]*"/, '"projection":null')
  const { probe, reference } = JSON.parse(text).centres as Record<Profile, string>
  const [centre, other] = [probe, reference].map((one) => new Float64Array(Uint8Array.from(atob(one), (c) => c.charCodeAt(0)).buffer))
  const norm = Math.hypot(...other.map((x, i) => x - centre[i]))
  new ModelRelease(utf8(text)).adapt(other, 'probe').forEach((x, i) => { expect(x).toBeCloseTo((other[i] - centre[i]) / norm, 12) })
})

test.each([[1024, ONEBIT_1024], [2048, ONEBIT_2048]] as const)('codes of %i bits choose the parameters', (length, parameters) => {
  const text = known.release.replace(/"code_length":\d+/, `"code_length":${length}`)
  expect(new ModelRelease(utf8(text)).parameters).toBe(parameters)
})

test.each([
  ['cut short', (text: string) => text.slice(0, -1)],
  ['of another format', (text: string) => text.replace('release-4', 'release-3')],
  ['with codes of another length', (text: string) => text.replace(/"code_length":\d+/, '"code_length":512')],
  ['with a length of codes that is text', (text: string) => text.replace(/"code_length":(\d+)/, '"code_length":"$1"')],
  ['with a vector that is no base64', (text: string) => text.replace(/"probe":"..../, '"probe":"!!!!')],
  ['with another dimension', (text: string) => text.replace('"dimension":16', '"dimension":17')],
  ['without its projection', (text: string) => text.replace(/"projection":"[^"]*"/, '"projection":null')],
  ['with centres of two lengths', (text: string) => text.replace(/"probe":"[^"]*"/, '"probe":"AAAAAAAAAAA="')],
  ['with a centre that is no number', (text: string) => text.replace(/"probe":"[^"]*"/, `"probe":"${btoa('\xff'.repeat(48))}"`)],
  ['with an interval that is turned round', (text: string) => text.replace('"fmr_low":0.004', '"fmr_low":0.4')],
  ['with an interval beyond one', (text: string) => text.replace('"fmr_high":0.025', '"fmr_high":1.1')],
  ['with a rate of nobody', (text: string) => text.replace('"fmr_people":24', '"fmr_people":0')],
  ['with half a person', (text: string) => text.replace('"fmr_people":24', '"fmr_people":24.5')],
  ['with a rate of nothing', (text: string) => text.replace('"fmr":0.01', '"fmr":0')],
  ['with an interval above its rate', (text: string) => text.replace('"fmr_low":0.004', '"fmr_low":0.015')],
  ['with an interval that is text', (text: string) => text.replace('"fmr_low":0.004', '"fmr_low":"0.004"')],
  ['that rests on something else', (text: string) => text.replace('"basis":"checked"', '"basis":"guessed"')],
  ['that was checked on nobody', (text: string) => text.replace('["threshold",', '["moments",')],
  ['without a condition', (text: string) => text.replace('"condition":"mask"', '"condition":null')],
  ['with a threshold of all bits', (text: string) => text.replace('"threshold":600', '"threshold":1024')],
  ['of six references', (text: string) => text.replace('"references":2', '"references":6')],
  ['of no frames', (text: string) => text.replace('"frames":3', '"frames":0')],
  ['of nothing', () => 'null'],
])('a release %s is refused', (_, damage) => {
  expect(() => new ModelRelease(utf8(damage(known.release)))).toThrow(MalformedMessageError)
})

test('an embedding of another length is refused', () => {
  expect(() => new ModelRelease(utf8(known.release)).adapt(new Float64Array(15), 'probe')).toThrow(UsageError)
})

test('a release that tunes the recogniser adapts nothing here', () => {
  const tuned = new ModelRelease(utf8(known.release.replace('{', '{"scales":"",')))
  expect(() => tuned.adapt(Float64Array.from(known.embedding), 'probe')).toThrow(expect.objectContaining({ name: RefusedError.name, message: expect.stringContaining('tunes the recogniser itself') }))
})

test('a camera profile that a release does not know adapts nothing', () => {
  const release = new ModelRelease(utf8(known.release))
  expect(() => release.adapt(Float64Array.from(known.embedding), 'passport' as Profile)).toThrow('does not know the camera profile passport')
})

test('embeddings have at most 1024 numbers, and what comes of them no more than they', () => {
  const zeros = (count: number): string => btoa('\0'.repeat(8 * count))
  const text = (dimension: number, kept: number, projection: string | null): string => JSON.stringify({ ...JSON.parse(known.release), dimension, centres: { reference: zeros(kept), probe: zeros(kept) }, projection })
  const isTaken = (...given: Parameters<typeof text>): boolean => { try { return new ModelRelease(utf8(text(...given))) instanceof ModelRelease } catch (error) { expect(error).toBeInstanceOf(MalformedMessageError); return false } }
  expect([isTaken(1024, 1024, null), isTaken(1025, 1025, null), isTaken(3, 3, zeros(9)), isTaken(3, 4, zeros(12)), isTaken(3, 0, zeros(0)), isTaken(3, 2, zeros(6)), isTaken(3, 2, zeros(5))]).toEqual([true, false, true, false, false, true, false])
})
