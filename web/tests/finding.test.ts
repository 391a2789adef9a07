/** Where a face is, and how it is cut: the page does with drawings, and with what a network says, what Python does. */

import { beforeAll, expect, test, vi } from 'vitest'

import { type BlazeFace, type Detection, SIDE } from '../src/face/blazeface'
import { type Alignment, Photograph, placed, type Point, Similarity } from '../src/face/cropping'
import { FaceFinder, UnusableImageError } from '../src/face/finding'
import { requireQuality } from '../src/face/quality'
import { python } from './vectors'

/** What a network says of squares: outputs of its last four layers, by the name of their weights. */
const says = vi.hoisted(() => ({ heads: {} as Record<string, Float32Array>, layers: [] as string[] }))
vi.mock('@tensorflow/tfjs-core', () => {
  const one = { shape: [1, 1, 1, 1] }
  const named = (filter: { name: string }): object => { says.layers.push(filter.name); return { ...one, dataSync: () => says.heads[filter.name] } }
  return {
    add: () => one, maxPool: () => one, pad: () => one, relu: () => one, tidy: (act: () => void) => { act() },
    tensor: (numbers: Float32Array, shape: number[]) => ({ name: String(numbers[0]), shape, length: numbers.length }), depthwiseConv2d: () => one, fused: { conv2d: ({ filter }: { filter: { name: string } }) => named(filter) },
  }
})

interface Scene {
  readonly width: number
  readonly height: number
  /** Left, top, width, height, channel, and whether it is upright. */
  readonly faces: readonly (readonly [number, number, number, number, number, boolean])[]
  /** Where the face was, in another look of a film. */
  readonly before?: readonly (readonly [number, number])[]
  /** As what it is looked at. */
  readonly looks: readonly ('reference' | 'probe' | 'film')[]
}

const ALIGNMENT: Alignment = { side: 112, points: [[387_946, 521_963], [740_318, 520_014], [565_252, 722_366], [566_396, 927_848]] }
const MARKS = [[0.3, 0.35], [0.72, 0.33], [0.5, 0.55], [0.52, 0.8], [0.05, 0.4], [0.97, 0.41]]
const [LEAST, LARGE] = [12, 10_000]
const marks = (left: number, top: number, width: number, height: number): [number, number][] => MARKS.map(([x, y]) => [left + x * width, top + y * height])

/** As `drawn` of `tests/web/seen.py`. */
function drawn({ width, height, faces }: Scene): Photograph {
  const data = new Uint8ClampedArray(4 * width * height)
  for (let y = 0, at = 0; y < height; y++) for (let x = 0; x < width; x++, at += 4) data[at] = data[at + 1] = data[at + 2] = (7 * x + 13 * y) % 64
  for (const [left, top, wide, high, channel, isUpright] of faces) {
    for (let y = top; y < top + high; y++) {
      const level = (y < top + Math.floor(high / 2)) === isUpright ? 255 : 200
      for (let x = left, at = 4 * (y * width + left); x < left + wide; x++, at += 4) {
        data.fill(0, at, at + 3)
        data[at + channel] = level
      }
    }
  }
  return new Photograph({ width, height, data } as ImageData)
}

/** As `_Rectangles` of `tests/web/seen.py`. */
function rectangles(square: Uint8Array, sure = 0.5): Detection[] {
  const found: Detection[] = []
  for (let channel = 0; channel < 3; channel++) {
    const [one, other] = [(channel + 1) % 3, (channel + 2) % 3]
    const rows = new Set<number>()
    let [count, left, right, top, bottom] = [0, SIDE, 0, SIDE, 0]
    for (let y = 0, at = 0; y < SIDE; y++) {
      for (let x = 0; x < SIDE; x++, at += 3) {
        if (square[at + channel] <= 150 || square[at + one] >= 100 || square[at + other] >= 100) continue
        count += 1
        rows.add(y)
        ;[left, right, top, bottom] = [Math.min(left, x), Math.max(right, x + 1), Math.min(top, y), Math.max(bottom, y + 1)]
      }
    }
    if (count < LEAST) continue
    const middle = Math.floor((top + bottom) / 2)
    const mean = (from: number, to: number): number => {
      let sum = 0
      for (let y = from; y < to; y++) for (let x = left; x < right; x++) sum += square[3 * (y * SIDE + x) + channel]
      return sum / ((to - from) * (right - left))
    }
    const score = 0.7 + (mean(top, middle) - mean(middle, bottom)) / 550 - 1 / rows.size - 0.25 * Number(count > LARGE)
    if (score >= sure) found.push({ score, box: { left, top, right, bottom }, landmarks: MARKS.map(([x, y]) => ({ x: left + x * (right - left), y: top + y * (bottom - top) })) })
  }
  return found.sort((first, second) => second.score - first.score)
}

