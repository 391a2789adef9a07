/** The frozen parameter sets of the one-bit match. `federation/onebit/parameters.py` derives and checks every number. */

import type { RandomBytes } from '../bytes'
import { UsageError } from '../errors'

/** One parameter set. A release chooses it by the length of its codes. */
export class Parameters {
  /** Part of every transcript. */
  readonly name: string
  /** The number by which messages name it. */
  readonly number: number
  /** N. */
  readonly ringDimension: number
  /** g: each of the N / g slots is the field of t^g elements. */
  readonly slotDegree: number
  /** t, a prime below 2^30. */
  readonly plainModulus: number
  /** q_0, q_1; a reply is switched down to q_0. */
  readonly dataPrimes: readonly [bigint, bigint]

  constructor(name: string, number: number, ringDimension: number, slotDegree: number, plainModulus: number, dataPrimes: readonly [bigint, bigint]) {
    this.name = name
    this.number = number
    this.ringDimension = ringDimension
    this.slotDegree = slotDegree
    this.plainModulus = plainModulus
    this.dataPrimes = dataPrimes
  }

  /** m, number of slots: one code bit each. */
  get slots(): number {
    return this.ringDimension / this.slotDegree
  }

  /** Bytes of a packed code, and of a pad. */
  get codeBytes(): number {
    return this.slots / 8
  }

  /** q_0, the modulus of a reply. */
  get replyPrime(): bigint {
    return this.dataPrimes[0]
  }
}

/** 2048 code bits in fields of 116 bits. */
export const ONEBIT_2048 = new Parameters('intaglio-onebit-2048/2', 1, 8192, 4, 536_752_129, [1_125_899_906_826_241n, 274_877_562_881n])
/** 1024 code bits in fields of 192 bits. */
export const ONEBIT_1024 = new Parameters('intaglio-onebit-1024/2', 2, 8192, 8, 16_709_633, [70_368_743_669_761n, 4_294_475_777n])

/** All there are. */
export const PARAMETER_SETS: readonly Parameters[] = [ONEBIT_2048, ONEBIT_1024]

/**
 * The parameter set for codes of that many bits.
 *
 * @throws UsageError there is none.
 */
export function parametersFor(codeLength: number): Parameters {
  const found = PARAMETER_SETS.find(({ slots }) => slots === codeLength)
  if (found === undefined) throw new UsageError(`codes have ${PARAMETER_SETS.map(({ slots }) => slots).join(' or ')} bits, not ${codeLength}`)
  return found
}

/** `count` numbers, uniform in -1, 0, 1 by rejection from the low two bits of 32-bit words: SEAL's distribution of keys. */
export function ternary(count: number, random: RandomBytes): Int8Array {
  const drawn = new Int8Array(count)
  let done = 0
  while (done < count) {
    const words = random(4 * (count - done))
    for (let i = 0; i < words.length; i += 4) {
      const candidate = words[i] & 3
      if (candidate < 3) drawn[done++] = candidate - 1
    }
  }
  return drawn
}
