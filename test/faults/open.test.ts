import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { readConfig } from "../../src/config.ts";
import { openDatabase } from "../../src/db/connect/open.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "scopefloor-open-"));
});
afterEach(() => rm(folder, { recursive: true }));

/** Nobody listens there: opening connects to nothing yet. */
const APP = "postgres://app@127.0.0.1:1/none";

describe("the database that the configuration names", () => {
  test("is embedded, in a folder that only its owner enters, where there is no URL", { tags: ["long"] }, async () => {
    const dataDir = join(folder, "deep", "data");
    const database = await openDatabase(readConfig({ SCOPEFLOOR_DATA_DIR: dataDir }));
    expect(database.kind).toBe("embedded");
    expect((await stat(dataDir)).mode & 0o777).toBe(0o700);
    await database.close();
    expect((await stat(join(dataDir, "db"))).isDirectory()).toBe(true);
  });

  test("is PostgreSQL where there is one", async () => {
    const database = await openDatabase(readConfig({ SCOPEFLOOR_DATA_DIR: folder, DATABASE_URL: APP }));
    expect(database.kind).toBe("postgres");
    await database.close();
  });

  test("that nobody serves refuses, and once closed is 503", async () => {
    const database = await openDatabase(
      readConfig({ SCOPEFLOOR_DATA_DIR: folder, DATABASE_URL: APP, SCOPEFLOOR_DB_TIMEOUT_MS: "2000" }),
    );
    const lease = await database.app.acquire();
    await expect(lease.query("SELECT 1")).rejects.toMatchObject({ code: "ECONNREFUSED" });
    await lease.release();
    await database.close();
    await expect(database.app.acquire()).rejects.toMatchObject({ status: 503 });
  });
});
