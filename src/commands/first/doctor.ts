import { statfs } from "node:fs/promises";
import { parseArgs } from "node:util";
import { type Config, readConfig } from "../../config.ts";
import { inTransaction } from "../../db/connect/lease.ts";
import { openPostgres } from "../../db/connect/open.ts";
import { databaseWarnings, isLoopback, refuseSuperuser } from "../../db/connect/warnings.ts";
import { whatToDo } from "../../db/connect/what-to-do.ts";
import { migrationCheck } from "../../db/upkeep/migrate.ts";
import { calibrate } from "../../models/calibrate.ts";
import { resolveEmbeddings } from "../../models/providers.ts";
import { modelOfRow } from "../../models/settings.ts";
import { tableOf } from "../table.ts";

const USAGE = `usage: scopefloor doctor [--json]

Checks what the service is started with: Node.js, the configuration, the database with its version, roles and
migrations, the models, the clock and the disk; and whether the service answers. Says what to do about what is wrong.
It reads the same variables as the service (docs/operations.md), so run it where and as the service is started;
SCOPEFLOOR_URL says where that answers, if not at HOST and PORT. It changes nothing.

Exit status: 0; 1 if something is wrong; 2 if the command line is wrong.`;

export interface Check {
  readonly name: string;
  readonly state: "ok" | "warn" | "fail";
  /** What was found, and what to do where that is not right. */
  readonly found: string;
}

const ok = (name: string, found: string): Check => ({ name, state: "ok", found });
const warn = (name: string, found: string): Check => ({ name, state: "warn", found });
const fail = (name: string, found: string): Check => ({ name, state: "fail", found });

export async function doctor(args: readonly string[], environment: NodeJS.ProcessEnv): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: { json: { type: "boolean", default: false }, help: { type: "boolean", short: "h", default: false } },
  });
  if (values.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  const checks = await examine(environment);
  const failed = checks.filter(({ state }) => state === "fail").length;
  if (values.json) process.stdout.write(`${JSON.stringify({ checks, failed }, null, 2)}\n`);
  else {
    process.stdout.write(
      tableOf(
        ["", "check", "found"],
        checks.map(({ state, name, found }) => [state, name, found]),
      ),
    );
    const warned = checks.filter(({ state }) => state === "warn").length;
    process.stdout.write(`\n${failed} of ${checks.length} checks fail, ${warned} ${warned === 1 ? "warns" : "warn"}\n`);
  }
  return failed === 0 ? 0 : 1;
}

/** All checks in the order in which they build on one another. */
export async function examine(environment: NodeJS.ProcessEnv): Promise<Check[]> {
  const node = nodeCheck(process.versions.node);
  let config: Config;
  try {
    config = readConfig(environment);
  } catch (error) {
    return [node, fail("configuration", (error as Error).message.replace(/^bad configuration: /, ""))];
  }
  const isServing = await answers(config, environment.SCOPEFLOOR_URL);
  return [
    node,
    ok(
      "configuration",
      `role ${config.role}, ${config.databaseUrl === undefined ? "embedded database" : "PostgreSQL"}`,
    ),
    isServing,
    ...(config.databaseUrl === undefined
      ? [await embeddedCheck(config, isServing.state === "ok")]
      : await postgresChecks(config)),
    ...(await modelChecks(config)),
    await diskCheck(config),
  ];
}

const LEAST_NODE = [20, 19] as const;
function nodeCheck(version: string): Check {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  const isEnough = major > LEAST_NODE[0] || (major === LEAST_NODE[0] && minor >= LEAST_NODE[1]);
  return isEnough ? ok("Node.js", version) : fail("Node.js", `${version}: install ${LEAST_NODE.join(".")} or newer`);
}

async function answers({ host, port, role }: Config, url: string | undefined): Promise<Check> {
  if (role === "worker" && url === undefined) return ok("service", "a worker does not listen");
  const own = `http://${host === "0.0.0.0" || host === "::" ? "127.0.0.1" : host.includes(":") ? `[${host}]` : host}:${port}`;
  const at = (url ?? own).replace(/\/+$/, "").replace(/\/api\/v1$/, "");
  const response = await fetch(`${at}/api/v1/ready`, { signal: AbortSignal.timeout(5_000) }).catch(() => undefined);
  if (response === undefined) return warn("service", `nothing answers at ${at}: start it with npm start`);
  const body = (await response.json().catch(() => undefined)) as { checks?: Record<string, string> } | undefined;
  if (response.ok) return ok("service", `ready at ${at}`);
  if (body?.checks === undefined) return fail("service", `something else answers at ${at}: end it, or set PORT`);
  const bad = Object.entries(body.checks).filter(([, state]) => state !== "ok");
  return fail(
    "service",
    `not ready at ${at}: ${bad.map(([name, state]) => `${name} ${state}`).join(", ")}; its log says why`,
  );
}

async function embeddedCheck({ dataDir }: Config, isServing: boolean): Promise<Check> {
  const files = await statfs(dataDir).catch(() => undefined);
  if (files === undefined) return warn("database", `${dataDir} is not there yet: the first start makes it`);
  return ok("database", `embedded, in ${dataDir}${isServing ? "; the service has it" : ""}`);
}

