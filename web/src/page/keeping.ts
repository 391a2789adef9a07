/**
 * Asks the person for what locks the wallet: a passkey where the browser has the PRF extension, a passphrase otherwise.
 *
 * WebAuthn is there in a window and not in a worker, so the page gets the secret and hands it to the worker at once. A passkey
 * belongs to this host's name: the browser offers it to no other. It verifies its owner each time (`userVerification`), by
 * finger, face or PIN, which the browser does and this page never sees.
 */

import { type Bytes, randomBytes, utf8 } from '../bytes'
import type { Action, Fault, Status } from '../device/messages'
import { freshSalt, type Key, LEAST_CHARACTERS, type Lock, PRF_BYTES } from '../wallet/locks'
import { h } from './dom'
import { say } from './texts'

/** Nobody gave a key. */
export class LockedError extends Error {
  readonly fault: Fault

  constructor(name: 'why.lock_kept' | 'why.passkey_not_made' | 'why.passkey_not_used' | 'why.passkey_no_prf') {
    super(name)
    this.fault = { kind: name === 'why.lock_kept' ? 'CancelledError' : 'UsageError', message: name, why: { name }, retryAfter: null }
  }
}

/** What is done with the wallet open. */
const LOCKED: ReadonlySet<Action> = new Set<Action>(['enrol', 'verify', 'login', 'renew', 'over', 'revoke', 'erase', 'export', 'history', 'backup', 'code', 'admit', 'devices', 'remove'])
const [ED25519, ES256, RS256] = [-8, -7, -257]
const TIMEOUT_MS = 120_000

/**
 * What an action needs to open the wallet, or null when it needs nothing.
 *
 * @throws LockedError nobody gave a key.
 */
export async function keyFor(action: Action, { lock, state }: Pick<Status, 'lock' | 'state'>): Promise<Key | null> {
  if (!LOCKED.has(action)) return null
  const isNew = lock === null || ((action === 'enrol' || action === 'code') && state === 'revoked')
  if (!isNew) return await keyOf(lock)
  return action === 'enrol' || action === 'code' ? await newKey() : null
}

async function keyOf(lock: Lock): Promise<Key> {
  if (lock.kind === 'passkey') return { lock, secret: await evaluate(lock) }
  const { passphrase } = await asked('open')
  return { lock, secret: utf8(passphrase) }
}

async function newKey(): Promise<Key> {
  const { choice, passphrase } = await asked('new', await mayHavePasskeys())
  void navigator.storage?.persist?.() // as the dialog says
  if (choice === 'passkey') return await newPasskey()
  return { lock: { kind: 'passphrase', salt: freshSalt() }, secret: utf8(passphrase) }
}

/** A passphrase for a backup: a new one, or the one that it was sealed with. @throws LockedError nobody gave one. */
export const passphraseFor = async (what: 'backup' | 'open_backup'): Promise<string> => (await asked(what)).passphrase

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

/** What the person chose in the dialog, and typed. */
interface Chosen {
  readonly choice: string
  readonly passphrase: string
}

/** Shows the dialog until the person has chosen. A new passphrase is typed twice, and none stays in the page. */
function asked(what: 'open' | 'new' | 'backup' | 'open_backup', passkeys = false): Promise<Chosen> {
  const dialog = document.getElementById('keeping') as HTMLDialogElement
  const isNew = what === 'new' || what === 'backup'
  const field = (id: string): HTMLInputElement => h('input', { id, type: 'password', required: true, minLength: LEAST_CHARACTERS, autocomplete: isNew ? 'new-password' : 'current-password' })
  const [first, again] = [field('passphrase'), field('passphrase-again')]
  const check = (): void => { again.setCustomValidity(isNew && first.value !== again.value ? say('keeping.differ') : '') }
  first.oninput = again.oninput = check
  let end: (choice: string) => void
  const close = (choice: string) => (): void => { end(choice) }
  const form = h('form', {},
    h('h2', { id: 'keeping-title' }, say(`keeping.${what}`)), h('p', {}, say(what === 'new' && !passkeys ? 'keeping.new_passphrase_lead' : `keeping.${what}_lead`)),
    passkeys && h('p', {}, h('button', { id: 'passkey-button', type: 'button', className: 'main', onclick: close('passkey') }, say('keeping.passkey'))),
    passkeys && h('p', {}, say('keeping.or')),
    h('p', {}, h('label', { htmlFor: 'passphrase' }, say('keeping.passphrase', { least: LEAST_CHARACTERS })), first),
    isNew && h('p', {}, h('label', { htmlFor: 'passphrase-again' }, say('keeping.again')), again),
    h('div', { className: 'buttons' },
      h('button', { id: 'passphrase-button', className: passkeys ? '' : 'main' }, say('keeping.use')),
      h('button', { type: 'button', onclick: close('') }, say('cancel'))))
  form.onsubmit = (event) => { event.preventDefault(); end('passphrase') }
  dialog.replaceChildren(form)
  dialog.showModal()
  return new Promise((resolve, reject) => {
    end = (choice) => {
      const passphrase = first.value
      dialog.onclose = null
      dialog.replaceChildren()
      if (choice === '') reject(new LockedError('why.lock_kept'))
      else resolve({ choice, passphrase })
      dialog.close()
    }
    dialog.onclose = () => { if (!dialog.open) end('') } // by the Escape key; the event may be one of the dialog before
  })
}
