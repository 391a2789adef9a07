/** Model releases, as the Python side writes them. */

import { beforeAll, expect, test } from 'vitest'

import { utf8 } from '../src/bytes'
import { MalformedMessageError, UsageError } from '../src/errors'
import { ModelRelease, type Profile } from '../src/face/release'
import { ONEBIT_1024, ONEBIT_2048 } from '../src/onebit/parameters'
import { python } from './vectors'

interface Known {
  readonly release: string
  readonly digest: string
  readonly embedding: readonly number[]
  readonly adapted: Readonly<Record<Profile, readonly number[]>>
}
let known: Known

beforeAll(async () => {
  known = (await python('release', { seed: 1 })) as Known
})

test.each(['reference', 'probe'] as const)('an embedding of the %s profile is adapted as in Python', (profile) => {
  const release = new ModelRelease(utf8(known.release))
  const adapted = release.adapt(Float64Array.from(known.embedding), profile)
  adapted.forEach((x, i) => { expect(x).toBeCloseTo(known.adapted[profile][i], 12) })
})

test('a release is known by the digest of its bytes', () => {
  expect(new ModelRelease(utf8(known.release)).digest).toBe(known.digest)
})

test.each([[1024, ONEBIT_1024], [2048, ONEBIT_2048]] as const)('codes of %i bits choose the parameters', (length, parameters) => {
  const text = known.release.replace(/"code_length":\d+/, `"code_length":${length}`)
  expect(new ModelRelease(utf8(text)).parameters).toBe(parameters)
})

test.each([
  ['cut short', (text: string) => text.slice(0, -1)],
  ['of another format', (text: string) => text.replace('release-1', 'release-2')],
  ['with codes of another length', (text: string) => text.replace(/"code_length":\d+/, '"code_length":512')],
  ['with a length of codes that is text', (text: string) => text.replace(/"code_length":(\d+)/, '"code_length":"$1"')],
  ['with a vector that is no base64', (text: string) => text.replace(/"probe":"..../, '"probe":"!!!!')],
  ['with another dimension', (text: string) => text.replace('"dimension":16', '"dimension":17')],
  ['of nothing', () => 'null'],
])('a release %s is refused', (_, damage) => {
  expect(() => new ModelRelease(utf8(damage(known.release)))).toThrow(MalformedMessageError)
})

test('an embedding of another length is refused', () => {
  expect(() => new ModelRelease(utf8(known.release)).adapt(new Float64Array(15), 'probe')).toThrow(UsageError)
})
