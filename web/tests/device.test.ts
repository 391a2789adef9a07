/** The device's flows, with the server's half of the mathematics, the transcript and the log done by Python. */

import { create, type DescMessage, toBinary } from '@bufbuild/protobuf'
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'

import { type Bytes, equal, hex, packBits, randomBytes, sha256, utf8 } from '../src/bytes'
import { Device, type Outcome } from '../src/device/device'
import { codeOf } from '../src/device/devices'
import { heldIn, Owner, revokeWith } from '../src/device/owner'
import { Transport } from '../src/device/transport'
import { CancelledError, IntaglioError, MalformedMessageError, PeerError, ProofError, RefusedError, UnavailableError } from '../src/errors'
import { UnusableImageError } from '../src/face/finding'
import { LogPolicy } from '../src/log/notes'
import { SessionKey } from '../src/onebit/device'
import { Engine } from '../src/onebit/seal'
import { TemplateSecret } from '../src/onebit/template'
import { Receipt, SignedReceipt } from '../src/wallet/receipts'
import { Wallet } from '../src/wallet/wallet'
import { Decision, OwnerProofSchema, OwnerService } from '../src/wire/federation/wire/v1/verification_pb'
import { KEY } from './keys'
import { face, Service, site, type Site, TICKET } from './service'
import { python } from './vectors'

const DAY_SECONDS = 86_400

let small: Site
let large: Site
let silent: Site
let engine: Engine
let service: Service

beforeAll(async () => {
  ;[small, large, silent] = [await site(1024), await site(2048), await site(1024, false)]
  engine = await Engine.load(small.deployment.release.parameters)
}, 60_000)
beforeEach(async () => {
  await Wallet.delete()
  service = new Service(small)
})

async function device(time = small.now, where = small): Promise<Device> {
  return new Device((await Wallet.open(KEY.secret)) ?? (await Wallet.create(KEY)), service, where.deployment, () => time)
}

const owner = async (): Promise<Owner> => new Owner((await Wallet.open(KEY.secret))!, service, () => small.now)
const key = (): SessionKey => SessionKey.generate(engine, randomBytes)
const enrol = async (second = face('me', 2)): Promise<Outcome> => (await device()).enrol(key(), face('me', 1), second, TICKET)
const verify = async (person = 'me', time = small.now): Promise<Outcome> => (await device(time)).verify(key(), face(person, 3))
const renew = async (person = 'me', time = small.now): Promise<Outcome> => (await device(time)).renew(key(), face(person, 3))
const memory = async () => (await Wallet.open(KEY.secret))!.memory

/** A consent of this very device to a template that nobody enrolled. */
async function anotherConsent(): Promise<SignedReceipt> {
  const wallet = (await Wallet.open(KEY.secret))!
  const { binding, ...mine } = SignedReceipt.fromBytes(utf8(wallet.memory.enrolment!.receipts[0])).receipt
  const other = new Receipt(randomBytes(16), mine.terms, { ...binding, templateDigest: sha256(randomBytes(8)) }, mine.issuedAt, mine.expiresAt, null)
  return other.sign((message) => wallet.sign(message))
}

