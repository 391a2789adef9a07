/** Calls of the matching service over HTTP: protobuf bodies to the page's own server, which passes them on to gRPC. */

import { create, type DescMessage, type DescMethodUnary, fromBinary, type MessageInitShape, type MessageShape, toBinary } from '@bufbuild/protobuf'

import {
  CancelledError, type IntaglioError, MalformedMessageError, PeerError, ProofError, RefusedError, UnavailableError, UsageError,
} from '../errors'
import { type Bytes, concat } from '../bytes'

const PREFIX = '/intaglio/'
/** The limit of both directions, as `federation/wire/convert.py` has it. */
const MOST_BYTES = 512 * 1024
/** Longest wait for an answer, repeated calls included. Half of what `client/connection.py` has: somebody stands before the page. */
const DEADLINE_MS = 10_000
const PATIENCE_SECONDS = 2
/** As the service writes a pause that it asks for, and the longest that is believed. */
const [SECONDS, LONGEST_PAUSE_SECONDS] = [/^\d+(?:\.\d+)?$/, 86_400]
const CANCELLED = 'stopped before it was done; what was sent may count as an attempt'

const ERRORS: Readonly<Record<string, new (message: string) => IntaglioError>> = {
  FAILED_PRECONDITION: UsageError,
  INVALID_ARGUMENT: MalformedMessageError,
  UNAUTHENTICATED: ProofError,
  PERMISSION_DENIED: RefusedError,
}
const TRANSIENT = new Set(['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'CANCELLED', 'RESOURCE_EXHAUSTED'])

/** One message that left this page, or came to it, for the person to look at. */
export interface Message {
  readonly call: string
  readonly sent: Bytes
  readonly received: Bytes | null
}

/** A connection to the page's own server. */
export class Transport {
  readonly #observe: (message: Message) => void
  /** How many calls were made twice, because the first answer may have been lost. */
  repeated = 0
  /** Whoever aborts it stops the call that runs, and those that would follow. */
  signal: AbortSignal = new AbortController().signal

  /** @param observe sees every message, as it was sent and received. */
  constructor(observe: (message: Message) => void = () => undefined) {
    this.#observe = observe
  }

  /**
   * Calls, and again when the answer may have been lost or the server asks for a moment, until the deadline.
   *
   * Every message has the same bytes, so the server repeats its answer and neither counts nor compares again. When nobody
   * says whether the server is there at all, once more is enough.
   *
   * @throws IntaglioError what the server raised, or UnavailableError.
   */
  async call<I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, request: MessageInitShape<I>): Promise<MessageShape<O>> {
    const body = toBinary(method.input, create(method.input, request)) as Bytes
    const deadline = performance.now() + DEADLINE_MS
    for (let wasSilent = false; ; this.repeated += 1) {
      try {
        return await this.#once(method, body, deadline, this.signal)
      } catch (error) {
        if (!(error instanceof UnavailableError)) throw error
        const isSilent = error instanceof SilentError
        const seconds = error.retryAfter ?? Infinity
        const left = (deadline - performance.now()) / 1000
        if ((wasSilent && isSilent) || seconds > Math.min(PATIENCE_SECONDS, left)) throw error
        wasSilent = isSilent
        await new Promise((resolve) => { setTimeout(resolve, 1000 * seconds) })
      }
    }
  }

  async #once<I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, body: Bytes, deadline: number, signal: AbortSignal): Promise<MessageShape<O>> {
    if (signal.aborted) throw new CancelledError(CANCELLED)
    let received: Bytes | null = null
    try {
      received = await post(`${PREFIX}${method.parent.typeName}/${method.name}`, body, deadline, signal)
    } finally {
      this.#observe({ call: method.name, sent: body, received })
    }
    try {
      const message = fromBinary(method.output, received)
      if (message.$unknown !== undefined) throw new RangeError('unknown fields')
      return message
    } catch {
      throw new MalformedMessageError(`the server's answer to ${method.name} is none of this version`)
    }
  }
}

/** Nobody said whether the server is there. */
class SilentError extends UnavailableError {}

async function post(path: string, body: Bytes, deadline: number, cancelled: AbortSignal): Promise<Bytes> {
  let response: Response
  try {
    response = await fetch(path, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/x-protobuf', 'x-intaglio': '1' },
      credentials: 'omit',
      cache: 'no-store',
      redirect: 'error',
      signal: AbortSignal.any([cancelled, AbortSignal.timeout(Math.max(0, deadline - performance.now()))]),
    })
    const received = await bodyOf(response)
    if (response.ok) return received
    throw Object.assign(errorOf(response, new TextDecoder().decode(received)), { isOfServer: true })
  } catch (error) {
    if (cancelled.aborted) throw new CancelledError(CANCELLED)
    if (error instanceof DOMException && error.name === 'TimeoutError') {
      throw new SilentError(`the server did not answer within ${DEADLINE_MS / 1000} seconds. What was sent may have reached it, and may count as an attempt; try again later`, DEADLINE_MS / 1000, { name: 'why.silent', values: { seconds: DEADLINE_MS / 1000 } })
    }
    if (error instanceof TypeError || error instanceof DOMException) throw new SilentError('the server cannot be reached; check the connection', 1, { name: 'why.unreachable' })
    throw error
  }
}

/** What an answer says, of which no more is taken in than a message may have. */
async function bodyOf({ body }: Response): Promise<Bytes> {
  const [parts, reader] = [[] as Uint8Array[], body?.getReader()]
  for (let length = 0, piece = await reader?.read(); piece?.done === false; piece = await reader?.read()) {
    length += piece.value.length
    if (length > MOST_BYTES) {
      reader?.cancel().catch(() => undefined)
      throw new MalformedMessageError('the answer is larger than any message')
    }
    parts.push(piece.value)
  }
  return concat(...parts)
}

function errorOf(response: Response, details: string): IntaglioError {
  const status = response.headers.get('x-intaglio-status') ?? ''
  const message = `the server says: ${details.slice(0, 500).replaceAll(/[\p{C}\p{Zl}\p{Zp}]/gu, ' ') || 'no reason given'}`
  if (TRANSIENT.has(status)) {
    const told = response.headers.get('retry-after-seconds')
    if (told === null) return new UnavailableError(message, 1, { name: 'why.unreachable' }) // nobody of ours has spoken
    const seconds = SECONDS.test(told) && Number(told) <= LONGEST_PAUSE_SECONDS ? Number(told) : 1
    return new UnavailableError(message, seconds, { name: 'why.wait', values: { seconds: Math.ceil(seconds) } })
  }
  return new (Object.hasOwn(ERRORS, status) ? ERRORS[status] : PeerError)(message)
}
