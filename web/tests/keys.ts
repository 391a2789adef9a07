/** What locks wallets in tests: as a passkey gives it, so nothing is stretched. */

import type { Key } from '../src/wallet/locks'

const lock = { kind: 'passkey', credential: new Uint8Array(16).fill(5), salt: new Uint8Array(32).fill(6) } as const

export const KEY = { lock, secret: new Uint8Array(32).fill(7) } satisfies Key
