/** Consent receipts and withdrawals: what a person's own device signs. As `federation/consent/receipts.py`, byte for byte. */

import { type Bytes, equal, fromHex, hex } from '../bytes'
import { UsageError } from '../errors'
import { requirePurpose } from './purposes'
import {
  canonicalBytes, type JsonValue, parse, requireAddress, requireJurisdiction, requireLength, requireName, requireText,
  requireTime, tagged, textOfTime, timeOfText,
} from './statements'

const RECEIPT_TAG = 'intaglio-consent-receipt/1'
const WITHDRAWAL_TAG = 'intaglio-consent-withdrawal/1'
const PROFILE = 'https://w3id.org/dpv/schema/dpv-27560#receipt-record'
const CONTEXT = {
  dct: 'http://purl.org/dc/terms/',
  dpv: 'https://w3id.org/dpv#',
  intaglio: 'urn:intaglio:consent:1:',
  pd: 'https://w3id.org/dpv/pd#',
}
const ID_BYTES = 16
const MOST_PURPOSES = 8
const MOST_RETENTION_DAYS = 30
const LEAST_ALTERNATIVE = 10 // "none" and "n/a" are no alternative
const CLOCK_SKEW_SECONDS = 60

/** An organisation with its duties towards the person. */
export interface Party {
  readonly name: string
  readonly address: string
  readonly contact: string
}

/** What an organisation offers, and a person agrees to. Fields as in `federation.consent.receipts.Terms`. */
export interface Terms {
  readonly controller: Party
  readonly audience: string
  readonly purposes: readonly string[]
  readonly jurisdiction: string
  readonly storageLocation: string
  readonly retentionDays: number
  readonly alternative: string
  readonly contest: string
  readonly withdrawal: string
  readonly notice: string
  readonly noticeVersion: string
  readonly language: string
}

/** The one template that a consent is about. */
export interface Binding {
  readonly devicePublicKey: Uint8Array
  readonly keyId: Uint8Array
  readonly templateDigest: Uint8Array
  readonly releaseDigest: Uint8Array
}

/** Signs with the device key: 64 bytes. */
export type Signer = (message: Bytes) => Promise<Bytes>

/**
 * Returns when an organisation may ask for consent to `terms`.
 *
 * @throws UsageError a duty is missing, above all the non-biometric alternative; or a purpose crosses a red line.
 */
export function requireTerms(terms: Terms): void {
  requireText("the controller's name", terms.controller.name, 1, 200)
  requireText("the controller's postal address", terms.controller.address)
  requireAddress("the controller's contact", terms.controller.contact)
  requireName('the audience', terms.audience)
  terms.purposes.forEach(requirePurpose)
  const inOrder = terms.purposes.every((purpose, i) => i === 0 || terms.purposes[i - 1] < purpose)
  if (terms.purposes.length < 1 || terms.purposes.length > MOST_PURPOSES || !inOrder) {
    throw new UsageError(`a receipt is for 1 to ${MOST_PURPOSES} purposes, in order`)
  }
  requireJurisdiction(terms.jurisdiction)
  requireJurisdiction(terms.storageLocation)
  const days = terms.retentionDays
  if (!Number.isInteger(days) || days < 0 || days > MOST_RETENTION_DAYS) {
    throw new UsageError(`templates are kept 0 to ${MOST_RETENTION_DAYS} days after the end of consent`)
  }
  requireText('the non-biometric alternative', terms.alternative, LEAST_ALTERNATIVE)
  requireAddress('the address to contest at', terms.contest)
  requireAddress('the address to withdraw at', terms.withdrawal)
  requireAddress('the privacy notice', terms.notice)
  requireText('the version of the notice', terms.noticeVersion, 1, 50)
  requireText('the language of the notice', terms.language, 2, 35)
}

/** One consent, not yet signed. */
export class Receipt {
  readonly receiptId: Uint8Array
  readonly terms: Terms
  readonly binding: Binding
  /** Seconds since 1970; valid from then. */
  readonly issuedAt: number
  /** First second at which it is not valid any more. */
  readonly expiresAt: number
  /** The receipt that this one replaces, or null. */
  readonly renews: Uint8Array | null

