/** Locks, and what a passphrase seals, without the work: `backup.test.ts` does that, with files of the command line. */

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { hkdf } from '@noble/hashes/hkdf.js'
import { sha256 as sha256Of } from '@noble/hashes/sha2.js'

import { type Bytes, concat, fromHex, hex, sha256, utf8 } from '../src/bytes'
import { BACKUP, openBackup, sealBackup } from '../src/wallet/backup'
import { freshSalt, type Lock, lockText, requireLong, sealingKey, stretch, wrongKey, WrongKeyError } from '../src/wallet/locks'
import { seal, unseal } from '../src/wallet/sealed'

const { asked, made } = vi.hoisted(() => ({ asked: [] as unknown[][], made: [] as Uint8Array[] }))

/** Stretches nothing, notes what was asked for, and gives what depends on all of it. */
vi.mock('@noble/hashes/scrypt.js', () => ({
  scrypt: (passphrase: Uint8Array, salt: Uint8Array, options: { readonly N: number; readonly r: number; readonly p: number; readonly dkLen: number }): Uint8Array => {
    asked.push([new TextDecoder().decode(passphrase), hex(salt), options])
    return stretchedOf(passphrase, salt, options)
  },
}))
const stretchedOf = (passphrase: Uint8Array, salt: Uint8Array, options: unknown): Bytes => sha256(concat(passphrase, salt, utf8(JSON.stringify(options))))

beforeEach(() => { asked.length = made.length = 0 })
afterEach(() => { vi.restoreAllMocks() })

const filled = (count: number, value: number): Bytes => new Uint8Array(count).fill(value)
const COST = { N: 131_072, r: 8, p: 1, dkLen: 32 }
const PASSPHRASE: Lock = { kind: 'passphrase', salt: filled(32, 3) }
const PASSKEY: Lock = { kind: 'passkey', credential: filled(16, 5), salt: filled(32, 6) }
const aes = (raw: Uint8Array): Promise<CryptoKey> => crypto.subtle.importKey('raw', raw as Bytes, 'AES-GCM', false, ['encrypt', 'decrypt'])
const iv = filled(12, 1)

/** Notes what is made into keys, as long as it is there to be seen. */
function keysMade(): void {
  const { importKey } = crypto.subtle
  vi.spyOn(crypto.subtle, 'importKey').mockImplementation(async (...given: any[]) => {
    if ((given[1] as Uint8Array).some((byte) => byte !== 0)) made.push(given[1] as Uint8Array)
    return (await (importKey as (...given: any[]) => Promise<CryptoKey>).apply(crypto.subtle, given)) as any
  })
}

describe('the key of a wallet', () => {
  test.each([
    ['a passkey', PASSKEY, filled(32, 7), () => filled(32, 7), 'passkey'],
    ['a passphrase', PASSPHRASE, utf8('correct horse'), () => stretchedOf(utf8('correct horse'), PASSPHRASE.salt, COST), 'passphrase'],
  ] as const)('is made of what %s gives, of the salt, of the kind of lock and of the device', async (_, lock, secret, stretched, kind) => {
    const given = secret.slice()
    keysMade()
    const key = await sealingKey({ lock, secret: given }, filled(32, 9))
    expect(made.map((one) => [one.length, one.some((byte) => byte !== 0)])).toEqual([[32, false]]) // nothing of it stays
    vi.restoreAllMocks()
    expect(given).toEqual(secret) // the caller's is the caller's
    expect(asked).toEqual(kind === 'passkey' ? [] : [['correct horse', '03'.repeat(32), COST]])
    const known = hkdf(sha256Of, stretched(), lock.salt, concat(utf8(`intaglio-page-wallet/5\0${kind}\0`), filled(32, 9)), 32)
    const sealed = await crypto.subtle.encrypt({ name: 'AES-GCM', iv }, key, utf8('a secret'))
    expect(new Uint8Array(await crypto.subtle.decrypt({ name: 'AES-GCM', iv }, await aes(known), sealed))).toEqual(utf8('a secret'))
  })

  test.each([0, 31, 33])('is not made of a passkey that gives %i bytes', async (length) => {
    await expect(sealingKey({ lock: PASSKEY, secret: filled(length, 7) }, filled(32, 9))).rejects.toThrow('a passkey gives 32 bytes')
  })

  test('has a fresh salt of 32 bytes each time', () => {
    const salts = [freshSalt(), freshSalt()].map(hex)
    expect([salts.map((salt) => salt.length), salts[0] === salts[1]]).toEqual([[64, 64], false])
  })

  test('says in what is authenticated all that the lock is', () => {
    expect([PASSKEY, PASSPHRASE].map(lockText)).toEqual([`passkey ${'05'.repeat(16)} ${'06'.repeat(32)}`, `passphrase 17 ${'03'.repeat(32)}`])
  })

  test('says which lock another key did not open', () => {
    expect([PASSKEY, PASSPHRASE].map(wrongKey).map(({ name, message, why }) => [name, message, why])).toEqual([
      ['WrongKeyError', 'this passkey gives another key than the one that locked the wallet; choose the passkey that was made here, or one that was copied from it', { name: 'why.other_passkey' }],
      ['WrongKeyError', 'wrong passphrase', { name: 'why.wrong_passphrase' }],
    ])
  })

  test.each([['1234567', false], ['12345678', true], ['\u{1f40e}'.repeat(7), false], ['\u{1f40e}'.repeat(8), true], ['\u00e4'.repeat(7), false], ['\u00e4'.repeat(8), true], ['', false]])(
    'of %j it is said before the work whether it is long enough: %s', (passphrase, isLong) => {
      const tries = [() => stretch(utf8(passphrase), filled(16, 1)), () => { requireLong(passphrase) }]
      for (const one of tries) {
        if (isLong) one()
        else expect(one).toThrow('the passphrase needs at least 8 characters')
      }
      expect(asked.length).toBe(Number(isLong))
    })
})

