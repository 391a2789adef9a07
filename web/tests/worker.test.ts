/**
 * What the worker does for each thing that the page asks: what is called, in which order and with what, and what it answers.
 *
 * Everything that it calls stands in and says what it was given. So a value that is mixed up or forgotten, a write that is left
 * out, and whatever stays behind after a failure change a line of `told/worker.txt`.
 */

import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'

import type { Action, Reply } from '../src/device/messages'

const world = vi.hoisted(() => {
  const told: string[] = []
  const word = (value: any): string => {
    if (typeof value === 'function') return 'a function'
    if (value instanceof Uint8Array) return value.length > 4 ? `${value.length} bytes ${value[0]}` : `bytes ${Array.from(value).join(' ')}`
    if (value instanceof Float64Array) return `vector ${Array.from(value).join(' ')}`
    if (value instanceof Blob) return 'a file'
    if (value instanceof ImageBitmap) return 'a frame'
    if (Array.isArray(value)) return `[${value.map(word).join(', ')}]`
    if (typeof value === 'object' && value !== null) return value.called ?? `{ ${Object.entries(value).map(([name, one]) => `${name}: ${word(one)}`).join(', ')} }`
    return typeof value === 'string' || typeof value !== 'bigint' ? String(value) : `${value}n`
  }
  const state = { pending: 0, steps: 0, failing: -1 }
  const note = (name: string, ...given: unknown[]): void => {
    told.push(`${state.pending > 0 ? 'NOT WAITED FOR: ' : ''}${name}(${given.map(word).join(', ')})`)
    if (!['wiped', 'let go', 'the film is let go'].includes(name) && state.steps++ === state.failing) throw new RangeError('secret')
  }
  /** What is done a while later: whoever does not wait for it is found out. */
  const later = async <T>(answer: T): Promise<T> => {
    state.pending += 1
    for (let tick = 0; tick < 9; tick++) await undefined
    state.pending -= 1
    return answer
  }
  return { told, word, note, later, state, keys: { made: 0 }, raised: {} as Record<string, unknown>, gives: {} as Record<string, any> }
})
const { told, note, word, gives, raised } = world

/** Something that notes each call, and gives or raises what the test wants. */
const stand = vi.hoisted(() => (name: string, otherwise: (...given: any[]) => unknown = () => undefined) => (...given: any[]): any => {
  const { note: noted, raised: raises, gives: given_ } = world
  noted(name, ...given)
  if (name in raises) throw raises[name]
  return name in given_ ? (typeof given_[name] === 'function' ? given_[name](...given) : given_[name]) : otherwise(...given)
})

