/**
 * What the page shows, as a pure function of all that it knows: one screen for every state, with one thing to do.
 *
 * Nothing else decides that. So the whole text of every state is a test (`web/tests/screens.test.ts`), and no screen can
 * say of a consent, or of an attempt, what another one denies.
 */

import type { Asked, Fault, Status } from '../device/messages'
import type { Outcome } from '../device/device'
import { isOver } from '../wallet/state'
import { ticketOf } from '../wallet/ticket'
import type { Wait } from '../wallet/wait'
import type { Shown } from '../wallet/wallet'

/** What a person does with their face. */
export type Task = 'enrol' | 'verify' | 'renew' | 'over' | 'admit' | 'remove'
/** What a person asks of the service without it. */
export type Wish = 'revoke' | 'erase' | 'export' | 'history' | 'devices' | 'rename' | 'backup' | 'code' | 'lost' | 'self' | 'forget'
/** What makes keys, if there are none. */
export type Making = 'enrol' | 'code'
/** Whether something is done with the face. */
export const isTask = (on: Task | Wish): on is Task => ['enrol', 'verify', 'renew', 'over', 'admit', 'remove'].includes(on)
/** What makes a template: some pictures are averaged, and one more confirms them. */
export const makesTemplate = (task: Task): boolean => task === 'enrol' || task === 'over'

/** Which pictures are taken now: those that are averaged, then after a pause the one that checks them; or some for a comparison. */
export type Part = 'references' | 'pause' | 'second' | 'probe'

/** Where the person is. */
export type Place =
  | { readonly at: 'start' }
  | { readonly at: 'agreeing'; readonly task: 'enrol' | 'renew' | 'over' }
  | { readonly at: 'looking'; readonly task: Task; readonly part: Part; readonly by: 'camera' | 'files'; readonly fault: Fault | null }
  /** A film is about to be taken: what it asks for, and why the last one was refused. */
  | { readonly at: 'preparing'; readonly task: Task; readonly fault: Fault | null }
  | { readonly at: 'filming'; readonly task: Task }
  | { readonly at: 'working'; readonly on: Task | Wish; readonly stage: number }
  /** New keys are to be locked. */
  | { readonly at: 'locking'; readonly on: Making; readonly passkeys: boolean; readonly fault: Fault | null }
  | { readonly at: 'done'; readonly task: Task; readonly outcome: Outcome }
  | { readonly at: 'gone'; readonly wish: 'revoke' | 'erase' | 'forget'; readonly position: number | null }
  /** Another device of the person is to let this one in. */
  | { readonly at: 'code'; readonly code: string }
  /** The template of a lost device is revoked. */
  | { readonly at: 'lost'; readonly name: string }
  | { readonly at: 'failed'; readonly on: Task | Wish | 'begin'; readonly fault: Fault; readonly seconds: number }

/** All that decides what is shown. */
export interface Situation {
  /** What is true of the device, or null before that is known. */
  readonly status: Status | null
  /** Share of the page's weights that has come, 0 to 1. */
  readonly share: number
  /** What an organisation asks with: 64 hex digits, or null. */
  readonly nonce: string | null
  /** Which site asks by way of the provider, as the public rules have it, or null. */
  readonly asked: Asked | null
  readonly place: Place
  /** What the operator gave the person for an enrolment, as they typed it or as their link had it; empty for nothing. */
  readonly ticket: string
  /** Seconds since 1970. */
  readonly now: number
  /** Where the browser showed the page that it kept, since nobody could be reached: when that came, and what this device is. */
  readonly kept?: { readonly date: string; readonly shown: Shown | null }
}

/** What is shown. `status` is there wherever the device is known. */
export type Screen =
  | { readonly kind: 'loading'; readonly share: number }
  | { readonly kind: 'unreachable' | 'broken'; readonly fault: Fault }
  | { readonly kind: 'welcome'; readonly status: Status; readonly isAsked: boolean; readonly isUnserved: boolean; readonly isInvited: boolean; readonly asked: Asked | null }
  | { readonly kind: 'kept'; readonly date: string; readonly shown: Shown | null }
  | { readonly kind: 'code'; readonly status: Status; readonly code: string }
  | { readonly kind: 'lost'; readonly status: Status; readonly name: string }
  | { readonly kind: 'agree'; readonly status: Status; readonly task: 'enrol' | 'renew' | 'over'; readonly ticket: string }
  | { readonly kind: 'look'; readonly status: Status; readonly task: Task; readonly part: Part; readonly by: 'camera' | 'files'; readonly fault: Fault | null }
  | { readonly kind: 'prepare'; readonly status: Status; readonly task: Task; readonly fault: Fault | null }
  | { readonly kind: 'film'; readonly status: Status; readonly task: Task }
  | { readonly kind: 'working'; readonly status: Status; readonly on: Task | Wish; readonly stage: number }
  | { readonly kind: 'lock'; readonly status: Status; readonly on: Making; readonly passkeys: boolean; readonly fault: Fault | null }
  | { readonly kind: 'enrolled' | 'enrolled-not' | 'accepted' | 'renewed' | 'came-over' | 'admitted' | 'removed'; readonly status: Status; readonly outcome: Outcome }
  | { readonly kind: 'refused'; readonly status: Status; readonly task: Task; readonly outcome: Outcome; readonly left: number }
  | { readonly kind: 'home' | 'ended' | 'closed' | 'behind' | 'unserved'; readonly status: Status }
  | { readonly kind: 'asked'; readonly status: Status; readonly asked: Asked | null }
  | { readonly kind: 'waiting'; readonly status: Status; readonly seconds: number; readonly isBusy: boolean; readonly of: number }
  | { readonly kind: 'revoked' | 'forgotten'; readonly status: Status }
  | { readonly kind: 'erased'; readonly status: Status; readonly position: number | null }
  | { readonly kind: 'failed'; readonly status: Status; readonly on: Task | Wish; readonly fault: Fault }

