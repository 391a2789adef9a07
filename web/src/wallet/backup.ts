/**
 * A wallet's backup: one signed revocation, and no key. As `client/wallet/backup.py`, and each reads what the other wrote.
 *
 * Whatever program reads it, it revokes that one template and does nothing else (ADR 138). It is sealed with a passphrase of
 * its own, because whoever finds it in the clear could revoke.
 */

import { type Bytes, fromHex, hex, utf8 } from '../bytes'
import { UsageError } from '../errors'
import { seal, type SealedKind, unseal } from './sealed'
import { requireHex, requireName } from './statements'

export const BACKUP: SealedKind = { name: 'backup', magic: utf8('intaglio backup\0'), version: 1 }
const [KEY_ID_BYTES, SIGNATURE_BYTES] = [32, 64]

/** The proof of a revocation: valid at any age. */
export interface Revocation {
  readonly keyId: Bytes
  readonly audience: string
  /** Seconds since 1970. */
  readonly issuedAt: number
  readonly signature: Bytes
}

/** @throws UsageError the passphrase is too short. */
export function sealBackup({ keyId, audience, issuedAt, signature }: Revocation, passphrase: string): Promise<Bytes> {
  const content = { audience, issued_at: issuedAt, key_id: hex(keyId), signature: hex(signature) }
  return seal(utf8(JSON.stringify(content)), BACKUP, passphrase)
}

/**
 * Opens what `sealBackup`, or `intaglio wallet backup`, wrote.
 *
 * @throws UsageError no backup, damaged, of another version, or another passphrase; each says which.
 */
export async function openBackup(data: Bytes, passphrase: string): Promise<Revocation> {
  const content = new TextDecoder().decode(await unseal(data, BACKUP, passphrase))
  try {
    const { audience, issued_at: issuedAt, key_id: keyId, signature } = JSON.parse(content) as Record<string, any>
    requireName('an audience', audience)
    requireHex('a key id', keyId, KEY_ID_BYTES)
    requireHex('a signature', signature, SIGNATURE_BYTES)
    if (!Number.isSafeInteger(issuedAt) || issuedAt < 0) throw new RangeError('no time')
    return { keyId: fromHex(keyId), audience, issuedAt, signature: fromHex(signature) }
  } catch {
    throw new UsageError('the backup opens, but another version of this program wrote it') // the cause may quote the content
  }
}
