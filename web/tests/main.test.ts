/**
 * What follows on the page from what somebody does: which screen, and what is asked of the worker, the camera and the site.
 *
 * The worker, the camera and the site stand in and say what they were asked. So a picture that is kept too long, a ticket that is
 * forgotten or not, a button that does another thing, and a state that is left behind change a line of `told/page.txt`.
 */

import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'

import html from '../index.html?raw'
import type { Action, Fault, Status } from '../src/device/messages'
import { h } from '../src/page/dom'
import { speak } from '../src/page/texts'
import { ENROLLED, NOBODY, NOW, SITE } from './situations'

const world = vi.hoisted(() => ({
  told: [] as string[], keys: [] as { secret: Uint8Array }[], camera: null as any, worker: null as any, login: null as any, keyless: false, asks: null as any,
  word(value: any): string {
    if (value instanceof Blob) return `file ${(value as any).name ?? value.type}`
    if (value instanceof Uint8Array) return `${value.length} bytes ${Array.from(value.subarray(0, 4)).join(' ')}`
    if (value instanceof ImageBitmap) return 'a frame'
    if (Array.isArray(value)) return `[${value.map((one) => world.word(one)).join(', ')}]`
    if (typeof value === 'object' && value !== null) return `{ ${Object.entries(value).map(([name, one]) => `${name}: ${world.word(one)}`).join(', ')} }`
    return String(value)
  },
  note(name: string, ...given: unknown[]): void { world.told.push(`${name}(${given.map((one) => world.word(one)).join(', ')})`) },
}))
const { told, word, note } = world

