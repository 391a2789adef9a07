/** Every state that the page can be in, made up: for the tests of its words, and for the pictures that `make screens` takes. */

import type { Fault, Status } from '../src/device/messages'
import { KEY } from './keys'
import { FINALITIES, finalForm, passphraseForm, PASSPHRASES } from '../src/page/dialogs'
import type { Found } from '../src/page/records'
import type { Situation } from '../src/page/states'

const DAY = 86_400
export const NOW = 1_893_456_000 // 2030-01-01T00:00:00Z

/** Somebody who has never been here. */
export const NOBODY: Status = {
  state: 'none', name: null, lock: null, answers: 0, mostAnswers: 500, failures: 0, freeFailures: 5,
  purpose: 'door-access', audience: 'example.org', pad: 'none', issues: true, days: 90,
  terms: {
    controller: { name: 'Example Office Ltd', address: '1 Example Street, 10115 Berlin', contact: 'mailto:privacy@example.org' },
    audience: 'example.org', purposes: ['door-access'], jurisdiction: 'DE', storageLocation: 'DE', retentionDays: 0,
    alternative: 'Show your badge to the porter at the main entrance.', contest: 'mailto:contest@example.org',
    withdrawal: 'mailto:withdraw@example.org', notice: 'https://example.org/notice', noticeVersion: '1', language: 'en',
  },
  identifier: 'trial',
  trust: { makers: ['ab'.repeat(32), '12'.repeat(32)], auditors: ['cd'.repeat(32)], acceptsTrials: false },
  audited: { verdict: 'PASS', people: 204, fmrLimit: 0.001, fnmrLimit: 0.1, isTrial: false },
  wolf: {
    mean: { errors: 60, trials: 3000, effective: '600', low: '0.01', high: '0.03' }, best: { errors: 9, trials: 3000, effective: '600', low: '0.001', high: '0.02' }, people: 600,
  },
  releaseEnds: NOW + 100 * DAY,
  fmr: { stated: 0.001, low: 0.0005, high: 0.002, basis: 'checked', people: 24, condition: 'clean' },
  epsilon: 1, delta: 1e-5, attacks: { detected: 0.0123, right: 0.73, falseAccusations: 0.001 },
  references: 3, frames: 2, consentExpires: null, wait: null, isBehind: false,
}

/** Somebody who is enrolled. */
export const ENROLLED: Status = { ...NOBODY, state: 'enrolled', lock: KEY.lock, name: '8c41f2a903de77b0', answers: 12, consentExpires: NOW + 60 * DAY }

const fault = (kind: string, message: string, more: Partial<Fault> = {}): Fault => ({ kind, message, why: null, retryAfter: null, ...more })
const UNREACHABLE = fault('UnavailableError', 'the server cannot be reached; check the connection', { why: { name: 'why.unreachable' }, retryAfter: 1 })
const WAIT = fault('UnavailableError', 'the server says: 6 attempts in a row have failed; try again in 60 seconds', { why: { name: 'why.wait', values: { seconds: 60 } }, retryAfter: 60 })
/** Devices of one person: this one, one that it let in, and one that came some other way. */
const DEVICES = [
  { keyId: '8c41f2a903de77b0'.repeat(4), enrolledAt: NOW - 30 * DAY, admittedBy: null, name: null },
  { keyId: '0b5d7a11c2e94f60'.repeat(4), enrolledAt: NOW - 9 * DAY, admittedBy: '8c41f2a903de77b0'.repeat(4), name: 'My phone' },
  { keyId: '71e2d09b44aa3c58'.repeat(4), enrolledAt: NOW - 2 * DAY, admittedBy: 'ee'.repeat(32), name: null },
]
const HELD = {
  record: '{"account":"held"}', templateBytes: 168, receipts: ['{"receipt":1}'], entries: 2, enrolledAt: NOW - 30 * DAY, devices: 3,
  attempts: [{ at: NOW - 2 * DAY, decision: 'match' }, { at: NOW - DAY, decision: 'non-match' }, { at: NOW - 60, decision: 'not known' }],
}
const HISTORY = [{ position: 1234, kind: 'enrolment', time: NOW - 30 * DAY }, { position: 1301, kind: 'attempt', time: NOW - DAY, outcome: 'opened' }]
const OUTCOME = { matched: true, position: 1234, assertion: null }

/** That sent the person here to log in. */
export const SITE = { client: 'shop.example', operator: 'Example Shop Ltd', purpose: 'door-access', site: 'www.shop.example', isAgreed: false, pad: 'none' } as const

const situation = (status: Status | null, place: Situation['place'] = { at: 'start' }, more: Partial<Situation> = {}): Situation =>
  ({ status, share: 1, nonce: null, asked: null, place, ticket: '', now: NOW, ...more })

