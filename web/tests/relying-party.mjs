/**
 * A site that logs people in with openid-client, which nobody here wrote. For `tests/web/test_login.py`.
 *
 *     node relying-party.mjs '{"issuer": ..., "client_id": ..., "secret": ..., "port": ..., "alg": ..., "response_mode": ...}'
 */

import { randomUUID } from 'node:crypto'
import { createServer } from 'node:http'
import { text } from 'node:stream/consumers'

import * as oidc from 'openid-client'

const { issuer, client_id: clientId, secret, port, alg, response_mode: mode } = JSON.parse(process.argv[2])
const site = `http://127.0.0.1:${port}`
const redirectUri = `${site}/back`
const waiting = new Map()

const config = await oidc.discovery(
  new URL(issuer), clientId, { id_token_signed_response_alg: alg },
  secret === null ? oidc.None() : oidc.ClientSecretBasic(secret), { execute: [oidc.allowInsecureRequests] },
)

async function begin(response) {
  const [session, verifier, state, nonce] = [randomUUID(), oidc.randomPKCECodeVerifier(), oidc.randomState(), oidc.randomNonce()]
  waiting.set(session, { pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce, idTokenExpected: true, maxAge: 600 })
  const address = oidc.buildAuthorizationUrl(config, {
    redirect_uri: redirectUri, scope: 'openid', state, nonce, response_mode: mode, max_age: '600', prompt: 'login',
    code_challenge: await oidc.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256',
  })
  // A form from another site carries no cookie with SameSite=Lax, so a site that takes one needs None; here the query is enough.
  response.writeHead(303, { location: address.href, 'set-cookie': `session=${session}; HttpOnly; Path=/${mode === 'form_post' ? '' : '; SameSite=Lax'}` }).end()
}

async function back(request, response) {
  const session = /(?:^|; )session=([\w-]+)/.exec(request.headers.cookie ?? '')?.[1] ?? [...waiting.keys()].at(-1)
  const checks = waiting.get(session)
  waiting.delete(session)
  const address = new URL(request.url, site)
  const headers = { 'content-type': 'application/x-www-form-urlencoded' }
  const answer = request.method === 'POST' ? new Request(address, { method: 'POST', headers, body: await text(request) }) : address
  const tokens = await oidc.authorizationCodeGrant(config, answer, checks)
  const claims = tokens.claims()
  const known = await oidc.fetchUserInfo(config, tokens.access_token, claims.sub)
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ ...claims, userinfo: known.sub }))
}

createServer(async (request, response) => {
  try {
    await (request.url.startsWith('/back') ? back(request, response) : begin(response))
  } catch (error) {
    response.writeHead(400, { 'content-type': 'application/json' }).end(JSON.stringify({ refused: error.error ?? String(error.code ?? error) }))
  }
}).listen(port, '127.0.0.1', () => { console.log('listening') })
