/// <reference lib="webworker" />
/** The worker in which the device lives: its keys, the recogniser, and every face that is looked at. */

import '../disposal'

import { type Bytes, fromHex, hex, randomBytes, utf8 } from '../bytes'
import { CancelledError, IntaglioError, PeerError, RefusedError, UnavailableError, UsageError } from '../errors'
import type { Glance } from '../face/advice'
import { Filming } from '../face/filming'
import { UnusableImageError } from '../face/finding'
import { fused, nameOf, requireDifferent, requireOnePerson } from '../face/fusing'
import { challengeOf, type Omission } from '../face/movements'
import { Recogniser } from '../face/recogniser'
import { ModelRelease } from '../face/release'
import { SessionKey } from '../onebit/device'
import { Engine } from '../onebit/seal'
import { SignedManifest } from '../rules/manifest'
import { leastPad } from '../rules/policy'
import type { PadLevel } from '../rules/rates'
import { type Client, Rulebook } from '../rules/rulebook'
import { LogPolicy } from '../log/notes'
import { hashPage, softwareIn } from '../log/software'
import { openBackup, sealBackup } from '../wallet/backup'
import type { Key } from '../wallet/locks'
import { nameOf as deviceName, named } from '../wallet/names'
import { isOver } from '../wallet/state'
import { ticketDigest, ticketText } from '../wallet/ticket'
import { keepWait, keptWait, waitAfter } from '../wallet/wait'
import { MOST_ANSWERS, OutdatedWalletError, type Shown, Wallet } from '../wallet/wallet'
import { LogService } from '../wire/federation/wire/v1/verification_pb'
import { type Deployment, deploymentOf } from './deployment'
import { Device, type Outcome, type Probe, type Twice, type Use } from './device'
import { codeOf, withNames } from './devices'
import { LoginRequest, requireSite } from './login'
import type { Action, Actions, Face, Fault, Reply, Request, Status } from './messages'
import { heldIn, Owner, revokeWith } from './owner'
import { Studio } from './studio'
import { Transport } from './transport'

interface Loaded {
  readonly engine: Engine
  readonly recogniser: Recogniser
  readonly deployment: Deployment
}

const scope = self as unknown as DedicatedWorkerGlobalScope
const tell = (reply: Reply): void => { scope.postMessage(reply) }
const transport = new Transport(({ call, sent, received }) => {
  tell({ kind: 'sent', call, sent, received: received?.length ?? null })
})
const READ_MS = 10_000
let loading: Promise<Loaded> | undefined
let glance: Glance | null = null
let pad: PadLevel = 'none'
let issues = true
const studio = new Studio()
/** What runs, or waits to run, by the number of its request. */
const running = new Map<number, AbortController>()

async function load(): Promise<Loaded> {
  const reading = readDeployment().then((deployment) => { tell({ kind: 'ready', part: 'deployment' }); return deployment })
  const [engine, recogniser, deployment] = await Promise.all([
    Engine.load(reading.then(({ release }) => release.parameters)).then((engine) => { tell({ kind: 'ready', part: 'encryption' }); return engine }),
    Recogniser.load((share) => { tell({ kind: 'loading', share }) }).then((recogniser) => { tell({ kind: 'ready', part: 'recogniser' }); return recogniser }),
    reading,
  ])
  if (!recogniser.is(deployment.release.modelDigest)) {
    throw new RefusedError('the model release is for another recogniser than the one of this page; use the intaglio program', { why: { name: 'why.other_recogniser' } })
  }
  await present()
  tell({ kind: 'ready', part: 'wallet' })
  return { engine, recogniser, deployment }
}

/** What stands in clear of the wallet, null when there is none, or 'outdated'. */
async function present(): Promise<Shown | null | 'outdated'> {
  try {
    return await Wallet.look()
  } catch (error) {
    if (error instanceof OutdatedWalletError) return 'outdated'
    throw error
  }
}

async function readDeployment(): Promise<Deployment> {
  const [told, release, manifest] = await Promise.all(['/deployment.json', '/release.json', '/manifest.json'].map((path) => read(path)))
  return deploymentOf(told, release, manifest, readRules)
}

