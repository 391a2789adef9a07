/**
 * What an owner may always do with what a server holds, without a face. As `client/device/owner.py`.
 *
 * Whoever terminates TLS can answer in the server's place. So nothing here changes a wallet without a proof by the log.
 */

import { type Bytes, concat, equal, utf8 } from '../bytes'
import { MalformedMessageError, PeerError, ProofError, RefusedError, UsageError, type Why } from '../errors'
import { checkHistory, checkRevoked, checkTombstone, enrolled, type Entry, type LogTrust, Opening, renewed, says } from '../log/entries'
import { LogPolicy } from '../log/notes'
import type { Revocation } from '../wallet/backup'
import { SignedReceipt } from '../wallet/receipts'
import type { Wallet } from '../wallet/wallet'
import { type ExportResponse, LogService, OwnerService } from '../wire/federation/wire/v1/verification_pb'
import { devicesIn, type ListedDevice } from './devices'
import type { Transport } from './transport'

const MOST_PAGES = 1000
/** A template that failed as often in its life is closed, as `server/storage/limits.py`. */
const MOST_FAILURES = 50
const UNPROVED = 'Whoever stands before the server could say so too, so this device stays as it is'
const { method: owner } = OwnerService

/** Everything that a server holds about an owner, but the padded template itself: of that a salted digest. */
export interface Held {
  /** Canonical JSON. */
  readonly record: string
  /** Of the padded template; 0 after a revocation. */
  readonly templateBytes: number
  readonly receipts: readonly SignedReceipt[]
  readonly openings: readonly (readonly [number, Opening])[]
}

/** One thing that happened, proved to be in the log. */
export interface Event extends Entry {
  readonly position: number
}

/** The owner of a wallet in which an enrolment was begun. */
export class Owner {
  readonly #wallet: Wallet
  readonly #transport: Transport
  readonly #clock: () => number

  /** @param clock seconds since 1970. */
  constructor(wallet: Wallet, transport: Transport, clock: () => number = () => Math.floor(Date.now() / 1000)) {
    this.#wallet = wallet
    this.#transport = transport
    this.#clock = clock
  }

