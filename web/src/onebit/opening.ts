/**
 * The decryption of a reply, in time that does not depend on what it decrypts to, as far as JavaScript goes.
 *
 * SEAL trims leading zeros of a plaintext, and a server that lies makes a plaintext of zeros or a full one by a bit of its
 * choice. So the phase c_0 + c_1 s modulo q_0, and what it is modulo t, are computed here.
 */

import type { Parameters } from './parameters'
import { Field, transformOf } from './ntt'

/** The secret key as it multiplies a component: its values modulo q_0. */
export class OpeningKey {
  readonly #parameters: Parameters
  readonly #values: Float64Array

  /** @param coefficients -1, 0 or 1 each. */
  constructor(parameters: Parameters, coefficients: Int8Array) {
    const prime = Number(parameters.replyPrime)
    this.#parameters = parameters
    this.#values = Float64Array.from(coefficients, (one) => one + prime * Number(one < 0))
    transformOf(prime, parameters.ringDimension).forward(this.#values)
  }

  /** All N coefficients mod t of a reply, from the values of its two components modulo q_0, one after the other. */
  decrypt(components: BigUint64Array): Float64Array {
    const { ringDimension: n, plainModulus: t, dataPrimes } = this.#parameters
    const [q, plain] = [Number(dataPrimes[0]), new Field(t)]
    const transform = transformOf(q, n)
    const { field } = transform
    const phase = new Float64Array(n)
    for (let i = 0; i < n; i++) phase[i] = field.plus(Number(components[i]), field.times(Number(components[n + i]), this.#values[i]))
    transform.backward(phase)
    const dropped = Number(dataPrimes[1] % BigInt(t)) // the switch to q_0 divided by q_1
    for (let i = 0; i < n; i++) {
      const centred = phase[i] - q * Math.floor((2 * phase[i]) / q)
      phase[i] = plain.times(plain.reduce(centred), dropped)
    }
    return phase
  }

  /** Wipes the key. */
  [Symbol.dispose](): void {
    this.#values.fill(0)
  }
}
