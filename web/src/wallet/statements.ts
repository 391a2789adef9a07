/**
 * Signed statements: one canonical form of JSON, and Ed25519 signatures over it. As `federation/statements.py`.
 *
 * The canonical form is a strict subset of RFC 8785. A reader builds its value and writes it again: bytes that come out
 * different were not canonical.
 */

import { type Bytes, concat, equal, fromHex, utf8 } from '../bytes'
import { MalformedMessageError, ProofError, UsageError } from '../errors'

/** What a statement may hold. */
export type JsonValue = string | number | readonly JsonValue[] | { readonly [key: string]: JsonValue }

const MOST_BYTES = 32 * 1024
/** As `requireName` asks for it. */
export const NAME = /^[a-z0-9](?:[a-z0-9._/-]{0,62}[a-z0-9])?$/
const JURISDICTION = /^[A-Z]{2}(?:-[A-Z0-9]{1,3})?$/
const ADDRESS = /^(?:https:\/\/|mailto:|tel:)[!-~]{3,250}$/
const PRINTABLE = /^(?:[^\p{C}\p{Z}]| )*$/u
const TIME = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$/
const [EARLIEST, LATEST] = [946_684_800, 253_402_300_799] // the years 2000 and 9999

/**
 * The one form of `value`.
 *
 * @throws UsageError it holds another type, a fraction, an integer beyond 2^53 or text that is not NFC.
 */
export function canonicalBytes(value: JsonValue): Bytes {
  return utf8(JSON.stringify(ordered(value)))
}

function ordered(value: JsonValue): JsonValue {
  if (typeof value === 'string') {
    if (value !== value.normalize('NFC') || !value.isWellFormed()) throw new UsageError('text of a statement is in Unicode NFC')
    return value
  }
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value)) throw new UsageError('a statement holds whole numbers up to 2^53')
    return value
  }
  if (Array.isArray(value)) return value.map(ordered)
  if (typeof value !== 'object' || value === null) throw new UsageError('a statement holds objects, lists, text and whole numbers')
  const entries = Object.entries(value as { readonly [key: string]: JsonValue })
  if (entries.some(([key]) => /[^\0-\x7f]/.test(key))) throw new UsageError('keys of a statement are ASCII text')
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, item]) => [key, ordered(item)]))
}

/**
 * The statement that `data` is the canonical form of.
 *
 * @param build makes the statement from foreign JSON; may throw whatever a wrong object provokes.
 * @throws MalformedMessageError any bytes that the statement does not give back exactly.
 */
export function parse<S extends { toBytes(): Bytes }>(data: Uint8Array, build: (value: any) => S, what: string): S {
  if (data.length > MOST_BYTES) throw new MalformedMessageError(`${what} has at most ${MOST_BYTES} bytes, this one ${data.length}`)
  let statement: S
  let same: boolean
  try {
    statement = build(JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(data)))
    same = equal(statement.toBytes(), data)
  } catch (error) {
    throw new MalformedMessageError(`the bytes are not ${what} of this version`, { cause: error })
  }
  if (!same) throw new MalformedMessageError(`${what} is not in canonical form`)
  return statement
}

/** What a signature covers: a tag that names the kind of statement, a zero byte, and the statement. */
export const tagged = (tag: string, body: Uint8Array): Bytes => concat(utf8(tag), Uint8Array.of(0), body)

/**
 * Returns when `signature` is that of `publicKey` (both in hex) over tag and body.
 *
 * @throws ProofError it is not.
 */
export async function requireSigned(tag: string, body: Uint8Array, publicKey: string, signature: string): Promise<void> {
  const key = await crypto.subtle.importKey('raw', fromHex(publicKey), 'Ed25519', false, ['verify'])
  if (!(await crypto.subtle.verify('Ed25519', key, fromHex(signature), tagged(tag, body)))) {
    throw new ProofError('the signature is not that of the key over this statement')
  }
}

/** ISO 8601 in UTC to the second. */
export function textOfTime(seconds: number): string {
  requireTime(seconds)
  return `${new Date(1000 * seconds).toISOString().slice(0, 19)}Z`
}

/** Reads `textOfTime`. Throws RangeError on anything else. */
export function timeOfText(text: string): number {
  const seconds = Date.parse(text) / 1000
  if (!TIME.test(text) || textOfTime(seconds) !== text) throw new RangeError('not a time')
  return seconds
}

/** Throws UsageError unless `seconds` is a whole number of seconds between the years 2000 and 9999. */
export function requireTime(seconds: number): void {
  if (!Number.isInteger(seconds) || seconds < EARLIEST || seconds > LATEST) {
    throw new UsageError('a time is a whole number of seconds since 1970, between the years 2000 and 9999')
  }
}

/** Throws UsageError unless `text` is 1 to 64 of a-z 0-9 . _ / - with a letter or digit at both ends. */
export function requireName(what: string, text: string): void {
  if (typeof text !== 'string' || !NAME.test(text)) throw new UsageError(`${what} is no name`)
}

/** Throws UsageError unless `text` is an ISO 3166 code such as DE or US-CA, or EU. */
export function requireJurisdiction(text: string): void {
  if (typeof text !== 'string' || !JURISDICTION.test(text)) throw new UsageError('a jurisdiction is an ISO 3166 code, or EU')
}

/** Throws UsageError unless `text` is an address that a person can use. */
export function requireAddress(what: string, text: string): void {
  if (typeof text !== 'string' || !ADDRESS.test(text)) throw new UsageError(`${what} begins with https://, mailto: or tel:`)
}

/** Throws UsageError unless `text` is printable, of `least` to `most` characters, without spaces around it. */
export function requireText(what: string, text: string, least = 1, most = 500): void {
  const length = typeof text === 'string' ? [...text].length : 0
  if (length < least || length > most || text !== text.trim() || !PRINTABLE.test(text)) {
    throw new UsageError(`${what} needs ${least} to ${most} printable characters, with no spaces around them`)
  }
}

/** Throws UsageError unless both are times and the period has a length. */
export function requirePeriod(what: string, begins: number, ends: number): void {
  requireTime(begins)
  requireTime(ends)
  if (begins >= ends) throw new UsageError(`${what} must end after it begins`)
}

/** Throws UsageError unless `text` is `length` bytes in hex. */
export function requireHex(what: string, text: string, length: number): void {
  if (typeof text !== 'string' || text.length !== 2 * length || !/^[0-9a-f]*$/.test(text)) throw new UsageError(`${what} has ${length} bytes`)
}

/** Throws UsageError unless `value` has `length` bytes. */
export function requireLength(what: string, value: Uint8Array, length: number): void {
  if (value.length !== length) throw new UsageError(`${what} has ${length} bytes`)
}
