/** Tickets as somebody types them, and as a link brings them. */

import { expect, test } from 'vitest'

import { takeTicket } from '../src/page/ticket'
import { lettersOf, ticketOf, ticketText } from '../src/wallet/ticket'

const KNOWN = 'aaaq-eaye-auda-ocaj-bifq-ydio-b4ib-ceqt' // as tests/federation/wire/test_ticket.py has it

test.each([KNOWN, KNOWN.toUpperCase(), KNOWN.replaceAll('-', ' '), ` ${KNOWN.replaceAll('-', '')}\n`])('%j is the ticket that Python wrote', (text) => {
  expect(ticketOf(text)).toEqual(Uint8Array.from({ length: 20 }, (_, i) => i))
})

test('a ticket is written as Python writes it, and its letters are counted', () => {
  expect(ticketText(Uint8Array.from({ length: 20 }, (_, i) => i))).toBe(KNOWN)
  expect([KNOWN, '', '1 8 9 0', 'ab-C7 '].map(lettersOf)).toEqual([32, 0, 0, 4])
})

test.each(['', 'a'.repeat(31), 'a'.repeat(33), '1'.repeat(32), `${'a'.repeat(24)}========`, '\u0430'.repeat(32)])('%j is none', (text) => {
  expect(ticketOf(text)).toBeNull()
})

test.each([
  ['', ''], ['#', ''], ['#ticket=', ''], ['#other=1', ''], [`#ticket=${KNOWN}`, KNOWN], [`#x=1&ticket=${KNOWN}`, KNOWN],
])('a link that ends in %j brings %j, and leaves it nowhere', (hash, ticket) => {
  const before = location.href
  history.replaceState(null, '', `${location.pathname}?nonce=1${hash}`)
  try {
    expect(takeTicket()).toBe(ticket)
    expect(location.search + location.hash).toBe(`?nonce=1${hash.includes('ticket') || hash === '#' ? '' : hash}`)
  } finally {
    history.replaceState(null, '', before)
  }
})
