/**
 * From an image to an embedding, in the browser: BlazeFace, the cut and MobileFaceNet, as `client/faces/finding.py` and
 * `federation/recognition` do it and from the same files, so that one threshold serves both.
 *
 * Images and embeddings are sensitive: they stay in the worker that runs this.
 */

import { alignment, digests, files, preprocessing, shapes } from 'virtual:recogniser'

import { type Bytes, hex, sha256 } from '../bytes'
import { UnavailableError, UsageError } from '../errors'
import { BlazeFace } from './blazeface'
import { advise, type Advice, type Glance } from './advice'
import { Photograph, placed, type Point } from './cropping'
import { FaceFinder } from './finding'
import { MobileFaceNet } from './mobilefacenet'
import { requireQuality } from './quality'
import type { Profile } from './release'
import { loadTensors } from './tensors'

const MEANS = preprocessing.mean_thousandths.map((mean) => mean / 1000)
const DIVISOR = preprocessing.divisor_thousandths / 1000

/** Detector and recogniser. Load once, use often. */
export class Recogniser {
  readonly #finder: FaceFinder
  readonly #network: MobileFaceNet

  private constructor(detector: Bytes, manifest: Bytes, weights: Bytes) {
    this.#finder = new FaceFinder(new BlazeFace(detector, manifest), alignment)
    let at = 0
    this.#network = new MobileFaceNet(shapes.map((shape) => {
      const count = shape.reduce((product, length) => product * length, 1)
      const numbers = halves(new Uint16Array(weights.buffer, weights.byteOffset + at, count))
      at += 2 * count
      return { shape, numbers }
    }))
  }

  /**
   * Loads everything from the page's own server.
   *
   * @param come is told the share of the weights that has come, 0 to 1.
   * @throws UnavailableError a file does not come, or is another one.
   */
  static async load(come: (share: number) => void = () => undefined): Promise<Recogniser> {
    const all = files.reduce((sum, { bytes }) => sum + bytes, 0)
    let here = 0
    const piece = (bytes: number): void => { come((here += bytes) / all) }
    const [[detector, manifest, weights]] = await Promise.all([Promise.all(files.map((file) => fetched(file, piece))), loadTensors()])
    return new Recogniser(detector, manifest, weights)
  }

  /** Whether a release that names this digest is for this recogniser. */
  is(digest: string): boolean {
    return digests.includes(digest)
  }

  /**
   * The one face of `image`, aligned: (112, 112, 3) of RGB. Sensitive.
   *
   * @param profile what it is to serve as.
   * @throws UnusableImageError not exactly one face, or too little of it.
   */
  cut(image: ImageBitmap, profile: Profile): Uint8Array {
    const photograph = Photograph.of(image)
    const landmarks = this.#finder.landmarks(photograph, profile)
    requireQuality(photograph, landmarks, alignment, profile)
    return photograph.cut(placed(landmarks, alignment), alignment.side)
  }

  /** What somebody in front of a camera should do for a better picture; null when it is good. @param before what was seen a moment ago. */
  advise(image: ImageBitmap, profile: Profile, before: Glance | null): { readonly advice: Advice | null; readonly seen: Glance | null } {
    const photograph = Photograph.of(image)
    return advise(photograph, this.#finder.glance(photograph), alignment, profile, before)
  }

  /** Where the face of a film's next frame is, as `FaceFinder.follow` says. */
  follow(image: ImageBitmap, before: readonly Point[] | null): Point[] {
    return this.#finder.follow(Photograph.of(image), before)
  }

  /** The embedding of a cut: 192 numbers of unit norm. Sensitive. */
  embed(cut: Uint8Array): Float64Array {
    const embedding = Float64Array.from(this.#network.embed(Float32Array.from(cut, (value, i) => (value - MEANS[i % 3]) / DIVISOR)))
    const norm = Math.hypot(...embedding)
    if (!(norm > 0 && Number.isFinite(norm))) throw new UsageError('the recogniser failed on this image; take another')
    return embedding.map((x) => x / norm)
  }
}

/** Reads float16. */
function halves(bits: Uint16Array): Float32Array {
  return Float32Array.from(bits, (half) => {
    const [exponent, fraction] = [(half >> 10) & 31, half & 1023]
    const magnitude = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25)
    return half & 0x8000 ? -magnitude : magnitude
  })
}

const MISSING = 'a file of the recogniser does not come; check the connection and reload'
/** A file of which nothing comes for so long does not come. */
const SILENCE_MS = 15_000

async function fetched({ url, bytes, digest }: (typeof files)[number], come: (bytes: number) => void): Promise<Bytes> {
  const silence = new AbortController()
  const file = new Uint8Array(bytes)
  let at = 0
  let clock: ReturnType<typeof setTimeout> | undefined
  const wait = (): void => { clearTimeout(clock); clock = setTimeout(() => { silence.abort() }, SILENCE_MS) }
  wait()
  try {
    const reader = await opened(url, silence.signal)
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      const { value } = piece
      file.set(value, at) // raises RangeError where it is longer than it was built
      at += value.length
      come(value.length)
      wait()
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw new UnavailableError(MISSING, null, { name: 'why.unreachable' })
    at = 0
  } finally {
    clearTimeout(clock)
    silence.abort() // whatever else comes of it is not waited for
  }
  if (at !== bytes || hex(sha256(file)) !== digest) {
    throw new UnavailableError('a file of the recogniser is not the one that this page was built for; reload', null, { name: 'why.other_file' })
  }
  return file
}

async function opened(url: string, signal: AbortSignal): Promise<ReadableStreamDefaultReader<Uint8Array>> {
  const { ok, body } = await fetch(url, { signal })
  if (!ok || body === null) throw new TypeError(MISSING)
  return body.getReader()
}
