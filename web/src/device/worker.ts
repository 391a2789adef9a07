/// <reference lib="webworker" />
/** The worker in which the device lives: its keys, the recogniser, and every face that is looked at. */

import { type Bytes, fromHex } from '../bytes'
import { IntaglioError, PeerError, RefusedError, UnavailableError, UsageError } from '../errors'
import { Recogniser } from '../face/recogniser'
import { ModelRelease } from '../face/release'
import { LogKey } from '../log/notes'
import { Engine } from '../onebit/seal'
import { releaseTrustOf, SignedManifest } from '../rules/manifest'
import { requireName } from '../wallet/statements'
import { type Party, requireTerms, SignedReceipt, type Terms } from '../wallet/receipts'
import { MOST_ANSWERS, Wallet } from '../wallet/wallet'
import { type Deployment, Device, nameOf } from './device'
import type { Action, Actions, Reply, Request, Status } from './messages'
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
let loading: Promise<Loaded> | undefined

async function load(): Promise<Loaded> {
  const [engine, recogniser, deployment] = await Promise.all([
    Engine.load().then((engine) => { tell({ kind: 'ready', part: 'encryption' }); return engine }),
    Recogniser.load().then((recogniser) => { tell({ kind: 'ready', part: 'recogniser' }); return recogniser }),
    readDeployment().then((deployment) => { tell({ kind: 'ready', part: 'deployment' }); return deployment }),
  ])
  if (deployment.release.modelDigest !== recogniser.digest) {
    throw new RefusedError('the model release is for another recogniser than the one of this page')
  }
  using _readable = await Wallet.open(engine)
  tell({ kind: 'ready', part: 'wallet' })
  return { engine, recogniser, deployment }
}

async function readDeployment(): Promise<Deployment> {
  const [told, release, signed] = await Promise.all(['/deployment.json', '/release.json', '/manifest.json'].map(read))
  let deployment: Deployment
  try {
    const value = JSON.parse(new TextDecoder().decode(told)) as Record<string, any>
    const terms = termsOf(value['terms'] as Record<string, any>)
    const { purpose, days, log_key: logKey } = value as { purpose: string; days: number; log_key: string }
    const identifier = value['deployment'] as string
    requireName('the deployment', identifier)
    new LogKey(logKey)
    requireTerms(terms)
    if (!terms.purposes.includes(purpose) || !Number.isInteger(days)) throw new UsageError('the terms are for another purpose')
    deployment = { purpose, audience: terms.audience, terms, days, logKey, identifier, release: new ModelRelease(release), manifest: SignedManifest.fromBytes(signed), trust: releaseTrustOf(value['release_trust']), readRules }
  } catch (error) {
    throw new PeerError(`the server describes its deployment in a way that is not allowed: ${error instanceof IntaglioError ? error.message : 'not readable'}`)
  }
  return deployment
}

/** The public rules as they are now, never from a cache. */
const readRules = (): Promise<Bytes> => read('/rules.jsonl')

async function read(path: string): Promise<Bytes> {
  const response = await fetch(path, { credentials: 'omit', redirect: 'error', cache: 'no-store' }).catch(() => null)
  if (!response?.ok) throw new UnavailableError('the server cannot be reached; check the connection')
  return new Uint8Array(await response.arrayBuffer())
}

function termsOf(value: Record<string, any>): Terms {
  return {
    controller: value['controller'] as Party,
    audience: value['audience'], purposes: value['purposes'], jurisdiction: value['jurisdiction'],
    storageLocation: value['storage_location'], retentionDays: value['retention_days'], alternative: value['alternative'],
    contest: value['contest'], withdrawal: value['withdrawal'], notice: value['notice'],
    noticeVersion: value['notice_version'], language: value['language'],
  }
}