const KIND = { name: 'thing', magic: utf8('intaglio things\0'), version: 3 }
const CONTENT = utf8('what is in it')
/** Closed anew, as whoever changes a file on purpose does. */
const closed = (file: Bytes, changes: Readonly<Record<number, number>>): Bytes => {
  const changed = file.slice(0, -32)
  for (const [place, value] of Object.entries(changes)) changed[Number(place)] = value
  return concat(changed, sha256(changed))
}

describe('a sealed file', () => {
  test('is its header, the content under the stretched passphrase, and the hash of both', async () => {
    keysMade()
    const [file, again] = [await seal(CONTENT, KIND, 'correct horse'), await seal(CONTENT, KIND, 'correct horse')]
    expect(made.map((one) => [one.length, one.some((byte) => byte !== 0)])).toEqual([[32, false], [32, false]])
    vi.restoreAllMocks()
    const [header, salt, nonce] = [file.slice(0, 48), file.slice(20, 36), file.slice(36, 48)]
    expect(header.slice(0, 20)).toEqual(concat(KIND.magic, Uint8Array.of(3, 17, 8, 1)))
    expect(asked[0]).toEqual(['correct horse', hex(salt), COST])
    const key = await aes(stretchedOf(utf8('correct horse'), salt, COST))
    expect(new Uint8Array(await crypto.subtle.decrypt({ name: 'AES-GCM', iv: nonce, additionalData: header }, key, file.slice(48, -32)))).toEqual(CONTENT)
    expect(file.slice(-32)).toEqual(sha256(file.slice(0, -32)))
    expect([[20, 36], [36, 48]].map(([from, to]) => hex(file.slice(from, to)) === hex(again.slice(from, to)))).toEqual([false, false])
    asked.length = made.length = 0
    keysMade()
    expect(await unseal(file, KIND, 'correct horse')).toEqual(CONTENT)
    expect(asked).toEqual([['correct horse', hex(salt), COST]])
    expect(made.map((one) => one.some((byte) => byte !== 0))).toEqual([false])
  })

  test.each([[{ 17: 15 }, 32_768, 1], [{ 17: 20 }, 1_048_576, 1], [{ 19: 4 }, 131_072, 4], [{ 17: 16, 19: 2 }, 65_536, 2]] as const)('asks for the work that it names, within bounds: %j', async (changes, N, p) => {
    const file = closed(await seal(CONTENT, KIND, 'correct horse'), changes)
    asked.length = 0
    await expect(unseal(file, KIND, 'correct horse')).rejects.toMatchObject({
      name: 'WrongKeyError', message: 'wrong passphrase for the thing, or the file was changed on purpose', why: { name: 'why.wrong_backup_passphrase' },
    })
    expect(asked.map(([, , options]) => options)).toEqual([{ N, r: 8, p, dkLen: 32 }])
  })

  const forged = ['the thing asks for more work than any; it was forged', 'why.no_backup'] as const
  const damaged = ['the thing is damaged; take a copy of it that is whole', 'why.damaged_backup'] as const
  const none = ['the file is no thing of this project, or its first bytes are damaged', 'why.no_backup'] as const
  test.each<[string, (file: Bytes) => Bytes, string, string]>([
    ['too little memory', (file) => closed(file, { 17: 14 }), ...forged], ['too much memory', (file) => closed(file, { 17: 21 }), ...forged],
    ['smaller blocks', (file) => closed(file, { 18: 7 }), ...forged], ['larger blocks', (file) => closed(file, { 18: 9 }), ...forged],
    ['no lane', (file) => closed(file, { 19: 0 }), ...forged], ['five lanes', (file) => closed(file, { 19: 5 }), ...forged],
    ['an earlier version', (file) => closed(file, { 16: 2 }), 'the thing has version 2; this page reads version 3', 'why.no_backup'],
    ['a later version', (file) => closed(file, { 16: 4 }), 'the thing has version 4; this page reads version 3', 'why.no_backup'],
    ['another kind', (file) => closed(file, { 0: 0 }), ...none], ['another kind by its last letter', (file) => closed(file, { 15: 1 }), ...none], ['nothing in it', () => new Uint8Array(), ...none],
    ['more bytes than any', (file) => concat(file, new Uint8Array((4 << 20) + 1 - file.length)), ...none],
    ['as many bytes as one may have', (file) => concat(file, new Uint8Array((4 << 20) - file.length)), ...damaged],
    ['one bit another', (file) => file.map((byte, i) => (i === 60 ? byte ^ 1 : byte)), ...damaged], ['a hash of something else', (file) => file.map((byte, i) => (i === file.length - 1 ? byte ^ 1 : byte)), ...damaged],
    ['no whole tag', (file) => closed(concat(file.slice(0, 63), new Uint8Array(32)), {}), ...damaged],
  ])('with %s is refused before any work', async (_, change, message, why) => {
    const file = await seal(CONTENT, KIND, 'correct horse')
    asked.length = 0
    await expect(unseal(change(file), KIND, 'correct horse')).rejects.toMatchObject({ name: 'UsageError', message, why: { name: why } })
    expect(asked).toEqual([])
  })

  test('that is changed on purpose does not open, wherever that is', async () => {
    const file = await seal(CONTENT, KIND, 'correct horse')
    await expect(unseal(file, KIND, 'correct house')).rejects.toThrow(WrongKeyError)
    for (const place of [20, 35, 36, 47, 48, file.length - 33]) await expect(unseal(closed(file, { [place]: file[place] ^ 1 }), KIND, 'correct horse')).rejects.toThrow(WrongKeyError)
    expect(await unseal(closed(await seal(new Uint8Array(), KIND, 'correct horse'), {}), KIND, 'correct horse')).toEqual(new Uint8Array()) // the least there is
  })
})

