/** What SEAL hands out is given back: WebAssembly frees nothing by itself, and a key would stay in its memory. */

import { beforeEach, describe, expect, test, vi } from 'vitest'

import { randomBytes } from '../src/bytes'
import { SessionKey } from '../src/onebit/device'
import { PARAMETER_SETS, ternary } from '../src/onebit/parameters'
import { Engine } from '../src/onebit/seal'

interface Handle { isDeleted(): boolean; constructor: { name: string } }
const { handles } = vi.hoisted(() => ({ handles: [] as Handle[] }))

/** Notes every object of SEAL that a constructor, a function or a method hands out. */
vi.mock('node-seal', async (original) => {
  const real = await original<{ default: (options: object) => Promise<Record<string, any>> }>()
  const noted = (value: any): any => {
    if (typeof value?.isDeleted === 'function' && !handles.includes(value)) handles.push(value)
    return value
  }
  const watched = (call: (...parameters: any[]) => any) => function (this: unknown, ...parameters: any[]) { return noted(call.apply(this, parameters)) }
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
        if (method !== 'constructor' && typeof call === 'function') value.prototype[method] = watched(call)
      }
      seal[name] = new Proxy(value, { construct: (made, parameters) => noted(Reflect.construct(made, parameters)) })
    }
    return seal
  }
  return { default: initialise }
})

const alive = (): string[] => handles.filter((one) => !one.isDeleted()).map((one) => one.constructor.name).sort()

describe.each(PARAMETER_SETS)('under $name', (parameters) => {
  beforeEach(() => { handles.length = 0 })

  test('nothing but the context and what encrypts outlives a call, and nothing but the context a session', async () => {
    const engine = await Engine.load(parameters)
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

  test('what cannot be encrypted leaves nothing behind either', async () => {
    const engine = await Engine.load(parameters)
    using key = engine.encryptingKey(ternary(parameters.ringDimension, randomBytes))
    const [before, good] = [alive(), new BigUint64Array(parameters.ringDimension)]
    expect(() => engine.encrypt(key, good.map(() => 2n ** 40n))).toThrow()
    expect(alive()).toEqual(before)
    expect(engine.encrypt(key, good).residues).toHaveLength(parameters.dataPrimes.length)
  })
})