vi.mock('../src/face/recogniser', () => ({
  Recogniser: {
    load: async (progress: (share: number) => void) => {
      progress(0.5)
      return {
        is: stand('recogniser.is', (digest) => digest === 'of the page'), advise: stand('advise', () => ({ advice: 'far', seen: { called: 'this glance' } })),
        cut: stand('cut', (image, profile) => Uint8Array.of(image.width, profile === 'probe' ? 1 : 0)), embed: stand('embed', (cut) => Float64Array.of(cut[0], cut[1])),
      }
    },
  },
}))
vi.mock('../src/face/fusing', async (original) => ({
  ...await original<object>(), fused: (all: Float64Array[]) => Float64Array.from(all.flatMap((one) => [...one])), requireDifferent: stand('requireDifferent'), requireOnePerson: stand('requireOnePerson'),
}))
vi.mock('../src/face/filming', () => ({
  Filming: class {
    constructor(_eye: unknown, movements: unknown, wanted: number) { world.note('Filming', movements, wanted) }

    see(_frame: ImageBitmap, seconds: number) { world.note('film sees', seconds); return { asked: null, done: 1, of: 1, isOver: true } }

    embedding(release: unknown) { world.note('embedding', release); return Float64Array.of(77) }

    [Symbol.dispose]() { world.note('the film is let go') }
  },
}))
vi.mock('../src/face/movements', () => ({ challengeOf: (nonce: Uint8Array, without: unknown) => `${nonce[0]} without ${without}` }))
vi.mock('../src/face/release', () => ({ ModelRelease: class { constructor(data: Uint8Array) { return releaseOf(new TextDecoder().decode(data)) as any } } }))
vi.mock('../src/rules/manifest', () => ({ SignedManifest: { fromBytes: (data: Uint8Array) => ({ called: `manifest ${new TextDecoder().decode(data)}` }) } }))
vi.mock('../src/onebit/seal', () => ({ Engine: { load: async (parameters: any) => { const { name } = await parameters; world.note('Engine.load', name); return { called: `engine ${name}`, parameters: { name } } } } }))
vi.mock('../src/onebit/device', () => ({ SessionKey: { generate: (engine: unknown) => { world.note('SessionKey', engine); const called = `session key ${++world.keys.made}`; return { called, [Symbol.dispose]: () => { world.note('wiped', { called }) } } } } }))
vi.mock('../src/device/transport', () => ({
  Transport: class {
    signal = new AbortController().signal

    called = 'transport'

    constructor(readonly observe: (message: unknown) => void) { world.gives['observe'] = observe; world.gives['transport'] = this }

    async call({ name }: { name: string }, request: unknown) { return stand(name)(request) }
  },
}))
vi.mock('../src/device/deployment', () => ({ deploymentOf: (told_: Uint8Array, release: Uint8Array, manifest: Uint8Array, readRules: unknown) => { world.note('deploymentOf', ...[told_, release, manifest].map((one) => new TextDecoder().decode(one)), readRules); return world.gives['deployment'] } }))
vi.mock('../src/device/device', () => ({
  Device: class {
    constructor(wallet: unknown, transport: unknown, deployment: unknown) {
      world.note('Device', wallet, transport, deployment)
      for (const name of ['enrol', 'verify', 'renew', 'comeOver', 'admit', 'remove', 'needsConsent']) {
        Object.assign(this, {
          [name]: async (...given: any[]) => {
            const filmed = await Promise.all(given.map((one) => (typeof one === 'function' ? one(new Uint8Array(32).fill(9)) : one)))
            return await world.later(stand(name, () => world.gives['outcome'])(...filmed))
          },
        })
      }
    }
  },
}))
vi.mock('../src/device/owner', () => ({
  Owner: class {
    constructor(wallet: unknown, transport: unknown) {
      world.note('Owner', wallet, transport)
      for (const name of ['settle', 'revoke', 'erase', 'export', 'history', 'revocation', 'devices', 'whyRefused']) Object.assign(this, { [name]: async () => world.later(stand(name)()) })
    }
  },
  revokeWith: async (...given: unknown[]) => world.later(stand('revokeWith')(...given)), heldIn: (record: string) => ({ attempts: [], enrolledAt: 5, devices: 2, of: record }),
}))
vi.mock('../src/wallet/backup', () => ({ openBackup: async (...given: unknown[]) => stand('openBackup')(...given), sealBackup: async (...given: unknown[]) => stand('sealBackup', () => new Uint8Array(3))(...given) }))
vi.mock('../src/wallet/wait', () => ({ keepWait: async (wait: unknown) => { world.note('keepWait', wait); await world.later(null) }, keptWait: async (name: unknown, now: unknown) => { world.note('keptWait', name, now); return 'a wait' }, waitAfter: (failures: number, free: number) => 100 * failures + free }))
vi.mock('../src/wallet/wallet', async () => {
  const { UsageError } = await import('../src/errors')
  class OutdatedWalletError extends UsageError {}
  const Wallet = Object.fromEntries(['look', 'open', 'begun', 'create', 'successor', 'delete'].map((name) => [name, async (...given: any[]) => world.later(stand(`Wallet.${name}`, () => null)(...given.map((one) => (one?.secret === undefined ? one : { called: `key ${one.secret[0]}` }))))]))
  return { MOST_ANSWERS: 500, OutdatedWalletError, Wallet: { ...Wallet, exclusively: async (work: () => Promise<unknown>) => { world.note('exclusively'); try { return await work() } finally { world.note('let go') } } } }
})
vi.mock('../src/rules/rulebook', () => ({ Rulebook: { read: (data: Uint8Array, seen: unknown) => { world.note('Rulebook.read', new TextDecoder().decode(data), seen); return { deployment: (identifier: string) => world.gives['rules'](identifier) } } } }))
vi.mock('../src/rules/policy', () => ({ leastPad: stand('leastPad', () => 'on-device') }))
vi.mock('../src/device/login', async () => ({ LoginRequest: { fromBytes: (data: Uint8Array) => JSON.parse(new TextDecoder().decode(data)) }, requireSite: stand('requireSite', () => ({ identifier: 'shop.example', operator: 'Shop Ltd' })) }))
vi.mock('../src/log/notes', () => ({ LogPolicy: class { called: string; constructor(policy: string) { this.called = `policy ${policy}` } } }))
vi.mock('../src/log/software', () => ({
  hashPage: async (read: (path: string) => Promise<Uint8Array>) => ({ hash: new TextDecoder().decode(await read('/a file')), files: 1, others: [] }), softwareIn: async (...given: unknown[]) => { world.note('softwareIn', ...given); return { log: 'has', commit: 'c', signer: 's' } },
}))

