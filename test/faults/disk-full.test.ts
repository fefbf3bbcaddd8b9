import { execFileSync } from "node:child_process";
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Cluster, createCluster } from "../harness/cluster.ts";
import { onPostgres } from "../harness/database.ts";
import { pause, type ServiceProcess, serviceProcess } from "../harness/service-process.ts";
import { Ledger } from "./ledger.ts";
import { expectNoHarm, faultTimeout } from "./share.ts";

/** Takes what space there is left; gives how many bytes. */
async function fill(path: string): Promise<number> {
  const ballast = await open(path, "w");
  const block = Buffer.alloc(64 * 1024);
  let bytes = 0;
  try {
    for (;;) bytes += (await ballast.write(block)).bytesWritten;
  } catch (error) {
    expect((error as { code?: string }).code).toBe("ENOSPC");
    return bytes;
  } finally {
    await ballast.close();
  }
}

// Mounting a small file system takes root.
describe.runIf(onPostgres() && process.getuid?.() === 0)("a database whose disk is full", () => {
  let folder: string;
  let log: string;
  let cluster: Cluster;
  let service: ServiceProcess;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "scopefloor-disk-"));
    log = await mkdtemp(join(tmpdir(), "scopefloor-wal-"));
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=160m", "tmpfs", folder]);
    cluster = await createCluster({ folder, log });
    await cluster.start();
    service = await serviceProcess({ DATABASE_URL: cluster.url, SCOPEFLOOR_DB_CONNECTIONS: "8" });
    await service.start();
  }, 60_000);
  afterAll(async () => {
    await service?.end("SIGKILL");
    await cluster?.remove();
    execFileSync("umount", [folder]);
    await Promise.all([folder, log].map((path) => rm(path, { recursive: true })));
  });

  test("answers 503 to writes, goes on with reads, and is clean afterwards", faultTimeout, async () => {
    const ledger = await Ledger.open(service.url, service.key, { mayRefuse: false });
    ledger.start();
    const acknowledged = async (atLeast: number) => {
      for (const goal = ledger.acknowledged + atLeast; ledger.acknowledged < goal; await pause(20));
    };
    await acknowledged(30);
    const ballast = join(folder, "ballast");
    expect(await fill(ballast)).toBeGreaterThan(1 << 20);
    const call = (path: string, body?: object) =>
      fetch(`${service.url}${path}`, {
        method: body === undefined ? "GET" : "POST",
        headers: { authorization: `Bearer ${service.key}`, "content-type": "application/json" },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
    // What is free inside the tables' own files is used up first.
    let refusals = 0;
    for (let n = 0; refusals < 20; n++) {
      const answer = await call("/default/facts", {
        text: `${"more and more words ".repeat(400)}${n}`,
        scopes: "org/x",
      });
      if (answer.status === 200) continue;
      expect(answer.status).toBe(503);
      expect(answer.headers.get("retry-after")).not.toBeNull();
      expect(await answer.text()).not.toMatch(/disk|space|file/i);
      refusals++;
      for (const path of ["/default/me", "/default/sessions", "/contexts/default/keys", "/ready"]) {
        expect((await call(path)).status, path).toBe(200);
      }
    }
    await rm(ballast);
    await acknowledged(30);
    await ledger.stop();
    expectNoHarm(await ledger.settle(), service);
    expect(service.hasCrashed).toBe(false);
  });
});