const SCENES: readonly Scene[] = [
  { width: 300, height: 200, faces: [[110, 50, 60, 80, 0, true]], before: marks(105, 53, 62, 79), looks: ['reference', 'probe', 'film'] },
  { width: 200, height: 301, faces: [[0, 0, 70, 90, 1, true]], before: marks(30, 60, 70, 90), looks: ['reference'] },
  { width: 260, height: 240, faces: [[180, 150, 80, 90, 2, true]], looks: ['reference'] },
  { width: 300, height: 200, faces: [[110, 50, 60, 80, 0, false]], looks: ['reference', 'probe'] },
  { width: 300, height: 200, faces: [[20, 50, 60, 80, 0, true], [180, 50, 60, 80, 1, true]], before: marks(180, 50, 60, 80), looks: ['reference'] },
  { width: 300, height: 200, faces: [[10, 20, 60, 70, 0, true], [110, 50, 60, 80, 1, true], [220, 90, 60, 80, 2, true]], looks: ['film'] },
  { width: 300, height: 200, faces: [[90, 30, 120, 140, 0, true], [192, 60, 28, 40, 1, true]], looks: ['probe'] }, // a third of it beside: no second face, but seen from close by
  { width: 300, height: 200, faces: [[90, 30, 120, 140, 0, true], [202, 60, 28, 40, 1, true]], looks: ['probe'] },
  { width: 90, height: 64, faces: [[30, 20, 4, 6, 0, true]], looks: ['reference'] },
  { width: 1535, height: 40, faces: [], looks: ['probe'] },
  { width: 1536, height: 40, faces: [], looks: ['probe'] },
  { width: 3071, height: 60, faces: [[800, 18, 26, 34, 1, true]], looks: ['film'] },
  { width: 3072, height: 60, faces: [[800, 12, 32, 40, 1, true]], looks: ['film'] },
  { width: 60, height: 3072, faces: [[12, 2200, 32, 40, 2, true]], looks: ['film'] },
  { width: 3072, height: 60, faces: [[100, 12, 32, 40, 1, true], [2900, 12, 32, 40, 0, true]], looks: ['film'] },
]
const PLACES = [
  [1, 0, 20, 30, 16], [0.4, 0.1, -3, 190, 12], [1.9, -0.5, 250, 150, 11], [2, 0, 5, 5, 9], [2.01, 0, 5, 5, 9], [3.3, 2.2, 100, 10, 13], [4.1, 0, -40, -40, 10], [9, 1, -100, 20, 14], [0, -1.5, 60, 160, 8], [-1.2, 0.3, 280, 190, 8],
] as const
const CUT_SCENE: Scene = { looks: [], width: 301, height: 201, faces: [[110, 50, 60, 80, 0, true], [200, 101, 101, 100, 2, false]] }
const at = (side: number): [number, number][] => ALIGNMENT.points.map(([x, y]) => [x * side / 112 / 1e4, y * side / 112 / 1e4])
const ALIGNED: readonly (readonly (readonly [number | null, number])[])[] = [
  at(100), Array(4).fill([5, 5]), [[1, 1], [1, 1], [1, 1], [1, 1.001]], [[null, 1], ...at(100).slice(1)], at(0.1), at(0.113), at(111_000), at(112_500),
]
/** Of a square: which place says how sure it is, and where everything is from there; and how sure a face has to be. */
const numbers = (x: number, y: number, wide: number, high: number, more = 0): number[] => [x, y, wide, high, ...Array.from({ length: 12 }, (_, i) => x + 3 * i + more)]
const SQUARES: readonly (readonly [readonly (readonly [number, number, readonly number[]])[], number])[] = [
  [[], 0.5],
  [[[5, 2, numbers(1, 2, 40, 50)]], 0.5],
  [[[5, -1, numbers(1, 2, 40, 50)], [300, 0, numbers(3, 4, 30, 20)], [700, -0.9, numbers(3, 4, 30, 20)]], 0.3],
  [[[5, -1, numbers(1, 2, 40, 50)], [300, 0, numbers(3, 4, 30, 20)], [700, -0.8, numbers(3, 4, 30, 20)]], 0.3],
  [[[300, 0, numbers(0, 0, 40, 40)], [301, 1, numbers(2, 3, 44, 42, 5)], [302, 3, numbers(-4, 1, 38, 47, -5)], [880, 1.5, numbers(0, 0, 40, 40)]], 0.5],
  [[[100, 2, numbers(0, 0, 20, 20)], [102, 1, numbers(-5, 0, 20, 20)], [104, 0.5, numbers(-22, 0, 20, 20)]], 0.5], // each overlaps its neighbour
  [[[100, 2, numbers(0, 0, 20, 20)], [101, 1, numbers(0, 10.7, 20, 20)]], 0.5], // overlaps by 0.303, and by 0.297
  [[[100, 2, numbers(0, 0, 20, 20)], [101, 1, numbers(0, 10.85, 20, 20)]], 0.5],
  [[[100, 2, numbers(0, 0, 0, 20)], [101, 1, numbers(0, 0, 0, 20)], [102, 1, numbers(0, 0, -5, 20)]], 0.5],
  [[[7, 2000, numbers(0, 0, 30, 30)], [300, -2000, numbers(0, 0, 30, 30)]], 0.5],
  [[[511, 150, numbers(0, 0, 30, 30)], [512, 120, numbers(1, 1, 30, 30)], [895, 99, numbers(1, 1, 30, 30)]], 0.5],
]

