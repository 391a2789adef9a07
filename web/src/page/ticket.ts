/** The ticket of a link such as `https://verify.example.org/#ticket=...`. No browser sends what stands behind the `#`. */

/** The ticket in the page's address, or nothing. It goes from there, so that it stays in no history and on no picture of the screen. */
export function takeTicket(): string {
  const ticket = new URLSearchParams(location.hash.slice(1)).get('ticket')
  if (ticket === null) return ''
  history.replaceState(null, '', location.pathname + location.search)
  return ticket
}
