/** What the public rules ask, at both sides of each bound, and what is said of it. Whether Python says the same is in `rules.test.ts`. */

import { expect, test } from 'vitest'

import { RefusedError } from '../src/errors'
import { releaseTrustOf } from '../src/rules/manifest'
import { type Asked, leastPad, requireAllowedBy } from '../src/rules/policy'
import type { PadLevel } from '../src/rules/rates'
import type { Client, Moratorium, Pack, PurposeRule, Registered, Rulebook } from '../src/rules/rulebook'

const [NOW, DAY] = [1_900_000_000, 86_400]
const RULE: PurposeRule = { purpose: 'door-access', category: 'physical-access', tier: 1, beginsAt: NOW, endsAt: NOW + 1, pad: 'none' }
const REGISTERED: Registered = {
  kind: 'deployment', operator: 'Example', audience: 'example.org', purposes: ['canteen', 'door-access'], jurisdictions: ['DE', 'EU'], releases: ['aa', 'bb'], issuer: null, beginsAt: NOW, endsAt: NOW + 1,
}
const ASKED: Asked = {
  deployment: 'trial', audience: 'example.org', purpose: 'door-access', release: { digest: 'bb', statedFmr: 1e-2, isTrial: false, beginsAt: 0, endsAt: 0 }, jurisdiction: 'EU', consentSeconds: 365 * DAY, pad: 'none',
}

interface Book {
  readonly deployment: Registered | null
  readonly client: Client | null
  readonly rules: Readonly<Record<string, readonly PurposeRule[] | null>>
  readonly exceptions: Readonly<Record<string, PurposeRule>>
  readonly moratoria: readonly Partial<Moratorium>[]
  readonly packEnds: number
}

/** Rules of which each answer is known, that are asked about nothing else. */
function book(change: Partial<Book>): Rulebook {
  const { deployment, client, rules, exceptions, moratoria, packEnds } = { deployment: REGISTERED, client: null, rules: { DE: [RULE], EU: [RULE] }, exceptions: {}, moratoria: [], packEnds: NOW + 1, ...change } as Book
  const asking = (...[given, known]: unknown[][]): void => { expect(given).toEqual(known) }
  return {
    deployment: (name: string) => { asking([name], ['trial']); return deployment },
    client: (name: string, audience: string, now: number) => { asking([name, now], ['trial', NOW]); return client?.identifier === audience ? client : null },
    pack: (place: string, now: number): Pack | null => {
      asking([now], [NOW])
      const known = rules[place]
      return known === null || known === undefined ? null : { kind: 'policy-pack', jurisdiction: place, version: 1, beginsAt: 0, endsAt: packEnds, rules: known }
    },
    exception: (place: string, audience: string, purpose: string, now: number) => { asking([audience, purpose, now], ['example.org', 'door-access', NOW]); return exceptions[place] ?? null },
    moratoria: (now: number) => { asking([now], [NOW]); return moratoria.map((one) => ({ kind: 'moratorium', identifier: 'pause', beginsAt: 0, jurisdictions: [], audiences: [], categories: [], ...one })) },
  } as unknown as Rulebook
}

const release = (change: Partial<Asked['release']>): Partial<Asked> => ({ release: { ...ASKED.release, ...change } })
const ofTier = (tier: number, where = 'both', pad: PadLevel = 'none'): Partial<Book> => {
  const high = { ...RULE, tier, pad }
  return { rules: { DE: [where === 'EU' ? RULE : high], EU: [where === 'DE' ? RULE : high] } }
}
const CLIENT: Client = { kind: 'client', deployment: 'trial', identifier: 'shop.example', version: 1, operator: 'Shop', purposes: ['canteen', 'door-access'], redirectUris: [], beginsAt: 0, endsAt: 0 }

