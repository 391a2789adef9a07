/** How each screen looks. Every word comes from the catalogues or from the deployment's terms. */

import type { Fault, Status } from '../device/messages'
import { isOver } from '../wallet/state'
import { lettersOf, ticketOf } from '../wallet/ticket'
import type { DoingDevices } from './devices'
import { h, drawing } from './dom'
import { textOf, titleOf } from './failures'
import { type Begin, preparation } from './film'
import { type Chosen, waysToLock } from './locking'
import { isTask, makesTemplate, type Place, type Screen, type Task, type Wish } from './states'
import { allTerms, followed, list, readable, shortTerms, trial, worth } from './terms'
import { day, say, time } from './texts'

/** What the buttons do, and the two places for pictures. */
export interface Doing {
  go(place: Place): void
  /** Keeps what somebody typed as their ticket. */
  bring(ticket: string): void
  /** Begins to look at a face. */
  look(task: Task): void
  /** Shows what a film would ask for; some purposes need one. */
  prepare(task: Task): void
  /** Does it with a film instead of pictures. */
  film(task: Task, without: Parameters<Begin>[0]): void
  /** The pause before the second look is over. */
  goOn(): void
  change(by: 'camera' | 'files'): void
  /** Locks new keys in that way. */
  lock(chosen: Chosen): void
  ask(wish: Wish): void
  cancel(): void
  /** Loads what is missing, once more. */
  begin(): void
  /** From now on everything is said in that language. */
  speak(language: string): void
  /** Forgets that an organisation asked. */
  decline(): void
  /** Takes the page anew from the server. */
  reload(): void
  readonly devices: DoingDevices
  readonly camera: HTMLElement
  readonly files: HTMLElement
}

const START: Place = { at: 'start' }
const MARKS = {
  good: 'M4.5 12.5l5 5 10-11',
  bad: 'M6 12h12',
  wait: 'M12 3.5a8.5 8.5 0 1 0 0 17a8.5 8.5 0 0 0 0-17zM12 7.500v5l3.5 2',
  stopped: 'M7 7l10 10M17 7L7 17',
  gone: 'M5 8h14M10 8V5h4v3M7 8l1 11h8l1-11',
} as const

/** A screen of a device that is known. */
type Known = { readonly status: Status }
type Body = readonly (Node | null)[]
type Button = HTMLButtonElement | HTMLAnchorElement

/** One screen. What changes while it stands, such as a countdown, is marked with `data-live`. */
export function draw(screen: Screen, doing: Doing): HTMLElement {
  const { title, mark, body, buttons } = partsOf(screen, doing)
  const status = 'status' in screen ? screen.status : null
  return h('section', { className: 'card', attributes: { 'data-screen': screen.kind } },
    status && trial(status),
    stepsOf(screen),
    mark === undefined ? null : h('div', { className: `mark ${mark}` }, drawing('0 0 24 24', MARKS[mark])),
    h('h1', { tabIndex: -1 }, title),
    ...body,
    buttons.length > 0 && h('div', { className: 'buttons' }, ...buttons))
}

interface Parts {
  readonly title: string
  readonly mark?: keyof typeof MARKS
  readonly body: Body
  readonly buttons: readonly Button[]
}

