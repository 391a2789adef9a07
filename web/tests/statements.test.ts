/** What a statement may say, at both sides of each bound. Whether Python draws them there too is in `edges.test.ts`. */

import { describe, expect, test } from 'vitest'

import { utf8 } from '../src/bytes'
import { Receipt, SignedReceipt, type Terms } from '../src/wallet/receipts'
import {
  requireAddress, requireHex, requireJurisdiction, requireLength, requireName, requirePeriod, requireSigned, requireText, requireTime, textOfTime, timeOfText,
} from '../src/wallet/statements'

const [FIRST, LAST] = [946_684_800, 253_402_300_799]
type Case = [what: string, check: () => unknown, refused: string | null]
const decided = (cases: readonly Case[]): void => {
  test.each(cases)('%s', (_, check, refused) => {
    if (refused === null) check()
    else expect(check).toThrow(refused)
  })
}
const texts = (check: (text: string) => void, refused: string, good: readonly unknown[], bad: readonly unknown[]): Case[] =>
  [...good.map((one): Case => [`${JSON.stringify(one).slice(0, 60)} is taken`, () => { check(one as string) }, null]), ...bad.map((one): Case => [`${JSON.stringify(one)?.slice(0, 60)} is not taken`, () => { check(one as string) }, refused])]

describe('a time', () => {
  decided([
    ...[FIRST, FIRST + 1, 1_900_000_000, LAST].map((one): Case => [`${one} is one`, () => { requireTime(one) }, null]),
    ...[FIRST - 1, LAST + 1, 1_900_000_000.5, NaN, Infinity, '1900000000' as unknown as number].map((one): Case => [`${one} is none`, () => { requireTime(one) }, 'a time is a whole number of seconds since 1970, between the years 2000 and 9999']),
    ['one period is of a second', () => { requirePeriod('it', FIRST, FIRST + 1) }, null], ['none is of nothing', () => { requirePeriod('it', FIRST + 1, FIRST + 1) }, 'it must end after it begins'], ['none runs back', () => { requirePeriod('it', FIRST + 1, FIRST) }, 'it must end after it begins'],
    ['none begins before all times', () => { requirePeriod('it', FIRST - 1, FIRST) }, 'a time is'], ['none ends after all times', () => { requirePeriod('it', FIRST, LAST + 1) }, 'a time is'],
  ])

  test('is written to the second, in UTC, in one way', () => {
    expect([FIRST, 1_900_000_001, LAST].map(textOfTime)).toEqual(['2000-01-01T00:00:00Z', '2030-03-17T17:46:41Z', '9999-12-31T23:59:59Z'])
    expect(['2000-01-01T00:00:00Z', '2030-03-17T17:46:41Z', '9999-12-31T23:59:59Z'].map(timeOfText)).toEqual([FIRST, 1_900_000_001, LAST])
    for (const text of ['1999-12-31T23:59:59Z', '2030-03-17T17:46:41', '2030-03-17 17:46:41Z', '2030-03-17T17:46:41.0Z', '2030-03-17T17:46:41+00:00', '2030-02-30T00:00:00Z', '2030-03-17T24:00:00Z', '+2030-03-17T17:46:41Z', '2030-3-17T17:46:41Z', '2030-03-17T17:46Z', '2030-03-17', '']) expect(() => timeOfText(text), text).toThrow(/not a time|a time is/)
    for (const seconds of [FIRST - 1, LAST + 1, 0.5]) expect(() => textOfTime(seconds)).toThrow('a time is')
  })
})

describe('a name', () => decided(texts((one) => { requireName('it', one) }, 'it is no name', ['a', '7', 'a.b_c/d-e', 'a'.repeat(64)], ['', 'a'.repeat(65), 'A', '.a', 'a.', '-a', 'a-', 'a b', 'a\n', '\u00e4', 5, null, undefined])))
describe('a jurisdiction', () => decided(texts(requireJurisdiction, 'a jurisdiction is', ['DE', 'EU', 'US-CA', 'GB-1', 'FR-A1B'], ['', 'D', 'DEU', 'de', 'US-', 'US-ABCD', 'US-c', 'DE\n', ' DE', 5, undefined])))
describe('an address', () => decided(texts((one) => { requireAddress('it', one) }, 'it begins with', ['https://abc', 'mailto:a@b', 'tel:123', `tel:${'1'.repeat(250)}`], ['https://ab', 'http://abc', 'tel:12', `tel:${'1'.repeat(251)}`, 'https://a b', 'https://\u00e4bc', 'xtel:123', 'tel:123\n', '', 5, undefined])))
describe('a text', () => {
  decided(texts((one) => { requireText('it', one, 2, 5) }, 'it needs 2 to 5 printable characters, with no spaces around them', ['ab', 'abcde', 'a b', '\u{1f40e}'.repeat(5), '\u00e4\u20ac'], ['', 'a', 'abcdef', '\u{1f40e}'.repeat(6), ' ab', 'ab ', 'a\tb', 'a\u00a0b', 'a\u202eb', 'a\nb', ['a', 'b'], 55, undefined]))
  decided(texts((one) => { requireText('it', one) }, 'it needs 1 to 500', ['a', 'a'.repeat(500)], ['', 'a'.repeat(501)]))
})
describe('bytes', () => {
  decided(texts((one) => { requireHex('it', one, 2) }, 'it has 2 bytes', ['0aff'], ['0a', '0aff00', '0aff0', '0AFF', '', 'xxxx', 'aff\n', 5, undefined]))
  decided([31, 32, 33].map((length): Case => [`of ${length} are 32, or not`, () => { requireLength('it', new Uint8Array(length), 32) }, length === 32 ? null : 'it has 32 bytes']))
})

