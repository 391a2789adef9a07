/** What verification is never for, whatever a server says: the names that `federation/consent/purposes.py` refuses. */

import { UsageError } from '../errors'
import { requireName } from './statements'

/** Looked for anywhere in a name with its separators removed. */
const STEMS: Readonly<Record<string, readonly string[]>> = {
  'searching or identifying people among many': [
    'search', 'identif', 'watchlist', 'blacklist', 'blocklist', 'gallery', 'onetomany', '1tomany', '1ton', 'whois',
    'deduplic', 'lookup', 'recogni', 'mugshot', 'lineup', 'findperson', 'findpeople', 'missingperson',
  ],
  'surveillance or tracking': [
    'surveil', 'tracking', 'tracker', 'monitor', 'cctv', 'bodycam', 'crowd', 'livestream', 'drone', 'covert', 'stalk',
    'loitering', 'peoplecount', 'footfall',
  ],
  'reading emotions or intentions': [
    'emotion', 'affect', 'sentiment', 'mood', 'stress', 'attention', 'engagement', 'liedetect', 'deception', 'intent',
    'fatigue', 'personality',
  ],
  'sorting people by attributes': [
    'attribute', 'demographic', 'gender', 'ethnic', 'racial', 'religio', 'sexual', 'orientation', 'disab',
    'nationality', 'ageestimat', 'agegroup', 'politic', 'categoris', 'categoriz', 'classif',
  ],
  'profiling or scoring people': [
    'profil', 'socialscor', 'creditscor', 'scoring', 'ranking', 'predict', 'targeting', 'advert', 'marketing',
    'crimin', 'riskscor', 'trustworth',
  ],
  'police, border or migration control': [
    'police', 'policing', 'lawenforce', 'enforcement', 'suspect', 'fugitive', 'warrant', 'prosecut', 'investigat',
    'intelligence', 'migration', 'immigra', 'asylum', 'deport', 'bordercontrol', 'military',
  ],
}
/** Too short to be looked for inside other words: each is a word of the name, or two that follow on each other. */
const WORDS: Readonly<Record<string, readonly string[]>> = {
  'searching or identifying people among many': ['1-n', '1n', 'find', 'match-all', 'matchall'],
  'surveillance or tracking': ['spy', 'stream', 'track', 'watch'],
  'sorting people by attributes': ['age', 'race', 'sex', 'skin'],
  'profiling or scoring people': ['ads', 'rank', 'score'],
  'police, border or migration control': ['army', 'border', 'dea', 'fbi', 'ice'],
}

/** The red line that the name of a purpose crosses, or null. */
export function redLineOf(purpose: string): string | null {
  const parts = purpose.toLowerCase().split(/[._/-]+/)
  const words = [...parts, ...parts.slice(1).map((part, place) => `${parts[place]}-${part}`)]
  const joined = parts.join('')
  for (const [line, stems] of Object.entries(STEMS)) {
    if (stems.some((stem) => joined.includes(stem)) || WORDS[line]?.some((word) => words.includes(word))) return line
  }
  return null
}

/**
 * Returns when `purpose` may be named at all.
 *
 * @throws UsageError it is no name, or crosses a red line.
 */
export function requirePurpose(purpose: string): void {
  requireName('a purpose', purpose)
  const line = redLineOf(purpose)
  if (line !== null) throw new UsageError(`the purpose ${purpose} is never allowed: ${line}`)
}
