/**
 * The one way to cut a face, as `federation/recognition/cropping.py`: the same pixels, up to rounding.
 *
 * Coordinates are those of areas: the upper left pixel reaches from 0 to 1 on both axes. Every pixel of a cut is the mean of
 * 2 x 2 samples, each interpolated between four pixels; an image of more than twice the needed resolution is halved first,
 * and goes on beyond its edge as it ends there. No canvas scales anything here: every browser does that in its own way.
 */

import { UsageError } from '../errors'

/** A place in an image, in pixels. */
export interface Point {
  readonly x: number
  readonly y: number
}

/** Where landmarks come to lie in a cut, in 1/10000 of its pixels. */
export interface Alignment {
  readonly side: number
  readonly points: readonly (readonly [number, number])[]
}

/** Of the points of an `Alignment`. */
export const PER_PIXEL = 10_000
/** Of an image; some phones draw no larger one. Python's pixels are these up to here. */
const MOST_PIXELS = 16_000_000
const SAMPLES = 2
const [SMALLEST, LARGEST] = [1e-3, 1e3]
const NOWHERE = 'landmarks that lie on one point, or nowhere, align no face'

/** Turns, scales and shifts the plane: (x, y) becomes (a x - b y + e, b x + a y + f). */
export class Similarity {
  constructor(readonly a: number, readonly b: number, readonly e: number, readonly f: number) {}

  /** The one that brings `here` nearest to `there`, by the sum of squared distances. */
  static between(here: readonly Point[], there: readonly Point[]): Similarity {
    const [from, to] = [middle(here), middle(there)]
    let [real, imaginary, spread] = [0, 0, 0]
    here.forEach((point, i) => {
      const [x, y, u, v] = [point.x - from.x, point.y - from.y, there[i].x - to.x, there[i].y - to.y]
      real += x * u + y * v
      imaginary += x * v - y * u
      spread += x * x + y * y
    })
    if (!(spread > 0 && Number.isFinite(spread))) throw new UsageError(NOWHERE)
    const [a, b] = [real / spread, imaginary / spread]
    return new Similarity(a, b, to.x - a * from.x + b * from.y, to.y - b * from.x - a * from.y)
  }

  /** How much it enlarges. */
  get scale(): number {
    return Math.hypot(this.a, this.b)
  }

  /** Where a point comes to lie. */
  apply({ x, y }: Point): Point {
    return { x: this.a * x - this.b * y + this.e, y: this.b * x + this.a * y + this.f }
  }

  /** The one that takes it back. */
  get inverse(): Similarity {
    const square = this.a ** 2 + this.b ** 2
    const [a, b] = [this.a / square, -this.b / square]
    return new Similarity(a, b, -a * this.e + b * this.f, -b * this.e - a * this.f)
  }
}

function middle(points: readonly Point[]): Point {
  const sum = points.reduce((total, point) => ({ x: total.x + point.x, y: total.y + point.y }), { x: 0, y: 0 })
  return { x: sum.x / points.length, y: sum.y / points.length }
}

/** What brings the pixels of a cut to the image that the landmarks were found in. */
export function placed(landmarks: readonly Point[], { points }: Alignment): Similarity {
  const there = Similarity.between(landmarks, points.map(([x, y]) => ({ x: x / PER_PIXEL, y: y / PER_PIXEL })))
  if (!(there.scale > SMALLEST && there.scale < LARGEST)) throw new UsageError(NOWHERE)
  return there.inverse
}

interface Level {
  readonly width: number
  readonly height: number
  /** Numbers of a pixel; the first three are red, green, blue. */
  readonly step: number
  readonly pixels: Uint8ClampedArray | Float32Array
}

/** An image whose pixels are read. Sensitive. */
export class Photograph {
  readonly width: number
  readonly height: number
  readonly #levels: Level[]

  constructor({ width, height, data }: Pick<ImageData, 'width' | 'height' | 'data'>) {
    this.width = width
    this.height = height
    this.#levels = [{ width, height, step: 4, pixels: data }]
  }

