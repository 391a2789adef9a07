/** What a site asks for by way of the login page, and whether it may. As `federation/consent/login.py`. */

import { type Bytes, sha256, utf8 } from '../bytes'
import { PeerError, RefusedError, UsageError } from '../errors'
import type { Client, Rulebook } from '../rules/rulebook'
import { canonicalBytes, parse, requireHex, requireName } from '../wallet/statements'

const TAG = 'intaglio-login-nonce/1\0'
const VISIBLE = /^[!-~]*$/
const CHALLENGE = /^[\w-]{43}$/
const MOST_ADDRESS = 700
const MOST_NONCE = 512

/** One request of one client: the assertion that answers it carries the SHA-256 of all of this as its nonce. */
export class LoginRequest {
  readonly provider: string
  readonly client: string
  readonly purpose: string
  readonly redirectUri: string
  readonly #nonce: string
  readonly #challenge: string
  readonly #salt: string

  private constructor({ provider, client, purpose, redirect_uri: redirectUri, nonce, code_challenge: challenge, salt }: any) {
    requireName('the client', client)
    requireName('the purpose', purpose)
    for (const [text, most] of [[provider, MOST_ADDRESS], [redirectUri, MOST_ADDRESS], [nonce, MOST_NONCE]] as const) {
      if (typeof text !== 'string' || text.length > most || !VISIBLE.test(text)) throw new UsageError('addresses and nonce of a login are visible ASCII')
    }
    if (typeof challenge !== 'string' || !CHALLENGE.test(challenge)) throw new UsageError('a code challenge is 43 characters of base64url')
    requireHex('the salt of a login', salt, 32)
    this.provider = provider
    this.client = client
    this.purpose = purpose
    this.redirectUri = redirectUri
    this.#nonce = nonce
    this.#challenge = challenge
    this.#salt = salt
  }

  /** @throws MalformedMessageError anything but the canonical form. */
  static fromBytes(data: Uint8Array): LoginRequest {
    return parse(data, (value) => new LoginRequest(value), 'a login request')
  }

  toBytes(): Bytes {
    return canonicalBytes({
      client: this.client, code_challenge: this.#challenge, nonce: this.#nonce, provider: this.provider, purpose: this.purpose,
      redirect_uri: this.redirectUri, salt: this.#salt,
    })
  }

  /** What the device signs for, so that the answer fits this request of this client alone. */
  get audienceNonce(): Bytes {
    return sha256(new Uint8Array([...utf8(TAG), ...this.toBytes()]))
  }
}

/**
 * The client of a request, when the public rules let it ask this, and have the answer sent there.
 *
 * @param deployment identifier in the rules.
 * @param origin of this page, which is the provider.
 * @throws PeerError the request is another provider's.
 * @throws RefusedError the rules do not have it.
 */
export function requireSite(rules: Rulebook, deployment: string, request: LoginRequest, origin: string, now: number): Client {
  if (request.provider !== origin) throw new PeerError('the request is another provider\'s')
  const client = rules.client(deployment, request.client, now)
  if (client === null || client.identifier === rules.deployment(deployment)?.audience || !client.purposes.includes(request.purpose) || !client.redirectUris.includes(request.redirectUri)) {
    throw new RefusedError(`the public rules do not let ${request.client} ask for this`, { why: { name: 'why.site' } })
  }
  return client
}
