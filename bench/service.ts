import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import postgres from "postgres";

/** The built service as a process of its own, so that its memory can be measured. */
export interface BenchService {
  readonly url: string;
  readonly managementKey: string;
  readonly pid: number;
  /** ms from the start of the process to its first answer. */
  readonly startMs: number;
  /** Resident memory in MB. */
  residentMb(): Promise<number>;
  stop(): Promise<void>;
}

const freePort = () =>
  new Promise<number>((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });

interface BuiltProcess {
  readonly pid: number;
  stop(): Promise<void>;
}

function startProcess(environment: Record<string, string>): BuiltProcess & { readonly child: ChildProcess } {
  const child = spawn(process.execPath, ["dist/main.js"], {
    stdio: ["ignore", "ignore", "inherit"],
    env: { PATH: process.env.PATH, SCOPEFLOOR_LOG_LEVEL: "warn", ...environment },
  });
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  return {
    child,
    pid: child.pid ?? 0,
    stop: async () => {
      child.kill("SIGTERM");
      await exited;
    },
  };
}

/** Of all processes of a bench: whichever of them is first makes it the first key. */
const managementKey = `sf_mgmt_bench_${randomBytes(24).toString("hex")}`;

/** Only the worker, which migrates the database and listens nowhere. */
export async function startBuiltWorker(environment: Record<string, string>): Promise<BuiltProcess> {
  const { child: _, ...worker } = startProcess({
    SCOPEFLOOR_MANAGEMENT_KEY: managementKey,
    ...environment,
    SCOPEFLOOR_ROLE: "worker",
  });
  return worker;
}

export async function startBuilt(environment: Record<string, string>): Promise<BenchService> {
  const port = await freePort();
  const startedAt = performance.now();
  const { child, pid, stop } = startProcess({
    PORT: String(port),
    SCOPEFLOOR_MANAGEMENT_KEY: managementKey,
    ...environment,
  });
  const url = `http://127.0.0.1:${port}/api/v1`;
  for (;;) {
    if (child.exitCode !== null) throw new Error("the service did not start");
    if (
      await fetch(`${url}/ready`).then(
        (answer) => answer.ok,
        () => false,
      )
    )
      break;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return {
    url,
    managementKey,
    pid,
    startMs: performance.now() - startedAt,
    residentMb: async () => {
      const status = await readFile(`/proc/${pid}/status`, "utf8");
      return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024;
    },
    stop,
  };
}

/** A database of its own on the server of TEST_DATABASE_URL. */
export async function benchDatabase(): Promise<{ url: string; connect(): postgres.Sql; drop(): Promise<void> }> {
  const server = process.env.TEST_DATABASE_URL;
  if (server === undefined) throw new Error("TEST_DATABASE_URL is not set; npm run bench sets it");
  const name = `scopefloor_bench_${randomBytes(4).toString("hex")}`;
  const admin = postgres(server, { max: 1, onnotice: () => undefined });
  await admin.unsafe(`CREATE DATABASE ${name}`);
  const url = new URL(server);
  url.pathname = `/${name}`;
  return {
    url: url.toString(),
    connect: () => postgres(url.toString(), { max: 1, fetch_types: false, onnotice: () => undefined }),
    drop: async () => {
      await admin.unsafe(`DROP DATABASE ${name} WITH (FORCE)`);
      await admin.end();
    },
  };
}

export async function temporaryFolder(): Promise<{ path: string; remove(): Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), "scopefloor-bench-"));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}

/** Calls of one key; anything but success throws. */
export function clientOf(url: string, key: string) {
  return async <T>(method: string, path: string, body?: unknown): Promise<T> => {
    const answer = await fetch(url + path, {
      method,
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    if (!answer.ok) throw new Error(`${method} ${path} answered ${answer.status}: ${await answer.text()}`);
    return (await answer.json()) as T;
  };
}

export async function mintAgent(
  service: BenchService,
  name: string,
  scopeFloor: Record<string, string>,
): Promise<string> {
  const call = clientOf(service.url, service.managementKey);
  const minted = await call<{ key: string }>("POST", "/contexts/default/keys", {
    name,
    principal: "agent",
    scopeFloor,
  });
  return minted.key;
}
