/** The files of the recogniser, and what it does with an image, step by step; the networks stand in. Beside Python: `faces.test.ts`. */

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { hex, sha256, utf8 } from '../src/bytes'
import { UnavailableError, UsageError } from '../src/errors'
import { Recogniser } from '../src/face/recogniser'

const world = vi.hoisted(() => ({ told: [] as unknown[][], files: [] as { url: string; bytes: number; digest: string }[], embeds: [3, 4], note(...given: unknown[]): void { world.told.push(given) } }))
const { told } = world

vi.mock('virtual:recogniser', () => ({
  files: world.files, shapes: [[2], [2, 3]], digests: ['digest of one', 'digest of another'], alignment: { side: 112, points: [[387_946, 521_963], [740_318, 520_014], [565_252, 722_366], [566_396, 927_848]] },
  preprocessing: { mean_thousandths: [1000, 20_000, 127_500], divisor_thousandths: 2000 },
}))
vi.mock('../src/face/tensors', () => ({ loadTensors: async () => { world.note('tensors') } }))
vi.mock('../src/face/blazeface', async (original) => ({ ...await original<object>(), BlazeFace: class { constructor(weights: Uint8Array, manifest: Uint8Array) { world.note('detector', ...[weights, manifest].map((one) => new TextDecoder().decode(one))) } } }))
vi.mock('../src/face/mobilefacenet', () => ({
  MobileFaceNet: class {
    constructor(values: unknown) { world.note('network', values) }

    embed(cut: Float32Array) { world.note('embeds', [...cut]); return Float32Array.from(world.embeds) }
  },
}))
const FOUND = [[30, 40], [70, 40], [50, 60], [50, 80]].map(([x, y]) => ({ x, y }))
vi.mock('../src/face/finding', async (original) => ({
  ...await original<object>(),
  FaceFinder: class {
    landmarks(photograph: { width: number }, profile: string) { world.note('landmarks', photograph.width, profile); return FOUND }

    glance(photograph: { width: number }) { world.note('glance', photograph.width); return 'faces' }

    follow(photograph: { width: number }, before: unknown) { world.note('follow', photograph.width, before); return 'where it is' }
  },
}))
vi.mock('../src/face/quality', async (original) => ({ ...await original<object>(), requireQuality: (photograph: { width: number }, landmarks: unknown, alignment: { side: number }, profile: string) => { world.note('quality', photograph.width, landmarks, alignment.side, profile) } }))
vi.mock('../src/face/advice', () => ({ advise: (photograph: { width: number }, faces: unknown, alignment: { side: number }, profile: string, before: unknown) => { world.note('advise', photograph.width, faces, alignment.side, profile, before); return 'advice' } }))

/** Float16: 1, -2, the least above zero, the greatest, zero, the greatest that is not normal, and a fraction. */
const HALVES = Uint16Array.of(0x3c00, 0xc000, 0x0001, 0x7bff, 0x8000, 0x83ff, 0x3555, 0x4900)
const FILES = { '/detector': utf8('the detector'), '/manifest': utf8('the manifest of it'), '/weights': new Uint8Array(HALVES.buffer) }
world.files.push(...Object.entries(FILES).map(([url, data]) => ({ url, bytes: data.length, digest: hex(sha256(data)) })))
const ALL = Object.values(FILES).reduce((sum, { length }) => sum + length, 0)

/** A body that comes in pieces, each so many milliseconds after the one before. */
function body(data: Uint8Array, { pieces = 1, after = 0, stalls = false } = {}): ReadableStream {
  const size = Math.ceil(data.length / pieces)
  let at = 0
  return new ReadableStream({
    pull: (controller) => new Promise((resolve) => {
      setTimeout(() => {
        if (at < data.length) controller.enqueue(data.slice(at, at += size))
        else if (stalls) return
        else controller.close()
        resolve()
      }, after)
    }),
  })
}

