/** The device's side of the one-bit match: the only place of the page where a homomorphic secret exists, for one session. */

import { type Bytes, equal, type RandomBytes, sha256 } from '../bytes'
import { MalformedMessageError, UsageError } from '../errors'
import { type Parameters, ternary } from './parameters'
import { OpeningKey } from './opening'
import type { EncryptingKey, Engine } from './seal'
import { fromBits, hashKeys, pad, sumOf, toSlots } from './slots'
import { probeMessage, Reply, TOKEN_BYTES } from './wire'

/** What a device answers when nothing opens: as long as a token, so the wire does not show which it was. */
export const NO_MATCH = new Uint8Array(TOKEN_BYTES)

/**
 * A homomorphic secret key that lives for one session. Make it before the face is there; it is never stored.
 *
 * It encrypts once and opens once. What a server that lies learns about it is worth nothing a session later, and recorded
 * probes stay secret when a wallet is stolen.
 */
export class SessionKey {
  readonly parameters: Parameters
  readonly #engine: Engine
  readonly #encrypting: EncryptingKey
  readonly #opening: OpeningKey
  #paddedCode: Uint8Array | null = null
  #isOver = false

  constructor(engine: Engine, coefficients: Int8Array) {
    this.parameters = engine.parameters
    this.#engine = engine
    this.#encrypting = engine.encryptingKey(coefficients)
    this.#opening = new OpeningKey(engine.parameters, coefficients)
  }

  /** A fresh key: a uniform ternary polynomial. The encryption draws from SEAL's own generator. */
  static generate(engine: Engine, random: RandomBytes): SessionKey {
    const coefficients = ternary(engine.parameters.ringDimension, random)
    const key = new SessionKey(engine, coefficients)
    coefficients.fill(0)
    return key
  }

  /**
   * Encrypts y = P xor K. Returns a probe message, safe to send.
   *
   * @param paddedCode zeros and ones, from `TemplateSecret.paddedCode`.
   * @throws UsageError not such a code, or this key has encrypted before.
   */
  encrypt(paddedCode: Uint8Array): Bytes {
    if (paddedCode.length !== this.parameters.slots || paddedCode.some((bit) => bit > 1)) {
      throw new UsageError(`a code has ${this.parameters.slots} entries, each 0 or 1`)
    }
    if (this.#paddedCode !== null) throw new UsageError('a session key encrypts one probe; make another')
    this.#paddedCode = paddedCode.slice()
    return probeMessage(this.#engine.encrypt(this.#encrypting, fromBits(paddedCode, this.parameters)), this.parameters)
  }

  /**
   * The session's token if the server accepts this distance, else null. Nothing else may leave the device.
   *
   * Whatever is wrong with a reply looks like a reply that does not open: an error would be a second bit for a server
   * that lies. Every entry of the table is tried.
   *
   * @throws UsageError nothing was encrypted, or this key has opened a reply before.
   */
  openReply(reply: Uint8Array, transcript: Uint8Array): Bytes | null {
    const paddedCode = this.#paddedCode
    if (paddedCode === null || this.#isOver) throw new UsageError('a session key opens one reply, to the probe that it encrypted')
    this.#isOver = true
    let parsed: Reply
    try {
      parsed = Reply.fromBytes(reply, this.parameters)
    } catch (error) {
      if (error instanceof MalformedMessageError) return null
      throw error
    }
    const { components, salt, tokenDigest, corrections, table } = parsed
    const coefficients = this.#opening.decrypt(components)
    const labels = hashKeys(salt, toSlots(coefficients, this.parameters), this.parameters)
    const padding = pad(salt, transcript, sumOf(labels, paddedCode, corrections))
    let token: Bytes | null = null
    for (let start = 0; start < table.length; start += TOKEN_BYTES) {
      const candidate = Uint8Array.from(padding, (byte, i) => byte ^ table[start + i])
      if (equal(sha256(candidate), tokenDigest)) token = candidate
    }
    return token === null || equal(token, NO_MATCH) ? null : token
  }

  /** Wipes the key; the object cannot be used any more. */
  [Symbol.dispose](): void {
    this.#paddedCode?.fill(0)
    this.#encrypting[Symbol.dispose]()
    this.#opening[Symbol.dispose]()
  }
}
