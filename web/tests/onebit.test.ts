/** The one-bit match under both parameter sets: the known answers of the Python side, and sessions with its matcher. */

import { ed25519 } from '@noble/curves/ed25519.js'
import { beforeAll, describe, expect, test, vi } from 'vitest'

import facts1024 from '../../tests/vectors/onebit/1024/session.json'
import facts2048 from '../../tests/vectors/onebit/2048/session.json'
import { concat, equal, fromHex, hex, packBits, randomBytes, sha256, unpackBits, utf8 } from '../src/bytes'
import { MalformedMessageError, UsageError } from '../src/errors'
import { CodeSeed } from '../src/onebit/code'
import { SessionKey } from '../src/onebit/device'
import { ONEBIT_1024, ONEBIT_2048, type Parameters, parametersFor, PARAMETER_SETS, ternary } from '../src/onebit/parameters'
import { Engine } from '../src/onebit/seal'
import { fromBits, hashKeys, pad, toSlots } from '../src/onebit/slots'
import { TemplateSecret } from '../src/onebit/template'
import { changeDigest, deviceChangeDigest, Operation, transcriptBytes } from '../src/onebit/transcript'
import { Reply } from '../src/onebit/wire'
import { type Damage, damaged, keystream, message, python } from './vectors'

const DAMAGE = import.meta.glob<Damage>('../../tests/vectors/onebit/damage/reply-*.json', { eager: true, import: 'default' })
const SETS = [{ parameters: ONEBIT_2048, facts: facts2048 }, { parameters: ONEBIT_1024, facts: facts1024 }].map((one) => ({ ...one, name: one.parameters.slots }))

const engines = new Map<Parameters, Engine>()
const engineOf = (parameters: Parameters): Engine => engines.get(parameters)!
const lanes = (text: string): bigint[] => [...new BigUint64Array(fromHex(text).buffer)]
const zeros = (parameters: Parameters): Uint8Array => new Uint8Array(parameters.slots)

/** A key that has encrypted. */
function opening(parameters: Parameters, code: Uint8Array, coefficients?: Int8Array): SessionKey {
  const engine = engineOf(parameters)
  const key = coefficients === undefined ? SessionKey.generate(engine, randomBytes) : new SessionKey(engine, coefficients)
  key.encrypt(code)
  return key
}

beforeAll(async () => {
  for (const parameters of PARAMETER_SETS) engines.set(parameters, await Engine.load(parameters))
})

