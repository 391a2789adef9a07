/**
 * Rates with what they rest on, and their words in assertions; no such number is shown without it. As `federation/rates.py`
 * and `federation/promise.py`.
 */

import type { FalseMatchRate } from '../face/release'

/** What an audit of other people says about a release, and what it asked for: a verdict is worth its limits. */
export interface Audited {
  readonly verdict: string
  /** Whom it compared; 0 where that is not known. */
  readonly people: number
  /** Largest false match rate, and largest false non-match rate, that it allowed a group. */
  readonly fmrLimit: number
  readonly fnmrLimit: number
  readonly isTrial: boolean
}

/** What an attacker achieves at most who knows everything but whether one person took part. Shares, 0 to 1. */
export interface AttackRates {
  /** Of the people who took part, the share that is found by whoever accuses `falseAccusations` of those who did not. */
  readonly detected: number
  /** Share of right guesses at even odds. */
  readonly right: number
  readonly falseAccusations: number
}

/** A number that somebody chose, in per cent and not rounded. */
export function exactPercent(rate: number): string {
  const [digits, exponent] = rate.toExponential().split('e')
  const shifted = Number(`${digits}e${Number(exponent) + 2}`)
  return shifted < 1e-6 ? shifted.toFixed(20).replace(/0+$/, '') : String(shifted)
}

/** Three digits of per cent; what is less than a hundredth of a thousandth is none. */
export const percent = (rate: number): string => String(rate < 1e-5 ? 0 : Number((100 * rate).toPrecision(3)))

/** A bound from above in per cent, rounded up to a hundredth. As `percent_up`. */
export const bound = (share: number): string => String(Math.ceil(share * 1e4 - 1e-6) / 100)

/** Whether the release is for general use and its audit passed, on people whom somebody counted. */
export const isPassed = ({ verdict, people, isTrial }: Audited): boolean => !isTrial && verdict === 'PASS' && people > 0

/** What stood between a presentation attack and a comparison, as `federation/presentation/levels.py`; the least first. */
export const PAD_LEVELS = ['none', 'on-device', 'supervised'] as const
export type PadLevel = (typeof PAD_LEVELS)[number]

/** Whether it is at least `least`. */
export const reaches = (level: PadLevel, least: PadLevel): boolean => PAD_LEVELS.indexOf(level) >= PAD_LEVELS.indexOf(least)

const LOOKED: Readonly<Record<PadLevel, string>> = {
  'none': 'nobody looked for a picture or a mask before the camera',
  'on-device': "the person's own device says that it looked for a picture or a mask before the camera",
  'supervised': "a device of the organisation's looked for a picture or a mask before the camera",
}

/** The one sentence of an assertion. */
export function wordingOf(rate: FalseMatchRate, audited: Audited, pad: PadLevel): string {
  const mark = audited.isTrial ? 'TRIAL, ' : isPassed(audited) ? '' : 'NOT PASSED, '
  const on = audited.people === 0 ? 'nobody knows how many people' : `${audited.people} people`
  const limits = `FMR ${exactPercent(audited.fmrLimit)} % and FNMR ${exactPercent(audited.fnmrLimit)} %`
  const rests = {
    public: `an estimate from ${rate.people} people of public sets of faces`,
    checked: `checked privately on ${rate.people} people of the run`,
    measured: `measured privately on ${rate.people} people of the run`,
    labelled: `measured by group on ${rate.people} people who said which they are of`,
  }[rate.basis]
  const stated = `FMR ${exactPercent(rate.stated)} % (${percent(rate.low)} to ${percent(rate.high)} % with 90 %), ${rests}`
  return `${mark}audit ${audited.verdict} on ${on} at limits of ${limits}: claim accepted at ${stated}; ${LOOKED[pad]}`
}
