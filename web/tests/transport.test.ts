/** Calls over HTTP: what leaves, what may come back, and what a status stands for. */

import { create, toBinary } from '@bufbuild/protobuf'
import { afterEach, describe, expect, test, vi } from 'vitest'

import { Transport } from '../src/device/transport'
import { IntaglioError, MalformedMessageError, PeerError, ProofError, RefusedError, UnavailableError, UsageError } from '../src/errors'
import { ExportResponseSchema, OwnerService } from '../src/wire/federation/wire/v1/verification_pb'
import { python } from './vectors'

const LIMIT = 512 * 1024
const method = OwnerService.method.export
afterEach(() => { vi.restoreAllMocks() })

/** Lets the network answer, and gives what was asked of it. */
function answering(...answers: Response[]): { readonly options: RequestInit; readonly url: string }[] {
  const asked: { options: RequestInit; url: string }[] = []
  vi.spyOn(globalThis, 'fetch').mockImplementation(async (url, options) => {
    asked.push({ url: String(url), options: options! })
    return answers.shift()!
  })
  return asked
}

/** An answer of that many bytes. */
function answer(length: number): Uint8Array<ArrayBuffer> {
  const written = (bytes: number): Uint8Array<ArrayBuffer> => toBinary(ExportResponseSchema, create(ExportResponseSchema, { record: new Uint8Array(bytes) })) as Uint8Array<ArrayBuffer>
  const message = [2, 3, 4].map((more) => written(length - more)).find((one) => one.length === length)
  return message!
}

const failed = (status: string, text = 'no', more: Record<string, string> = {}): Response => new Response(text, { status: 400, headers: { 'x-intaglio-status': status, ...more } })
const errorOf = async (response: Response): Promise<IntaglioError> => {
  answering(response)
  vi.spyOn(performance, 'now').mockReturnValueOnce(0).mockReturnValue(9_500) // no time is left to ask again
  return new Transport().call(method, {}).then(() => { throw new Error('it went well') }, (error: IntaglioError) => error)
}

test('a call sends nothing of the browser with it, and follows nobody elsewhere', async () => {
  const asked = answering(new Response(answer(200)))
  await new Transport().call(method, {})
  expect(asked).toHaveLength(1)
  expect(asked[0].url).toBe('/intaglio/federation.wire.v1.OwnerService/Export')
  expect(asked[0].options).toMatchObject({
    method: 'POST', credentials: 'omit', cache: 'no-store', redirect: 'error', headers: { 'content-type': 'application/x-protobuf', 'x-intaglio': '1' },
  })
})

test('an answer is as long as the longest message, and no longer', async () => {
  answering(new Response(answer(LIMIT)))
  expect((await new Transport().call(method, {})).record).toHaveLength(LIMIT - 4)
  await expect(errorOf(new Response(answer(LIMIT + 1)))).resolves.toBeInstanceOf(MalformedMessageError)
})

describe('a server that asks for a pause', () => {
  test.each([['5', 5], ['86400.000', 86_400], ['86400.001', 1], ['-1', 1], ['soon', 1], ['', 1], ['0x10', 1], ['Infinity', 1]])('of %s seconds is believed for %i', async (told, seconds) => {
    const error = await errorOf(failed('UNAVAILABLE', 'later', { 'retry-after-seconds': told }))
    expect(error).toBeInstanceOf(UnavailableError)
    expect((error as UnavailableError).retryAfter).toBe(seconds)
    expect(error.why).toEqual({ name: 'why.wait', values: { seconds } })
  })
})

test.each<[string, typeof PeerError]>([
  ['PERMISSION_DENIED', RefusedError], ['UNAUTHENTICATED', ProofError], ['FAILED_PRECONDITION', UsageError], ['INVALID_ARGUMENT', MalformedMessageError], ['INTERNAL', PeerError], ['', PeerError], ['toString', PeerError],
])('the status %s is an error of its own', async (status, kind) => {
  const error = await errorOf(failed(status))
  expect([error.constructor, error.name]).toEqual([kind, kind.name])
})

test('every status is the error that it is in Python; what the page has no name for is a broken protocol', async () => {
  const known = (await python('statuses', {})) as Record<string, string>
  const names: [string, string][] = []
  for (const status of Object.keys(known)) {
    names.push([status, (await errorOf(failed(status, 'no', { 'retry-after-seconds': '5' }))).name])
    vi.restoreAllMocks()
  }
  const nameless = ['BudgetExhaustedError', 'RoundAbortedError']
  expect(Object.fromEntries(names)).toEqual(Object.fromEntries(Object.entries(known).map(([status, name]) => [status, nameless.includes(name) ? 'PeerError' : name])))
  expect(new Set(Object.values(known)).size).toBe(8)
})

test('what a server says is cut, and holds nothing that a terminal or a page could obey', async () => {
  const { message } = await errorOf(failed('PERMISSION_DENIED', `a\u202eb\u0007c\u2028${'x'.repeat(600)}`))
  expect(message).toBe(`the server says: a b c ${'x'.repeat(494)}`)
  expect((await errorOf(failed('PERMISSION_DENIED', ''))).message).toBe('the server says: no reason given')
})

