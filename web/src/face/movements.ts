/**
 * Whether a face in a film turns as a head does, in an order that nobody knew before. As `federation/presentation/movements.py`, whose
 * theory of operation says why; both judge the films of `tests/vectors/movements.json` alike.
 */

import { concat, sha256, utf8 } from '../bytes'
import { UsageError } from '../errors'
import type { Point } from './cropping'

export const MOST_SECONDS = 4
const PATIENCE_SECONDS = 6
const COUNT = 3
const MIDDLE = 0.15
const [TURN, NOD, CLOSER] = [0.55, 0.3, 1.25]
const [BACK, WAY] = [0.6, 0.25]
const STEADY = 3
const LONGEST_GAP_SECONDS = 0.5
const [FARTHEST, MOST_GROWTH, NEAREST] = [1.5, 1.35, 1 / 5]
/** How far the nose moves when a head turns, and when it nods, where ears move by 1 the other way. */
const NOSE = [0.42, 0.65] as const
const SMALLEST = 1e-3
const [FRONTAL_NOSE, FRONTAL_EARS] = [0.2, 0.4]

/** What is asked for. Left and right are the person's own. */
export type Movement = 'left' | 'right' | 'up' | 'down' | 'closer'
/** What somebody cannot do, or would rather not. */
export type Omission = 'turning' | 'nodding'
/** Why a film is refused. */
export type Fault = 'nobody' | 'too-near' | 'away' | 'jumped' | 'another' | 'too-late'

const ALLOWED: Readonly<Record<Omission | 'nothing', readonly Movement[]>> = {
  nothing: ['left', 'right', 'up', 'down'], turning: ['up', 'down', 'closer'], nodding: ['left', 'right', 'closer'],
}

/** Where the face was at one moment. Sensitive. */
export interface Look {
  readonly seconds: number
  /** Right eye, left eye, tip of the nose, middle of the mouth, right ear, left ear, in pixels. */
  readonly landmarks: readonly Point[]
  /** Pixels of the frame's longer side. */
  readonly side: number
}

/** How a face looks, against how it looked into the camera at first: tangents of angles, to the person's left and down above 0. */
export interface Pose {
  readonly turn: number
  readonly nod: number
  readonly scale: number
}

/** Whether it looks into the camera. */
export const isMiddle = ({ turn, nod }: Pose): boolean => Math.abs(turn) <= MIDDLE && Math.abs(nod) <= MIDDLE

/** The movements that a session asks for, in their order. @param nonce of the session, 32 bytes. */
export function challengeOf(nonce: Uint8Array, omission: Omission | null = null): readonly Movement[] {
  if (nonce.length !== 32) throw new UsageError('a nonce has 32 bytes')
  const orders = ordersWithout(omission)
  const number = sha256(concat(utf8('intaglio presentation challenge/1\0'), nonce)).slice(0, 8).reduce((sum, byte) => 256n * sum + BigInt(byte), 0n)
  return orders[Number(number % BigInt(orders.length))]
}

/** Every order that may be asked for. */
export function ordersWithout(omission: Omission | null): readonly (readonly Movement[])[] {
  const allowed = ALLOWED[omission ?? 'nothing']
  const longer = (orders: readonly Movement[][]): Movement[][] => orders.flatMap((order) => allowed.map((one) => [...order, one]))
  const all = Array.from({ length: COUNT }).reduce<Movement[][]>(longer, [[]])
  const both: readonly Movement[] = omission === 'turning' ? ['up', 'down'] : ['left', 'right']
  return all.filter((order) => order.every((one, i) => one !== order[i + 1]) && both.every((one) => order.includes(one)))
}

/** Judges one film, look by look. Build it for a film; nothing is remembered of another. */
export class Watcher {
  readonly #movements: readonly Movement[]
  #first: Look[] = []
  #middle: Middle | null = null
  #poses: Pose[] = []
  #last: Look | null = null
  #began: number | null = null
  #now: Movement | null = null
  /** Why the film is refused, or null. */
  fault: Fault | null = null
  /** The last movement that was seen in part since one was seen whole. */
  onTheWay: Movement | null = null
  /** How many movements were seen. */
  done = 0
  /** Of the last look; null before the face has looked into the camera. */
  pose: Pose | null = null