describe('flows', () => {
  test('the owner enrols in three calls and is accepted, and another is not', async () => {
    expect((await enrol()).matched).toBe(true)
    expect(service.calls).toEqual(['StartEnrolment', 'SubmitProbe', 'SubmitToken'])
    expect((await memory()).enrolment!.state).toBe('enrolled')
    expect((await verify()).matched).toBe(true)
    expect((await verify('another')).matched).toBe(false)
    expect(service.operations).toEqual(['ENROL', 'VERIFY', 'VERIFY'])
    expect((await memory()).enrolment!.answers).toBe(3)
  })

  test('a ticket that does not serve, and a code of this device that nobody has let in yet, are told apart', async () => {
    const mine = await device()
    const enrolBy = (ticket: Bytes): Promise<Outcome> => mine.enrol(key(), face('me', 1), face('me', 2), ticket)
    await expect(enrolBy(new Uint8Array(20).fill(8))).rejects.toMatchObject({ name: 'RefusedError', why: { name: 'why.ticket' } })
    await expect(enrolBy(codeOf((await Wallet.open(KEY.secret))!.keyId))).rejects.toMatchObject({ name: 'RefusedError', why: { name: 'why.code' } })
    expect(service.stored).toBeNull()
  })

  test('failures in a row are counted, also before what follows is lost, and a match ends them', async () => {
    const failures = async (): Promise<number> => (await memory()).enrolment!.failures
    await enrol()
    for (const wanted of [1, 2]) {
      expect((await verify('another')).matched).toBe(false)
      expect(await failures()).toBe(wanted)
    }
    service.alter = (call, answer) => (call === 'SubmitToken' ? { ...(answer as object), deeds: [{}] } : answer)
    await expect(verify('another')).rejects.toThrow(PeerError)
    expect(await failures()).toBe(3)
    service.alter = (_call, answer) => answer
    expect((await verify()).matched).toBe(true)
    expect(await failures()).toBe(0)
  })

  test('with codes of 2048 bits too', async () => {
    service = new Service(large)
    const load = await Engine.load(large.deployment.release.parameters)
    const there = await device(large.now, large)
    expect((await there.enrol(SessionKey.generate(load, randomBytes), face('me', 1), face('me', 2), TICKET)).matched).toBe(true)
    expect((await there.verify(SessionKey.generate(load, randomBytes), face('me', 3))).matched).toBe(true)
    expect((await there.verify(SessionKey.generate(load, randomBytes), face('another', 3))).matched).toBe(false)
  })

  test('two different people enrol nobody, and the next attempt has another secret', async () => {
    const secrets: Uint8Array[] = []
    const call = service.call.bind(service)
    service.call = async (method, request) => {
      if (method.name === 'SubmitProbe') secrets.push((await Wallet.open(KEY.secret))!.requireSecret().secretBytes())
      return call(method, request)
    }
    expect((await enrol(face('another', 2))).matched).toBe(false)
    expect(service.stored).toBeNull()
    const { enrolment } = await memory()
    expect(enrolment).toMatchObject({ state: 'started', receipts: [], answers: 1 })
    const wallet = (await Wallet.open(KEY.secret))!
    expect(() => wallet.requireSecret()).toThrow('not enrolled')
    await expect(verify()).rejects.toThrow('gave no consent')
    expect((await enrol()).matched).toBe(true)
    expect((await memory()).enrolment!.answers).toBe(2)
    const [first, second] = secrets
    expect(equal(first.slice(0, 32), second.slice(0, 32))).toBe(false)
    expect(equal(first.slice(32), second.slice(32))).toBe(false)
  })

  describe('an enrolment whose last answer is lost', () => {
    const lost = async (): Promise<void> => {
      service.alter = (call, answer) => {
        if (call === 'SubmitToken') throw new UnavailableError('the answer was lost')
        return answer
      }
      await expect(enrol()).rejects.toThrow('was lost')
      service.alter = (_call, answer) => answer
      expect((await memory()).enrolment!.state).toBe('started')
    }

    test('is one when the server holds it', async () => {
      await lost()
      await (await owner()).settle()
      expect((await memory()).enrolment!.state).toBe('enrolled')
      expect((await verify()).matched).toBe(true)
    })

    test('is one when the face matches', async () => {
      await lost()
      expect((await verify()).matched).toBe(true)
      expect((await memory()).enrolment!.state).toBe('enrolled')
    })

    test('is not forgotten when the server says that it does not know it, and can be made again', async () => {
      await lost()
      service.lose()
      const before = await memory()
      const secret = hex((await Wallet.open(KEY.secret))!.requireSecret().secretBytes())
      const settled = (await owner()).settle()
      await expect(settled).rejects.toThrow(RefusedError)
      await expect(settled).rejects.toThrow('stays as it is')
      expect(await memory()).toEqual(before)
      expect(hex((await Wallet.open(KEY.secret))!.requireSecret().secretBytes())).toBe(secret)
      expect((await enrol()).matched).toBe(true)
    })

    test('is over when the log says that it was revoked since', async () => {
      await lost()
      await service.call(OwnerService.method.revoke, {})
      await (await owner()).settle()
      expect((await memory()).enrolment!.state).toBe('revoked')
    })

    test.each<[string, string, (answer: any) => unknown]>([
      ['nothing', 'does not say what became', (answer) => ({ ...answer, openings: [] })],
      ['an enrolment of another template', 'contest it', (answer) => answer],
    ])('stays as it is when the log is shown to say %s', async (said, error, change) => {
      if (said === 'nothing') await lost()
      else {
        await enrol() // another template under the same key
        const { enrolment } = await memory()
        const receipts = [new TextDecoder().decode((await anotherConsent()).toBytes())]
        await (await Wallet.open(KEY.secret))!.remember({ enrolment: { ...enrolment!, state: 'started', receipts } })
      }
      const before = await memory()
      service.alter = (call, answer) => (call === 'Export' ? change(answer) : answer)
      await expect((await owner()).settle()).rejects.toThrow(error)
      expect(await memory()).toEqual(before)
    })

    test('stays as it is when the server cannot be asked', async () => {
      await lost()
      const before = await memory()
      service.alter = () => { throw new UnavailableError('not now') }
      await expect((await owner()).settle()).rejects.toThrow('not now')
      expect(await memory()).toEqual(before)
      expect((await Wallet.open(KEY.secret))!.requireSecret().secretBytes().length).toBe(32 + 128)
    })
  })

  test('secret and consent are in the wallet before the probe leaves', async () => {
    let seen: [Uint8Array, readonly string[]] | null = null
    const sent = new Service(small)
    const call = sent.call.bind(sent)
    sent.call = async (method, request) => {
      if (method.name === 'SubmitProbe') {
        const wallet = (await Wallet.open(KEY.secret))!
        seen = [wallet.requireSecret().secretBytes(), wallet.requireEnrolment().receipts]
      }
      return call(method, request)
    }
    service = sent
    await enrol()
    const wallet = (await Wallet.open(KEY.secret))!
    expect(hex(seen![0])).toBe(hex(wallet.requireSecret().secretBytes()))
    expect(seen![1]).toEqual([new TextDecoder().decode(service.stored!.receipts[0])])
  })

  test('the server stores the padded code, which the wallet does not hold', async () => {
    await enrol()
    const { template } = service.stored!
    const wallet = (await Wallet.open(KEY.secret))!
    const secret = wallet.requireSecret()
    expect(hex(packBits(secret.paddedCode(face('me', 1))))).toBe(hex(template.slice(40)))
    const held = hex(secret.secretBytes()) + JSON.stringify(wallet.memory)
    expect(held).not.toContain(hex(template.slice(40)))
    expect(held).not.toContain(hex(template.slice(8, 40)))
    expect(held).toContain(hex(sha256(template))) // in the receipt
  })

  test('a session key is used for one session', async () => {
    await enrol()
    const one = key()
    const here = await device()
    await here.verify(one, face('me', 3))
    await expect(here.verify(one, face('me', 3))).rejects.toThrow('encrypts one probe')
    expect(service.calls.slice(-1)).toEqual(['StartVerification'])
  })

  test('a refused owner learns that the device was removed, once the log proves it, or that its template is closed', async () => {
    await enrol()
    const failed = (count: number, decision = 'non-match'): void => {
      service.alter = (call, answer) => (call === 'Export' ? { ...answer, record: utf8(JSON.stringify({ attempts: Array.from({ length: count }, () => ({ at: small.now, decision })) })) } : answer)
    }
    const why = async (): Promise<unknown> => (await owner()).whyRefused()
    expect(await why()).toBeNull()
    failed(49)
    expect(await why()).toBeNull()
    failed(500, 'match')
    expect(await why()).toBeNull()
    failed(50)
    expect(await why()).toEqual({ name: 'why.template_closed', values: { failures: 50 } })
    expect(() => heldIn('{"attempts":[{"at":"now","decision":"match"}]}')).toThrow(MalformedMessageError)
    service.alter = (call, answer) => { if (call === 'Export') throw new RefusedError('not enrolled here'); return answer }
    expect(await why()).toEqual({ name: 'why.stranger' })
    expect((await memory()).enrolment!.state).toBe('enrolled')
    service.alter = (_call, answer) => answer
    await revokeWith(await (await owner()).revocation(), service, { policy: new LogPolicy(small.deployment.log), now: small.now })
    service.alter = (call, answer) => (call === 'GetInclusion' ? { ...answer, logged: { ...answer.logged, proof: [randomBytes(32)] } } : answer)
    await expect(why()).rejects.toThrow(IntaglioError)
    expect((await memory()).enrolment!.state).toBe('enrolled')
    service.alter = (_call, answer) => answer
    expect(await why()).toEqual({ name: 'why.removed' })
    expect((await memory()).enrolment!.state).toBe('revoked')
  })

  test('a revocation leaves no secret, and a new wallet enrols anew', async () => {
    await enrol()
    const before = (await Wallet.open(KEY.secret))!
    await (await owner()).revoke()
    const after = (await Wallet.open(KEY.secret))!
    expect(() => after.requireSecret()).toThrow('revoked')
    expect(after.memory.checkpoint!.split('\n')[1]).toBe(String(service.leaves.length)) // what it saw of the log, it keeps
    await expect(verify()).rejects.toThrow('revoked')
    await Wallet.create(KEY)
    expect((await enrol()).matched).toBe(true)
    expect(hex((await Wallet.open(KEY.secret))!.keyId)).not.toBe(hex(before.keyId))
  })

  test('an erasure leaves no secret either', async () => {
    await enrol()
    expect(await (await owner()).erase()).toBe(service.leaves.length - 1)
    expect(service.leaves.at(-1)).toContain('"kind":"erasure"')
    expect((await memory()).enrolment!.state).toBe('erased')
    const wallet = (await Wallet.open(KEY.secret))!
    expect(() => wallet.requireSecret()).toThrow('revoked')
  })

  test('an export shows the digest of the padded template and how long it is', async () => {
    await enrol()
    const held = await (await owner()).export()
    expect(held.templateBytes).toBe(8 + 32 + 128)
    expect(held.record).toContain(hex(sha256(service.stored!.template)))
    expect(held.receipts.length).toBe(1)
  })

  test.each<[string, bigint, bigint[]]>([
    ['the same page again', 7n, []],
    ['a page before it', 5n, []],
    ['something of a page before it', 0n, [6n]],
    ['something of a page before it among others', 9n, [8n, 6n, 7n]],
  ])('an export that goes round in circles is ended at once: %s', async (_, next, positions) => {
    await enrol()
    const opening = utf8([...service.openings.values()][0])
    let asked = 0
    service.alter = (call, answer) => {
      if (call !== 'Export') return answer as unknown
      asked += 1
      return Object.assign(answer as object, asked === 1 ? { next: 7n, openings: [] } : { next, openings: positions.map((position) => ({ position, opening })) }) as unknown
    }
    await expect((await owner()).export()).rejects.toThrow('not the one that was asked for')
    expect(asked).toBe(2)
  })
})

