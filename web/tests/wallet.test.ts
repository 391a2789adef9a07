/** The wallet in the browser's database. */

import { beforeEach, expect, test, vi } from 'vitest'

import { concat, hex, randomBytes, utf8 } from '../src/bytes'
import { RefusedError, UsageError } from '../src/errors'
import { ONEBIT_2048, PARAMETER_SETS } from '../src/onebit/parameters'
import { TemplateSecret } from '../src/onebit/template'
import { type Enrolment, MOST_ANSWERS, OutdatedWalletError, Wallet } from '../src/wallet/wallet'

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
  const [wallet, secret] = [await Wallet.create(), TemplateSecret.generate(parameters, randomBytes)]
  await wallet.begin(secret, enrolment)
  return [wallet, secret]
}

test.each(PARAMETER_SETS)('a wallet with a secret of $name is there again after the page was closed', async (parameters) => {
  const [wallet, secret] = await enrolled(ENROLMENT, parameters)
  await wallet.remember({ checkpoint: 'a checkpoint' })
  const again = await Wallet.open()
  expect(again?.memory).toEqual({ enrolment: ENROLMENT, checkpoint: 'a checkpoint', rules: null })
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

test('there is no wallet before one is made, and none after it was deleted', async () => {
  expect(await Wallet.open()).toBeNull()
  await Wallet.create()
  await Wallet.delete()
  expect(await Wallet.open()).toBeNull()
})

test('there is no secret before an enrolment begins', async () => {
  const wallet = await Wallet.create()
  expect(() => wallet.requireSecret()).toThrow('not enrolled')
  await wallet.remember({ enrolment: ENROLMENT })
  expect(() => wallet.requireSecret()).toThrow('not enrolled')
})

test('an enrolment that begins again leaves nothing of the secret before it', async () => {
  const [wallet, first] = await enrolled()
  const second = TemplateSecret.generate(ONEBIT_2048, randomBytes)
  await wallet.begin(second, ENROLMENT)
  expect(hex((await Wallet.open())!.requireSecret().secretBytes())).toBe(hex(second.secretBytes()))
  expect(hex(second.secretBytes())).not.toBe(hex(first.secretBytes()))
})

test('a template that is forgotten leaves neither code seed nor pad, and the rest of the memory', async () => {
  const [wallet] = await enrolled()
  await wallet.remember({ checkpoint: 'a checkpoint' })
  const before = ((await stored())['sealed'] as Uint8Array).length
  await wallet.forget({ state: 'revoked' })
  expect(() => wallet.requireSecret()).toThrow('revoked')
  const again = await Wallet.open()
  expect(again!.memory).toEqual({ enrolment: { ...ENROLMENT, state: 'revoked' }, checkpoint: 'a checkpoint', rules: null })
  expect(() => again!.requireSecret()).toThrow('revoked')
  expect(before - ((await stored())['sealed'] as Uint8Array).length).toBe(32 + 256 + 'enrolled'.length - 'revoked'.length)
})

test('the device signs, and no script can read its key', async () => {
  const wallet = await Wallet.create()
  const signature = await wallet.sign(utf8('a transcript'))
  const key = await crypto.subtle.importKey('raw', wallet.devicePublicKey, 'Ed25519', false, ['verify'])
  expect(await crypto.subtle.verify('Ed25519', key, signature, utf8('a transcript'))).toBe(true)
  const record = await stored()
  for (const name of ['signingKey', 'sealingKey']) {
    const secret = record[name] as CryptoKey
    expect(secret.extractable).toBe(false)
    await expect(crypto.subtle.exportKey(secret.type === 'private' ? 'pkcs8' : 'raw', secret)).rejects.toThrow()
  }
})

test('no secret is in the database in clear', async () => {
  const [wallet, secret] = await enrolled()
  const clear = hex(concat(...Object.values(await stored()).filter((value) => value instanceof Uint8Array)))
  expect(clear).toContain(hex(wallet.devicePublicKey)) // so the search below would find something
  expect(clear).not.toContain(hex(secret.secretBytes().slice(0, 32)))
  expect(clear).not.toContain(hex(secret.secretBytes().slice(-32)))
})

test('a wallet with one altered byte does not open', async () => {
  await enrolled()
  const record = await stored()
  ;(record['sealed'] as Uint8Array)[100] ^= 1
  await replace(record)
  await expect(Wallet.open()).rejects.toThrow('damaged')
})

test.each([1, 2])('a wallet of the earlier version %i says that its owner enrols again, and stays as it is', async (version) => {
  await enrolled()
  const old = { ...(await stored()), version }
  await replace(old)
  await expect(Wallet.open()).rejects.toThrow(OutdatedWalletError)
  await expect(Wallet.open()).rejects.toThrow('enrol again')
  expect((await stored())['sealed']).toEqual(old['sealed' as keyof typeof old])
})

test('a wallet of a later version is not taken for an old one', async () => {
  await enrolled()
  await replace({ ...(await stored()), version: 5 })
  const opened = Wallet.open()
  await expect(opened).rejects.toThrow('later version')
  await expect(opened).rejects.not.toThrow(OutdatedWalletError)
})

test('a device answers five hundred sessions and no more, also after a reload', async () => {
  const wallet = await Wallet.create()
  await wallet.remember({ enrolment: { ...ENROLMENT, answers: MOST_ANSWERS - 1 } })
  await wallet.countAnswer()
  await expect(wallet.countAnswer()).rejects.toThrow(RefusedError)
  await expect((await Wallet.open())!.countAnswer()).rejects.toThrow(RefusedError)
})

test.each([null, { ...ENROLMENT, state: 'revoked' } as const])('without an enrolment in force nothing is answered', async (enrolment) => {
  const wallet = await Wallet.create()
  await wallet.remember({ enrolment })
  await expect(wallet.countAnswer()).rejects.toThrow(UsageError)
})