describe('a backup', () => {
  const REVOCATION = { keyId: fromHex('ab'.repeat(32)), audience: 'example.org', issuedAt: 1_900_000_000, signature: fromHex('cd'.repeat(64)) }
  const WRITTEN = { audience: 'example.org', issued_at: 1_900_000_000, key_id: 'ab'.repeat(32), signature: 'cd'.repeat(64) }

  test('says what it revokes, and nothing else', async () => {
    const file = await sealBackup(REVOCATION, 'correct horse')
    expect(JSON.parse(new TextDecoder().decode(await unseal(file, BACKUP, 'correct horse')))).toEqual(WRITTEN)
    expect(await openBackup(file, 'correct horse')).toEqual(REVOCATION)
    expect(await openBackup(await seal(utf8(JSON.stringify({ ...WRITTEN, issued_at: 0 })), BACKUP, 'correct horse'), 'correct horse')).toEqual({ ...REVOCATION, issuedAt: 0 })
  })

  test('with a short passphrase is none', async () => {
    await expect(sealBackup(REVOCATION, 'sieben!')).rejects.toThrow('at least 8 characters')
    expect(asked).toEqual([])
  })

  test.each<[string, unknown]>([
    ['a short key', { ...WRITTEN, key_id: 'ab'.repeat(31) }], ['a long signature', { ...WRITTEN, signature: 'cd'.repeat(65) }], ['no time', { ...WRITTEN, issued_at: undefined }],
    ['a time before all times', { ...WRITTEN, issued_at: -1 }], ['half a second', { ...WRITTEN, issued_at: 0.5 }], ['a time in words', { ...WRITTEN, issued_at: '1900000000' }],
    ['letters that are no hex', { ...WRITTEN, key_id: 'xy'.repeat(32) }], ['no audience', { ...WRITTEN, audience: undefined }], ['an empty audience', { ...WRITTEN, audience: '' }],
    ['an audience that is a number', { ...WRITTEN, audience: 5 }], ['an audience that is no name', { ...WRITTEN, audience: 'Example.org' }], ['nothing', null],
  ])('with %s is of another version, and what is in it is not said', async (_, content) => {
    const error: unknown = await openBackup(await seal(utf8(JSON.stringify(content)), BACKUP, 'correct horse'), 'correct horse').then(() => null, (reason: unknown) => reason)
    expect(String(error)).toBe('UsageError: the backup opens, but another version of this program wrote it')
    expect((error as Error).cause).toBeUndefined()
  })
})
