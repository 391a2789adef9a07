/** What a person calls their devices, and how long they were asked to wait: kept in this browser, within bounds. */

import { beforeEach, expect, test, vi } from 'vitest'

import { hex } from '../src/bytes'
import { codeOf, withNames } from '../src/device/devices'
import { browserOf, systemOf } from '../src/page/platform'
import { named, nameOf, type Names } from '../src/wallet/names'
import { keepWait, keptWait, waitAfter } from '../src/wallet/wait'
import { Wallet } from '../src/wallet/wallet'
import { KEY } from './keys'

const [ONE, TWO] = [new Uint8Array(32).fill(1), new Uint8Array(32).fill(2)]

beforeEach(() => Wallet.delete())

test('a name is one line of at most 40 letters', () => {
  expect([nameOf('  my\u00a0 phone\n'), nameOf('\u202ephone\0'), nameOf('a'.repeat(41)), nameOf('\u{1f4f1}'.repeat(41)), nameOf('cafe\u0301')])
    .toEqual(['my phone', 'phone', 'a'.repeat(40), '\u{1f4f1}'.repeat(40), 'caf\u00e9'])
})

test('a device has the name that was given last, or none, and another keeps its own', () => {
  const both = named(named({}, codeOf(ONE), 'phone'), codeOf(TWO), 'laptop')
  const devices = [ONE, TWO].map((keyId) => ({ keyId: hex(keyId), enrolledAt: 1, admittedBy: null }))
  const read = (names: Names): unknown => withNames(devices, names).map(({ name }) => name)
  expect(read(both)).toEqual(['phone', 'laptop'])
  expect(read(named(both, codeOf(ONE), 'my phone'))).toEqual(['my phone', 'laptop'])
  expect(read(named(both, codeOf(ONE), ' '))).toEqual([null, 'laptop'])
})

test('of more names than sixteen those given first are forgotten', () => {
  const many = Array.from({ length: 17 }, (_, i) => new Uint8Array(20).fill(i)).reduce<Names>((names, code, i) => named(names, code, `device ${i}`), {})
  expect(Object.values(many)).toEqual(Array.from({ length: 16 }, (_, i) => `device ${i + 1}`))
})

test('a name that is given anew is the newest', () => {
  const full = Array.from({ length: 16 }, (_, i) => new Uint8Array(20).fill(i)).reduce<Names>((names, code, i) => named(names, code, `device ${i}`), {})
  const again = named(named(full, new Uint8Array(20), 'the first'), new Uint8Array(20).fill(16), 'one more')
  expect(Object.values(again)).toEqual([...Array.from({ length: 14 }, (_, i) => `device ${i + 2}`), 'the first', 'one more'])
})

test('names are under the lock, and there again when it is opened', async () => {
  const wallet = await Wallet.create(KEY)
  await wallet.remember({ names: named({}, codeOf(ONE), 'a name that nobody else has') })
  expect(JSON.stringify(await Wallet.look())).not.toContain('a name')
  expect(Object.values((await Wallet.open(KEY.secret))!.memory.names)).toEqual(['a name that nobody else has'])
})

test.each([
  ['Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36', 'Chrome', 'Android'],
  ['Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1', 'Safari', 'iPhone'],
  ['Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0', 'Edge', 'Windows'],
  ['Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0', 'Firefox', 'Linux'],
  ['somebody else', 'other', 'other'],
])('people know %s as %s on %s', (userAgent, browser, system) => {
  expect([browserOf(userAgent), systemOf(userAgent)]).toEqual([browser, system])
})

test('a wait is there after a reload until it is over, for the device that was asked only', async () => {
  await keepWait({ name: 'a', until: 160, of: 60 })
  expect(await Promise.all([100, 159, 160, 99].map((now) => keptWait('a', now)))).toEqual([{ name: 'a', until: 160, of: 60 }, { name: 'a', until: 160, of: 60 }, null, null])
  expect([await keptWait('b', 100), await keptWait(null, 100)]).toEqual([null, null])
  for (const [of, isOne] of [[86_400, true], [86_401, false], [NaN, false]] as const) { // the longest that anybody is asked to wait
    const wait = { name: 'a', until: 100_000, of }
    await keepWait(wait)
    expect(await keptWait('a', 99_999)).toEqual(isOne ? wait : null)
  }
})

test('with the keys the wait goes, and it is on disk when the page goes on', async () => {
  const begun = vi.spyOn(IDBDatabase.prototype, 'transaction')
  await keepWait({ name: 'a', until: 160, of: 60 })
  expect(begun.mock.calls.map(([, mode, options]) => [mode, options])).toEqual([['readwrite', { durability: 'strict' }]])
  begun.mockRestore()
  await Wallet.delete()
  expect(await keptWait('a', 100)).toBeNull()
})

test('after a refusal the page knows how long the service will ask to wait: 30 seconds, and twice as long each time, up to a day', () => {
  expect([0, 4, 5, 6, 7, 16, 17, 49].map((failures) => waitAfter(failures, 5))).toEqual([0, 0, 30, 60, 120, 61_440, 86_400, 86_400])
})
