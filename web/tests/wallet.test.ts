/** The wallet in the browser's database. */

import { beforeEach, expect, test, vi } from 'vitest'

import { type Bytes, concat, hex, packBits, randomBytes, sha256, unpackBits, utf8 } from '../src/bytes'
import { seenOf, trustOf } from '../src/device/owner'
import { RefusedError, UsageError } from '../src/errors'
import { ONEBIT_2048, PARAMETER_SETS } from '../src/onebit/parameters'
import { TemplateSecret } from '../src/onebit/template'
import { freshSalt, type Key, sealingKey, WrongKeyError } from '../src/wallet/locks'
import { type Enrolment, MOST_ANSWERS, OutdatedWalletError, type Shown, Wallet } from '../src/wallet/wallet'
import { KEY } from './keys'

/** Passphrases are stretched in no time here; `backup.test.ts` does the work. */
vi.mock('@noble/hashes/scrypt.js', async () => {
  const { sha256: digest } = await import('@noble/hashes/sha2.js')
  return { scrypt: (passphrase: Uint8Array, salt: Uint8Array) => digest(Uint8Array.from([...passphrase, ...salt])) }
})

const ENROLMENT: Enrolment = {
  purpose: 'door-access', audience: 'example.org', releaseDigest: 'ab'.repeat(32), log: { key: 'a key', witnesses: [], threshold: 0 }, deployment: 'trial',
  trust: { makers: [], auditors: [], acceptsTrials: false }, state: 'enrolled', receipts: [], answers: 0, failures: 0,
}

async function stored(): Promise<Record<string, unknown>> {
  const database = await new Promise<IDBDatabase>((resolve) => {
    const request = indexedDB.open('intaglio', 1)
    request.onsuccess = () => { resolve(request.result) }
  })
  const record = await new Promise<Record<string, unknown>>((resolve) => {
    const request = database.transaction('wallet').objectStore('wallet').get('device')
    request.onsuccess = () => { resolve(request.result as Record<string, unknown>) }
  })
  database.close()
  return record
}

async function replace(record: unknown): Promise<void> {
  const database = await new Promise<IDBDatabase>((resolve) => {
    const request = indexedDB.open('intaglio', 1)
    request.onsuccess = () => { resolve(request.result) }
  })
  await new Promise<void>((resolve) => {
    const transaction = database.transaction('wallet', 'readwrite')
    transaction.objectStore('wallet').put(record, 'device')
    transaction.oncomplete = () => { resolve() }
  })
  database.close()
}

beforeEach(() => Wallet.delete())

/** A stored wallet with an enrolment of that kind. */
async function enrolled(enrolment: Enrolment = ENROLMENT, parameters = ONEBIT_2048): Promise<[Wallet, TemplateSecret]> {
  const [wallet, secret] = [await Wallet.create(KEY), TemplateSecret.generate(parameters, randomBytes)]
  await wallet.begin(secret, enrolment)
  return [wallet, secret]
}

test.each(PARAMETER_SETS)('a wallet with a secret of $name is there again after the page was closed', async (parameters) => {
  const [wallet, secret] = await enrolled(ENROLMENT, parameters)
  await wallet.remember({ checkpoint: 'a checkpoint' })
  const again = await Wallet.open(KEY.secret)
  expect(again?.memory).toEqual({ enrolment: ENROLMENT, checkpoint: 'a checkpoint', rules: null, names: {} })
  expect(hex(again!.keyId)).toBe(hex(wallet.keyId))
  expect(again!.requireSecret().parameters).toBe(parameters)
  expect(hex(again!.requireSecret().secretBytes())).toBe(hex(secret.secretBytes()))
})

test('what is written is on disk, and not only with the system, when the page goes on', async () => {
  const begun = vi.spyOn(IDBDatabase.prototype, 'transaction')
  try {
    const [wallet] = await enrolled()
    await wallet.countAnswer()
    await wallet.forget({ state: 'revoked' })
    await Wallet.delete()
    expect(begun.mock.calls.length).toBe(5)
    for (const [, mode, options] of begun.mock.calls) expect([mode, options]).toEqual(['readwrite', { durability: 'strict' }])
  } finally {
    begun.mockRestore()
  }
})

