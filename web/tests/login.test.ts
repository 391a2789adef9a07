/** What a site asks: the page reads it as the Python side does, and asks the public rules whether it may. */

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

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

test('whom the rules let ask is looked up for this deployment and this moment; whom this device enrolled for needs no login', () => {
  const asked: unknown[] = []
  const site = { identifier: 'shop.example', operator: 'Shop', purposes: ['gate', 'door-access'], redirectUris: ['https://shop.example/other', FIELDS.redirect_uri] }
  const rules = (client: object | null, audience = 'example.org') => ({ client: (...given: unknown[]) => { asked.push(given); return client }, deployment: (name: string) => ({ audience, name }) }) as unknown as Rulebook
  expect(requireSite(rules(site), 'trial', read(), ORIGIN, 77)).toBe(site)
  expect(asked).toEqual([['trial', 'shop.example', 77]])
  const refused = (client: object | null, audience?: string): unknown => { try { return requireSite(rules(client, audience), 'trial', read(), ORIGIN, 77) } catch (error) { return [(error as Error).name, (error as Error).message, (error as RefusedError).why] } }
  const REFUSED = ['RefusedError', 'the public rules do not let shop.example ask for this', { name: 'why.site' }]
  expect([refused(null), refused(site, 'shop.example'), refused({ ...site, purposes: ['gate'] }), refused({ ...site, redirectUris: ['https://shop.example/other'] })]).toEqual(Array(4).fill(REFUSED))
})

test.each(['', '?login=', '?login=short', `?login=${'h'.repeat(44)}`, `?login=${'/'.repeat(43)}`, '?nonce=1'])('an address with "%s" is of no login', (query) => {
  expect(Login.of(query)).toBeNull()
  expect(Login.of(`?login=${'h'.repeat(43)}`)).not.toBeNull()
})

describe('the page and the provider', () => {
  const HANDLE = 'h'.repeat(43)
  const told: unknown[] = []
  const login = (): Login => Login.of(`?login=${HANDLE}&more=1`, (message) => { told.push(message) }, (address) => { told.push(address) })!

  beforeEach(() => { told.length = 0 })
  afterEach(() => { vi.restoreAllMocks() })

  test('a handle has 43 characters of base64url', () => {
    for (const handle of ['h'.repeat(42), 'h'.repeat(44), `${'h'.repeat(42)}/`, '']) expect(Login.of(`?login=${handle}`)).toBeNull()
    expect([Login.of(''), Login.of(`?other=${HANDLE}`)]).toEqual([null, null])
    expect(Login.of(`?login=${'-'.repeat(21)}_${'A'.repeat(21)}`)).not.toBeNull()
  })

  test('the request is asked for by the handle, goes nowhere else, and is shown as a message', async () => {
    const fetched = vi.spyOn(globalThis, 'fetch').mockResolvedValue(new Response('{"request":"as it stands"}'))
    expect(await login().request()).toBe('as it stands')
    const body = JSON.stringify({ login: HANDLE })
    expect(fetched.mock.calls).toEqual([['/login/asked', { method: 'POST', headers: { 'content-type': 'application/json', 'x-intaglio': '1' }, body, redirect: 'error', cache: 'no-store' }]])
    expect(told).toEqual([{ call: 'login/asked', sent: utf8(body), received: 26 }])
  })

  test.each([403, 404, 410, 500])('a login that is over, or of another browser, is refused with the words of the provider (%i)', async (status) => {
    vi.spyOn(globalThis, 'fetch').mockResolvedValue(new Response('it is over', { status }))
    await expect(login().request()).rejects.toThrow(expect.objectContaining({ name: 'RefusedError', message: 'it is over', why: { name: 'why.login' } }))
    expect(told).toEqual([expect.objectContaining({ received: 10 })])
  })

  test('an answer that does not arrive is shown as sent, and the person stays', async () => {
    vi.spyOn(globalThis, 'fetch').mockRejectedValue(new TypeError('offline'))
    await expect(login().answer('a.b.c')).rejects.toThrow(expect.objectContaining({ name: 'UnavailableError', why: { name: 'why.unreachable' } }))
    expect(told).toEqual([{ call: 'login/answer', sent: utf8(JSON.stringify({ login: HANDLE, assertion: 'a.b.c' })), received: null }])
  })

  test('an answer is brought before the person goes back, and who refuses brings none', async () => {
    let isTaken = false
    vi.spyOn(globalThis, 'fetch').mockImplementation(async (url, options) => { told.push([url, options!.body]); await Promise.resolve(); isTaken = true; return new Response('') })
    const body = JSON.stringify({ login: HANDLE, assertion: 'a.b.c' })
    await login().answer('a.b.c')
    expect(told).toEqual([['/login/answer', body], { call: 'login/answer', sent: utf8(body), received: 0 }, `/login/finish?login=${HANDLE}`])
    expect(isTaken).toBe(true)
    told.length = 0
    login().refuse()
    expect(told).toEqual([`/login/finish?login=${HANDLE}&refused=1`])
    told.length = 0
    vi.mocked(fetch).mockResolvedValue(new Response('it is over', { status: 410 }))
    await expect(login().answer('a.b.c')).rejects.toThrow(RefusedError)
    expect(told.filter((one) => typeof one === 'string')).toEqual([])
  })
})