interface Known {
  readonly seen: readonly (readonly (readonly (readonly [number, number])[] | string)[])[]
  readonly cuts: readonly { readonly cut: number[]; readonly landmarks: [number, number][]; readonly placed: number[]; readonly outside: [number, number] }[]
  readonly aligned: readonly boolean[]
  readonly merged: readonly (readonly (readonly [number, number[], [number, number][]])[])[]
}

let known: Known
beforeAll(async () => {
  const corners = (scene: Scene): object => ({ ...scene, before: scene.before ?? null })
  known = (await python('seen', { scenes: SCENES.map(corners), scene: CUT_SCENE, places: PLACES, landmarks: ALIGNED, squares: SQUARES })) as Known
})

const points = (all: readonly (readonly [number, number])[]): Point[] => all.map(([x, y]) => ({ x, y }))

test.each(SCENES.map((scene, i) => [`${scene.width} x ${scene.height} with ${JSON.stringify(scene.faces)}`, i] as const))('in a drawing of %s the same is seen', (_, number) => {
  const [scene, image] = [SCENES[number], drawn(SCENES[number])]
  const finder = new FaceFinder({ detect: (squares: readonly Uint8Array[], sure?: number) => squares.map((square) => rectangles(square, sure)) } as unknown as BlazeFace, ALIGNMENT)
  const looks = [...scene.looks.map((as) => () => (as === 'film' ? finder.follow(image, null) : finder.landmarks(image, as))), ...(scene.before ? [() => finder.follow(image, points(scene.before!))] : [])]
  const found = looks.map((look) => {
    try { return look().map(({ x, y }) => [x, y].map((one) => one.toFixed(6))) } catch (error) {
      if (!(error instanceof UnusableImageError)) throw error
      return error.message
    }
  })
  expect(found).toEqual(known.seen[number].map((one) => (typeof one === 'string' ? one : one.map((point) => point.map((each) => each.toFixed(6))))))
})

test('the drawings show what can be wrong', () => {
  const said = new Set(known.seen.flat().map((one) => (typeof one === 'string' ? one : String(one.length))))
  expect([...said].sort()).toEqual([
    '2 faces found: cut the image to the one person that it stands for', '3 faces found: cut the image to the one person that it stands for', '4', '6',
    'no face found: use a sharp, frontal photograph of one person', 'no face found: use a sharp, frontal photograph of one person, whose face is at least 123 of these 1536 x 40 pixels high',
    'no face found: use a sharp, frontal photograph of one person, whose face is at least 246 of these 3071 x 60 pixels high',
    'the face is upside down: turn the photograph, or the camera',
  ].sort())
})

test('what is wrong is said to the person in their language', () => {
  const why = (number: number): unknown => {
    const finder = new FaceFinder({ detect: (squares: readonly Uint8Array[], sure?: number) => squares.map((square) => rectangles(square, sure)) } as unknown as BlazeFace, ALIGNMENT)
    try { return finder.landmarks(drawn(SCENES[number]), 'reference') } catch (error) { return (error as UnusableImageError).why }
  }
  expect([3, 4, 5, 9].map(why)).toEqual([{ name: 'why.upside_down' }, { name: 'why.faces', values: { count: 2 } }, { name: 'why.faces', values: { count: 3 } }, { name: 'why.no_face' }])
})

