import { defineConfig } from 'vite'

export default defineConfig({
  esbuild: { keepNames: true }, // errors cross from the worker to the page by the name of their class
  build: { target: 'es2024', assetsInlineLimit: 0, modulePreload: { polyfill: false }, sourcemap: false },
  optimizeDeps: { exclude: ['node-seal'], include: ['@vladmandic/face-api'] }, // it finds its .wasm beside itself
  worker: { format: 'es' },
})
