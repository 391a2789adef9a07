/**
 * What the page says: messages in ICU's format, one catalogue for each language in `src/texts/`, and nowhere else.
 *
 * To add a text, add its message to every catalogue, and say it by its name. To add a language, add its catalogue here.
 */

import { IntlMessageFormat } from 'intl-messageformat'

import de from '../texts/de.json'
import en from '../texts/en.json'
import es from '../texts/es.json'

/** The messages of one language, by name. */
export type Catalogue = Readonly<Record<keyof typeof en, string>>
export type TextName = keyof Catalogue
export type Values = Readonly<Record<string, string | number | boolean>>

/** Every language that the page speaks, by its tag (BCP 47). */
export const CATALOGUES: Readonly<Record<string, Catalogue>> = { en, de, es }

/** The texts of the page in one language. */
export class Texts {
  readonly language: string
  readonly #catalogue: Catalogue
  /** For times and days: as the browser writes them, where it is of the same language. */
  readonly #locale: string
  readonly #made = new Map<TextName, IntlMessageFormat>()

  constructor(language: string, catalogue: Catalogue = CATALOGUES[language], wished: readonly string[] = navigator.languages) {
    this.language = language
    this.#locale = wished.find((tag) => tag.toLowerCase().split('-')[0] === language) ?? language
    this.#catalogue = catalogue
  }

  /** One message, with its values put in. */
  readonly say = (name: TextName, values: Values = {}): string => {
    let message = this.#made.get(name)
    if (message === undefined) this.#made.set(name, message = new IntlMessageFormat(this.#catalogue[name], this.language, undefined, { ignoreTag: true }))
    return message.format({ ...values }) as string
  }

  /** A number with all its digits. */
  readonly numeral = (value: number): string => value.toLocaleString(this.language, { maximumSignificantDigits: 17 })

  /** A time where the person is, with the name of its zone. */
  readonly time = (seconds: number): string =>
    new Date(1000 * seconds).toLocaleString(this.#locale, { year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', timeZoneName: 'short' })

  /** A day where the person is. */
  readonly day = (seconds: number): string => new Date(1000 * seconds).toLocaleDateString(this.#locale, { dateStyle: 'long' })
}

/** The first language that both the person and the page speak, English otherwise. */
export function languageOf(wished: readonly string[], spoken: readonly string[] = Object.keys(CATALOGUES)): string {
  return wished.map((tag) => tag.toLowerCase().split('-')[0]).find((language) => spoken.includes(language)) ?? 'en'
}

/** In the language of the browser, until somebody chooses another one. */
export let { language, say, numeral, time, day } = new Texts(languageOf(navigator.languages))

/** From now on everything is said in that language. */
export function speak(wished: string, catalogue?: Catalogue): void {
  ({ language, say, numeral, time, day } = new Texts(wished, catalogue))
}
