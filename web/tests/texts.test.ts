/** What the page says: no sentence twice. */

import { expect, test } from 'vitest'

import { SAY } from '../src/page/texts'

test.each([
  ['the server says: 5 attempts in a row have failed; try again in 27 seconds', 27],
  ['the server is busy', 27],
  ['the server is busy', 0.2],
])('"%s" says once when to try again', (message, seconds) => {
  const said = SAY.failed('UnavailableError', message, seconds)
  expect(said.match(/try again/gi)).toHaveLength(1)
  expect(said).toMatch(new RegExp(`try again in ${Math.ceil(seconds)} seconds\\.$`, 'i'))
})

test.each([null, 0])('when nobody knows when, nothing is said of it', (seconds) => {
  expect(SAY.failed('RefusedError', 'not enrolled', seconds)).toBe('Refused: not enrolled.')
})
