import { defineConfig } from 'vite'

import { recogniser } from './weights/plugin'

export default defineConfig({
  plugins: [recogniser()],
  esbuild: { keepNames: true }, // errors cross from the worker to the page by the name of their class
  build: { target: 'es2024', assetsInlineLimit: 0, modulePreload: { polyfill: false }, sourcemap: false },
  optimizeDeps: {
    exclude: ['node-seal'], // it finds its .wasm beside itself
    // All others by name: one that is found while tests run makes them load anew, and fail.
    include: [
      '@bufbuild/protobuf', '@bufbuild/protobuf/codegenv2', 'intl-messageformat', '@formatjs/icu-messageformat-parser', '@noble/ciphers/chacha.js', '@noble/curves/ed25519.js', '@noble/hashes/sha2.js',
      '@tensorflow/tfjs-core', '@tensorflow/tfjs-backend-wasm/dist/base', '@tensorflow/tfjs-backend-wasm/dist/kernels/*',
    ],
  },
  worker: { format: 'es', plugins: () => [recogniser()] },
})
