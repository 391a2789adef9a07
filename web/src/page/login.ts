/** A site sent the person here: what it asked, and the way back. Talks to the provider beside this page (`server/login`). */

import { utf8 } from '../bytes'
import { RefusedError, UnavailableError } from '../errors'

/** Shows a message that left the page. */
export type Tell = (message: { readonly call: string; readonly sent: Uint8Array; readonly received: number | null }) => void

/** A login that a site began in this browser. */
export class Login {
  readonly #handle: string
  readonly #tell: Tell
  readonly #go: (address: string) => void

  private constructor(handle: string, tell: Tell, go: (address: string) => void) {
    this.#handle = handle
    this.#tell = tell
    this.#go = go
  }

  /**
   * What the address of this page says: `?login=` and a handle.
   *
   * @param tell is told of every message: the page shows all that leaves it.
   * @param go leaves the page for an address.
   */
  static of(query: string, tell: Tell = () => { /* nobody listens */ }, go = (address: string): void => { location.replace(address) }): Login | null {
    const handle = new URLSearchParams(query).get('login')
    return handle !== null && /^[\w-]{43}$/.test(handle) ? new Login(handle, tell, go) : null
  }

  /**
   * The site's request in canonical form, for the worker, which checks it against the public rules.
   *
   * @throws RefusedError the login is over, or was begun in another browser.
   */
  async request(): Promise<string> {
    const { request } = await (await this.#post('asked', {})).json() as { request: unknown }
    return String(request)
  }

  /** Brings the assertion of a match, and goes back to the site. */
  async answer(assertion: string): Promise<void> {
    await this.#post('answer', { assertion })
    this.#leave({})
  }

  /** Goes back to the site with nothing. */
  refuse(): void {
    this.#leave({ refused: '1' })
  }

  /** The provider knows where to: only an address that the public rules have for this client. */
  #leave(more: Record<string, string>): void {
    this.#go(`/login/finish?${new URLSearchParams({ login: this.#handle, ...more }).toString()}`)
  }

  async #post(name: string, told: Record<string, string>): Promise<Response> {
    const headers = { 'content-type': 'application/json', 'x-intaglio': '1' }
    const body = JSON.stringify({ login: this.#handle, ...told })
    let response: Response
    try {
      response = await fetch(`/login/${name}`, { method: 'POST', headers, body, redirect: 'error', cache: 'no-store' })
    } catch (error) {
      this.#tell({ call: `login/${name}`, sent: utf8(body), received: null })
      throw new UnavailableError(String(error), null, { name: 'why.unreachable' })
    }
    this.#tell({ call: `login/${name}`, sent: utf8(body), received: (await response.clone().arrayBuffer()).byteLength })
    if (!response.ok) throw new RefusedError(await response.text(), { why: { name: 'why.login' } })
    return response
  }
}
