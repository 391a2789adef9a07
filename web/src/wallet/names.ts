/**
 * What a person calls their devices. Known to the browser in which they said it and sealed with its keys; nobody is sent any of it.
 *
 * A name belongs to the code that a device shows (`device/devices.ts`), so one that is let in has its name before it has enrolled.
 */

import { hex } from '../bytes'

/** By a device's code, in hex. */
export type Names = Readonly<Record<string, string>>

/** Letters. */
export const LONGEST_NAME = 40
/** An account has five devices at a time; the names given last are kept. */
const MOST_NAMES = 16

/** A name as it is kept: in one line, and not longer than it may be. */
export const nameOf = (text: string): string =>
  Array.from(text.normalize('NFC').replaceAll(/[\p{C}\p{Z}]+/gu, ' ').trim()).slice(0, LONGEST_NAME).join('').trim()

/** With that name for that device, or with none where nothing is left of it. */
export function named(names: Names, code: Uint8Array, text: string): Names {
  const [key, name] = [hex(code), nameOf(text)]
  const others = Object.entries(names).filter(([one]) => one !== key)
  return Object.fromEntries([...others, ...(name === '' ? [] : [[key, name]])].slice(-MOST_NAMES))
}
