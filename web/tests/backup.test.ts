/** Backups: each language reads what the other wrote, and one revokes and does nothing else. */

import { expect, test } from 'vitest'

import { fromHex, hex, utf8 } from '../src/bytes'
import { BACKUP, openBackup, type Revocation, sealBackup } from '../src/wallet/backup'
import { WrongKeyError } from '../src/wallet/locks'
import { seal } from '../src/wallet/sealed'
import { python } from './vectors'

const PASSPHRASE = 'einem Zettel im Schrank: \u00e4\u20ac'
const REVOCATION: Revocation = { keyId: fromHex('ab'.repeat(32)), audience: 'example.org', issuedAt: 1_900_000_000, signature: fromHex('cd'.repeat(64)) }

test('what the page sealed, the command line opens', async () => {
  const file = await sealBackup(REVOCATION, PASSPHRASE)
  const read = await python('open_backup', { file: hex(file), passphrase: PASSPHRASE })
  expect(read).toEqual({ key_id: 'ab'.repeat(32), audience: 'example.org', issued_at: 1_900_000_000, signature: 'cd'.repeat(64) })
})

test('what the command line sealed, the page opens', async () => {
  const file = fromHex((await python('seal_backup', { passphrase: PASSPHRASE, key_id: 'ab'.repeat(32), audience: 'example.org', issued_at: 1_900_000_000, signature: 'cd'.repeat(64) })) as string)
  expect(await openBackup(file, PASSPHRASE)).toEqual(REVOCATION)
})

test('two backups of one wallet have nothing in common but what they are', async () => {
  const [one, other] = [await sealBackup(REVOCATION, PASSPHRASE), await sealBackup(REVOCATION, PASSPHRASE)]
  expect(hex(one.slice(0, 20))).toBe(hex(other.slice(0, 20)))
  expect(hex(one.slice(20, 48))).not.toBe(hex(other.slice(20, 48)))
})

test('a backup that is damaged is not taken for one of another passphrase', async () => {
  const file = await sealBackup(REVOCATION, PASSPHRASE)
  await expect(openBackup(file, 'another passphrase')).rejects.toThrow(WrongKeyError)
  const altered = (place: number): Uint8Array<ArrayBuffer> => file.map((byte, i) => (i === place ? byte ^ 1 : byte))
  await expect(openBackup(altered(0), PASSPHRASE)).rejects.toThrow('no backup of this project')
  for (const place of [16, 17, 25, 40, 60, file.length - 1]) {
    await expect(openBackup(altered(place), PASSPHRASE)).rejects.toThrow('damaged')
  }
  await expect(openBackup(file.slice(0, -1), PASSPHRASE)).rejects.toThrow('damaged')
  await expect(openBackup(utf8('intaglio backup\0'), PASSPHRASE)).rejects.toThrow('damaged')
})

test('a forged file asks for no gigabytes, and one of another version says so', async () => {
  for (const [place, value, said] of [[16, 2, 'version 2'], [17, 21, 'more work'], [18, 9, 'more work'], [19, 5, 'more work']] as const) {
    const forged = (await python('close', { file: hex((await sealBackup(REVOCATION, PASSPHRASE)).map((byte, i) => (i === place ? value : byte))) })) as string
    await expect(openBackup(fromHex(forged), PASSPHRASE)).rejects.toThrow(said)
  }
})

test('the least work that a file may ask for is done, and no less', async () => {
  const forged = async (log2n: number, p: number): Promise<unknown> => {
    const file = (await sealBackup(REVOCATION, PASSPHRASE)).map((byte, i) => (i === 17 ? log2n : i === 19 ? p : byte))
    return openBackup(fromHex((await python('close', { file: hex(file) })) as string), PASSPHRASE)
  }
  for (const [log2n, p] of [[15, 1], [15, 4]]) await expect(forged(log2n, p)).rejects.toThrow(WrongKeyError)
  for (const [log2n, p] of [[14, 1], [15, 0]]) await expect(forged(log2n, p)).rejects.toThrow('more work')
})

test.each<[string, unknown]>([
  ['a short key', { audience: 'a', issued_at: 1, key_id: 'ab'.repeat(31), signature: 'cd'.repeat(64) }],
  ['a long signature', { audience: 'a', issued_at: 1, key_id: 'ab'.repeat(32), signature: 'cd'.repeat(65) }],
  ['no time', { audience: 'a', key_id: 'ab'.repeat(32), signature: 'cd'.repeat(64) }],
  ['a time before all times', { audience: 'a', issued_at: -1, key_id: 'ab'.repeat(32), signature: 'cd'.repeat(64) }],
  ['half a second', { audience: 'a', issued_at: 0.5, key_id: 'ab'.repeat(32), signature: 'cd'.repeat(64) }],
  ['letters that are no hex', { audience: 'a', issued_at: 1, key_id: 'xy'.repeat(32), signature: 'cd'.repeat(64) }],
  ['nothing', null],
])('a backup with %s is of another version, and what is in it is not said', async (_, content) => {
  const file = await seal(utf8(JSON.stringify(content)), BACKUP, PASSPHRASE)
  const error: unknown = await openBackup(file, PASSPHRASE).then(() => null, (reason: unknown) => reason)
  expect(String(error)).toBe('UsageError: the backup opens, but another version of this program wrote it')
  expect((error as Error).cause).toBeUndefined()
})

test('a backup costs what the command line asks for, and eight characters are enough', async () => {
  expect([...(await sealBackup(REVOCATION, 'acht Zei')).slice(16, 20)]).toEqual([1, 17, 8, 1])
})

test('a short passphrase seals nothing', async () => {
  await expect(sealBackup(REVOCATION, 'sieben!')).rejects.toThrow('at least 8 characters')
})