test('what an owner signs is for one operation, in Python too', async () => {
  await enrol()
  const [calls, proofs]: [string[], string[]] = [[], []]
  service.alterRequest = (call, request) => { if (request.proof !== undefined) { calls.push(call); proofs.push(hex(toBinary(OwnerProofSchema, request.proof))) } return request }
  const mine = await owner()
  await mine.receipts()
  await mine.export()
  await mine.erase()
  const holds = await python('owner_proofs', { public_key: hex((await Wallet.open(KEY.secret))!.devicePublicKey), proofs })
  expect([calls, holds]).toEqual([['ListReceipts', 'Export', 'Revoke', 'Erase'], [['list-receipts'], ['export'], ['revoke'], ['erase']]])
})

describe('renewal of a consent', () => {
  const periods = (): [number, number][] => service.stored!.receipts.map((receipt) => {
    const { issuedAt, expiresAt } = SignedReceipt.fromBytes(receipt).receipt
    return [issuedAt, expiresAt]
  })

  test('it needs the face, and another face leaves the former consent', async () => {
    await enrol()
    const before = (await memory()).enrolment!.receipts
    expect((await renew('another')).matched).toBe(false)
    expect(service.operations.at(-1)).toBe('RENEW_CONSENT')
    expect(service.stored!.receipts.length).toBe(1)
    expect((await memory()).enrolment!.receipts).toEqual(before)
    expect((await renew()).matched).toBe(true)
    expect((await memory()).enrolment!.receipts).toEqual(service.stored!.receipts.map((receipt) => new TextDecoder().decode(receipt)))
    expect((await memory()).enrolment!.receipts.length).toBe(2)
  })

  test('one that has ended is no dead end', async () => {
    await enrol()
    const later = small.now + 91 * DAY_SECONDS
    service.now = later
    const calls = service.calls.length
    await expect(verify('me', later)).rejects.toThrow('expired')
    expect(service.calls.length).toBe(calls)
    expect((await renew('another', later)).matched).toBe(false)
    await expect(verify('me', later)).rejects.toThrow('expired')
    expect((await renew('me', later)).matched).toBe(true)
    expect((await verify('me', later)).matched).toBe(true)
    expect(periods()).toEqual([[small.now, small.now + 90 * DAY_SECONDS], [later, later + 90 * DAY_SECONDS]])
  })

  test('none begins for a site of which the person was told that there is one', async () => {
    await enrol()
    const { audience, purpose } = (await memory()).enrolment!
    const [mine, elsewhere] = [{ audience, purpose }, { audience: 'another.example', purpose }]
    const [now, later] = [await device(), await device(small.now + 91 * DAY_SECONDS)]
    expect([await now.needsConsent(mine, false), await now.needsConsent(mine, true)]).toEqual([false, false])
    for (const [one, use] of [[now, elsewhere], [later, mine]] as const) {
      expect(await one.needsConsent(use, true)).toBe(true)
      await expect(one.needsConsent(use, false)).rejects.toThrow(RefusedError)
    }
  })

  test('the newer consent names the one in force and the same template', async () => {
    await enrol()
    await renew()
    const [first, second] = service.stored!.receipts.map((receipt) => SignedReceipt.fromBytes(receipt).receipt)
    expect(second.renews && hex(second.renews)).toBe(hex(first.receiptId))
    expect(hex(second.binding.templateDigest)).toBe(hex(sha256(service.stored!.template)))
  })

  test('a server that shows a consent for another template is found out', async () => {
    let failed = new Uint8Array()
    const call = service.call.bind(service)
    service.call = async (method, request) => {
      if (method.name === 'SubmitProbe' && failed.length === 0) failed = utf8((await memory()).enrolment!.receipts[0])
      return call(method, request)
    }
    await enrol(face('another', 2))
    await enrol()
    service.alter = (call, answer) => (call === 'ListReceipts' ? { ...answer, receipts: [failed] } : answer)
    await expect(renew()).rejects.toThrow('another template')
    expect(service.operations.at(-1)).toBe('ENROL')
  })
})