describe.each(SETS)('known answers of $name bits', ({ parameters, facts, name }) => {
  const VERIFY = fromHex(facts.transcripts.VERIFY)
  const secret = TemplateSecret.generate(parameters, keystream(`template secret ${name}`))
  const recorded = (): SessionKey =>
    opening(parameters, unpackBits(fromHex(facts.padded_code_live)), Int8Array.from(facts.session_key_plus_one, (digit) => Number(digit) - 1))

  test('secret and template follow from their random bytes', async () => {
    expect(hex(secret.secretBytes())).toBe(facts.code_seed + facts.pad)
    const template = secret.template(Float64Array.from(facts.embedding), keystream('template salt'))
    expect(hex(template)).toBe(hex(await message(`${name}/template`)))
  })

  test('the padded code of a known embedding', () => {
    expect(hex(packBits(secret.paddedCode(Float64Array.from(facts.embedding))))).toBe(facts.padded_code_enrolled)
    expect(hex(packBits(secret.paddedCode(Float64Array.from(facts.other_capture))))).toBe(facts.padded_code_live)
  })

  test("a session key's coefficients follow from their random bytes", () => {
    expect(Array.from(ternary(parameters.ringDimension, keystream('session key')), (one) => one + 1).join('')).toBe(facts.session_key_plus_one)
  })

  test('the device opens the recorded reply', async () => {
    const token = recorded().openReply(await message(`${name}/reply`), VERIFY)
    expect(token && hex(token)).toBe(facts.accept.token)
  })

  test.each(['ENROL', 'RENEW_CONSENT', 'RENEW_TEMPLATE'] as const)('under the transcript of %s it does not open', async (operation) => {
    expect(recorded().openReply(await message(`${name}/reply`), fromHex(facts.transcripts[operation]))).toBeNull()
  })

  test('with one code bit flipped it does not open', async () => {
    const code = unpackBits(fromHex(facts.padded_code_live))
    code[7] ^= 1
    const key = opening(parameters, code, Int8Array.from(facts.session_key_plus_one, (digit) => Number(digit) - 1))
    expect(key.openReply(await message(`${name}/reply`), VERIFY)).toBeNull()
  })

  test('labels and pads are SHA-256 as written down', () => {
    const { salt, first, last, sum, pad_of_sum: padOfSum } = facts.labels
    const keys = Int32Array.from({ length: parameters.ringDimension }, (_, i) => i)
    const labels = [...hashKeys(fromHex(salt), keys, parameters)]
    const total = [0, 1].map((lane) => BigInt.asUintN(64, labels.reduce((all, label, i) => (i % 2 === lane ? all + label : all), 0n)))
    expect(labels.slice(0, 2)).toEqual(lanes(first))
    expect(labels.slice(-2)).toEqual(lanes(last))
    expect(total).toEqual(lanes(sum))
    expect(hex(pad(fromHex(salt), VERIFY, [total[0], total[1]]))).toBe(padOfSum)
  })

  test.each(['ENROL', 'VERIFY', 'RENEW_CONSENT', 'RENEW_TEMPLATE', 'ADMIT_DEVICE', 'REMOVE_DEVICE'] as const)('the transcript of %s follows from its fields', async (operation) => {
    const fields = facts.sessions[operation]
    const transcript = transcriptBytes({
      parameters: parameters.name,
      operation: Operation[operation],
      sessionId: fromHex(fields.session_id),
      nonce: fromHex(fields.nonce),
      purpose: fields.purpose,
      audience: fields.audience,
      audienceNonce: fromHex(fields.audience_nonce),
      keyId: fromHex(fields.key_id),
      templateDigest: sha256(await message(`${name}/template`)),
      releaseDigest: fromHex(fields.release_digest),
      changeDigest: fromHex(fields.change_digest),
      logSize: BigInt(fields.log_size),
      probeDigest: sha256(await message(`${name}/probe`)),
      presentationChecked: fields.presentation_checked,
    })
    expect(hex(transcript)).toBe(facts.transcripts[operation])
  })

  test('the signature is over the transcript', () => {
    expect(hex(ed25519.sign(VERIFY, fromHex(facts.device_key)))).toBe(facts.signature)
  })

  test('a reply parses and serialises identically', async () => {
    const data = await message(`${name}/reply`)
    expect(equal(Reply.fromBytes(data, parameters).toBytes(), data)).toBe(true)
  })

  test('slots and coefficients are each other backwards, and agree with the roots', () => {
    const bits = unpackBits(randomBytes(parameters.codeBytes))
    const coefficients = fromBits(bits, parameters)
    const slots = toSlots(Float64Array.from(coefficients, Number), parameters)
    bits.forEach((bit, j) => { expect(slots[parameters.slotDegree * j]).toBe(bit) })
    expect(slots.reduce((sum, one) => sum + one, 0)).toBe(bits.reduce((sum, one) => sum + one, 0)) // every other component is 0
    // Horner's rule in whole numbers of any size: slot j is the value at an odd power of a root of -1.
    const t = BigInt(parameters.plainModulus)
    const y = new Float64Array(parameters.ringDimension)
    y[parameters.slotDegree] = 1
    const roots = toSlots(y, parameters)
    for (const j of [0, 1, parameters.slots - 1]) {
      const zeta = BigInt(roots[parameters.slotDegree * j])
      let power = 1n
      for (let i = 0; i < parameters.slots; i++) power = (power * zeta) % t
      expect(power).toBe(t - 1n)
      const random = BigUint64Array.from({ length: parameters.ringDimension }, (_, i) => (BigInt(i) * 0x9e3779b97f4a7c15n) % t)
      for (const component of [0, parameters.slotDegree - 1]) {
        let value = 0n
        for (let row = parameters.slots - 1; row >= 0; row--) value = (value * zeta + random[parameters.slotDegree * row + component]) % t
        expect(BigInt(toSlots(Float64Array.from(random, Number), parameters)[parameters.slotDegree * j + component])).toBe(value)
      }
    }
  })
})

