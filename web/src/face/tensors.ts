/** TensorFlow.js on WebAssembly with the few kernels that both networks need, and no more of them. */

import { env, type KernelConfig, ready, registerKernel, setBackend } from '@tensorflow/tfjs-core'
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm/dist/base'
import { addConfig } from '@tensorflow/tfjs-backend-wasm/dist/kernels/Add'
import { depthwiseConv2dNativeConfig } from '@tensorflow/tfjs-backend-wasm/dist/kernels/DepthwiseConv2dNative'
import { fusedConv2DConfig } from '@tensorflow/tfjs-backend-wasm/dist/kernels/FusedConv2D'
import { fusedDepthwiseConv2DConfig } from '@tensorflow/tfjs-backend-wasm/dist/kernels/FusedDepthwiseConv2D'
import { maxPoolConfig } from '@tensorflow/tfjs-backend-wasm/dist/kernels/MaxPool'
import { padV2Config } from '@tensorflow/tfjs-backend-wasm/dist/kernels/PadV2'
import { reluConfig } from '@tensorflow/tfjs-backend-wasm/dist/kernels/Relu'
import wasmUrl from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm?url'
import wasmSimdUrl from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url'

const KERNELS: readonly KernelConfig[] = [
  addConfig, depthwiseConv2dNativeConfig, fusedConv2DConfig, fusedDepthwiseConv2DConfig, maxPoolConfig, padV2Config, reluConfig,
]
let loading: Promise<void> | undefined

/** Loads the WebAssembly from the page's own server, once. */
export function loadTensors(): Promise<void> {
  loading ??= load().catch((error: unknown) => { loading = undefined; throw error }) // another try may do better
  return loading
}

async function load(): Promise<void> {
  for (const kernel of KERNELS) registerKernel(kernel)
  env().set('WASM_HAS_MULTITHREAD_SUPPORT', false) // threads would need scripts from blobs, which the page forbids
  setWasmPaths({
    'tfjs-backend-wasm.wasm': wasmUrl,
    'tfjs-backend-wasm-simd.wasm': wasmSimdUrl,
    'tfjs-backend-wasm-threaded-simd.wasm': wasmSimdUrl, // has to be named, and is not loaded
  })
  await setBackend('wasm')
  await ready()
}