function partsOf(screen: Screen, doing: Doing): Parts {
  const back = button(say('back'), () => { doing.go(START) })
  const done = main(say('done'), () => { doing.go(START) })
  switch (screen.kind) {
    case 'loading': return {
      title: say('loading.title'),
      body: [lead(say('loading.lead')), progress(screen.share, screen.share < 1 ? say('loading.share', { share: screen.share }) : say('loading.last'))],
      buttons: [],
    }
    case 'unreachable': return {
      title: say('unreachable.title'), mark: 'wait',
      body: [lead(say('unreachable.lead')), lead(textOf(screen.fault, '')), exactly(screen.fault.message)],
      buttons: [main(say('try_again'), () => { doing.begin() })],
    }
    case 'broken': return {
      title: say('broken.title'), mark: 'bad',
      body: [lead(textOf(screen.fault, '')), exactly(screen.fault.message)],
      buttons: [main(say('try_again'), () => { doing.begin() })],
    }
    case 'kept': {
      const { date, shown } = screen
      const state = shown === null || shown.state === 'none' ? say('kept.nobody') : say('kept.device', { name: shown.name, state: shown.state, until: shown.consentExpires === null ? 'none' : day(shown.consentExpires) })
      return {
        title: say('kept.title'), mark: 'wait',
        body: [lead(say('kept.lead', { date: date === '' ? 'none' : time(Date.parse(date) / 1000) })), lead(state)],
        buttons: [main(say('kept.reload'), () => { doing.reload() })],
      }
    }
    case 'code': return {
      title: say('code.title'),
      body: [lead(say('code.lead')), h('p', { id: 'code-shown', className: 'code' }, screen.code), h('p', { className: 'small' }, say('code.hour'))],
      buttons: [main(say('code.button'), () => { doing.go({ at: 'agreeing', task: 'enrol' }) }), back],
    }
    case 'lost': return { title: say('lost.title'), mark: 'gone', body: [lead(say('lost.done', { name: screen.name }))], buttons: [done] }
    case 'forgotten': return { title: say('forgotten.title'), mark: 'gone', body: [lead(say('forgotten.lead'))], buttons: [done] }
    case 'admitted': return { title: say('admitted.title'), mark: 'good', body: [lead(say('admitted.lead')), entry(screen)], buttons: [done] }
    case 'removed': return { title: say('removed.title'), mark: 'gone', body: [lead(say('removed.lead')), entry(screen)], buttons: [done] }
    case 'welcome': {
      const { terms: { controller }, state, audience } = screen.status
      const before = state === 'none' || state === 'enrolled' ? null : say(`welcome.${state}`)
      return {
        title: say('welcome.title'),
        body: [
          screen.isUnserved ? note(say('unserved.lead', { audience, who: controller.name })) : null,
          screen.isAsked ? note(say('asked.first', { audience: screen.asked?.operator ?? audience })) : null, before === null ? null : note(before),
          lead(say('welcome.lead', { who: controller.name })), figure(), h('p', { className: 'small' }, screen.isInvited ? say('welcome.time') : `${say('welcome.time')} ${say('welcome.ticket')}`),
        ],
        buttons: [main(say(before === null ? 'welcome.button' : 'welcome.again'), () => { doing.go({ at: 'agreeing', task: 'enrol' }) })],
      }
    }
    case 'agree': {
      const agree = h('input', { type: 'checkbox', id: 'agree' })
      const go = main(say('agree.button'), () => { doing.look(screen.task) })
      const isInvited = screen.task !== 'enrol' || ticketOf(screen.ticket) !== null
      const ticket = h('textarea', { id: 'ticket', rows: 2, value: screen.ticket, autocomplete: 'off', spellcheck: false, attributes: { autocapitalize: 'none', 'aria-describedby': ['ticket-why', 'ticket-share'].join(' ') } })
      go.disabled = true
      const share = h('span', { className: 'small', id: 'ticket-share' }) // while one types: on leaving the field it would move what is tapped
      agree.onchange = ticket.oninput = () => {
        const isWhole = isInvited || ticketOf(ticket.value) !== null
        go.disabled = !agree.checked || !isWhole
        share.textContent = isWhole || ticket.value === '' ? '' : say('agree.ticket_share', { letters: lettersOf(ticket.value) })
      }
      ticket.onchange = () => { doing.bring(ticket.value) }
      return {
        title: say(screen.task === 'renew' ? 'agree.renew' : screen.task === 'over' ? 'agree.over' : 'agree.title'),
        body: [
          lead(say('agree.short')), shortTerms(screen.status), folded(say('agree.details'), allTerms(screen.status)),
          isInvited ? null : h('p', { className: 'ticket' }, h('label', { htmlFor: 'ticket' }, say('agree.ticket')), ticket, h('span', { className: 'small', id: 'ticket-why' }, say('agree.ticket_why')), share),
          h('label', { className: 'agree', htmlFor: 'agree' }, agree, h('span', {}, say('agree.box'))),
        ],
        buttons: [go, back],
      }
    }
    case 'look': return lookOf(screen, doing)
    case 'lock': return {
      title: say('lock.title'),
      body: [
        lead(say('lock.lead')), screen.fault && h('p', { className: 'problem', role: 'alert' }, textOf(screen.fault, '')),
        ...waysToLock(screen.passkeys, doing.lock), h('p', { className: 'small' }, say('lock.room')),
      ],
      buttons: [button(say('cancel'), () => { doing.cancel() })],
    }
    case 'prepare': {
      const { body, go } = preparation((without) => { doing.film(screen.task, without) })
      return { title: say('film.title'), body: [problemOf(screen), lead(say('film.lead')), ...body, ...others(screen, false)], buttons: [main(say('film.button'), go), back] }
    }
    case 'film': return { title: say('film.now'), body: [doing.camera, h('p', { className: 'small' }, say('film.stays'))], buttons: [button(say('cancel'), () => { doing.cancel() })] }
    case 'working': return {
      title: say(`working.${screen.on}`),
      body: isTask(screen.on)
        ? [progress(Math.min(screen.stage + 1, 4) / 4, say('working.stage', { stage: screen.stage }))]
        : [progress(null, say('working.ask'))],
      buttons: [button(say('cancel'), () => { doing.cancel() })],
    }
    case 'enrolled': return {
      title: say('enrolled.title'), mark: 'good',
      body: [lead(say('enrolled.lead', { until: untilOf(screen) })), entry(screen)],
      buttons: [done],
    }
    case 'enrolled-not': return {
      title: say('enrolled.not'), mark: 'bad',
      body: [lead(say('enrolled.why')), tips(), ...others(screen), entry(screen)],
      buttons: [main(say('try_again'), () => { doing.go({ at: 'agreeing', task: 'enrol' }) }), back],
    }
    case 'home': return {
      title: say('home.title', { purpose: readable(screen.status.purpose) }),
      body: [
        lead(say('home.lead', { who: screen.status.terms.controller.name })), figure(),
        h('p', { className: 'small' }, say('home.until', { until: untilOf(screen) })),
      ],
      buttons: [main(say('home.button'), () => { doing.look('verify') })],
    }
    case 'asked': {
      const { asked, status: { terms: { controller } } } = screen
      const { purpose, audience } = asked === null ? screen.status : { purpose: asked.purpose, audience: asked.client }
      const { name } = asked === null ? controller : { name: asked.operator }
      return {
        title: say('asked.title', { audience: asked?.operator ?? audience }),
        body: [lead(say('asked.lead')), list([
          [say('asked.who'), audience === name ? audience : `${audience} (${name})`],
          [say('asked.what'), readable(purpose)], [say('asked.get'), say('asked.gets')],
          ...(asked === null ? [] : [[say('login.where'), asked.site] as [string, string]]),
        ]), asked === null || asked.isAgreed ? null : note(say('login.consents', { audience: name }))],
        buttons: [main(say('asked.button'), () => { doing.look('verify') }), button(say('asked.decline'), () => { doing.decline() })],
      }
    }
    case 'unserved': {
      const { audience, terms: { controller } } = screen.status
      return {
        title: say('unserved.title', { audience }), mark: 'bad', body: [lead(say('unserved.lead', { audience, who: controller.name }))],
        buttons: [main(say('unserved.button'), () => { doing.decline() })],
      }
    }
    case 'accepted': {
      const [sure, plain] = worth(screen.status)
      const saved = h('p', { id: 'saved', role: 'status' })
      return {
        title: say('accepted.title'), mark: 'good',
        body: [lead(plain), folded(say('accepted.sure'), h('p', { className: 'small' }, sure)), saved, ...statement(screen.outcome.assertion), entry(screen)],
        buttons: [...save(screen.outcome.assertion, screen.status.audience, saved), screen.outcome.assertion === null ? done : button(say('done'), () => { doing.decline() })],
      }
    }
    case 'renewed': return {
      title: say('renewed.title'), mark: 'good', body: [lead(say('renewed.lead', { until: untilOf(screen) })), entry(screen)], buttons: [done],
    }
    case 'behind': return {
      title: say('over.title'), mark: 'wait', body: [lead(say('over.lead', { who: screen.status.terms.controller.name })), h('p', { className: 'small' }, say('over.stays'))],
      buttons: [main(say('over.button'), () => { doing.go({ at: 'agreeing', task: 'over' }) })],
    }
    case 'came-over': return {
      title: say('over.done'), mark: 'good', body: [lead(say('over.done_lead', { until: untilOf(screen) })), entry(screen)], buttons: [done],
    }
    case 'refused': return {
      title: say('refused.title'), mark: 'bad',
      body: [
        lead(say('refused.lead', { on: screen.task })), h('p', { className: 'left' }, say('refused.left', { left: screen.left })),
        tips(), ...others(screen), entry(screen),
      ],
      buttons: screen.left === 0 ? [main(say('refused.clock'), () => { doing.look(screen.task) }), back] : [main(say('try_again'), () => { doing.look(screen.task) }), back],
    }
    case 'waiting': return {
      title: say('waiting.title'), mark: 'wait',
      body: [
        lead(screen.isBusy ? say('waiting.busy') : say('waiting.failures', { failures: screen.status.failures })),
        h('p', { className: 'clock', role: 'timer', attributes: { 'aria-label': say('waiting.left'), 'data-live': 'clock' } }, clock(screen.seconds)),
        ...(screen.isBusy ? [] : others(screen)),
      ],
      buttons: [back],
    }
    case 'waited': return {
      title: say('waited.title'), mark: 'wait', body: [lead(say('waited.lead'))], buttons: [main(say('try_again'), () => { once(screen.on, doing) }), back],
    }
    case 'ended': return {
      title: say('ended.title'), mark: 'wait', body: [lead(say('ended.lead', { until: untilOf(screen) }))],
      buttons: [main(say('ended.button'), () => { doing.go({ at: 'agreeing', task: 'renew' }) })],
    }
    case 'closed': return {
      title: say('closed.title'), mark: 'wait', body: [lead(say('closed.lead', { most: screen.status.mostAnswers }))],
      buttons: [destructive(say('closed.button'), () => { doing.ask('revoke') })],
    }
    case 'revoked': return {
      title: say('revoked.title'), mark: 'gone', body: [lead(say('revoked.lead')), ...others(screen, false)],
      buttons: [button(say('welcome.again'), () => { doing.go({ at: 'agreeing', task: 'enrol' }) }), button(say('done'), () => { doing.go(START) })],
    }
    case 'erased': return {
      title: say(screen.position === null ? 'erased.title_unproved' : 'erased.title'), mark: 'gone',
      body: [lead(screen.position === null ? say('erased.unproved') : say('erased.lead', { position: screen.position })), ...others(screen, false)],
      buttons: [button(say('done'), () => { doing.go(START) })],
    }
    case 'failed': {
      const { on, fault, status } = screen
      const isNobodysFault = fault.kind === 'CancelledError' || fault.kind === 'UnavailableError'
      return {
        title: titleOf(fault), mark: fault.kind === 'CancelledError' ? 'stopped' : isNobodysFault ? 'wait' : 'bad',
        body: [
          lead(textOf(fault, status.terms.controller.name)), ...(fault.kind === 'CancelledError' ? [] : [...(isTask(on) ? others(screen, !isNobodysFault) : []), exactly(fault.message)]),
        ],
        buttons: [...cureOf(fault, doing) ?? [main(say('try_again'), () => { once(on, doing) })], back],
      }
    }
  }
}

