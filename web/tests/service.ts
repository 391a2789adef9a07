/** A matching service without sockets, for tests of the device: what `server/` does, with the mathematics done by Python. */

import { create, type DescMessage, type DescMethodUnary, fromBinary, type MessageInitShape, type MessageShape, toBinary } from '@bufbuild/protobuf'

import { type Bytes, equal, fromHex, hex, randomBytes, sha256, utf8 } from '../src/bytes'
import { type Deployment, deploymentOf } from '../src/device/deployment'
import { Transport } from '../src/device/transport'
import { MalformedMessageError, ProofError, RefusedError } from '../src/errors'
import {
  type Change, Decision, type ExportRequest, ExportResponseSchema, type GetInclusionRequest, type LogReceipt, LogReceiptSchema, type RevokeRequest, type StartEnrolmentRequest, type StartVerificationRequest, type SubmitProbeRequest, SubmitProbeRequestSchema,
  type SubmitProbeResponse, SubmitProbeResponseSchema, type SubmitTokenRequest, SubmitTokenRequestSchema,
} from '../src/wire/federation/wire/v1/verification_pb'
import { keystream, python } from './vectors'

/** What a page reads first, and when that was. */
export interface Site {
  readonly deployment: Deployment
  readonly now: number
  readonly releaseDigest: string
  readonly threshold: number
}

/** A site over a release with codes of that many bits, whose rules register an issuer of assertions, or none. */
export async function site(codeLength: number, issues = true): Promise<Site> {
  const threshold = codeLength / 4
  const told = (await python('deployment', { code_length: codeLength, threshold, issues })) as Record<string, any>
  const { release, manifest, rules, trust, terms, log, purpose, now, release_digest: releaseDigest } = told
  const file = utf8(JSON.stringify({ terms, purpose, days: 90, free_failures: 5, log, deployment: 'trial', release_trust: trust }))
  const deployment = deploymentOf(file, utf8(release), utf8(manifest), () => Promise.resolve(utf8(rules)))
  return { deployment, now, releaseDigest, threshold }
}

interface Open {
  readonly sessionId: Bytes
  readonly nonce: Bytes
  readonly keyId: Bytes
  readonly purpose: string
  readonly audience: string
  readonly audienceNonce: Bytes
  readonly enrols: boolean
  token?: string
  assertion?: Bytes
  request?: SubmitProbeRequest
}
interface Stored {
  readonly devicePublicKey: Bytes
  readonly template: Bytes
  receipts: Bytes[]
}
interface Compared {
  readonly operation: string
  readonly token: string
  readonly leaf: string
  readonly assertion: string
  readonly answer: string
}

interface Deed {
  readonly leaf: string
  readonly opening: string
  readonly receipt: string
}

/** What Python raises of the error family, as a device hears it. */
async function raised(answer: Promise<unknown>): Promise<unknown> {
  try {
    return await answer
  } catch (error) {
    const [, name, text] = /(ProofError|MalformedMessageError): (.*)/.exec(String(error)) ?? []
    if (name === undefined) throw error
    throw new (name === 'ProofError' ? ProofError : MalformedMessageError)(`the server says: ${text}`)
  }
}

/** The same person, seen anew: about 0.1 of the bits differ. */
export function face(person: string, capture: number): Float64Array {
  const draw = (name: string): Float64Array => {
    const words = new DataView(keystream(name)(4 * 128).buffer)
    return Float64Array.from({ length: 128 }, (_, i) => words.getInt32(4 * i, true) / 2 ** 31)
  }
  const other = draw(`${person} ${capture}`)
  return draw(person).map((x, i) => x + other[i] / 3)
}

/** The one ticket with which somebody enrols there, 20 bytes. */
export const TICKET = new Uint8Array(20).fill(7)

/** Does something to a message on its way. */
export type Alter = (call: string, message: any) => unknown

