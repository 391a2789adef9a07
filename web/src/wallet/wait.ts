/**
 * How long the service asked this device to wait, kept beside the wallet: after a reload, too, nobody looks into the camera in vain.
 *
 * Advice to the page only. It lies in clear and nobody vouches for it; whoever deletes it is told anew by the service, which decides.
 */

import { transact } from './wallet'

const WAIT = 'wait'
/** Nobody is asked to wait longer than a day (`server/matching`). */
const LONGEST_SECONDS = 86_400

/** As `server/storage/limits.py`: the first wait, which doubles with every further failure in a row, up to a day. */
const FIRST_SECONDS = 30

/** A wait of the device with that short name. */
export interface Wait {
  readonly name: string
  /** Seconds since 1970 at which it is over. */
  readonly until: number
  /** How long it was, in seconds. */
  readonly of: number
}

/** How many seconds the service will ask for after so many failures in a row; 0 for none. */
export const waitAfter = (failures: number, free: number): number => (failures < free ? 0 : Math.min(FIRST_SECONDS * 2 ** (failures - free), LONGEST_SECONDS))

/** Keeps the last one. @throws UsageError the browser does not store. */
export async function keepWait(wait: Wait): Promise<void> {
  await transact('readwrite', (store) => store.put(wait, WAIT))
}

/** The wait of a device that is not over, or null. One that is longer than it was, or than any, is none: somebody set the clock. */
export async function keptWait(name: string | null, now: number): Promise<Wait | null> {
  const wait = await transact<Wait | undefined>('readonly', (store) => store.get(WAIT))
  if (wait === undefined || wait.name !== name || !(wait.of <= LONGEST_SECONDS)) return null
  const left = wait.until - now
  return left > 0 && left <= wait.of ? wait : null
}
