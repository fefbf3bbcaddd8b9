import type { IncomingHttpHeaders } from "node:http";
import type { Readable } from "node:stream";
import type { z } from "zod";
import type { AccessRequest, Caller } from "../db/access/entry.ts";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import type { Meter } from "../metering/model-call.ts";
import { JSON_LIMIT } from "./body.ts";
import type { Deps } from "./deps.ts";
import type { GivenInput } from "./input.ts";
import type { Upload } from "./upload.ts";
import { fields } from "./wire/fields.ts";

/** What a handler gets: the checked input, and the way into a transaction. */
export interface Request<P, Q, B, U = undefined> {
  readonly deps: Deps;
  readonly params: P;
  readonly query: Q;
  /** JSON, or of an upload its metadata. */
  readonly body: B;
  readonly upload: U;
  readonly caller: Caller;
  readonly http: {
    /** Whether the client would rather have this media type than JSON. */
    accepts(mediaType: string): boolean;
    /** As the caller addresses this service: scheme and host. */
    readonly origin: string;
    readonly headers: IncomingHttpHeaders;
  };
  /** The caller's own secret: for requests that the service makes in the caller's name, and nothing else. */
  readonly bearer: string;
  /**
   * Runs work in one entered transaction and gives its answer. With an `Idempotency-Key` the answer
   * is stored in that same transaction, so `work` returns the response's body itself.
   */
  enter<T>(access: Partial<Omit<AccessRequest, "verb">>, work: (tx: ScopedTransaction) => Promise<T>): Promise<T>;
  /** Who pays for calls to models that are made for what `enter` is asked for with this. */
  meter(access: Partial<Omit<AccessRequest, "verb">>): Meter;
  /** Reads something first, by id unless `access` says otherwise, in a transaction of its own that stores no answer. */
  peek<T>(access: Partial<Omit<AccessRequest, "verb">>, work: (tx: ScopedTransaction) => Promise<T>): Promise<T>;
  /**
   * What another endpoint answers to the same caller, with an input as on the wire: checked, metered and traced as
   * by itself.
   */
  call(other: Endpoint, given: GivenInput): Promise<unknown>;
}

type Infer<T> = T extends z.ZodType ? z.output<T> : Record<string, never>;

/**
 * How an answer that says what the request said is stored: without it, and told again from the same
 * request, so that no text lies beside the rows that a forget reaches. The rows are named by
 * {@link ScopedTransaction.speaksOf}.
 */
export interface Retold {
  strip(answer: unknown): unknown;
  tell(stored: unknown, said: unknown): unknown;
}

/** One route, as data: a test walks all of them, and each has to say what it demands. */
export interface Endpoint {
  readonly method: "get" | "post" | "put" | "patch" | "delete";
  /** Below `/api/v1`; `{ctx}` and other parameters in braces. */
  readonly path: string;
  readonly verb: AccessRequest["verb"];
  readonly mode: AccessRequest["mode"];
  /** The word for it in traces. */
  readonly operation: string;
  /** The word that its handler records it under, where that is another. */
  readonly recordedAs?: string | undefined;
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
  readonly upload: Uploads;
  /** Whether a request only reads: then no answer is stored for its `Idempotency-Key`, and a repeat runs anew. */
  readonly readsOnly: (body: unknown) => boolean;
  readonly retold: Retold | undefined;
  /** Whether a request counts against budgets: what leaves a trace of memory that was read or written. */
  readonly countsAgainstBudgets: boolean;
  readonly params: z.ZodType | undefined;
  readonly query: z.ZodType;
  readonly body: z.ZodType | undefined;
  readonly handle: (request: Request<unknown, unknown, unknown, unknown>) => Promise<unknown>;
}

/** Whether a body is a file with metadata: of every request, or of one that has a body. */
export type Uploads = boolean | "optional";
type UploadOf<U extends Uploads> = U extends true ? Upload : U extends "optional" ? Upload | undefined : undefined;

export interface EndpointSpec<P, Q, B, U extends Uploads>
  extends Pick<Endpoint, "method" | "path" | "verb" | "operation"> {
  readonly summary?: string;
  readonly answer?: z.ZodType;
  readonly mode?: AccessRequest["mode"];
  readonly status?: number;
  readonly bodyLimit?: number;
  readonly secret?: boolean;
  /** Default: what reads memory reads only. */
  readonly readsOnly?: (body: Infer<B>) => boolean;
  readonly retold?: {
    strip(answer: never): unknown;
    tell(stored: never, said: { readonly params: Infer<P>; readonly body: Infer<B> }): unknown;
  };
  readonly upload?: U;
  /** Default: what reads or writes memory does; deleting never fails for lack of budget. */
  readonly countsAgainstBudgets?: boolean;
  readonly params?: P;
  readonly query?: Q;
  readonly body?: B;
  readonly handle: (request: Request<Infer<P>, Infer<Q>, Infer<B>, UploadOf<U>>) => Promise<unknown>;
}

export function endpoint<P, Q, B, U extends Uploads = false>(spec: EndpointSpec<P, Q, B, U>): Endpoint {
  return {
    mode: "id",
    status: 200,
    bodyLimit: JSON_LIMIT,
    secret: false,
    summary: spec.operation.replaceAll("_", " "),
    answer: undefined,
    countsAgainstBudgets: (spec.verb === "memory:read" || spec.verb === "memory:write") && spec.mode !== "delete",
    ...spec,
    upload: spec.upload ?? false,
    readsOnly: (spec.readsOnly as Endpoint["readsOnly"] | undefined) ?? (() => spec.verb === "memory:read"),
    retold: spec.retold as Retold | undefined,
    params: spec.params as z.ZodType | undefined,
    query: (spec.query ?? fields({})) as z.ZodType,
    body: spec.body as z.ZodType | undefined,
    handle: spec.handle as Endpoint["handle"],
  };
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

/** An answer of a protocol that says its own status and headers. */
export class RawAnswer {
  readonly status: number;
  readonly headers: readonly (readonly [string, string])[];
  readonly text: string;
  constructor(status: number, headers: readonly (readonly [string, string])[], text: string) {
    this.status = status;
    this.headers = headers;
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
