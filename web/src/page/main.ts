/** The person's page: where the person is, what they do, and what follows. Everything about faces and keys happens in the worker. */

import './style.css'

import type { Outcome } from '../device/device'
import type { Action, Actions, Face, Fault, Status } from '../device/messages'
import { IntaglioError } from '../errors'
import { ticketOf } from '../wallet/ticket'
import { Camera, NoCameraError } from './camera'
import { drawing } from './dom'
import { type Finality, finalForm } from './dialogs'
import { type Choosing, keyFor, LockedError, passphraseFor } from './keeping'
import type { Chosen } from './locking'
import { Login } from './login'
import { Pictures } from './pictures'
import { type Found, Messages } from './records'
import { show, showAround } from './shell'
import { isTask, makesTemplate, type Making, type Part, type Place, screenOf, type Situation, type Task, waitingFor, type Wish } from './states'
import { CATALOGUES, speak } from './texts'
import { takeTicket } from './ticket'
import type { Doing } from './views'
import { ask, type Asked, Failure, listen } from './worker'

const element = <E extends HTMLElement = HTMLElement>(id: string): E => document.getElementById(id) as E
const seconds = (): number => Math.floor(Date.now() / 1000)
const LANGUAGE = 'language'
const SUPERVISED: Fault = { kind: 'RefusedError', message: 'the public rules ask for a supervised device', why: { name: 'why.supervised' }, retryAfter: null }
const NO_CAMERA: Fault = { kind: 'UsageError', message: 'getUserMedia failed', why: { name: 'why.no_camera' }, retryAfter: null }

/** What an organisation asks for with `?nonce=`: 64 hex digits, or null. */
function nonceOf(query: string): string | null {
  const nonce = new URLSearchParams(query).get('nonce')
  return nonce !== null && /^[0-9a-f]{64}$/.test(nonce) ? nonce : null
}

// ------------------------------------------------------------------ what is known, and what is shown

let situation: Situation = { status: null, share: 0, nonce: nonceOf(location.search), asked: null, place: { at: 'start' }, ticket: takeTicket(), now: seconds() }
let found: Found = null
/** Which device is let in, or removed, once the face has matched. */
let other: { readonly code: Uint8Array<ArrayBuffer>; readonly name: string } | { readonly keyId: string } | null = null
/** Which device is called what from now on. */
let renaming = { keyId: '', name: '' }
/** The backup of a lost device. */
let backup: File | null = null
/** Goes on once the person has chosen how their keys are locked. */
let locking: ReturnType<typeof Promise.withResolvers<Chosen>> | null = null
/** Whether the face that the worker looks at is filmed. */
let isFilmed = false
/** What the worker does for the person just now. */
let running: Asked<unknown> | null = null
const messages = new Messages()
const login = Login.of(location.search, (message) => { messages.add(message) })
/** What a site asked by way of the provider, as the device signs for it; empty for nothing. */
let request = ''

/** Goes on from a change. */
function turn(change: Partial<Situation>): void {
  situation = { ...situation, ...change, now: seconds() }
  show(situation, doing, found, messages)
}

// ------------------------------------------------------------------ what the person does

const camera = new Camera({
  watch: (frame, profile, begins) => ask('watch', { frame, profile, begins }, [frame]).answer,
  look: (pictures, references) => ask('look', { pictures, references }).answer,
  follow: (frame, seconds) => ask('follow', { frame, seconds }, [frame]).answer,
})
let files = new Pictures('verify', 1, () => undefined)
/** Pictures from the camera that wait for the one that checks them. */
let references: readonly Blob[] = []

const doing: Doing = {
  go(place) {
    found = null
    // A code that the other device did not take serves once more, or the person goes back for a ticket.
    const { place: from } = situation
    turn(place.at === 'start' && from.at === 'failed' && from.fault.why?.name === 'why.code' ? { place, ticket: '' } : { place })
  },
  bring(ticket) { situation = { ...situation, ticket } },
  look(task) { look(task, 'camera') },
  prepare(task) { prepare(task) },
  film(task, without) { void act(task, { without }) },
  goOn() { if (situation.place.at === 'looking') take(situation.place.task, 'second') },
  lock(chosen) { locking?.resolve(chosen) },
  change(by) { if (situation.place.at === 'looking') look(situation.place.task, by) },
  ask(wish) { void wished(wish) },
  cancel() {
    camera.close()
    forget()
    if (locking !== null) locking.reject(new LockedError('why.lock_kept'))
    else if (running !== null) running.cancel()
    else turn({ place: { at: 'start' } })
  },
  begin() { void begin() },
  speak(tag) {
    try { localStorage.setItem(LANGUAGE, tag) } catch { /* then it lasts as long as the page */ }
    speak(tag)
    turn({})
  },
  decline() {
    if (situation.asked !== null) { login?.refuse(); return }
    history.replaceState(null, '', location.pathname)
    turn({ nonce: null, place: { at: 'start' } })
  },
  reload() { location.reload() },
  devices: {
    admit(code, name) { other = { code, name }; look('admit', 'camera') },
    rename(keyId, name) { renaming = { keyId, name }; void wished('rename') },
    remove(keyId, name) { void confirmed('remove', name).then((sure) => { if (sure) { other = { keyId }; look('remove', 'camera') } }) },
    lost(file) { backup = file; void wished('lost') },
  },
  get camera() { return camera.element },
  get files() { return files.element },
}

