/** The page's mark as PNG files, drawn when the page is built: a disc with a ring cut into it, as `public/icon.svg`. */

import { crc32, deflateSync } from 'node:zlib'

type Colour = readonly [number, number, number]

const [DISC, CUT]: readonly [Colour, Colour] = [[0x1b, 0x5e, 0x7a], [0xff, 0xff, 0xff]]
/** Radii as shares of the picture's half: of the disc, and of the hole in it. */
const [OUTER, INNER] = [7 / 8, 3 / 8]
const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
const [RGBA, BIT_DEPTH] = [6, 8]

/**
 * A square PNG (ISO/IEC 15948).
 *
 * @param size pixels of a side.
 * @param isMaskable whether whoever shows it may cut it to any shape: then the colour goes to its edges, and the mark is smaller.
 */
export function icon(size: number, isMaskable = false): Buffer {
  const rows = Buffer.alloc(size * (1 + 4 * size))
  const scale = isMaskable ? 0.7 : 1
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const distance = Math.hypot(x + 0.5 - size / 2, y + 0.5 - size / 2)
      const within = (radius: number): number => Math.min(1, Math.max(0, (radius * scale * size) / 2 - distance + 0.5)) // smooth at the edge
      const hole = within(INNER)
      const colour = DISC.map((value, i) => Math.round(value + (CUT[i] - value) * hole))
      rows.set([...colour, Math.round(255 * (isMaskable ? 1 : within(OUTER)))], y * (1 + 4 * size) + 1 + 4 * x)
    }
  }
  const header = Buffer.alloc(13)
  header.writeUInt32BE(size, 0)
  header.writeUInt32BE(size, 4)
  header.set([BIT_DEPTH, RGBA], 8)
  return Buffer.concat([SIGNATURE, chunk('IHDR', header), chunk('IDAT', deflateSync(rows, { level: 9 })), chunk('IEND', Buffer.alloc(0))])
}

function chunk(type: string, data: Buffer): Buffer {
  const [length, body, check] = [Buffer.alloc(4), Buffer.concat([Buffer.from(type, 'latin1'), data]), Buffer.alloc(4)]
  length.writeUInt32BE(data.length)
  check.writeUInt32BE(crc32(body))
  return Buffer.concat([length, body, check])
}