test.each<[string, Partial<Book>, Partial<Asked>, string | null, (string | undefined)?]>([
  ['what is asked', {}, {}, null],
  ['a red line', {}, { purpose: 'crowd-search' }, 'the purpose crowd-search is never allowed: searching or identifying people among many'],
  ['a deployment that is not registered', { deployment: null }, {}, 'no deployment trial stands in the public registry', 'why.not_registered'],
  ['one that begins in a second', { deployment: { ...REGISTERED, beginsAt: NOW + 1 } }, {}, 'the deployment trial is not in force now', 'why.not_registered'],
  ['one that ended this second', { deployment: { ...REGISTERED, endsAt: NOW } }, {}, 'the deployment trial is not in force now', 'why.not_registered'],
  ['another audience', {}, { audience: 'shop.example' }, 'registered for another audience, purpose or model release'],
  ['another purpose', { deployment: { ...REGISTERED, purposes: ['canteen'] } }, {}, 'registered for another audience, purpose or model release'],
  ['another release', {}, release({ digest: 'cc' }), 'registered for another audience, purpose or model release'],
  ['a site without this purpose', { client: { ...CLIENT, purposes: ['canteen'] } }, { audience: 'shop.example' }, 'registered for another audience, purpose or model release'],
  ['no policy in the first place', { rules: { DE: null, EU: [RULE] } }, {}, 'no policy is in force in DE'],
  ['no policy in the second place', { rules: { DE: [RULE], EU: null } }, {}, 'no policy is in force in EU'],
  ['policies that ended', { packEnds: NOW }, {}, 'no policy is in force in DE'],
  ['a policy of other purposes', { rules: { DE: [RULE], EU: [{ ...RULE, purpose: 'canteen' }] } }, {}, 'the policy of EU does not allow door-access now'],
  ['a rule that begins in a second', { rules: { DE: [{ ...RULE, beginsAt: NOW + 1 }], EU: [RULE] } }, {}, 'the policy of DE does not allow door-access now'],
  ['a rule that ended', { rules: { DE: [{ ...RULE, endsAt: NOW }], EU: [RULE] } }, {}, 'the policy of DE does not allow door-access now'],
  ['the second rule of a policy', { rules: { DE: [{ ...RULE, purpose: 'canteen' }, RULE], EU: [RULE] } }, {}, null],
  ['an exception where there is no policy', { rules: { DE: [RULE], EU: null }, exceptions: { EU: RULE } }, {}, null],
  ['an exception where the policy says nothing', { rules: { DE: [], EU: [RULE] }, exceptions: { DE: RULE } }, {}, null],
  ['an exception elsewhere', { rules: { DE: [], EU: [RULE] }, exceptions: { EU: RULE } }, {}, 'the policy of DE does not allow door-access now'],
  ['a policy before its exception', { exceptions: { DE: { ...RULE, tier: 3 } } }, {}, null],
  ...[
    [{}, true], [{ jurisdictions: ['EU'] }, true], [{ jurisdictions: ['FR', 'DE'] }, true], [{ jurisdictions: ['FR'] }, false], [{ audiences: ['example.org'] }, true], [{ audiences: ['a.example', 'example.org'] }, true],
    [{ audiences: ['a.example'] }, false], [{ categories: ['physical-access'] }, true], [{ categories: ['payment', 'physical-access'] }, true], [{ categories: ['payment'] }, false],
    [{ jurisdictions: ['EU'], audiences: ['a.example'] }, false], [{ jurisdictions: ['EU'], categories: ['payment'] }, false], [{ audiences: ['example.org'], categories: ['payment'] }, false], [{ jurisdictions: ['FR'], audiences: ['example.org'], categories: ['physical-access'] }, false],
  ].map(([scope, stops], i): [string, Partial<Book>, Partial<Asked>, string | null, (string | undefined)?] => [
    `the moratorium ${i}`, { moratoria: [{ identifier: 'another', audiences: ['b.example'] }, scope as Partial<Moratorium>] }, {}, stops ? 'stopped by the moratorium pause' : null, stops ? 'why.moratorium' : undefined,
  ]),
  ['a moratorium for the second place’s category', { rules: { DE: [RULE], EU: [{ ...RULE, category: 'sign-in' }] }, moratoria: [{ categories: ['sign-in'] }] }, {}, 'stopped by the moratorium pause', 'why.moratorium'],
  ['a rate of nothing', {}, release({ statedFmr: 0 }), 'at most 0.01; this one states 0'], ['a rate above the first tier’s', {}, release({ statedFmr: 0.0100001 }), 'door-access needs a release with a false match rate of at most 0.01; this one states 0.0100001'],
  ['the second tier’s rate', ofTier(2), { ...release({ statedFmr: 1e-3 }), consentSeconds: 180 * DAY }, null], ['a rate above it', ofTier(2), release({ statedFmr: 1.1e-3 }), 'at most 0.001; this one states 0.0011'],
  ['the third tier’s rate', ofTier(3), { ...release({ statedFmr: 1e-4 }), consentSeconds: 90 * DAY }, null], ['a rate above that', ofTier(3), release({ statedFmr: 1.1e-4 }), 'at most 0.0001; this one states 0.00011'],
  ['the higher tier in the first place', ofTier(3, 'DE'), release({ statedFmr: 1e-3 }), 'at most 0.0001'], ['the higher tier in the second place', ofTier(2, 'EU'), {}, 'at most 0.001'],
  ['a trial of the first tier', {}, release({ isTrial: true }), null], ['a trial of the second', ofTier(2, 'EU'), release({ isTrial: true, statedFmr: 1e-4 }), "is no trial's purpose"],
  ['a second too long for the first tier', {}, { consentSeconds: 365 * DAY + 1 }, 'a consent for door-access may be valid for at most 365 days'],
  ['a second too long for the second', ofTier(2), { ...release({ statedFmr: 1e-4 }), consentSeconds: 180 * DAY + 1 }, 'at most 180 days'], ['a second too long for the third', ofTier(3), { ...release({ statedFmr: 1e-4 }), consentSeconds: 90 * DAY + 1 }, 'at most 90 days'],
  ['a consent for the first place', {}, { jurisdiction: 'DE' }, null], ['a consent for another place', {}, { jurisdiction: 'FR' }, 'the consent is for another jurisdiction'],
  ['nobody who looks, where the second place asks for it', ofTier(1, 'EU', 'on-device'), {}, 'door-access asks for presentation attack detection on-device, and here it is none; take the way that the terms name', 'why.film_needed'],
  ['a device that looks', ofTier(1, 'EU', 'on-device'), { pad: 'on-device' }, null], ['a device that looks, where somebody else has to', ofTier(1, 'DE', 'supervised'), { pad: 'on-device' }, 'asks for presentation attack detection supervised, and here it is on-device', 'why.supervised'],
  ['an enrolment, where somebody else has to look', ofTier(1, 'DE', 'supervised'), { pad: null }, null],
])('%s is refused, or not', (_, rules, asked, refused, why) => {
  const ask = (): void => { requireAllowedBy(book(rules), { ...ASKED, ...asked }, NOW) }
  if (refused === null) return ask()
  expect(ask).toThrow(RefusedError)
  expect(ask).toThrow(refused)
  let said: RefusedError | null = null
  try { ask() } catch (error) { said = error as RefusedError }
  expect(said!.why?.name).toBe(why)
})

