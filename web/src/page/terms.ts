/** What a consent is about, and what the release and its audit say: the short form, and everything. */

import type { Status } from '../device/messages'
import type { WolfRate, WolfRates } from '../rules/manifest'
import { type Audited, bound, exactPercent, isPassed, percent } from '../rules/rates'
import { h } from './dom'
import { day, numeral, say } from './texts'

type Row = readonly [string, string | Node]

/** A name of the public rules, as people read it. */
export const readable = (name: string): string => name.replaceAll(/[-_.]/g, ' ')

/** An address that can be followed, without its scheme; anything else as it is. */
export function followed(address: string): Node {
  if (!/^(?:https:|mailto:)/.test(address)) return h('span', {}, address)
  return h('a', { href: address, rel: 'noreferrer', target: address.startsWith('https:') ? '_blank' : '' }, address.replace(/^mailto:/, ''))
}

export const list = (rows: readonly Row[], lang = ''): HTMLDListElement =>
  h('dl', {}, ...rows.flatMap(([name, value]) => [h('dt', {}, name), h('dd', lang === '' ? {} : { lang }, value)]))

/** What somebody has to know before they agree. */
export const shortTerms = ({ terms, purpose, days }: Status): HTMLElement => list([
  [say('terms.who'), terms.controller.name],
  [say('terms.purpose'), readable(purpose)],
  [say('terms.relies'), terms.audience],
  [say('terms.long'), say('terms.lasts', { days, retention: terms.retentionDays })],
  [say('terms.otherwise'), h('span', { lang: terms.language }, terms.alternative)],
  [say('terms.contest'), followed(terms.contest)],
  [say('terms.notice'), followed(terms.notice)],
])

/** Everything. Keys are folded once more. */
export function allTerms(status: Status): HTMLElement {
  const { terms, purpose, audience, days, identifier, trust, releaseEnds, wolf, fmr, audited, epsilon, delta, attacks } = status
  const { controller } = terms
  const rows: Row[] = [
    [say('terms.who'), `${controller.name}, ${controller.address}`],
    [say('terms.contact'), followed(controller.contact)],
    [say('terms.purpose'), purpose],
    [say('terms.relies'), audience],
    [say('terms.kept'), terms.storageLocation],
    [say('terms.long'), say('terms.lasts', { days, retention: terms.retentionDays })],
    [say('terms.otherwise'), h('span', { lang: terms.language }, terms.alternative)],
    [say('terms.contest'), followed(terms.contest)],
    [say('terms.notice'), followed(terms.notice)],
    [say('terms.registered'), identifier],
    [say('terms.audit'), say('terms.audited', { audited: auditText(audited), until: day(releaseEnds), trials: trust.acceptsTrials })],
    [say('terms.fmr'), say('terms.rate', { ...fmr, stated: local(exactPercent(fmr.stated)), low: local(percent(fmr.low)), high: local(percent(fmr.high)) })],
    [say('terms.wolf'), wolfText(wolf)],
    [say('terms.attacks'), attacks === null ? say('terms.nobody_asked') : say('terms.finds', {
      thousandth: attacks.falseAccusations === 0.001, innocents: local(exactPercent(attacks.falseAccusations)),
      found: local(bound(attacks.detected)), right: local(bound(attacks.right)), epsilon: numeral(epsilon), delta: numeral(delta),
    })],
  ]
  const keys = list([[say('terms.makers'), code(trust.makers)], [say('terms.auditors'), code(trust.auditors)]])
  return h('div', {}, list(rows), h('details', {}, h('summary', {}, say('technical.keys')), keys))
}

/** What an acceptance is worth: never that somebody is somebody. */
export function worth({ fmr, audited }: Status): readonly string[] {
  const many = 10 ** (Math.ceil(-Math.log10(fmr.high)) + 1)
  return [
    say('accepted.lead', { high: local(percent(fmr.high)), basis: fmr.basis, people: fmr.people, trial: !isPassed(audited) }),
    say('accepted.plain', { many, few: Math.ceil(fmr.high * many - 1e-9) }),
  ]
}

/** Of a release that no audit has passed for general use: that it has not, and what a stolen wallet is worth. Null for others. */
export function trial({ audited, wolf }: Status): HTMLElement | null {
  if (isPassed(audited)) return null
  return h('details', { className: 'trial' }, h('summary', {}, say('trial.title')), h('p', {}, say('trial.plain')),
    h('details', {}, h('summary', {}, say('trial.figures')), h('p', {}, say('trial.text', { audited: auditText(audited), wolf: wolfText(wolf) }))))
}

const code = (keys: readonly string[]): HTMLElement => h('code', {}, keys.join(' '))

/** A number that was written with a point, as the language writes it. */
const local = (digits: string): string => numeral(Number(digits))

const auditText = ({ verdict, people, fmrLimit, fnmrLimit }: Audited): string =>
  say('audit.said', { verdict, people, fmr: local(exactPercent(fmrLimit)), fnmr: local(exactPercent(fnmrLimit)) })

function wolfText(wolf: WolfRates | null): string {
  if (wolf === null) return say('wolf.unknown')
  const rated = ({ errors, trials, low, high }: WolfRate): string =>
    say('wolf.rate', { rate: local(percent(errors / trials)), low: local(percent(Number(low))), high: local(percent(Number(high))) })
  return say('wolf.said', { mean: rated(wolf.mean), best: rated(wolf.best), people: wolf.people })
}