const releaseOf = vi.hoisted(() => (name: string) => ({
  called: name, digest: `digest of ${name}`, modelDigest: world.gives[`model of ${name}`] ?? 'of the page', parameters: { name: world.gives[`parameters of ${name}`] ?? 'small' }, references: 3, frames: 2, fmr: 'a rate',
  adapt: (vector: Float64Array, profile: string) => ({ called: `${profile} ${world.word(vector)} of ${name}` }),
}))

const NOW = 1_893_456_000
let answer: (message: MessageEvent<any>) => Promise<void>
const replies: Reply[] = []
const images: ImageBitmap[] = []
const errors = await import('../src/errors')
const { UnusableImageError } = await import('../src/face/finding')
const { OutdatedWalletError } = await import('../src/wallet/wallet')

const wallet = (called: string, enrolment: object | null = { state: 'enrolled', releaseDigest: 'digest of old' }) => ({
  called, keyId: new Uint8Array(32).fill(6), memory: { enrolment, rules: 'rules that were seen', names: { a: 'b' } }, requireEnrolment: () => enrolment,
  remember: async (change: unknown) => { note(`${called}.remember`, change); await world.later(null) }, takePlace: async () => { note(`${called}.takePlace`); await world.later(null) },
})
const SHOWN = { called: 'what is shown', state: 'enrolled', name: 'mine', lock: 'a lock', answers: 4, failures: 2, trust: 'its trust', consentExpires: NOW + 9, agreed: [['shop.example', ['door', 'gate'], NOW + 1], ['other.example', ['roof'], NOW + 1]], release: 'digest of now' }

const realBitmap = globalThis.createImageBitmap
const handler = window.onmessage

async function picture(width: number): Promise<Blob> {
  const canvas = new OffscreenCanvas(width, 1)
  canvas.getContext('2d')
  return await canvas.convertToBlob({ type: 'image/png' })
}
const pictures = (...widths: number[]): Promise<Blob[]> => Promise.all(widths.map(picture))

let ids = 0
/** Asks the worker. @returns what it was told and called, and its answer. */
async function asked(action: Action, argument?: unknown, { secret = Uint8Array.of(8, 8), locked = true, meanwhile = async (_id: number): Promise<void> => undefined } = {}): Promise<string[]> {
  told.length = replies.length = world.keys.made = world.state.steps = world.state.pending = 0
  const id = ids++
  const key = locked ? { lock: { kind: 'passphrase' }, secret } : null
  const answered = answer({ data: { id, action, argument, key } } as MessageEvent)
  await meanwhile(id)
  await answered
  const last = replies.find((one) => 'id' in one && one.id === id) as any
  const lines = [...told, ...replies.filter((one) => !('id' in one)).map((one) => `tells ${word(one)}`)]
  if (last.kind === 'done') lines.push(`= ${word(last.value)}`)
  else lines.push(`! ${last.fault.kind}: ${last.fault.message} ${word(last.fault.why)} ${last.fault.retryAfter}`)
  if (locked && secret.some((byte) => byte !== 0)) lines.push('THE SECRET STAYED')
  if (images.some(({ width }) => width > 0)) lines.push('A PICTURE STAYED')
  return lines.map((line) => line.replaceAll(location.origin, 'ORIGIN'))
}

beforeAll(async () => {
  Object.assign(gives, { deployment: null })
  window.postMessage = ((reply: Reply) => { replies.push(reply) }) as typeof window.postMessage
  vi.spyOn(globalThis, 'createImageBitmap').mockImplementation((async (source: ImageBitmapSource, options?: ImageBitmapOptions) => { const image = await realBitmap(source, options); images.push(image); try { note('opens', image.width, options) } catch (error) { image.close(); throw error } return image }) as typeof createImageBitmap)
  await import('../src/device/worker')
  answer = window.onmessage as unknown as typeof answer
  window.onmessage = handler
})

