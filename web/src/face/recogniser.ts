/**
 * From an image to an embedding, in the browser: face-api's detector, landmarks and recogniser in WebAssembly.
 *
 * The recogniser has the weights of `federation/recognition/resnet.py`, so it bears the same digest, and a model release fits both.
 * The alignment is dlib's, from face-api's landmarks; face-api's own does not turn heads upright. Images and embeddings
 * are sensitive: they stay in the worker that runs this.
 */

import * as faceapi from '@vladmandic/face-api'
import wasmUrl from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm?url'
import wasmSimdUrl from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url'
import landmarkWeightsUrl from '@vladmandic/face-api/model/face_landmark_68_model.bin?url'
import landmarkManifestUrl from '@vladmandic/face-api/model/face_landmark_68_model-weights_manifest.json?url'
import recogniserWeightsUrl from '@vladmandic/face-api/model/face_recognition_model.bin?url'
import recogniserManifestUrl from '@vladmandic/face-api/model/face_recognition_model-weights_manifest.json?url'
import detectorWeightsUrl from '@vladmandic/face-api/model/tiny_face_detector_model.bin?url'
import detectorManifestUrl from '@vladmandic/face-api/model/tiny_face_detector_model-weights_manifest.json?url'

import { type Bytes, concat, hex, sha256, utf8 } from '../bytes'
import { UnavailableError, UsageError } from '../errors'
import { chipTransform, context2d, cutChip, drawnSize, LONGEST_CUT_SIDE, LONGEST_SIDE, padded } from './alignment'

const DESCRIPTION = 'resnet29-128 1' // as in federation/recognition/resnet.py: the digest of both is the same
const CHANNEL_MEANS = [122.782, 117.001, 104.298]
const DETECTOR_SIDE = 416
const FIRST_SCORE = 0.5
const SECOND_SCORE = 0.3

const { tf } = faceapi
type Tensor3D = faceapi.tf.Tensor3D

/** What face-api's own types leave out. */
interface Backend {
  setWasmPaths(paths: Record<string, string>): void
  setBackend(name: string): Promise<boolean>
  ready(): Promise<void>
}

/** An image from which no face can be taken: what is wrong with it, and how to mend it. */
export class UnusableImageError extends UsageError {}

/** Detector, landmarks and recogniser. Load once, use often. */
export class Recogniser {
  /** SHA-256, in hex, over everything that decides an embedding of a chip; a release names it. */
  readonly digest: string
  readonly #detector = new faceapi.TinyFaceDetector()
  readonly #landmarks = new faceapi.FaceLandmark68Net()
  readonly #network = new faceapi.FaceRecognitionNet()

  private constructor(digest: string) {
    this.digest = digest
  }

  /**
   * Loads everything from the page's own server.
   *
   * @throws UnavailableError a file does not come.
   */
  static async load(): Promise<Recogniser> {
    faceapi.env.setEnv(workerEnvironment())
    const backend = tf as unknown as Backend
    tf.ENV.set('WASM_HAS_MULTITHREAD_SUPPORT', false) // threads would need scripts from blobs, which the page forbids
    backend.setWasmPaths({
      'tfjs-backend-wasm.wasm': wasmUrl,
      'tfjs-backend-wasm-simd.wasm': wasmSimdUrl,
      'tfjs-backend-wasm-threaded-simd.wasm': wasmSimdUrl, // has to be named, and is not loaded
    })
    await backend.setBackend('wasm')
    await backend.ready()
    const files = await Promise.all(
      [recogniserManifestUrl, recogniserWeightsUrl, detectorManifestUrl, detectorWeightsUrl, landmarkManifestUrl, landmarkWeightsUrl].map(fetchBytes),
    )
    const digests = [utf8(DESCRIPTION), files[0], files[1]].map(sha256)
    const recogniser = new Recogniser(hex(sha256(concat(...digests))))
    recogniser.#network.loadFromWeightMap(tensors(files[0], files[1]))
    recogniser.#detector.loadFromWeightMap(tensors(files[2], files[3]))
    recogniser.#landmarks.loadFromWeightMap(tensors(files[4], files[5]))
    return recogniser
  }

