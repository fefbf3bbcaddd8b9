/** The request path: who, then what, then into the transaction, then the answer. */

import type { ParameterizedContext } from "koa";
import { checkCaller, enterScope, NeedsHold, unauthorized } from "../db/access/enter.ts";
import type { AccessRequest, Caller, RequestContext } from "../db/access/entry.ts";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import { RolledBack } from "../db/connect/lease.ts";
import { AppError } from "../errors.ts";
import { stringifyJson } from "../exact-json.ts";
import { bearerOf, hashFromHeader } from "../keys/secret.ts";
import type { Meter } from "../metering/model-call.ts";
import { OverBudget, RequestMeter } from "../metering/request-meter.ts";
import { signReceipts } from "../traces/receipt-signer.ts";
import { onBehalfOf } from "./delegation.ts";
import type { Deps } from "./deps.ts";
import { Download, type Endpoint, RawAnswer, TextAnswer } from "./endpoint.ts";
import { type Idempotency, idempotencyOf, onlyOnce, replayStored, type StoredAnswer } from "./idempotency.ts";
import { checkInput, type GivenInput, type Input, readInput } from "./input.ts";
import { originOf } from "./origin.ts";
import { setRateHeaders } from "./rate-headers.ts";

/** A body of at least this size waits for a place before it is read, so that only a few are in memory at once (`Deps.intake`). */
const LARGE_BYTES = 256 * 1024;
/** Up to this size a body is read and prepared before the key is checked, which then happens in the transaction of the work. */
const UNCHECKED_BYTES = 16 * 1024;

export async function runEndpoint(
  spec: Endpoint,
  deps: Deps,
  ctx: ParameterizedContext,
  params: Record<string, string>,
): Promise<void> {
  const caller = callerOf(spec, deps, ctx, params);
  const stranger = deps.strangers.groupOf(ctx.req);
  const visit = new Visit(spec, deps, caller, stranger);
  const release: (() => unknown)[] = [];
  try {
    const size = bodySizeOf(spec, ctx);
    // A large body costs work before the transaction: not for strangers.
    if (size > UNCHECKED_BYTES) await visit.check();
    // A large body waits unread for a place in memory, an upload for one on the disk.
    const room = spec.upload ? deps.uploads : size > LARGE_BYTES ? deps.intake : undefined;
    if (room !== undefined) release.push(await room.enter(deps.shareGroups.of(caller.keyHash) ?? stranger));
    const input = await readInput(spec, ctx, params);
    release.push(() => input.upload?.file.discard());
    visit.begin(input, idempotencyOf(spec, ctx, caller, input));
    const body = await answerOnce(visit, ctx, input);
    if (visit.replayed !== undefined) ctx.set("Idempotent-Replayed", "true");
    respond(ctx, visit.replayed ?? answerOf(spec, body));
  } catch (error) {
    // Whoever may not come in at all is told that before what is wrong with the request.
    if (error instanceof AppError && !visit.wasChecked) await visit.check();
    throw error;
  } finally {
    setRateHeaders(ctx, visit.meter.rates);
    try {
      for (const end of release) await end();
    } finally {
      await visit.meter.end();
    }
  }
  deps.touchKey(caller.keyHash);
}

/** What the handler gives; undefined where the answer is one that is stored. */
async function answerOnce(visit: Visit, ctx: ParameterizedContext, input: GivenInput): Promise<unknown> {
  const { spec, deps, caller } = visit;
  const handle = () =>
    spec.handle({
      deps,
      caller,
      bearer: bearerOf(ctx.get("authorization")),
      http: {
        accepts: (mediaType) => ctx.accepts("application/json", mediaType) === mediaType,
        origin: originOf(ctx),
        headers: ctx.headers,
      },
      params: input.params,
      query: input.query,
      body: input.body,
      upload: input.upload,
      enter: (access, work) => visit.enter(access, work),
      peek: (access, work) => visit.peek(access, work),
      meter: (access) => visit.meterFor(access),
      call: (other, given) => callEndpoint(other, visit, ctx, given),
    });
  // What is repeated calls no model anew.
  await visit.replayBefore();
  if (visit.replayed !== undefined) return undefined;
  return handle()
    .catch((error: unknown) => {
      // A model in this process has worked for a budget that has no room for it: nothing was stored yet.
      if (error instanceof OverBudget) return handle();
      throw error;
    })
    .catch((error: unknown) => {
      if (!(error instanceof OverBudget || error instanceof NeedsHold)) throw error;
      throw new AppError("unavailable", "the budgets above this call changed while it was made; try again", {
        retryAfter: 1,
      });
    });
}

