/** The known-answer vectors of the repository, and the keystream that they were made with. */

import { chacha20 } from '@noble/ciphers/chacha.js'
import { commands } from '@vitest/browser/context'

import { type Bytes, fromHex, type RandomBytes, sha256, utf8 } from '../src/bytes'

declare module '@vitest/browser/context' {
  interface BrowserCommands {
    python(task: string, request: unknown): Promise<unknown>
  }
}

const MESSAGES = import.meta.glob<string>('../../tests/vectors/onebit/*.bin', { eager: true, query: '?url', import: 'default' })

/** A recorded message by its name. */
export async function message(name: string): Promise<Bytes> {
  const response = await fetch(MESSAGES[`../../tests/vectors/onebit/${name}.bin`])
  return new Uint8Array(await response.arrayBuffer())
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

/** (8n) bits of n bytes in hexadecimal, the highest first. */
export const bits = (packed: string): Uint8Array => {
  const bytes = fromHex(packed)
  return Uint8Array.from({ length: 8 * bytes.length }, (_, i) => (bytes[i >> 3] >> (7 - (i & 7))) & 1)
}

/** Lets tests/web_peer.py do `task`. */
export const python = (task: string, request: unknown): Promise<unknown> => commands.python(task, request)
