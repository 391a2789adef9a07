/** Tickets: what somebody must bring who wants to enrol. As `federation/wire/ticket.py`. */

import { type Bytes, concat, sha256, utf8 } from '../bytes'

const TAG = utf8('intaglio-ticket/1\0')
const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567' // RFC 4648, section 6

/** The 20 bytes of a ticket as somebody typed it, or null when it is none. Case, dashes and spaces do not matter. */
export function ticketOf(text: string): Bytes | null {
  const letters = text.replace(/[\s-]/g, '').toUpperCase()
  if (!/^[A-Z2-7]{32}$/.test(letters)) return null
  const bits = Array.from(letters, (letter) => LETTERS.indexOf(letter).toString(2).padStart(5, '0')).join('')
  return Uint8Array.from({ length: 20 }, (_, i) => Number.parseInt(bits.slice(8 * i, 8 * i + 8), 2))
}

/** How many letters of a ticket somebody has typed. */
export const lettersOf = (text: string): number => text.replaceAll(/[^A-Z2-7]/gi, '').length

/** A ticket as people read it: eight groups of four. */
export function ticketText(ticket: Uint8Array): string {
  const bits = Array.from(ticket, (byte) => byte.toString(2).padStart(8, '0')).join('')
  const letters = Array.from({ length: 32 }, (_, i) => LETTERS[Number.parseInt(bits.slice(5 * i, 5 * i + 5), 2)]).join('').toLowerCase()
  return letters.match(/.{4}/g)!.join('-')
}

/** What a server keeps of a ticket: SHA-256 of a tag and the ticket. */
export const ticketDigest = (ticket: Uint8Array): Bytes => sha256(concat(TAG, ticket))
