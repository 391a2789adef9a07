/**
 * Files that a passphrase seals, byte for byte as `client/wallet/sealed.py`:
 *
 *     magic 16 | version 1 | log2 n 1 | r 1 | p 1 | salt 16 | nonce 12 | ciphertext and tag | SHA-256 of all before
 *
 * scrypt (RFC 7914) turns the passphrase into a key, AES-256-GCM encrypts, and what comes before the ciphertext is
 * authenticated with it. The closing hash tells damage from a wrong passphrase.
 */

import { type Bytes, concat, equal, randomBytes, sha256, utf8 } from '../bytes'
import { UsageError } from '../errors'
import { LOG2_N, stretch, WrongKeyError } from './locks'

const SALT_BYTES = 16
const NONCE_BYTES = 12
const HEADER_BYTES = 20 + SALT_BYTES + NONCE_BYTES
const TAG_BYTES = 16
const HASH_BYTES = 32
const LARGEST_FILE_BYTES = 4 << 20
const [R, P] = [8, 1]
/** Costs that are read: a forged file asks for no gigabytes. */
const [LEAST_LOG2_N, MOST_LOG2_N, MOST_P] = [15, 20, 4]

/** What a sealed file is. */
export interface SealedKind {
  /** For people. */
  readonly name: string
  /** Its first 16 bytes. */
  readonly magic: Bytes
  /** The one that is written and read. */
  readonly version: number
}

/**
 * Encrypts `content` under a passphrase. Takes about a second.
 *
 * @throws UsageError the passphrase is too short.
 */
export async function seal(content: Bytes, kind: SealedKind, passphrase: string): Promise<Bytes> {
  const [salt, nonce] = [randomBytes(SALT_BYTES), randomBytes(NONCE_BYTES)]
  const header = concat(kind.magic, Uint8Array.of(kind.version, LOG2_N, R, P), salt, nonce)
  const key = await keyOf(stretch(utf8(passphrase), salt), 'encrypt')
  const ciphertext = await crypto.subtle.encrypt({ name: 'AES-GCM', iv: nonce, additionalData: header }, key, content)
  const sealed = concat(header, new Uint8Array(ciphertext))
  return concat(sealed, sha256(sealed))
}

/**
 * The content of what `seal`, or the command line, wrote.
 *
 * @throws WrongKeyError the passphrase is another one.
 * @throws UsageError of another kind or version, or damaged; each says which.
 */
export async function unseal(data: Bytes, kind: SealedKind, passphrase: string): Promise<Bytes> {
  const { name, magic, version } = kind
  if (data.length > LARGEST_FILE_BYTES || !equal(data.slice(0, magic.length), magic)) throw new UsageError(`the file is no ${name} of this project, or its first bytes are damaged`, { why: { name: 'why.no_backup' } })
  const [sealed, digest] = [data.slice(0, -HASH_BYTES), data.slice(-HASH_BYTES)]
  if (sealed.length < HEADER_BYTES + TAG_BYTES || !equal(sha256(sealed), digest)) throw new UsageError(`the ${name} is damaged; take a copy of it that is whole`, { why: { name: 'why.damaged_backup' } })
  const [written, log2n, r, p] = sealed.slice(magic.length, magic.length + 4)
  if (written !== version) throw new UsageError(`the ${name} has version ${written}; this page reads version ${version}`, { why: { name: 'why.no_backup' } })
  if (log2n < LEAST_LOG2_N || log2n > MOST_LOG2_N || r !== R || p < 1 || p > MOST_P) throw new UsageError(`the ${name} asks for more work than any; it was forged`, { why: { name: 'why.no_backup' } })
  const [header, salt, nonce] = [sealed.slice(0, HEADER_BYTES), sealed.slice(20, 20 + SALT_BYTES), sealed.slice(20 + SALT_BYTES, HEADER_BYTES)]
  const key = await keyOf(stretch(utf8(passphrase), salt, log2n, p), 'decrypt')
  try {
    return new Uint8Array(await crypto.subtle.decrypt({ name: 'AES-GCM', iv: nonce, additionalData: header }, key, sealed.slice(HEADER_BYTES)))
  } catch {
    throw new WrongKeyError(`wrong passphrase for the ${name}, or the file was changed on purpose`, { why: { name: 'why.wrong_backup_passphrase' } }) // the cause may say more than is good
  }
}

async function keyOf(stretched: Bytes, use: 'encrypt' | 'decrypt'): Promise<CryptoKey> {
  const key = await crypto.subtle.importKey('raw', stretched, 'AES-GCM', false, [use])
  stretched.fill(0)
  return key
}
