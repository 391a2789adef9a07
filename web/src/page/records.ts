/** What stands below every screen: what is the person's own, and what whoever looks closer wants to see. Folded until it is opened. */

import type { HeldSummary, Status } from '../device/messages'
import type { Event } from '../device/owner'
import type { SelfReport } from '../log/software'
import type { NamedDevice } from '../device/devices'
import { backupFile, deviceList, type DoingDevices, lostDevice } from './devices'
import { h } from './dom'
import { whichPage } from './self'
import { isAlone, isKnown, type Wish } from './states'
import { allTerms, list } from './terms'
import { day, language, say, time } from './texts'
import { type Doing, folded } from './views'

/** A message that left the page. */
export interface Sent {
  readonly call: string
  readonly sent: Uint8Array
  readonly received: number | null
}

/** What the person asked for and got. */
export type Found = { readonly history: readonly Event[] } | { readonly held: HeldSummary } | { readonly devices: readonly NamedDevice[] } | { readonly backup: Blob } | { readonly self: SelfReport } | null
/** Of that, what is the person's own. */
type OwnFound = Exclude<Found, { readonly self: SelfReport }>

const MOST_SHOWN = 200

/** What is the person's own: what the service knows of this device, and how another one can help where it knows nothing any more. */
export function yours(status: Status, found: Found, doing: Doing): HTMLDetailsElement[] {
  return [...(isKnown(status) ? [known(status, found !== null && 'self' in found ? null : found, doing)] : []), ...(isAlone(status) ? [others(status, doing)] : [])]
}

type Choice = 'history' | 'export' | 'renew' | 'devices' | 'backup' | 'code' | Ending
const choice = (name: Choice, onclick: () => void): HTMLButtonElement => h('button', { type: 'button', id: `${name}-button`, onclick }, say(`data.${name}`))

function known(status: Status, found: OwnFound, { ask, go, devices }: Doing): HTMLDetailsElement {
  const isHeld = status.state !== 'revoked'
  const made = folded(say('data.title'), ...(found === null ? [] : [h('div', { id: 'answer' }, ...foundIn(found, status, devices))]), h('div', { className: 'choices' },
    choice('history', () => { ask('history') }), choice('export', () => { ask('export') }),
    status.state === 'enrolled' && choice('renew', () => { go({ at: 'agreeing', task: 'renew' }) }),
    isHeld && choice('devices', () => { ask('devices') }), isHeld && choice('backup', () => { ask('backup') })),
  endings(isHeld ? ['revoke', 'erase', 'forget'] : ['erase', 'forget'], ask))
  made.id = 'yours'
  made.open = found !== null
  return made
}

function others({ lock, state }: Status, { ask, devices }: Doing): HTMLDetailsElement {
  const made = folded(say('data.others'), h('div', { className: 'choices' }, choice('code', () => { ask('code') })), ...lostDevice(devices),
    ...(lock !== null && state !== 'revoked' ? [endings(['forget'], ask)] : []))
  made.id = 'others'
  return made
}

type Ending = 'revoke' | 'erase' | 'forget'

/** The ways to end it, each with what it does: somebody who sees them side by side takes the right one. */
function endings(ways: readonly Ending[], ask: (wish: Wish) => void): HTMLElement {
  return h('section', { className: 'endings' }, h('h2', {}, say('ending.title')), h('ul', {}, ...ways.map((way) => {
    const button = choice(way, () => { ask(way) })
    button.setAttribute('aria-describedby', `${way}-why`)
    return h('li', {}, button, h('p', { className: 'small', id: `${way}-why` }, say(`ending.${way}`)))
  })))
}

function foundIn(found: Exclude<OwnFound, null>, status: Status, doing: DoingDevices): HTMLElement[] {
  if ('devices' in found) return deviceList(found.devices, status.name ?? '', doing)
  if ('backup' in found) return backupFile(found.backup, status)
  if ('held' in found) {
    return heldList(found.held, status)
  }
  if (found.history.length === 0) return [h('p', {}, say('data.none'))]
  return [h('ul', { id: 'found' }, ...found.history.map(({ position, kind, time: seconds, outcome }) =>
    h('li', {}, say('data.event', { position, kind, time: time(seconds), outcome: outcome ?? 'none' }))))]
}

/** What the service holds: in a few words, and folded as it wrote it. */
function heldList({ record, receipts, templateBytes, entries, enrolledAt, devices, attempts }: HeldSummary, { consentExpires }: Status): HTMLElement[] {
  const tries = attempts.map(({ at, decision }) => h('li', {}, say('held.attempt', { time: time(at), decision: decision.replace('-', '') })))
  return [
    h('ul', { id: 'held' },
      h('li', {}, enrolledAt === null ? say('held.no_template') : say('held.template', { bytes: templateBytes, since: day(enrolledAt) })),
      h('li', {}, say('held.consents', { receipts: receipts.length, until: consentExpires === null || receipts.length === 0 ? 'none' : day(consentExpires) })),
      devices === 0 ? null : h('li', {}, say('held.account', { devices })),
      h('li', {}, tries.length === 0 ? say('held.attempts', { attempts: 0 }) : folded(say('held.attempts', { attempts: tries.length }), h('ul', { id: 'attempts' }, ...tries))),
      h('li', {}, say('data.held', { entries }))),
    folded(say('held.raw'), h('pre', { id: 'raw', tabIndex: 0 }, [record, ...receipts].join('\n\n'))),
  ]
}

/** Everything that the terms, the release and the device say, and what was sent. */
export function technical(status: Status, messages: HTMLElement, found: Found, doing: Doing): HTMLDetailsElement {
  const { name, answers, mostAnswers } = status
  const device = name === null ? null : list([[say('technical.device'), h('code', { id: 'device' }, name)], [say('technical.answers'), say('technical.answered', { used: answers, most: mostAnswers })]])
  const made = folded(say('technical.title'), ...(device === null ? [] : [device]), allTerms(status), ...whichPage(found !== null && 'self' in found ? found.self : null, doing), h('h2', {}, say('technical.sent')),
    h('p', { className: 'small' }, say('technical.sent_lead', { most: MOST_SHOWN })), messages, h('p', { className: 'small' }, say('technical.credits')))
  made.id = 'technical'
  made.open = found !== null && 'self' in found
  return made
}

/** The list of what was sent, the newest last; old ones leave it. */
export class Messages {
  readonly element = h('div', { id: 'messages', lang: language })

  add({ call, sent, received }: Sent): void {
    const details = folded(say('technical.message', { call, sent: sent.length, received: received ?? -1 }))
    details.addEventListener('toggle', () => {
      if (details.open && details.children.length === 1) details.append(h('pre', { tabIndex: 0 }, hexDump(sent)))
    })
    this.element.append(details)
    if (this.element.childElementCount > MOST_SHOWN) this.element.firstElementChild?.remove()
  }
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
