/** What the log says, and what stands behind it. As `federation/transparency/entries.py` and `client/device/logged.py`. */

import { concat, fromHex, hex, sha256, utf8 } from '../bytes'
import { MalformedMessageError, PeerError, ProofError } from '../errors'
import { NAME } from '../wallet/statements'
import { fromBase64, LoggedEntry, type LogPolicy, SignedCheckpoint } from './notes'
import { verifyConsistency } from './tree'

const TAG = utf8('intaglio-log-commitment/1\0')
const MOST_CONTENT_BYTES = 32 * 1024
const DIGEST = /^[0-9a-f]{64}$/
const PERSONAL: readonly string[] = ['admission', 'attempt', 'enrolment', 'erasure', 'renewal', 'revocation']
const PUBLIC: readonly string[] = ['deployment', 'moratorium', 'policy', 'release', 'software']
const OUTCOMES: readonly string[] = ['invalid', 'limited', 'not-covered', 'opened', 'prohibited', 'replayed']

/** An entry of the log, as far as a device reads it. */
export interface Entry {
  readonly kind: string
  /** Seconds since 1970. */
  readonly time: number
  /** In hex; for entries about a person. */
  readonly commitment?: string
  readonly requester?: string
  readonly purpose?: string
  readonly outcome?: string
  /** Of what an operator declared: the document, in base64. */
  readonly content?: string
}