test('an answer with a field that this version does not know is none', async () => {
  const more = new Uint8Array([...answer(200), 0xf8, 0x7f, 1])
  expect(await errorOf(new Response(more))).toBeInstanceOf(MalformedMessageError)
})

test('an answer that does not end is taken in up to the longest message, and no further', async () => {
  let [pulled, isStopped] = [0, false]
  const endless = new ReadableStream({ pull: (controller) => { pulled += 1; controller.enqueue(new Uint8Array(64 * 1024)) }, cancel: () => { isStopped = true } })
  expect(await errorOf(new Response(endless))).toMatchObject({ name: 'MalformedMessageError', message: 'the answer is larger than any message' })
  expect(isStopped).toBe(true)
  expect(pulled).toBeLessThan(16)
})

describe('a call is made again', () => {
  /** How the server answers, and when the person stops it. */
  type Answer = 'ok' | 'silent' | 'late' | 'lost' | 'wrong' | 'stopped' | 'left' | number
  const given = { ok: () => new Response(answer(200)), silent: () => { throw new TypeError('offline') }, late: () => { throw new DOMException('no', 'TimeoutError') }, lost: () => { throw new DOMException('no', 'NetworkError') }, wrong: () => failed('PERMISSION_DENIED') }

  test.each<[string, Answer[], number[], string, number]>([
    ['after the pause that was asked for', [0.5, 'ok'], [0, 500], 'done', 1],
    ['after the longest pause', [2, 'ok'], [0, 2000], 'done', 1],
    ['but not after a longer one', [2.001, 'ok'], [0], 'UnavailableError 2.001 why.wait', 0],
    ['as long as there is time', [2, 2, 2, 1.5, 2, 0.5, 0.001], [0, 2000, 4000, 6000, 7500, 9500, 10_000], 'UnavailableError 0.001 why.wait', 6],
    ['but not where the pause is longer than what is left', [2, 2, 2, 2, 1, 1.001], [0, 2000, 4000, 6000, 8000, 9000], 'UnavailableError 1.001 why.wait', 5],
    ['once of who says nothing', ['silent', 'silent', 'ok'], [0, 1000], 'UnavailableError 1 why.unreachable', 1],
    ['once each time that one falls silent', ['silent', 1, 'silent', 'ok'], [0, 1000, 2000, 3000], 'done', 3],
    ['but not of who is frozen, until there is no time left', ['late', 'ok'], [0], 'UnavailableError 10 why.silent', 0],
    ['once of whom the network loses', ['lost', 'late', 'ok'], [0, 1000], 'UnavailableError 10 why.silent', 1],
    ['but not after a refusal', [1, 'wrong', 'ok'], [0, 1000], 'RefusedError null null', 1],
    ['but not after the person left while it was on its way', [1, 'left', 'ok'], [0, 1000], 'CancelledError null null', 1],
    ['but not after the person stopped it', [1, 'stopped', 'ok'], [0], 'CancelledError null null', 1],
  ])('%s', async (_, answers, times, end, repeated) => {
    vi.useFakeTimers()
    try {
      const [asked, shown, waits, stop] = [[] as number[], [] as unknown[], [] as number[], new AbortController()]
      const begin = performance.now()
      vi.spyOn(AbortSignal, 'timeout').mockImplementation((milliseconds) => { waits.push(milliseconds); return new AbortController().signal })
      vi.spyOn(globalThis, 'fetch').mockImplementation(async () => {
        asked.push(performance.now() - begin)
        const next = answers.shift()!
        if (next === 'left') { stop.abort(); throw new DOMException('no', 'AbortError') }
        if (answers[0] === 'stopped') setTimeout(() => { stop.abort() }, 500)
        return typeof next === 'number' ? failed('RESOURCE_EXHAUSTED', 'busy', { 'retry-after-seconds': String(next) }) : given[next as 'ok']()
      })
      const transport = new Transport(({ call, sent, received }) => { shown.push([call, sent.length, received?.length ?? null]) })
      transport.signal = stop.signal
      const ended = transport.call(method, { openingsFrom: 5n }).then(() => 'done', (error: IntaglioError & { retryAfter?: number }) => `${error.constructor.name === 'SilentError' ? 'UnavailableError' : error.name} ${error.retryAfter ?? null} ${error.why?.name ?? null}`)
      await vi.advanceTimersByTimeAsync(15_000)
      expect([asked, await ended, transport.repeated]).toEqual([times, end, repeated])
      expect(waits).toEqual(times.map((time) => 10_000 - time))
      expect(shown).toEqual(times.map((__, i) => ['Export', 2, end === 'done' && i === times.length - 1 ? 200 : null])) // nothing is shown that was not sent
    } finally {
      vi.useRealTimers()
    }
  })
})

test('an error of the server is marked as its, and one of the way there is not', async () => {
  expect((await errorOf(failed('PERMISSION_DENIED'))).isOfServer).toBe(true)
  vi.restoreAllMocks()
  vi.spyOn(globalThis, 'fetch').mockRejectedValue(new TypeError('offline'))
  vi.spyOn(performance, 'now').mockReturnValueOnce(0).mockReturnValue(9_500)
  expect(await new Transport().call(method, {}).catch((error: unknown) => error)).toMatchObject({ isOfServer: false, message: 'the server cannot be reached; check the connection' })
})
