/** What the page shows in every state: all of its words, in every language, and whether everybody can use it. */

import '../src/page/style.css'

import { commands, page } from '@vitest/browser/context'
import axe from 'axe-core'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { h } from '../src/page/dom'
import { Pictures } from '../src/page/pictures'
import { browserOf, systemOf } from '../src/page/platform'
import { type Found, Messages } from '../src/page/records'
import { show } from '../src/page/shell'
import { screenOf, type Situation, waitingFor } from '../src/page/states'
import { allTerms, worth } from '../src/page/terms'
import { type Catalogue, CATALOGUES, speak } from '../src/page/texts'
import { clock, type Doing } from '../src/page/views'
import html from '../index.html?raw'
import { DIALOGS, ENROLLED, FOUND, NOBODY, NOW, SITE, SITUATIONS } from './situations'

const NAMES = Object.keys(SITUATIONS)
const done: string[] = []
const note = (name: string) => (...given: unknown[]): void => { done.push([name, ...given.map((one) => JSON.stringify(one))].join(' ')) }
const element = (selector: string): HTMLElement => document.querySelector<HTMLElement>(selector)!

/** The page in one state, with every fold open when `isOpen`. */
function shown(name: string, isOpen = false, found: Found = FOUND[name] ?? null, situation: Situation = SITUATIONS[name]): void {
  for (const dialog of document.querySelectorAll('dialog')) dialog.close(), dialog.replaceChildren()
  const task = situation.place.at === 'looking' ? situation.place.task : 'verify'
  const doing: Doing = {
    go: note('go'), bring: note('bring'), look: note('look'), prepare: note('prepare'), film: note('film'), goOn: note('goOn'), change: note('change'), lock: note('lock'), ask: note('ask'), cancel: note('cancel'), begin: note('begin'), speak: note('speak'),
    decline: note('decline'), reload: note('reload'), devices: { admit: note('admit'), rename: note('rename'), remove: note('remove'), lost: note('lost') }, camera: h('div', { className: 'camera' }), files: new Pictures(task, task === 'enrol' ? 4 : 2, note('files')).element,
  }
  element('#screen').removeAttribute('data-name')
  show(situation, doing, found, new Messages())
  DIALOGS[name]?.()
  if (isOpen) for (const fold of document.querySelectorAll('details')) fold.open = true
}

const fresh = (): void => { document.body.innerHTML = new DOMParser().parseFromString(html, 'text/html').body.innerHTML }

beforeEach(() => {
  done.length = 0
  fresh()
  speak('en')
})
afterEach(() => { document.body.replaceChildren() })

/** Everything that is to be read, a line for every piece, and the names of what is shown without words. */
function lines(root: Element): string[] {
  const found: string[] = []
  for (const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT); walk.nextNode() !== null;) {
    const { currentNode: node } = walk
    if (node instanceof HTMLElement && node.hasAttribute('aria-label')) found.push(`[${node.getAttribute('aria-label')}]`)
    else if (node instanceof Text && node.textContent!.trim() !== '') found.push(node.textContent!.trim())
  }
  return found
}

test.each(Object.keys(CATALOGUES))('the whole text of every state, in %s', async (language) => {
  speak(language)
  const said = NAMES.map((name) => {
    shown(name)
    // What whoever looks closer reads is the same below most screens: it is written down once for each kind of device.
    if (name !== 'welcome' && name !== 'home') document.getElementById('technical')?.replaceChildren()
    const seen = document.querySelector('dialog[open]') ?? document.body // behind a dialog is a screen of before
    return `# ${name}\n\n${document.title}\n\n${lines(seen).join('\n')}\n`
  })
  await expect(said.join('\n')).toMatchFileSnapshot(`./screens/${language}.txt`)
})

