/** What the page's server says about its deployment before anything else. */

import type { Bytes } from '../bytes'
import { IntaglioError, PeerError, UsageError } from '../errors'
import { ModelRelease } from '../face/release'
import { LogPolicy, type WrittenPolicy } from '../log/notes'
import { type ReleaseTrust, releaseTrustOf, SignedManifest } from '../rules/manifest'
import { type Party, requireTerms, type Terms } from '../wallet/receipts'
import { requireName } from '../wallet/statements'

/** Where this page's server lets people enrol, and what for. */
export interface Deployment {
  /** In the public rules. */
  readonly identifier: string
  readonly purpose: string
  readonly audience: string
  readonly terms: Terms
  /** How long a consent is valid. */
  readonly days: number
  /** How many comparisons in a row may be no match before the service makes people wait. */
  readonly freeFailures: number
  /** Which log is believed, and behind how many witnesses. */
  readonly log: WrittenPolicy
  readonly release: ModelRelease
  readonly manifest: SignedManifest
  /** Whose signatures on a release count; the wallet keeps it from the enrolment on. */
  readonly trust: ReleaseTrust
  /** Reads the public rules, as they are now. */
  readonly readRules: () => Promise<Bytes>
}

/**
 * Reads what the server tells.
 *
 * @param told deployment.json.
 * @param release release.json.
 * @param manifest manifest.json.
 * @throws PeerError one of them is not allowed, or not of this version.
 */
export function deploymentOf(told: Bytes, release: Bytes, manifest: Bytes, readRules: () => Promise<Bytes>): Deployment {
  try {
    const value = JSON.parse(new TextDecoder().decode(told)) as Record<string, any>
    const terms = termsOf(value['terms'] as Record<string, any>)
    const { purpose, days, log, free_failures: freeFailures } = value as { purpose: string; days: number; log: WrittenPolicy; free_failures: number }
    const identifier = value['deployment'] as string
    requireName('the deployment', identifier)
    new LogPolicy(log)
    requireTerms(terms)
    if (!terms.purposes.includes(purpose)) throw new UsageError('the terms are for another purpose')
    if (!Number.isInteger(days) || days < 1 || !Number.isInteger(freeFailures) || freeFailures < 0) throw new UsageError('days and free failures are counted')
    return {
      purpose, audience: terms.audience, terms, days, freeFailures, log, identifier, release: new ModelRelease(release),
      manifest: SignedManifest.fromBytes(manifest), trust: releaseTrustOf(value['release_trust']), readRules,
    }
  } catch (error) {
    throw new PeerError(`the server describes its deployment in a way that is not allowed: ${error instanceof IntaglioError ? error.message : 'not readable'}`)
  }
}

function termsOf(value: Record<string, any>): Terms {
  return {
    controller: value['controller'] as Party,
    audience: value['audience'], purposes: value['purposes'], jurisdiction: value['jurisdiction'],
    storageLocation: value['storage_location'], retentionDays: value['retention_days'], alternative: value['alternative'],
    contest: value['contest'], withdrawal: value['withdrawal'], notice: value['notice'],
    noticeVersion: value['notice_version'], language: value['language'],
  }
}