describe('a reply that is none', () => {
  const known = (name: string): Parameters => parametersFor(Number(name.split('/')[0]))

  test.each(Object.entries(DAMAGE))('%s is refused', async (_, damage) => {
    const data = await damaged(damage)
    expect(equal(data, await message(damage.message))).toBe(false)
    expect(() => Reply.fromBytes(data, known(damage.message))).toThrow(MalformedMessageError)
  })

  test.each(Object.entries(DAMAGE))('%s looks to the server like one that does not open', async (_, damage) => {
    const parameters = known(damage.message)
    expect(opening(parameters, zeros(parameters)).openReply(await damaged(damage), utf8('transcript'))).toBeNull()
  })

  test('there are damaged replies', () => {
    expect(Object.keys(DAMAGE).length).toBeGreaterThanOrEqual(10)
  })

  test.each(PARAMETER_SETS)('has a table of 1 to $slots entries, as many as it says', async (parameters) => {
    const good = await message(`${parameters.slots}/reply`)
    const entries = Reply.fromBytes(good, parameters).table.length / 16
    const before = good.slice(0, good.length - 16 * entries - 2)
    const of = (said: number, bytes: number): Uint8Array => concat(before, Uint8Array.of(said & 255, said >> 8), new Uint8Array(bytes))
    for (const said of [1, 255, 256, parameters.slots]) expect(Reply.fromBytes(of(said, 16 * said), parameters).table.length).toBe(16 * said)
    for (const [said, bytes] of [[0, 0], [parameters.slots + 1, 16 * (parameters.slots + 1)], [2, 16], [1, 32], [1, 15], [256, 16]]) {
      expect(() => Reply.fromBytes(of(said, bytes), parameters), `${said} in ${bytes} bytes`).toThrow('does not fit its table')
    }
    expect(() => Reply.fromBytes(before, parameters)).toThrow('is too short')
    for (const place of [0, 1, 2, 3, 4, 5, 6, 7]) expect(() => Reply.fromBytes(good.map((byte, i) => (i === place ? byte ^ 8 : byte)), parameters), `byte ${place}`).toThrow('not a message of this kind')
  })

  test('is no error, and an error of ours is no reply', async () => {
    const key = opening(ONEBIT_2048, zeros(ONEBIT_2048))
    const read = vi.spyOn(Reply, 'fromBytes').mockImplementation(() => { throw new TypeError('a mistake') })
    expect(() => key.openReply(new Uint8Array(), new Uint8Array())).toThrow('a mistake')
    read.mockRestore()
    expect(() => key.openReply(new Uint8Array(), new Uint8Array())).toThrow('opens one reply') // the try counts
  })

  test.each(PARAMETER_SETS)('of zeros, of anything and of the largest residues does not open under $name', async (parameters) => {
    const good = await message(`${parameters.slots}/reply`)
    const polynomials = 2 * parameters.ringDimension * parameters.replyPrime.toString(2).length / 8
    const largest = Reply.fromBytes(good, parameters)
    largest.components.fill(parameters.replyPrime - 1n)
    const fillings = [new Uint8Array(polynomials), randomBytes(polynomials)].map((filling) => concat(good.slice(0, 8), filling, good.slice(8 + polynomials)))
    for (const reply of [...fillings, largest.toBytes(), randomBytes(good.length), new Uint8Array()]) {
      expect(opening(parameters, zeros(parameters)).openReply(reply, utf8('transcript'))).toBeNull()
    }
  })

  test('whose token is all zeros says no match', async () => {
    // The server knows the label of every opened slot when the second key of none is used: a code of zeros and corrections of zero.
    const key = opening(ONEBIT_2048, zeros(ONEBIT_2048))
    const good = Reply.fromBytes(await message('2048/reply'), ONEBIT_2048)
    good.components.fill(0n) // opens to r = 0, whose labels everybody can compute
    const labels = hashKeys(good.salt, new Int32Array(ONEBIT_2048.ringDimension), ONEBIT_2048)
    const total = [0, 1].map((lane) => BigInt.asUintN(64, labels.reduce((all, label, i) => (i % 2 === lane ? all + label : all), 0n)))
    const padding = pad(good.salt, utf8('transcript'), [total[0], total[1]])
    const reply = (token: Uint8Array, place = 2, at = good): Uint8Array => {
      at.table.set(padding.map((byte, i) => byte ^ token[i]), 16 * place)
      at.tokenDigest.set(sha256(token))
      return at.toBytes()
    }
    const token = randomBytes(16)
    expect(key.openReply(reply(token), utf8('transcript'))).toEqual(token) // so this is how a chosen token opens
    for (const place of [0, 1, good.table.length / 16 - 1]) { // wherever it stands in the table
      const other = Reply.fromBytes(good.toBytes(), ONEBIT_2048)
      other.table.set(randomBytes(other.table.length))
      expect(opening(ONEBIT_2048, zeros(ONEBIT_2048)).openReply(reply(token, place, other), utf8('transcript'))).toEqual(token)
    }
    expect(opening(ONEBIT_2048, zeros(ONEBIT_2048)).openReply(reply(new Uint8Array(16)), utf8('transcript'))).toBeNull()
  })
})

