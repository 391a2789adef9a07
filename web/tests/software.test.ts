/** Which page this is: files that are hashed anew, and the log's entry about the program, which Python wrote. */

import { beforeAll, describe, expect, test } from 'vitest'

import { type Bytes, fromHex, hex, sha256, utf8 } from '../src/bytes'
import { MalformedMessageError, ProofError } from '../src/errors'
import { LogPolicy } from '../src/log/notes'
import { hashPage, LIST, softwareIn } from '../src/log/software'
import { Log } from './a_log'
import { python } from './vectors'

const FILES: Readonly<Record<string, string>> = { 'assets/a.js': 'a program', 'icon.svg': 'a picture', 'index.html': 'the page' }
const list = (files = FILES): string => Object.entries(files).map(([name, text]) => `${hex(sha256(utf8(text)))}  ${name}\n`).join('')

/** What a server gives: the page itself at /, as browsers ask for it. */
function served(change: Readonly<Record<string, string>> = {}, listed = list()): (path: string) => Promise<Bytes> {
  const files: Record<string, string> = { [LIST]: listed, ...Object.fromEntries(Object.entries(FILES).map(([name, text]) => [name === 'index.html' ? '/' : `/${name}`, text])), ...change }
  return (path) => path in files ? Promise.resolve(utf8(files[path])) : Promise.reject(new Error(`nothing is served at ${path}`))
}

describe('the hash of the page', () => {
  test('is that of the list of its files, as sha256sum writes it', async () => {
    expect(await hashPage(served())).toEqual({ hash: hex(sha256(utf8(list()))), files: 3, others: [] })
  })

  test.each([['/', 'index.html'], ['/assets/a.js', 'assets/a.js']])('is another one where %s is, which is named, whatever the list says', async (path, name) => {
    const found = await hashPage(served({ [path]: 'changed' }))
    expect(found.others).toEqual([name])
    expect(found.hash).toBe(hex(sha256(utf8(list({ ...FILES, [name]: 'changed' })))))
  })

  test('names each that is another one, of as many as there may be', async () => {
    const many = Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`assets/${i}.js`, `file ${i}`]))
    const read: string[] = []
    const served = (files: Readonly<Record<string, string>>, changed: Readonly<Record<string, string>> = {}) => (path: string): Promise<Bytes> => {
      read.push(path)
      return Promise.resolve(utf8(path === LIST ? list(files) : changed[path] ?? files[path.slice(1)]))
    }
    const found = await hashPage(served(many, { '/assets/0.js': 'a', '/assets/7.js': 'b', '/assets/199.js': 'c' }))
    expect(found).toEqual({ hash: hex(sha256(utf8(list({ ...many, 'assets/0.js': 'a', 'assets/7.js': 'b', 'assets/199.js': 'c' })))), files: 200, others: ['assets/0.js', 'assets/7.js', 'assets/199.js'] })
    read.length = 0
    await expect(hashPage(served({ ...many, 'one-more': 'x' }))).rejects.toThrow('the page has no list of its files')
    expect(read).toEqual([LIST]) // and nothing is fetched for it
  })

  test.each([['empty', ''], ['no list', 'words\n'], ['of too many files', list().repeat(70)], ['with a name that is none', list().replace('a.js', 'a js')]])('is not there with a list that is %s', async (_, listed) => {
    await expect(hashPage(served({}, listed))).rejects.toThrow(MalformedMessageError)
  })
})

