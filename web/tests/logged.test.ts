/** What a device believes of a log, place by place: a log of the tests' own, whose every line can be another one. */

import { beforeAll, describe, expect, test } from 'vitest'

import { type Bytes, concat, fromHex, hex, sha256, utf8 } from '../src/bytes'
import { MalformedMessageError } from '../src/errors'
import {
  admitted, canonical, checkComparison, checkDone, checkHistory, checkRevoked, checkTombstone, type Done, enrolled, type LogReceipt, type LogTrust, Opening, readEntry, renewed, revoked,
} from '../src/log/entries'
import { LoggedEntry, LogKey, LogPolicy, SignedCheckpoint } from '../src/log/notes'
import { leafHash, verifyConsistency, verifyInclusion } from '../src/log/tree'
import { json, Log, noteOf, path, proof, root, Signer } from './a_log'
import { python } from './vectors'

const filled = (value: number, count = 32): Bytes => new Uint8Array(count).fill(value)
const text = (data: Uint8Array): string => new TextDecoder().decode(data)
const signer = new Signer('a.log', 1)
const TIME = 1_900_000_000
const trustOf = (memory: string | null, change: Partial<LogTrust> = {}): LogTrust => ({ memory, policy: new LogPolicy({ key: signer.key(), witnesses: [], threshold: 0 }), now: TIME + 7, ...change })