  /** @throws UsageError a part of it cannot be. */
  constructor(receiptId: Uint8Array, terms: Terms, binding: Binding, issuedAt: number, expiresAt: number, renews: Uint8Array | null = null) {
    requireLength("a receipt's id", receiptId, ID_BYTES)
    if (renews !== null) requireLength("a receipt's id", renews, ID_BYTES)
    requireTerms(terms)
    for (const part of Object.values(binding) as Uint8Array[]) requireLength('a key or digest', part, 32)
    requireTime(issuedAt)
    requireTime(expiresAt)
    if (issuedAt >= expiresAt) throw new UsageError('a receipt must end after it begins')
    this.receiptId = receiptId
    this.terms = terms
    this.binding = binding
    this.issuedAt = issuedAt
    this.expiresAt = expiresAt
    this.renews = renews
  }

  /** The canonical form, which the device signs. */
  toBytes(): Bytes {
    return canonicalBytes(this.toJson())
  }

  /** The receipt with the device's signature. */
  async sign(signer: Signer): Promise<SignedReceipt> {
    return new SignedReceipt(this, await signer(tagged(RECEIPT_TAG, this.toBytes())))
  }

  /** The JSON-LD object. */
  toJson(): JsonValue {
    const { terms, binding } = this
    return {
      ...(this.renews === null ? {} : { 'dct:replaces': urn(this.renews) }),
      '@context': CONTEXT,
      '@type': 'dpv:ConsentReceipt',
      'dct:conformsTo': { '@id': PROFILE },
      'dct:date': textOfTime(this.issuedAt),
      'dct:identifier': urn(this.receiptId),
      'dct:language': terms.language,
      'dct:valid': `${textOfTime(this.issuedAt)}/${textOfTime(this.expiresAt)}`,
      'dpv:hasConsentControl': { '@type': 'dpv:WithdrawConsent', 'dpv:hasContact': terms.withdrawal },
      'dpv:hasConsentStatus': { '@id': 'dpv:ConsentGiven' },
      'dpv:hasDataController': {
        '@type': 'dpv:DataController',
        'dpv:hasAddress': terms.controller.address,
        'dpv:hasContact': terms.controller.contact,
        'dpv:hasName': terms.controller.name,
      },
      'dpv:hasDataSubject': dataSubject(binding.devicePublicKey),
      'dpv:hasJurisdiction': terms.jurisdiction,
      'dpv:hasLegalBasis': { '@id': 'dpv:ExplicitlyExpressedConsent' },
      'dpv:hasNotice': { '@id': terms.notice, '@type': 'dpv:ConsentNotice', 'dct:hasVersion': terms.noticeVersion },
      'dpv:hasPersonalData': {
        '@type': ['pd:Biometric', 'dpv:SpecialCategoryPersonalData'],
        'intaglio:keyId': hex(binding.keyId),
        'intaglio:templateDigest': hex(binding.templateDigest),
      },
      'dpv:hasPurpose': terms.purposes.map((purpose) => ({ '@type': 'dpv:Purpose', 'dct:identifier': purpose })),
      'dpv:hasRecipient': { '@type': 'dpv:Recipient', 'dct:identifier': terms.audience },
      'dpv:hasStorageCondition': {
        '@type': 'dpv:StorageCondition',
        'dpv:hasDuration': `P${terms.retentionDays}D`,
        'dpv:hasLocation': terms.storageLocation,
      },
      'intaglio:alternative': terms.alternative,
      'intaglio:contest': terms.contest,
      'intaglio:releaseDigest': hex(binding.releaseDigest),
    }
  }

