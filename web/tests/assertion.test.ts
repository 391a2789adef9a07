/** Assertions: those that the Python side signs, and tokens with one thing wrong in each. */

import { ed25519 } from '@noble/curves/ed25519.js'
import { beforeAll, expect, test } from 'vitest'

import { hex, utf8 } from '../src/bytes'
import { checkAssertion, type Expected } from '../src/device/assertion'
import { IntaglioError, MalformedMessageError, ProofError } from '../src/errors'
import type { SignedCheckpoint } from '../src/log/notes'
import { isPassed, PAD_LEVELS, type PadLevel, wordingOf } from '../src/rules/rates'
import { python } from './vectors'

const [KEY, OTHER] = [1, 2].map((number) => new Uint8Array(32).fill(number))
const EXPECTED: Expected = {
  issuer: { address: 'https://matching.example', publicKey: hex(ed25519.getPublicKey(KEY)) },
  audience: 'example.org',
  purpose: 'door-access',
  nonce: Uint8Array.from({ length: 32 }, (_, i) => i),
  releaseDigest: 'cd'.repeat(32),
  rate: { stated: 0.001, low: 0.0005, high: 0.01125, basis: 'checked', people: 24, condition: 'mask' },
  audited: { verdict: 'PASS', people: 812, fmrLimit: 0.001, fnmrLimit: 0.05, isTrial: false },
  pad: 'on-device',
  contest: 'mailto:contest@example.org',
  logged: logged('example.org/log', 7, 9, Uint8Array.from({ length: 32 }, (_, i) => i)),
}

let good: string

function logged(origin: string, position: number, size: number, root: Uint8Array): Expected['logged'] {
  return { position, note: '', checkpoint: { origin, head: { size, root } } as SignedCheckpoint }
}

const encoded = (data: Uint8Array): string => btoa(String.fromCharCode(...data)).replace(/=+$/, '').replaceAll('+', '-').replaceAll('/', '_')
const decoded = (text: string): string => atob(text.replaceAll('-', '+').replaceAll('_', '/'))

/** The good token with another payload, signed by the issuer all the same. */
function resigned(change: (payload: string) => string, key = KEY): string {
  const [header, payload] = good.split('.')
  const changed = change(decoded(payload))
  const body = `${header}.${encoded(utf8(changed))}`
  return `${body}.${encoded(ed25519.sign(utf8(body), key))}`
}

/** The token that Python signs at that rate and after that audit. */
async function signed({ rate, audited, pad }: Pick<Expected, 'rate' | 'audited' | 'pad'>): Promise<string> {
  const { stated: fmr, low, high, basis, people } = rate
  const audit = { verdict: audited.verdict, people: audited.people, fmr_limit: audited.fmrLimit, fnmr_limit: audited.fnmrLimit, trial: audited.isTrial }
  return (await python('assertion', { rate: { fmr, low, high, basis, people }, audit, pad, key: hex(KEY) })) as string
}

beforeAll(async () => { good = await signed(EXPECTED) })

test.each([0.001, 0.0001, 1e-5, 2.5e-7, 1e-10, 0.25, 0.07, 0.0123456789])('the one that Python signs at a false match rate of %d is believed', async (stated) => {
  const rate = { ...EXPECTED.rate, stated, low: Math.min(EXPECTED.rate.low, stated / 2) }
  await checkAssertion(await signed({ ...EXPECTED, rate }), { ...EXPECTED, rate })
})

test.each([[0, 1], [0.01125, 0.01375], [1e-5, 2.4999e-5], [9.99e-6, 0.9999], [0.123456, 0.2]])('the one that Python signs for rates from %d to %d is believed', async (low, high) => {
  for (const basis of ['public', 'checked', 'measured'] as const) {
    const rate = { ...EXPECTED.rate, stated: Math.max(EXPECTED.rate.stated, low), low, high, basis }
    await checkAssertion(await signed({ ...EXPECTED, rate }), { ...EXPECTED, rate })
  }
})