/** Does it once more. */
function once(on: Task | Wish, doing: Doing): void {
  if (on === 'enrol' || on === 'over') doing.go({ at: 'agreeing', task: on })
  else if (isTask(on)) doing.look(on)
  else doing.ask(on)
}

/** What helps where another try does not, or null. */
function cureOf({ why }: Fault, doing: Doing): Button[] | null {
  switch (why?.name) {
    case 'why.removed': return [main(say('welcome.again'), () => { doing.go({ at: 'agreeing', task: 'enrol' }) })]
    case 'why.template_closed': return [destructive(say('closed.button'), () => { doing.ask('revoke') })]
    case 'why.stranger': return [destructive(say('data.forget'), () => { doing.ask('forget') })]
    case 'why.other_key':
    case 'why.consent': return [main(say('data.renew'), () => { doing.go({ at: 'agreeing', task: 'renew' }) })]
    case 'why.no_issuer': return []
    default: return null
  }
}

/** What was wrong with the last pictures. */
const problemOf = ({ status, fault }: Known & { readonly fault: Fault | null }, isNumbered = false): HTMLElement | null =>
  fault && h('p', { className: 'problem', role: 'alert' }, textOf(fault, status.terms.controller.name, isNumbered))

function lookOf(screen: Screen & { kind: 'look' }, doing: Doing): Parts {
  const { status, task, part, by } = screen
  const cancel = button(say('cancel'), () => { doing.cancel() })
  const problem = problemOf(screen, by === 'files')
  const stays = h('p', { className: 'small' }, say('look.stays'))
  const isOthers = task === 'admit' || task === 'remove'
  const why = isOthers ? lead(say(`look.${task}_why`)) : null
  if (by === 'files') {
    const { references, frames } = status
    return {
      title: isOthers ? say(`look.${task}`) : say('files.title'),
      body: [why, lead(makesTemplate(task) ? say('files.references', { references, most: references + 1 }) : say('files.probe', { frames })), problem, doing.files, stays],
      buttons: [cancel, button(say('look.use_camera'), () => { doing.change('camera') }, 'quiet')],
    }
  }
  if (part === 'pause') return {
    title: say('look.second'), body: [lead(say('look.apart')), problem], buttons: [main(say('look.ready'), () => { doing.goOn() }), cancel],
  }
  const count = part === 'references' ? status.references : part === 'second' ? 1 : status.frames
  return {
    title: isOthers ? say(`look.${task}`) : say(part === 'second' ? 'look.second' : 'look.title'),
    body: [why, problem, doing.camera, h('p', { className: 'small' }, `${say(part === 'references' ? 'look.references' : 'look.probe', { count })} ${say('look.stays')}`)],
    buttons: [cancel, button(say('look.use_files'), () => { doing.change('files') }, 'quiet'), ...(task === 'enrol' ? [] : [button(say('look.film'), () => { doing.prepare(task) }, 'quiet')])],
  }
}