describe('a server that lies', () => {
  const SUBMITTED: readonly [string, string, (answer: any) => unknown][] = [
    ['changes one byte of the reply', 'about something else', (answer) => { answer.reply[60_000] ^= 1 }],
    ['sends no reply', 'about something else', (answer) => { answer.reply = new Uint8Array() }],
    ['sends a reply that is longer', 'about something else', (answer) => { answer.reply = new Uint8Array([...answer.reply, 0]) }],
    ['logs nothing', 'does not show', (answer) => { delete answer.log }],
    ['opens another entry', 'opening', (answer) => { answer.log.opening = utf8('{}') }],
  ]

  test.each(SUBMITTED)('and %s learns nothing', async (_, said, lie) => {
    await enrol()
    const calls = service.calls.length
    service.alter = (call, answer) => { if (call === 'SubmitProbe') lie(answer); return answer }
    const asked = verify()
    await expect(asked).rejects.toThrow(said)
    await asked.catch((error: unknown) => { expect(error instanceof ProofError || error instanceof MalformedMessageError).toBe(true) })
    expect(service.calls.slice(calls)).toEqual(['StartVerification', 'SubmitProbe']) // no token, not even "no match"
    service.alter = (_call, answer) => answer
    expect((await verify()).matched).toBe(true)
  })

  test('and runs another release gets no signature', async () => {
    await enrol()
    service.alter = (call, answer) => (call === 'StartVerification' ? { ...answer, session: { ...answer.session, releaseDigest: new Uint8Array(32) } } : answer)
    await expect(verify()).rejects.toThrow(RefusedError)
    expect(service.calls.at(-1)).toBe('StartVerification')
  })

  test('and states another decision than the one that was opened is called a liar', async () => {
    await enrol()
    service.alter = (call, answer) => (call === 'SubmitToken' ? { ...answer, decision: Decision.NON_MATCH } : answer)
    await expect(verify()).rejects.toThrow(PeerError)
    service.alter = (call, answer) => (call === 'SubmitToken' ? { ...answer, decision: Decision.MATCH } : answer)
    await expect(verify('another')).rejects.toThrow('another decision')
  })

  test('and states no decision, or an assertion that nobody asked for, is malformed', async () => {
    await enrol()
    service.alter = (call, answer) => (call === 'SubmitToken' ? { ...answer, decision: Decision.UNSPECIFIED } : answer)
    await expect(verify()).rejects.toThrow('no decision')
    service.alter = (call, answer) => (call === 'SubmitToken' ? { ...answer, assertion: utf8('a.b.c') } : answer)
    await expect(verify()).rejects.toThrow(MalformedMessageError)
  })

  test('about nothing hears of another face what it hears of a reply that does not open: zeros', async () => {
    await enrol()
    let token = new Uint8Array()
    const call = service.call.bind(service)
    service.call = async (method, request) => {
      if (method.name === 'SubmitToken') token = (request as unknown as { token: Uint8Array<ArrayBuffer> }).token
      return call(method, request)
    }
    await verify('another')
    expect(token).toEqual(new Uint8Array(16))
  })
})

describe('a field that is changed between an honest device and an honest server', () => {
  const nonce = randomBytes(32)
  /** Another value of the same kind. */
  const other = (value: unknown): unknown => {
    if (value instanceof Uint8Array) return value.length === 0 ? Uint8Array.of(1) : value.map((byte, i) => (i === value.length - 1 ? byte ^ 1 : byte))
    if (typeof value === 'bigint') return value + 1n
    if (typeof value === 'string') return `${value}x`
    return value === Decision.MATCH ? Decision.NON_MATCH : Decision.MATCH
  }
  const changed = (call: string, ...path: readonly string[]) => (name: string, message: any): unknown => {
    if (name !== call) return message
    const holder = path.slice(0, -1).reduce((part, key) => part[key], message)
    holder[path.at(-1)!] = other(holder[path.at(-1)!])
    return message
  }

  describe.each<[string, boolean, () => Promise<unknown>, readonly string[]]>([
    ['of an enrolment', false, () => enrol(), [
      'StartEnrolment keyId', 'StartEnrolment purpose', 'StartEnrolment audience', 'StartEnrolment ticket', 'SubmitProbe sessionId', 'SubmitProbe probe', 'SubmitProbe signature',
      'SubmitProbe logSize', 'SubmitProbe change devicePublicKey', 'SubmitProbe change template', 'SubmitProbe change receipt', 'SubmitToken sessionId',
      'SubmitToken token',
    ]],
    ['of a verification', true, async () => (await device()).verify(key(), face('me', 3), nonce), [
      'StartVerification keyId', 'StartVerification purpose', 'StartVerification audience', 'StartVerification audienceNonce', 'SubmitProbe sessionId',
      'SubmitProbe probe', 'SubmitProbe signature', 'SubmitProbe logSize', 'SubmitToken sessionId', 'SubmitToken token',
    ]],
    ['of a renewal', true, () => renew(), ['StartVerification audienceNonce', 'SubmitProbe signature', 'SubmitProbe change receipt']],
  ])('%s, on its way up:', (_, isEnrolled, ask, fields) => {
    test.each(fields)('%s', async (field) => {
      if (isEnrolled) await enrol()
      const [call, ...path] = field.split(' ')
      const before = service.stored && { ...service.stored, receipts: [...service.stored.receipts] }
      service.alterRequest = changed(call, ...path)
      await expect(ask()).rejects.toThrow(IntaglioError)
      expect(service.stored).toEqual(before)
    })
  })

  test.each([
    'StartVerification session sessionId', 'StartVerification session nonce', 'StartVerification session releaseDigest', 'SubmitProbe reply',
    'SubmitProbe log logged', 'SubmitProbe log opening', 'SubmitProbe log consistency 0', 'SubmitToken decision', 'SubmitToken assertion',
  ])('on its way down: %s', async (field) => {
    await enrol() // so the log has something to be consistent with
    const [call, ...path] = field.split(' ')
    service.alter = changed(call, ...path)
    await expect((await device()).verify(key(), face('me', 3), nonce)).rejects.toThrow(IntaglioError)
    service.alter = (_call, answer) => answer
    expect((await verify()).matched).toBe(true)
  })

  test('and nothing that is unchanged', async () => {
    await enrol()
    expect((await (await device()).verify(key(), face('me', 3), nonce)).matched).toBe(true)
    expect((await renew()).matched).toBe(true)
  })
})

