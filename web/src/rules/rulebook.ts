/** The public rules that somebody has read and verified. As `federation/rules/entries.py` and `federation/rules/rulebook.py`. */

import { type Bytes, equal, hex, sha256, utf8 } from '../bytes'
import { MalformedMessageError, ProofError, RefusedError, UsageError } from '../errors'
import { requirePurpose } from '../wallet/purposes'
import { PAD_LEVELS, type PadLevel } from './rates'
import {
  canonicalBytes, type JsonValue, parse, requireAddress, requireHex, requireJurisdiction, requireName, requirePeriod, requireSigned,
  requireText, requireTime, textOfTime, timeOfText,
} from '../wallet/statements'

const TAG = 'intaglio-rule/1'
const LONGEST_EXCEPTION_SECONDS = 90 * 86_400
const LONGEST_KIOSK_SECONDS = 90 * 86_400
const LEAST_REASON = 20
const EU_MEMBERS = 'AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK'.split(' ')

const MOST_REDIRECT_URIS = 8
const REDIRECT_URI = /^(?:https:\/\/[a-z0-9](?:[a-z0-9.-]{0,250}[a-z0-9])?|http:\/\/(?:localhost|127\.0\.0\.1))(?::[1-9][0-9]{0,4})?\/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,400}$/

/** The lowest tier of each category; a closed list. */
const LOWEST_TIER: Readonly<Record<string, number>> = { 'physical-access': 1, 'sign-in': 2, payment: 2, 'essential-service': 3 }
const HIGHEST_TIER = 3

/** One purpose that is allowed for a time, seconds since 1970. */
export interface PurposeRule {
  readonly purpose: string
  readonly category: string
  readonly tier: number
  readonly beginsAt: number
  readonly endsAt: number
  /** What must at least stand between a presentation attack and a comparison. */
  readonly pad: PadLevel
}
/** What one jurisdiction allows. */
export interface Pack {
  readonly kind: 'policy-pack'
  readonly jurisdiction: string
  readonly version: number
  readonly beginsAt: number
  readonly endsAt: number
  readonly rules: readonly PurposeRule[]
}
/** Allows one purpose of one audience where a pack does not. */
export interface Exception {
  readonly kind: 'exception'
  readonly jurisdiction: string
  readonly audience: string
  readonly rule: PurposeRule
}
/** Stops enrolment and verification in its scope; an empty list means everywhere, everybody or everything. */
export interface Moratorium {
  readonly kind: 'moratorium'
  readonly identifier: string
  readonly beginsAt: number
  readonly jurisdictions: readonly string[]
  readonly audiences: readonly string[]
  readonly categories: readonly string[]
}
/** Ends a moratorium. */
export interface Lifting {
  readonly kind: 'lifting'
  readonly moratorium: string
  readonly liftedAt: number
}
/** Who signs assertions. */
export interface Issuer {
  readonly address: string
  /** Ed25519, in hex. */
  readonly publicKey: string
}
/** Who verifies whom, where and for what. */
export interface Registered {
  readonly kind: 'deployment'
  readonly operator: string
  readonly audience: string
  readonly purposes: readonly string[]
  readonly jurisdictions: readonly string[]
  readonly releases: readonly string[]
  /** Null for a deployment that gives no assertions. */
  readonly issuer: Issuer | null
  readonly beginsAt: number
  readonly endsAt: number
}
/** A site that a deployment may log people in at. One without purposes is closed. */
export interface Client {
  readonly kind: 'client'
  readonly deployment: string
  readonly identifier: string
  readonly version: number
  /** Who runs it. */
  readonly operator: string
  readonly purposes: readonly string[]
  readonly redirectUris: readonly string[]
  readonly beginsAt: number
  readonly endsAt: number
}
/** A device of the operator's. A browser never is one, so nothing of it counts here. */
interface Kiosk {
  readonly kind: 'kiosk'
}
type Rule = Pack | Exception | Moratorium | Lifting | Registered | Client | Kiosk