describe('things that were done', () => {
  const [mine, next, ticket, request] = [filled(11), filled(12), filled(13), filled(14)]
  const done: Done[] = [revoked(mine, request), enrolled(next, 'example.org', filled(15), utf8('a receipt')), renewed(mine, utf8('a newer receipt')), admitted(mine, ticket)]
  const log = new Log()
  let memory: string
  let receipts: LogReceipt[]

  beforeAll(() => {
    log.add('attempt', { something: 'else' }, { outcome: 'opened', purpose: 'door-access', requester: 'example.org' })
    log.add('erasure', { positions: [7] })
    memory = log.note()
    for (const { kind, facts } of done) log.add(kind, facts)
    receipts = done.map((_, i) => log.receipt(2 + i, { since: 2 }))
  })

  test('are each said as the log commits to it', () => {
    const digest = (value: Uint8Array): string => hex(sha256(value))
    expect(done).toEqual([
      { kind: 'revocation', facts: { key_id: '0b'.repeat(32), request: '0e'.repeat(32) } },
      { kind: 'enrolment', facts: { audience: 'example.org', device_public_key: '0c'.repeat(32), key_id: digest(next), receipt: digest(utf8('a receipt')), template: '0f'.repeat(32) } },
      { kind: 'renewal', facts: { key_id: '0b'.repeat(32), receipt: digest(utf8('a newer receipt')) } },
      { kind: 'admission', facts: { admits: '0d'.repeat(32), key_id: '0b'.repeat(32) } },
    ])
  })

  test('are believed together, and the last of them is remembered', async () => {
    expect(await checkDone(receipts, done, trustOf(memory))).toMatchObject({ position: 5, note: log.note(), checkpoint: { origin: 'a.log', head: { size: 6, root: root(log.leaves) } } })
    expect(await checkDone(receipts.slice(0, 2), done.slice(0, 2), trustOf(memory))).toMatchObject({ position: 3 })
    expect(await checkDone([log.receipt(2), log.receipt(3)], done.slice(0, 2), trustOf(null))).toMatchObject({ position: 3, note: log.note() })
    const shorter = log.receipt(3, { since: 2, size: 4 })
    expect(await checkDone([receipts[0], shorter], done.slice(0, 2), trustOf(memory))).toMatchObject({ position: 3, note: log.note(4) })
  })

  const fork = new Log()
  fork.add('erasure', { positions: [1] })
  fork.add('erasure', { positions: [2] })
  for (const { kind, facts } of done) fork.add(kind, facts)
  const stranger = new Log(new Signer('a.log', 2))
  const elsewhere = new Log(new Signer('another.log', 1))
  for (const one of [stranger, elsewhere]) for (const { kind, facts } of done) one.add(kind, facts)

  const alone = (place: number): Log => {
    const one = new Log()
    one.add(done[place].kind, done[place].facts)
    return one
  }

  /** What a server may show in the place of the entry about one thing, and what is said of it. */
  const LIES: Record<string, [(place: number) => LogReceipt, RegExp]> = {
    'in a log that forked': [(place) => fork.receipt(2 + place, { since: 2 }), /forked/],
    'in a log that was rolled back': [(place) => alone(place).receipt(0), /rolled back/],
    'without the proof that the log grew': [(place) => log.receipt(2 + place), /has 1 hashes where 3/],
    'with the proof of other growth': [(place) => log.receipt(2 + place, { since: 3 }), /hashes where|forked/],
    'of a stranger': [(place) => stranger.receipt(place, { since: 2 }), /lacks a signature/],
    'of another log': [(place) => elsewhere.receipt(place, { since: 2 }), /of another log than a\.log/],
    'an hour and more old': [(place) => log.receipt(2 + place, { since: 2, time: TIME - 3594 }), /3601 seconds old/],
    'in the future': [(place) => log.receipt(2 + place, { since: 2, time: TIME + 68 }), /in the future/],
    'of something else': [() => log.receipt(0, { since: 2 }), /is not about the/],
    'with the opening of another': [(place) => ({ ...log.receipt(2 + place, { since: 2 }), opening: log.openings[0] }), /does not belong/],
  }
  test.each(Object.keys(LIES).flatMap((name) => [0, 1, 2, 3].map((place) => [name, place] as const)))('an entry %s is not believed, whichever it is: %i', async (name, place) => {
    const [lie, said] = LIES[name]
    const shown = receipts.map((one, i) => (i === place ? lie(place) : one))
    await expect(checkDone(shown, done, trustOf(memory))).rejects.toThrow(said)
  })

  test.each([[0, 1], [1, 2], [0, 3]])('entries %i and %i the other way round are about other things', async (one, other) => {
    const shown = [...receipts]
    ;[shown[one], shown[other]] = [shown[other], shown[one]]
    await expect(checkDone(shown, done, trustOf(memory))).rejects.toThrow(`is not about the ${done[one].kind} that this device asked for`)
  })

  test('are no others because they begin alike', async () => {
    for (const [place, { kind, facts }] of done.entries()) {
      const other = (change: Readonly<Record<string, string>>, kinds: string = kind): Done[] => done.map((one, i) => (i === place ? { kind: kinds as Done['kind'], facts: { ...facts, ...change } } : one))
      for (const name of Object.keys(facts)) await expect(checkDone(receipts, other({ [name]: 'ff'.repeat(32) }), trustOf(memory)), name).rejects.toThrow('is not about')
      await expect(checkDone(receipts, other({ more: 'x' }), trustOf(memory))).rejects.toThrow('is not about')
      await expect(checkDone(receipts, other({}, kind === 'renewal' ? 'admission' : 'renewal'), trustOf(memory))).rejects.toThrow('is not about')
    }
  })

  test('are not believed beside proofs that nobody asked for', async () => {
    await expect(checkDone([log.receipt(2, { since: 2 })], [done[0]], trustOf(null))).rejects.toThrow('remembers nothing of it')
  })

  test('a revocation is believed of this template, whoever asked for it, in a log that grew', async () => {
    expect(await checkRevoked(receipts[0], mine, trustOf(memory))).toMatchObject({ position: 2, note: log.note() })
    for (const [shown, keyId, said] of [
      [receipts[0], next, 'not about the revocation of this template'], [receipts[2], mine, 'not about the revocation of this template'],
      [fork.receipt(2, { since: 2 }), mine, 'forked'], [log.receipt(2), mine, 'has 1 hashes where 3'], [{ ...receipts[0], opening: log.openings[3] }, mine, 'does not belong'],
    ] as const) await expect(checkRevoked(shown, keyId, trustOf(memory))).rejects.toThrow(said)
    await expect(checkRevoked(receipts[0], mine, trustOf(memory, { now: TIME + 3601 }))).rejects.toThrow('3601 seconds old')
  })
})

