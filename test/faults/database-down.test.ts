import { createServer as createHttpServer } from "node:http";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { v7 as uuid } from "uuid";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Database } from "../../src/db/connect/lease.ts";
import { openPostgres } from "../../src/db/connect/open.ts";
import { hashSecret, newSecret } from "../../src/keys/secret.ts";
import { createLog } from "../../src/log.ts";
import { createService } from "../../src/service.ts";
import { createTestDatabase, onPostgres, type TestDatabase } from "../harness/database.ts";

/** A way to the database that can be cut and mended: a TCP relay on loopback. */
async function relayTo(url: string) {
  const target = new URL(url);
  const sockets = new Set<Socket>();
  let server: Server = createServer();
  let port = 0;
  let isCut = false;
  const open = () =>
    new Promise<void>((resolve) => {
      isCut = false;
      server = createServer((near) => {
        if (isCut) {
          near.destroy();
          return;
        }
        const far = connect(Number(target.port), target.hostname);
        for (const socket of [near, far]) {
          sockets.add(socket);
          socket.on("error", () => undefined);
          socket.on("close", () => {
            near.destroy();
            far.destroy();
            sockets.delete(socket);
          });
        }
        near.pipe(far).pipe(near);
      }).listen(port, "127.0.0.1", () => {
        port = (server.address() as AddressInfo).port;
        resolve();
      });
    });
  await open();
  const through = new URL(url);
  through.port = String(port);
  return {
    url: through.toString(),
    open,
    cut: async () => {
      isCut = true;
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

describe.runIf(onPostgres())("a database that is down", () => {
  let direct: TestDatabase;
  let relay: Awaited<ReturnType<typeof relayTo>>;
  let database: Database;
  let http: ReturnType<typeof createHttpServer>;
  let url: string;
  const secret = newSecret("management");

  beforeAll(async () => {
    direct = await createTestDatabase();
    await direct.sql("SELECT scopefloor.set_first_key($1, $2)", [uuid(), hashSecret(secret)]);
    relay = await relayTo(direct.url ?? "");
    database = openPostgres({ app: relay.url, connections: 4, timeoutMs: 3_000 });
    const service = await createService(database, { context: "default", log: createLog("silent") });
    http = createHttpServer(service.app.callback());
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    url = `http://127.0.0.1:${(http.address() as AddressInfo).port}/api/v1`;
  });
  afterAll(async () => {
    http.closeAllConnections();
    await new Promise((resolve) => http.close(resolve));
    await database.close();
    await relay.cut();
    await direct.drop();
  });

  const query = () =>
    fetch(`${url}/default/query`, {
      method: "POST",
      headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" },
      body: '{"query":"x"}',
    });

  test("is 503 with Retry-After and no internals, and recovers by itself when it is back", async () => {
    expect((await query()).status).toBe(200);
    await relay.cut();
    for (let i = 0; i < 6; i++) {
      const down = await query();
      expect(down.status).toBe(503);
      expect(down.headers.get("retry-after")).toBe("1");
      expect(await down.text()).not.toMatch(/ECONN|127\.0\.0\.1|postgres/i);
    }
    await expect.poll(async () => (await fetch(`${url}/ready`)).status).toBe(503);
    expect((await fetch(`${url}/health`)).status).toBe(200);
    await relay.open();
    let status = 0;
    for (let i = 0; i < 50 && status !== 200; i++) {
      status = (await query()).status;
      if (status !== 200) await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(status).toBe(200);
    await expect.poll(async () => (await fetch(`${url}/ready`)).status).toBe(200);
  });

  test("that is cut in the middle of many requests crosses and hangs nothing", async () => {
    const calls = Array.from({ length: 24 }, query);
    await new Promise((resolve) => setTimeout(resolve, 5));
    await relay.cut();
    const statuses = await Promise.all(calls.map(async (call) => (await call).status));
    for (const status of statuses) expect([200, 503]).toContain(status);
    await relay.open();
    let recovered = 0;
    for (let i = 0; i < 50 && recovered < 4; i++) recovered += (await query()).status === 200 ? 1 : 0;
    expect(recovered).toBe(4);
  });
});