/** Everything is as it is. */
function resetWorld(): void {
  images.length = 0
  for (const name of Object.keys(raised)) delete raised[name]
  for (const name of Object.keys(gives)) if (!['transport', 'observe'].includes(name)) delete gives[name]
  const release = releaseOf('now')
  Object.assign(gives, {
    deployment: {
      called: 'deployment', release, identifier: 'trial', purpose: 'door', audience: 'example.org', days: 90, freeFailures: 5, terms: 'terms', log: 'of the deployment', trust: 'trust of today',
      manifest: { standing: { endsAt: 'its end' }, audited: 'audited', epsilon: 'epsilon', delta: 'delta', attacks: 'attacks', wolf: 'wolf' },
    },
    outcome: { called: 'a match', matched: true }, rules: (identifier: string) => ({ issuer: identifier === 'trial' ? 'an issuer' : null }),
    'Wallet.look': SHOWN, 'Wallet.open': wallet('mine'), 'Wallet.create': wallet('fresh', null), 'Wallet.successor': wallet('next', null),
    fetch: (path: string) => new Response(path.includes('former') ? 'old' : path),
  })
}

beforeEach(() => {
  resetWorld()
  vi.spyOn(Date, 'now').mockReturnValue(NOW * 1000 + 600)
  vi.spyOn(AbortSignal, 'timeout').mockImplementation((milliseconds) => Object.assign(new AbortController().signal, { milliseconds }))
  vi.spyOn(globalThis, 'fetch').mockImplementation(async (path, { credentials, redirect, cache, signal }: any = {}) => {
    if (signal?.milliseconds !== 10_000) note('IS WAITED FOR FOR EVER')
    note('fetch', path, credentials, redirect, cache); return gives['fetch'](path)
  })
})
afterEach(() => { vi.mocked(fetch).mockRestore(); vi.mocked(Date.now).mockRestore(); vi.mocked(AbortSignal.timeout).mockRestore() })

const NON_MATCH = { called: 'no match', matched: false }
const REQUEST = JSON.stringify({ client: 'shop.example', purpose: 'gate', redirectUri: 'https://www.shop.example:8443/x', audienceNonce: 'nonce of the request' })
const refusal = (why: any = null): Error => Object.assign(new errors.RefusedError('the server says: no', { why }), { isOfServer: true })
const nothing = (): void => undefined
type Row = readonly [name: string, action: Action, argument: () => unknown, prepare?: () => unknown, more?: Parameters<typeof asked>[2]]
const film = async (_id: number): Promise<void> => {
  await vi.waitUntil(() => replies.some(({ kind }) => kind === 'film'))
  const frame = await realBitmap(new ImageData(1, 1))
  await answer({ data: { id: ids++, action: 'follow', argument: { frame, seconds: 1.5 }, key: null } } as MessageEvent)
}
const face = async (...widths: number[]): Promise<unknown> => ({ face: { pictures: await pictures(...widths) } })