test('a write that the browser takes back is none, and what was remembered stays', async () => {
  const [[wallet], { put }] = [await enrolled(), IDBObjectStore.prototype]
  const taken = vi.spyOn(IDBObjectStore.prototype, 'put').mockImplementation(function (this: IDBObjectStore, ...record) {
    const request = put.apply(this, record)
    request.addEventListener('success', () => { this.transaction.abort() }) // as when the disk is full after all
    return request
  })
  try {
    await expect(wallet.countAnswer()).rejects.toThrow('this browser does not store the wallet')
  } finally {
    taken.mockRestore()
  }
  expect(wallet.memory.enrolment).toEqual(ENROLMENT)
  expect((await Wallet.open(KEY.secret))!.memory.enrolment).toEqual(ENROLMENT)
})

test('there is no wallet before one is made, and none after it was deleted', async () => {
  expect(await Wallet.open(KEY.secret)).toBeNull()
  await Wallet.create(KEY)
  await Wallet.delete()
  expect(await Wallet.open(KEY.secret)).toBeNull()
})

test('there is no secret before an enrolment begins', async () => {
  const wallet = await Wallet.create(KEY)
  expect(() => wallet.requireSecret()).toThrow('not enrolled')
  await wallet.remember({ enrolment: ENROLMENT })
  expect(() => wallet.requireSecret()).toThrow('not enrolled')
})

test('an enrolment that begins again leaves nothing of the secret before it', async () => {
  const [wallet, first] = await enrolled()
  const second = TemplateSecret.generate(ONEBIT_2048, randomBytes)
  await wallet.begin(second, ENROLMENT)
  expect(hex((await Wallet.open(KEY.secret))!.requireSecret().secretBytes())).toBe(hex(second.secretBytes()))
  expect(hex(second.secretBytes())).not.toBe(hex(first.secretBytes()))
})

test('a template that is forgotten leaves neither code seed nor pad, and the rest of the memory', async () => {
  const [wallet] = await enrolled()
  await wallet.remember({ checkpoint: 'a checkpoint' })
  const before = ((await stored())['sealed'] as Uint8Array).length
  await wallet.forget({ state: 'revoked' })
  expect(() => wallet.requireSecret()).toThrow('revoked')
  const again = await Wallet.open(KEY.secret)
  expect(again!.memory).toEqual({ enrolment: { ...ENROLMENT, state: 'revoked' }, checkpoint: 'a checkpoint', rules: null, names: {} })
  expect(() => again!.requireSecret()).toThrow('revoked')
  expect(before - ((await stored())['sealed'] as Uint8Array).length).toBe(32 + 256 + 'enrolled'.length - 'revoked'.length)
})

test('the device signs, and its key is nowhere but under the lock', async () => {
  const exported = vi.spyOn(crypto.subtle, 'exportKey')
  const wallet = await Wallet.create(KEY)
  expect(exported.mock.calls.map(([format, key]) => [format, key.type])).toEqual([['raw', 'public']])
  exported.mockRestore()
  const key = await crypto.subtle.importKey('raw', wallet.devicePublicKey, 'Ed25519', false, ['verify'])
  for (const one of [wallet, (await Wallet.open(KEY.secret))!]) {
    expect(await crypto.subtle.verify('Ed25519', key, await one.sign(utf8('a transcript')), utf8('a transcript'))).toBe(true)
  }
  const walk = (value: unknown): unknown[] => value instanceof CryptoKey ? [value] : value instanceof Uint8Array || typeof value !== 'object' || value === null ? [] : Object.values(value).flatMap(walk)
  expect(walk({ found: key })).toEqual([key]) // so the search would find one
  expect(walk(await stored())).toEqual([])
})

test('no secret is in the database in clear', async () => {
  const [wallet, secret] = await enrolled()
  const clear = hex(concat(...Object.values(await stored()).filter((value) => value instanceof Uint8Array)))
  expect(clear).toContain(hex(wallet.devicePublicKey)) // so the search below would find something
  expect(clear).not.toContain(hex(secret.secretBytes().slice(0, 32)))
  expect(clear).not.toContain(hex(secret.secretBytes().slice(-32)))
})