  constructor(movements: readonly Movement[]) { this.#movements = movements }

  /** What is asked for now; null before the face has looked into the camera, and when all is done or refused. */
  get wanted(): Movement | null {
    return this.fault !== null || this.isPassed || this.#middle === null ? null : this.#movements[this.done]
  }

  /** Whether all movements were seen, and nothing else. */
  get isPassed(): boolean { return this.fault === null && this.done === this.#movements.length }

  /** Takes in the next look. After the end nothing changes any more. */
  see(look: Look): void {
    if (this.fault !== null || this.isPassed) return
    const last = this.#last ?? look
    this.#last = look
    if (this.#middle === null) {
      this.#wait(look)
      return
    }
    this.fault = faultBetween(last, look)
    if (this.fault !== null) return
    this.#poses = [...this.#poses, poseOf(look, this.#middle)].slice(-STEADY)
    const steady = (value: (pose: Pose) => number): number => median(this.#poses.map(value))
    this.pose = { turn: steady(({ turn }) => turn), nod: steady(({ nod }) => nod), scale: steady(({ scale }) => scale) }
    this.#follow(this.pose)
    if ((this.fault as Fault | null) === null && !this.isPassed && look.seconds - this.#middle.seconds > MOST_SECONDS) this.fault = 'too-late'
  }

  /** Takes in a moment at which no face was found, or more than one: a movement that was on its way begins anew. */
  miss(seconds: number): void {
    if (this.fault !== null || this.isPassed) return
    if (this.#middle === null) {
      this.#first = []
      this.#waitSince(seconds)
      return
    }
    this.#poses = [] // out of sight somebody else may take the place
    this.onTheWay = null
    if (this.#last !== null && seconds - this.#last.seconds > LONGEST_GAP_SECONDS) this.fault = 'away'
  }

  #wait(look: Look): void {
    const [nose, right, left] = coordinatesOf(look)
    const isFrontal = Math.abs(nose.x) <= FRONTAL_NOSE && Math.abs((right.x + left.x) / 2) <= FRONTAL_EARS
    this.#first = isFrontal ? [...this.#first, look] : []
    if (this.#first.length < STEADY) {
      this.#waitSince(look.seconds)
      return
    }
    this.#middle = middleOf(this.#first)
    if (this.#middle.size > NEAREST * look.side) this.fault = 'too-near'
  }

  #waitSince(seconds: number): void {
    this.#began ??= seconds
    if (seconds - this.#began > PATIENCE_SECONDS) this.fault = 'nobody'
  }

  /** Which movement the face is in: one is left below `BACK` of it, and entered at all of it, after a part. */
  #follow(pose: Pose): void {
    const [movement, most] = mostOf(pose)
    if (movement === this.#now && most >= BACK) return
    const share = movement === 'closer' && !this.#movements.includes('closer') ? 0 : most
    if (share < 1) {
      this.#now = null
      if (share >= WAY) this.onTheWay = movement
      return
    }
    if (movement !== this.#movements[this.done]) this.fault = 'another'
    else if (movement !== this.onTheWay) this.fault = 'jumped'
    else this.done += 1
    this.#now = movement
    this.onTheWay = null
  }
}

/** How a face looks into the camera: nose and ears, the height from eyes to mouth in distances of the eyes, that distance in pixels. */
interface Middle {
  readonly coordinates: readonly Point[]
  readonly height: number
  readonly size: number
  readonly seconds: number
}

/** The movement that a pose is most of, and how much of it: 1 from where it counts. */
function mostOf({ turn, nod, scale }: Pose): [Movement, number] {
  const shares: [Movement, number][] = [['left', turn / TURN], ['right', -turn / TURN], ['up', -nod / NOD], ['down', nod / NOD]]
  const found = shares.reduce((best, one) => (one[1] > best[1] ? one : best))
  return found[1] >= WAY ? found : ['closer', (scale - 1) / (CLOSER - 1)]
}

function middleOf(looks: readonly Look[]): Middle {
  const mean = (value: (look: Look) => number): number => looks.reduce((sum, look) => sum + value(look), 0) / looks.length
  const coordinates = [0, 1, 2].map((i) => ({ x: mean((look) => coordinatesOf(look)[i].x), y: mean((look) => coordinatesOf(look)[i].y) }))
  const size = mean(sizeOf)
  return { coordinates, size, height: mean((look) => length(axesOf(look).down)) / size, seconds: looks.at(-1)!.seconds }
}

function poseOf(look: Look, { coordinates, height, size }: Middle): Pose {
  const [nose, right, left] = coordinatesOf(look).map(({ x, y }, i) => [x - coordinates[i].x, (y - coordinates[i].y) * height])
  const [turn, nod] = [0, 1].map((axis) => (NOSE[axis] * nose[axis] - right[axis] - left[axis]) / (NOSE[axis] ** 2 + 2))
  return { turn, nod, scale: sizeOf(look) / size }
}

function faultBetween(last: Look, look: Look): Fault | null {
  if (look.seconds - last.seconds > LONGEST_GAP_SECONDS) return 'away'
  const [before, now] = [sizeOf(last), sizeOf(look)]
  const [from, to] = [axesOf(last).origin, axesOf(look).origin]
  const isFar = Math.hypot(to.x - from.x, to.y - from.y) > FARTHEST * before
  return isFar || Math.max(now / before, before / now) > MOST_GROWTH ? 'jumped' : null
}

/** Nose, right ear and left ear: along the eyes and down to the mouth, from the middle of the eyes. */
function coordinatesOf(look: Look): Point[] {
  const { across, down, origin } = axesOf(look)
  const area = across.x * down.y - across.y * down.x
  if (Math.abs(area) < SMALLEST ** 2) return Array.from({ length: 3 }, () => ({ x: Infinity, y: Infinity }))
  return [2, 4, 5].map((i) => {
    const [x, y] = [look.landmarks[i].x - origin.x, look.landmarks[i].y - origin.y]
    return { x: (x * down.y - y * down.x) / area, y: (across.x * y - across.y * x) / area }
  })
}

/** From the right eye to the left one; from the middle of the eyes to the mouth; that middle. */
function axesOf({ landmarks: [right, left, , mouth] }: Look): { across: Point; down: Point; origin: Point } {
  const origin = { x: (right.x + left.x) / 2, y: (right.y + left.y) / 2 }
  return { across: { x: left.x - right.x, y: left.y - right.y }, down: { x: mouth.x - origin.x, y: mouth.y - origin.y }, origin }
}

const length = ({ x, y }: Point): number => Math.hypot(x, y)
const sizeOf = (look: Look): number => Math.max(length(axesOf(look).across), SMALLEST)

function median(values: readonly number[]): number {
  const sorted = [...values].sort((one, other) => one - other)
  const half = sorted.length / 2
  return sorted.length % 2 === 1 ? sorted[Math.floor(half)] : (sorted[half - 1] + sorted[half]) / 2
}
