/** The camera, with a drawing for what it sees: which pictures are taken, what is said, and that no light, frame or picture stays. */

import { afterEach, beforeEach, expect, test, vi } from 'vitest'

import type { Fault } from '../src/device/messages'
import type { Advice } from '../src/face/advice'
import type { Prompt } from '../src/face/filming'
import { ARROWS, Camera, type Eye, NoCameraError } from '../src/page/camera'
import { speak } from '../src/page/texts'

const eyeOf = new Map<Camera, Eye>()
const streams: MediaStream[] = []
const canvases: OffscreenCanvas[] = []
const asked: unknown[] = []
/** Longer than the breath between two looks. Nobody waits for them here. */
const waits: number[] = []
let opens: () => Promise<MediaStream>
let drawing = 0

/** A camera that sees something else in every frame. */
async function open(): Promise<MediaStream> {
  const canvas = document.createElement('canvas')
  ;[canvas.width, canvas.height] = [64, 48]
  const context = canvas.getContext('2d')!
  const draw = (): void => { context.fillStyle = `rgb(${drawing++ % 255}, 0, 0)`; context.fillRect(0, 0, 64, 48) }
  draw()
  const stream = canvas.captureStream(30)
  stream.addTrack(document.createElement('canvas').captureStream(0).getTracks()[0]) // whatever else the browser opens with it
  const timer = setInterval(() => { if (stream.active) draw(); else clearInterval(timer) }, 20)
  streams.push(stream)
  return stream
}

/** What looks, and what it was shown. */
function eyes({ watch = [], look = [], follow = [] }: { watch?: (Advice | null | Error)[]; look?: (Fault | null)[]; follow?: (Prompt | Error)[] } = {}) {
  const shown: { watched: [string, boolean][]; looked: [number, number][]; followed: number[]; said: string[]; moods: (string | undefined)[]; pictures: Blob[] } = { pictures: [], watched: [], looked: [], followed: [], said: [], moods: [] }
  const next = async <T>(answers: (T | Error)[], otherwise: T): Promise<T> => {
    const answer = answers.shift() ?? otherwise
    if (answer instanceof Error) throw answer
    return answer
  }
  const eye: Eye = {
    async watch(frame, profile, begins) { shown.watched.push([profile, begins]); noted(); frame.close(); return await next<Advice | null>(watch, null) },
    async look(pictures, references) { shown.looked.push([pictures.length, references]); shown.pictures = [...pictures]; noted(); return await next<Fault | null>(look, null) },
    async follow(frame, seconds) { shown.followed.push(seconds); noted(); frame.close(); return await next<Prompt>(follow, { asked: null, done: 3, of: 3, isOver: true }) },
  }
  const camera = new Camera(eye)
  eyeOf.set(camera, eye)
  const noted = (): void => { shown.said.push(camera.element.querySelector('.hint')!.textContent); shown.moods.push(camera.element.dataset['mood']) }
  document.body.append(camera.element)
  return { camera, shown }
}
const told = (camera: Camera): [string, string | undefined] => [camera.element.querySelector('.hint')!.textContent, camera.element.dataset['mood']]
const dots = (camera: Camera): string[] => [...camera.element.querySelectorAll('.taken li')].map(({ className }) => className)
const fault = (name: string): Fault => ({ kind: 'UnusableImageError', message: '', why: { name: name as 'why.same' }, retryAfter: null })

/** Nothing is on, and no frame lies anywhere. */
function expectDark(camera: Camera): void {
  for (const stream of streams) expect(stream.getTracks().map(({ readyState }) => readyState)).toEqual(['ended', 'ended'])
  expect(camera.element.querySelector('video')!.srcObject).toBeNull()
  expect(canvases.filter(({ width, height }) => width * height > 0)).toEqual([])
}

beforeEach(() => {
  speak('en')
  for (const list of [streams, canvases, asked, waits]) list.length = 0
  opens = open
  const real_ = globalThis.setTimeout
  vi.spyOn(globalThis, 'setTimeout').mockImplementation(((act: () => void, milliseconds: number) => { if (milliseconds === 40) return real_(act, 4); waits.push(milliseconds); return real_(act, 0) }) as typeof setTimeout)
  vi.spyOn(navigator.mediaDevices, 'getUserMedia').mockImplementation((constraints) => { asked.push(constraints); return opens() })
  const real = OffscreenCanvas
  vi.stubGlobal('OffscreenCanvas', class extends real { constructor(width: number, height: number) { super(width, height); canvases.push(this) } })
})
afterEach(() => { vi.restoreAllMocks(); vi.unstubAllGlobals(); document.body.replaceChildren() })

