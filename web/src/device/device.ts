/** The person's device: enrols, verifies, and does what an owner may always do. As `client/verification.py` and `owner.py`. */

import { type Bytes, concat, equal, fromHex, hex, randomBytes, sha256, utf8 } from '../bytes'
import { MalformedMessageError, PeerError, ProofError, RefusedError, UsageError } from '../errors'
import type { ModelRelease } from '../face/release'
import { checkComparison, checkHistory, checkTombstone, type Entry, Opening } from '../log/entries'
import { LogKey } from '../log/notes'
import { Operation, transcriptBytes } from '../onebit/transcript'
import type { ReleaseTrust, SignedManifest } from '../rules/manifest'
import { requireAllowedBy } from '../rules/policy'
import { Rulebook } from '../rules/rulebook'
import { type Binding, Receipt, SignedReceipt, type Terms } from '../wallet/receipts'
import type { Enrolment, Wallet } from '../wallet/wallet'
import { Decision, type ExportResponse, LogService, OwnerService, type LogReceipt, type Session, VerificationService } from '../wire/federation/wire/v1/verification_pb'
import type { Transport } from './transport'

const DAY_SECONDS = 86_400
const NO_MATCH = new Uint8Array(32)
const MOST_PAGES = 1000
const { method: verification } = VerificationService
const { method: owner } = OwnerService

/** Where this page's server lets people enrol, and what for. */
export interface Deployment {
  /** In the public rules. */
  readonly identifier: string
  readonly purpose: string
  readonly audience: string
  readonly terms: Terms
  /** How long a consent is valid. */
  readonly days: number
  /** Of the transparency log: name+key id+key. */
  readonly logKey: string
  readonly release: ModelRelease
  readonly manifest: SignedManifest
  /** Whose signatures on a release count; the wallet keeps it from the enrolment on. */
  readonly trust: ReleaseTrust
  /** Reads the public rules, as they are now. */
  readonly readRules: () => Promise<Bytes>
}

/** What the device knows at the end. */
export interface Outcome {
  readonly matched: boolean
  /** Of the attempt in the log. */
  readonly position: number
  /** For the audience whose nonce it was, when the claim was accepted; a JSON Web Token, else null. */
  readonly assertion: string | null
}

/** Everything that a server holds about an owner. */
export interface Held {
  readonly record: string
  readonly templateBytes: number
  readonly publicKeyBytes: number
  readonly receipts: readonly SignedReceipt[]
  readonly openings: readonly (readonly [number, Opening])[]
}

