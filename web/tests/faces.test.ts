/** The page's recogniser beside the Python one, on the ORL faces (AT&T Laboratories Cambridge). */

import { beforeAll, expect, test, vi } from 'vitest'

import { UnavailableError } from '../src/errors'
import { UnusableImageError } from '../src/face/finding'
import { sharpness } from '../src/face/quality'
import { Recogniser } from '../src/face/recogniser'
import vectors from '../../tests/vectors/recognition/sharpness.json'
import { python } from './vectors'

interface Face {
  readonly image: string
  readonly cut: string
  readonly embedding: readonly number[]
}

let recogniser: Recogniser
let known: { readonly digests: readonly string[]; readonly faces: readonly Face[] }

const bitmap = async (file: string): Promise<ImageBitmap> =>
  createImageBitmap(new Blob([Uint8Array.from(atob(file), (c) => c.charCodeAt(0))]), { colorSpaceConversion: 'none' })
const cosine = (left: ArrayLike<number>, right: ArrayLike<number>): number =>
  Array.from(left).reduce((sum, x, i) => sum + x * right[i], 0)

beforeAll(async () => {
  const request = { people: Array.from({ length: 8 }, (_, i) => i + 1), images: [1, 4, 9], format: 'PNG' }
  ;[recogniser, known] = await Promise.all([Recogniser.load(), python('faces', request) as Promise<typeof known>])
}, 120_000)

test('releases for the profiles that ship are for it, and others are not', () => {
  expect(known.digests.map((digest) => recogniser.is(digest))).toEqual(known.digests.map(() => true))
  expect(recogniser.is('00'.repeat(32))).toBe(false)
})

test.each([
  ['does not come', () => new Response(null, { status: 404 })],
  ['is another one', () => new Response(new Uint8Array(538_928))],
])('when a file of the recogniser %s, nothing is recognised', async (_, answer) => {
  const real = globalThis.fetch
  const fetching = vi.spyOn(globalThis, 'fetch').mockImplementation((url, options) =>
    String(url).includes('blazeface') && String(url).includes('.bin') ? Promise.resolve(answer()) : real(url, options))
  try {
    await expect(Recogniser.load()).rejects.toThrow(UnavailableError)
  } finally {
    fetching.mockRestore()
  }
})

test('the network gives one cut the same embedding as in Python', async () => {
  for (const face of known.faces.slice(0, 5)) {
    const image = await bitmap(face.cut)
    const context = new OffscreenCanvas(image.width, image.height).getContext('2d')!
    context.drawImage(image, 0, 0)
    const { data } = context.getImageData(0, 0, image.width, image.height)
    const embedding = recogniser.embed(Uint8Array.from(data.filter((_, i) => i % 4 !== 3)))
    expect(cosine(embedding, face.embedding)).toBeGreaterThan(0.9999)
  }
})

test.each(['PNG', 'JPEG'])('one %s has the same embedding in Python and here', async (format) => {
  const { faces } = format === 'PNG' ? known : ((await python('faces', { people: [9, 10, 11, 12], images: [1, 5], format })) as typeof known)
  const cosines: number[] = []
  const times: number[] = []
  for (const { image, embedding } of faces) {
    const picture = await bitmap(image)
    const begun = performance.now()
    cosines.push(cosine(recogniser.embed(recogniser.cut(picture, 'probe')), embedding))
    times.push(performance.now() - begun)
  }
  const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1]
  console.log(JSON.stringify({ format, images: cosines.length, cosine_median: median(cosines), cosine_smallest: cosines[0], milliseconds_median: median(times) }))
  expect(cosines.length).toBe(format === 'PNG' ? 24 : 8)
  expect(cosines[0]).toBeGreaterThan(0.999)
}, 120_000)

/** ORL's first face as it is drawn by `draw`. */
async function drawn(width: number, height: number, draw: (context: OffscreenCanvasRenderingContext2D, face: ImageBitmap) => void): Promise<ImageBitmap> {
  const canvas = new OffscreenCanvas(width, height)
  const context = canvas.getContext('2d')!
  context.imageSmoothingQuality = 'high'
  draw(context, await bitmap(known.faces[0].image))
  return canvas.transferToImageBitmap()
}

/** What the page says of an image as a reference and as a probe. */
const said = (image: ImageBitmap): (string | null)[] => (['reference', 'probe'] as const).map((profile) => {
  try {
    recogniser.cut(image, profile)
    return null
  } catch (error) {
    if (!(error instanceof UnusableImageError)) throw error
    return error.message
  }
})

async function pngOf(image: ImageBitmap): Promise<string> {
  const canvas = new OffscreenCanvas(image.width, image.height)
  canvas.getContext('2d')!.drawImage(image, 0, 0)
  const bytes = new Uint8Array(await (await canvas.convertToBlob({ type: 'image/png' })).arrayBuffer())
  return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ''))
}