/** No picture is kept longer than for what it was taken. */
function forget(): void {
  references = []
  files.clear()
}

function look(task: Task, by: 'camera' | 'files', fault: Fault | null = null): void {
  camera.close()
  const { references: averaged, frames, wait } = situation.status!
  const waiting = wait === null || task === 'enrol' ? null : waitingFor(task, wait)
  if (waiting !== null && screenOf({ ...situation, place: waiting, now: seconds() }).kind === 'waiting') { turn({ place: waiting }); return }
  const pad = task === 'verify' ? situation.asked?.pad ?? situation.status!.pad : situation.status!.pad
  if (task !== 'enrol' && pad === 'supervised') { turn({ place: { at: 'failed', on: task, fault: SUPERVISED, seconds: seconds() } }); return }
  if (!makesTemplate(task) && pad === 'on-device') { prepare(task, fault); return }
  if (by === 'camera') { take(task, makesTemplate(task) ? 'references' : 'probe', fault); return }
  if (fault === null) {
    forget()
    files = new Pictures(task, makesTemplate(task) ? averaged + 1 : frames, (pictures) => { void act(task, { pictures }) })
  }
  turn({ place: { at: 'looking', task, part: makesTemplate(task) ? 'references' : 'probe', by, fault } })
}

/** Says what a film will ask for, and why the last one was refused. */
function prepare(task: Task, fault: Fault | null = null): void {
  camera.close()
  forget()
  turn({ place: { at: 'preparing', task, fault } })
}

/** Films as a session asks, while the worker waits for it. */
function film(): void {
  const { place } = situation
  if (place.at !== 'working' || !isTask(place.on)) return
  turn({ place: { at: 'filming', task: place.on } })
  void camera.film().catch(() => ask('follow', { frame: null, seconds: 0 }).answer).then(() => {
    if (situation.place.at === 'filming') turn({ place })
  })
}

/** Takes pictures for one part of what a task needs, and goes on with the next. */
function take(task: Task, part: Exclude<Part, 'pause'>, fault: Fault | null = null): void {
  if (part === 'references') forget()
  turn({ place: { at: 'looking', task, part, by: 'camera', fault } })
  const { references: averaged, frames } = situation.status!
  const [profile, count] = part === 'references' ? ['reference', averaged] as const : ['probe', part === 'second' ? 1 : frames] as const
  camera.take({ profile, count, before: part === 'second' ? references : [] }).then((taken) => {
    if (taken === null) return
    if (part !== 'references') { files.clear(); void act(task, { pictures: [...references, ...taken] }); return }
    references = taken
    const films = task === 'over' && situation.status!.pad === 'on-device' // what is compared with the template that is left
    turn({ place: films ? { at: 'preparing', task, fault: null } : { at: 'looking', task, part: 'pause', by: 'camera', fault: null } })
  }).catch((error: unknown) => {
    if (situation.place.at !== 'looking' || situation.place.by !== 'camera') return // whoever brings files by now keeps them
    look(task, 'files')
    shown(error instanceof NoCameraError ? NO_CAMERA : faultOf(error)) })
}

/** Says what is wrong where somebody looks for pictures. */
function shown(fault: Fault): void {
  if (situation.place.at === 'looking') turn({ place: { ...situation.place, fault } })
}

const faultOf = (error: unknown): Fault =>
  (error instanceof Failure || error instanceof LockedError ? error.fault : error instanceof IntaglioError ? { kind: error.name, message: error.message, why: error.why, retryAfter: null } : { kind: 'Error', message: 'something in this page failed', why: null, retryAfter: null })

