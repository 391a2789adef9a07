/** Which page this is: files that are hashed anew, and the log's entry about the program, which Python wrote. */

import { beforeAll, describe, expect, test } from 'vitest'

import { type Bytes, fromHex, hex, sha256, utf8 } from '../src/bytes'
import { MalformedMessageError, ProofError } from '../src/errors'
import { LogPolicy } from '../src/log/notes'
import { hashPage, LIST, softwareIn } from '../src/log/software'
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

/** Of the made-up key above. */
function keyId(): string {
  const key = Uint8Array.from(atob('AfAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'), (character) => character.charCodeAt(0))
  return hex(sha256(new Uint8Array([...utf8('example.com/other\n'), ...key]))).slice(0, 8)
}
