/** Puts a situation on the page: the screen that follows from it, what stands around it, and where the person looks next. */

import { h } from './dom'
import { type Found, type Messages, technical, yours } from './records'
import { screenOf, type Situation } from './states'
import { CATALOGUES, language, say } from './texts'
import { draw, type Doing } from './views'

const element = (id: string): HTMLElement => document.getElementById(id)!

/** Shows what follows from a situation. Where the screen stays the same one, only what moves on it changes. */
export function show(situation: Situation, doing: Doing, found: Found, messages: Messages): void {
  const screen = screenOf(situation)
  const drawn = draw(screen, doing)
  const name = [screen.kind, 'part' in screen && screen.part, 'by' in screen && screen.by, 'on' in screen && screen.on, 'fault' in screen && screen.fault?.why?.name, 'ticket' in screen && screen.ticket.length, 'isInvited' in screen && screen.isInvited, language].join(' ')
  const place = element('screen')
  if (place.dataset['name'] === name && screen.kind !== 'look' && screen.kind !== 'prepare') {
    for (const live of drawn.querySelectorAll<HTMLElement>('[data-live]')) {
      const old = place.querySelector<HTMLElement>(`[data-live=${live.dataset['live']}]`)!
      if (live instanceof HTMLProgressElement) (old as HTMLProgressElement).value = live.value
      else if (old.textContent !== live.textContent) old.textContent = live.textContent
    }
    return
  }
  place.dataset['name'] = name
  place.replaceChildren(drawn)
  showAround(situation, doing, found, messages)
  const heading = drawn.querySelector('h1')!
  document.title = [heading.textContent, situation.status?.terms.controller.name].filter(Boolean).join(' \u2013 ')
  document.documentElement.lang = language
  document.body.dataset['screen'] = screen.kind
  if (screen.kind !== 'loading') heading.focus({ preventScroll: true }) // so that a screen reader says where one is
  scrollTo(0, 0)
}

/** Header, folded records and languages. While somebody is at work on something, only what they need. */
export function showAround({ status, place }: Situation, doing: Doing, found: Found, messages: Messages): void {
  element('who').textContent = status?.terms.controller.name ?? say('name')
  const isBusy = ['working', 'locking', 'looking', 'preparing', 'filming', 'agreeing'].includes(place.at)
  element('below').replaceChildren(...(status === null || isBusy ? [] : [...yours(status, found, doing), technical(status, messages.element, found, doing)]))
  element('languages').setAttribute('aria-label', say('languages'))
  element('languages').hidden = ['working', 'locking', 'looking', 'filming'].includes(place.at) // what is drawn anew would begin anew
  element('languages').replaceChildren(...Object.entries(CATALOGUES).map(([tag, catalogue]) =>
    h('button', { type: 'button', lang: tag, onclick: () => { doing.speak(tag) }, attributes: tag === language ? { 'aria-current': 'true' } : {} }, catalogue.language)))
}
