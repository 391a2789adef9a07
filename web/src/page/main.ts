/** The person's page: shows, asks and says. Everything about faces and keys happens in the worker. */

import './style.css'

import type { Action, Actions, Part, Reply, Status } from '../device/messages'
import type { WolfRate, WolfRates } from '../rules/manifest'
import { type Audited, bound, exactPercent, isPassed, percent } from '../rules/rates'
import { Pictures } from './pictures'
import { SAY, TEXTS } from './texts'

const element = <E extends HTMLElement = HTMLElement>(id: string): E => document.getElementById(id) as E
const worker = new Worker(new URL('../device/worker.ts', import.meta.url), { type: 'module' })
const waiting = new Map<number, { resolve: (value: any) => void; reject: (error: Failure) => void }>()
let count = 0

/** What the worker could not do. */
class Failure extends Error {
  readonly kind: string

  constructor(kind: string, message: string, retryAfter: number | null) {
    super(SAY.failed(kind, message, retryAfter))
    this.kind = kind
  }
}

function ask<A extends Action>(action: A, argument?: Parameters<Actions[A]>[0]): Promise<ReturnType<Actions[A]>> {
  const id = count++
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject })
    worker.postMessage({ id, action, argument })
  })
}

worker.onmessage = ({ data }: MessageEvent<Reply>) => {
  switch (data.kind) {
    case 'ready': markReady(data.part); break
    case 'sent': showSent(data); break
    case 'done': waiting.get(data.id)?.resolve(data.value); waiting.delete(data.id); break
    case 'failed': waiting.get(data.id)?.reject(new Failure(data.error, data.message, data.retryAfter)); waiting.delete(data.id); break
  }
}

function markReady(part: Part): void {
  element(`part-${part}`).classList.add('ready')
  element(`part-${part}`).append(' \u2713')
}

// ------------------------------------------------------------------ what the page says

function say(text: string, outcome: 'good' | 'bad' | '' = ''): void {
  element('alert').textContent = ''
  element('result').textContent = text
  element('result').className = outcome
}

function fail(error: unknown): void {
  element('result').textContent = ''
  element('alert').textContent = error instanceof Error ? error.message : String(error)
}

function showSent({ call, sent, received }: { call: string; sent: Uint8Array; received: number | null }): void {
  element('nothing-sent').hidden = true
  const details = document.createElement('details')
  details.append(Object.assign(document.createElement('summary'), { textContent: SAY.message(call, sent.length, received) }))
  details.addEventListener('toggle', () => {
    if (details.open && details.children.length === 1) {
      const dump = Object.assign(document.createElement('pre'), { textContent: hexDump(sent), tabIndex: 0 })
      details.append(dump)
    }
  })
  element('messages').append(details)
}

function hexDump(data: Uint8Array): string {
  const lines: string[] = []
  for (let start = 0; start < data.length; start += 16) {
    const row = Array.from(data.subarray(start, start + 16))
    const bytes = row.map((byte) => byte.toString(16).padStart(2, '0')).join(' ')
    const text = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '.')).join('')
    lines.push(`${start.toString(16).padStart(6, '0')}  ${bytes.padEnd(47)}  ${text}`)
  }
  return lines.join('\n')
}

