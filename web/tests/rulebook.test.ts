/** Which of several rules counts at a second, what a file must still hold, and who must have signed it; rules of the tests' own. */

import { ed25519 } from '@noble/curves/ed25519.js'
import { describe, expect, test } from 'vitest'

import { type Bytes, concat, hex, sha256, utf8 } from '../src/bytes'
import { isInForce, Rulebook } from '../src/rules/rulebook'
import { canonicalBytes, type JsonValue, textOfTime } from '../src/wallet/statements'

const [T, DAY] = [1_900_000_000, 86_400]
const secretOf = (seed: number): Uint8Array => new Uint8Array(32).fill(seed)
const keyOf = (seed: number): string => hex(ed25519.getPublicKey(secretOf(seed)))
const line = (value: JsonValue): string => new TextDecoder().decode(canonicalBytes(value))
const signersOf = (threshold: number, seeds = [1, 2, 3]): string => line({ public_keys: seeds.map(keyOf).sort(), threshold })

type Rule = Readonly<Record<string, JsonValue>>
const signed = (rule: Rule, by: readonly number[] = [1, 2], tag = 'intaglio-rule/1', about = rule): string =>
  line({ rule, signatures: Object.fromEntries(by.map((seed) => [keyOf(seed), hex(ed25519.sign(concat(utf8(`${tag}\0`), canonicalBytes(about)), secretOf(seed)))])) })
const read = (lines: readonly string[], seen: Parameters<typeof Rulebook.read>[1] = null): Promise<Rulebook> => Rulebook.read(utf8(`${lines.join('\n')}\n`), seen)
const book = (...rules: readonly Rule[]): Promise<Rulebook> => read([signersOf(2), ...rules.map((rule) => signed(rule))])

const during = (begins: number, ends: number): Rule => ({ begins_at: textOfTime(T + begins), ends_at: textOfTime(T + ends) })
const reason = 'a reason that is long enough'
const purposeRule = (begins: number, ends: number, purpose = 'door-access', tier = 1): Rule => ({ ...during(begins, ends), category: 'physical-access', purpose, tier })
const pack = (version: number, begins: number, ends: number, place = 'DE', ...rules: Rule[]): Rule => ({ ...during(begins, ends), jurisdiction: place, kind: 'policy-pack', rules, version })
const client = (version: number, begins: number, ends: number, change: Rule = {}): Rule => ({
  ...during(begins, ends), algorithm: 'ES256', deployment: 'trial', identifier: 'shop.example', kind: 'client', operator: `Shop ${version}`, purposes: ['door-access'], redirect_uris: ['https://shop.example/back'], version, ...change,
})
const exception = (identifier: string, rule: Rule, change: Rule = {}): Rule => ({ audience: 'example.org', identifier, jurisdiction: 'DE', kind: 'exception', reason, rule, ...change })
const moratorium = (identifier: string, begins: number, change: Rule = {}): Rule => ({ audiences: [], begins_at: textOfTime(T + begins), categories: [], identifier, jurisdictions: [], kind: 'moratorium', reason, ...change })
const lifting = (of: string, at: number): Rule => ({ kind: 'lifting', lifted_at: textOfTime(T + at), moratorium: of, reason })
const deployment = (identifier: string, change: Rule = {}): Rule => ({
  ...during(0, DAY), audience: 'example.org', contact: 'mailto:a@example.org', identifier, jurisdictions: ['DE', 'EU'], kind: 'deployment', operator: 'Example', purposes: ['door-access'], releases: ['ab'.repeat(32)], ...change,
})

