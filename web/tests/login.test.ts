/** What a site asks: the page reads it as the Python side does, and asks the public rules whether it may. */

import { describe, expect, test } from 'vitest'

import { hex, utf8 } from '../src/bytes'
import { LoginRequest, requireSite } from '../src/device/login'
import { MalformedMessageError, PeerError, RefusedError } from '../src/errors'
import { Login } from '../src/page/login'
import { Rulebook } from '../src/rules/rulebook'
import { python } from './vectors'

const ORIGIN = 'https://login.example.org'
const FIELDS = {
  client: 'shop.example', code_challenge: 'c'.repeat(43), nonce: 'n-1', provider: ORIGIN, purpose: 'door-access',
  redirect_uri: 'https://shop.example/back', salt: '5a'.repeat(32),
}
const textOf = (fields: Record<string, unknown>): string => JSON.stringify(fields)
const read = (changes: Record<string, unknown> = {}): LoginRequest => LoginRequest.fromBytes(utf8(textOf({ ...FIELDS, ...changes })))

describe('a login request', () => {
  test.each([{}, { nonce: '' }, { nonce: 'n'.repeat(512) }, { purpose: 'account-sign-in', client: 'other.example' }])('has the nonce that Python gives it (%o)', async (changes) => {
    const { nonce, text } = (await python('login_request', textOf({ ...FIELDS, ...changes }))) as { nonce: string; text: string }
    const request = read(changes)
    expect(hex(request.audienceNonce)).toBe(nonce)
    expect(new TextDecoder().decode(request.toBytes())).toBe(text)
  })

  test('every field changes the nonce', () => {
    const others = {
      client: 'other.example', code_challenge: 'd'.repeat(43), nonce: 'n-2', provider: 'https://evil.example', purpose: 'account-sign-in',
      redirect_uri: 'https://shop.example/other', salt: '5b'.repeat(32),
    }
    const nonces = Object.entries(others).map(([name, value]) => hex(read({ [name]: value }).audienceNonce))
    expect(new Set([...nonces, hex(read().audienceNonce)]).size).toBe(8)
  })

  test.each<[string, Record<string, unknown>]>([
    ['a client with capitals', { client: 'Shop' }], ['a short challenge', { code_challenge: 'c'.repeat(42) }], ['a nonce with a space', { nonce: 'n 1' }],
    ['a long nonce', { nonce: 'n'.repeat(513) }], ['no salt', { salt: '' }], ['another field', { more: 1 }], ['a number for an address', { redirect_uri: 1 }],
  ])('with %s is malformed', (_, changes) => {
    expect(() => read(changes)).toThrow(MalformedMessageError)
  })

  test('is for a site that the rules register for this purpose and this way back, and for this page', async () => {
    const known = (await python('rules', {})) as { now: number; sites: Record<string, [string, string]> }
    const rules = await Rulebook.read(utf8(known.sites['registered'][0]), null)
    expect(requireSite(rules, 'trial', read(), ORIGIN, known.now).operator).toBe('Example Shop Ltd')
    expect(() => requireSite(rules, 'trial', read({ provider: 'https://evil.example' }), ORIGIN, known.now)).toThrow(PeerError)
    for (const changes of [{ client: 'other.example' }, { purpose: 'account-sign-in' }, { redirect_uri: 'https://shop.example/other' }]) {
      expect(() => requireSite(rules, 'trial', read(changes), ORIGIN, known.now)).toThrow(RefusedError)
    }
    expect(() => requireSite(rules, 'another', read(), ORIGIN, known.now)).toThrow(RefusedError)
  })
})

test.each(['', '?login=', '?login=short', `?login=${'h'.repeat(44)}`, `?login=${'/'.repeat(43)}`, '?nonce=1'])('an address with "%s" is of no login', (query) => {
  expect(Login.of(query)).toBeNull()
  expect(Login.of(`?login=${'h'.repeat(43)}`)).not.toBeNull()
})
