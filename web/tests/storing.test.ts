/** What the wallet writes: all of it or nothing, in one transaction, in its own place, and in clear to nobody. */

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { type Bytes, hex, randomBytes, utf8 } from '../src/bytes'
import { UsageError } from '../src/errors'
import { ONEBIT_1024 } from '../src/onebit/parameters'
import { TemplateSecret } from '../src/onebit/template'
import { Receipt, SignedReceipt } from '../src/wallet/receipts'
import type { EnrolmentState } from '../src/wallet/state'
import { keepWait } from '../src/wallet/wait'
import { type Enrolment, MOST_ANSWERS, transact, Wallet } from '../src/wallet/wallet'
import { KEY } from './keys'

const ENROLMENT: Enrolment = {
  purpose: 'door-access', audience: 'example.org', releaseDigest: 'ab'.repeat(32), log: { key: 'a key', witnesses: [], threshold: 0 }, deployment: 'trial',
  trust: { makers: [], auditors: [], acceptsTrials: false }, state: 'enrolled', receipts: [], answers: 3, failures: 2,
}
const secretOf = (): TemplateSecret => TemplateSecret.generate(ONEBIT_1024, randomBytes)
const [FIRST, OTHER] = [secretOf(), secretOf()]

beforeEach(() => Wallet.delete())
afterEach(() => { vi.restoreAllMocks() })

/** All that lies in the database, by its place. */
async function everything(): Promise<Record<string, any>> {
  const database = await new Promise<IDBDatabase>((resolve) => {
    const request = indexedDB.open('intaglio', 1)
    request.onsuccess = () => { resolve(request.result) }
  })
  const found = await new Promise<Record<string, any>>((resolve) => {
    const transaction = database.transaction('wallet')
    const [keys, values] = [transaction.objectStore('wallet').getAllKeys(), transaction.objectStore('wallet').getAll()]
    transaction.oncomplete = () => { resolve(Object.fromEntries(keys.result.map((key, i) => [String(key), values.result[i]]))) }
  })
  database.close()
  return found
}

/** What a wallet in memory would write, and its secret. */
const held = (wallet: Wallet): unknown => {
  let secret: string
  try { secret = hex(wallet.requireSecret().secretBytes()) } catch (error) { secret = String(error) }
  return { memory: wallet.memory, secret }
}

/** Both wallets, and how long to wait. */
async function both(): Promise<[Wallet, Wallet]> {
  const mine = await Wallet.create(KEY)
  await mine.begin(FIRST, ENROLMENT)
  const next = await Wallet.successor(KEY)
  await next.begin(OTHER, { ...ENROLMENT, state: 'started' })
  await keepWait({ name: 'a', until: 9, of: 5 })
  return [mine, next]
}

type Write = (mine: Wallet, next: Wallet) => Promise<unknown>
const WRITES: [string, readonly ('put' | 'delete' | 'clear')[], Write][] = [
  ['remembering', ['put'], (mine) => mine.remember({ checkpoint: 'a later one' })],
  ['beginning', ['put'], (mine) => mine.begin(secretOf(), { ...ENROLMENT, state: 'started', answers: 0 })],
  ['forgetting', ['put'], (mine) => mine.forget({ state: 'revoked' })],
  ['counting an answer', ['put'], (mine) => mine.countAnswer()],
  ['remembering of a successor', ['put'], (_, next) => next.remember({ checkpoint: 'a later one' })],
  ['taking the place', ['put', 'delete'], (_, next) => next.takePlace()],
  ['making a wallet', ['put'], () => Wallet.create(KEY)],
  ['deleting', ['clear'], () => Wallet.delete()],
  ['keeping a wait', ['put'], () => keepWait({ name: 'b', until: 10, of: 6 })],
]

