/**
 * Which page this is, and what the public log says of it: ADR 261.
 *
 * The page fetches its own files once more and hashes them as its build did. That is its own word: a page that was changed could
 * say the same. Whoever wants to know asks from outside, with `python -m examples.publishing page`.
 */

import { type Bytes, equal, hex, sha256, utf8 } from '../bytes'
import { MalformedMessageError, ProofError } from '../errors'
import { readEntry } from './entries'
import { fromBase64, LoggedEntry, type LogPolicy } from './notes'

/** Of the build, in the form that `sha256sum` reads. */
export const LIST = '/page.sha256'
const MOST_FILES = 200
const PAYLOAD = 'application/vnd.in-toto+json'

/** What the page found out about itself. */
export interface SelfReport {
  /** SHA-256, in hex, of the list of what was fetched: the hash of the page. */
  readonly hash: string
  readonly files: number
  /** Files that are not what the list of the build says. */
  readonly others: readonly string[]
  /** What the entry about the program says: this page, another one, or there is none. */
  readonly log: 'has' | 'another' | 'none'
  /** Of that entry, or null. */
  readonly position: number | null
  /** From which it was built, and who signed that, as the entry has both; empty where it has neither. */
  readonly commit: string
  readonly signer: string
}

/**
 * Hashes the page's files.
 *
 * @param read fetches one anew.
 * @throws MalformedMessageError there is no such list.
 */
export async function hashPage(read: (path: string) => Promise<Bytes>): Promise<Pick<SelfReport, 'hash' | 'files' | 'others'>> {
  const lines = new TextDecoder().decode(await read(LIST)).split('\n').slice(0, -1)
  const listed = lines.map((line) => /^([0-9a-f]{64}) {2}([\w./-]+)$/.exec(line))
  if (listed.length === 0 || listed.length > MOST_FILES) throw new MalformedMessageError('the page has no list of its files')
  const others: string[] = []
  let found = ''
  for (const parts of listed) {
    if (parts === null) throw new MalformedMessageError('a line of the list of files is a hash and a name')
    const [, digest, name] = parts
    const data = await read(name === 'index.html' ? '/' : `/${name}`) // what a browser gets, who asks for the page
    const mine = hex(new Uint8Array(await crypto.subtle.digest('SHA-256', data)))
    if (mine !== digest) others.push(name)
    found += `${mine}  ${name}\n`
  }
  return { hash: hex(sha256(utf8(found))), files: listed.length, others }
}

/**
 * What the log's entry about the program says of a page.
 *
 * @param logged the entry with its proof, as it came.
 * @throws ProofError it is not in the log, or about something else.
 * @throws MalformedMessageError it holds no statement of a build.
 */
export async function softwareIn(logged: Uint8Array, position: number, hash: string, policy: LogPolicy, now: number): Promise<Pick<SelfReport, 'log' | 'commit' | 'signer'>> {
  const found = new LoggedEntry(logged)
  await found.require(policy, now)
  const { kind, content } = readEntry(found.entry)
  if (found.index !== position || kind !== 'software' || content === undefined) throw new ProofError("the log's entry is not about the program that runs")
  try {
    const { payload, payloadType, signatures } = JSON.parse(new TextDecoder().decode(fromBase64(content))) as { payload: string; payloadType: string; signatures: { keyid: string }[] }
    if (payloadType !== PAYLOAD) throw new TypeError('another payload')
    const { subject, predicate } = JSON.parse(new TextDecoder().decode(fromBase64(payload))) as { subject: { name: string; digest: { sha256: string } }[]; predicate: any }
    const is = subject.some(({ name, digest }) => /-page\.sha256$/.test(name) && equal(utf8(digest.sha256), utf8(hash)))
    const [{ digest: { gitCommit } }] = predicate.buildDefinition.resolvedDependencies as [{ digest: { gitCommit: string } }]
    return { log: is ? 'has' : 'another', commit: String(gitCommit), signer: String(signatures[0].keyid) }
  } catch (error) {
    throw new MalformedMessageError('the entry about the program is no signed statement of a build', { cause: error })
  }
}