describe('a face that is filmed', () => {
  const claims = (assertion: string | null) => JSON.parse(atob(assertion!.split('.')[1].replaceAll('-', '+').replaceAll('_', '/'))) as { pad: string }
  const films = (nonces: Uint8Array[]) => (nonce: Uint8Array) => { nonces.push(nonce); return Promise.resolve(face('me', 3)) }

  test('moves as the nonce of its own session asks, and the assertion says that this device looked', async () => {
    await enrol()
    const nonces: Uint8Array[] = []
    const said = []
    for (const probe of [films(nonces), films(nonces), face('me', 3)]) said.push(claims((await (await device()).verify(key(), probe, randomBytes(32))).assertion).pad)
    expect(said).toEqual(['on-device', 'on-device', 'none'])
    expect(nonces.map(({ length }) => length)).toEqual([32, 32])
    expect(hex(nonces[0])).not.toBe(hex(nonces[1]))
  })

  test('renews a consent', async () => {
    await enrol()
    const nonces: Uint8Array[] = []
    expect((await (await device()).renew(key(), films(nonces))).matched).toBe(true)
    expect(nonces).toHaveLength(1)
  })

  test('and is refused, costs no attempt and sends nothing', async () => {
    await enrol()
    const [{ answers, failures }, sent] = [(await memory()).enrolment!, service.calls.length]
    const refused = (): Promise<Float64Array> => Promise.reject(new UnusableImageError('the face did not turn as a head does', { why: { name: 'why.film_too_late' } }))
    await expect((await device()).verify(key(), refused)).rejects.toThrow('did not turn')
    await expect((await device()).renew(key(), refused)).rejects.toThrow('did not turn')
    expect(service.calls.slice(sent)).toEqual(['StartVerification', 'ListReceipts', 'StartVerification'])
    expect((await memory()).enrolment).toMatchObject({ answers, failures })
  })
})

describe('for an organisation that gave a nonce', () => {
  const nonce = randomBytes(32)
  const ask = async (person = 'me'): Promise<Outcome> => (await device()).verify(key(), face(person, 3), nonce)

  test('a match has an assertion, and a non-match has none', async () => {
    await enrol()
    const { assertion } = await ask()
    expect(JSON.parse(atob(assertion!.split('.')[1].replaceAll('-', '+').replaceAll('_', '/')))).toMatchObject({ nonce: hex(nonce), aud: 'example.org' })
    expect((await ask('another')).assertion).toBeNull()
    expect((await verify()).assertion).toBeNull()
  })

  test.each<[string, string, (assertion: string) => string]>([
    ['is missing', 'has an assertion', () => ''],
    ['is another', 'altered', (assertion) => assertion.replace(/\.e/, '.f')],
    ['is no text of three parts', 'no assertion', () => 'yes'],
  ])('an assertion that %s is not handed out', async (_, said, change) => {
    await enrol()
    service.alter = (call, answer) => (call === 'SubmitToken' ? { ...answer, assertion: utf8(change(new TextDecoder().decode(answer.assertion))) } : answer)
    await expect(ask()).rejects.toThrow(said)
  })

  test('an assertion for the session before is not handed out', async () => {
    await enrol()
    let first = new Uint8Array()
    service.alter = (call, answer) => { if (call === 'SubmitToken') first = answer.assertion; return answer }
    await ask()
    service.alter = (call, answer) => (call === 'SubmitToken' ? { ...answer, assertion: first } : answer)
    await expect(ask()).rejects.toThrow('about something else')
  })

  const enrolAt = async (identifier: string): Promise<void> => {
    await new Device(await Wallet.create(KEY), service, { ...small.deployment, identifier }, () => small.now).enrol(key(), face('me', 1), face('me', 2), TICKET)
    service.calls.length = 0
  }

  test('who enrolled before a new key is told the way, and has an assertion once the consent is renewed', async () => {
    await enrolAt('before')
    const use = { audience: 'shop.example', purpose: 'door-access' }
    for (const wish of [() => ask(), async () => (await device()).needsConsent(use, true)]) {
      await expect(wish()).rejects.toMatchObject({ name: 'RefusedError', why: { name: 'why.other_key' } })
    }
    expect(service.calls).toEqual([])
    expect((await verify()).matched).toBe(true)
    const { enrolment } = await memory()
    expect((await renew('another')).matched).toBe(false)
    expect((await memory()).enrolment).toEqual({ ...enrolment, answers: enrolment!.answers + 1, failures: 1 })
    expect((await renew()).matched).toBe(true)
    expect((await memory()).enrolment).toMatchObject({ deployment: 'trial', state: 'enrolled' })
    expect((await ask()).assertion).not.toBeNull()
  })

  test.each(['foreign', 'wider', 'later'])('nobody comes over from the deployment %s, or is told to', async (identifier) => {
    await enrolAt(identifier)
    const { enrolment } = await memory()
    for (const wish of [() => renew(), () => ask()]) await expect(wish()).rejects.toThrow('no deployment trial of the same operator')
    expect((await memory()).enrolment).toEqual(enrolment)
    expect(service.calls.filter((call) => call.startsWith('Start') || call.startsWith('Submit'))).toEqual([])
  })

  test('terms for another audience than the one that this device enrolled for renew nothing', async () => {
    await enrol()
    const [{ enrolment }, { calls: { length } }, { deployment }] = [await memory(), service, small]
    const audience = 'elsewhere.example'
    const there = new Device((await Wallet.open(KEY.secret))!, service, { ...deployment, audience, terms: { ...deployment.terms, audience } }, () => small.now)
    await expect(there.renew(key(), face('me', 3))).rejects.toThrow('another use than this device is enrolled for')
    expect((await memory()).enrolment).toEqual(enrolment)
    expect(service.calls.slice(length)).toEqual(['ListReceipts'])
  })

  test('without an issuer in the public rules nothing is sent', async () => {
    service = new Service(silent)
    const there = await device(silent.now, silent)
    await there.enrol(key(), face('me', 1), face('me', 2), TICKET)
    const calls = service.calls.length
    await expect(there.verify(key(), face('me', 3), nonce)).rejects.toThrow('nobody who may sign')
    expect(service.calls.length).toBe(calls)
  })
})