describe.each(WRITES.flatMap(([name, calls, write]) => calls.map((call) => [name, call, write] as const)))('%s, where the browser takes its %s back', (_, call, write) => {
  test('changes nothing, neither on disk nor in memory, leaves no database open, and is done by another try', async () => {
    const [mine, next] = await both()
    const before = [await everything(), held(mine), held(next)]
    const [opened, closed] = [vi.spyOn(IDBFactory.prototype, 'open'), vi.spyOn(IDBDatabase.prototype, 'close')]
    const original = IDBObjectStore.prototype[call] as (...given: any[]) => IDBRequest
    vi.spyOn(IDBObjectStore.prototype, call as 'put').mockImplementation(function (this: IDBObjectStore, ...given: any[]) {
      const request = original.apply(this, given)
      request.addEventListener('success', () => { this.transaction.abort() }) // as when the disk is full after all
      return request as IDBRequest<IDBValidKey>
    })
    const refused: unknown = await write(mine, next).then(() => null, (error: unknown) => error)
    expect(refused).toBeInstanceOf(UsageError)
    expect(refused).toMatchObject({ message: 'this browser does not store the wallet; leave private browsing, or make room', why: { name: 'why.no_storage' }, cause: new Error('aborted') })
    expect([opened.mock.calls.length, closed.mock.calls.length]).toEqual([1, 1])
    vi.restoreAllMocks()
    expect([await everything(), held(mine), held(next)]).toEqual(before)
    await write(mine, next)
    expect(await everything()).not.toEqual(before[0])
  })
})

test.each<[string, Write, (mine: Wallet, next: Wallet) => Record<string, string>]>([
  ['a wallet writes in its own place', (mine) => mine.remember({ checkpoint: 'x' }), (mine, next) => ({ device: hex(mine.devicePublicKey), successor: hex(next.devicePublicKey), wait: 'a' })],
  ['its successor in that of successors', (_, next) => next.remember({ checkpoint: 'x' }), (mine, next) => ({ device: hex(mine.devicePublicKey), successor: hex(next.devicePublicKey), wait: 'a' })],
  ['until it takes the other', async (_, next) => { await next.takePlace(); await next.remember({ checkpoint: 'x' }) }, (_, next) => ({ device: hex(next.devicePublicKey), wait: 'a' })],
  ['which it does once', async (_, next) => { await next.takePlace(); await next.takePlace() }, (_, next) => ({ device: hex(next.devicePublicKey), wait: 'a' })],
  ['and deleting leaves nothing', () => Wallet.delete(), () => ({})],
])('%s', async (_, write, left) => {
  const [mine, next] = await both()
  await write(mine, next)
  const found = Object.entries(await everything()).map(([place, record]) => [place, place === 'wait' ? record.name : hex(record.devicePublicKey)])
  expect(Object.fromEntries(found)).toEqual(left(mine, next))
})

test('a successor that took the place brings its own secret and memory, and a wallet in its place writes nothing to get there', async () => {
  const [mine, next] = await both()
  await next.remember({ checkpoint: 'of the successor', names: { aa: 'phone' } })
  await next.takePlace()
  const after = (await Wallet.open(KEY.secret))!
  expect([hex(after.keyId), held(after)]).toEqual([hex(next.keyId), { memory: { enrolment: { ...ENROLMENT, state: 'started' }, checkpoint: 'of the successor', rules: null, names: { aa: 'phone' } }, secret: hex(OTHER.secretBytes()) }])
  expect(await Wallet.begun(KEY.secret)).toBeNull()
  const written = vi.spyOn(IDBDatabase.prototype, 'transaction')
  await mine.takePlace()
  expect(written).not.toHaveBeenCalled()
})

test.each<[EnrolmentState | null, boolean]>([[null, true], ['started', true], ['enrolled', true], ['revoked', false], ['erased', false]])(
  'a successor whose enrolment is %s goes on: %s', async (state, goesOn) => {
    await Wallet.create(KEY)
    const begun = await Wallet.successor(KEY)
    if (state !== null) await begun.begin(OTHER, { ...ENROLMENT, state })
    const again = await Wallet.successor(KEY)
    expect(hex(again.keyId) === hex(begun.keyId)).toBe(goesOn)
    expect(hex((await Wallet.begun(KEY.secret))!.keyId)).toBe(hex(again.keyId))
    expect(again.memory.enrolment).toEqual(goesOn && state !== null ? { ...ENROLMENT, state } : null)
  })

test('a successor that another key locked stays as it is', async () => {
  await both()
  const before = await everything()
  await expect(Wallet.successor({ ...KEY, secret: new Uint8Array(32).fill(8) })).rejects.toThrow('another key than the one that locked')
  expect(await everything()).toEqual(before)
})

