/** Several pictures of one person become one embedding, as `federation/recognition/fusing.py`. Before any adapter. */

/** The mean of embeddings of unit norm, of unit norm again; zero where they cancel out. */
export function fused(embeddings: readonly Float64Array[]): Float64Array {
  const mean = embeddings[0].map((_, i) => embeddings.reduce((sum, one) => sum + one[i], 0) / embeddings.length)
  const norm = Math.hypot(...mean)
  return norm > 0 ? mean.map((x) => x / norm) : mean
}