describe('whoever swallows a request and answers it himself', () => {
  /** Answers in the service's place, which never hears of the request. */
  const swallow = (name: string, answer: (schema: DescMessage) => unknown): void => {
    const call = service.call.bind(service)
    service.call = (async (method: any, request: any) => {
      if (method.name !== name) return call(method, request)
      service.calls.push(name)
      return answer(method.output)
    }) as typeof service.call
  }
  /** What an honest service answered to somebody else, or to this owner before. */
  const noted = async (name: string, whose: "another's" | 'an earlier'): Promise<unknown> => {
    let answer: unknown
    const mine = service
    const before = (await Wallet.open(KEY.secret))!
    if (whose === "another's") {
      service = new Service(small)
      await Wallet.create(KEY)
      await enrol()
    }
    service.alter = (call, one) => { if (call === name) answer = one; return one }
    if (name === 'SubmitToken') await renew()
    else if (name === 'Revoke') await service.call(OwnerService.method.revoke, { proof: {} as never })
    else await service.call(OwnerService.method.erase, {})
    service.alter = (_call, one) => one
    service = mine
    if (whose === "another's") await before.remember({}) // so the wallet that was there is there again
    return answer
  }
  const state = async () => {
    const wallet = (await Wallet.open(KEY.secret))!
    return [hex(wallet.keyId), wallet.memory.enrolment?.state, wallet.memory.enrolment?.receipts, hex(wallet.requireSecret().secretBytes())]
  }
  const made = (values: object) => (schema: DescMessage): unknown => create(schema, values as never)

  test('enrols nobody, and the secret is kept', async () => {
    swallow('SubmitToken', made({ decision: Decision.MATCH }))
    const asked = enrol()
    await expect(asked).rejects.toThrow('whoever stands before the server may have answered in its place')
    await expect(asked).rejects.toThrow(PeerError)
    const { enrolment } = await memory()
    expect([enrolment!.state, enrolment!.receipts.length, service.stored]).toEqual(['started', 1, null])
    expect((await Wallet.open(KEY.secret))!.requireSecret().secretBytes().length).toBe(32 + 128)
  })

  test.each(["another's", 'an earlier'] as const)('renews no consent with nothing, nor with %s answer', async (whose) => {
    await enrol()
    const answer = await noted('SubmitToken', whose)
    const [before, held] = [await state(), [...service.stored!.receipts]]
    swallow('SubmitToken', () => answer)
    await expect(renew()).rejects.toThrow(whose === "another's" ? IntaglioError : 'not about the renewal')
    swallow('SubmitToken', made({ decision: Decision.MATCH }))
    await expect(renew()).rejects.toThrow('in its place')
    expect([await state(), service.stored!.receipts]).toEqual([before, held])
  })

  test('and saw a newer consent cannot bring it into force', async () => {
    await enrol()
    let seen = new Uint8Array()
    service.alterRequest = (call, request) => { if (call === 'SubmitProbe') seen = request.change.receipt; return request }
    const honest = service.call
    swallow('SubmitToken', made({ decision: Decision.MATCH }))
    await expect(renew()).rejects.toThrow('in its place')
    service.call = honest
    const [before, calls] = [await state(), service.operations.length]
    service.alter = (call, answer) => (call === 'ListReceipts' ? { ...answer, receipts: [...answer.receipts, seen] } : answer)
    await expect(renew()).rejects.toThrow('not in the log')
    service.alter = (call, answer) => (call === 'ListReceipts' ? { ...answer, receipts: [seen] } : answer)
    await expect(renew()).rejects.toThrow('do not go on')
    expect([await state(), service.operations.length]).toEqual([before, calls])
  })

  test('and saw a newer consent cannot bring it into force behind one that is in the log', async () => {
    await enrol()
    service.alter = (call, answer) => { if (call === 'SubmitToken') throw new UnavailableError('lost'); return answer }
    await expect(renew()).rejects.toThrow('lost')
    service.alter = (_call, answer) => answer
    let seen = new Uint8Array()
    service.alterRequest = (call, request) => { if (call === 'SubmitProbe') seen = request.change.receipt; return request }
    const honest = service.call
    swallow('SubmitToken', made({ decision: Decision.MATCH }))
    await expect(renew()).rejects.toThrow('in its place')
    service.call = honest
    const [before, calls] = [await state(), service.operations.length]
    expect([(await memory()).enrolment!.receipts.length, service.stored!.receipts.length]).toEqual([1, 2])
    service.alter = (call, answer) => (call === 'ListReceipts' ? { ...answer, receipts: [...answer.receipts, seen] } : answer)
    await expect(renew()).rejects.toThrow('not in the log')
    expect([await state(), service.operations.length]).toEqual([before, calls])
  })

  test('a consent whose last answer was lost is taken over, as the log has it', async () => {
    await enrol()
    service.alter = (call, answer) => { if (call === 'SubmitToken') throw new UnavailableError('lost'); return answer }
    await expect(renew()).rejects.toThrow('lost')
    service.alter = (_call, answer) => answer
    expect((await memory()).enrolment!.receipts.length).toBe(1)
    expect((await renew()).matched).toBe(true)
    expect((await memory()).enrolment!.receipts.map((text) => hex(utf8(text)))).toEqual(service.stored!.receipts.map(hex))
    expect(service.stored!.receipts.length).toBe(3)
  })

  test.each(['nothing', "another's"] as const)('revokes nothing with %s', async (what) => {
    await enrol()
    const answer = what === 'nothing' ? null : await noted('Revoke', what)
    const [before, stored] = [await state(), service.stored]
    swallow('Revoke', (schema) => answer ?? create(schema, {} as never))
    for (const ask of ['revoke', 'erase'] as const) {
      await expect((await owner())[ask]()).rejects.toThrow(what === 'nothing' ? 'stays as it is' : ProofError)
    }
    expect([await state(), service.stored]).toEqual([before, stored])
    expect(service.calls).not.toContain('Erase')
  })

  test.each(['nothing', "another's"] as const)('erases nothing with %s, and what is revoked is', async (what) => {
    await enrol()
    const answer = what === 'nothing' ? null : await noted('Erase', what)
    swallow('Erase', (schema) => answer ?? create(schema, {} as never))
    await expect((await owner()).erase()).rejects.toThrow(what === 'nothing' ? 'ask again' : IntaglioError)
    expect([service.stored, (await memory()).enrolment!.state]).toEqual([null, 'revoked'])
    expect(service.openings.size).toBe(2)
  })

  test.each(['an earlier call', 'Revoke', 'Erase'] as const)('an answer without a tombstone is believed only of an erasure that was asked for twice, here %s', async (again) => {
    await enrol()
    service.repeated = again === 'an earlier call' ? 3 : 2
    service.alter = (call, answer) => { if (call === again) service.repeated += 1; return answer }
    swallow('Erase', (schema) => { if (again === 'Erase') service.repeated += 1; return create(schema, {} as never) })
    const length = service.calls.length
    const told = await (await owner()).erase().catch((error: unknown) => error)
    if (again === 'Erase') expect(told).toBeNull()
    else expect([told, String(told)]).toEqual([expect.any(PeerError), expect.stringContaining("everything is gone, without the log's entry about it; ask again")])
    expect(service.calls.slice(length)).toEqual(['Revoke', 'Erase'])
    const wallet = (await Wallet.open(KEY.secret))!
    expect([service.stored, service.repeated, wallet.memory.enrolment!.state]).toEqual([null, 3, 'revoked'])
    expect(wallet.memory.checkpoint!.split('\n')[1]).toBe(String(service.leaves.length)) // as the revocation was proved
    expect(() => wallet.requireSecret()).toThrow('revoked for good')
  })

  let life: Map<string, unknown> | null = null
  /** Everything that somebody else, at an honest service, was answered. */
  async function anothersLife(): Promise<Map<string, unknown>> {
    if (life !== null) return life
    const [mine, before, answers] = [service, (await Wallet.open(KEY.secret))!, new Map<string, unknown>()]
    service = new Service(small)
    service.alter = (call, answer) => { answers.set(call, answer); return answer }
    await Wallet.create(KEY)
    await enrol()
    await renew()
    await (await owner()).history()
    await (await owner()).erase()
    service = mine
    await before.remember({})
    life = answers
    return answers
  }

  const ACTS: readonly (readonly [string, () => Promise<unknown>, readonly string[]])[] = [
    ['enrols nobody', () => enrol(), ['StartEnrolment', 'SubmitProbe', 'SubmitToken']],
    ['verifies nobody', () => verify(), ['StartVerification', 'SubmitProbe']],
    ['renews no consent', () => renew(), ['ListReceipts', 'StartVerification', 'SubmitProbe', 'SubmitToken']],
    ['revokes nothing', async () => (await owner()).revoke(), ['Revoke']],
    ['settles nothing', async () => (await owner()).settle(), ['Export', 'GetInclusion']],
  ]
  test.each(ACTS.flatMap(([what, ask, calls]) => calls.flatMap((call) => ['nothing', "another's answer"].map((forgery) => [what, call, forgery, ask] as const))))(
    '%s by answering %s with %s', async (what, call, forgery, ask) => {
      if (what === 'enrols nobody') await Wallet.create(KEY)
      else await enrol()
      if (what === 'settles nothing') await (await Wallet.open(KEY.secret))!.remember({ enrolment: { ...(await memory()).enrolment!, state: 'started' } })
      const [before, stored] = [(await memory()).enrolment, service.stored && { ...service.stored, receipts: [...service.stored.receipts] }]
      const answer = forgery === 'nothing' ? null : (await anothersLife()).get(call)
      expect(answer).toBeDefined()
      swallow(call, (schema) => answer ?? create(schema, ('decision' in schema.field ? { decision: Decision.MATCH } : {}) as never))
      await expect(ask()).rejects.toThrow(IntaglioError)
      expect(service.calls).toContain(call)
      expect(service.stored).toEqual(stored)
      const after = (await memory()).enrolment
      if (what === 'enrols nobody') expect([null, 'started']).toContain(after && after.state)
      else expect({ ...after, answers: 0 }).toEqual({ ...before, answers: 0 })
    })

  test('says "match" of a plain verification, which changes nothing here', async () => {
    await enrol()
    const before = await state()
    swallow('SubmitToken', made({ decision: Decision.MATCH }))
    expect(await verify()).toMatchObject({ matched: true, assertion: null })
    expect(await state()).toEqual(before)
  })
})