/** By name. */
export const SITUATIONS: Readonly<Record<string, Situation>> = {
  'loading': situation(null, undefined, { share: 0.42 }),
  'unreachable': situation(null, { at: 'failed', on: 'begin', fault: UNREACHABLE, seconds: NOW }),
  'broken': situation(null, { at: 'failed', on: 'begin', fault: fault('RefusedError', 'the model release is for another recogniser than the one of this page; use the intaglio program', { why: { name: 'why.other_recogniser' } }), seconds: NOW }),
  'welcome': situation(NOBODY),
  'welcome, asked by a site': situation(NOBODY, undefined, { nonce: 'ab'.repeat(32) }),
  'welcome, of a trial': situation({ ...NOBODY, audited: { ...NOBODY.audited, isTrial: true }, trust: { ...NOBODY.trust, acceptsTrials: true } }),
  'welcome, after a withdrawal': situation({ ...ENROLLED, state: 'revoked' }),
  'welcome, after an erasure': situation({ ...ENROLLED, state: 'erased' }),
  'welcome, with keys of old': situation({ ...NOBODY, state: 'outdated' }),
  'welcome, after half an enrolment': situation({ ...ENROLLED, state: 'started' }),
  'agree': situation(NOBODY, { at: 'agreeing', task: 'enrol' }),
  'agree, with an invitation': situation(NOBODY, { at: 'agreeing', task: 'enrol' }, { ticket: 'abcd-efgh-ijkl-mnop-qrst-uvwx-yz23-4567' }),
  'look': situation(NOBODY, { at: 'looking', task: 'enrol', part: 'references', by: 'camera', fault: null }),
  'look, pause': situation(NOBODY, { at: 'looking', task: 'enrol', part: 'pause', by: 'camera', fault: null }),
  'look, once more': situation(NOBODY, { at: 'looking', task: 'enrol', part: 'second', by: 'camera', fault: null }),
  'look, from files': situation(NOBODY, { at: 'looking', task: 'enrol', part: 'references', by: 'files', fault: fault('UnusableImageError', 'picture 2: no face found', { why: { name: 'why.no_face', values: { picture: 2 } } }) }),
  'lock': situation(NOBODY, { at: 'locking', on: 'enrol', passkeys: true, fault: null }),
  'lock, after a passkey that was not made': situation(NOBODY, { at: 'locking', on: 'enrol', passkeys: true, fault: fault('UsageError', 'why.passkey_not_made', { why: { name: 'why.passkey_not_made' } }) }),
  'lock, without passkeys': situation(NOBODY, { at: 'locking', on: 'code', passkeys: false, fault: null }),
  'enrolling': situation(NOBODY, { at: 'working', on: 'enrol', stage: 1 }),
  'enrolled': situation(ENROLLED, { at: 'done', task: 'enrol', outcome: OUTCOME }),
  'enrolled not': situation(NOBODY, { at: 'done', task: 'enrol', outcome: { ...OUTCOME, matched: false } }),
  'home': situation(ENROLLED),
  'welcome, sent by a site': situation(NOBODY, undefined, { asked: SITE }),
  'sent by a site': situation(ENROLLED, undefined, { asked: SITE }),
  'sent by a site again': situation(ENROLLED, undefined, { asked: { ...SITE, isAgreed: true } }),
  'welcome, asked by a site that cannot be served': situation({ ...NOBODY, issues: false }, undefined, { nonce: 'ab'.repeat(32) }),
  'asked, and it cannot be served': situation({ ...ENROLLED, issues: false }, undefined, { nonce: 'ab'.repeat(32) }),
  'asked': situation(ENROLLED, undefined, { nonce: 'ab'.repeat(32) }),
  'verify, look': situation(ENROLLED, { at: 'looking', task: 'verify', part: 'probe', by: 'camera', fault: null }),
  'verify, from files': situation(ENROLLED, { at: 'looking', task: 'verify', part: 'probe', by: 'files', fault: null }),
  'film, before': situation(ENROLLED, { at: 'preparing', task: 'verify', fault: null }),
  'film, refused': situation(ENROLLED, { at: 'preparing', task: 'verify', fault: fault('UnusableImageError', 'the face did not turn as a head does, or not far enough', { why: { name: 'why.film_too_late' } }) }),
  'film': situation(ENROLLED, { at: 'filming', task: 'verify' }),
  'film, to renew': situation(ENROLLED, { at: 'filming', task: 'renew' }),
  'comparing': situation(ENROLLED, { at: 'working', on: 'verify', stage: 2 }),
  'accepted': situation(ENROLLED, { at: 'done', task: 'verify', outcome: OUTCOME }),
  'accepted, in a trial': situation({ ...ENROLLED, audited: { ...ENROLLED.audited, isTrial: true } }, { at: 'done', task: 'verify', outcome: OUTCOME }),
  'accepted, for a site': situation(ENROLLED, { at: 'done', task: 'verify', outcome: { ...OUTCOME, assertion: 'eyJhbGciOiJFZERTQSJ9.eyJhdWQiOiJleGFtcGxlLm9yZyJ9.c2lnbmF0dXJl' } }, { nonce: 'ab'.repeat(32) }),
  'refused': situation({ ...ENROLLED, failures: 2 }, { at: 'done', task: 'verify', outcome: { ...OUTCOME, matched: false } }),
  'refused, with the last free try': situation({ ...ENROLLED, failures: 5 }, { at: 'done', task: 'verify', outcome: { ...OUTCOME, matched: false } }),
  'waiting': situation({ ...ENROLLED, failures: 6 }, { at: 'failed', on: 'verify', fault: WAIT, seconds: NOW - 13 }),
  'waited': situation({ ...ENROLLED, failures: 6 }, { at: 'failed', on: 'verify', fault: WAIT, seconds: NOW - 60 }),
  'waiting, busy': situation(ENROLLED, { at: 'failed', on: 'verify', fault: { ...WAIT, retryAfter: 8 }, seconds: NOW }),
  'ended': situation({ ...ENROLLED, consentExpires: NOW - 3 * DAY }),
  'behind': situation({ ...ENROLLED, isBehind: true }),
  'behind, as was found out': situation(ENROLLED, { at: 'failed', on: 'verify', fault: fault('RefusedError', 'the server runs another model release', { why: { name: 'why.other_release' } }), seconds: NOW }),
  'over, agree': situation({ ...ENROLLED, isBehind: true }, { at: 'agreeing', task: 'over' }),
  'over, look': situation({ ...ENROLLED, isBehind: true }, { at: 'looking', task: 'over', part: 'references', by: 'camera', fault: null }),
  'over, comparing': situation({ ...ENROLLED, isBehind: true }, { at: 'working', on: 'over', stage: 1 }),
  'came over': situation(ENROLLED, { at: 'done', task: 'over', outcome: OUTCOME }),
  'came over not': situation({ ...ENROLLED, isBehind: true, failures: 1 }, { at: 'done', task: 'over', outcome: { ...OUTCOME, matched: false } }),
  'no way over': situation({ ...ENROLLED, isBehind: true }, { at: 'failed', on: 'over', fault: fault('RefusedError', 'nobody comes over here from the release of this device', { why: { name: 'why.no_way_over' } }), seconds: NOW }),
  'renew, agree': situation(ENROLLED, { at: 'agreeing', task: 'renew' }),
  'renewed': situation(ENROLLED, { at: 'done', task: 'renew', outcome: OUTCOME }),
  'renewed not': situation({ ...ENROLLED, failures: 1 }, { at: 'done', task: 'renew', outcome: { ...OUTCOME, matched: false } }),
  'admitting, look': situation(ENROLLED, { at: 'looking', task: 'admit', part: 'probe', by: 'camera', fault: null }),
  'admitting, from files': situation(ENROLLED, { at: 'looking', task: 'admit', part: 'probe', by: 'files', fault: null }),
  'removing, look': situation(ENROLLED, { at: 'looking', task: 'remove', part: 'probe', by: 'camera', fault: null }),
  'admitted': situation(ENROLLED, { at: 'done', task: 'admit', outcome: OUTCOME }),
  'admitted not': situation({ ...ENROLLED, failures: 1 }, { at: 'done', task: 'admit', outcome: { ...OUTCOME, matched: false } }),
  'removed': situation(ENROLLED, { at: 'done', task: 'remove', outcome: OUTCOME }),
  'code': situation({ ...NOBODY, lock: KEY.lock }, { at: 'code', code: 'mfrg-g2ts-ovrw-42lb-mfrg-g2ts-ovrw-42lb' }),
  'lost device': situation(NOBODY, { at: 'lost', name: '8c41f2a903de77b0' }),
  'forgotten': situation(NOBODY, { at: 'gone', wish: 'forget', position: null }),
  'kept': situation(null, undefined, { kept: { date: 'Tue, 01 Jan 2030 00:00:00 GMT', shown: { lock: KEY.lock, name: '8c41f2a903de77b0', state: 'enrolled', answers: 12, failures: 0, consentExpires: NOW + 60 * DAY, agreed: [], trust: null } } }),
  'kept, without keys': situation(null, undefined, { kept: { date: '', shown: null } }),
  'closed': situation({ ...ENROLLED, answers: 500 }),
  'revoked': situation({ ...ENROLLED, state: 'revoked' }, { at: 'gone', wish: 'revoke', position: null }),
  'erased': situation({ ...ENROLLED, state: 'erased' }, { at: 'gone', wish: 'erase', position: 1240 }),
  'erased, without a proof': situation({ ...ENROLLED, state: 'revoked' }, { at: 'gone', wish: 'erase', position: null }),
  'failed, not allowed': situation(ENROLLED, { at: 'failed', on: 'verify', fault: fault('RefusedError', 'the server says: not enrolled here with this key, purpose and audience, or not signed by the enrolled device'), seconds: NOW }),
  'failed, removed by another device': situation({ ...ENROLLED, state: 'revoked' }, { at: 'failed', on: 'verify', fault: fault('RefusedError', 'the server says: not enrolled here with this key, purpose and audience, or not signed by the enrolled device', { why: { name: 'why.removed' } }), seconds: NOW }),
  'failed, closed after failures': situation(ENROLLED, { at: 'failed', on: 'verify', fault: fault('RefusedError', 'the server says: not enrolled here with this key, purpose and audience, or not signed by the enrolled device', { why: { name: 'why.template_closed', values: { failures: 50 } } }), seconds: NOW }),
  'failed, of a stranger': situation(ENROLLED, { at: 'failed', on: 'verify', fault: fault('RefusedError', 'the server says: not enrolled here with this key, purpose and audience, or not signed by the enrolled device', { why: { name: 'why.stranger' } }), seconds: NOW }),
  'failed, for want of an issuer': situation(ENROLLED, { at: 'failed', on: 'verify', fault: fault('RefusedError', 'the public rules name nobody who may sign assertions here', { why: { name: 'why.no_issuer' } }), seconds: NOW }),
  'failed, behind another key': situation(ENROLLED, { at: 'failed', on: 'verify', fault: fault('RefusedError', 'assertions are under the key of the deployment trial-2 now, and this device enrolled at trial; renew the consent', { why: { name: 'why.other_key' } }), seconds: NOW }),
  'failed, without a consent': situation(ENROLLED, { at: 'failed', on: 'verify', fault: fault('RefusedError', 'the consent does not cover this: it is for another release', { why: { name: 'why.consent' } }), seconds: NOW }),
  'failed, without a kiosk': situation(ENROLLED, { at: 'failed', on: 'verify', fault: fault('RefusedError', 'the public rules ask for a supervised device', { why: { name: 'why.supervised' } }), seconds: NOW }),
  'failed, without a good ticket': situation(NOBODY, { at: 'failed', on: 'enrol', fault: fault('RefusedError', 'the server says: this ticket is not valid here', { why: { name: 'why.ticket' } }), seconds: NOW }),
  'failed, before the other device let it in': situation(NOBODY, { at: 'failed', on: 'enrol', fault: fault('RefusedError', 'the server says: this ticket is not valid here', { why: { name: 'why.code' } }), seconds: NOW }),
  'failed, with another passphrase': situation(NOBODY, { at: 'failed', on: 'lost', fault: fault('WrongKeyError', 'wrong passphrase for the backup, or the file was changed on purpose', { why: { name: 'why.wrong_backup_passphrase' } }), seconds: NOW }),
  'failed, without a proof': situation(ENROLLED, { at: 'failed', on: 'verify', fault: fault('ProofError', 'the server does not show that it logged this comparison; nothing was opened'), seconds: NOW }),
  'failed, out of reach': situation(ENROLLED, { at: 'failed', on: 'verify', fault: UNREACHABLE, seconds: NOW }),
  'failed, cancelled': situation(ENROLLED, { at: 'failed', on: 'verify', fault: fault('CancelledError', 'stopped before it was done'), seconds: NOW }),
  ...Object.fromEntries(['devices', 'history', 'held', 'backup'].map((name) => [`home, ${name}`, situation(ENROLLED)])),
  ...Object.fromEntries([...PASSPHRASES, ...FINALITIES].map((name) => [`dialog, ${name}`, situation(ENROLLED)])),
}

/** What the person asked for and got, in some of them. */
export const FOUND: Readonly<Record<string, Found>> = {
  'home, devices': { devices: DEVICES }, 'home, history': { history: HISTORY }, 'home, held': { held: HELD }, 'home, backup': { backup: new Blob(['a backup']) },
}

/** Shows a form in one of the page's dialogs. */
function dialog(id: 'keeping' | 'confirm', form: () => HTMLFormElement): () => void {
  return () => {
    const shown = document.getElementById(id) as HTMLDialogElement
    shown.replaceChildren(form())
    shown.showModal()
  }
}

/** What lies over the screen, in some of them. */
export const DIALOGS: Readonly<Record<string, () => void>> = Object.fromEntries([
  ...PASSPHRASES.map((name) => [`dialog, ${name}`, dialog('keeping', () => passphraseForm(name, () => undefined))]),
  ...FINALITIES.map((name) => [`dialog, ${name}`, dialog('confirm', () => finalForm(name, name === 'remove' ? 'My phone' : null))]),
])