function showTerms({ terms, purpose, audience, days, identifier, trust, releaseEnds, wolf, fmr, audited, epsilon, delta, attacks }: Status): void {
  const names = SAY.termsOf
  const { controller } = terms
  const rows: [string, string][] = [
    [names.who, `${controller.name}, ${controller.address}, ${controller.contact}`],
    [names.purpose, purpose],
    [names.relies, audience],
    [names.kept, terms.storageLocation],
    [names.long, SAY.long(days, terms.retentionDays)],
    [names.otherwise, terms.alternative],
    [names.contest, terms.contest],
    [names.notice, terms.notice],
    [names.registered, identifier],
    [names.audit, SAY.audit(auditText(audited), dateOf(releaseEnds), trust.acceptsTrials)],
    [names.fmr, SAY.fmr(exactPercent(fmr.stated), percent(fmr.low), percent(fmr.high), fmr.condition, fmr.basis, fmr.people)],
    [names.wolf, wolfText(wolf)],
    [names.attacks, attacks === null ? SAY.nobodyAsked : SAY.attacks(
      exactPercent(attacks.falseAccusations), bound(attacks.detected), bound(attacks.right), String(epsilon), String(delta),
    )],
    [names.makers, trust.makers.join(' ')],
    [names.auditors, trust.auditors.join(' ')],
  ]
  element('terms').replaceChildren(...rows.flatMap(([name, value]) => [
    Object.assign(document.createElement('dt'), { textContent: name }),
    Object.assign(document.createElement('dd'), { textContent: value }),
  ]))
}

const auditText = ({ verdict, people, fmrLimit, fnmrLimit }: Audited): string => SAY.audited(verdict, people, exactPercent(fmrLimit), exactPercent(fnmrLimit))

function wolfText(wolf: WolfRates | null): string {
  if (wolf === null) return SAY.notMeasured
  const text = ({ errors, trials, low, high }: WolfRate): string => SAY.wolfRate(percent(errors / trials), percent(Number(low)), percent(Number(high)))
  return SAY.wolf(text(wolf.mean), text(wolf.best), wolf.people)
}

function show(status: Status): void {
  const lines: string[] = [...(isPassed(status.audited) ? [] : [SAY.trial(auditText(status.audited), wolfText(status.wolf))]), SAY.states[status.state]]
  if (status.name !== null) lines.push(SAY.deviceName(status.name), SAY.answers(status.answers, status.mostAnswers))
  if (status.consentExpires !== null) lines.push(SAY.consentUntil(dateOf(status.consentExpires)))
  element('state').textContent = lines.join(' ')
  element('state').dataset['state'] = status.state
  showTerms(status)
  faces.most = status.references + 1
  probe.most = status.frames
  element('faces-lead').textContent = SAY.faces(status.references)
  element('probe-lead').textContent = SAY.probes(status.frames)
  current = status
  enable()
}

const dateOf = (seconds: number): string => new Date(1000 * seconds).toISOString().slice(0, 16).replace('T', ' ')

function list(lines: readonly string[], raw = ''): void {
  element('found').replaceChildren(...lines.map((line) => Object.assign(document.createElement('li'), { textContent: line })))
  element('raw').textContent = raw
  element('raw').hidden = raw === ''
}

/** Shows an assertion, for the person to hand to the organisation that asked. */
function offer(assertion: string): void {
  const url = URL.createObjectURL(new Blob([`${assertion}\n`], { type: 'application/jwt' }))
  const link = Object.assign(document.createElement('a'), { href: url, download: 'assertion.jwt', textContent: SAY.assertion })
  const item = document.createElement('li')
  item.append(link)
  element('found').replaceChildren(item)
  element('raw').textContent = assertion
  element('raw').hidden = false
}

/** What an organisation asks for with `?nonce=`: 64 hex digits, or null. */
function nonceOf(query: string): string | null {
  const nonce = new URLSearchParams(query).get('nonce')
  return nonce !== null && /^[0-9a-f]{64}$/.test(nonce) ? nonce : null
}

function confirmed(text: string): Promise<boolean> {
  const dialog = element<HTMLDialogElement>('confirm')
  element('confirm-text').textContent = text
  dialog.returnValue = ''
  dialog.showModal()
  return new Promise((resolve) => { dialog.addEventListener('close', () => { resolve(dialog.returnValue === 'yes') }, { once: true }) })
}

// ------------------------------------------------------------------ what the person does

const nonce = nonceOf(location.search)
let current: Status | null = null
let busy = true

