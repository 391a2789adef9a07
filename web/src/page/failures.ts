/** What went wrong, in words. A sentence of the service, or of this program, is not among them: it stands folded, as what it is. */

import type { Fault } from '../device/messages'
import { say } from './texts'

/** Kinds of errors that people are told apart; every other one is like one of them, or just something that went wrong. */
const ALIKE: Readonly<Record<string, string>> = { MalformedMessageError: 'PeerError', OutdatedWalletError: 'UsageError', WrongKeyError: 'UsageError' }

/** What kind of failure it is, for a heading. */
export const titleOf = ({ kind }: Fault): string => say('failed.title', { kind: ALIKE[kind] ?? kind })

/**
 * What happened, and what to do.
 *
 * @param who to turn to.
 * @param isNumbered whether the person sees several pictures with their numbers.
 */
export function textOf({ kind, why }: Fault, who: string, isNumbered = false): string {
  if (why === null) return say('failed.lead', { kind: ALIKE[kind] ?? kind, who })
  const told = say(why.name, why.values)
  const picture = why.values?.['picture']
  return isNumbered && picture !== undefined ? say('failed.picture', { picture, why: told }) : told
}
