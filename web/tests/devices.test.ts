/** A person's devices: codes, changes and lists are those of Python, and a list that lies is found out. */

import { beforeAll, expect, test } from 'vitest'

import { fromHex, hex, sha256 } from '../src/bytes'
import { codeOf, devicesIn } from '../src/device/devices'
import { deviceChangeDigest } from '../src/onebit/transcript'
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