async function statusOf({ engine, deployment }: Loaded): Promise<Status> {
  using wallet = await Wallet.open(engine)
  const enrolment = wallet?.memory.enrolment ?? null
  const latest = enrolment?.receipts.at(-1)
  return {
    state: enrolment?.state ?? 'none',
    name: wallet && nameOf(wallet),
    answers: enrolment?.answers ?? 0,
    mostAnswers: MOST_ANSWERS,
    purpose: deployment.purpose,
    audience: deployment.audience,
    days: deployment.days,
    terms: deployment.terms,
    identifier: deployment.identifier,
    trust: enrolment?.trust ?? deployment.trust,
    releaseEnds: deployment.manifest.standing.endsAt,
    verdict: deployment.manifest.verdict,
    isTrial: deployment.manifest.standing.isTrial,
    wolf: deployment.manifest.wolf,
    consentExpires: latest === undefined ? null : SignedReceipt.fromBytes(new TextEncoder().encode(latest)).receipt.expiresAt,
  }
}

/** Lets `work` use the device, whose keys are in memory only for that long. */
async function withDevice<T>({ engine, deployment }: Loaded, work: (device: Device) => Promise<T>): Promise<T> {
  using wallet = await Wallet.open(engine)
  if (wallet === null) throw new UsageError('this browser holds no device; enrol first')
  return await work(new Device(wallet, transport, deployment))
}

/** Lets `work` use the device that shall be enrolled: the one that is there, unless its template was revoked. */
async function withNewDevice<T>(loaded: Loaded, work: (device: Device) => Promise<T>): Promise<T> {
  using present = await Wallet.open(loaded.engine)
  if (present === null || present.memory.enrolment?.state === 'revoked') {
    using _fresh = await Wallet.create(loaded.engine) // a new key and a new code: nobody can link it with the old one
  }
  return await withDevice(loaded, work)
}

const actions: { [A in Action]: (loaded: Loaded, argument: Parameters<Actions[A]>[0]) => Promise<ReturnType<Actions[A]>> } = {
  begin: (loaded) => statusOf(loaded),
  status: (loaded) => statusOf(loaded),
  async enrol(loaded, argument) {
    const { recogniser, deployment: { release } } = loaded
    const first = release.adapt(await recogniser.embed(argument!.reference), 'reference')
    const second = release.adapt(await recogniser.embed(argument!.second), 'probe')
    return withNewDevice(loaded, (device) => device.enrol(first, second))
  },
  async verify(loaded, argument) {
    const probe = loaded.deployment.release.adapt(await loaded.recogniser.embed(argument!.probe), 'probe')
    return withDevice(loaded, (device) => device.verify(probe, argument!.nonce === null ? undefined : fromHex(argument!.nonce)))
  },
  renew: (loaded) => withDevice(loaded, async (device) => { await device.renew(); return null }),
  revoke: (loaded) => withDevice(loaded, async (device) => { await device.revoke(); return null }),
  erase: (loaded) => withDevice(loaded, (device) => device.erase()),
  export: (loaded) => withDevice(loaded, async (device) => {
    const { record, templateBytes, publicKeyBytes, receipts, openings } = await device.export()
    const texts = receipts.map((receipt) => new TextDecoder().decode(receipt.toBytes()))
    return { record, templateBytes, publicKeyBytes, receipts: texts, entries: openings.length }
  }),
  history: (loaded) => withDevice(loaded, (device) => device.history()),
}

scope.onmessage = async ({ data }: MessageEvent<Request>) => {
  const { id, action, argument } = data
  try {
    loading ??= load().catch((error: unknown) => { loading = undefined; throw error }) // another try may do better
    const loaded = await loading
    const act = actions[action] as (loaded: Loaded, argument: unknown) => Promise<unknown>
    tell({ kind: 'done', id, value: await Wallet.exclusively(() => act(loaded, argument)) })
  } catch (error) {
    const known = error instanceof IntaglioError
    const retryAfter = error instanceof UnavailableError ? error.retryAfter : null
    tell({ kind: 'failed', id, error: known ? error.name : 'Error', message: known ? error.message : 'something in this page failed', retryAfter })
  } finally {
    for (const part of Object.values(argument ?? {})) if (part instanceof ImageBitmap) part.close() // no face stays
  }
}