/**
 * A release under which this page's server lets people come over to the present one.
 *
 * @param digest of the one that this device is enrolled under, in hex.
 * @throws RefusedError the server offers none: whoever is enrolled under it enrols again.
 */
async function readFormer(digest: string): Promise<Pick<Deployment, 'release' | 'manifest'>> {
  const [release, manifest] = await Promise.all(['release', 'manifest'].map((name) => read(`/former/${digest}/${name}.json`, 'nobody comes over here from the release of this device')))
  const former = { release: new ModelRelease(release), manifest: SignedManifest.fromBytes(manifest) }
  if (former.release.digest !== digest) throw new PeerError('the server shows another release than the one that it was asked for')
  return former
}

/** The public rules as they are now, never from a cache. */
const readRules = (): Promise<Bytes> => read('/rules.jsonl')

async function read(path: string, missing?: string): Promise<Bytes> {
  const response = await fetch(path, { credentials: 'omit', redirect: 'error', cache: 'no-store', signal: AbortSignal.timeout(READ_MS) }).catch(() => null)
  if (response?.status === 404 && missing !== undefined) throw new RefusedError(missing, { why: { name: 'why.no_way_over' } })
  if (!response?.ok) throw new UnavailableError('the server cannot be reached; check the connection', null, { name: 'why.unreachable' })
  return new Uint8Array(await response.arrayBuffer())
}

async function statusOf({ deployment }: Loaded): Promise<Status> {
  const found = await present()
  const shown = found === 'outdated' ? null : found
  return {
    state: found === 'outdated' ? found : shown?.state ?? 'none',
    name: shown?.name ?? null,
    lock: shown?.lock ?? null,
    answers: shown?.answers ?? 0,
    mostAnswers: MOST_ANSWERS,
    failures: shown?.failures ?? 0,
    freeFailures: deployment.freeFailures,
    purpose: deployment.purpose,
    audience: deployment.audience,
    pad,
    issues,
    days: deployment.days,
    terms: deployment.terms,
    identifier: deployment.identifier,
    trust: shown?.trust ?? deployment.trust,
    releaseEnds: deployment.manifest.standing.endsAt,
    audited: deployment.manifest.audited,
    epsilon: deployment.manifest.epsilon,
    delta: deployment.manifest.delta,
    attacks: deployment.manifest.attacks,
    wolf: deployment.manifest.wolf,
    fmr: deployment.release.fmr,
    references: deployment.release.references,
    frames: deployment.release.frames,
    consentExpires: shown?.consentExpires ?? null,
    isBehind: shown?.state === 'enrolled' && (shown.release ?? deployment.release.digest) !== deployment.release.digest,
    wait: await keptWait(shown?.name ?? null, Math.floor(Date.now() / 1000)),
  }
}

function requireKey(key: Key | null): Key {
  if (key === null) throw new UsageError('the keys of this device are locked', { why: { name: 'why.locked' } })
  return key
}

async function requireWallet(key: Key | null): Promise<Wallet> {
  const wallet = await Wallet.open(requireKey(key).secret)
  if (wallet === null) throw new UsageError('this browser holds no device; enrol first', { why: { name: 'why.not_enrolled' } })
  return await successorOf(requireKey(key)) ?? wallet
}

/**
 * The wallet that has taken the place of the one that is there, where the log says so: the last answer of coming over was
 * lost. Null where there is none, or nobody can be asked or knows of it: then the former one is the best that is known.
 */
async function successorOf({ secret }: Key): Promise<Wallet | null> {
  const begun = await Wallet.begun(secret)
  if (begun === null || begun.memory.enrolment === null) return null
  await new Owner(begun, transport).settle().catch((error: unknown) => {
    if (!(error instanceof RefusedError || error instanceof UnavailableError)) throw error
  })
  if (begun.memory.enrolment.state !== 'enrolled') return null
  await begun.takePlace()
  return begun
}

/** The public rules as they are now. @param wallet what it has seen of them, or null where it is locked or none. */
const rulesNow = async (wallet: Wallet | null): Promise<Rulebook> => Rulebook.read(await readRules(), wallet?.memory.rules ?? null)

