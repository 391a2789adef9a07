/** MobileFaceNet, as `federation/recognition/mobilefacenet.py`: an aligned cut of 112 pixels in, 192 numbers out. */

import { add, fused, type Tensor1D, tensor, type Tensor4D, tidy } from '@tensorflow/tfjs-core'

/** Rows and columns of a cut. */
export const SIDE = 112
/** Numbers of an embedding. */
export const DIMENSION = 192
// stride, how many times
const BOTTLENECKS = [[2, 1], [1, 4], [2, 1], [1, 6], [2, 1], [1, 2]] as const
const STRIDES = BOTTLENECKS.flatMap(([stride, times]) => Array.from({ length: times }, () => stride))

interface Layer {
  readonly kernel: Tensor4D
  readonly bias: Tensor1D
  /** Of the rectifier behind it, or null. */
  readonly slope: Tensor1D | null
  readonly alone: boolean
}
interface Constant {
  readonly shape: readonly number[]
  readonly numbers: Float32Array
}

/** The network; its weights stay where it runs. */
export class MobileFaceNet {
  readonly #layers: readonly Layer[]

  /** @param values what `MobileFaceNet.tflite` keeps, in order. */
  constructor(values: readonly Constant[]) {
    const starts = values.flatMap(({ shape }, i) => (shape.length === 4 ? [i] : []))
    this.#layers = starts.map((start, i) => layer(values.slice(start, starts[i + 1])))
  }

  /** Embeds one cut: (112, 112, 3) of RGB, `(value - mean) / divisor`. The result, 192 numbers, has any norm. Sensitive. */
  embed(cut: Float32Array): Float32Array {
    let [next, embedding] = [0, new Float32Array()]
    tidy(() => { // which gives nothing back: it would look for tensors among the numbers
      const run = (x: Tensor4D, stride = 1, pad: 'same' | 'valid' = 'same'): Tensor4D => apply(this.#layers[next++], x, stride, pad)
      let x = run(run(run(tensor(cut, [1, SIDE, SIDE, 3]) as Tensor4D, 2)))
      for (const stride of STRIDES) {
        const y = run(run(run(x), stride))
        x = y.shape.every((length, axis) => length === x.shape[axis]) ? add(x, y) : y
      }
      const places = run(run(x), 1, 'valid')
      embedding = run(run(places)).dataSync() as Float32Array<ArrayBuffer>
    })
    return embedding
  }
}

function apply({ kernel, bias, slope, alone }: Layer, x: Tensor4D, strides: number, pad: 'same' | 'valid'): Tensor4D {
  const options = { x, filter: kernel, strides, pad, bias }
  if (slope === null) return alone ? fused.depthwiseConv2d(options) : fused.conv2d(options)
  return alone
    ? fused.depthwiseConv2d({ ...options, activation: 'prelu', preluActivationWeights: slope })
    : fused.conv2d({ ...options, activation: 'prelu', preluActivationWeights: slope })
}

function layer([kernel, bias, slope]: readonly Constant[]): Layer {
  const [outputs, rows, columns, inputs] = kernel.shape
  const alone = outputs === 1
  return {
    // TensorFlow Lite keeps (outputs, side, side, inputs), and (1, side, side, channels) of one that looks at each channel alone.
    kernel: alone ? tensor(kernel.numbers, [rows, columns, inputs, 1]) : tensor(outputsLast(kernel.numbers, outputs), [rows, columns, inputs, outputs]),
    bias: tensor(bias.numbers, [bias.numbers.length]),
    // It has no rectifier with slopes: relu(x) + a (x - |x|) has the slope 2 a below zero.
    slope: slope === undefined ? null : tensor(slope.numbers.map((a) => 2 * a), [slope.numbers.length]),
    alone,
  }
}

function outputsLast(numbers: Float32Array, outputs: number): Float32Array {
  const [turned, each] = [new Float32Array(numbers.length), numbers.length / outputs]
  for (let output = 0; output < outputs; output++) {
    for (let i = 0; i < each; i++) turned[i * outputs + output] = numbers[output * each + i]
  }
  return turned
}