test('what the page says of itself is folded away with its worth, and says what the log has', () => {
  const report = { hash: 'ab'.repeat(32), files: 23, others: [], log: 'has', position: 7, commit: 'cd'.repeat(20), signer: 'ef'.repeat(32) } as const
  const told: Readonly<Record<string, (typeof report)['log'] | 'another' | 'none'>> = { 'has this hash: entry 7': 'has', 'has another hash: entry 7': 'another', 'does not say which program runs': 'none' }
  for (const [words, log] of Object.entries(told)) {
    fresh()
    shown('home', false, { self: { ...report, log } })
    expect(element('#technical')).toHaveProperty('open', true)
    expect(element('#self-hash').textContent).toBe(report.hash)
    expect(element('#self-log').textContent).toContain(words)
    expect(element('#self').textContent).toContain('a page that somebody changed can say the same')
    expect(element('#self').textContent).toContain('python -m examples.publishing page ADDRESS')
    expect(element('#self').textContent!.includes(report.commit)).toBe(log !== 'none')
    expect(element('#yours')).toHaveProperty('open', false)
  }
  fresh()
  shown('home', false, { self: { ...report, others: ['assets/a.js'] } })
  expect(element('#self').textContent).toContain('not as the list of its build has them: assets/a.js')
  fresh()
  shown('home')
  expect(document.querySelector('#self-hash')).toBeNull()
  element('#self-button').click()
  expect(done).toEqual(['ask "self"'])
})

test('every screen that there can be is among the states', () => {
  const kinds = new Set(NAMES.map((name) => screenOf(SITUATIONS[name]).kind))
  expect([...kinds].sort()).toEqual([
    'accepted', 'admitted', 'agree', 'asked', 'behind', 'broken', 'came-over', 'closed', 'code', 'ended', 'enrolled', 'enrolled-not', 'erased', 'failed', 'film', 'forgotten', 'home', 'kept', 'loading', 'lock', 'look', 'lost', 'prepare', 'refused', 'removed', 'renewed', 'revoked',
    'unreachable', 'unserved', 'waited', 'waiting', 'welcome', 'working',
  ])
})

test('in no state is there a word that is not of the catalogues, or of the deployment', () => {
  const marked = Object.fromEntries(Object.entries(CATALOGUES['en']).map(([name, message]) => [name, `\u27e6${message}\u27e7`])) as unknown as Catalogue
  speak('en', marked)
  const { terms } = NOBODY
  const foreign = [
    terms.controller.name, `${terms.controller.name}, ${terms.controller.address}`, terms.audience, `${terms.audience} (${terms.controller.name})`, terms.alternative, terms.storageLocation,
    'privacy@example.org', 'contest@example.org', terms.notice, NOBODY.purpose, 'door access', NOBODY.identifier, ENROLLED.name, 'My phone', '0:47', '0:08',
    NOBODY.trust.makers.join(' '), NOBODY.trust.auditors[0], `${SITE.client} (${SITE.operator})`, SITE.site,
    'mfrg-g2ts-ovrw-42lb-mfrg-g2ts-ovrw-42lb',
  ]
  for (const name of NAMES) {
    fresh()
    shown(name)
    for (const node of document.querySelectorAll('p[lang=en], pre, #languages')) node.remove() // words of a program; a token; names of languages
    for (const line of lines(document.body)) expect(/^\[?\u27e6[^]*\u27e7\]?$/.test(line) || foreign.includes(line), `${name}: ${line}`).toBe(true)
  }
})

describe('there is one thing to do', () => {
  test.each(NAMES)('%s', (name) => {
    shown(name, true)
    const filled = [...document.querySelectorAll('.card .main')].filter((one) => one.closest('.files') === null)
    expect(filled.length).toBeLessThanOrEqual(1)
    for (const one of document.querySelectorAll('.destructive')) expect(one.classList.contains('main')).toBe(false)
    expect(document.querySelectorAll('h1')).toHaveLength(1)
  })
})

test('a consent is never ticked before, and nothing goes on without it', () => {
  for (const name of NAMES) {
    shown(name, true)
    for (const box of document.querySelectorAll<HTMLInputElement>('input[type=checkbox]')) expect(box.checked, name).toBe(false)
  }
  shown('agree, with an invitation')
  const [go] = document.querySelectorAll<HTMLButtonElement>('.card .main')
  go.click()
  expect(done).toEqual([])
  element('#agree').click()
  go.click()
  expect(done).toEqual(['look "enrol"'])
  element('#agree').click()
  expect(go.disabled).toBe(true)
  element('#agree').click()
  shown('welcome')
  shown('agree')
  expect(element('#agree')).toHaveProperty('checked', false)
})

