/** What locks the wallet: what the browser is asked, what the person is, and that a passphrase does not stay in the page. */

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import html from '../index.html?raw'
import type { Action, Fault } from '../src/device/messages'
import { keyFor, LockedError, passphraseFor } from '../src/page/keeping'
import type { Chosen } from '../src/page/locking'
import { speak } from '../src/page/texts'
import { KEY } from './keys'

const PASSPHRASE = { kind: 'passphrase', salt: new Uint8Array(32).fill(3) } as const
const [SALT, SECRET] = [new Uint8Array(32).fill(6), new Uint8Array(32).fill(9)]
const dialog = (): HTMLDialogElement => document.querySelector<HTMLDialogElement>('#keeping')!
const prf = (prf_: object | undefined) => ({ rawId: new Uint8Array(16).fill(4).buffer, getClientExtensionResults: () => ({ prf: prf_ }) }) as unknown as PublicKeyCredential
const never = (): never => { throw new Error('nobody is asked') }
let able: Record<string, boolean> | undefined
let isNear: boolean | Error

beforeEach(() => {
  speak('en')
  document.body.innerHTML = new DOMParser().parseFromString(html, 'text/html').body.innerHTML
  ;[able, isNear] = [undefined, true]
  vi.stubGlobal('PublicKeyCredential', {
    getClientCapabilities: async () => { if (able === undefined) throw new Error('unknown'); return able },
    isUserVerifyingPlatformAuthenticatorAvailable: async () => { if (isNear instanceof Error) throw isNear; return isNear },
  })
  vi.spyOn(navigator.credentials, 'create').mockResolvedValue(prf({ enabled: true, results: { first: SECRET } }))
  vi.spyOn(navigator.credentials, 'get').mockResolvedValue(prf({ results: { first: SECRET } }))
  vi.spyOn(navigator.storage, 'persist').mockResolvedValue(true)
})
afterEach(() => { vi.restoreAllMocks(); vi.unstubAllGlobals(); document.body.replaceChildren() })

/** Types a passphrase, and sends it. */
function types(passphrase: string): void {
  for (const field of dialog().querySelectorAll<HTMLInputElement>('input')) { field.value = passphrase; field.dispatchEvent(new Event('input')) }
  dialog().querySelector('form')!.requestSubmit()
}

describe('a key is asked for where the wallet is opened, and new ones where there is none', () => {
  const OPENS: Action[] = ['enrol', 'verify', 'login', 'renew', 'over', 'revoke', 'erase', 'export', 'history', 'backup', 'code', 'admit', 'devices', 'rename', 'remove']
  const OTHERS: Action[] = ['begin', 'status', 'glance', 'watch', 'follow', 'look', 'asked', 'revokeLost', 'self', 'forget']

  test.each(OPENS)('%s', async (action) => {
    expect(await keyFor(action, { lock: KEY.lock, state: 'enrolled' }, never)).toEqual({ lock: KEY.lock, secret: SECRET })
    const choose = vi.fn(async (): Promise<Chosen> => ({ kind: 'passphrase', passphrase: 'long enough' }))
    const isMaking = action === 'enrol' || action === 'code'
    for (const state of ['revoked', 'erased'] as const) {
      choose.mockClear()
      const key = await keyFor(action, { lock: KEY.lock, state }, choose)
      expect([key?.lock.kind, choose.mock.calls.length]).toEqual(isMaking ? ['passphrase', 1] : ['passkey', 0])
    }
    choose.mockClear()
    expect([(await keyFor(action, { lock: null, state: 'none' }, choose))?.lock.kind, choose.mock.calls.length]).toEqual(isMaking ? ['passphrase', 1] : [undefined, 0])
  })

  test.each(OTHERS)('and none for %s', async (action) => {
    expect(await keyFor(action, { lock: KEY.lock, state: 'enrolled' }, never)).toBeNull()
    expect(await keyFor(action, { lock: null, state: 'none' }, never)).toBeNull()
  })
})