const ROWS: readonly Row[] = [
  ['begin', 'begin', nothing, () => { gives['GetCheckpoint'] = {} }, { locked: false }],
  ['begin, where the rules name no issuer', 'begin', nothing, () => { gives['rules'] = () => ({ issuer: null }) }, { locked: false }],
  ['begin, where the rules do not have the deployment', 'begin', nothing, () => { gives['rules'] = () => null; raised['leastPad'] = refusal() }, { locked: false }],
  ['begin, without the service', 'begin', nothing, () => { raised['GetCheckpoint'] = new errors.UnavailableError('away', 1, { name: 'why.unreachable' }) }, { locked: false }],
  ['status', 'status', nothing, nothing, { locked: false }],
  ['status, without keys', 'status', nothing, () => { gives['Wallet.look'] = null }, { locked: false }],
  ['status, with keys of old', 'status', nothing, () => { raised['Wallet.look'] = new OutdatedWalletError('old') }, { locked: false }],
  ['status, of another release', 'status', nothing, () => { gives['Wallet.look'] = { ...SHOWN, release: 'digest of old' } }, { locked: false }],
  ['status, of half an enrolment under another release', 'status', nothing, () => { gives['Wallet.look'] = { ...SHOWN, release: 'digest of old', state: 'started', trust: null } }, { locked: false }],
  ['status, of an enrolment that does not say its release', 'status', nothing, () => { const { release: _, ...shown } = SHOWN; gives['Wallet.look'] = shown }, { locked: false }],
  ['status, of damaged keys', 'status', nothing, () => { raised['Wallet.look'] = new errors.UsageError('damaged', { why: { name: 'why.damaged_wallet' } }) }, { locked: false }],
  ['glance', 'glance', nothing, nothing, { locked: false }],
  ['glance, with keys of old', 'glance', nothing, () => { raised['Wallet.look'] = new OutdatedWalletError('old') }, { locked: false }],
  ['watch, the first frame', 'watch', async () => ({ frame: await createImageBitmap(await picture(2)), profile: 'reference', begins: true }), nothing, { locked: false }],
  ['watch, the next', 'watch', async () => ({ frame: await createImageBitmap(await picture(2)), profile: 'probe', begins: false }), nothing, { locked: false }],
  ['watch, and it fails', 'watch', async () => ({ frame: await createImageBitmap(await picture(2)), profile: 'probe', begins: false }), () => { raised['advise'] = new RangeError('secret') }, { locked: false }],
  ['look', 'look', async () => ({ pictures: await pictures(1, 2, 3), references: 2 }), nothing, { locked: false }],
  ['look, at no face', 'look', async () => ({ pictures: await pictures(1, 2, 3), references: 2 }), () => { gives['cut'] = ({ width }: ImageBitmap) => { if (width === 2) throw new UnusableImageError('no face found', { why: { name: 'why.no_face', values: { least: 3 } } }); return Uint8Array.of(width) } }, { locked: false }],
  ['look, and it fails', 'look', async () => ({ pictures: await pictures(1, 2), references: 2 }), () => { raised['cut'] = new RangeError('secret') }, { locked: false }],
  ['enrol', 'enrol', async () => ({ pictures: await pictures(1, 2, 3), ticket: new Uint8Array(20).fill(5) }), () => { gives['Wallet.look'] = null; gives['Wallet.open'] = null }],
  ['enrol, locked', 'enrol', async () => ({ pictures: await pictures(1, 2), ticket: new Uint8Array(20) }), nothing, { locked: false }],
  ['enrol, over keys of old', 'enrol', async () => ({ pictures: await pictures(1, 2), ticket: new Uint8Array(20) }), () => { raised['Wallet.look'] = new OutdatedWalletError('old') }],
  ['enrol, over what was revoked', 'enrol', async () => ({ pictures: await pictures(1, 2), ticket: new Uint8Array(20) }), () => { gives['Wallet.look'] = { ...SHOWN, state: 'revoked' } }],
  ['enrol, after half an enrolment', 'enrol', async () => ({ pictures: await pictures(1, 2), ticket: new Uint8Array(20) }), () => { gives['Wallet.open'] = wallet('mine', { state: 'started' }) }],
  ['enrol, after half an enrolment that nobody knows', 'enrol', async () => ({ pictures: await pictures(1, 2), ticket: new Uint8Array(20) }), () => { gives['Wallet.open'] = wallet('mine', { state: 'started' }); raised['settle'] = refusal() }],
  ['enrol, after half an enrolment, and nobody can be asked', 'enrol', async () => ({ pictures: await pictures(1, 2), ticket: new Uint8Array(20) }), () => { gives['Wallet.open'] = wallet('mine', { state: 'started' }); raised['settle'] = new errors.UnavailableError('away') }],
  ['enrol, after half an enrolment that nobody proves', 'enrol', async () => ({ pictures: await pictures(1, 2), ticket: new Uint8Array(20) }), () => { raised['settle'] = new errors.ProofError('no') }],
  ['enrol, after half an enrolment that was revoked', 'enrol', async () => ({ pictures: await pictures(1, 2), ticket: new Uint8Array(20) }), () => { gives['Wallet.open'] = wallet('mine', { state: 'revoked' }) }],
  ['enrol, twice', 'enrol', async () => ({ pictures: await pictures(1, 2), ticket: new Uint8Array(20) })],
  ['enrol, and it is refused', 'enrol', async () => ({ pictures: await pictures(1, 2), ticket: new Uint8Array(20) }), () => { gives['Wallet.open'] = wallet('mine', null); raised['enrol'] = refusal({ name: 'why.ticket' }) }],
  ['verify', 'verify', async () => ({ ...(await face(1, 2)) as object, nonce: 'ab'.repeat(32) })],
  ['verify, for nobody', 'verify', async () => ({ ...(await face(1)) as object, nonce: null })],
  ['verify, no match', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { gives['outcome'] = NON_MATCH }],
  ['verify, filmed', 'verify', () => ({ face: { without: 'turning' }, nonce: null }), nothing, { meanwhile: film }],
  ['verify, and the service does not say why it refuses', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { raised['verify'] = refusal(); gives['whyRefused'] = { name: 'why.removed' } }],
  ['verify, and nobody says why it refuses', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { raised['verify'] = refusal(); gives['whyRefused'] = null }],
  ['verify, and nobody can be asked why it refuses', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { raised['verify'] = refusal(); raised['whyRefused'] = new errors.ProofError('no') }],
  ['verify, and it is said why it is refused', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { raised['verify'] = refusal({ name: 'why.site' }) }],
  ['verify, and this device refuses', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { raised['verify'] = new errors.RefusedError('not allowed') }],
  ['verify, and it has to wait', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { raised['verify'] = new errors.UnavailableError('wait', 59.2, { name: 'why.wait', values: { seconds: 60 } }) }],
  ['verify, and the service is away', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { raised['verify'] = new errors.UnavailableError('away', 1, { name: 'why.unreachable' }) }],
  ['verify, and something fails', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { raised['verify'] = new RangeError('secret') }],
  ['verify, without keys', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { gives['Wallet.open'] = null }],
  ['verify, where another wallet has taken its place', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { gives['Wallet.begun'] = wallet('next') }],
  ['verify, where another wallet was begun and nobody knows of it', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { gives['Wallet.begun'] = wallet('next', { state: 'started' }); raised['settle'] = refusal() }],
  ['verify, where another wallet was begun and nobody can be asked', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { gives['Wallet.begun'] = wallet('next', { state: 'started' }); raised['settle'] = new errors.UnavailableError('away') }],
  ['verify, where another wallet was begun and the log lies', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { gives['Wallet.begun'] = wallet('next', { state: 'started' }); raised['settle'] = new errors.ProofError('no') }],
  ['verify, where keys for another wallet were made', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), () => { gives['Wallet.begun'] = wallet('next', null) }],
  ['asked', 'asked', () => ({ request: REQUEST }), nothing, { locked: false }],
  ['asked, for another purpose than was agreed to', 'asked', () => ({ request: REQUEST.replace('gate', 'roof') }), nothing, { locked: false }],
  ['asked, in the second in which a consent ends', 'asked', () => ({ request: REQUEST }), () => { gives['Wallet.look'] = { ...SHOWN, agreed: [['shop.example', ['gate'], NOW + 0.6]] } }, { locked: false }],
  ['asked, without keys', 'asked', () => ({ request: REQUEST }), () => { gives['Wallet.look'] = null }, { locked: false }],
  ['asked, and the rules do not have it', 'asked', () => ({ request: REQUEST }), () => { raised['requireSite'] = new errors.RefusedError('no', { why: { name: 'why.site' } }) }, { locked: false }],
  ['login, agreed before', 'login', async () => ({ ...(await face(1)) as object, request: REQUEST, consents: false }), () => { gives['needsConsent'] = false }],
  ['login, agreed now', 'login', async () => ({ ...(await face(1)) as object, request: REQUEST, consents: true }), () => { gives['needsConsent'] = true }],
  ['login, agreed now, no match', 'login', async () => ({ ...(await face(1)) as object, request: REQUEST, consents: true }), () => { gives['needsConsent'] = true; gives['outcome'] = NON_MATCH }],
  ['renew', 'renew', () => face(1, 2)],
  ['renew, no match', 'renew', () => face(1), () => { gives['outcome'] = NON_MATCH }],
  ['over', 'over', async () => ({ pictures: await pictures(1, 2, 3), film: null })],
  ['over, filmed', 'over', async () => ({ pictures: await pictures(1, 2), film: { without: 'nodding' } }), nothing, { meanwhile: film }],
  ['over, with other parameters', 'over', async () => ({ pictures: await pictures(1, 2), film: null }), () => { gives['parameters of old'] = 'large'; gives['fetch'] = (path: string) => new Response(path.includes('release') ? 'old' : path) }],
  ['over, from a release for another recogniser', 'over', async () => ({ pictures: await pictures(1, 2), film: null }), () => { gives['model of old'] = 'of another page'; gives['fetch'] = () => new Response('old') }],
  ['over, where nobody comes over', 'over', async () => ({ pictures: await pictures(1, 2), film: null }), () => { gives['fetch'] = () => new Response('', { status: 404 }) }],
  ['over, from a release that is shown as another', 'over', async () => ({ pictures: await pictures(1, 2), film: null }), () => { gives['fetch'] = () => new Response('another') }],
  ['over, again', 'over', async () => ({ pictures: await pictures(1, 2), film: null }), () => { gives['Wallet.open'] = wallet('mine', { state: 'enrolled', releaseDigest: 'digest of now' }) }],
  ['revoke', 'revoke', nothing, () => { gives['revoke'] = 4 }],
  ['erase', 'erase', nothing, () => { gives['erase'] = 5 }],
  ['export', 'export', nothing, () => { gives['export'] = { record: 'a record', templateBytes: 168, receipts: [{ toBytes: () => new TextEncoder().encode('one') }, { toBytes: () => new TextEncoder().encode('two') }], openings: [1, 2, 3] } }],
  ['history', 'history', nothing, () => { gives['history'] = [{ position: 3 }] }],
  ['backup', 'backup', () => ({ passphrase: 'of the backup' }), () => { gives['revocation'] = { called: 'a revocation' } }],
  ['revokeLost', 'revokeLost', async () => ({ file: new Blob(['sealed']), passphrase: 'of the backup' }), () => { gives['openBackup'] = { called: 'a revocation', keyId: new Uint8Array(32).fill(0xab) } }, { locked: false }],
  ['code', 'code', nothing, () => { gives['Wallet.look'] = null; gives['Wallet.open'] = null }],
  ['admit', 'admit', async () => ({ ...(await face(1)) as object, code: new Uint8Array(20).fill(7), name: ' My  phone' })],
  ['admit, no match', 'admit', async () => ({ ...(await face(1)) as object, code: new Uint8Array(20).fill(7), name: 'My phone' }), () => { gives['outcome'] = NON_MATCH }],
  ['devices', 'devices', nothing, () => { gives['devices'] = [{ keyId: 'ab'.repeat(32), enrolledAt: 1, admittedBy: null }] }],
  ['rename', 'rename', () => ({ keyId: 'ab'.repeat(32), name: '  My \n phone ' })],
  ['remove', 'remove', async () => ({ ...(await face(1)) as object, keyId: 'ab'.repeat(32) })],
  ['forget', 'forget', nothing, nothing, { locked: false }],
  ['self', 'self', nothing, () => { gives['GetCheckpoint'] = { software: 8n }; gives['GetInclusion'] = { logged: 'an entry' } }, { locked: false }],
  ['self, of a log that does not say', 'self', nothing, () => { gives['GetCheckpoint'] = { software: 0n } }, { locked: false }],
  ['verify, which is stopped between two pictures', 'verify', async () => ({ ...(await face(1, 2)) as object, nonce: null }), () => { const id = ids; gives['cut'] = ({ width }: ImageBitmap) => { if (width === 1) void answer({ data: { cancel: id } } as MessageEvent); return Uint8Array.of(width) } }],
  ['verify, filmed, which is stopped meanwhile', 'verify', () => ({ face: { without: null }, nonce: null }), nothing, { meanwhile: async (id) => { await vi.waitUntil(() => replies.some(({ kind }) => kind === 'film')); await answer({ data: { cancel: id } } as MessageEvent) } }],
  ['verify, filmed, without a camera', 'verify', () => ({ face: { without: null }, nonce: null }), nothing, { meanwhile: async () => { await vi.waitUntil(() => replies.some(({ kind }) => kind === 'film')); await answer({ data: { id: ids++, action: 'follow', argument: { frame: null, seconds: 0 }, key: null } } as MessageEvent) } }],
  ['verify, which is stopped before it begins', 'verify', async () => ({ ...(await face(1)) as object, nonce: null }), nothing, { meanwhile: async (id) => { await answer({ data: { cancel: id } } as MessageEvent) } }],
]

