/**
 * The wallet: everything secret that one device holds, in the browser's database.
 *
 * The signing key is a WebCrypto key that no script can read. The homomorphic key and the code seed have to be read, so
 * they lie under AES-GCM with a key that no script can export. That keeps them out of anything that copies the record's
 * bytes. It is no protection against somebody who copies the whole browser profile, nor against a script that runs in
 * this page's origin, which can use what it cannot read; the content security policy is there to keep that out.
 *
 * A record is written in one transaction: a crash leaves the old one or the new one. Two pages of one browser take turns
 * through a lock.
 */

import { type Bytes, concat, randomBytes, utf8 } from '../bytes'
import { RefusedError, UsageError } from '../errors'
import { CodeSeed } from '../onebit/code'
import { DeviceSecret } from '../onebit/device'
import type { Engine } from '../onebit/seal'
import type { ReleaseTrust } from '../rules/manifest'
import type { RulesSeen } from '../rules/rulebook'

const DATABASE = 'intaglio'
const STORE = 'wallet'
const ONLY = 'device'
const VERSION = 2
const NONCE_BYTES = 12
const CODE_SEED_BYTES = 32

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
  /** Of the transparency log that this device believes: name+key id+key. */
  readonly logKey: string
  /** Identifier of the deployment in the public rules. */
  readonly deployment: string
  /** Whose signatures on a model release count. */
  readonly trust: ReleaseTrust
  readonly state: EnrolmentState
  /** Signed receipts in canonical form, oldest first; the last one counts. */
  readonly receipts: readonly string[]
  /** Sessions that this device let begin. */
  readonly answers: number
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

/** The secrets of one device. */
export class Wallet {
  readonly deviceSecret: DeviceSecret
  readonly codeSeed: CodeSeed
  /** Ed25519 public key of the device. */
  readonly devicePublicKey: Bytes
  readonly #signingKey: CryptoKey
  readonly #sealingKey: CryptoKey
  #memory: Memory

  private constructor(stored: Omit<Stored, 'nonce' | 'sealed' | 'version'>, deviceSecret: DeviceSecret, codeSeed: CodeSeed, memory: Memory) {
    this.deviceSecret = deviceSecret
    this.codeSeed = codeSeed
    this.devicePublicKey = stored.devicePublicKey
    this.#signingKey = stored.signingKey
    this.#sealingKey = stored.sealingKey
    this.#memory = memory
  }

  /**
   * Fresh secrets, stored before they are used.
   *
   * @throws UsageError the browser does not store.
   */
  static async create(engine: Engine): Promise<Wallet> {
    const pair = (await crypto.subtle.generateKey('Ed25519', false, ['sign', 'verify'])) as CryptoKeyPair
    const sealingKey = await crypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt'])
    const devicePublicKey = new Uint8Array(await crypto.subtle.exportKey('raw', pair.publicKey))
    const keys = { signingKey: pair.privateKey, sealingKey, devicePublicKey }
    const memory: Memory = { enrolment: null, checkpoint: null, rules: null }
    const wallet = new Wallet(keys, DeviceSecret.generate(engine, randomBytes), CodeSeed.generate(randomBytes), memory)
    await wallet.#store()
    return wallet
  }

  /**
   * The stored wallet, or null when there is none.
   *
   * @throws UsageError it is damaged, or of another version.
   */
  static async open(engine: Engine): Promise<Wallet | null> {
    const stored = await transact<Stored | undefined>('readonly', (store) => store.get(ONLY))
    if (stored === undefined) return null
    if (stored.version !== VERSION) throw new UsageError('another version of this page wrote the wallet; delete it and enrol again')
    let content: Bytes
    try {
      content = new Uint8Array(await crypto.subtle.decrypt(algorithm(stored.nonce, stored.devicePublicKey), stored.sealingKey, stored.sealed))
    } catch {
      throw new UsageError('the wallet is damaged; delete it and enrol again') // the cause may say more than is good
    }
    const length = new DataView(content.buffer).getUint32(0, true)
    const memory = JSON.parse(new TextDecoder().decode(content.subarray(4, 4 + length))) as Memory
    const secrets = content.subarray(4 + length)
    return new Wallet(
      stored,
      DeviceSecret.fromSecretBytes(engine, secrets.subarray(CODE_SEED_BYTES)),
      new CodeSeed(secrets.slice(0, CODE_SEED_BYTES)),
      memory,
    )
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

  /** Name of this device towards the server. */
  get keyId(): Bytes {
    return this.deviceSecret.keyId
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
    const before = this.#memory
    this.#memory = { ...before, ...change }
    try {
      await this.#store()
    } catch (error) {
      this.#memory = before
      throw error
    }
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
      throw new RefusedError(`this device has answered ${MOST_ANSWERS} sessions, all that one template may; revoke it and enrol again`)
    }
    await this.remember({ enrolment: { ...enrolment, answers: enrolment.answers + 1 } })
  }

  /** Wipes the homomorphic key from SEAL's memory; the object cannot be used any more. */
  [Symbol.dispose](): void {
    this.deviceSecret[Symbol.dispose]()
  }

  async #store(): Promise<void> {
    const memory = utf8(JSON.stringify(this.#memory))
    const length = new Uint8Array(Uint32Array.of(memory.length).buffer)
    const content = concat(length, memory, this.codeSeed.secretBytes(), this.deviceSecret.secretBytes())
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
    throw new UsageError('this browser does not store the wallet; leave private browsing, or make room', { cause: error })
  }
}

