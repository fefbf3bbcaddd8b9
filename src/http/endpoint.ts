import type { Readable } from "node:stream";
import type { ParameterizedContext } from "koa";
import type { z } from "zod";
import { type Caller, checkCaller, type Demand, enterScope, unauthorized } from "../db/enter.ts";
import type { ScopedTransaction } from "../db/scoped.ts";
import { AppError, invalid, notFound } from "../errors.ts";
import { bearerOf, hashFromHeader } from "../keys/secret.ts";
import type { Deps } from "./app.ts";
import { JSON_LIMIT, parseJson, readBody, refuseUnstorable } from "./body.ts";
import { idempotencyOf, onlyOnce, Replay, replayStored, type StoredAnswer } from "./idempotency.ts";
import { readUpload, type Upload } from "./upload.ts";
import { fields } from "./wire.ts";

/** What a handler gets: the checked input, and the way into a transaction. */
export interface Request<P, Q, B> {
  readonly deps: Deps;
  readonly params: P;
  readonly query: Q;
  /** JSON, or of an upload its metadata. */
  readonly body: B;
  /** Only where the endpoint takes one. */
  readonly upload: Upload;
  /** The caller's own secret: for requests that the service makes in the caller's name, and nothing else. */
  readonly bearer: string;
  /**
   * Runs work in one entered transaction and gives its answer. With an `Idempotency-Key` the answer
   * is stored in that same transaction, so `work` returns the response's body itself.
   */
  enter<T>(demand: Partial<Omit<Demand, "verb">>, work: (tx: ScopedTransaction) => Promise<T>): Promise<T>;
  /** Looks something up by id first, in a transaction of its own, which stores no answer. */
  look<T>(work: (tx: ScopedTransaction) => Promise<T>): Promise<T>;
}

type Infer<T> = T extends z.ZodType ? z.output<T> : Record<string, never>;

/** One route, as data: a test walks all of them, and each has to say what it demands. */
export interface Endpoint {
  readonly method: "get" | "post" | "put" | "patch" | "delete";
  /** Below `/api/v1`; `{ctx}` and other parameters in braces. */
  readonly path: string;
  readonly verb: Demand["verb"];
  readonly mode: Demand["mode"];
  /** The word for it in traces. */
  readonly operation: string;
  /** What it does, for people who read the API's description. */
  readonly summary: string;
  /** The shape of a good answer's body, where it has one. */
  readonly answer: z.ZodType | undefined;
  readonly status: number;
  /** Bytes of a body at most. */
  readonly bodyLimit: number;
  /** The answer carries a secret: it is never stored. */
  readonly secret: boolean;
  /** The body is multipart: a file, and metadata that `body` describes. */
  readonly upload: boolean;
  /** The answer may hold stored text: a forget drops the copies of it. */
  readonly recalls: boolean;
  readonly params: z.ZodType | undefined;
  readonly query: z.ZodType;
  readonly body: z.ZodType | undefined;
  readonly handle: (request: Request<never, never, never>) => Promise<unknown>;
}

export interface EndpointSpec<P, Q, B> extends Pick<Endpoint, "method" | "path" | "verb" | "operation"> {
  readonly summary?: string;
  readonly answer?: z.ZodType;
  readonly mode?: Demand["mode"];
  readonly status?: number;
  readonly bodyLimit?: number;
  readonly secret?: boolean;
  readonly recalls?: boolean;
  readonly upload?: boolean;
  readonly params?: P;
  readonly query?: Q;
  readonly body?: B;
  readonly handle: (request: Request<Infer<P>, Infer<Q>, Infer<B>>) => Promise<unknown>;
}

export function endpoint<P, Q, B>(spec: EndpointSpec<P, Q, B>): Endpoint {
  return {
    mode: "id",
    status: 200,
    bodyLimit: JSON_LIMIT,
    secret: false,
    recalls: false,
    upload: false,
    summary: spec.operation.replaceAll("_", " "),
    answer: undefined,
    ...spec,
    params: spec.params as z.ZodType | undefined,
    query: (spec.query ?? fields({})) as z.ZodType,
    body: spec.body as z.ZodType | undefined,
    handle: spec.handle as Endpoint["handle"],
  };
}

