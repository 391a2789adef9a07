/** What went wrong, in words. */

import { say } from './texts'

/** When to try again is said once, also where the server has said it. */
export function failureText(kind: string, message: string, retryAfter: number | null): string {
  const again = retryAfter !== null && retryAfter > 0 && !message.includes('try again')
  return [say('failed', { kind, message }), ...(again ? [say('again', { seconds: Math.ceil(retryAfter) })] : [])].join(' ')
}