  /**
   * What the log says became of an enrolment whose last answer was lost, before another one forgets its secret.
   *
   * @throws RefusedError the server says that it knows nothing of it. Nobody can prove that, so nothing is forgotten.
   * @throws ProofError the log proves neither, or another template under this device's key.
   */
  async settle(): Promise<void> {
    const { enrolment } = this.#wallet.memory
    if (enrolment?.state !== 'started' || enrolment.receipts.length === 0) return
    let openings: Opening[]
    try {
      openings = await this.#proved()
    } catch (error) {
      throw error instanceof RefusedError ? new RefusedError(`${error.message}. ${UNPROVED}`) : error
    }
    if (openings.some(({ kind }) => kind === 'revocation')) return await this.#wallet.forget({ state: 'revoked' })
    const enrolments = openings.filter(({ kind }) => kind === 'enrolment')
    if (enrolments.length === 0) throw new ProofError(`the log does not say what became of this template. ${UNPROVED}`)
    const first = SignedReceipt.fromBytes(utf8(enrolment.receipts[0]))
    const mine = enrolled(this.#wallet.devicePublicKey, enrolment.audience, first.receipt.binding.templateDigest, first.toBytes())
    if (!enrolments.some((one) => says(one, mine))) throw new ProofError("the log has an enrolment of another template with this device's key; contest it")
    await this.#wallet.remember({ enrolment: { ...enrolment, state: 'enrolled' } })
  }

  /**
   * The consents that the server acts on: signed by this device, for the template that it enrolled, and going on from those
   * that it remembers. Whatever it does not remember stands in the log.
   */
  async receipts(): Promise<SignedReceipt[]> {
    const { receipts } = await this.#transport.call(owner.listReceipts, { proof: await this.#proof('list-receipts') })
    const { receipts: remembered } = this.#wallet.requireEnrolment()
    if (remembered.length === 0) throw new RefusedError('this device gave no consent; enrol first')
    const mine = SignedReceipt.fromBytes(utf8(remembered[remembered.length - 1])).receipt.binding
    const signed = receipts.map((receipt) => SignedReceipt.fromBytes(receipt))
    for (const one of signed) {
      const { devicePublicKey, templateDigest } = one.receipt.binding
      if (!equal(devicePublicKey, mine.devicePublicKey) || !equal(templateDigest, mine.templateDigest) || !(await one.isSigned())) {
        throw new ProofError('the server holds a consent that this device did not sign, or for another template; contest it')
      }
    }
    if (signed.length > 0 && remembered.some((text, i) => signed[i] === undefined || textOf(signed[i]) !== text)) {
      throw new ProofError("the server's consents do not go on from those that this device remembers; contest it")
    }
    const news = signed.slice(remembered.length).map((one) => renewed(this.#wallet.keyId, one.toBytes()))
    if (news.length > 0) {
      const proved = await this.#proved()
      if (!news.every((done) => proved.some((opening) => says(opening, done)))) {
        throw new ProofError('the server holds a newer consent that is not in the log; this device stays as it is')
      }
    }
    return signed
  }

  /**
   * Has the server delete the template, for good. Doing it twice changes nothing.
   *
   * @returns where the revocation stands in the log.
   * @throws RefusedError not enrolled there, or erased.
   * @throws PeerError, ProofError the revocation does not stand in the log; the template may live, and the wallet is kept.
   */
  async revoke(): Promise<number> {
    const { log } = await this.#transport.call(owner.revoke, { proof: await this.#proof('revoke'), logSize: seenOf(this.#wallet) })
    if (log === undefined) throw new MalformedMessageError(`the answer says that the template is gone, without the log's entry about it. ${UNPROVED}`)
    const { position, note } = await checkRevoked(log, this.#wallet.keyId, trustOf(this.#wallet, this.#clock()))
    await this.#wallet.remember({ checkpoint: note })
    await this.#wallet.forget({ state: 'revoked' })
    return position
  }

  /**
   * A revocation that is not sent: for a backup.
   *
   * @throws UsageError there is nothing to revoke.
   */
  async revocation(): Promise<Revocation> {
    const { audience } = this.#wallet.requireEnrolment()
    const { keyId, issuedAt, signature } = await this.#proof('revoke')
    return { keyId, audience, issuedAt: Number(issuedAt), signature }
  }

  /**
   * Has the server delete everything that connects the owner with it. The template is revoked first.
   *
   * @returns the tombstone's position; null when this very call had to be made twice and the first answer, with the
   *   tombstone, was lost: that the rest is gone, nobody proves.
   * @throws RefusedError not enrolled there, or erased before.
   * @throws PeerError, ProofError what the server says to have done does not stand in the log.
   */
  async erase(): Promise<number | null> {
    const revocation = await this.revoke()
    const { repeated } = this.#transport
    const { log } = await this.#transport.call(owner.erase, { proof: await this.#proof('erase') })
    if (log !== undefined) {
      const position = await checkTombstone(log, revocation, trustOf(this.#wallet, this.#clock()))
      await this.#wallet.forget({ state: 'erased' })
      return position
    }
    if (this.#transport.repeated > repeated) return null
    throw new PeerError("the answer says that everything is gone, without the log's entry about it; ask again")
  }

  /** Everything that the server holds; of the padded template its salted digest. */
  async export(): Promise<Held> {
    let start = 0n
    let first: ExportResponse | null = null
    const openings: [number, Opening][] = []
    for (let page = 0; page < MOST_PAGES; page++) {
      const answer = await this.#transport.call(owner.export, { proof: await this.#proof('export'), openingsFrom: start })
      first ??= answer
      if ((answer.next !== 0n && answer.next <= start) || answer.openings.some(({ position }) => position < start)) {
        throw new MalformedMessageError('a page of the export is not the one that was asked for')
      }
      for (const { position, opening } of answer.openings) openings.push([Number(position), new Opening(opening)])
      if (answer.next === 0n) {
        const { record, receipts } = first
        return {
          record: new TextDecoder().decode(record),
          templateBytes: templateBytesIn(record),
          receipts: receipts.map((receipt) => SignedReceipt.fromBytes(receipt)),
          openings,
        }
      }
      start = answer.next
    }
    throw new PeerError('the export does not come to an end')
  }

  /**
   * Why a server refuses this device, which tells strangers nothing: as far as an owner may ask. A template that the log
   * proves to be deleted is remembered as revoked.
   *
   * @returns null where nothing of it says why.
   * @throws PeerError, ProofError what the server says to have done does not stand in the log.
   */
  async whyRefused(): Promise<Why | null> {
    let held: Held
    try {
      held = await this.export()
    } catch (error) {
      if (error instanceof RefusedError) return { name: 'why.stranger' }
      throw error
    }
    const revocation = held.openings.find(([, { kind }]) => kind === 'revocation')
    if (revocation !== undefined) {
      await this.#event(...revocation)
      await this.#wallet.forget({ state: 'revoked' })
      return { name: 'why.removed' }
    }
    const failures = heldIn(held.record).attempts.filter(({ decision }) => decision !== 'match').length
    return failures >= MOST_FAILURES ? { name: 'why.template_closed', values: { failures } } : null
  }

  /** The enrolled devices of this person. @throws as `devicesIn`. */
  async devices(): Promise<ListedDevice[]> {
    return devicesIn((await this.export()).record, this.#wallet.keyId)
  }

  /** The log's entries about this owner, each proved to be in the log. */
  async history(): Promise<Event[]> {
    return (await this.#events()).map(([event]) => event)
  }

  /** What stands behind the log's entries about this owner, each proved to be in the log. */
  async #proved(): Promise<Opening[]> {
    return (await this.#events()).map(([, opening]) => opening)
  }

  async #events(): Promise<[Event, Opening][]> {
    const { openings } = await this.export()
    const events: [Event, Opening][] = []
    for (const [position, opening] of openings) {
      events.push([await this.#event(position, opening), opening])
    }
    return events
  }

  /** One entry, proved to be in the log. */
  async #event(position: number, opening: Opening): Promise<Event> {
    const { logged } = await this.#transport.call(LogService.method.getInclusion, { position: BigInt(position) })
    return { ...(await checkHistory(logged, position, opening, this.#wallet.keyId, trustOf(this.#wallet, this.#clock()))), position }
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
}

/**
 * Has the server delete a template by a revocation that was signed earlier, without its wallet.
 *
 * @param trust in the log.
 * @throws RefusedError not enrolled there, or erased.
 * @throws PeerError, ProofError the revocation does not stand in the log; the template may live.
 */
export async function revokeWith({ issuedAt, ...proof }: Revocation, transport: Transport, trust: Omit<LogTrust, 'memory'>): Promise<void> {
  const { log } = await transport.call(owner.revoke, { proof: { ...proof, issuedAt: BigInt(issuedAt) }, logSize: 0n })
  if (log === undefined) throw new MalformedMessageError("the answer says that the template is gone, without the log's entry about it; the template may live")
  await checkRevoked(log, proof.keyId, { ...trust, memory: null })
}

/** One comparison, as the server holds it. */
export interface Attempt {
  /** Seconds since 1970. */
  readonly at: number
  /** `match`, `non-match`, or `not known`. */
  readonly decision: string
}

/** What an export's record says of comparisons, of the template and of the account. @throws MalformedMessageError it is no such record. */
export function heldIn(record: string): { readonly attempts: readonly Attempt[]; readonly enrolledAt: number | null; readonly devices: number } {
  const { attempts = [], template, devices = [] } = JSON.parse(record) as { attempts?: readonly Attempt[]; template?: { enrolled_at: number }; devices?: readonly unknown[] }
  const enrolledAt = template?.enrolled_at ?? null
  if (![...attempts.map(({ at }) => at), ...(enrolledAt === null ? [] : [enrolledAt])].every(Number.isSafeInteger)) throw new MalformedMessageError('the times of an export are whole seconds')
  return { attempts: attempts.map(({ at, decision }) => ({ at, decision: String(decision) })), enrolledAt, devices: devices.length }
}

/** Length of the padded template that an export's record states. */
function templateBytesIn(record: Uint8Array): number {
  try {
    const { template } = JSON.parse(new TextDecoder().decode(record)) as { template?: { bytes: number } }
    return template?.bytes ?? 0
  } catch {
    throw new MalformedMessageError('the record of an export is JSON')
  }
}

/** What a device believes of the log that it enrolled under. */
export function trustOf(wallet: Wallet, now: number): LogTrust {
  const { checkpoint, enrolment } = wallet.memory
  if (enrolment === null) throw new UsageError('this device is not enrolled')
  return { memory: checkpoint, policy: new LogPolicy(enrolment.log), now }
}

/** Entries in the last checkpoint that a device believed. */
export function seenOf(wallet: Wallet): bigint {
  const { checkpoint } = wallet.memory
  return checkpoint === null ? 0n : BigInt(checkpoint.split('\n')[1])
}

/** A receipt as the wallet keeps it. */
export const textOf = (receipt: SignedReceipt): string => new TextDecoder().decode(receipt.toBytes())
