/** Every text that the page shows. To translate the page, translate this file. */

/** The formats of `client/faces/formats.py` that every browser reads. */
const IMAGES = 'JPEG, PNG, WebP, GIF or BMP'

/** Texts of fixed places, by the `data-text` of their element. */
export const TEXTS: Readonly<Record<string, string>> = {
  title: 'Verify your face without sending it',
  lead: 'Your picture is turned into numbers in this page. The server keeps them under a one-time pad that stays in this browser; each later picture is encrypted with a fresh key, and compared without being decrypted. The server learns one bit: accepted or not.',
  ready: 'Ready?',
  part_encryption: 'Encryption',
  part_recogniser: 'Face recogniser',
  part_deployment: 'What the server offers',
  part_wallet: 'Your keys',
  device: 'This device',
  consent: 'What you would agree to',
  enrol: 'Enrol',
  faces: 'Pictures of you',
  agree: 'I agree to the above. I can withdraw at any time, here.',
  enrol_button: 'Enrol with these pictures',
  verify: 'Verify',
  probe: 'You, now',
  verify_button: 'Verify',
  camera: 'Use the camera',
  file: 'or choose image files',
  take: 'Take pictures',
  close: 'Close',
  rights: 'What is yours',
  history_button: 'Show what the public log says about me',
  export_button: 'Show what the server holds about me',
  renew_button: 'Renew my consent with these pictures',
  revoke_button: 'Revoke: delete my template',
  erase_button: 'Erase everything about me',
  sent: 'What was sent',
  sent_lead: 'Every message of this page, byte by byte, since it was opened. Nothing else was sent, and nothing to anybody else: the browser forbids it to this page.',
  nothing_sent: 'Nothing yet.',
  confirm_yes: 'Yes, for good',
  confirm_no: 'No',
  credits: 'Homomorphic encryption by Microsoft SEAL through node-seal, detection and recognition by BlazeFace and MobileFaceNet on TensorFlow.js; all run here.',
}