/** Lets the server answer. @param others what it answers to some in another way. @returns the signals that it was given. */
function serves(others: Partial<Record<keyof typeof FILES, () => Response | Promise<Response>>> = {}): AbortSignal[] {
  const signals: AbortSignal[] = []
  vi.spyOn(globalThis, 'fetch').mockImplementation(async (url, options) => {
    const signal = options!.signal!
    signals.push(signal)
    const answer = await (others[url as keyof typeof FILES]?.() ?? new Response(body(FILES[url as keyof typeof FILES])))
    const stopped = new Promise<never>((_, reject) => { signal.addEventListener('abort', () => { reject(signal.reason as Error) }) })
    stopped.catch(() => undefined)
    if (answer.body === null) return answer
    const reader = answer.body.getReader()
    const read = reader.read.bind(reader)
    vi.spyOn(reader, 'read').mockImplementation((() => Promise.race([read(), stopped])) as typeof reader.read)
    vi.spyOn(answer.body, 'getReader').mockReturnValue(reader as never)
    return answer
  })
  return signals
}

/** What loading comes to, in so many seconds at most. */
async function loads(seconds = 1, come?: (share: number) => void): Promise<unknown> {
  const loading = Recogniser.load(come).then((one) => one, (error: unknown) => error)
  await vi.advanceTimersByTimeAsync(1000 * seconds)
  return await Promise.race([loading, Promise.resolve('is still at it')])
}

beforeEach(() => { told.length = 0; world.embeds = [3, 4]; vi.useFakeTimers() })
afterEach(() => { vi.useRealTimers(); vi.restoreAllMocks() })

test('every file comes in its place, and how much of all has come is told', async () => {
  serves({ '/weights': () => new Response(body(FILES['/weights'], { pieces: 4 })) })
  const shares: number[] = []
  const recogniser = await loads(1, (share) => { shares.push(share) }) as Recogniser
  expect(told.map(([name]) => name)).toEqual(['tensors', 'detector', 'network'])
  expect(told[1]).toEqual(['detector', 'the detector', 'the manifest of it'])
  expect(told[2]).toEqual(['network', [{ shape: [2], numbers: Float32Array.of(1, -2) }, { shape: [2, 3], numbers: Float32Array.of(2 ** -24, 65_504, -0, -1023 * 2 ** -24, 0.333251953125, 10) }]])
  expect(shares).toHaveLength(6)
  expect(shares.every((share, i) => share > (shares[i - 1] ?? 0))).toBe(true)
  expect([shares.at(-1), shares.map((share) => share * ALL).every((bytes) => Math.abs(bytes - Math.round(bytes)) < 1e-9)]).toEqual([1, true])
  expect(vi.mocked(fetch).mock.calls.map(([url]) => url)).toEqual(Object.keys(FILES))
  expect(['digest of one', 'digest of another', 'digest of a third', ''].map((digest) => recogniser.is(digest))).toEqual([true, true, false, false])
  expect(vi.getTimerCount()).toBe(0)
})

