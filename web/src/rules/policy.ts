/** May this device let itself be compared now, by the public rules? As `federation/rules/policy.py`, without the receipt and the attempts. */

import { RefusedError } from '../errors'
import { redLineOf } from '../wallet/purposes'
import type { Standing } from './manifest'
import { PAD_LEVELS, type PadLevel, reaches } from './rates'
import { isInForce, type PurposeRule, type Rulebook } from './rulebook'

const DAY_SECONDS = 86_400
const MINIMAL = 1

/** What each tier asks for: the largest false match rate of a release, and the longest consent. */
const TIERS: Readonly<Record<number, { readonly largestFmr: number; readonly longestReceiptSeconds: number }>> = {
  1: { largestFmr: 1e-2, longestReceiptSeconds: 365 * DAY_SECONDS },
  2: { largestFmr: 1e-3, longestReceiptSeconds: 180 * DAY_SECONDS },
  3: { largestFmr: 1e-4, longestReceiptSeconds: 90 * DAY_SECONDS },
}

/** What is asked. */
export interface Asked {
  /** Identifier of the registered deployment. */
  readonly deployment: string
  readonly audience: string
  readonly purpose: string
  readonly release: Standing
  /** Of the consent. */
  readonly jurisdiction: string
  readonly consentSeconds: number
  /** What stands between a presentation attack and this comparison; null where a template is compared that is enrolled by it. */
  readonly pad: PadLevel | null
}

/**
 * Returns when the public rules allow it at `now`, seconds since 1970.
 *
 * @throws RefusedError they do not; the error says why.
 */
export function requireAllowedBy(rules: Rulebook, asked: Asked, now: number): void {
  const { audience, purpose, release } = asked
  const line = redLineOf(purpose)
  if (line !== null) throw new RefusedError(`the purpose ${purpose} is never allowed: ${line}`)
  const deployment = rules.deployment(asked.deployment)
  if (deployment === null) throw new RefusedError(`no deployment ${asked.deployment} stands in the public registry`, { why: { name: 'why.not_registered' } })
  if (!isInForce(deployment, now)) throw new RefusedError(`the deployment ${asked.deployment} is not in force now`, { why: { name: 'why.not_registered' } })
  const ofClient = rules.client(asked.deployment, audience, now)?.purposes.includes(purpose) ?? false
  if (!(deployment.audience === audience || ofClient) || !deployment.purposes.includes(purpose) || !deployment.releases.includes(release.digest)) {
    throw new RefusedError(`the deployment ${asked.deployment} is registered for another audience, purpose or model release`)
  }
  const granted = deployment.jurisdictions.map((place) => ruleIn(rules, place, asked, now))
  for (const { identifier, jurisdictions, audiences, categories } of rules.moratoria(now)) {
    const stops = (jurisdictions.length === 0 || jurisdictions.some((place) => deployment.jurisdictions.includes(place)))
      && (audiences.length === 0 || audiences.includes(audience) || audiences.includes(deployment.audience))
      && (categories.length === 0 || granted.some(({ category }) => categories.includes(category)))
    if (stops) throw new RefusedError(`stopped by the moratorium ${identifier}`, { why: { name: 'why.moratorium', values: { moratorium: identifier } } })
  }
  const tier = Math.max(...granted.map((rule) => rule.tier))
  const { largestFmr, longestReceiptSeconds } = TIERS[tier]
  if (release.isTrial && tier !== MINIMAL) throw new RefusedError(`the model release is a trial that no audit has passed, and ${purpose} is no trial's purpose`)
  if (!(release.statedFmr > 0 && release.statedFmr <= largestFmr)) {
    throw new RefusedError(`${purpose} needs a release with a false match rate of at most ${largestFmr}; this one states ${release.statedFmr}`)
  }
  const least = leastOf(granted)
  if (asked.pad !== null && !reaches(asked.pad, least)) {
    throw new RefusedError(`${purpose} asks for presentation attack detection ${least}, and here it is ${asked.pad}; take the way that the terms name`, { why: { name: least === 'supervised' ? 'why.supervised' : 'why.film_needed' } })
  }
  if (!deployment.jurisdictions.includes(asked.jurisdiction)) throw new RefusedError('the consent is for another jurisdiction')
  if (asked.consentSeconds > longestReceiptSeconds) {
    throw new RefusedError(`a consent for ${purpose} may be valid for at most ${longestReceiptSeconds / DAY_SECONDS} days`)
  }
}

/** What must stand between a presentation attack and a comparison, where all of these rules count together. */
const leastOf = (granted: readonly PurposeRule[]): PadLevel => PAD_LEVELS[Math.max(...granted.map(({ pad }) => PAD_LEVELS.indexOf(pad)))]

/** What the public rules ask to stand between a presentation attack and a comparison with an enrolled template at `now`. */
export function leastPad(rules: Rulebook, asked: Pick<Asked, 'deployment' | 'audience' | 'purpose'>, now: number): PadLevel {
  return leastOf((rules.deployment(asked.deployment)?.jurisdictions ?? []).map((place) => ruleIn(rules, place, asked, now)))
}

/** What allows the purpose in one jurisdiction: its pack, or else an exception. */
function ruleIn(rules: Rulebook, place: string, { audience, purpose }: Pick<Asked, 'audience' | 'purpose'>, now: number): PurposeRule {
  const pack = rules.pack(place, now)
  const inForce = pack !== null && now < pack.endsAt
  const rule = (inForce ? pack.rules.find((one) => one.purpose === purpose && isInForce(one, now)) : undefined) ?? rules.exception(place, audience, purpose, now)
  if (rule === null) throw new RefusedError(inForce ? `the policy of ${place} does not allow ${purpose} now` : `no policy is in force in ${place}`)
  return rule
}
