/** Backups: each language reads what the other wrote, with all the work. The rest is in `sealing.test.ts`. */

import { expect, test } from 'vitest'

import { fromHex, hex } from '../src/bytes'
import { openBackup, type Revocation, sealBackup } from '../src/wallet/backup'
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