test.each([
  ['', ''], ['abcd-efgh', '8 of 32 letters and digits from 2 to 7'], ['1'.repeat(32), '0 of 32 letters and digits from 2 to 7'],
])('with "%s" for a ticket nobody enrols, and is told how much is there', (typed, said) => {
  shown('agree')
  const [go] = document.querySelectorAll<HTMLButtonElement>('.card .main')
  const field = element('#ticket') as HTMLInputElement
  const type = (text: string): void => { field.value = text; field.dispatchEvent(new Event('input')); field.dispatchEvent(new Event('change')) }
  element('#agree').click()
  type(typed)
  expect([go.disabled, element('#ticket-share').textContent]).toEqual([true, said])
  type('ABCD EFGH IJKL MNOP QRST UVWX YZ23 4567')
  expect([go.disabled, element('#ticket-share').textContent, done.at(-1)]).toEqual([false, '', 'bring "ABCD EFGH IJKL MNOP QRST UVWX YZ23 4567"'])
})

test.each([
  ['revoked', 'valid until'], ['erased', 'valid until'], ['welcome, after a withdrawal', 'valid until'], ['accepted', 'It is you'], ['unreachable', 'Ready'], ['loading', 'Ready'],
])('the screen %s does not say "%s"', (name, words) => {
  shown(name, true)
  expect(document.body.textContent).not.toContain(words)
})

test('whoever has to wait before the next try is not sent to the camera', () => {
  const buttons = (name: string): (string | null)[] => {
    shown(name)
    return [...document.querySelectorAll('.card .buttons button')].map(({ textContent }) => textContent)
  }
  expect(buttons('refused')).toEqual(['Try again', 'Back'])
  expect(buttons('refused, with the last free try')).toEqual(['Show how long', 'Back'])
})

test.each([
  ['failed, not allowed', 'look "verify"'], ['failed, removed by another device', 'go {"at":"agreeing","task":"enrol"}'], ['failed, closed after failures', 'ask "revoke"'],
  ['failed, of a stranger', 'ask "forget"'], ['failed, for want of an issuer', 'go {"at":"start"}'], ['asked, and it cannot be served', 'decline'],
])('%s: the first button does what helps, and only a closed template is withdrawn', (name, does) => {
  shown(name)
  document.querySelector<HTMLElement>('.card .buttons button')!.click()
  expect(done).toEqual([does])
  expect(element('.card').textContent).not.toMatch(/withdraw/i)
})

test('whoever saves a statement is told where it is, and that nobody has been told', () => {
  shown('accepted, for a site')
  const save = element('.card a.main')
  save.addEventListener('click', (event) => { event.preventDefault() })
  expect(element('#saved').textContent).toBe('')
  save.click()
  expect(element('#saved').textContent).toMatch(/assertion\.jwt among your downloads\. example\.org has not been told\./)
})

/** What a click, or a form that is sent, does; and what stands in no text: where links lead, how far a bar is, which fold is open. */
function deeds(name: string): string[] {
  shown(name)
  const found: string[] = []
  for (const fold of document.querySelectorAll('details')) if (fold.open) found.push(`open: ${fold.querySelector('summary')!.textContent}`)
  for (const mark of document.querySelectorAll('.card .mark')) found.push(mark.className)
  for (const bar of document.querySelectorAll('progress')) found.push(`bar: ${bar.getAttribute('value')} ${bar.getAttribute('aria-label')}`)
  for (const step of document.querySelectorAll('.steps li')) found.push(`step: ${step.textContent} ${step.className}${step.hasAttribute('aria-current') ? 'now' : ''}`)
  for (const link of document.querySelectorAll('a')) {
    link.addEventListener('click', (event) => { event.preventDefault() })
    found.push(`link: ${link.textContent} ${link.getAttribute('href')!.replace(/^blob:.*/, 'a file')} ${link.download} ${link.target} ${link.rel}`)
  }
  const page = document.querySelector('dialog[open]') ?? document.body
  for (const field of page.querySelectorAll<HTMLInputElement | HTMLTextAreaElement>('input, textarea')) {
    found.push(`field: ${[field.id, field.type, field.name, field.autocomplete, field.value.length < 9 ? field.value : '...', field.required ? 'required' : '', field.getAttribute('minlength') ?? '', field.getAttribute('maxlength') ?? ''].join(' ')}`)
    if (field.id === 'code') field.value = 'mfrg-g2ts-ovrw-42lb-mfrg-g2ts-ovrw-42lb'
    else if (field.type === 'checkbox') field.click()
    else if (field.type === 'password' || field.id === 'code-name') field.value = 'long enough'
    else if (field.id === 'ticket') { field.value = 'a ticket'; field.dispatchEvent(new Event('change')) }
  }
  for (const button of page.querySelectorAll<HTMLButtonElement>('button')) {
    if (button.closest('.files') !== null) continue
    done.length = 0
    const told = `button: ${button.textContent}${button.value === '' ? '' : ` [${button.value}]`} ${button.className}${button.autofocus ? ' first' : ''}`
    const isOff = button.disabled
    if (button.form?.method !== 'dialog') button.click()
    found.push(isOff ? `${told} (off)` : `${told} -> ${done.join(', ')}`)
  }
  return found
}

