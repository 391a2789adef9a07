/** The person's page: shows, asks and says. Everything about faces and keys happens in the worker. */

import './style.css'

import type { Action, Actions, Part, Reply, Status } from '../device/messages'
import type { WolfRate, WolfRates } from '../rules/manifest'
import { type Audited, bound, exactPercent, isPassed, percent } from '../rules/rates'
import { ticketOf } from '../wallet/ticket'
import { failureText } from './failures'
import { Pictures } from './pictures'
import { language, say as text, type TextName, time as dateOf } from './texts'
import { takeTicket } from './ticket'

const element = <E extends HTMLElement = HTMLElement>(id: string): E => document.getElementById(id) as E
const worker = new Worker(new URL('../device/worker.ts', import.meta.url), { type: 'module' })
const waiting = new Map<number, { resolve: (value: any) => void; reject: (error: Failure) => void }>()
let count = 0

/** What the worker could not do. */
class Failure extends Error {
  readonly kind: string

  constructor(kind: string, message: string, retryAfter: number | null) {
    super(failureText(kind, message, retryAfter))
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
  details.append(Object.assign(document.createElement('summary'), { textContent: text('message', { call, sent: sent.length, received: received ?? -1 }) }))
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
  const { controller } = terms
  const rows: [string, string][] = [
    [text('terms.who'), `${controller.name}, ${controller.address}, ${controller.contact}`],
    [text('terms.purpose'), purpose],
    [text('terms.relies'), audience],
    [text('terms.kept'), terms.storageLocation],
    [text('terms.long'), text('long', { days, retention: terms.retentionDays })],
    [text('terms.otherwise'), terms.alternative],
    [text('terms.contest'), terms.contest],
    [text('terms.notice'), terms.notice],
    [text('terms.registered'), identifier],
    [text('terms.audit'), text('audit', { audited: auditText(audited), until: dateOf(releaseEnds), trials: trust.acceptsTrials })],
    [text('terms.fmr'), text('fmr', { ...fmr, stated: exactPercent(fmr.stated), low: percent(fmr.low), high: percent(fmr.high) })],
    [text('terms.wolf'), wolfText(wolf)],
    [text('terms.attacks'), attacks === null ? text('nobody_asked') : text('attacks', {
      thousandth: attacks.falseAccusations === 0.001, innocents: exactPercent(attacks.falseAccusations),
      found: bound(attacks.detected), right: bound(attacks.right), epsilon: String(epsilon), delta: String(delta),
    })],
    [text('terms.makers'), trust.makers.join(' ')],
    [text('terms.auditors'), trust.auditors.join(' ')],
  ]
  element('terms').replaceChildren(...rows.flatMap(([name, value]) => [
    Object.assign(document.createElement('dt'), { textContent: name }),
    Object.assign(document.createElement('dd'), { textContent: value }),
  ]))
}

const auditText = ({ verdict, people, fmrLimit, fnmrLimit }: Audited): string => text('audited', { verdict, people, fmr: exactPercent(fmrLimit), fnmr: exactPercent(fnmrLimit) })

function wolfText(wolf: WolfRates | null): string {
  if (wolf === null) return text('not_measured')
  const rated = ({ errors, trials, low, high }: WolfRate): string => text('wolf_rate', { rate: percent(errors / trials), low: percent(Number(low)), high: percent(Number(high)) })
  return text('wolf', { mean: rated(wolf.mean), best: rated(wolf.best), people: wolf.people })
}

function show(status: Status): void {
  const lines: string[] = [...(isPassed(status.audited) ? [] : [text('trial', { audited: auditText(status.audited), wolf: wolfText(status.wolf) })]), text(`state.${status.state}`)]
  if (status.name !== null) lines.push(text('device_name', { name: status.name }), text('answers', { used: status.answers, most: status.mostAnswers }))
  if (status.consentExpires !== null) lines.push(text('consent_until', { until: dateOf(status.consentExpires) }))
  element('state').textContent = lines.join(' ')
  element('state').dataset['state'] = status.state
  showTerms(status)
  faces.most = status.references + 1
  probe.most = status.frames
  element('faces-lead').textContent = text('faces_lead', { references: status.references, most: status.references + 1 })
  element('probe-lead').textContent = text('probe_lead', { frames: status.frames })
  current = status
  enable()
}

function list(lines: readonly string[], raw = ''): void {
  element('found').replaceChildren(...lines.map((line) => Object.assign(document.createElement('li'), { textContent: line })))
  element('raw').textContent = raw
  element('raw').hidden = raw === ''
}

/** Shows an assertion, for the person to hand to the organisation that asked. */
function offer(assertion: string): void {
  const url = URL.createObjectURL(new Blob([`${assertion}\n`], { type: 'application/jwt' }))
  const link = Object.assign(document.createElement('a'), { href: url, download: 'assertion.jwt', textContent: text('assertion') })
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
const ticket = element<HTMLInputElement>('ticket')
ticket.value = takeTicket()
let current: Status | null = null
let busy = true

function enable(): void {
  const enrolled = current?.state === 'enrolled' || current?.state === 'started'
  const known = enrolled || current?.state === 'revoked'
  const able: Record<string, boolean> = {
    'enrol-button': current?.state !== 'enrolled' && faces.count > 1 && ticketOf(ticket.value) !== null && element<HTMLInputElement>('agree').checked,
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
  say(text('working'))
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

for (const place of document.querySelectorAll<HTMLElement>('[data-text]')) place.textContent = text(place.dataset['text'] as TextName)
document.title = text('title')
document.documentElement.lang = language
const told = { changed: () => { enable() }, fail, look: (pictures: Blob[], references: number) => ask('look', { pictures, references }) }
const faces = new Pictures('faces', text('faces'), true, told)
const probe = new Pictures('probe', text('probe'), false, told)
element('agree').onchange = ticket.oninput = () => { enable() }

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
  const outcome = await withPictures(faces, (pictures) => ask('enrol', { pictures, ticket: ticketOf(ticket.value)! }))
  if (outcome.matched) ticket.value = ''
  say(outcome.matched ? text('enrolled', { position: outcome.position }) : text('not_enrolled'), outcome.matched ? 'good' : 'bad')
})
on('verify-button', async () => {
  const outcome = await withPictures(probe, (pictures) => ask('verify', { pictures, nonce }))
  say(text(outcome.matched ? 'accepted' : 'not_accepted', { position: outcome.position }), outcome.matched ? 'good' : 'bad')
  if (outcome.assertion !== null) offer(outcome.assertion)
})
on('renew-button', async () => {
  const outcome = await withPictures(probe, (pictures) => ask('renew', { pictures }))
  say(text(outcome.matched ? 'renewed' : 'not_renewed', { position: outcome.position }), outcome.matched ? 'good' : 'bad')
})
on('revoke-button', async () => {
  if (!(await confirmed(text('confirm_revoke')))) { say(''); return }
  await ask('revoke')
  say(text('revoked'), 'good')
})
on('erase-button', async () => {
  if (!(await confirmed(text('confirm_erase')))) { say(''); return }
  const position = await ask('erase')
  say(position === null ? text('erased_unproved') : text('erased', { position }), 'good')
})
on('export-button', async () => {
  const held = await ask('export')
  say(text('held', { template: held.templateBytes, receipts: held.receipts.length, entries: held.entries }))
  list([], [held.record, ...held.receipts].join('\n\n'))
})
on('history-button', async () => {
  const events = await ask('history')
  say(events.length === 0 ? text('no_history') : '')
  list(events.map(({ position, kind, time, outcome }) => text('event', { position, kind, time: dateOf(time), outcome: outcome === undefined ? '' : ` (${outcome})` })))
})

void (async () => {
  say(text('loading'))
  try {
    show(await ask('begin'))
    say(text('all_ready'))
    busy = false
    enable()
  } catch (error) {
    fail(error)
  }
})()
