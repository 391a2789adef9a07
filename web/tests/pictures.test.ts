/** The place for pictures from files: which are taken, what is said of the others, and that none is kept longer than it is wanted. */

import { afterEach, beforeEach, expect, test, vi } from 'vitest'

import { Pictures } from '../src/page/pictures'
import { speak } from '../src/page/texts'

let made: string[] = []
const done: number[][] = []
const images: ImageBitmap[] = []
const realBitmap = globalThis.createImageBitmap
/** How many pictures are being read or opened. */
let pending = 0
const counted = async <T>(work: Promise<T>): Promise<T> => { pending++; try { return await work } finally { pending-- } }

beforeEach(() => {
  speak('en')
  made = []
  done.length = images.length = 0
  const [create, revoke] = [URL.createObjectURL.bind(URL), URL.revokeObjectURL.bind(URL)]
  vi.spyOn(URL, 'createObjectURL').mockImplementation((blob) => { const url = create(blob); made.push(url); return url })
  vi.spyOn(URL, 'revokeObjectURL').mockImplementation((url) => { made = made.filter((one) => one !== url); revoke(url) })
  const read = Blob.prototype.arrayBuffer
  vi.spyOn(Blob.prototype, 'arrayBuffer').mockImplementation(function (this: Blob) { return counted(read.call(this)) })
  vi.spyOn(globalThis, 'createImageBitmap').mockImplementation((async (source: ImageBitmapSource) => { const image = await counted(realBitmap(source)); images.push(image); return image }) as typeof createImageBitmap)
})
afterEach(() => { expect(images.filter(({ width }) => width > 0)).toEqual([]); vi.restoreAllMocks(); document.body.replaceChildren() })

async function image(width: number, type = 'image/png'): Promise<File> {
  const canvas = new OffscreenCanvas(width, 1)
  canvas.getContext('2d')
  return new File([await canvas.convertToBlob({ type })], 'a', { type })
}

function place(task: 'enrol' | 'verify' | 'remove' | 'over' | 'renew' | 'admit', most: number) {
  const pictures = new Pictures(task, most, (all) => { done.push(all.map((one) => one.size)) })
  document.body.replaceChildren(pictures.element)
  const input = document.querySelector<HTMLInputElement>('#files')!
  const [said, go] = [document.querySelector('.small')!, document.querySelector<HTMLButtonElement>('.files > button')!]
  return {
    pictures, input, go,
    async add(...files: File[]): Promise<void> {
      const chosen = new DataTransfer()
      for (const file of files) chosen.items.add(file)
      input.files = chosen.files
      input.dispatchEvent(new Event('change'))
      for (let quiet = 0; quiet < 3; quiet = pending === 0 ? quiet + 1 : 0) await new Promise((resolve) => { setTimeout(resolve, 0) })
    },
    get state() {
      return {
        numbers: [...document.querySelectorAll('.pictures li span')].map(({ textContent }) => textContent), problem: document.querySelector('.problem')!.textContent, said: said.textContent,
        go: [go.textContent, go.disabled], kept: pictures.files.length, shown: made.length,
      }
    },
  }
}
const FEWER = (chosen: number, most: number): string => `${chosen} of ${most} pictures. With ${most} you are refused less often later.`

test('pictures of an enrolment are numbered, the last checks the others, and fewer are allowed', async () => {
  const { add, pictures, go, input } = place('enrol', 4)
  const state = () => ({ numbers: [...document.querySelectorAll('.pictures li span')].map(({ textContent }) => textContent), said: document.querySelector('.small')!.textContent, off: go.disabled, labels: [...document.querySelectorAll('.pictures button')].map((one) => one.getAttribute('aria-label')) })
  expect(state()).toEqual({ numbers: [], said: '', off: true, labels: [] })
  await add(await image(1))
  expect(state()).toEqual({ numbers: ['1'], said: '', off: true, labels: ['Remove picture 1'] })
  await add(await image(2), await image(3))
  expect(state()).toEqual({ numbers: ['1', '2', 'checks the others'], said: FEWER(3, 4), off: false, labels: [1, 2, 3].map((n) => `Remove picture ${n}`) })
  await add(await image(4))
  expect(state()).toMatchObject({ numbers: ['1', '2', '3', 'checks the others'], said: '', off: false })
  go.click()
  expect(done).toEqual([pictures.files.map(({ size }) => size)])
  expect(pictures.files.map(({ size }) => size)).toEqual(await Promise.all([1, 2, 3, 4].map(async (width) => (await image(width)).size)))
  expect([input.value, made.length]).toEqual(['', 4])
  pictures.clear()
  expect([state(), made, pictures.files]).toEqual([{ numbers: [], said: '', off: true, labels: [] }, [], []])
})

test('pictures of a comparison are numbered, and one is enough', async () => {
  const it = place('verify', 2)
  expect(it.state.go).toEqual(['Verify with this picture', true])
  await it.add(await image(1))
  expect(it.state).toEqual({ numbers: ['1'], problem: '', said: '1 of 2 pictures. With 2 you may be refused less often.', go: ['Verify with this picture', false], kept: 1, shown: 1 })
  await it.add(await image(2))
  expect(it.state).toMatchObject({ numbers: ['1', '2'], said: '', go: ['Verify with these pictures', false] })
})

