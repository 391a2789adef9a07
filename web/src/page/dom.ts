/** Elements, made in one expression. The page sets no HTML as text anywhere. */

type Child = Node | string | null | false
type Properties<E> = Partial<Omit<E, 'style' | 'children' | 'attributes'>> & { readonly attributes?: Readonly<Record<string, string>> }

/** An element with its properties and what is in it; null and false stand for nothing. */
export function h<T extends keyof HTMLElementTagNameMap>(tag: T, properties: Properties<HTMLElementTagNameMap[T]> = {}, ...children: readonly Child[]): HTMLElementTagNameMap[T] {
  const { attributes = {}, ...rest } = properties
  const made = Object.assign(document.createElement(tag), rest)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  made.append(...children.filter((child) => child !== null && child !== false))
  return made as HTMLElementTagNameMap[T]
}

const SVG = 'http://www.w3.org/2000/svg'

/** A drawing of lines in the colour of the text, hidden from screen readers. @param lines the `d` of each path. */
export function drawing(viewBox: string, ...lines: readonly string[]): SVGSVGElement {
  const made = document.createElementNS(SVG, 'svg')
  for (const [name, value] of Object.entries({ viewBox, 'aria-hidden': 'true', fill: 'none', stroke: 'currentColor', 'stroke-width': '1.75', 'stroke-linecap': 'round', 'stroke-linejoin': 'round' })) {
    made.setAttribute(name, value)
  }
  for (const d of lines) {
    const path = document.createElementNS(SVG, 'path')
    path.setAttribute('d', d)
    made.append(path)
  }
  return made
}