describe('loading', () => {
  test('another try may do better, and a release for another recogniser is none of this page', async () => {
    gives['fetch'] = () => new Response('', { status: 503 })
    const first = await asked('status', undefined, { locked: false })
    for (const [action, argument] of [['glance'], ['code'], ['backup', { passphrase: 'long enough' }], ['rename', { keyId: 'ab', name: 'a' }], ['forget']] as const) {
      expect((await asked(action, argument)).filter((line) => line.startsWith('fetch') || line.startsWith('!')), action).toEqual([])
    }
    expect(first.at(-1)).toBe('! UnavailableError: the server cannot be reached; check the connection { name: why.unreachable } null')
    gives['fetch'] = (path: string) => new Response(path)
    gives['deployment'].release = releaseOf('elsewhere')
    gives['deployment'].release.modelDigest = 'of another page'
    const second = await asked('status', undefined, { locked: false })
    expect(second.at(-1)).toContain('! RefusedError: the model release is for another recogniser')
    gives['deployment'].release = releaseOf('now')
    const third = await asked('status', undefined, { locked: false })
    expect(third.at(-1)).toContain('= { state: enrolled')
    expect(third.filter((line) => line.startsWith('tells'))).toEqual(['tells { kind: loading, share: 0.5 }', ...['deployment', 'encryption', 'recogniser', 'wallet'].map((part) => `tells { kind: ready, part: ${part} }`)].sort((a, b) => third.indexOf(a) - third.indexOf(b)))
    expect(third.filter((line) => line.startsWith('deploymentOf'))).toEqual(['deploymentOf(/deployment.json, /release.json, /manifest.json, a function)'])
    expect((await asked('status', undefined, { locked: false })).filter((line) => line.startsWith('fetch'))).toEqual([])
  })
})