/** How much of the rules a device has seen: whatever it reads later begins with exactly that. */
export interface RulesSeen {
  readonly lines: number
  /** SHA-256 of those lines, in hex. */
  readonly digest: string
}

/** The rules of one file. Build it with `read`, which verifies. */
export class Rulebook {
  readonly seen: RulesSeen
  readonly #rules: ReadonlyMap<string, Rule>

  private constructor(seen: RulesSeen, rules: ReadonlyMap<string, Rule>) {
    this.seen = seen
    this.#rules = rules
  }

  /**
   * The rules of a file: the signers in the first line, then one signed entry a line.
   *
   * @param seen what this device saw when it enrolled or later, which fixes the signers too; null the first time.
   * @throws MalformedMessageError, ProofError it holds something else, or has not all that was seen.
   * @throws RefusedError an entry contradicts an earlier one.
   */
  static async read(data: Bytes, seen: RulesSeen | null): Promise<Rulebook> {
    const lines = textOf(data).replace(/\n$/, '').split('\n')
    if (seen !== null && (lines.length < seen.lines || digestOf(lines.slice(0, seen.lines)) !== seen.digest)) {
      throw new ProofError('the public rules lost an entry or changed their signers since this device enrolled; contest it')
    }
    const [first, ...entries] = lines
    const signers = parse(utf8(first), (value) => new Signers(value), 'the list of rule signers')
    const rules = new Map<string, Rule>()
    const written = new Map<string, Bytes>()
    for (const entry of entries) {
      const signed = parse(utf8(entry), (value) => new SignedRule(value), 'a rule')
      await signed.requireSigners(signers)
      const { name, rule, body } = signed
      const standing = written.get(name)
      if (standing !== undefined && !equal(standing, body)) throw new RefusedError(`there is another ${name} already; rules are never edited`)
      if (rule.kind === 'lifting') {
        const stopped = rules.get(`moratorium ${rule.moratorium}`)
        if (stopped?.kind !== 'moratorium' || rule.liftedAt <= stopped.beginsAt) throw new RefusedError(`${name} does not follow on a moratorium of that name`)
      }
      rules.set(name, rule)
      written.set(name, body)
    }
    return new Rulebook({ lines: lines.length, digest: digestOf(lines) }, rules)
  }

  /** The deployment of that name, in force or not. */
  deployment(identifier: string): Registered | null {
    const found = this.#rules.get(`deployment ${identifier}`)
    return found?.kind === 'deployment' ? found : null
  }

  /** Whether a device may go from one deployment to another. As `Deployment.follows` in `federation/rules/entries.py`. */
  follows(identifier: string, former: string): boolean {
    const [one, other] = [this.deployment(identifier), this.deployment(former)]
    if (one === null || other === null) return false
    const isOfTheSame = one.operator === other.operator && one.audience === other.audience && other.beginsAt < one.beginsAt
    return isOfTheSame && other.jurisdictions.every((place) => one.jurisdictions.includes(place))
  }

  /** The client that counts at `now`: the highest version that has begun, when it has not ended. */
  client(deployment: string, identifier: string, now: number): Client | null {
    const begun = this.#all('client').filter((one) => one.deployment === deployment && one.identifier === identifier && one.beginsAt <= now)
    const newest = begun.sort((a, b) => b.version - a.version)[0]
    return newest !== undefined && isInForce(newest, now) ? newest : null
  }

  /** The pack that counts at `now`: the highest version that has begun, also when it has ended since. */
  pack(jurisdiction: string, now: number): Pack | null {
    const begun = this.#all('policy-pack').filter((pack) => pack.jurisdiction === jurisdiction && pack.beginsAt <= now)
    return begun.sort((a, b) => b.version - a.version)[0] ?? null
  }

