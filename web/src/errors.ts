/** The error family of the page, named as in `federation/errors.py`: who is to blame comes first. */

/** Every error that this program raises on purpose. Messages never hold scores, embeddings, keys or tokens. */
export class IntaglioError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
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

/** Not now: later it may work. */
export class UnavailableError extends IntaglioError {
  /** Seconds to wait before another try, or null when nobody knows. */
  readonly retryAfter: number | null

  constructor(message: string, retryAfter: number | null = null) {
    super(message)
    this.retryAfter = retryAfter
  }
}
