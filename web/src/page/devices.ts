/** The person's other devices, and the backup: what stands in "Your data" about them. */

import type { ListedDevice } from '../device/devices'
import type { Status } from '../device/messages'
import { ticketOf } from '../wallet/ticket'
import { h } from './dom'
import { say, time } from './texts'

/** What is done about other devices. */
export interface DoingDevices {
  /** Lets another device in, by the code that it shows: 20 bytes. */
  admit(code: Uint8Array<ArrayBuffer>): void
  /** Ends the template of another device. @param keyId in hex. */
  remove(keyId: string): void
  /** Revokes a lost device's template by its backup. */
  lost(backup: File): void
}

/** The list of devices, with a place for the code of another one. */
export function deviceList(devices: readonly ListedDevice[], mine: string, doing: DoingDevices): HTMLElement[] {
  const short = (keyId: string): string => keyId.slice(0, 16)
  return [
    h('ul', { id: 'devices' }, ...devices.map(({ keyId, enrolledAt, admittedBy }) => h('li', {},
      h('span', {}, say('devices.one', {
        name: short(keyId), mine: short(keyId) === mine, since: time(enrolledAt), by: admittedBy === null ? 'ticket' : devices.some(({ keyId: other }) => other === admittedBy) ? 'device' : 'unlisted', device: admittedBy === null ? '' : short(admittedBy),
      })),
      short(keyId) !== mine && h('button', { type: 'button', className: 'destructive', onclick: () => { doing.remove(keyId) } }, say('devices.remove'))))),
    h('p', { className: 'small' }, say('devices.unknown')),
    codeForm(doing),
  ]
}

/** Where the code of another device is typed. */
function codeForm({ admit }: DoingDevices): HTMLFormElement {
  const code = h('input', { id: 'code', autocomplete: 'off', spellcheck: false, required: true })
  code.oninput = () => { code.setCustomValidity(ticketOf(code.value) === null ? say('devices.no_code') : '') }
  const form = h('form', {}, h('label', { htmlFor: 'code' }, say('devices.code')), code, h('button', { id: 'admit-button' }, say('devices.admit')))
  form.onsubmit = (event) => { event.preventDefault(); admit(ticketOf(code.value)!) }
  return form
}

/** A file to save: once it has been shown, it is the person's to keep. */
export function backupFile(file: Blob, { name }: Status): HTMLElement[] {
  return [h('p', {}, say('backup.lead')), h('p', {}, h('a', { id: 'backup', className: 'main', href: URL.createObjectURL(file), download: `intaglio-${name}.backup` }, say('backup.save')))]
}

/** Where the backup of a lost device is chosen. */
export function lostDevice({ lost }: DoingDevices): HTMLElement[] {
  const file = h('input', { id: 'backup-file', type: 'file' })
  file.onchange = () => { if (file.files?.[0] !== undefined) lost(file.files[0]) }
  return [h('p', {}, say('lost.lead')), h('p', {}, h('label', { className: 'button', htmlFor: 'backup-file' }, file, h('span', {}, say('lost.file'))))]
}
