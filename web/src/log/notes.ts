/** Signed checkpoints and tlog-proofs, as C2SP writes them. As `federation/transparency/notes.py` and `proofs.py`. */

import { type Bytes, concat, equal, hex, sha256, utf8 } from '../bytes'
import { MalformedMessageError, ProofError } from '../errors'
import { EMPTY_ROOT, leafHash, type TreeHead, verifyInclusion } from './tree'

const MOST_NOTE_BYTES = 64 * 1024
const MOST_SIGNATURES = 32
const MOST_PROOF_BYTES = MOST_NOTE_BYTES + 2 * 65_535
const DASH = '\u2014'
const PROOF_HEADER = 'c2sp.org/tlog-proof@v1'
const NOTE = 1
const COSIGNATURE = 4
const COSIGNATURE_HEADER = 'cosignature/v1'
const LATEST = 2n ** 63n - 1n
const MOST_WITNESSES = 16
const MAX_AGE_SECONDS = 3600
const MAX_AHEAD_SECONDS = 60

/** Reads standard base64 in its one spelling. */
export function fromBase64(text: string): Bytes {
  let raw: string
  try {
    raw = atob(text)
  } catch {
    throw new MalformedMessageError('a field is not base64')
  }
  if (btoa(raw) !== text) throw new MalformedMessageError('a field is not base64 in its one spelling')
  return Uint8Array.from(raw, (character) => character.charCodeAt(0))
}

/** Of a log or a witness: no space, no control character, no +; as Python's `str.isspace` says. */
const isKeyName = (name: string): boolean => /^(?:[^\0-\x20+\x85\s]|\ufeff)+$/.test(name)

function decimal(text: string): number {
  if (!/^(?:0|[1-9][0-9]*)$/.test(text) || !Number.isSafeInteger(Number(text))) throw new MalformedMessageError('not a number of entries')
  return Number(text)
}

function text(data: Uint8Array, most: number): string {
  if (data.length > most) throw new MalformedMessageError(`at most ${most} bytes are read`)
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(data)
  } catch {
    throw new MalformedMessageError('a note is UTF-8')
  }
}

interface NoteSignature {
  readonly name: string
  readonly keyId: string
  readonly value: Bytes
}

/** A log's statement of its tree, with signatures that are not checked yet. */
export class SignedCheckpoint {
  readonly origin: string
  readonly head: TreeHead
  readonly #text: string
  readonly #signatures: readonly NoteSignature[]

  /** @throws MalformedMessageError not a signed checkpoint. */
  constructor(data: Uint8Array) {
    const content = text(data, MOST_NOTE_BYTES)
    const split = content.lastIndexOf('\n\n')
    if (split < 0 || !content.endsWith('\n')) throw new MalformedMessageError('a note has a text, a blank line and signatures')
    this.#text = content.slice(0, split + 1)
    const lines = content.slice(split + 2, -1).split('\n')
    if (lines.length > MOST_SIGNATURES || /[\0-\x09\x0b-\x1f]/.test(this.#text)) throw new MalformedMessageError('not a note')
    this.#signatures = lines.map((line) => {
      const [dash, name, encoded, ...more] = line.split(' ')
      if (dash !== DASH || !isKeyName(name) || !encoded || more.length > 0) throw new MalformedMessageError('not a signature line')
      const raw = fromBase64(encoded)
      if (raw.length < 5) throw new MalformedMessageError('a signature is not empty')
      return { name, keyId: hex(raw.subarray(0, 4)), value: raw.slice(4) }
    })
    const [origin, size, root, ...extensions] = this.#text.split('\n')
    if (root === undefined || [origin, ...extensions.slice(0, -1)].includes('')) throw new MalformedMessageError('a checkpoint has an origin, a size and a root, and no line that is empty')
    if (origin === COSIGNATURE_HEADER) throw new MalformedMessageError('the notes of such a log would look like cosignatures')
    this.origin = origin
    this.head = { size: decimal(size), root: fromBase64(root) }
    if (this.head.root.length !== 32 || (this.head.size === 0 && !equal(this.head.root, EMPTY_ROOT))) throw new MalformedMessageError('a root has 32 bytes, and that of an empty tree is the hash of nothing')
  }

  /**
   * Returns when the log signed plainly and with a time that is neither old nor in the future, and enough witnesses did lately.
   *
   * @throws ProofError it did not, or they did not.
   */
  async require({ key, witnesses, threshold }: LogPolicy, now: number): Promise<void> {
    if (this.origin !== key.origin) throw new ProofError(`the checkpoint is of another log than ${key.origin}`)
    const plain = this.#of(key, NOTE)
    for (const { value } of plain) await key.verify(value, utf8(this.#text))
    const time = await this.#dated(key)
    if (plain.length === 0 || time === null) throw new ProofError(`the checkpoint lacks a signature of ${key.origin}`)
    if (time > now + MAX_AHEAD_SECONDS) throw new ProofError('the checkpoint is dated in the future; check this clock')
    if (time < now - MAX_AGE_SECONDS) throw new ProofError(`the checkpoint is ${now - time} seconds old; at most ${MAX_AGE_SECONDS} are allowed`)
    let fresh = 0
    for (const witness of witnesses) {
      const seen = await this.#dated(witness)
      if (seen !== null && seen >= now - MAX_AGE_SECONDS && seen <= now + MAX_AHEAD_SECONDS) fresh += 1
    }
    if (fresh < threshold) throw new ProofError(`${fresh} witnesses signed the checkpoint lately, and ${threshold} are needed; nothing is believed`)
  }

  /** When `key` says that it signed, at the latest, in seconds since 1970; null when it did not. */
  async #dated(key: LogKey): Promise<number | null> {
    let time: number | null = null
    for (const { value } of this.#of(key, COSIGNATURE)) {
      const stated = new DataView(value.buffer).getBigUint64(0, false)
      if (stated > LATEST) throw new ProofError(`the cosignature of ${key.origin} has an impossible time`)
      await key.verify(value.slice(8), utf8(`${COSIGNATURE_HEADER}\ntime ${stated}\n${this.#text}`))
      time = Math.max(time ?? 0, Number(stated))
    }
    return time
  }

  #of(key: LogKey, kind: number): NoteSignature[] {
    const id = key.id(kind)
    const found = this.#signatures.filter((signature) => signature.name === key.origin && signature.keyId === id)
    const length = kind === COSIGNATURE ? 72 : 64
    if (found.some(({ value }) => value.length !== length)) throw new ProofError(`a signature of ${key.origin} has a wrong length`)
    return found
  }
}

