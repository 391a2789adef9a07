/** BlazeFace, as `federation/recognition/blazeface.py`: finds faces and six landmarks of each in a square of 256 pixels. */

import { add, depthwiseConv2d, fused, maxPool, pad, relu, type Tensor, type Tensor1D, tensor, type Tensor4D, tidy } from '@tensorflow/tfjs-core'

import type { Bytes } from '../bytes'
import type { Point } from './cropping'

/** Rows and columns of what the detector sees. */
export const SIDE = 256
const BLOCKS = 31
const HALVING = [7, 15, 23]
/** Cells on a side, and places in each. */
const CELLS = [[16, 2], [8, 6]] as const
const SURE = 0.5
/** Overlap (intersection over union) from which two places mean one face. */
const SAME = 0.3
/** Distances of each place: middle and size of the box, and six landmarks. */
const NUMBERS = 16

/** Left, top, right, bottom, in pixels. */
export interface Box {
  readonly left: number
  readonly top: number
  readonly right: number
  readonly bottom: number
}

/** A face. Sensitive. */
export interface Detection {
  readonly score: number
  readonly box: Box
  /** Right eye, left eye, tip of the nose, middle of the mouth, right ear, left ear. */
  readonly landmarks: readonly Point[]
}

/** The detector. */
export class BlazeFace {
  readonly #values: ReadonlyMap<string, Tensor>
  readonly #places = CELLS.flatMap(([cells, each]) => Array.from({ length: cells * cells * each }, (_, i) => {
    const cell = Math.floor(i / each)
    return { x: ((cell % cells) + 0.5) * SIDE / cells, y: (Math.floor(cell / cells) + 0.5) * SIDE / cells }
  }))

  /** @param weights blazeface.bin. @param manifest blazeface.json. */
  constructor(weights: Bytes, manifest: Bytes) {
    const { weightsManifest } = JSON.parse(new TextDecoder().decode(manifest)) as { weightsManifest: { weights: { name: string; shape: number[] }[] }[] }
    let at = 0
    this.#values = new Map(weightsManifest.flatMap((group) => group.weights).map(({ name, shape }) => {
      const count = shape.reduce((product, length) => product * length, 1)
      const numbers = new Float32Array(weights.buffer, weights.byteOffset + at, count).slice()
      at += 4 * count
      return [name, tensor(numbers, shape)]
    }))
  }

  /**
   * Finds the faces of each of some squares, the surest first, in its pixels.
   *
   * @param squares (256, 256, 3) of RGB each.
   * @param sure least score of a face.
   */
  detect(squares: readonly Uint8Array[], sure = SURE): Detection[][] {
    const input = new Float32Array(squares.length * SIDE * SIDE * 3)
    squares.forEach((square, n) => square.forEach((value, i) => { input[n * square.length + i] = Math.fround(value / 127.5) - 1 }))
    const { logits, distances } = this.#forward(input, squares.length)
    return squares.map((_, n) => {
      const likely = this.#places.flatMap(({ x, y }, place) => {
        const score = 1 / (1 + Math.exp(-logits[n][place]))
        if (!(score >= sure)) return []
        const number = (i: number): number => distances[n][NUMBERS * place + i]
        const [u, v, width, height] = [number(0) + x, number(1) + y, number(2), number(3)]
        const landmarks = Array.from({ length: 6 }, (_, i) => ({ x: number(4 + 2 * i) + x, y: number(5 + 2 * i) + y }))
        return [{ score, box: { left: u - width / 2, top: v - height / 2, right: u + width / 2, bottom: v + height / 2 }, landmarks }]
      })
      return merged(likely.sort((one, other) => other.score - one.score))
    })
  }

  /** Logits of the 896 places of each square, and 16 distances in pixels for each place. */
  #forward(input: Float32Array, count: number): { logits: Float32Array[]; distances: Float32Array[] } {
    const v = (number: string): Tensor => this.#values.get(`unknown${number}`)!
    const mix = (x: Tensor4D, kernel: string, bias: string, strides = 1): Tensor4D =>
      fused.conv2d({ x, filter: v(kernel) as Tensor4D, bias: v(bias) as Tensor1D, strides, pad: 'same' })
    const layer = (x: Tensor4D, number: number, strides = 1): Tensor4D => {
      const at = 4 * number + 1
      return mix(depthwiseConv2d(x, v(`_${at}`) as Tensor4D, strides, 'same'), `_${at + 2}`, `_${at + 3}`)
    }
    const outputs: Float32Array[] = []
    tidy(() => { // which gives nothing back: it would look for tensors among the numbers
      let x = relu(mix(tensor(input, [count, SIDE, SIDE, 3]) as Tensor4D, '', '_0', 2))
      for (let number = 0; number < BLOCKS; number++) {
        const halves = HALVING.includes(number)
        const y = layer(x, number, halves ? 2 : 1)
        const beside = halves ? maxPool(x, 2, 2, 'valid') : x
        const more = y.shape[3] - beside.shape[3]
        x = relu(add(more === 0 ? beside : pad(beside, [[0, 0], [0, 0], [0, 0], [0, more]]), y))
      }
      const small = relu(layer(x, BLOCKS, 2))
      const heads = [mix(x, '_135', '_136'), mix(small, '_133', '_134'), mix(x, '_131', '_132'), mix(small, '_129', '_130')]
      outputs.push(...heads.map((head) => head.dataSync() as Float32Array))
    })
    const squares = Array.from({ length: count }, (_, n) => n)
    const of = (n: number, all: Float32Array): Float32Array => all.subarray(n * all.length / count, (n + 1) * all.length / count)
    const both = (large: Float32Array, small: Float32Array): Float32Array[] => squares.map((n) => Float32Array.from([...of(n, large), ...of(n, small)]))
    return { logits: both(outputs[0], outputs[1]), distances: both(outputs[2], outputs[3]) }
  }
}

/** One face for all places that mean it; they come with the surest first. */
function merged(places: readonly Detection[]): Detection[] {
  const found: Detection[] = []
  for (let left = places; left.length > 0;) {
    const [first] = left
    const mine = left.filter((one) => one === first || overlap(first.box, one.box) > SAME)
    left = left.filter((one) => !mine.includes(one))
    const total = mine.reduce((sum, { score }) => sum + score, 0)
    const mean = (value: (one: Detection) => number): number => mine.reduce((sum, one) => sum + one.score / total * value(one), 0)
    found.push({
      score: first.score,
      box: { left: mean(({ box }) => box.left), top: mean(({ box }) => box.top), right: mean(({ box }) => box.right), bottom: mean(({ box }) => box.bottom) },
      landmarks: first.landmarks.map((_, i) => ({ x: mean(({ landmarks }) => landmarks[i].x), y: mean(({ landmarks }) => landmarks[i].y) })),
    })
  }
  return found
}

/** Of a box; 0 where there is nothing between its sides. */
export const area = ({ left, top, right, bottom }: Box): number => Math.max(right - left, 0) * Math.max(bottom - top, 0)

/** The box that two boxes share. */
export const common = (one: Box, other: Box): Box => ({
  left: Math.max(one.left, other.left), top: Math.max(one.top, other.top), right: Math.min(one.right, other.right), bottom: Math.min(one.bottom, other.bottom),
})

/** Intersection over union. */
function overlap(one: Box, other: Box): number {
  const shared = area(common(one, other))
  const union = area(one) + area(other) - shared
  return union > 0 ? shared / union : 0
}
