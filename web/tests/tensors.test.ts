/** The WebAssembly of the networks: loaded once, from the page's own server, and anew where that failed. */

import { expect, test, vi } from 'vitest'

const world = vi.hoisted(() => ({ told: [] as unknown[][], fails: 0 }))
const named = vi.hoisted(() => (name: string, kernel: string) => () => ({ [name]: kernel }))

vi.mock('@tensorflow/tfjs-core', () => ({
  registerKernel: (kernel: unknown) => { world.told.push(['kernel', kernel]) }, env: () => ({ set: (...given: unknown[]) => { world.told.push(given) } }),
  setBackend: async (name: string) => { world.told.push(['backend', name]); if (world.fails-- > 0) throw new TypeError('offline') }, ready: async () => { await undefined; world.told.push(['ready']) },
}))
vi.mock('@tensorflow/tfjs-backend-wasm/dist/base', () => ({ setWasmPaths: (paths: object) => { world.told.push(['paths', ...Object.entries(paths).map(([name, path]) => `${name} from ${String(path).replace(/^.*\/|\?.*$/g, '')}`)]) } }))
vi.mock('@tensorflow/tfjs-backend-wasm/dist/kernels/Add', named('addConfig', 'add'))
vi.mock('@tensorflow/tfjs-backend-wasm/dist/kernels/DepthwiseConv2dNative', named('depthwiseConv2dNativeConfig', 'depthwise'))
vi.mock('@tensorflow/tfjs-backend-wasm/dist/kernels/FusedConv2D', named('fusedConv2DConfig', 'fused'))
vi.mock('@tensorflow/tfjs-backend-wasm/dist/kernels/FusedDepthwiseConv2D', named('fusedDepthwiseConv2DConfig', 'fused depthwise'))
vi.mock('@tensorflow/tfjs-backend-wasm/dist/kernels/MaxPool', named('maxPoolConfig', 'pool'))
vi.mock('@tensorflow/tfjs-backend-wasm/dist/kernels/PadV2', named('padV2Config', 'pad'))
vi.mock('@tensorflow/tfjs-backend-wasm/dist/kernels/Relu', named('reluConfig', 'relu'))

const LOADED = [
  ...['add', 'depthwise', 'fused', 'fused depthwise', 'pool', 'pad', 'relu'].map((kernel) => ['kernel', kernel]), ['WASM_HAS_MULTITHREAD_SUPPORT', false],
  ['paths', 'tfjs-backend-wasm.wasm from tfjs-backend-wasm.wasm', 'tfjs-backend-wasm-simd.wasm from tfjs-backend-wasm-simd.wasm', 'tfjs-backend-wasm-threaded-simd.wasm from tfjs-backend-wasm-simd.wasm'], ['backend', 'wasm'],
]

test('it is loaded once for all who ask, and once more after it failed', async () => {
  const { loadTensors } = await import('../src/face/tensors')
  world.fails = 1
  const [one, other] = [loadTensors(), loadTensors()]
  await expect(one).rejects.toThrow('offline')
  await expect(other).rejects.toThrow('offline')
  expect(world.told).toEqual(LOADED)
  world.told.length = 0
  await Promise.all([loadTensors(), loadTensors()])
  expect(world.told).toEqual([...LOADED, ['ready']])
  await loadTensors()
  expect(world.told).toHaveLength(LOADED.length + 1)
})
