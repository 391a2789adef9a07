/** How good a photograph of a face is, before a recogniser sees it: the gate of `client/faces/quality.py`, in its words. */

import { type Alignment, type Photograph, placed, type Point } from './cropping'
import { UnusableImageError } from './finding'
import type { Profile } from './release'

/** Pixels of the photograph between the eyes, below which no recogniser tells people apart. */
const LEAST_EYES_APART = 13
const LEAST_EYES_APART_OF_REFERENCE = 18
/** Share of a reference's cut that may lie above or below the photograph: forehead and chin tell people apart. */
const MOST_OVER = 0.08
/** Share of a reference's cut that may lie outside of the photograph, in all: beside a face is background. */
const MOST_OUTSIDE = 0.25
/** Grey level of 255 that a tenth of a reference's cut is above: what is darker has too few levels left. */
const LEAST_BRIGHT = 40
const WHITE = 250
/** Share of a reference's cut that may be white, which is where more light makes no difference any more. */
const MOST_WHITE = 0.6
/** What `sharpness` of a reference is at least. */
const LEAST_SHARP = 0.19
/** One over the share of a cut's side that is left out at each edge: hair and background there may be sharp. */
const EDGE = 8
/** Pixels on both sides of one that a blur averages with it. */
const HALF = 2

/**
 * Returns when a photograph is good enough for what it is to serve as.
 *
 * @param landmarks of the face, in pixels of the photograph.
 * @param alignment how the recogniser's cut is made.
 * @param profile a reference needs more than a probe.
 * @throws UnusableImageError it is not; says what to do.
 */
export function requireQuality(photograph: Pick<Photograph, 'sharesOutside' | 'cut'>, landmarks: readonly Point[], alignment: Alignment, profile: Profile): void {
  const isReference = profile === 'reference'
  const [apart, least] = [eyesApart(landmarks), isReference ? LEAST_EYES_APART_OF_REFERENCE : LEAST_EYES_APART]
  if (apart < least) {
    const whatFor = isReference ? ' to enrol' : ''
    throw new UnusableImageError(
      `only ${Math.floor(apart)} pixels lie between the eyes, ${least} are needed${whatFor}: come closer, or use a photograph with more pixels`,
      { why: { name: 'why.small', values: { apart: Math.floor(apart), least } } })
  }
  const { over, outside } = photograph.sharesOutside(placed(landmarks, alignment), alignment.side)
  if (!isReference) return
  if (over <= MOST_OVER && outside <= MOST_OUTSIDE) { requireLitAndSharp(photograph.cut(placed(landmarks, alignment), alignment.side), alignment.side); return }
  const [where, share, most] = over > MOST_OVER ? ['above or below', over, MOST_OVER] as const : ['outside of', outside, MOST_OUTSIDE] as const
  throw new UnusableImageError(
    `the face is cut off: ${Math.ceil(100 * share)} % of what is compared lies ${where} the photograph, ${100 * most} % may: leave room around the face`,
    { why: { name: 'why.cut_off', values: { share: Math.ceil(100 * share) } } })
}

const greyOf = (cut: Uint8Array): Float64Array => Float64Array.from({ length: cut.length / 3 }, (_, i) => 0.299 * cut[3 * i] + 0.587 * cut[3 * i + 1] + 0.114 * cut[3 * i + 2])

/** Of a reference's cut, red, green and blue. */
function requireLitAndSharp(cut: Uint8Array, side: number): void {
  requireLight(greyOf(cut).sort())
  if (sharpness(cut, side) >= LEAST_SHARP) return
  throw new UnusableImageError('the face is not sharp enough to enrol: hold still, wipe the lens, and take it again', { why: { name: 'why.blurred' } })
}

/** How much of the differences between neighbouring pixels a blur takes away, 0 to 1, as `sharpness` of Python. @param cut red, green and blue. */
export function sharpness(cut: Uint8Array, side: number): number {
  const [grey, edge] = [greyOf(cut), Math.floor(side / EDGE)]
  const length = side - 2 * edge
  const begin = edge * side + edge
  return Math.min(lost(grey, { begin, length, along: 1, across: side }), lost(grey, { begin, length, along: side, across: 1 }))
}

/** The same along the rows, or the columns, of a square of grey levels. */
function lost(grey: Float64Array, { begin, length, along, across }: { readonly begin: number; readonly length: number; readonly along: number; readonly across: number }): number {
  let [total, gone] = [0, 0]
  for (let line = 0; line < length; line++) {
    const level = (place: number): number => grey[begin + line * across + place * along]
    for (let place = HALF; place + HALF + 1 < length; place++) {
      const fine = Math.abs(level(place + 1) - level(place))
      const coarse = Math.abs(level(place + HALF + 1) - level(place - HALF)) / (2 * HALF + 1) // what comes into the mean of the next pixel, and what leaves it
      total += fine
      gone += Math.max(fine - coarse, 0)
    }
  }
  return total === 0 ? 0 : gone / total
}

/** @param grey levels of a cut, the darkest first. */
function requireLight(grey: Float64Array): void {
  if (grey[Math.floor(9 * grey.length / 10)] < LEAST_BRIGHT) {
    throw new UnusableImageError('the face is too dark to enrol: turn to the light, and take it again', { why: { name: 'why.dark' } })
  }
  const white = grey.filter((level) => level >= WHITE).length / grey.length
  if (white <= MOST_WHITE) return
  throw new UnusableImageError(
    `there is too much light to enrol: ${Math.ceil(100 * white)} % of what is compared is white, ${100 * MOST_WHITE} % may: turn away from the light, and take it again`,
    { why: { name: 'why.bright', values: { share: Math.ceil(100 * white) } } })
}

const eyesApart = ([right, left]: readonly Point[]): number => Math.hypot(right.x - left.x, right.y - left.y)
