/** The page's own list of its files with their hashes, as `sha256sum` writes it: SHA-256 of that list is the hash of the page. ADR 261. */

import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import type { Plugin } from 'vite'

export const LIST = 'page.sha256'

/** Written when everything else is: whatever lies in the folder is on it, but the list itself. */
export function hashes(): Plugin {
  let folder = ''
  return {
    name: 'intaglio-hashes',
    apply: 'build',
    enforce: 'post',
    configResolved: ({ root, build }) => { folder = join(root, build.outDir) },
    closeBundle() {
      const names = readdirSync(folder, { recursive: true, withFileTypes: true })
        .filter((found) => found.isFile() && found.name !== LIST)
        .map((found) => join(found.parentPath, found.name).slice(folder.length + 1).replaceAll('\\', '/'))
      const lines = names.sort().map((name) => `${createHash('sha256').update(readFileSync(join(folder, name))).digest('hex')}  ${name}\n`)
      writeFileSync(join(folder, LIST), lines.join(''))
    },
  }
}
