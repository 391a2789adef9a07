/**
 * The four landmarks of the one face in an image, as `client/faces/finding.py` finds them: two looks from afar, at the
 * image and at the image with its edges repeated outwards, and two from close by, each at the face and at its mirror image;
 * of a reference, the last one also at the face upside down. Where the first ones show nothing, a large image is looked at in
 * tiles.
 */

import { UsageError } from '../errors'
import { area, BlazeFace, common, type Detection, SIDE } from './blazeface'
import { type Alignment, PER_PIXEL, type Photograph, placed, type Point, Similarity } from './cropping'
import type { Profile } from './release'

/** Sides of the squares that are looked at first, in longer sides of the image. */
const LOOKS = [1, 2]
/** Longer sides of the image, in sides of the tiles that are looked at when those squares show nothing. */
const TILES = [2, 4]
/** Pixels; smaller images are not looked at in tiles of that part. */
const LEAST_TILE = 1536
/** Share of a tile: a face that is too small for the look before is whole in one of two neighbours. */
const OVERLAP = 0.25
/** Height of the smallest face that the detector finds in nine of ten squares, as a share of the square's side. */
const LEAST_FACE = 0.08
const CLOSER = 2
const CLOSER_SURE = 0.3
/** Distance of the eyes in a closer look, and how far down they are, as shares of its side. */
const [EYES_APART, EYES_DOWN] = [0.16, 0.42]
/** Share of a face's box from which it is taken to be part of a larger one: an eye behind glasses, or the same face. */
const WITHIN = 0.5
const UPSIDE_DOWN = 'the face is upside down: turn the photograph, or the camera'
const NO_FACE = 'no face found: use a sharp, frontal photograph of one person'
/** Landmarks of a mirrored face: its right eye is the left one. */
const MIRRORED = [1, 0, 2, 3, 5, 4]

/** An image from which no face can be taken: what is wrong with it, and how to mend it. */
export class UnusableImageError extends UsageError {}

/** Finds the landmarks of the one face in an image: right eye, left eye, tip of the nose, middle of the mouth. */
export class FaceFinder {
  readonly #detector: BlazeFace
  readonly #closer: Alignment

  /** @param alignment of the recogniser; closer looks are at the same face, smaller. */
  constructor(detector: BlazeFace, alignment: Alignment) {
    this.#detector = detector
    this.#closer = closerAlignment(alignment)
  }

  /**
   * In pixels of the image. Sensitive.
   *
   * @param profile what the image is to serve as: of a reference it is asked whether it is upside down.
   *
   * @throws UnusableImageError not exactly one face, or one that is upside down.
   */
  landmarks(image: Photograph, profile: Profile): Point[] {
    let points = this.#firstLook(image)
    for (let look = 0; look < CLOSER; look++) points = this.#closerLook(image, points, profile === 'reference' && look === CLOSER - 1)
    return points.slice(0, 4)
  }

  /**
   * The face of a film's next frame, in one close look where it was a moment ago: right eye, left eye, tip of the nose, middle of
   * the mouth, right ear, left ear. In pixels of the frame. Sensitive.
   *
   * @param before where it was; null where nobody knows.
   * @throws UnusableImageError not exactly one face.
   */
  follow(image: Photograph, before: readonly Point[] | null): Point[] {
    return this.#closerLook(image, before ?? this.#firstLook(image), false)
  }