test.each([['enrol', 'Enrol with these pictures'], ['over', 'Come over with these pictures'], ['renew', 'Renew with this picture'], ['admit', 'Let the device in with this picture'], ['remove', 'Remove the device with this picture']] as const)('the button for %s says "%s"', (task, text) => {
  expect(place(task, 3).state.go[0]).toBe(text)
})

test('more than are wanted begin anew, and the first are taken', async () => {
  const it = place('verify', 2)
  await it.add(await image(1), await image(2))
  await it.add(await image(3))
  expect(it.state).toMatchObject({ numbers: ['1'], problem: '', kept: 1, shown: 1 })
  await it.add(await image(4), await image(5), await image(6))
  expect(it.state).toMatchObject({ numbers: ['1', '2'], problem: 'Only the first 2 pictures were taken.', kept: 2, shown: 2 })
  expect(it.pictures.files.map(({ size }) => size)).toEqual([(await image(4)).size, (await image(5)).size])
})

test('what is there already, is no image, or is a damaged one is said to be, and the others are taken', async () => {
  const it = place('verify', 5)
  await it.add(await image(1), await image(2))
  await it.add(await image(2))
  expect(it.state).toMatchObject({ problem: 'That picture is there already, as number 2. Choose another one.', kept: 2, shown: 2 })
  await it.add(new File(['a text'], 'a.txt'), await image(3))
  expect(it.state).toMatchObject({ problem: 'Not a JPEG, PNG, WebP, GIF or BMP image: convert it to one of these.', kept: 3, shown: 3 })
  const damaged = new File([new Uint8Array(await (await image(9)).arrayBuffer()).slice(0, 30)], 'a.png')
  await it.add(damaged)
  expect(it.state).toMatchObject({ problem: 'The image is damaged: export or copy it again.', kept: 3, shown: 3 })
  await it.add(await image(4))
  expect(it.state).toMatchObject({ problem: '', kept: 4 })
})

test('formats that every browser reads are taken', async () => {
  const it = place('verify', 5)
  for (const type of ['image/png', 'image/jpeg', 'image/webp']) await it.add(await image(7, type))
  expect(it.state).toMatchObject({ problem: '', kept: 3 })
  expect(it.input.accept).toBe('image/jpeg,image/png,image/webp,image/gif,image/bmp')
})

test('of several pictures the one that is removed goes, and its problem', async () => {
  const it = place('verify', 3)
  await it.add(await image(1), await image(2), await image(3))
  await it.add()
  document.querySelectorAll<HTMLElement>('.pictures button')[1].click()
  expect(it.state).toMatchObject({ numbers: ['1', '2'], kept: 2, shown: 2 })
  expect(it.pictures.files.map(({ size }) => size)).toEqual([(await image(1)).size, (await image(3)).size])
  await it.add(await image(1))
  document.querySelectorAll<HTMLElement>('.pictures button')[1].click()
  document.querySelectorAll<HTMLElement>('.pictures button')[0].click()
  expect(it.state).toMatchObject({ numbers: [], problem: '', go: ['Verify with this picture', true], kept: 0, shown: 0 })
})

test.each([['arrayBuffer', 'no image'], ['createImageBitmap', 'an image'], ['createImageBitmap', 'a damaged one']] as const)('a picture that is still being opened when all are let go is let go, too: during %s, %s', async (at, which) => {
  const it = place('enrol', 4)
  await it.add(await image(1))
  const [begun, held] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  const wait = async (): Promise<void> => { begun.resolve(); await held.promise }
  if (at === 'arrayBuffer') {
    const read = Blob.prototype.arrayBuffer
    vi.spyOn(Blob.prototype, 'arrayBuffer').mockImplementation(async function (this: Blob) { await wait(); return await read.call(this) })
  } else vi.spyOn(globalThis, 'createImageBitmap').mockImplementation((async (source: ImageBitmapSource) => { await wait(); const made_ = await realBitmap(source); images.push(made_); return made_ }) as typeof createImageBitmap)
  const first = which === 'an image' ? await image(2) : new File([which === 'no image' ? which : Uint8Array.of(0x89, 0x50, 0x4e, 0x47)], 'a')
  const adding = it.add(first, await image(3))
  await begun.promise // else it would be let go before it is opened at all
  it.pictures.clear()
  held.resolve()
  await adding
  for (let i = 0; i < 9; i++) await new Promise((resolve) => { setTimeout(resolve, 0) })
  expect(it.state).toMatchObject({ numbers: [], problem: '', kept: 0, shown: 0 })
  vi.restoreAllMocks()
})

test('several files are chosen at once, of the formats that every browser reads', () => {
  const { input, go } = place('enrol', 4)
  expect([input.type, input.multiple, input.accept, input.closest('label')!.htmlFor, go.type, go.className]).toEqual(['file', true, 'image/jpeg,image/png,image/webp,image/gif,image/bmp', 'files', 'button', 'main'])
})
