/** A worker in a process of its own, for tests that kill it. Its one argument says what it works on, as JSON. */
import { modelRegistry } from "../../src/db/access/model-registry.ts";
import { openPostgres } from "../../src/db/connect/open.ts";
import { PARSER_LIMITS } from "../../src/documents/parsing/parser.ts";
import { Worker } from "../../src/jobs/worker.ts";
import { createLog } from "../../src/log.ts";
import { Models } from "../../src/models/models.ts";
import { LOCAL_MODELS, type ModelSettings } from "../../src/models/settings.ts";

const { url, models, parser, ...options } = JSON.parse(process.argv[2] ?? "{}") as {
  url: string;
  models?: ModelSettings;
  parser: string;
};
const database = openPostgres({ app: url, connections: 2, timeoutMs: 10_000 });
const log = createLog("silent");
new Worker(
  {
    database,
    models: await Models.open(modelRegistry(database), models ?? LOCAL_MODELS, log),
    context: "default",
    log,
  },
  { pollMs: 50, leaseSeconds: 2, ...options, parser: { ...PARSER_LIMITS, entry: parser } },
).start();
process.stdout.write("working\n");
