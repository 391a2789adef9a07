/** A model release: what adapts embeddings, and the threshold that goes with it. Public. See `federation/recognition/model.py`. */

import { hex, sha256 } from '../bytes'
import { MalformedMessageError, RefusedError, UsageError } from '../errors'
import { type Parameters, parametersFor } from '../onebit/parameters'

const FORMAT = 'intaglio-model-release-4'
const LARGEST_DIMENSION = 1024
const MOST_REFERENCES = 5
const MOST_FRAMES = 3
const MOST_PEOPLE = Number.MAX_SAFE_INTEGER
/** What a stated false match rate rests on, as `federation/rates.py`. */
export const BASES = ['public', 'checked', 'measured', 'labelled'] as const
/** Which release of a run a rate rests on that is more than an estimate. */
const CHECKED_BY = 'threshold'

/** Which camera made an embedding. */
export type Profile = 'reference' | 'probe'

/** How often somebody else is accepted. */
export interface FalseMatchRate {
  /** What the threshold was set for. */
  readonly stated: number
  /** The true one is said to lie between these, with a probability of 90 %. */
  readonly low: number
  readonly high: number
  /** What that rests on: public sets of faces, the people of the run too, enough of them to narrow the interval, or labelled people. */
  readonly basis: (typeof BASES)[number]
  /** Of how many people it was learnt, in public sets of faces or in the run. */
  readonly people: number
  /** Camera condition that probes are taken under, such as "mask". */
  readonly condition: string
}

/** One release, known by the digest of its bytes. */
export class ModelRelease {
  /** SHA-256 of the release's bytes, in hex. */
  readonly digest: string
  /** The recogniser's profile that embeddings must come from. */
  readonly modelDigest: string
  /** Of the match, by the length of its codes. */
  readonly parameters: Parameters
  /** Largest number of bits in which a probe may differ from a reference. */
  readonly threshold: number
  readonly fmr: FalseMatchRate
  /** Pictures that are averaged for a reference, at most, and for a probe. */
  readonly references: number
  readonly frames: number
  readonly #dimension: number
  readonly #centres: Readonly<Record<string, Float64Array>>
  readonly #projection: Float64Array | null
  readonly #isTuned: boolean

  /**
   * Reads a release. Its digest decides which one it is; whoever needs a certain one compares that.
   *
   * @throws MalformedMessageError these bytes are no release of this version.
   */
  constructor(data: Uint8Array) {
    try {
      const value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(data)) as Record<string, unknown>
      if (value['format'] !== FORMAT) throw new RangeError('another format')
      const d = this.#dimension = count(value['dimension'], LARGEST_DIMENSION)
      this.#isTuned = 'scales' in value
      this.parameters = parametersFor(value['code_length'] as number)
      this.digest = hex(sha256(data))
      this.modelDigest = text(value['model_digest'])
      this.threshold = count(value['threshold'], this.parameters.slots - 1, 0)
      this.fmr = rateOf(value)
      this.references = count(value['references'], MOST_REFERENCES)
      this.frames = count(value['frames'], MOST_FRAMES)
      const centres = Object.entries(value['centres'] as Record<string, unknown>).map(([profile, centre]) => [profile, floats(centre)] as const)
      const k = count(centres[0][1].length, d)
      if (centres.some(([, centre]) => centre.length !== k)) throw new RangeError('centres of several lengths')
      this.#centres = Object.fromEntries(centres)
      this.#projection = value['projection'] === null ? null : floats(value['projection'])
      if ((this.#projection?.length ?? d * d) !== k * d) throw new RangeError('a projection of another size')
    } catch (error) {
      throw new MalformedMessageError('the bytes are not a model release of this version', { cause: error })
    }
  }

  /**
   * The vector whose hyperplane signs make the code: projected, centred, of unit norm.
   *
   * @param embedding of the recogniser, of one picture or of several (`fused`).
   * @throws UsageError the embedding has another length, or the release does not know the camera profile.
   * @throws RefusedError the release also tunes the recogniser, and this page's is frozen.
   */
  adapt(embedding: Float64Array, profile: Profile): Float64Array {
    if (this.#isTuned) throw new RefusedError('this model release tunes the recogniser itself, which this page cannot do; use the intaglio program')
    const [d, centre, projection] = [this.#dimension, this.#centres[profile], this.#projection]
    if (centre === undefined) throw new UsageError(`this release does not know the camera profile ${profile}`)
    if (embedding.length !== d) throw new UsageError(`this release takes embeddings of ${d} numbers`)
    const projected = projection === null
      ? embedding
      : centre.map((_, row) => embedding.reduce((sum, x, column) => sum + x * projection[row * d + column], 0))
    const vector = projected.map((x, i) => x - centre[i])
    const norm = Math.hypot(...vector)
    return norm > 0 ? vector.map((x) => x / norm) : vector
  }
}

function rateOf(value: Readonly<Record<string, unknown>>): FalseMatchRate {
  const [stated, low, high] = ['fmr', 'fmr_low', 'fmr_high'].map((name) => value[name])
  if (!(typeof stated === 'number' && stated > 0 && stated < 1)) throw new RangeError('fmr')
  if (!(typeof low === 'number' && typeof high === 'number' && low >= 0 && low <= stated && low <= high && high <= 1)) throw new RangeError('its interval')
  const basis = BASES.find((one) => one === value['basis'])
  if (basis === undefined) throw new RangeError('basis')
  const { events } = value['privacy'] as { events: readonly (readonly unknown[])[] }
  if (basis !== 'public' && basis !== 'labelled' && !events.some(([name]) => name === CHECKED_BY)) throw new RangeError('nobody was asked for what it rests on')
  return { stated, low, high, basis, people: count(value['fmr_people'], MOST_PEOPLE), condition: text(value['condition']) }
}

/** A whole number from `least` to `most`. */
function count(value: unknown, most: number, least = 1): number {
  if (!Number.isInteger(value) || (value as number) < least || (value as number) > most) throw new RangeError('a count')
  return value as number
}

function text(value: unknown): string {
  if (typeof value !== 'string') throw new TypeError('no text')
  return value
}

/** Little-endian float64 in base64. */
function floats(value: unknown): Float64Array {
  const bytes = Uint8Array.from(atob(text(value)), (character) => character.charCodeAt(0))
  const array = new Float64Array(bytes.buffer)
  if (!array.every(Number.isFinite)) throw new RangeError('an array is not finite')
  return array
}
