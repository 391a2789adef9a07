/** Consent receipts and withdrawals: the known answers of the Python side. */

import { ed25519 } from '@noble/curves/ed25519.js'
import { describe, expect, test } from 'vitest'

import { type Bytes, equal, hex, utf8 } from '../src/bytes'
import { MalformedMessageError, UsageError } from '../src/errors'
import { redLineOf, requirePurpose } from '../src/wallet/purposes'
import { Receipt, type Signer, SignedReceipt } from '../src/wallet/receipts'
import { canonicalBytes, type JsonValue, parse } from '../src/wallet/statements'
import { python } from './vectors'

const FILES = import.meta.glob<string>('../../tests/vectors/consent/**/*.json', { eager: true, query: '?raw', import: 'default' })
const inFolder = (folder: string): [string, string][] =>
  Object.entries(FILES).filter(([path]) => path.includes(`/${folder}/`)).map(([path, text]) => [path.split('/').at(-1)!, text])
const GOOD = FILES['../../tests/vectors/consent/receipt.json']

interface Recorded {
  readonly device: string
  readonly now: number
}
const recorded = (): Promise<Recorded> => python('device_of_consent', {}) as Promise<Recorded>
const signerOf = (seed: string): Signer => (message) =>
  Promise.resolve(new Uint8Array(ed25519.sign(message, Uint8Array.from(seed.match(/../g)!, (pair) => parseInt(pair, 16)))) as Bytes)

describe('known answers', () => {
  test('the good receipt parses, serialises identically and is signed', async () => {
    const signed = SignedReceipt.fromBytes(utf8(GOOD))
    expect(equal(signed.toBytes(), utf8(GOOD))).toBe(true)
    expect(await signed.isSigned()).toBe(true)
  })

  test('a device signs the same receipt with the same bytes', async () => {
    const { receipt } = SignedReceipt.fromBytes(utf8(GOOD))
    const again = new Receipt(receipt.receiptId, receipt.terms, receipt.binding, receipt.issuedAt, receipt.expiresAt)
    expect(new TextDecoder().decode((await again.sign(signerOf((await recorded()).device))).toBytes())).toBe(GOOD)
  })

  test('a withdrawal is the one that Python writes', async () => {
    const { device, now } = await recorded()
    const withdrawal = await SignedReceipt.fromBytes(utf8(GOOD)).withdraw(signerOf(device), now + 86_400)
    expect(new TextDecoder().decode(withdrawal)).toBe(FILES['../../tests/vectors/consent/withdrawal.json'])
  })

  test.each(inFolder('malformed'))('%s is no receipt', (_, text) => {
    expect(() => SignedReceipt.fromBytes(utf8(text))).toThrow(MalformedMessageError)
  })

  test.each(inFolder('unproven'))('%s is not signed by the device that the good one names', async (_, text) => {
    const signed = SignedReceipt.fromBytes(utf8(text))
    const good = SignedReceipt.fromBytes(utf8(GOOD)).receipt
    const ours = hex(signed.receipt.binding.devicePublicKey) === hex(good.binding.devicePublicKey)
    expect(ours && (await signed.isSigned())).toBe(false)
  })

  test.each(inFolder('refused').filter(([name]) => !name.startsWith('template') && !name.startsWith('renewal')))('%s has a fault', async (_, text) => {
    const signed = SignedReceipt.fromBytes(utf8(text))
    const { binding, terms } = SignedReceipt.fromBytes(utf8(GOOD)).receipt
    expect(signed.findFault(binding, terms.purposes[0], terms.audience, (await recorded()).now)).not.toBeNull()
  })

  test('the good receipt has no fault', async () => {
    const signed = SignedReceipt.fromBytes(utf8(GOOD))
    const { binding, terms } = signed.receipt
    expect(signed.findFault(binding, terms.purposes[0], terms.audience, (await recorded()).now)).toBeNull()
  })
})

