/** The person's other devices, and the backup: what stands in "Your data" about them. */

import type { NamedDevice } from '../device/devices'
import type { Status } from '../device/messages'
import { LONGEST_NAME } from '../wallet/names'
import { ticketOf } from '../wallet/ticket'
import { h } from './dom'
import { browserOf, systemOf } from './platform'
import { say, time } from './texts'

/** What is done about other devices. */
export interface DoingDevices {
  /** Lets another device in, by the code that it shows: 20 bytes. @param name what the person calls it, or nothing. */
  admit(code: Uint8Array<ArrayBuffer>, name: string): void
  /** Keeps what the person calls a device. @param keyId in hex. */
  rename(keyId: string, name: string): void
  /** Ends the template of another device. @param keyId in hex. @param name what the person calls it, or null. */
  remove(keyId: string, name: string | null): void
  /** Revokes a lost device's template by its backup. */
  lost(backup: File): void
}

/** What people know a device by: what they call it; this one's browser; or just that it is another one. */
export function knownAs({ keyId, name }: Pick<NamedDevice, 'keyId' | 'name'>, mine: string): string {
  if (name !== null) return name
  return short(keyId) === mine ? say('devices.browser', { browser: browserOf(navigator.userAgent), system: systemOf(navigator.userAgent) }) : say('devices.unnamed')
}

const short = (keyId: string): string => keyId.slice(0, 16)

/** The list of devices, with a place for the code of another one. */
export function deviceList(devices: readonly NamedDevice[], mine: string, doing: DoingDevices): HTMLElement[] {
  return [
    h('ul', { id: 'devices' }, ...devices.map((one) => listed(one, devices, mine, doing))),
    h('p', { className: 'small' }, say('devices.unknown')),
    codeForm(doing),
  ]
}

function listed(one: NamedDevice, devices: readonly NamedDevice[], mine: string, { rename, remove }: DoingDevices): HTMLLIElement {
  const { keyId, enrolledAt, admittedBy } = one
  const by = devices.find(({ keyId: other }) => other === admittedBy)
  const name = h('input', { id: `name-${keyId}`, value: knownAs(one, mine), maxLength: LONGEST_NAME, autocomplete: 'off' })
  const form = h('form', { className: 'renaming' }, h('label', { htmlFor: name.id }, say('devices.name')), name, h('button', {}, say('devices.keep')))
  form.onsubmit = (event) => { event.preventDefault(); rename(keyId, name.value) }
  return h('li', {},
    h('strong', {}, knownAs(one, mine), short(keyId) === mine && ` ${say('devices.this')}`),
    h('span', { className: 'small' }, say('devices.one', {
      name: short(keyId), since: time(enrolledAt), by: admittedBy === null ? 'ticket' : by === undefined ? 'unlisted' : 'device',
      device: by === undefined ? short(admittedBy ?? '') : by.name ?? (short(by.keyId) === mine ? knownAs(by, mine) : short(by.keyId)),
    })),
    h('div', { className: 'row' }, h('details', {}, h('summary', {}, say('devices.rename')), form),
      short(keyId) !== mine && h('button', { type: 'button', className: 'destructive', onclick: () => { remove(keyId, one.name) } }, say('devices.remove'))))
}

/** Where the code of another device is typed. */
function codeForm({ admit }: DoingDevices): HTMLFormElement {
  const code = h('input', { id: 'code', autocomplete: 'off', spellcheck: false, required: true })
  const name = h('input', { id: 'code-name', maxLength: LONGEST_NAME, autocomplete: 'off' })
  code.oninput = () => { code.setCustomValidity(ticketOf(code.value) === null ? say('devices.no_code') : '') }
  const form = h('form', {}, h('label', { htmlFor: code.id }, say('devices.code')), code, h('label', { htmlFor: name.id }, say('devices.code_name')), name,
    h('button', { id: 'admit-button' }, say('devices.admit')))
  form.onsubmit = (event) => { event.preventDefault(); admit(ticketOf(code.value)!, name.value) }
  return form
}

/** A file to save: once it has been shown, it is the person's to keep. What became of it, only the browser knows. */
export function backupFile(file: Blob, { name }: Status): HTMLElement[] {
  const download = `intaglio-${name}.backup`
  const said = h('p', { role: 'status' })
  const save = h('a', { id: 'backup', className: 'main', href: URL.createObjectURL(file), download, onclick: () => { said.textContent = say('backup.saved', { file: download }) } }, say('backup.save'))
  return [h('p', {}, say('backup.lead')), h('p', {}, save), said]
}

/** Where the backup of a lost device is chosen. */
export function lostDevice({ lost }: DoingDevices): HTMLElement[] {
  const file = h('input', { id: 'backup-file', type: 'file' })
  file.onchange = () => { if (file.files?.[0] !== undefined) lost(file.files[0]) }
  return [h('p', {}, say('lost.lead')), h('p', {}, h('label', { className: 'button', htmlFor: 'backup-file' }, file, h('span', {}, say('lost.file'))))]
}