test('the preview lies under an outline, an arrow and a line of words; it plays in the page, without sound', () => {
  const { camera } = eyes()
  const made = [...camera.element.querySelectorAll('*')].filter((one) => one.localName !== 'path').map((one) => [one.localName, one.getAttribute('class'), one.getAttribute('role'), one.getAttribute('aria-hidden')])
  expect(made).toEqual([['div', 'frame', null, null], ['video', null, null, null], ['svg', 'outline', null, 'true'], ['svg', 'arrow', null, 'true'], ['p', 'hint', 'status', null], ['ol', 'taken', null, 'true']])
  const { muted, playsInline } = camera.element.querySelector('video')!
  expect([camera.element.className, muted, playsInline]).toEqual(['camera', true, true])
})

test('good frames become pictures, and what would make a frame better is said', async () => {
  const { camera, shown } = eyes({ watch: ['far', 'still', null, null], look: [fault('why.same'), null] })
  const taken = await camera.take({ profile: 'reference', count: 1, before: [] })
  expect(taken!.map(({ type }) => type)).toEqual(['image/png'])
  const picture = await createImageBitmap(taken![0])
  expect([picture.width, picture.height]).toEqual([64, 48])
  expect(shown.watched).toEqual([['reference', true], ...Array(3).fill(['reference', false])])
  expect(shown.looked).toEqual([[1, 1], [1, 1]])
  expect(shown.said).toEqual(['Opening the camera …', 'Come closer', 'Hold still', 'Hold still', 'Move your head a little', 'Move your head a little'])
  expect(shown.moods).toEqual(['none', 'bad', 'nearly', 'nearly', 'bad', 'bad'])
  expect(told(camera)).toEqual(['Good', 'good'])
  expect(dots(camera)).toEqual([])
  expect(waits).toEqual([])
  expect(asked).toEqual([{ video: { width: { ideal: 1280 }, facingMode: 'user' } }])
  expectDark(camera)
})

test('several pictures are taken a moment apart, and each is held against those of before', async () => {
  const { camera, shown } = eyes()
  const before = [new Blob(['1']), new Blob(['2']), new Blob(['3'])]
  const taken = await camera.take({ profile: 'probe', count: 2, before })
  expect(waits).toEqual([800])
  expect(taken).toHaveLength(2)
  expect(shown.looked).toEqual([[4, 3], [5, 3]])
  expect(shown.pictures).toEqual([...before, ...taken!]) // the same ones, in this order
  expect(shown.pictures.every((one, i) => one === [...before, ...taken!][i])).toBe(true)
  expect(shown.said.at(-1)).toMatch(/1 of 2/)
  expect(told(camera)).toEqual([expect.stringMatching(/2 of 2/), 'good'])
  expect(dots(camera)).toEqual(['there', 'there'])
  expectDark(camera)
})

test('another fault of a picture is said in its words', async () => {
  const { camera, shown } = eyes({ look: [fault('why.no_face')] })
  await camera.take({ profile: 'probe', count: 1, before: [] })
  expect(shown.said.at(-1)).toBe('There is no face to be seen. Take a sharp picture from the front.')
  expectDark(camera)
})

test.each(['watch', 'look', 'convertToBlob'] as const)('whoever closes the camera gets no picture, also during %s', async (at) => {
  const { camera } = eyes()
  const closing = <T>(answer: T): T => { camera.close(); return answer }
  if (at === 'convertToBlob') vi.spyOn(OffscreenCanvas.prototype, at).mockImplementation(async () => closing(new Blob()))
  else vi.spyOn(eyeOf.get(camera)!, at).mockImplementation((async (frame: ImageBitmap) => { if (at === 'watch') frame.close(); return closing(null) }) as never)
  expect(await camera.take({ profile: 'probe', count: 2, before: [] })).toBeNull()
  expect(dots(camera)).toEqual(['', ''])
  expect(told(camera)).toEqual(['Opening the camera …', 'none'])
  expectDark(camera)
})

test('a camera that is closed before it has opened is switched off at once', async () => {
  const { camera, shown } = eyes()
  const { promise, resolve } = Promise.withResolvers<MediaStream>()
  opens = () => promise
  const taking = camera.take({ profile: 'probe', count: 1, before: [] })
  camera.close()
  resolve(await open())
  expect(await taking).toBeNull()
  expect(shown.watched).toEqual([])
  expectDark(camera)
})

test('of two films the first ends when the second begins', async () => {
  const { camera } = eyes({ watch: Array(3).fill('far') })
  const first = camera.take({ profile: 'probe', count: 1, before: [] })
  const second = camera.take({ profile: 'probe', count: 1, before: [] })
  expect(await first).toBeNull()
  expect(await second).toHaveLength(1)
  expectDark(camera)
})