test.each<[EnrolmentState, boolean]>([['started', true], ['enrolled', true], ['revoked', false], ['erased', false]])('a template that is %s is used: %s', async (state, isUsed) => {
  const mine = await Wallet.create(KEY)
  await mine.begin(FIRST, { ...ENROLMENT, state })
  const before = await everything()
  const uses = [() => mine.requireEnrolment().state, () => hex(mine.requireSecret().secretBytes())]
  if (isUsed) {
    expect(uses.map((use) => use())).toEqual([state, hex(FIRST.secretBytes())])
    return
  }
  for (const use of uses) expect(use).toThrow('this template was revoked for good; make a new one and enrol again')
  await expect(mine.countAnswer()).rejects.toThrow('revoked for good')
  expect(await everything()).toEqual(before)
})

test('the answer that is one too many is not counted either', async () => {
  const mine = await Wallet.create(KEY)
  await mine.begin(FIRST, { ...ENROLMENT, answers: MOST_ANSWERS })
  const before = [await everything(), held(mine)]
  await expect(mine.countAnswer()).rejects.toMatchObject({ name: 'RefusedError', why: { name: 'why.answers', values: { most: 500 } } })
  expect([await everything(), held(mine)]).toEqual(before)
})

test('an answer is counted alone, and forgetting changes the enrolment alone', async () => {
  const mine = await Wallet.create(KEY)
  await mine.begin(FIRST, ENROLMENT)
  const rules = { lines: 4, digest: 'cd'.repeat(32) }
  await mine.remember({ checkpoint: 'a checkpoint', rules, names: { bb: 'tablet' } })
  await mine.countAnswer()
  const rest = { checkpoint: 'a checkpoint', rules, names: { bb: 'tablet' } }
  expect(held((await Wallet.open(KEY.secret))!)).toEqual({ memory: { enrolment: { ...ENROLMENT, answers: 4 }, ...rest }, secret: hex(FIRST.secretBytes()) })
  await mine.forget({ failures: 0 })
  expect(held((await Wallet.open(KEY.secret))!)).toEqual({ memory: { enrolment: { ...ENROLMENT, answers: 4, failures: 0 }, ...rest }, secret: 'UsageError: this device is not enrolled; enrol first' })
  await mine.begin(OTHER, { ...ENROLMENT, state: 'started' })
  expect(held((await Wallet.open(KEY.secret))!)).toEqual({ memory: { enrolment: { ...ENROLMENT, state: 'started' }, ...rest }, secret: hex(OTHER.secretBytes()) })
  await mine.remember({ enrolment: null })
  await mine.forget({ state: 'revoked' })
  expect(mine.memory.enrolment).toBeNull()
})

const GOOD = Object.values(import.meta.glob<string>('../../tests/vectors/consent/receipt.json', { eager: true, query: '?raw', import: 'default' }))[0]

test('in clear stands of each audience the newest consent, and when that of the enrolment ends', async () => {
  const { receipt } = SignedReceipt.fromBytes(utf8(GOOD))
  const text = (audience: string, purpose: string, ends: number): string => {
    const terms = { ...receipt.terms, audience, purposes: [purpose] }
    return new TextDecoder().decode(new SignedReceipt(new Receipt(receipt.receiptId, terms, receipt.binding, receipt.issuedAt, receipt.issuedAt + ends), new Uint8Array(64)).toBytes())
  }
  const receipts = [text('example.org', 'door-access', 10), text('shop.example', 'sign-in', 40), text('example.org', 'gate', 30), text('shop.example', 'canteen', 20)]
  const mine = await Wallet.create(KEY)
  await mine.begin(FIRST, { ...ENROLMENT, receipts })
  const shown = await Wallet.look()
  const at = receipt.issuedAt
  expect(shown).toEqual({
    lock: KEY.lock, name: hex(mine.keyId.slice(0, 8)), state: 'enrolled', answers: 3, failures: 2, consentExpires: at + 30,
    agreed: [['example.org', ['gate'], at + 30], ['shop.example', ['canteen'], at + 20]], trust: ENROLMENT.trust, release: ENROLMENT.releaseDigest,
  })
  await mine.remember({ enrolment: { ...mine.memory.enrolment!, audience: 'elsewhere.example' } })
  expect((await Wallet.look())!.consentExpires).toBeNull()
})