/** What of the server's version, roles and state the service needs. */
async function postgresChecks(config: Config): Promise<Check[]> {
  const database = openPostgres({
    app: config.databaseUrl ?? "",
    ...(config.databaseWorkerUrl === undefined ? {} : { worker: config.databaseWorkerUrl }),
    ...(config.databaseOwnerUrl === undefined ? {} : { owner: config.databaseOwnerUrl }),
    connections: 1,
    timeoutMs: 5_000,
  });
  try {
    const lease = await database.owner.acquire();
    const [row] = await lease
      .query(
        `SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS name, extract(epoch FROM clock_timestamp())::float8 * 1000 AS now,
           (SELECT default_version FROM pg_catalog.pg_available_extensions WHERE name = 'vector') AS vector, to_regnamespace('scopefloor') IS NOT NULL AS prepared`,
      )
      .finally(() => lease.release());
    const checks = [
      Number(row?.version) >= 170_000
        ? ok("database", `PostgreSQL ${row?.name}`)
        : fail("database", `PostgreSQL ${row?.name}: version 17 is the oldest that is tested`),
      row?.vector === null
        ? fail("pgvector", "not installed on the database server: install the package postgresql-17-pgvector there")
        : ok("pgvector", String(row?.vector)),
      clockCheck(Number(row?.now) - Date.now()),
    ];
    if (row?.prepared !== true)
      return [
        ...checks,
        warn("migrations", "none yet: the first start of a worker, or with DATABASE_OWNER_URL, makes them"),
      ];
    const state = await inTransaction(database.app, migrationCheck());
    const told = {
      current: ok("migrations", "at this version"),
      ahead: warn("migrations", "a newer version has migrated the database: update this one"),
      behind: fail("migrations", "older than this version: start a worker, or set DATABASE_OWNER_URL here"),
    } as Readonly<Record<string, Check>>;
    checks.push(
      told[String(state)] ?? fail("migrations", `${String(state)}: start a worker, or set DATABASE_OWNER_URL here`),
    );
    const superuser = await refuseSuperuser(
      database,
      config.allowSuperuser || isLoopback(config.databaseUrl ?? ""),
    ).then(
      () => undefined,
      (error: Error) => fail("roles", error.message),
    );
    const warnings = (await databaseWarnings(database)).map((text) => warn("roles", text));
    if (superuser !== undefined) checks.push(superuser);
    return [
      ...checks,
      ...(warnings.length === 0 && superuser === undefined
        ? [ok("roles", "a login each, and nothing to widen them")]
        : warnings),
    ];
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    return [fail("database", `cannot be used (${code ?? message}): ${whatToDo(code)}`)];
  } finally {
    await database.close();
  }
}

/** Tickets and schedules go by the database's clock; keys and tokens of others by this one's. */
const MOST_DRIFT_MS = 2_000;
const clockCheck = (drift: number): Check =>
  Math.abs(drift) <= MOST_DRIFT_MS
    ? ok("clock", "as the database's")
    : warn(
        "clock",
        `${Math.round(Math.abs(drift) / 1_000)} s ${drift > 0 ? "behind" : "before"} the database's: let both keep time (NTP)`,
      );

async function modelChecks({ models, reranker }: Config): Promise<Check[]> {
  const checks: Check[] = [];
  for (const name of new Set([models.embeddings, ...models.offered])) {
    if (name === "local") {
      checks.push(ok("embeddings", "local"));
      continue;
    }
    const found = await resolveEmbeddings(modelOfRow(name), models)
      .then((by) => calibrate(by()))
      .then(
        ({ dimensions }) => ok("embeddings", `${name} answers, with ${dimensions} dimensions`),
        (error: Error) => fail("embeddings", `${name}: ${error.message.replace(/^SCOPEFLOOR_EMBEDDINGS: /, "")}`),
      );
    checks.push(found);
  }
  if (reranker !== undefined) checks.push(await reaches("reranker", reranker.url));
  const media = [models.vision, models.speech].filter((name) => name !== undefined);
  if (media.length > 0)
    checks.push(await reaches(media.join(", "), models.openaiBaseUrl ?? "https://api.openai.com/v1"));
  return checks;
}

/** Whether anything answers there at all: a call of its own would be billed. */
async function reaches(name: string, url: string): Promise<Check> {
  const response = await fetch(url, { signal: AbortSignal.timeout(5_000) }).catch(() => undefined);
  await response?.body?.cancel();
  return response === undefined
    ? fail(name, `nothing answers at ${new URL(url).host}`)
    : ok(name, `${new URL(url).host} answers`);
}

const LEAST_BYTES = 1024 ** 3;
async function diskCheck({ dataDir }: Config): Promise<Check> {
  const files = await statfs(dataDir).catch(() => statfs("."));
  const free = files.bavail * files.bsize;
  const inWords = `${(free / 1024 ** 3).toFixed(1)} GB free in ${dataDir}`;
  return free < LEAST_BYTES ? warn("disk", `${inWords}: uploads pass through it; make room`) : ok("disk", inWords);
}
