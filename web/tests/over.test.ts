/** Coming over to another release: the wallet and its successor, with the server's half done by Python. */

import { beforeAll, beforeEach, expect, test } from 'vitest'

import { equal, hex, randomBytes } from '../src/bytes'
import { Device, type Outcome } from '../src/device/device'
import { codeOf } from '../src/device/devices'
import { Owner } from '../src/device/owner'
import { PeerError, ProofError, RefusedError, UnavailableError, UsageError } from '../src/errors'
import { SessionKey } from '../src/onebit/device'
import { Engine } from '../src/onebit/seal'
import { Wallet } from '../src/wallet/wallet'
import { KEY } from './keys'
import { face, Service, site, type Site, TICKET } from './service'

let old: Site
let present: Site
let engines: Readonly<Record<'old' | 'present', Engine>>
let service: Service

beforeAll(async () => {
  ;[old, present] = [await site(1024), await site(2048)]
  engines = { old: await Engine.load(old.deployment.release.parameters), present: await Engine.load(present.deployment.release.parameters) }
}, 60_000)
beforeEach(async () => {
  await Wallet.delete()
  service = new Service(old)
  await new Device(await Wallet.create(KEY), service, old.deployment, () => old.now).enrol(key('old'), face('me', 1), face('me', 2), TICKET)
  service.move(present)
  service.calls.length = 0
})

const key = (release: keyof typeof engines): SessionKey => SessionKey.generate(engines[release], randomBytes)
const wallet = async (): Promise<Wallet> => (await Wallet.open(KEY.secret))!
const device = async (where = present): Promise<Device> => new Device(await wallet(), service, where.deployment, () => where.now)
const twice = (person: string, capture: number, entered = person) => ({ left: face(person, capture), entered: face(entered, capture) })

async function comeOver(second = twice('me', 5), reference = face('me', 4)): Promise<Outcome> {
  return (await device()).comeOver(key('old'), reference, second, old.deployment, await Wallet.successor(KEY))
}

/** All that the browser keeps: of the wallet and of its successor. */
async function kept() {
  return await Promise.all([wallet(), Wallet.begun(KEY.secret)].map(async (one) => {
    const found = await one
    return found && { key: hex(found.keyId), enrolment: found.memory.enrolment, shown: null }
  }))
}

test('a match under the old release puts a template of the new one in force, and its wallet in the place of the other', async () => {
  const before = await wallet()
  const other = hex(randomBytes(20))
  await before.remember({ names: { [other]: 'the tablet', [hex(codeOf(before.keyId))]: 'the phone' } })
  expect((await Wallet.look())!.release).toBe(old.releaseDigest)
  const outcome = await comeOver()
  expect(outcome.matched).toBe(true)
  expect(service.calls).toEqual(['StartVerification', 'SubmitProbe', 'SubmitToken'])
  expect(service.operations.at(-1)).toBe('RENEW_TEMPLATE')
  const after = await wallet()
  expect(equal(after.keyId, before.keyId)).toBe(false)
  expect(after.memory.enrolment).toMatchObject({ state: 'enrolled', releaseDigest: present.releaseDigest, purpose: 'door-access', audience: 'example.org', answers: 0, failures: 0 })
  expect(after.memory.rules).not.toBeNull()
  expect(after.memory.names).toEqual({ [other]: 'the tablet', [hex(codeOf(after.keyId))]: 'the phone' })
  expect((await Wallet.look())!.release).toBe(present.releaseDigest)
  expect(await Wallet.begun(KEY.secret)).toBeNull()
  expect((await (await device()).verify(key('present'), face('me', 6))).matched).toBe(true)
  expect((await (await device()).verify(key('present'), face('another', 6))).matched).toBe(false)
})

test('somebody else moves nothing, and the owner still can', async () => {
  const [before] = await kept()
  expect((await comeOver(twice('another', 5), face('another', 4))).matched).toBe(false)
  const [after, next] = await kept()
  expect(after).toEqual({ ...before, enrolment: { ...before!.enrolment, answers: 2, failures: 1 } })
  expect(next!.enrolment).toMatchObject({ state: 'started', receipts: [] })
  expect(hex(service.stored!.devicePublicKey)).toBe(hex((await wallet()).devicePublicKey))
  expect((await comeOver()).matched).toBe(true)
})

