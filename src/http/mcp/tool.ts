import { z } from "zod";
import type { MemoryVerb } from "../../db/access/entry.ts";
import type { GivenInput } from "../input.ts";

/** A tool before it is bound to a caller. */
export interface Tool<Shape extends z.ZodRawShape = z.ZodRawShape> {
  readonly name: string;
  readonly title: string;
  readonly description: string;
  /** What a key must have to be shown it. */
  readonly verb: MemoryVerb;
  /** The route that does it. */
  readonly route: `${"get" | "post"} /${string}`;
  readonly annotations: {
    readonly readOnlyHint: boolean;
    readonly destructiveHint: boolean;
    readonly idempotentHint: boolean;
    readonly openWorldHint: false;
  };
  readonly input: Shape;
  readonly output: z.ZodObject;
  given(args: z.output<z.ZodObject<Shape>>): Promise<Partial<GivenInput>> | Partial<GivenInput>;
  /** The route's answer as structured content, and in words. */
  tell(
    answer: never,
    args: z.output<z.ZodObject<Shape>>,
  ): { readonly structured: Record<string, unknown>; readonly text: string };
}

/** Keeps the types of one tool together. */
export const tool = <Shape extends z.ZodRawShape>(made: Tool<Shape>) => made as unknown as Tool;

export const contextId = z
  .string()
  .optional()
  .describe("The Context, where a client wants to say it; only the key's own is taken");
export const place = z.union([z.string(), z.array(z.string()), z.array(z.array(z.string()))]);
export const scope = place
  .optional()
  .describe('Where to write: a path such as "user/ann"; absent: the key\'s own place');
export const lens = place
  .optional()
  .describe('Where to look: a path such as "user/ann", or several; absent: what the key sees by default');
export const labels = z.array(z.string()).max(32).optional().describe('Labels such as "topic=billing"');
export const sessionId = z
  .string()
  .min(1)
  .max(128)
  .optional()
  .describe("A session of an id of your own, which is opened when it is new");
export const question = z.string().min(1).max(8_000);

export const reads = {
  readOnlyHint: true,
  destructiveHint: false,
  idempotentHint: true,
  openWorldHint: false,
} as const;
export const writes = {
  readOnlyHint: false,
  destructiveHint: false,
  idempotentHint: false,
  openWorldHint: false,
} as const;
