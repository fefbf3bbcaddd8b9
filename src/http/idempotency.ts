import { createHash } from "node:crypto";
import type { ParameterizedContext } from "koa";
import { json, type ScopedTransaction } from "../db/scoped.ts";
import { AppError, invalid } from "../errors.ts";
import type { Endpoint } from "./endpoint.ts";

/** The body as text: JSON in the database has its own order of members, and a replay has none but the first's. */
export interface StoredAnswer {
  readonly status: number;
  readonly body: string | null;
}

/** Thrown to leave a transaction that found an answer stored for its idempotency key. */
export class Replay extends Error {
  readonly answer: StoredAnswer;
  constructor(answer: StoredAnswer) {
    super("replay");
    this.answer = answer;
  }
}

/** One use of an idempotency key. */
export interface Idempotency {
  readonly endpoint: string;
  readonly key: string;
  readonly bodyHash: Uint8Array;
}

/** Claims the idempotency key, does the work and stores its answer: all of it commits, or none. */
export async function onlyOnce<T>(
  tx: ScopedTransaction,
  spec: Endpoint,
  idempotency: Idempotency,
  work: (tx: ScopedTransaction) => Promise<T>,
): Promise<T> {
  const { endpoint: at, key, bodyHash } = idempotency;
  const claim = await claimed(tx, at, key, bodyHash, spec.recalls);
  if (claim.status === "replay") throw new Replay(claim.answer);
  if (claim.status === "busy")
    throw new AppError("unavailable", "something that this may answer with is being forgotten", { retryAfter: 1 });
  if (claim.status === "conflict") {
    throw new AppError(
      "conflict",
      claim.sameBody
        ? "this Idempotency-Key was used for an answer that carried a secret, which is not stored"
        : "this Idempotency-Key was used with another body",
    );
  }
  const body = await work(tx);
  if (!spec.secret)
    await tx.call(
      "store_answer",
      at,
      key,
      json({ status: spec.status, body: body === undefined ? null : JSON.stringify(body) }),
    );
  return body;
}

type Claim =
  | { readonly status: "new" | "busy" }
  | { readonly status: "replay"; readonly answer: StoredAnswer }
  | { readonly status: "conflict"; readonly sameBody: boolean };

async function claimed(
  tx: ScopedTransaction,
  at: string,
  key: string,
  bodyHash: Uint8Array,
  recalled: boolean,
): Promise<Claim> {
  try {
    return await tx.call<Claim>("claim_idempotency", at, key, bodyHash, recalled);
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

export function idempotencyOf(spec: Endpoint, ctx: ParameterizedContext, raw: Buffer): Idempotency | undefined {
  const key = ctx.get("idempotency-key");
  if (key === "" || (spec.method !== "post" && spec.method !== "put")) return undefined;
  if (!/^[\x21-\x7e]{1,255}$/.test(key)) throw invalid("Idempotency-Key must be 1 to 255 printable ASCII characters");
  const bodyHash = createHash("sha256")
    .update(ctx.querystring)
    .update("\0")
    .update(ctx.get("x-spectron-on-behalf-of"))
    .update("\0")
    .update(raw)
    .digest();
  return { endpoint: `${ctx.method} ${ctx.path}`, key, bodyHash };
}

/** Leaves with the answer that is stored for this very request, if there is one. */
export async function replayStored(tx: ScopedTransaction, { endpoint: at, key, bodyHash }: Idempotency): Promise<void> {
  const stored = await tx.call<StoredAnswer | null>("stored_answer", at, key, bodyHash);
  if (stored !== null) throw new Replay(stored);
}