describe('a passphrase', () => {
  test('opens what it locked, and does not stay', async () => {
    const key = keyFor('verify', { lock: PASSPHRASE, state: 'enrolled' }, never)
    await vi.waitUntil(() => dialog().open)
    expect(dialog().querySelectorAll('input')).toHaveLength(1)
    types('pässword')
    expect(await key).toEqual({ lock: PASSPHRASE, secret: new TextEncoder().encode('pässword') })
    expect([dialog().open, dialog().childElementCount, dialog().onclose]).toEqual([false, 0, null])
  })

  test.each([['backup', 2], ['open_backup', 1]] as const)('for %s is typed so many times: %i', async (what, times) => {
    const passphrase = passphraseFor(what)
    expect(dialog().querySelectorAll('input')).toHaveLength(times)
    types('long enough')
    expect(await passphrase).toBe('long enough')
    expect(dialog().childElementCount).toBe(0)
  })

  test.each(['Cancel', 'the Escape key'])('is not given, by %s', async (by) => {
    const passphrase = passphraseFor('backup')
    if (by === 'Cancel') dialog().querySelector<HTMLElement>('button[type=button]')!.click()
    else dialog().close()
    const error = await passphrase.catch((one: unknown) => one) as LockedError
    expect(error).toBeInstanceOf(LockedError)
    expect(error.fault).toEqual({ kind: 'CancelledError', message: 'why.lock_kept', why: { name: 'why.lock_kept' }, retryAfter: null })
    expect([dialog().open, dialog().childElementCount]).toEqual([false, 0])
  })

  test('a dialog that closes late does not end the next one', async () => {
    const first = passphraseFor('open_backup')
    types('long enough')
    await first
    const second = passphraseFor('open_backup')
    dialog().dispatchEvent(new Event('close'))
    types('another one')
    expect(await second).toBe('another one')
  })

  test('that is typed two ways is not taken', async () => {
    void passphraseFor('backup').catch(() => undefined)
    const [first, again] = dialog().querySelectorAll<HTMLInputElement>('input')
    for (const [one, other, message] of [['long enough', 'long enougH', 'The two are not the same.'], ['long enough', 'long enough', '']]) {
      first.value = one
      again.value = other
      first.dispatchEvent(new Event('input'))
      expect(again.validationMessage).toBe(message)
    }
    again.value = 'something else'
    again.dispatchEvent(new Event('input'))
    dialog().querySelector('form')!.requestSubmit()
    expect(dialog().open).toBe(true)
    dialog().close()
  })
})

describe('a passkey', () => {
  test('that locked the wallet is asked for its value, of a verified owner', async () => {
    await keyFor('verify', { lock: KEY.lock, state: 'enrolled' }, never)
    const [[{ publicKey }]] = vi.mocked(navigator.credentials.get).mock.calls as any
    expect(publicKey).toEqual({
      challenge: expect.any(Uint8Array), allowCredentials: [{ type: 'public-key', id: KEY.lock.credential }], userVerification: 'required', timeout: 120_000, extensions: { prf: { eval: { first: SALT } } },
    })
    expect(publicKey.challenge).toHaveLength(32)
  })

  test.each([
    ['is not there', null, 'why.passkey_not_used'], ['has no function', prf(undefined), 'why.passkey_no_prf'], ['gives no value', prf({ enabled: true }), 'why.passkey_no_prf'],
    ['gives too little', prf({ results: { first: SECRET.slice(0, 31) } }), 'why.passkey_no_prf'],
  ] as const)('that %s opens nothing', async (_, given, name) => {
    vi.mocked(navigator.credentials.get).mockResolvedValue(given)
    const error = await keyFor('verify', { lock: KEY.lock, state: 'enrolled' }, never).catch((one: unknown) => one) as LockedError
    expect(error.fault).toEqual({ kind: 'UsageError', message: name, why: { name }, retryAfter: null })
  })

  test('that the browser refuses opens nothing, and nobody learns why', async () => {
    vi.mocked(navigator.credentials.get).mockRejectedValue(new DOMException('somebody said no', 'NotAllowedError'))
    await expect(keyFor('verify', { lock: KEY.lock, state: 'enrolled' }, never)).rejects.toThrow('why.passkey_not_used')
  })

  test('gives its value as bytes of a view, too', async () => {
    const whole = new Uint8Array(40).fill(1)
    whole.set(SECRET, 4)
    vi.mocked(navigator.credentials.get).mockResolvedValue(prf({ results: { first: new DataView(whole.buffer, 4, 32) } }))
    expect((await keyFor('verify', { lock: KEY.lock, state: 'enrolled' }, never))!.secret).toEqual(SECRET)
  })
})