/** The key of a log, or of a witness, in the form `name+key id+key`. */
export class LogKey {
  readonly origin: string
  readonly #key: Bytes

  /**
   * @param kind what it signs: a log a note, a witness a note with a time.
   * @throws MalformedMessageError not such a key.
   */
  constructor(encoded: string, kind: typeof NOTE | typeof COSIGNATURE = NOTE) {
    const parts = /^([^+]+)\+([0-9a-f]{8})\+(.*)$/s.exec(encoded)
    if (parts === null || !isKeyName(parts[1])) throw new MalformedMessageError('a verifier key is written NAME+ID+KEY')
    const raw = fromBase64(parts[3])
    this.origin = parts[1]
    this.#key = raw.slice(1)
    if (raw[0] !== kind || raw.length !== 33 || this.id(kind) !== parts[2]) throw new MalformedMessageError('the key id belongs to another key')
  }

  /** The public key itself, in hex. */
  get hex(): string {
    return hex(this.#key)
  }

  /** Which key of this name signed, in hex: 4 bytes of SHA-256 over name, kind and key. */
  id(kind: number): string {
    return hex(sha256(concat(utf8(`${this.origin}\n`), Uint8Array.of(kind), this.#key)).subarray(0, 4))
  }

  /** Throws ProofError unless `signature` is this key's over `message`. */
  async verify(signature: Bytes, message: Bytes): Promise<void> {
    const key = await crypto.subtle.importKey('raw', this.#key, 'Ed25519', false, ['verify'])
    if (!(await crypto.subtle.verify('Ed25519', key, signature, message))) throw new ProofError(`the signature of ${this.origin} does not verify`)
  }
}

/** Whom a device believes about a log, as the page's server tells it and the wallet keeps it. */
export interface WrittenPolicy {
  /** Of the log: name+key id+key. */
  readonly key: string
  /** Keys of the witnesses that count. */
  readonly witnesses: readonly string[]
  /** How many of them must have signed. */
  readonly threshold: number
}

/** Whom a device believes about a log, and how many witnesses must have cosigned. As `client.log.watching.LogTrust`. */
export class LogPolicy {
  readonly key: LogKey
  readonly witnesses: readonly LogKey[]
  readonly threshold: number

  /** @throws MalformedMessageError not such a policy. */
  constructor({ key, witnesses, threshold }: WrittenPolicy) {
    this.key = new LogKey(key)
    if (!Array.isArray(witnesses) || witnesses.length > MOST_WITNESSES) throw new MalformedMessageError(`a policy has at most ${MOST_WITNESSES} witnesses`)
    this.witnesses = witnesses.map((witness) => new LogKey(witness, COSIGNATURE))
    if (new Set([this.key, ...this.witnesses].map((one) => one.hex)).size !== 1 + witnesses.length) {
      throw new MalformedMessageError('log and witnesses have one key each, and no two the same')
    }
    if (!Number.isInteger(threshold) || threshold < 0 || threshold > witnesses.length) {
      throw new MalformedMessageError(`the threshold is 0 to ${witnesses.length}, the number of witnesses`)
    }
    this.threshold = threshold
  }
}

/** An entry with the proof that it is in the log. */
export class LoggedEntry {
  readonly entry: Bytes
  readonly index: number
  readonly checkpoint: SignedCheckpoint
  /** The signed checkpoint as it came. */
  readonly note: Bytes
  readonly #proof: readonly Bytes[]

  /** @throws MalformedMessageError not a tlog-proof whose extra data is an entry. */
  constructor(data: Uint8Array) {
    const content = text(data, MOST_PROOF_BYTES)
    const split = content.indexOf('\n\n')
    if (split < 0) throw new MalformedMessageError('a proof has lines, a blank line and a checkpoint')
    const [header, extra, index, ...proof] = content.slice(0, split).split('\n')
    if (header !== PROOF_HEADER || !extra?.startsWith('extra ') || !index?.startsWith('index ')) {
      throw new MalformedMessageError(`a proof begins with ${PROOF_HEADER}, the entry and its index`)
    }
    this.entry = fromBase64(extra.slice(6))
    this.index = decimal(index.slice(6))
    this.#proof = proof.map(fromBase64)
    this.note = utf8(content.slice(split + 2))
    this.checkpoint = new SignedCheckpoint(this.note)
  }

  /**
   * Returns when the entry is in the log that `policy` names.
   *
   * @throws ProofError it is not, or the checkpoint is not to be believed.
   */
  async require(policy: LogPolicy, now: number): Promise<void> {
    await this.checkpoint.require(policy, now)
    verifyInclusion(leafHash(this.entry), this.index, this.checkpoint.head, this.#proof)
  }
}