// ------------------------------------------------------------------ parts of screens

function button(text: string, onclick: () => void, className = ''): HTMLButtonElement {
  return h('button', { type: 'button', className, onclick }, text)
}

const main = (text: string, onclick: () => void): HTMLButtonElement => button(text, onclick, 'main')
const destructive = (text: string, onclick: () => void): HTMLButtonElement => button(text, onclick, 'destructive')
const lead = (text: string): HTMLElement => h('p', { className: 'lead' }, text)
const note = (text: string): HTMLElement => h('p', { className: 'note' }, text)

export const folded = (title: string, ...body: readonly Node[]): HTMLDetailsElement => h('details', {}, h('summary', {}, title), ...body)

/** Words of a program or of the service; they are English. */
const exactly = (message: string): HTMLElement => folded(say('failed.exactly'), h('p', { lang: 'en', className: 'small' }, message))

function progress(share: number | null, text: string): HTMLElement {
  const bar = h('progress', { max: 1, attributes: { 'aria-label': text, 'data-live': 'bar' } })
  if (share !== null) bar.value = share
  return h('div', { className: 'progress' }, bar, h('p', { role: 'status', attributes: { 'data-live': 'text' } }, text))
}

/** Where somebody is on the way to an enrolment, or to a newer consent. */
function stepsOf(screen: Screen): HTMLElement | null {
  const task = screen.kind === 'enrolled' ? 'enrol' : screen.kind === 'renewed' ? 'renew' : screen.kind === 'came-over' ? 'over' : screen.kind === 'agree' || screen.kind === 'look' || screen.kind === 'prepare' || screen.kind === 'film' ? screen.task : screen.kind === 'working' || screen.kind === 'lock' ? screen.on : null
  if (task !== 'enrol' && task !== 'renew' && task !== 'over') return null
  const isLocked = screen.kind !== 'enrolled' && 'status' in screen && screen.status.lock !== null && !isOver(screen.status.state)
  const names = task === 'renew' ? (['agree', 'look', 'done'] as const) : isLocked && screen.kind !== 'lock' ? (['agree', 'look', 'second', 'done'] as const) : (['agree', 'look', 'second', 'lock', 'done'] as const)
  const now = screen.kind === 'agree' ? 0 : screen.kind === 'prepare' || screen.kind === 'film' ? 1 : screen.kind === 'look' && (screen.part === 'references' || screen.part === 'probe') ? 1
    : screen.kind === 'look' ? 2 : screen.kind === 'working' || screen.kind === 'lock' ? names.length - 2 : names.length - 1
  return h('ol', { className: 'steps', attributes: { 'aria-label': say('steps', { step: now + 1, steps: names.length, name: say(`step.${names[now]}`) }) } },
    ...names.map((name, i) => h('li', { className: i < now ? 'past' : '', attributes: i === now ? { 'aria-current': 'step' } : {} }, say(`step.${name}`))))
}