/** The site that asks, by the rules. */
const siteIn = (rules: Rulebook, { deployment }: Loaded, request: LoginRequest): Client =>
  requireSite(rules, deployment.identifier, request, scope.location.origin, Math.floor(Date.now() / 1000))

/** What the rules ask to stand between a presentation attack and a comparison; of a use that they do not allow, nothing: the device refuses it. */
function padIn(rules: Rulebook, { deployment: { identifier: deployment } }: Loaded, { audience, purpose }: Use): PadLevel {
  try {
    return leastPad(rules, { deployment, audience, purpose }, Math.floor(Date.now() / 1000))
  } catch (error) {
    if (error instanceof RefusedError) return 'none'
    throw error
  }
}

const device = async ({ deployment }: Loaded, key: Key | null): Promise<Device> => new Device(await requireWallet(key), transport, deployment)
const owner = async (key: Key | null): Promise<Owner> => new Owner(await requireWallet(key), transport)

/** Does something with the face. Where the server refuses it and says no more, as to a stranger, the owner asks why. */
async function explained({ deployment: { freeFailures } }: Loaded, opener: Key | null, act: () => Promise<Outcome>): Promise<Outcome> {
  try {
    const outcome = await act()
    if (!outcome.matched) await expectWait(freeFailures).catch(() => undefined) // the service says it, when it is asked
    return outcome
  } catch (error) {
    if (!(error instanceof RefusedError) || error.why !== null || !error.isOfServer) throw error
    const why = await owner(opener).then((mine) => mine.whyRefused()).catch(() => null)
    throw why === null ? error : new RefusedError(error.message, { why })
  }
}

/**
 * The wallet of the device that shall be enrolled: the one that is there, unless its template was revoked or is of old.
 *
 * Of an enrolment that the server says it never heard of the key is used again. So whatever a server holds under it can be
 * revoked, and a server that does hold a template refuses the next one before the secret of that one is forgotten.
 *
 * @param key what locks the wallet that is there, or shall lock a new one.
 */
async function newWallet(key: Key): Promise<Wallet> {
  const shown = await present()
  // What was revoked is replaced unopened: its lock may be lost.
  const before = shown === 'outdated' || isOver(shown?.state ?? 'none') ? null : await Wallet.open(key.secret)
  if (before !== null) {
    await new Owner(before, transport).settle().catch((error: unknown) => { if (!(error instanceof RefusedError)) throw error })
  }
  const isFresh = before === null || isOver(before.memory.enrolment?.state ?? 'none')
  return isFresh ? await Wallet.create(key) : before // a new signing key: nobody can link it with the old one
}

/**
 * The face of every picture, cut; what `client/device/pictures.py` asks of them is asked here. They are opened one after the
 * other, so that one at a time lies there as pixels.
 *
 * @param references how many of them, the first, serve as references.
 * @throws UnusableImageError one is of no use, or there twice.
 */
async function cuts({ recogniser }: Loaded, pictures: readonly Blob[], references: number): Promise<Uint8Array[]> {
  const found: Uint8Array[] = []
  for (const [place, picture] of pictures.entries()) {
    requireGoingOn()
    // Python reads the numbers of a file as they are, whatever colours they mean.
    const image = await createImageBitmap(picture, { colorSpaceConversion: 'none' })
    try {
      found.push(recogniser.cut(image, place < references ? 'reference' : 'probe'))
    } catch (error) {
      if (!(error instanceof UnusableImageError)) throw error
      const why = error.why && { ...error.why, values: { ...error.why.values, picture: place + 1 } }
      throw new UnusableImageError(`${nameOf(place)}: ${error.message}`, { why })
    } finally {
      image.close() // no face stays
    }
  }
  requireDifferent(found)
  return found
}

/** The adapted embedding of a live face, or what films one as the session's nonce asks. */
async function probe(loaded: Loaded, face: Face): Promise<Probe> {
  if ('without' in face) return (nonce) => filmed(loaded, nonce, face.without)
  const embeddings = (await cuts(loaded, face.pictures, 0)).map((cut) => loaded.recogniser.embed(cut))
  return loaded.deployment.release.adapt(fused(embeddings), 'probe')
}

