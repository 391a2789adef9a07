/** What the page and its worker say to each other. Faces and keys live in the worker; the page gets words and numbers. */

import type { Bytes } from '../bytes'
import type { Why } from '../errors'
import type { Advice } from '../face/advice'
import type { Prompt } from '../face/filming'
import type { Omission } from '../face/movements'
import type { FalseMatchRate, Profile } from '../face/release'
import type { SelfReport } from '../log/software'
import type { ReleaseTrust, WolfRates } from '../rules/manifest'
import type { AttackRates, Audited, PadLevel } from '../rules/rates'
import type { Key, Lock } from '../wallet/locks'
import type { Terms } from '../wallet/receipts'
import type { EnrolmentState } from '../wallet/state'
import type { Wait } from '../wallet/wait'
import type { Shown } from '../wallet/wallet'
import type { Outcome } from './device'
import type { NamedDevice } from './devices'
import type { Event } from './owner'

/** What has to be there before anything can be done. */
export type Part = 'encryption' | 'recogniser' | 'deployment' | 'wallet'

/** What the page shows about the device. */
export interface Status {
  readonly state: EnrolmentState | 'none' | 'outdated'
  /** Short name of the device, or null when there is none yet. */
  readonly name: string | null
  /** What locks the wallet, or null when there is none yet. */
  readonly lock: Lock | null
  readonly answers: number
  readonly mostAnswers: number
  /** Comparisons in a row that were no match, and how many may be before the service makes people wait. */
  readonly failures: number
  readonly freeFailures: number
  readonly purpose: string
  readonly audience: string
  /** What the public rules asked to stand between a presentation attack and a comparison, when the page began. */
  readonly pad: PadLevel
  /** Whether the public rules name who signs answers for those who ask with a nonce; of rules that could not be read, true: the device refuses. */
  readonly issues: boolean
  readonly days: number
  readonly terms: Terms
  /** Of the deployment in the public rules. */
  readonly identifier: string
  readonly trust: ReleaseTrust
  /** What the audit of the model release says, and the first second at which it does not count any more. */
  readonly audited: Audited
  readonly wolf: WolfRates | null
  readonly releaseEnds: number
  readonly fmr: FalseMatchRate
  /** What was promised to those whose pictures trained it, and what an attacker learns of them at most. */
  readonly epsilon: number
  readonly delta: number
  readonly attacks: AttackRates | null
  /** Pictures that one reference is averaged from, at most, and one probe. */
  readonly references: number
  readonly frames: number
  /** Seconds since 1970, or null without a consent. */
  readonly consentExpires: number | null
  /** Whether this device is enrolled under another release than the service works with, as far as it is known before it is unlocked. */
  readonly isBehind: boolean
  /** How long the service has asked this device to wait, or null. */
  readonly wait: Wait | null
}

/** What is held, in words and numbers. */
export interface HeldSummary {
  readonly record: string
  readonly templateBytes: number
  readonly receipts: readonly string[]
  readonly entries: number
}

/** What a site asks for, as the public rules have it. */
export interface Asked {
  /** Its identifier. */
  readonly client: string
  /** Who runs it. */
  readonly operator: string
  readonly purpose: string
  /** Host to which the answer goes. */
  readonly site: string
  /** Whether the person has consented to this before. */
  readonly isAgreed: boolean
  /** What the public rules ask to stand between a presentation attack and a comparison for it. */
  readonly pad: PadLevel
}

/** A live face: image files; or a film that the worker asks the page for, without what the person leaves out. */
export type Face = { readonly pictures: readonly Blob[] } | { readonly without: Omission | null }

/** Everything that the page can ask for, and what it gets. */
export interface Actions {
  /** Loads everything, and asks the service for a sign of life. */
  begin(): Status
  status(): Status
  /** What this device is, also when nobody can be reached; null when it holds no keys. */
  glance(): Shown | null
  /** What somebody in front of the camera should do first; null for a good frame. @param begins whether it is the first frame of a film. */
  watch(argument: { readonly frame: ImageBitmap; readonly profile: Profile; readonly begins: boolean }): Advice | null
  /** The next frame of a film that a session waits for, or null when there is no camera. @param seconds of the page's clock. */
  follow(argument: { readonly frame: ImageBitmap | null; readonly seconds: number }): Prompt
  /** What is wrong with some image files, the first of which serve as references; null for nothing. */
  look(argument: { readonly pictures: readonly Blob[]; readonly references: number }): Fault | null
  /**
   * @param pictures image files; the last one only confirms the others.
   * @param ticket 20 bytes, see `ticketOf`; on a device that another one lets in, its own code.
   */
  enrol(argument: { readonly pictures: readonly Blob[]; readonly ticket: Bytes }): Outcome
  /** @param nonce 64 hex digits that an audience chose, or null. */
  verify(argument: { readonly face: Face; readonly nonce: string | null }): Outcome
  /** @param request what a site asked the provider, in canonical form. */
  asked(argument: { readonly request: string }): Asked
  /** Consents towards a site where that is due and the person was told (`consents`), and verifies for it. */
  login(argument: { readonly face: Face; readonly request: string; readonly consents: boolean }): Outcome
  renew(argument: { readonly face: Face }): Outcome
  /**
   * Comes over to the present release.
   *
   * @param pictures that are averaged; without a film, the last one is compared with the template that is left.
   * @param film what is compared in its place, or null.
   */
  over(argument: { readonly pictures: readonly Blob[]; readonly film: Extract<Face, { readonly without: unknown }> | null }): Outcome
  revoke(): null
  erase(): number | null
  export(): HeldSummary
  history(): Event[]
  /** A file that revokes this template, and does nothing else; sealed with a passphrase of its own. */
  backup(argument: { readonly passphrase: string }): Blob
  /** Revokes with such a file: the template of a device that was lost. @returns that device's short name. */
  revokeLost(argument: { readonly file: Blob; readonly passphrase: string }): string
  /** What another device lets this one in by; makes the keys if there are none. */
  code(): string
  /** Lets another device in. @param code 20 bytes that it shows. @param name what the person calls it, or nothing. */
  admit(argument: { readonly face: Face; readonly code: Bytes; readonly name: string }): Outcome
  devices(): readonly NamedDevice[]
  /** Keeps what the person calls a device. @param keyId in hex. @returns it as it is kept. */
  rename(argument: { readonly keyId: string; readonly name: string }): string
  /** Ends the template of another device. @param keyId in hex. */
  remove(argument: { readonly face: Face; readonly keyId: string }): Outcome
  /** Which page this is, and what the log says of it. */
  self(): SelfReport
  /** Deletes the keys in this browser. The server keeps what it has. */
  forget(): null
}

export type Action = keyof Actions
/** What could not be done. */
export interface Fault {
  /** Name of the error's class. */
  readonly kind: string
  /** For whoever looks closer; in English. */
  readonly message: string
  readonly why: Why | null
  /** Seconds, or null. */
  readonly retryAfter: number | null
}
/** From the page. */
export type Request =
  /** `key` opens the wallet, for an action that needs it; it is wiped after that action. */
  | { readonly id: number; readonly action: Action; readonly argument: unknown; readonly key: Key | null }
  | { readonly cancel: number }
/** From the worker. */
export type Reply =
  | { readonly kind: 'done'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'failed'; readonly id: number; readonly fault: Fault }
  | { readonly kind: 'ready'; readonly part: Part }
  | { readonly kind: 'loading'; readonly share: number }
  /** A session waits for a film: `follow` takes frames. */
  | { readonly kind: 'film' }
  | { readonly kind: 'sent'; readonly call: string; readonly sent: Uint8Array; readonly received: number | null }
