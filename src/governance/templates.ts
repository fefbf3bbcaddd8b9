import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import { AppError } from "../errors.ts";
import { recordTrace } from "../traces/record.ts";
import { type Answer, accepted } from "./answer.ts";
import type { TenantParts } from "./tenants.ts";

/** What tenants are made from, in one of its versions. */
export interface Template {
  readonly name: string;
  readonly version: number;
  readonly template: TenantParts;
  readonly createdAt: string;
  readonly versions?: readonly number[];
}

const operatorsOnly = () =>
  new AppError(
    "forbidden",
    "templates are the operator's: this needs a management key with the floor {} and every right",
  );

/** Stores a new version, unless it says what the last one says. */
export async function putTemplate(tx: ScopedTransaction, name: string, template: TenantParts): Promise<Template> {
  const put = accepted(await tx.call<Answer<{ template: Template }>>("put_template", name, json(template)));
  recordTrace(tx, { kind: "decision", operation: "template_set" });
  return put.template;
}

/** The last version of each. */
export async function listTemplates(tx: ScopedTransaction): Promise<Template[]> {
  const templates = await tx.call<Template[] | null>("templates", null, null);
  if (templates === null) throw operatorsOnly();
  return templates;
}

/** @param version absent: the last */
export async function getTemplate(tx: ScopedTransaction, name: string, version?: number): Promise<Template> {
  const template = await tx.call<Template | null>("templates", name, version ?? null);
  if (template === null)
    throw new AppError("not-found", `no template ${name}${version === undefined ? "" : ` with a version ${version}`}`);
  return template;
}

/** With all of its versions; what was made from it stays. */
export async function dropTemplate(tx: ScopedTransaction, name: string): Promise<void> {
  accepted(await tx.call<Answer>("drop_template", name));
  recordTrace(tx, { kind: "decision", operation: "template_delete" });
}
