/** What SEAL hands out is given back: WebAssembly frees nothing by itself, and a key would stay in its memory. */

import { beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'

import { randomBytes } from '../src/bytes'
import { SessionKey } from '../src/onebit/device'
import { ONEBIT_1024, PARAMETER_SETS, ternary } from '../src/onebit/parameters'
import { Engine } from '../src/onebit/seal'

interface Handle { isDeleted(): boolean; constructor: { name: string } }
const { handles, broken } = vi.hoisted(() => ({ handles: [] as Handle[], broken: { of: '', by: null as ((given: any) => any) | null } }))

/** Notes every object of SEAL that a constructor, a function or a method hands out. */
vi.mock('node-seal', async (original) => {
  const real = await original<{ default: (options: object) => Promise<Record<string, any>> }>()
  const noted = (value: any): any => {
    if (typeof value?.isDeleted === 'function' && !handles.includes(value)) handles.push(value)
    return value
  }
  const watched = (call: (...parameters: any[]) => any, name = '') => function (this: any, ...parameters: any[]) {
    const given = noted(call.apply(this, parameters))
    return broken.of === name && broken.by !== null ? broken.by(given) : given
  }
  const initialise = async (options: object): Promise<object> => {
    const seal = await real.default(options)
    for (const [name, value] of Object.entries(seal)) {
      if (typeof value !== 'function') continue
      if (typeof value.prototype?.delete !== 'function') {
        if (name.startsWith('vecFrom')) seal[name] = watched(value)
        continue
      }
      for (const method of Object.getOwnPropertyNames(value.prototype)) {
        const call = Object.getOwnPropertyDescriptor(value.prototype, method)?.value
        if (method !== 'constructor' && typeof call === 'function') value.prototype[method] = watched(call, `${name}.${method}`)
      }
      seal[name] = new Proxy(value, { construct: (made, parameters) => noted(Reflect.construct(made, parameters)) })
    }
    return seal
  }
  return { default: initialise }
})

const alive = (): string[] => handles.filter((one) => !one.isDeleted()).map((one) => one.constructor.name).sort()

describe.each(PARAMETER_SETS)('under $name', (parameters) => {
  let engine: Engine
  beforeAll(async () => {
    handles.length = 0
    engine = await Engine.load(parameters)
  })
  beforeEach(() => { broken.by = null })

  test('nothing but the context and what encrypts outlives a call, and nothing but the context a session', () => {
    expect(handles.length).toBeGreaterThan(5)
    expect(alive()).toEqual(['SEALContext'])
    for (let i = 0; i < 2; i++) {
      {
        using key = SessionKey.generate(engine, randomBytes)
        expect(alive()).toEqual(['Encryptor', 'SEALContext'])
        key.encrypt(new Uint8Array(parameters.slots))
        expect(alive()).toEqual(['Encryptor', 'SEALContext'])
      }
      expect(alive()).toEqual(['SEALContext'])
    }
  })

  test('what cannot be encrypted leaves nothing behind either', () => {
    using key = engine.encryptingKey(ternary(parameters.ringDimension, randomBytes))
    const [before, good] = [alive(), new BigUint64Array(parameters.ringDimension)]
    expect(() => engine.encrypt(key, good.map(() => 2n ** 40n))).toThrow()
    expect(alive()).toEqual(before)
    const { seed, residues } = engine.encrypt(key, good)
    expect([seed.length, residues.map((one) => one.length)]).toEqual([64, [parameters.ringDimension, parameters.ringDimension]])
    residues.forEach((one, i) => { expect(one.every((residue) => residue < parameters.dataPrimes[i]) && new Set(one).size > 8000).toBe(true) })
  })

  const altered = (place: number) => (encoded: Uint8Array): Uint8Array => encoded.map((byte, i) => (i === place ? byte ^ 1 : byte))
  const WORDS = 16 + 73 + 16 // where SEAL says how many numbers a ciphertext has
  test.each<[string, string, (given: any) => any, string]>([
    ['with another mark', 'Plaintext.saveToArray', altered(0), 'another format'], ['with the other byte of it', 'Plaintext.saveToArray', altered(1), 'another format'],
    ['of another version', 'Plaintext.saveToArray', altered(3), 'another format'], ['of another minor version', 'Plaintext.saveToArray', altered(4), 'another format'],
    ['of another version, encrypted', 'SerializableCiphertext.saveToArray', altered(3), 'another format'], ['of another shape', 'SerializableCiphertext.saveToArray', altered(WORDS), 'unexpected shape'],
  ])('what SEAL writes %s is not taken, and leaves nothing behind', (_, of, by, said) => {
    const coefficients = ternary(parameters.ringDimension, randomBytes)
    Object.assign(broken, { of, by })
    if (of.startsWith('Plain')) expect(() => engine.encryptingKey(coefficients)).toThrow(said)
    else {
      using key = engine.encryptingKey(coefficients)
      expect(() => engine.encrypt(key, new BigUint64Array(parameters.ringDimension))).toThrow(said)
      expect(alive()).toEqual(['Encryptor', 'SEALContext'])
    }
    expect(alive()).toEqual(['SEALContext'])
  })

  test('of a session nothing secret stays, in its arrays neither', () => {
    const code = randomBytes(parameters.slots).map((byte) => byte & 1)
    const [given, copies, values] = [vi.spyOn(engine, 'encryptingKey'), vi.spyOn(Object.getPrototypeOf(Uint8Array.prototype), 'slice'), vi.spyOn(Float64Array, 'from')]
    const before = code.join('')
    const key = SessionKey.generate(engine, randomBytes)
    const coefficients = given.mock.calls[0][0]
    expect([coefficients.length, coefficients.some((one) => one !== 0)]).toEqual([parameters.ringDimension, false]) // as soon as SEAL has it
    key.encrypt(code)
    const held = [copies.mock.results.find(({ value }) => value.length === parameters.slots && value.join('') === before)!.value, values.mock.results[0].value] as Uint8Array[]
    expect(held.map((one) => one.some((each) => each !== 0))).toEqual([true, true])
    key[Symbol.dispose]()
    expect(held.map((one) => one.some((each) => each !== 0))).toEqual([false, false])
    expect(code.join('')).toBe(before) // the caller's
    expect(alive()).toEqual(['SEALContext'])
    vi.restoreAllMocks()
  })
})

test('parameters that SEAL refuses leave nothing behind', async () => {
  handles.length = 0
  Object.assign(broken, { of: 'SEALContext.parametersSet', by: () => false })
  await expect(Engine.load(ONEBIT_1024)).rejects.toThrow('SEAL refuses the parameters')
  expect(handles.length).toBeGreaterThan(5)
  expect(alive()).toEqual([])
})