test('a signature is of the key, the statement and its kind', async () => {
  const { publicKey, privateKey } = (await crypto.subtle.generateKey('Ed25519', true, ['sign', 'verify'])) as CryptoKeyPair
  const hex = (data: ArrayBuffer): string => Array.from(new Uint8Array(data), (byte) => byte.toString(16).padStart(2, '0')).join('')
  const key = hex(await crypto.subtle.exportKey('raw', publicKey))
  const signature = hex(await crypto.subtle.sign('Ed25519', privateKey, utf8('a kind\0a statement')))
  await requireSigned('a kind', utf8('a statement'), key, signature)
  for (const [tag, body, by, value] of [['another kind', 'a statement', key, signature], ['a kind', 'another statement', key, signature], ['a kind', 'a statement', '11'.repeat(32), signature], ['a kind', 'a statement', key, '00'.repeat(64)]]) {
    await expect(requireSigned(tag, utf8(body), by, value)).rejects.toMatchObject({ name: 'ProofError', message: 'the signature is not that of the key over this statement' })
  }
})

describe('a receipt', () => {
  const GOOD = Object.values(import.meta.glob<string>('../../tests/vectors/consent/receipt.json', { eager: true, query: '?raw', import: 'default' }))[0]
  const { receipt } = SignedReceipt.fromBytes(utf8(GOOD))
  const of = (change: Partial<Terms>): (() => unknown) => () => new Receipt(receipt.receiptId, { ...receipt.terms, ...change }, receipt.binding, FIRST, FIRST + 1)
  const party = (change: object): (() => unknown) => of({ controller: { ...receipt.terms.controller, ...change } })
  const purposes = (count: number): string[] => Array.from({ length: count }, (_, i) => `door-${i}`)
  const text = 'needs'
  decided([
    ['is one as it is', of({}), null], ['is for eight purposes', of({ purposes: purposes(8) }), null], ['is not for nine', of({ purposes: purposes(9) }), 'a receipt is for 1 to 8 purposes, in order'], ['is for one at least', of({ purposes: [] }), 'a receipt is for 1 to 8 purposes'],
    ['is for each once', of({ purposes: ['door', 'door'] }), 'in order'], ['is for them in order', of({ purposes: ['door-1', 'door-0'] }), 'in order'], ['is for no red line, first', of({ purposes: ['crowd', 'door'] }), 'is never allowed'], ['is for no red line, last', of({ purposes: ['door', 'face-search'] }), 'is never allowed'],
    ['keeps a template no day', of({ retentionDays: 0 }), null], ['keeps it thirty', of({ retentionDays: 30 }), null], ['keeps it no longer', of({ retentionDays: 31 }), 'templates are kept 0 to 30 days'], ['keeps it no less', of({ retentionDays: -1 }), 'templates are kept'], ['keeps it no half a day', of({ retentionDays: 0.5 }), 'templates are kept'],
    ['has an alternative', of({ alternative: 'x'.repeat(10) }), null], ['has one that says more than none', of({ alternative: 'x'.repeat(9) }), 'the non-biometric alternative needs 10'], ['names the controller in 200', party({ name: 'x'.repeat(200) }), null], ['names it no longer', party({ name: 'x'.repeat(201) }), "the controller's name needs 1 to 200"],
    ['names it', party({ name: '' }), "the controller's name needs"], ['has its place', party({ address: '' }), "the controller's postal address needs"], ['has its contact', party({ contact: 'x' }), "the controller's contact begins"], ['names the audience', of({ audience: '' }), 'the audience is no name'],
    ['says where', of({ jurisdiction: 'x' }), 'a jurisdiction is'], ['says where it is stored', of({ storageLocation: 'x' }), 'a jurisdiction is'], ['says where to contest', of({ contest: 'x' }), 'the address to contest at begins'], ['says where to withdraw', of({ withdrawal: 'x' }), 'the address to withdraw at begins'],
    ['says where the notice is', of({ notice: 'x' }), 'the privacy notice begins'], ['says which', of({ noticeVersion: '' }), `the version of the notice ${text} 1 to 50`], ['says it shortly', of({ noticeVersion: 'x'.repeat(51) }), 'to 50'], ['says it in fifty', of({ noticeVersion: 'x'.repeat(50) }), null],
    ['says in which language', of({ language: 'x' }), `the language of the notice ${text} 2 to 35`], ['says that in thirty-five', of({ language: 'x'.repeat(35) }), null], ['and not in more', of({ language: 'x'.repeat(36) }), 'to 35'],
  ])

  const made = (change: { id?: number; renews?: number | null; part?: string; begins?: number; ends?: number }): (() => unknown) => () => {
    const { id = 16, renews = null, part = '', begins = FIRST, ends = FIRST + 1 } = change
    return new Receipt(new Uint8Array(id), receipt.terms, { ...receipt.binding, ...(part === '' ? {} : { [part]: new Uint8Array(31) }) }, begins, ends, renews === null ? null : new Uint8Array(renews))
  }
  decided([
    ['renews another', made({ renews: 16 }), null], ['renews one with an id', made({ renews: 15 }), "a receipt's id has 16 bytes"], ['has an id', made({ id: 17 }), "a receipt's id has 16 bytes"],
    ...Object.keys(receipt.binding).map((part): Case => [`is bound to ${part} of 32 bytes`, made({ part }), 'a key or digest has 32 bytes']),
    ['ends after it begins', made({ ends: FIRST }), 'a receipt must end after it begins'], ['begins at a time', made({ begins: FIRST - 1 }), 'a time is'], ['ends at a time', made({ ends: LAST + 1 }), 'a time is'], ['ends with all times', made({ ends: LAST }), null],
  ])
})
