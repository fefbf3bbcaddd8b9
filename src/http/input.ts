import type { IncomingMessage } from "node:http";
import type { ParameterizedContext } from "koa";
import type { z } from "zod";
import { invalid, notFound } from "../errors.ts";
import { parseJson, readBody, refuseUnstorable } from "./body.ts";
import type { Endpoint } from "./endpoint.ts";
import { readUpload, type Upload } from "./upload.ts";

/** A request's checked input. */
export interface Input {
  readonly params: unknown;
  readonly query: unknown;
  readonly body: unknown;
  /** On disk, until it is discarded. */
  readonly upload: Upload | undefined;
  /** What makes two requests the same for an idempotency key. */
  readonly digested: Uint8Array;
}

/**
 * Reads a request and checks it against the endpoint's schemas.
 *
 * @throws AppError 400, 404 (a parameter that names nothing), 413, 415
 */
export async function readInput(
  spec: Endpoint,
  ctx: ParameterizedContext,
  named: Record<string, string>,
): Promise<Input> {
  const params = parseParams(spec.params, named);
  const query = parseInput(spec.query, queryOf(ctx), "query");
  if (spec.upload && !(spec.upload === "optional" && hasNoBody(ctx.req))) {
    const upload = await readUpload(ctx.req);
    try {
      return { params, query, body: bodyOf(spec, upload.metadata), upload, digested: upload.digest };
    } catch (error) {
      await upload.file.discard();
      throw error;
    }
  }
  if (spec.upload) return { params, query, body: {}, upload: undefined, digested: Buffer.alloc(0) };
  const hasBody = spec.body !== undefined || !["get", "delete"].includes(spec.method);
  const raw = hasBody ? await readBody(ctx.req, spec.bodyLimit) : Buffer.alloc(0);
  const body = spec.body === undefined ? refuseBody(raw) : bodyOf(spec, parseJson(raw, ctx.get("content-type")) ?? {});
  return { params, query, body, upload: undefined, digested: raw };
}

const hasNoBody = ({ headers }: IncomingMessage) =>
  headers["transfer-encoding"] === undefined && Number(headers["content-length"] ?? 0) === 0;

/** An input as another part of the service gives it: as it would be on the wire. */
export type GivenInput = Pick<Input, "params" | "query" | "body" | "upload">;

/** @throws AppError 400 */
export const checkInput = (spec: Endpoint, { params, query, body, upload }: GivenInput): Input => ({
  params: parseParams(spec.params, params as Record<string, string>),
  query: parseInput(spec.query, query, "query"),
  body: bodyOf(spec, body),
  upload,
  digested: Buffer.alloc(0),
});

const bodyOf = (spec: Endpoint, input: unknown) =>
  spec.body === undefined ? {} : parseInput(spec.body, input, "body");

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

/** An id that is not one cannot exist: 404, as for any other that is not visible. A name outside of its grammar is 400. */
function parseParams(schema: z.ZodType | undefined, params: Record<string, string>): unknown {
  const { ctx: _, ...own } = params;
  if (schema === undefined) return own;
  const parsed = schema.safeParse(own);
  if (parsed.success) return parsed.data;
  if (parsed.error.issues.some((issue) => issue.path[0] === "id")) throw notFound();
  throw invalid(problemsOf(parsed.error, "path"));
}

function parseInput(schema: z.ZodType, input: unknown, where: "body" | "query"): unknown {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  throw invalid(problemsOf(parsed.error, where));
}

const problemsOf = (error: z.ZodError, where: "body" | "query" | "path"): string =>
  error.issues
    .slice(0, 5)
    .map(
      (issue) =>
        `${issue.path.length === 0 ? `the ${where}` : issue.path.join(".")}: ${issue.message.replace("received ExactNumber", "received a number of too many digits")}`,
    )
    .join("; ");
