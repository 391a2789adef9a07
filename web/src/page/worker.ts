/** The page's side of its worker, in which faces and keys live. */

import type { Action, Actions, Fault, Reply } from '../device/messages'
import type { Key } from '../wallet/locks'

/** What the worker could not do. */
export class Failure extends Error {
  constructor(readonly fault: Fault) {
    super(fault.message)
  }
}

/** What the worker tells without being asked. */
export interface Told {
  loading(share: number): void
  sent(message: Reply & { kind: 'sent' }): void
  /** A session waits for a film. */
  film(): void
}

const worker = new Worker(new URL('../device/worker.ts', import.meta.url), { type: 'module' })
interface Waiting {
  readonly resolve: (value: any) => void
  readonly reject: (error: Failure) => void
}
const waiting = new Map<number, Waiting>()
let count = 0

/** Something that was asked of the worker. */
export interface Asked<T> {
  readonly answer: Promise<T>
  /** Stops it; the answer is then a `Failure`, unless it was done already. */
  cancel(): void
}

/** Asks the worker for something. @param given what leaves the page for good, such as a frame. */
export function ask<A extends Action>(action: A, argument?: Parameters<Actions[A]>[0], given: Transferable[] = [], key: Key | null = null): Asked<ReturnType<Actions[A]>> {
  const id = count++
  const answer = new Promise<ReturnType<Actions[A]>>((resolve, reject) => {
    try {
      worker.postMessage({ id, action, argument, key }, given)
      waiting.set(id, { resolve, reject })
    } finally {
      key?.secret.fill(0) // the worker has it now, and wipes it after use
    }
  })
  return { answer, cancel: () => { worker.postMessage({ cancel: id }) } }
}

/** Who waits for an answer, and does not any more. */
function taken(id: number): Waiting | undefined {
  const one = waiting.get(id)
  waiting.delete(id)
  return one
}

/** Listens to what the worker tells. */
export function listen(told: Told): void {
  worker.onmessage = ({ data }: MessageEvent<Reply>) => {
    switch (data.kind) {
      case 'ready': break
      case 'loading': told.loading(data.share); break
      case 'sent': told.sent(data); break
      case 'film': told.film(); break
      case 'done': taken(data.id)?.resolve(data.value); break
      case 'failed': taken(data.id)?.reject(new Failure(data.fault)); break
    }
  }
}
