/**
 * The person's device: enrols, verifies, and renews a consent. As `client/device/verification.py`.
 *
 * Whoever terminates TLS can answer in the server's place. So whatever a match put in force is believed when the log says
 * that it was done, and not before; until then the wallet stays as it was.
 */

import { type Bytes, concat, equal, fromHex, hex, randomBytes, sha256, utf8 } from '../bytes'
import { MalformedMessageError, PeerError, ProofError, RefusedError, UsageError } from '../errors'
import { toBinary, create } from '@bufbuild/protobuf'

import { admitted, checkComparison, checkDone, type Done, enrolled, type Logged, renewed, revoked } from '../log/entries'
import { NO_MATCH, type SessionKey } from '../onebit/device'
import { TemplateSecret } from '../onebit/template'
import { type Change, changeDigest, type DeviceChange, deviceChangeDigest, Operation, transcriptBytes } from '../onebit/transcript'
import { requireAllowedBy } from '../rules/policy'
import type { PadLevel } from '../rules/rates'
import { type Issuer, Rulebook } from '../rules/rulebook'
import { type Binding, Receipt, SignedReceipt } from '../wallet/receipts'
import { named } from '../wallet/names'
import type { Enrolment, Wallet } from '../wallet/wallet'
import { Decision, type LogReceipt, type Session, SubmitTokenRequestSchema, VerificationService } from '../wire/federation/wire/v1/verification_pb'
import { checkAssertion } from './assertion'
import type { Deployment } from './deployment'
import { codeOf } from './devices'
import { Owner, seenOf, textOf, trustOf } from './owner'
import type { Transport } from './transport'

const DAY_SECONDS = 86_400
const NONE = new Uint8Array()
const { method: verification } = VerificationService

/** What the device knows at the end. */
export interface Outcome {
  readonly matched: boolean
  /** In the log, of what a match put in force, else of the attempt. */
  readonly position: number
  /** For the audience whose nonce it was, when the claim was accepted; a JSON Web Token, else null. */
  readonly assertion: string | null
}

/** For whom a comparison is made, and what for. */
export interface Use {
  readonly purpose: string
  readonly audience: string
}
/**
 * A live face: its adapted embedding, or what makes one of the session's nonce, by filming a face that moves as the nonce asks
 * (`face/filming.ts`). The device then signs that it looked for a presentation attack.
 */
export type Probe = Float64Array | ((nonce: Uint8Array) => Promise<Float64Array>)

/** One capture under two releases: the one that is left, and the one that is entered. */
export interface Twice {
  readonly left: Float64Array
  readonly entered: Float64Array
}

/** One comparison that is about to be made. */
interface Comparison {
  readonly operation: Operation
  readonly use: Use
  readonly session: Session
  /** Fresh, for this comparison alone. */
  readonly key: SessionKey
  /** Adapted embedding of the live face. */
  readonly vector: Float64Array
  readonly presentationChecked: boolean
  /** The consent that decides, for the template that is compared with. */
  readonly consent: SignedReceipt
  /** What a match puts in force, or null. */
  readonly change: Change | null
  /** What a match does to another device, or null. */
  readonly device?: DeviceChange
  /** The same, as the log's entry about it must say it; for a removal the digest of the last message is in it. */
  readonly done: readonly Done[] | ((request: Bytes) => readonly Done[])
  /** Empty for none. */
  readonly audienceNonce: Bytes
  /** What this device goes by where a match takes it to another deployment. */
  readonly under?: Enrolment
  /** Where the template comes over to another release: whose new one it is, and what allows it in the place of the rest. */
  readonly over?: { readonly into: Wallet; readonly left: SignedReceipt; readonly requireAllowed: () => Promise<void> }
}

/** One device with its wallet, at one deployment. */
export class Device {
  readonly #wallet: Wallet
  readonly #transport: Transport
  readonly #deployment: Deployment
  readonly #clock: () => number
  #rules: Rulebook | null = null

