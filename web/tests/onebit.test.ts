/** The one-bit match: the known answers of the Python side, and a session with its matcher. */

import { ed25519 } from '@noble/curves/ed25519.js'
import { beforeAll, describe, expect, test } from 'vitest'

import facts from '../../tests/vectors/onebit/session.json'
import { concat, equal, fromHex, hex, randomBytes, sha256 } from '../src/bytes'
import { MalformedMessageError, UsageError } from '../src/errors'
import { CodeSeed } from '../src/onebit/code'
import { DeviceSecret } from '../src/onebit/device'
import { SLOTS, roundingConstant } from '../src/onebit/parameters'
import { Engine } from '../src/onebit/seal'
import { Operation, transcriptBytes } from '../src/onebit/transcript'
import { Kind, Reply, SeededMessage } from '../src/onebit/wire'
import { bits, keystream, message, python } from './vectors'

interface Damage {
  readonly message: string
  readonly edits: readonly (readonly [number, string])[]
  readonly length: number | null
  readonly append: string
}
const DAMAGE = import.meta.glob<Damage>('../../tests/vectors/onebit/damage/*.json', { eager: true, import: 'default' })
const VERIFY = fromHex(facts.transcripts.verify)

let engine: Engine
let recorded: DeviceSecret

beforeAll(async () => {
  engine = await Engine.load()
  recorded = DeviceSecret.fromSecretBytes(engine, concat(await message('public-key'), fromHex(facts.secret_key)))
})

function parse(name: string, data: Uint8Array): SeededMessage | Reply {
  if (name.startsWith('reply')) return Reply.fromBytes(data)
  return SeededMessage.fromBytes(data, name === 'public-key' ? Kind.PUBLIC_KEY : Kind.CIPHERTEXT)
}

describe('known answers', () => {
  test('the code of a known embedding and seed', () => {
    const code = new CodeSeed(fromHex(facts.code_seed)).code(Float64Array.from(facts.embedding))
    expect(equal(code, bits(facts.code_enrolled))).toBe(true)
  })

  test('a device key follows from its random bytes', () => {
    const device = DeviceSecret.generate(engine, keystream('secret key'))
    expect(hex(device.secretBytes().subarray(device.publicKey.length))).toBe(facts.secret_key)
  })

  test('the device opens the recorded reply', async () => {
    const token = recorded.openReply(await message('reply-accept'), VERIFY)
    expect(token && hex(token)).toBe(facts.replies.accept.token)
  })

  test('under another transcript the recorded reply does not open', async () => {
    expect(recorded.openReply(await message('reply-accept'), fromHex(facts.transcripts.enrol))).toBeNull()
  })

  test('a transcript follows from its fields', async () => {
    const transcript = transcriptBytes({
      operation: Operation.VERIFY,
      sessionId: keystream('session')(16),
      nonce: keystream('nonce')(32),
      purpose: 'door-access',
      audience: 'example.org',
      keyId: recorded.keyId,
      releaseDigest: sha256(new TextEncoder().encode('a model release')),
      ciphertextDigest: sha256(await message('probe')),
    })
    expect(hex(transcript)).toBe(facts.transcripts.verify)
  })

  test('the signature is over the transcript', () => {
    expect(hex(ed25519.sign(VERIFY, fromHex(facts.device_key)))).toBe(facts.signature)
  })

  test.each(['public-key', 'template', 'probe', 'reply-accept'])('%s parses and serialises identically', async (name) => {
    const data = await message(name)
    expect(equal(parse(name, data).toBytes(), data)).toBe(true)
  })

  test.each(Object.entries(DAMAGE))('%s is refused', async (_, damage) => {
    const data = await message(damage.message)
    for (const [offset, replacement] of damage.edits) data.set(fromHex(replacement), offset < 0 ? data.length + offset : offset)
    const damaged = concat(data.slice(0, damage.length ?? undefined), fromHex(damage.append))
    expect(() => parse(damage.message, damaged)).toThrow(MalformedMessageError)
  })
})