/** What is looked at, with a detector that says what it is told to: of each call the squares, and how sure a face has to be. */
function told(answers: (Detection[] | undefined)[][]): { readonly finder: FaceFinder; readonly calls: [number, number | undefined][] } {
  const calls: [number, number | undefined][] = []
  const detect = (squares: readonly Uint8Array[], sure?: number): Detection[][] => { calls.push([squares.length, sure]); const answer = answers.shift() ?? []; return squares.map((_, i) => answer[i] ?? []) }
  return { finder: new FaceFinder({ detect } as unknown as BlazeFace, ALIGNMENT), calls }
}
const detection = (left: number, top: number, wide: number, high: number, score = 0.9): Detection => ({ score, box: { left, top, right: left + wide, bottom: top + high }, landmarks: points(marks(left, top, wide, high)) })
const blank = (width: number, height: number): Photograph => drawn({ width, height, faces: [], looks: [] })

test('half of a face in a larger one, and no more, makes it another one; the largest comes first', () => {
  const seen = (left: number): number[] => told([[[detection(left, 0, 20, 20), detection(50, 0, 60, 30), detection(150, 100, 90, 90)]], []]).finder.glance(blank(256, 256)).map(({ box }) => box.right - box.left)
  expect([seen(100), seen(99.9), seen(110), seen(70)]).toEqual([[90, 60, 20], [90, 60], [90, 60, 20], [90, 60]])
})

test('a reference is looked at upside down once, and a face in a tile is looked at again both ways round', () => {
  const [one, closer] = [[[detection(80, 80, 60, 70)]], [[detection(80, 70, 97, 120)], [detection(80, 70, 97, 120)]]]
  const looks = (profile: 'reference' | 'probe'): unknown => { const { finder, calls } = told([one, [], closer, closer]); finder.landmarks(blank(256, 256), profile); return calls }
  expect([looks('reference'), looks('probe')]).toEqual([[[1, undefined], [1, undefined], [2, 0.3], [3, 0.3]], [[1, undefined], [1, undefined], [2, 0.3], [2, 0.3]]])
  const again = (...seen: Detection[][]): unknown => { const { finder, calls } = told([[], [], one, [], [], seen, closer]); try { finder.follow(blank(3072, 60), null) } catch (error) { return [(error as Error).message.slice(0, 13), calls.length] } return calls }
  const face_ = detection(80, 70, 97, 120)
  expect(again([face_], [face_])).toEqual([[1, undefined], [1, undefined], [1, undefined], [1, undefined], [1, undefined], [2, undefined], [2, 0.3]])
  expect([again([face_], []), again([], [face_]), again([], [])]).toEqual(Array(3).fill(['no face found', 6]))
})

test('of a closer look the face in the middle counts, as it is and mirrored, or the one of both that there is', () => {
  const [before, image] = [points(marks(100, 100, 40, 50)), blank(256, 256)]
  const middle = detection(79, 68, 98, 120)
  const beside = detection(20, 60, 97, 120, 0.99)
  const seen = (...squares: Detection[][]): string[] => told([squares]).finder.follow(image, before).map(({ x, y }) => `${x.toFixed(3)} ${y.toFixed(3)}`)
  expect(seen([beside, middle], [])).toEqual(seen([middle], []))
  expect(seen([], [beside, middle])).toEqual(seen([], [middle]))
  const [plain, mirrored, both] = [seen([middle], []), seen([], [middle]), seen([middle], [middle])].map((all) => all.map((one) => one.split(' ').map(Number)))
  both.forEach((one, i) => { one.forEach((value, axis) => { expect(value).toBeCloseTo((plain[i][axis] + mirrored[i][axis]) / 2, 2) }) })
  expect(plain).not.toEqual(mirrored)
  expect(() => seen([], [])).toThrow('no face found: use a sharp, frontal photograph of one person')
  const asked = (turned: number): unknown => { const { finder } = told([[[detection(80, 80, 60, 70)]], [], [[middle], []], [[{ ...middle, score: 0.6 }, { ...middle, score: 0.7 }], [middle], [{ ...middle, score: 0.2 }, { ...middle, score: turned }]]]); try { return finder.landmarks(image, 'reference').length } catch (error) { return (error as Error).message.slice(0, 23) } }
  expect([asked(0.7), asked(0.71)]).toEqual([4, 'the face is upside down'])
})