test.each([
  { verdict: 'INSUFFICIENT', people: 16, fmrLimit: 0.01, fnmrLimit: 0.9, isTrial: true },
  { verdict: 'PASS', people: 0, fmrLimit: 1, fnmrLimit: 0.07, isTrial: true },
  { verdict: 'FAIL', people: 1, fmrLimit: 0.00011, fnmrLimit: 1, isTrial: false },
])('the one that Python signs after the audit %o is believed', async (audited) => {
  await checkAssertion(await signed({ ...EXPECTED, audited }), { ...EXPECTED, audited })
})

test.each(PAD_LEVELS)('the one that Python signs where presentation attack detection is %s is believed', async (pad) => {
  await checkAssertion(await signed({ ...EXPECTED, pad }), { ...EXPECTED, pad })
})

test.each<[string, Partial<Expected>]>([
  ['by another issuer', { issuer: { ...EXPECTED.issuer, address: 'https://elsewhere.example' } }],
  ['for another audience', { audience: 'elsewhere.example' }],
  ['for another purpose', { purpose: 'sign-in' }],
  ['for another nonce', { nonce: new Uint8Array(32) }],
  ['about another release', { releaseDigest: 'ab'.repeat(32) }],
  ['at another false match rate', { rate: { ...EXPECTED.rate, stated: 0.01 } }],
  ['with another interval', { rate: { ...EXPECTED.rate, high: 0.01126 } }],
  ['of more people', { rate: { ...EXPECTED.rate, people: 25 } }],
  ['on another basis', { rate: { ...EXPECTED.rate, basis: 'measured' } }],
  ['of a trial', { audited: { ...EXPECTED.audited, isTrial: true } }],
  ['after another audit', { audited: { ...EXPECTED.audited, verdict: 'INSUFFICIENT' } }],
  ['after an audit of more people', { audited: { ...EXPECTED.audited, people: 813 } }],
  ['after an audit with other limits', { audited: { ...EXPECTED.audited, fnmrLimit: 0.5 } }],
  ['that says less of presentation attacks', { pad: 'none' }],
  ['that says more of presentation attacks', { pad: 'supervised' }],
  ['with another address to contest at', { contest: 'mailto:nobody@example.org' }],
  ['in another log', { logged: logged('elsewhere.example/log', 7, 9, EXPECTED.nonce) }],
  ['about another entry', { logged: logged('example.org/log', 6, 9, EXPECTED.nonce) }],
  ['of another tree', { logged: logged('example.org/log', 7, 10, EXPECTED.nonce) }],
  ['with another root', { logged: logged('example.org/log', 7, 9, new Uint8Array(32)) }],
])('one %s is refused', async (_, change) => {
  await checkAssertion(good, EXPECTED)
  const checked = checkAssertion(good, { ...EXPECTED, ...change })
  await expect(checked).rejects.toThrow(ProofError)
  await expect(checked).rejects.toThrow('about something else')
})

test('one whose issuer has another key by the rules is refused', async () => {
  const issuer = { ...EXPECTED.issuer, publicKey: hex(ed25519.getPublicKey(OTHER)) }
  await expect(checkAssertion(good, { ...EXPECTED, issuer })).rejects.toThrow("issuer's key")
})