/** From this size on a body waits for its turn before it is read: so many at a time are in memory (`Deps.intake`). */
const LARGE_BYTES = 256 * 1024;
/** Up to this size a body is read and prepared before the key is looked at, in the same transaction as the work. */
const UNCHECKED_BYTES = 16 * 1024;

/** The request path: who, then what, then into the transaction. */
export async function runEndpoint(
  spec: Endpoint,
  deps: Deps,
  ctx: ParameterizedContext,
  params: Record<string, string>,
): Promise<void> {
  const caller = callerOf(spec, deps, ctx, params);
  try {
    await answer(spec, deps, ctx, params, caller);
  } catch (error) {
    if (error instanceof Replay) {
      ctx.set("Idempotent-Replayed", "true");
      respond(ctx, error.answer);
      return;
    }
    throw error;
  }
  deps.touchKey(caller.keyHash);
}

function callerOf(spec: Endpoint, deps: Deps, ctx: ParameterizedContext, params: Record<string, string>): Caller {
  const keyHash = hashFromHeader(ctx.get("authorization") || undefined);
  // A wrong Context with a valid key is not told from a wrong key.
  if (keyHash === undefined || (params.ctx !== undefined && params.ctx !== deps.context)) throw unauthorized();
  const onBehalfOf = ctx.get("x-spectron-on-behalf-of") || undefined;
  return { keyHash, onBehalfOf, route: `${spec.method.toUpperCase()} ${spec.path}`, operation: spec.operation };
}

async function answer(
  spec: Endpoint,
  deps: Deps,
  ctx: ParameterizedContext,
  params: Record<string, string>,
  caller: Caller,
): Promise<void> {
  const progress: Progress = { checked: false, upload: undefined, leaveIntake: undefined };
  try {
    const request = await readRequest(spec, deps, ctx, params, caller, progress);
    const body = await spec.handle(request);
    if (body instanceof Download) return send(ctx, body);
    if (body instanceof TextAnswer) {
      ctx.body = body.text;
      ctx.type = body.contentType;
      return;
    }
    respond(ctx, { status: spec.status, body: body === undefined || body === null ? null : JSON.stringify(body) });
  } catch (error) {
    // Whoever may not come in at all is told that before what is wrong with the request.
    if (error instanceof AppError && !progress.checked)
      await checkCaller(deps.database.app, caller, spec.verb, deps.turns);
    throw error;
  } finally {
    progress.leaveIntake?.();
    await progress.upload?.file.discard();
  }
}

/** How far a request has come. */
interface Progress {
  /** Whether the key was looked at. */
  checked: boolean;
  /** On disk, until the request has ended. */
  upload: Upload | undefined;
  /** Of a large body: lets the next one in. */
  leaveIntake: (() => void) | undefined;
}

