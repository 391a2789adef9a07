/** The signed manifest of a model release, and when it may be used. As `federation/release/manifest.py`. */

import { type Bytes } from '../bytes'
import { ProofError, RefusedError, UsageError } from '../errors'
import { BASES } from '../face/release'
import {
  canonicalBytes, type JsonValue, parse, requireHex, requireName, requirePeriod, requireSigned, requireText, textOfTime, timeOfText,
} from '../wallet/statements'
import type { AttackRates, Audited } from './rates'

const FORMAT = 'intaglio-release-bundle-5'
const LONGEST_VALIDITY_SECONDS = 365 * 86_400
const ROLES = { maker: 'intaglio-release-maker/1', auditor: 'intaglio-release-auditor/1' } as const
type Role = keyof typeof ROLES
const NOBODY_ASKED = 'nobody was asked'
const NOBODY_LOOKED = 'nobody looked'
const RATE = /^[0-9]+(?:\.[0-9]+)?(?:e[+-][0-9]+)?$/
const DIGITS_OF_AUDITS = 6

/** Whom a device believes about releases; keys in hex. It keeps them from its enrolment on. */
export interface ReleaseTrust {
  readonly makers: readonly string[]
  readonly auditors: readonly string[]
  readonly acceptsTrials: boolean
}

/** How often templates accepted a string that was fixed without a face. Rates are text; their spelling is what was signed. */
export interface WolfRate {
  readonly errors: number
  readonly trials: number
  readonly effective: string
  readonly low: string
  readonly high: string
}

/** What a stolen wallet is worth without a face, as `federation/audit/wolf.py`: the domain's mean, and the best single image. */
export interface WolfRates {
  readonly best: WolfRate
  readonly mean: WolfRate
  readonly people: number
}

/** One species of presentation attacks: how often it was taken for a person, and how often it then matched its target. */
export interface SpeciesRates {
  readonly apcer: WolfRate
  readonly iapmr: WolfRate
  readonly level: string
  readonly name: string
  readonly people: number
}
/** What was found about presentation attack detection, as `federation/audit/presentation.py`. */
export interface PadRates {
  /** People who were taken for an attack. */
  readonly bpcer: WolfRate
  readonly people: number
  readonly species: readonly SpeciesRates[]
}

/** How many times the stated false match rate the mean's rate may be, in general use. */
const WOLF_FACTOR = 10
const NOT_MEASURED = 'not measured'
const FEWEST_PEOPLE = 4

/** What counts of a release when somebody asks whether it may be used now. */
export interface Standing {
  readonly digest: string
  readonly statedFmr: number
  readonly isTrial: boolean
  readonly beginsAt: number
  readonly endsAt: number
}

/**
 * Reads the trust that a deployment asks for.
 *
 * @throws UsageError a key is none, missing, or in both roles.
 */
export function releaseTrustOf(value: any): ReleaseTrust {
  const { makers, auditors, accepts_trials: acceptsTrials } = value as { makers: string[]; auditors: string[]; accepts_trials: boolean }
  for (const key of [...makers, ...auditors]) requireHex('a trusted key', key, 32)
  if (makers.length === 0 || auditors.length === 0 || makers.some((key) => auditors.includes(key)) || typeof acceptsTrials !== 'boolean') {
    throw new UsageError('trust needs a maker and an auditor, and no key that is both: nobody audits themselves')
  }
  return { makers, auditors, acceptsTrials }
}

/** A manifest with the signatures of maker and auditor, which `requireServable` verifies. */
export class SignedManifest {
  readonly standing: Standing
  /** What its audit says. */
  readonly audited: Audited
  /** What was promised to those whose pictures trained it; 0 where nobody was asked. */
  readonly epsilon: number
  readonly delta: number
  /** What an attacker learns of them at most; null where nobody was asked. */
  readonly attacks: AttackRates | null
  /** What a stolen wallet is worth without a face; null where nobody measured it. */
  readonly wolf: WolfRates | null
  /** How often presentation attacks passed; null where nobody made any. */
  readonly pad: PadRates | null
  readonly #manifest: JsonValue
  readonly #signatures: Readonly<Partial<Record<Role, { readonly key: string; readonly signature: string }>>>

