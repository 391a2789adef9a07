/** The known-answer vectors of the repository, and the keystream that they were made with. */

import { chacha20 } from '@noble/ciphers/chacha.js'
import { commands } from '@vitest/browser/context'

import { type Bytes, concat, fromHex, type RandomBytes, sha256, utf8 } from '../src/bytes'

declare module '@vitest/browser/context' {
  interface BrowserCommands {
    python(task: string, request: unknown): Promise<unknown>
  }
}

const MESSAGES = import.meta.glob<string>('../../tests/vectors/onebit/*/*.bin', { eager: true, query: '?url', import: 'default' })

/** A recorded message by its name, such as 2048/reply. */
export async function message(name: string): Promise<Bytes> {
  const response = await fetch(MESSAGES[`../../tests/vectors/onebit/${name}.bin`])
  return new Uint8Array(await response.arrayBuffer())
}

/** One way of breaking a message. */
export interface Damage {
  readonly message: string
  readonly edits: readonly (readonly [number, string])[]
  readonly length: number | null
  readonly append_zeros: number
}

/** What is left of its message. */
export async function damaged({ message: name, edits, length, append_zeros: zeros }: Damage): Promise<Bytes> {
  const data = await message(name)
  for (const [offset, replacement] of edits) data.set(fromHex(replacement), offset)
  return concat(data.slice(0, length ?? undefined), new Uint8Array(zeros))
}

/** Insecure: the same bytes in every run. */
export function keystream(name: string): RandomBytes {
  const key = sha256(utf8(`intaglio test vectors: ${name}`))
  let used = 0
  return (count) => {
    const start = used
    used += count
    return chacha20(key, new Uint8Array(12), new Uint8Array(used)).slice(start) as Bytes
  }
}

/** Lets tests/web/peer.py do `task`. */
export const python = (task: string, request: unknown): Promise<unknown> => commands.python(task, request)