describe('the log about the program', () => {
  const HASH = hex(sha256(utf8('a page')))
  const OTHER = hex(sha256(utf8('another page')))
  let policy: LogPolicy
  let now: number
  const entry = async (change: Record<string, string> = {}): Promise<Bytes> => {
    const told = (await python('software', { hash: HASH, kind: 'software', payload_type: 'application/vnd.in-toto+json', ...change })) as { logged: string; key: string; now: number }
    policy = new LogPolicy({ key: told.key, witnesses: [], threshold: 0 })
    now = told.now
    return fromHex(told.logged)
  }
  let logged: Bytes
  beforeAll(async () => { logged = await entry() }, 60_000)

  test('has this page, or another one, with the commit and the key that signed', async () => {
    const said = { commit: 'ab'.repeat(20), signer: 'cd'.repeat(32) }
    expect(await softwareIn(logged, 1, HASH, policy, now)).toEqual({ log: 'has', ...said })
    expect(await softwareIn(logged, 1, OTHER, policy, now)).toEqual({ log: 'another', ...said })
    expect(await softwareIn(logged, 1, '11'.repeat(32), policy, now)).toEqual({ log: 'another', ...said }) // that of the wheel is not the page's
  })

  test('is not believed about another place, of another kind, an hour later, or of another log', async () => {
    await expect(softwareIn(logged, 0, HASH, policy, now)).rejects.toThrow(ProofError)
    await expect(softwareIn(logged, 1, HASH, policy, now + 3601)).rejects.toThrow('seconds old')
    const other = new LogPolicy({ key: 'example.com/other+2c1a1b06+AfAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'.replace('2c1a1b06', keyId()), witnesses: [], threshold: 0 })
    await expect(softwareIn(logged, 1, HASH, other, now)).rejects.toThrow('another log')
    await expect(softwareIn(await entry({ kind: 'release' }), 1, HASH, policy, now)).rejects.toThrow('not about the program')
  })

  test('is no statement in another envelope', async () => {
    await expect(softwareIn(await entry({ payload_type: 'text/plain' }), 1, HASH, policy, now)).rejects.toThrow(MalformedMessageError)
  })

  test('is not believed with one byte changed', async () => {
    const text = new TextDecoder().decode(logged)
    const at = text.indexOf('extra ') + 40
    const changed = `${text.slice(0, at)}${text[at] === 'A' ? 'B' : 'A'}${text.slice(at + 1)}`
    await expect(softwareIn(utf8(changed), 1, HASH, policy, now)).rejects.toThrow()
  })
})

describe('a statement of a build', () => {
  const base64 = (value: unknown): string => btoa(typeof value === 'string' ? value : JSON.stringify(value))
  const subject = (name: string, digest: string): unknown => ({ name, digest: { sha256: digest } })
  const [THIS, OTHER] = ['aa'.repeat(32), 'bb'.repeat(32)]
  const GOOD = { subject: [subject('intaglio-1.0-page.sha256', OTHER), subject('intaglio-2.0-page.sha256', THIS)], predicate: { buildDefinition: { resolvedDependencies: [{ digest: { gitCommit: 'c0' } }, { digest: { gitCommit: 'c1' } }] } } }
  const envelope = (payload: unknown, more: object = {}): unknown => ({ payload: base64(payload), payloadType: 'application/vnd.in-toto+json', signatures: [{ keyid: 'k0' }, { keyid: 'k1' }], ...more })
  const ask = (content: unknown, hash = THIS): Promise<unknown> => {
    const log = new Log()
    log.declare('policy', 'x')
    return softwareIn(log.receipt(log.declare('software', typeof content === 'string' ? content : JSON.stringify(content))).logged, 1, hash, new LogPolicy({ key: log.signer.key(), witnesses: [], threshold: 0 }), log.time)
  }

  test('is about any of the pages that it names, from the first commit, by the first who signed', async () => {
    for (const [hash, log] of [[THIS, 'has'], [OTHER, 'has'], ['cc'.repeat(32), 'another'], ['', 'another']]) expect(await ask(envelope(GOOD), hash)).toEqual({ log, commit: 'c0', signer: 'k0' })
    expect(await ask(envelope({ ...GOOD, subject: [subject('intaglio.whl', THIS), subject('page.sha256', THIS), subject('x-page.sha256.txt', THIS)] }))).toMatchObject({ log: 'another' })
  })

  test.each<[string, unknown]>([
    ['no JSON', 'x'], ['of nothing', 'null'], ['without a payload', { payloadType: 'application/vnd.in-toto+json', signatures: [{ keyid: 'k' }] }], ['of another type', envelope(GOOD, { payloadType: 'text/plain' })],
    ['whose payload is no JSON', envelope('x')], ['that nobody signed', envelope(GOOD, { signatures: [] })], ['without subjects', envelope({ predicate: GOOD.predicate })], ['without a digest', envelope({ ...GOOD, subject: [{ name: 'x-page.sha256' }] })],
    ['without a commit', envelope({ ...GOOD, predicate: { buildDefinition: { resolvedDependencies: [] } } })], ['of a payload in another spelling', envelope(GOOD, { payload: `${base64(GOOD)} ` })],
  ])('is none when it is %s', async (_, content) => {
    await expect(ask(content)).rejects.toMatchObject({ name: 'MalformedMessageError', message: 'the entry about the program is no signed statement of a build' })
  })
})

/** Of the made-up key above. */
function keyId(): string {
  const key = Uint8Array.from(atob('AfAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'), (character) => character.charCodeAt(0))
  return hex(sha256(new Uint8Array([...utf8('example.com/other\n'), ...key]))).slice(0, 8)
}