/** What leaves the device. */
function figure(): HTMLElement {
  const phone = drawing('0 0 24 24', 'M7 2.5h10a1.5 1.5 0 0 1 1.5 1.5v16a1.5 1.5 0 0 1-1.5 1.5H7A1.5 1.5 0 0 1 5.5 20V4A1.5 1.5 0 0 1 7 2.5z', 'M12 7c-1.7 0-2.7 1.3-2.7 3 0 2 1.2 4 2.7 4s2.7-2 2.7-4c0-1.7-1-3-2.7-3z', 'M11 18.500h2')
  const way = drawing('0 0 48 24', 'M1 12h14', 'M33 12h14m-4-3.5 4 3.5-4 3.5', 'M19.5 11h9v7h-9z', 'M21.5 11V8.500a2.5 2.5 0 0 1 5 0V11')
  const service = drawing('0 0 24 24', 'M4 4h16v6.500H4z', 'M4 13.500h16V20H4z', 'M7.5 7.250h.01M7.5 16.750h.01', 'M11 7.250h5.500M11 16.750h5.5')
  const place = (picture: Node, name: string, text: string): HTMLElement => h('div', {}, picture, h('strong', {}, name), h('span', {}, text))
  return h('figure', { className: 'leaves', attributes: { 'aria-label': say('figure') } },
    place(phone, say('figure.device'), say('figure.stays')),
    h('div', { className: 'way' }, way, h('span', {}, say('figure.way'))),
    place(service, say('figure.service'), say('figure.learns')))
}

