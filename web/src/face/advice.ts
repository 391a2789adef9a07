/**
 * What somebody in front of a camera should do for a good picture, from one quick look at each frame of the film.
 *
 * Advice only: whether a picture is taken at all, `quality.ts` decides, and it asks less. Nothing here is kept or sent.
 */

import type { Detection } from './blazeface'
import type { Alignment, Photograph, Point } from './cropping'
import { UnusableImageError } from './finding'
import { requireQuality } from './quality'
import type { Profile } from './release'

/** What to do; a message of the catalogues for each, `advice.NAME`. */
export const ADVICE = ['nobody', 'several', 'far', 'near', 'off', 'dark', 'bright', 'straight', 'still', 'blurred'] as const
export type Advice = (typeof ADVICE)[number]

/** Distance of the eyes in shorter sides of the frame. */
const [FAR, NEAR] = [0.1, 0.36]
/** Middle of the face off the middle of the frame, in shorter sides of it. */
const OFF = 0.25
/** Grey level of 255 that a tenth of the face is above, at least, or nine tenths are below: of dark skin in good light, too. */
const [DARK, BRIGHT] = [60, 235]
/** The nose beside the middle of the eyes, in their distance; and the eyes' tilt, in degrees. */
const [TURNED, TILTED] = [0.3, 20]
/** Mean way of a landmark since the frame before, in distances of the eyes. */
const MOVED = 0.1
/** Samples of a face's light on a side. */
const GRID = 24

/** What is read of a frame. */
type Seen = Pick<Photograph, 'width' | 'height' | 'grey' | 'sharesOutside' | 'cut'>

/** Where a face was a moment ago. Sensitive. */
export interface Glance {
  readonly landmarks: readonly Point[]
}

/**
 * Judges one frame.
 *
 * @param faces all that are in it, the largest first.
 * @param profile what the picture is to serve as.
 * @param before what the frame before showed, or null; without it nobody knows whether the face keeps still.
 * @returns the one thing to do first, or null for a good frame; and what is seen.
 */
export function advise(
  frame: Seen, faces: readonly Detection[], alignment: Alignment, profile: Profile, before: Glance | null,
): { readonly advice: Advice | null; readonly seen: Glance | null } {
  if (faces.length === 0) return { advice: 'nobody', seen: null }
  if (faces.length > 1) return { advice: 'several', seen: null }
  const [{ box, landmarks: all }] = faces
  const landmarks = all.slice(0, 4)
  const seen = { landmarks }
  const [right, left, nose] = landmarks
  const side = Math.min(frame.width, frame.height)
  const eyes = Math.hypot(right.x - left.x, right.y - left.y)
  const wrong = (advice: Advice): { advice: Advice; seen: Glance } => ({ advice, seen })
  if (eyes < FAR * side) return wrong('far')
  const refused = refusal(frame, landmarks, alignment, profile)
  if (refused === 'why.small') return wrong('far')
  if (eyes > NEAR * side) return wrong('near')
  const [across, down] = [(box.left + box.right - frame.width) / 2, (box.top + box.bottom - frame.height) / 2]
  if (Math.hypot(across, down) > OFF * side || refused === 'why.cut_off') return wrong('off')
  const grey = light(frame, box)
  if (grey[Math.floor(0.9 * grey.length)] < DARK || refused === 'why.dark') return wrong('dark')
  if (grey[Math.floor(0.1 * grey.length)] > BRIGHT || refused === 'why.bright') return wrong('bright')
  const [ex, ey] = [(left.x - right.x) / eyes, (left.y - right.y) / eyes]
  const beside = ((nose.x - (right.x + left.x) / 2) * ex + (nose.y - (right.y + left.y) / 2) * ey) / eyes
  if (Math.abs(beside) > TURNED || Math.abs(Math.atan2(ey, ex)) > TILTED * Math.PI / 180) return wrong('straight')
  if (before === null) return wrong('still')
  const way = landmarks.reduce((sum, { x, y }, i) => sum + Math.hypot(x - before.landmarks[i].x, y - before.landmarks[i].y), 0) / landmarks.length
  if (way > MOVED * eyes) return wrong('still')
  return refused === 'why.blurred' ? wrong('blurred') : { advice: null, seen }
}

/** Why the gate for pictures refuses this one, or null. */
function refusal(frame: Seen, landmarks: readonly Point[], alignment: Alignment, profile: Profile): string | null {
  try {
    requireQuality(frame, landmarks, alignment, profile)
    return null
  } catch (error) {
    if (error instanceof UnusableImageError) return error.why?.name ?? null
    throw error
  }
}

/** Grey levels of a face, the darkest first. */
function light(frame: Pick<Photograph, 'grey'>, { left, top, right, bottom }: Detection['box']): number[] {
  const levels: number[] = []
  for (let row = 0; row < GRID; row++) {
    for (let column = 0; column < GRID; column++) levels.push(frame.grey(left + (column + 0.5) * (right - left) / GRID, top + (row + 0.5) * (bottom - top) / GRID))
  }
  return levels.sort((a, b) => a - b)
}
