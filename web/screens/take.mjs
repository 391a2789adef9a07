/**
 * Takes a picture of every state of the page, at 375 and 1280 pixels, light and dark, into build/screens. Run `make screens`.
 *
 * Arguments: words that a state's name has to hold one of, and --language=TAG.
 */

import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import { chromium } from 'playwright'
import { createServer } from 'vite'

const WEB = fileURLToPath(new URL('..', import.meta.url))
const OUT = fileURLToPath(new URL('../../build/screens/', import.meta.url))
const WIDTHS = { 375: 812, 1280: 900 }
const SCHEMES = ['light', 'dark']
const executablePath = process.env.INTAGLIO_CHROMIUM ?? ['/usr/bin/chromium', '/usr/bin/google-chrome'].find(existsSync)
const wished = process.argv.slice(2)
const language = wished.find((word) => word.startsWith('--language='))?.split('=')[1] ?? 'en'
const words = wished.filter((word) => !word.startsWith('--'))

const server = await createServer({ root: WEB, logLevel: 'error', server: { host: '127.0.0.1', port: 0, hmr: false } })
await server.listen()
const origin = server.resolvedUrls.local[0]
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] })
try {
  const first = await browser.newPage()
  await first.goto(`${origin}screens/`)
  const names = await first.evaluate(async () => (await import('/screens/show.ts')).names)
  const taken = names.filter((name) => words.length === 0 || words.some((word) => name.includes(word)))
  rmSync(OUT, { recursive: true, force: true })
  mkdirSync(OUT, { recursive: true })
  const files = []
  for (const [width, height] of Object.entries(WIDTHS)) {
    for (const colorScheme of SCHEMES) {
      const page = await browser.newPage({ viewport: { width: Number(width), height }, colorScheme, reducedMotion: 'reduce', timezoneId: 'Europe/Berlin' })
      for (const name of taken) {
        await page.goto(`${origin}screens/?state=${encodeURIComponent(name)}&language=${language}`)
        await page.waitForSelector('body[data-shown]', { timeout: 120_000 }) // a busy machine is no fault
        const file = `${name.replaceAll(/\W+/g, '-')}-${width}-${colorScheme}.png`
        await page.screenshot({ path: `${OUT}${file}`, fullPage: true })
        files.push([name, width, colorScheme, file])
      }
      await page.close()
    }
  }
  const shown = files.map(([name, width, scheme, file]) => `<figure><img src="${file}" alt=""><figcaption>${name}, ${width}, ${scheme}</figcaption></figure>`)
  writeFileSync(`${OUT}index.html`, `<!doctype html><meta charset="utf-8"><title>Every state</title><style>body{display:flex;flex-wrap:wrap;gap:1rem}img{width:20rem}</style>${shown.join('')}`)
  console.log(`${files.length} pictures of ${taken.length} states: build/screens/index.html`)
} finally {
  await browser.close()
  await server.close()
}
