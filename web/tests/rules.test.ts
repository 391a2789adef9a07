/** Manifests of releases and the public rules: the page says what the Python side says. */

import { ed25519 } from '@noble/curves/ed25519.js'
import { beforeAll, describe, expect, test } from 'vitest'

import { type Bytes, concat, equal, hex, utf8 } from '../src/bytes'
import { MalformedMessageError, ProofError, RefusedError } from '../src/errors'
import { type ReleaseTrust, releaseTrustOf, SignedManifest } from '../src/rules/manifest'
import { bound } from '../src/rules/rates'
import { type Asked, requireAllowedBy } from '../src/rules/policy'
import { Rulebook } from '../src/rules/rulebook'
import { canonicalBytes } from '../src/wallet/statements'
import { python } from './vectors'

describe('release manifests', () => {
  let known: { now: number; ends_at: number; digest: string; trust: unknown; manifests: Record<string, string> }
  let trust: ReleaseTrust
  const read = (name: string): SignedManifest => SignedManifest.fromBytes(utf8(known.manifests[name]))

  beforeAll(async () => {
    known = (await python('manifests', {})) as typeof known
    trust = releaseTrustOf(known.trust)
  })

  test.each(['good', 'measured', 'at ten times'])('a release that both signed is used until its last second (%s)', async (name) => {
    const manifest = read(name)
    expect(equal(manifest.toBytes(), utf8(known.manifests[name]))).toBe(true)
    expect(manifest.standing.digest).toBe(known.digest)
    await manifest.requireServable(trust, known.now)
    await manifest.requireServable(trust, known.ends_at - 1)
    await expect(manifest.requireServable(trust, known.ends_at)).rejects.toThrow(RefusedError)
    await expect(manifest.requireServable(trust, known.now - 2 * 86_400)).rejects.toThrow(RefusedError)
  })

  test.each(['unsigned', 'maker-only', 'another-auditor', 'audited by a maker', 'made by an auditor'])('a release is refused when it is %s', async (name) => {
    await expect(read(name).requireServable(trust, known.now)).rejects.toThrow(ProofError)
  })

  test('a release whose audit failed is refused', async () => {
    await expect(read('failed').requireServable({ ...trust, acceptsTrials: true }, known.now)).rejects.toThrow('says FAIL')
  })

  test.each([
    ['above ten times', 'to 0.0100001; general use needs at most 10 times'],
    ['a master image', '0.0101 to 0.6; general use needs'],
    ['not measured', 'nobody measured what a stolen wallet is worth'],
  ])('for general use a string without a face is accepted at ten times the stated rate at most (%s)', async (name, reason) => {
    await expect(read(name).requireServable({ ...trust, acceptsTrials: true }, known.now)).rejects.toThrow(reason)
  })

  test('a trial is used unless a string without a face is known to be accepted too often, and says it', async () => {
    const believing = { ...trust, acceptsTrials: true }
    for (const name of ['trial that cannot tell', 'trial not measured']) await read(name).requireServable(believing, known.now)
    await expect(read('generous trial').requireServable(believing, known.now)).rejects.toThrow('even a trial may have at most 10 times')
    const { mean, best, people } = read('generous trial').wolf!
    expect([mean.errors, mean.trials, mean.high, best.low, people]).toEqual([61, 3000, '0.9', '0.001', 600])
    expect(read('trial not measured').wolf).toBeNull()
  })

  test.each([
    ['a bound above one', '"high":"0.005"', '"high":"1.005"'],
    ['more errors than trials', '"errors":0', '"errors":3001'],
    ['a rate outside its bounds', '"errors":0', '"errors":2999'],
    ['half an error', '"errors":0', '"errors":0.5'],
    ['more worth than people', '"effective":"600.0"', '"effective":"601.0"'],
    ['three people', '"people":600', '"people":3'],
    ['something else', '"people":600', '"people":600,"worst":1'],
    ['no rates', '"wolf":{', '"wolves":{'],
  ])('rates of strings with %s are malformed', (_, good, bad) => {
    const text = known.manifests['good']
    expect(text).toContain(good)
    expect(() => SignedManifest.fromBytes(utf8(text.replaceAll(good, bad)))).toThrow(MalformedMessageError)
  })

  test('what an attacker learns at most is read, of the evaluation too, and what an audit asked for', () => {
    const [good, both] = [read('good'), read('evaluated')]
    expect(good.attacks).toEqual({ detected: 0.0023, right: 0.5498, falseAccusations: 0.001 })
    expect(both.attacks?.detected).toBe(0.005)
    expect([good.epsilon, good.delta]).toEqual([1, 1e-5])
    expect(read('asks nobody').attacks).toBeNull()
    expect(good.audited).toEqual({ verdict: 'PASS', people: 50, fmrLimit: 0.001, fnmrLimit: 0.1, isTrial: false })
    expect(read('trial').audited.isTrial).toBe(true)
  })

  test.each<[string, string, string]>([
    ['for another rule', '"threshold_for":"worst-group"', '"threshold_for":"nobody"'],
    ['that say more', '"errors":0,', '"errors":0,"also":1,'],
    ['with a bound that is no text', '"times":"1.5"', '"times":1.5'],
    ['without scores', `"scores":"${'ab'.repeat(32)}"`, '"scores":"ab"'],
  ])('groups %s are malformed', (_, good, bad) => {
    const text = known.manifests['by group']
    const at = text.indexOf('"held_for"')
    expect(text.slice(at)).toContain(good)
    expect(SignedManifest.fromBytes(utf8(text)).toBytes()).toEqual(utf8(text))
    expect(() => SignedManifest.fromBytes(utf8(text.slice(0, at) + text.slice(at).replace(good, bad)))).toThrow(MalformedMessageError)
  })

  test.each<[string, string, string]>([
    ['that guessing beats', '"detected":"0.0023"', '"detected":"0.0009"'],
    ['of more than everybody', '"detected":"0.0023"', '"detected":"1.1"'],
    ['at false accusations of its own choice', '"false_accusations":"0.001"', '"false_accusations":"0.0001"'],
    ['without a false accusation', '"false_accusations":"0.001"', '"false_accusations":"0"'],
    ['below even odds', '"right":"0.5498"', '"right":"0.4999"'],
    ['that are certain twice', '"right":"0.5498"', '"right":"1.0001"'],
    ['in another form', '"right":"0.5498"', '"right":0.557'],
    ['that say more', '"right":"0.5498"', '"right":"0.5498","surely":"1"'],
    ['of nobody for an epsilon', '"attacks":{"detected":"0.0023","false_accusations":"0.001","right":"0.5498"}', '"attacks":"nobody was asked"'],
    ['beside a rate of nobody', '"fmr_people":24', '"fmr_people":0'],
    ['beside an audit of half a person', '"people":50,', '"people":50.5,'],
    ['beside an audit that allows nothing', '"fnmr":"0.1"', '"fnmr":"0"'],
    ['beside an audit that allows more than all', '"fnmr":"0.1"', '"fnmr":"1.5"'],
  ])('rates of attacks %s are malformed', (_, good, bad) => {
    const text = known.manifests['good']
    expect(text).toContain(good)
    expect(() => SignedManifest.fromBytes(utf8(text.replace(good, bad)))).toThrow(MalformedMessageError)
  })

  test.each<[number, string]>([[0.0023, '0.23'], [0.00231, '0.24'], [1e-9, '0.01'], [0.5, '50'], [1, '100'], [0.29, '29'], [0.0768, '7.68']])(
    'a bound of %d is rounded up', (share, shown) => expect(bound(share)).toBe(shown),
  )

  const signers = { maker: [1, 2], auditor: [3, 4], stranger: [5] }
  const secretOf = (seed: number): Uint8Array => new Uint8Array(32).fill(seed)
  const keyOf = (seed: number): string => hex(ed25519.getPublicKey(secretOf(seed)))
  /** The good manifest with something else in it, signed by whom one likes. */
  const made = (change: (manifest: any) => void = () => {}, by: Readonly<Record<string, readonly [number, string]>> = { maker: [2, 'maker'], auditor: [4, 'auditor'] }): SignedManifest => {
    const { manifest } = JSON.parse(known.manifests['good']) as { manifest: any }
    change(manifest)
    const signed = Object.entries(by).map(([role, [seed, tag]]) =>
      [role, { key: keyOf(seed), signature: hex(ed25519.sign(concat(utf8(`intaglio-release-${tag}/1\0`), canonicalBytes(manifest)), secretOf(seed))) }] as const)
    return SignedManifest.fromBytes(canonicalBytes({ manifest, signatures: Object.fromEntries(signed) }))
  }
  const believing = (acceptsTrials = false): ReleaseTrust => ({ makers: signers.maker.map(keyOf), auditors: signers.auditor.map(keyOf), acceptsTrials })
  /** Ten times the stated rate is 0.01. */
  const strings = (mean: readonly [string, string], best: readonly [string, string]) => (manifest: any): void => {
    const rate = ([low, high]: readonly [string, string]): unknown => ({ effective: '600.0', errors: Math.round(3000 * (Number(low) + Number(high)) / 2), high, low, trials: 3000 })
    manifest.audit.wolf = { best: rate(best), mean: rate(mean), people: 600 }
  }
  const trial = (change: (manifest: any) => void = () => {}) => (manifest: any): void => { manifest.use = 'trial'; change(manifest) }
  const verdict = (said: string) => (manifest: any): void => { manifest.audit.verdict = said }

  test.each<[string, () => SignedManifest, boolean, string | null]>([
    ['as it is', () => made(), false, null], ['signed by the first of each', () => made(undefined, { maker: [1, 'maker'], auditor: [3, 'auditor'] }), false, null],
    ['of no maker', () => made(undefined, { auditor: [4, 'auditor'] }), false, 'not signed by its maker'], ['of no auditor', () => made(undefined, { maker: [2, 'maker'] }), false, 'not signed by its auditor'],
    ["with a stranger for maker", () => made(undefined, { maker: [5, 'maker'], auditor: [4, 'auditor'] }), false, "by a key that is no trusted maker's"], ['with a stranger for auditor', () => made(undefined, { maker: [2, 'maker'], auditor: [5, 'auditor'] }), false, "by a key that is no trusted auditor's"],
    ['whose maker audits', () => made(undefined, { maker: [2, 'maker'], auditor: [1, 'auditor'] }), false, "by a key that is no trusted auditor's"], ['whose auditor makes', () => made(undefined, { maker: [3, 'maker'], auditor: [4, 'auditor'] }), false, "by a key that is no trusted maker's"],
    ['signed by its maker as an auditor', () => made(undefined, { maker: [2, 'auditor'], auditor: [4, 'auditor'] }), false, 'is not that of the key over this statement'], ['signed by its auditor as a maker', () => made(undefined, { maker: [2, 'maker'], auditor: [4, 'maker'] }), false, 'is not that of the key over this statement'],
    ['that failed', () => made(verdict('FAIL')), true, 'the audit of the model release says FAIL, so it is not used'], ['that cannot tell', () => made(verdict('INSUFFICIENT')), true, 'says INSUFFICIENT'],
    ['for a trial', () => made(trial()), true, null], ['for a trial that cannot tell', () => made(trial(verdict('INSUFFICIENT'))), true, null], ['for a trial that failed', () => made(trial(verdict('FAIL'))), true, 'says FAIL'],
    ['for a trial, where none is accepted', () => made(trial()), false, 'marked as a trial, and trials are not accepted here'],
    ['whose strings reach the limit', () => made(strings(['0.01', '0.01'], ['0.01', '0.9'])), false, null],
    ['whose mean may be above', () => made(strings(['0.01', '0.0100001'], ['0.001', '0.9'])), false, 'is accepted at 0.01 to 0.0100001; general use needs at most 10 times the stated false match rate of 0.001'],
    ['for a trial whose mean may be above', () => made(trial(strings(['0.01', '0.9'], ['0.01', '0.9']))), true, null],
    ['whose mean is above', () => made(strings(['0.0100001', '0.5'], ['0.001', '0.9'])), false, 'at 0.0100001 to 0.5; general use needs'], ['whose best is above', () => made(strings(['0.001', '0.009'], ['0.0100001', '0.6'])), false, 'at 0.0100001 to 0.6; general use needs'],
    ['both of which are above, the best more', () => made(strings(['0.02', '0.5'], ['0.03', '0.6'])), false, 'at 0.03 to 0.6'], ['both of which are above, the mean more', () => made(strings(['0.04', '0.7'], ['0.03', '0.6'])), false, 'at 0.04 to 0.7'],
    ['for a trial whose best is above', () => made(trial(strings(['0.001', '0.009'], ['0.0100001', '0.6']))), true, 'at 0.0100001 to 0.6; even a trial may have at most 10 times'],
    ['whose strings nobody measured', () => made((manifest) => { manifest.audit.wolf = 'not measured' }), false, 'general use needs at most 10 times'], ['for a trial whose strings nobody measured', () => made(trial((manifest) => { manifest.audit.wolf = 'not measured' })), true, null],
  ])('a release %s is served, or why it is not', async (_, manifest, acceptsTrials, refused) => {
    const serving = manifest().requireServable(believing(acceptsTrials), known.now)
    if (refused === null) await serving
    else await expect(serving).rejects.toThrow(refused)
  })

  test('a release is served from its first second to its last', async () => {
    const { beginsAt, endsAt } = made().standing
    for (const now of [beginsAt, endsAt - 1]) await made().requireServable(believing(), now)
    await expect(made().requireServable(believing(), beginsAt - 1)).rejects.toThrow('is not valid before ')
    await expect(made().requireServable(believing(), endsAt)).rejects.toThrow('; it must be audited again')
  })

  test('a trial is used only where trials are accepted', async () => {
    await expect(read('trial').requireServable(trust, known.now)).rejects.toThrow(RefusedError)
    await read('trial').requireServable({ ...trust, acceptsTrials: true }, known.now)
  })

  test('one flipped bit anywhere is refused', async () => {
    const good = utf8(known.manifests['good'])
    for (let i = 0; i < good.length; i += 7) {
      const damaged: Bytes = good.slice()
      damaged[i] ^= 1
      const used = Promise.resolve().then(() => SignedManifest.fromBytes(damaged).requireServable(trust, known.now))
      await expect(used, `byte ${i}`).rejects.toThrow(/./)
    }
  })

  test('nobody is trusted to audit themselves', () => {
    const [maker] = trust.makers
    expect(() => releaseTrustOf({ makers: [maker], auditors: [maker], accepts_trials: false })).toThrow('nobody audits themselves')
  })
})

