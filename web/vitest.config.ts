/// <reference types="@vitest/browser/providers/playwright" />
/** Tests run in Chromium, where the page runs: node-seal's WebAssembly needs a newer engine than Node 20 has. */

import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import { defineConfig } from 'vitest/config'

import base from './vite.config'

const REPOSITORY = fileURLToPath(new URL('..', import.meta.url))
const PYTHON = process.env['INTAGLIO_PYTHON'] ?? `${REPOSITORY}.venv/bin/python`
const CHROMIUM = process.env['INTAGLIO_CHROMIUM'] ?? ['/usr/bin/chromium', '/usr/bin/google-chrome'].find(existsSync)
if (CHROMIUM === undefined) throw new Error('no Chromium: install one (Debian: apt-get install chromium) or set INTAGLIO_CHROMIUM')

/** Lets the Python side do `task`, for the cross tests. */
function python(_context: unknown, task: string, request: unknown): Promise<unknown> {
  const options = { cwd: REPOSITORY, env: { ...process.env, OMP_NUM_THREADS: '1', PYTHONPATH: `${REPOSITORY}tests` }, maxBuffer: 1 << 26 }
  return new Promise((resolve, reject) => {
    const child = execFile(PYTHON, ['-m', 'tests.web_peer', task], options, (error, output) => {
      if (error) reject(error)
      else resolve(JSON.parse(output))
    })
    child.stdin?.end(JSON.stringify(request))
  })
}

export default defineConfig({
    ...base,
    server: { fs: { allow: ['..'] } },
    test: {
      include: ['tests/**/*.test.ts'],
      testTimeout: 60_000,
      fileParallelism: false, // measured times mean something, and small machines keep up
      browser: {
        enabled: true,
        headless: true,
        provider: 'playwright',
        screenshotFailures: false,
        instances: [
          {
            browser: 'chromium',
            launch: { executablePath: CHROMIUM, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] },
          },
        ],
        commands: { python },
      },
    },
})