describe('of several rules', () => {
  test('the pack of the highest version that has begun counts, also when it has ended', async () => {
    const rules = await book(pack(2, 10, 50), pack(3, 20, 30), pack(1, 0, 90), pack(9, 0, 90, 'FR'))
    expect([-1, 0, 9, 10, 19, 20, 29, 30, 89].map((at) => rules.pack('DE', T + at)?.version ?? null)).toEqual([null, 1, 1, 2, 2, 3, 3, 3, 3])
    expect([rules.pack('FR', T)?.version, rules.pack('EU', T)]).toEqual([9, null])
  })

  test('the client of the highest version that has begun counts, while it lasts', async () => {
    const rules = await book(client(2, 10, 20), client(1, 0, 90), client(3, 15, 17), client(8, 0, 90, { deployment: 'another' }), client(9, 0, 90, { identifier: 'other.example' }))
    expect([-1, 0, 9, 10, 14, 15, 16, 17, 89].map((at) => rules.client('trial', 'shop.example', T + at)?.operator ?? null)).toEqual([null, 'Shop 1', 'Shop 1', 'Shop 2', 'Shop 2', 'Shop 3', 'Shop 3', null, null])
    expect([rules.client('another', 'shop.example', T)?.version, rules.client('trial', 'other.example', T)?.version, rules.client('another', 'other.example', T)]).toEqual([8, 9, null])
  })

  test('the exception that lasts longest counts, for whom and what it is', async () => {
    const rules = await book(
      exception('b', purposeRule(5, 20, 'door-access', 2)), exception('a', purposeRule(0, 30, 'door-access', 1)), exception('c', purposeRule(12, 40, 'door-access', 3)),
      exception('d', purposeRule(0, 90, 'canteen')), exception('e', purposeRule(0, 90), { audience: 'other.example' }), exception('f', purposeRule(0, 90), { jurisdiction: 'FR' }),
    )
    expect([-1, 0, 5, 11, 12, 29, 30, 39, 40].map((at) => rules.exception('DE', 'example.org', 'door-access', T + at)?.tier ?? null)).toEqual([null, 1, 1, 1, 3, 3, 3, 3, null])
    expect([rules.exception('DE', 'example.org', 'canteen', T), rules.exception('DE', 'other.example', 'door-access', T), rules.exception('FR', 'example.org', 'door-access', T)].map((one) => one!.endsAt - T)).toEqual([90, 90, 90])
    expect(rules.exception('FR', 'example.org', 'canteen', T)).toBeNull()
  })

  test('a moratorium counts from its first second until it is lifted, and no other', async () => {
    const rules = await book(moratorium('a', 0), moratorium('b', 5, { audiences: ['x.example', 'y.example'], categories: ['payment', 'sign-in'], jurisdictions: ['DE', 'FR'] }), lifting('a', 9), moratorium('c', 7), lifting('c', 8))
    const at = (now: number): string => rules.moratoria(T + now).map(({ identifier }) => identifier).join('')
    expect([-1, 0, 4, 5, 7, 8, 9, 99].map(at)).toEqual(['', 'a', 'a', 'ab', 'abc', 'ab', 'b', 'b'])
    expect(rules.moratoria(T + 99)).toEqual([{ kind: 'moratorium', identifier: 'b', beginsAt: T + 5, audiences: ['x.example', 'y.example'], categories: ['payment', 'sign-in'], jurisdictions: ['DE', 'FR'] }])
  })

  test('each deployment is known by its name, whole, and at any time', async () => {
    const issuer = { address: 'https://a.example', public_key: 'cd'.repeat(32) }
    const rules = await book(deployment('one'), deployment('two', { audience: 'two.example', operator: 'Two', issuer, releases: ['ab'.repeat(32), 'cd'.repeat(32)] }), moratorium('three', 0))
    expect(rules.deployment('two')).toEqual({
      kind: 'deployment', operator: 'Two', audience: 'two.example', purposes: ['door-access'], jurisdictions: ['DE', 'EU'], releases: ['ab'.repeat(32), 'cd'.repeat(32)], issuer: { address: 'https://a.example', publicKey: 'cd'.repeat(32) }, beginsAt: T, endsAt: T + DAY,
    })
    expect([rules.deployment('one')?.issuer, rules.deployment('three')]).toEqual([null, null])
    expect([[T - 1, false], [T, true], [T + DAY - 1, true], [T + DAY, false]].map(([now, is]) => isInForce(rules.deployment('one')!, now as number) === is)).toEqual([true, true, true, true])
    expect([rules.follows('one', 'nobody'), rules.follows('nobody', 'one'), rules.follows('one', 'one')]).toEqual([false, false, false])
  })
})