describe('public rules', () => {
  let known: { now: number; release: string; files: Record<string, [string, string]>; sites: Record<string, [string, string]>; looked: Record<string, string>; bad: Record<string, string>; excepted: Record<string, [string, boolean]>; following: [string, Record<string, string[]>] }
  let asked: Asked
  const DAY = 86_400

  beforeAll(async () => {
    known = (await python('rules', {})) as typeof known
    const release = { digest: known.release, statedFmr: 1e-3, isTrial: false, beginsAt: known.now - DAY, endsAt: known.now + DAY }
    asked = { deployment: 'trial', audience: 'example.org', purpose: 'door-access', release, jurisdiction: 'DE', consentSeconds: 90 * DAY, pad: 'none' }
  })

  test('the page refuses exactly what policy.decide refuses', async () => {
    for (const [name, [file, reason]] of Object.entries(known.files)) {
      const rules = await Rulebook.read(utf8(file), null)
      const ask = (): void => { requireAllowedBy(rules, asked, known.now) }
      if (reason === 'receipt-missing') expect(ask, name).not.toThrow() // Python went on to the consent, which was not shown to it
      else expect(ask, `${name}: ${reason}`).toThrow(RefusedError)
    }
    for (const [name, reason] of Object.entries(known.looked)) {
      const rules = await Rulebook.read(utf8(known.files[name][0]), null)
      const ask = (): void => { requireAllowedBy(rules, { ...asked, pad: 'on-device' }, known.now) }
      if (reason === 'receipt-missing') expect(ask, `${name}, looked`).not.toThrow()
      else expect(ask, `${name}, looked: ${reason}`).toThrow(RefusedError)
    }
    expect(Object.keys(known.looked).filter((name) => known.looked[name] !== known.files[name][1])).toEqual(['asking for pad on-device'])
    const reasons = Object.values(known.files).map(([, reason]) => reason)
    expect(new Set(reasons).size).toBeGreaterThan(6)
  })

  test('the page serves exactly the sites that policy.decide lets it serve', async () => {
    for (const [name, [file, reason]] of Object.entries(known.sites)) {
      const rules = await Rulebook.read(utf8(file), null)
      const ask = (): void => { requireAllowedBy(rules, { ...asked, audience: 'shop.example' }, known.now) }
      if (reason === 'receipt-missing') expect(ask, name).not.toThrow()
      else expect(ask, `${name}: ${reason}`).toThrow(RefusedError)
    }
    expect(new Set(Object.values(known.sites).map(([, reason]) => reason))).toEqual(new Set(['receipt-missing', 'deployment-other-use', 'moratorium']))
  })

  test.each([
    ['an address of http', 'https://shop.example/back', 'http://shop.example/back'], ['a fragment', '/back', '/back#a'],
    ['a user', 'https://shop.example', 'https://me@shop.example'], ['another algorithm', '"ES256"', '"none"'],
    ['no address', '["https://shop.example/back"]', '[]'], ['an unknown field', '"version":1}', '"version":1,"webhook":1}'],
    ['version 0', '"version":1}', '"version":0}'], ['a short digest', '"secret_digest":"00', '"secret_digest":"'],
  ])('a site with %s is malformed', async (_, good, bad) => {
    const [file] = known.sites[good.includes('secret') ? 'with a secret' : 'registered']
    expect(file).toContain(good)
    await expect(Rulebook.read(utf8(file.replace(good, bad)), null)).rejects.toThrow(MalformedMessageError)
  })

  test.each([
    'signed once', 'signed by a stranger', 'edited', 'lifting nothing', 'signed wrongly by the first', 'signed wrongly by the second',
    'signed by a stranger too', 'signed wrongly by one who is not needed',
  ])('rules that are %s are refused', async (name) => {
    await expect(Rulebook.read(utf8(known.bad[name]), null)).rejects.toThrow(/signature|signer|already|follow/)
  })

  test('an exception and a lifting need two signers, or as many as a pack when that is more', async () => {
    for (const [name, [file, isRead]] of Object.entries(known.excepted)) {
      const read = Rulebook.read(utf8(file), null)
      if (isRead) await read
      else await expect(read, name).rejects.toThrow(/needs [23] different signatures and has [12]/)
    }
    const read = Object.entries(known.excepted).filter(([, [, isRead]]) => isRead).map(([name]) => name)
    expect(read.sort()).toEqual(['excepted by 2 where 1 sign packs', 'excepted by 3 where 1 sign packs', 'excepted by 3 where 3 sign packs', 'lifted by 2 where 1 sign packs', 'lifted by 3 where 1 sign packs', 'lifted by 3 where 3 sign packs'])
  })

  test('the page leaves a deployment for exactly those that follow it', async () => {
    const [file, ways] = known.following
    const rules = await Rulebook.read(utf8(file), null)
    const every = Object.keys(ways)
    for (const former of every) expect(every.filter((to) => rules.follows(to, former)), former).toEqual(ways[former])
    expect(Object.values(ways).map(({ length }) => length).sort()).toEqual([...Array(12).fill(0), ...Array(4).fill(1), ...Array(8).fill(2)])
  })

  test('a consent that is too long, a trial and a red line are refused', async () => {
    const rules = await Rulebook.read(utf8(known.files['allowed'][0]), null)
    const high = await Rulebook.read(utf8(known.files['of a tier that the release is too weak for'][0]), null)
    const strong = { ...asked, release: { ...asked.release, statedFmr: 1e-5 } }
    requireAllowedBy(high, strong, known.now)
    for (const [book, change] of [
      [high, { consentSeconds: 91 * DAY }], [high, { release: { ...strong.release, isTrial: true } }],
      [rules, { jurisdiction: 'FR' }], [rules, { audience: 'other.example' }],
    ] as const) {
      expect(() => { requireAllowedBy(book, { ...strong, ...change }, known.now) }).toThrow(RefusedError)
    }
    expect(() => { requireAllowedBy(rules, { ...strong, purpose: 'crowd-search' }, known.now) }).toThrow('is never allowed: searching or identifying')
  })

  test('rules that lost an entry, or came from other signers, are refused after the first time', async () => {
    const { seen } = await Rulebook.read(utf8(known.files['stopped'][0]), null)
    await Rulebook.read(utf8(known.files['stopped and lifted'][0]), seen)
    await expect(Rulebook.read(utf8(known.files['allowed'][0]), seen)).rejects.toThrow(ProofError)
    await expect(Rulebook.read(utf8(known.files['stopped'][0].replace('"threshold":2', '"threshold":1')), seen)).rejects.toThrow(ProofError)
  })

  test.each([
    ['cut short', (text: string) => text.slice(0, -9)],
    ['with a field more', (text: string) => text.replace('"kind"', '"also":1,"kind"')],
    ['with a red-line purpose', (text: string) => text.replaceAll('door-access', 'crowd-search')],
    ['of nothing', () => ''],
  ])('a file %s is malformed', async (_, damage) => {
    await expect(Rulebook.read(utf8(damage(known.files['allowed'][0])), null)).rejects.toThrow(MalformedMessageError)
  })
})
