/** The camera: a mirrored preview with an outline, advice on every frame, and pictures that are taken by themselves when they are good. */

import type { Fault } from '../device/messages'
import type { Advice } from '../face/advice'
import type { Prompt } from '../face/filming'
import type { Movement } from '../face/movements'
import type { Profile } from '../face/release'
import { drawing, h } from './dom'
import { textOf } from './failures'
import { say } from './texts'

const MILLISECONDS_APART = 800 // neighbouring frames of a film are nearly one picture
const BREATH_MS = 40 // between two looks, for everything else that the page does
/** Of a picture, and of a film: its face is large enough in less, and each frame is looked at sooner. */
const [WIDTH, FILM_WIDTH] = [1280, 640]
/** As the mirrored preview shows them: the person's left is on the left. */
export const ARROWS: Readonly<Record<Movement, string>> = {
  left: 'M21 12H3m8-8-8 8 8 8', right: 'M3 12h18m-8-8 8 8-8 8', up: 'M12 21V3m-8 8 8-8 8 8', down: 'M12 3v18m-8-8 8 8 8-8', closer: 'M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5',
}
const OUTLINE = 'M50 14c-15 0-24.5 11-24.5 28 0 19.5 10.5 36.5 24.5 36.500s24.5-17 24.5-36.500c0-17-9.5-28-24.5-28z'

/** What looks at frames and pictures: the worker. */
export interface Eye {
  watch(frame: ImageBitmap, profile: Profile, begins: boolean): Promise<Advice | null>
  /** What is wrong with pictures, the first of which serve as references. */
  look(pictures: readonly Blob[], references: number): Promise<Fault | null>
  /** What to do next in a film. @param seconds when the frame was seen. */
  follow(frame: ImageBitmap, seconds: number): Promise<Prompt>
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
  readonly #arrow = drawing('0 0 24 24', '')
  readonly #taken = h('ol', { className: 'taken', attributes: { 'aria-hidden': 'true' } })
  /** Counts films, so that one that was left knows it. */
  #film = 0

  constructor(eye: Eye) {
    this.#eye = eye
    const outline = drawing('0 0 100 100', OUTLINE)
    outline.setAttribute('class', 'outline')
    this.#arrow.setAttribute('class', 'arrow')
    this.element = h('div', { className: 'camera' }, h('div', { className: 'frame' }, this.#video, outline, this.#arrow, this.#told), this.#taken)
  }

  /**
   * Films until there are as many good pictures as are wanted.
   *
   * @returns the pictures, or null when somebody closed the camera.
   * @throws NoCameraError it cannot be opened.
   */
  async take({ profile, count, before }: Film): Promise<Blob[] | null> {
    const taken: Blob[] = []
    let begins = true
    const isTaken = await this.#roll(WIDTH, count, async (canvas, isOn) => {
      await this.#judge(canvas, { profile, before, taken, count, begins }, isOn)
      begins = false
      return taken.length === count
    })
    return isTaken ? taken : null
  }

  /**
   * Films somebody who is told what to do, until the worker has seen enough.
   *
   * @throws NoCameraError it cannot be opened.
   */
  async film(): Promise<void> {
    this.#told.setAttribute('aria-live', 'assertive') // there are some seconds only
    try {
      await this.#roll(FILM_WIDTH, 3, async (canvas, isOn) => {
        const seconds = performance.now() / 1000
        const prompt = await this.#eye.follow(await createImageBitmap(canvas), seconds)
        if (isOn()) this.#prompt(prompt)
        return prompt.isOver
      })
    } finally {
      this.#told.removeAttribute('aria-live')
      this.#point(null)
    }
  }

  /**
   * Opens the camera, and gives each of its frames to `see` until that says that it was the last.
   *
   * @returns whether it was; somebody closed the camera otherwise.
   */
  async #roll(width: number, dots: number, see: (canvas: OffscreenCanvas, isOn: () => boolean) => Promise<boolean>): Promise<boolean> {
    const film = ++this.#film
    const isOn = (): boolean => film === this.#film
    this.#video.setAttribute('aria-label', say('look.video'))
    this.#tell('none', say('look.opening'))
    this.#taken.replaceChildren(...Array.from({ length: dots > 1 ? dots : 0 }, () => h('li')))
    const stream = await navigator.mediaDevices?.getUserMedia({ video: { width: { ideal: width }, facingMode: 'user' } }).catch(() => undefined)
    if (stream === undefined) throw new NoCameraError()
    try {
      if (!isOn()) return false
      this.#video.srcObject = stream
      await this.#video.play().catch(() => undefined) // it was taken away meanwhile
      for (let isLast = false; isOn() && !isLast;) {
        const canvas = new OffscreenCanvas(this.#video.videoWidth, this.#video.videoHeight)
        try {
          if (canvas.width > 0) {
            canvas.getContext('2d')!.drawImage(this.#video, 0, 0)
            isLast = await see(canvas, isOn)
          }
        } finally {
          canvas.width = canvas.height = 0 // the frame goes now, and not when somebody collects it
        }
        await new Promise((resolve) => { setTimeout(resolve, BREATH_MS) })
      }
      return isOn()
    } finally {
      for (const track of stream.getTracks()) track.stop() // the light beside the camera goes out
      if (isOn()) this.#video.srcObject = null
    }
  }

  /** Says and shows what to do next. */
  #prompt({ asked, done, of, isOver }: Prompt): void {
    this.#taken.replaceChildren(...Array.from({ length: of }, (_, i) => h('li', { className: i < done ? 'there' : '' })))
    this.#point(isOver ? null : asked)
    if (isOver) this.#tell('good', say('film.over'))
    else this.#tell(asked === null ? 'none' : 'nearly', say(`film.${asked ?? 'look'}`))
  }

  #point(asked: Movement | null): void {
    if (asked === null) delete this.element.dataset['asked']
    else this.element.dataset['asked'] = asked
    this.#arrow.querySelector('path')!.setAttribute('d', asked === null ? '' : ARROWS[asked])
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