test.each(['sealed', 'signing', 'nonce', 'signingNonce', 'devicePublicKey'])('a wallet with one altered byte of %s is damaged, and is not taken for locked by another key', async (name) => {
  await enrolled()
  const record = await stored()
  ;(record[name] as Uint8Array)[5] ^= 1
  await replace(record)
  await expect(Wallet.open(KEY.secret)).rejects.toThrow('damaged')
  await expect(Wallet.look()).rejects.toThrow('damaged')
})

test.each<Partial<Shown>>([
  { answers: 0 }, { name: 'another' }, { state: 'revoked' }, { failures: 1 }, { consentExpires: 1 }, { agreed: [['a', ['b'], 1]] }, { release: 'cd'.repeat(32) },
  { trust: { makers: ['ab'], auditors: [], acceptsTrials: false } }, { trust: { makers: [], auditors: [], acceptsTrials: true } },
])('what stands in clear is what the page shows, and whoever changes it changes nothing else: %j', async (change) => {
  const [wallet] = await enrolled()
  await wallet.countAnswer()
  const shown: Shown = { lock: KEY.lock, name: hex(wallet.keyId.slice(0, 8)), state: 'enrolled', answers: 1, failures: 0, consentExpires: null, agreed: [], trust: ENROLMENT.trust, release: ENROLMENT.releaseDigest }
  expect(await Wallet.look()).toEqual(shown)
  const record = await stored()
  const forged = { ...shown, ...change } as typeof shown
  // Even with the closing hash made anew, as whoever writes to the disk can.
  const clear = clearOf(record, forged, [forged.release!])
  await replace({ ...record, shown: forged, digest: digestOf(clear, record) })
  expect(await Wallet.look()).toEqual(forged)
  await expect(Wallet.open(KEY.secret)).rejects.toThrow(WrongKeyError)
})

/** What is authenticated with a record. @param release the last of the words, where the record names it. */
const clearOf = (record: Record<string, unknown>, shown: Shown, release: readonly string[]): Bytes => {
  const { name, state, answers, failures, consentExpires, agreed, trust } = shown
  return utf8(JSON.stringify([5, hex(record['devicePublicKey'] as Uint8Array), `passkey ${hex(KEY.lock.credential)} ${hex(KEY.lock.salt)}`, name, state, answers, failures, consentExpires, agreed, trust && [trust.makers, [], trust.acceptsTrials], ...release]))
}
const digestOf = (clear: Bytes, record: Record<string, unknown>): Bytes =>
  sha256(concat(clear, ...['signingNonce', 'signing', 'nonce', 'sealed'].map((name) => record[name] as Uint8Array)))

test('a record that names no release, as it was written before people came over, opens, and names it from then on', async () => {
  const [wallet] = await enrolled()
  const record = await stored()
  const { release, ...shown } = record['shown'] as Shown & { readonly release: string }
  const key = await sealingKey(KEY, wallet.devicePublicKey)
  const [now, before] = [[release], []].map((words) => clearOf(record, shown, words))
  const iv = record['nonce'] as Bytes
  const content = await crypto.subtle.decrypt({ name: 'AES-GCM', iv, additionalData: now }, key, record['sealed'] as Bytes)
  const old = { ...record, shown, sealed: new Uint8Array(await crypto.subtle.encrypt({ name: 'AES-GCM', iv, additionalData: before }, key, content)) }
  await replace({ ...old, digest: digestOf(before, old) })
  expect(await Wallet.look()).toEqual(shown)
  const opened = (await Wallet.open(KEY.secret))!
  expect(opened.memory.enrolment).toEqual(wallet.memory.enrolment)
  await opened.countAnswer()
  expect((await Wallet.look())!.release).toBe(ENROLMENT.releaseDigest)
})

const PASSPHRASE: Key = { lock: { kind: 'passphrase', salt: freshSalt() }, secret: utf8('correct horse') }

test.each([
  ['another passkey', KEY, new Uint8Array(32).fill(8), 'this passkey gives another key'],
  ['a passkey that gives too little', KEY, new Uint8Array(16).fill(7), 'gives 32 bytes'],
  ['another passphrase', PASSPHRASE, utf8('correct house'), 'wrong passphrase'],
] as const)('%s does not open a wallet, says what to do, and leaves it as it is', async (_what, key, secret, said) => {
  const wallet = await Wallet.create(key as Key)
  const before = await stored()
  await expect(Wallet.open(secret)).rejects.toThrow(said)
  expect(await stored()).toEqual(before)
  expect(hex((await Wallet.open(key.secret as Uint8Array<ArrayBuffer>))!.keyId)).toBe(hex(wallet.keyId))
})

