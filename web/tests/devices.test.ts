/** A person's devices: codes, changes and lists are those of Python, and a list that lies is found out. */

import { beforeAll, expect, test, vi } from 'vitest'

import { concat, fromHex, hex, sha256, utf8 } from '../src/bytes'
import { codeOf, devicesIn, type NamedDevice, withNames } from '../src/device/devices'
import { deviceChangeDigest, Operation } from '../src/onebit/transcript'
import { deviceList, knownAs } from '../src/page/devices'
import { speak } from '../src/page/texts'
import { ticketDigest, ticketOf, ticketText } from '../src/wallet/ticket'
import { python } from './vectors'

interface Told {
  readonly codes: readonly { readonly key_id: string; readonly text: string; readonly digest: string }[]
  readonly admits: string
  readonly removes: string
  readonly record: { devices: Record<string, any>[] }
}

let told: Told
beforeAll(async () => { told = (await python('devices', {})) as Told })

const listed = (record: unknown, mine = told.record.devices[0]['key_id']): Promise<unknown> => devicesIn(JSON.stringify(record), fromHex(mine))
const changed = (place: number, change: (device: Record<string, any>) => unknown): unknown => ({ devices: told.record.devices.map((one, i) => (i === place ? change(structuredClone(one)) : one)) })

test('codes and changes of devices are those of Python', () => {
  for (const { key_id: keyId, text, digest } of told.codes) {
    expect(ticketText(codeOf(fromHex(keyId)))).toBe(text)
    expect(ticketOf(text.toUpperCase())).toEqual(codeOf(fromHex(keyId)))
    expect(hex(ticketDigest(codeOf(fromHex(keyId))))).toBe(digest)
  }
  expect(hex(deviceChangeDigest({ admits: new Uint8Array(32).fill(1) }))).toBe(told.admits)
  expect(hex(deviceChangeDigest({ removes: new Uint8Array(32).fill(1) }))).toBe(told.removes)
})

test('a list says who let whom in', async () => {
  const [first, second] = told.record.devices.map((one) => one['key_id'] as string)
  expect(await listed(told.record)).toEqual([
    { keyId: first, enrolledAt: 1_893_456_000, admittedBy: null }, { keyId: second, enrolledAt: 1_893_456_100, admittedBy: first },
  ])
  expect(await listed(told.record, second)).toHaveLength(2)
})

test.each([
  ['admits another device', (one: Record<string, any>) => ({ ...one, key_id: 'ab'.repeat(32) })],
  ['names another ticket', (one: Record<string, any>) => ({ ...one, admission: { ...one['admission'], ticket: 'ab'.repeat(32) } })],
  ['is signed by nobody', (one: Record<string, any>) => ({ ...one, admission: { ...one['admission'], signature: '00'.repeat(64) } })],
  ['is said to be by another', (one: Record<string, any>) => ({ ...one, admission: { ...one['admission'], by: 'ab'.repeat(32) } })],
  ['is of another transcript', (one: Record<string, any>) => ({ ...one, admission: { ...one['admission'], transcript: `${one['admission'].transcript.slice(0, -2)}ff` } })],
])('an admission that %s is contested', async (_what, change) => {
  await expect(listed(changed(1, change))).rejects.toThrow('contest it')
})

test('no device is said to have let itself in', async () => {
  const { publicKey, privateKey } = (await crypto.subtle.generateKey('Ed25519', true, ['sign', 'verify'])) as CryptoKeyPair
  const by = new Uint8Array(await crypto.subtle.exportKey('raw', publicKey))
  const transcript = fromHex(told.record.devices[1]['admission'].transcript)
  const signature = hex(new Uint8Array(await crypto.subtle.sign('Ed25519', privateKey, transcript)))
  const keyId = sha256(by)
  const ticket = hex(ticketDigest(codeOf(keyId)))
  const own = (one: Record<string, any>): unknown => ({ ...one, key_id: hex(keyId), admission: { ...one['admission'], by: hex(by), ticket, signature } })
  await expect(listed(changed(1, own))).rejects.toThrow('let itself in')
})

test.each([
  ['nothing', {}], ['no list', { devices: 5 }], ['a device without a key', { devices: [{}] }], ['a device without a time', { devices: [{ key_id: 'ab'.repeat(32) }] }],
])('%s is no list of devices', async (_what, record) => {
  await expect(listed(record)).rejects.toThrow('have key ids, times and admissions')
})

test('a device that is listed twice, or a list without this one, is refused', async () => {
  await expect(listed({ devices: [...told.record.devices, told.record.devices[0]] })).rejects.toThrow('listed twice')
  await expect(listed(told.record, 'ab'.repeat(32))).rejects.toThrow('not among them')
})