describe('nothing is recognised', () => {
  const UNREACHABLE = { name: 'UnavailableError', message: 'a file of the recogniser does not come; check the connection and reload', why: { name: 'why.unreachable' }, retryAfter: null }
  const OTHER = { name: 'UnavailableError', message: 'a file of the recogniser is not the one that this page was built for; reload', why: { name: 'why.other_file' }, retryAfter: null }
  const manifest = FILES['/manifest']

  test.each<[string, () => Response | Promise<Response>, object]>([
    ['is not there', () => new Response('nothing', { status: 404 }), UNREACHABLE],
    ['has no body', () => new Response(null), UNREACHABLE],
    ['is out of reach', () => Promise.reject(new TypeError('offline')), UNREACHABLE],
    ['breaks off', () => new Response(new ReadableStream({ start: (controller) => { controller.enqueue(manifest.slice(0, 5)) }, pull: (controller) => { controller.error(new TypeError('reset')) } })), UNREACHABLE],
    ['is shorter', () => new Response(body(manifest.slice(0, -1))), OTHER],
    ['is longer', () => new Response(body(new Uint8Array([...manifest, 0]))), OTHER],
    ['goes on after what it should be', () => new Response(body(new Uint8Array([...manifest, ...manifest]), { pieces: 2 })), OTHER],
    ['is longer, piece by piece', () => new Response(body(new Uint8Array([...manifest, 0, 0]), { pieces: 3 })), OTHER],
    ['is another one', () => new Response(body(manifest.map((byte, i) => (i === 3 ? byte ^ 1 : byte)))), OTHER],
  ])('when a file %s, and nothing waits for more of it', async (_, answer, error) => {
    const signals = serves({ '/manifest': answer })
    expect(await loads()).toMatchObject(error)
    expect(await loads()).toBeInstanceOf(UnavailableError)
    expect([signals[1].aborted, vi.getTimerCount()]).toEqual([true, 0])
    expect(told.filter(([name]) => name !== 'tensors')).toEqual([])
  })

  test('when nothing comes for 15 seconds, at first or later; each piece is waited for as long', async () => {
    const silent = (): Promise<Response> => new Promise((_resolve, reject) => { vi.mocked(fetch).mock.calls.at(-1)![1]!.signal!.addEventListener('abort', () => { reject(new DOMException('stopped', 'AbortError')) }) })
    serves({ '/weights': silent })
    expect(await loads(14.999)).toBe('is still at it')
    expect(await loads(15)).toMatchObject(UNREACHABLE)
    serves({ '/weights': () => new Response(body(FILES['/weights'], { pieces: 2, after: 14_900 })) })
    expect(await loads(44.8)).toBeInstanceOf(Recogniser)
    serves({ '/weights': () => new Response(body(FILES['/weights'], { pieces: 2, after: 15_100 })) })
    expect(await loads(15.05)).toMatchObject(UNREACHABLE)
    serves({ '/weights': () => new Response(body(FILES['/weights'].slice(0, 6), { stalls: true })) })
    expect(await loads(15.1)).toMatchObject(UNREACHABLE)
  })
})

describe('a recogniser', () => {
  const loaded = async (): Promise<Recogniser> => { serves(); const one = await loads() as Recogniser; told.length = 0; return one }
  const image = async (width: number): Promise<ImageBitmap> => { vi.useRealTimers(); return await createImageBitmap(new ImageData(width, 90)) }

  test('embeds what its profile makes of a cut, and gives it unit norm', async () => {
    const recogniser = await loaded()
    expect(recogniser.embed(Uint8Array.of(1, 20, 127, 3, 30, 255))).toEqual(Float64Array.of(0.6, 0.8))
    expect(told).toEqual([['embeds', [0, 0, -0.25, 1, 5, 63.75]]])
    for (const wrong of [[0, 0], [NaN, 1], [Infinity, 1]]) {
      world.embeds = wrong
      expect(() => recogniser.embed(Uint8Array.of(1, 2, 3)), String(wrong)).toThrow(UsageError)
    }
  })

  test('cuts what was found, once it is good enough for what it is to serve as', async () => {
    const recogniser = await loaded()
    expect(recogniser.cut(await image(120), 'reference')).toHaveLength(3 * 112 * 112)
    expect(told).toEqual([['landmarks', 120, 'reference'], ['quality', 120, FOUND, 112, 'reference']])
  })

  test('advises on a first look, and follows a face from where it was', async () => {
    const recogniser = await loaded()
    expect(recogniser.advise(await image(50), 'probe', { called: 'before' } as never)).toBe('advice')
    expect(recogniser.follow(await image(60), FOUND)).toBe('where it is')
    expect(told).toEqual([['glance', 50], ['advise', 50, 'faces', 112, 'probe', { called: 'before' }], ['follow', 60, FOUND]])
  })
})
