/** The transparency log, as a device checks it: published vectors, and receipts of the Python side with damages. */

import { beforeAll, describe, expect, test } from 'vitest'

import notes from '../../tests/vectors/transparency/notes.json'
import tree from '../../tests/vectors/transparency/rfc6962.json'
import { concat, fromHex, hex, sha256, utf8 } from '../src/bytes'
import { IntaglioError, MalformedMessageError, ProofError } from '../src/errors'
import { canonical, checkComparison, checkDone, checkHistory, checkRevoked, checkTombstone, type Done, type Expectation, type LogReceipt, Opening, readEntry } from '../src/log/entries'
import { fromBase64, LogKey, LogPolicy, SignedCheckpoint } from '../src/log/notes'
import { leafHash, verifyConsistency, verifyInclusion } from '../src/log/tree'
import { python } from './vectors'

const head = (size: number): { size: number; root: Uint8Array } => ({ size, root: fromHex(tree.roots[size]) })
const alone = (key: string): LogPolicy => new LogPolicy({ key, witnesses: [], threshold: 0 })
const flipped = (hash: Uint8Array): Uint8Array => hash.map((byte, i) => (i === 5 ? byte ^ 1 : byte))

describe('RFC 6962', () => {
  test.each(tree.inclusion)('entry $index is in the tree of $size', ({ index, size, proof }) => {
    const leaf = leafHash(fromHex(tree.leaves[index]))
    const hashes = proof.map(fromHex)
    verifyInclusion(leaf, index, head(size), hashes)
    expect(() => verifyInclusion(flipped(leaf), index, head(size), hashes)).toThrow(ProofError)
    expect(() => verifyInclusion(leaf, index, head(size), [...hashes, leaf])).toThrow(ProofError)
    expect(() => verifyInclusion(leaf, size, head(size), hashes)).toThrow(ProofError)
    hashes.forEach((_, at) => {
      expect(() => verifyInclusion(leaf, index, head(size), hashes.map((hash, i) => (i === at ? flipped(hash) : hash)))).toThrow(ProofError)
    })
  })

  test.each(tree.consistency)('the tree of $old grew into that of $new', ({ old: before, new: after, proof }) => {
    const hashes = proof.map(fromHex)
    verifyConsistency(head(before), head(after), hashes)
    expect(() => verifyConsistency({ size: before, root: flipped(head(before).root) }, head(after), hashes)).toThrow(ProofError)
    expect(() => verifyConsistency(head(before), head(after), [...hashes, head(before).root])).toThrow(ProofError)
    expect(() => verifyConsistency(head(0), head(after), hashes)).toThrow(ProofError)
  })
})

describe('notes', () => {
  test('the example of C2SP says what it says', () => {
    const checkpoint = new SignedCheckpoint(utf8(notes.checkpoint))
    expect(checkpoint.origin).toBe('example.com/behind-the-sofa')
    expect(checkpoint.head.size).toBe(20_852_163)
  })

  test('a published key is read, and one with the id of another is not', () => {
    expect(new LogKey(notes.verifier_key).origin).toBe('PeterNeumann')
    expect(() => new LogKey(notes.verifier_key.replace('c74f20a3', 'c74f20a4'))).toThrow(MalformedMessageError)
  })

  test.each([[1, 31], [1, 33], [1, 0], [2, 32], [4, 32]])('a key of kind %i with %i bytes is none, also under its own id', (kind, length) => {
    const key = new Uint8Array(length).fill(7)
    const id = hex(sha256(concat(utf8('a.log\n'), Uint8Array.of(kind), key)).subarray(0, 4))
    expect(() => new LogKey(`a.log+${id}+${btoa(String.fromCharCode(kind, ...key))}`)).toThrow(MalformedMessageError)
  })

  test.each([
    ['without its last newline', (note: string) => note.slice(0, -1)],
    ['without a blank line', (note: string) => note.replace('\n\n', '\n')],
    ['with a size that begins with a zero', (note: string) => note.replace('\n20', '\n020')],
    ['with a hyphen for the dash', (note: string) => note.replaceAll('\u2014', '-')],
    ['with a root that is too short', (note: string) => note.replace(/\nCsU.*=\n/, '\nCsU=\n')],
  ])('a checkpoint %s is none', (_, damage) => {
    expect(() => new SignedCheckpoint(utf8(damage(notes.checkpoint)))).toThrow(MalformedMessageError)
  })

  test.each(['QQ', 'QR==', 'Q Q=', 'é'])('%s is not base64 in its one spelling', (text) => {
    expect(() => fromBase64(text)).toThrow(MalformedMessageError)
  })
})