describe('a comparison', () => {
  const [keyId, transcript, reply] = [filled(21), utf8('a transcript'), utf8('a reply')]
  const facts = { key_id: hex(keyId), reply: hex(sha256(reply)), transcript: hex(sha256(transcript)) }
  const clear = { outcome: 'opened', purpose: 'door-access', requester: 'example.org' }
  const check = (log: Log, memory: string | null = null): Promise<unknown> =>
    checkComparison(log.receipt(1), { ...trustOf(memory), keyId, transcript, reply, requester: 'example.org', purpose: 'door-access' })
  const logOf = (kind: string, said: Readonly<Record<string, unknown>>, shown: Readonly<Record<string, unknown>>): Log => {
    const log = new Log()
    log.add('erasure', { positions: [] })
    log.add(kind, said, shown)
    return log
  }

  test('is believed where it stands', async () => {
    const log = logOf('attempt', facts, clear)
    expect(await check(log)).toMatchObject({ position: 1, note: log.note(), checkpoint: { head: { size: 2 } } })
    await expect(check(log, log.note(1))).rejects.toThrow('has 1 hashes where 2 are needed')
  })

  test.each<[string, string, Readonly<Record<string, unknown>>, Readonly<Record<string, unknown>>, string]>([
    ['of another device', 'attempt', { ...facts, key_id: hex(filled(22)) }, clear, 'about something else'], ['with another reply', 'attempt', { ...facts, reply: facts.transcript }, clear, 'about something else'],
    ['of another session', 'attempt', { ...facts, transcript: facts.reply }, clear, 'about something else'], ['about more', 'attempt', { ...facts, more: 1 }, clear, 'about something else'],
    ['of another kind', 'renewal', facts, {}, 'about something else'],
    ['for somebody else', 'attempt', facts, { ...clear, requester: 'example.com' }, 'does not say who asked'], ['for something else', 'attempt', facts, { ...clear, purpose: 'sign-in' }, 'does not say who asked'],
    ...['invalid', 'limited', 'not-covered', 'prohibited', 'replayed'].map((outcome): [string, string, typeof facts, Record<string, unknown>, string] => [`that was ${outcome}`, 'attempt', facts, { ...clear, outcome }, 'does not say who asked']),
    ['among several', 'attempt', facts, { ...clear, count: 2 }, 'and nothing else'],
  ])('%s is not opened', async (_, kind, said, shown, refused) => {
    await expect(check(logOf(kind, said, shown))).rejects.toThrow(refused)
  })

  test('stands in a history of this device, in its place', async () => {
    const log = logOf('attempt', facts, clear)
    const [logged, opening] = [log.receipt(1).logged, new Opening(log.openings[1])]
    expect(await checkHistory(logged, 1, opening, keyId, trustOf(null))).toMatchObject({ ...clear, kind: 'attempt', time: TIME - 5 })
    await expect(checkHistory(logged, 0, opening, keyId, trustOf(null))).rejects.toThrow('entry 0 of the log is not about this device')
    await expect(checkHistory(logged, 1, opening, filled(22), trustOf(null))).rejects.toThrow('entry 1 of the log is not about this device')
    await expect(checkHistory(logged, 1, new Opening(log.openings[0]), keyId, trustOf(null))).rejects.toThrow('does not belong')
    await expect(checkHistory(logged, 1, opening, keyId, trustOf(null, { now: TIME + 3601 }))).rejects.toThrow('3601 seconds old')
    await expect(checkHistory(logged, 1, opening, keyId, trustOf(null, { policy: new LogPolicy({ key: new Signer('a.log', 2).key(), witnesses: [], threshold: 0 }) }))).rejects.toThrow('lacks a signature')
  })
})

test('a tombstone names the revocation of this template, and stands in the log alone', async () => {
  const log = new Log()
  log.add('revocation', { key_id: 'ab'.repeat(32), request: 'cd'.repeat(32) })
  const tombstone = log.add('erasure', { positions: [3, 0, 9] })
  const other = log.add('erasure', { positions: [1, 2] })
  const none = log.add('erasure', { positions: '0' })
  const kind = log.add('renewal', { positions: [0] })
  for (const position of [0, 3, 9]) expect(await checkTombstone(log.receipt(tombstone), position, trustOf(null))).toBe(tombstone)
  for (const [receipt, position, said] of [
    [log.receipt(tombstone), 1, "somebody else's"], [log.receipt(other), 0, "somebody else's"], [log.receipt(none), 0, "somebody else's"],
    [log.receipt(kind), 0, 'no tombstone'], [log.receipt(tombstone, { since: 1 }), 0, 'no tombstone, or more than one'],
    [{ ...log.receipt(tombstone), opening: log.openings[other] }, 0, 'does not belong'], [log.receipt(tombstone, { time: TIME - 3594 }), 0, 'seconds old'],
  ] as const) await expect(checkTombstone(receipt, position, trustOf(null))).rejects.toThrow(said)
})