test('pictures that do not match each other under the new release send nothing', async () => {
  const before = await kept()
  await expect(comeOver(twice('me', 5, 'another'))).rejects.toThrow('does not match the others')
  expect(service.calls).toEqual([])
  expect(await kept()).toEqual([before[0], expect.objectContaining({ enrolment: null })])
})

test('a device of the old release gives the server of the new one no signature but to come over', async () => {
  await expect((await device(old)).verify(key('old'), face('me', 3))).rejects.toThrow('another model release')
  await expect((await device()).verify(key('old'), face('me', 3))).rejects.toMatchObject({ why: { name: 'why.other_release' } })
  expect(service.calls).toEqual(['StartVerification'])
})

test('no other release than that of the wallet is left', async () => {
  const into = await Wallet.successor(KEY)
  const coming = (await device()).comeOver(key('present'), face('me', 4), twice('me', 5), present.deployment, into)
  await expect(coming).rejects.toThrow(UsageError)
  await expect(coming).rejects.toThrow('not enrolled under that release')
  expect(service.calls).toEqual([])
})

test('a server that does not run the release that is entered gets no signature', async () => {
  service.move(old)
  await expect(comeOver()).rejects.toThrow('another model release')
  expect(service.calls).toEqual(['StartVerification'])
})

test('by a manifest that is not about the release that is left nobody comes over', async () => {
  const coming = (await device()).comeOver(key('old'), face('me', 4), twice('me', 5), { release: old.deployment.release, manifest: present.deployment.manifest }, await Wallet.successor(KEY))
  await expect(coming).rejects.toThrow(RefusedError)
  await expect(coming).rejects.toThrow('another model release')
  expect(service.calls).toEqual([])
})

test('to another audience nobody comes over', async () => {
  const elsewhere = { ...present.deployment, audience: 'elsewhere.example' }
  const coming = new Device(await wallet(), service, elsewhere, () => present.now).comeOver(key('old'), face('me', 4), twice('me', 5), old.deployment, await Wallet.successor(KEY))
  await expect(coming).rejects.toThrow('offers another use')
  expect(service.calls).toEqual([])
})

const lies: Readonly<Record<string, (answer: any) => any>> = {
  'without a word of the log': (answer) => ({ ...answer, deeds: [] }),
  'with the revocation alone': (answer) => ({ ...answer, deeds: answer.deeds.slice(0, 1) }),
  'with the two the other way round': (answer) => ({ ...answer, deeds: [...answer.deeds].reverse() }),
  'with the enrolment twice': (answer) => ({ ...answer, deeds: [answer.deeds[1], answer.deeds[1]] }),
}
test.each(Object.keys(lies))('a server that says so %s is not believed', async (name) => {
  const [before] = await kept()
  service.alter = (call, answer) => call === 'SubmitToken' ? lies[name](answer) : answer
  const coming = comeOver()
  await expect(coming).rejects.toSatisfy((error) => error instanceof PeerError || error instanceof ProofError)
  const [after, next] = await kept()
  expect(after!.key).toBe(before!.key)
  expect(after!.enrolment).toMatchObject({ state: 'enrolled', releaseDigest: old.releaseDigest })
  expect(next!.enrolment!.state).toBe('started')
})

test.each(['SubmitProbe', 'SubmitToken'])('when the answer to %s is lost, the log says which wallet counts', async (lost) => {
  service.alter = (call, answer) => { if (call === lost) throw new UnavailableError('the answer was lost'); return answer }
  await expect(comeOver()).rejects.toThrow('was lost')
  service.alter = (_call, answer) => answer
  const next = (await Wallet.begun(KEY.secret))!
  const settling = new Owner(next, service, () => present.now).settle()
  if (lost === 'SubmitProbe') {
    await expect(settling).rejects.toThrow(RefusedError)
    expect((await comeOver()).matched).toBe(true) // with the same key, and another secret
    expect(hex((await wallet()).keyId)).toBe(hex(next.keyId))
    return
  }
  await settling
  await next.takePlace()
  expect(await Wallet.begun(KEY.secret)).toBeNull()
  expect((await (await device()).verify(key('present'), face('me', 6))).matched).toBe(true)
})

test('whoever deletes the keys deletes both', async () => {
  await comeOver(twice('another', 5), face('another', 4))
  expect(await Wallet.begun(KEY.secret)).not.toBeNull()
  await Wallet.delete()
  expect([await Wallet.open(KEY.secret), await Wallet.begun(KEY.secret)]).toEqual([null, null])
})
