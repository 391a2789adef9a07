/**
 * Asks the person for what locks the wallet: a passkey where the browser has the PRF extension, a passphrase otherwise.
 *
 * WebAuthn is there in a window and not in a worker, so the page gets the secret and hands it to the worker at once. A passkey
 * belongs to this host's name: the browser offers it to no other. It verifies its owner each time (`userVerification`), by
 * finger, face or PIN, which the browser does and this page never sees.
 */

import { type Bytes, randomBytes, utf8 } from '../bytes'
import type { Action, Fault, Status } from '../device/messages'
import { freshSalt, type Key, type Lock, PRF_BYTES } from '../wallet/locks'
import { isOver } from '../wallet/state'
import { passphraseForm, type PASSPHRASES } from './dialogs'
import type { Chosen } from './locking'

/** Nobody gave a key. */
export class LockedError extends Error {
  readonly fault: Fault

  constructor(name: 'why.lock_kept' | 'why.passkey_not_made' | 'why.passkey_not_used' | 'why.passkey_no_prf') {
    super(name)
    this.fault = { kind: name === 'why.lock_kept' ? 'CancelledError' : 'UsageError', message: name, why: { name }, retryAfter: null }
  }
}

/** What is done with the wallet open. */
const LOCKED: ReadonlySet<Action> = new Set<Action>(['enrol', 'verify', 'login', 'renew', 'over', 'revoke', 'erase', 'export', 'history', 'backup', 'code', 'admit', 'devices', 'rename', 'remove'])
const [ED25519, ES256, RS256] = [-8, -7, -257]
const TIMEOUT_MS = 120_000

/** Lets the person choose how new keys are locked. @param fault why the way that they chose before did not do. @throws LockedError they would rather not. */
export type Choosing = (passkeys: boolean, fault: Fault | null) => Promise<Chosen>

/**
 * What an action needs to open the wallet, or null when it needs nothing.
 *
 * @throws LockedError nobody gave a key.
 */
export async function keyFor(action: Action, { lock, state }: Pick<Status, 'lock' | 'state'>, choose: Choosing): Promise<Key | null> {
  if (!LOCKED.has(action)) return null
  const isNew = lock === null || ((action === 'enrol' || action === 'code') && isOver(state))
  if (!isNew) return await keyOf(lock)
  return action === 'enrol' || action === 'code' ? await newKey(choose) : null
}

async function keyOf(lock: Lock): Promise<Key> {
  if (lock.kind === 'passkey') return { lock, secret: await evaluate(lock) }
  return { lock, secret: utf8(await asked('open')) }
}

async function newKey(choose: Choosing): Promise<Key> {
  for (let [passkeys, fault]: [boolean, Fault | null] = [await mayHavePasskeys(), null]; ;) {
    const chosen = await choose(passkeys, fault)
    void navigator.storage?.persist?.() // as the screen says
    if (chosen.kind === 'passphrase') return { lock: { kind: 'passphrase', salt: freshSalt() }, secret: utf8(chosen.passphrase) }
    try {
      return await newPasskey()
    } catch (error) {
      if (!(error instanceof LockedError)) throw error
      fault = error.fault
      passkeys = fault.why?.name !== 'why.passkey_no_prf'
    }
  }
}

/** A passphrase for a backup: a new one, or the one that it was sealed with. @throws LockedError nobody gave one. */
export const passphraseFor = (what: 'backup' | 'open_backup'): Promise<string> => asked(what)

/** Whether this browser may know passkeys that evaluate a function. Some say so only once one is made. */
async function mayHavePasskeys(): Promise<boolean> {
  if (typeof PublicKeyCredential === 'undefined') return false
  const able = await PublicKeyCredential.getClientCapabilities?.().catch(() => undefined)
  const isNear = await PublicKeyCredential.isUserVerifyingPlatformAuthenticatorAvailable().catch(() => false)
  return (able?.['extension:prf'] ?? true) && (isNear || able?.['hybridTransport'] === true)
}

async function newPasskey(): Promise<Key> {
  const salt = freshSalt()
  const created = await asking('why.passkey_not_made', () => navigator.credentials.create({
    publicKey: {
      rp: { name: location.hostname },
      user: { id: randomBytes(32), name: location.hostname, displayName: location.hostname },
      challenge: randomBytes(32), // nobody checks an answer: the function's value is all that counts
      pubKeyCredParams: [ED25519, ES256, RS256].map((alg) => ({ type: 'public-key', alg })),
      authenticatorSelection: { residentKey: 'preferred', userVerification: 'required' },
      attestation: 'none',
      timeout: TIMEOUT_MS,
      extensions: { prf: { eval: { first: salt } } },
    },
  }))
  const { prf } = created.getClientExtensionResults()
  if (prf?.enabled !== true) throw new LockedError('why.passkey_no_prf')
  const lock: Lock = { kind: 'passkey', credential: new Uint8Array(created.rawId), salt }
  return { lock, secret: valueOf(prf) ?? await evaluate(lock) }
}

/** 32 bytes that the passkey makes of the lock's salt, for its verified owner only. */
async function evaluate({ credential, salt }: Lock & { kind: 'passkey' }): Promise<Bytes> {
  const used = await asking('why.passkey_not_used', () => navigator.credentials.get({
    publicKey: {
      challenge: randomBytes(32),
      allowCredentials: [{ type: 'public-key', id: credential }],
      userVerification: 'required',
      timeout: TIMEOUT_MS,
      extensions: { prf: { eval: { first: salt } } },
    },
  }))
  const value = valueOf(used.getClientExtensionResults().prf)
  if (value === null) throw new LockedError('why.passkey_no_prf')
  return value
}

function valueOf(prf: AuthenticationExtensionsPRFOutputs | undefined): Bytes | null {
  const first = prf?.results?.first
  if (first === undefined) return null
  const value = new Uint8Array(ArrayBuffer.isView(first) ? new Uint8Array(first.buffer, first.byteOffset, first.byteLength) : new Uint8Array(first))
  return value.length === PRF_BYTES ? value : null
}

/** The browser says neither whether there is no such passkey nor whether the person said no: nobody shall learn which. */
async function asking(failed: 'why.passkey_not_made' | 'why.passkey_not_used', ask: () => Promise<Credential | null>): Promise<PublicKeyCredential> {
  const credential = await ask().catch(() => null)
  if (credential === null) throw new LockedError(failed)
  return credential as PublicKeyCredential
}

/** Shows the dialog until the person has typed a passphrase, which does not stay in the page. */
function asked(what: (typeof PASSPHRASES)[number]): Promise<string> {
  const dialog = document.getElementById('keeping') as HTMLDialogElement
  return new Promise((resolve, reject) => {
    const end = (passphrase: string | null): void => {
      dialog.onclose = null
      dialog.replaceChildren()
      if (passphrase === null) reject(new LockedError('why.lock_kept'))
      else resolve(passphrase)
      dialog.close()
    }
    dialog.replaceChildren(passphraseForm(what, end))
    dialog.onclose = () => { if (!dialog.open) end(null) } // by the Escape key; the event may be one of the dialog before
    dialog.showModal()
  })
}
