/**
 * The wallet: everything secret that one device holds, in the browser's database.
 *
 * The signing key is a WebCrypto key that no script can read. Code seed and pad of the template have to be read, so they
 * lie under AES-GCM with a key that no script can export. No homomorphic key is ever here: those live for one session.
 * Encryption keeps the secrets out of anything that copies the record's bytes. It is no protection against somebody who
 * copies the whole browser profile, nor against a script that runs in this page's origin, which can use what it cannot
 * read; the content security policy is there to keep that out.
 *
 * A record is written in one transaction: a crash leaves the old one or the new one. Two pages of one browser take turns
 * through a lock.
 */

import { type Bytes, concat, randomBytes, sha256, utf8 } from '../bytes'
import { RefusedError, UsageError } from '../errors'
import type { WrittenPolicy } from '../log/notes'
import { TemplateSecret } from '../onebit/template'
import type { ReleaseTrust } from '../rules/manifest'
import type { RulesSeen } from '../rules/rulebook'

const DATABASE = 'intaglio'
const STORE = 'wallet'
const ONLY = 'device'
const VERSION = 4
const NONCE_BYTES = 12

/** Sessions that one template's device answers in its life: a lying server learns at most one bit in each. */
export const MOST_ANSWERS = 500

/** How far this device got. The server's word counts; this is what the device remembers of it. */
export type EnrolmentState = 'started' | 'enrolled' | 'revoked'

/** Where and for what this device enrolled. */
export interface Enrolment {
  readonly purpose: string
  readonly audience: string
  /** SHA-256 of the model release, in hex. */
  readonly releaseDigest: string
  /** Which log this device believes, and behind how many witnesses. */
  readonly log: WrittenPolicy
  /** Identifier of the deployment in the public rules. */
  readonly deployment: string
  /** Whose signatures on a model release count. */
  readonly trust: ReleaseTrust
  readonly state: EnrolmentState
  /** Signed receipts in canonical form, oldest first; the last one counts. */
  readonly receipts: readonly string[]
  /** Sessions that this device let begin. */
  readonly answers: number
  /** Comparisons in a row that were no match, as far as this device knows: the server makes it wait after some. */
  readonly failures: number
}

/** What the device remembers besides its secrets. */
export interface Memory {
  readonly enrolment: Enrolment | null
  /** The last checkpoint of the log that the device believed, or null. */
  readonly checkpoint: string | null
  /** What the device has seen of the public rules, with their signers, or null. */
  readonly rules: RulesSeen | null
}

/** As stored. `sealed` holds secrets and memory under `sealingKey`. */
interface Stored {
  readonly version: number
  readonly signingKey: CryptoKey
  readonly devicePublicKey: Bytes
  readonly sealingKey: CryptoKey
  readonly nonce: Bytes
  readonly sealed: Bytes
}

/** The wallet holds keys of an earlier version of this page, for templates that no server uses any more. */
export class OutdatedWalletError extends UsageError {}

/** The secrets of one device. */
export class Wallet {
  /** Ed25519 public key of the device. */
  readonly devicePublicKey: Bytes
  /** Name of this device's template towards the server: SHA-256 of the public key. */
  readonly keyId: Bytes
  readonly #signingKey: CryptoKey
  readonly #sealingKey: CryptoKey
  #secret: TemplateSecret | null
  #memory: Memory

  private constructor(stored: Omit<Stored, 'nonce' | 'sealed' | 'version'>, secret: TemplateSecret | null, memory: Memory) {
    this.devicePublicKey = stored.devicePublicKey
    this.keyId = sha256(stored.devicePublicKey)
    this.#signingKey = stored.signingKey
    this.#sealingKey = stored.sealingKey
    this.#secret = secret
    this.#memory = memory
  }

  /**
   * A fresh signing key, stored before it is used. Takes the place of a wallet that is there.
   *
   * @throws UsageError the browser does not store.
   */
  static async create(): Promise<Wallet> {
    const pair = (await crypto.subtle.generateKey('Ed25519', false, ['sign', 'verify'])) as CryptoKeyPair
    const sealingKey = await crypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt'])
    const devicePublicKey = new Uint8Array(await crypto.subtle.exportKey('raw', pair.publicKey))
    const wallet = new Wallet({ signingKey: pair.privateKey, sealingKey, devicePublicKey }, null, { enrolment: null, checkpoint: null, rules: null })
    await wallet.#store()
    return wallet
  }

  /**
   * The stored wallet, or null when there is none.
   *
   * @throws OutdatedWalletError it is of an earlier version: enrol again.
   * @throws UsageError it is damaged, or of a later version.
   */
  static async open(): Promise<Wallet | null> {
    const stored = await transact<Stored | undefined>('readonly', (store) => store.get(ONLY))
    if (stored === undefined) return null
    if (stored.version < VERSION) throw new OutdatedWalletError('the wallet is of an earlier version, whose templates are not used any more; enrol again')
    if (stored.version !== VERSION) throw new UsageError('a later version of this page wrote the wallet; load the page anew', { why: { name: 'why.later_version' } })
    let content: Bytes
    try {
      content = new Uint8Array(await crypto.subtle.decrypt(algorithm(stored.nonce, stored.devicePublicKey), stored.sealingKey, stored.sealed))
    } catch {
      throw new UsageError('the wallet is damaged; delete it and enrol again', { why: { name: 'why.damaged_wallet' } }) // the cause may say more than is good
    }
    const length = new DataView(content.buffer).getUint32(0, true)
    const memory = JSON.parse(new TextDecoder().decode(content.subarray(4, 4 + length))) as Memory
    const secret = content.subarray(4 + length)
    return new Wallet(stored, secret.length === 0 ? null : TemplateSecret.fromSecretBytes(secret), memory)
  }

