/** Films as numbers before an eye that reads them: which frames are compared, what is refused, and that no frame stays. */

import { beforeAll, describe, expect, test } from 'vitest'

import { utf8 } from '../src/bytes'
import { Studio } from '../src/device/studio'
import { CancelledError } from '../src/errors'
import { type Eye, Filming, type Prompt } from '../src/face/filming'
import { UnusableImageError } from '../src/face/finding'
import type { Point } from '../src/face/cropping'
import type { Movement } from '../src/face/movements'
import { ModelRelease } from '../src/face/release'
import vectors from '../../tests/vectors/movements.json'
import { python } from './vectors'

type Name = keyof typeof vectors.films

let release: ModelRelease

beforeAll(async () => {
  const { release: made } = (await python('release', { seed: 1 })) as { release: string }
  const zeros = btoa('\0'.repeat(8 * 16))
  const plain = made.replace(/"projection":"[^"]*"/, '"projection":null').replace(/"(probe|reference)":"[^"]*"/g, `"$1":"${zeros}"`)
  release = new ModelRelease(utf8(plain.replace(/"threshold":\d+/, '"threshold":384'))) // angles up to 67.5 degrees
})

const at = (degrees: number): Float64Array => Float64Array.from({ length: 16 }, (_, axis) => [Math.cos, Math.sin][axis]?.(degrees * Math.PI / 180) ?? 0)

/** A film that was written down, with somebody's face at each of its looks, in degrees. */
class Written {
  readonly frames: ImageBitmap[] = []
  readonly compared: number[] = []
  /** Where the face was said to have been, of each frame. */
  readonly before: (readonly Point[] | null)[] = []
  readonly #film: { readonly movements: readonly string[]; readonly side: number; readonly looks: readonly (readonly number[] | null)[] }
  readonly filming: Filming
  readonly #isUpright: boolean
  #now = 0

