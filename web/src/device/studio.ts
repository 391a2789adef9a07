/** Where a session waits for the film that its nonce asks for, while the page sends frames. */

import { CancelledError } from '../errors'
import { UnusableImageError } from '../face/finding'
import type { Filming, Prompt } from '../face/filming'

const OVER: Prompt = { asked: null, done: 0, of: 0, isOver: true }

/** One film at a time, as there is one session at a time. */
export class Studio {
  #filming: Filming | null = null
  #end: (error: unknown) => void = () => undefined

  /**
   * Waits until a film is over, passed or refused.
   *
   * @param signal the person's, to stop it.
   * @param begin tells the page that frames are wanted.
   * @throws CancelledError the person stopped it.
   * @throws UnusableImageError there is no camera.
   */
  async take(filming: Filming, signal: AbortSignal, begin: () => void): Promise<void> {
    try {
      await new Promise<void>((resolve, reject) => {
        const stop = (): void => { reject(new CancelledError('stopped before anything was sent')) }
        if (signal.aborted) { stop(); return }
        signal.addEventListener('abort', stop, { once: true })
        this.#filming = filming
        this.#end = (error) => { if (error === null) resolve(); else reject(error as Error) }
        begin()
      })
    } finally {
      this.#filming = null
    }
  }

  /** Takes in the next frame, or that there is no camera. Frames that nobody waits for are let go. */
  see(frame: ImageBitmap | null, seconds: number): Prompt {
    const filming = this.#filming
    if (filming === null) {
      frame?.close()
      return OVER
    }
    if (frame === null) return this.#ended(new UnusableImageError('no camera can be used', { why: { name: 'why.film_camera' } }))
    try {
      const prompt = filming.see(frame, seconds)
      return prompt.isOver ? this.#ended(null, prompt) : prompt
    } catch (error) {
      return this.#ended(error)
    }
  }

  #ended(error: unknown, prompt = OVER): Prompt {
    this.#filming = null
    this.#end(error)
    return prompt
  }
}