describe('keys and codes', () => {
  test('a key survives the wallet', () => {
    const device = DeviceSecret.generate(engine, randomBytes)
    const again = DeviceSecret.fromSecretBytes(engine, device.secretBytes())
    expect(equal(again.secretBytes(), device.secretBytes())).toBe(true)
    expect(hex(again.keyId)).toBe(hex(device.keyId))
  })

  test('a damaged key is refused', () => {
    const data = recorded.secretBytes()
    data[data.length - 1] = 0xff
    expect(() => DeviceSecret.fromSecretBytes(engine, data)).toThrow(UsageError)
    expect(() => DeviceSecret.fromSecretBytes(engine, data.subarray(1))).toThrow(UsageError)
  })

  test('the constant part of rounding noise is what the ring product says', () => {
    const secret = Int8Array.from({ length: 8192 }, (_, i) => (i * i) % 3 - 1)
    const product = (left: readonly number[]): number[] => {
      const result = new Array<number>(8192).fill(0)
      left.forEach((a, i) => { if (a) secret.forEach((b, j) => { result[(i + j) % 8192] += i + j < 8192 ? a * b : -a * b }) })
      return result
    }
    const first = product(new Array<number>(8192).fill(1))
    const second = product(first)
    const expected = Math.max(...[0, 1, 2, 3].map((i) => Math.abs(1 + first[i] + second[i])))
    expect(roundingConstant(secret)).toBe(Math.floor((67_104_769 * expected) / 2))
  })

  test('another seed gives an unrelated code of the same face', () => {
    const face = Float64Array.from(facts.embedding)
    const [one, other] = [keystream('one'), keystream('other')].map((random) => CodeSeed.generate(random).code(face))
    const distance = one.reduce((sum, bit, i) => sum + (bit ^ other[i]), 0)
    expect(Math.abs(distance - SLOTS / 2)).toBeLessThan(6 * Math.sqrt(SLOTS) / 2)
  })

  test.each([new Float64Array(128), new Float64Array(128).fill(NaN), new Float64Array(8).fill(1)])('a useless embedding is refused', (face) => {
    expect(() => CodeSeed.generate(randomBytes).code(face)).toThrow(UsageError)
  })

  test('what is no binary code is not encrypted', () => {
    expect(() => recorded.encrypt(new Uint8Array(SLOTS).fill(2))).toThrow(UsageError)
    expect(() => recorded.encrypt(new Uint8Array(SLOTS - 1))).toThrow(UsageError)
  })
})

describe('with the Python matcher', () => {
  test('what this device encrypts is matched, and it opens the reply exactly up to the threshold', async () => {
    const device = DeviceSecret.generate(engine, randomBytes)
    const template = Uint8Array.from({ length: SLOTS }, () => randomBytes(1)[0] & 1)
    const probe = template.map((bit, i) => (i % 7 === 0 ? 1 - bit : bit))
    const distance = Math.ceil(SLOTS / 7)
    const messages = { public_key: device.publicKey, template: device.encrypt(template), probe: device.encrypt(probe) }
    const answer = (await python('match', {
      ...Object.fromEntries(Object.entries(messages).map(([name, data]) => [name, hex(data)])),
      transcript: facts.transcripts.verify,
      thresholds: [distance, distance - 1],
    })) as Record<'enrol' | 'accept' | 'reject', { reply: string; token: string }>
    const opened = (name: keyof typeof answer): string | null => {
      const token = device.openReply(fromHex(answer[name].reply), VERIFY)
      return token && hex(token)
    }
    expect(opened('enrol')).toBe(answer.enrol.token)
    expect(opened('accept')).toBe(answer.accept.token)
    expect(opened('reject')).toBeNull()
    expect(recorded.openReply(fromHex(answer.accept.reply), VERIFY)).toBeNull()
  })

  test('codes of random embeddings are those that Python computes', async () => {
    const seed = randomBytes(32)
    const random = new DataView(randomBytes(20 * 128 * 4).buffer)
    const embeddings = Array.from({ length: 20 }, (_, row) =>
      Array.from({ length: 128 }, (_, i) => random.getInt32(4 * (128 * row + i), true) / 2 ** 31))
    const expected = (await python('codes', { seed: hex(seed), embeddings })) as string[]
    const codes = new CodeSeed(seed)
    embeddings.forEach((embedding, i) => {
      expect(equal(codes.code(Float64Array.from(embedding)), bits(expected[i]))).toBe(true)
    })
  })
})
