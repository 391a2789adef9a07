/** Backups: each language reads what the other wrote, and one revokes and does nothing else. */

import { expect, test } from 'vitest'

import { fromHex, hex, utf8 } from '../src/bytes'
import { openBackup, type Revocation, sealBackup } from '../src/wallet/backup'
import { WrongKeyError } from '../src/wallet/locks'
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

test('a short passphrase seals nothing', async () => {
  await expect(sealBackup(REVOCATION, 'sieben!')).rejects.toThrow('at least 8 characters')
})