  private constructor(value: any) {
    const { manifest, signatures } = value
    const { claims, audit, files } = manifest
    const cell = audit.worst_cell
    const [beginsAt, endsAt] = [timeOfText(manifest.begins_at), timeOfText(manifest.ends_at)]
    requirePeriod('a release', beginsAt, endsAt)
    if (endsAt - beginsAt > LONGEST_VALIDITY_SECONDS) throw new UsageError('a release is audited again within a year')
    requireHex('the digest of a release', claims.digest, 32)
    requireHex('the digest of a recogniser profile', claims.recogniser, 32)
    requireName('the parameters', claims.parameters)
    requireText('the privacy unit', claims.privacy_unit)
    if (!Number.isSafeInteger(claims.threshold) || claims.threshold < 0) throw new UsageError('a threshold is a whole number of bits')
    const [low, fmr, high] = [claims.fmr_low, claims.fmr, claims.fmr_high].map((text) => Number(rate(text)))
    if (!BASES.some((basis) => basis === claims.basis) || !(low <= fmr && low <= high && fmr > 0 && fmr < 1 && high <= 1)) {
      throw new UsageError('no interval of a false match rate')
    }
    if (!(Number.isSafeInteger(claims.fmr_people) && claims.fmr_people > 0)) throw new UsageError('a rate of nobody')
    const [epsilon, delta] = [claims.epsilon, claims.delta].map((text) => Number(rate(text)))
    const attacks = claims.attacks === NOBODY_ASKED ? null : attackRates(claims.attacks)
    if (epsilon > 0 && attacks === null) throw new UsageError('an epsilon is claimed with what it lets an attacker do')
    const measured = 'epsilon_lower_bound' in claims ? { epsilon_lower_bound: rate(claims.epsilon_lower_bound) } : {}
    if ((epsilon === 0) !== (delta === 0) || delta >= 1 || Number(measured.epsilon_lower_bound ?? 0) > epsilon) throw new UsageError('no promise')
    requireText('the name of a cell', cell.name)
    const [bottom, worst, top] = [cell.low, cell.fmr, cell.high].map((text) => Number(rate(text)))
    if (!(bottom <= worst && worst <= top && top <= 1)) throw new UsageError("a cell's rate lies inside its interval")
    this.audited = auditedOf(audit, manifest.use === 'trial')
    if (manifest.format !== FORMAT || !['general', 'trial'].includes(manifest.use) || !['PASS', 'FAIL', 'INSUFFICIENT'].includes(audit.verdict)) {
      throw new UsageError('another version')
    }
    for (const [name, digest] of Object.entries(files as Record<string, string>)) {
      requireName('a file of a bundle', name)
      requireHex('the digest of a file', digest, 32)
    }
    if (files['release.json'] !== claims.digest) throw new UsageError('the manifest is about another release than its file')
    this.wolf = audit.wolf === NOT_MEASURED ? null : wolfRates(audit.wolf)
    this.pad = audit.pad === NOT_MEASURED ? null : padRates(audit.pad)
    this.#manifest = {
      audit: {
        limits: { fmr: audit.limits.fmr, fnmr: audit.limits.fnmr },
        pad: this.pad === null ? NOT_MEASURED : (this.pad as unknown as JsonValue),
        people: audit.people,
        verdict: audit.verdict,
        wolf: this.wolf === null ? NOT_MEASURED : (this.wolf as unknown as JsonValue),
        worst_cell: { fmr: rate(cell.fmr), high: rate(cell.high), low: rate(cell.low), name: cell.name },
      },
      begins_at: textOfTime(beginsAt),
      claims: {
        attacks: attacks === null ? NOBODY_ASKED : {
          detected: claims.attacks.detected, false_accusations: claims.attacks.false_accusations, right: claims.attacks.right,
        },
        basis: claims.basis, delta: claims.delta, digest: claims.digest, epsilon: claims.epsilon, fmr: rate(claims.fmr),
        fmr_high: claims.fmr_high, fmr_low: claims.fmr_low, fmr_people: claims.fmr_people,
        held_for: claims.held_for === NOBODY_LOOKED ? NOBODY_LOOKED : heldFor(claims.held_for), parameters: claims.parameters, privacy_unit: claims.privacy_unit,
        recogniser: claims.recogniser, threshold: claims.threshold, ...measured,
      },
      ends_at: textOfTime(endsAt),
      files,
      format: FORMAT,
      use: manifest.use,
    }
    const signed = Object.entries(signatures as Record<string, { key: string; signature: string }>).map(([role, { key, signature }]) => {
      requireHex("a signer's key", key, 32)
      requireHex('a signature', signature, 64)
      return [role, { key, signature }] as const
    })
    this.#signatures = Object.fromEntries(signed)
    const { maker, auditor } = this.#signatures
    if (!signed.every(([role]) => Object.hasOwn(ROLES, role))) throw new UsageError('nobody else signs')
    if (maker !== undefined && maker.key === auditor?.key) throw new UsageError('nobody audits themselves')
    this.epsilon = epsilon
    this.delta = delta
    this.attacks = attacks
    this.standing = { digest: claims.digest, statedFmr: Number(claims.fmr), isTrial: manifest.use === 'trial', beginsAt, endsAt }
  }

  /**
   * Reads what `to_bytes` of the Python side wrote, and nothing else.
   *
   * @throws MalformedMessageError any other bytes; also one key for both roles.
   */
  static fromBytes(data: Uint8Array): SignedManifest {
    return parse(data, (value) => new SignedManifest(value), 'a release manifest')
  }

  /** The canonical form. */
  toBytes(): Bytes {
    return canonicalBytes({ manifest: this.#manifest, signatures: this.#signatures as JsonValue })
  }

  /**
   * Returns when a release with this manifest may be used at `now`.
   *
   * @throws ProofError a signature is missing, wrong, or of a key that is not trusted in that role.
   * @throws RefusedError it is not valid yet or any more, or its audit does not allow it.
   */
  async requireServable(trust: ReleaseTrust, now: number): Promise<void> {
    for (const [role, keys] of [['maker', trust.makers], ['auditor', trust.auditors]] as const) {
      const signed = this.#signatures[role]
      if (signed === undefined) throw new ProofError(`the model release is not signed by its ${role}`)
      if (!keys.includes(signed.key)) throw new ProofError(`the model release is signed by a key that is no trusted ${role}'s`)
      await requireSigned(ROLES[role], canonicalBytes(this.#manifest), signed.key, signed.signature)
    }
    const { beginsAt, endsAt, isTrial } = this.standing
    if (now < beginsAt) throw new RefusedError(`the model release is not valid before ${textOfTime(beginsAt)}`)
    if (now >= endsAt) throw new RefusedError(`the model release ran out at ${textOfTime(endsAt)}; it must be audited again`)
    if (this.audited.verdict === 'FAIL' || (!isTrial && this.audited.verdict !== 'PASS')) {
      throw new RefusedError(`the audit of the model release says ${this.audited.verdict}, so it is not used`)
    }
    this.#requireTame()
    if (isTrial && !trust.acceptsTrials) throw new RefusedError('the model release is marked as a trial, and trials are not accepted here')
  }

  /**
   * Returns when a stolen wallet without a face is worth at most ten times the stated false match rate. For general use
   * that must be known; a trial is kept back only when it is known to be worth more.
   */
  #requireTame(): void {
    const { statedFmr, isTrial } = this.standing
    const limit = `${WOLF_FACTOR} times the stated false match rate of ${statedFmr}`
    if (this.wolf === null) {
      if (isTrial) return
      throw new RefusedError(`nobody measured what a stolen wallet is worth without a face; general use needs at most ${limit}`)
    }
    const most = WOLF_FACTOR * statedFmr
    const { mean, best } = this.wolf
    const { low, high } = [mean, best].filter((each) => Number(each.low) > most).sort((one, other) => Number(other.low) - Number(one.low))[0] ?? mean
    if (Number(low) > most || (!isTrial && !(Number(high) <= most))) {
      throw new RefusedError(
        `without a face, a stolen wallet is accepted at ${low} to ${high}; ${isTrial ? 'even a trial may have' : 'general use needs'} at most ${limit}`,
      )
    }
  }
}

/**
 * Reads both rates, and nothing besides.
 *
 * @throws UsageError they are out of range.
 */
function wolfRates({ best, mean, people }: WolfRates): WolfRates {
  if (people < FEWEST_PEOPLE) throw new UsageError('not the rates of fixed strings')
  const rates = { best: counted(best, people), mean: counted(mean, people), people }
  for (const { errors, trials, low, high } of [rates.best, rates.mean]) {
    if (!(Number(low) <= errors / trials && errors / trials <= Number(high))) throw new UsageError('the rate of a fixed string lies inside its bounds')
  }
  return rates
}

/**
 * Reads what was found about presentation attacks, and nothing besides.
 *
 * @throws UsageError it is out of range.
 */
function padRates({ bpcer, people, species }: PadRates): PadRates {
  const read = ({ apcer, iapmr, level, name, people: shown }: SpeciesRates): SpeciesRates => {
    requireText('the name of a species', name, 1, 100)
    if (!['A', 'B', 'C'].includes(level) || shown < 1 || apcer.trials !== iapmr.trials || iapmr.errors > apcer.errors) {
      throw new UsageError('not the rates of a species of attacks')
    }
    return { apcer: counted(apcer, shown), iapmr: counted(iapmr, shown), level, name, people: shown }
  }
  const inOrder = species.every(({ name }, i) => i === 0 || species[i - 1].name < name)
  if (species.length === 0 || !inOrder) throw new UsageError('species of attacks stand in order')
  return { bpcer: counted(bpcer, people), people, species: species.map(read) }
}

/**
 * Reads a rate that counts by people.
 *
 * @throws UsageError it is out of range.
 */
function counted({ errors, trials, effective, low, high }: WolfRate, people: number): WolfRate {
  const [worth, bottom, top] = [effective, low, high].map((text) => Number(rate(text)))
  const whole = [errors, trials, people].every(Number.isSafeInteger) && errors >= 0 && errors <= trials
  const byPeople = people >= 0 && people <= trials && worth >= 0 && worth <= people
  const isRounded = [worth, bottom, top].every((number) => Number(number.toPrecision(DIGITS_OF_AUDITS)) === number)
  if (!whole || !byPeople || !isRounded || !(bottom >= 0 && bottom <= top && top <= 1)) throw new UsageError('not a rate that counts by people')
  return { effective, errors, high, low, trials }
}

/**
 * Reads what the audit says, and what it asked for.
 *
 * @throws UsageError a number is out of range.
 */
function auditedOf({ limits, people, verdict }: any, isTrial: boolean): Audited {
  const [fmrLimit, fnmrLimit] = [limits.fmr, limits.fnmr].map((text) => Number(rate(text)))
  const inRange = [fmrLimit, fnmrLimit].every((limit) => limit > 0 && limit <= 1)
  if (!inRange || !Number.isSafeInteger(people) || people < 0) throw new UsageError('not the limits of an audit')
  return { verdict, people, fmrLimit, fnmrLimit, isTrial }
}

/** Share of innocents that a stated attacker accuses: who may choose it may choose how little is found. */
const FALSE_ACCUSATIONS = 0.001

/**
 * Reads what an attacker achieves at most.
 *
 * @throws UsageError a share is one that no attack has.
 */
function attackRates(value: Record<'detected' | 'false_accusations' | 'right', string>): AttackRates {
  const [detected, falseAccusations, right] = [value.detected, value.false_accusations, value.right].map((text) => Number(rate(text)))
  if (!(falseAccusations === FALSE_ACCUSATIONS && falseAccusations <= detected && detected <= 1 && right >= 0.5 && right <= 1)) {
    throw new UsageError('no attack has such rates')
  }
  return { detected, right, falseAccusations }
}

/** For which groups of people the rate holds, as `federation/groups.py`. */
function heldFor({ alike, fmr, groups, people, scores, threshold_for: thresholdFor }: any): JsonValue {
  requireHex('the digest of scores', scores, 32)
  if (!['everybody', 'worst-group'].includes(thresholdFor)) throw new UsageError('a threshold for nobody')
  return {
    alike: alike.map(({ attribute, high, low, times }: any) => ({ attribute, high: rate(high), low: rate(low), times: rate(times) })),
    fmr: rate(fmr),
    groups: groups.map(({ errors, fmr_high: high, name, people: counted, trials }: any) => ({ errors, fmr_high: rate(high), name, people: counted, trials })),
    people, scores, threshold_for: thresholdFor,
  }
}

/** A rate is written as text; its spelling is what was signed. */
function rate(value: string): string {
  if (typeof value !== 'string' || !RATE.test(value) || !/[.e]/.test(value) || !Number.isFinite(Number(value))) throw new UsageError('not a rate')
  return value
}