test('in every state every button does this, and every link leads there', async () => {
  const below = deeds('home').join('\n')
  const said = NAMES.map((name) => {
    const all = deeds(name)
    return `# ${name}\n\n${all.filter((line) => name === 'home' || !line.startsWith('link') || !below.includes(line)).join('\n')}\n`
  })
  await expect(said.join('\n')).toMatchFileSnapshot('./told/buttons.txt')
})

test.each([
  ['enrol', 'go {"at":"agreeing","task":"enrol"}'], ['over', 'go {"at":"agreeing","task":"over"}'], ['verify', 'look "verify"'], ['renew', 'look "renew"'], ['admit', 'look "admit"'], ['remove', 'look "remove"'],
  ['revoke', 'ask "revoke"'], ['erase', 'ask "erase"'], ['export', 'ask "export"'], ['history', 'ask "history"'], ['devices', 'ask "devices"'], ['backup', 'ask "backup"'], ['code', 'ask "code"'], ['lost', 'ask "lost"'], ['self', 'ask "self"'],
] as const)('what failed, or had to wait, is tried again: %s', (on, does) => {
  for (const name of ['failed, out of reach', 'waited']) {
    done.length = 0
    const { place, ...situation } = SITUATIONS[name]
    shown(name, false, null, { ...situation, place: { ...place as Situation['place'] & { at: 'failed' }, on } })
    document.querySelector<HTMLElement>('.card .main')!.click()
    expect(done).toEqual([does])
  }
})

test.each([['verify'], ['renew'], ['admit'], ['remove']] as const)('whoever is refused in %s tries that again', (task) => {
  for (const failures of [2, 5]) {
    done.length = 0
    shown('refused', false, null, { ...SITUATIONS['refused'], status: { ...ENROLLED, failures }, place: { at: 'done', task, outcome: { matched: false, position: 1, assertion: null } } })
    document.querySelector<HTMLElement>('.card .main')!.click()
    expect(done).toEqual([`look "${task}"`])
  }
})

test('a new screen begins at its top, with its heading for a screen reader, in its language', () => {
  const scrolled = vi.spyOn(globalThis, 'scrollTo')
  for (const [i, language] of ['de', 'en'].entries()) {
    speak(language)
    shown('home')
    expect([document.documentElement.lang, document.activeElement, document.body.dataset['screen']]).toEqual([language, element('h1'), 'home'])
    expect([scrolled.mock.calls.length, scrolled.mock.lastCall]).toEqual([i + 1, [0, 0]])
  }
  fresh()
  shown('loading')
  expect(document.activeElement).toBe(document.body)
  scrolled.mockRestore()
})

test.each([
  [0.002, '10,000', '20', '0.2'], [0.0015, '10,000', '15', '0.15'], [0.0021234, '10,000', '22', '0.212'], [0.001, '10,000', '10', '0.1'], [0.0003, '100,000', '30', '0.03'], [0.03, '1,000', '30', '3'],
])('of a false match rate of at most %f it is said how many of how many others would be accepted, too, rounded up', (high, many, few, percent) => {
  const [sure, plain] = worth({ ...ENROLLED, fmr: { ...ENROLLED.fmr, high } })
  expect(plain).toBe(`Of ${many} other people in front of this device, up to ${few} would have been accepted, too.`)
  expect(sure).toContain(`at most ${percent} %`)
})

