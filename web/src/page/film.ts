/** Being filmed: what the person is asked for and may leave out, and what they see meanwhile. */

import type { Omission } from '../face/movements'
import { h } from './dom'
import { say } from './texts'

/** Being filmed is begun by this. */
export type Begin = (without: Omission | null) => void

const CHOICES = ['nothing', 'turning', 'nodding'] as const

/** What will be asked for, and the choice to leave something out. @returns what is shown, and what begins it. */
export function preparation(begin: Begin): { readonly body: readonly HTMLElement[]; readonly go: () => void } {
  const boxes = CHOICES.map((value) => h('input', { type: 'radio', name: 'without', id: `without-${value}`, value, checked: value === 'nothing' }))
  return {
    body: [
      h('ol', { className: 'asked' }, ...(['look', 'follow', 'back'] as const).map((step) => h('li', {}, say(`film.step_${step}`)))),
      h('fieldset', {}, h('legend', {}, say('film.choose')), ...boxes.map((box, i) => h('label', { className: 'agree', htmlFor: box.id }, box, h('span', {}, say(`film.without_${CHOICES[i]}`))))),
      h('p', { className: 'small' }, say('film.stays')),
    ],
    go() {
      const chosen = CHOICES[boxes.findIndex(({ checked }) => checked)]
      begin(chosen === 'nothing' ? null : chosen)
    },
  }
}
