/** What the server tells of its deployment: every field that is wrong is refused, whatever it is instead. */

import { beforeAll, expect, test } from 'vitest'

import { hex, sha256, utf8 } from '../src/bytes'
import { deploymentOf } from '../src/device/deployment'
import { PeerError } from '../src/errors'
import { python } from './vectors'

let told: Record<string, any>
let release: string
let manifest: string
const read = (value: unknown, of = release, by = manifest): unknown =>
  deploymentOf(utf8(JSON.stringify(value)), utf8(of), utf8(by), () => Promise.reject(new Error('nobody reads rules')))

beforeAll(async () => {
  const known = (await python('deployment', { code_length: 1024, threshold: 256, issues: true })) as Record<string, any>
  const { terms, purpose, log, trust } = known
  ;[release, manifest] = [known['release'] as string, known['manifest'] as string]
  told = { terms, purpose, days: 90, free_failures: 5, log, deployment: 'trial', release_trust: trust }
})

test('a deployment that is right is read, each field in its place', () => {
  expect(read(told)).toMatchObject({
    purpose: told['purpose'], days: 90, freeFailures: 5, identifier: 'trial', audience: told['terms'].audience, log: told['log'],
    trust: { makers: told['release_trust'].makers, auditors: told['release_trust'].auditors, acceptsTrials: told['release_trust'].accepts_trials },
    terms: {
      controller: told['terms'].controller, purposes: told['terms'].purposes, jurisdiction: told['terms'].jurisdiction, storageLocation: told['terms'].storage_location,
      retentionDays: told['terms'].retention_days, alternative: told['terms'].alternative, contest: told['terms'].contest, withdrawal: told['terms'].withdrawal,
      notice: told['terms'].notice, noticeVersion: told['terms'].notice_version, language: told['terms'].language,
    },
  })
})

test('whatever stands in the place of a field is refused', () => {
  const wrong = [null, undefined, [], {}, '', ' x', 'x\u202e', -1, 1.5]
  const taken: string[] = []
  const fields = [...Object.keys(told).map((name) => [name]), ...['terms', 'release_trust', 'log'].flatMap((name) => Object.keys(told[name]).map((inner) => [name, inner]))]
  for (const [name, inner] of fields) {
    for (const other of wrong) {
      const changed = inner === undefined ? { ...told, [name]: other } : { ...told, [name]: { ...told[name], [inner]: other } }
      if (inner === 'witnesses' && Array.isArray(other)) continue // none have to be
      try { read(changed); taken.push(`${[name, inner].join('/')} ${JSON.stringify(other)}`) } catch (error) { expect(error).toBeInstanceOf(PeerError) }
    }
  }
  expect(taken).toEqual([])
  expect(fields.length).toBeGreaterThan(20)
})

test('another purpose than those of the terms, and files that are none, are refused', () => {
  expect(() => read({ ...told, purpose: 'account-sign-in' })).toThrow('the terms are for another purpose')
  expect(() => read(told, '{}')).toThrow(PeerError)
  expect(() => read(told, release, '{}')).toThrow(PeerError)
  expect(() => deploymentOf(utf8('no json'), utf8(release), utf8(manifest), () => Promise.reject(new Error('nobody reads rules')))).toThrow('not readable')
})

test('a day of consent and no free failure are the least', () => {
  expect(read({ ...told, days: 1, free_failures: 0 })).toMatchObject({ days: 1, freeFailures: 0 })
  for (const other of [{ days: 0 }, { free_failures: -1 }, { days: '90' }, { free_failures: true }]) expect(() => read({ ...told, ...other })).toThrow('days and free failures are counted')
})

test('the release, the manifest and the rules are those that came', async () => {
  const rules = (): Promise<never> => Promise.reject(new Error('the rules'))
  const made = deploymentOf(utf8(JSON.stringify(told)), utf8(release), utf8(manifest), rules)
  expect([made.readRules, made.release.digest, made.manifest.standing.digest]).toEqual([rules, made.manifest.standing.digest, hex(sha256(utf8(release)))])
})