/** One thing that happened, proved to be in the log. */
export interface Event extends Entry {
  readonly position: number
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
   * Nothing is stored by the server unless the template passes the zero test and the second capture matches it.
   *
   * @throws RefusedError, PeerError, ProofError, UnavailableError nothing is known to be stored; try again.
   */
  async enrol(reference: Float64Array, second: Float64Array): Promise<Outcome> {
    const wallet = this.#wallet
    const { identifier: deployment, purpose, audience, terms, days, release, trust, logKey } = this.#deployment
    if (wallet.memory.enrolment?.state === 'enrolled') throw new UsageError('this device is enrolled already; revoke first')
    const enrolment: Enrolment = { purpose, audience, releaseDigest: release.digest, logKey, deployment, trust, state: 'started', receipts: [], answers: wallet.memory.enrolment?.answers ?? 0 }
    await wallet.remember({ enrolment })
    await this.#readRules()
    await this.#requirePublic(terms.jurisdiction, days * DAY_SECONDS)
    const session = this.#checked((await this.#transport.call(verification.startEnrolment, this.#request())).session)
    const template = wallet.deviceSecret.encrypt(wallet.codeSeed.code(reference))
    const transcript = this.#transcript(Operation.ENROL, session, sha256(concat(wallet.devicePublicKey, template)))
    const receipt = await this.#consentTo(template)
    await wallet.countAnswer()
    const answer = await this.#transport.call(verification.submitTemplate, {
      sessionId: session.sessionId,
      publicKey: wallet.deviceSecret.publicKey,
      devicePublicKey: wallet.devicePublicKey,
      template,
      signature: await wallet.sign(transcript),
      receipt,
      logSize: BigInt(this.#logSize()),
    })
    await this.#requireLogged(answer.log, transcript)
    const token = wallet.deviceSecret.openReply(answer.reply, transcript)
    if (token === null) throw new PeerError("the server's test of the template does not open; nothing was stored")
    const { session: next } = await this.#transport.call(verification.confirmTemplate, { sessionId: session.sessionId, token })
    const outcome = await this.#compare(second, this.#checked(next))
    if (outcome.matched) await wallet.remember({ enrolment: { ...wallet.requireEnrolment(), state: 'enrolled' } })
    return outcome
  }

  /**
   * Compares a fresh capture with the enrolled template.
   *
   * @param audienceNonce 32 bytes that the audience chose, to get an assertion for it.
   * @throws RefusedError not enrolled, revoked, closed after too many failures, or not covered by the consent any more.
   * @throws UnavailableError too many failures in a row, or the server cannot be reached.
   * @throws PeerError, ProofError the other side broke the protocol; nothing was opened.
   */
  async verify(probe: Float64Array, audienceNonce: Bytes = new Uint8Array()): Promise<Outcome> {
    await this.#readRules()
    await this.#requireAllowed()
    const session = this.#checked((await this.#transport.call(verification.startVerification, { ...this.#request(), audienceNonce })).session)
    const outcome = await this.#compare(probe, session)
    const enrolment = this.#wallet.requireEnrolment()
    if (outcome.matched && enrolment.state === 'started') await this.#wallet.remember({ enrolment: { ...enrolment, state: 'enrolled' } })
    return outcome
  }

  /** Puts a newer consent, to the present terms, in the place of the one in force. */
  async renew(): Promise<void> {
    const held = await this.#receipts()
    const current = held.at(-1)?.receipt
    if (current === undefined) throw new RefusedError('the server holds no consent of this device; enrol again')
    const now = this.#clock()
    const { terms, days } = this.#deployment
    const renewed = await new Receipt(randomBytes(16), terms, current.binding, now, now + days * DAY_SECONDS, current.receiptId)
      .sign((message) => this.#wallet.sign(message))
    await this.#transport.call(owner.renewConsent, { keyId: this.#wallet.keyId, receipt: renewed.toBytes() })
    const receipts = [...held, renewed].map((signed) => new TextDecoder().decode(signed.toBytes()))
    await this.#wallet.remember({ enrolment: { ...this.#wallet.requireEnrolment(), receipts } })
  }

  /** Has the server delete the template, for good. Doing it twice changes nothing. */
  async revoke(): Promise<void> {
    await this.#transport.call(owner.revoke, { proof: await this.#proof('revoke') })
    const { enrolment } = this.#wallet.memory
    if (enrolment !== null) await this.#wallet.remember({ enrolment: { ...enrolment, state: 'revoked' } })
  }

  /** Has the server delete everything that connects the owner with it. Returns the tombstone's position, or null if made before. */
  async erase(): Promise<number | null> {
    const answer = await this.#transport.call(owner.erase, { proof: await this.#proof('erase') })
    const { enrolment } = this.#wallet.memory
    if (enrolment !== null) await this.#wallet.remember({ enrolment: { ...enrolment, state: 'revoked' } })
    return answer.log === undefined ? null : checkTombstone(answer.log, this.#logKey(), this.#clock())
  }

  /** Everything that the server holds. */
  async export(): Promise<Held> {
    let start = 0n
    let first: ExportResponse | null = null
    const openings: [number, Opening][] = []
    for (let page = 0; page < MOST_PAGES; page++) {
      const answer = await this.#transport.call(owner.export, { proof: await this.#proof('export'), openingsFrom: start })
      first ??= answer
      for (const { position, opening } of answer.openings) openings.push([Number(position), new Opening(opening)])
      if (answer.next === 0n) {
        const { record, template, publicKey, receipts } = first
        return {
          record: new TextDecoder().decode(record),
          templateBytes: template.length,
          publicKeyBytes: publicKey.length,
          receipts: receipts.map((receipt) => SignedReceipt.fromBytes(receipt)),
          openings,
        }
      }
      start = answer.next
    }
    throw new PeerError('the export does not come to an end')
  }

  /** The log's entries about this owner, each proved to be in the log. */
  async history(): Promise<Event[]> {
    const { openings } = await this.export()
    const events: Event[] = []
    for (const [position, opening] of openings) {
      const { logged } = await this.#transport.call(LogService.method.getInclusion, { position: BigInt(position) })
      events.push({ ...(await checkHistory(logged, position, opening, this.#wallet.keyId, this.#logKey(), this.#clock())), position })
    }
    return events
  }

  async #compare(probe: Float64Array, session: Session): Promise<Outcome> {
    const wallet = this.#wallet
    const ciphertext = wallet.deviceSecret.encrypt(wallet.codeSeed.code(probe))
    const transcript = this.#transcript(Operation.VERIFY, session, sha256(ciphertext))
    const signature = await wallet.sign(transcript)
    await wallet.countAnswer()
    const answer = await this.#transport.call(verification.submitProbe, {
      sessionId: session.sessionId, probe: ciphertext, signature, logSize: BigInt(this.#logSize()),
    })
    await this.#requireAllowed() // a moment ago it was, but this is where a bit of the face leaves
    const position = await this.#requireLogged(answer.log, transcript)
    const token = wallet.deviceSecret.openReply(answer.reply, transcript)
    const { decision, assertion } = await this.#transport.call(verification.submitToken, { sessionId: session.sessionId, token: token ?? NO_MATCH })
    if (decision !== Decision.MATCH && decision !== Decision.NON_MATCH) throw new MalformedMessageError('the server states no decision')
    if ((decision === Decision.MATCH) !== (token !== null)) throw new PeerError('the server recorded another decision than the one that this device opened')
    if (assertion.length > 0 && token === null) throw new MalformedMessageError('only a match has an assertion')
    return { matched: token !== null, position, assertion: assertion.length > 0 ? new TextDecoder().decode(assertion) : null }
  }

  #request(): { keyId: Bytes; purpose: string; audience: string } {
    const { purpose, audience } = this.#wallet.requireEnrolment()
    return { keyId: this.#wallet.keyId, purpose, audience }
  }

  #checked(session: Session | undefined): Session {
    if (session === undefined) throw new MalformedMessageError('the server opens no session')
    return session
  }

  /** What the device signs. It takes the release from the wallet: a server with another one gets no signature. */
  #transcript(operation: Operation, session: Session, ciphertextDigest: Bytes): Bytes {
    const { purpose, audience, releaseDigest } = this.#wallet.requireEnrolment()
    if (!equal(session.releaseDigest, fromHex(releaseDigest))) {
      throw new RefusedError('the server runs another model release than this device enrolled with; revoke and enrol again')
    }
    const { sessionId, nonce } = session
    if (sessionId.length !== 16 || nonce.length !== 32) throw new MalformedMessageError('a session has an id of 16 bytes and a nonce of 32')
    return transcriptBytes({ operation, sessionId, nonce, purpose, audience, keyId: this.#wallet.keyId, releaseDigest: session.releaseDigest, ciphertextDigest })
  }

  /** Returns when this very comparison stands in a log that only grew. Until then nothing is opened. */
  async #requireLogged(receipt: LogReceipt | undefined, transcript: Bytes): Promise<number> {
    if (receipt === undefined) throw new ProofError('the server does not show that it logged this comparison; nothing was opened')
    const { purpose, audience } = this.#wallet.requireEnrolment()
    const { position, checkpoint } = await checkComparison(receipt, {
      keyId: this.#wallet.keyId, transcript, requester: audience, purpose,
      memory: this.#wallet.memory.checkpoint, logKey: this.#logKey(), now: this.#clock(),
    })
    await this.#wallet.remember({ checkpoint })
    return position
  }

  /** A signed receipt for exactly this template. It is in the wallet before it leaves. */
  async #consentTo(template: Bytes): Promise<Bytes> {
    const { terms, days } = this.#deployment
    const now = this.#clock()
    const binding: Binding = { ...this.#binding(), templateDigest: sha256(template) }
    const signed = await new Receipt(randomBytes(16), terms, binding, now, now + days * DAY_SECONDS).sign((message) => this.#wallet.sign(message))
    const bytes = signed.toBytes()
    await this.#wallet.remember({ enrolment: { ...this.#wallet.requireEnrolment(), receipts: [new TextDecoder().decode(bytes)] } })
    await this.#requireAllowed()
    return bytes
  }

  /** Reads the public rules, and remembers how far. A file that lost an entry that this device has seen is refused. */
  async #readRules(): Promise<void> {
    this.#rules = await Rulebook.read(await this.#deployment.readRules(), this.#wallet.memory.rules)
    await this.#wallet.remember({ rules: this.#rules.seen })
  }

  /** Returns when two signatures, the validity of the release and the public rules allow this use now. */
  async #requirePublic(jurisdiction: string, consentSeconds: number): Promise<void> {
    const { deployment, purpose, audience, releaseDigest, trust } = this.#wallet.requireEnrolment()
    const { manifest } = this.#deployment
    const { standing } = manifest
    if (this.#rules === null) throw new UsageError('the public rules were not read')
    if (standing.digest !== releaseDigest) throw new RefusedError('the server runs another model release than this device enrolled with; revoke and enrol again')
    await manifest.requireServable(trust, this.#clock())
    requireAllowedBy(this.#rules, { deployment, purpose, audience, release: standing, jurisdiction, consentSeconds }, this.#clock())
  }

  /** Returns when the public rules, the release and the owner's own consent allow this use now, whatever the server thinks. */
  async #requireAllowed(): Promise<void> {
    const { receipts, purpose, audience } = this.#wallet.requireEnrolment()
    const latest = receipts.at(-1)
    if (latest === undefined) throw new RefusedError('this device gave no consent; enrol first')
    const signed = SignedReceipt.fromBytes(utf8(latest))
    const fault = signed.findFault(this.#binding(), purpose, audience, this.#clock())
    if (fault !== null) throw new RefusedError(`the consent does not cover this: it is ${fault}`)
    if (!(await signed.isSigned())) throw new ProofError('this device did not sign the consent in its wallet')
    const { terms, issuedAt, expiresAt } = signed.receipt
    await this.#requirePublic(terms.jurisdiction, expiresAt - issuedAt)
  }

  async #receipts(): Promise<SignedReceipt[]> {
    const { receipts } = await this.#transport.call(owner.listReceipts, { proof: await this.#proof('list-receipts') })
    const signed = receipts.map((receipt) => SignedReceipt.fromBytes(receipt))
    for (const one of signed) {
      if (!equal(one.receipt.binding.devicePublicKey, this.#wallet.devicePublicKey) || !(await one.isSigned())) {
        throw new ProofError('the server holds a consent that this device did not sign; contest it')
      }
    }
    return signed
  }

  #binding(): Omit<Binding, 'templateDigest'> {
    const { devicePublicKey, keyId } = this.#wallet
    return { devicePublicKey, keyId, releaseDigest: fromHex(this.#wallet.requireEnrolment().releaseDigest) }
  }

  async #proof(operation: 'list-receipts' | 'export' | 'revoke' | 'erase'): Promise<{ keyId: Bytes; audience: string; issuedAt: bigint; signature: Bytes }> {
    const { enrolment } = this.#wallet.memory
    if (enrolment === null) throw new UsageError('this device is not enrolled')
    const issuedAt = BigInt(this.#clock())
    const time = new DataView(new ArrayBuffer(8))
    time.setBigUint64(0, issuedAt, false)
    const keyId = this.#wallet.keyId
    const statement = concat(utf8(`intaglio-owner/1\0${operation}\0`), keyId, new Uint8Array(time.buffer), utf8(enrolment.audience))
    return { keyId, audience: enrolment.audience, issuedAt, signature: await this.#wallet.sign(statement) }
  }

  #logKey(): LogKey {
    return new LogKey(this.#wallet.memory.enrolment?.logKey ?? this.#deployment.logKey)
  }

  #logSize(): number {
    const { checkpoint } = this.#wallet.memory
    return checkpoint === null ? 0 : Number(checkpoint.split('\n')[1])
  }
}

/** A short name of a device, for people to compare. */
export const nameOf = (wallet: Wallet): string => hex(wallet.keyId.slice(0, 8))
