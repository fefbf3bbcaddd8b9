import { createHash } from "node:crypto";
import type { ParameterizedContext } from "koa";
import type { Caller } from "../db/access/entry.ts";
import { json, list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { RolledBack } from "../db/connect/lease.ts";
import { AppError, invalid } from "../errors.ts";
import { parseJson, stringifyJson } from "../exact-json.ts";
import type { Endpoint } from "./endpoint.ts";
import type { Input } from "./input.ts";

/** The body as text: JSON in the database has its own order of members, and a replay has none but the first's. */
export interface StoredAnswer {
  readonly status: number;
  readonly body: string | null;
}

/** One use of an idempotency key. */
export interface Idempotency {
  readonly endpoint: string;
  readonly key: string;
  readonly bodyHash: Uint8Array;
}

/** What a handler goes on with: its own answer, or the one that was stored for the same request. */
type Once<T> = { readonly body: T } | { readonly body: T; readonly replayed: StoredAnswer };
type Said = Pick<Input, "params" | "body"> | undefined;

/** Claims the idempotency key, does the work and stores its answer: all of it commits, or none. */
export async function onlyOnce<T>(
  tx: ScopedTransaction,
  spec: Endpoint,
  { endpoint: at, key, bodyHash }: Idempotency,
  said: Said,
  work: (tx: ScopedTransaction) => Promise<T>,
): Promise<Once<T>> {
  const claim = await claimed(tx, at, key, bodyHash);
  if (claim.status === "replay") return replayOf<T>(spec, claim.answer, said);
  if (claim.status === "gone") {
    throw new AppError(
      "conflict",
      "what this request stored was forgotten since; to store it again, use another Idempotency-Key",
    );
  }
  if (claim.status === "conflict") {
    throw new AppError(
      "conflict",
      claim.sameBody
        ? "this Idempotency-Key was used for an answer that carried a secret, which is not stored"
        : "this Idempotency-Key was used with another body",
    );
  }
  const body = await work(tx);
  if (body instanceof RolledBack) throw new Error(`${at}: work that is undone has no answer to store`);
  if (!spec.secret) {
    const kept = spec.retold === undefined ? body : spec.retold.strip(body);
    const stored = { status: spec.status, body: kept === undefined ? null : stringifyJson(kept) };
    await tx.call("store_answer", at, key, json(stored), sql`${list(tx.spokenOf)}::uuid[]`);
  }
  return { body };
}

function replayOf<T>(spec: Endpoint, { status, body }: StoredAnswer, said: Said): Once<T> {
  if (spec.retold === undefined || body === null) {
    return { body: (body === null ? undefined : parseJson(body)) as T, replayed: { status, body } };
  }
  const told = spec.retold.tell(parseJson(body), said);
  return { body: told as T, replayed: { status, body: stringifyJson(told) } };
}

type Claim =
  | { readonly status: "new" }
  | { readonly status: "replay"; readonly answer: StoredAnswer }
  | { readonly status: "gone" }
  | { readonly status: "conflict"; readonly sameBody: boolean };

async function claimed(tx: ScopedTransaction, at: string, key: string, bodyHash: Uint8Array): Promise<Claim> {
  try {
    return await tx.call<Claim>("claim_idempotency", at, key, bodyHash);
  } catch (cause) {
    // Waited for the first one as long as a statement may take, and it has not ended.
    if (["55P03", "57014"].includes((cause as { code?: string }).code ?? "")) {
      throw new AppError("conflict", "a request with this Idempotency-Key is still in flight", {
        cause,
        retryAfter: 1,
      });
    }
    throw cause;
  }
}

/** Undefined: the request has no idempotency key, or no answer is kept for it, since it only reads. */
export function idempotencyOf(
  spec: Endpoint,
  ctx: ParameterizedContext,
  caller: Caller,
  input: Input,
): Idempotency | undefined {
  const key = ctx.get("idempotency-key");
  if (key === "" || (spec.method !== "post" && spec.method !== "put")) return undefined;
  if (!/^[\x21-\x7e]{1,255}$/.test(key)) throw invalid("Idempotency-Key must be 1 to 255 printable ASCII characters");
  if (spec.readsOnly(input.body)) return undefined;
  const bodyHash = createHash("sha256")
    .update(ctx.querystring)
    .update("\0")
    .update(caller.onBehalfOf ?? "")
    .update("\0")
    .update(input.digested)
    .digest();
  // A path may name what is forgotten one day.
  const path = createHash("sha256").update(ctx.path).digest("base64url");
  return { endpoint: `${ctx.method} ${path}`, key, bodyHash };
}

/** The answer that is stored for this very request, if there is one. */
export async function replayStored<T>(
  tx: ScopedTransaction,
  spec: Endpoint,
  { endpoint: at, key, bodyHash }: Idempotency,
  said: Said,
): Promise<Once<T> | undefined> {
  const stored = await tx.call<StoredAnswer | null>("stored_answer", at, key, bodyHash);
  return stored === null ? undefined : replayOf<T>(spec, stored, said);
}
