/** Tickets: what somebody must bring who wants to enrol. As `federation/wire/ticket.py`. */

import type { Bytes } from '../bytes'

const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567' // RFC 4648, section 6

/** The 20 bytes of a ticket as somebody typed it, or null when it is none. Case, dashes and spaces do not matter. */
export function ticketOf(text: string): Bytes | null {
  const letters = text.replace(/[\s-]/g, '').toUpperCase()
  if (!/^[A-Z2-7]{32}$/.test(letters)) return null
  const bits = Array.from(letters, (letter) => LETTERS.indexOf(letter).toString(2).padStart(5, '0')).join('')
  return Uint8Array.from({ length: 20 }, (_, i) => Number.parseInt(bits.slice(8 * i, 8 * i + 8), 2))
}