/** Texts with something in them. */
export const SAY = {
  loading: 'Getting ready …',
  allReady: 'Ready.',
  working: 'Working …',
  states: {
    none: 'Not enrolled.',
    started: 'An enrolment was begun and did not finish. Enrol again, or verify if it did.',
    enrolled: 'Enrolled.',
    revoked: 'Revoked. Enrolling again makes a new key and an unlinkable template.',
    outdated: 'The keys in this browser are of an earlier version, whose templates no server uses any more. Enrol again.',
  },
  deviceName: (name: string) => `Name of this device: ${name}.`,
  answers: (used: number, most: number) => `It has answered ${used} of at most ${most} sessions.`,
  consentUntil: (date: string) => `Your consent is valid until ${date}.`,
  faces: (references: number) => `${references === 1 ? 'Two different pictures' : `Two to ${references + 1} different pictures, better more,`} of your face, alone and from the front. The last one only checks the ${references === 1 ? 'first' : 'others'}.`,
  probes: (frames: number) => frames === 1 ? 'A picture of your face, alone and from the front.' : `One to ${frames} different pictures of your face, better more, alone and from the front.`,
  fewerReferences: (averaged: number, most: number) => `${averaged} of the ${most} pictures that the threshold is set for will be averaged: you will be refused more often than with ${most + 1} pictures, the last of which checks the others.`,
  fewerFrames: (averaged: number, most: number) => `${averaged} of the ${most} pictures that the threshold is set for: the chance of being refused is higher than with ${most}.`,
  picture: (number: number, checks: boolean) => checks ? 'checks' : String(number),
  remove: (number: number) => `Remove picture ${number}`,
  tooMany: (most: number) => `Only the first ${most} pictures were taken.`,
  camera: (count: number) => count === 1 ? 'Look into the camera.' : `Look into the camera. ${count} pictures will be taken, a moment apart; move your head a little.`,
  taken: (taken: number, count: number) => `${taken} of ${count} taken.`,
  termsOf: {
    who: 'Who asks', purpose: 'What for', relies: 'Who relies on the answer', kept: 'Where your padded template is kept',
    long: 'How long', otherwise: 'Without your face', contest: 'To contest a decision', notice: 'Privacy notice',
    registered: 'Name in the public rules', audit: 'Audit of the recogniser', fmr: 'How often somebody else is accepted', wolf: 'A stolen wallet without a face is accepted at', attacks: 'What it gives away of those who trained it', makers: 'Its maker signs with', auditors: 'Its auditor signs with',
  },
  long: (days: number, retention: number) => `${days} days, then deleted ${retention === 0 ? 'at once' : `after ${retention} days`}`,
  audit: (verdict: string, until: string, trials: boolean) => `${verdict}, until ${until}${trials ? '; a release on trial will do here' : ''}`,
  audited: (verdict: string, people: number, fmr: string, fnmr: string) =>
    `${verdict} on ${people === 0 ? 'nobody knows how many' : people} people, where ${fmr} % false acceptances and ${fnmr} % false refusals were allowed in each group`,
  fmr: (stated: string, low: string, high: string, condition: string, basis: 'public' | 'checked' | 'measured', people: number) =>
    `${stated} % is aimed at, for pictures under the condition "${condition}"; it lies between ${low} and ${high} % with a probability of 90 %, ${{
      public: `as public sets of faces of ${people} people say, others than those who use this`,
      checked: `as public sets of faces say, checked privately on ${people} people for whom this was made`,
      measured: `as was measured privately on ${people} people for whom this was made`,
    }[basis]}`,
  attacks: (innocents: string, found: string, right: string, epsilon: string, delta: string) =>
    `Whoever accuses ${innocents === '0.1' ? 'one innocent in a thousand' : `${innocents} % of the innocents`} finds at most ${found} % of the members; of guesses at even odds at most ${right} % are right. Training alone is epsilon ${epsilon} at delta ${delta}.`,
  nobodyAsked: 'Nothing: nobody was asked for anything.',
  trial: (audit: string, rates: string) => `TRIAL: this release has passed no audit for general use (${audit}). With your stolen wallet and without your face somebody is accepted at: ${rates}.`,
  wolf: (mean: string, best: string, people: number) => `${mean} by the domain's mean, ${best} by the best image, of ${people} people`,
  wolfRate: (rate: string, low: string, high: string) => `${rate} % (${low} to ${high})`,
  notMeasured: 'not measured',
  enrolled: (position: number) => `Enrolled. The log has it as entry ${position}.`,
  notEnrolled: 'Not enrolled: the last picture does not match the others. Nothing was stored.',
  accepted: (position: number) => `Accepted. The log has this attempt as entry ${position}.`,
  notAccepted: (position: number) => `Not accepted. The log has this attempt as entry ${position}.`,
  assertion: 'Save the assertion for the organisation that asked.',
  renewed: (position: number) => `Your consent is renewed. The log has it as entry ${position}.`,
  notRenewed: (position: number) => `Not accepted, so the former consent counts. The log has this attempt as entry ${position}.`,
  revoked: 'Revoked: the log says that the server deleted your template.',
  erased: (position: number | null) => position === null ? 'Revoked, as the log proves. The server says that nothing else is held any more; the proof of that was lost on its way.' : `Erased. The log keeps a tombstone, entry ${position}, that only you can connect with you.`,
  held: (template: number, receipts: number, entries: number) =>
    `The server holds a padded template of ${template} bytes, whose digest is below, ${receipts} signed consents and what connects you with ${entries} entries of the log.`,
  noHistory: 'The log says nothing about this device.',
  event: (position: number, kind: string, time: string, outcome: string) => `Entry ${position}: ${kind}${outcome} on ${time}, proved to be in the log.`,
  confirmRevoke: 'Your template will be deleted for good. To verify again you have to enrol again.',
  confirmErase: 'Your template and everything that connects you with the log will be deleted for good.',
  noUsableFace: (problem: string) => `The camera sees no usable face, ${problem}. Sit alone, near, in the light, and look into it.`,
  noCamera: 'The camera is not available; choose an image file.',
  notAnImage: `Not a ${IMAGES} image: convert it to one of these.`,
  damaged: 'The image is damaged: export or copy it again.',
  message: (call: string, sent: number, received: number | null) => `${call}: ${sent} bytes sent, ${received === null ? 'no answer' : `${received} bytes received`}`,
  /** What could not be done. When to try again is said once, also where the server has said it. */
  failed: (kind: string, message: string, retryAfter: number | null) => {
    const again = retryAfter !== null && retryAfter > 0 && !message.includes('try again')
    return `${SAY.errors[kind] ?? kind}: ${message}.${again ? ` Try again in ${Math.ceil(retryAfter)} seconds.` : ''}`
  },
  errors: {
    UsageError: 'That does not work', RefusedError: 'Refused', ProofError: 'Proof missing or wrong: stopped',
    PeerError: 'The server, or whoever stands before it, broke the protocol: stopped',
    MalformedMessageError: 'The server, or whoever stands before it, broke the protocol: stopped',
    UnavailableError: 'Not available', UnusableImageError: 'Another picture is needed', Error: 'Failed',
  } as Readonly<Record<string, string>>,
}
