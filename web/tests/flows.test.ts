/**
 * What the device and its owner do in each of their flows: what is called, in which order and with what, and what is thrown.
 *
 * Everything around them stands in and says what it was given; bytes are words. So a value that is mixed up or forgotten, a write
 * that is left out or not waited for, and a step that comes before or after its place change a line of `told/flows.txt`. Whatever
 * fails on the way, nothing more may be done.
 */

import { beforeEach, describe, expect, test, vi } from 'vitest'

import { hex, utf8 } from '../src/bytes'
import { Device } from '../src/device/device'
import { heldIn, Owner, revokeWith } from '../src/device/owner'
import { IntaglioError, MalformedMessageError, ProofError, RefusedError, UnavailableError, UsageError } from '../src/errors'
import { Decision } from '../src/wire/federation/wire/v1/verification_pb'

const world = vi.hoisted(() => {
  const told: string[] = []
  const state = { pending: 0, steps: 0, failing: -1, error: null as unknown, consents: 0, secrets: 0, randoms: 0 }
  const gives: Record<string, any> = {}
  const text = (bytes: Uint8Array): string => Array.from(bytes, (byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : byte === 0 ? '.' : `\\${byte.toString(16)}`)).join('')
  const word = (value: any): string => {
    if (typeof value === 'function') return 'a function'
    if (value instanceof Uint8Array) return value.length === 64 && value.every((bit) => bit < 2) ? `${value.reduce((sum, bit) => sum + bit, 0)} of 64 bits` : value.length > 8 && value.every((byte) => byte === 0) ? `${value.length} zeros` : `'${text(value)}'`
    if (value instanceof Float64Array) return `vector ${value.join(' ')}`
    if (Array.isArray(value)) return `[${value.map(word).join(', ')}]`
    if (typeof value === 'bigint') return `${value}n`
    if (typeof value === 'string') return value.replaceAll('\n', '/')
    if (typeof value === 'object' && value !== null) return value.called ?? `{ ${Object.entries(value).map(([name, one]) => `${name}: ${word(one)}`).join(', ')} }`
    return String(value)
  }
  /** One step. */
  const note = (name: string, ...given: unknown[]): void => {
    told.push(`${state.pending > 0 ? 'MEANWHILE ' : ''}${name}(${given.map(word).join(', ')})`)
    if (state.steps++ === state.failing) throw state.error
  }
  /** One that is over a while later: whoever does not wait for it is found out. */
  const slow = async <T>(answer: () => T, name: string, ...given: unknown[]): Promise<T> => {
    note(name, ...given)
    state.pending += 1
    for (let tick = 0; tick < 9; tick++) await undefined
    state.pending -= 1
    return answer()
  }
  const bytes = (words: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(words)
  return { told, state, gives, text, word, note, slow, bytes, consents: new Map<string, any>() }
})
const { told, state, gives, word, slow, consents } = world

vi.mock('../src/bytes', async (original) => ({
  ...await original<object>(),
  sha256: (data: Uint8Array) => world.bytes(`sha256(${world.text(data)})`),
  randomBytes: (count: number) => world.bytes(`random ${++world.state.randoms}`.padEnd(count, '_')),
}))
vi.mock('../src/log/notes', () => ({ LogPolicy: class { called: string; constructor(log: string) { this.called = `policy of ${log}` } } }))
vi.mock('../src/log/entries', () => {
  const done = (kind: string) => (...given: unknown[]) => ({ kind, called: `${kind}(${given.map(world.word).join(', ')})` })
  const check = (name: string, answer: (...given: any[]) => unknown) => (...given: any[]) => world.slow(() => answer(...given), name, ...given)
  class Opening {
    readonly called: string

    readonly kind: string

    constructor(data: Uint8Array) { this.called = world.text(data); this.kind = this.called.split('(')[0] }
  }
  return {
    Opening, enrolled: done('enrolment'), renewed: done('renewal'), admitted: done('admission'), revoked: done('revocation'),
    says: (opening: Opening, { called }: { called: string }) => opening.called === called,
    checkComparison: check('checkComparison', () => world.gives['logged']),
    checkDone: check('checkDone', (_deeds, due) => (due.length === 0 ? null : world.gives['enacted'])),
    checkRevoked: check('checkRevoked', () => ({ position: 21, note: 'log\n22\nafter the revocation' })),
    checkTombstone: check('checkTombstone', () => 23),
    checkHistory: check('checkHistory', (_logged, position) => ({ kind: 'attempt', time: 100 + position })),
  }
})
vi.mock('../src/onebit/template', () => ({
  TemplateSecret: {
    generate: (parameters: unknown, random: unknown) => {
      const called = `secret ${++world.state.secrets}`
      world.note('TemplateSecret.generate', parameters, random)
      return { called, template: (vector: unknown, other: unknown) => { world.note(`${called}.template`, vector, other); return world.bytes(`template of ${world.word(vector)}`) }, paddedCode: world.gives['coded'](called) }
    },
  },
}))
vi.mock('../src/onebit/transcript', async (original) => ({
  ...await original<object>(),
  transcriptBytes: (fields: unknown) => { world.note('transcriptBytes', fields); return world.bytes('the transcript') },
  changeDigest: (change: unknown) => world.bytes(`digest of ${world.word(change)}`), deviceChangeDigest: (change: unknown) => world.bytes(`digest of the device ${world.word(change)}`),
}))
vi.mock('../src/rules/policy', () => ({ requireAllowedBy: (...given: unknown[]) => { world.note('requireAllowedBy', ...given) } }))
vi.mock('../src/rules/rulebook', () => ({ Rulebook: { read: (...given: unknown[]) => world.slow(() => world.gives['rules'], 'Rulebook.read', ...given) } }))
vi.mock('../src/device/assertion', () => ({ checkAssertion: (...given: unknown[]) => world.slow(() => undefined, 'checkAssertion', ...given) }))
vi.mock('../src/device/devices', () => ({
  codeOf: (keyId: Uint8Array) => world.bytes(`code of ${world.text(keyId)}`), devicesIn: (...given: unknown[]) => world.slow(() => ['a device'], 'devicesIn', ...given),
}))
vi.mock('../src/wallet/receipts', () => {
  class SignedReceipt {
    readonly called: string

    constructor(readonly receipt: any, name = `consent ${++world.state.consents}`) { this.called = name; world.consents.set(name, this) }

    toBytes() { return world.bytes(this.called) }

    static fromBytes(data: Uint8Array) { return world.consents.get(world.text(data)) }

    findFault(...given: unknown[]) { world.note(`${this.called}.findFault`, ...given); return world.gives['faults'][this.called] ?? null }

    isSigned() { return world.slow(() => !world.gives['unsigned'].includes(this.called), `${this.called}.isSigned`) }
  }
  class Receipt {
    constructor(readonly receiptId: Uint8Array, readonly terms: unknown, readonly binding: unknown, readonly issuedAt: number, readonly expiresAt: number, readonly renews: unknown) {
      world.note('Receipt', receiptId, terms, binding, issuedAt, expiresAt, renews)
    }

    async sign(signer: (message: Uint8Array) => Promise<Uint8Array>) { await signer(world.bytes('the receipt')); return new SignedReceipt(this) }
  }
  return { Receipt, SignedReceipt }
})
const { SignedReceipt } = await import('../src/wallet/receipts')

// ------------------------------------------------------------------ a world in which everything has another name

const OLD = hex(utf8('old release'))
/** Of a vector, as many ones as its first number says. */
const bits = (called: string) => (vector: Float64Array): Uint8Array => { world.note(`${called}.paddedCode`, vector); return Uint8Array.from({ length: 64 }, (_, i) => Number(i < vector[0])) }
const TERMS = { audience: 'example.org', purposes: ['door', 'gate'], jurisdiction: 'DE', contest: 'mailto:now' }
const consent = (name: string, audience = 'example.org', more: object = {}): any => new (SignedReceipt as any)({
  receiptId: utf8(`id of ${name}`), terms: { audience, purposes: ['door'], jurisdiction: 'AT', contest: `mailto:${name}` },
  binding: { called: `binding of ${name}`, devicePublicKey: utf8('public key of mine'), keyId: utf8('key of mine'), templateDigest: utf8('template that was enrolled'), ...more }, issuedAt: 100, expiresAt: 100 + name.length,
}, name)

/** The secrets of a device, which say what becomes of them. */
function wallet(called: string, enrolment: Record<string, any> | null, checkpoint: string | null = 'log\n5\nas it was'): any {
  const made: any = {
    called, keyId: utf8(`key of ${called}`), devicePublicKey: utf8(`public key of ${called}`),
    memory: { enrolment, checkpoint, rules: `rules that ${called} saw`, names: { [hex(utf8(`code of key of ${called}`))]: `name of ${called}`, ab: 'another' } },
    requireEnrolment: () => { if (made.memory.enrolment === null) throw new UsageError('not enrolled'); return made.memory.enrolment },
    requireSecret: () => ({ paddedCode: bits(`secret of ${called}`) }),
    sign: (message: Uint8Array) => slow(() => utf8(`signed by ${called}`), `${called}.sign`, message),
    remember: (change: any) => slow(() => { Object.assign(made.memory, change) }, `${called}.remember`, change),
    begin: (secret: unknown, begun: any) => slow(() => { made.memory.enrolment = begun }, `${called}.begin`, secret, begun),
    forget: (change: object) => slow(() => { made.memory.enrolment &&= { ...made.memory.enrolment, ...change } }, `${called}.forget`, change),
    countAnswer: () => slow(() => { made.memory.enrolment = { ...made.memory.enrolment, answers: made.memory.enrolment.answers + 1 } }, `${called}.countAnswer`),
    takePlace: () => slow(() => undefined, `${called}.takePlace`),
  }
  return made
}

const session = (digest: string): unknown => ({ sessionId: utf8('session-16-bytes'), nonce: utf8('nonce-of-the-session-of-32-bytes'), releaseDigest: utf8(digest) })
const release = (name: string, threshold: number): any => ({ called: name, digest: hex(utf8(name)), parameters: { called: `parameters of the ${name}`, name: `${name} parameters` }, threshold, fmr: { called: `rate of the ${name}` } })
const manifest = (name: string): any => ({ standing: { called: `standing of the ${name}`, digest: hex(utf8(name)) }, audited: { called: `audit of the ${name}` }, requireServable: (trust: unknown, now: number) => slow(() => undefined, `manifest of the ${name}.requireServable`, trust, now) })
const key: any = {
  called: 'session key', parameters: { name: 'parameters of the key' },
  encrypt: (code: unknown) => { world.note('encrypt', code); return utf8('the probe') },
  openReply: (reply: unknown, transcript: unknown) => { world.note('openReply', reply, transcript); return gives['token'] },
}
const ENROLLED = {
  purpose: 'door', audience: 'example.org', releaseDigest: OLD, log: 'log of then', deployment: 'here', trust: { called: 'trust of then' }, state: 'enrolled', receipts: ['consent to one', 'consent to a site', 'consent to two'], answers: 6, failures: 2,
}
const SITE = { purpose: 'gate', audience: 'shop.example' }
const NONCE = utf8('nonce of an audience')
const filmed = (...numbers: number[]) => async (nonce: Uint8Array): Promise<any> => slow(() => Float64Array.of(...numbers), 'films', nonce)

let mine: any
let next: any
let transport: any
let deployment: any
let now: number

function reset(): void {
  told.length = 0
  Object.assign(state, { pending: 0, steps: 0, failing: -1, error: null, consents: 0, secrets: 0, randoms: 0 })
  consents.clear()
  for (const name of Object.keys(gives)) delete gives[name]
  const others = Object.fromEntries(['consent to one', 'consent to two'].map((name) => [name, consent(name)]))
  const site = consent('consent to a site', 'shop.example')
  Object.assign(gives, {
    coded: bits, faults: {}, unsigned: [], token: utf8('the-token'), logged: { called: 'the comparison', position: 7, note: 'log\n8\nafter the comparison' }, enacted: { called: 'the deed', position: 9, note: 'log\n10\nafter the deed' },
    rules: { called: 'rules', seen: 'rules that are seen now', deployment: (name: string) => gives['registered'][name] ?? null, follows: (one: string, other: string) => { world.note('follows', one, other); return gives['follows'] ?? true } },
    registered: Object.fromEntries(['here', 'before'].map((name) => [name, { issuer: { called: `issuer ${name}`, publicKey: 'key', address: 'address' } }])),
    StartEnrolment: { session: session('new release') }, StartVerification: { session: session('old release') },
    SubmitProbe: { reply: utf8('the reply'), log: { called: 'log of the comparison' } }, SubmitToken: { decision: Decision.MATCH, assertion: new Uint8Array(), deeds: ['the deeds'] },
    ListReceipts: { receipts: [others['consent to one'], site, others['consent to two']].map((one) => one.toBytes()) },
    Revoke: { log: { called: 'log of the revocation' } }, Erase: { log: { called: 'log of the erasure' } }, GetInclusion: { logged: { called: 'an entry' } },
    Export: { record: utf8('{"template":{"bytes":168}}'), receipts: [others['consent to one'].toBytes()], openings: [], next: 0n },
  })
  now = 1000
  mine = wallet('mine', { ...ENROLLED })
  next = wallet('next', null, null)
  transport = {
    called: 'transport', repeated: 0,
    call: ({ name }: { name: string }, request: unknown) => slow(() => { const answer = typeof gives[name] === 'function' ? gives[name](request) : gives[name]; if (answer instanceof Error) throw answer; return answer }, name, request),
  }
  deployment = {
    called: 'deployment', identifier: 'here', purpose: 'door', audience: 'example.org', terms: TERMS, days: 90, freeFailures: 5, log: 'log of now', trust: { called: 'trust of now' },
    release: release('old release', 5), manifest: manifest('old release'), readRules: () => slow(() => utf8('the rules'), 'readRules'),
  }
}
beforeEach(reset)

/** Each look at the clock is a second later. */
const device = (): Device => new Device(mine, transport, deployment, () => ++now)
const owner = (whose = mine): Owner => new Owner(whose, transport, () => ++now)

const fresh = (before: Record<string, any> | null = null) => (): void => {
  mine = wallet('mine', before, before === null ? null : 'log\n5\nas it was')
  Object.assign(deployment, { release: release('new release', 5), manifest: manifest('new release') })
}
/** The deployment has moved to another release. */
const moved = (): void => { Object.assign(deployment, { release: release('new release', 5), manifest: manifest('new release') }); gives['StartVerification'] = { session: session('new release') } }
const former = (): any => ({ release: release('old release', 3), manifest: manifest('old release') })
const noMatch = (): void => { gives['token'] = null; gives['SubmitToken'] = { ...gives['SubmitToken'], decision: Decision.NON_MATCH, deeds: [] } }
const told_ = (change: object) => (): void => { gives['SubmitToken'] = { ...gives['SubmitToken'], ...change } }
const all = (...each: (() => void)[]) => (): void => { for (const one of each) one() }
const give = (name: string, value: unknown) => (): void => { gives[name] = value }
const TICKET = utf8('a ticket')
const enrol = (ticket = TICKET) => (): Promise<unknown> => device().enrol(key, Float64Array.of(10), Float64Array.of(12), ticket)
const verify = (...more: any[]) => (): Promise<unknown> => device().verify(key, Float64Array.of(11), ...more)
const renew = (...more: any[]) => (): Promise<unknown> => device().renew(key, Float64Array.of(11), ...more)
const comeOver = (entered = 14) => (): Promise<unknown> => device().comeOver(key, Float64Array.of(10), { left: Float64Array.of(13), entered: Float64Array.of(entered) }, former(), next)
const opening = (words: string, position: number): unknown => ({ position: BigInt(position), opening: utf8(words) })
const started = (more: object = {}) => (): void => { mine = wallet('mine', { ...ENROLLED, state: 'started', receipts: ['consent to one'], ...more }) }
const exported = (...openings: [string, number][]) => give('Export', { record: utf8('{}'), receipts: [], openings: openings.map((one) => opening(...one)), next: 0n })
const ENROLMENT = "enrolment('public key of mine', example.org, 'template that was enrolled', 'consent to one')"

type Row = readonly [name: string, act: () => Promise<unknown>, prepare?: () => void]
const DONE: readonly Row[] = [
  ['enrol', enrol(), fresh()],
  ['enrol, after a try', enrol(), fresh({ ...ENROLLED, state: 'started', receipts: [], answers: 3 })],
  ['enrol, no match', enrol(), all(fresh(), noMatch)],
  ['verify', verify()],
  ['verify, no match', verify(), noMatch],
  ['verify, where nothing of the log was seen', verify(), () => { mine = wallet('mine', { ...ENROLLED }, null) }],
  ['verify, filmed', () => device().verify(key, filmed(11))],
  ['verify, for an audience', verify(NONCE), told_({ assertion: utf8('a.b.c') })],
  ['verify, filmed for an audience', () => device().verify(key, filmed(11), NONCE), told_({ assertion: utf8('a.b.c') })],
  ['verify, for an audience, no match', verify(NONCE), noMatch],
  ['verify, for a site', verify(NONCE, SITE), told_({ assertion: utf8('a.b.c') })],
  ['renew', renew()],
  ['renew, filmed', () => device().renew(key, filmed(11))],
  ['renew, no match', renew(), noMatch],
  ['renew, towards a site', renew(SITE)],
  ['renew, towards a site for the first time', renew({ purpose: 'gate', audience: 'third.example' })],
  ['renew, towards a site, at a deployment for another audience', renew(SITE), () => { deployment.audience = 'elsewhere.example' }],
  ['renew, which goes to another deployment', renew(), () => { mine.memory.enrolment.deployment = 'before' }],
  ['renew, towards a site, which goes to no other deployment', renew(SITE), () => { mine.memory.enrolment.deployment = 'before' }],
  ['renew, which goes to another deployment, no match', renew(), all(noMatch, () => { mine.memory.enrolment.deployment = 'before' })],
  ['come over', comeOver(), moved],
  ['come over, filmed', () => device().comeOver(key, Float64Array.of(10), async (nonce) => ({ left: await filmed(13)(nonce), entered: Float64Array.of(15) }), former(), next), moved],
  ['come over, no match', comeOver(), all(moved, noMatch)],
  ['come over, after a try, from another deployment, with a name and without one', comeOver(5), all(moved, () => { next = wallet('next', { ...ENROLLED, answers: 4 }); mine.memory.names = {}; mine.memory.enrolment.deployment = 'before' })],
  ['admit', () => device().admit(key, Float64Array.of(11), utf8('digest of a ticket'))],
  ['admit, no match', () => device().admit(key, Float64Array.of(11), utf8('digest of a ticket')), noMatch],
  ['remove', () => device().remove(key, Float64Array.of(11), utf8('key of another'))],
  ['remove, filmed', () => device().remove(key, filmed(11), utf8('key of another'))],
  ['settle, nothing', () => owner().settle()],
  ['settle, where no consent was signed', () => owner().settle(), started({ receipts: [] })],
  ['settle, of no enrolment', () => owner(next).settle()],
  ['settle, what was enrolled', () => owner().settle(), all(started(), exported(['attempt(one)', 3], ["enrolment('of another')", 4], [ENROLMENT, 6]))],
  ['settle, what was revoked', () => owner().settle(), all(started(), exported([ENROLMENT, 4], ['revocation(it)', 6]))],
  ['receipts', () => owner().receipts()],
  ['receipts, none any more', () => owner().receipts(), give('ListReceipts', { receipts: [] })],
  ['receipts, two newer ones that are in the log', () => owner().receipts(), all(() => { for (const name of ['newer', 'newest']) gives['ListReceipts'].receipts.push(consent(name).toBytes()) }, exported(["renewal('key of mine', 'newest')", 3], ["renewal('key of mine', 'newer')", 5]))],
  ['revoke', () => owner().revoke()],
  ['a revocation for a backup', () => owner().revocation()],
  ['erase', () => owner().erase()],
  ['erase, where the first answer was lost', () => owner().erase(), give('Erase', () => { transport.repeated += 1; return {} })],
  ['export', () => owner().export()],
  ['export, of three pages', () => owner().export(), give('Export', ({ openingsFrom }: { openingsFrom: bigint }) => ({ record: utf8(`{"template":{"bytes":${openingsFrom + 1n}}}`), receipts: [utf8(openingsFrom === 0n ? 'consent to one' : 'consent to two')], openings: [opening(`attempt(${openingsFrom})`, Number(openingsFrom)), opening(`more(${openingsFrom})`, Number(openingsFrom) + 1)], next: openingsFrom === 0n ? 5n : openingsFrom === 5n ? 6n : 0n }))],
  ['export, without a template', () => owner().export(), give('Export', { record: utf8('{}'), receipts: [], openings: [], next: 0n })],
  ['why it is refused: nobody knows', () => owner().whyRefused(), give('Export', { record: utf8(JSON.stringify({ attempts: [...Array(49).fill('non-match'), ...Array(9).fill('match')].map((decision) => ({ at: 1, decision })) })), receipts: [], openings: [opening('attempt(one)', 1)], next: 0n })],
  ['why it is refused: it is closed', () => owner().whyRefused(), give('Export', { record: utf8(JSON.stringify({ attempts: ['match', ...Array(49).fill('non-match'), 'not known'].map((decision) => ({ at: 1, decision })) })), receipts: [], openings: [], next: 0n })],
  ['why it is refused: it was removed', () => owner().whyRefused(), exported(['attempt(one)', 3], ['revocation(it)', 6], ['revocation(again)', 7])],
  ['devices', () => owner().devices()],
  ['history', () => owner().history(), exported(['attempt(one)', 3], ['attempt(two)', 5])],
  ['revoke with a backup', () => revokeWith({ keyId: utf8('key of a lost one'), audience: 'lost.example', issuedAt: 77, signature: utf8('signed long ago') }, transport, { policy: { called: 'the policy' } as never, now: 55 })],
  ['needs a consent: no', () => device().needsConsent(ENROLLED, false)],
  ['needs a consent: it has ended, and the person was told', () => device().needsConsent(ENROLLED, true), () => { gives['faults']['consent to two'] = 'expired' }],
  ['needs a consent: to a site for the first time', () => device().needsConsent({ purpose: 'gate', audience: 'third.example' }, true)],
  ['needs a consent: to a site, of the newest one', () => device().needsConsent(SITE, false), () => { gives['faults']['consent to two'] = 'expired' }],
]

const REFUSED: readonly Row[] = [
  ['enrol, twice', enrol(), fresh({ ...ENROLLED })],
  ['enrol, with a ticket that does not serve', enrol(), all(fresh(), give('StartEnrolment', new RefusedError('no ticket')))],
  ['enrol, with its own code', enrol(utf8('code of key of mine')), all(fresh(), give('StartEnrolment', new RefusedError('no ticket')))],
  ['enrol, and the server is away', enrol(), all(fresh(), give('StartEnrolment', new UnavailableError('away', 3)))],
  ...([['none', undefined], ['with a short id', { ...session('new release') as object, sessionId: new Uint8Array(15) }], ['with a long id', { ...session('new release') as object, sessionId: new Uint8Array(17) }],
    ['with a short nonce', { ...session('new release') as object, nonce: new Uint8Array(31) }], ['with a long nonce', { ...session('new release') as object, nonce: new Uint8Array(33) }], ['of another release', session('old release')]] as const)
    .map(([what, one]): Row => [`enrol, in a session that is ${what}`, enrol(), all(fresh(), give('StartEnrolment', { session: one }))]),
  ['enrol, under another release than the manifest is for', enrol(), all(fresh(), () => { deployment.manifest = manifest('old release') })],
  ['verify, without a consent to it', verify(new Uint8Array(), { purpose: 'gate', audience: 'third.example' })],
  ['verify, when the consent has a fault', verify(), () => { gives['faults']['consent to two'] = 'expired' }],
  ['verify, when the consent is not signed', verify(), () => { gives['unsigned'] = ['consent to two'] }],
  ['verify, when the consent ends meanwhile', verify(), () => { gives['SubmitProbe'] = () => { gives['faults']['consent to two'] = 'expired'; return { reply: utf8('the reply'), log: {} } } }],
  ['verify, after the release was changed', verify(), () => { deployment.manifest = manifest('new release') }],
  ['verify, in a session of another release', verify(), give('StartVerification', { session: session('new release') })],
  ['verify, and it is not logged', verify(), give('SubmitProbe', { reply: utf8('the reply') })],
  ['verify, and no decision is stated', verify(), told_({ decision: Decision.UNSPECIFIED })],
  ['verify, and a match is called none', verify(), told_({ decision: Decision.NON_MATCH })],
  ['verify, and what is no match is called one', verify(), all(noMatch, told_({ decision: Decision.MATCH }))],
  ['verify, and there is an assertion that nobody asked for', verify(), told_({ assertion: utf8('a.b.c') })],
  ['verify, and there is an assertion of no match', verify(NONCE), all(noMatch, told_({ assertion: utf8('a.b.c') }))],
  ['verify, and there is no assertion of a match', verify(NONCE)],
  ['verify, for an audience, where the rules do not have the deployment', verify(NONCE), () => { gives['registered'] = {} }],
  ['verify, for an audience, where nobody signs', verify(NONCE), () => { gives['registered']['here'].issuer = null }],
  ['verify, for an audience, under another key', verify(NONCE), () => { mine.memory.enrolment.deployment = 'before'; gives['registered']['here'].issuer = { publicKey: 'another key', address: 'address' } }],
  ['verify, for an audience, at another address', verify(NONCE), () => { mine.memory.enrolment.deployment = 'before'; gives['registered']['here'].issuer = { publicKey: 'key', address: 'another address' } }],
  ['verify, for an audience, under another key to which nothing leads', verify(NONCE), () => { mine.memory.enrolment.deployment = 'before'; gives['follows'] = false; gives['registered']['here'].issuer = { publicKey: 'another key', address: 'address' } }],
  ['renew, to a deployment to which nothing leads', renew(), () => { mine.memory.enrolment.deployment = 'before'; gives['follows'] = false }],
  ['renew, at a deployment for another audience', renew(), () => { deployment.audience = 'elsewhere.example' }],
  ['renew, where no consent is held', renew(), give('ListReceipts', { receipts: [] })],
  ['renew, when the newer consent has a fault', renew(), () => { gives['faults']['consent 1'] = 'for another audience' }],
  ['come over, from another release than the one of the enrolment', () => device().comeOver(key, Float64Array.of(10), { left: Float64Array.of(10), entered: Float64Array.of(10) }, { ...former(), release: release('third release', 3) }, next), moved],
  ['come over, at a deployment for another audience', comeOver(), all(moved, () => { deployment.audience = 'elsewhere.example' })],
  ['come over, at a deployment for another purpose', comeOver(), all(moved, () => { deployment.terms = { ...TERMS, purposes: ['gate'] } })],
  ['come over, to a deployment to which nothing leads', comeOver(), all(moved, () => { mine.memory.enrolment.deployment = 'before'; gives['follows'] = false })],
  ['come over, with one bit too many between the pictures', comeOver(16), moved],
  ['come over, with one bit too many on the other side', comeOver(4), moved],
  ['come over, filmed, with one bit too many', () => device().comeOver(key, Float64Array.of(10), async (nonce) => ({ left: await filmed(13)(nonce), entered: Float64Array.of(16) }), former(), next), moved],
  ['come over, when the new consent has a fault', comeOver(), all(moved, () => { gives['faults']['consent 1'] = 'for another purpose' })],
  ['come over, in a session of the release that is left', comeOver(), all(moved, give('StartVerification', { session: session('old release') }))],
  ['admit, when the consent has a fault', () => device().admit(key, Float64Array.of(11), utf8('digest of a ticket')), () => { gives['faults']['consent to two'] = 'expired' }],
  ['needs a consent: it has ended, and nobody was told', () => device().needsConsent(ENROLLED, false), () => { gives['faults']['consent to two'] = 'expired' }],
  ['needs a consent: to a site for the first time, and nobody was told', () => device().needsConsent({ purpose: 'gate', audience: 'third.example' }, false)],
  ['needs a consent: where nobody signs', () => device().needsConsent(ENROLLED, false), () => { gives['registered']['here'].issuer = null }],
  ['settle, and the server knows nothing', () => owner().settle(), all(started(), give('Export', new RefusedError('not enrolled here')))],
  ['settle, and the server is away', () => owner().settle(), all(started(), give('Export', new UnavailableError('away', 3)))],
  ['settle, what the log does not say', () => owner().settle(), all(started(), exported(['attempt(one)', 3]))],
  ['settle, what is of another template', () => owner().settle(), all(started(), exported(["enrolment('of another')", 3], ["enrolment('of a third')", 4]))],
  ['receipts, of no enrolment', () => owner(next).receipts()],
  ['receipts, where no consent was given', () => owner().receipts(), () => { mine.memory.enrolment.receipts = [] }],
  ...([['signed by another', { devicePublicKey: utf8('public key of another') }], ['for another template', { templateDigest: utf8('another template') }], ['not signed', {}]] as const).map(([what, change]): Row =>
    [`receipts, the last of which is ${what}`, () => owner().receipts(), () => { gives['unsigned'] = what === 'not signed' ? ['newer'] : []; gives['ListReceipts'].receipts.push(consent('newer', 'example.org', change).toBytes()) }]),
  ['receipts, in another order', () => owner().receipts(), () => { gives['ListReceipts'].receipts.reverse() }],
  ['receipts, the last of which is gone', () => owner().receipts(), () => { gives['ListReceipts'].receipts.pop() }],
  ['receipts, one of two newer ones is not in the log', () => owner().receipts(), all(() => { for (const name of ['newer', 'newest']) gives['ListReceipts'].receipts.push(consent(name).toBytes()) }, exported(["renewal('key of mine', 'newer')", 3]))],
  ['revoke, and it is not logged', () => owner().revoke(), give('Revoke', {})],
  ['revoke, of no enrolment', () => owner(next).revoke()],
  ['erase, and it is not logged', () => owner().erase(), all(() => { transport.repeated = 3 }, give('Erase', {}))],
  ['erase, and the revocation is not logged', () => owner().erase(), give('Revoke', {})],
  ['export, of the same page again', () => owner().export(), give('Export', ({ openingsFrom }: { openingsFrom: bigint }) => ({ record: utf8('{}'), receipts: [], openings: [], next: openingsFrom === 0n ? 4n : 4n }))],
  ['export, with something of the page before', () => owner().export(), give('Export', ({ openingsFrom }: { openingsFrom: bigint }) => ({ record: utf8('{}'), receipts: [], openings: openingsFrom === 0n ? [] : [opening('a(b)', 4), opening('a(b)', 3)], next: openingsFrom === 0n ? 4n : 0n }))],
  ['export, of no record', () => owner().export(), give('Export', { record: utf8('no record'), receipts: [], openings: [], next: 0n })],
  ['why it is refused: a stranger', () => owner().whyRefused(), give('Export', new RefusedError('not enrolled here'))],
  ['why it is refused: nobody can be asked', () => owner().whyRefused(), give('Export', new UnavailableError('away', 3))],
  ['revoke with a backup, and it is not logged', () => revokeWith({ keyId: utf8('key of a lost one'), audience: 'lost.example', issuedAt: 77, signature: utf8('signed long ago') }, transport, { policy: { called: 'the policy' } as never, now: 55 }), give('Revoke', {})],
]

/** Does it. @returns every step, and what came of it. */
async function lines([, act, prepare]: Row, failing = -1, error: unknown = null): Promise<string[]> {
  reset()
  prepare?.()
  Object.assign(state, { failing, error, steps: 0 })
  told.length = 0
  let end: string
  try {
    end = `= ${word(await act())}`
  } catch (thrown) {
    end = thrown === error && error !== null ? '! as it was raised' : thrown instanceof IntaglioError ? `! ${thrown.name}: ${thrown.message} ${word(thrown.why)}` : `! ${String(thrown)}`
  }
  return [...told, ...(state.pending > 0 ? ['NOBODY WAITED FOR IT'] : []), end]
}

test('every flow does this in this order with this, and ends like this', async () => {
  const sections: string[] = []
  for (const row of [...DONE, ...REFUSED]) sections.push([`# ${row[0]}`, ...await lines(row)].join('\n'))
  expect(sections.filter((section) => /MEANWHILE|NOBODY WAITED/.test(section))).toEqual([])
  await expect(`${sections.join('\n\n')}\n`).toMatchFileSnapshot('./told/flows.txt')
})

describe('whatever fails on the way, nothing more is done, and the error says what failed:', () => {
  /** Where an error is told in other words, or is the answer. */
  const RETOLD: Readonly<Record<string, (name: string, step: string) => boolean>> = {
    RefusedError: (name, step) => (name.startsWith('enrol') && step.startsWith('StartEnrolment')) || (name.startsWith('settle') && /^(mine\.sign|Export|GetInclusion|checkHistory)/.test(step)) || (name.startsWith('why it is refused') && /^(mine\.sign|Export)/.test(step)),
  }
  test.each([RangeError, ProofError, RefusedError, UnavailableError])('%o', async (kind) => {
    const others: string[] = []
    let count = 0
    for (const row of DONE) {
      const steps = (await lines(row)).length - 1
      for (let step = 0; step < steps; step++) {
        const said = await lines(row, step, new kind('broken'))
        const isRetold = RETOLD[kind.name]?.(row[0], said[step]) ?? false
        if (said.length !== step + 2 || (said.at(-1) === '! as it was raised') === isRetold) others.push(`${row[0]}: ${said.slice(step).join(' -> ')}`)
        count += 1
      }
    }
    expect(others).toEqual([])
    expect(count).toBeGreaterThan(500)
  })
})

test('an export that does not end is ended after a thousand pages', async () => {
  let page = 0
  give('Export', () => ({ record: utf8('{}'), receipts: [], openings: [], next: BigInt(++page) }))()
  await expect(owner().export()).rejects.toThrow('does not come to an end')
  expect(page).toBe(1000)
  page = 0
  give('Export', () => ({ record: utf8('{}'), receipts: [], openings: [], next: ++page === 1000 ? 0n : BigInt(page) }))()
  await expect(owner().export()).resolves.toMatchObject({ record: '{}' })
})

test('of a record the attempts, the time of the enrolment and the number of devices are read', () => {
  expect(heldIn('{}')).toEqual({ attempts: [], enrolledAt: null, devices: 0 })
  expect(heldIn('{"attempts":[{"at":1,"decision":"match","more":2},{"at":3,"decision":null}],"template":{"enrolled_at":5,"bytes":6},"devices":[1,2,3]}'))
    .toEqual({ attempts: [{ at: 1, decision: 'match' }, { at: 3, decision: 'null' }], enrolledAt: 5, devices: 3 })
  for (const wrong of ['{"attempts":[{"at":1,"decision":"match"},{"at":1.5,"decision":"match"}]}', '{"template":{"enrolled_at":"5"}}', '{"attempts":[{"decision":"match"}]}']) {
    expect(() => heldIn(wrong)).toThrow(MalformedMessageError)
  }
})
