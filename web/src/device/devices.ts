/**
 * A person's other devices: the code that one shows, and who let which of them in. As `federation/wire/devices.py`.
 *
 * A code is a ticket made of the device's own key, so it serves that key and no other, whoever has read it. The device that
 * lets another in signs that in a session that matched, and every device of the person checks the signature.
 */

import { type Bytes, concat, equal, fromHex, hex, sha256, utf8 } from '../bytes'
import { MalformedMessageError, ProofError } from '../errors'
import { deviceChangeDigest, Operation } from '../onebit/transcript'
import type { Names } from '../wallet/names'
import { ticketDigest } from '../wallet/ticket'

const CODE_TAG = utf8('intaglio-device-code/1\0')
const TICKET_BYTES = 20
const [FIELDS, OPERATION, KEY_ID, CHANGE] = [15, 2, 8, 11]
const KEY_ID_BYTES = 32
/** Fewest and most bytes of what an admission says. */
const ADMISSION = { by: [32, 32], ticket: [32, 32], signature: [64, 64], transcript: [1, 1024] } as const

/** One enrolled device, as the server lists it to another. */
export interface ListedDevice {
  /** In hex. */
  readonly keyId: string
  /** Seconds since 1970. */
  readonly enrolledAt: number
  /** Key id of the device that let it in, in hex; null for one that enrolled with an operator's ticket. */
  readonly admittedBy: string | null
}

/** With what the person calls it, or null. */
export interface NamedDevice extends ListedDevice {
  readonly name: string | null
}

/** What a device that is not enrolled shows, to be let in by: 20 bytes. It is no secret. */
export const codeOf = (keyId: Uint8Array): Bytes => sha256(concat(CODE_TAG, keyId)).slice(0, TICKET_BYTES)

/**
 * The devices that an export's record lists.
 *
 * A server may leave devices out, may list one as the first that nobody let in, and may have one let in by a key of its own,
 * which is not in the list: what it cannot do is to say that a device which is in it let one in.
 *
 * @param mine key id of this device.
 * @throws MalformedMessageError it is no such list, or this device is not in it.
 * @throws ProofError one was not let in by the device that is named.
 */
export async function devicesIn(record: string, mine: Uint8Array): Promise<ListedDevice[]> {
  let found: { keyId: Bytes; enrolledAt: number; admission: Record<string, Bytes> | null }[]
  try {
    const { devices } = JSON.parse(record) as { devices: Record<string, any>[] }
    found = devices.map(({ key_id: keyId, enrolled_at: enrolledAt, admission }) => {
      if (!Number.isSafeInteger(enrolledAt)) throw new RangeError('a time is a number')
      return { keyId: bytesIn(keyId, KEY_ID_BYTES), enrolledAt, admission: admission === undefined ? null : Object.fromEntries(Object.entries(ADMISSION).map(([name, [least, most]]) => [name, bytesIn(admission[name], least, most)])) }
    })
  } catch {
    throw new MalformedMessageError('the devices of an export have key ids, times and admissions')
  }
  if (new Set(found.map(({ keyId }) => hex(keyId))).size !== found.length) throw new MalformedMessageError('a device is listed twice')
  if (!found.some(({ keyId }) => equal(keyId, mine))) throw new MalformedMessageError('the server lists devices, and this one is not among them')
  return Promise.all(found.map(async ({ keyId, enrolledAt, admission }) => {
    if (admission !== null) await checkAdmission(admission, keyId)
    return { keyId: hex(keyId), enrolledAt, admittedBy: admission && hex(sha256(admission['by'])) }
  }))
}

/** Reads so many bytes at least and at most. Throws on anything else. */
function bytesIn(text: string, least: number, most = least): Bytes {
  const bytes = fromHex(text)
  if (bytes.length < least || bytes.length > most) throw new RangeError('of another length')
  return bytes
}

/** Devices with the names that a wallet keeps for them. */
export const withNames = (devices: readonly ListedDevice[], names: Names): NamedDevice[] =>
  devices.map((one) => ({ ...one, name: names[hex(codeOf(fromHex(one.keyId)))] ?? null }))

/** Throws ProofError unless a device signed an admission of exactly that key, as itself. */
async function checkAdmission({ by, ticket, signature, transcript }: Record<string, Bytes>, admitted: Bytes): Promise<void> {
  const isSigned = await crypto.subtle.importKey('raw', by, 'Ed25519', false, ['verify'])
    .then((key) => crypto.subtle.verify('Ed25519', key, signature, transcript)).catch(() => false)
  if (!isSigned) throw new ProofError('the device that is said to have admitted another did not sign that; contest it')
  const fields: Bytes[] = []
  for (let place = 0; place < transcript.length;) {
    const length = transcript[place] + 256 * (transcript[place + 1] ?? 256)
    fields.push(transcript.slice(place + 2, place + 2 + length))
    place += 2 + length
    if (place > transcript.length) throw new ProofError('what the device signed is no transcript of a session; contest it')
  }
  if (equal(sha256(by), admitted)) throw new ProofError('a device is said to have let itself in, as none can; contest it')
  const expected: [number, Bytes][] = [
    [OPERATION, Uint8Array.of(Operation.ADMIT_DEVICE)], [KEY_ID, sha256(by)], [CHANGE, deviceChangeDigest({ admits: ticketDigest(codeOf(admitted)) })],
  ]
  if (fields.length !== FIELDS || !equal(ticket, ticketDigest(codeOf(admitted))) || expected.some(([place, value]) => !equal(fields[place], value))) {
    throw new ProofError('what the device signed admits another device, or none; contest it')
  }
}
