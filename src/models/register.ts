import type { Logger } from "pino";
import { type Calibration, calibrate } from "./calibrate.ts";
import { resolveEmbeddings } from "./providers.ts";
import type { ModelRegistry } from "./registry.ts";
import { LOCAL_EMBEDDINGS, type ModelSettings, modelOfRow, rowOf } from "./settings.ts";
import { ModelUnavailable } from "./unavailable.ts";

/**
 * Registers the configured model, and those that scopes may choose: asks each for the length of its vectors, and
 * compares that with what it gave before. For a process that has the owner's connection. One that is only offered and
 * has never answered is offered once it does, from the next start on.
 *
 * @throws Error with one line when a length has changed, or when the service's own model has never answered and does not
 */
export async function registerModels(registry: ModelRegistry, settings: ModelSettings, log: Logger): Promise<void> {
  await registerModel(registry, settings.embeddings, settings, log);
  for (const offered of settings.offered) {
    await registerModel(registry, offered, settings, log).catch((error: unknown) => {
      if (!(error instanceof NeverAnswered)) throw error;
      log.warn({ model: offered, reason: error.message }, "this model is not offered: it has never answered");
    });
  }
}

class NeverAnswered extends Error {}

async function registerModel(
  registry: ModelRegistry,
  embeddings: string,
  settings: ModelSettings,
  log: Logger,
): Promise<void> {
  const row = rowOf(embeddings);
  let measured: Calibration;
  if (row === LOCAL_EMBEDDINGS.row) {
    measured = LOCAL_EMBEDDINGS;
  } else {
    const by = await resolveEmbeddings(modelOfRow(row), settings);
    try {
      measured = await calibrate(by());
    } catch (error) {
      if (!(error instanceof ModelUnavailable)) throw error;
      if ((await registry.find(row)) === undefined) {
        throw new NeverAnswered(
          `SCOPEFLOOR_EMBEDDINGS: ${row} has never answered here, so the length of its vectors is not known: ${error.message}`,
        );
      }
      log.warn(
        { model: row, reason: error.message },
        "the embedding model does not answer; texts are stored, and embedded when it does",
      );
      return;
    }
  }
  await registry.register({ name: row, dimensions: measured.dimensions, nearDistance: measured.nearDistance });
}