test('a camera that cannot be opened is none', async () => {
  const { camera } = eyes()
  opens = () => Promise.reject(new DOMException('no', 'NotAllowedError'))
  await expect(camera.take({ profile: 'probe', count: 1, before: [] })).rejects.toThrow(NoCameraError)
  await expect(camera.film()).rejects.toThrow(NoCameraError)
  vi.spyOn(navigator, 'mediaDevices', 'get').mockReturnValue(undefined as never) // as where the page did not come over TLS
  await expect(camera.take({ profile: 'probe', count: 1, before: [] })).rejects.toThrow(NoCameraError)
  expect(camera.element.querySelector('.hint')!.hasAttribute('aria-live')).toBe(false)
})

test('whatever fails while it looks, the light goes out', async () => {
  const { camera } = eyes({ watch: ['far', new RangeError('broken')] })
  await expect(camera.take({ profile: 'probe', count: 1, before: [] })).rejects.toThrow('broken')
  expectDark(camera)
})

test('a film says and shows what to do until it is over, with the time of each frame', async () => {
  const { camera, shown } = eyes({ follow: [
    { asked: null, done: 0, of: 2, isOver: false }, { asked: 'left', done: 0, of: 2, isOver: false }, { asked: 'up', done: 1, of: 2, isOver: false }, { asked: 'up', done: 2, of: 2, isOver: true },
  ] })
  const seen: unknown[] = []
  const observer = new MutationObserver(() => {
    const state = [camera.element.dataset['asked'], camera.element.querySelector('.arrow path')!.getAttribute('d'), camera.element.querySelector('.hint')!.getAttribute('aria-live'), dots(camera).join('|')]
    if (JSON.stringify(seen.at(-1)) !== JSON.stringify(state)) seen.push(state)
  })
  observer.observe(camera.element, { attributes: true, childList: true, subtree: true })
  await camera.film()
  observer.disconnect()
  expect(seen).toEqual(expect.arrayContaining([
    [undefined, '', 'assertive', '||'], [undefined, '', 'assertive', '|'], ['left', ARROWS.left, 'assertive', '|'], ['up', ARROWS.up, 'assertive', 'there|'],
  ]))
  expect(shown.said).toEqual(['Opening the camera …', 'Look into the camera', 'Turn your head to your left, and back', 'Look up, and back'])
  expect(shown.moods).toEqual(['none', 'none', 'nearly', 'nearly'])
  expect(told(camera)).toEqual(['The film is over', 'good'])
  expect(dots(camera)).toEqual(['there', 'there'])
  expect([camera.element.dataset['asked'], camera.element.querySelector('.hint')!.hasAttribute('aria-live')]).toEqual([undefined, false])
  expect(shown.followed.every((seconds, i) => seconds <= performance.now() / 1000 && seconds > (shown.followed[i - 1] ?? performance.now() / 1000 - 60))).toBe(true)
  expect(asked).toEqual([{ video: { width: { ideal: 640 }, facingMode: 'user' } }])
  expectDark(camera)
})

test('whoever closes the camera during a film is told nothing more, and nothing stays', async () => {
  const { camera, shown } = eyes({ follow: [{ asked: 'left', done: 0, of: 2, isOver: false }] })
  const follow = eyeOf.get(camera)!.follow
  vi.spyOn(eyeOf.get(camera)!, 'follow').mockImplementation(async (frame, seconds) => { const prompt = await follow(frame, seconds); camera.close(); return prompt })
  await camera.film()
  expect(shown.followed).toHaveLength(1)
  expect(told(camera)).toEqual(['Opening the camera …', 'none'])
  expect([camera.element.dataset['asked'], camera.element.querySelector('.hint')!.hasAttribute('aria-live')]).toEqual([undefined, false])
  expectDark(camera)
})

test('whatever fails in a film, the light goes out and no arrow stays', async () => {
  const { camera } = eyes({ follow: [{ asked: 'up', done: 0, of: 2, isOver: false }, new RangeError('broken')] })
  await expect(camera.film()).rejects.toThrow('broken')
  expect([camera.element.dataset['asked'], camera.element.querySelector('.arrow path')!.getAttribute('d'), camera.element.querySelector('.hint')!.hasAttribute('aria-live')]).toEqual([undefined, '', false])
  expectDark(camera)
})

test('as the mirrored preview shows it, each arrow points another way', () => {
  expect(new Set(Object.values(ARROWS)).size).toBe(5)
  expect([ARROWS.left, ARROWS.right, ARROWS.up, ARROWS.down].map((d) => d.slice(0, 7))).toEqual(['M21 12H', 'M3 12h1', 'M12 21V', 'M12 3v1'])
})