describe('a field of what the log says was done that is changed on its way down:', () => {
  const FIELDS = ['logged', 'opening', 'consistency 0'] as const
  const change = (log: any, field: string): void => {
    const flip = (data: Uint8Array): Uint8Array => data.map((byte, i) => (i === data.length - 9 ? byte ^ 1 : byte))
    if (field === 'consistency 0') log.consistency[0] = flip(log.consistency[0])
    else log[field] = flip(log[field])
  }

  test.each(FIELDS)('of an enrolment: %s', async (field) => {
    service.alter = (call, answer) => { if (call === 'SubmitToken') change(answer.deeds[0], field); return answer }
    await expect(enrol()).rejects.toThrow(IntaglioError)
    expect((await memory()).enrolment!.state).toBe('started')
  })

  test.each(FIELDS)('of a renewal: %s', async (field) => {
    await enrol()
    const before = (await memory()).enrolment!.receipts
    service.alter = (call, answer) => { if (call === 'SubmitToken') change(answer.deeds[0], field); return answer }
    await expect(renew()).rejects.toThrow(IntaglioError)
    expect((await memory()).enrolment!.receipts).toEqual(before)
  })

  test.each(FIELDS)('of a revocation: %s', async (field) => {
    await enrol()
    service.alter = (call, answer) => { if (call === 'Revoke') change(answer.log, field); return answer }
    await expect((await owner()).revoke()).rejects.toThrow(IntaglioError)
    expect((await memory()).enrolment!.state).toBe('enrolled')
  })

  test.each(['logged', 'opening'])('of an erasure: %s', async (field) => {
    await enrol()
    service.alter = (call, answer) => { if (call === 'Erase') change(answer.log, field); return answer }
    await expect((await owner()).erase()).rejects.toThrow(IntaglioError)
  })

  test('a tombstone that names somebody else is none', async () => {
    await enrol()
    const positions = [...service.openings.keys()]
    service.alter = (call, answer) => {
      if (call === 'Revoke') service.openings.delete(service.leaves.length - 1) // so the tombstone does not name it
      return answer
    }
    await expect((await owner()).erase()).rejects.toThrow("somebody else's")
    expect(positions.length).toBe(1)
  })

  test('one entry too many is one that nobody asked for', async () => {
    await enrol()
    service.alter = (call, answer) => (call === 'SubmitToken' ? { ...answer, deeds: [...answer.deeds, ...answer.deeds] } : answer)
    await expect(renew()).rejects.toThrow('2 entries of the log for 1 things')
    let deed: unknown
    service.alter = (call, answer) => { if (call === 'SubmitToken') [deed] = answer.deeds; return answer }
    await renew()
    service.alter = (call, answer) => (call === 'SubmitToken' ? { ...answer, deeds: [deed] } : answer)
    await expect(verify()).rejects.toThrow('1 entries of the log for 0 things')
  })
})