describe('keys, secrets and codes', () => {
  const face = Float64Array.from(facts2048.embedding).slice(0, 16) // short: its planes are made in no time

  test.each(PARAMETER_SETS)('a session key of $name encrypts once and opens once', (parameters) => {
    const key = SessionKey.generate(engineOf(parameters), randomBytes)
    expect(() => key.openReply(new Uint8Array(), new Uint8Array())).toThrow(UsageError)
    key.encrypt(zeros(parameters))
    expect(() => key.encrypt(zeros(parameters))).toThrow('encrypts one probe')
    expect(key.openReply(new Uint8Array(), new Uint8Array())).toBeNull()
    expect(() => key.openReply(new Uint8Array(), new Uint8Array())).toThrow('opens one reply')
  })

  test.each(PARAMETER_SETS)('what is no binary code is not encrypted under $name', (parameters) => {
    const key = SessionKey.generate(engineOf(parameters), randomBytes)
    expect(() => key.encrypt(zeros(parameters).fill(2))).toThrow('each 0 or 1')
    for (const length of [parameters.slots - 1, parameters.slots + 1]) expect(() => key.encrypt(new Uint8Array(length))).toThrow('each 0 or 1')
    expect(() => key.encrypt(zeros(parameters).with(parameters.slots - 1, 2))).toThrow('each 0 or 1')
    expect(key.encrypt(zeros(parameters).fill(1)).length).toBeGreaterThan(8) // the key is not spent by what was refused
  })

  test('a secret survives the wallet, and one of another length is refused', () => {
    for (const parameters of PARAMETER_SETS) {
      const secret = TemplateSecret.generate(parameters, randomBytes)
      const again = TemplateSecret.fromSecretBytes(secret.secretBytes())
      expect(hex(again.secretBytes())).toBe(hex(secret.secretBytes()))
      expect(again.parameters).toBe(parameters)
      expect(() => TemplateSecret.fromSecretBytes(secret.secretBytes().subarray(1))).toThrow(UsageError)
    }
  })

  test('two secrets share neither seed nor pad, and two templates of one face look unrelated', () => {
    const secrets = ['one', 'other'].map((name) => TemplateSecret.generate(ONEBIT_2048, keystream(name)))
    const [one, other] = secrets.map((secret) => unpackBits(secret.template(face, randomBytes).slice(40)))
    const distance = one.reduce((sum, bit, i) => sum + (bit ^ other[i]), 0)
    expect(Math.abs(distance - 1024)).toBeLessThan(6 * Math.sqrt(2048) / 2)
  })

  test('a secret makes one template, and none when it was read back', () => {
    const secret = TemplateSecret.generate(ONEBIT_2048, randomBytes)
    const again = TemplateSecret.fromSecretBytes(secret.secretBytes())
    expect(secret.template(face, randomBytes).length).toBe(8 + 32 + 256)
    for (const used of [secret, again, TemplateSecret.fromSecretBytes(secret.secretBytes())]) {
      expect(() => used.template(face, randomBytes)).toThrow('drawn for it alone')
    }
    expect(hex(packBits(again.paddedCode(face)))).toBe(hex(packBits(secret.paddedCode(face))))
  })

  test('the salt makes two digests of one padded template', () => {
    const [one, other] = ['salt', 'another salt'].map((salt) => TemplateSecret.generate(ONEBIT_2048, keystream('one')).template(face, keystream(salt)))
    expect(hex(sha256(one))).not.toBe(hex(sha256(other)))
    expect(hex(one.slice(40))).toBe(hex(other.slice(40)))
  })

  const ones = (count: number): Float64Array => new Float64Array(count).fill(1)
  test.each<[string, Float64Array, number, string | null]>([
    ['of zeros', new Float64Array(16), 16, 'zero or not finite'], ['with one number that is none', ones(16).with(15, NaN), 16, 'zero or not finite'], ['with one that has no end', ones(16).with(0, Infinity), 16, 'zero or not finite'],
    ['of one number and zeros', new Float64Array(16).with(9, 1), 16, null], ['of as many numbers as bits', ones(16), 16, null], ['of fewer', ones(16), 40, null],
    ['of more', ones(17), 16, 'a code needs 16 to 16 numbers, got 17'], ['of too few', ones(15), 40, 'a code needs 16 to 40 numbers, got 15'],
  ])('an embedding %s makes a code, or is refused', (_, embedding, bits, refused) => {
    const code = (): Uint8Array => CodeSeed.generate(randomBytes).code(embedding, bits)
    if (refused === null) expect(code().length).toBe(bits)
    else expect(code).toThrow(refused)
  })

  test('one seed has other planes for codes of another length, and for vectors of another one', () => {
    const [seed, random] = [randomBytes(32), (count: number): Float64Array => Float64Array.from(randomBytes(count), (byte) => byte - 127.5)]
    const kept = new CodeSeed(seed)
    for (const [dimension, bits] of [[16, 64], [32, 32], [32, 64], [16, 64]]) { // the first two have as many numbers
      const vector = random(dimension)
      expect(kept.code(vector, bits)).toEqual(new CodeSeed(seed).code(vector, bits))
    }
    for (const length of [31, 33, 0]) expect(() => new CodeSeed(new Uint8Array(length))).toThrow(`a code seed has 32 bytes, got ${length}`)
  })

  test('there are no parameters for codes of another length', () => {
    expect(() => parametersFor(512)).toThrow('2048 or 1024')
  })
})

