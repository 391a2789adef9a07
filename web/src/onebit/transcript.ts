/** What one session is about, as the bytes that the device signs and that bind the server's reply. */

import { type Bytes, concat, sha256, utf8 } from '../bytes'
import { UsageError } from '../errors'
import { PROFILE } from './parameters'

const DOMAIN = utf8('intaglio one-bit transcript v1')
const PAD_DOMAIN = utf8('intaglio one-bit pad v1')
const LONGEST_TEXT_BYTES = 256

/** What a session does. */
export const Operation = { ENROL: 1, VERIFY: 2 } as const
export type Operation = (typeof Operation)[keyof typeof Operation]

/** Everything that one session is bound to. Fields as in `federation/onebit/transcript.py`. */
export interface Transcript {
  readonly operation: Operation
  readonly sessionId: Uint8Array
  readonly nonce: Uint8Array
  readonly purpose: string
  readonly audience: string
  readonly keyId: Uint8Array
  readonly releaseDigest: Uint8Array
  readonly ciphertextDigest: Uint8Array
}

/**
 * Canonical bytes: every field with its length in front, so that no two transcripts share an encoding.
 *
 * @throws UsageError a field has the wrong length.
 */
export function transcriptBytes(transcript: Transcript): Bytes {
  const { operation, sessionId, nonce, keyId, releaseDigest, ciphertextDigest } = transcript
  const lengths: [Uint8Array, number][] = [[sessionId, 16], [nonce, 32], [keyId, 32], [releaseDigest, 32], [ciphertextDigest, 32]]
  if (lengths.some(([field, length]) => field.length !== length)) throw new UsageError('a field of a transcript has a wrong length')
  const purpose = utf8(transcript.purpose)
  const audience = utf8(transcript.audience)
  if ([purpose, audience].some((text) => text.length < 1 || text.length > LONGEST_TEXT_BYTES)) {
    throw new UsageError(`purpose and audience must have 1 to ${LONGEST_TEXT_BYTES} bytes of UTF-8`)
  }
  const fields = [DOMAIN, utf8(PROFILE.name), Uint8Array.of(operation), sessionId, nonce, purpose, audience, keyId]
  return concat(
    ...[...fields, releaseDigest, ciphertextDigest].flatMap((field) => [
      Uint8Array.of(field.length & 0xff, field.length >> 8),
      field,
    ]),
  )
}

/** From four masked coefficients to the pad of a token, for one session: NIST SP 800-56C, single step, SHA-256. */
export function pad(transcript: Uint8Array, coefficients: readonly number[]): Bytes {
  const shared = new DataView(new ArrayBuffer(4 * coefficients.length))
  coefficients.forEach((coefficient, i) => shared.setUint32(4 * i, coefficient, true))
  const fixedInfo = sha256(concat(PAD_DOMAIN, transcript))
  return sha256(concat(Uint8Array.of(0, 0, 0, 1), new Uint8Array(shared.buffer), fixedInfo))
}