  /** Reads `toJson`; the caller compares the bytes. Throws whatever a wrong object provokes. */
  static fromJson(value: any): Receipt {
    const [controller, data, storage] = [value['dpv:hasDataController'], value['dpv:hasPersonalData'], value['dpv:hasStorageCondition']]
    const [issued, expires] = value['dct:valid'].split('/')
    return new Receipt(
      fromUrn(value['dct:identifier']),
      {
        controller: { name: controller['dpv:hasName'], address: controller['dpv:hasAddress'], contact: controller['dpv:hasContact'] },
        audience: value['dpv:hasRecipient']['dct:identifier'],
        purposes: value['dpv:hasPurpose'].map((purpose: any) => purpose['dct:identifier']),
        jurisdiction: value['dpv:hasJurisdiction'],
        storageLocation: storage['dpv:hasLocation'],
        retentionDays: Number(storage['dpv:hasDuration'].slice(1, -1)),
        alternative: value['intaglio:alternative'],
        contest: value['intaglio:contest'],
        withdrawal: value['dpv:hasConsentControl']['dpv:hasContact'],
        notice: value['dpv:hasNotice']['@id'],
        noticeVersion: value['dpv:hasNotice']['dct:hasVersion'],
        language: value['dct:language'],
      },
      {
        devicePublicKey: fromHex(value['dpv:hasDataSubject']['dct:identifier']),
        keyId: fromHex(data['intaglio:keyId']),
        templateDigest: fromHex(data['intaglio:templateDigest']),
        releaseDigest: fromHex(value['intaglio:releaseDigest']),
      },
      timeOfText(issued),
      timeOfText(expires),
      'dct:replaces' in value ? fromUrn(value['dct:replaces']) : null,
    )
  }
}

/** A receipt with the device's signature. */
export class SignedReceipt {
  readonly receipt: Receipt
  readonly signature: Uint8Array

  constructor(receipt: Receipt, signature: Uint8Array) {
    requireLength('a signature', signature, 64)
    this.receipt = receipt
    this.signature = signature
  }

  /** The canonical form. */
  toBytes(): Bytes {
    return canonicalBytes({ receipt: this.receipt.toJson(), signature: hex(this.signature) })
  }

  /**
   * Reads `toBytes`, and nothing else.
   *
   * @throws MalformedMessageError any other bytes; also a receipt without a non-biometric alternative.
   */
  static fromBytes(data: Uint8Array): SignedReceipt {
    const build = (value: any): SignedReceipt => new SignedReceipt(Receipt.fromJson(value.receipt), fromHex(value.signature))
    return parse(data, build, 'a consent receipt')
  }

  /** The first thing wrong with this receipt for one use, or null. Who signed it is for `isSigned`. */
  findFault(binding: Omit<Binding, 'templateDigest'>, purpose: string, audience: string, now: number): string | null {
    const { binding: mine, terms, issuedAt, expiresAt } = this.receipt
    const checks: readonly (readonly [string, boolean])[] = [
      ['signed by another device than this one', equal(mine.devicePublicKey, binding.devicePublicKey)],
      ['for another template or key', equal(mine.keyId, binding.keyId)],
      ['for another model release', equal(mine.releaseDigest, binding.releaseDigest)],
      ['for another audience', terms.audience === audience],
      ['for another purpose', terms.purposes.includes(purpose)],
      ['issued in the future', issuedAt <= now + CLOCK_SKEW_SECONDS],
      ['expired', now < expiresAt],
    ]
    return checks.find(([, passed]) => !passed)?.[0] ?? null
  }

  /** Whether the device that the receipt names has signed it. */
  async isSigned(): Promise<boolean> {
    const key = await crypto.subtle.importKey('raw', this.receipt.binding.devicePublicKey as Bytes, 'Ed25519', false, ['verify'])
    return crypto.subtle.verify('Ed25519', key, this.signature as Bytes, tagged(RECEIPT_TAG, this.receipt.toBytes()))
  }

  /** The signed statement that ends this consent, in canonical form. */
  async withdraw(signer: Signer, now: number): Promise<Bytes> {
    const withdrawal: JsonValue = {
      '@context': CONTEXT,
      '@type': 'intaglio:Withdrawal',
      'dct:date': textOfTime(now),
      'dct:references': urn(this.receipt.receiptId),
      'dpv:hasConsentStatus': { '@id': 'dpv:ConsentWithdrawn' },
      'dpv:hasDataSubject': dataSubject(this.receipt.binding.devicePublicKey),
    }
    const signature = await signer(tagged(WITHDRAWAL_TAG, canonicalBytes(withdrawal)))
    return canonicalBytes({ signature: hex(signature), withdrawal })
  }
}

const dataSubject = (key: Uint8Array): JsonValue => ({ '@type': 'dpv:DataSubject', 'dct:identifier': hex(key) })

function urn(id: Uint8Array): string {
  return `urn:uuid:${hex(id).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')}`
}

const fromUrn = (text: string): Bytes => fromHex(text.slice('urn:uuid:'.length).replaceAll('-', ''))
