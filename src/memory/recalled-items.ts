import { v7 as uuid } from "uuid";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import { eachInSlices } from "../load/slices.ts";
import type { Meter } from "../metering/model-call.ts";
import { countAll } from "../models/embedder.ts";
import type { EmbeddedNow } from "../models/metered.ts";
import type { ScopeModels } from "../models/models.ts";
import { ItemTexts } from "./item-text.ts";
import type { ItemOperation } from "./items.ts";
import { storePassages } from "./store-passages.ts";

/** What of some items is recalled, with its vectors: made before the transaction opens, since a model may be slow. */
export interface RecalledItems {
  /** For each item; undefined: it is not recalled. */
  readonly texts: readonly (string | undefined)[];
  readonly tokens: readonly number[];
  readonly now: EmbeddedNow;
}

const LATER: EmbeddedNow = { embedded: undefined, spent: undefined, overBudget: undefined };

/** Undefined where no operation has anything for recall. */
export async function prepareItems(
  models: () => Promise<ScopeModels>,
  meter: Meter,
  operations: readonly ItemOperation[],
): Promise<RecalledItems | undefined> {
  const itemTexts = new ItemTexts();
  const texts = await eachInSlices(operations, (one) =>
    one.op === "put" ? itemTexts.of(one.key, one.value, one.index ?? null) : undefined,
  );
  const said = texts.filter((text) => text !== undefined);
  if (said.length === 0) return undefined;
  // What may be refused for what is there is not paid for before: the queue sees to its vectors.
  const isCertain = operations.every(({ ifVersion }) => ifVersion === undefined);
  const [tokens, now] = await Promise.all([
    countAll(said),
    isCertain ? models().then((some) => some.embedNow(meter, said)) : LATER,
  ]);
  return { texts, tokens, now };
}

/**
 * Makes items recalled that were just set.
 *
 * @param items in the order of the texts
 */
export async function recallItems(
  tx: ScopedTransaction,
  {
    texts,
    tokens,
    now: { embedded },
  }: Pick<RecalledItems, "texts" | "tokens"> & { readonly now: Pick<EmbeddedNow, "embedded"> },
  items: readonly { readonly id: string | null; readonly expiresAt?: string | null }[],
): Promise<void> {
  const observedAt = new Date().toISOString();
  const said = items.flatMap(({ id, expiresAt = null }, i) => {
    const text = texts[i];
    return id === null || text === undefined ? [] : [{ id, text, endsAt: expiresAt }];
  });
  await storePassages(
    tx,
    embedded?.embedderId ?? null,
    said.map((one, i) => ({
      ...one,
      kind: "item",
      tokens: tokens[i] ?? 0,
      labels: [],
      embedding: embedded?.vectors[i] ?? null,
      observedAt,
    })),
  );
  if (embedded === undefined) await tx.call("enqueue", uuid(), "embed", null, null);
}