async function filmed(loaded: Loaded, nonce: Uint8Array, without: Omission | null): Promise<Float64Array> {
  return loaded.deployment.release.adapt(await filmedEmbedding(loaded, nonce, without), 'probe')
}

async function filmedEmbedding({ recogniser, deployment: { release } }: Loaded, nonce: Uint8Array, without: Omission | null): Promise<Float64Array> {
  using filming = new Filming(recogniser, challengeOf(nonce, without), release.frames)
  await studio.take(filming, transport.signal, () => { tell({ kind: 'film' }) })
  return filming.embedding(release)
}

type Act<A extends Action> = (loaded: Loaded, argument: Parameters<Actions[A]>[0], key: Key | null) => Promise<ReturnType<Actions[A]>>
const actions: { [A in Action]: Act<A> } = {
  async begin(loaded) {
    const [rules] = await Promise.all([rulesNow(null).catch(() => null), transport.call(LogService.method.getCheckpoint, {})])
    if (rules !== null) { // else the device refuses, and says what is needed
      pad = padIn(rules, loaded, loaded.deployment)
      issues = (rules.deployment(loaded.deployment.identifier)?.issuer ?? null) !== null
    }
    return statusOf(loaded)
  },
  status: (loaded) => statusOf(loaded),
  async glance() {
    const found = await present()
    return found === 'outdated' ? null : found
  },
  async watch({ recogniser }, argument) {
    const { frame, profile, begins } = argument!
    try {
      const { advice, seen } = recogniser.advise(frame, profile, begins ? null : glance)
      glance = seen
      return advice
    } finally {
      frame.close()
    }
  },
  follow: async (_loaded, argument) => studio.see(argument!.frame, argument!.seconds),
  async look(loaded, argument) {
    try {
      await cuts(loaded, argument!.pictures, argument!.references)
      return null
    } catch (error) {
      if (error instanceof UnusableImageError) return faultOf(error)
      throw error
    }
  },
  async enrol(loaded, argument, opener) {
    using key = SessionKey.generate(loaded.engine, randomBytes) // before anything is known of the face
    const [{ pictures, ticket }, { release }] = [argument!, loaded.deployment]
    const embeddings = (await cuts(loaded, pictures, pictures.length - 1)).map((cut) => loaded.recogniser.embed(cut))
    const [references, second] = [embeddings.slice(0, -1), embeddings.at(-1)!]
    requireOnePerson(references, release)
    const adapted = [release.adapt(fused(references), 'reference'), release.adapt(second, 'probe')] as const
    const wallet = await newWallet(requireKey(opener))
    if (wallet.memory.enrolment?.state === 'enrolled') throw new UsageError('the earlier enrolment was done; verify', { why: { name: 'why.enrolled' } })
    return await new Device(wallet, transport, loaded.deployment).enrol(key, ...adapted, ticket)
  },
  async verify(loaded, argument, opener) {
    using key = SessionKey.generate(loaded.engine, randomBytes)
    const vector = await probe(loaded, argument!.face)
    const mine = await device(loaded, opener)
    return await explained(loaded, opener, () => mine.verify(key, vector, argument!.nonce === null ? undefined : fromHex(argument!.nonce)))
  },
  async asked(loaded, argument) {
    const request = LoginRequest.fromBytes(utf8(argument!.request))
    const rules = await rulesNow(null)
    const { identifier: client, operator } = siteIn(rules, loaded, request)
    const [found, now] = [await present(), Date.now() / 1000]
    const agreed = found === null || found === 'outdated' ? [] : found.agreed
    const isAgreed = agreed.some(([audience, purposes, until]) => audience === client && purposes.includes(request.purpose) && until > now)
    return { client, operator, purpose: request.purpose, site: new URL(request.redirectUri).host, isAgreed, pad: padIn(rules, loaded, { audience: client, purpose: request.purpose }) }
  },
  async login(loaded, argument, opener) {
    using key = SessionKey.generate(loaded.engine, randomBytes)
    using another = SessionKey.generate(loaded.engine, randomBytes)
    const request = LoginRequest.fromBytes(utf8(argument!.request))
    const wallet = await requireWallet(opener)
    siteIn(await rulesNow(wallet), loaded, request)
    const vector = await probe(loaded, argument!.face)
    const [mine, use] = [new Device(wallet, transport, loaded.deployment), { audience: request.client, purpose: request.purpose }]
    return await explained(loaded, opener, async () => {
      if (await mine.needsConsent(use, argument!.consents)) {
        const agreed = await mine.renew(another, vector, use)
        if (!agreed.matched) return agreed
      }
      return await mine.verify(key, vector, request.audienceNonce, use)
    })
  },
  async renew(loaded, argument, opener) {
    using key = SessionKey.generate(loaded.engine, randomBytes)
    const vector = await probe(loaded, argument!.face)
    const mine = await device(loaded, opener)
    return await explained(loaded, opener, () => mine.renew(key, vector))
  },
  async over(loaded, argument, opener) {
    const [wallet, { deployment: { release }, recogniser }] = [await requireWallet(opener), loaded]
    const { releaseDigest } = wallet.requireEnrolment()
    if (releaseDigest === release.digest) throw new UsageError('this device has come over', { why: { name: 'why.came_over' } })
    const former = await readFormer(releaseDigest)
    if (!recogniser.is(former.release.modelDigest)) throw new RefusedError('the release of this device is for another recogniser than the one of this page; use the intaglio program', { why: { name: 'why.other_recogniser' } })
    const alike = former.release.parameters.name === loaded.engine.parameters.name
    using key = SessionKey.generate(alike ? loaded.engine : await Engine.load(former.release.parameters), randomBytes)
    const { pictures, film } = argument!
    const averaged = film === null ? pictures.length - 1 : pictures.length
    const embeddings = (await cuts(loaded, pictures, averaged)).map((cut) => recogniser.embed(cut))
    const references = embeddings.slice(0, averaged)
    requireOnePerson(references, release)
    const twice = (embedding: Float64Array): Twice => ({ left: former.release.adapt(embedding, 'probe'), entered: release.adapt(embedding, 'probe') })
    const second = film === null ? twice(embeddings.at(-1)!) : async (nonce: Uint8Array) => twice(await filmedEmbedding(loaded, nonce, film.without))
    const into = await Wallet.successor(requireKey(opener))
    return await new Device(wallet, transport, loaded.deployment).comeOver(key, release.adapt(fused(references), 'reference'), second, former, into)
  },
  async revoke(_loaded, _argument, opener) { await (await owner(opener)).revoke(); return null },
  erase: async (_loaded, _argument, opener) => (await owner(opener)).erase(),
  async export(_loaded, _argument, opener) {
    const { record, templateBytes, receipts, openings } = await (await owner(opener)).export()
    const texts = receipts.map((receipt) => new TextDecoder().decode(receipt.toBytes()))
    return { record, templateBytes, receipts: texts, entries: openings.length, ...heldIn(record) }
  },
  history: async (_loaded, _argument, opener) => (await owner(opener)).history(),
  async backup(_loaded, argument, opener) {
    return new Blob([await sealBackup(await (await owner(opener)).revocation(), argument!.passphrase)], { type: 'application/octet-stream' })
  },
  async revokeLost({ deployment }, argument) {
    const { file, passphrase } = argument!
    const revocation = await openBackup(new Uint8Array(await file.arrayBuffer()), passphrase)
    await revokeWith(revocation, transport, { policy: new LogPolicy(deployment.log), now: Math.floor(Date.now() / 1000) })
    return hex(revocation.keyId.slice(0, 8))
  },
  async code(_loaded, _argument, opener) { return ticketText(codeOf((await newWallet(requireKey(opener))).keyId)) },
  async admit(loaded, argument, opener) {
    using key = SessionKey.generate(loaded.engine, randomBytes)
    const vector = await probe(loaded, argument!.face)
    const [wallet, { code, name }] = [await requireWallet(opener), argument!]
    const outcome = await explained(loaded, opener, () => new Device(wallet, transport, loaded.deployment).admit(key, vector, ticketDigest(code)))
    if (outcome.matched) await wallet.remember({ names: named(wallet.memory.names, code, name) })
    return outcome
  },
  async devices(_loaded, _argument, opener) {
    const wallet = await requireWallet(opener)
    return withNames(await new Owner(wallet, transport).devices(), wallet.memory.names)
  },
  async rename(_loaded, argument, opener) {
    const wallet = await requireWallet(opener)
    await wallet.remember({ names: named(wallet.memory.names, codeOf(fromHex(argument!.keyId)), argument!.name) })
    return deviceName(argument!.name)
  },
  async remove(loaded, argument, opener) {
    using key = SessionKey.generate(loaded.engine, randomBytes)
    const vector = await probe(loaded, argument!.face)
    const mine = await device(loaded, opener)
    return await explained(loaded, opener, () => mine.remove(key, vector, fromHex(argument!.keyId)))
  },
  async forget() { await Wallet.delete(); return null },
  async self({ deployment }) {
    const found = await hashPage((path) => read(path))
    const { software } = await transport.call(LogService.method.getCheckpoint, {})
    if (software === 0n) return { ...found, log: 'none', position: null, commit: '', signer: '' }
    const position = software - 1n
    const { logged } = await transport.call(LogService.method.getInclusion, { position })
    return { ...found, position: Number(position), ...await softwareIn(logged, Number(position), found.hash, new LogPolicy(deployment.log), Math.floor(Date.now() / 1000)) }
  },
}

