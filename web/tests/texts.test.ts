/** The catalogues: whole in every language, and the only place where the page's words are written. */

import { parse } from '@formatjs/icu-messageformat-parser'
import { expect, test } from 'vitest'

import { CATALOGUES, languageOf, type TextName, Texts } from '../src/page/texts'
import html from '../index.html?raw'

const LANGUAGES = Object.keys(CATALOGUES)
const NAMES = Object.keys(CATALOGUES['en']) as TextName[]
const sources = import.meta.glob<string>('../src/page/**/*.ts', { query: '?raw', import: 'default', eager: true })

/** Names of the values that a message takes, and of the cases of its selections: plural forms differ between languages. */
function needs(message: string): string[] {
  const found = new Set<string>()
  const walk = (parts: any[]): void => {
    for (const { type, value, options } of parts) {
      if (type !== 0 && type !== 7) found.add(type === 5 ? `${value}: ${Object.keys(options).sort().join(' ')}` : value)
      for (const { value: inner } of Object.values(options ?? {}) as any[]) walk(inner)
    }
  }
  walk(parse(message, { ignoreTag: true }) as any[])
  return [...found].sort()
}

test.each(LANGUAGES)('the catalogue in %s has every message, with what English puts into it', (language) => {
  const catalogue = CATALOGUES[language]
  expect(Object.keys(catalogue).sort()).toEqual([...NAMES].sort())
  for (const name of NAMES) {
    expect(catalogue[name].trim(), name).toBe(catalogue[name])
    expect(needs(catalogue[name]), name).toEqual(needs(CATALOGUES['en'][name]))
  }
})

test.each(LANGUAGES)('every plural in %s has all forms that the language has', (language) => {
  const forms = new Intl.PluralRules(language).resolvedOptions().pluralCategories.filter((form) => form !== 'many') // of millions
  const walk = (parts: any[], name: string): void => {
    for (const { type, options } of parts) {
      if (type === 6 && !('=1' in options && forms.length === 2)) for (const form of forms) expect(Object.keys(options), name).toContain(form)
      for (const { value } of Object.values(options ?? {}) as any[]) walk(value, name)
    }
  }
  for (const name of NAMES) walk(parse(CATALOGUES[language][name], { ignoreTag: true }) as any[], name)
})

/** What stands between quotes in a program, without comments and without what is put in. */
function literals(program: string): string[] {
  const bare = program.replaceAll(/\/\*[^]*?\*\/|(?<=^|\s)\/\/.*$/gm, '').replaceAll(/\$\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}/g, '\0')
  return [...bare.matchAll(/'((?:[^'\\\n]|\\.)*)'|"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`/g)].map(([, one, two, three]) => one ?? two ?? three ?? '')
}

/** Two words beside each other, or a word that begins like a sentence and ends like one. */
const isText = (literal: string): boolean => /\p{L}{2,}[,.:;!?…]? +\p{L}{2,}|^\p{Lu}\p{L}+(?: |[.!?…]$)/u.test(literal)
/** What looks like a text, and is none that people are told: it stands folded, for whoever looks closer. */
const NO_TEXT: readonly string[] = ['something in this page failed', 'getUserMedia failed', 'the public rules ask for a supervised device']

test('no text of the page is written outside of the catalogues', () => {
  expect(Object.keys(sources).length).toBeGreaterThan(2)
  for (const [file, program] of Object.entries(sources)) {
    expect(literals(program).filter((literal) => isText(literal) && !NO_TEXT.includes(literal)), file).toEqual([])
  }
  const shown = new DOMParser().parseFromString(html, 'text/html')
  for (const hidden of shown.querySelectorAll('script, style, title, noscript')) hidden.remove()
  expect(shown.body.textContent.trim()).toBe('')
  for (const attribute of ['alt', 'title', 'placeholder', 'aria-label']) expect(shown.querySelectorAll(`[${attribute}]:not([${attribute}=""])`), attribute).toHaveLength(0)
})

test('the search for texts finds them', () => {
  expect(literals("say('Not enrolled.', `by ${name} since ${f({ a: 'b' })}`) // 'a comment of words'").filter(isText)).toEqual(['Not enrolled.'])
  expect(literals('`Entry ${n} is there`').filter(isText)).toHaveLength(1)
  expect(["display: grid", 'image/png,image/gif', 'application/jwt', 'Ed25519'].filter(isText)).toHaveLength(1)
})

test.each([
  [['de-AT', 'en'], 'de'], [['fr', 'es-419', 'de'], 'es'], [['fr', 'it'], 'en'], [[], 'en'], [['EN-us'], 'en'],
])('who reads %j is spoken to in %s', (wished, spoken) => {
  expect(languageOf(wished, ['en', 'de', 'es'])).toBe(spoken)
})

test('a day is written as the browser writes it, where it is of the language that is spoken', () => {
  const day = (language: string, wished: readonly string[]): string => new Texts(language, undefined, wished).day(1_893_456_000 + 43_200)
  expect([day('en', ['de-AT', 'en-GB']), day('en', ['en-US']), day('de', ['de-AT']), day('es', ['en-GB'])]).toEqual(['1 January 2030', 'January 1, 2030', '1. J\u00e4nner 2030', '1 de enero de 2030'])
})

test('times are said with their zone, and numbers with all their digits', () => {
  const { time, numeral } = new Texts('en')
  expect(time(1_893_456_000)).toMatch(/2030|2029/)
  expect(time(1_893_456_000)).toMatch(/UTC|GMT|[A-Z]{2,5}T?$/)
  expect(numeral(0.00012)).toBe('0.00012')
})