  /**
   * The embedding, 128 numbers of unit norm, of the one face of `image`.
   *
   * @throws UnusableImageError not exactly one face.
   */
  async embed(image: ImageBitmap): Promise<Float64Array> {
    return this.embedChip(await this.#chip(image))
  }

  /** The embedding of an aligned chip (150 x 150 pixels). */
  async embedChip(chip: ImageData): Promise<Float64Array> {
    // face-api divides by 255 where dlib's network was trained with 256.
    const input = tf.tidy(() => {
      const means = tf.tensor1d(CHANNEL_MEANS)
      return tf.add<Tensor3D>(tf.mul(tf.sub(tf.browser.fromPixels(chip), means), 255 / 256), means)
    })
    try {
      const descriptor = Float64Array.from((await this.#network.computeFaceDescriptor(input)) as Float32Array)
      const norm = Math.hypot(...descriptor)
      if (!(norm > 0 && Number.isFinite(norm))) throw new UsageError('the recogniser failed on this image; take another')
      return descriptor.map((x) => x / norm)
    } finally {
      input.dispose()
    }
  }

  async #chip(image: ImageBitmap): Promise<ImageData> {
    const whole = drawnSize(image.width, image.height, LONGEST_SIDE)
    const first = padded(image, whole.width, whole.height)
    const inner = context2d(first.canvas).getImageData(first.left, first.top, whole.width, whole.height)
    const box = await this.#onlyFace(inner, FIRST_SCORE)
    if (box !== null) return this.#cut(first.canvas, new faceapi.Rect(box.x + first.left, box.y + first.top, box.width, box.height))
    // Perhaps it is cut so tightly that no background is left: repeat its edges outwards.
    const cut = drawnSize(image.width, image.height, LONGEST_CUT_SIDE)
    const { canvas } = padded(image, cut.width, cut.height)
    const second = await this.#onlyFace(context2d(canvas).getImageData(0, 0, canvas.width, canvas.height), SECOND_SCORE)
    if (second === null) throw new UnusableImageError('no face found: use a sharp, frontal picture with the whole face in it')
    return this.#cut(canvas, second)
  }

  async #onlyFace(pixels: ImageData, scoreThreshold: number): Promise<faceapi.Rect | null> {
    const tensor = tf.browser.fromPixels(pixels)
    try {
      const options = new faceapi.TinyFaceDetectorOptions({ inputSize: DETECTOR_SIDE, scoreThreshold })
      const faces = await this.#detector.locateFaces(tensor, options)
      if (faces.length > 1) throw new UnusableImageError(`${faces.length} faces found: show one person only`)
      const [face] = faces
      if (face === undefined) return null
      const { x, y, width, height } = face.box
      return new faceapi.Rect(x, y, width, height)
    } finally {
      tensor.dispose()
    }
  }

  async #cut(canvas: OffscreenCanvas, face: faceapi.Rect): Promise<ImageData> {
    const [x, y] = [Math.max(0, Math.floor(face.x)), Math.max(0, Math.floor(face.y))]
    const width = Math.min(canvas.width - x, Math.round(face.width))
    const height = Math.min(canvas.height - y, Math.round(face.height))
    const tensor = tf.browser.fromPixels(context2d(canvas).getImageData(x, y, width, height))
    try {
      const landmarks = (await this.#landmarks.detectLandmarks(tensor)) as faceapi.FaceLandmarks68
      return cutChip(canvas, chipTransform(landmarks.positions.map((point) => ({ x: point.x + x, y: point.y + y }))))
    } finally {
      tensor.dispose()
    }
  }
}

/** face-api looks for a window. A worker has none, and needs none: only tensors go in. */
function workerEnvironment(): faceapi.Environment {
  class Nothing {}
  const environment = {
    Canvas: OffscreenCanvas, CanvasRenderingContext2D: OffscreenCanvasRenderingContext2D, ImageData, Image: Nothing, Video: Nothing,
    createCanvasElement: () => new OffscreenCanvas(1, 1),
  }
  return environment as unknown as faceapi.Environment
}

function tensors(manifest: Bytes, weights: Bytes): faceapi.tf.NamedTensorMap {
  const groups = JSON.parse(new TextDecoder().decode(manifest)) as { weights: faceapi.tf.io.WeightsManifestEntry[] }[]
  return tf.io.decodeWeights(weights.buffer, groups.flatMap((group) => group.weights))
}

async function fetchBytes(url: string): Promise<Bytes> {
  const response = await fetch(url).catch(() => null)
  if (!response?.ok) throw new UnavailableError('a file of the recogniser does not come; check the connection and reload')
  return new Uint8Array(await response.arrayBuffer())
}
