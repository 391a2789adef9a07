/** What an organisation gets after an acceptance, looked at by the device before it hands it out. As `federation/consent/assertion.py`. */

import { type Bytes, equal, fromHex, hex, sha256, utf8 } from '../bytes'
import { MalformedMessageError, ProofError } from '../errors'
import type { FalseMatchRate } from '../face/release'
import { canonical, type Logged } from '../log/entries'
import { type Audited, type PadLevel, wordingOf } from '../rules/rates'
import type { Issuer } from '../rules/rulebook'

const MOST_CHARACTERS = 4096
const LONGEST_LIFETIME_SECONDS = 600
const SCIENTIFIC_BELOW = 1e-4

/** What an assertion has to say about one session. */
export interface Expected {
  readonly issuer: Issuer
  readonly audience: string
  readonly purpose: string
  /** That the audience chose. */
  readonly nonce: Uint8Array
  /** SHA-256 of the model release, in hex. */
  readonly releaseDigest: string
  /** That the release states, and what its audit says. */
  readonly rate: FalseMatchRate
  readonly audited: Audited
  /** What stood between a presentation attack and the comparison. */
  readonly pad: PadLevel
  /** From the consent that the comparison was decided under. */
  readonly contest: string
  readonly logged: Logged
}

/**
 * Returns when `token` is the issuer's statement about exactly this session. The audience checks how old it is.
 *
 * What the device knows is compared letter by letter; the pseudonym and the times are all that it cannot know.
 *
 * @throws MalformedMessageError no assertion of this version.
 * @throws ProofError another issuer or key, altered, or about something else.
 */
export async function checkAssertion(token: string, expected: Expected): Promise<void> {
  const parts = /^([\w-]+)\.([\w-]+)\.([\w-]+)$/.exec(token)
  if (parts === null || token.length > MOST_CHARACTERS) throw new MalformedMessageError('the server gives no assertion of this version')
  const [, header, payload, signature] = parts
  const publicKey = fromHex(expected.issuer.publicKey)
  if (header !== toBase64Url(utf8(canonical({ alg: 'EdDSA', kid: keyName(publicKey), typ: 'intaglio-assertion-3+jwt' })))) {
    throw new ProofError("the assertion is not of this type, algorithm and issuer's key")
  }
  const key = await crypto.subtle.importKey('raw', publicKey, 'Ed25519', false, ['verify'])
  if (!(await crypto.subtle.verify('Ed25519', key, fromBase64Url(signature), utf8(`${header}.${payload}`)))) {
    throw new ProofError("the assertion is not signed with the issuer's key, or was altered")
  }
  const said = fromBase64Url(payload)
  const { exp, iat, sub } = free(said)
  const { position, checkpoint: { origin, head } } = expected.logged
  const { rate, audited } = expected
  const numbers = [audited.fmrLimit, audited.fnmrLimit, rate.stated, rate.high, rate.low]
  const [fmr_limit, fnmr_limit, fmr, high, low] = numbers.map((_, place) => `@${place}`)
  const claims = canonical({
    aud: expected.audience, audit: { fmr_limit, fnmr_limit, people: audited.people, trial: audited.isTrial, verdict: audited.verdict },
    contest: expected.contest, exp, iat, iss: expected.issuer.address,
    log: { index: position, origin, root_hash: hex(head.root), tree_size: head.size },
    nonce: hex(expected.nonce), pad: expected.pad, purpose: expected.purpose, rate: { basis: rate.basis, fmr, high, low, people: rate.people },
    release: expected.releaseDigest, statement: wordingOf(rate, audited, expected.pad), sub,
  }).replace(/"@(\d)"/g, (_, place: string) => decimal(numbers[Number(place)]))
  if (!equal(utf8(claims), said)) throw new ProofError('the assertion is about something else than this comparison')
}

/** The claims that no device can foretell. */
function free(payload: Bytes): { exp: number; iat: number; sub: string } {
  let claims: Record<string, unknown>
  try {
    claims = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(payload)) as Record<string, unknown>
  } catch {
    throw new MalformedMessageError('the token is signed, but it is no assertion of this version')
  }
  const { exp, iat, sub } = (claims ?? {}) as { exp: unknown; iat: unknown; sub: unknown }
  const lasts = Number(exp) - Number(iat)
  if (!Number.isSafeInteger(exp) || !Number.isSafeInteger(iat) || !(lasts > 0 && lasts <= LONGEST_LIFETIME_SECONDS)
    || typeof sub !== 'string' || !/^[0-9a-f]{64}$/.test(sub)) {
    throw new MalformedMessageError('the token is signed, but it is no assertion of this version')
  }
  return { exp: exp as number, iat: iat as number, sub }
}

/** A number from 0 to 1 as Python writes it. */
const decimal = (value: number): string => (Number.isInteger(value) ? value.toFixed(1) : value < SCIENTIFIC_BELOW ? value.toExponential().replace(/e-(\d)$/, 'e-0$1') : String(value))

/** Thumbprint of an Ed25519 key (RFC 7638, RFC 8037). */
const keyName = (publicKey: Bytes): string => toBase64Url(sha256(utf8(canonical({ crv: 'Ed25519', kty: 'OKP', x: toBase64Url(publicKey) }))))

const toBase64Url = (data: Bytes): string => btoa(String.fromCharCode(...data)).replace(/=+$/, '').replaceAll('+', '-').replaceAll('/', '_')

/** Reads `toBase64Url`, in its one spelling. */
function fromBase64Url(text: string): Bytes {
  try {
    const data = Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (character) => character.charCodeAt(0))
    if (toBase64Url(data) === text) return data
  } catch { /* not base64 at all */ }
  throw new MalformedMessageError('a part of the assertion is not base64 in its one spelling')
}
