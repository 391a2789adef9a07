/** The few things that the page does with bytes. */

import { sha256 as sha256Of } from '@noble/hashes/sha2.js'

/** Bytes that own their memory. */
export type Bytes = Uint8Array<ArrayBuffer>

/** Fresh random bytes: `randomBytes`, or a keystream in tests. */
export type RandomBytes = (count: number) => Bytes

const GET_RANDOM_VALUES_LIMIT = 65_536

/** Fresh bytes of the browser's own generator. */
export const randomBytes: RandomBytes = (count) => {
  const bytes = new Uint8Array(count)
  for (let start = 0; start < count; start += GET_RANDOM_VALUES_LIMIT) {
    crypto.getRandomValues(bytes.subarray(start, start + GET_RANDOM_VALUES_LIMIT))
  }
  return bytes
}

/** SHA-256, 32 bytes. */
export const sha256 = (data: Uint8Array): Bytes => new Uint8Array(sha256Of(data))

/** UTF-8. */
export const utf8 = (text: string): Bytes => new TextEncoder().encode(text)

/** All parts, one after the other. */
export function concat(...parts: readonly Uint8Array[]): Bytes {
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.length, 0))
  let offset = 0
  for (const part of parts) {
    joined.set(part, offset)
    offset += part.length
  }
  return joined
}

/** Whether both hold the same bytes. The time depends on the lengths only. */
export function equal(left: Uint8Array, right: Uint8Array): boolean {
  if (left.length !== right.length) return false
  let difference = 0
  for (let i = 0; i < left.length; i++) difference |= left[i] ^ right[i]
  return difference === 0
}

/** Lower-case hexadecimal. */
export const hex = (data: Uint8Array): string => Array.from(data, (byte) => byte.toString(16).padStart(2, '0')).join('')

/** Reads `hex`. Throws RangeError on anything else. */
export function fromHex(text: string): Bytes {
  if (!/^(?:[0-9a-f]{2})*$/.test(text)) throw new RangeError('not lower-case hexadecimal')
  return Uint8Array.from({ length: text.length / 2 }, (_, i) => parseInt(text.slice(2 * i, 2 * i + 2), 16))
}

/** 8n zeros and ones -> n bytes, the first in the lowest bit. */
export function packBits(bits: Uint8Array): Bytes {
  const packed = new Uint8Array(bits.length / 8)
  bits.forEach((bit, i) => { packed[i >> 3] |= bit << (i & 7) })
  return packed
}

/** Reverses `packBits`. */
export const unpackBits = (packed: Uint8Array): Bytes => Uint8Array.from({ length: 8 * packed.length }, (_, i) => (packed[i >> 3] >> (i & 7)) & 1)