test.each(vectors)('the sharpness of $name is what it is in Python', ({ block, contrast, noise, slope, sharpness: known }) => {
  let state = 1
  const cut = Uint8Array.from({ length: 112 * 112 }, (_, i) => {
    const [row, column] = [Math.floor(i / 112), i % 112]
    state = (75 * state + 74) % 65_537
    return ((Math.floor(row / block) + Math.floor(column / block)) % 2) * contrast + state % (noise + 1) + slope * (row + column)
  })
  const rgb = Uint8Array.from({ length: 3 * cut.length }, (_, i) => [cut[Math.floor(i / 3)], cut[Math.floor(i / 3)] >> 1, 255 - cut[Math.floor(i / 3)]][i % 3])
  expect(sharpness(rgb, 112) / known).toBeCloseTo(1, 12)
})

test('what is wrong with an image is said as Python says it', async () => {
  const small = (scale: number): Promise<ImageBitmap> => drawn(Math.round(92 * scale), Math.round(112 * scale), (context, face) => {
    context.drawImage(face, 0, 0, 92 * scale, 112 * scale)
  })
  const off = (left: number, top: number): Promise<ImageBitmap> => drawn(92 - left, 112 - top, (context, face) => { context.drawImage(face, -left, -top) })
  const images = {
    good: await bitmap(known.faces[0].image),
    empty: await drawn(400, 300, (context) => { context.fillRect(0, 0, 400, 300) }),
    'two faces': await drawn(300, 200, (context, face) => { context.drawImage(face, 20, 40); context.drawImage(face, 180, 40) }),
    'few pixels': await small(0.45),
    'fewer pixels': await small(0.3),
    'cut off above': await off(0, 34),
    'cut off beside': await off(30, 0),
    'upside down': await drawn(92, 112, (context, face) => {
      context.rotate(Math.PI)
      context.drawImage(face, -92, -112)
    }),
    dark: await drawn(92, 112, (context, face) => { context.filter = 'brightness(0.15)'; context.drawImage(face, 0, 0) }),
    'over-exposed': await drawn(92, 112, (context, face) => { context.filter = 'brightness(2.15)'; context.drawImage(face, 0, 0) }),
    'out of focus': await drawn(92, 112, (context, face) => { context.filter = 'blur(2.5px)'; context.drawImage(face, 0, 0) }),
    'small in a large one': await drawn(6200, 900, (context, face) => { context.drawImage(face, 2960, 300, 164, 200) }),
    'two in a large one': await drawn(6200, 900, (context, face) => {
      for (const left of [300, 5000]) context.drawImage(face, left, 200, 164, 200)
    }),
    'none in a large one': await drawn(3200, 400, (context) => { context.fillRect(0, 0, 3200, 400) }),
  }
  const release = ((await python('release', { seed: 1 })) as { release: string }).release
  const pngs = await Promise.all(Object.values(images).map(pngOf))
  const { quality } = (await python('pictures', { images: pngs, cuts: [], embeddings: [Array(16).fill(0.25)], release })) as { quality: (string | null)[][] }
  expect(Object.fromEntries(Object.entries(images).map(([name, image]) => [name, said(image)])))
    .toEqual(Object.fromEntries(Object.keys(images).map((name, i) => [name, quality[i]])))
  expect(quality).toEqual([
    [null, null],
    Array(2).fill(expect.stringContaining('no face found')),
    Array(2).fill(expect.stringContaining('2 faces found')),
    [expect.stringContaining('18 are needed to enrol'), null],
    [expect.stringContaining('18 are needed to enrol'), expect.stringContaining('13 are needed')],
    [expect.stringContaining('above or below the photograph'), null],
    [expect.stringContaining('outside of the photograph'), null],
    [expect.stringContaining('the face is upside down'), null],
    [expect.stringContaining('the face is too dark to enrol'), null],
    [expect.stringContaining('of what is compared is white, 60 % may'), null],
    [expect.stringContaining('the face is not sharp enough to enrol'), null],
    [null, null],
    Array(2).fill(expect.stringContaining('2 faces found')),
    Array(2).fill(expect.stringContaining('at least 128 of these 3200 x 400 pixels high')),
  ])
}, 120_000)

test('a photograph of more pixels than a phone can draw gives the same embedding', async () => {
  const large = await drawn(4600, 5600, (context, face) => { context.drawImage(face, 0, 0, 4600, 5600) })
  expect(cosine(recogniser.embed(recogniser.cut(large, 'reference')), known.faces[0].embedding)).toBeGreaterThan(0.99)
})