test.each<[string, string, () => string]>([
  ['signed by somebody else', 'not signed', () => resigned((payload) => payload, OTHER)],
  ['with one altered claim', 'not signed', () => good.replace(/\.[^.]*\./, `.${encoded(utf8(decoded(good.split('.')[1]).replace('5a5a', '5b5b')))}.`)],
  ['of another algorithm', 'algorithm', () => `${encoded(utf8('{"alg":"none","typ":"intaglio-assertion-3+jwt"}'))}.${good.split('.')[1]}.${good.split('.')[2]}`],
  ['that says more', 'something else', () => resigned((payload) => payload.replace('{', '{"age":30,'))],
  ['that says one thing twice', 'something else', () => resigned((payload) => payload.replace('{', '{"aud":"elsewhere.example",'))],
  ['with spaces', 'something else', () => resigned((payload) => payload.replace(',', ', '))],
  ['with a pseudonym that is none', 'no assertion', () => resigned((payload) => payload.replace(/"sub":"[^"]*"/, '"sub":"Jane Doe"'))],
  ['that lasts a day', 'no assertion', () => resigned((payload) => payload.replace(/"exp":\d+/, '"exp":1893542400'))],
  ['that ends before it begins', 'no assertion', () => resigned((payload) => payload.replace(/"exp":\d+/, '"exp":1'))],
  ['without a time', 'no assertion', () => resigned((payload) => payload.replace(/"iat":\d+,/, ''))],
  ['of nothing', 'no assertion', () => resigned(() => 'null')],
  ['in no JSON', 'no assertion', () => resigned(() => '{')],
  ['of two parts', 'no assertion', () => good.split('.').slice(0, 2).join('.')],
  ['that is too long', 'no assertion', () => resigned((payload) => payload.replace('{', `{"x":"${'y'.repeat(4096)}",`))],
  ['with padding', 'no assertion', () => `${good}=`],
  ['in another spelling of base64', 'one spelling', () => `${good.slice(0, -1)}${String.fromCharCode(good.charCodeAt(good.length - 1) + 1)}`],
])('a token %s is refused', async (_, message, token) => {
  const checked = checkAssertion(token(), EXPECTED)
  await expect(checked).rejects.toThrow(IntaglioError)
  await expect(checked).rejects.toThrow(message)
})

test('what is no assertion is called malformed', async () => {
  await expect(checkAssertion('', EXPECTED)).rejects.toThrow(MalformedMessageError)
})

test('of every rate, audit and level an assertion says what Python says', async () => {
  interface Said { readonly rate: any; readonly audited: any; readonly pad: PadLevel; readonly isPassed: boolean; readonly wording: string }
  const known = (await python('wordings', {})) as Said[]
  for (const { rate: { fmr: stated, low, high, basis, people }, audited, pad, isPassed: passed, wording } of known) {
    expect(wordingOf({ stated, low, high, basis, people, condition: 'clean' }, audited, pad)).toBe(wording)
    expect(isPassed(audited), wording).toBe(passed)
  }
  expect(new Set(known.map(({ wording }) => wording)).size).toBeGreaterThan(150)
})

test('an assertion lasts from one second to ten minutes, and has at most 4096 characters', async () => {
  const { iat } = JSON.parse(decoded(good.split('.')[1])) as { iat: number }
  const lasting = (seconds: number): string => resigned((payload) => payload.replace(/"exp":\d+/, `"exp":${iat + seconds}`))
  for (const seconds of [1, 600]) await checkAssertion(lasting(seconds), EXPECTED)
  for (const seconds of [0, 601]) await expect(checkAssertion(lasting(seconds), EXPECTED), String(seconds)).rejects.toThrow('it is no assertion of this version')
  for (const [what, value] of [['exp', '"1"'], ['iat', '1.5'], ['exp', '9007199254740992'], ['sub', '1'], ['sub', `"${'a'.repeat(63)}"`], ['sub', `"${'a'.repeat(65)}"`], ['sub', `"${'A'.repeat(64)}"`]]) {
    await expect(checkAssertion(resigned((payload) => payload.replace(new RegExp(`"${what}":("[^"]*"|\\d+)`), `"${what}":${value}`)), EXPECTED), what).rejects.toThrow('it is no assertion of this version')
  }
  const long = (characters: number): string => { for (let more = 0; ; more++) { const token = resigned((payload) => payload.replace('{', `{"x":"${'y'.repeat(more + 3 * (characters - good.length - 30 >> 2))}",`)); if (token.length >= characters) return token } }
  expect([long(4096).length, long(4097).length]).toEqual([4096, expect.any(Number)])
  await expect(checkAssertion(long(4096), EXPECTED)).rejects.toThrow('about something else')
  await expect(checkAssertion(long(4097), EXPECTED)).rejects.toThrow(MalformedMessageError)
})
