import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { checkCaller } from "../../src/db/access/enter.ts";
import { ensureFirstKey } from "../../src/keys/first-key.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { createTestDatabase, type TestDatabase } from "../harness/database.ts";

let database: TestDatabase;
let folder: string;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
beforeEach(async () => {
  await database.sql("DELETE FROM scopefloor.api_key");
  folder = await mkdtemp(join(tmpdir(), "scopefloor-key-"));
});
afterEach(() => rm(folder, { recursive: true }));

const ensure = (configured?: string, dataDir = folder) => ensureFirstKey(database, { configured, dataDir });
const opens = (secret: string) =>
  checkCaller(
    database.app,
    { keyHash: hashSecret(secret), onBehalfOf: undefined, route: "test", operation: "test" },
    "manage",
  ).then(
    () => true,
    () => false,
  );
const isThere = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );
const CONFIGURED = "a-configured-secret-of-enough-letters";

describe("the first management key", () => {
  test("is the configured one, and no file is written", async () => {
    expect(await ensure(CONFIGURED)).toEqual({ from: "environment" });
    expect(await opens(CONFIGURED)).toBe(true);
    expect(await isThere(join(folder, "management.key"))).toBe(false);
  });

  test("is made once: another one that is configured later opens nothing", async () => {
    await ensure(CONFIGURED);
    expect(await ensure(`${CONFIGURED}-2`)).toEqual({ from: "environment" });
    expect(await opens(`${CONFIGURED}-2`)).toBe(false);
    expect(await opens(CONFIGURED)).toBe(true);
  });

  test("is a new one in a file that only its owner reads, in a folder that is made", async () => {
    const dataDir = join(folder, "deep", "data");
    const path = join(dataDir, "management.key");
    expect(await ensure(undefined, dataDir)).toEqual({ from: "file", path, created: true });
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect((await stat(dataDir)).mode & 0o777).toBe(0o700);
    const text = await readFile(path, "utf8");
    expect(text).toMatch(/^sf_mgmt_\S+\n$/);
    expect(await opens(text.trim())).toBe(true);
    expect(await ensure(undefined, dataDir)).toEqual({ from: "file", path, created: false });
    expect(await readFile(path, "utf8")).toBe(text);
  });

  test("is the one that the file already has, whatever stands around it", async () => {
    const path = join(folder, "management.key");
    await writeFile(path, `  ${CONFIGURED}\n\n`);
    expect(await ensure()).toEqual({ from: "file", path, created: false });
    expect(await opens(CONFIGURED)).toBe(true);
  });

  test("that another process has made elsewhere leaves no file here", async () => {
    await ensure(CONFIGURED);
    expect(await ensure()).toEqual({ from: "elsewhere" });
    expect(await isThere(join(folder, "management.key"))).toBe(false);
  });

  test("is the same for two processes of one folder that start at once", async () => {
    // Often: one that finds the file of another must never find half of it.
    for (let round = 0; round < 40; round++) {
      await database.sql("DELETE FROM scopefloor.api_key");
      const dataDir = join(folder, String(round));
      const made = await Promise.all(Array.from({ length: 6 }, () => ensure(undefined, dataDir)));
      expect(new Set(made.map((one) => one.from))).toEqual(new Set(["file"]));
      expect(made.filter((one) => one.from === "file" && one.created)).toHaveLength(1);
      expect(await opens((await readFile(join(dataDir, "management.key"), "utf8")).trim())).toBe(true);
      expect(await readdir(dataDir)).toEqual(["management.key"]);
    }
  });

  test.each([
    ["too short", "x".repeat(31)],
    ["too long", "x".repeat(513)],
    ["with a space", `${"x".repeat(20)} ${"x".repeat(20)}`],
    ["with a letter outside ASCII before it", `é${"x".repeat(40)}`],
    ["with a letter outside ASCII behind it", `${"x".repeat(40)}é`],
  ])("%s stops the start", async (_, secret) => {
    await expect(ensure(secret)).rejects.toThrow(/32 to 512 printable characters/);
    await writeFile(join(folder, "management.key"), secret);
    await expect(ensure()).rejects.toThrow(/32 to 512 printable characters/);
    expect(await opens(secret)).toBe(false);
  });

  test.each([32, 512])("of %i characters is taken", async (length) => {
    await ensure("x".repeat(length));
    expect(await opens("x".repeat(length))).toBe(true);
  });

  test("in a file that cannot be read, or a folder that cannot be written, stops the start", async () => {
    await mkdir(join(folder, "management.key"));
    await expect(ensure()).rejects.toMatchObject({ code: "EISDIR" });
    await writeFile(join(folder, "file"), "");
    await expect(ensure(undefined, join(folder, "file"))).rejects.toMatchObject({ code: "ENOTDIR" });
  });
});