  /** The pixels of `image`, made smaller where a phone could not hold them. */
  static of(image: ImageBitmap): Photograph {
    const factor = Math.min(1, Math.sqrt(MOST_PIXELS / (image.width * image.height)))
    const [width, height] = [image.width, image.height].map((side) => Math.max(1, Math.floor(factor * side)))
    const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true })
    if (context === null) throw new Error('this browser draws nothing in a worker')
    context.imageSmoothingQuality = 'high'
    context.drawImage(image, 0, 0, width, height)
    return new Photograph(context.getImageData(0, 0, width, height))
  }

  /** Grey level of the pixel at a place, 0 to 255; beyond an edge that of the edge. */
  grey(x: number, y: number): number {
    const { width, height, step, pixels } = this.#levels[0]
    const at = step * (Math.min(Math.max(Math.trunc(y), 0), height - 1) * width + Math.min(Math.max(Math.trunc(x), 0), width - 1))
    return 0.299 * pixels[at] + 0.587 * pixels[at + 1] + 0.114 * pixels[at + 2]
  }

  /** The square of `side` pixels that `place` brings to the image: red, green and blue of every pixel, row by row. */
  cut(place: Similarity, side: number): Uint8Array {
    const halvings = Math.max(0, Math.ceil(Math.log2(place.scale / 2)))
    const { width, height, step, pixels } = this.#halved(halvings)
    const grain = 2 ** halvings
    const [a, b, e, f] = [place.a / grain, place.b / grain, place.e / grain - 0.5, place.f / grain - 0.5]
    const cut = new Uint8Array(3 * side * side)
    for (let row = 0, at = 0; row < side; row++) {
      for (let column = 0; column < side; column++, at += 3) {
        let [red, green, blue] = [0, 0, 0]
        for (let sample = 0; sample < SAMPLES * SAMPLES; sample++) {
          const u = column + ((sample % SAMPLES) + 0.5) / SAMPLES
          const v = row + (Math.floor(sample / SAMPLES) + 0.5) / SAMPLES
          const x = Math.min(Math.max(a * u - b * v + e, 0), width - 1)
          const y = Math.min(Math.max(b * u + a * v + f, 0), height - 1)
          const [left, top] = [Math.trunc(x), Math.trunc(y)]
          const [across, down] = [x - left, y - top]
          const right = left + 1 < width ? step : 0
          const below = top + 1 < height ? step * width : 0
          const p = step * (top * width + left)
          const [w00, w01, w10, w11] = [(1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down]
          red += w00 * pixels[p] + w01 * pixels[p + right] + w10 * pixels[p + below] + w11 * pixels[p + below + right]
          green += w00 * pixels[p + 1] + w01 * pixels[p + right + 1] + w10 * pixels[p + below + 1] + w11 * pixels[p + below + right + 1]
          blue += w00 * pixels[p + 2] + w01 * pixels[p + right + 2] + w10 * pixels[p + below + 2] + w11 * pixels[p + below + right + 2]
        }
        cut[at] = Math.floor(red / SAMPLES ** 2 + 0.5)
        cut[at + 1] = Math.floor(green / SAMPLES ** 2 + 0.5)
        cut[at + 2] = Math.floor(blue / SAMPLES ** 2 + 0.5)
      }
    }
    return cut
  }

  /** Shares of the pixels of a cut that lie outside the image, 0 to 1, above or below it and in all: what the edge's repetition makes up. */
  sharesOutside(place: Similarity, side: number): { readonly over: number; readonly outside: number } {
    let [over, outside] = [0, 0]
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const { x, y } = place.apply({ x: column + 0.5, y: row + 0.5 })
        const isOver = y < 0 || y >= this.height
        over += Number(isOver)
        outside += Number(isOver || x < 0 || x >= this.width)
      }
    }
    return { over: over / side ** 2, outside: outside / side ** 2 }
  }

  /** The image, halved that often by averaging 2 x 2 pixels; an odd row or column at the end is repeated. */
  #halved(times: number): Level {
    while (this.#levels.length <= times) {
      const { width, height, step, pixels } = this.#levels.at(-1)!
      const [columns, rows] = [Math.ceil(width / 2), Math.ceil(height / 2)]
      const means = new Float32Array(3 * columns * rows)
      for (let row = 0, at = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++, at += 3) {
          const p = step * (2 * row * width + 2 * column)
          const right = 2 * column + 1 < width ? step : 0
          const below = 2 * row + 1 < height ? step * width : 0
          for (let channel = 0; channel < 3; channel++) {
            const q = p + channel
            means[at + channel] = (pixels[q] + pixels[q + right] + pixels[q + below] + pixels[q + below + right]) / 4
          }
        }
      }
      this.#levels.push({ width: columns, height: rows, step: 3, pixels: means })
    }
    return this.#levels[times]
  }
}
