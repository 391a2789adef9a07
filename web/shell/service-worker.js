/**
 * Keeps the page's own files, so that it opens when nobody can be reached. ADR 240 says what it must never do.
 *
 * Online everything comes from the server, as if this were not there. Only when the page itself cannot be had is the kept one
 * shown, marked with the day on which it was kept; and a page with that mark asks no server anything. Nothing is kept that is not
 * on the list: no answer to a call, nothing of a deployment, of a release or of a person.
 */

const FILES = '__FILES__'.split(' ')
const KEPT = 'page __DIGEST__'

self.addEventListener('install', (event) => {
  event.waitUntil(keep().then(() => self.skipWaiting()))
})

self.addEventListener('activate', (event) => {
  const others = async () => (await caches.keys()).filter((name) => name !== KEPT)
  event.waitUntil(others().then((names) => Promise.all(names.map((name) => caches.delete(name)))))
})

self.addEventListener('fetch', (event) => {
  const { request } = event
  const url = new URL(request.url)
  if (request.method !== 'GET' || url.origin !== self.location.origin) return
  if (request.mode === 'navigate' && url.pathname === '/') event.respondWith(fetch(request).catch(() => page(request)))
  else if (FILES.includes(url.pathname)) event.respondWith(fetch(request).catch(() => kept(url.pathname)))
})

/** All files or none. What the server may have changed is fetched anew; the names of the others change with their content. */
async function keep() {
  const cache = await caches.open(KEPT)
  await cache.addAll(FILES.map((path) => new Request(path, { cache: path.startsWith('/assets/') ? 'default' : 'reload', credentials: 'omit' })))
}

async function kept(path) {
  return (await (await caches.open(KEPT)).match(path)) ?? Response.error()
}

/** The kept page, with the mark that it is one: `data-kept`, when it came. */
async function page() {
  const found = await kept('/index.html')
  if (!found.ok) return found
  const date = found.headers.get('date') ?? ''
  const text = (await found.text()).replace('<html', `<html data-kept="${date.replaceAll(/[^\w ,:+-]/g, '')}"`)
  return new Response(text, { headers: found.headers })
}