test('a call that is made again is counted, so a tombstone may have been lost', async () => {
  const answers = [new Response('busy', { status: 503, headers: { 'x-intaglio-status': 'UNAVAILABLE', 'retry-after-seconds': '0' } }), new Response(new Uint8Array())]
  const asked = vi.spyOn(globalThis, 'fetch').mockImplementation(async () => answers.shift()!)
  try {
    const transport = new Transport()
    await transport.call(OwnerService.method.erase, {})
    expect([transport.repeated, asked.mock.calls.length]).toEqual([1, 2])
  } finally {
    asked.mockRestore()
  }
})

describe('a call has one deadline', () => {
  /** Waits as long as the page lets it, and notes how long that is. */
  function patience(): number[] {
    const waits: number[] = []
    vi.spyOn(AbortSignal, 'timeout').mockImplementation((milliseconds) => {
      waits.push(milliseconds)
      return AbortSignal.abort(new DOMException('late', 'TimeoutError'))
    })
    return waits
  }

  afterEach(() => { vi.restoreAllMocks() })

  test('a frozen server is asked once, and the person hears that the attempt may count', async () => {
    const waits = patience()
    await expect(new Transport().call(OwnerService.method.erase, {})).rejects.toThrow('did not answer within 10 seconds')
    expect(waits.length).toBe(1)
    expect(waits[0]).toBeGreaterThan(9_000)
    expect(waits[0]).toBeLessThanOrEqual(10_000)
  })

  test('a call that is made again has what the first one left', async () => {
    const now = vi.spyOn(performance, 'now').mockReturnValue(0)
    const waits: number[] = []
    vi.spyOn(AbortSignal, 'timeout').mockImplementation((milliseconds) => { waits.push(milliseconds); return new AbortController().signal })
    vi.spyOn(globalThis, 'fetch').mockImplementation(async () => {
      now.mockReturnValue(3_000 * waits.length)
      return new Response('busy', { status: 503, headers: { 'x-intaglio-status': 'UNAVAILABLE', 'retry-after-seconds': '0.001' } })
    })
    await expect(new Transport().call(OwnerService.method.erase, {})).rejects.toThrow('busy')
    expect(waits).toEqual([10_000, 7_000, 4_000, 1_000])
  })

  test('whoever stops a call hears so at once, and nothing more is sent', async () => {
    const stop = new AbortController()
    const asked = vi.spyOn(globalThis, 'fetch').mockImplementation((_url, options) => new Promise((_resolve, reject) => {
      options!.signal!.addEventListener('abort', () => { reject(options!.signal!.reason as Error) })
      stop.abort()
    }))
    const transport = new Transport()
    transport.signal = stop.signal
    await expect(transport.call(OwnerService.method.erase, {})).rejects.toThrow(CancelledError)
    await expect(transport.call(OwnerService.method.erase, {})).rejects.toThrow(CancelledError)
    expect(asked).toHaveBeenCalledTimes(1)
  })

  test('who says nothing at all is asked twice', async () => {
    const asked = vi.spyOn(globalThis, 'fetch').mockRejectedValue(new TypeError('failed to fetch'))
    const transport = new Transport()
    await expect(transport.call(OwnerService.method.erase, {})).rejects.toThrow('cannot be reached')
    expect([asked.mock.calls.length, transport.repeated]).toEqual([2, 1])
  })
})

test('a secret of the other parameter set encrypts nothing under this key', async () => {
  await enrol()
  const wallet = (await Wallet.open(KEY.secret))!
  await wallet.begin(TemplateSecret.generate(large.deployment.release.parameters, randomBytes), wallet.requireEnrolment())
  await expect(verify()).rejects.toThrow('1024 entries')
  expect(service.calls.at(-1)).toBe('StartVerification')
})
