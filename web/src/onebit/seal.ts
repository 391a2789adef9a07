/**
 * SEAL's BGV in WebAssembly. The only importer of node-seal.
 *
 * SEAL's own encoding never crosses the network: this module builds it from integers that `wire.ts` has checked, and
 * takes the integers out of what SEAL writes. So the page and the server may run different versions of SEAL.
 */

import initialise, { type MainModule, type Plaintext, type SEALContext, type SchemeType, type SecretKey } from 'node-seal'

// The package exports no path to its .wasm, so the file is named where npm puts it.
import wasmUrl from '../../node_modules/node-seal/dist/seal_throws.wasm?url'
import { type Bytes, concat } from '../bytes'
import { UsageError } from '../errors'
import { PROFILE, SLOTS } from './parameters'
import { HEAD_COEFFICIENTS, SEED_BYTES } from './wire'

const MAGIC = 0xa15e
const HEADER_BYTES = 16
const TESTED_VERSION = [4, 1]
const UNUSED_KEY_PRIME = 16_760_833n // SEAL keeps the last prime for key switching; nothing is encrypted under it
const CIPHERTEXT_PREFIX = 73 // parms id, NTT flag, size, dimension, primes, scale, correction factor
const PLAINTEXT_PREFIX = 48 // parms id, count, scale

/** Seed and residues of a fresh encryption. */
export interface SeededParts {
  readonly seed: Uint8Array
  readonly residues: readonly BigUint64Array[]
}

/** BGV arithmetic under the profile. Holds no key. */
export class Engine {
  readonly #seal: MainModule
  readonly #context: SEALContext
  readonly #packingContext: SEALContext
  #monomials: readonly BigUint64Array[] | undefined

  private constructor(seal: MainModule) {
    this.#seal = seal
    this.#context = this.#newContext(seal.SchemeType.bgv, PROFILE.ringDimension, [...PROFILE.dataPrimes, UNUSED_KEY_PRIME])
    // Slots are interpolated over Z_t[y] / (y^(N/4) + 1); the coefficient prime only has to be valid for SEAL.
    this.#packingContext = this.#newContext(seal.SchemeType.bfv, SLOTS, [PROFILE.dataPrimes[0]])
  }

  /** Loads SEAL from the page's own server. Takes one or two seconds: begin early. */
  static async load(): Promise<Engine> {
    return new Engine(await initialise({ locateFile: () => wasmUrl }))
  }

  #newContext(scheme: SchemeType, dimension: number, primes: readonly bigint[]): SEALContext {
    using parameters = new this.#seal.EncryptionParameters(scheme)
    parameters.setPolyModulusDegree(dimension)
    const moduli = primes.map((prime) => new this.#seal.Modulus(prime))
    using chain = this.#seal.vecFromArrayModulus(moduli)
    parameters.setCoeffModulus(chain)
    for (const modulus of moduli) modulus.delete()
    using plainModulus = new this.#seal.Modulus(BigInt(PROFILE.plainModulus))
    parameters.setPlainModulus(plainModulus)
    const context = new this.#seal.SEALContext(parameters, true, this.#seal.SecLevelType.tc128)
    if (!context.parametersSet()) throw new UsageError('SEAL refuses the parameters')
    return context
  }

  /** One bit for each slot -> N coefficients mod t, non-zero only at multiples of four. */
  pack(bits: Uint8Array): BigUint64Array {
    using encoder = new this.#seal.BatchEncoder(this.#packingContext)
    using packed = new this.#seal.Plaintext()
    encoder.encode(BigUint64Array.from(bits, BigInt), packed)
    const coefficients = new BigUint64Array(PROFILE.ringDimension)
    this.#coefficients(packed).forEach((coefficient, i) => { coefficients[4 * i] = coefficient })
    return coefficients
  }

