/** What one session is about, as the bytes that the device signs and that bind the server's reply. */

import { type Bytes, concat, sha256, utf8 } from '../bytes'
import { UsageError } from '../errors'

const DOMAIN = utf8('intaglio one-bit transcript v3')
const CHANGE_DOMAIN = utf8('intaglio change v1')
const DEVICE_CHANGE_DOMAIN = utf8('intaglio device change v1')
const LONGEST_TEXT_BYTES = 256
const DIGEST_BYTES = 32

/** What a match does in a session. */
export const Operation = { ENROL: 1, VERIFY: 2, RENEW_CONSENT: 3, RENEW_TEMPLATE: 4, ADMIT_DEVICE: 5, REMOVE_DEVICE: 6 } as const
export type Operation = (typeof Operation)[keyof typeof Operation]

/** What a match puts in force: a template with its device key and consent, or a newer consent alone. */
export interface Change {
  /** Ed25519; empty when only a consent is new. */
  readonly devicePublicKey: Bytes
  /** Template message; empty like the key. */
  readonly template: Bytes
  /** Signed consent receipt. */
  readonly receipt: Bytes
}

/** What a match does to another device of the same person. */
export interface DeviceChange {
  /** Digest of the ticket of a device that may enrol. */
  readonly admits?: Bytes
  /** Key id of a device whose template is revoked. */
  readonly removes?: Bytes
}

/** Everything that one session is bound to. Fields as in `federation/onebit/transcript.py`. */
export interface Transcript {
  /** Name of the parameter set. */
  readonly parameters: string
  readonly operation: Operation
  readonly sessionId: Uint8Array
  readonly nonce: Uint8Array
  readonly purpose: string
  readonly audience: string
  /** What the audience chose, for an assertion; empty for none. */
  readonly audienceNonce: Uint8Array
  readonly keyId: Uint8Array
  /** SHA-256 of the template message that is compared with. */
  readonly templateDigest: Uint8Array
  readonly releaseDigest: Uint8Array
  /** `changeDigest` of what a match puts in force. */
  readonly changeDigest: Uint8Array
  /** Entries in the last checkpoint of the log that the device saw. */
  readonly logSize: bigint
  /** SHA-256 of the probe message. */
  readonly probeDigest: Uint8Array
  /** Whether this device looked for a presentation attack and found none. */
  readonly presentationChecked: boolean
}

/**
 * Canonical bytes: every field with its length in front, so that no two transcripts share an encoding.
 *
 * @throws UsageError a field has the wrong length.
 */
export function transcriptBytes(transcript: Transcript): Bytes {
  const { sessionId, nonce, audienceNonce, keyId, templateDigest, releaseDigest, changeDigest, logSize, probeDigest } = transcript
  const lengths: [Uint8Array, number][] = [
    [sessionId, 16], [nonce, 32], [keyId, DIGEST_BYTES], [templateDigest, DIGEST_BYTES], [releaseDigest, DIGEST_BYTES],
    [changeDigest, DIGEST_BYTES], [probeDigest, DIGEST_BYTES],
  ]
  if (lengths.some(([field, length]) => field.length !== length)) throw new UsageError('a field of a transcript has a wrong length')
  const [parameters, purpose, audience] = [transcript.parameters, transcript.purpose, transcript.audience].map(utf8)
  if ([parameters, purpose, audience].some((text) => text.length < 1 || text.length > LONGEST_TEXT_BYTES)) {
    throw new UsageError(`parameters, purpose and audience must have 1 to ${LONGEST_TEXT_BYTES} bytes of UTF-8`)
  }
  if (audienceNonce.length > LONGEST_TEXT_BYTES) throw new UsageError(`the audience's nonce has at most ${LONGEST_TEXT_BYTES} bytes`)
  return lengthPrefixed(
    DOMAIN, parameters, Uint8Array.of(transcript.operation), sessionId, nonce, purpose, audience, sha256(audienceNonce), keyId,
    templateDigest, releaseDigest, changeDigest, new Uint8Array(BigUint64Array.of(logSize).buffer), probeDigest,
    Uint8Array.of(Number(transcript.presentationChecked)),
  )
}

/** SHA-256 of all that a match puts in force; zeros for nothing. */
export function changeDigest(change: Change | null): Bytes {
  if (change === null) return new Uint8Array(DIGEST_BYTES)
  return sha256(lengthPrefixed(CHANGE_DOMAIN, change.devicePublicKey, change.template, change.receipt))
}

/** The same of what a match does to another device. */
export function deviceChangeDigest({ admits, removes }: DeviceChange): Bytes {
  return sha256(lengthPrefixed(DEVICE_CHANGE_DOMAIN, admits ?? new Uint8Array(), removes ?? new Uint8Array()))
}

/** Fields one after the other, each behind its length in two bytes, little-endian. */
function lengthPrefixed(...fields: readonly Uint8Array[]): Bytes {
  return concat(...fields.flatMap((field) => [Uint8Array.of(field.length & 0xff, field.length >> 8), field]))
}
