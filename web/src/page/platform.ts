/** What this browser is, for its owner to recognise it by. Nobody is sent it. */

/** What a browser says of itself, and what people call it; the first that fits. Most say that they are several. */
const BROWSERS: readonly (readonly [RegExp, string])[] = [[/Edg/, 'Edge'], [/OPR/, 'Opera'], [/SamsungBrowser/, 'Samsung'], [/Firefox|FxiOS/, 'Firefox'], [/Chrome|CriOS/, 'Chrome'], [/Safari/, 'Safari']]
const SYSTEMS: readonly (readonly [RegExp, string])[] = [[/iPhone/, 'iPhone'], [/iPad/, 'iPad'], [/Android/, 'Android'], [/CrOS/, 'ChromeOS'], [/Windows/, 'Windows'], [/Macintosh/, 'Mac'], [/Linux/, 'Linux']]

const found = (names: typeof BROWSERS, userAgent: string): string => names.find(([said]) => said.test(userAgent))?.[1] ?? 'other'

/** Its name, or 'other'. */
export const browserOf = (userAgent: string): string => found(BROWSERS, userAgent)
/** What it runs on, or 'other'. */
export const systemOf = (userAgent: string): string => found(SYSTEMS, userAgent)
