/** The step in which new keys are locked: with a passkey, which is advised where there may be one, or with a passphrase. */

import { passphraseFields } from './dialogs'
import { h } from './dom'
import { say } from './texts'

/** How the person wants their keys locked. */
export type Chosen = { readonly kind: 'passkey' } | { readonly kind: 'passphrase'; readonly passphrase: string }

/** Both ways, or the one that there is. @param passkeys whether this browser may know passkeys that lock keys. */
export function waysToLock(passkeys: boolean, choose: (chosen: Chosen) => void): HTMLElement[] {
  const fields = passphraseFields(true)
  const form = h('form', {}, h('p', {}, say('lock.passphrase')), ...fields.elements,
    h('button', { id: 'passphrase-button', className: passkeys ? '' : 'main' }, say('keeping.use')))
  form.onsubmit = (event) => { event.preventDefault(); choose({ kind: 'passphrase', passphrase: fields.value }) }
  if (!passkeys) return [form]
  return [
    h('p', {}, h('strong', {}, say('lock.advised')), ' ', say('lock.passkey')),
    h('button', { id: 'passkey-button', type: 'button', className: 'main', onclick: () => { choose({ kind: 'passkey' }) } }, say('keeping.passkey')),
    h('details', { id: 'other-way' }, h('summary', {}, say('lock.other')), form),
  ]
}
