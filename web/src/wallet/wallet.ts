/**
 * The wallet: everything secret that one device holds, in the browser's database, behind a lock.
 *
 * Signing key, code seed and pad, and what the device remembers lie under AES-GCM with a key that is stored nowhere: a passkey
 * or a passphrase gives it for one use (`locks.ts`). The signing key crosses to WebCrypto and back without any script seeing
 * it. In clear stands only what the page shows before it is unlocked, authenticated with the rest. No homomorphic key is ever
 * here: those live for one session. So a copy of the browser's profile is worth nothing without the lock's owner. What is left
 * is a script that runs in this page's origin while the wallet is open; the content security policy is there to keep that out.
 *
 * A record is written in one transaction: a crash leaves the old one or the new one. Two pages of one browser take turns
 * through a lock.
 *
 * Beside the wallet lies its successor while the person comes over to another release: a template has a key of its own, and
 * nobody knows yet which of the two counts. The successor takes the wallet's place in one transaction.
 */

import { type Bytes, concat, equal, hex, randomBytes, sha256, utf8 } from '../bytes'
import { RefusedError, UsageError } from '../errors'
import type { WrittenPolicy } from '../log/notes'
import { TemplateSecret } from '../onebit/template'
import type { ReleaseTrust } from '../rules/manifest'
import type { RulesSeen } from '../rules/rulebook'
import { type Key, type Lock, lockText, sealingKey, wrongKey } from './locks'
import type { Names } from './names'
import { SignedReceipt } from './receipts'
import { type EnrolmentState, isOver } from './state'

const DATABASE = 'intaglio'
const STORE = 'wallet'
const ONLY = 'device'
const NEXT = 'successor'
type Place = typeof ONLY | typeof NEXT
const VERSION = 5
const NONCE_BYTES = 12

/** Sessions that one template's device answers in its life: a lying server learns at most one bit in each. */
export const MOST_ANSWERS = 500

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
  /** What the person calls their devices. */
  readonly names: Names
}

const NOTHING: Memory = { enrolment: null, checkpoint: null, rules: null, names: {} }

/** What stands in clear: what the page shows before anybody unlocks. */
export interface Shown {
  readonly lock: Lock
  /** Short name of the device. */
  readonly name: string
  readonly state: EnrolmentState | 'none'
  readonly answers: number
  /** Comparisons in a row that were no match. */
  readonly failures: number
  /** Seconds since 1970, or null without a consent. */
  readonly consentExpires: number | null
  /** The newest consent towards each audience: what for, and until when. */
  readonly agreed: readonly (readonly [audience: string, purposes: readonly string[], until: number])[]
  readonly trust: ReleaseTrust | null
  /** SHA-256 of the model release that was enrolled under, in hex; not there in what was written before people came over. */
  readonly release?: string
}

/** As stored. `signing` is the device's key, `sealed` memory and secret of the template; both lie under the lock's key. */
interface Stored {
  readonly version: number
  readonly devicePublicKey: Bytes
  readonly shown: Shown
  readonly signingNonce: Bytes
  readonly signing: Bytes
  readonly nonce: Bytes
  readonly sealed: Bytes
  /** SHA-256 of all before: tells damage from a wrong key. */
  readonly digest: Bytes
}

/** The wallet holds keys of an earlier version of this page, for templates that no server uses any more. */
export class OutdatedWalletError extends UsageError {}

/** The secrets of one device, unlocked. */
export class Wallet {
  /** Ed25519 public key of the device. */
  readonly devicePublicKey: Bytes
  /** Name of this device's template towards the server: SHA-256 of the public key. */
  readonly keyId: Bytes
  readonly #lock: Lock
  #place: Place
  readonly #sealingKey: CryptoKey
  readonly #signingKey: CryptoKey
  /** The signing key as it is stored; it is written anew as it is. */
  readonly #wrapped: Pick<Stored, 'signing' | 'signingNonce'>
  #secret: TemplateSecret | null = null
  #memory: Memory = NOTHING

  private constructor(place: Place, devicePublicKey: Bytes, lock: Lock, sealing: CryptoKey, signingKey: CryptoKey, { signing, signingNonce }: Pick<Stored, 'signing' | 'signingNonce'>) {
    this.#place = place
    this.devicePublicKey = devicePublicKey
    this.keyId = sha256(devicePublicKey)
    this.#lock = lock
    this.#sealingKey = sealing
    this.#signingKey = signingKey
    this.#wrapped = { signing, signingNonce }
  }