test('a site is served for its purposes, and stopped with its deployment or alone', () => {
  const site = { ...ASKED, audience: 'shop.example' }
  const [rules, one] = [{ ...book({ client: CLIENT }), exception: () => null } as unknown as Rulebook, (audiences: string[]) => book({ client: CLIENT, moratoria: [{ audiences }] })]
  requireAllowedBy(rules, site, NOW)
  requireAllowedBy(one(['c.example']), site, NOW)
  for (const audience of ['shop.example', 'example.org']) expect(() => { requireAllowedBy(one([audience]), site, NOW) }).toThrow('stopped by the moratorium pause')
})

test.each<[PadLevel, PadLevel, PadLevel]>([['none', 'none', 'none'], ['on-device', 'none', 'on-device'], ['none', 'on-device', 'on-device'], ['supervised', 'on-device', 'supervised'], ['on-device', 'supervised', 'supervised']])(
  'of %s and %s the more counts', (DE, EU, least) => {
    expect(leastPad(book({ rules: { DE: [{ ...RULE, pad: DE }], EU: [{ ...RULE, pad: EU }] } }), ASKED, NOW)).toBe(least)
  })

test('trust has makers and auditors, each in one role', () => {
  const [a, b, c, d] = ['aa', 'bb', 'cc', 'dd'].map((byte) => byte.repeat(32))
  const good = { makers: [a, b], auditors: [c, d], accepts_trials: true }
  expect(releaseTrustOf(good)).toEqual({ makers: [a, b], auditors: [c, d], acceptsTrials: true })
  expect(releaseTrustOf({ ...good, accepts_trials: false })).toMatchObject({ acceptsTrials: false })
  for (const change of [{ makers: [] }, { auditors: [] }, { auditors: [c, a] }, { makers: [a, d] }, { accepts_trials: 1 }, { accepts_trials: undefined }]) expect(() => releaseTrustOf({ ...good, ...change }), JSON.stringify(change)).toThrow('nobody audits themselves')
  for (const change of [{ makers: [a, 'bb'.repeat(31)] }, { auditors: [c, 'dd'.repeat(33)] }]) expect(() => releaseTrustOf({ ...good, ...change })).toThrow('a trusted key has 32 bytes')
})
