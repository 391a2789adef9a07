/** Places for pictures, from files or the camera. Their pixels are looked at by the worker only. */

import { say } from './texts'

const element = <E extends HTMLElement = HTMLElement>(id: string): E => document.getElementById(id) as E
/** The formats of `client/faces/formats.py` that every browser reads, by how a file begins; what browsers read beyond is left to nobody. */
const READ = /^(?:\u00ff\u00d8\u00ff|\u0089PNG|GIF8|BM|RIFF[^]{4}WEBP)/
const TYPES = 'image/jpeg,image/png,image/webp,image/gif,image/bmp'
const LONGEST = 12
const MILLISECONDS_APART = 800 // neighbouring frames of a film are nearly one picture
const MOST_LOOKS = 60 // some seconds of somebody moving into the picture

/** Says what is wrong with pictures, the first of which serve as references; null for nothing. */
export type Look = (pictures: Blob[], references: number) => Promise<string | null>

/** A place for some pictures of one person. */
export class Pictures {
  /** How many it takes. */
  most = 1
  /** Whether the last picture is there to check the others. */
  readonly #confirms: boolean
  readonly #taken: { picture: Blob; item: HTMLLIElement; url: string }[] = []
  readonly #list: HTMLOListElement
  readonly #fewer: HTMLParagraphElement
  readonly #input: HTMLInputElement
  readonly #changed: () => void
  readonly #fail: (error: unknown) => void
  readonly #look: Look

  constructor(id: string, label: string, confirms: boolean, { changed, fail, look }: { changed: () => void; fail: (error: unknown) => void; look: Look }) {
    this.#confirms = confirms
    this.#changed = changed
    this.#fail = fail
    this.#look = look
    this.#list = Object.assign(document.createElement('ol'), { className: 'pictures' })
    this.#fewer = document.createElement('p')
    const input = Object.assign(document.createElement('input'), { type: 'file', accept: TYPES, multiple: true, id: `${id}-file` })
    const caption = Object.assign(document.createElement('label'), { htmlFor: input.id, textContent: say('file') })
    const camera = Object.assign(document.createElement('button'), { type: 'button', textContent: say('camera') })
    camera.setAttribute('aria-label', `${say('camera')}: ${label}`)
    input.setAttribute('aria-label', `${label}: ${say('file')}`)
    this.#input = input
    input.onchange = () => { void this.#add([...input.files ?? []]) }
    camera.onclick = () => { void this.#film().catch(fail) }
    element(id).append(this.#list, camera, caption, input, this.#fewer)
  }

  /** How many are there. */
  get count(): number {
    return this.#taken.length
  }

  /** All of them, for the worker. */
  get files(): Blob[] {
    return this.#taken.map(({ picture }) => picture)
  }

  /** Takes the missing pictures from the camera; the one that checks the others is of another sitting. Where it is full, it begins anew. */
  async #film(): Promise<void> {
    const averaged = this.#confirms ? this.most - 1 : this.most
    const before = this.count < this.most ? this.files : []
    const count = before.length < averaged ? averaged - before.length : this.most - before.length
    await this.#add(await takePictures(count, (pictures) => this.#look([...before, ...pictures], this.#confirms ? averaged : 0)))
  }

  /** Keeps none. */
  clear(): void {
    for (const { item, url } of this.#taken.splice(0)) {
      URL.revokeObjectURL(url)
      item.remove()
    }
    this.#number()
  }

  async #add(pictures: readonly Blob[]): Promise<void> {
    this.#input.value = ''
    if (pictures.length === 0) return
    if (this.count + pictures.length > this.most) this.clear()
    for (const picture of pictures.slice(0, this.most)) {
      try {
        const begin = new Uint8Array(await picture.slice(0, LONGEST).arrayBuffer())
        if (!READ.test(String.fromCharCode(...begin))) throw new Error(say('not_an_image'))
        await createImageBitmap(picture).then((image) => { image.close() }, () => { throw new Error(say('damaged')) })
        this.#show(picture)
      } catch (error) {
        this.#fail(error)
      }
    }
    if (pictures.length > this.most) this.#fail(new Error(say('too_many', { most: this.most })))
    this.#number()
  }

  #show(picture: Blob): void {
    const url = URL.createObjectURL(picture)
    const item = document.createElement('li')
    const remove = Object.assign(document.createElement('button'), { type: 'button', className: 'remove', textContent: '\u00d7' })
    const one = { picture, item, url }
    remove.onclick = () => { this.#remove(one) }
    item.append(Object.assign(document.createElement('img'), { alt: '', src: url }), document.createElement('span'), remove)
    this.#taken.push(one)
    this.#list.append(item)
  }

  #remove(one: { item: HTMLLIElement; url: string }): void {
    URL.revokeObjectURL(one.url)
    one.item.remove()
    this.#taken.splice(this.#taken.findIndex(({ item }) => item === one.item), 1)
    this.#number()
  }

  /** Says of each which one it is, and of the last that it checks the others. */
  #number(): void {
    this.#taken.forEach(({ item }, i) => {
      const checks = this.#confirms && i > 0 && i === this.count - 1
      item.querySelector('span')!.textContent = say(checks ? 'picture.checks' : 'picture.number', { number: i + 1 })
      item.querySelector('button')!.setAttribute('aria-label', say('picture.remove', { number: i + 1 }))
    })
    const enough = this.count >= this.most || this.count < (this.#confirms ? 2 : 1)
    this.#fewer.textContent = enough ? '' : this.#confirms ? say('fewer_references', { averaged: this.count - 1, references: this.most - 1, most: this.most })
      : say('fewer_frames', { averaged: this.count, frames: this.most })
    this.#changed()
  }
}

/**
 * Some pictures from the camera, a moment apart; none when the person closes it. Frames that are of no use are left out.
 *
 * @param look says what is wrong with all that were taken and one more.
 */
async function takePictures(count: number, look: (pictures: Blob[]) => Promise<string | null>): Promise<Blob[]> {
  const [dialog, video, take] = [element<HTMLDialogElement>('camera'), element<HTMLVideoElement>('video'), element<HTMLButtonElement>('take')]
  const told = element('camera-told')
  let stream: MediaStream
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, facingMode: 'user' } })
  } catch {
    throw new Error(say('no_camera'))
  }
  try {
    video.srcObject = stream
    await video.play()
    told.textContent = say('camera_lead', { count })
    take.disabled = false
    dialog.showModal()
    await new Promise((resolve) => { take.onclick = resolve; dialog.onclose = resolve })
    take.disabled = true
    const taken: Blob[] = []
    for (let [looks, problem] = [0, '']; dialog.open && taken.length < count;) {
      if (looks === MOST_LOOKS) throw new Error(say('no_usable_face', { problem }))
      const next = await frame(video)
      const wrong = await look([...taken, next])
      if (wrong === null) {
        taken.push(next)
        told.textContent = say('camera_taken', { taken: taken.length, count })
        looks = 0
        if (taken.length < count) await new Promise((resolve) => { setTimeout(resolve, MILLISECONDS_APART) })
      } else {
        told.textContent = problem = wrong
        looks++
      }
    }
    return dialog.open ? taken : []
  } finally {
    dialog.close()
    for (const track of stream.getTracks()) track.stop() // the light beside the camera goes out
    video.srcObject = null
  }
}

async function frame(video: HTMLVideoElement): Promise<Blob> {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight)
  canvas.getContext('2d')!.drawImage(video, 0, 0)
  return canvas.convertToBlob({ type: 'image/png' })
}
