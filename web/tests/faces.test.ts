/** The page's recogniser beside the Python one, on the ORL faces (AT&T Laboratories Cambridge). */

import { beforeAll, expect, test } from 'vitest'

import { UnusableImageError } from '../src/face/finding'
import { Recogniser } from '../src/face/recogniser'
import { python } from './vectors'

interface Face {
  readonly image: string
  readonly cut: string
  readonly embedding: readonly number[]
}

let recogniser: Recogniser
let known: { readonly digest: string; readonly faces: readonly Face[] }

const bitmap = async (png: string): Promise<ImageBitmap> =>
  createImageBitmap(new Blob([Uint8Array.from(atob(png), (c) => c.charCodeAt(0))], { type: 'image/png' }))
const cosine = (left: ArrayLike<number>, right: ArrayLike<number>): number =>
  Array.from(left).reduce((sum, x, i) => sum + x * right[i], 0)

beforeAll(async () => {
  const request = { people: Array.from({ length: 8 }, (_, i) => i + 1), images: [1, 4, 9] }
  ;[recogniser, known] = await Promise.all([Recogniser.load(), python('faces', request) as Promise<typeof known>])
}, 120_000)

test('releases for the shipped profile are for it, and others are not', () => {
  expect(recogniser.is(known.digest)).toBe(true)
  expect(recogniser.is('00'.repeat(32))).toBe(false)
})

test('the network gives one cut the same embedding as in Python', async () => {
  for (const face of known.faces.slice(0, 5)) {
    const image = await bitmap(face.cut)
    const context = new OffscreenCanvas(image.width, image.height).getContext('2d')!
    context.drawImage(image, 0, 0)
    const { data } = context.getImageData(0, 0, image.width, image.height)
    const embedding = recogniser.embedCut(Uint8Array.from(data.filter((_, i) => i % 4 !== 3)))
    expect(cosine(embedding, face.embedding)).toBeGreaterThan(0.9999)
  }
})

test('one image has the same embedding in Python and here', async () => {
  const cosines: number[] = []
  const times: number[] = []
  for (const { image, embedding } of known.faces) {
    const picture = await bitmap(image)
    const begun = performance.now()
    cosines.push(cosine(recogniser.embed(picture), embedding))
    times.push(performance.now() - begun)
  }
  cosines.sort((a, b) => a - b)
  times.sort((a, b) => a - b)
  console.log(JSON.stringify({ images: cosines.length, cosine_smallest: cosines[0], cosine_median: cosines[cosines.length >> 1], milliseconds_median: times[times.length >> 1] }))
  expect(cosines.length).toBe(24)
  expect(cosines[0]).toBeGreaterThan(0.999)
}, 120_000)

test('an image without a face is refused', async () => {
  const canvas = new OffscreenCanvas(400, 300)
  canvas.getContext('2d')!.fillRect(0, 0, 400, 300)
  expect(() => recogniser.embed(canvas.transferToImageBitmap())).toThrow(UnusableImageError)
})
