import { execFile } from "node:child_process";
import { appendFile, chown, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { freePort } from "./service-process.ts";

const run = promisify(execFile);

/** Where PostgreSQL's own programs are; `test/with-postgres` says so. */
const BIN = process.env.TEST_DATABASE_BIN ?? "/usr/lib/postgresql/17/bin";

/** A PostgreSQL server of a test's own: one that may be stopped, or run out of space, without harm to others. */
export interface Cluster {
  readonly url: string;
  readonly data: string;
  start(): Promise<void>;
  /** Every process at once, nothing is written any more: the next start recovers from the log. */
  stopAtOnce(): Promise<void>;
  /** One of PostgreSQL's programs, such as `pg_dump`. */
  program(name: string, args: readonly string[]): Promise<string>;
  remove(): Promise<void>;
}

/**
 * @param folder where its data lies; absent: a new temporary one
 * @param log where its write-ahead log lies; absent: beside the data
 */
export async function createCluster({ folder, log }: { folder?: string; log?: string } = {}): Promise<Cluster> {
  const root = folder ?? (await mkdtemp(join(tmpdir(), "scopefloor-cluster-")));
  const data = join(root, "data");
  // The server does not run as root.
  const asServer = process.getuid?.() === 0 ? ["runuser", "-u", "postgres", "--"] : [];
  const exec = async (name: string, args: readonly string[]) => {
    const [command = "", ...rest] = [...asServer, join(BIN, name), ...args];
    const { stdout } = await run(command, rest, { cwd: root, maxBuffer: 1 << 28 });
    return stdout;
  };
  if (asServer.length > 0) {
    const [uid, gid] = await Promise.all(
      ["-u", "-g"].map(async (which) => Number((await run("id", [which, "postgres"])).stdout)),
    );
    for (const owned of [root, ...(log === undefined ? [] : [log])]) await chown(owned, uid ?? 0, gid ?? 0);
  }
  const port = await freePort();
  await exec("initdb", [
    "-D",
    data,
    "-U",
    "postgres",
    "-A",
    "trust",
    "-E",
    "UTF8",
    "--locale=C.UTF-8",
    ...(log === undefined ? [] : ["-X", join(log, "wal")]),
  ]);
  const lines = [
    "listen_addresses = '127.0.0.1'",
    `port = ${port}`,
    "unix_socket_directories = ''",
    // The operating system outlives every fault here: waiting for its disk would only take time.
    "fsync = off",
  ];
  await appendFile(join(data, "postgresql.conf"), `${lines.join("\n")}\n`);
  const control = (...args: string[]) => exec("pg_ctl", ["-D", data, "-w", ...args]);
  let isRunning = false;
  const cluster: Cluster = {
    url: `postgres://postgres@127.0.0.1:${port}/postgres`,
    data,
    start: async () => {
      await control("-l", join(data, "server.log"), "start");
      isRunning = true;
    },
    stopAtOnce: async () => {
      await control("-m", "immediate", "stop");
      isRunning = false;
    },
    program: exec,
    remove: async () => {
      if (isRunning) await cluster.stopAtOnce();
      await rm(data, { recursive: true });
      if (folder === undefined) await rm(root, { recursive: true });
    },
  };
  return cluster;
}