function enable(): void {
  const enrolled = current?.state === 'enrolled' || current?.state === 'started'
  const known = enrolled || current?.state === 'revoked'
  const able: Record<string, boolean> = {
    'enrol-button': current?.state !== 'enrolled' && faces.count > 1 && element<HTMLInputElement>('agree').checked,
    'verify-button': enrolled && probe.count > 0,
    'renew-button': enrolled && probe.count > 0,
    'revoke-button': enrolled,
    'erase-button': known,
    'export-button': known,
    'history-button': known,
  }
  document.body.dataset['busy'] = String(busy)
  for (const id of ['faces', 'probe']) element<HTMLFieldSetElement>(id).disabled = current === null // nobody knows yet how many
  for (const [id, possible] of Object.entries(able)) element<HTMLButtonElement>(id).disabled = busy || current === null || !possible
}

/** Runs `work` with everything else disabled, then shows how things stand. */
async function during(work: () => Promise<void>): Promise<void> {
  busy = true
  enable()
  say(SAY.working)
  list([])
  try {
    await work()
  } catch (error) {
    fail(error)
  }
  try {
    show(await ask('status'))
  } catch (error) {
    fail(error)
  }
  busy = false
  enable()
  element('outcome').scrollIntoView({ block: 'nearest' })
}

for (const place of document.querySelectorAll<HTMLElement>('[data-text]')) place.textContent = TEXTS[place.dataset['text']!]
document.title = TEXTS['title']
const told = { changed: () => { enable() }, fail, look: (pictures: Blob[], references: number) => ask('look', { pictures, references }) }
const faces = new Pictures('faces', TEXTS['faces'], true, told)
const probe = new Pictures('probe', TEXTS['probe'], false, told)
element('agree').onchange = () => { enable() }

/** Lets the worker look at pictures. None is kept, unless one of them has to be replaced. */
async function withPictures<T>(place: Pictures, work: (pictures: Blob[]) => Promise<T>): Promise<T> {
  try {
    const done = await work(place.files)
    place.clear()
    return done
  } catch (error) {
    if (!(error instanceof Failure && error.kind === 'UnusableImageError')) place.clear()
    throw error
  }
}

const on = (id: string, work: () => Promise<void>): void => { element(id).onclick = () => { void during(work) } }
on('enrol-button', async () => {
  const outcome = await withPictures(faces, (pictures) => ask('enrol', { pictures }))
  say(outcome.matched ? SAY.enrolled(outcome.position) : SAY.notEnrolled, outcome.matched ? 'good' : 'bad')
})
on('verify-button', async () => {
  const outcome = await withPictures(probe, (pictures) => ask('verify', { pictures, nonce }))
  say(outcome.matched ? SAY.accepted(outcome.position) : SAY.notAccepted(outcome.position), outcome.matched ? 'good' : 'bad')
  if (outcome.assertion !== null) offer(outcome.assertion)
})
on('renew-button', async () => {
  const outcome = await withPictures(probe, (pictures) => ask('renew', { pictures }))
  say(outcome.matched ? SAY.renewed(outcome.position) : SAY.notRenewed(outcome.position), outcome.matched ? 'good' : 'bad')
})
on('revoke-button', async () => {
  if (!(await confirmed(SAY.confirmRevoke))) { say(''); return }
  await ask('revoke')
  say(SAY.revoked, 'good')
})
on('erase-button', async () => {
  if (!(await confirmed(SAY.confirmErase))) { say(''); return }
  say(SAY.erased(await ask('erase')), 'good')
})
on('export-button', async () => {
  const held = await ask('export')
  say(SAY.held(held.templateBytes, held.receipts.length, held.entries))
  list([], [held.record, ...held.receipts].join('\n\n'))
})
on('history-button', async () => {
  const events = await ask('history')
  say(events.length === 0 ? SAY.noHistory : '')
  list(events.map(({ position, kind, time, outcome }) => SAY.event(position, kind, dateOf(time), outcome === undefined ? '' : ` (${outcome})`)))
})

void (async () => {
  say(SAY.loading)
  try {
    show(await ask('begin'))
    say(SAY.allReady)
    busy = false
    enable()
  } catch (error) {
    fail(error)
  }
})()
