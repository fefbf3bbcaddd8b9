import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { recoverKey } from "../../src/commands/recover-key.ts";
import { inTransaction } from "../../src/db/connect/lease.ts";
import { openDatabase } from "../../src/db/connect/open.ts";
import { isLoopback, refuseSuperuser } from "../../src/db/connect/warnings.ts";
import { ensureFirstKey } from "../../src/keys/first-key.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { createTestDatabase, onPostgres, unpackTemplate } from "../harness/database.ts";

const run = promisify(execFile);

test.each([
  ["postgres://a@localhost/x", true],
  ["postgres://a@127.0.0.1:5432/x", true],
  ["postgres://a@[::1]/x", true],
  ["postgres:///x?host=/var/run/postgresql", true],
  ["postgres://a@db.example/x", false],
  ["postgres://a@10.0.0.1/x", false],
  ["postgres://a@127.0.0.1.example/x", false],
  ["postgres://a@localhost/x?host=db.example", false],
])("%s is on this machine: %s (threat 48)", (url, isLocal) => {
  expect(isLoopback(url)).toBe(isLocal);
});

test("a superuser as the application's login is refused on another machine (threat 48)", async () => {
  if (!onPostgres()) return;
  const database = await createTestDatabase();
  await expect(refuseSuperuser(database, false)).rejects.toThrow(/superuser: give it a login of its own/);
  await refuseSuperuser(database, true);
  await database.drop();
});

test("a lost first key is recovered by a command, which tells the database a hash alone", async () => {
  const dataDir = await mkdtemp(join(tmpdir(), "scopefloor-recovered-"));
  await unpackTemplate(dataDir);
  const environment = { SCOPEFLOOR_DATA_DIR: dataDir };
  const settings = {
    databaseUrl: undefined,
    databaseWorkerUrl: undefined,
    databaseOwnerUrl: undefined,
    dataDir,
    dbConnections: 1,
    dbTimeoutMs: 10_000,
    jobs: 1,
  };
  if (onPostgres()) return rm(dataDir, { recursive: true });
  expect((await stat(join(dataDir, "db"))).mode & 0o777).toBe(0o700);
  const written: string[] = [];
  const write = process.stdout.write;
  process.stdout.write = ((text: string) => written.push(text) > 0) as typeof write;
  try {
    expect(await recoverKey([], environment)).toBe(1);
    const database = await openDatabase(settings);
    await ensureFirstKey(database, { configured: "the-operators-first-secret-which-is-lost-by-now", dataDir });
    await database.close();
    expect(await recoverKey([], environment)).toBe(0);
  } finally {
    process.stdout.write = write;
  }
  const secret = written.join("").trim();
  expect(secret).toMatch(/^sf_mgmt_[0-9A-Za-z]{46}$/);
  const database = await openDatabase(settings);
  const [row] = await inTransaction(database.app, (app) =>
    app.query("SELECT scopefloor.enter($1, 'self', '{\"mode\": \"id\"}', NULL, NULL) AS answer", [hashSecret(secret)]),
  );
  expect(row?.answer).toMatchObject({ status: "ok" });
  await database.close();
  await rm(dataDir, { recursive: true });
});

test("TLS to the database is verified: its authority, and its name (threat 48)", {
  tags: ["long"],
  timeout: 60_000,
}, async () => {
  if (!onPostgres()) return;
  const database = await createTestDatabase();
  const folder = await mkdtemp(join(tmpdir(), "scopefloor-tls-"));
  const file = (name: string) => join(folder, name);
  const openssl = (...args: string[]) => run("openssl", args);
  // Outside of a transaction.
  const withOwner = async (...statements: string[]) => {
    const lease = await database.owner.acquire();
    for (const statement of statements) await lease.query(statement);
    await lease.release();
  };
  const [data] = await database.sql("SELECT current_setting('data_directory') AS folder");
  /** Gives the server a certificate for a name, by the authority. */
  const serveAs = async (name: string) => {
    const request = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server", "-keyout", file("server.key")];
    await openssl("req", ...request, "-out", file("server.csr"));
    await writeFile(file("names"), `subjectAltName=DNS:${name}`);
    const signing = ["-CA", file("ca.crt"), "-CAkey", file("ca.key"), "-CAcreateserial", "-extfile", file("names")];
    await openssl("x509", "-req", "-days", "2", "-in", file("server.csr"), ...signing, "-out", file("server.crt"));
    for (const part of ["server.key", "server.crt"]) {
      const lines = (await readFile(file(part), "utf8")).trim().split("\n");
      const rows = lines.map((line) => `('${line}')`).join(", ");
      // The program reads all that it is sent: one that ends before makes the COPY fail.
      const store = `umask 077; cat > ${data?.folder}/${part}`;
      await database.sql(`COPY (SELECT * FROM (VALUES ${rows}) AS l(line)) TO PROGRAM '${store}'`);
    }
    await withOwner("ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()");
  };
  /** Whether the connection is encrypted, or why there is none. */
  const connect = async (authority: string | undefined) => {
    const url = new URL(database.url ?? "");
    url.hostname = "localhost"; // Node.js looks for no other name where the host is an address
    const script = `import postgres from "postgres"; const sql = postgres(process.argv[1], { max: 1, connect_timeout: 5 });
      const [row] = await sql\`SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()\`; console.log(row.ssl); await sql.end();`;
    const env = { PATH: process.env.PATH, ...(authority === undefined ? {} : { NODE_EXTRA_CA_CERTS: authority }) };
    const args = ["--input-type=module", "-e", script, `${url}?sslmode=verify-full`];
    return run(process.execPath, args, { env }).then(
      ({ stdout }) => stdout.trim(),
      ({ stderr }: { stderr: string }) => /code: '(\w+)'/.exec(stderr)?.[1] ?? stderr,
    );
  };
  const patience = { timeout: 20_000, interval: 500 };
  try {
    const authority = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority"];
    await openssl("req", ...authority, "-keyout", file("ca.key"), "-out", file("ca.crt"));
    await serveAs("other.example");
    await expect.poll(() => connect(file("ca.crt")), patience).toMatch(/ALTNAME/);
    await serveAs("localhost");
    await expect.poll(() => connect(file("ca.crt")), patience).toBe("true");
    expect(await connect(undefined)).toMatch(/CERT|VERIFY/);
  } finally {
    await withOwner("ALTER SYSTEM RESET ssl", "SELECT pg_reload_conf()");
    await database.drop();
    await rm(folder, { recursive: true });
  }
});
