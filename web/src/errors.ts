/** The error family of the page, named as in `federation/errors.py`: who is to blame comes first. */

import type en from './texts/en.json'

/** What the person is told of an error in their own language: a message of the catalogues, and what is put into it. */
export interface Why {
  readonly name: Extract<keyof typeof en, `why.${string}`>
  readonly values?: Readonly<Record<string, string | number>>
}

/**
 * Every error that this program raises on purpose. Messages never hold scores, embeddings, keys or tokens.
 *
 * A message is for whoever looks closer, and in English; people are told `why`, or else what kind of error it is.
 */
export class IntaglioError extends Error {
  readonly why: Why | null
  /** Whether the server raised it, and this side passes it on. */
  isOfServer = false

  constructor(message: string, { why = null, ...options }: ErrorOptions & { readonly why?: Why | null } = {}) {
    super(message, options)
    this.name = new.target.name
    this.why = why
  }
}

/** This side asked for something that cannot be. The message says what to do. */
export class UsageError extends IntaglioError {}

/** The other side broke the protocol. */
export class PeerError extends IntaglioError {}

/** Foreign bytes are no message of this version. */
export class MalformedMessageError extends PeerError {}

/** A signature, proof or opening does not hold. */
export class ProofError extends IntaglioError {}

/** Valid, and not allowed. */
export class RefusedError extends IntaglioError {}

/** The person stopped it. */
export class CancelledError extends IntaglioError {}

/** Not now: later it may work. */
export class UnavailableError extends IntaglioError {
  /** Seconds to wait before another try, or null when nobody knows. */
  readonly retryAfter: number | null

  constructor(message: string, retryAfter: number | null = null, why: Why | null = null) {
    super(message, { why })
    this.retryAfter = retryAfter
  }
}
