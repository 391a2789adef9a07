/** What the log says, and what stands behind it. As `federation/transparency/entries.py` and `client/logged.py`. */

import { concat, fromHex, hex, sha256, utf8 } from '../bytes'
import { MalformedMessageError, ProofError } from '../errors'
import { LoggedEntry, type LogKey, SignedCheckpoint } from './notes'
import { verifyConsistency } from './tree'

const TAG = utf8('intaglio-log-commitment/1\0')

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
}

/** Canonical JSON: ASCII, keys sorted, no spaces. */
export function canonical(value: unknown): string {
  const ordered = JSON.stringify(value, (_, item: unknown) =>
    item !== null && typeof item === 'object' && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : 1)))
      : item)
  return ordered.replace(/[\x80-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

function parsed(data: Uint8Array, what: string): Record<string, unknown> {
  try {
    const content = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(data)
    const value = JSON.parse(content) as Record<string, unknown>
    if (canonical(value) !== content || typeof value !== 'object' || value === null) throw new RangeError('not canonical')
    return value
  } catch {
    throw new MalformedMessageError(`${what} is not canonical JSON`) // the cause could quote personal data
  }
}

/** Reads an entry. Throws MalformedMessageError when it is none of this version. */
export function readEntry(data: Uint8Array): Entry {
  const value = parsed(data, 'an entry')
  if (typeof value['kind'] !== 'string' || !Number.isSafeInteger(value['time']) || value['version'] !== 1) {
    throw new MalformedMessageError('an entry has a kind, a time and a version')
  }
  return value as unknown as Entry
}

/** Salt and facts behind an entry's commitment. Personal data. */
export class Opening {
  readonly kind: string
  readonly facts: Readonly<Record<string, unknown>>
  readonly #salt: Uint8Array

  /** @throws MalformedMessageError not an opening. */
  constructor(data: Uint8Array) {
    const { kind, facts, salt } = parsed(data, 'an opening')
    if (typeof kind !== 'string' || typeof salt !== 'string' || !/^[0-9a-f]{64}$/.test(salt) || typeof facts !== 'object' || facts === null) {
      throw new MalformedMessageError('an opening has a kind, facts and a salt')
    }
    this.kind = kind
    this.facts = facts as Record<string, unknown>
    this.#salt = fromHex(salt)
  }

  /** Throws ProofError unless this is what stands behind `entry`. */
  check(entry: Entry): void {
    const commitment = sha256(concat(TAG, utf8(`${this.kind}\0`), this.#salt, utf8(canonical(this.facts))))
    if (entry.kind !== this.kind || entry.commitment !== hex(commitment)) throw new ProofError('the opening does not belong to this entry')
  }
}

/** As in the protocol: that a request stands in the log. */
export interface LogReceipt {
  readonly logged: Uint8Array
  readonly opening: Uint8Array
  readonly consistency: readonly Uint8Array[]
}

/** What a device must know to believe that its comparison was logged. */
export interface Expectation {
  readonly keyId: Uint8Array
  readonly transcript: Uint8Array
  /** As it came: the server logged its digest before it sent it. */
  readonly reply: Uint8Array
  readonly requester: string
  readonly purpose: string
  /** The last checkpoint that the device believed, or null. */
  readonly memory: string | null
  readonly logKey: LogKey
  /** Seconds since 1970. */
  readonly now: number
}

/** Where a comparison stands. */
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
  const logged = new LoggedEntry(receipt.logged)
  await logged.require(expected.logKey, expected.now)
  const entry = readEntry(logged.entry)
  const opening = new Opening(receipt.opening)
  opening.check(entry)
  const facts = canonical({ key_id: hex(expected.keyId), reply: hex(sha256(expected.reply)), transcript: hex(sha256(expected.transcript)) })
  if (entry.kind !== 'attempt' || canonical(opening.facts) !== facts) {
    throw new ProofError("the log's entry is about something else than this comparison; nothing was opened")
  }
  if (entry.requester !== expected.requester || entry.purpose !== expected.purpose || entry.outcome !== 'opened') {
    throw new ProofError('the log does not say who asked and what for; nothing was opened')
  }
  requireGrowth(expected.memory, logged.checkpoint, receipt.consistency)
  return { position: logged.index, checkpoint: logged.checkpoint, note: new TextDecoder().decode(logged.note) }
}

/** Throws ProofError unless the tree of `newer` begins with the one that is remembered. */
function requireGrowth(memory: string | null, newer: SignedCheckpoint, proof: readonly Uint8Array[]): void {
  if (memory === null) return
  const older = new SignedCheckpoint(utf8(memory))
  if (older.origin !== newer.origin) throw new ProofError('the checkpoint is of another log')
  if (newer.head.size < older.head.size) throw new ProofError('the log was rolled back: it has fewer entries than this device has seen')
  if (older.head.size > 0) verifyConsistency(older.head, newer.head, proof)
}

/** The entry at `position` that `opening` stands behind, proved to be in the log. */
export async function checkHistory(data: Uint8Array, position: number, opening: Opening, keyId: Uint8Array, logKey: LogKey, now: number): Promise<Entry> {
  const logged = new LoggedEntry(data)
  await logged.require(logKey, now)
  const entry = readEntry(logged.entry)
  opening.check(entry)
  if (logged.index !== position || opening.facts['key_id'] !== hex(keyId)) throw new ProofError(`entry ${position} of the log is not about this device`)
  return entry
}

/** Throws ProofError unless the tombstone of an erasure stands in the log. */
export async function checkTombstone(receipt: LogReceipt, logKey: LogKey, now: number): Promise<number> {
  const logged = new LoggedEntry(receipt.logged)
  await logged.require(logKey, now)
  const opening = new Opening(receipt.opening)
  opening.check(readEntry(logged.entry))
  if (opening.kind !== 'erasure') throw new ProofError('what the server logged is no tombstone')
  return logged.index
}