test.each([[0.001, 'accuses one innocent in a thousand finds at most'], [0.01, 'accuses 1 % of the innocents finds at most']])('what an attacker finds is said for %f of the innocents', (falseAccusations, words) => {
  const terms = allTerms({ ...ENROLLED, attacks: { ...ENROLLED.attacks!, falseAccusations } }).textContent
  expect(terms).toContain(words)
})

test.each([
  ['Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Edg/120.0.0.0', 'Edge', 'Windows'],
  ['Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 OPR/106.0.0.0', 'Opera', 'Mac'],
  ['Mozilla/5.0 (Linux; Android 13; SM-S901B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/23.0 Chrome/115.0.0.0 Mobile Safari/537.36', 'Samsung', 'Android'],
  ['Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101 Firefox/121.0', 'Firefox', 'Linux'],
  ['Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/121.0 Mobile/15E148 Safari/605.1.15', 'Firefox', 'iPhone'],
  ['Mozilla/5.0 (iPad; CPU OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/120.0.6099.119 Mobile/15E148 Safari/604.1', 'Chrome', 'iPad'],
  ['Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36', 'Chrome', 'ChromeOS'],
  ['Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Safari/605.1.15', 'Safari', 'Mac'],
  ['something', 'other', 'other'],
])('what says %s is known as %s on %s', (said, browser, system) => {
  expect([browserOf(said), systemOf(said)]).toEqual([browser, system])
})

test('a code that is none is said to be none, and lets nobody in', () => {
  shown('home, devices', true)
  const code = element('#code') as HTMLInputElement
  for (const [typed, said] of [['mfrg-g2ts', 'A code has 32 letters and digits from 2 to 7, in groups of four.'], ['MFRG G2TS ORVW 42LB MFRG G2TS ORVW 42LB', '']]) {
    code.value = typed
    code.dispatchEvent(new Event('input'))
    expect(code.validationMessage).toBe(said)
    element('#admit-button').click()
    expect(done).toHaveLength(said === '' ? 1 : 0)
  }
})

test('while somebody is at work on something there is only what they need', () => {
  const around: Record<string, string> = {}
  for (const name of NAMES.filter((one) => !one.startsWith('dialog'))) {
    shown(name)
    const { place, status } = SITUATIONS[name]
    const found = `${element('#languages').hidden ? 'no languages' : 'languages'}, ${element('#below').childElementCount === 0 ? 'nothing' : 'records'} below`
    const at = status === null ? 'before all is loaded' : place.at
    expect([found, around[at] ?? found], name).toEqual([found, found])
    around[at] = found
  }
  expect(around).toEqual({
    ...Object.fromEntries(['start', 'done', 'code', 'lost', 'gone', 'failed'].map((at) => [at, 'languages, records below'])), ...Object.fromEntries(['looking', 'filming', 'working', 'locking'].map((at) => [at, 'no languages, nothing below'])),
    ...Object.fromEntries(['agreeing', 'preparing', 'before all is loaded'].map((at) => [at, 'languages, nothing below'])),
  })
})

test('a backup is saved under the name of its device, and once it is, it is said where', async () => {
  const file = new Blob(['sealed'])
  shown('home, backup', true, { backup: file })
  const save = element('#backup') as HTMLAnchorElement
  save.addEventListener('click', (event) => { event.preventDefault() })
  expect([save.download, await (await fetch(save.href)).text(), element('#answer [role=status]').textContent]).toEqual([`intaglio-${ENROLLED.name}.backup`, 'sealed', ''])
  save.click()
  expect(element('#answer [role=status]').textContent).toContain(`intaglio-${ENROLLED.name}.backup`)
})

test('the backup of a lost device is taken once a file is chosen', () => {
  shown('welcome', true)
  const input = element('#backup-file') as HTMLInputElement
  const chosen = new DataTransfer()
  input.files = chosen.files
  input.dispatchEvent(new Event('change'))
  expect(done).toEqual([])
  for (const name of ['one', 'other']) chosen.items.add(new File([name], name))
  input.files = chosen.files
  input.dispatchEvent(new Event('change'))
  expect(done).toEqual(['lost {}'])
})