test('what is written or read in clear is wiped as soon as it was, and never sealed twice under one nonce', async () => {
  const clear: Uint8Array[] = []
  const nonces: string[] = []
  const seen = (data: Uint8Array): void => {
    expect(data.some((byte) => byte !== 0)).toBe(true)
    clear.push(data)
  }
  const { encrypt, decrypt } = crypto.subtle
  vi.spyOn(crypto.subtle, 'encrypt').mockImplementation(async (algorithm, key, data) => {
    seen(data as Uint8Array)
    nonces.push(hex((algorithm as AesGcmParams).iv as Bytes))
    return await encrypt.call(crypto.subtle, algorithm, key, data)
  })
  vi.spyOn(crypto.subtle, 'decrypt').mockImplementation(async (algorithm, key, data) => {
    const opened = await decrypt.call(crypto.subtle, algorithm, key, data) as ArrayBuffer
    seen(new Uint8Array(opened))
    return opened
  })
  const { secretBytes } = TemplateSecret.prototype
  vi.spyOn(TemplateSecret.prototype, 'secretBytes').mockImplementation(function (this: TemplateSecret) {
    const copy = secretBytes.call(this)
    seen(copy)
    return copy
  })
  const [, next] = await both()
  await next.takePlace()
  await Wallet.open(KEY.secret)
  expect(clear.length).toBe(9)
  expect(clear.filter((data) => data.some((byte) => byte !== 0))).toEqual([])
  expect(new Set(nonces).size).toBe(nonces.length)
  vi.restoreAllMocks()
  expect(hex((await Wallet.open(KEY.secret))!.requireSecret().secretBytes())).toBe(hex(OTHER.secretBytes())) // the secret in use is not
})

test('two works take turns, under the name that other pages know, and one that fails lets the next in', async () => {
  const noted: string[] = []
  const work = (name: string, fails: boolean): Promise<string> => Wallet.exclusively(async () => {
    const { held: locks } = await navigator.locks.query()
    noted.push(`${name} has ${locks!.filter(({ name: lock }) => lock === 'intaglio wallet').map(({ mode }) => mode).join()}`)
    await new Promise((resolve) => { setTimeout(resolve) })
    noted.push(`${name} ends`)
    if (fails) throw new Error(name)
    return name
  })
  const ended = await Promise.allSettled([work('first', true), work('second', false)])
  expect(noted).toEqual(['first has exclusive', 'first ends', 'second has exclusive', 'second ends'])
  expect(ended).toEqual([{ status: 'rejected', reason: new Error('first') }, { status: 'fulfilled', value: 'second' }])
})

test('what the browser says of a write that it takes back is kept as the cause', async () => {
  const add = (): Promise<unknown> => transact('readwrite', (store) => store.add('a value', 'a place'))
  await add()
  expect(await add().then(() => null, (error: Error) => error.cause)).toMatchObject({ name: 'ConstraintError' })
})

const { open } = IDBFactory.prototype
test.each<[string, number, () => void]>([
  ['has no database', 0, () => { vi.spyOn(IDBFactory.prototype, 'open').mockImplementation(() => { throw new DOMException('no', 'SecurityError') }) }],
  ['has one of a later kind', 0, () => { vi.spyOn(IDBFactory.prototype, 'open').mockImplementation(function (this: IDBFactory) { return open.call(this, 'of a later kind', 1) }) }],
  ['refuses a transaction', 1, () => { vi.spyOn(IDBDatabase.prototype, 'transaction').mockImplementation(() => { throw new DOMException('no', 'InvalidStateError') }) }],
  ['refuses a request', 1, () => { vi.spyOn(IDBObjectStore.prototype, 'get').mockImplementation(() => { throw new DOMException('no', 'DataError') }) }],
])('a browser that %s is said not to store, with the cause, and no database stays open', async (_, closings, breaks) => {
  await new Promise<void>((resolve) => {
    const request = indexedDB.open('of a later kind', 2)
    request.onsuccess = () => { request.result.close(); resolve() }
  })
  const closed = vi.spyOn(IDBDatabase.prototype, 'close')
  breaks()
  const refused = await transact('readonly', (store) => store.get('device')).then(() => null, (error: unknown) => error)
  expect(refused).toMatchObject({ name: 'UsageError', message: 'this browser does not store the wallet; leave private browsing, or make room', why: { name: 'why.no_storage' } })
  expect((refused as Error).cause).toBeInstanceOf(DOMException)
  expect(closed).toHaveBeenCalledTimes(closings)
})