describe('transcripts', () => {
  const good = {
    parameters: 'p', operation: Operation.VERIFY, sessionId: new Uint8Array(16), nonce: new Uint8Array(32), purpose: 'a', audience: 'b',
    audienceNonce: new Uint8Array(), keyId: new Uint8Array(32), templateDigest: new Uint8Array(32), releaseDigest: new Uint8Array(32),
    changeDigest: new Uint8Array(32), logSize: 0n, probeDigest: new Uint8Array(32), presentationChecked: false,
  }

  test.each(['sessionId', 'nonce', 'keyId', 'templateDigest', 'releaseDigest', 'changeDigest', 'probeDigest'])('a %s of another length is refused', (field) => {
    expect(transcriptBytes(good).length).toBeGreaterThan(0)
    expect(() => transcriptBytes({ ...good, [field]: new Uint8Array(31) })).toThrow('wrong length')
  })

  test.each(['parameters', 'purpose', 'audience'])('%s has 1 to 256 bytes', (field) => {
    for (const text of ['x', 'ß'.repeat(128)]) expect(transcriptBytes({ ...good, [field]: text }).length).toBe(transcriptBytes(good).length + utf8(text).length - 1)
    for (const text of ['', 'ß'.repeat(129), 'x'.repeat(257)]) expect(() => transcriptBytes({ ...good, [field]: text })).toThrow('1 to 256 bytes')
  })

  test("the audience's nonce has at most 256 bytes, and each field is in what is signed", () => {
    expect(transcriptBytes({ ...good, audienceNonce: new Uint8Array(256) }).length).toBe(transcriptBytes(good).length)
    expect(() => transcriptBytes({ ...good, audienceNonce: new Uint8Array(257) })).toThrow('at most 256 bytes')
    const others = {
      parameters: 'q', operation: Operation.ENROL, sessionId: new Uint8Array(16).fill(1), nonce: new Uint8Array(32).fill(2), purpose: 'c', audience: 'd', audienceNonce: Uint8Array.of(3),
      keyId: new Uint8Array(32).fill(4), templateDigest: new Uint8Array(32).fill(5), releaseDigest: new Uint8Array(32).fill(6), changeDigest: new Uint8Array(32).fill(7), logSize: 8n, probeDigest: new Uint8Array(32).fill(9), presentationChecked: true,
    }
    const known = [good, ...Object.entries(others).map(([name, value]) => ({ ...good, [name]: value })), { ...good, purpose: 'b', audience: 'a' }, { ...good, logSize: 2n ** 63n }]
    expect(new Set(known.map((one) => hex(transcriptBytes(one)))).size).toBe(known.length)
    expect(Object.keys(others).sort()).toEqual(Object.keys(good).sort())
  })

  test('a change of devices says which is let in and which is removed', () => {
    const [one, other] = [new Uint8Array(32).fill(1), new Uint8Array(32).fill(2)]
    const digests = [{ admits: one }, { removes: one }, { admits: other }, { admits: one, removes: other }, { admits: other, removes: one }].map((change) => hex(deviceChangeDigest(change)))
    expect(new Set(digests).size).toBe(5)
    const prefixed = (field: Uint8Array): Uint8Array => concat(Uint8Array.of(field.length, 0), field)
    expect(digests[3]).toBe(hex(sha256(concat(prefixed(utf8('intaglio device change v1')), prefixed(one), prefixed(other)))))
  })

  test("the digest of a change is Python's, and nothing is zeros", async () => {
    const change = { devicePublicKey: randomBytes(32), template: await message('1024/template'), receipt: randomBytes(700) }
    const consent = { devicePublicKey: new Uint8Array(), template: new Uint8Array(), receipt: change.receipt }
    for (const one of [change, consent]) {
      const request = { device_public_key: hex(one.devicePublicKey), template: hex(one.template), receipt: hex(one.receipt) }
      expect(hex(changeDigest(one))).toBe(await python('change', request))
    }
    expect(hex(changeDigest(null))).toBe('00'.repeat(32))
  })
})

