/** A model release: what adapts embeddings, and the threshold that goes with it. Public. See `federation/recognition/model.py`. */

import { hex, sha256 } from '../bytes'
import { MalformedMessageError, RefusedError, UsageError } from '../errors'
import { type Parameters, parametersFor } from '../onebit/parameters'

const FORMAT = 'intaglio-model-release-1'
const LARGEST_DIMENSION = 1024

/** Which camera made an embedding. */
export type Profile = 'reference' | 'probe'

/** One release, known by the digest of its bytes. */
export class ModelRelease {
  /** SHA-256 of the release's bytes, in hex. */
  readonly digest: string
  /** The recogniser that embeddings must come from. */
  readonly modelDigest: string
  /** Of the match, by the length of its codes. */
  readonly parameters: Parameters
  /** The false match rate that the threshold was set for, by the Python pipeline. */
  readonly fmr: number
  readonly #centres: Readonly<Record<string, Float64Array>>
  readonly #whitening: Float64Array | null
  readonly #isTuned: boolean

  /**
   * Reads a release. Its digest decides which one it is; whoever needs a certain one compares that.
   *
   * @throws MalformedMessageError these bytes are no release of this version.
   */
  constructor(data: Uint8Array) {
    try {
      const value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(data)) as Record<string, unknown>
      const { dimension: d, centres, whitening } = value
      if (value['format'] !== FORMAT) throw new RangeError('another format')
      if (!Number.isInteger(d) || (d as number) < 1 || (d as number) > LARGEST_DIMENSION) throw new RangeError('dimension')
      const length = d as number
      this.#isTuned = 'scales' in value
      this.parameters = parametersFor(value['code_length'] as number)
      this.digest = hex(sha256(data))
      this.modelDigest = text(value['model_digest'])
      this.fmr = Number(value['fmr'])
      if (!(this.fmr > 0 && this.fmr < 1)) throw new RangeError('fmr')
      const entries = Object.entries(centres as Record<string, unknown>)
      this.#centres = Object.fromEntries(entries.map(([profile, centre]) => [profile, floats(centre, length)]))
      this.#whitening = whitening === null ? null : floats(whitening, length * length)
    } catch (error) {
      throw new MalformedMessageError('the bytes are not a model release of this version', { cause: error })
    }
  }

  /**
   * The vector whose hyperplane signs make the code: centred, whitened, of unit norm.
   *
   * @throws UsageError the embedding has another length, or the release does not know the camera profile.
   * @throws RefusedError the release also tunes the recogniser, and this page's is frozen.
   */
  adapt(embedding: Float64Array, profile: Profile): Float64Array {
    if (this.#isTuned) throw new RefusedError('this model release tunes the recogniser itself, which this page cannot do; use the intaglio program')
    const centre = this.#centres[profile]
    if (centre === undefined) throw new UsageError(`this release does not know the camera profile ${profile}`)
    if (embedding.length !== centre.length) throw new UsageError(`this release takes embeddings of ${centre.length} numbers`)
    const centred = embedding.map((x, i) => x - centre[i])
    const whitening = this.#whitening
    const d = centred.length
    const vector = whitening === null
      ? centred
      : Float64Array.from(centred, (_, column) => centred.reduce((sum, x, row) => sum + x * whitening[row * d + column], 0))
    const norm = Math.hypot(...vector)
    return norm > 0 ? vector.map((x) => x / norm) : vector
  }
}

function text(value: unknown): string {
  if (typeof value !== 'string') throw new TypeError('no text')
  return value
}

/** Little-endian float64 in base64. */
function floats(value: unknown, length: number): Float64Array {
  const bytes = Uint8Array.from(atob(text(value)), (character) => character.charCodeAt(0))
  if (bytes.length !== 8 * length) throw new RangeError('an array has another length')
  const array = new Float64Array(bytes.buffer)
  if (!array.every(Number.isFinite)) throw new RangeError('an array is not finite')
  return array
}
