/** Documents at the edges of what is allowed: the page takes exactly those that Python takes. See `tests/web/edges.py`. */

import { expect, test } from 'vitest'

import { utf8 } from '../src/bytes'
import { LoginRequest } from '../src/device/login'
import { IntaglioError } from '../src/errors'
import { ModelRelease } from '../src/face/release'
import { Opening, readEntry } from '../src/log/entries'
import { SignedManifest } from '../src/rules/manifest'
import { Rulebook } from '../src/rules/rulebook'
import { SignedReceipt } from '../src/wallet/receipts'
import { python } from './vectors'

const rules = async (text: string): Promise<void> => { await Rulebook.read(utf8(text), null) }
const entry = (text: string): unknown => readEntry(utf8(text))
const READ: Readonly<Record<string, (text: string) => unknown>> = {
  'receipt': (text) => SignedReceipt.fromBytes(utf8(text)),
  'manifest': (text) => SignedManifest.fromBytes(utf8(text)),
  'login': (text) => LoginRequest.fromBytes(utf8(text)),
  'release': (text) => new ModelRelease(utf8(text)),
  'rule signers': rules, 'a comparison': entry, 'attempts': entry, 'a revocation': entry, 'a declaration': entry, 'an opening': (text) => new Opening(utf8(text)),
  'a pack': rules, 'a deployment': rules, 'an exception': rules, 'a moratorium': rules, 'a lifting': rules, 'a kiosk': rules, 'a client': rules,
}

/** Where the page is stricter: a bundle without its release is refused by Python once it is opened. */
const STRICTER = new Set(['manifest/files/release.json gone'])
/** Of a release, whose digest both have signed, the page reads a part; a number may be written without its point. */
const isLooked = (kind: string, name: string): boolean => !STRICTER.has(name) && (kind !== 'release'
  || (/^(format|dimension|code_length|threshold|fmr\w*|references|frames|basis|centres|projection)\b/.test(name) && name !== 'fmr_low 2 0'))

test.each(Object.keys(READ))('of %s, at every place', async (kind) => {
  const known = (await python('edges', { kind })) as [string, string, boolean][]
  const others: string[] = []
  for (const [name, text, isTaken] of known.filter(([name]) => isLooked(kind, name))) {
    let error: unknown = null
    try { await READ[kind](text) } catch (thrown) { error = thrown }
    if ((error === null) !== isTaken || (error !== null && !(error instanceof IntaglioError))) others.push(`${name}: Python ${isTaken ? 'takes' : 'refuses'} it, and the page says ${String(error)}`)
  }
  expect(others).toEqual([])
  expect(known.length).toBeGreaterThan(100)
})
