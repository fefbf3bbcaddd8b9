/** What each step of `scopefloor.enter` costs the database, called by the owner on a store of 1,000 organisations. */
import { randomBytes, randomUUID } from "node:crypto";
import { hashSecret } from "../src/keys/secret.ts";
import { quantile, round, table } from "./measure.ts";
import { benchStore } from "./store.ts";

const ORGS = 1_000;
const CALLS = 2_000;
const ROUNDS = 5;

export default async function enter(): Promise<Record<string, unknown>> {
  const store = await benchStore();
  const { sql } = store;
  try {
    for (let n = 0; n < ORGS; n++) await store.scope(`org-${n}`);
    const secret = randomBytes(32).toString("hex");
    const hash = `decode('${Buffer.from(hashSecret(secret)).toString("hex")}', 'hex')`;
    const floor = `'{"org":"org-7"}'::jsonb`;
    await sql.unsafe(`
      INSERT INTO scopefloor.api_key (tenant_id, scope_id, id, name, principal, floor, verbs, secret_hash)
      SELECT tenant_id, id, '${randomUUID()}', 'bench', 'agent', tags, '{memory:read,memory:write,memory:forget}', sha256(${hash})
      FROM scopefloor.scope WHERE tags = ${floor}`);
    const key = `(SELECT k FROM scopefloor.api_key k WHERE k.name = 'bench')`;
    const select = `'{"mode":"select","context":"default","ageMs":1}'::jsonb`;
    const none = "NULL::scopefloor.scope";
    const steps: Record<string, string> = {
      "one call of a function that does next to nothing (tag_count)": `scopefloor.tag_count(${floor})`,
      authenticate: `scopefloor.authenticate(${hash}, NULL)`,
      permit: `scopefloor.permit('agent', NULL, '{memory:read}', true, 'memory:read', 'select')`,
      resolve_place: `scopefloor.resolve_place(held.k, ${floor}, '{}')`,
      resolve_clauses: `scopefloor.resolve_clauses(${floor}, ${select}, 'select', 'strict', ${none})`,
      hold_scope: `scopefloor.hold_scope(${floor}, NULL)`,
      was_erased: `scopefloor.was_erased(${floor}, now())`,
      reach_of: `scopefloor.reach_of(${floor}, ARRAY['{}'::jsonb, ${floor}], '{}')`,
      issue_ticket: `scopefloor.issue_ticket(jsonb_build_object('floor', ${floor}, 'read', '{"ids":[1]}'::jsonb))`,
      "enter, a recall": `scopefloor.enter(${hash}, 'memory:read', ${select}, NULL, NULL)`,
      "enter, a write": `scopefloor.enter(${hash}, 'memory:write', '{"mode":"write","context":"default","ageMs":1}', NULL, NULL)`,
    };
    const micros: Record<string, number> = {};
    for (const [name, call] of Object.entries(steps)) {
      const times: number[] = [];
      for (let round = 0; round < ROUNDS; round++) {
        await sql.begin(async (tx) => {
          const began = performance.now();
          await tx.unsafe(
            `SELECT count(${call}) FROM (SELECT ${key} AS k OFFSET 0) held, generate_series(1, ${CALLS})`,
          );
          times.push(((performance.now() - began) * 1_000) / CALLS);
        });
      }
      micros[name] = round(quantile(times, 0.5), 1);
    }
    const whole = micros["enter, a recall"] ?? 1;
    const rows = Object.entries(micros).map(([name, us]) => [name, us, round(us / whole)]);
    process.stdout.write(`${table([["step", "µs a call", "of enter"], ...rows])}\n`);
    return { calls: CALLS, micros };
  } finally {
    await store.close();
  }
}
