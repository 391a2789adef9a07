/** The wallet in the browser's database. */

import { beforeAll, beforeEach, expect, test } from 'vitest'

import { equal, hex, utf8 } from '../src/bytes'
import { RefusedError, UsageError } from '../src/errors'
import { Engine } from '../src/onebit/seal'
import { type Enrolment, MOST_ANSWERS, Wallet } from '../src/wallet/wallet'

let engine: Engine
const ENROLMENT: Enrolment = {
  purpose: 'door-access', audience: 'example.org', releaseDigest: 'ab'.repeat(32), logKey: 'a key', deployment: 'trial',
  trust: { makers: [], auditors: [], acceptsTrials: false }, state: 'enrolled', receipts: [], answers: 0,
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

beforeAll(async () => { engine = await Engine.load() })
beforeEach(() => Wallet.delete())

test('a wallet is there again after the page was closed', async () => {
  const wallet = await Wallet.create(engine)
  await wallet.remember({ enrolment: ENROLMENT, checkpoint: 'a checkpoint' })
  const again = await Wallet.open(engine)
  expect(again?.memory).toEqual({ enrolment: ENROLMENT, checkpoint: 'a checkpoint', rules: null })
  expect(hex(again!.keyId)).toBe(hex(wallet.keyId))
  expect(equal(again!.codeSeed.secretBytes(), wallet.codeSeed.secretBytes())).toBe(true)
  expect(equal(again!.deviceSecret.secretBytes(), wallet.deviceSecret.secretBytes())).toBe(true)
})

test('there is no wallet before one is made, and none after it was deleted', async () => {
  expect(await Wallet.open(engine)).toBeNull()
  await Wallet.create(engine)
  await Wallet.delete()
  expect(await Wallet.open(engine)).toBeNull()
})

test('the device signs, and no script can read its key', async () => {
  const wallet = await Wallet.create(engine)
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
  const wallet = await Wallet.create(engine)
  const clear = Object.values(await stored()).filter((value) => value instanceof Uint8Array).map((value) => hex(value as Uint8Array)).join()
  expect(clear).toContain(hex(wallet.devicePublicKey)) // so the search below would find something
  expect(clear).not.toContain(hex(wallet.codeSeed.secretBytes()))
  expect(clear).not.toContain(hex(wallet.deviceSecret.secretBytes().slice(-64)))
})

test('a wallet with one altered byte does not open', async () => {
  await Wallet.create(engine)
  const record = await stored()
  ;(record['sealed'] as Uint8Array)[1000] ^= 1
  await replace(record)
  await expect(Wallet.open(engine)).rejects.toThrow(UsageError)
})

test('a wallet of another version does not open', async () => {
  await Wallet.create(engine)
  await replace({ ...(await stored()), version: 1 })
  await expect(Wallet.open(engine)).rejects.toThrow(UsageError)
})

test('a device answers five hundred sessions and no more, also after a reload', async () => {
  const wallet = await Wallet.create(engine)
  await wallet.remember({ enrolment: { ...ENROLMENT, answers: MOST_ANSWERS - 1 } })
  await wallet.countAnswer()
  await expect(wallet.countAnswer()).rejects.toThrow(RefusedError)
  await expect((await Wallet.open(engine))!.countAnswer()).rejects.toThrow(RefusedError)
})

test.each([null, { ...ENROLMENT, state: 'revoked' } as const])('without an enrolment in force nothing is answered', async (enrolment) => {
  const wallet = await Wallet.create(engine)
  await wallet.remember({ enrolment })
  await expect(wallet.countAnswer()).rejects.toThrow(UsageError)
})