test('a place is cut as in Python, however it is turned, halved and beyond the edge', () => {
  const image = drawn(CUT_SCENE)
  PLACES.forEach(([a, b, e, f, side], i) => {
    const place = new Similarity(a, b, e, f)
    const { cut, landmarks, placed: brought, outside } = known.cuts[i]
    const mine = image.cut(place, side)
    expect([mine.length, cut.filter((value, at_) => Math.abs(value - mine[at_]) > 1).length], `place ${i}`).toEqual([3 * side * side, 0])
    expect(cut.filter((value, at_) => value !== mine[at_]).length, `place ${i}`).toBeLessThan(4)
    const here = placed(points(landmarks), ALIGNMENT)
    ;[here.a, here.b, here.e, here.f].forEach((value, n) => { expect(value).toBeCloseTo(brought[n], 9) })
    const shares = image.sharesOutside(here, 112)
    for (const [value, theirs] of [[shares.over, outside[0]], [shares.outside, outside[1]]]) expect(Math.abs(value - theirs), `place ${i}`).toBeLessThan(0.002)
    expect(place.scale).toBeCloseTo(Math.hypot(a, b), 12)
    const back = place.inverse.apply(place.apply({ x: 3, y: 5 }))
    expect([back.x, back.y].map((value) => value.toFixed(9))).toEqual(['3.000000000', '5.000000000'])
  })
  expect(known.cuts.map(({ outside: [over, all] }) => [over > 0, all > over])).toEqual(expect.arrayContaining([[false, false], [true, true], [false, true]]))
})

test('landmarks that align no face in Python align none here', () => {
  const aligns = ALIGNED.map((landmarks) => { try { placed(landmarks.map(([x, y]) => ({ x: x ?? NaN, y })), ALIGNMENT); return true } catch { return false } })
  expect(aligns).toEqual(known.aligned)
  expect(known.aligned).toEqual([true, false, false, false, false, true, true, false])
})

test('the grey level of a place is that of its pixel, and beyond an edge that of the edge', () => {
  const data = Uint8ClampedArray.from([10, 20, 30, 255, 40, 50, 60, 255, 70, 80, 90, 255, 100, 110, 120, 255, 130, 140, 150, 255, 160, 170, 180, 255])
  const image = new Photograph({ width: 3, height: 2, data } as ImageData)
  const grey = (pixel: number): number => 0.299 * data[4 * pixel] + 0.587 * data[4 * pixel + 1] + 0.114 * data[4 * pixel + 2]
  expect([[0, 0], [0.99, 0.99], [1, 0], [2.5, 1.5], [-7, -7], [9, 0], [9, 9], [0, 9]].map(([x, y]) => image.grey(x, y))).toEqual([0, 0, 1, 5, 0, 2, 5, 3].map(grey))
})

test('a photograph of more pixels than a phone can draw is made smaller, and keeps its shape', async () => {
  const size = (width: number, height: number): number[] => {
    const made: number[][] = []
    const real = OffscreenCanvas
    vi.stubGlobal('OffscreenCanvas', class { constructor(wide: number, high: number) { made.push([wide, high]) } getContext() { return { drawImage: (...given: number[]) => { made.push(given.slice(1)) }, getImageData: (...given: number[]) => { made.push(given); return new ImageData(1, 1) } } } })
    try { Photograph.of({ width, height } as ImageBitmap) } finally { vi.stubGlobal('OffscreenCanvas', real) }
    expect(made[1]).toEqual([0, 0, ...made[0]])
    expect(made[2]).toEqual([0, 0, ...made[0]])
    return made[0]
  }
  expect([size(4000, 4000), size(4001, 4000), size(8000, 2001), size(40_000_000, 1), size(3, 2)]).toEqual([[4000, 4000], [4000, 3999], [7998, 2000], [25_298_221, 1], [3, 2]])
})