describe('a comparison in the log', () => {
  interface Known {
    readonly key: string
    readonly other_key: string
    readonly now: number
    readonly facts: { readonly key_id: string; readonly transcript: string; readonly reply: string }
    readonly first: { readonly logged: string; readonly opening: string; readonly consistency: readonly string[] }
    readonly later: Known['first']
    readonly forked: Known['first']
  }
  let known: Known
  const receipt = (one: Known['first']): LogReceipt => ({ logged: utf8(one.logged), opening: utf8(one.opening), consistency: one.consistency.map(fromHex) })
  const withLines = (one: Known['first'], change: (lines: string[]) => string[]): LogReceipt => {
    const [text, lines] = [one.logged.replace(/\n\u2014 .*/gs, '\n'), one.logged.split('\n').filter((line) => line.startsWith('\u2014'))]
    return { ...receipt(one), logged: utf8(text + change(lines).map((line) => `${line}\n`).join('')) }
  }
  const wrong = (line: string): string => {
    const [dash, name, encoded] = line.split(' ')
    const raw = atob(encoded)
    return [dash, name, btoa(raw.slice(0, -1) + String.fromCharCode(raw.charCodeAt(raw.length - 1) ^ 1))].join(' ')
  }
  const expected = (changes: Partial<Expectation> = {}): Expectation => ({
    keyId: fromHex(known.facts.key_id), transcript: fromHex(known.facts.transcript), reply: fromHex(known.facts.reply), requester: 'example.org', purpose: 'door-access',
    memory: null, policy: alone(known.key), now: known.now, ...changes,
  })
  const remembered = async (): Promise<string> => (await checkComparison(receipt(known.first), expected())).note

  beforeAll(async () => { known = (await python('log', {})) as Known })

  test('it is believed, also after the log grew', async () => {
    const first = await checkComparison(receipt(known.first), expected())
    const later = await checkComparison(receipt(known.later), expected({ memory: first.note }))
    expect(later.position).toBeGreaterThan(first.position)
  })

  test.each<[string, (k: Known) => [LogReceipt, Partial<Expectation>]]>([
    ['of another device', (k) => [receipt(k.first), { keyId: new Uint8Array(32) }]],
    ['about another session', (k) => [receipt(k.first), { transcript: Uint8Array.of(1) }]],
    ['with another reply', (k) => [receipt(k.first), { reply: fromHex(k.facts.reply).map((byte, i) => (i === 0 ? byte ^ 1 : byte)) }]],
    ['for another requester', (k) => [receipt(k.first), { requester: 'example.com' }]],
    ['for another purpose', (k) => [receipt(k.first), { purpose: 'sign-in' }]],
    ['signed by another key', (k) => [receipt(k.first), { policy: alone(k.other_key) }]],
    ['an hour and more ago', (k) => [receipt(k.first), { now: k.now + 3700 }]],
    ['in the future', (k) => [receipt(k.first), { now: k.now - 100 }]],
    ['with another opening', (k) => [{ ...receipt(k.first), opening: utf8(k.later.opening) }, {}]],
    ['with another root', (k) => [{ ...receipt(k.first), logged: utf8(k.first.logged.replace(/\n1\n./, '\n1\nA')) }, {}]],
    ['with an entry of another time', (k) => [{ ...receipt(k.first), logged: utf8(k.first.logged.replace(/extra (.*)/, (_, entry: string) =>
      `extra ${btoa(atob(entry).replace('"time":1', '"time":2'))}`)) }, {}]],
    ['without its plain signature', (k) => [withLines(k.first, ([, dated]) => [dated]), {}]],
    ['without its dated signature', (k) => [withLines(k.first, ([plain]) => [plain]), {}]],
    ['with a second plain signature that is wrong', (k) => [withLines(k.first, ([plain, dated]) => [plain, dated, wrong(plain)]), {}]],
    ['with a second dated signature that is wrong', (k) => [withLines(k.first, ([plain, dated]) => [plain, dated, wrong(dated)]), {}]],
    ['in no proof', () => [{ logged: utf8('no'), opening: utf8('no'), consistency: [] }, {}]],
  ])('one %s is refused', async (_, damage) => {
    const [damaged, changes] = damage(known)
    await expect(checkComparison(damaged, expected(changes))).rejects.toThrow(IntaglioError)
  })

  test('it is believed until its last second, and from its first', async () => {
    for (const offset of [3600, -60]) await checkComparison(receipt(known.first), expected({ now: known.now + offset }))
    await expect(checkComparison(receipt(known.first), expected({ now: known.now + 3601 }))).rejects.toThrow('3601 seconds old; at most 3600')
    await expect(checkComparison(receipt(known.first), expected({ now: known.now - 61 }))).rejects.toThrow('in the future')
  })

  test('an entry of the history is believed where it stands, of this device, in a log that somebody signed lately', async () => {
    const trust = { memory: null, policy: alone(known.key), now: known.now }
    const [logged, opening, keyId] = [utf8(known.first.logged), new Opening(utf8(known.first.opening)), fromHex(known.facts.key_id)]
    expect((await checkHistory(logged, 0, opening, keyId, trust)).requester).toBe('example.org')
    await expect(checkHistory(logged, 1, opening, keyId, trust)).rejects.toThrow('entry 1 of the log is not about this device')
    await expect(checkHistory(logged, 0, opening, new Uint8Array(32), trust)).rejects.toThrow('is not about this device')
    await expect(checkHistory(logged, 0, new Opening(utf8(known.later.opening)), keyId, trust)).rejects.toThrow('does not belong to this entry')
    await expect(checkHistory(logged, 0, opening, keyId, { ...trust, policy: alone(known.other_key) })).rejects.toThrow(ProofError)
    await expect(checkHistory(logged, 0, opening, keyId, { ...trust, now: known.now + 3601 })).rejects.toThrow('seconds old')
  })

  test('what was asked for is done when the log has it, and nothing more', async () => {
    const trust = { memory: null, policy: alone(known.key), now: known.now }
    const done = { kind: 'revocation', facts: {} } as const
    await expect(checkDone([], [done], trust)).rejects.toThrow('shows 0 entries of the log for 1 things')
    await expect(checkDone([receipt(known.first), receipt(known.first)], [done], trust)).rejects.toThrow('shows 2 entries of the log for 1 things')
    await expect(checkDone([receipt(known.first)], [], trust)).rejects.toThrow('shows 1 entries of the log for 0 things')
    await expect(checkDone([receipt(known.first)], [done], trust)).rejects.toThrow('is not about the revocation')
    await expect(checkRevoked(receipt(known.first), fromHex(known.facts.key_id), trust)).rejects.toThrow('not about the revocation of this template')
    await expect(checkTombstone(receipt(known.first), 0, trust)).rejects.toThrow('no tombstone')
    expect(await checkDone([], [], trust)).toBeNull()
  })

  test('of several things that were done each stands in a log that only grew', async () => {
    const trust = { memory: await remembered(), policy: alone(known.key), now: known.now }
    const [done, forked] = [known.later, known.forked].map(({ opening }) => new Opening(utf8(opening)) as unknown as Done)
    expect((await checkDone([receipt(known.later), receipt(known.later)], [done, done], trust))!.checkpoint.head.size).toBeGreaterThan(1)
    await expect(checkDone([receipt(known.forked), receipt(known.later)], [forked, done], trust)).rejects.toThrow(ProofError)
    await expect(checkDone([receipt(known.later), receipt(known.forked)], [done, forked], trust)).rejects.toThrow(ProofError)
    await expect(checkDone([{ ...receipt(known.later), consistency: [] }, receipt(known.later)], [done, done], trust)).rejects.toThrow(ProofError)
  })

  test('facts are written as Python writes them, lists too', () => {
    expect(canonical({ b: [3, 1, { z: 1, a: [] }], a: '\u00e9\ud834\udd1e', A: null })).toBe('{"A":null,"a":"\\u00e9\\ud834\\udd1e","b":[3,1,{"a":[],"z":1}]}')
  })

  test('a log that forgot is refused', async () => {
    const { note } = await checkComparison(receipt(known.later), expected({ memory: await remembered() }))
    await expect(checkComparison(receipt(known.first), expected({ memory: note }))).rejects.toThrow('rolled back')
  })

  test('a log that forked is refused', async () => {
    await expect(checkComparison(receipt(known.forked), expected({ memory: await remembered() }))).rejects.toThrow(ProofError)
  })

  test('lines are put together again as they came', async () => {
    await checkComparison(withLines(known.first, (lines) => lines), expected())
    await checkComparison(withLines(known.first, ([plain, dated]) => [dated, plain, plain]), expected())
  })

  test('a log of another name than the one that is remembered is refused', async () => {
    const memory = (await remembered()).replace(/^.*/, 'another.example/log')
    await expect(checkComparison(receipt(known.later), expected({ memory }))).rejects.toThrow('of another log')
  })

  test('an entry of a version that is not known is refused', () => {
    const written = (version: number): Uint8Array => utf8(`{"commitment":"${'ab'.repeat(32)}","kind":"renewal","time":1,"version":${version}}`)
    expect(readEntry(written(1)).kind).toBe('renewal')
    expect(() => readEntry(written(2))).toThrow(MalformedMessageError)
  })

  test('growth that nobody asked for is refused', async () => {
    await expect(checkComparison(receipt(known.later), expected())).rejects.toThrow('remembers nothing')
  })

  test('growth without its proof is refused', async () => {
    await expect(checkComparison({ ...receipt(known.later), consistency: [] }, expected({ memory: await remembered() }))).rejects.toThrow(ProofError)
  })
})

