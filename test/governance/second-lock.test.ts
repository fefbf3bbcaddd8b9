import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inTransaction, type Transaction } from "../../src/db/connect/lease.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** What the database does by itself, with a raw handle in the application's role: no builder. */
let service: TestService;
let acme: Client;
let admin: Client;
const ID = "01900000-0000-7000-8000-000000000000";

beforeAll(async () => {
  service = await startService({ worker: {} });
  acme = await service.mint("agent", { org: "acme" });
  admin = await service.mint("management", { org: "acme" });
});
afterAll(() => service.stop());

const within = <T>(client: Client, verb: string, requested: object, work: (lease: Transaction) => Promise<T>) =>
  inTransaction(service.database.app, async (lease) => {
    const [row] = await lease.query("SELECT scopefloor.enter($1, $2, $3, NULL, NULL) AS answer", [
      hashSecret(client.key),
      verb,
      JSON.stringify(requested),
    ]);
    expect(row?.answer).toMatchObject({ status: "ok" });
    return work(lease);
  });

const attempt = (work: Promise<unknown>) =>
  work.then(
    () => "done",
    (error: { code?: string }) => error.code ?? String(error),
  );

const PERMISSION = "42501";
const CALLS = [
  `correct_memory('${ID}', '{}', 0)`,
  `set_hold('${ID}', '{"reason": "x"}')`,
  "list_holds(1, 0)",
  `drop_hold('${ID}')`,
  `receipt_statement('${ID}')`,
  `sign_receipt('${ID}', 'x')`,
  "set_retention('[]')",
  "list_retention(1, 0)",
  "effective_retention()",
  "drop_retention(NULL, NULL)",
  "old_rows('turns', 'created', 'infinity', '{}', true, 1)",
  `set_schedule('${ID}', true, '{}')`,
  `list_schedules(NULL, 1, 0)`,
  `drop_schedule('${ID}')`,
  `run_schedule_now('${ID}')`,
  "set_settings('{}', '{}')",
  "list_settings(1, 0)",
  "effective_settings('default')",
  "drop_settings(NULL)",
  "put_tenant(NULL, NULL, NULL)",
  "minted_names('{}')",
  "change_tenant('suspended', NULL)",
  "list_tenants(false, NULL, 1, 0)",
  "begin_offboarding(0)",
  "undo_offboarding()",
];
/** Of the worker, or of other functions alone. */
const CLOSED = [
  "order_retention(1)",
  "order_offboardings(1)",
  "due_schedules(1)",
  `tick_schedule('${ID}', now(), now())`,
  "note_run('{}', 1, true, NULL)",
  `end_run('done', NULL, NULL)`,
  "redact_old('traces', 'infinity', 1)",
  `register_receipt_key('x', '{}')`,
  "holds_above('{}')",
  "settings_above('{}')",
  "credentials_above('{}')",
  "credentials_at('{}')",
  "set_at(0)",
  "credentials_under_others('', 0, '', 1)",
  "reseal_credential(0, 'openai', '', '')",
  `order_run(0, 'offboard', '${ID}', now(), '{}', '${ID}', 'erase', true, false, '{}')`,
  `abandon_run(0, '${ID}', 'failed', '')`,
  "used_since('{}', now())",
];

describe("the application's role alone", () => {
  test.each(CALLS)("without a ticket gets nothing from %s (threat 37)", async (call) => {
    const answer = attempt(inTransaction(service.database.app, (lease) => lease.query(`SELECT scopefloor.${call}`)));
    expect(await answer).toBe(PERMISSION);
  });

  test.each([...CALLS.filter((call) => !call.startsWith("correct_memory")), ...CLOSED])(
    "with a ticket to read gets nothing from %s (threat 37)",
    async (call) => {
      const answer = within(acme, "memory:read", { mode: "id", context: "default" }, (lease) =>
        attempt(lease.query(`SELECT scopefloor.${call}`)),
      );
      expect(await answer.catch((error: { code: string }) => error.code)).toBe(PERMISSION);
    },
  );

  test("reads and writes none of the tables of rules", async () => {
    for (const table of [
      "legal_hold",
      "retention_rule",
      "forget_schedule",
      "forget_run",
      "scope_setting",
      "scope_credential",
      "template",
      "receipt_key",
      "erasing",
      "tenant",
    ])
      for (const statement of [`SELECT * FROM scopefloor.${table}`, `DELETE FROM scopefloor.${table}`]) {
        const answer = attempt(inTransaction(service.database.app, (lease) => lease.query(statement)));
        expect(await answer, statement).toBe(PERMISSION);
      }
  });

  test("an administrator's ticket makes, changes and offboards no tenant", async () => {
    for (const call of [
      "put_tenant('x', NULL, NULL)",
      "change_tenant('suspended', NULL)",
      "begin_offboarding(0)",
      "undo_offboarding()",
    ]) {
      const [row] = await within(admin, "manage", { mode: "id", context: "default" }, (lease) =>
        lease.query(`SELECT scopefloor.${call} AS answer`),
      );
      expect(row?.answer, call).toMatchObject({ status: "forbidden" });
    }
  });

  test("has a receipt signed in the transaction that wrote it, and no other (threat 53)", async () => {
    await acme.remember("the lighthouse keeper");
    const { body } = await acme.post("/forget", { query: "lighthouse keeper" });
    const statement = await within(acme, "memory:forget", { mode: "forget", context: "default" }, async (lease) => {
      const [row] = await lease.query("SELECT scopefloor.receipt_statement($1) AS answer", [body.receiptId]);
      await lease.query("SELECT scopefloor.sign_receipt($1, 'forged')", [body.receiptId]);
      return row?.answer;
    });
    expect(statement).toBeNull();
    const [kept] = await service.database.sql("SELECT jws FROM scopefloor.forget_receipt WHERE id = $1", [
      body.receiptId,
    ]);
    expect(String(kept?.jws)).not.toBe("forged");
  });
});

describe("what is held", () => {
  test("is not taken by a statement of the application's own either, nor is a file whose part is held (threat 52)", async () => {
    await acme.remember("the ledger of Ivan Petrov");
    const file = await acme.upload("Page one.\n\nIvan Petrov signed it.", "signed.txt");
    await acme.processed(file.body.id);
    await admin.call("PUT", "/contexts/default/holds", {
      scope: { org: "acme" },
      subject: "Ivan Petrov",
      reason: "case",
    });
    const forget = { mode: "forget", subtree: true, context: "default" };
    for (const statement of [
      "DELETE FROM scopefloor.passage",
      "DELETE FROM scopefloor.turn",
      "DELETE FROM scopefloor.session",
      "DELETE FROM scopefloor.document",
      "DELETE FROM scopefloor.document_content",
      "UPDATE scopefloor.passage SET expired_at = now()",
      "UPDATE scopefloor.turn SET expired_at = now()",
    ]) {
      const answer = attempt(within(acme, "memory:forget", forget, (lease) => lease.query(statement)));
      expect(await answer, statement).toBe("SF409");
    }
    const kept = await acme.get<{ memories: unknown[] }>("/memories");
    expect(kept.body.memories).toHaveLength(2);
  });
});