describe('trees of up to nine entries', () => {
  const leaves = Array.from({ length: 9 }, (_, i) => utf8(`entry ${i}`))
  const head = (size: number) => ({ size, root: root(leaves.slice(0, size)) })

  test('have every entry in its place, and no other', () => {
    for (let size = 1; size <= 9; size++) {
      for (let index = 0; index < size; index++) {
        const hashes = path(index, leaves.slice(0, size))
        verifyInclusion(leafHash(leaves[index]), index, head(size), hashes)
        if (size > 1) expect(() => { verifyInclusion(leafHash(leaves[index]), (index + 1) % size, head(size), hashes) }, `${index} of ${size}`).toThrow(/is not in this tree|hashes where/)
        expect(() => { verifyInclusion(leafHash(leaves[index]), index, head(size), [...hashes, filled(0)]) }).toThrow(`the proof has ${hashes.length + 2} hashes where ${hashes.length + 1} are needed`)
      }
    }
    for (const index of [-1, 9, NaN]) expect(() => { verifyInclusion(leafHash(leaves[0]), index, head(9), path(0, leaves)) }, String(index)).toThrow('cannot be in a tree of 9')
  })

  test('grow out of every smaller one, and out of nothing else', () => {
    for (let size = 1; size <= 9; size++) {
      for (let before = 1; before <= size; before++) {
        const hashes = proof(before, leaves.slice(0, size))
        verifyConsistency(head(before), head(size), hashes)
        const forked = [...leaves.slice(0, before - 1), utf8('another entry')]
        expect(() => { verifyConsistency({ size: before, root: root(forked) }, head(size), hashes) }, `${before} of ${size}`).toThrow('forked')
        expect(() => { verifyConsistency(head(before), { size, root: filled(1) }, hashes) }).toThrow('forked')
      }
      expect(() => { verifyConsistency({ size: size + 1, root: filled(0) }, head(size), []) }).toThrow(`a tree of ${size + 1} cannot be shown to have grown into one of ${size}`)
      expect(() => { verifyConsistency({ size: 0, root: root([]) }, head(size), []) }).toThrow('a tree of 0 cannot')
    }
  })

  test('have hashes of 32 bytes, also where the same bytes are divided otherwise', () => {
    const hashes = proof(6, leaves.slice(0, 7)) // the first two are hashed one after the other, and stand right of nothing
    expect(hashes.length).toBeGreaterThan(2)
    const [one, two, three] = hashes
    const moved = [[concat(one, two.slice(0, 1)), two.slice(1), three], [one.slice(0, 31), concat(one.slice(31), two), three], [one.slice(1), concat(two, one.slice(0, 1)), three]]
    for (const wrong of moved) expect(() => { verifyConsistency(head(6), head(7), [...wrong, ...hashes.slice(3)]) }).toThrow('every hash of a proof has 32 bytes')
    const [sibling, ...rest] = path(1, leaves.slice(0, 2))
    expect(() => { verifyInclusion(leafHash(leaves[1]), 1, head(2), [sibling.slice(0, 31), ...rest]) }).toThrow('every hash of a proof has 32 bytes')
  })
})