describe('receipts that the Python device refuses', () => {
  interface Receipts {
    readonly key: string
    readonly now: number
    readonly memory: string
    readonly key_id: string
    readonly transcript: string
    readonly reply: string
    readonly whole: Readonly<Record<string, Written>>
    readonly damaged: Readonly<Record<string, Written>>
    /** Three keys; two of them are wanted. */
    readonly witnesses: readonly string[]
    readonly witnessed: Readonly<Record<string, Written>>
    readonly unwitnessed: Readonly<Record<string, Written>>
  }
  interface Written { readonly logged: string; readonly opening: string; readonly consistency: readonly string[] }
  let known: Receipts
  const check = (one: Written, policy: LogPolicy = alone(known.key)): Promise<unknown> => checkComparison(
    { logged: utf8(one.logged), opening: utf8(one.opening), consistency: one.consistency.map(fromHex) },
    {
      keyId: fromHex(known.key_id), transcript: fromHex(known.transcript), reply: fromHex(known.reply), requester: 'example.org', purpose: 'door-access',
      memory: known.memory, policy, now: known.now,
    })

  beforeAll(async () => { known = (await python('receipts', {})) as Receipts })

  test('the page believes those that are whole', async () => {
    for (const one of Object.values(known.whole)) await check(one)
    expect(Object.keys(known.whole)).toHaveLength(2)
  })

  test('the page believes none that is damaged', async () => {
    const believed: string[] = []
    for (const [name, one] of Object.entries(known.damaged)) {
      const error: unknown = await check(one).then(() => null, (reason: unknown) => reason)
      if (!(error instanceof MalformedMessageError || error instanceof ProofError)) believed.push(`${name}: ${String(error)}`)
    }
    expect(believed).toEqual([])
    expect(Object.keys(known.damaged).length).toBeGreaterThan(35)
  })

  test('the page believes those behind two of three witnesses, and none behind fewer', async () => {
    const policy = new LogPolicy({ key: known.key, witnesses: known.witnesses, threshold: 2 })
    for (const one of Object.values(known.witnessed)) await check(one, policy)
    for (const [name, one] of Object.entries(known.unwitnessed)) {
      await expect(check(one, policy), name).rejects.toThrow(/and 2 are needed|does not verify/)
    }
    expect([known.witnessed, known.unwitnessed].map((all) => Object.keys(all).length)).toEqual([5, 10])
  })

  /** Each line of a text gone, twice, turned round with the next one, and with a letter more, less or another. */
  function* damages(text: string): Generator<[string, string]> {
    const lines = text.split('\n')
    for (const [at, line] of lines.entries()) {
      const put = (...those: string[]): string => [...lines.slice(0, at), ...those, ...lines.slice(at + 1)].join('\n')
      const half = line.length >> 1
      yield [`without line ${at}`, put()]
      yield [`with line ${at} twice`, put(line, line)]
      yield [`with lines ${at} and ${at + 1} turned round`, [...lines.slice(0, at), ...lines.slice(at, at + 2).reverse(), ...lines.slice(at + 2)].join('\n')]
      for (const letter of [' ', '\r', '\t', '\u00a0', '\u2028', '=', '+', 'A', '0', '\0', '\ufeff']) {
        yield [`with ${JSON.stringify(letter)} before line ${at}`, put(letter + line)]
        yield [`with ${JSON.stringify(letter)} after line ${at}`, put(line + letter)]
        yield [`with ${JSON.stringify(letter)} within line ${at}`, put(line.slice(0, half) + letter + line.slice(half))]
        yield [`with ${JSON.stringify(letter)} for a letter of line ${at}`, put(line.slice(0, half) + letter + line.slice(half + 1))]
      }
      yield [`with line ${at} shorter`, put(line.slice(0, -1))]
      yield [`with the first letter of line ${at} gone`, put(line.slice(1))]
      yield [`with line ${at} in capitals`, put(line.toUpperCase())]
    }
  }

  /** Receipts that are made of a whole one here, by what was done to it. */
  function madeOf(whole: Written): Map<string, Written> {
    const made = new Map<string, Written>()
    for (const [name, logged] of damages(whole.logged)) made.set(`logged ${name}`, { ...whole, logged })
    for (const [name, opening] of damages(whole.opening.replaceAll(/[,{}]/g, '\n$&\n'))) made.set(`opening ${name}`, { ...whole, opening: opening.replaceAll(/\n/g, '') })
    for (let at = 0; at < whole.opening.length; at += 1) {
      made.set(`opening with another letter ${at}`, { ...whole, opening: `${whole.opening.slice(0, at)}${whole.opening[at] === 'a' ? 'b' : 'a'}${whole.opening.slice(at + 1)}` })
    }
    whole.consistency.forEach((hash, at) => {
      const put = (...those: string[]): string[] => [...whole.consistency.slice(0, at), ...those, ...whole.consistency.slice(at + 1)]
      for (const those of [[], [hash, hash], [hash.slice(2)], [`${hash}00`], [hash.replace(/^./, (digit) => (digit === '0' ? '1' : '0'))]]) {
        made.set(`growth with ${those.length} for hash ${at}: ${those.join()}`, { ...whole, consistency: put(...those) })
      }
    })
    made.set('growth turned round', { ...whole, consistency: [...whole.consistency].reverse() })
    return made
  }

  test.each<[string, () => Written, number]>([
    ['whom nobody has to watch', () => known.whole['in the middle'], 0],
    ['whom two of three have to watch', () => Object.values(known.witnessed)[0], 2],
  ])('the Python device believes no receipt that is damaged here, and neither does the page: of a log %s', async (_, one, threshold) => {
    const whole = one()
    const policy = new LogPolicy({ key: known.key, witnesses: known.witnesses, threshold })
    const made = [...madeOf(whole)].filter(([, damaged]) => JSON.stringify(damaged) !== JSON.stringify(whole))
    const refusals = (await python('refusals', { threshold, receipts: made.map(([, damaged]) => damaged) })) as (string | null)[]
    const verdicts: string[] = []
    const both: Written[] = []
    for (const [at, [name, damaged]] of made.entries()) {
      const error: unknown = await check(damaged, policy).then(() => null, (reason: unknown) => reason)
      const refused = error instanceof MalformedMessageError || error instanceof ProofError
      if (refused !== (refusals[at] !== null) || (error !== null && !refused)) verdicts.push(`${name}: the page says ${String(error)}, the device ${String(refusals[at])}`)
      if (!refused) both.push(damaged)
    }
    expect(verdicts).toEqual([])
    expect(made.length).toBeGreaterThan(700)
    const statement = ({ logged, ...rest }: Written): string => JSON.stringify([logged.replace(/\n\u2014 .*/gs, ''), rest])
    expect(both.map(statement).filter((said) => said !== statement(whole)), 'only lines of signatures may come twice or in another order').toEqual([])
    expect(both.length).toBeLessThan(made.length / 20)
  })
})