  /**
   * A fresh signing key, stored before it is used. Takes the place of a wallet that is there.
   *
   * @param key what locks it from now on.
   * @throws UsageError the browser does not store, or the key is too short.
   */
  static create(key: Key): Promise<Wallet> {
    return Wallet.#create(key, ONLY)
  }

  /**
   * The wallet whose template shall take the place of the one that is there; made when there is none yet.
   *
   * Of a try that the server says it never heard of the key is used again, as `newWallet` of the worker does it.
   *
   * @param key of the wallet that is there.
   */
  static async successor(key: Key): Promise<Wallet> {
    const begun = await Wallet.#open(key.secret, NEXT)
    return begun === null || isOver(begun.memory.enrolment?.state ?? 'none') ? await Wallet.#create(key, NEXT) : begun
  }

  /** The successor of a try that broke off, or null. @param secret what the lock of the wallet needs. */
  static begun(secret: Bytes): Promise<Wallet | null> {
    return Wallet.#open(secret, NEXT)
  }

  /** Takes the place of the wallet that this one succeeds, whose key and secret are then gone: all or nothing, on disk. */
  async takePlace(): Promise<void> {
    if (this.#place === ONLY) return
    const record = await this.#record()
    await transact('readwrite', (store) => { store.put(record, ONLY); return store.delete(NEXT) })
    this.#place = ONLY
  }

  static async #create(key: Key, place: Place): Promise<Wallet> {
    const pair = (await crypto.subtle.generateKey('Ed25519', true, ['sign', 'verify'])) as CryptoKeyPair
    const devicePublicKey = new Uint8Array(await crypto.subtle.exportKey('raw', pair.publicKey))
    const sealing = await sealingKey(key, devicePublicKey)
    const signingNonce = randomBytes(NONCE_BYTES)
    const signing = new Uint8Array(await crypto.subtle.wrapKey('pkcs8', pair.privateKey, sealing, algorithm(signingNonce, devicePublicKey)))
    const wrapped = { signing, signingNonce }
    const wallet = new Wallet(place, devicePublicKey, key.lock, sealing, await unwrapped(sealing, devicePublicKey, wrapped), wrapped)
    await wallet.#store()
    return wallet
  }

  /**
   * What the page shows of the stored wallet before it is unlocked, or null when there is none. Nobody vouches for it yet.
   *
   * @throws OutdatedWalletError it is of an earlier version: enrol again.
   * @throws UsageError it is damaged, or of a later version.
   */
  static async look(): Promise<Shown | null> {
    return (await whole(ONLY))?.shown ?? null
  }

  /**
   * The stored wallet, or null when there is none.
   *
   * @param secret what its lock needs.
   * @throws OutdatedWalletError it is of an earlier version: enrol again.
   * @throws WrongKeyError the secret is another one than locked it.
   * @throws UsageError it is damaged, or of a later version.
   */
  static open(secret: Bytes): Promise<Wallet | null> {
    return Wallet.#open(secret, ONLY)
  }