/** The service of one site, which stores one template. */
export class Service extends Transport {
  /** Names of the calls, in order. */
  readonly calls: string[] = []
  /** What each session was, as the server understood it. */
  readonly operations: string[] = []
  stored: Stored | null = null
  /** Entries of the log. */
  readonly leaves: string[] = []
  /** What stands behind those about the owner, by position. */
  readonly openings = new Map<number, string>()
  alter: Alter = (_call, answer) => answer
  alterRequest: Alter = (_call, request) => request
  /** Its clock: seconds since 1970. */
  now: number
  #site: Site
  /** The release of the stored template, where the site runs another one by now. */
  #former: Site | null = null
  #open: Open | null = null
  /** Device key of who enrolled; it outlives the template, until it is erased. */
  #owner: Bytes | null = null

  constructor(site: Site) {
    super()
    this.#site = site
    this.now = site.now
  }

  override async call<I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, request: MessageInitShape<I>): Promise<MessageShape<O>> {
    const sent = toBinary(method.input, create(method.input, request)) as Bytes
    this.calls.push(method.name)
    const answer = await this.#answer(method.name, this.alterRequest(method.name, fromBinary(method.input, sent)))
    return this.alter(method.name, create(method.output, answer as MessageInitShape<O>)) as MessageShape<O>
  }

  async #answer(name: string, request: any): Promise<unknown> {
    switch (name) {
      case 'StartEnrolment':
        if (!equal((request as StartEnrolmentRequest).ticket, TICKET)) throw new RefusedError('this ticket is not valid here')
        return this.#start(request as StartVerificationRequest, true)
      case 'StartVerification': return this.#start(request as StartVerificationRequest, false)
      case 'SubmitProbe': return this.#compare(request as SubmitProbeRequest)
      case 'SubmitToken': return this.#decide(request as SubmitTokenRequest)
      case 'ListReceipts': return { receipts: this.#held() }
      case 'Export': return this.#export(request as ExportRequest)
      case 'Revoke': return { log: await this.#revoke(request as RevokeRequest) }
      case 'Erase': return { log: await this.#erase() }
      case 'GetInclusion': return { logged: (await this.#prove(Number((request as GetInclusionRequest).position), 0n)).logged }
      default: throw new Error(`no call ${name}`)
    }
  }

  /** Another release is served from now on, and whoever is enrolled may come over to it. */
  move(site: Site): void {
    ;[this.#former, this.#site] = [this.#site, site]
  }

  /** What happens when a database loses the template and its owner. */
  lose(): void {
    this.#owner = this.stored = null
    this.openings.clear()
  }


  #held(): readonly Bytes[] {
    if (this.#owner === null) throw new RefusedError('not enrolled here')
    return this.stored?.receipts ?? []
  }

  #start({ keyId, purpose, audience, audienceNonce }: StartVerificationRequest, enrols: boolean): unknown {
    const asked = { keyId: keyId as Bytes, purpose, audience, audienceNonce: (audienceNonce ?? new Uint8Array()) as Bytes }
    this.#open = { sessionId: randomBytes(16), nonce: randomBytes(32), ...asked, enrols }
    const { sessionId, nonce } = this.#open
    return { session: { sessionId, nonce, releaseDigest: fromHex(this.#site.releaseDigest) } }
  }

  async #compare(request: SubmitProbeRequest): Promise<SubmitProbeResponse> {
    const open = this.#session(request)
    const under = open.enrols ? this.#site : this.#former ?? this.#site
    if (open.enrols ? this.stored !== null : this.stored === null || !equal(sha256(this.stored.devicePublicKey), open.keyId)) throw new RefusedError('not enrolled here')
    const compared = (await raised(python('compare', {
      parameters: under.deployment.release.parameters.name, threshold: under.threshold, enrols: open.enrols, leaves: this.leaves, now: this.now,
      session_id: hex(open.sessionId), nonce: hex(open.nonce), key_id: hex(open.keyId), purpose: open.purpose, audience: open.audience, audience_nonce: hex(open.audienceNonce),
      release_digest: under.releaseDigest, submission: hex(toBinary(SubmitProbeRequestSchema, request)),
      template: hex(this.stored?.template ?? new Uint8Array()), device_public_key: hex(this.stored?.devicePublicKey ?? new Uint8Array()),
    }))) as Compared
    this.operations.push(compared.operation)
    this.leaves.push(compared.leaf)
    Object.assign(open, { token: compared.token, assertion: utf8(compared.assertion), request })
    return fromBinary(SubmitProbeResponseSchema, fromHex(compared.answer))
  }

  #session({ sessionId }: { readonly sessionId: Uint8Array }): Open {
    if (this.#open === null || !equal(sessionId, this.#open.sessionId)) throw new RefusedError('no such session')
    return this.#open
  }

  async #decide(answer: SubmitTokenRequest): Promise<unknown> {
    const { token: expected, assertion, request, enrols } = this.#session(answer)
    const { token } = answer
    if (hex(token) !== expected) return { decision: Decision.NON_MATCH }
    const change = request!.change
    if (change === undefined) return { decision: Decision.MATCH, assertion }
    if (!enrols && change.template.length > 0) return { decision: Decision.MATCH, deeds: await this.#comeOver(answer, change) }
    if (enrols) {
      this.stored = { devicePublicKey: change.devicePublicKey as Bytes, template: change.template as Bytes, receipts: [change.receipt as Bytes] }
      this.#owner = this.stored.devicePublicKey
    } else {
      this.stored!.receipts.push(change.receipt as Bytes)
    }
    const deed = await this.#do(enrols ? 'enrolment' : 'renewal', answer.logSize, { receipt: hex(change.receipt), template: hex(change.template) })
    return { decision: Decision.MATCH, assertion, deeds: [deed] }
  }

  /** The old template is revoked by the message that brings the token, and the new one enrolled. */
  async #comeOver(answer: SubmitTokenRequest, { devicePublicKey, template, receipt }: Change): Promise<LogReceipt[]> {
    const revocation = await this.#do('revocation', answer.logSize, { token_request: hex(toBinary(SubmitTokenRequestSchema, answer)) })
    this.openings.clear() // they are about the former key
    this.#owner = devicePublicKey as Bytes
    this.stored = { devicePublicKey: this.#owner, template: template as Bytes, receipts: [receipt as Bytes] }
    this.#former = null
    return [revocation, await this.#do('enrolment', answer.logSize, { receipt: hex(receipt), template: hex(template) })]
  }

  /** Logs that something is done to the owner's template. */
  async #do(kind: string, logSize: bigint, facts: Record<string, unknown> = {}): Promise<LogReceipt> {
    const deed = (await python('do', {
      kind, leaves: this.leaves, log_size: Number(logSize), now: this.now, device_public_key: hex(this.#owner!), receipt: '', template: '', positions: [], ...facts,
    })) as Deed
    if (kind !== 'erasure') this.openings.set(this.leaves.length, deed.opening)
    this.leaves.push(deed.leaf)
    return fromBinary(LogReceiptSchema, fromHex(deed.receipt))
  }

  async #prove(position: number, logSize: bigint): Promise<LogReceipt> {
    const opening = this.openings.get(position)
    if (opening === undefined) throw new RefusedError('no such entry')
    const proved = (await python('prove', { opening, leaves: this.leaves, position, log_size: Number(logSize), now: this.now })) as string
    return fromBinary(LogReceiptSchema, fromHex(proved))
  }

  async #revoke({ logSize }: RevokeRequest): Promise<LogReceipt> {
    if (this.#owner === null) throw new RefusedError('not enrolled here')
    const first = [...this.openings].find(([, opening]) => opening.includes('"kind":"revocation"'))
    this.stored = null
    return first === undefined ? this.#do('revocation', logSize) : this.#prove(first[0], logSize)
  }

  async #erase(): Promise<LogReceipt> {
    if (this.#owner === null) throw new RefusedError('not enrolled here')
    const tombstone = await this.#do('erasure', 0n, { positions: [...this.openings.keys()] })
    this.openings.clear()
    this.#owner = null
    return tombstone
  }

  #export({ openingsFrom, proof }: ExportRequest): unknown {
    if (this.#owner === null || !equal(sha256(this.#owner), proof!.keyId)) throw new RefusedError('not enrolled here')
    const { stored } = this
    const record = utf8(JSON.stringify(stored === null ? {} : { template: { bytes: stored.template.length, digest: hex(sha256(stored.template)) } }))
    const openings = [...this.openings].map(([position, opening]) => ({ position: BigInt(position), opening: utf8(opening) }))
    return create(ExportResponseSchema, openingsFrom === 0n ? { record, receipts: stored?.receipts ?? [], openings } : {})
  }
}
