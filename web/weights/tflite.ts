/** The constants of a TensorFlow Lite model. As `federation/recognition/tflite.py`. */

const [SUBGRAPHS, BUFFERS] = [2, 4]
const [TENSORS, OPERATORS] = [0, 3]
const [SHAPE, TYPE, BUFFER] = [0, 1, 2]
const INPUTS = 1
const DATA = 0
const FLOAT32 = 0

/** Numbers with their axes. */
export interface Constant {
  readonly shape: readonly number[]
  readonly numbers: Float32Array
}

/** Every float32 constant that an operator of the first graph takes, in the order of operators and inputs. */
export function constants(file: Uint8Array): Constant[] {
  const data = new DataView(file.buffer, file.byteOffset, file.length)
  const number = (place: number): number => data.getInt32(place, true)
  const follow = (place: number): number => place + number(place)
  const field = (table: number, index: number): number | null => {
    const layout = table - number(table)
    const entry = 4 + 2 * index
    if (entry >= data.getUint16(layout, true)) return null
    const distance = data.getUint16(layout + entry, true)
    return distance === 0 ? null : table + distance
  }
  const vector = (table: number, index: number): { start: number; count: number } => {
    const place = field(table, index)
    if (place === null) return { start: 0, count: 0 }
    const start = follow(place)
    return { start: start + 4, count: number(start) }
  }
  const places = ({ start, count }: { start: number; count: number }): number[] => Array.from({ length: count }, (_, i) => start + 4 * i)
  const tables = (table: number, index: number): number[] => places(vector(table, index)).map(follow)
  const numbers = (table: number, index: number): number[] => places(vector(table, index)).map(number)

  const root = follow(0)
  const [buffers, [graph]] = [tables(root, BUFFERS), tables(root, SUBGRAPHS)]
  const tensors = tables(graph, TENSORS)
  return tables(graph, OPERATORS).flatMap((operator) => numbers(operator, INPUTS).flatMap((index) => {
    const tensor = tensors[index]
    const [kind, buffer] = [field(tensor, TYPE), field(tensor, BUFFER)]
    const { start, count } = vector(buffers[buffer === null ? 0 : number(buffer)], DATA)
    if (count === 0 || (kind !== null && data.getUint8(kind) !== FLOAT32)) return []
    const values = Float32Array.from({ length: count / 4 }, (_, i) => data.getFloat32(start + 4 * i, true))
    return [{ shape: numbers(tensor, SHAPE), numbers: values }]
  }))
}
