/** The camera: a mirrored preview with an outline, advice on every frame, and pictures that are taken by themselves when they are good. */

import type { Fault } from '../device/messages'
import type { Advice } from '../face/advice'
import type { Profile } from '../face/release'
import { drawing, h } from './dom'
import { textOf } from './failures'
import { say } from './texts'

const MILLISECONDS_APART = 800 // neighbouring frames of a film are nearly one picture
const BREATH_MS = 40 // between two looks, for everything else that the page does
const OUTLINE = 'M50 14c-15 0-24.5 11-24.5 28 0 19.5 10.5 36.5 24.5 36.500s24.5-17 24.5-36.500c0-17-9.5-28-24.5-28z'

/** What looks at frames and pictures: the worker. */
export interface Eye {
  watch(frame: ImageBitmap, profile: Profile, begins: boolean): Promise<Advice | null>
  /** What is wrong with pictures, the first of which serve as references. */
  look(pictures: readonly Blob[], references: number): Promise<Fault | null>
}

/** Which pictures a film is for. */
export interface Film {
  readonly profile: Profile
  readonly count: number
  /** Pictures that were taken before, which the new ones have to differ from; all of them are references. */
  readonly before: readonly Blob[]
}

/** The camera cannot be opened. */
export class NoCameraError extends Error {}

/** One camera with its place in the page. */
export class Camera {
  readonly element: HTMLElement
  readonly #eye: Eye
  readonly #video = h('video', { muted: true, playsInline: true })
  readonly #told = h('p', { className: 'hint', role: 'status' })
  readonly #taken = h('ol', { className: 'taken', attributes: { 'aria-hidden': 'true' } })
  /** Counts films, so that one that was left knows it. */
  #film = 0

  constructor(eye: Eye) {
    this.#eye = eye
    const outline = drawing('0 0 100 100', OUTLINE)
    outline.setAttribute('class', 'outline')
    this.element = h('div', { className: 'camera' }, h('div', { className: 'frame' }, this.#video, outline, this.#told), this.#taken)
  }

  /**
   * Films until there are as many good pictures as are wanted.
   *
   * @returns the pictures, or null when somebody closed the camera.
   * @throws NoCameraError it cannot be opened.
   */
  async take({ profile, count, before }: Film): Promise<Blob[] | null> {
    const film = ++this.#film
    const isOn = (): boolean => film === this.#film
    this.#video.setAttribute('aria-label', say('look.video'))
    this.#tell('none', say('look.opening'))
    this.#taken.replaceChildren(...Array.from({ length: count > 1 ? count : 0 }, () => h('li')))
    const stream = await navigator.mediaDevices?.getUserMedia({ video: { width: { ideal: 1280 }, facingMode: 'user' } }).catch(() => undefined)
    if (stream === undefined) throw new NoCameraError()
    try {
      if (!isOn()) return null
      this.#video.srcObject = stream
      await this.#video.play().catch(() => undefined) // it was taken away meanwhile
      const taken: Blob[] = []
      for (let begins = true; isOn() && taken.length < count; begins = false) {
        const canvas = new OffscreenCanvas(this.#video.videoWidth, this.#video.videoHeight)
        if (canvas.width > 0) {
          canvas.getContext('2d')!.drawImage(this.#video, 0, 0)
          await this.#judge(canvas, { profile, before, taken, count, begins }, isOn)
        }
        await new Promise((resolve) => { setTimeout(resolve, BREATH_MS) })
      }
      return isOn() ? taken : null
    } finally {
      for (const track of stream.getTracks()) track.stop() // the light beside the camera goes out
      if (isOn()) this.#video.srcObject = null
    }
  }

  /** Whoever waits for pictures gets none. */
  close(): void {
    this.#film++
    this.#video.srcObject = null
  }

  /** Takes a frame when it is good, and says what would make it better otherwise. */
  async #judge(
    canvas: OffscreenCanvas, { profile, before, taken, count, begins }: Film & { readonly taken: Blob[]; readonly begins: boolean }, isOn: () => boolean,
  ): Promise<void> {
    const advice = await this.#eye.watch(await createImageBitmap(canvas), profile, begins)
    if (!isOn()) return
    if (advice !== null) { this.#tell(advice === 'still' ? 'nearly' : 'bad', say(`advice.${advice}`)); return }
    const picture = await canvas.convertToBlob({ type: 'image/png' })
    const pictures = [...before, ...taken, picture]
    const fault = await this.#eye.look(pictures, profile === 'reference' ? pictures.length : before.length)
    if (!isOn()) return
    if (fault !== null) { this.#tell('bad', fault.why?.name === 'why.same' ? say('advice.move') : textOf(fault, '')); return }
    taken.push(picture)
    this.#taken.children[taken.length - 1]?.classList.add('there')
    this.#tell('good', count > 1 ? say('look.taken', { taken: taken.length, count }) : say('advice.good'))
    if (taken.length < count) await new Promise((resolve) => { setTimeout(resolve, MILLISECONDS_APART) })
  }

  #tell(mood: 'none' | 'bad' | 'nearly' | 'good', text: string): void {
    if (this.#told.textContent !== text) this.#told.textContent = text
    this.element.dataset['mood'] = mood
  }
}
