/** Decision traces, as answers have them. */
import { z } from "zod";
import type { Trace } from "../../traces/list.ts";
import { instant, integer, object, scopeTags, tokens, uuid } from "./shapes.ts";

const retrieval = object({
  id: uuid,
  createdAt: instant,
  mode: z.string().describe("The tier that answered"),
  tierEntered: integer.describe("Its place: direct 1, cache 2, hybrid 3, full_context 4"),
  tierReason: z.string(),
  latencyMs: integer,
  retrievedIds: z.array(uuid),
  returned: z.array(object({ id: uuid, table: z.string(), rank: integer })),
  scores: z.array(z.number()).describe("Empty: scores are not kept"),
});

export const trace = object({
  id: uuid,
  createdAt: instant,
  kind: z.string(),
  operation: z.string(),
  scope: scopeTags,
  queryText: z.string().describe("Empty where there was none"),
  resolutionTier: z.string().describe("Empty for what is no recall"),
  tierReason: z.string(),
  plan: z.string().nullable(),
  latencyMs: integer,
  cached: z.boolean(),
  status: z.string(),
  sessionId: uuid.nullable(),
  tokens,
  sources: z.array(uuid).optional().describe("Ids that the answer was made of"),
  retrievals: z.array(retrieval).optional(),
}).meta({ id: "Trace" });

const TIERS = ["direct", "cache", "hybrid", "full_context"];

export function tellTrace({ queryText, resolutionTier, tierReason, latencyMs, ...row }: Trace) {
  const { id, createdAt, kind, sources } = row;
  const told = { tierReason: tierReason ?? "", latencyMs: Math.round(latencyMs) };
  const isRetrieval = kind === "retrieval" && sources !== undefined;
  return {
    ...row,
    ...told,
    queryText: queryText ?? "",
    resolutionTier: resolutionTier ?? "",
    ...(isRetrieval
      ? {
          retrievals: [
            {
              ...told,
              id,
              createdAt,
              mode: resolutionTier ?? "direct",
              tierEntered: TIERS.indexOf(resolutionTier ?? "direct") + 1,
              retrievedIds: sources,
              returned: sources.map((source, i) => ({ id: source, table: "passage", rank: i + 1 })),
              scores: [],
            },
          ],
        }
      : {}),
  };
}
