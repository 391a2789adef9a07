/** A place for pictures from files. Their pixels are looked at by the worker only. */

import { hex, sha256 } from '../bytes'
import { h } from './dom'
import { makesTemplate, type Task } from './states'
import { say } from './texts'

/** The formats of `client/faces/formats.py` that every browser reads, by how a file begins; what browsers read beyond is left to nobody. */
const READ = /^(?:\u00ff\u00d8\u00ff|\u0089PNG|GIF8|BM|RIFF[^]{4}WEBP)/
const TYPES = 'image/jpeg,image/png,image/webp,image/gif,image/bmp'
const LONGEST = 12

/** Some pictures of one person, for one task. */
export class Pictures {
  readonly element: HTMLElement
  readonly #task: Task
  readonly #most: number
  readonly #done: (pictures: Blob[]) => void
  readonly #taken: { readonly picture: Blob; readonly digest: string; readonly item: HTMLLIElement; readonly url: string }[] = []
  /** Counts how often all were let go, so that what is still being opened then is let go, too. */
  #cleared = 0
  readonly #list = h('ol', { className: 'pictures' })
  readonly #said = h('p', { className: 'small' })
  readonly #problem = h('p', { className: 'problem', role: 'alert' })
  readonly #go: HTMLButtonElement
  readonly #input: HTMLInputElement

  /** @param most how many it takes: of an enrolment, the last one checks the others. @param done takes them when the person says so. */
  constructor(task: Task, most: number, done: (pictures: Blob[]) => void) {
    this.#task = task
    this.#most = most
    this.#done = done
    this.#input = h('input', { type: 'file', accept: TYPES, multiple: true, id: 'files', onchange: () => { void this.#add([...this.#input.files ?? []]) } })
    this.#go = h('button', { type: 'button', className: 'main', disabled: true, onclick: () => { this.#done(this.files) } })
    this.element = h('div', { className: 'files' }, this.#list, h('label', { className: 'button', htmlFor: 'files' }, this.#input, h('span', {}, say('files.choose'))),
      this.#problem, this.#said, this.#go)
    this.#number()
  }

  /** All of them, for the worker. */
  get files(): Blob[] {
    return this.#taken.map(({ picture }) => picture)
  }

  /** Keeps none. */
  clear(): void {
    this.#cleared++
    for (const { item, url } of this.#taken.splice(0)) {
      URL.revokeObjectURL(url)
      item.remove()
    }
    this.#number()
  }

  async #add(pictures: readonly Blob[]): Promise<void> {
    this.#input.value = ''
    this.#problem.textContent = ''
    if (pictures.length === 0) return
    if (this.#taken.length + pictures.length > this.#most) this.clear()
    const cleared = this.#cleared
    for (const picture of pictures.slice(0, this.#most)) {
      const bytes = new Uint8Array(await picture.arrayBuffer())
      if (cleared !== this.#cleared) return
      if (!READ.test(String.fromCharCode(...bytes.subarray(0, LONGEST)))) { this.#problem.textContent = say('files.not_an_image'); continue }
      const digest = hex(sha256(bytes))
      const there = this.#taken.findIndex((one) => one.digest === digest) // one that is nearly the same is found by the worker, before anything is sent
      if (there >= 0) { this.#problem.textContent = say('files.there', { number: there + 1 }); continue }
      const isImage = await createImageBitmap(picture).then((image) => { image.close(); return true }, () => false)
      if (cleared !== this.#cleared) return
      if (isImage) this.#show(picture, digest)
      else this.#problem.textContent = say('files.damaged')
    }
    if (pictures.length > this.#most) this.#problem.textContent = say('files.too_many', { most: this.#most })
    this.#number()
  }

  #show(picture: Blob, digest: string): void {
    const url = URL.createObjectURL(picture)
    const remove = h('button', { type: 'button', className: 'remove' }, '\u00d7')
    const item = h('li', {}, h('img', { alt: '', src: url }), h('span'), remove)
    const one = { picture, digest, item, url }
    remove.onclick = () => { this.#remove(one) }
    this.#taken.push(one)
    this.#list.append(item)
  }

  #remove(one: { readonly item: HTMLLIElement; readonly url: string }): void {
    URL.revokeObjectURL(one.url)
    one.item.remove()
    this.#taken.splice(this.#taken.findIndex(({ item }) => item === one.item), 1)
    this.#problem.textContent = ''
    this.#number()
  }

  /** Says of each which one it is, and of the last that it checks the others. */
  #number(): void {
    const [count, most, enrols] = [this.#taken.length, this.#most, makesTemplate(this.#task)]
    this.#taken.forEach(({ item }, i) => {
      const checks = enrols && i > 0 && i === count - 1
      item.querySelector('span')!.textContent = say(checks ? 'files.checks' : 'files.number', { number: i + 1 })
      item.querySelector('button')!.setAttribute('aria-label', say('files.remove', { number: i + 1 }))
    })
    const isTooFew = count < (enrols ? 2 : 1)
    this.#said.textContent = isTooFew || count >= most ? '' : enrols
      ? say('files.fewer_references', { chosen: count, most })
      : say('files.fewer_frames', { chosen: count, most })
    this.#go.disabled = isTooFew
    this.#go.textContent = say(this.#task === 'remove' ? 'files.remove_device' : `files.${this.#task}`, { count: Math.max(count, 1) })
  }
}