  /** The faces that a first look shows, the largest first, in pixels of the image: for a film that somebody moves in. */
  glance(image: Photograph): Detection[] {
    const longer = Math.max(image.width, image.height)
    return apart(this.#seen(image, LOOKS.map((look) => square(look * longer, (image.width - look * longer) / 2, (image.height - look * longer) / 2))))
  }

  #firstLook(image: Photograph): Point[] {
    const { width, height } = image
    const longer = Math.max(width, height)
    const sides = TILES.map((tiles) => longer / tiles).filter((side) => side >= LEAST_TILE)
    let faces = this.glance(image)
    const areTiled = faces.length === 0 && sides.length > 0
    if (areTiled) faces = apart(this.#seen(image, sides.flatMap((side) => tiled(width, height, side))).filter((face) => this.#isSeenAgain(image, face)))
    if (faces.length > 1) {
      throw new UnusableImageError(`${faces.length} faces found: cut the image to the one person that it stands for`, { why: { name: 'why.faces', values: { count: faces.length } } })
    }
    if (faces.length === 0) {
      const least = Math.ceil(LEAST_FACE * (areTiled ? sides.at(-1)! : longer))
      throw new UnusableImageError(longer < LEAST_TILE ? NO_FACE : `${NO_FACE}, whose face is at least ${least} of these ${width} x ${height} pixels high`, { why: { name: 'why.no_face' } })
    }
    return [...faces[0].landmarks]
  }

  /** What the detector finds in some squares, in pixels of the image. One after the other: many at once take much memory. */
  #seen(image: Photograph, places: readonly Similarity[]): Detection[] {
    return places.flatMap((place) => this.#detector.detect([image.cut(place, SIDE)])[0].map((face) => moved(face, place)))
  }

  #isSeenAgain(image: Photograph, face: Detection): boolean {
    const again = image.cut(placed(face.landmarks.slice(0, 4), this.#closer), SIDE)
    return this.#detector.detect([again, mirror(again)]).every((seen) => seen.length > 0)
  }

  #closerLook(image: Photograph, points: readonly Point[], asksUpright: boolean): Point[] {
    const place = placed(points.slice(0, 4), this.#closer)
    const square = image.cut(place, SIDE)
    const [plain, mirrored, upsideDown = []] = this.#detector.detect([square, mirror(square), ...(asksUpright ? [turned(square)] : [])], CLOSER_SURE)
    if (surest(upsideDown) > surest(plain)) throw new UnusableImageError(UPSIDE_DOWN, { why: { name: 'why.upside_down' } })
    const found: Point[][] = []
    if (plain.length > 0) found.push([...middlemost(plain).landmarks])
    if (mirrored.length > 0) {
      const { landmarks } = middlemost(mirrored)
      found.push(MIRRORED.map((i) => ({ x: SIDE - landmarks[i].x, y: landmarks[i].y })))
    }
    if (found.length === 0) throw new UnusableImageError(NO_FACE, { why: { name: 'why.no_face' } })
    const mean = (value: (point: Point) => number, i: number): number => found.reduce((sum, one) => sum + value(one[i]), 0) / found.length
    return found[0].map((_, i) => place.apply({ x: mean(({ x }) => x, i), y: mean(({ y }) => y, i) }))
  }
}

const square = (side: number, left: number, top: number): Similarity => new Similarity(side / SIDE, 0, left, top)

/** The image in squares of `side` pixels, each at least `OVERLAP` over the next. */
function tiled(width: number, height: number, side: number): Similarity[] {
  const begins = (length: number): number[] => {
    const steps = Math.ceil((length / side - 1) / (1 - OVERLAP))
    return steps > 0 ? Array.from({ length: steps + 1 }, (_, step) => (length - side) * step / steps) : [(length - side) / 2]
  }
  return begins(height).flatMap((top) => begins(width).map((left) => square(side, left, top)))
}

const moved = ({ score, box, landmarks }: Detection, place: Similarity): Detection => {
  const [upper, lower] = [place.apply({ x: box.left, y: box.top }), place.apply({ x: box.right, y: box.bottom })]
  return { score, box: { left: upper.x, top: upper.y, right: lower.x, bottom: lower.y }, landmarks: landmarks.map((point) => place.apply(point)) }
}

/** The faces that are not part of a larger one, the largest first. */
function apart(seen: readonly Detection[]): Detection[] {
  const faces: Detection[] = []
  for (const face of [...seen].sort((one, other) => area(other.box) - area(one.box))) {
    if (faces.every((other) => area(common(face.box, other.box)) <= WITHIN * area(face.box))) faces.push(face)
  }
  return faces
}

/** A closer look may show a neighbour's face too; the one that it was made for is in the middle. */
function middlemost(faces: readonly Detection[]): Detection {
  const off = ({ box }: Detection): number => Math.abs(box.left + box.right - SIDE) + Math.abs(box.top + box.bottom - SIDE)
  return faces.reduce((best, face) => (off(face) < off(best) ? face : best))
}

const surest = (faces: readonly Detection[]): number => Math.max(0, ...faces.map(({ score }) => score))

/** By half a turn. */
function turned(square: Uint8Array): Uint8Array {
  const upsideDown = new Uint8Array(square.length)
  for (let from = 0; from < square.length; from += 3) {
    for (let channel = 0; channel < 3; channel++) upsideDown[square.length - 3 - from + channel] = square[from + channel]
  }
  return upsideDown
}

function mirror(square: Uint8Array): Uint8Array {
  const mirrored = new Uint8Array(square.length)
  for (let row = 0; row < SIDE; row++) {
    for (let column = 0; column < SIDE; column++) {
      const [from, to] = [3 * (row * SIDE + column), 3 * (row * SIDE + SIDE - 1 - column)]
      for (let channel = 0; channel < 3; channel++) mirrored[to + channel] = square[from + channel]
    }
  }
  return mirrored
}

function closerAlignment({ points }: Alignment): Alignment {
  const [[right, top], [left, other]] = points
  const scale = EYES_APART * SIDE * PER_PIXEL / (left - right)
  const [across, down] = [SIDE / 2 * PER_PIXEL - scale * (left + right) / 2, EYES_DOWN * SIDE * PER_PIXEL - scale * (top + other) / 2]
  return { side: SIDE, points: points.map(([x, y]) => [Math.round(scale * x + across), Math.round(scale * y + down)]) }
}