/** A device that signs what it is told to. */
async function signer(): Promise<{ readonly by: Uint8Array; readonly keyId: string; readonly admits: (keyId: string, change?: (fields: Uint8Array[]) => Uint8Array[], more?: Record<string, string>, cut?: (transcript: Uint8Array) => Uint8Array) => Promise<Record<string, any>> }> {
  const { publicKey, privateKey } = (await crypto.subtle.generateKey('Ed25519', true, ['sign', 'verify'])) as CryptoKeyPair
  const by = new Uint8Array(await crypto.subtle.exportKey('raw', publicKey))
  return {
    by, keyId: hex(sha256(by)),
    async admits(keyId, change = (fields) => fields, more = {}, cut = (transcript) => transcript) {
      const digest = ticketDigest(codeOf(fromHex(keyId)))
      const fields = Array.from({ length: 15 }, (_, i) => utf8(`field ${i}`))
      ;[fields[2], fields[8], fields[11]] = [Uint8Array.of(Operation.ADMIT_DEVICE), sha256(by), deviceChangeDigest({ admits: digest })]
      const transcript = cut(concat(...change(fields).flatMap((field) => [Uint8Array.of(field.length & 255, field.length >> 8), field])))
      const signature = hex(new Uint8Array(await crypto.subtle.sign('Ed25519', privateKey, transcript as BufferSource)))
      return { key_id: keyId, enrolled_at: 7, admission: { by: hex(by), ticket: hex(digest), transcript: hex(transcript), signature, ...more } }
    },
  }
}

test('of what a device signed every field counts that says who lets whom in, and no other; in Python too', async () => {
  const [one, other, third] = [await signer(), 'cd'.repeat(32), 'ef'.repeat(32)]
  const first = { key_id: one.keyId, enrolled_at: 5 }
  const put = (place: number, value: Uint8Array) => (fields: Uint8Array[]): Uint8Array[] => fields.with(place, value)
  const ELSE = 'what the device signed admits another device, or none; contest it'
  const NO_TRANSCRIPT = 'what the device signed is no transcript of a session; contest it'
  const NOBODY = 'the device that is said to have admitted another did not sign that; contest it'
  const NO_LIST = 'the devices of an export have key ids, times and admissions'
  const long = (bytes: number) => (fields: Uint8Array[]): Uint8Array[] => put(1, new Uint8Array(fields[1].length + bytes - concat(...fields).length - 30))(fields)
  const [sound, another] = [await one.admits(other), await one.admits(third, put(14, new Uint8Array()))]
  const rows: [string | null, Record<string, any>][] = [
    [null, sound], [null, await one.admits(other, put(3, utf8('another session')))], [null, await one.admits(other, long(1024))], [null, await one.admits(other, put(5, new Uint8Array(300)))], [NO_LIST, await one.admits(other, long(1025))],
    [ELSE, await one.admits(other, put(2, Uint8Array.of(Operation.REMOVE_DEVICE)))], [ELSE, await one.admits(other, put(2, Uint8Array.of(Operation.ADMIT_DEVICE, 0)))], [ELSE, await one.admits(other, put(8, sha256(utf8('another'))))],
    [ELSE, await one.admits(other, put(11, deviceChangeDigest({ admits: ticketDigest(codeOf(fromHex(third))) })))], [ELSE, await one.admits(other, put(11, deviceChangeDigest({ removes: ticketDigest(codeOf(fromHex(other))) })))],
    [ELSE, await one.admits(other, undefined, { ticket: another['admission'].ticket })], [ELSE, await one.admits(other, (fields) => fields.slice(0, 14))], [ELSE, await one.admits(other, (fields) => [...fields, new Uint8Array()])],
    [NO_TRANSCRIPT, await one.admits(other, undefined, {}, (transcript) => transcript.slice(0, -1))], [NO_TRANSCRIPT, await one.admits(other, undefined, {}, (transcript) => concat(transcript, Uint8Array.of(0)))],
    [NO_TRANSCRIPT, await one.admits(other, undefined, {}, (transcript) => concat(transcript, Uint8Array.of(1, 0)))],
    [NOBODY, await one.admits(other, undefined, { signature: '00'.repeat(64) })], [NOBODY, await one.admits(other, undefined, { by: hex((await signer()).by) })], [NOBODY, { ...sound, admission: { ...sound['admission'], transcript: another['admission'].transcript } }],
    ...['by', 'ticket', 'signature', 'transcript'].flatMap((field): [string, Record<string, any>][] => ['no hex', '', `${sound['admission'][field]}00${field === 'transcript' ? '00'.repeat(1024) : ''}`, sound['admission'][field].slice(field === 'transcript' ? Infinity : 2), undefined, 5]
      .map((value) => [NO_LIST, { ...sound, admission: { ...sound['admission'], [field]: value } }])),
    ...[1.5, '7', null, undefined].map((time): [string, Record<string, any>] => [NO_LIST, { ...sound, enrolled_at: time }]), ...[null, {}, [], 5].map((admission): [string, Record<string, any>] => [NO_LIST, { ...sound, admission }]),
    ...['', 'cd', 'cd'.repeat(33), null].map((keyId): [string, Record<string, any>] => [NO_LIST, { ...sound, key_id: keyId }]),
  ]
  const lists = rows.flatMap(([said, row]) => [[first, row], [first, { ...another }, row], [first, row, { ...another }]].map((devices) => [said, { devices }] as const))
  const known = (await python('listed', lists.map(([, record]) => record))) as (string | null)[]
  for (const [i, [said, record]] of lists.entries()) {
    const found = await devicesIn(JSON.stringify(record), fromHex(one.keyId)).catch((error: unknown) => error as Error)
    expect(found instanceof Error ? found.message : null, JSON.stringify(record)).toBe(said)
    expect(found instanceof Error ? found.name : null, JSON.stringify(record)).toBe(known[i])
    if (!(found instanceof Error)) expect(found).toEqual(record.devices.map(({ key_id: keyId, enrolled_at: enrolledAt }) => ({ keyId, enrolledAt, admittedBy: keyId === one.keyId ? null : one.keyId })))
  }
})