  /** Deletes the stored wallet, for good. The server keeps what it has: revoke or erase first. */
  static async delete(): Promise<void> {
    await transact('readwrite', (store) => store.delete(ONLY))
  }

  /** Runs `work` while no other page of this browser uses the wallet. */
  static exclusively<T>(work: () => Promise<T>): Promise<T> {
    return navigator.locks.request('intaglio wallet', work) as Promise<T>
  }

  /** What the device remembers. */
  get memory(): Memory {
    return this.#memory
  }

  /**
   * Secret of the template that was enrolled, or is about to be.
   *
   * @throws UsageError there is none.
   */
  requireSecret(): TemplateSecret {
    this.requireEnrolment()
    if (this.#secret === null) throw new UsageError('this device is not enrolled; enrol first')
    return this.#secret
  }

  /** Ed25519 with the device key; 64 bytes. */
  async sign(message: Bytes): Promise<Bytes> {
    return new Uint8Array(await crypto.subtle.sign('Ed25519', this.#signingKey, message))
  }

  /**
   * Remembers, on disk before it returns.
   *
   * @throws UsageError the browser does not store; nothing changed.
   */
  async remember(change: Partial<Memory>): Promise<void> {
    await this.#replace(this.#secret, { ...this.#memory, ...change })
  }

  /**
   * Puts an enrolment with the secret of its template in the place of what was there, on disk before it returns.
   *
   * @param secret drawn for this enrolment, and for no other.
   */
  async begin(secret: TemplateSecret, enrolment: Enrolment): Promise<void> {
    await this.#replace(secret, { ...this.#memory, enrolment })
  }

  /**
   * Forgets the secret of a template that came to nothing, or that the server has deleted, on disk before it returns.
   *
   * @param change what else is then true of the enrolment.
   */
  async forget(change: Partial<Enrolment>): Promise<void> {
    const { enrolment } = this.#memory
    await this.#replace(null, { ...this.#memory, enrolment: enrolment && { ...enrolment, ...change } })
  }

  /**
   * The enrolment.
   *
   * @throws UsageError none was ever begun, or it was revoked.
   */
  requireEnrolment(): Enrolment {
    const { enrolment } = this.#memory
    if (enrolment === null) throw new UsageError('this device is not enrolled; enrol first')
    if (enrolment.state === 'revoked') throw new UsageError('this template was revoked for good; make a new one and enrol again')
    return enrolment
  }

  /**
   * Counts one more session on disk, before anything leaves that a lying server could have answered.
   *
   * @throws RefusedError this template's device has answered often enough.
   */
  async countAnswer(): Promise<void> {
    const enrolment = this.requireEnrolment()
    if (enrolment.answers >= MOST_ANSWERS) {
      throw new RefusedError(`this device has answered ${MOST_ANSWERS} sessions, all that one template may; revoke it and enrol again`, { why: { name: 'why.answers', values: { most: MOST_ANSWERS } } })
    }
    await this.remember({ enrolment: { ...enrolment, answers: enrolment.answers + 1 } })
  }

  async #replace(secret: TemplateSecret | null, memory: Memory): Promise<void> {
    const before = [this.#secret, this.#memory] as const
    ;[this.#secret, this.#memory] = [secret, memory]
    try {
      await this.#store()
    } catch (error) {
      ;[this.#secret, this.#memory] = before
      throw error
    }
  }

  async #store(): Promise<void> {
    const memory = utf8(JSON.stringify(this.#memory))
    const length = new Uint8Array(Uint32Array.of(memory.length).buffer)
    const content = concat(length, memory, this.#secret?.secretBytes() ?? new Uint8Array())
    const nonce = randomBytes(NONCE_BYTES) // fresh for every write, so no key ever encrypts twice
    const sealed = new Uint8Array(await crypto.subtle.encrypt(algorithm(nonce, this.devicePublicKey), this.#sealingKey, content))
    content.fill(0)
    const { devicePublicKey } = this
    const stored: Stored = { version: VERSION, signingKey: this.#signingKey, sealingKey: this.#sealingKey, devicePublicKey, nonce, sealed }
    await transact('readwrite', (store) => store.put(stored, ONLY))
  }
}

function algorithm(iv: Bytes, additionalData: Bytes): AesGcmParams {
  return { name: 'AES-GCM', iv, additionalData }
}

/** One request in one transaction, forced to disk. */
async function transact<T>(mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest): Promise<T> {
  try {
    const database = await new Promise<IDBDatabase>((resolve, reject) => {
      const request = indexedDB.open(DATABASE, 1)
      request.onupgradeneeded = () => { request.result.createObjectStore(STORE) }
      request.onsuccess = () => { resolve(request.result) }
      request.onerror = () => { reject(request.error ?? new Error('no database')) }
    })
    try {
      return await new Promise<T>((resolve, reject) => {
        const transaction = database.transaction(STORE, mode, { durability: 'strict' })
        const request = act(transaction.objectStore(STORE))
        transaction.oncomplete = () => { resolve(request.result as T) }
        transaction.onabort = () => { reject(transaction.error ?? new Error('aborted')) }
      })
    } finally {
      database.close()
    }
  } catch (error) {
    throw new UsageError('this browser does not store the wallet; leave private browsing, or make room', { cause: error, why: { name: 'why.no_storage' } })
  }
}