  static async #open(secret: Bytes, place: Place): Promise<Wallet | null> {
    const stored = await whole(place)
    if (stored === null) return null
    const { devicePublicKey, shown, nonce, sealed } = stored
    const key = await sealingKey({ lock: shown.lock, secret }, devicePublicKey)
    try {
      const content = new Uint8Array(await crypto.subtle.decrypt(algorithm(nonce, clear(devicePublicKey, shown)), key, sealed))
      const wallet = new Wallet(place, devicePublicKey, shown.lock, key, await unwrapped(key, devicePublicKey, stored), stored)
      wallet.#take(content)
      return wallet
    } catch {
      throw wrongKey(shown.lock) // the cause may say more than is good
    }
  }

  /** Deletes the stored wallet, for good. The server keeps what it has: revoke or erase first. */
  static async delete(): Promise<void> {
    await transact('readwrite', (store) => store.clear())
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
    if (isOver(enrolment.state)) throw new UsageError('this template was revoked for good; make a new one and enrol again')
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

  /** Memory and secret out of authenticated bytes. */
  #take(content: Bytes): void {
    const length = new DataView(content.buffer).getUint32(0, true)
    this.#memory = { ...NOTHING, ...JSON.parse(new TextDecoder().decode(content.subarray(4, 4 + length))) as Partial<Memory> }
    const secret = content.subarray(4 + length)
    this.#secret = secret.length === 0 ? null : TemplateSecret.fromSecretBytes(secret)
    content.fill(0)
  }

  get #shown(): Shown {
    const { enrolment } = this.#memory
    const agreed = new Map((enrolment?.receipts ?? []).map((text) => {
      const { terms: { audience, purposes }, expiresAt } = SignedReceipt.fromBytes(utf8(text)).receipt
      return [audience, [audience, purposes, expiresAt] as const]
    }))
    return {
      lock: this.#lock, name: hex(this.keyId.slice(0, 8)), state: enrolment?.state ?? 'none', answers: enrolment?.answers ?? 0, failures: enrolment?.failures ?? 0,
      consentExpires: agreed.get(enrolment?.audience ?? '')?.[2] ?? null, agreed: [...agreed.values()], trust: enrolment?.trust ?? null,
      ...(enrolment !== null && { release: enrolment.releaseDigest }),
    }
  }

  async #store(): Promise<void> {
    const record = await this.#record()
    await transact('readwrite', (store) => store.put(record, this.#place))
  }

  async #record(): Promise<Stored> {
    const memory = utf8(JSON.stringify(this.#memory))
    const length = new Uint8Array(Uint32Array.of(memory.length).buffer)
    const secret = this.#secret?.secretBytes() ?? new Uint8Array()
    const content = concat(length, memory, secret)
    secret.fill(0)
    const [devicePublicKey, shown, nonce] = [this.devicePublicKey, this.#shown, randomBytes(NONCE_BYTES)] // fresh for every write
    const sealed = new Uint8Array(await crypto.subtle.encrypt(algorithm(nonce, clear(devicePublicKey, shown)), this.#sealingKey, content))
    content.fill(0)
    const stored = { version: VERSION, devicePublicKey, shown, ...this.#wrapped, nonce, sealed }
    return { ...stored, digest: digestOf(stored) }
  }
}

/** The stored record, of this version and whole. */
async function whole(place: Place): Promise<Stored | null> {
  const stored = await transact<Stored | undefined>('readonly', (store) => store.get(place))
  if (stored === undefined) return null
  if (stored.version < VERSION) throw new OutdatedWalletError('the wallet is of an earlier version, whose templates are not used any more; enrol again')
  if (stored.version !== VERSION) throw new UsageError('a later version of this page wrote the wallet; load the page anew', { why: { name: 'why.later_version' } })
  if (!equal(digestOf(stored), stored.digest)) throw new UsageError('the wallet is damaged; delete the keys in this browser and enrol again', { why: { name: 'why.damaged_wallet' } })
  return stored
}

/** The signing key, for signing only: no script can read it. */
function unwrapped(key: CryptoKey, devicePublicKey: Bytes, { signing, signingNonce }: Pick<Stored, 'signing' | 'signingNonce'>): Promise<CryptoKey> {
  return crypto.subtle.unwrapKey('pkcs8', signing, key, algorithm(signingNonce, devicePublicKey), 'Ed25519', false, ['sign'])
}

/** What is authenticated with the sealed part: everything that stands in clear. */
function clear(devicePublicKey: Bytes, { lock, ...shown }: Shown): Bytes {
  const { name, state, answers, failures, consentExpires, agreed, trust, release } = shown
  const words = [name, state, answers, failures, consentExpires, agreed, trust && [trust.makers, trust.auditors, trust.acceptsTrials], ...(release === undefined ? [] : [release])]
  return utf8(JSON.stringify([VERSION, hex(devicePublicKey), lockText(lock), ...words]))
}

function digestOf({ devicePublicKey, shown, signingNonce, signing, nonce, sealed }: Omit<Stored, 'digest'>): Bytes {
  return sha256(concat(clear(devicePublicKey, shown), signingNonce, signing, nonce, sealed))
}

function algorithm(iv: Bytes, additionalData: Bytes): AesGcmParams {
  return { name: 'AES-GCM', iv, additionalData }
}

/** One request in one transaction, forced to disk. */
export async function transact<T>(mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest): Promise<T> {
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