const tips = (): HTMLElement => h('div', { className: 'tips' }, h('h2', {}, say('refused.tips')),
  h('ul', {}, ...(['light', 'distance', 'straight', 'glasses'] as const).map((tip) => h('li', {}, say(`refused.${tip}`)))))

/** The way without a face, and whom to contest with. */
function others({ status: { terms } }: Known, isDecided = true): Node[] {
  const rows: (readonly [string, string | Node])[] = [[say('refused.other'), h('span', { lang: terms.language }, terms.alternative)]]
  if (isDecided) rows.push([say('refused.contest'), followed(terms.contest)])
  return [list(rows)]
}

const untilOf = ({ status }: Known): string => day(status.consentExpires ?? 0)

/** Where it stands in the log, and what that is good for. */
const entry = ({ outcome }: { readonly outcome: { readonly position: number } }): HTMLElement =>
  h('details', { className: 'entry' }, h('summary', {}, say('technical.entry', { position: outcome.position })), h('p', { className: 'small' }, say('technical.entry_why')))

/** What an organisation gets, in full. */
const statement = (assertion: string | null): HTMLElement[] => assertion === null ? [] : [folded(say('accepted.copy'), h('pre', { tabIndex: 0, id: 'assertion' }, assertion))]

/** @param said where it is told what to do with it, once it is saved. */
function save(assertion: string | null, audience: string, said: HTMLElement): HTMLAnchorElement[] {
  if (assertion === null) return []
  const download = 'assertion.jwt'
  const href = URL.createObjectURL(new Blob([`${assertion}\n`], { type: 'application/jwt' }))
  return [h('a', { className: 'main', href, download, onclick: () => { said.textContent = say('accepted.saved', { file: download, audience }) } }, say('accepted.save', { audience }))]
}

/** Minutes and seconds, with hours where there are some. */
export function clock(seconds: number): string {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60].slice(seconds < 3600 ? 1 : 0)
  return parts.map((part, i) => (i === 0 ? String(part) : String(part).padStart(2, '0'))).join(':')
}
