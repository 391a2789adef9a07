/** What makes the page an application that can be installed: icons, manifest, and the worker that keeps its files. ADR 240. */

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import type { Plugin } from 'vite'

import { icon } from './icons'

const WORKER = fileURLToPath(new URL('service-worker.js', import.meta.url))
const PICTURES: readonly (readonly [string, number, boolean])[] = [['icon-192.png', 192, false], ['icon-512.png', 512, false], ['icon-maskable.png', 512, true]]

/** Kept for when nobody can be reached: the page, its programs and styles. Weights and WebAssembly serve nobody offline. */
const isKept = (name: string): boolean => /\.(?:js|css|svg|webmanifest)$/.test(name)

const MANIFEST = {
  id: '/',
  name: 'intaglio',
  short_name: 'intaglio',
  start_url: '/',
  scope: '/',
  display: 'standalone',
  background_color: '#ffffff',
  theme_color: '#1b5e7a',
  icons: [
    { src: '/icon.svg', sizes: 'any', type: 'image/svg+xml' },
    ...PICTURES.map(([name, size, isMaskable]) => ({ src: `/${name}`, sizes: `${size}x${size}`, type: 'image/png', ...(isMaskable && { purpose: 'maskable' }) })),
  ],
}

/** Emits them beside the built page. */
export function shell(): Plugin {
  return {
    name: 'intaglio-shell',
    apply: 'build',
    enforce: 'post',
    generateBundle(_options, bundle) {
      const emit = (fileName: string, source: string | Uint8Array): void => { this.emitFile({ type: 'asset', fileName, source }) }
      for (const [name, size, isMaskable] of PICTURES) emit(name, icon(size, isMaskable))
      emit('manifest.webmanifest', JSON.stringify(MANIFEST))
      const names = [...Object.keys(bundle).filter(isKept), 'index.html', 'icon.svg', 'manifest.webmanifest']
      const files = [...new Set(names)].sort().map((name) => `/${name}`)
      // Programs and styles are named after their content, and the page names them: so the list changes with every build that differs.
      const page = bundle['index.html']
      const digest = createHash('sha256').update(JSON.stringify([files, page?.type === 'asset' ? String(page.source) : '', MANIFEST])).digest('hex').slice(0, 16)
      emit('service-worker.js', readFileSync(WORKER, 'utf8').replace('__FILES__', files.join(' ')).replace('__DIGEST__', digest))
    },
  }
}
