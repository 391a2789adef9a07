/** The page's side of its worker: what is sent, who gets which answer, and what stays behind. */

import { beforeAll, beforeEach, expect, test, vi } from 'vitest'

import type { Action } from '../src/device/messages'
import type { Key } from '../src/wallet/locks'

type Module = typeof import('../src/page/worker')

const posted: [any, readonly Transferable[]][] = []
const made: unknown[][] = []
let worker: { onmessage: (message: { data: unknown }) => void }
let refuses = false
let waiting: Map<unknown, unknown>
let ask: Module['ask']
let listen: Module['listen']
let Failure: Module['Failure']
const told: unknown[] = []
const say = (data: unknown): void => { worker.onmessage({ data }) }
const outcomeOf = (answer: Promise<unknown>): Promise<unknown> => answer.then((value) => ({ value }), (error: unknown) => ({ error }))
const FAULT = { kind: 'RefusedError', message: 'no', why: { name: 'why.ticket' }, retryAfter: null }

beforeAll(async () => {
  vi.stubGlobal('Worker', class {
    constructor(...given: unknown[]) { made.push(given); worker = this as unknown as typeof worker }

    postMessage(message: unknown, given: readonly Transferable[] = []) { if (refuses) throw new DOMException('cannot be sent', 'DataCloneError'); posted.push([structuredClone(message), given]) }
  })
  const [set, maps] = [Map.prototype.set, new Set<Map<unknown, unknown>>()]
  const noted = vi.spyOn(Map.prototype, 'set').mockImplementation(function (this: Map<unknown, unknown>, key, value) { if (typeof value?.reject === 'function') maps.add(this); return set.call(this, key, value) as never })
  ;({ ask, listen, Failure } = await import('../src/page/worker'))
  listen({ loading: (share) => { told.push(['loading', share]) }, sent: (message) => { told.push(['sent', message]) }, film: () => { told.push(['film']) } })
  const answer = ask('status').answer
  say({ kind: 'done', id: posted[0][0].id, value: null })
  await answer
  ;[waiting] = maps
  noted.mockRestore()
  vi.unstubAllGlobals()
})
beforeEach(() => { posted.length = told.length = 0; refuses = false })

test('there is one worker, which is a module', () => {
  expect(made).toEqual([[expect.any(URL), { type: 'module' }]])
  expect(String(made[0][0])).toContain('/device/worker')
})

test('each gets its own answer, in whatever order they come, and nobody waits any more then', async () => {
  const key: Key = { lock: { kind: 'passphrase', salt: new Uint8Array(4) }, secret: Uint8Array.of(7, 8) }
  const frame = new ArrayBuffer(3)
  const [first, second, third] = [ask('status'), ask('watch', { frame } as never, [frame]), ask('revoke', undefined, [], key)]
  const ids = posted.map(([{ id }]) => id as number)
  expect(new Set(ids).size).toBe(3)
  expect(posted).toEqual([
    [{ id: ids[0], action: 'status', argument: undefined, key: null }, []], [{ id: ids[1], action: 'watch', argument: { frame }, key: null }, [frame]],
    [{ id: ids[2], action: 'revoke', argument: undefined, key: { lock: { kind: 'passphrase', salt: new Uint8Array(4) }, secret: Uint8Array.of(7, 8) } }, []],
  ])
  expect(key.secret).toEqual(new Uint8Array(2))
  expect([...waiting.keys()]).toEqual(ids)
  say({ kind: 'failed', id: ids[1], fault: FAULT })
  expect([...waiting.keys()]).toEqual([ids[0], ids[2]])
  say({ kind: 'done', id: ids[2], value: null })
  say({ kind: 'done', id: ids[0], value: 'the status' })
  expect([...waiting.keys()]).toEqual([])
  const [one, failed, other] = await Promise.all([first, second, third].map(({ answer }) => outcomeOf(answer)))
  expect([one, other]).toEqual([{ value: 'the status' }, { value: null }])
  const { error } = failed as { error: InstanceType<Module['Failure']> }
  expect([error instanceof Failure, error.fault, error.message]).toEqual([true, FAULT, 'no'])
  for (const kind of ['done', 'failed']) say({ kind, id: ids[0], value: 'late', fault: FAULT })
  expect(await first.answer).toBe('the status')
})

test('what cannot be sent is refused, nobody waits for it, and the key does not stay', async () => {
  refuses = true
  const key: Key = { lock: { kind: 'passphrase', salt: new Uint8Array(4) }, secret: Uint8Array.of(7, 8) }
  expect(await outcomeOf(ask('revoke', undefined, [], key).answer)).toEqual({ error: expect.objectContaining({ name: 'DataCloneError' }) })
  expect([key.secret, waiting.size]).toEqual([new Uint8Array(2), 0])
})

test('a cancellation names what it stops', async () => {
  const [one, other] = [ask('verify' as Action), ask('renew' as Action)]
  const ids = posted.map(([{ id }]) => id as number)
  one.cancel()
  expect(posted.slice(2)).toEqual([[{ cancel: ids[0] }, []]])
  other.cancel()
  expect(posted.slice(3)).toEqual([[{ cancel: ids[1] }, []]])
  for (const id of ids) say({ kind: 'failed', id, fault: FAULT })
  await Promise.all([one, other].map(({ answer }) => outcomeOf(answer)))
})

test('what the worker tells by itself goes to whoever listens', () => {
  const sent = { kind: 'sent', call: 'Verify', sent: Uint8Array.of(1), received: 5 }
  for (const message of [{ kind: 'ready', part: 'wallet' }, { kind: 'loading', share: 0.5 }, sent, { kind: 'film' }]) say(message)
  expect(told).toEqual([['loading', 0.5], ['sent', sent], ['film']])
})
