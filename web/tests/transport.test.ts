/** Calls over HTTP: what leaves, what may come back, and what a status stands for. */

import { create, toBinary } from '@bufbuild/protobuf'
import { afterEach, describe, expect, test, vi } from 'vitest'

import { Transport } from '../src/device/transport'
import { IntaglioError, MalformedMessageError, PeerError, ProofError, RefusedError, UnavailableError, UsageError } from '../src/errors'
import { ExportResponseSchema, OwnerService } from '../src/wire/federation/wire/v1/verification_pb'

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
  test.each([['5', 5], ['86400', 86_400], ['86401', 1], ['-1', 1], ['soon', 1]])('of %s seconds is believed for %i', async (told, seconds) => {
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

test('what a server says is cut, and holds nothing that a terminal or a page could obey', async () => {
  const { message } = await errorOf(failed('PERMISSION_DENIED', `a\u202eb\u0007c\u2028${'x'.repeat(600)}`))
  expect(message).toBe(`the server says: a b c ${'x'.repeat(494)}`)
  expect((await errorOf(failed('PERMISSION_DENIED', ''))).message).toBe('the server says: no reason given')
})

test('an answer with a field that this version does not know is none', async () => {
  const more = new Uint8Array([...answer(200), 0xf8, 0x7f, 1])
  expect(await errorOf(new Response(more))).toBeInstanceOf(MalformedMessageError)
})