/** Shows the ways to lock new keys until the person has chosen one. @param on what makes them. */
const chosenFor = (on: Making): Choosing => async (passkeys, fault) => {
  locking = Promise.withResolvers<Chosen>()
  turn({ place: { at: 'locking', on, passkeys, fault } })
  try {
    return await locking.promise
  } finally {
    locking = null
    turn({ place: { at: 'working', on, stage: 0 } })
  }
}

/** Lets the worker do something, with nothing else to do meanwhile but to stop it. */
async function during<A extends Action>(on: Task | Wish, action: A, argument: Parameters<Actions[A]>[0] | undefined, then: (value: ReturnType<Actions[A]>) => Place, before: (value: ReturnType<Actions[A]>) => Promise<void> = () => Promise.resolve()): Promise<void> {
  found = null
  let place: Place
  turn({ place: { at: 'working', on, stage: 0 } })
  try {
    const asked = ask(action, argument, [], await keyFor(action, situation.status!, chosenFor(on as Making)))
    running = asked
    const value = await asked.answer
    await before(value)
    place = then(value)
  } catch (error) {
    place = { at: 'failed', on, fault: faultOf(error), seconds: seconds() }
  }
  running = null
  let status = situation.status
  try {
    status = await ask('status').answer
  } catch { /* what was known before is still the best that is known */ }
  if (on === 'enrol' && place.at === 'failed' && place.fault.kind === 'RefusedError' && (place.fault.why ?? { name: 'why.ticket' }).name === 'why.ticket') situation = { ...situation, ticket: '' } // so that another one can be typed
  const wrong = place.at === 'failed' && place.fault.kind === 'UnusableImageError' ? place.fault : null
  if (isTask(on) && place.at === 'failed' && (place.fault.why?.name === 'why.film_needed' || (wrong !== null && isFilmed))) {
    situation = { ...situation, status }
    if (on === 'over') look(on, 'camera', place.fault) // the pictures before the film are taken again, too
    else prepare(on, place.fault)
    return
  }
  if (wrong !== null && isTask(on)) {
    situation = { ...situation, status }
    look(on, files.files.length > 0 ? 'files' : 'camera', wrong)
    return
  }
  forget()
  turn({ status, place })
}

async function act(task: Task, face: Face): Promise<void> {
  isFilmed = 'without' in face
  const { nonce, ticket } = situation
  const done = (outcome: Outcome): Place => ({ at: 'done', task, outcome })
  switch (task) {
    case 'verify': {
      if (request === '') return await during(task, task, { face, nonce }, done)
      await during(task, 'login', { face, request, consents: situation.asked?.isAgreed === false }, done, goBack)
      // What was shown as agreed may have ended meanwhile: then it is read anew before it is signed anew.
      if (situation.place.at === 'failed') turn({ asked: await ask('asked', { request }).answer.catch(() => situation.asked) })
      return
    }
    case 'renew': return await during(task, task, { face }, done)
    case 'over': return await during(task, task, 'pictures' in face ? { pictures: face.pictures, film: null } : { pictures: references, film: face }, done)
    case 'enrol': return await during(task, task, { pictures: 'pictures' in face ? face.pictures : [], ticket: ticketOf(ticket) ?? new Uint8Array() }, (outcome) => {
      if (outcome.matched) doing.bring('') // it is spent
      return done(outcome)
    })
    case 'admit': return await during(task, task, { face, ...(other as Exclude<typeof other, { keyId: string } | null>) }, done)
    case 'remove': return await during(task, task, { face, keyId: (other as { keyId: string }).keyId }, done)
  }
}

/** Goes back to the site that asked, with what it gets. */
async function goBack({ assertion }: Outcome): Promise<void> {
  if (assertion !== null) await login?.answer(assertion)
}