  /** @param clock seconds since 1970. */
  constructor(wallet: Wallet, transport: Transport, deployment: Deployment, clock: () => number = () => Math.floor(Date.now() / 1000)) {
    this.#wallet = wallet
    this.#transport = transport
    this.#deployment = deployment
    this.#clock = clock
  }

  /**
   * Enrols `reference`, confirmed by another capture of the same face. Both are adapted embeddings.
   *
   * Nothing is stored by the server unless the second capture matches. Seed and pad are drawn for this attempt alone, so
   * `Owner.settle` an earlier one first.
   *
   * @param key fresh, for this session alone.
   * @param ticket 20 bytes that the operator gave the person.
   * @throws RefusedError, PeerError, ProofError, UnavailableError nothing is known to be stored. When it is the last answer
   *   that is missing or proves nothing, it may be: seed and pad are kept.
   */
  async enrol(key: SessionKey, reference: Float64Array, second: Float64Array, ticket: Bytes): Promise<Outcome> {
    const wallet = this.#wallet
    const before = wallet.memory.enrolment
    if (before?.state === 'enrolled') throw new UsageError('this device is enrolled already; revoke first')
    const { identifier: deployment, purpose, audience, terms, days, release, trust, log } = this.#deployment
    const started: Enrolment = { purpose, audience, releaseDigest: release.digest, log, deployment, trust, state: 'started', receipts: [], answers: before?.answers ?? 0, failures: 0 }
    await this.#readRules()
    await this.#requirePublic(started, started, terms.jurisdiction, days * DAY_SECONDS, null)
    const answer = await this.#transport.call(verification.startEnrolment, { keyId: wallet.keyId, purpose, audience, ticket }).catch((error: unknown) => {
      if (!(error instanceof RefusedError)) throw error
      throw new RefusedError(error.message, { why: { name: equal(ticket, codeOf(wallet.keyId)) ? 'why.code' : 'why.ticket' } })
    })
    const session = checkedSession(answer.session, started)
    const secret = TemplateSecret.generate(release.parameters, randomBytes)
    const template = secret.template(reference, randomBytes)
    const consent = await this.#consentTo({ ...bindingOf(wallet, started), templateDigest: sha256(template) }, null, started)
    await wallet.begin(secret, { ...started, receipts: [textOf(consent)] })
    const change = { devicePublicKey: wallet.devicePublicKey, template, receipt: consent.toBytes() }
    const done = [enrolled(wallet.devicePublicKey, audience, sha256(template), change.receipt)]
    const outcome = await this.#compare({
      operation: Operation.ENROL, use: started, session, key, vector: second, presentationChecked: false, consent, change, done, audienceNonce: NONE,
    })
    if (!outcome.matched) await wallet.forget({ receipts: [] })
    return outcome
  }

  /**
   * Compares a fresh capture with the enrolled template.
   *
   * A match means that the server's reply, which is in the log, opened to a token. That the server also recorded it, only
   * whoever answers says; with a nonce the assertion proves it.
   *
   * @param key fresh, for this session alone.
   * @param audienceNonce 32 bytes that the audience chose, to get an assertion for it.
   * @param use of a site that logs people in here, towards which `agree` has begun a consent; else what was enrolled for.
   * @throws RefusedError not enrolled, revoked, closed after too many failures, or not covered by the consent any more.
   * @throws UnavailableError too many failures in a row, or the server cannot be reached.
   * @throws PeerError, ProofError the other side broke the protocol; nothing was opened.
   */
  async verify(key: SessionKey, probe: Probe, audienceNonce: Bytes = NONE, use: Use = this.#wallet.requireEnrolment()): Promise<Outcome> {
    const consent = this.#consent(use)
    await this.#readRules()
    await this.#requireAllowed(consent, use, levelOf(probe))
    if (audienceNonce.length > 0) this.#issuer()
    const session = await this.#startVerification(audienceNonce, use)
    return this.#compare({ operation: Operation.VERIFY, use, session, key, ...(await filmed(probe, session)), consent, change: null, done: [], audienceNonce })
  }

  /**
   * Puts a newer consent, to the present terms, in the place of the one in force, or of one that has ended.
   *
   * It moves trust to something new, so it needs the face: a match that is decided under the newer consent. With it this
   * device goes by the deployment that the page is of, which may be newer, as one with another key of assertions is.
   *
   * @param key fresh, for this session alone.
   * @param use of a site: towards it a consent of its own begins, or goes on.
   * @throws RefusedError, UnavailableError, PeerError, ProofError as for `verify`; the former consent counts.
   */
  async renew(key: SessionKey, probe: Probe, use: Use = this.#wallet.requireEnrolment()): Promise<Outcome> {
    await this.#readRules()
    const held = await new Owner(this.#wallet, this.#transport, this.#clock).receipts()
    const old = this.#wallet.requireEnrolment()
    const isOwn = use.audience === old.audience
    if (isOwn && this.#deployment.audience !== old.audience) throw new UsageError('the deployment offers another use than this device is enrolled for')
    const [binding, current] = [held.at(-1)?.receipt.binding, latestTo(held, use)?.receipt]
    if (binding === undefined) throw new RefusedError('the server says that it holds no consent of this device, which stays as it is; revoke proves it')
    const consent = await this.#consentTo(binding, current?.receiptId ?? null, use)
    const under = isOwn ? { ...old, deployment: this.#entered(old) } : old // of a site nobody is shown a deployment
    await this.#requireAllowed(consent, use, levelOf(probe), this.#wallet, under)
    const change = { devicePublicKey: NONE, template: NONE, receipt: consent.toBytes() }
    const session = await this.#startVerification(NONE, use)
    const done = [renewed(this.#wallet.keyId, change.receipt)]
    const outcome = await this.#compare({
      operation: Operation.RENEW_CONSENT, use, session, key, ...(await filmed(probe, session)), consent, change, done, audienceNonce: NONE, under,
    })
    if (outcome.matched) await this.#wallet.remember({ enrolment: { ...this.#wallet.requireEnrolment(), deployment: under.deployment, receipts: [...held, consent].map(textOf) } })
    return outcome
  }

  /**
   * Comes over from a former release to the present one, with the account: a match under the release that is left puts the
   * template of the other one in force. As `Device.renew_template` with a destination in `client/device/verification.py`.
   *
   * Seed and pad are drawn here, for the new template alone, and kept in `into` before it leaves. No server compares the new
   * template with anything, so that is done here, in the clear, before anything leaves.
   *
   * @param key fresh, for this session alone, of the parameters of the release that is left.
   * @param reference adapted by the present release.
   * @param second another capture, or what films one under a challenge.
   * @param former the release that this device is enrolled under.
   * @param into the wallet of the new template, whose key no server knows.
   * @throws RefusedError, UnavailableError, PeerError, ProofError as for `verify`. When it is the last answer that is missing
   *   or proves nothing, nobody knows which wallet counts: `Owner.settle` of `into` tells.
   */
  async comeOver(key: SessionKey, reference: Float64Array, second: Twice | ((nonce: Uint8Array) => Promise<Twice>), former: Pick<Deployment, 'release' | 'manifest'>, into: Wallet): Promise<Outcome> {
    const [wallet, { release, audience, terms, days }] = [this.#wallet, this.#deployment]
    const old = wallet.requireEnrolment()
    if (former.release.digest !== old.releaseDigest) throw new UsageError('this device is not enrolled under that release')
    if (audience !== old.audience || !terms.purposes.includes(old.purpose)) throw new UsageError('the deployment offers another use than this device is enrolled for')
    await this.#readRules()
    const identifier = this.#entered(old)
    const begun: Enrolment = { ...old, releaseDigest: release.digest, deployment: identifier, state: 'started', receipts: [], answers: into.memory.enrolment?.answers ?? 0, failures: 0 }
    const left = this.#consent(old)
    const secret = TemplateSecret.generate(release.parameters, randomBytes)
    const template = secret.template(reference, randomBytes)
    const agreeing = ({ left: compared, entered }: Twice): Float64Array => {
      if (distance(secret.paddedCode(reference), secret.paddedCode(entered)) > release.threshold) {
        throw new UsageError('the last picture does not match the others; take new ones of the same person, from the front and in even light. Nothing was sent', { why: { name: 'why.second_unlike' } })
      }
      return compared
    }
    const probe: Probe = typeof second === 'function' ? async (nonce) => agreeing(await second(nonce)) : agreeing(second)
    const consent = await this.#consentTo({ ...bindingOf(into, begun), templateDigest: sha256(template) }, null, old, into)
    const pad = levelOf(probe)
    const requireAllowed = async (): Promise<void> => {
      await this.#requirePublic({ ...old, deployment: identifier }, old, terms.jurisdiction, days * DAY_SECONDS, null, former.manifest)
      await this.#requireAllowed(consent, begun, pad, into, begun)
    }
    await requireAllowed()
    const { checkpoint, rules, names } = wallet.memory
    const mine = names[hex(codeOf(wallet.keyId))] ?? ''
    await into.remember({ checkpoint, rules, names: named(named(names, codeOf(wallet.keyId), ''), codeOf(into.keyId), mine) })
    await into.begin(secret, { ...begun, receipts: [textOf(consent)] })
    const session = await this.#startVerification(NONE, old, begun)
    const change = { devicePublicKey: into.devicePublicKey, template, receipt: consent.toBytes() }
    const done = (request: Bytes): readonly Done[] => [
      revoked(wallet.keyId, request), enrolled(into.devicePublicKey, old.audience, sha256(template), change.receipt),
    ]
    const outcome = await this.#compare({
      operation: Operation.RENEW_TEMPLATE, use: old, session, key, ...(await filmed(probe, session)), consent, change, done, audienceNonce: NONE,
      over: { into, left, requireAllowed },
    })
    if (outcome.matched) await into.takePlace()
    else await into.forget({ receipts: [] })
    return outcome
  }

  /**
   * Whether a consent to that use has to begin before this device may be compared for it.
   *
   * @param isTold whether the person has read that one begins with this picture.
   * @throws RefusedError one has to, and the person was shown none: what they had agreed to has ended since. Or this device
   *   has to come over to another deployment first.
   */
  async needsConsent(use: Use, isTold: boolean): Promise<boolean> {
    await this.#readRules()
    this.#issuer()
    const consent = latestTo(this.#wallet.requireEnrolment().receipts.map((text) => SignedReceipt.fromBytes(utf8(text))), use)
    const agrees = consent?.findFault(bindingOf(this.#wallet, this.#wallet.requireEnrolment()), use.purpose, use.audience, this.#clock()) === null
    if (!agrees && !isTold) throw new RefusedError(`nobody was told that a consent towards ${use.audience} begins`, { why: { name: 'why.consent' } })
    return !agrees
  }

  /**
   * Lets another device of the same person enrol, for an hour. Whoever enrols on it verifies as this person.
   *
   * @param ticket digest of that device's ticket.
   * @throws RefusedError as for `verify`; or there are as many devices as there may be.
   */
  admit(key: SessionKey, probe: Probe, ticket: Bytes): Promise<Outcome> {
    return this.#changeDevices(key, probe, { admits: ticket }, [admitted(this.#wallet.keyId, ticket)])
  }

  /**
   * Ends the template of another device of the same person, for good.
   *
   * @throws RefusedError as for `verify`; or no other device of this person has that key.
   */
  remove(key: SessionKey, probe: Probe, keyId: Bytes): Promise<Outcome> {
    return this.#changeDevices(key, probe, { removes: keyId }, (request) => [revoked(keyId, request)])
  }

  async #changeDevices(key: SessionKey, probe: Probe, device: DeviceChange, done: Comparison['done']): Promise<Outcome> {
    const use: Use = this.#wallet.requireEnrolment()
    const consent = this.#consent(use)
    await this.#readRules()
    await this.#requireAllowed(consent, use, levelOf(probe))
    const session = await this.#startVerification(NONE, use)
    const operation = device.admits === undefined ? Operation.REMOVE_DEVICE : Operation.ADMIT_DEVICE
    return this.#compare({ operation, use, session, key, ...(await filmed(probe, session)), consent, change: null, device, done, audienceNonce: NONE })
  }

  async #compare({ operation, use, session, key, vector, presentationChecked, consent, change, device, done, audienceNonce, under, over }: Comparison): Promise<Outcome> {
    const pad: PadLevel = presentationChecked ? 'on-device' : 'none' // never more: behind a bridge's certificate stand all browsers
    const asked = operation === Operation.ENROL ? null : pad
    const requireAllowed = over?.requireAllowed ?? (() => this.#requireAllowed(consent, use, asked, this.#wallet, under))
    const wallet = this.#wallet
    const enrolment = wallet.requireEnrolment()
    const [{ sessionId, nonce }, releaseDigest] = [session, fromHex(enrolment.releaseDigest)]
    const { purpose, audience } = use
    await requireAllowed()
    const probe = key.encrypt(wallet.requireSecret().paddedCode(vector))
    const logSize = seenOf(wallet)
    const transcript = transcriptBytes({
      parameters: key.parameters.name, operation, sessionId, nonce, purpose, audience, audienceNonce, keyId: wallet.keyId,
      templateDigest: (over?.left ?? consent).receipt.binding.templateDigest, releaseDigest, changeDigest: device === undefined ? changeDigest(change) : deviceChangeDigest(device), logSize, probeDigest: sha256(probe),
      presentationChecked,
    })
    const signature = await wallet.sign(transcript)
    const newSignature = over === undefined ? NONE : await over.into.sign(transcript)
    await wallet.countAnswer()
    const { reply, log } = await this.#transport.call(verification.submitProbe, { sessionId, probe, signature, newSignature, logSize, presentationChecked, ...(change && { change }), ...(device && { device }) })
    await requireAllowed() // a moment ago it was, but this is where a bit of the face leaves
    const logged = await this.#requireLogged(log, transcript, reply, use)
    const token = key.openReply(reply, transcript)
    const last = { sessionId, token: token ?? NO_MATCH, logSize: seenOf(wallet) }
    const recorded = await this.#transport.call(verification.submitToken, last)
    const { decision } = recorded
    if (decision !== Decision.MATCH && decision !== Decision.NON_MATCH) throw new MalformedMessageError('the server states no decision')
    if ((decision === Decision.MATCH) !== (token !== null)) throw new PeerError('the server recorded another decision than the one that this device opened')
    if ((recorded.assertion.length > 0) !== (token !== null && audienceNonce.length > 0)) {
      throw new MalformedMessageError('a match for an audience has an assertion, and nothing else has one')
    }
    const tried = wallet.requireEnrolment()
    await wallet.remember({ enrolment: { ...tried, failures: token === null ? tried.failures + 1 : 0 } })
    const assertion = recorded.assertion.length > 0 ? new TextDecoder().decode(recorded.assertion) : null
    if (assertion !== null) {
      await checkAssertion(assertion, {
        issuer: this.#issuer(), audience, purpose, nonce: audienceNonce, releaseDigest: enrolment.releaseDigest, rate: this.#deployment.release.fmr,
        audited: this.#deployment.manifest.audited, pad,
        contest: consent.receipt.terms.contest, logged,
      })
    }
    const due = typeof done === 'function' ? done(requestDigest(last)) : done
    const enacted = await checkDone(recorded.deeds, token === null ? [] : due, trustOf(wallet, this.#clock()))
    const counts = over?.into ?? wallet
    if (token !== null) await counts.remember({ checkpoint: (enacted ?? logged).note, enrolment: { ...counts.requireEnrolment(), state: 'enrolled' } })
    return { matched: token !== null, position: (enacted ?? logged).position, assertion }
  }

  /** @param served the enrolment under the release that the server has to run. */
  async #startVerification(audienceNonce: Bytes, { purpose, audience }: Use, served = this.#wallet.requireEnrolment()): Promise<Session> {
    const answer = await this.#transport.call(verification.startVerification, { keyId: this.#wallet.keyId, purpose, audience, audienceNonce })
    return checkedSession(answer.session, served)
  }

  /** Returns when this very comparison and reply stand in a log that only grew. Until then nothing is opened. */
  async #requireLogged(receipt: LogReceipt | undefined, transcript: Bytes, reply: Uint8Array, { purpose, audience }: Use): Promise<Logged> {
    if (receipt === undefined) throw new ProofError('the server does not show that it logged this comparison; nothing was opened')
    const logged = await checkComparison(receipt, {
      keyId: this.#wallet.keyId, transcript, reply, requester: audience, purpose, ...trustOf(this.#wallet, this.#clock()),
    })
    await this.#wallet.remember({ checkpoint: logged.note })
    return logged
  }

  /** A signed receipt for one template, to the present terms. */
  async #consentTo(binding: Binding, renews: Uint8Array | null, use: Use, wallet = this.#wallet): Promise<SignedReceipt> {
    const { terms: offered, days } = this.#deployment
    const now = this.#clock()
    const terms = use.audience === offered.audience ? offered : { ...offered, audience: use.audience, purposes: [use.purpose] }
    return new Receipt(randomBytes(16), terms, binding, now, now + days * DAY_SECONDS, renews).sign((message) => wallet.sign(message))
  }

  /** The consent in force, as this device remembers it. */
  #consent(use: Use): SignedReceipt {
    const latest = latestTo(this.#wallet.requireEnrolment().receipts.map((text) => SignedReceipt.fromBytes(utf8(text))), use)
    if (latest === undefined) throw new RefusedError('this device gave no consent to that; enrol first')
    return latest
  }

  /**
   * Who signs assertions here, by the public rules.
   *
   * @throws RefusedError nobody; or not whom the deployment of this device names, so that it would believe none. It says whether
   *   there is a way to the other one.
   */
  #issuer(): Issuer {
    const [enrolment, here] = [this.#wallet.requireEnrolment(), this.#deployment.identifier]
    const mine = enrolment.deployment
    const [issuer, signs] = [mine, here].map((name) => this.#rules?.deployment(name)?.issuer)
    if (!issuer) throw new RefusedError('the public rules name nobody who may sign assertions here', { why: { name: 'why.no_issuer' } })
    if (signs?.publicKey !== issuer.publicKey || signs.address !== issuer.address) {
      this.#entered(enrolment)
      throw new RefusedError(`assertions are under the key of the deployment ${here} now, and this device enrolled at ${mine}; renew the consent`, { why: { name: 'why.other_key' } })
    }
    return issuer
  }

  /**
   * The deployment of the page, when a device that enrolled at another one may go to it.
   *
   * @throws RefusedError it may not: it is of another operator, under the law of fewer places, or older.
   */
  #entered({ deployment }: Enrolment): string {
    const { identifier } = this.#deployment
    if (identifier !== deployment && !this.#rules?.follows(identifier, deployment)) {
      throw new RefusedError(`the public rules register no deployment ${identifier} of the same operator, for the same audience and places as ${deployment}, that begins after it`)
    }
    return identifier
  }

  /** Reads the public rules, and remembers how far. A file that lost an entry that this device has seen is refused. */
  async #readRules(): Promise<void> {
    this.#rules = await Rulebook.read(await this.#deployment.readRules(), this.#wallet.memory.rules)
    await this.#wallet.remember({ rules: this.#rules.seen })
  }

  /** Returns when two signatures, the validity of the release and the public rules allow this use now. */
  async #requirePublic(enrolment: Enrolment, { purpose, audience }: Use, jurisdiction: string, consentSeconds: number, pad: PadLevel | null, manifest = this.#deployment.manifest): Promise<void> {
    const { deployment, releaseDigest, trust } = enrolment
    const { standing } = manifest
    if (this.#rules === null) throw new UsageError('the public rules were not read')
    if (standing.digest !== releaseDigest) throw new RefusedError('the server runs another model release than this device enrolled with; revoke and enrol again', { why: { name: 'why.other_release' } })
    await manifest.requireServable(trust, this.#clock())
    requireAllowedBy(this.#rules, { deployment, purpose, audience, release: standing, jurisdiction, consentSeconds, pad }, this.#clock())
  }

  /** Returns when the public rules, the release and this consent of the owner's allow this use now, whatever the server thinks. */
  async #requireAllowed(consent: SignedReceipt, use: Use, pad: PadLevel | null, wallet = this.#wallet, enrolment = wallet.requireEnrolment()): Promise<void> {
    const fault = consent.findFault(bindingOf(wallet, enrolment), use.purpose, use.audience, this.#clock())
    if (fault !== null) throw new RefusedError(`the consent does not cover this: it is ${fault}`, { why: { name: 'why.consent' } })
    if (!(await consent.isSigned())) throw new ProofError('this device did not sign the consent in its wallet')
    const { terms, issuedAt, expiresAt } = consent.receipt
    await this.#requirePublic(enrolment, use, terms.jurisdiction, expiresAt - issuedAt, pad)
  }
}

/** To what a consent of a wallet has to be bound, but for the template. */
function bindingOf({ devicePublicKey, keyId }: Wallet, { releaseDigest }: Enrolment): Omit<Binding, 'templateDigest'> {
  return { devicePublicKey, keyId, releaseDigest: fromHex(releaseDigest) }
}

const distance = (one: Uint8Array, other: Uint8Array): number => one.reduce((sum, bit, i) => sum + (bit ^ other[i]), 0)

/** What a comparison of this face will say of presentation attacks. */
const levelOf = (probe: Probe): PadLevel => (typeof probe === 'function' ? 'on-device' : 'none')

/** The face; one that is filmed is refused here, if at all: nothing has left yet, and no attempt is counted. */
async function filmed(probe: Probe, { nonce }: Session): Promise<Pick<Comparison, 'vector' | 'presentationChecked'>> {
  return typeof probe === 'function' ? { vector: await probe(nonce), presentationChecked: true } : { vector: probe, presentationChecked: false }
}

/** What makes two requests the same one: SHA-256 of the message's name, a zero byte and its bytes. As `federation/wire/logged.py`. */
function requestDigest(last: { readonly sessionId: Uint8Array; readonly token: Uint8Array; readonly logSize: bigint }): Bytes {
  return sha256(concat(utf8(`${SubmitTokenRequestSchema.typeName}\0`), toBinary(SubmitTokenRequestSchema, create(SubmitTokenRequestSchema, last))))
}

/** What the server opened. A server with another release than the one of the enrolment gets no signature. */
function checkedSession(session: Session | undefined, { releaseDigest }: Enrolment): Session {
  if (session === undefined) throw new MalformedMessageError('the server opens no session')
  if (session.sessionId.length !== 16 || session.nonce.length !== 32) throw new MalformedMessageError('a session has an id of 16 bytes and a nonce of 32')
  if (!equal(session.releaseDigest, fromHex(releaseDigest))) {
    throw new RefusedError('the server runs another model release than this device enrolled with; revoke and enrol again')
  }
  return session
}

/** The newest of the consents towards one audience. */
const latestTo = (receipts: readonly SignedReceipt[], { audience }: Use): SignedReceipt | undefined =>
  receipts.filter(({ receipt }) => receipt.terms.audience === audience).at(-1)