test('of what the network says of its places the same faces come as in Python', async () => {
  const { BlazeFace: Network } = await import('../src/face/blazeface')
  const names = ['unknown', 'unknown_0', ...Array.from({ length: 140 }, (_, i) => `unknown_${i + 1}`)]
  const weights = Float32Array.from({ length: 2 * names.length }, (_, i) => Math.floor(i / 2)) // the first number of each says which one it is
  const manifest = { weightsManifest: [{ weights: names.slice(0, 70).map((name) => ({ name, shape: [2] })) }, { weights: names.slice(70).map((name) => ({ name, shape: [1, 2] })) }] }
  const network = new Network(new Uint8Array(weights.buffer), new TextEncoder().encode(JSON.stringify(manifest)))
  for (const sure of new Set(SQUARES.map(([, one]) => one))) {
    const rows = SQUARES.flatMap(([said, one], i) => (one === sure ? [[said, i] as const] : []))
    const [logits, distances] = [rows.map(() => new Float32Array(896).fill(-200)), rows.map(() => new Float32Array(896 * 16))]
    rows.forEach(([said], n) => { for (const [place, logit, each] of said) { logits[n][place] = logit; distances[n].set(each, 16 * place) } })
    const head = (all: Float32Array[], from: number, to: number): Float32Array => Float32Array.from(all.flatMap((one) => [...one.subarray(from, to)]))
    const weight = (name: string): string => String(names.indexOf(name))
    says.heads = { [weight('unknown_135')]: head(logits, 0, 512), [weight('unknown_133')]: head(logits, 512, 896), [weight('unknown_131')]: head(distances, 0, 16 * 512), [weight('unknown_129')]: head(distances, 16 * 512, 16 * 896) }
    const found = network.detect(rows.map(() => new Uint8Array(3 * SIDE * SIDE)), ...(sure === 0.5 ? [] : [sure]))
    const round = (value: number): string => value.toFixed(5)
    expect(found.map((faces) => faces.map(({ score, box: { left, top, right, bottom }, landmarks }) => [round(score), [left, top, right, bottom].map(round), landmarks.map(({ x, y }) => [round(x), round(y)])])))
      .toEqual(rows.map(([, i]) => known.merged[i].map(([score, box, landmarks]) => [round(score), box.map(round), landmarks.map((one) => one.map(round))])))
  }
  expect(known.merged.map(({ length }) => length)).toEqual([0, 1, 1, 2, 2, 2, 1, 2, 3, 1, 2])
  expect(says.layers.slice(0, 36).map((name) => names[Number(name)])).toEqual(['unknown', ...Array.from({ length: 32 }, (_, i) => `unknown_${4 * i + 3}`), 'unknown_135', 'unknown_133', 'unknown_131'])
})

test('a face is large enough, lit and whole up to these bounds', () => {
  const eyes = (apart: number): Point[] => [{ x: 50, y: 50 }, { x: 50 + apart, y: 50 }, { x: 50 + apart / 2, y: 50 + apart / 2 }, { x: 50 + apart / 2, y: 50 + apart }]
  /** Every second pixel of every second row is darker, so it is sharp; the share is brighter. */
  const frame = ({ over = 0, outside = 0, level = 100, white = 0, fine = 40 } = {}) => ({
    sharesOutside: () => ({ over, outside }),
    cut: () => Uint8Array.from({ length: 3 * 112 * 112 }, (_, i) => (Math.floor(i / 3) < white * 112 * 112 ? 251 : level - (Math.floor(i / 3) % 2 === 0 && Math.floor(i / 336) % 2 === 0 ? fine : 0))),
  })
  const why = (apart: number, profile: 'reference' | 'probe', seen = frame()): unknown => {
    try { requireQuality(seen, eyes(apart), ALIGNMENT, profile); return null } catch (error) { expect(error).toBeInstanceOf(UnusableImageError); return (error as UnusableImageError).why }
  }
  expect([why(18, 'reference'), why(17.99, 'reference'), why(13, 'probe'), why(12.99, 'probe')])
    .toEqual([null, { name: 'why.small', values: { apart: 17, least: 18 } }, null, { name: 'why.small', values: { apart: 12, least: 13 } }])
  expect([frame({ over: 0.08, outside: 0.25 }), frame({ over: 0.0801 }), frame({ outside: 0.2501 }), frame({ over: 0.5, outside: 0.9 })].map((seen) => why(40, 'reference', seen)))
    .toEqual([null, ...[9, 26, 50].map((share) => ({ name: 'why.cut_off', values: { share } }))])
  expect(why(40, 'probe', frame({ over: 0.5, outside: 0.9, level: 10, fine: 0 }))).toBeNull()
  expect([why(40, 'reference', frame({ white: 0.5999 })), why(40, 'reference', frame({ white: 0.6001 }))]).toEqual([null, { name: 'why.bright', values: { share: 61 } }])
  expect([why(40, 'reference', frame({ level: 40, fine: 30 })), why(40, 'reference', frame({ level: 39, fine: 30 })), why(40, 'reference', frame({ fine: 0 }))]).toEqual([null, { name: 'why.dark' }, { name: 'why.blurred' }])
})