  /** What allows one use by way of exception at `now`, the one that lasts longest, or null. */
  exception(jurisdiction: string, audience: string, purpose: string, now: number): PurposeRule | null {
    const found = this.#all('exception').filter((one) => one.jurisdiction === jurisdiction && one.audience === audience)
    const rules = found.map(({ rule }) => rule).filter((rule) => rule.purpose === purpose && isInForce(rule, now))
    return rules.sort((a, b) => b.endsAt - a.endsAt)[0] ?? null
  }

  /** The moratoria in force at `now`. */
  moratoria(now: number): Moratorium[] {
    const lifted = new Set(this.#all('lifting').filter(({ liftedAt }) => liftedAt <= now).map(({ moratorium }) => moratorium))
    return this.#all('moratorium').filter(({ identifier, beginsAt }) => beginsAt <= now && !lifted.has(identifier))
  }

  #all<K extends Rule['kind']>(kind: K): Extract<Rule, { kind: K }>[] {
    return [...this.#rules.values()].filter((rule): rule is Extract<Rule, { kind: K }> => rule.kind === kind)
  }
}

/** Whether something with a beginning and an end counts at `now`. */
export const isInForce = ({ beginsAt, endsAt }: { readonly beginsAt: number; readonly endsAt: number }, now: number): boolean =>
  beginsAt <= now && now < endsAt

function textOf(data: Bytes): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(data)
  } catch {
    throw new MalformedMessageError('the public rules are UTF-8')
  }
}

const digestOf = (lines: readonly string[]): string => hex(sha256(utf8(lines.join('\n'))))

class Signers {
  readonly keys: readonly string[]
  readonly threshold: number

  constructor({ public_keys: keys, threshold }: any) {
    for (const key of keys) requireHex("a signer's key", key, 32)
    requireOrder("signers' keys", keys)
    if (!Number.isInteger(threshold) || threshold < 1 || threshold > keys.length) throw new UsageError('the threshold is between one and the number of rule signers')
    this.keys = keys
    this.threshold = threshold
  }

  toBytes(): Bytes {
    return canonicalBytes({ public_keys: this.keys, threshold: this.threshold })
  }
}

class SignedRule {
  readonly rule: Rule
  readonly name: string
  /** What was signed. */
  readonly body: Bytes
  readonly #json: JsonValue
  readonly #signatures: Readonly<Record<string, string>>