describe('notes and keys', () => {
  const leaves = [utf8('one'), utf8('two')]
  const both = (line: string): string => signer.plain(line) + signer.dated(line, TIME)
  const good = noteOf('a.log', leaves, both)
  const line = (name: string, value = btoa('\0'.repeat(68))): string => `\u2014 ${name} ${value}\n`
  const NOTES: Record<string, string> = {
    'as it is': good, 'of an empty tree': noteOf('a.log', [], both), 'of an empty tree with another root': noteOf('a.log', leaves, both).replace('\n2\n', '\n0\n'),
    'with a line more': noteOf('a.log', leaves, both, 'more\n'), 'with lines more': noteOf('a.log', leaves, both, 'more\nand more\n'), 'with an empty line more': noteOf('a.log', leaves, both, '\nmore\n'), 'with an empty line at the end': noteOf('a.log', leaves, both, 'more\n\n'),
    'of a log called cosignature/v1': noteOf('cosignature/v1', leaves, both), 'of a log without a name': noteOf('', leaves, both), 'of a log with a space': noteOf('a log', leaves, both),
    'with a control character': noteOf('a.log', leaves, both, 'mo\x01re\n'), 'with a tab': noteOf('a.log', leaves, both, 'mo\tre\n'), 'with DEL': noteOf('a.log', leaves, both, 'mo\x7fre\n'),
    'with size 02': good.replace('\n2\n', '\n02\n'), 'with size +2': good.replace('\n2\n', '\n+2\n'), 'without a size': good.replace('\n2\n', '\n'), 'with size -2': good.replace('\n2\n', '\n-2\n'), 'with the largest size that a double holds': good.replace('\n2\n', '\n9007199254740991\n'),
    'with size 2^63': good.replace('\n2\n', '\n9223372036854775808\n'), 'without signatures': good.replace(/\u2014[^]*/, ''), 'with 32 signatures': good + line('b').repeat(30), 'with 33 signatures': good + line('b').repeat(31),
    ...Object.fromEntries(['b', 'b+c', 'b\tc', 'b\u00a0c', 'b\u0085c', 'b\ufeffc', 'b\x1cc', '\u2028', 'b\u180ec', '\u00e4', 'b\x7f'].map((name) => [`signed by ${JSON.stringify(name)}`, good + line(name)])),
    'with a signature of nothing': good + line('b', btoa('\0'.repeat(4))), 'with a signature of one byte': good + line('b', btoa('\0'.repeat(5))), 'with a signature in another alphabet': good + line('b', '____'), 'with a letter for its last newline': good.replace(/\n$/, 'x'), 'with four words': good.replace(/\n$/, ' x\n'),
    'as large as it may be': good + line('b', btoa('\0'.repeat(3 * Math.floor((65_536 - utf8(good).length - 7) / 4)))), 'one letter too large': '',
  }
  const fill = 65_536 - utf8(NOTES['as large as it may be']).length
  NOTES['as large as it may be'] = noteOf('a.log', leaves, both, `${'x'.repeat(fill + utf8(NOTES['as large as it may be']).length - utf8(good).length - 1)}\n`)
  NOTES['one letter too large'] = NOTES['as large as it may be'].replace('xx', 'xxx')
  const key = (name: string, kind = 1, bytes = 32): string => {
    const raw = concat(Uint8Array.of(kind), filled(7, bytes))
    return `${name}+${hex(sha256(concat(utf8(`${name}\n`), raw)).slice(0, 4))}+${btoa(String.fromCharCode(...raw))}`
  }
  const KEYS = [
    ...['a.log', 'a', 'a b', 'a\tb', 'a\u0085b', 'a\ufeffb', '', '\u00e4', 'a\x1cb', 'cosignature/v1', 'a\nb'].map((name) => key(name)), key('a', 4), key('a', 2), key('a', 1, 31), key('a', 1, 33), key('a', 1, 0),
    `${key('a')}=`, key('a').toUpperCase(), key('a').replace(/\+[0-9a-f]{8}/, '+00000000'), 'a+b', 'a', '', `${key('a')}\n`, ` ${key('a')}`,
  ]

  test('are those that Python reads, and say the same', async () => {
    const told = (await python('reads', { notes: Object.values(NOTES), keys: KEYS })) as { notes: unknown[]; keys: ([string, number] | null)[] }
    const read = (one: () => unknown): unknown => { try { return one() } catch (error) { return (error as Error).name === 'MalformedMessageError' ? null : error } }
    const notes = Object.values(NOTES).map((note) => read(() => { const { origin, head } = new SignedCheckpoint(utf8(note)); return [origin, head.size, hex(head.root)] }))
    expect(Object.fromEntries(Object.keys(NOTES).map((name, i) => [name, notes[i]]))).toEqual(Object.fromEntries(Object.keys(NOTES).map((name, i) => [name, told.notes[i]])))
    const keys = KEYS.map((one) => [1, 4].flatMap((kind) => (read(() => new LogKey(one, kind as 1 | 4).origin) === null ? [] : [[new LogKey(one, kind as 1 | 4).origin, kind]]))[0] ?? null)
    expect(keys).toEqual(told.keys)
    expect([told.notes, told.keys].map((all) => [all.filter((one) => one === null).length > 8, all.filter((one) => one !== null).length > 4])).toEqual([[true, true], [true, true]])
  })

  test.each<[string, Uint8Array, string]>([
    ['a proof of as many bytes as one may have', filled(120, 65_536 + 131_070), 'a proof has lines, a blank line and a checkpoint'], ['one of more', filled(120, 65_536 + 131_071), 'at most 196606 bytes are read'],
    ['no text', Uint8Array.of(0xff, 10, 10), 'a note is UTF-8'], ['another header', utf8('c2sp.org/tlog-proof@v2\nextra eA==\nindex 0\n\n'), 'a proof begins with c2sp.org/tlog-proof@v1'],
    ['no entry', utf8('c2sp.org/tlog-proof@v1\nindex 0\n\n'), 'a proof begins with'], ['an entry that is called otherwise', utf8('c2sp.org/tlog-proof@v1\nextr eA==\nindex 0\n\n'), 'a proof begins with'], ['no index', utf8('c2sp.org/tlog-proof@v1\nextra eA==\n\n'), 'a proof begins with'],
    ['an index that is called otherwise', utf8('c2sp.org/tlog-proof@v1\nextra eA==\nindex0\n\n'), 'a proof begins with'], ['an entry in another spelling', utf8('c2sp.org/tlog-proof@v1\nextra eA=\nindex 0\n\n'), 'base64'],
    ['half an index', utf8('c2sp.org/tlog-proof@v1\nextra eA==\nindex 0.5\n\n'), 'not a number of entries'], ['no hash', utf8('c2sp.org/tlog-proof@v1\nextra eA==\nindex 0\n-\n\n'), 'base64'], ['no checkpoint', utf8('c2sp.org/tlog-proof@v1\nextra eA==\nindex 0\n\n'), 'a note has a text'],
  ])('%s is malformed', (_, data, said) => {
    expect(() => new LoggedEntry(data)).toThrow(MalformedMessageError)
    expect(() => new LoggedEntry(data)).toThrow(said)
  })

  const some = (count: number): string[] => Array.from({ length: count }, (_, i) => new Signer('w', 21 + i).key(4))
  test.each<[string, unknown, string | null]>([
    ['of the log alone', { witnesses: [], threshold: 0 }, null], ['of one of sixteen', { witnesses: some(16), threshold: 1 }, null], ['of all of sixteen', { witnesses: some(16), threshold: 16 }, null], ['of none of two', { witnesses: some(2), threshold: 0 }, null],
    ['of seventeen', { witnesses: some(17), threshold: 1 }, 'at most 16 witnesses'], ['of more than there are', { witnesses: some(2), threshold: 3 }, 'the threshold is 0 to 2, the number of witnesses'], ['of less than nobody', { witnesses: some(2), threshold: -1 }, 'the threshold is 0 to 2'],
    ['of half a witness', { witnesses: some(2), threshold: 0.5 }, 'the threshold is 0 to 2'], ['without a number', { witnesses: some(2) }, 'the threshold is 0 to 2'], ['without a list', { threshold: 0 }, 'at most 16 witnesses'], ['of one twice', { witnesses: [...some(2), some(1)[0]], threshold: 1 }, 'no two the same'],
    ['of a key under two names', { witnesses: [new Signer('w', 21).key(4), new Signer('x', 21).key(4)], threshold: 1 }, 'no two the same'], ['of the log as its own witness', { witnesses: [new Signer('w', 1).key(4)], threshold: 1 }, 'no two the same'],
    ['of a witness that signs plainly', { witnesses: [some(1)[0], new Signer('w', 22).key(1)], threshold: 1 }, 'the key id belongs to another key'], ['of a log that cosigns', { key: signer.key(4), witnesses: [], threshold: 0 }, 'the key id belongs to another key'], ['of no log', { key: undefined, witnesses: [], threshold: 0 }, 'NAME+ID+KEY'],
  ])('a policy %s is one, or none', (_, written, refused) => {
    const policy = (): LogPolicy => new LogPolicy({ key: signer.key(), ...(written as object) } as unknown as ConstructorParameters<typeof LogPolicy>[0])
    if (refused === null) {
      const { threshold, witnesses } = written as { threshold: number; witnesses: string[] }
      expect([policy().threshold, policy().witnesses.map((one) => one.id(4)), policy().key.origin]).toEqual([threshold, witnesses.map((one) => one.split('+')[1]), 'a.log'])
    } else expect(policy).toThrow(refused)
  })

  const witnesses = ['w1', 'w2', 'w3'].map((name, i) => new Signer(name, 11 + i))
  const policy = (threshold: number): LogPolicy => new LogPolicy({ key: signer.key(), witnesses: witnesses.map((one) => one.key(4)), threshold })
  const signed = (lines: (said: string) => string): SignedCheckpoint => new SignedCheckpoint(utf8(noteOf('a.log', leaves, lines)))
  const NOW = TIME + 7

  test.each<[string, (said: string) => string, number, RegExp | null]>([
    ['nobody, where nobody has to', both, 0, null],
    ['the first and the last of three, where two have to', (said) => both(said) + witnesses[0].dated(said, NOW) + witnesses[2].dated(said, NOW), 2, null],
    ['the last second', (said) => both(said) + witnesses[1].dated(said, NOW - 3600), 1, null], ['a second more', (said) => both(said) + witnesses[1].dated(said, NOW - 3601), 1, /^0 witnesses signed the checkpoint lately, and 1 are needed/],
    ['a minute ahead', (said) => both(said) + witnesses[1].dated(said, NOW + 60), 1, null], ['more than a minute ahead', (said) => both(said) + witnesses[1].dated(said, NOW + 61), 1, /^0 witnesses/],
    ['late, and lately again', (said) => both(said) + witnesses[1].dated(said, NOW) + witnesses[1].dated(said, NOW - 9000), 1, null], ['twice, where two have to', (said) => both(said) + witnesses[1].dated(said, NOW) + witnesses[1].dated(said, NOW), 2, /^1 witnesses/],
    ['of another tree', (said) => both(said) + witnesses[1].dated(`${said}x`, NOW), 1, /does not verify/], ['of another tree, though nobody has to', (said) => both(said) + witnesses[2].dated(`${said}x`, NOW), 0, /does not verify/],
    ['after all times', (said) => both(said) + witnesses[1].dated(said, 2n ** 63n), 0, /impossible time/], ['as late as there is', (said) => both(said) + witnesses[1].dated(said, 2n ** 63n - 1n), 0, null],
    ['plainly', (said) => both(said) + witnesses[1].plain(said), 1, /^0 witnesses/], ['a stranger', (said) => both(said) + new Signer('w1', 99).dated(said, NOW), 1, /^0 witnesses/],
    ['the log undated', (said) => signer.plain(said), 0, /lacks a signature of a\.log/], ['the log dated alone', (said) => signer.dated(said, TIME), 0, /lacks a signature of a\.log/],
    ...['plain', 'dated'].flatMap((kind) => ['first', 'last'].map((where): [string, (said: string) => string, number, RegExp | null] => [
      `the log twice, of another tree ${where}, ${kind}`, (said) => {
        const [right, wrong] = [said, `${said}x`].map((text) => (kind === 'plain' ? signer.plain(text) : signer.dated(text, TIME)))
        return (kind === 'plain' ? signer.dated(said, TIME) : signer.plain(said)) + (where === 'first' ? wrong + right : right + wrong)
      }, 0, /does not verify/,
    ])),
    ['the log long ago and now', (said) => both(said) + signer.dated(said, NOW - 9000), 0, null], ['the log dated of another tree', (said) => both(said) + signer.dated(`${said}x`, NOW), 0, /does not verify/],
    ['the log in the last second', (said) => signer.plain(said) + signer.dated(said, NOW - 3600), 0, null], ['the log a second before', (said) => signer.plain(said) + signer.dated(said, NOW - 3601), 0, /3601 seconds old; at most 3600/],
    ['the log a minute ahead', (said) => signer.plain(said) + signer.dated(said, NOW + 60), 0, null], ['the log further ahead', (said) => signer.plain(said) + signer.dated(said, NOW + 61), 0, /dated in the future/],
  ])('of a checkpoint that %s signed', async (_, lines, threshold, refused) => {
    const required = signed(lines).require(policy(threshold), NOW)
    if (refused === null) await required
    else await expect(required).rejects.toThrow(refused)
  })
})