describe('what is wrong with a receipt', () => {
  const { receipt } = SignedReceipt.fromBytes(utf8(GOOD))
  const two = new Receipt(receipt.receiptId, { ...receipt.terms, purposes: ['canteen', 'door-access'] }, receipt.binding, receipt.issuedAt, receipt.issuedAt + 100)
  const other = new Uint8Array(32).fill(1)
  const asked = { ...receipt.binding, purpose: 'door-access', audience: receipt.terms.audience, now: receipt.issuedAt + 5 }
  test.each<[string | null, Partial<typeof asked>]>([
    [null, {}], [null, { purpose: 'canteen' }], [null, { templateDigest: other }],
    ['signed by another device than this one', { devicePublicKey: other }], ['for another template or key', { keyId: other }], ['for another model release', { releaseDigest: other }],
    ['for another audience', { audience: 'another.example' }], ['for another purpose', { purpose: 'door' }],
    [null, { now: receipt.issuedAt - 60 }], ['issued in the future', { now: receipt.issuedAt - 61 }], [null, { now: receipt.issuedAt + 99 }], ['expired', { now: receipt.issuedAt + 100 }],
    ['signed by another device than this one', { devicePublicKey: other, keyId: other, now: 0 }], ['for another audience', { audience: 'another.example', purpose: 'door', now: receipt.issuedAt + 100 }],
  ])('is %s where it differs in %j', (fault, change) => {
    const { purpose, audience, now, ...binding } = { ...asked, ...change }
    expect(new SignedReceipt(two, new Uint8Array(64)).findFault(binding, purpose, audience, now)).toBe(fault)
  })

  test.each([0, 63, 65])('a signature of %i bytes is none', (length) => {
    expect(() => new SignedReceipt(two, new Uint8Array(length))).toThrow('a signature has 64 bytes')
  })
})

describe('canonical form', () => {
  const VALUES: JsonValue[] = [
    { b: 1, a: [{ z: 'ß', y: '"\\/' }, -5] },
    { text: '\u0000\u001f\u007f\u2028 €𝄞\n\t' },
    { A: 2 ** 53 - 1, a: {}, '~': [] },
  ]

  test('it is that of Python', async () => {
    const expected = (await python('canonical', VALUES)) as string[]
    expect(VALUES.map((value) => new TextDecoder().decode(canonicalBytes(value)))).toEqual(expected)
  })

  test('a statement has at most 32 kB, and what is wrong with one is its cause', () => {
    const of = (length: number): unknown => parse(utf8(`"${'a'.repeat(length - 2)}"`), (value: string) => ({ value, toBytes: () => canonicalBytes(value) }), 'a text')
    expect(of(32_768)).toMatchObject({ value: 'a'.repeat(32_766) })
    expect(() => of(32_769)).toThrow('a text has at most 32768 bytes, this one 32769')
    const wrong = (data: Bytes, toBytes: () => Bytes): unknown => { try { return parse(data, () => ({ toBytes }), 'a text') } catch (error) { return error } }
    const cause = new TypeError('a mistake')
    expect(wrong(utf8('1'), () => { throw cause })).toMatchObject({ name: 'MalformedMessageError', message: 'the bytes are not a text of this version', cause })
    expect(wrong(utf8('1'), () => utf8('2'))).toMatchObject({ name: 'MalformedMessageError', message: 'a text is not in canonical form' })
    for (const data of [Uint8Array.of(0xef, 0xbb, 0xbf, 0x31), Uint8Array.of(0x22, 0xff, 0x22)]) expect(wrong(data, () => utf8('1'))).toMatchObject({ message: 'the bytes are not a text of this version' })
  })

  test.each<[string, unknown]>([
    ['a fraction', { a: 0.5 }], ['too large an integer', { a: 2 ** 53 }], ['null', { a: null }],
    ['a decomposed letter', { a: 'u\u0308' }], ['a key that is not ASCII', { ä: 1 }], ['half a surrogate pair', { a: '\ud800' }],
  ])('%s is refused', (_, value) => {
    expect(() => canonicalBytes(value as JsonValue)).toThrow(UsageError)
  })
})

describe('purposes', () => {
  const NAMES = ['door-access', 'face-search', 'watch', 'watch-repair', 'research', 'age', 'page', 'visitor-re-identification',
    'exam.mood', 'sign-in', '1-n', 'payments/credit-scoring', 'ice', 'ice-rink', 'service', 'find-match-all', 'match.all', 'a-1_n', 'n-1', 'border']

  test('the red lines are those of Python', async () => {
    expect(NAMES.map(redLineOf)).toEqual(await python('red_lines', NAMES))
  })

  test('every stem and every word of Python is looked for, each in the way of its own', async () => {
    const known = (await python('red_line_names', {})) as [string, string | null][]
    expect(known.map(([name]) => [name, redLineOf(name)])).toEqual(known)
    expect(known.length).toBeGreaterThan(400)
    expect(new Set(known.map(([, line]) => line)).size).toBe(7)
  })

  test.each(['face-search', 'Door', '-door', ''])('%s is refused', (name) => {
    expect(() => requirePurpose(name)).toThrow(UsageError)
  })
})