/** Another endpoint within a request, for the same caller: checked, metered and traced as by itself. */
async function callEndpoint(
  spec: Endpoint,
  { deps, caller, stranger }: Visit,
  ctx: ParameterizedContext,
  given: GivenInput,
): Promise<unknown> {
  const visit = new Visit(spec, deps, { ...caller, operation: spec.operation }, stranger);
  try {
    const input = checkInput(spec, given);
    visit.begin(input, undefined);
    return await answerOnce(visit, ctx, input);
  } finally {
    setRateHeaders(ctx, visit.meter.rates);
    await given.upload?.file.discard();
    await visit.meter.end();
  }
}

function callerOf(spec: Endpoint, deps: Deps, ctx: ParameterizedContext, params: Record<string, string>): Caller {
  const keyHash = hashFromHeader(ctx.get("authorization") || undefined);
  // A wrong Context with a valid key is not told from a wrong key.
  if (keyHash === undefined || (params.ctx !== undefined && params.ctx !== deps.context)) throw unauthorized();
  return {
    keyHash,
    onBehalfOf: onBehalfOf(ctx.headers),
    route: `${spec.method.toUpperCase()} ${spec.path}`,
    operation: spec.operation,
  };
}

/** Bytes of the body as they are announced; of one that is not, and of every upload, no bound is known. */
function bodySizeOf(spec: Endpoint, ctx: ParameterizedContext): number {
  if (spec.upload) return Number.POSITIVE_INFINITY;
  if (spec.body === undefined) return 0;
  return ctx.get("transfer-encoding") ? Number.POSITIVE_INFINITY : Number(ctx.get("content-length") || 0);
}

/** One request's way into transactions: whether its key was checked yet, and the answer that it repeats, if any. */
class Visit {
  wasChecked = false;
  replayed: StoredAnswer | undefined;
  readonly meter: RequestMeter;
  readonly spec: Endpoint;
  readonly deps: Deps;
  readonly caller: Caller;
  readonly stranger: string;
  readonly #context: RequestContext;
  #input: Pick<Input, "params" | "body"> | undefined;
  #idempotency: Idempotency | undefined;

