/** Shows one state of the page, made up, for `make screens`: `?state=NAME&language=TAG`. No camera, no worker, no service. */

import '../src/page/style.css'

import { ARROWS, Camera } from '../src/page/camera'
import { drawing } from '../src/page/dom'
import { Pictures } from '../src/page/pictures'
import { Messages } from '../src/page/records'
import { show } from '../src/page/shell'
import { say, speak } from '../src/page/texts'
import type { Doing } from '../src/page/views'
import { DIALOGS, FOUND, SITUATIONS } from '../tests/situations'

const query = new URLSearchParams(location.search)
speak(query.get('language') ?? 'en')
const state = query.get('state') ?? 'home'
const situation = SITUATIONS[state]
const { place } = situation

const camera = new Camera({ watch: async () => null, look: async () => null, follow: async () => { throw new Error() } })
camera.element.querySelector('video')!.replaceWith(somebody())
camera.element.querySelector('.hint')!.textContent = say('advice.far')
camera.element.dataset['mood'] = 'bad'
if (place.at === 'looking' && place.part === 'references') {
  camera.element.querySelector('.taken')!.append(...[0, 1, 2].map((i) => Object.assign(document.createElement('li'), { className: i < 1 ? 'there' : '' })))
}

if (place.at === 'filming') {
  camera.element.dataset['asked'] = 'left'
  camera.element.dataset['mood'] = 'nearly'
  camera.element.querySelector('.arrow path')!.setAttribute('d', ARROWS.left)
  camera.element.querySelector('.hint')!.textContent = say('film.left')
  camera.element.querySelector('.taken')!.append(...[0, 1, 2].map((i) => Object.assign(document.createElement('li'), { className: i < 1 ? 'there' : '' })))
}

/** Where somebody would be seen: a head before a wall, nobody's. */
function somebody(): HTMLCanvasElement {
  const canvas = Object.assign(document.createElement('canvas'), { width: 640, height: 480 })
  const context = canvas.getContext('2d')!
  const wall = context.createLinearGradient(0, 0, 640, 480)
  for (const [at, colour] of [[0, '#8fa3a6'], [1, '#56686c']] as const) wall.addColorStop(at, colour)
  context.fillStyle = wall
  context.fillRect(0, 0, 640, 480)
  context.fillStyle = '#2c393c'
  context.beginPath()
  context.ellipse(320, 500, 190, 150, 0, 0, 7)
  context.fill()
  context.fillStyle = '#b98d72'
  context.beginPath()
  context.ellipse(320, 235, 82, 112, 0, 0, 7)
  context.fill()
  return canvas
}

const nothing = (): void => undefined
const files = new Pictures(place.at === 'looking' ? place.task : 'verify', place.at === 'looking' && place.task === 'enrol' ? 4 : 2, nothing)
const doing: Doing = {
  go: nothing, bring: nothing, look: nothing, prepare: nothing, film: nothing, goOn: nothing, change: nothing, lock: nothing, ask: nothing, cancel: nothing, begin: nothing, speak: nothing, decline: nothing, reload: nothing,
  devices: { admit: nothing, rename: nothing, remove: nothing, lost: nothing },
  camera: camera.element, files: files.element,
}
document.getElementById('brand')!.prepend(drawing('0 0 24 24', 'M12 3c-4 0-6.5 3-6.5 7 0 5 2.7 10.5 6.5 10.5S18.5 15 18.5 10c0-4-2.5-7-6.5-7z', 'M9 12.5l2.2 2.2 4-4.4'))
show(situation, doing, FOUND[state] ?? null, new Messages())
DIALOGS[state]?.()
document.body.dataset['shown'] = 'true'

export const names = Object.keys(SITUATIONS)