test('what was sent is shown byte by byte once it is opened, and of many messages the last', async () => {
  const messages = new Messages()
  const sent = Uint8Array.from([...new TextEncoder().encode('intaglio \u007f~ 17'), 0, 255, 31, 32])
  messages.add({ call: 'Verify', sent, received: null })
  const [first] = messages.element.querySelectorAll('details')
  expect([first.querySelector('summary')!.textContent, first.querySelector('pre')]).toEqual([expect.stringMatching(/Verify.*18/), null])
  for (const isOpen of [true, false, true]) {
    const toggled = new Promise((resolve) => { first.addEventListener('toggle', resolve, { once: true }) })
    document.body.append(messages.element)
    first.open = isOpen
    await toggled
  }
  expect([...first.querySelectorAll('pre')].map(({ textContent }) => textContent)).toEqual([
    '000000  69 6e 74 61 67 6c 69 6f 20 7f 7e 20 31 37 00 ff  intaglio .~ 17..\n000010  1f 20                                            . ',
  ])
  for (let i = 0; i < 200; i++) messages.add({ call: `call ${i}`, sent: new Uint8Array(i), received: i })
  const all = [...messages.element.querySelectorAll('summary')].map(({ textContent }) => textContent)
  expect([all.length, all[0], all.at(-1)]).toEqual([200, expect.stringContaining('call 0'), expect.stringContaining('call 199')])
})

test.each(['nothing', 'turning', 'nodding'])('whoever leaves out %s is filmed without it', (left) => {
  shown('film, before')
  element(`#without-${left}`).click()
  document.querySelector<HTMLElement>('.card .main')!.click()
  expect(done).toEqual([`film "verify" ${left === 'nothing' ? null : JSON.stringify(left)}`])
})

test('words of the deployment are marked as in its language, wherever they stand', () => {
  speak('de')
  let found = 0
  for (const name of NAMES) {
    shown(name, true)
    for (const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); walk.nextNode() !== null;) {
      if (!walk.currentNode.textContent!.includes(NOBODY.terms.alternative)) continue
      found++
      expect(walk.currentNode.parentElement!.closest('[lang]'), name).toHaveProperty('lang', NOBODY.terms.language)
    }
  }
  expect(found).toBeGreaterThan(10)
})

test.each([
  ['welcome', ['code']], ['home', ['revoke', 'erase', 'forget']], ['welcome, after half an enrolment', ['revoke', 'erase', 'forget']],
  ['welcome, after a withdrawal', ['erase', 'forget', 'code']], ['welcome, after an erasure', ['code', 'forget']],
])('%s: only what can be done is offered, each with a sentence', (name, offered) => {
  shown(name, true)
  const ways = [...document.querySelectorAll('#code-button, .endings button')]
  expect(ways.map(({ id }) => id.replace('-button', ''))).toEqual(offered)
  for (const way of document.querySelectorAll('.endings button')) expect(element(`#${way.getAttribute('aria-describedby')}`).textContent).not.toBe('')
  expect(document.querySelectorAll('.endings .destructive')).toHaveLength(0)
})

test('no long key is shown before somebody opens two folds', () => {
  for (const name of NAMES) {
    shown(name)
    for (const fold of document.querySelectorAll('details')) fold.remove()
    expect(document.body.textContent, name).not.toMatch(/[0-9a-f]{32}/)
  }
  shown('home')
  element('#technical').toggleAttribute('open', true)
  const keys = [...document.querySelectorAll('#technical details')].find(({ textContent }) => /[0-9a-f]{64}/.test(textContent!))
  expect(keys).toHaveProperty('open', false)
})