describe('what is read', () => {
  const commitment = 'ab'.repeat(32)
  const person = { commitment, kind: 'renewal', time: 1, version: 1 }
  const attempt = { commitment, kind: 'attempt', outcome: 'limited', purpose: 'door-access', requester: 'example.org', time: 1, version: 1 }
  const program = { content: btoa('x'), kind: 'software', time: 1, version: 1 }
  const of = (bytes: number): string => btoa('x'.repeat(bytes))
  const without = (one: object, name: string): object => Object.fromEntries(Object.entries(one).filter(([key]) => key !== name))
  const ENTRIES: Record<string, [unknown, boolean]> = {
    ...Object.fromEntries(['admission', 'enrolment', 'erasure', 'renewal', 'revocation'].map((kind) => [kind, [{ ...person, kind }, true]])),
    ...Object.fromEntries(['deployment', 'moratorium', 'policy', 'release', 'software'].map((kind) => [kind, [{ ...program, kind }, true]])),
    ...Object.fromEntries(['invalid', 'limited', 'not-covered', 'opened', 'prohibited', 'replayed'].map((outcome) => [outcome, [{ ...attempt, outcome }, true]])),
    ...Object.fromEntries([person, attempt, program].flatMap((one) => [...Object.keys(one).map((name) => [`${one.kind} without ${name}`, [without(one, name), false]]), [`${one.kind} with more`, [{ ...one, more: 1 }, false]]])),
    ...Object.fromEntries([['kind', 'declaration'], ['kind', 5], ['time', -1], ['time', 0], ['time', '1'], ['time', 2 ** 53 - 1], ['version', 2], ['version', '1'], ['version', 0]].map(([name, value]) => [`${name} ${JSON.stringify(value)}`, [{ ...person, [name as string]: value }, name === 'time' && typeof value === 'number' && value >= 0]])),
    ...Object.fromEntries(['ab'.repeat(31), 'ab'.repeat(33), 'AB'.repeat(32), 5].map((value) => [`commitment ${value}`, [{ ...person, commitment: value }, false]])),
    ...Object.fromEntries([0, 1, 2, '2', true].map((count) => [`count ${JSON.stringify(count)}`, [{ ...attempt, count }, count === 2]])), 'two opened': [{ ...attempt, outcome: 'opened', count: 2 }, false],
    'a person counted': [{ ...person, count: 2 }, false], 'a person with content': [{ ...person, content: of(1) }, false], 'an attempt with content': [{ ...attempt, content: of(1) }, false], 'a program with a commitment': [{ ...program, commitment }, false],
    ...Object.fromEntries(['outcome', 'purpose', 'requester'].flatMap((name) => [[`${name} of none`, [{ ...attempt, [name]: 'No name' }, false]], [`${name} 5`, [{ ...attempt, [name]: 5 }, false]], [`a person with ${name}`, [{ ...person, [name]: 'opened' }, false]], [`a program with ${name}`, [{ ...program, [name]: 'opened' }, false]]])),
    'a program counted': [{ ...program, count: 2 }, false],
    'no content': [{ ...program, content: '' }, false], 'all content': [{ ...program, content: of(32_768) }, true], 'too much content': [{ ...program, content: of(32_769) }, false], 'content that is a number': [{ ...program, content: 5 }, false], 'content in another spelling': [{ ...program, content: 'eA' }, false],
    'a number': [5, false], 'nothing': [null, false], 'a list': [[], false], 'a text': ['x', false],
  }
  test.each(Object.keys(ENTRIES))('is an entry, or is none: %s', (name) => {
    const [value, is] = ENTRIES[name]
    if (is) expect(readEntry(json(value))).toEqual(value)
    else expect(() => readEntry(json(value))).toThrow(/^an entry (has a time, a version|is not canonical)|^a field is not base64/)
  })

  const opening = { facts: { key_id: 'x' }, kind: 'attempt', salt: '0f'.repeat(32) }
  const OPENINGS: Record<string, [unknown, boolean]> = {
    ...Object.fromEntries(['admission', 'attempt', 'enrolment', 'erasure', 'renewal', 'revocation', 'software', 'x'].map((kind) => [kind, [{ ...opening, kind }, kind !== 'software' && kind !== 'x']])),
    ...Object.fromEntries(Object.keys(opening).map((name) => [`without ${name}`, [without(opening, name), false]])), 'with more': [{ ...opening, more: 1 }, false],
    ...Object.fromEntries(['0f'.repeat(31), '0f'.repeat(33), '0F'.repeat(32), 5].map((salt) => [`salt ${salt}`, [{ ...opening, salt }, false]])),
    ...Object.fromEntries([null, 5, 'x', [], ['x']].map((facts) => [`facts ${JSON.stringify(facts)}`, [{ ...opening, facts }, false]])), 'no facts': [{ ...opening, facts: {} }, true],
    'all facts': [{ ...opening, facts: { a: 'x'.repeat(32_768 - 8) } }, true], 'too many facts': [{ ...opening, facts: { a: 'x'.repeat(32_768 - 7) } }, false], 'a kind that is a number': [{ ...opening, kind: 5 }, false], 'a list': [[], false], 'nothing': [null, false],
  }
  test.each(Object.keys(OPENINGS))('is an opening, or is none: %s', (name) => {
    const [value, is] = OPENINGS[name]
    if (is) expect({ ...new Opening(json(value)) }).toEqual({ kind: (value as typeof opening).kind, facts: (value as typeof opening).facts })
    else expect(() => new Opening(json(value))).toThrow(/^an opening (has a kind, facts and a salt, and nothing else|is not canonical JSON)$/)
  })

  test.each(['{"commitment":"ab"', ' {}', '{ }', '{"b":1,"a":1}', '{"a":1.0}', '{"a":"\u00e9"}'.replace('\\u00e9', '\u00e9'), '{"a":1,"a":1}', '\ufeff{}', ''])('in another spelling is none: %s', (written) => {
    for (const reading of [() => readEntry(utf8(written)), () => new Opening(utf8(written))]) expect(reading).toThrow('is not canonical JSON')
  })
})

test('canonical JSON is ASCII with sorted keys, and no fraction is written', () => {
  expect(canonical({ b: '\x7f\x80\u20ac\ud834\udd1e~', a: [null, true, -1, { d: 1, c: '' }] })).toBe('{"a":[null,true,-1,{"c":"","d":1}],"b":"\\u007f\\u0080\\u20ac\\ud834\\udd1e~"}')
  for (const number of [0.5, 2 ** 53, NaN]) expect(() => canonical({ a: number })).toThrow(RangeError)
  expect(text(json({ b: 1, a: fromHex('').length }))).toBe('{"a":0,"b":1}')
})
