/** Which page this is: what it found out about itself, what that is worth, and who can find out better. */

import type { SelfReport } from '../log/software'
import { h } from './dom'
import { list } from './terms'
import { say } from './texts'
import type { Doing } from './views'

/** For whoever looks closer. What was found is shown once somebody asked: every file is fetched again for it. */
export function whichPage(found: SelfReport | null, { ask }: Pick<Doing, 'ask'>): HTMLElement[] {
  const check = h('button', { type: 'button', id: 'self-button', onclick: () => { ask('self') } }, say('self.button'))
  return [h('section', { id: 'self' }, h('h2', {}, say('self.title')),
    ...(found === null ? [] : [list(rows(found))]),
    h('p', { className: 'small' }, say('self.worth'), ' ', h('code', {}, say('self.command'))),
    h('div', { className: 'choices' }, check))]
}

function rows({ hash, files, others, log, position, commit, signer }: SelfReport): (readonly [string, string | Node])[] {
  const said: (readonly [string, string | Node])[] = [
    [say('self.hash'), h('code', { id: 'self-hash' }, hash)],
    [say('self.files'), others.length === 0 ? say('self.as_built', { files }) : say('self.not_as_built', { others: others.join(', ') })],
    [say('self.log'), h('span', { id: 'self-log' }, say('self.says', { log, position: position ?? 0 }))],
  ]
  if (log !== 'none') said.push([say('self.commit'), h('code', {}, commit)], [say('self.signer'), h('code', {}, signer)])
  return said
}