  constructor(value: any) {
    for (const [key, signature] of Object.entries(value.signatures as Record<string, string>)) {
      requireHex("a signer's key", key, 32)
      requireHex('a signature', signature, 64)
    }
    ;[this.rule, this.name, this.#json] = ruleOf(value.rule)
    this.#signatures = value.signatures
    this.body = canonicalBytes(this.#json)
  }

  toBytes(): Bytes {
    return canonicalBytes({ rule: this.#json, signatures: this.#signatures })
  }

  /** Stopping is easy, allowing is hard. */
  async requireSigners({ keys, threshold }: Signers): Promise<void> {
    const signatures = Object.entries(this.#signatures)
    for (const [key, signature] of signatures) {
      if (!keys.includes(key)) throw new ProofError(`${this.name} is signed with a key that is no rule signer's`)
      await requireSigned(TAG, this.body, key, signature)
    }
    const { kind } = this.rule
    const needed = kind === 'moratorium' ? 1 : kind === 'exception' || kind === 'lifting' ? Math.max(2, threshold) : threshold
    if (signatures.length < needed) throw new ProofError(`${this.name} needs ${needed} different signatures and has ${signatures.length}`)
  }
}

/** A rule, its name, and the one JSON object that says it. Throws whatever a wrong object provokes. */
function ruleOf(value: any): [Rule, string, JsonValue] {
  const { kind, jurisdiction, audience, identifier, reason } = value
  if (kind === 'policy-pack') {
    const { version } = value
    const [beginsAt, endsAt] = period(value)
    const rules = value.rules.map(purposeRuleOf) as PurposeRule[]
    requireJurisdiction(jurisdiction)
    if (!Number.isInteger(version) || version < 1) throw new UsageError('the version of a pack is 1, 2, 3 ...')
    requireOrder('the purposes of a pack', rules.map(({ purpose }) => purpose))
    const json = { ...times(beginsAt, endsAt), jurisdiction, kind, rules: rules.map(jsonOf), version }
    return [{ kind, jurisdiction, version, beginsAt, endsAt, rules }, `pack ${jurisdiction} ${version}`, json]
  }
  if (kind === 'exception') {
    const rule = purposeRuleOf(value.rule)
    requireName('an identifier', identifier)
    requireName('an audience', audience)
    requireJurisdiction(jurisdiction)
    requireText('a reason', reason, LEAST_REASON)
    if (rule.endsAt - rule.beginsAt > LONGEST_EXCEPTION_SECONDS) throw new UsageError('an exception lasts at most 90 days')
    const json = { audience, identifier, jurisdiction, kind, reason, rule: jsonOf(rule) }
    return [{ kind, jurisdiction, audience, rule }, `exception ${identifier}`, json]
  }
  if (kind === 'moratorium') {
    const { jurisdictions, audiences, categories } = value
    const beginsAt = timeOfText(value.begins_at)
    requireName('an identifier', identifier)
    jurisdictions.forEach(requireJurisdiction)
    for (const list of [jurisdictions, audiences, categories]) requireOrder('a scope', list)
    if (!categories.every((category: string) => Object.hasOwn(LOWEST_TIER, category))) throw new UsageError('no such category')
    requireText('a reason', reason, LEAST_REASON)
    const json = { audiences, begins_at: textOfTime(beginsAt), categories, identifier, jurisdictions, kind, reason }
    return [{ kind, identifier, beginsAt, jurisdictions, audiences, categories }, `moratorium ${identifier}`, json]
  }
  if (kind === 'lifting') {
    const { moratorium } = value
    const liftedAt = timeOfText(value.lifted_at)
    requireName('an identifier', moratorium)
    requireTime(liftedAt)
    requireText('a reason', reason, LEAST_REASON)
    return [{ kind, moratorium, liftedAt }, `lifting ${moratorium}`, { kind, lifted_at: textOfTime(liftedAt), moratorium, reason }]
  }
  if (kind === 'client') return clientOf(value)
  if (kind === 'kiosk') {
    const { certificate, deployment, place } = value
    const [beginsAt, endsAt] = period(value)
    requireName('an identifier', identifier)
    requireName('a deployment', deployment)
    requireHex("the digest of a kiosk's certificate", certificate, 32)
    requireText('the place of a kiosk', place)
    if (endsAt - beginsAt > LONGEST_KIOSK_SECONDS) throw new UsageError('a kiosk is believed for at most 90 days')
    return [{ kind }, `kiosk ${identifier}`, { ...times(beginsAt, endsAt), certificate, deployment, identifier, kind, place }]
  }
  if (kind !== 'deployment') throw new MalformedMessageError('there is no such kind of rule')
  const { contact, operator, purposes, jurisdictions, releases } = value
  const [beginsAt, endsAt] = period(value)
  requireName('an identifier', identifier)
  requireText("the operator's name", operator, 1, 200)
  requireAddress("the operator's contact", contact)
  requireName('an audience', audience)
  purposes.forEach(requirePurpose)
  jurisdictions.forEach(requireJurisdiction)
  for (const digest of releases) requireHex('a release digest', digest, 32)
  for (const list of [purposes, jurisdictions, releases]) requireOrder('a list', list)
  const wider = (jurisdictions as string[]).flatMap((place) => [place.slice(0, 2), ...(EU_MEMBERS.includes(place.slice(0, 2)) ? ['EU'] : [])])
  if (jurisdictions.length === 0 || !wider.every((place) => jurisdictions.includes(place))) throw new UsageError('a deployment names all its jurisdictions')
  const issuer = 'issuer' in value ? issuerOf(value.issuer) : null
  const named = issuer === null ? {} : { issuer: { address: issuer.address, public_key: issuer.publicKey } }
  const json = { audience, ...times(beginsAt, endsAt), contact, identifier, jurisdictions, kind, operator, purposes, releases, ...named }
  return [{ kind, operator, audience, purposes, jurisdictions, releases, issuer, beginsAt, endsAt }, `deployment ${identifier}`, json]
}

/** As `federation/rules/clients.py`. */
function clientOf(value: any): [Client, string, JsonValue] {
  const { kind, deployment, identifier, version, operator, purposes, redirect_uris: redirectUris, algorithm } = value
  const [beginsAt, endsAt] = period(value)
  requireName("a client's deployment", deployment)
  requireName("a client's identifier", identifier)
  if (!Number.isInteger(version) || version < 1) throw new UsageError('the version of a client is 1, 2, 3 ...')
  requireText('the name of who runs a client', operator, 1, 200)
  purposes.forEach(requirePurpose)
  requireOrder('the purposes of a client', purposes)
  requireOrder('redirect URIs', redirectUris)
  if (redirectUris.length < 1 || redirectUris.length > MOST_REDIRECT_URIS || !redirectUris.every((uri: string) => REDIRECT_URI.test(uri))) {
    throw new UsageError('a client has a few redirect URIs: https://HOST/PATH, or http://localhost:PORT/PATH')
  }
  if (!['ES256', 'EdDSA'].includes(algorithm)) throw new UsageError('no such algorithm')
  const shown: Record<string, JsonValue> = {}
  if ('secret_digest' in value) requireHex("the digest of a client's secret", shown['secret_digest'] = value.secret_digest, 32)
  if ('key' in value) requireHex("a client's key", shown['key'] = value.key, 64)
  if ('key' in value && 'secret_digest' in value) throw new UsageError('a client shows its secret or signs with its key')
  const json = { ...shown, algorithm, ...times(beginsAt, endsAt), deployment, identifier, kind, operator, purposes, redirect_uris: redirectUris, version }
  return [{ kind, deployment, identifier, version, operator, purposes, redirectUris, beginsAt, endsAt }, `client ${deployment} ${identifier} ${version}`, json]
}

function issuerOf({ address, public_key: publicKey }: any): Issuer {
  requireAddress("the issuer's address", address)
  requireHex("the issuer's public key", publicKey, 32)
  return { address, publicKey }
}

function purposeRuleOf(value: any): PurposeRule {
  const { purpose, category, tier, pad = 'none' } = value
  const [beginsAt, endsAt] = period(value)
  requirePurpose(purpose)
  if (!Object.hasOwn(LOWEST_TIER, category) || !Number.isInteger(tier) || tier < LOWEST_TIER[category] || tier > HIGHEST_TIER) {
    throw new UsageError('no such category, or a tier below its lowest')
  }
  if (!PAD_LEVELS.includes(pad)) throw new UsageError('no such level of presentation attack detection')
  return { purpose, category, tier, beginsAt, endsAt, pad }
}

const jsonOf = ({ purpose, category, tier, beginsAt, endsAt, pad }: PurposeRule): JsonValue =>
  ({ ...times(beginsAt, endsAt), category, purpose, tier, ...(pad === 'none' ? {} : { pad }) })
const times = (beginsAt: number, endsAt: number) => ({ begins_at: textOfTime(beginsAt), ends_at: textOfTime(endsAt) })

function period(value: any): [number, number] {
  const [beginsAt, endsAt] = [timeOfText(value.begins_at), timeOfText(value.ends_at)]
  requirePeriod('a rule', beginsAt, endsAt)
  return [beginsAt, endsAt]
}

function requireOrder(what: string, values: readonly string[]): void {
  if (!values.every((value, i) => typeof value === 'string' && (i === 0 || values[i - 1] < value))) throw new UsageError(`${what}: in order, each once`)
}