describe('a file of rules', () => {
  const lines = [signersOf(2), signed(deployment('one')), signed(moratorium('a', 0)), signed(pack(1, 0, 9))]
  const digest = (some: readonly string[]): string => hex(sha256(utf8(some.join('\n'))))

  test('is remembered to its last line, and may only become longer', async () => {
    const { seen } = await read(lines.slice(0, 3))
    expect(seen).toEqual({ lines: 3, digest: digest(lines.slice(0, 3)) })
    expect((await read(lines, seen)).seen).toEqual({ lines: 4, digest: digest(lines) })
    expect((await read(lines.slice(0, 3), seen)).seen).toEqual(seen)
    expect((await Rulebook.read(utf8(lines.join('\n')), seen)).seen).toEqual({ lines: 4, digest: digest(lines) }) // with or without its last newline
    const [first, one, two, three] = lines
    for (const [name, others] of Object.entries({ 'lost the last': [first, one], 'lost one between': [first, one, three], 'lost the first': [first, two, three], 'has others in its place': [first, one, three, two], 'has other signers': [signersOf(1), one, two, three] })) {
      await expect(read(others, seen), name).rejects.toThrow('the public rules lost an entry or changed their signers')
    }
  })

  test.each<[string, readonly string[], string | null]>([
    ['of signers alone', [signersOf(1)], null], ['of nobody', [line({ public_keys: [], threshold: 0 })], 'the bytes are not the list of rule signers'],
    ['with the same rule twice', [lines[0], lines[1], lines[1]], null], ['with the same rule, signed by others', [lines[0], lines[1], signed(deployment('one'), [1, 3])], null],
    ['with another rule of that name', [lines[0], lines[1], signed(deployment('one', { operator: 'Another' }))], 'there is another deployment one already; rules are never edited'],
    ['with the same name for another kind', [lines[0], lines[1], signed(moratorium('one', 0))], null],
    ['whose moratorium is lifted a second later', [lines[0], signed(moratorium('a', 5)), signed(lifting('a', 6))], null], ['whose moratorium is lifted as it begins', [lines[0], signed(moratorium('a', 5)), signed(lifting('a', 5))], 'lifting a does not follow on a moratorium of that name'],
    ['whose lifting comes first', [lines[0], signed(lifting('a', 6)), signed(moratorium('a', 5))], 'lifting a does not follow'], ['whose moratorium of another name is lifted', [lines[0], signed(moratorium('b', 5)), signed(lifting('a', 6))], 'lifting a does not follow'],
  ])('%s is read, or it is said why not', async (_, file, refused) => {
    if (refused === null) await read(file)
    else await expect(read(file)).rejects.toThrow(refused)
  })

  const RULES: Readonly<Record<string, [Rule, (threshold: number) => number]>> = {
    'a deployment': [deployment('one'), (threshold) => threshold], 'a pack': [pack(1, 0, 9), (threshold) => threshold], 'a client': [client(1, 0, 9), (threshold) => threshold],
    'a kiosk': [{ ...during(0, 9), certificate: 'ab'.repeat(32), deployment: 'trial', identifier: 'hall', kind: 'kiosk', place: 'hall' }, (threshold) => threshold],
    'an exception': [exception('a', purposeRule(0, 9)), (threshold) => Math.max(2, threshold)], 'a moratorium': [moratorium('b', 0), () => 1],
  }
  test.each(Object.keys(RULES).flatMap((name) => [1, 2, 3].map((threshold) => [name, threshold] as const)))('%s has as many signatures as it needs, where %i sign', async (name, threshold) => {
    const [rule, needs] = RULES[name]
    for (let count = 1; count <= 3; count++) {
      const reading = read([signersOf(threshold), signed(rule, [1, 2, 3].slice(0, count))])
      if (count >= needs(threshold)) await reading
      else await expect(reading).rejects.toThrow(`needs ${needs(threshold)} different signatures and has ${count}`)
    }
    await expect(read([signersOf(threshold), signed(rule, [])])).rejects.toThrow(`needs ${needs(threshold)} different signatures and has 0`)
  })

  test.each<[string, string, string]>([
    ['by a stranger besides', signed(deployment('one'), [1, 2, 4]), "with a key that is no rule signer's"], ['by a stranger', signed(deployment('one'), [1, 4]), "with a key that is no rule signer's"],
    ['as something else', signed(deployment('one'), [1, 2], 'intaglio-rule/2'), 'is not that of the key'], ['as it was before it was changed', signed(deployment('one'), [1, 2], 'intaglio-rule/1', deployment('two')), 'is not that of the key'],
    ['wrongly by one of three', signed(deployment('one'), [1, 2, 3]).replace(/("signatures":.*):"[0-9a-f]{128}"\}/, `$1:"${'00'.repeat(64)}"}`), 'is not that of the key'],
  ])('a rule that is signed %s is refused', async (_, entry, refused) => {
    await expect(read([signersOf(2), lines[2], entry])).rejects.toThrow(refused)
    await expect(read([signersOf(2), entry, lines[2]])).rejects.toThrow(refused)
  })

  const uris = (count: number): string[] => Array.from({ length: count }, (_, i) => `https://shop.example/${i}`)
  const kiosk = (ends: number, change: Rule = {}): Rule => ({ ...during(0, ends), certificate: 'ab'.repeat(32), deployment: 'trial', identifier: 'hall', kind: 'kiosk', place: 'hall', ...change })
  const tiers = (category: string, tier: number): Rule => pack(1, 0, 9, 'DE', { ...purposeRule(0, 9, 'door-access', tier), category })
  test.each<[string, Rule, boolean]>([
    ['a site of eight addresses', client(1, 0, 9, { redirect_uris: uris(8) }), true], ['of nine', client(1, 0, 9, { redirect_uris: uris(9) }), false], ['of none', client(1, 0, 9, { redirect_uris: [] }), false], ['whose second is http', client(1, 0, 9, { redirect_uris: ['http://localhost/a', 'http://shop.example/b'] }), false],
    ['whose addresses are in no order', client(1, 0, 9, { redirect_uris: ['https://b.example/', 'https://a.example/'] }), false], ['that is for nothing', client(1, 0, 9, { purposes: [] }), true], ['that shows a secret and a key', client(1, 0, 9, { secret_digest: 'ab'.repeat(32), key: 'ab'.repeat(64) }), false],
    ['that shows a key', client(1, 0, 9, { key: 'ab'.repeat(64) }), true], ['that shows a short key', client(1, 0, 9, { key: 'ab'.repeat(63) }), false], ['that signs with EdDSA', client(1, 0, 9, { algorithm: 'EdDSA' }), true], ['that signs otherwise', client(1, 0, 9, { algorithm: 'HS256' }), false], ['version 0 of a site', client(0, 0, 9), false],
    ['a kiosk for ninety days', kiosk(90 * DAY), true], ['for a second more', kiosk(90 * DAY + 1), false], ['an exception for ninety days', exception('a', purposeRule(0, 90 * DAY)), true], ['one for a second more', exception('a', purposeRule(0, 90 * DAY + 1)), false],
    ['a reason of twenty letters', moratorium('a', 0, { reason: 'x'.repeat(20) }), true], ['of nineteen', moratorium('a', 0, { reason: 'x'.repeat(19) }), false], ['a category that is none', moratorium('a', 0, { categories: ['payment', 'walks'] }), false], ['a place twice', moratorium('a', 0, { jurisdictions: ['DE', 'DE'] }), false], ['a second place that is none', moratorium('a', 0, { jurisdictions: ['DE', 'X'] }), false],
    ...([['physical-access', 1], ['sign-in', 2], ['payment', 2], ['essential-service', 3]] as const).flatMap(([category, lowest]): [string, Rule, boolean][] => [1, 2, 3, 4].map((tier) => [`tier ${tier} for ${category}`, tiers(category, tier), tier >= lowest && tier <= 3])),
    ['purposes of a pack in order', pack(1, 0, 9, 'DE', purposeRule(0, 9, 'a'), purposeRule(0, 9, 'b')), true], ['in no order', pack(1, 0, 9, 'DE', purposeRule(0, 9, 'b'), purposeRule(0, 9, 'a')), false], ['version 0 of a pack', pack(0, 0, 9), false], ['a pack of no time', pack(1, 9, 9), false],
    ['a deployment in no place', deployment('one', { jurisdictions: [] }), false], ['in one of the EU alone', deployment('one', { jurisdictions: ['DE'] }), false], ['in one outside', deployment('one', { jurisdictions: ['CH'] }), true], ['in a part without the whole', deployment('one', { jurisdictions: ['US-CA'] }), false], ['in a part with it', deployment('one', { jurisdictions: ['US', 'US-CA'] }), true],
    ['a second release that is none', deployment('one', { releases: ['ab'.repeat(32), 'cd'] }), false], ['a second purpose that is never allowed', deployment('one', { purposes: ['door-access', 'face-search'] }), false], ['an issuer without a key', deployment('one', { issuer: { address: 'https://a.example', public_key: 'ab' } }), false], ['a rule of no kind', { kind: 'wish' }, false],
    ...(['none', 'on-device', 'supervised', 'nobody'] as const).map((pad): [string, Rule, boolean] => [`looking: ${pad}`, pack(1, 0, 9, 'DE', { ...purposeRule(0, 9), pad }), pad === 'on-device' || pad === 'supervised']),
  ])('%s is a rule, or none', async (_, rule, is) => {
    const reading = read([signersOf(2), signed(rule)])
    if (is) expect((await reading).seen.lines).toBe(2)
    else await expect(reading).rejects.toMatchObject({ name: 'MalformedMessageError' })
  })

  test('that is no text is malformed, and no foreign error', async () => {
    for (const data of [utf8(''), utf8('\n'), utf8('null\n'), concat(utf8(lines[0]), utf8('\nnull\n'))] as Bytes[]) await expect(Rulebook.read(data, null)).rejects.toMatchObject({ name: 'MalformedMessageError' })
    await expect(Rulebook.read(Uint8Array.of(0xff), null)).rejects.toMatchObject({ name: 'MalformedMessageError' })
  })
})
