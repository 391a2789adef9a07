/** Bytes and errors: what everything else stands on. */

import { afterEach, expect, test, vi } from 'vitest'

import { concat, equal, fromHex, hex, randomBytes, sha256, utf8 } from '../src/bytes'
import { CancelledError, IntaglioError, MalformedMessageError, PeerError, ProofError, RefusedError, UnavailableError, UsageError } from '../src/errors'

afterEach(() => { vi.unstubAllGlobals() })

test.each([[0, []], [1, [1]], [65_536, [65_536]], [65_537, [65_536, 1]], [140_000, [65_536, 65_536, 8_928]]])('%i random bytes are all drawn, as many at a time as a browser gives', (count, drawn) => {
  const asked: number[] = []
  vi.stubGlobal('crypto', { getRandomValues: (part: Uint8Array) => { asked.push(part.length); return part.fill(asked.length) } })
  const bytes = randomBytes(count)
  expect([bytes.length, asked]).toEqual([count, drawn])
  expect(bytes.every((byte, i) => byte === 1 + Math.floor(i / 65_536))).toBe(true)
})

test('parts stand one after the other, in memory of their own', () => {
  const [one, two] = [Uint8Array.of(1, 2), Uint8Array.of(9, 3, 9).subarray(1, 2)]
  const joined = concat(one, new Uint8Array(), two)
  expect([...joined]).toEqual([1, 2, 3])
  joined[0] = 7
  expect([concat().length, one[0], joined.buffer.byteLength]).toEqual([0, 1, 3])
})

test.each([['', '', true], ['00', '00', true], ['0102', '0102', true], ['0102', '0103', false], ['0102', '0202', false], ['01', '0100', false], ['0100', '01', false], ['', '00', false]])('%j and %j are equal: %s', (left, right, is) => {
  expect(equal(fromHex(left), fromHex(right))).toBe(is)
})

test.each(['0', '0g', 'AB', ' 00', '00 ', '00\n', '0x00', 'undefined'])('%j is no hexadecimal', (text) => {
  expect(() => fromHex(text)).toThrow(RangeError)
})

test('hexadecimal is of two digits a byte, and hashes are those of FIPS 180', () => {
  expect([hex(Uint8Array.of(0, 10, 255)), [...fromHex('000aff')]]).toEqual(['000aff', [0, 10, 255]])
  expect(hex(sha256(utf8('abc')))).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
})

const why = { name: 'why.answers', values: { most: 5 } } as const
test.each([UsageError, PeerError, MalformedMessageError, ProofError, RefusedError, CancelledError])('an error says who is to blame, what people are told, and what provoked it', (Blamed) => {
  const [cause, bare] = [new Error('a cause'), new Blamed('only this')]
  const error = new Blamed('a message', { cause, why })
  expect([error.message, error.name, error.why, error.cause, error.isOfServer, error instanceof IntaglioError]).toEqual(['a message', Blamed.name, why, cause, false, true])
  expect([bare.message, bare.why, bare.cause]).toEqual(['only this', null, undefined])
  expect(error instanceof PeerError).toBe(Blamed === PeerError || Blamed === MalformedMessageError) // nobody else is to blame for it
})

test('what may work later says when, where somebody knows', () => {
  const read = ({ name, message, retryAfter, why: told }: UnavailableError): unknown[] => [name, message, retryAfter, told]
  expect([new UnavailableError('not now'), new UnavailableError('not now', 5), new UnavailableError('not now', 0, why)].map(read)).toEqual([
    ['UnavailableError', 'not now', null, null], ['UnavailableError', 'not now', 5, null], ['UnavailableError', 'not now', 0, why],
  ])
})

test.each<[string, symbol | undefined, symbol]>([['none', undefined, Symbol.for('Symbol.dispose')], ['its own', Symbol.for('of the engine'), Symbol.for('of the engine')]])('disposal has a symbol in an engine that has %s', async (name, before, after) => {
  let dispose = before
  const symbols = Symbol
  vi.stubGlobal('Symbol', new Proxy({}, { // of the engine's own nothing can be changed
    get: (_, key) => key === 'dispose' ? dispose : Reflect.get(symbols, key) as unknown,
    set: (_, key, value) => { expect(key).toBe('dispose'); dispose = value as symbol; return true },
  }))
  try { await import(/* @vite-ignore */ `/src/disposal.ts?${name}`) } finally { vi.unstubAllGlobals() }
  expect(dispose).toBe(after)
})