async function readRequest(
  spec: Endpoint,
  deps: Deps,
  ctx: ParameterizedContext,
  params: Record<string, string>,
  caller: Caller,
  progress: Progress,
): Promise<Request<never, never, never>> {
  const arrivedAt = performance.now();
  // A large body costs work before the transaction: not for strangers.
  const declared = ctx.get("transfer-encoding") ? Number.POSITIVE_INFINITY : Number(ctx.get("content-length") || 0);
  if (spec.upload || (spec.body !== undefined && declared > UNCHECKED_BYTES)) {
    progress.checked = true;
    await checkCaller(deps.database.app, caller, spec.verb, deps.turns);
  }
  if (!spec.upload && spec.body !== undefined && declared > LARGE_BYTES) {
    progress.leaveIntake = await deps.intake.enter(deps.turns.of(caller.keyHash));
  }
  const checkedParams = parseParams(spec.params, params);
  const query = parseInput(spec.query, queryOf(ctx), "query");
  progress.upload = spec.upload ? await readUpload(ctx.req) : undefined;
  const raw =
    spec.upload || spec.method === "get" || (spec.method === "delete" && spec.body === undefined)
      ? Buffer.alloc(0)
      : await readBody(ctx.req, spec.bodyLimit);
  const input = progress.upload
    ? progress.upload.metadata
    : spec.body && (parseJson(raw, ctx.get("content-type")) ?? {});
  const body = spec.body === undefined ? refuseBody(raw) : parseInput(spec.body, input, "body");
  const circumstances = { context: deps.context, arrivedAt, turns: deps.turns };
  const idempotency = idempotencyOf(spec, ctx, progress.upload?.digest ?? raw);
  return {
    deps,
    params: checkedParams as never,
    query: query as never,
    body: body as never,
    // Endpoints that take no upload never look at it.
    upload: progress.upload as Upload,
    bearer: bearerOf(ctx.get("authorization")),
    look: (work) => {
      progress.checked = true;
      return enterScope(deps.database.app, caller, { verb: spec.verb, mode: "id" }, work, circumstances);
    },
    enter: (demand, work) => {
      progress.checked = true;
      const entered = enterScope(
        deps.database.app,
        caller,
        { mode: spec.mode, ...demand, verb: spec.verb },
        (tx) => (idempotency === undefined ? work(tx) : onlyOnce(tx, spec, idempotency, work)),
        circumstances,
      );
      if (idempotency === undefined) return entered;
      return entered.catch(async (error: unknown) => {
        // A retry of what was done gets its answer even where the same would be refused by now.
        if (error instanceof AppError && [404, 409, 422].includes(error.status)) {
          const self = { verb: "self", mode: "id" } as const;
          await enterScope(deps.database.app, caller, self, (tx) => replayStored(tx, idempotency), circumstances);
        }
        throw error;
      });
    },
  };
}

function refuseBody(raw: Buffer): Record<string, never> {
  if (raw.length > 0 && raw.toString("latin1").trim() !== "" && raw.toString("latin1").trim() !== "{}") {
    throw invalid("this route takes no body");
  }
  return {};
}

function queryOf(ctx: ParameterizedContext): Record<string, string> {
  const query: [string, string][] = [];
  for (const [name, value] of Object.entries(ctx.query)) {
    if (typeof value !== "string") throw invalid(`the query parameter ${name} is given more than once`);
    refuseUnstorable(value, `the query parameter ${name}`);
    query.push([name, value]);
  }
  return Object.fromEntries(query);
}

/** An id that is not one cannot exist: 404, as for any other that is not visible. */
function parseParams(schema: z.ZodType | undefined, params: Record<string, string>): unknown {
  const { ctx: _, ...own } = params;
  if (schema === undefined) return own;
  const parsed = schema.safeParse(own);
  if (!parsed.success) throw notFound();
  return parsed.data;
}

function parseInput(schema: z.ZodType, input: unknown, where: "body" | "query"): unknown {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.slice(0, 5).map((issue) => {
    const path = issue.path.join(".");
    return `${path === "" ? `the ${where}` : path}: ${issue.message}`;
  });
  throw invalid(problems.join("; "));
}

/** An answer that is text and no JSON. */
export class TextAnswer {
  readonly contentType: string;
  readonly text: string;
  constructor(contentType: string, text: string) {
    this.contentType = contentType;
    this.text = text;
  }
}

/** An answer that is bytes. */
export class Download {
  readonly contentType: string;
  readonly size: number;
  readonly filename: string;
  readonly bytes: Readable;
  constructor(contentType: string, size: number, filename: string, bytes: Readable) {
    this.contentType = contentType;
    this.size = size;
    this.filename = filename;
    this.bytes = bytes;
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

function respond(ctx: ParameterizedContext, { status, body }: StoredAnswer): void {
  ctx.body = body;
  ctx.status = body === null ? 204 : status;
  if (body === null) return;
  ctx.type = "application/json";
}