describe.each(SETS)('with the Python matcher, $name bits', ({ parameters }) => {
  test('what this device pads and encrypts is matched, and it opens the reply exactly up to the threshold', async () => {
    const random = new DataView(randomBytes(128 * 4).buffer)
    const face = Float64Array.from({ length: 128 }, (_, i) => random.getInt32(4 * i, true) / 2 ** 31)
    const live = face.map((x, i) => x + (i % 3 === 0 ? 0.3 : 0))
    const secret = TemplateSecret.generate(parameters, randomBytes)
    const [enrolled, presented] = [secret.paddedCode(face), secret.paddedCode(live)]
    const distance = enrolled.reduce((sum, bit, i) => sum + (bit ^ presented[i]), 0)
    expect(distance).toBeGreaterThan(10)
    const [template, transcript] = [secret.template(face, randomBytes), randomBytes(300)]
    const opened = async (threshold: number): Promise<[string | null, string]> => {
      using key = SessionKey.generate(engineOf(parameters), randomBytes)
      const request = { template: hex(template), probe: hex(key.encrypt(presented)), transcript: hex(transcript), thresholds: [threshold] }
      const [answer] = (await python('match', request)) as { reply: string; token: string }[]
      const token = key.openReply(fromHex(answer.reply), transcript)
      return [token && hex(token), answer.token]
    }
    const [accepted, token] = await opened(distance)
    expect(accepted).toBe(token)
    expect((await opened(distance - 1))[0]).toBeNull()
  })

  test("another session's key opens nothing", async () => {
    const [key, other] = [SessionKey.generate(engineOf(parameters), randomBytes), opening(parameters, zeros(parameters))]
    const secret = TemplateSecret.generate(parameters, randomBytes)
    const face = Float64Array.from(facts2048.embedding)
    const probe = key.encrypt(secret.paddedCode(face))
    const request = { template: hex(secret.template(face, randomBytes)), probe: hex(probe), transcript: '00', thresholds: [parameters.slots - 1] }
    const [answer] = (await python('match', request)) as { reply: string; token: string }[]
    expect(other.openReply(fromHex(answer.reply), new Uint8Array(1))).toBeNull()
    expect(hex(key.openReply(fromHex(answer.reply), new Uint8Array(1))!)).toBe(answer.token)
  })

  test('codes of random embeddings are those that Python computes', async () => {
    const seed = randomBytes(32)
    const random = new DataView(randomBytes(20 * 128 * 4).buffer)
    const embeddings = Array.from({ length: 20 }, (_, row) =>
      Array.from({ length: 128 }, (_, i) => random.getInt32(4 * (128 * row + i), true) / 2 ** 31))
    const expected = (await python('codes', { seed: hex(seed), length: parameters.slots, embeddings })) as string[]
    const codes = new CodeSeed(seed)
    embeddings.forEach((embedding, i) => {
      expect(hex(packBits(codes.code(Float64Array.from(embedding), parameters.slots)))).toBe(expected[i])
    })
  })
})

test('a code turns where the planes of Python are, to a millionth of a millionth', async () => {
  const [seed, dimension, bits] = [keystream('planes')(32), 16, 40] // always the same: of one in a thousand less would be said; the last block is cut off
  const planes = (await python('planes', { seed: hex(seed), dimension, bits })) as number[][]
  const codes = new CodeSeed(seed)
  planes.forEach((plane, at) => {
    const along = planes[at % dimension === 0 ? at + 1 : at - 1] // of the same block, and so at right angles
    for (const side of [1, -1]) expect(codes.code(Float64Array.from(along, (x, i) => x + side * 1e-12 * plane[i]), bits)[at], `plane ${at}`).toBe(Number(side > 0))
  })
})
