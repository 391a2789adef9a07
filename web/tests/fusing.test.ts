/** What is asked of several pictures, and what becomes of them. */

import { beforeAll, expect, test } from 'vitest'

import { utf8 } from '../src/bytes'
import { UnusableImageError } from '../src/face/finding'
import { fused, requireDifferent, requireOnePerson } from '../src/face/fusing'
import { ModelRelease } from '../src/face/release'
import { python } from './vectors'

let release: ModelRelease

beforeAll(async () => {
  const { release: text } = (await python('release', { seed: 1 })) as { release: string }
  // Neither centred nor projected: angles of embeddings are those of codes.
  const zeros = btoa('\0'.repeat(8 * 16))
  const plain = text.replace(/"projection":"[^"]*"/, '"projection":null').replace(/"(probe|reference)":"[^"]*"/g, `"$1":"${zeros}"`)
  release = new ModelRelease(utf8(plain.replace(/"threshold":\d+/, '"threshold":384'))) // angles up to 67.5 degrees
})

/** A unit vector in the plane of the first two axes. */
const at = (degrees: number): Float64Array => {
  const vector = new Float64Array(16)
  vector[0] = Math.cos(degrees * Math.PI / 180)
  vector[1] = Math.sin(degrees * Math.PI / 180)
  return vector
}

test('the mean of several is of unit norm, and lies in the middle', () => {
  fused([at(10), at(50)]).forEach((x, i) => { expect(x).toBeCloseTo(at(30)[i], 12) })
  fused([at(20), at(20), at(20)]).forEach((x, i) => { expect(x).toBeCloseTo(at(20)[i], 12) })
})

test('what cancels out is zero', () => {
  expect(fused([new Float64Array([1, 0]), new Float64Array([-1, 0])])).toEqual(new Float64Array(2))
})

test('a picture and its copy are not two', () => {
  const cut = Uint8Array.from({ length: 300 }, (_, i) => (7 * i) % 250)
  const copy = cut.map((value, i) => value + (i % 2) * 4) // by two on average
  const other = cut.map((value, i) => value + (i % 2) * 5)
  expect(() => { requireDifferent([cut, other]) }).not.toThrow()
  expect(() => { requireDifferent([other.map((x) => x ^ 64), cut, copy]) }).toThrow('picture 3 is the same picture as picture 2, which is not two')
})

test.each([
  ['one', [0]], ['of one person', [0, 60, 30]], ['that each agree with half of the others', [0, 65, 130]],
])('pictures %s are taken', (_, angles) => {
  requireOnePerson(angles.map(at), release)
})

test.each([
  ['one among three', [0, 90, 20], 'picture 2: of somebody else than the other pictures'],
  ['two among five', [100, 0, 10, 20, 190], 'picture 1 and picture 5: of somebody else than the other pictures'],
  ['two', [0, 70], 'picture 1 and picture 2 do not show one person'],
  ['three', [0, 90, 180], 'picture 1 and picture 2 and picture 3 do not show one person'],
])('somebody else is noticed: %s', (_, angles, said) => {
  expect(() => { requireOnePerson(angles.map(at), release) }).toThrow(UnusableImageError)
  expect(() => { requireOnePerson(angles.map(at), release) }).toThrow(said)
})
