/** What is asked of several pictures, and what becomes of them. */

import { beforeAll, expect, test } from 'vitest'

import { utf8 } from '../src/bytes'
import { UnusableImageError } from '../src/face/finding'
import { fused, requireDifferent, requireOnePerson } from '../src/face/fusing'
import { ModelRelease } from '../src/face/release'
import { python } from './vectors'

let release: ModelRelease
let text: string

beforeAll(async () => {
  const { release: made } = (await python('release', { seed: 1 })) as { release: string }
  // Neither centred nor projected: angles of embeddings are those of codes.
  const zeros = btoa('\0'.repeat(8 * 16))
  const plain = made.replace(/"projection":"[^"]*"/, '"projection":null').replace(/"(probe|reference)":"[^"]*"/g, `"$1":"${zeros}"`)
  text = plain.replace(/"threshold":\d+/, '"threshold":384') // angles up to 67.5 degrees
  release = new ModelRelease(utf8(text))
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

/** What a check objects to, here and in Python. */
async function objections(cuts: readonly Uint8Array[], embeddings: readonly Float64Array[]): Promise<(string | null)[]> {
  const request = { images: [], cuts: cuts.map((cut) => [...cut]), embeddings: embeddings.map((one) => [...one]), release: text }
  const { copies, people } = (await python('pictures', request)) as { copies: string | null; people: string | null }
  const said = (check: () => void): string | null => {
    try {
      check()
      return null
    } catch (error) {
      if (!(error instanceof UnusableImageError)) throw error
      return error.message
    }
  }
  const here = [said(() => { requireDifferent(cuts) }), said(() => { requireOnePerson(embeddings, release) })]
  expect(here).toEqual([copies, people])
  return here
}

test('a picture and its copy are not two', async () => {
  const cut = Uint8Array.from({ length: 300 }, (_, i) => (7 * i) % 250)
  const copy = cut.map((value, i) => value + (i % 2) * 4) // by two on average
  const other = cut.map((value, i) => value + (i % 2) * 5)
  expect(await objections([cut, other], [at(0)])).toEqual([null, null])
  const [said] = await objections([other.map((x) => x ^ 64), cut, copy], [at(0)])
  expect(said).toContain('picture 3 is the same picture as picture 2, which is not two')
})

test.each([
  ['one', [0]], ['of one person', [0, 60, 30]], ['that each agree with half of the others', [0, 65, 130]],
])('pictures %s are taken', async (_, angles) => {
  expect(await objections([], angles.map(at))).toEqual([null, null])
})

test.each([
  ['one among three', [0, 90, 20], 'picture 2: of somebody else than the other pictures'],
  ['two among five', [100, 0, 10, 20, 190], 'picture 1 and picture 5: of somebody else than the other pictures'],
  ['two', [0, 70], 'picture 1 and picture 2 do not show one person'],
  ['three', [0, 90, 180], 'picture 1 and picture 2 and picture 3 do not show one person'],
])('somebody else is noticed: %s', async (_, angles, said) => {
  expect(await objections([], angles.map(at))).toEqual([null, expect.stringContaining(said)])
})

test('the person is told which pictures, by their numbers', () => {
  const why = (check: () => void): unknown => { try { check(); return null } catch (error) { return (error as UnusableImageError).why } }
  const cut = new Uint8Array(30).fill(100)
  expect(why(() => { requireDifferent([cut.map(() => 7), cut, cut]) })).toEqual({ name: 'why.same', values: { later: 3, earlier: 2 } })
  expect(why(() => { requireOnePerson([100, 0, 10, 20, 190].map(at), release) })).toEqual({ name: 'why.somebody_else', values: { pictures: '1, 5', count: 2 } })
  expect(why(() => { requireOnePerson([0, 70].map(at), release) })).toEqual({ name: 'why.unlike', values: { pictures: '1, 2', count: 2 } })
})