/** Shorter than this, the service's wish for a pause is just another try. */
const SHORTEST_WAIT_SECONDS = 3

/** The screen of a situation. */
export function screenOf({ status, share, nonce, asked, place, ticket, now, kept }: Situation): Screen {
  if (kept !== undefined) return { kind: 'kept', ...kept }
  if (place.at === 'failed' && (place.on === 'begin' || status === null)) {
    return { kind: place.fault.kind === 'UnavailableError' ? 'unreachable' : 'broken', fault: place.fault }
  }
  if (status === null) return { kind: 'loading', share }
  switch (place.at) {
    case 'start': return startOf(status, nonce, asked, ticket, now)
    case 'agreeing': return { kind: 'agree', status, task: place.task, ticket }
    case 'looking': return { ...place, kind: 'look', status }
    case 'preparing': return { kind: 'prepare', status, task: place.task, fault: place.fault }
    case 'filming': return { kind: 'film', status, task: place.task }
    case 'working': return { kind: 'working', status, on: place.on, stage: place.stage }
    case 'locking': return { ...place, kind: 'lock', status }
    case 'done': return doneOf(status, place.task, place.outcome)
    case 'code': return { kind: 'code', status, code: place.code }
    case 'lost': return { kind: 'lost', status, name: place.name }
    case 'gone': return place.wish === 'forget' ? { kind: 'forgotten', status } : place.wish === 'revoke' ? { kind: 'revoked', status } : { kind: 'erased', status, position: place.position }
    case 'failed': return failedOf(status, place.on as Task | Wish, place.fault, place.seconds, now) ?? startOf(status, nonce, asked, ticket, now)
  }
}

function startOf(status: Status, nonce: string | null, asked: Asked | null, ticket: string, now: number): Screen {
  if (status.state !== 'enrolled') return { kind: 'welcome', status, asked, isAsked: (nonce !== null && status.issues) || asked !== null, isUnserved: asked === null && isUnserved(status, nonce), isInvited: ticketOf(ticket) !== null }
  if (status.answers >= status.mostAnswers) return { kind: 'closed', status }
  if (status.isBehind) return { kind: 'behind', status }
  if (hasEnded(status, now)) return { kind: 'ended', status }
  if (asked === null && isUnserved(status, nonce)) return { kind: 'unserved', status }
  return nonce === null && asked === null ? { kind: 'home', status } : { kind: 'asked', status, asked }
}

/** Whether an organisation asks for what nobody may sign here. */
const isUnserved = ({ issues }: Status, nonce: string | null): boolean => nonce !== null && !issues

function doneOf(status: Status, task: Task, outcome: Outcome): Screen {
  if (task === 'enrol') return { kind: outcome.matched ? 'enrolled' : 'enrolled-not', status, outcome }
  if (!outcome.matched) return { kind: 'refused', status, task, outcome, left: Math.max(0, status.freeFailures - status.failures) }
  return { kind: ({ verify: 'accepted', renew: 'renewed', over: 'came-over', admit: 'admitted', remove: 'removed' } as const)[task], status, outcome }
}

/** Where somebody is who has to wait, as if the service had just said so. */
export const waitingFor = (on: Task, { until, of }: Wait): Place & { readonly at: 'failed' } =>
  ({ at: 'failed', on, fault: { kind: 'UnavailableError', message: '', why: { name: 'why.wait', values: { seconds: of } }, retryAfter: of }, seconds: until - of })

/** Null when a wait is over. */
function failedOf(status: Status, on: Task | Wish, fault: Fault, since: number, now: number): Screen | null {
  if (fault.why?.name === 'why.wait' && fault.retryAfter !== null && fault.retryAfter >= SHORTEST_WAIT_SECONDS) {
    const seconds = Math.ceil(since + fault.retryAfter - now)
    return seconds <= 0 ? null : { kind: 'waiting', status, seconds, of: fault.retryAfter, isBusy: status.failures < status.freeFailures }
  }
  if (fault.why?.name === 'why.other_release') return { kind: 'behind', status } // a wallet that did not say so before it was unlocked
  return { kind: 'failed', status, on, fault }
}

/** Whether the last consent does not cover anything any more. */
export const hasEnded = ({ consentExpires }: Status, now: number): boolean => consentExpires !== null && consentExpires <= now

/** Whether the service knows something of this device that its owner may ask for. */
export const isKnown = ({ state }: Status): boolean => state === 'enrolled' || state === 'started' || state === 'revoked'
/** Whether another device, or a backup, may be of use to this one. */
export const isAlone = ({ state }: Status): boolean => state === 'none' || state === 'outdated' || isOver(state)
