/** Geometry of a face: how an image is brought to size, and how a chip is cut from it. As `client/faces/alignment.py` does. */

/** A place in an image, in pixels. */
export interface Point {
  readonly x: number
  readonly y: number
}

/** What turns (x, y) into (a x - b y + e, b x + a y + f): a rotation, a scale and a shift. */
export interface Similarity {
  readonly a: number
  readonly b: number
  readonly e: number
  readonly f: number
}

/** Height and width of an aligned face, in pixels. */
export const CHIP_SIDE = 150
const SHORTEST_SIDE = 300
const LARGEST_ENLARGEMENT = 4
/** Longer side of an image at the first look, in pixels. */
export const LONGEST_SIDE = 1280
/** Longer side at the second look, which takes the image for a tight cut. */
export const LONGEST_CUT_SIDE = 2 * SHORTEST_SIDE

const CHIP_PADDING = 0.25
/**
 * Where dlib's alignment puts outer and inner corner of the right eye, those of the left eye, and the base of the nose,
 * as shares of the face's side: dlib, image_transforms/interpolation.h, get_face_chip_details.
 */
const TEMPLATE: readonly (readonly [number, number])[] = [
  [0.8595674595992, 0.2134981538014],
  [0.6460604764104, 0.2289674387677],
  [0.1205750620789, 0.2137274526848],
  [0.3340850613712, 0.2290642403242],
  [0.4901123135679, 0.6277975316475],
]
/** The same five among the 68 landmarks. */
const OF_68 = [45, 42, 36, 39, 33]

/** How large an image is drawn: its shorter side is enlarged, fourfold at most, and its longer one limited. */
export function drawnSize(width: number, height: number, longest: number): { width: number; height: number } {
  const enlarged = Math.min(Math.max(1, SHORTEST_SIDE / Math.min(width, height)), LARGEST_ENLARGEMENT)
  const factor = Math.min(enlarged, longest / Math.max(width, height))
  return { width: Math.max(1, Math.round(width * factor)), height: Math.max(1, Math.round(height * factor)) }
}

/** The similarity that brings five of 68 landmarks closest to their places in a chip (least squares). */
export function chipTransform(landmarks: readonly Point[]): Similarity {
  const from = OF_68.map((index) => landmarks[index])
  const to = TEMPLATE.map(([x, y]) => ({
    x: (CHIP_SIDE * (CHIP_PADDING + x)) / (1 + 2 * CHIP_PADDING),
    y: (CHIP_SIDE * (CHIP_PADDING + y)) / (1 + 2 * CHIP_PADDING),
  }))
  const [here, there] = [centre(from), centre(to)]
  let [real, imaginary, spread] = [0, 0, 0]
  from.forEach((point, i) => {
    const [x, y, u, v] = [point.x - here.x, point.y - here.y, to[i].x - there.x, to[i].y - there.y]
    real += x * u + y * v
    imaginary += x * v - y * u
    spread += x * x + y * y
  })
  const [a, b] = [real / spread, imaginary / spread]
  return { a, b, e: there.x - a * here.x + b * here.y, f: there.y - b * here.x - a * here.y }
}

function centre(points: readonly Point[]): Point {
  const sum = points.reduce((total, point) => ({ x: total.x + point.x, y: total.y + point.y }), { x: 0, y: 0 })
  return { x: sum.x / points.length, y: sum.y / points.length }
}

/** `image` at the given size, its edges repeated outwards by half its size on every side. */
export function padded(image: ImageBitmap, width: number, height: number): { canvas: OffscreenCanvas; left: number; top: number } {
  const [left, top] = [Math.floor(width / 2), Math.floor(height / 2)]
  const canvas = new OffscreenCanvas(width + 2 * left, height + 2 * top)
  const context = context2d(canvas)
  context.imageSmoothingQuality = 'high'
  context.drawImage(image, left, top, width, height)
  context.imageSmoothingEnabled = false
  context.drawImage(canvas, left, top, 1, height, 0, top, left, height)
  context.drawImage(canvas, left + width - 1, top, 1, height, left + width, top, left, height)
  context.drawImage(canvas, 0, top, canvas.width, 1, 0, 0, canvas.width, top)
  context.drawImage(canvas, 0, top + height - 1, canvas.width, 1, 0, top + height, canvas.width, top)
  return { canvas, left, top }
}

/** The 2D context of a canvas that is read often. */
export function context2d(canvas: OffscreenCanvas): OffscreenCanvasRenderingContext2D {
  const context = canvas.getContext('2d', { willReadFrequently: true })
  if (context === null) throw new Error('this browser draws nothing in a worker')
  return context
}

/** The aligned face of `canvas`. Sensitive. */
export function cutChip(canvas: OffscreenCanvas, { a, b, e, f }: Similarity): ImageData {
  const context = context2d(new OffscreenCanvas(CHIP_SIDE, CHIP_SIDE))
  context.imageSmoothingQuality = 'high'
  context.setTransform(a, b, -b, a, e, f)
  context.drawImage(canvas, 0, 0)
  return context.getImageData(0, 0, CHIP_SIDE, CHIP_SIDE)
}