  constructor(name: Name, { wanted = 2, person = () => 0, looks, isUpright = false }: { wanted?: number; person?: (second: number) => number; looks?: readonly (number[] | null)[]; isUpright?: boolean } = {}) {
    this.#isUpright = isUpright
    this.#film = { ...vectors.films[name], ...(looks !== undefined && { looks }) }
    const eye: Eye = {
      follow: (_frame, before) => {
        this.before.push(before)
        const look = this.#film.looks[this.#now]
        if (look === null) throw new UnusableImageError('no face found')
        return Array.from({ length: 6 }, (_, i) => ({ x: look[1 + 2 * i], y: look[2 + 2 * i] }))
      },
      cut: (frame) => new Uint8Array([this.frames.indexOf(frame)]),
      embed: ([number]) => { this.compared.push(number); return at(person(number)) },
    }
    this.filming = new Filming(eye, this.#film.movements as Movement[], wanted)
  }

  /** Shows its frames until none is wanted. @returns what was asked for, without repetitions. */
  show(see: (frame: ImageBitmap, seconds: number) => Prompt = (frame, seconds) => this.filming.see(frame, seconds)): (Movement | null)[] {
    const asked: (Movement | null)[] = []
    for (this.#now = 0; this.#now < this.#film.looks.length; this.#now++) {
      const frame = this.#isUpright ? new OffscreenCanvas(1, this.#film.side) : new OffscreenCanvas(this.#film.side, 1)
      frame.getContext('2d')
      this.frames.push(frame.transferToImageBitmap())
      const prompt = see(this.frames.at(-1)!, this.#film.looks[this.#now]?.[0] ?? this.#now / 15)
      if (prompt.isOver) break
      if (asked.length === 0 || asked.at(-1) !== prompt.asked) asked.push(prompt.asked)
    }
    return asked
  }

  /** Frames whose pixels are still there. */
  get kept(): number[] { return this.frames.flatMap(({ width }, number) => (width > 0 ? [number] : [])) }
}

describe('a head that does what it is told', () => {
  test('leaves frames from the front, and one of each movement, and nothing once the film is let go', () => {
    const written = new Written('a head')
    {
      using filming = written.filming
      expect(written.show()).toEqual([null, 'left', 'up', 'right'])
      expect(filming.prompt).toEqual({ asked: null, done: 3, of: 3, isOver: true })
      expect(written.kept).toHaveLength(5)
      filming.embedding(release)
      expect([...written.compared].sort((one, other) => one - other)).toEqual(written.kept)
      expect(Math.max(...written.compared.slice(0, 2))).toBeLessThan(Math.max(...written.compared.slice(2)))
    }
    expect(written.kept).toEqual([])
  })

  test('is compared by the mean of what looks into the camera, apart from each other and as many as are wanted', () => {
    const written = new Written('a head', { wanted: 1, person: (frame) => (frame < 10 ? 10 : 30) })
    written.show()
    written.filming.embedding(release).forEach((x, axis) => { expect(x).toBeCloseTo(at(10)[axis], 12) })
    expect(written.compared).toHaveLength(4)
    const more = new Written('a head', { wanted: 9 })
    more.show()
    more.filming.embedding(release)
    const middles = more.compared.slice(0, -3)
    middles.slice(1).forEach((frame, i) => { expect((frame - middles[i]) / 15).toBeGreaterThanOrEqual(0.3 - 1e-9) })
  })

  test('is refused when another person made the movements', () => {
    const written = new Written('a head', { wanted: 1, person: (frame) => (frame < 5 ? 0 : 120) })
    written.show()
    expect(() => written.filming.embedding(release)).toThrow(expect.objectContaining({ why: { name: 'why.film_others' } }))
  })
})

test.each([
  ['another order', 'another'], ['a picture', 'too_late'], ['a bent picture', 'too_late'], ['two pictures', 'jumped'], ['nobody', 'nobody'], ['away', 'away'], ['too near', 'too_near'],
] as const)('the film of %s is over, and compares nothing', (name, fault) => {
  const written = new Written(name)
  written.show()
  expect(written.filming.prompt.isOver).toBe(true)
  expect(() => written.filming.embedding(release)).toThrow(expect.objectContaining({ name: 'UnusableImageError', why: { name: `why.film_${fault}` } }))
  expect(written.compared).toEqual([])
  written.filming[Symbol.dispose]()
  expect(written.kept).toEqual([])
})

test('a frame that stands upright is as large as one that lies on its side', () => {
  for (const isUpright of [true, false]) {
    const [near, far] = [new Written('too near', { isUpright }), new Written('a head', { isUpright })]
    near.show()
    expect(() => near.filming.embedding(release)).toThrow(expect.objectContaining({ why: { name: 'why.film_too_near' } }))
    expect([far.show(), far.filming.prompt.done]).toEqual([[null, 'left', 'up', 'right'], 3])
    for (const one of [near, far]) one.filming[Symbol.dispose]()
  }
})

test('where a face was is handed on to the next frame, and forgotten where it is lost', () => {
  const written = new Written('changed out of sight')
  written.show()
  const looks = vectors.films['changed out of sight'].looks
  expect(written.before.map((before) => before?.[0].x ?? null)).toEqual(written.before.map((_, i) => looks[i - 1]?.[1] ?? null))
  expect(written.before.filter((before, i) => i > 0 && before === null)).not.toEqual([])
})

test('of a movement that begins anew the frame of before is let go', () => {
  const { looks } = vectors.films['a head']
  const again = looks.slice(6).map(([seconds, ...points]) => [seconds + 4 / 15, ...points])
  const written = new Written('a head', { looks: [...looks.slice(0, 9), null, ...again] as typeof looks })
  {
    using filming = written.filming
    written.show()
    expect([filming.prompt.done, filming.prompt.isOver]).toEqual([3, true])
    expect(written.kept).toHaveLength(5)
  }
  expect(written.kept).toEqual([])
})

test('a film that is not over yet compares nothing', () => {
  const written = new Written('a head')
  written.show((frame, seconds) => ({ ...written.filming.see(frame, seconds), isOver: written.frames.length === 20 }))
  expect(() => written.filming.embedding(release)).toThrow(UnusableImageError)
})

describe('a session that waits for a film', () => {
  const bitmap = (): ImageBitmap => { const canvas = new OffscreenCanvas(640, 1); canvas.getContext('2d'); return canvas.transferToImageBitmap() }
  const OVER = { asked: null, done: 0, of: 0, isOver: true }

  test('gets frames from when it says so until the film is over', async () => {
    const [studio, written, told] = [new Studio(), new Written('a head'), [] as string[]]
    const taken = studio.take(written.filming, new AbortController().signal, () => { told.push('begin') })
    expect(told).toEqual(['begin'])
    expect(written.show((frame, seconds) => studio.see(frame, seconds))).toEqual([null, 'left', 'up', 'right'])
    const [atOnce, late] = [bitmap(), bitmap()]
    expect(studio.see(atOnce, 9)).toEqual(OVER)
    await taken
    expect(studio.see(late, 9)).toEqual(OVER)
    expect([atOnce.width, late.width]).toEqual([0, 0])
  })

  test('gives each frame on with its time, and what is to be done next back', async () => {
    const [studio, seen] = [new Studio(), [] as unknown[][]]
    const prompts = [{ asked: 'left', done: 0, of: 2, isOver: false }, { asked: null, done: 2, of: 2, isOver: true }]
    const taken = studio.take({ see: (...given: unknown[]) => { seen.push(given); return prompts[seen.length - 1] } } as unknown as Filming, new AbortController().signal, () => undefined)
    const frames = [bitmap(), bitmap()]
    expect(frames.map((frame, i) => studio.see(frame, i + 0.5))).toEqual(prompts)
    expect(seen).toEqual([[frames[0], 0.5], [frames[1], 1.5]])
    await taken
    for (const frame of frames) frame.close()
  })

  test.each([true, false])('ends when the person stops it, before or meanwhile (%s)', async (isBefore) => {
    const [studio, written, person] = [new Studio(), new Written('a head'), new AbortController()]
    if (isBefore) person.abort()
    const taken = studio.take(written.filming, person.signal, () => undefined)
    person.abort()
    await expect(taken).rejects.toThrow(CancelledError)
    const late = bitmap()
    expect(studio.see(late, 1)).toEqual(OVER)
    expect(late.width).toBe(0)
  })

  test('is told that there is no camera, and what to do', async () => {
    const [studio, written] = [new Studio(), new Written('a head')]
    const taken = studio.take(written.filming, new AbortController().signal, () => undefined)
    expect(studio.see(null, 0)).toEqual(OVER)
    await expect(taken).rejects.toThrow(expect.objectContaining({ why: { name: 'why.film_camera' } }))
  })

  test('ends with whatever goes wrong when a frame is looked at', async () => {
    const studio = new Studio()
    const broken = new Filming({ follow: () => { throw new RangeError('broken') }, cut: () => new Uint8Array(), embed: () => new Float64Array() }, ['left'], 1)
    const taken = studio.take(broken, new AbortController().signal, () => undefined)
    const frame = bitmap()
    expect(studio.see(frame, 0)).toEqual(OVER)
    expect(frame.width).toBe(0)
    await expect(taken).rejects.toThrow('broken')
  })
})