test('a key that the browser takes for none signed nothing', async () => {
  const reading = vi.spyOn(crypto.subtle, 'importKey').mockRejectedValue(new DOMException('not on the curve', 'DataError'))
  try {
    await expect(listed(told.record)).rejects.toThrow('did not sign that; contest it')
  } finally {
    reading.mockRestore()
  }
})

test('each device has the name that the wallet keeps for it, or none', () => {
  const [first, second] = ['ab'.repeat(32), 'cd'.repeat(32)].map((keyId, i) => ({ keyId, enrolledAt: i, admittedBy: null }))
  expect(withNames([first, second], { [hex(codeOf(fromHex(second.keyId)))]: 'the phone', [first.keyId]: 'by another key' })).toEqual([{ ...first, name: null }, { ...second, name: 'the phone' }])
})

test('of each device it is told who let it in, by the name that there is', () => {
  speak('en')
  const [mine, ...others] = ['11', '22', '33', '44', '55', '66'].map((digits) => digits.repeat(32))
  const device = (keyId: string, admittedBy: string | null, name: string | null = null): NamedDevice => ({ keyId, enrolledAt: 0, admittedBy, name })
  const done: unknown[] = []
  const doing = { admit: (...given: unknown[]) => { done.push(['admit', ...given]) }, rename: (...given: unknown[]) => { done.push(['rename', ...given]) }, remove: (...given: unknown[]) => { done.push(['remove', ...given]) }, lost: () => undefined }
  const list = (own: string | null): HTMLElement[] => deviceList([device(mine, null, own), device(others[0], mine), device(others[1], others[0], 'the phone'), device(others[2], others[1]), device(others[3], 'ee'.repeat(32))], mine.slice(0, 16), doing)
  const by = (own: string | null): string[] => [...list(own)[0].querySelectorAll('li > .small')].map(({ textContent }) => textContent)
  const browser = knownAs({ keyId: mine, name: null }, mine.slice(0, 16))
  expect(by(null).map((text) => text.includes(browser))).toEqual([false, true, false, false, false])
  expect([by('mine')[1], by(null)[2], by(null)[3], by(null)[4]].map((text) => text.slice(16)).map((text) => ['mine', '2222222222222222', 'the phone', 'eeeeeeeeeeeeeeee'].filter((one) => text.includes(one)))).toEqual([['mine'], ['2222222222222222'], ['the phone'], ['eeeeeeeeeeeeeeee']])
  const [devices, , form] = list(null)
  document.body.replaceChildren(devices, form)
  const rows = [...devices.children]
  expect(rows.map((row) => row.querySelector('.destructive') !== null)).toEqual([false, true, true, true, true])
  rows[2].querySelector<HTMLElement>('.destructive')!.click()
  rows[3].querySelector<HTMLElement>('.destructive')!.click()
  rows[3].querySelector<HTMLInputElement>('input')!.value = 'a name'
  rows[3].querySelector('form')!.requestSubmit()
  const [code, name] = form.querySelectorAll('input')
  ;[code.value, name.value] = ['MFRG G2TS ORVW 42LB MFRG G2TS ORVW 42LB', 'the tablet']
  ;(form as HTMLFormElement).requestSubmit()
  expect(done).toEqual([['remove', others[1], 'the phone'], ['remove', others[2], null], ['rename', others[2], 'a name'], ['admit', ticketOf('mfrgg2tsorvw42lbmfrgg2tsorvw42lb'), 'the tablet']])
  document.body.replaceChildren()
})
