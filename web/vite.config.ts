import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import { defineConfig, type Plugin } from 'vite'

import { hashes } from './shell/hash'
import { shell } from './shell/plugin'
import { recogniser } from './weights/plugin'

const TEXTS = fileURLToPath(new URL('src/texts/', import.meta.url))

/** What is said where no program runs, in every language. */
const noscript: Plugin = {
  name: 'intaglio-noscript',
  transformIndexHtml: (html) => html.replace('<noscript></noscript>', `<noscript>${readdirSync(TEXTS).sort().map((file) => {
    const said = (JSON.parse(readFileSync(`${TEXTS}${file}`, 'utf8')) as { noscript: string }).noscript
    return `<p lang="${file.replace('.json', '')}">${said}</p>`
  }).join('')}</noscript>`),
}

export default defineConfig({
  plugins: [recogniser(), noscript, shell(), hashes()],
  esbuild: { keepNames: true }, // errors cross from the worker to the page by the name of their class
  build: { target: 'es2024', assetsInlineLimit: 0, modulePreload: { polyfill: false }, sourcemap: false },
  optimizeDeps: {
    exclude: ['node-seal'], // it finds its .wasm beside itself
    // All others by name: one that is found while tests run makes them load anew, and fail.
    include: [
      '@bufbuild/protobuf', '@bufbuild/protobuf/codegenv2', 'intl-messageformat', '@formatjs/icu-messageformat-parser', '@noble/ciphers/chacha.js', '@noble/curves/ed25519.js', '@noble/hashes/hkdf.js', '@noble/hashes/scrypt.js', '@noble/hashes/sha2.js',
      '@tensorflow/tfjs-core', '@tensorflow/tfjs-backend-wasm/dist/base', '@tensorflow/tfjs-backend-wasm/dist/kernels/*',
    ],
  },
  worker: { format: 'es', plugins: () => [recogniser()] },
})
