/** The page's recogniser beside the Python one, on the ORL faces (AT&T Laboratories Cambridge). */

import { beforeAll, expect, test } from 'vitest'

import { randomBytes } from '../src/bytes'
import { Recogniser, UnusableImageError } from '../src/face/recogniser'
import { CodeSeed } from '../src/onebit/code'
import { ONEBIT_2048 } from '../src/onebit/parameters'
import { python } from './vectors'

interface Face {
  readonly person: number
  readonly image: string
  readonly chip: string
  readonly embedding: readonly number[]
}
interface Embedded {
  readonly person: number
  readonly here: Float64Array
  readonly there: Float64Array
}

let recogniser: Recogniser
let known: { readonly digest: string; readonly faces: readonly Face[] }

const bitmap = async (png: string): Promise<ImageBitmap> =>
  createImageBitmap(new Blob([Uint8Array.from(atob(png), (c) => c.charCodeAt(0))], { type: 'image/png' }))
const cosine = (left: ArrayLike<number>, right: ArrayLike<number>): number =>
  Array.from(left).reduce((sum, x, i) => sum + x * right[i], 0)
const rate = (values: readonly number[], passes: (value: number) => boolean): number => values.filter(passes).length / values.length

beforeAll(async () => {
  const request = { people: Array.from({ length: 8 }, (_, i) => i + 1), images: [1, 4, 9] }
  ;[recogniser, known] = await Promise.all([Recogniser.load(), python('faces', request) as Promise<typeof known>])
}, 120_000)

test('it is the recogniser that releases name', () => {
  expect(recogniser.digest).toBe(known.digest)
})

test('the network gives one chip the same embedding as in Python', async () => {
  for (const face of known.faces.slice(0, 5)) {
    const image = await bitmap(face.chip)
    const context = new OffscreenCanvas(150, 150).getContext('2d')!
    context.drawImage(image, 0, 0)
    const embedding = await recogniser.embedChip(context.getImageData(0, 0, 150, 150))
    expect(cosine(embedding, face.embedding)).toBeGreaterThan(0.99999)
  }
})

test('templates of one pipeline accept probes of the other', async () => {
  const embedded: Embedded[] = []
  let missed = 0
  for (const { person, image, embedding } of known.faces) {
    try {
      embedded.push({ person, here: await recogniser.embed(await bitmap(image)), there: Float64Array.from(embedding) })
    } catch (error) {
      if (!(error instanceof UnusableImageError)) throw error
      missed++
    }
  }
  const seed = CodeSeed.generate(randomBytes)
  const mean = Float64Array.from({ length: 128 }, (_, i) => embedded.reduce((sum, one) => sum + one.there[i], 0) / embedded.length)
  const code = (vector: Float64Array): Uint8Array => seed.code(vector.map((x, i) => x - mean[i]), ONEBIT_2048.slots)
  const codes = embedded.map((one) => ({ ...one, here: code(one.here), there: code(one.there) }))
  const distances = (probe: 'here' | 'there', reference: 'here' | 'there', same: boolean): number[] =>
    codes.flatMap((left, i) => codes.filter((right, j) => i !== j && (left.person === right.person) === same)
      .map((right) => left[probe].reduce((sum, bit, place) => sum + (bit ^ right[reference][place]), 0) / ONEBIT_2048.slots))
  const cosines = embedded.map((one) => cosine(one.here, one.there)).sort((a, b) => a - b)
  const threshold = distances('there', 'there', false).sort((a, b) => a - b)[Math.floor(0.01 * distances('there', 'there', false).length)]
  const rates = Object.fromEntries(
    ([['page', 'here', 'here'], ['across', 'here', 'there'], ['python', 'there', 'there']] as const).map(([name, probe, reference]) => [
      name,
      {
        accepted_genuine: rate(distances(probe, reference, true), (d) => d <= threshold),
        accepted_impostor: rate(distances(probe, reference, false), (d) => d <= threshold),
      },
    ]),
  )
  console.log(JSON.stringify({
    images: known.faces.length, missed, cosine_smallest: cosines[0], cosine_median: cosines[cosines.length >> 1], threshold, rates }))
  expect(missed / known.faces.length).toBeLessThan(0.1)
  expect(cosines[cosines.length >> 1]).toBeGreaterThan(0.99)
  expect(rates['across'].accepted_genuine).toBeGreaterThan(rates['python'].accepted_genuine - 0.05)
  expect(rates['across'].accepted_impostor).toBeLessThan(0.08) // a few pairs of 504, by the draw of the code seed
}, 120_000)

test('an image without a face is refused', async () => {
  const canvas = new OffscreenCanvas(400, 300)
  canvas.getContext('2d')!.fillRect(0, 0, 400, 300)
  await expect(recogniser.embed(canvas.transferToImageBitmap())).rejects.toThrow(UnusableImageError)
})
