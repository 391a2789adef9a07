/** What the page asks in a dialog: for a passphrase, and whether something is to be done for good. How each looks, without what follows. */

import { LEAST_CHARACTERS } from '../wallet/locks'
import { h } from './dom'
import { say } from './texts'

/** What a passphrase in a dialog is for. That of new keys is asked for on a screen of its own (`locking.ts`). */
export const PASSPHRASES = ['open', 'backup', 'open_backup'] as const
/** What is done for good. */
export const FINALITIES = ['revoke', 'erase', 'forget', 'remove'] as const
export type Finality = (typeof FINALITIES)[number]

/** Where a passphrase is typed; a new one twice. */
export interface PassphraseFields {
  readonly value: string
  readonly elements: readonly HTMLElement[]
}

export function passphraseFields(isNew: boolean): PassphraseFields {
  const field = (id: string): HTMLInputElement => h('input', { id, type: 'password', required: true, minLength: LEAST_CHARACTERS, autocomplete: isNew ? 'new-password' : 'current-password' })
  const [first, again] = [field('passphrase'), field('passphrase-again')]
  first.oninput = again.oninput = () => { again.setCustomValidity(isNew && first.value !== again.value ? say('keeping.differ') : '') }
  return {
    get value() { return first.value },
    elements: [
      h('p', {}, h('label', { htmlFor: 'passphrase' }, isNew ? say('keeping.passphrase', { least: LEAST_CHARACTERS }) : say('keeping.passphrase_known')), first),
      ...(isNew ? [h('p', {}, h('label', { htmlFor: 'passphrase-again' }, say('keeping.again')), again)] : []),
    ],
  }
}

/** Asks for a passphrase. @param end gets it, or null when the person would rather not. */
export function passphraseForm(what: (typeof PASSPHRASES)[number], end: (passphrase: string | null) => void): HTMLFormElement {
  const fields = passphraseFields(what === 'backup')
  const form = h('form', {},
    h('h2', { id: 'keeping-title' }, say(`keeping.${what}`)), h('p', {}, say(`keeping.${what}_lead`)), ...fields.elements,
    h('div', { className: 'buttons' },
      h('button', { id: 'passphrase-button', className: 'main' }, say('keeping.use')),
      h('button', { type: 'button', onclick: () => { end(null) } }, say('cancel'))))
  form.onsubmit = (event) => { event.preventDefault(); end(fields.value) }
  return form
}

/** Asks before something is done for good. The filled button is the one that does nothing. @param name of the device that it is done to, or null. */
export const finalForm = (what: Finality, name: string | null = null): HTMLFormElement => h('form', { method: 'dialog' },
  h('h2', { id: 'confirm-title' }, say(`confirm.${what}`, { named: name !== null, name: name ?? '' })), h('p', {}, say(`confirm.${what}_text`)),
  h('div', { className: 'buttons' },
    h('button', { className: 'main', value: '', autofocus: true }, say('confirm.no')),
    h('button', { className: 'destructive', value: 'yes' }, say(`confirm.${what}_yes`))))