vi.mock('../src/page/camera', async (original) => ({
  ...await original<object>(),
  Camera: class {
    element = document.createElement('div')

    constructor(readonly eye: unknown) { world.camera = this }

    waiting: PromiseWithResolvers<unknown> | null = null

    take({ profile, count, before }: { profile: string; count: number; before: readonly Blob[] }) { return this.#opened('camera.take', profile, count, before) }

    film() { return this.#opened('camera.film') }

    #opened(name: string, ...given: unknown[]) { world.note(name, ...given); this.waiting = Promise.withResolvers(); return this.waiting.promise }

    close() { world.note('camera.close'); this.waiting?.resolve(null); this.waiting = null }
  },
}))
vi.mock('../src/page/keeping', async (original) => { const real = await original<typeof import('../src/page/keeping')>(); return {
  ...real,
  keyFor: async (action: string, { lock, state }: Status, choose: (passkeys: boolean, fault: unknown) => Promise<{ kind: string }>) => {
    world.note('keyFor', action, state)
    if (lock !== null || action !== 'enrol') return null
    const { kind } = await choose(true, null)
    world.note('locked with', kind)
    const key = { lock: { kind }, secret: Uint8Array.of(1) }
    world.keys.push(key)
    return key
  },
  passphraseFor: async (what: string) => { world.note('passphraseFor', what); if (world.keyless) throw new real.LockedError('why.lock_kept'); return `passphrase of ${what}` },
} })
vi.mock('../src/page/login', () => ({
  Login: {
    of: (query: string, tell: (message: unknown) => void) => (new URLSearchParams(query).has('login') ? world.login = {
      request: async () => { world.note('login.request'); tell({ call: 'login/asked', sent: new Uint8Array(3), received: 5 }); if (world.login.error !== undefined) throw world.login.error; return 'the request' },
      answer: async (assertion: string) => { world.note('login.answer', assertion) }, refuse: () => { world.note('login.refuse') },
    } : null),
  },
}))

/** What the worker answers to each action: a value, what it fails with, or `held`: nothing yet. */
let answers: Partial<Record<Action, unknown>> = {}
const held: number[] = []
const failed = (kind: string, more: Partial<Fault> = {}): Error => Object.assign(new Error(), { fault: { kind, message: 'in its words', why: null, retryAfter: null, ...more } })

class FakeWorker {
  onmessage: ((message: MessageEvent) => void) | null = null

  constructor() { world.worker = this }

  postMessage({ id, action, argument, key, cancel }: any): void {
    if (cancel !== undefined) { note('cancel'); this.fail(held.pop()!, failed('CancelledError')); return }
    note(`asks ${action}`, ...(argument === undefined ? [] : [argument]), ...(key === null ? [] : [`with ${key.lock.kind}`]))
    const answer = answers[action as Action]
    if (answer === 'held') held.push(id)
    else if (answer instanceof Error) queueMicrotask(() => { this.fail(id, answer) })
    else queueMicrotask(() => { this.tell({ kind: 'done', id, value: answer ?? null }) })
  }

  tell(data: unknown): void { this.onmessage?.({ data } as MessageEvent) }

  fail(id: number, error: Error): void { this.tell({ kind: 'failed', id, fault: (error as any).fault }) }
}

const listeners = new Map<string, (event: Event) => void>()
let ticking: () => void
const written: string[] = []
/** Pictures that the page shows, and so keeps, by their addresses. */
const shown = new Set<string>()
const where = location.href
let pages = 0
const moment = (): Promise<void> => new Promise((resolve) => { const { port1, port2 } = new MessageChannel(); port1.onmessage = () => { port1.close(); resolve() }; port2.postMessage(null) })

/** What is shown, and what happened since the last look. */
async function look(did: string): Promise<void> {
  for (let i = 0; i < 4; i++) await moment()
  const dialog = document.querySelector('dialog[open]')
  const problem = [...document.querySelectorAll('.problem[role=alert]')].map(({ textContent }) => textContent).filter((text) => text !== '').join(' ')
  const kept = shown.size === 0 ? '' : ` [${shown.size} pictures are kept]`
  written.push(`> ${did}`, ...told.splice(0), `  ${dialog === null ? '' : `dialog over `}${document.body.dataset['screen']}: ${document.querySelector('#screen h1')?.textContent}${problem === '' ? '' : ` (${problem})`}${kept}`)
}

/** Loads the page anew. */
async function opens(title: string, status: Status | Error = NOBODY, query = '', more: typeof answers = {}): Promise<void> {
  document.body.innerHTML = new DOMParser().parseFromString(html, 'text/html').body.innerHTML
  answers = { begin: status, status: status instanceof Error ? null : status, ...more }
  world.keyless = false
  shown.clear()
  history.replaceState(null, '', `${new URL(where).pathname}${query}`)
  told.length = 0
  written.push('', `# ${title}`)
  const added = vi.spyOn(globalThis, 'addEventListener').mockImplementation((name: string, listener: any) => { listeners.set(name, listener) })
  const interval = vi.spyOn(globalThis, 'setInterval').mockImplementation(((tick: () => void, milliseconds: number) => { note('every', milliseconds); ticking = tick; return 0 }) as typeof setInterval)
  const page: string = `/src/page/main.ts?page=${++pages}`
  await import(/* @vite-ignore */ page)
  added.mockRestore()
  interval.mockRestore()
  await look('opens')
}

/** Clicks what says so. */
async function click(text: string): Promise<void> {
  const all = [...(document.querySelector('dialog[open]') ?? document.body).querySelectorAll<HTMLElement>('button, a, label')]
  const found = all.find((one) => one.textContent === text) ?? all.find((one) => one.getAttribute('aria-label') === text)
  if (found === undefined) throw new Error(`${written.slice(-12).join('\n')}\nnothing says ${text}: ${all.map(({ textContent }) => textContent).join(' | ')}`)
  const dialog = found.closest('dialog')
  const closed = new Promise((resolve) => { dialog === null ? resolve(null) : dialog.addEventListener('close', resolve, { once: true }) })
  found.click()
  await closed
  await look(`clicks "${text}"`)
}

async function types(id: string, text: string): Promise<void> {
  const field = document.getElementById(id) as HTMLInputElement
  field.value = text
  field.dispatchEvent(new Event('input'))
  field.dispatchEvent(new Event('change'))
  await look(`types into ${id}`)
}

const named = (name: string): Blob => Object.assign(new Blob([name]), { name })
/** The camera has so many pictures. */
async function pictured(count: number, name = 'picture'): Promise<void> {
  const { waiting } = world.camera
  world.camera.waiting = null
  waiting.resolve(Array.from({ length: count }, (_, i) => named(`${name} ${i + 1}`)))
  await look(`${count} pictures are taken`)
}

/** The camera fails. */
async function unseen(error: unknown): Promise<void> {
  world.camera.waiting.reject(error)
  world.camera.waiting = null
  await look('the camera fails')
}

/** The worker has done what was held. */
async function answered(value: unknown): Promise<void> {
  const id = held.pop()!
  if (value instanceof Error) world.worker.fail(id, value)
  else world.worker.tell({ kind: 'done', id, value })
  await look('the worker answers')
}

/** Chooses files. */
async function chooses(id: string, ...widths: number[]): Promise<void> {
  const files = new DataTransfer()
  for (const width of widths) {
    const canvas = new OffscreenCanvas(width, 1)
    canvas.getContext('2d')
    files.items.add(new File([await canvas.convertToBlob({ type: 'image/png' })], `file-${width}.png`, { type: 'image/png' }))
  }
  const input = document.getElementById(id) as HTMLInputElement
  input.files = files.files
  input.dispatchEvent(new Event('change'))
  if (id === 'files') await vi.waitUntil(() => document.querySelectorAll('.pictures li').length === widths.length)
  await look(`chooses ${widths.length} files`)
}

async function event(name: string, did: string): Promise<void> {
  listeners.get(name)!(new Event(name))
  await look(did)
}

const MATCH = { matched: true, position: 1234, assertion: null }
const NO_MATCH = { ...MATCH, matched: false }
const TICKET = 'abcd-efgh-ijkl-mnop-qrst-uvwx-yz23-4567'
const UNUSABLE = failed('UnusableImageError', { why: { name: 'why.no_face', values: { picture: 2 } } })
const FILM_NEEDED = failed('RefusedError', { why: { name: 'why.film_needed' } })
const AWAY = failed('UnavailableError', { why: { name: 'why.unreachable' }, retryAfter: 1 })

beforeAll(() => {
  vi.stubGlobal('Worker', FakeWorker)
  vi.spyOn(Date, 'now').mockReturnValue(NOW * 1000)
  const [create, revoke] = [URL.createObjectURL.bind(URL), URL.revokeObjectURL.bind(URL)]
  vi.spyOn(URL, 'createObjectURL').mockImplementation((blob) => { const url = create(blob); if ((blob as Blob).type.startsWith('image/')) shown.add(url); return url })
  vi.spyOn(URL, 'revokeObjectURL').mockImplementation((url) => { shown.delete(url); revoke(url) })
  vi.spyOn(Element.prototype, 'scrollIntoView').mockImplementation(function (this: Element) { note('scrolls to', this.id) })
})
beforeEach(() => { speak('en'); localStorage.removeItem('language') })
afterAll(() => {
  history.replaceState(null, '', where)
  document.body.replaceChildren()
  vi.unstubAllGlobals()
  vi.restoreAllMocks()
})

/** On the way from the welcome to the camera. */
async function agrees(ticket = TICKET): Promise<void> {
  await click('Enrol')
  await click('I agree. I can withdraw at any time, on this page.')
  if (ticket !== '') await types('ticket', ticket)
  await click('Continue')
}

test('what somebody does on the page has these consequences', async () => {
  await opens('somebody enrols with the camera', NOBODY, '', { enrol: MATCH })
  await agrees()
  await pictured(3)
  await click('I am ready')
  await pictured(1, 'confirming picture')
  answers.status = ENROLLED
  await click('Use a passkey')
  await click('Done')
  answers.verify = MATCH
  await click('Verify')
  await pictured(2, 'later picture')
  await click('Done')
  await click('Verify')
  await click('Cancel')
  answers.status = NOBODY
  await click('Withdraw my consent')
  await click('Withdraw')
  await click('Done')
  await click('Enrol')
  written.push(`  is a ticket asked for: ${document.getElementById('ticket') !== null}`)

  await opens('an enrolment takes a while once the keys are locked', NOBODY, '', { enrol: 'held' })
  await agrees()
  await pictured(3)
  await click('I am ready')
  await pictured(1, 'confirming picture')
  await click('Use a passkey')
  await answered(MATCH)

  await opens('with a ticket that is refused', { ...NOBODY, lock: ENROLLED.lock }, '', { enrol: failed('RefusedError', { why: { name: 'why.ticket' } }) })
  await agrees()
  await pictured(3)
  await click('I am ready')
  await pictured(1)
  await click('Try again')
  written.push(`  the ticket that is there: "${(document.getElementById('ticket') as HTMLTextAreaElement | null)?.value}"`)

  await opens('with a code that the other device has not taken yet', { ...NOBODY, lock: ENROLLED.lock }, '', { code: TICKET, enrol: failed('RefusedError', { why: { name: 'why.code' } }) })
  await click('Enrol with the help of another device')
  await click('The other device has let me in')
  await click('I agree. I can withdraw at any time, on this page.')
  await click('Continue')
  await pictured(3)
  await click('I am ready')
  await pictured(1)
  await click('Try again')
  written.push(`  is a ticket asked for: ${document.getElementById('ticket') !== null}`)
  await click('Back')
  await click('Enrol')
  written.push(`  is a ticket asked for: ${document.getElementById('ticket') !== null}`)

  await opens('and is refused without a word', { ...NOBODY, lock: ENROLLED.lock }, `#ticket=${TICKET}`, { enrol: failed('RefusedError') })
  written.push(`  in the address: "${location.hash}"`)
  await agrees('')
  await pictured(3)
  await click('I am ready')
  await pictured(1)
  await click('Back')
  await click('Enrol')
  written.push(`  is a ticket asked for: ${document.getElementById('ticket') !== null}`)

  await opens('and is not alike', { ...NOBODY, lock: ENROLLED.lock }, `#ticket=${TICKET}`, { enrol: NO_MATCH })
  await agrees('')
  await pictured(3)
  await click('I am ready')
  await pictured(1)
  await click('Try again')
  written.push(`  is a ticket asked for: ${document.getElementById('ticket') !== null}`)

  await opens('and does not lock the keys', NOBODY, `#ticket=${TICKET}`)
  await agrees('')
  await pictured(3)
  await click('I am ready')
  await pictured(1)
  await click('Cancel')

  await opens('and one of the pictures is of no use', { ...NOBODY, lock: ENROLLED.lock }, `#ticket=${TICKET}`, { enrol: UNUSABLE })
  await agrees('')
  await pictured(3)
  await click('I am ready')
  await pictured(1)
  await pictured(3, 'new picture')

  await opens('leaves the camera in the pause', NOBODY, `#ticket=${TICKET}`)
  await agrees('')
  await pictured(3)
  await click('Cancel')
  await agrees('')

  await opens('has no camera, and brings files', { ...NOBODY, lock: ENROLLED.lock }, `#ticket=${TICKET}`, { enrol: UNUSABLE })
  await agrees('')
  await unseen(new (await import('../src/page/camera')).NoCameraError())
  await chooses('files', 1, 2, 3, 4)
  await click('Enrol with these pictures')
  written.push(`  pictures that are there: ${document.querySelectorAll('.pictures li').length}`)
  answers = { ...answers, enrol: MATCH, status: ENROLLED }
  await click('Enrol with these pictures')

  await opens('and something else fails while somebody looks', ENROLLED, '', {})
  await click('Verify')
  await unseen(failed('UsageError', { why: { name: 'why.no_face' } }))

  await opens('verifies', ENROLLED, '', { verify: 'held' })
  await click('Verify')
  await pictured(2)
  for (const received of [10, null, 10]) { world.worker.tell({ kind: 'sent', call: 'Verify', sent: new Uint8Array(2), received }); written.push(`  bar: ${document.querySelector('progress')?.value}`) }
  await answered(MATCH)
  await click('Done')
  written.push(`  messages: ${document.querySelectorAll('#messages details').length}`)

  await opens('and is not the one', ENROLLED, '', { verify: NO_MATCH, status: { ...ENROLLED, failures: 1 } })
  await click('Verify')
  await pictured(2)
  await click('Try again')

  await opens('and stops it', ENROLLED, '', { verify: 'held' })
  await click('Verify')
  await click('Cancel')
  await click('Verify')
  await pictured(2)
  await click('Cancel')

  await opens('changes to files and back', ENROLLED, '', { verify: MATCH })
  await click('Verify')
  await click('Use picture files instead')
  await chooses('files', 1)
  await click('Use the camera instead')
  await pictured(2)
  await click('Done')
  await click('Verify')
  await click('Use picture files instead')
  written.push(`  pictures that are there: ${document.querySelectorAll('.pictures li').length}`)
  await chooses('files', 1)
  await click('Verify with this picture')

  await click('Done')
  await click('Verify')
  await click('Use picture files instead')
  await chooses('files', 1, 2)
  await click('Cancel')

  await opens('enrols with the camera after all', { ...NOBODY, lock: ENROLLED.lock }, `#ticket=${TICKET}`, { enrol: MATCH })
  await agrees('')
  await click('Use picture files instead')
  await chooses('files', 1, 2)
  await click('Use the camera instead')
  await pictured(3)
  await click('I am ready')
  await click('Use picture files instead')
  await chooses('files', 3)
  await click('Use the camera instead')
  await pictured(3)
  await click('I am ready')
  await pictured(1)

  await opens('is filmed, as the rules ask', { ...ENROLLED, pad: 'on-device' }, '', { verify: 'held' })
  await click('Verify')
  await click('Begin')
  world.worker.tell({ kind: 'film' })
  await look('the worker wants a film')
  world.camera.waiting.resolve(undefined)
  await look('the film is over')
  await answered(failed('UnusableImageError', { why: { name: 'why.film_too_late' } }))
  await click('Begin')
  world.worker.tell({ kind: 'film' })
  await look('the worker wants a film')
  await unseen(new Error('no camera'))
  await answered(failed('UnusableImageError', { why: { name: 'why.film_camera' } }))

  await opens('is filmed, as was found out', ENROLLED, '', { verify: FILM_NEEDED })
  await click('Verify')
  await pictured(2)
  answers.verify = MATCH
  await click('Begin')

  await opens('would rather be filmed, and stops it', ENROLLED, '', { verify: 'held' })
  await click('Verify')
  await click('Move my head as asked instead')
  await click('Begin')
  world.worker.tell({ kind: 'film' })
  await look('the worker wants a film')
  await click('Cancel')

  await opens('is not filmed where nobody waits for it', ENROLLED, '', { export: 'held' })
  world.worker.tell({ kind: 'film' })
  await look('the worker wants a film, late')
  await click('What the service holds about me')
  world.worker.tell({ kind: 'film' })
  await look('the worker wants a film, late')

  await opens('is not supervised', { ...ENROLLED, pad: 'supervised' })
  await click('Verify')

  await opens('has to wait', { ...ENROLLED, failures: 6, wait: { name: 'n', until: NOW + 40, of: 60 } })
  await click('Verify')
  vi.mocked(Date.now).mockReturnValue((NOW + 1) * 1000)
  ticking()
  written.push(`  clock: ${document.querySelector('.clock')?.textContent}`)
  vi.mocked(Date.now).mockReturnValue((NOW + 40) * 1000)
  ticking()
  await look('40 seconds later')
  answers.verify = failed('UnavailableError', { why: { name: 'why.wait', values: { seconds: 60 } }, retryAfter: 60 })
  await click('Try again')
  await pictured(2)
  vi.mocked(Date.now).mockReturnValue(NOW * 1000)

  await opens('comes over', { ...ENROLLED, isBehind: true }, '', { over: MATCH })
  await click('Come over')
  await click('I agree. I can withdraw at any time, on this page.')
  await click('Continue')
  await pictured(3)
  await click('I am ready')
  await pictured(1, 'confirming picture')

  await opens('comes over, filmed', { ...ENROLLED, isBehind: true, pad: 'on-device' }, '', { over: failed('UnusableImageError', { why: { name: 'why.film_too_late' } }) })
  await click('Come over')
  await click('I agree. I can withdraw at any time, on this page.')
  await click('Continue')
  await pictured(3)
  await click('Begin')
  await pictured(3, 'new picture')

  await opens('renews a consent', { ...ENROLLED, consentExpires: NOW }, '', { renew: MATCH })
  await click('Renew my consent')
  await click('I agree. I can withdraw at any time, on this page.')
  await click('Continue')
  await pictured(2)

  await opens('lets another device in', ENROLLED, '', { devices: [{ keyId: '8c41f2a903de77b0'.repeat(4), enrolledAt: NOW, admittedBy: null, name: null }, { keyId: '0b5d7a11c2e94f60'.repeat(4), enrolledAt: NOW, admittedBy: null, name: 'My phone' }], admit: MATCH, remove: NO_MATCH, rename: 'Our phone' })
  await click('My devices')
  await types('code', TICKET)
  await types('code-name', 'My tablet')
  await click('Let it in')
  await pictured(2)
  await click('Done')
  await click('My devices')
  const [, other] = document.querySelectorAll<HTMLElement>('#devices li')
  other.querySelector<HTMLButtonElement>('.destructive')!.click()
  await look('removes the other device')
  await click('Keep it')
  other.querySelector<HTMLButtonElement>('.destructive')!.click()
  await look('removes the other device')
  await click('Remove')
  await pictured(2)
  await click('Back')
  await click('My devices')
  const field = document.querySelectorAll<HTMLInputElement>('.renaming input')[1]
  field.value = 'our phone'
  field.form!.requestSubmit()
  await look('names the other device')
  written.push(`  they are called: ${[...document.querySelectorAll('#devices strong')].map(({ textContent }) => textContent).join(', ')}`)
  answers.rename = ''
  document.querySelectorAll<HTMLInputElement>('.renaming input')[1].form!.requestSubmit()
  await look('takes the name away')
  written.push(`  they are called: ${[...document.querySelectorAll('#devices strong')].map(({ textContent }) => textContent).join(', ')}`)

  const HELD = { record: '{}', templateBytes: 168, receipts: [], entries: 2, enrolledAt: NOW, devices: 3, attempts: [] }
  await opens('asks for everything', ENROLLED, '', { export: HELD, history: [], backup: new Blob(), self: { hash: 'ab', files: 1, others: [], log: 'none', position: null, commit: '', signer: '' }, erase: 7 })
  await click('What the service holds about me')
  await click('What the public log says about me')
  await click('Make a backup that deletes this device, should it be lost')
  await click('Compare this page with the public log')
  world.keyless = true
  await click('Make a backup that deletes this device, should it be lost')
  await click('Back')
  answers.history = AWAY
  await click('What the public log says about me')
  answers.history = []
  await click('Try again')
  for (const [what, yes] of [['Withdraw my consent', 'Withdraw'], ['Erase everything about me', 'Erase'], ['Delete the keys in this browser', 'Delete']]) {
    await click(what)
    await click('Keep it')
    await click(what)
    await click(yes)
    answers.status = ENROLLED
    await click('Done')
    document.querySelectorAll<HTMLElement>('.endings button')[0].click()
    await look('wants to withdraw')
    const dialog = document.querySelector('dialog[open]') as HTMLDialogElement
    const closed = new Promise((resolve) => { dialog.addEventListener('close', resolve, { once: true }) })
    dialog.close() // as the Escape key does
    await closed
    await look('would rather not')
  }

  await opens('lost a device', NOBODY, '', { revokeLost: '8c41f2a903de77b0' })
  await chooses('backup-file', 1)
  world.keyless = true
  await chooses('backup-file', 1)

  await opens('cannot stop what is done', ENROLLED, '', { export: 'held' })
  await click('What the service holds about me')
  await click('Cancel')

  await opens('an organisation asks', ENROLLED, `?nonce=${'5a'.repeat(32)}`, { verify: { ...MATCH, assertion: 'a.b.c' } })
  await click('Verify for them')
  await pictured(2)
  await click('Done')
  written.push(`  in the address: "${location.search}"`)

  await opens('an organisation asks, with a ticket', NOBODY, `?nonce=${'5a'.repeat(32)}#ticket=${TICKET}`)
  written.push(`  in the address: "${location.search}${location.hash}"`)

  await opens('an organisation asks with something else', ENROLLED, `?nonce=${'5A'.repeat(32)}`)
  await opens('an organisation asks, and not now', ENROLLED, `?nonce=${'5a'.repeat(32)}`)
  await click('Not now')
  written.push(`  in the address: "${location.search}"`)

  await opens('a site sends somebody', ENROLLED, '?login=x', { asked: SITE, login: { ...MATCH, assertion: 'a.b.c' } })
  await click('Verify for them')
  await pictured(2)

  await opens('a site sends somebody again who is not the one', ENROLLED, '?login=x', { asked: { ...SITE, isAgreed: true }, login: NO_MATCH })
  await click('Verify for them')
  await pictured(2)
  answers.login = failed('RefusedError', { why: { name: 'why.site' } })
  answers.asked = SITE
  await click('Try again')
  await pictured(2)

  await opens('a site sends somebody, and asks for a film', ENROLLED, '?login=x', { asked: { ...SITE, pad: 'on-device' }, login: MATCH })
  await click('Verify for them')
  await click('Begin')
  await opens('a site sends somebody who would rather not', ENROLLED, '?login=x', { asked: SITE })
  await click('Not now')
  await opens('a site that the rules do not have', ENROLLED, '?login=x', { asked: failed('RefusedError', { why: { name: 'why.site' } }), verify: MATCH })
  await click('Back')
  await click('Verify')
  await pictured(2)

  await opens('nobody can be reached', AWAY)
  await click('Try again')
  answers = { begin: ENROLLED }
  await event('online', 'the network is back')
  await event('online', 'the network is back again')
  await opens('the page does not fit the service', failed('RefusedError', { why: { name: 'why.other_recogniser' } }))

  await opens('loads', NOBODY, '', { begin: 'held' })
  world.worker.tell({ kind: 'loading', share: 0.25 })
  written.push(`  bar: ${document.querySelector('progress')?.value}`)
  await answered(NOBODY)
  world.worker.tell({ kind: 'loading', share: 0.5 })
  await look('a share comes late')

  await opens('a link comes while the page is open', NOBODY)
  history.replaceState(null, '', `#ticket=${TICKET}`)
  await event('hashchange', 'a ticket comes')
  await click('Enrol')
  written.push(`  is a ticket asked for: ${document.getElementById('ticket') !== null}`)
  await event('hashchange', 'nothing comes')

  await opens('a link comes while somebody reads what they agree to', NOBODY)
  await click('Enrol')
  written.push(`  is a ticket asked for: ${document.getElementById('ticket') !== null}`)
  history.replaceState(null, '', `#ticket=${TICKET}`)
  await event('hashchange', 'a ticket comes')
  written.push(`  is a ticket asked for: ${document.getElementById('ticket') !== null}`)

  await opens('a link comes after something else failed', ENROLLED, '', { export: AWAY })
  await click('What the service holds about me')
  history.replaceState(null, '', `#ticket=${TICKET}`)
  await event('hashchange', 'a ticket comes')

  await opens('a link comes after a ticket was refused', { ...NOBODY, lock: ENROLLED.lock }, `#ticket=${TICKET}`, { enrol: failed('RefusedError', { why: { name: 'why.ticket' } }) })
  await agrees('')
  history.replaceState(null, '', `#ticket=${TICKET}`)
  await event('hashchange', 'a ticket comes meanwhile')
  await pictured(3)
  await click('I am ready')
  await pictured(1)
  history.replaceState(null, '', `#ticket=${TICKET}`)
  await event('hashchange', 'a ticket comes')
  written.push(`  is a ticket asked for: ${document.getElementById('ticket') !== null}`)

  await opens('another language', NOBODY)
  await click('Deutsch')
  written.push(`  kept: ${localStorage.getItem('language')}`)
  speak('en')
  await opens('the language of before', NOBODY)
  localStorage.setItem('language', 'fr')
  speak('en')
  await opens('a language that is not spoken', NOBODY)

  document.body.append(h('details'), h('details', { open: true }))
  listeners.get('beforeprint')!(new Event('beforeprint'))
  written.push(`  folds that are shut when it is printed: ${document.querySelectorAll('details:not([open])').length}`)
  listeners.get('afterprint')!(new Event('afterprint'))
  written.push(`  folds that stay open: ${document.querySelectorAll('details[open]').length}, marked: ${document.querySelectorAll('[data-printed]').length}`)

  document.documentElement.dataset['kept'] = 'Tue, 01 Jan 2030 00:00:00 GMT'
  await opens('the page that was kept', NOBODY, '', { glance: null })
  delete document.documentElement.dataset['kept']

  expect(world.keys.map(({ secret }) => secret[0])).toEqual([0, 0]) // the worker has it
  await expect(`${written.join('\n').trim()}\n`).toMatchFileSnapshot('./told/page.txt')
})

test('the camera looks with the worker, which gets every frame for good', async () => {
  await opens('looks', ENROLLED, '', { watch: 'far', look: null, follow: null })
  const sent = vi.spyOn(world.worker as FakeWorker, 'postMessage')
  const bitmap = (): Promise<ImageBitmap> => createImageBitmap(new ImageData(1, 1))
  const [one, other] = [await bitmap(), await bitmap()]
  expect(await world.camera.eye.watch(one, 'probe', true)).toBe('far')
  await world.camera.eye.follow(other, 1.5)
  await world.camera.eye.look([named('a')], 1)
  expect(sent.mock.calls.map(([{ action, argument }, given]: any) => [action, word(argument), given.length])).toEqual([
    ['watch', '{ frame: a frame, profile: probe, begins: true }', 1], ['follow', '{ frame: a frame, seconds: 1.5 }', 1], ['look', '{ pictures: [file a], references: 1 }', 0],
  ])
})
