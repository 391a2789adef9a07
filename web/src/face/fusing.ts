/**
 * Several pictures of one person become one embedding: `federation/recognition/fusing.py`, and what `client/device/pictures.py`
 * asks of pictures before anything is sent, in its words.
 */

import { UnusableImageError } from './finding'
import type { ModelRelease } from './release'

/**
 * Mean difference of two cuts, in grey levels of 255, up to which they are one picture, perhaps saved or scaled anew.
 * Neighbouring pictures of one session of ORL differ by 3.6 and more.
 */
const SAME_GREY = 2

/** What a picture is called in a message: the first is picture 1. */
export const nameOf = (place: number): string => `picture ${place + 1}`

/** The mean of embeddings of unit norm, of unit norm again; zero where they cancel out. Before any adapter. */
export function fused(embeddings: readonly Float64Array[]): Float64Array {
  const mean = embeddings[0].map((_, i) => embeddings.reduce((sum, one) => sum + one[i], 0) / embeddings.length)
  const norm = Math.hypot(...mean)
  return norm > 0 ? mean.map((x) => x / norm) : mean
}

/**
 * Returns when no two cuts are of one picture: what a picture and its copy have in common is no person.
 *
 * @throws UnusableImageError two are; names them.
 */
export function requireDifferent(cuts: readonly Uint8Array[]): void {
  cuts.forEach((cut, later) => {
    const earlier = cuts.slice(0, later).findIndex((other) => cut.reduce((sum, value, i) => sum + Math.abs(value - other[i]), 0) / cut.length <= SAME_GREY)
    if (earlier >= 0) throw new UnusableImageError(`${nameOf(later)} is the same picture as ${nameOf(earlier)}, which is not two: take another. Nothing was sent`, { why: { name: 'why.same', values: { later: later + 1, earlier: earlier + 1 } } })
  })
}

/**
 * Returns when pictures that are to be averaged are of one person, as far as the release can tell.
 *
 * Two are unlike when the share of bits in which their codes would differ, on average over all seeds, is more than the
 * threshold allows: that is their angle in parts of a half turn. So the answer is the same on every try. A picture is an
 * outlier when it is unlike more than half of the others.
 *
 * @param embeddings of references, not adapted.
 * @throws UnusableImageError there are outliers; names them.
 */
export function requireOnePerson(embeddings: readonly Float64Array[], release: ModelRelease): void {
  const adapted = embeddings.map((embedding) => release.adapt(embedding, 'reference'))
  const unlike = (one: Float64Array, other: Float64Array): boolean => {
    const cosine = one.reduce((sum, x, i) => sum + x * other[i], 0)
    return Math.acos(Math.min(Math.max(cosine, -1), 1)) / Math.PI > release.threshold / release.parameters.slots
  }
  const outliers = adapted.flatMap((one, place) => {
    const against = adapted.filter((other) => other !== one && unlike(one, other)).length
    return 2 * against > embeddings.length - 1 ? [place] : []
  })
  if (outliers.length === 0) return
  const listed = outliers.map(nameOf).join(' and ')
  const values = { pictures: outliers.map((place) => place + 1).join(', '), count: outliers.length }
  throw 2 * outliers.length < embeddings.length
    ? new UnusableImageError(`${listed}: of somebody else than the other pictures, or too unlike them; leave out, or take another. Nothing was sent`, { why: { name: 'why.somebody_else', values } })
    : new UnusableImageError(`${listed} do not show one person, or are too unlike each other; take others, from the front and in even light. Nothing was sent`, { why: { name: 'why.unlike', values } })
}