/** Canonical JSON: ASCII, keys sorted, no spaces. Throws RangeError on a fraction, or a number that a double cannot hold. */
export function canonical(value: unknown): string {
  const ordered = JSON.stringify(value, (_, item: unknown) => {
    if (typeof item === 'number' && !Number.isSafeInteger(item)) throw new RangeError('not a whole number')
    return isObject(item) ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : 1))) : item
  })
  return ordered.replace(/[\x7f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value)

function parsed(data: Uint8Array, what: string): Record<string, unknown> {
  try {
    const content = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(data)
    const value: unknown = JSON.parse(content)
    if (canonical(value) !== content || !isObject(value)) throw new RangeError('not canonical')
    return value
  } catch {
    throw new MalformedMessageError(`${what} is not canonical JSON`) // the cause could quote personal data
  }
}

/** Reads an entry. Throws MalformedMessageError when it is none of this version. */
export function readEntry(data: Uint8Array): Entry {
  const value = parsed(data, 'an entry')
  const { kind, time, version, ...others } = value
  if (typeof kind !== 'string' || !Number.isSafeInteger(time) || (time as number) < 0 || version !== 1 || !isOf(kind, others)) {
    throw new MalformedMessageError('an entry has a time, a version, a kind and what belongs to that, and nothing else')
  }
  return value as unknown as Entry
}

/** Whether the other fields are those of an entry of that kind. */
function isOf(kind: string, { commitment, content, count, outcome, purpose, requester, ...more }: Record<string, unknown>): boolean {
  const others = [content, count, outcome, purpose, requester]
  if (Object.keys(more).length > 0) return false
  if (PUBLIC.includes(kind)) return isContent(content) && [commitment, ...others.slice(1)].every((one) => one === undefined)
  if (typeof commitment !== 'string' || !DIGEST.test(commitment)) return false
  if (kind !== 'attempt') return PERSONAL.includes(kind) && others.every((one) => one === undefined)
  const isCounted = count === undefined || (Number.isSafeInteger(count) && (count as number) > 1 && outcome !== 'opened') // each comparison has an entry of its own
  return isCounted && content === undefined && OUTCOMES.includes(outcome as string) && [requester, purpose].every((name) => typeof name === 'string' && NAME.test(name))
}

function isContent(content: unknown): boolean {
  if (typeof content !== 'string') return false
  const { length } = fromBase64(content)
  return length > 0 && length <= MOST_CONTENT_BYTES
}

/** Salt and facts behind an entry's commitment. Personal data. */
export class Opening {
  readonly kind: string
  readonly facts: Readonly<Record<string, unknown>>
  readonly #salt: Uint8Array

  /** @throws MalformedMessageError not an opening. */
  constructor(data: Uint8Array) {
    const { kind, facts, salt, ...more } = parsed(data, 'an opening')
    const isWhole = typeof kind === 'string' && PERSONAL.includes(kind) && typeof salt === 'string' && DIGEST.test(salt) && isObject(facts)
    if (!isWhole || canonical(facts).length > MOST_CONTENT_BYTES || Object.keys(more).length > 0) throw new MalformedMessageError('an opening has a kind, facts and a salt, and nothing else')
    this.kind = kind
    this.facts = facts
    this.#salt = fromHex(salt)
  }

  /** Throws ProofError unless this is what stands behind `entry`. */
  check(entry: Entry): void {
    const commitment = sha256(concat(TAG, utf8(`${this.kind}\0`), this.#salt, utf8(canonical(this.facts))))
    if (entry.kind !== this.kind || entry.commitment !== hex(commitment)) throw new ProofError('the opening does not belong to this entry')
  }
}

/** As in the protocol: that something stands in the log. */
export interface LogReceipt {
  readonly logged: Uint8Array
  readonly opening: Uint8Array
  readonly consistency: readonly Uint8Array[]
}

/** What a device must know to believe the log. */
export interface LogTrust {
  /** The last checkpoint that the device believed, or null. */
  readonly memory: string | null
  readonly policy: LogPolicy
  /** Seconds since 1970. */
  readonly now: number
}

/** What a device must know to believe that its comparison was logged. */
export interface Expectation extends LogTrust {
  readonly keyId: Uint8Array
  readonly transcript: Uint8Array
  /** As it came: the server logged its digest before it sent it. */
  readonly reply: Uint8Array
  readonly requester: string
  readonly purpose: string
}

/** Something that a device asked for, as the opening of the log's entry about it must say it. */
export interface Done {
  readonly kind: 'enrolment' | 'renewal' | 'admission' | 'revocation'
  /** These, and no others. */
  readonly facts: Readonly<Record<string, string>>
}

/** Where an entry stands. */
export interface Logged {
  readonly position: number
  readonly checkpoint: SignedCheckpoint
  /** The checkpoint as it came, to remember. */
  readonly note: string
}

/**
 * Checks that one comparison, with this very reply, stands in a log that only grew. A device does this before it decrypts.
 *
 * @throws ProofError, MalformedMessageError the entry is not there, or is about something else; or the log was rolled back, or forked.
 */
export async function checkComparison(receipt: LogReceipt, expected: Expectation): Promise<Logged> {
  const [logged, opening, entry] = await opened(receipt, expected)
  const facts = canonical({ key_id: hex(expected.keyId), reply: hex(sha256(expected.reply)), transcript: hex(sha256(expected.transcript)) })
  if (entry.kind !== 'attempt' || canonical(opening.facts) !== facts) {
    throw new ProofError("the log's entry is about something else than this comparison; nothing was opened")
  }
  if (entry.requester !== expected.requester || entry.purpose !== expected.purpose || entry.outcome !== 'opened') {
    throw new ProofError('the log does not say who asked and what for; nothing was opened')
  }
  return grown(logged, receipt, expected)
}

/** An enrolment: the owner, and SHA-256 of template message and consent receipt. */
export function enrolled(devicePublicKey: Uint8Array, audience: string, templateDigest: Uint8Array, receipt: Uint8Array): Done {
  const facts = {
    audience, device_public_key: hex(devicePublicKey), key_id: hex(sha256(devicePublicKey)), receipt: hex(sha256(receipt)), template: hex(templateDigest),
  }
  return { kind: 'enrolment', facts }
}

/** A renewed consent: whose, and SHA-256 of the newer receipt alone. */
export const renewed = (keyId: Uint8Array, receipt: Uint8Array): Done => ({ kind: 'renewal', facts: { key_id: hex(keyId), receipt: hex(sha256(receipt)) } })

/** A device that was let in: by whom, and the digest of its ticket. */
export const admitted = (keyId: Uint8Array, ticket: Uint8Array): Done => ({ kind: 'admission', facts: { admits: hex(ticket), key_id: hex(keyId) } })

/** A template that was revoked: whose, and the digest of the message that asked for it. */
export const revoked = (keyId: Uint8Array, request: Uint8Array): Done => ({ kind: 'revocation', facts: { key_id: hex(keyId), request: hex(request) } })

/** Whether that is what an opening says. */
export const says = (opening: Opening, done: Done): boolean => opening.kind === done.kind && canonical(opening.facts) === canonical(done.facts)

/**
 * Checks that what a device asked for was done. It believes no other word of it: whoever terminates TLS has those.
 *
 * @param done what was asked for, in the order of the entries.
 * @returns the last entry about it, with the checkpoint to remember from now on; null where nothing was asked for.
 * @throws PeerError there are fewer entries than things that were asked for, or more.
 * @throws ProofError, MalformedMessageError as for `checkComparison`.
 */
export async function checkDone(receipts: readonly LogReceipt[], done: readonly Done[], trust: LogTrust): Promise<Logged | null> {
  if (receipts.length !== done.length) {
    throw new PeerError(`the answer shows ${receipts.length} entries of the log for ${done.length} things that it says were done; whoever stands before the server may have answered in its place. Nothing is taken for done`)
  }
  let last: Logged | null = null
  for (const [place, one] of done.entries()) {
    const [logged, opening] = await opened(receipts[place], trust)
    if (!says(opening, one)) throw new ProofError(`the log's entry is not about the ${one.kind} that this device asked for; nothing is taken for done`)
    last = grown(logged, receipts[place], trust)
  }
  return last
}

/**
 * Checks that a template is revoked: by this request, an earlier one, or otherwise. A revocation is never undone.
 *
 * @throws ProofError, MalformedMessageError as for `checkDone`.
 */
export async function checkRevoked(receipt: LogReceipt, keyId: Uint8Array, trust: LogTrust): Promise<Logged> {
  const [logged, opening] = await opened(receipt, trust)
  if (opening.kind !== 'revocation' || opening.facts['key_id'] !== hex(keyId)) {
    throw new ProofError("the log's entry is not about the revocation of this template; it is not taken for revoked")
  }
  return grown(logged, receipt, trust)
}

/** An entry that is in the log, and what stands behind it. */
async function opened(receipt: LogReceipt, { policy, now }: LogTrust): Promise<[LoggedEntry, Opening, Entry]> {
  const logged = new LoggedEntry(receipt.logged)
  await logged.require(policy, now)
  const [opening, entry] = [new Opening(receipt.opening), readEntry(logged.entry)]
  opening.check(entry)
  return [logged, opening, entry]
}

/** Where an entry stands in a log that only grew. */
function grown(logged: LoggedEntry, receipt: LogReceipt, { memory }: LogTrust): Logged {
  requireGrowth(memory, logged.checkpoint, receipt.consistency)
  return { position: logged.index, checkpoint: logged.checkpoint, note: new TextDecoder().decode(logged.note) }
}

/** Throws ProofError unless the tree of `newer` begins with the one that is remembered. */
function requireGrowth(memory: string | null, newer: SignedCheckpoint, proof: readonly Uint8Array[]): void {
  if (memory === null) {
    if (proof.length > 0) throw new ProofError('the log proves that it grew, to a device that remembers nothing of it; nothing is believed')
    return
  }
  const older = new SignedCheckpoint(utf8(memory))
  if (older.origin !== newer.origin) throw new ProofError('the checkpoint is of another log')
  if (newer.head.size < older.head.size) throw new ProofError('the log was rolled back: it has fewer entries than this device has seen')
  verifyConsistency(older.head, newer.head, proof)
}

/** The entry at `position` that `opening` stands behind, proved to be in the log. */
export async function checkHistory(data: Uint8Array, position: number, opening: Opening, keyId: Uint8Array, { policy, now }: LogTrust): Promise<Entry> {
  const logged = new LoggedEntry(data)
  await logged.require(policy, now)
  const entry = readEntry(logged.entry)
  opening.check(entry)
  if (logged.index !== position || opening.facts['key_id'] !== hex(keyId)) throw new ProofError(`entry ${position} of the log is not about this device`)
  return entry
}

/**
 * Throws ProofError unless the tombstone of an erasure stands in the log.
 *
 * @param revocation position of the revocation of this template: a tombstone names positions and nobody.
 */
export async function checkTombstone(receipt: LogReceipt, revocation: number, trust: LogTrust): Promise<number> {
  const [logged, opening] = await opened(receipt, trust)
  if (opening.kind !== 'erasure' || receipt.consistency.length > 0) throw new ProofError('what the server logged is no tombstone, or more than one')
  const { positions } = opening.facts
  if (!Array.isArray(positions) || !positions.includes(revocation)) {
    throw new ProofError("the tombstone is somebody else's: it does not name the revocation of this template")
  }
  return logged.index
}
