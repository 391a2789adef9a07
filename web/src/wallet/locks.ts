/**
 * What locks a wallet: a passkey with the PRF extension, or a passphrase.
 *
 * Theory of operation
 * -------------------
 * Neither gives the key itself. A passkey evaluates a pseudorandom function at the lock's salt (WebAuthn level 3, section
 * 10.1.4): 32 bytes that the authenticator gives out after it has verified its owner, to pages of this host only. A
 * passphrase goes through scrypt (RFC 7914) at the cost of `client/wallet/sealed.py`. HKDF (RFC 5869) makes of either the key
 * of one wallet: the device's public key is in it, so no two wallets share one, whatever locks them.
 *
 * A lock holds nothing secret. It is stored beside what it locks, and authenticated with it.
 */

import { scrypt } from '@noble/hashes/scrypt.js'

import { type Bytes, concat, hex, randomBytes, utf8 } from '../bytes'
import { UsageError } from '../errors'

/** Bytes that a passkey gives. */
export const PRF_BYTES = 32
/** As `client/wallet/sealed.py` asks for. */
export const LEAST_CHARACTERS = 8
/** Work factor of a passphrase: 128 MiB (OWASP's advice for scrypt), as `client/wallet/sealed.py`. */
export const LOG2_N = 17
const SALT_BYTES = 32

/** What has to be there to open a wallet. */
export type Lock =
  | { readonly kind: 'passkey'; readonly credential: Bytes; readonly salt: Bytes }
  | { readonly kind: 'passphrase'; readonly salt: Bytes }

/** A lock with what opens it: 32 bytes of the passkey, or the passphrase in UTF-8. */
export interface Key {
  readonly lock: Lock
  readonly secret: Bytes
}

/** The wallet is whole, and this is not what locked it. */
export class WrongKeyError extends UsageError {}

/** Where a new passkey shall evaluate its function, or the salt of a new passphrase. */
export const freshSalt = (): Bytes => randomBytes(SALT_BYTES)

/** The lock as it is authenticated: its one spelling. */
export function lockText(lock: Lock): string {
  return lock.kind === 'passkey' ? `passkey ${hex(lock.credential)} ${hex(lock.salt)}` : `passphrase ${LOG2_N} ${hex(lock.salt)}`
}

/**
 * The key of one wallet, which no script can export.
 *
 * @throws UsageError the secret is too short to be one.
 */
export async function sealingKey({ lock, secret }: Key, devicePublicKey: Bytes): Promise<CryptoKey> {
  const stretched = lock.kind === 'passkey' ? requirePrf(secret).slice() : stretch(secret, lock.salt)
  const material = await crypto.subtle.importKey('raw', stretched, 'HKDF', false, ['deriveKey'])
  stretched.fill(0) // of the secret the caller disposes
  const info = concat(utf8(`intaglio-page-wallet/5\0${lock.kind}\0`), devicePublicKey)
  return crypto.subtle.deriveKey(
    { name: 'HKDF', hash: 'SHA-256', salt: lock.salt, info }, material,
    { name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt', 'wrapKey', 'unwrapKey'],
  )
}

/**
 * A passphrase as a key of 32 bytes: scrypt with N = 2^17, r = 8, p = 1. Takes about a second.
 *
 * @throws UsageError it is too short.
 */
export function stretch(passphrase: Bytes, salt: Bytes, log2n = LOG2_N, p = 1): Bytes {
  requireLong(new TextDecoder().decode(passphrase))
  return new Uint8Array(scrypt(passphrase, salt, { N: 2 ** log2n, r: 8, p, dkLen: 32 }))
}

/** @throws UsageError the passphrase is shorter than 8 characters. */
export function requireLong(passphrase: string): void {
  if (Array.from(passphrase).length < LEAST_CHARACTERS) throw new UsageError(`the passphrase needs at least ${LEAST_CHARACTERS} characters`, { why: { name: 'why.short', values: { least: LEAST_CHARACTERS } } })
}

/** What somebody does whose key is not the one that locked a wallet. */
export function wrongKey({ kind }: Lock): WrongKeyError {
  return new WrongKeyError(kind === 'passkey'
    ? 'this passkey gives another key than the one that locked the wallet; choose the passkey that was made here, or one that was copied from it'
    : 'wrong passphrase', { why: { name: kind === 'passkey' ? 'why.other_passkey' : 'why.wrong_passphrase' } })
}

function requirePrf(secret: Bytes): Bytes {
  if (secret.length !== PRF_BYTES) throw new UsageError('a passkey gives 32 bytes, and this one gave others')
  return secret
}