async function wished(wish: Wish): Promise<void> {
  if ((wish === 'revoke' || wish === 'erase' || wish === 'forget') && !(await confirmed(wish))) return
  let answer: Found = null
  const before = found
  const start: Place = { at: 'start' }
  try {
    switch (wish) {
      case 'revoke': await during(wish, wish, undefined, () => ({ at: 'gone', wish, position: null })); break
      case 'erase': await during(wish, wish, undefined, (position) => ({ at: 'gone', wish, position })); break
      case 'forget': await during(wish, wish, undefined, () => ({ at: 'gone', wish, position: null })); break
      case 'export': await during(wish, wish, undefined, (held) => { answer = { held }; return start }); break
      case 'history': await during(wish, wish, undefined, (history) => { answer = { history }; return start }); break
      case 'devices': await during(wish, wish, undefined, (devices) => { answer = { devices }; return start }); break
      case 'rename': await during(wish, wish, renaming, (name) => { answer = renamed(before, name); return start }); break
      case 'code': await during(wish, wish, undefined, (code) => { doing.bring(code); return { at: 'code', code } }); break
      case 'self': await during(wish, wish, undefined, (self) => { answer = { self }; return start }); break
      case 'backup': await during(wish, wish, { passphrase: await passphraseFor('backup') }, (file) => { answer = { backup: file }; return start }); break
      case 'lost': await during(wish, 'revokeLost', { file: backup!, passphrase: await passphraseFor('open_backup') }, (name) => ({ at: 'lost', name })); break
    }
  } catch (error) {
    turn({ place: { at: 'failed', on: wish, fault: faultOf(error), seconds: seconds() } })
  }
  if (answer === null) return
  found = answer
  showAround(situation, doing, found, messages)
  element(wish === 'self' ? 'self' : 'yours')?.scrollIntoView({ block: 'start' })
}

/** The list of devices after one of them was named. */
const renamed = (before: Found, name: string): Found => before !== null && 'devices' in before
  ? { devices: before.devices.map((one) => (one.keyId === renaming.keyId ? { ...one, name: name === '' ? null : name } : one)) } : null

/** Asks before something is done for good. */
function confirmed(wish: Finality, name: string | null = null): Promise<boolean> {
  const dialog = element<HTMLDialogElement>('confirm')
  dialog.replaceChildren(finalForm(wish, name))
  dialog.returnValue = ''
  dialog.showModal()
  return new Promise((resolve) => { dialog.addEventListener('close', () => { resolve(dialog.returnValue === 'yes') }, { once: true }) })
}

/** Loads everything and asks the service for a sign of life; before that nothing is said to be ready. */
async function begin(): Promise<void> {
  if (kept !== undefined) { turn({ kept: { date: kept, shown: await ask('glance').answer.catch(() => null) } }); return }
  turn({ status: null, place: { at: 'start' } })
  try {
    const status: Status = await ask('begin').answer
    situation = { ...situation, status }
  } catch (error) {
    turn({ place: { at: 'failed', on: 'begin', fault: faultOf(error), seconds: seconds() } })
    return
  }
  try {
    if (login !== null) situation = { ...situation, asked: await ask('asked', { request: request = await login.request() }).answer }
    turn({})
  } catch (error) {
    request = ''
    turn({ place: { at: 'failed', on: 'verify', fault: faultOf(error), seconds: seconds() } })
  }
}

/** When the browser kept this page, where it shows that one because nobody can be reached (`shell/service-worker.js`). It asks nobody anything. */
const { kept } = document.documentElement.dataset
if (kept === undefined && import.meta.env.PROD) void navigator.serviceWorker?.register('/service-worker.js').catch(() => undefined)

listen({
  loading(share) { if (situation.status === null && situation.place.at === 'start') turn({ share }) },
  film,
  sent(message) {
    messages.add(message)
    const { place } = situation
    if (place.at === 'working' && message.received !== null) turn({ place: { ...place, stage: place.stage + 1 } })
  },
})
setInterval(() => { if (document.body.dataset['screen'] === 'waiting') turn({}) }, 1000)
addEventListener('hashchange', () => {
  const ticket = takeTicket()
  if (ticket === '') return
  const { place } = situation
  if (place.at === 'failed' && place.on === 'enrol') turn({ ticket, place: { at: 'agreeing', task: 'enrol' } })
  else if (place.at === 'start' || place.at === 'agreeing') turn({ ticket })
  else situation = { ...situation, ticket } // whoever is at work on something is not disturbed
})
addEventListener('online', () => { if (document.body.dataset['screen'] === 'unreachable') void begin() })
// What is folded is printed, too.
addEventListener('beforeprint', () => { for (const one of document.querySelectorAll('details:not([open])')) one.setAttribute('data-printed', ''), one.setAttribute('open', '') })
addEventListener('afterprint', () => { for (const one of document.querySelectorAll('details[data-printed]')) one.removeAttribute('data-printed'), one.removeAttribute('open') })

element('brand').prepend(drawing('0 0 24 24', 'M12 3c-4 0-6.5 3-6.5 7 0 5 2.7 10.5 6.5 10.500S18.5 15 18.5 10c0-4-2.5-7-6.5-7z', 'M9 12.500l2.2 2.2 4-4.4'))
try {
  const chosen = localStorage.getItem(LANGUAGE)
  if (chosen !== null && chosen in CATALOGUES) speak(chosen)
} catch { /* the language of the browser, then */ }
void begin()
