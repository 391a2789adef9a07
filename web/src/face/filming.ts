/**
 * A film of a face that moves as a session asks, and the frames of it that are compared, as `client/faces/filming.py` and
 * `client/device/challenge.py` have it. Frames stay in the worker that runs this, and are let go with the film.
 */

import type { Why } from '../errors'
import type { Point } from './cropping'
import { UnusableImageError } from './finding'
import { fused, requireOnePerson } from './fusing'
import { type Fault, isMiddle, type Movement, Watcher } from './movements'
import type { ModelRelease, Profile } from './release'

/** Between frames that are compared: neighbours are nearly one picture. */
const APART_SECONDS = 0.3

/** Why a film is refused: for whoever looks closer, and for the person. */
const FAULTS: Readonly<Record<Fault, readonly [string, Why['name']]>> = {
  'nobody': ['no face looks into the camera', 'why.film_nobody'],
  'too-near': ['the face is too near', 'why.film_too_near'],
  'away': ['the face left the picture, or it is too dark to follow', 'why.film_away'],
  'jumped': ['the face jumped', 'why.film_jumped'],
  'another': ['that was another movement than the one asked for', 'why.film_another'],
  'too-late': ['the face did not turn as a head does, or not far enough', 'why.film_too_late'],
}
const OTHERS = 'the faces in the film are not of one person, or too unlike each other; nothing was sent'

/** What the person is told while they are filmed. */
export interface Prompt {
  /** Null for looking into the camera. */
  readonly asked: Movement | null
  /** Movements that were seen, of so many. */
  readonly done: number
  readonly of: number
  /** Whether no frame is needed any more. */
  readonly isOver: boolean
}

/** What looks at frames: the recogniser. */
export interface Eye {
  follow(frame: ImageBitmap, before: readonly Point[] | null): Point[]
  cut(frame: ImageBitmap, profile: Profile): Uint8Array
  embed(cut: Uint8Array): Float64Array
}

/** One film, frame by frame. Whoever disposes of it lets go of every frame. Sensitive. */
export class Filming {
  readonly #eye: Eye
  readonly #watcher: Watcher
  readonly #of: number
  readonly #wanted: number
  #before: readonly Point[] | null = null
  #lastMiddle = -Infinity
  readonly #middles: ImageBitmap[] = []
  /** The movement that is asked for, from when it was on its way: at its end a face is too far from the front for the recogniser. */
  #way: ImageBitmap | null = null
  readonly #ways: ImageBitmap[] = []

  /**
   * @param movements that are asked for.
   * @param wanted how many frames are to be compared, at most.
   */
  constructor(eye: Eye, movements: readonly Movement[], wanted: number) {
    this.#eye = eye
    this.#watcher = new Watcher(movements)
    this.#of = movements.length
    this.#wanted = wanted
  }

  /** Takes in the next frame, which is nobody else's from now on. @param seconds of a clock that only goes forward. */
  see(frame: ImageBitmap, seconds: number): Prompt {
    const { done, onTheWay } = this.#watcher
    let isKept = false
    try {
      this.#look(frame, seconds)
      isKept = this.#keep(frame, seconds, done, onTheWay)
    } finally {
      if (!isKept) frame.close()
    }
    return this.prompt
  }

  get prompt(): Prompt {
    const { wanted, done, fault, isPassed } = this.#watcher
    return { asked: wanted, done, of: this.#of, isOver: isPassed || fault !== null }
  }

  /**
   * The embedding of the frames that look into the camera, not adapted. The faces in the movements have to be the same
   * person's: nobody moves his own head and then holds up a picture.
   *
   * @throws UnusableImageError the film is refused, or shows several people; says what to do.
   */
  embedding(release: ModelRelease): Float64Array {
    const { fault, isPassed } = this.#watcher
    if (!isPassed || this.#middles.length === 0) {
      const [message, name] = FAULTS[fault ?? 'nobody']
      throw new UnusableImageError(message, { why: { name } })
    }
    const each = [...this.#middles, ...this.#ways].map((frame) => this.#eye.embed(this.#eye.cut(frame, 'probe')))
    const mean = fused(each.slice(0, this.#middles.length))
    try {
      requireOnePerson([mean, ...each.slice(this.#middles.length)], release)
    } catch (error) {
      if (!(error instanceof UnusableImageError)) throw error
      throw new UnusableImageError(OTHERS, { why: { name: 'why.film_others' } }) // nobody sees numbered pictures here
    }
    return mean
  }

  [Symbol.dispose](): void {
    for (const frame of [...this.#middles.splice(0), ...this.#ways.splice(0)]) frame.close()
    this.#way?.close()
    this.#way = null
    this.#before = null
  }

  #look(frame: ImageBitmap, seconds: number): void {
    try {
      this.#before = this.#eye.follow(frame, this.#before)
    } catch (error) {
      if (!(error instanceof UnusableImageError)) throw error
      this.#before = null
      this.#watcher.miss(seconds)
      return
    }
    this.#watcher.see({ seconds, landmarks: this.#before, side: Math.max(frame.width, frame.height) })
  }

  #keep(frame: ImageBitmap, seconds: number, done: number, before: Movement | null): boolean {
    const { pose, onTheWay, wanted } = this.#watcher
    if (this.#watcher.done > done && this.#way !== null) {
      this.#ways.push(this.#way)
      this.#way = null
    }
    if (onTheWay !== null && onTheWay === wanted && before !== wanted) {
      this.#way?.close()
      this.#way = frame
      return true
    }
    if (this.#before === null || pose === null || !isMiddle(pose) || this.#middles.length >= this.#wanted || seconds - this.#lastMiddle < APART_SECONDS) return false
    this.#lastMiddle = seconds
    return this.#middles.push(frame) > 0
  }
}