describe('new keys', () => {
  const choosing = (...ways: Chosen[]) => {
    const asked: [boolean, Fault | null][] = []
    return { asked, choose: async (passkeys: boolean, fault: Fault | null): Promise<Chosen> => { asked.push([passkeys, fault]); return ways.shift()! } }
  }
  const NEW = { lock: null, state: 'none' } as const
  const BY_PASSKEY: Chosen = { kind: 'passkey' }

  test('are locked with a passphrase under a fresh salt, and the browser is asked to keep them', async () => {
    const made = await Promise.all([0, 1].map(() => keyFor('enrol', NEW, choosing({ kind: 'passphrase', passphrase: 'pässword' }).choose)))
    expect(made.map((key) => [key!.lock.kind, key!.lock.salt.length, new TextDecoder().decode(key!.secret)])).toEqual(Array(2).fill(['passphrase', 32, 'pässword']))
    expect(made[0]!.lock.salt).not.toEqual(made[1]!.lock.salt)
    expect(navigator.storage.persist).toHaveBeenCalledTimes(2)
  })

  test('are locked with a new passkey of this host', async () => {
    const key = (await keyFor('code', NEW, choosing(BY_PASSKEY).choose))!
    const [[{ publicKey }]] = vi.mocked(navigator.credentials.create).mock.calls as any
    expect(key).toEqual({ lock: { kind: 'passkey', credential: new Uint8Array(16).fill(4), salt: publicKey.extensions.prf.eval.first }, secret: SECRET })
    const { challenge, user, extensions, ...more } = publicKey
    expect([challenge.length, user.id.length, extensions.prf.eval.first.length]).toEqual([32, 32, 32])
    expect([user.name, user.displayName]).toEqual([location.hostname, location.hostname])
    expect(more).toEqual({
      rp: { name: location.hostname }, pubKeyCredParams: [-8, -7, -257].map((alg) => ({ type: 'public-key', alg })), authenticatorSelection: { residentKey: 'preferred', userVerification: 'required' },
      attestation: 'none', timeout: 120_000,
    })
    expect(navigator.credentials.get).not.toHaveBeenCalled()
  })

  test('are locked with a passkey that says its value only when it is asked again', async () => {
    vi.mocked(navigator.credentials.create).mockResolvedValue(prf({ enabled: true }))
    const key = (await keyFor('enrol', NEW, choosing(BY_PASSKEY).choose))!
    const [[{ publicKey }]] = vi.mocked(navigator.credentials.get).mock.calls as any
    expect([publicKey.allowCredentials[0].id, publicKey.extensions.prf.eval.first, key.secret]).toEqual([new Uint8Array(16).fill(4), key.lock.salt, SECRET])
  })

  test.each([
    ['is not made', null, 'why.passkey_not_made', true], ['has no function', prf({ enabled: false }), 'why.passkey_no_prf', false], ['says nothing of a function', prf(undefined), 'why.passkey_no_prf', false],
  ] as const)('where a passkey %s the person chooses again, and is told', async (_, given, name, still) => {
    vi.mocked(navigator.credentials.create).mockResolvedValue(given)
    const { asked, choose } = choosing(BY_PASSKEY, { kind: 'passphrase', passphrase: 'long enough' })
    expect((await keyFor('enrol', NEW, choose))!.lock.kind).toBe('passphrase')
    expect(asked.map(([passkeys, fault]) => [passkeys, fault?.why?.name])).toEqual([[true, undefined], [still, name]])
  })

  test('are not made where something else fails', async () => {
    vi.mocked(navigator.credentials.create).mockResolvedValue({ getClientExtensionResults: () => { throw new RangeError('broken') } } as never)
    await expect(keyFor('enrol', NEW, choosing(BY_PASSKEY).choose)).rejects.toThrow('broken')
  })

  test.each([
    [undefined, true, true], [undefined, false, false], [{ 'extension:prf': true }, true, true], [{ 'extension:prf': false }, true, false], [{ hybridTransport: true }, false, true],
    [{ hybridTransport: false }, false, false], [{ 'extension:prf': false, hybridTransport: true }, false, false], [undefined, new Error('unknown'), false],
  ])('with %j, and an owner who can be verified here: %s, passkeys are offered: %s', async (capabilities, near, offered) => {
    ;[able, isNear] = [capabilities as typeof able, near]
    const { asked, choose } = choosing({ kind: 'passphrase', passphrase: 'long enough' })
    await keyFor('enrol', NEW, choose)
    expect(asked).toEqual([[offered, null]])
  })

  test('are locked without passkeys where the browser knows none', async () => {
    vi.stubGlobal('PublicKeyCredential', undefined)
    const { asked, choose } = choosing({ kind: 'passphrase', passphrase: 'long enough' })
    await keyFor('enrol', NEW, choose)
    expect(asked).toEqual([[false, null]])
  })
})
