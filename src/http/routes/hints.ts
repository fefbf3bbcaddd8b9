import { z } from "zod";

/** Accepted, and named in the trace as having had no effect. */
export const hints = {
  useHyde: z.boolean().optional(),
  useReranker: z.boolean().optional(),
  decomposeQuery: z.boolean().optional(),
  expandGraph: z.boolean().optional(),
  graphAlpha: z.number().optional(),
  graphDepth: z.number().optional(),
};

export const ignoredHints = (body: { readonly [hint in keyof typeof hints]?: unknown }) =>
  Object.keys(hints).filter((hint) => body[hint as keyof typeof hints] !== undefined);
