import type { ScopedTransaction } from "../db/access/scoped.ts";
import { AppError } from "../errors.ts";

/** What one tenant may store at most. */
export interface QuotaLimits {
  /** Of texts and files, as UTF-8. */
  readonly storedBytes: number;
  readonly passages: number;
  readonly sessions: number;
  readonly scopes: number;
}

export interface QuotaOptions extends QuotaLimits {
  /** How long a tenant's use is taken to be what it was, in ms. */
  readonly freshMs?: number;
}

const NAMES: Readonly<Record<keyof QuotaLimits, string>> = {
  storedBytes: "bytes of texts and files",
  passages: "passages",
  sessions: "sessions",
  scopes: "scopes",
};

const FRESH_MS = 15_000;
const MAX_KNOWN = 10_000;

/**
 * Keeps tenants within what one may store. The use is asked of the database once in a while, so that a write
 * costs nothing: a tenant may go beyond by what it writes meanwhile. (What has no `org` is of no one tenant
 * and has no quota.)
 */
export class Quotas {
  readonly #limits: QuotaLimits;
  readonly #freshMs: number;
  readonly #known = new Map<number, { readonly at: number; readonly use: QuotaLimits }>();

  constructor({ freshMs = FRESH_MS, ...limits }: QuotaOptions) {
    this.#limits = limits;
    this.#freshMs = freshMs;
  }

  /** @throws AppError `quota-exceeded`, which says of what */
  async check(tx: ScopedTransaction): Promise<void> {
    const tenant = tx.entry.write?.tenant ?? 0;
    if (tenant === 0) return;
    const use = await this.#useOf(tx, tenant);
    for (const name of Object.keys(NAMES) as (keyof QuotaLimits)[]) {
      if (!this.#isReached(use, name)) continue;
      throw new AppError(
        "quota-exceeded",
        `the tenant has ${use[name]} ${NAMES[name]}, and may have ${this.#limits[name]}`,
      );
    }
  }

  async #useOf(tx: ScopedTransaction, tenant: number): Promise<QuotaLimits> {
    const known = this.#known.get(tenant);
    // Near a limit it is looked at anew, so that what was given back counts at once.
    if (known !== undefined && performance.now() - known.at < this.#freshMs && !this.#isOver(known.use))
      return known.use;
    const use = await tx.call<QuotaLimits>("tenant_use", this.#limits.sessions);
    const [oldest] = this.#known.keys();
    if (this.#known.size >= MAX_KNOWN && oldest !== undefined) this.#known.delete(oldest);
    this.#known.delete(tenant);
    this.#known.set(tenant, { at: performance.now(), use });
    return use;
  }

  #isOver(use: QuotaLimits): boolean {
    return (Object.keys(NAMES) as (keyof QuotaLimits)[]).some((name) => this.#isReached(use, name));
  }

  /** A scope that is written to for the first time is among the scopes already. */
  #isReached(use: QuotaLimits, name: keyof QuotaLimits): boolean {
    return name === "scopes" ? use.scopes > this.#limits.scopes : use[name] >= this.#limits[name];
  }
}