  /** The secret key with the given ternary coefficients. The caller deletes it. */
  secretKey(coefficients: Int8Array): SecretKey {
    const t = BigInt(PROFILE.plainModulus)
    using plaintext = this.#plaintext(BigUint64Array.from(coefficients, (one) => (BigInt(one) + t) % t))
    // SEAL keeps a secret key as a plaintext in NTT form at the key level, so its own transform makes one.
    const key = new this.#seal.SecretKey()
    key.loadFromArray(this.#context, this.#transformed(plaintext, this.#context.keyParmsId()))
    return key
  }

  /** A fresh symmetric encryption of N coefficients mod t. */
  encrypt(key: SecretKey, coefficients: BigUint64Array): SeededParts {
    using generator = new this.#seal.KeyGenerator(this.#context, key)
    using unusedPublicKey = generator.createPublicKey() // node-seal has no encryptor with a secret key alone
    using encryptor = new this.#seal.Encryptor(this.#context, unusedPublicKey, key)
    using plaintext = this.#plaintext(coefficients)
    using encrypted = encryptor.encryptSymmetricSerializable(plaintext)
    const encoded = this.#checked(encrypted.saveToArray(this.#seal.ComprModeType.none))
    const { ringDimension: n, dataPrimes } = PROFILE
    const words = readArray(encoded, CIPHERTEXT_PREFIX, n * dataPrimes.length)
    return { seed: encoded.slice(-SEED_BYTES), residues: dataPrimes.map((_, i) => words.slice(n * i, n * (i + 1))) }
  }

  /** The first four coefficients mod t of a reply, from its checked parts. */
  decryptReply(key: SecretKey, head: BigUint64Array, second: BigUint64Array, third: BigUint64Array): number[] {
    using ciphertext = new this.#seal.Ciphertext()
    const first = this.#transformHead(head)
    const prefix = new DataView(new ArrayBuffer(CIPHERTEXT_PREFIX))
    this.#writeId(prefix, this.#context.lastParmsId())
    prefix.setUint8(32, 1) // in NTT form
    const [components, primes] = [3n, 1n]
    ;[components, BigInt(PROFILE.ringDimension), primes].forEach((word, i) => prefix.setBigUint64(33 + 8 * i, word, true))
    prefix.setFloat64(57, 1, true)
    prefix.setBigUint64(65, PROFILE.replyCorrection, true)
    ciphertext.loadFromArray(this.#context, wrap(new Uint8Array(prefix.buffer), array(first, second, third)))
    using decryptor = new this.#seal.Decryptor(this.#context, key)
    using plaintext = new this.#seal.Plaintext()
    decryptor.decrypt(ciphertext, plaintext)
    const coefficients = this.#coefficients(plaintext) // SEAL trims leading zero coefficients
    return Array.from({ length: HEAD_COEFFICIENTS }, (_, i) => Number(coefficients[i] ?? 0n))
  }

  /** The NTT of four coefficients. It is linear, so theirs is a combination of the transforms of 1, x, x^2 and x^3. */
  #transformHead(head: BigUint64Array): BigUint64Array {
    this.#monomials ??= Array.from(head, (_, power) => {
      const coefficients = new BigUint64Array(PROFILE.ringDimension)
      coefficients[power] = 1n
      using monomial = this.#plaintext(coefficients)
      return readArray(this.#transformed(monomial, this.#context.lastParmsId()), PLAINTEXT_PREFIX, PROFILE.ringDimension)
    })
    const rows = this.#monomials
    return BigUint64Array.from(rows[0], (_, i) => head.reduce((sum, c, power) => sum + c * rows[power][i], 0n) % PROFILE.dataPrimes[0])
  }

  #transformed(plaintext: Plaintext, level: ReturnType<SEALContext['keyParmsId']>): Uint8Array {
    using evaluator = new this.#seal.Evaluator(this.#context)
    evaluator.plainTransformToNttInplace(plaintext, level)
    return this.#checked(plaintext.saveToArray(this.#seal.ComprModeType.none))
  }

  #plaintext(coefficients: BigUint64Array): Plaintext {
    const prefix = new DataView(new ArrayBuffer(PLAINTEXT_PREFIX))
    prefix.setBigUint64(32, BigInt(coefficients.length), true)
    prefix.setFloat64(40, 1, true)
    const plaintext = new this.#seal.Plaintext()
    plaintext.loadFromArray(this.#context, wrap(new Uint8Array(prefix.buffer), array(coefficients)))
    return plaintext
  }

  #coefficients(plaintext: Plaintext): BigUint64Array {
    const encoded = this.#checked(plaintext.saveToArray(this.#seal.ComprModeType.none))
    const count = Number(view(encoded).getBigUint64(HEADER_BYTES + 32, true))
    return readArray(encoded, PLAINTEXT_PREFIX, count)
  }

  #writeId(target: DataView, id: ReturnType<SEALContext['keyParmsId']>): void {
    const words = id.values() as BigUint64Array
    words.forEach((word, i) => target.setBigUint64(8 * i, word, true))
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
function array(...parts: readonly BigUint64Array[]): Bytes {
  const bytes = parts.map((part) => new Uint8Array(part.buffer, part.byteOffset, part.byteLength))
  const count = BigUint64Array.of(BigInt(parts.reduce((sum, part) => sum + part.length, 0)))
  return wrap(new Uint8Array(count.buffer), ...bytes)
}

function readArray(encoded: Uint8Array, prefix: number, words: number): BigUint64Array {
  const start = HEADER_BYTES + prefix + HEADER_BYTES + 8
  if (view(encoded).getBigUint64(start - 8, true) !== BigInt(words)) {
    throw new UsageError('SEAL wrote an object of an unexpected shape; install the locked version of node-seal')
  }
  return new BigUint64Array(encoded.slice(start, start + 8 * words).buffer)
}
