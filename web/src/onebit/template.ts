/** What a device keeps of one template: the seed of its code and the pad that hides it. As `federation/onebit/template.py`. */

import { type Bytes, concat, type RandomBytes, unpackBits } from '../bytes'
import { UsageError } from '../errors'
import { CodeSeed, SEED_BYTES } from './code'
import { type Parameters, parametersFor } from './parameters'
import { paddedTemplate, TEMPLATE_SALT_BYTES } from './wire'

/**
 * Code seed and one-time pad of one template. They are drawn together and make one template: a pad that is used twice shows
 * where two codes differ, a seed that is used twice lets two templates be connected. What was read back makes none.
 */
export class TemplateSecret {
  readonly parameters: Parameters
  readonly #seed: CodeSeed
  readonly #pad: Bytes
  #isFresh: boolean

  private constructor(parameters: Parameters, seed: CodeSeed, pad: Bytes, isFresh: boolean) {
    this.#isFresh = isFresh
    this.parameters = parameters
    this.#seed = seed
    this.#pad = pad
  }

  /** A fresh seed and a fresh pad. */
  static generate(parameters: Parameters, random: RandomBytes): TemplateSecret {
    return new TemplateSecret(parameters, CodeSeed.generate(random), random(parameters.codeBytes), true)
  }

  /**
   * Reads what `secretBytes` gave; the length of the pad says which parameters they are.
   *
   * @throws UsageError the length is wrong.
   */
  static fromSecretBytes(data: Uint8Array): TemplateSecret {
    const parameters = parametersFor(8 * (data.length - SEED_BYTES))
    return new TemplateSecret(parameters, new CodeSeed(data.slice(0, SEED_BYTES)), data.slice(SEED_BYTES) as Bytes, false)
  }

  /** Seed, then pad. For the encrypted wallet only. */
  secretBytes(): Bytes {
    return concat(this.#seed.secretBytes(), this.#pad)
  }

  /** Code of an adapted vector under the pad: y of a probe. Uniform to whoever lacks the pad. */
  paddedCode(vector: Float64Array): Uint8Array {
    const pad = unpackBits(this.#pad)
    return this.#seed.code(vector, this.parameters.slots).map((bit, i) => bit ^ pad[i])
  }

  /**
   * The template message for the server. Keep neither it nor its salt.
   *
   * @throws UsageError this secret made one, or was read back from where it was kept.
   */
  template(vector: Float64Array, random: RandomBytes): Bytes {
    if (!this.#isFresh) throw new UsageError('a template needs a secret that was drawn for it alone; draw another')
    this.#isFresh = false
    const salt = random(TEMPLATE_SALT_BYTES)
    return paddedTemplate(salt, this.paddedCode(vector), this.parameters)
  }
}