describe('what follows from a situation', () => {
  const at = (situation: Partial<Situation>, now = NOW): string => screenOf({ ...SITUATIONS['waiting'], ...situation, now }).kind

  test('a wait is counted down, and then there is a way on', () => {
    const seconds = (now: number): unknown => (screenOf({ ...SITUATIONS['waiting'], now }) as { seconds?: number }).seconds
    expect([NOW, NOW + 46].map(seconds)).toEqual([47, 1])
    expect(at({}, NOW + 47)).toBe('waited')
    expect([5, 65, 3600, 86_399].map(clock)).toEqual(['0:05', '1:05', '1:00:00', '23:59:59'])
  })

  test('a wait that was kept is the one that the service asked for', () => {
    const place = waitingFor('renew', { name: 'a', until: NOW + 30, of: 60 })
    expect(screenOf({ ...SITUATIONS['waiting'], place, now: NOW })).toMatchObject({ kind: 'waiting', seconds: 30, of: 60 })
    expect(at({ place }, NOW + 30)).toBe('waited')
  })

  test('a countdown goes on in place, so that a focus stays where it is', () => {
    shown('waiting')
    const back = document.querySelector<HTMLElement>('.card button')!
    back.focus()
    show({ ...SITUATIONS['waiting'], now: NOW + 1 }, {} as Doing, null, new Messages())
    expect([document.activeElement, element('.clock').textContent]).toEqual([back, '0:46'])
  })

  test('a short pause that the service asks for is no wait', () => {
    const { place } = SITUATIONS['waiting']
    const fault = { ...(place as { fault: any }).fault, retryAfter: 1 }
    expect(at({ place: { ...place, fault } as Situation['place'] })).toBe('failed')
    const after = (retryAfter: number): string => at({ place: { ...place, fault: { ...fault, retryAfter }, seconds: NOW } as Situation['place'] })
    expect([2.9, 3].map(after)).toEqual(['failed', 'waiting'])
  })

  test.each([[4, true], [5, false], [6, false]])('whoever has to wait after %i failures is told that many ask: %s', (failures, isBusy) => {
    expect(screenOf({ ...SITUATIONS['waiting'], status: { ...ENROLLED, failures } })).toMatchObject({ kind: 'waiting', isBusy })
  })

  test('a consent ends in the second in which it ends', () => {
    const until = (consentExpires: number): string => screenOf({ ...SITUATIONS['home'], status: { ...ENROLLED, consentExpires } }).kind
    expect([until(NOW + 1), until(NOW)]).toEqual(['home', 'ended'])
  })

  test.each([[0, 5], [4, 1], [5, 0], [9, 0]])('after %i failures in a row there are %i free tries', (failures, left) => {
    expect(screenOf({ ...SITUATIONS['refused'], status: { ...ENROLLED, failures } })).toHaveProperty('left', left)
  })
})

/** Of WCAG 2.2, A and AA. */
const RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']

/** How something is made: all of it but its words, and whether there are any. */
function bones(root: Element): string {
  const made = root.cloneNode(true) as Element
  for (const walk = document.createTreeWalker(made, NodeFilter.SHOW_TEXT); walk.nextNode() !== null;) walk.currentNode.textContent = walk.currentNode.textContent!.trim() === '' ? '' : '-'
  return made.innerHTML.replaceAll(/(aria-label|href|data-name|data-screen|value)="[^"]+"/g, '$1="-"')
}

describe('everybody can use it', () => {
  test.each(['light', 'dark'] as const)('axe finds nothing wrong in any state, in %s', async (scheme) => {
    await (commands as unknown as { colours(scheme: string): Promise<void> }).colours(scheme)
    const looked = new Set<string>()
    for (const [i, name] of NAMES.entries()) {
      shown(name, true)
      if (name !== 'welcome' && name !== 'home' && !(name in FOUND)) element('#below').replaceChildren() // the same below the others
      const made = bones(document.body)
      if (looked.has(made)) continue // it differs in words only
      looked.add(made)
      await page.viewport(i % 2 === 0 ? 375 : 1280, 900)
      const { violations } = await axe.run(document.body, { runOnly: scheme === 'light' ? RULES : ['color-contrast'], resultTypes: ['violations'] })
      expect(violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html: where, failureSummary }) => `${where} ${failureSummary}`).join(', ')}`), name).toEqual([])
    }
  })

  test.each([320, 375, 1280])('nothing sticks out of a window of %i pixels, in any language', async (width) => {
    await page.viewport(width, 800)
    for (const language of Object.keys(CATALOGUES)) {
      speak(language)
      for (const name of NAMES) {
        shown(name, true)
        expect(document.documentElement.scrollWidth, `${language}, ${name}`).toBeLessThanOrEqual(width)
      }
    }
  })
})
