/**
 * SEAL's BGV in WebAssembly, for encryption; `opening.ts` decrypts. The only importer of node-seal.
 *
 * SEAL's own encoding never crosses the network: this module builds it from integers that `wire.ts` has checked, and
 * takes the integers out of what SEAL writes. So the page and the server may run different versions of SEAL.
 */

import initialise, { type Encryptor, type MainModule, type Plaintext, type SEALContext } from 'node-seal'

// The package exports no path to its .wasm, so the file is named where npm puts it.
import wasmUrl from '../../node_modules/node-seal/dist/seal_throws.wasm?url'
import { type Bytes, concat } from '../bytes'
import { UsageError } from '../errors'
import type { Parameters } from './parameters'
import { type Probe, SEED_BYTES } from './wire'

const MAGIC = 0xa15e
const HEADER_BYTES = 16
const TESTED_VERSION = [4, 1]
const UNUSED_KEY_PRIME = 16_760_833n // SEAL keeps the last prime for key switching; nothing is encrypted under it
const CIPHERTEXT_PREFIX = 73 // parms id, NTT flag, size, dimension, primes, scale, correction factor
const PLAINTEXT_PREFIX = 48 // parms id, count, scale

/** What encrypts under one secret key. */
export interface EncryptingKey extends Disposable {
  readonly encryptor: Encryptor
}

/** BGV arithmetic under one parameter set. Holds no key. */
export class Engine {
  readonly parameters: Parameters
  readonly #seal: MainModule
  readonly #context: SEALContext

  private constructor(seal: MainModule, parameters: Parameters) {
    this.parameters = parameters
    this.#seal = seal
    this.#context = this.#newContext()
  }

  /**
   * Loads SEAL from the page's own server. Takes one or two seconds: begin early.
   *
   * @param parameters may come later than SEAL does.
   */
  static async load(parameters: Parameters | Promise<Parameters>): Promise<Engine> {
    const [seal, known] = await Promise.all([initialise({ locateFile: () => wasmUrl }), parameters])
    return new Engine(seal, known)
  }

  #newContext(): SEALContext {
    using parameters = new this.#seal.EncryptionParameters(this.#seal.SchemeType.bgv)
    parameters.setPolyModulusDegree(this.parameters.ringDimension)
    const moduli = [...this.parameters.dataPrimes, UNUSED_KEY_PRIME].map((prime) => new this.#seal.Modulus(prime))
    using chain = this.#seal.vecFromArrayModulus(moduli)
    parameters.setCoeffModulus(chain)
    for (const modulus of moduli) modulus.delete()
    using plainModulus = new this.#seal.Modulus(BigInt(this.parameters.plainModulus))
    parameters.setPlainModulus(plainModulus)
    const context = new this.#seal.SEALContext(parameters, true, this.#seal.SecLevelType.tc128)
    if (context.parametersSet()) return context
    context.delete()
    throw new UsageError('SEAL refuses the parameters')
  }

  /** The secret key with the given ternary coefficients. The caller disposes of it. */
  encryptingKey(coefficients: Int8Array): EncryptingKey {
    const t = BigInt(this.parameters.plainModulus)
    using plaintext = this.#plaintext(BigUint64Array.from(coefficients, (one) => (BigInt(one) + t) % t))
    // SEAL keeps a secret key as a plaintext in NTT form at the key level, so its own transform makes one.
    using evaluator = new this.#seal.Evaluator(this.#context)
    using level = this.#context.keyParmsId()
    evaluator.plainTransformToNttInplace(plaintext, level)
    using secret = new this.#seal.SecretKey()
    secret.loadFromArray(this.#context, this.#checked(plaintext.saveToArray(this.#seal.ComprModeType.none)))
    using generator = new this.#seal.KeyGenerator(this.#context, secret)
    using unusedPublicKey = generator.createPublicKey() // node-seal has no encryptor with a secret key alone
    const encryptor = new this.#seal.Encryptor(this.#context, unusedPublicKey, secret)
    return { encryptor, [Symbol.dispose]: () => { encryptor.delete() } }
  }

  /** A fresh symmetric encryption of N coefficients mod t. */
  encrypt({ encryptor }: EncryptingKey, coefficients: BigUint64Array): Probe {
    using plaintext = this.#plaintext(coefficients)
    using encrypted = encryptor.encryptSymmetricSerializable(plaintext)
    const encoded = this.#checked(encrypted.saveToArray(this.#seal.ComprModeType.none))
    const { ringDimension: n, dataPrimes } = this.parameters
    const words = readArray(encoded, CIPHERTEXT_PREFIX, n * dataPrimes.length)
    return { seed: encoded.slice(-SEED_BYTES), residues: dataPrimes.map((_, i) => words.slice(n * i, n * (i + 1))) }
  }

  #plaintext(coefficients: BigUint64Array): Plaintext {
    const prefix = new DataView(new ArrayBuffer(PLAINTEXT_PREFIX))
    prefix.setBigUint64(32, BigInt(coefficients.length), true)
    prefix.setFloat64(40, 1, true)
    const plaintext = new this.#seal.Plaintext()
    try {
      plaintext.loadFromArray(this.#context, wrap(new Uint8Array(prefix.buffer), array(coefficients)))
    } catch (error) {
      plaintext.delete()
      throw error
    }
    return plaintext
  }

  /** What SEAL wrote, if it is the version that this module knows. */
  #checked(encoded: Uint8Array): Uint8Array {
    if (view(encoded).getUint16(0, true) !== MAGIC || encoded[3] !== TESTED_VERSION[0] || encoded[4] !== TESTED_VERSION[1]) {
      throw new UsageError('node-seal writes another format than the tested one; install the locked version')
    }
    return encoded
  }
}

const view = (data: Uint8Array): DataView => new DataView(data.buffer, data.byteOffset, data.byteLength)

function wrap(...parts: readonly Uint8Array[]): Bytes {
  const inner = concat(...parts)
  const header = new DataView(new ArrayBuffer(HEADER_BYTES))
  header.setUint16(0, MAGIC, true)
  ;[HEADER_BYTES, ...TESTED_VERSION].forEach((byte, i) => header.setUint8(2 + i, byte))
  header.setBigUint64(8, BigInt(HEADER_BYTES + inner.length), true)
  return concat(new Uint8Array(header.buffer), inner)
}

/** SEAL's array of 64-bit words. */
function array(words: BigUint64Array): Bytes {
  const count = BigUint64Array.of(BigInt(words.length))
  return wrap(new Uint8Array(count.buffer), new Uint8Array(words.buffer, words.byteOffset, words.byteLength))
}

function readArray(encoded: Uint8Array, prefix: number, words: number): BigUint64Array {
  const start = HEADER_BYTES + prefix + HEADER_BYTES + 8
  if (view(encoded).getBigUint64(start - 8, true) !== BigInt(words)) {
    throw new UsageError('SEAL wrote an object of an unexpected shape; install the locked version of node-seal')
  }
  return new BigUint64Array(encoded.slice(start, start + 8 * words).buffer)
}
