/** How far a device got. The server's word counts; this is what the device remembers of it. */
export type EnrolmentState = 'started' | 'enrolled' | 'revoked' | 'erased'

/** Whether the template is gone for good: another enrolment takes other keys. */
export const isOver = (state: string): boolean => state === 'revoked' || state === 'erased'