test('everything that the page can ask for is done in this order, with this, and leaves nothing behind', async () => {
  const sections: string[] = []
  for (const [i, [name, action, argument, prepare, more]] of ROWS.entries()) {
    if (i > 0) resetWorld()
    const given = await argument()
    prepare?.()
    images.length = 0
    if (given !== undefined && given !== null && typeof given === 'object' && 'frame' in given) images.push(given.frame as ImageBitmap)
    sections.push([`# ${name}`, ...await asked(action, given, more)].join('\n'))
  }
  expect(sections.filter((section) => /STAYED|FOR EVER|NOT WAITED/.test(section))).toEqual([])
  await expect(`${sections.join('\n\n')}\n`).toMatchFileSnapshot('./told/worker.txt')
})

test('whatever fails on the way, nothing more is done, nothing stays, and nobody is told what it was', async () => {
  const NAMES = ['enrol', 'verify', 'login, agreed now', 'renew', 'over', 'admit', 'remove', 'devices', 'rename', 'export', 'backup', 'revokeLost', 'code', 'self', 'revoke', 'erase', 'history', 'watch, the next', 'look', 'asked', 'status', 'forget']
  const others: string[] = []
  let count = 0
  for (const [name, action, argument, prepare, more] of ROWS.filter(([one]) => NAMES.includes(one))) {
    for (let step = 0, steps = 1; step < steps; step++) {
      resetWorld()
      const given = await argument()
      prepare?.()
      images.length = 0
      if (given !== undefined && given !== null && typeof given === 'object' && 'frame' in given) images.push(given.frame as ImageBitmap)
      if (step === 0) {
        await asked(action, given, more)
        steps = world.state.steps
        count += steps
        continue // that it waits for its turn does not fail
      }
      world.state.failing = step
      const lines = await asked(action, given, more).finally(() => { world.state.failing = -1 })
      const failed = told.filter((line) => !/^(wiped|the film is let go|let go)\(/.test(line))
      const keys = told.filter((line) => line.startsWith('SessionKey')).length - Number(failed.at(-1)!.startsWith('SessionKey'))
      const end = failed.at(-1)!.startsWith('fetch') ? '! UnavailableError: the server cannot be reached; check the connection { name: why.unreachable } null' : '! Error: something in this page failed null null'
      const isHeld = action === 'watch' || told.at(-1) === 'let go()'
      const isAlone = failed.length === step + 1 || failed.slice(step).every((line) => line.startsWith('fetch')) // some files are read at once
      if (!isAlone || told.filter((line) => line.startsWith('wiped')).length !== keys || !isHeld || lines.at(-1) !== end) others.push(`${name} ${step}: ${lines.slice(-7).join(' -> ')}`)
    }
  }
  expect(others).toEqual([])
  expect(count).toBeGreaterThan(150)
})

test('a message that was sent is shown with its length, and so is one that nobody answered', () => {
  replies.length = 0
  gives['observe']({ call: 'Verify', sent: Uint8Array.of(1), received: Uint8Array.of(1, 2) })
  gives['observe']({ call: 'Verify', sent: Uint8Array.of(1), received: null })
  expect(replies.map(word)).toEqual(['{ kind: sent, call: Verify, sent: bytes 1, received: 2 }', '{ kind: sent, call: Verify, sent: bytes 1, received: null }'])
})
