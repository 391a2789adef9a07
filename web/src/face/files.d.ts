/** What `weights/plugin.ts` puts together from the files that Python reads, too. */
declare module 'virtual:recogniser' {
  /** Weights and description of the detector, weights of the network as float16: where they are, how long, and their SHA-256. */
  export const files: readonly { readonly url: string; readonly bytes: number; readonly digest: string }[]
  /** Axes of the network's constants, in order, as TensorFlow Lite keeps them. */
  export const shapes: readonly (readonly number[])[]
  /** SHA-256 of every profile of this recogniser: a release names one. */
  export const digests: readonly string[]
  /** As `federation/recognition/templates.py`: points in 1/10000 of a pixel. */
  export const alignment: { readonly name: string; readonly side: number; readonly points: readonly (readonly [number, number])[] }
  /** As `federation/recognition/profile.py`. */
  export const preprocessing: { readonly mean_thousandths: readonly [number, number, number]; readonly divisor_thousandths: number }
}