/** What is there even when nobody can be reached. */
const NEEDS_NOBODY: ReadonlySet<Action> = new Set<Action>(['glance', 'code', 'backup', 'forget', 'rename'])

function everything(): Promise<Loaded> {
  loading ??= load().catch((error: unknown) => { loading = undefined; throw error }) // another try may do better
  return loading
}

/** What the page is told of an error. Of one that nobody raised on purpose, nothing: it may say what nobody should know. */
function faultOf(error: unknown): Fault {
  if (!(error instanceof IntaglioError)) return { kind: 'Error', message: 'something in this page failed', why: null, retryAfter: null }
  return error instanceof UnavailableError
    ? { kind: UnavailableError.name, message: error.message, why: error.why, retryAfter: error.retryAfter }
    : { kind: error.name, message: error.message, why: error.why, retryAfter: null }
}

/** Keeps how long the service will ask this device to wait after a refusal, so that nobody looks into the camera to hear it. */
async function expectWait(freeFailures: number): Promise<void> {
  const shown = await Wallet.look()
  if (shown === null) return
  const of = waitAfter(shown.failures, freeFailures)
  if (of > 0) await keepWait({ name: shown.name, until: Math.floor(Date.now() / 1000) + of, of })
}

/** Keeps how long the service asks this device to wait, if that is what went wrong. */
async function waited(error: unknown): Promise<void> {
  if (!(error instanceof UnavailableError) || error.why?.name !== 'why.wait' || error.retryAfter === null) return
  const shown = await Wallet.look()
  const [now, of] = [Math.floor(Date.now() / 1000), Math.ceil(error.retryAfter)]
  if (shown !== null) await keepWait({ name: shown.name, until: now + of, of })
}

/** @throws CancelledError the person stopped what runs. */
function requireGoingOn(): void {
  if (transport.signal.aborted) throw new CancelledError('stopped before anything was sent')
}

scope.onmessage = async ({ data }: MessageEvent<Request>) => {
  if ('cancel' in data) { running.get(data.cancel)?.abort(); return }
  const { id, action, argument, key } = data
  const controller = new AbortController()
  running.set(id, controller)
  try {
    const loaded = NEEDS_NOBODY.has(action) ? null : await everything()
    const act = actions[action] as (loaded: Loaded | null, argument: unknown, key: Key | null) => Promise<unknown>
    // A look at a frame needs no wallet. Everything else takes turns, also with other pages of this browser.
    const value = await (action === 'watch' || action === 'follow' ? act(loaded, argument, key) : Wallet.exclusively(() => {
      transport.signal = controller.signal
      requireGoingOn()
      return act(loaded, argument, key)
    }))
    tell({ kind: 'done', id, value })
  } catch (error) {
    await waited(error).catch(() => undefined) // the service says it again
    tell({ kind: 'failed', id, fault: faultOf(error) })
  } finally {
    running.delete(id)
    key?.secret.fill(0)
  }
}
