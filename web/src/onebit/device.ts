/** The device's side of the one-bit match: the only place of the page where a secret key is used. */

import type { SecretKey } from 'node-seal'

import { type Bytes, concat, equal, type RandomBytes, sha256 } from '../bytes'
import { UsageError } from '../errors'
import { PROFILE, SLOTS, drawSecret } from './parameters'
import type { Engine } from './seal'
import { pad } from './transcript'
import { Kind, Reply, SEEDED_LENGTH, SeededMessage, TOKEN_BYTES } from './wire'

const PACKED_BYTES = PROFILE.ringDimension / 4

/** The homomorphic secret key of one device, with the public key message that goes with it. */
export class DeviceSecret {
  /** The public key message for the server. */
  readonly publicKey: Uint8Array
  /** SHA-256 of `publicKey`. */
  readonly keyId: Bytes
  readonly #engine: Engine
  readonly #coefficients: Int8Array
  readonly #key: SecretKey

  private constructor(engine: Engine, coefficients: Int8Array, key: SecretKey, publicKey: Uint8Array) {
    this.#engine = engine
    this.#coefficients = coefficients
    this.#key = key
    this.publicKey = publicKey
    this.keyId = sha256(publicKey)
  }

  /** A fresh key pair: a uniform ternary secret, and an encryption of zero under it. */
  static generate(engine: Engine, random: RandomBytes): DeviceSecret {
    const coefficients = drawSecret(random)
    const key = engine.secretKey(coefficients)
    const { seed, residues } = engine.encrypt(key, new BigUint64Array(PROFILE.ringDimension))
    return new DeviceSecret(engine, coefficients, key, new SeededMessage(Kind.PUBLIC_KEY, seed, residues).toBytes())
  }

  /**
   * Reads what `secretBytes` gave, out of an authenticated wallet.
   *
   * @throws UsageError the bytes are of another version.
   */
  static fromSecretBytes(engine: Engine, data: Uint8Array): DeviceSecret {
    if (data.length !== SEEDED_LENGTH + PACKED_BYTES) {
      throw new UsageError('the wallet holds no key of this version; create a new one and enrol again')
    }
    const packed = data.subarray(SEEDED_LENGTH)
    const coefficients = Int8Array.from({ length: PROFILE.ringDimension }, (_, i) => ((packed[i >> 2] >> (2 * (i & 3))) & 3) - 1)
    if (coefficients.some((one) => one > 1)) throw new UsageError("the wallet's key is damaged; create a new one")
    return new DeviceSecret(engine, coefficients, engine.secretKey(coefficients), data.slice(0, SEEDED_LENGTH))
  }

  /** Public key message, then the secret's coefficients plus one, two bits each. For the encrypted wallet only. */
  secretBytes(): Bytes {
    const packed = new Uint8Array(PACKED_BYTES)
    this.#coefficients.forEach((one, i) => { packed[i >> 2] |= (one + 1) << (2 * (i & 3)) })
    return concat(this.publicKey, packed)
  }

  /**
   * Encrypts a binary code. Returns a ciphertext message, safe to send.
   *
   * @throws UsageError not a binary code of the right length.
   */
  encrypt(code: Uint8Array): Bytes {
    if (code.length !== SLOTS || code.some((bit) => bit > 1)) {
      throw new UsageError(`a code has ${SLOTS} entries, each 0 or 1`)
    }
    const { seed, residues } = this.#engine.encrypt(this.#key, this.#engine.pack(code))
    return new SeededMessage(Kind.CIPHERTEXT, seed, residues).toBytes()
  }

  /**
   * The session's token if the server accepts this distance, else null. Nothing else may leave the device.
   *
   * Every entry of the table is tried, so the time taken does not depend on which one opens.
   *
   * @throws MalformedMessageError `reply` is not a reply message.
   */
  openReply(reply: Uint8Array, transcript: Uint8Array): Bytes | null {
    const { head, second, third, table, tokenDigest } = Reply.fromBytes(reply)
    const padding = pad(transcript, this.#engine.decryptReply(this.#key, head, second, third))
    let token: Bytes | null = null
    for (let start = 0; start < table.length; start += TOKEN_BYTES) {
      const candidate = Uint8Array.from(padding, (byte, i) => byte ^ table[start + i])
      if (equal(sha256(candidate), tokenDigest)) token = candidate
    }
    return token
  }

  /** Wipes the key from SEAL's memory; the object cannot be used any more. */
  [Symbol.dispose](): void {
    this.#coefficients.fill(0)
    this.#key.delete()
  }
}
