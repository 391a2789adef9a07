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
  if (over <= MOST_OVER && outside <= MOST_OUTSIDE) { requireLight(photograph.cut(placed(landmarks, alignment), alignment.side)); return }
  const [where, share, most] = over > MOST_OVER ? ['above or below', over, MOST_OVER] as const : ['outside of', outside, MOST_OUTSIDE] as const
  throw new UnusableImageError(
    `the face is cut off: ${Math.ceil(100 * share)} % of what is compared lies ${where} the photograph, ${100 * most} % may: leave room around the face`,
    { why: { name: 'why.cut_off', values: { share: Math.ceil(100 * share) } } })
}

/** Of a reference's cut, red, green and blue. */
function requireLight(cut: Uint8Array): void {
  const grey = Float64Array.from({ length: cut.length / 3 }, (_, i) => 0.299 * cut[3 * i] + 0.587 * cut[3 * i + 1] + 0.114 * cut[3 * i + 2]).sort()
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
