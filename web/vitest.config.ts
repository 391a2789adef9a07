/// <reference types="@vitest/browser/providers/playwright" />
/** Tests run in Chromium, where the page runs: node-seal's WebAssembly needs a newer engine than Node 20 has. */

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import type { Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

import { defineConfig } from 'vitest/config'

import base from './vite.config'

const REPOSITORY = fileURLToPath(new URL('..', import.meta.url))
const PYTHON = process.env['INTAGLIO_PYTHON'] ?? `${REPOSITORY}.venv/bin/python`
const CHROMIUM = process.env['INTAGLIO_CHROMIUM'] ?? ['/usr/bin/chromium', '/usr/bin/google-chrome'].find(existsSync)
if (CHROMIUM === undefined) throw new Error('no Chromium: install one (Debian: apt-get install chromium) or set INTAGLIO_CHROMIUM')

let peer: ChildProcessWithoutNullStreams | undefined
const waiting: ((line: string) => void)[] = []

/** One process for all cross tests, which ends with this one: it answers line by line, in order. */
function startPeer(): ChildProcessWithoutNullStreams {
  const child = spawn(PYTHON, ['-m', 'tests.web.peer'], { cwd: REPOSITORY, env: { ...process.env, OMP_NUM_THREADS: '1', PYTHONPATH: REPOSITORY } })
  createInterface(child.stdout).on('line', (line) => waiting.shift()?.(line))
  child.stderr.pipe(process.stderr)
  child.on('exit', () => { for (const answer of waiting.splice(0)) answer('{"error":"the Python side has ended"}') })
  child.unref() // nothing waits for it
  for (const pipe of [child.stdin, child.stdout, child.stderr]) (pipe as unknown as Socket).unref()
  return child
}

/** Lets the Python side do `task`, for the cross tests. */
async function python(_context: unknown, task: string, request: unknown): Promise<unknown> {
  peer ??= startPeer()
  const answered = new Promise<string>((resolve) => { waiting.push(resolve) })
  peer.stdin.write(`${JSON.stringify({ task, request })}\n`)
  const { error, answer } = JSON.parse(await answered) as { error?: string; answer?: unknown }
  if (error !== undefined) throw new Error(error)
  return answer
}

/** Has the browser prefer light or dark colours. */
const colours = ({ page }: any, colorScheme: 'light' | 'dark'): Promise<void> => page.emulateMedia({ colorScheme }) as Promise<void>

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
        commands: { python, colours },
      },
    },
})