test('a short passphrase locks nothing', async () => {
  await expect(Wallet.create({ ...PASSPHRASE, secret: utf8('correct') })).rejects.toThrow('at least 8 characters')
  expect(await Wallet.look()).toBeNull()
})

test('two wallets under one passkey have keys of their own', async () => {
  const first = await Wallet.create(KEY)
  await first.remember({ checkpoint: 'of the first' })
  const [before] = [await stored()]
  await Wallet.create(KEY)
  const after = await stored()
  // Were the keys one, the first wallet's memory would open as the second's.
  await replace({ ...before, devicePublicKey: after['devicePublicKey'], signing: after['signing'], signingNonce: after['signingNonce'] })
  await expect(Wallet.open(KEY.secret)).rejects.toThrow()
})

test.each([1, 2, 3, 4])('a wallet of the earlier version %i says that its owner enrols again, and stays as it is', async (version) => {
  await enrolled()
  const old = { ...(await stored()), version }
  await replace(old)
  await expect(Wallet.open(KEY.secret)).rejects.toThrow(OutdatedWalletError)
  await expect(Wallet.open(KEY.secret)).rejects.toThrow('enrol again')
  expect((await stored())['sealed']).toEqual(old['sealed' as keyof typeof old])
})

test('a wallet of a later version is not taken for an old one', async () => {
  await enrolled()
  await replace({ ...(await stored()), version: 6 })
  const opened = Wallet.open(KEY.secret)
  await expect(opened).rejects.toThrow('later version')
  await expect(opened).rejects.not.toThrow(OutdatedWalletError)
})

test('a device answers five hundred sessions and no more, also after a reload', async () => {
  const wallet = await Wallet.create(KEY)
  await wallet.remember({ enrolment: { ...ENROLMENT, answers: MOST_ANSWERS - 1 } })
  await wallet.countAnswer()
  await expect(wallet.countAnswer()).rejects.toThrow(RefusedError)
  await expect((await Wallet.open(KEY.secret))!.countAnswer()).rejects.toThrow(RefusedError)
})

test.each([null, { ...ENROLMENT, state: 'revoked' } as const])('without an enrolment in force nothing is answered', async (enrolment) => {
  const wallet = await Wallet.create(KEY)
  await wallet.remember({ enrolment })
  await expect(wallet.countAnswer()).rejects.toThrow(UsageError)
})

test('a wallet that never enrolled shows that nothing was tried, and believes no log', async () => {
  const wallet = await Wallet.create(KEY)
  await wallet.remember({ checkpoint: null })
  expect(await Wallet.look()).toEqual({ lock: KEY.lock, name: hex(wallet.keyId.slice(0, 8)), state: 'none', answers: 0, failures: 0, consentExpires: null, agreed: [], trust: null })
  expect(() => trustOf(wallet, 0)).toThrow('this device is not enrolled')
  expect(seenOf(wallet)).toBe(0n)
})

test('bits are packed with the first in the lowest place, eight to a byte', () => {
  expect(hex(packBits(Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1)))).toBe('0182')
  expect([...unpackBits(Uint8Array.of(1, 0x82))]).toEqual([1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1])
})

test('no script can export a key that opens, signs or was unwrapped', async () => {
  const made: CryptoKey[] = []
  for (const name of ['deriveKey', 'unwrapKey', 'importKey'] as const) {
    const call = (crypto.subtle[name] as (...given: unknown[]) => Promise<CryptoKey>).bind(crypto.subtle)
    vi.spyOn(crypto.subtle, name).mockImplementation(async (...given: unknown[]) => {
      const key = await call(...given)
      made.push(key)
      return key
    })
  }
  try {
    await Wallet.create(KEY)
    await (await Wallet.open(KEY.secret))!.sign(utf8('a message'))
  } finally {
    vi.restoreAllMocks()
  }
  expect(new Set(made.map(({ algorithm }) => algorithm.name)).size).toBeGreaterThan(2)
  expect(made.filter(({ extractable }) => extractable)).toEqual([])
})