  constructor(spec: Endpoint, deps: Deps, caller: Caller, group: string) {
    this.spec = spec;
    this.deps = deps;
    this.caller = caller;
    this.stranger = group;
    this.meter = new RequestMeter(deps.metering, caller, spec);
    this.#context = {
      context: deps.context,
      arrivedAt: performance.now(),
      shareGroups: deps.shareGroups,
      strangers: { group, known: deps.strangers },
    };
  }

  begin(input: Input, idempotency: Idempotency | undefined): void {
    this.#input = input;
    this.#idempotency = idempotency;
  }

  /** @throws AppError for a key that may not use the endpoint at all */
  async check(): Promise<void> {
    this.wasChecked = true;
    await checkCaller(this.deps.database.app, this.caller, this.spec.verb, this.#context);
  }

  /** Looks for the answer that is stored for this very request, where doing it again might call a provider first. */
  async replayBefore(): Promise<void> {
    const idempotency = this.#idempotency;
    const { models, reranker } = this.deps;
    if (idempotency === undefined || !(models.areRemote || reranker !== undefined)) return;
    const found = await this.#enter({ verb: "self", mode: "id" }, (tx) =>
      replayStored(tx, this.spec, idempotency, this.#input),
    );
    if (found !== undefined && "replayed" in found) this.replayed = found.replayed;
  }

  peek<T>(access: Partial<Omit<AccessRequest, "verb">>, work: (tx: ScopedTransaction) => Promise<T>): Promise<T> {
    return this.#enter({ mode: "id", ...access, verb: this.spec.verb }, work);
  }

  async enter<T>(
    access: Partial<Omit<AccessRequest, "verb">>,
    work: (tx: ScopedTransaction) => Promise<T>,
  ): Promise<T> {
    const spec = this.spec;
    const request = { mode: spec.mode, ...access, verb: spec.verb };
    const idempotency = this.#idempotency;
    if (idempotency === undefined) return this.#enterHeld(request, work);
    const outcome = await this.#enterHeld(request, (tx) => onlyOnce(tx, spec, idempotency, this.#input, work)).catch(
      async (error: unknown) => {
        // A retry of what was done gets its answer even where the same would be refused by now.
        if (!(error instanceof AppError) || ![404, 409, 422].includes(error.status)) throw error;
        const replay = await this.#enter({ verb: "self", mode: "id" }, (tx) =>
          replayStored<T>(tx, spec, idempotency, this.#input),
        );
        if (replay === undefined) throw error;
        return replay;
      },
    );
    if ("replayed" in outcome) this.replayed = outcome.replayed;
    return outcome.body;
  }

  meterFor(access: Partial<Omit<AccessRequest, "verb">>): Meter {
    return this.meter.setAccess({ mode: this.spec.mode, ...access, verb: this.spec.verb });
  }

  /** Enters, holding what the budgets above ask for; the trace of a committed transaction settles it. */
  async #enterHeld<T>(request: AccessRequest, work: (tx: ScopedTransaction) => Promise<T>): Promise<T> {
    const { meter } = this;
    if (meter.isTold) return this.#enter(request, work);
    const metered = this.spec.verb.startsWith("memory:");
    if (metered && meter.holdId === undefined && meter.isExpected) await meter.holdFor(request);
    const held = async () => {
      let told: readonly string[] = [];
      const done = await this.#enter({ ...request, metered, hold: meter.holdId }, async (tx) => {
        told = [];
        const made = await work(tx);
        if (!(made instanceof RolledBack)) told = tx.traceIds;
        return made;
      });
      meter.told(told);
      return done;
    };
    try {
      return await held();
    } catch (error) {
      if (!(error instanceof NeedsHold)) throw error;
      await meter.holdFor(request);
      return held();
    }
  }

  #enter<T>(request: AccessRequest, work: (tx: ScopedTransaction) => Promise<T>): Promise<T> {
    this.wasChecked = true;
    const { database, quotas } = this.deps;
    const within = async (tx: ScopedTransaction) => {
      if (this.spec.recordedAs !== undefined) tx.recordAs(this.spec.recordedAs, this.spec.operation);
      if (request.mode === "write") await quotas.check(tx);
      const done = await work(tx);
      await signReceipts(tx, this.deps.signer);
      return done;
    };
    return enterScope(database.app, this.caller, request, within, this.#context);
  }
}

type Answer = StoredAnswer | Download | TextAnswer | RawAnswer;

function answerOf(spec: Endpoint, body: unknown): Answer {
  if (body instanceof Download || body instanceof TextAnswer || body instanceof RawAnswer) return body;
  return { status: spec.status, body: body === undefined || body === null ? null : stringifyJson(body) };
}

function respond(ctx: ParameterizedContext, answer: Answer): void {
  if (answer instanceof RawAnswer) {
    ctx.body = answer.text === "" ? null : answer.text;
    // Koa makes 204 of an answer without a body.
    ctx.status = answer.status;
    for (const [name, value] of answer.headers) if (name !== "content-length") ctx.set(name, value);
  } else if (answer instanceof Download) {
    send(ctx, answer);
  } else if (answer instanceof TextAnswer) {
    ctx.body = answer.text;
    ctx.type = answer.contentType;
  } else {
    ctx.body = answer.body;
    ctx.status = answer.body === null ? 204 : answer.status;
    if (answer.body !== null) ctx.type = "application/json";
  }
}

function send(ctx: ParameterizedContext, download: Download): void {
  ctx.body = download.bytes;
  ctx.type = download.contentType;
  ctx.length = download.size;
  // A tenant's HTML is never shown as a page of this host.
  ctx.set("Content-Disposition", `attachment; filename*=UTF-8''${encodeURIComponent(download.filename)}`);
  ctx.set("Content-Security-Policy", "sandbox; default-src 'none'");
}
