import { AppError } from "../errors.ts";

export interface FairQueueOptions {
  /** How many may be inside at a time. */
  readonly places: number;
  /** How long one waits, in ms. */
  readonly waitMs: number;
  /** How many of one group may wait; more are refused at once. */
  readonly mostWaiting?: number;
  /** What is said to those who waited for others in vain. */
  readonly whenFull?: string;
}

interface Waiter {
  give(): void;
  fail(error: Error): void;
}

interface Group {
  inside: number;
  readonly waiting: Waiter[];
  /** The number of the place that it was last given: the lowest has waited longest. */
  lastServed: number;
  /** Time that it had places for, in ms; what is long past counts less. */
  used: number;
  usedAt: number;
  lastSeenAt: number;
}

/** Requests whose group is not known: the first of a key, and the service's own. */
const UNKNOWN_GROUP = "";
const ALL_PLACES_TAKEN = "all places are taken";
/** After so long the time that a group had counts half. */
const HALF_LIFE_MS = 10_000;
/** Less than this is no difference in time. */
const NOTABLE_MS = 100;
/** A group that was heard of so lately counts as present. */
const PRESENT_MS = 1_000;

/**
 * Places that groups share: a free one goes to the group that has the fewest, among those to the one
 * that had places for less time lately, and else to the one that was served longest ago. However many requests one group sends, it never has all places:
 * alone it has all but an eighth, beside others a quarter, so that who comes next waits neither for
 * its transactions to end nor, on a small machine, for its statements.
 */
export class FairQueue {
  readonly #places: number;
  readonly #waitMs: number;
  readonly #mostWaiting: number;
  readonly #whenFull: string;
  readonly #groups = new Map<string, Group>();
  #inside = 0;
  #served = 0;
  #closing: (() => void) | undefined;
  #isClosed = false;

  constructor({ places, waitMs, mostWaiting = places * 16, whenFull = ALL_PLACES_TAKEN }: FairQueueOptions) {
    this.#places = places;
    this.#waitMs = waitMs;
    this.#mostWaiting = mostWaiting;
    this.#whenFull = whenFull;
  }

  /**
   * Waits for a place; gives the way to leave it.
   *
   * @throws AppError `rate-limited` when the wait is for the group's own requests, `unavailable` when
   *   it is for others' or the queue is closed
   */
  async enter(name: string = UNKNOWN_GROUP): Promise<() => void> {
    if (this.#isClosed) throw stopping();
    const group = this.#groups.get(name) ?? {
      inside: 0,
      waiting: [],
      lastServed: 0,
      used: 0,
      usedAt: 0,
      lastSeenAt: 0,
    };
    this.#groups.set(name, group);
    group.lastSeenAt = performance.now();
    if (group.waiting.length >= this.#mostWaiting) throw name === UNKNOWN_GROUP ? this.#busy() : tooMany();
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        group.waiting.splice(group.waiting.indexOf(waiter), 1);
        reject(name !== UNKNOWN_GROUP && group.inside > 0 ? tooMany() : this.#busy());
      }, this.#waitMs);
      const waiter: Waiter = {
        give: () => {
          clearTimeout(timer);
          resolve();
        },
        fail: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
      group.waiting.push(waiter);
      this.#serve();
    });
    let isInside = true;
    const enteredAt = performance.now();
    return () => {
      if (!isInside) return;
      isInside = false;
      const now = performance.now();
      group.used = usedBy(group, now) + now - enteredAt;
      group.usedAt = now;
      this.#inside--;
      group.inside--;
      this.#serve();
      if (this.#inside === 0) this.#closing?.();
    };
  }

  /** Refuses those who wait, and resolves when those inside have left. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const { waiting } of this.#groups.values()) for (const waiter of waiting.splice(0)) waiter.fail(stopping());
    await new Promise<void>((resolve) => {
      this.#closing = resolve;
      if (this.#inside === 0) resolve();
    });
  }

  #serve(): void {
    while (this.#inside < this.#places) {
      const next = this.#next();
      const waiter = next?.waiting.shift();
      if (next === undefined || waiter === undefined) return;
      this.#inside++;
      next.inside++;
      next.lastServed = ++this.#served;
      waiter.give();
    }
  }

  #next(): Group | undefined {
    const now = performance.now();
    let present = 0;
    for (const [name, group] of this.#groups) {
      if (group.inside > 0 || group.waiting.length > 0) present++;
      else if (now - group.lastSeenAt >= PRESENT_MS && usedBy(group, now) < NOTABLE_MS) this.#groups.delete(name);
      else if (now - group.lastSeenAt >= PRESENT_MS)
        continue; // remembered for the time that it had
      else if (name !== UNKNOWN_GROUP) present++;
    }
    const most = this.#most(present);
    let best: Group | undefined;
    for (const group of this.#groups.values()) {
      if (group.waiting.length === 0 || group.inside >= most) continue;
      if (best === undefined || isBefore(group, best, now)) best = group;
    }
    return best;
  }

  #busy(): AppError {
    return new AppError("unavailable", this.#whenFull, { retryAfter: 1 });
  }

  /** Places of one group at most. */
  #most(present: number): number {
    const most = present > 1 ? Math.floor(this.#places / 4) : this.#places - Math.ceil(this.#places / 8);
    return Math.max(1, most);
  }
}

/** What is left of the time that a group had. */
const usedBy = ({ used, usedAt }: Group, now: number) => used * 0.5 ** ((now - usedAt) / HALF_LIFE_MS);

function isBefore(one: Group, other: Group, now: number): boolean {
  if (one.inside !== other.inside) return one.inside < other.inside;
  const difference = usedBy(one, now) - usedBy(other, now);
  return Math.abs(difference) < NOTABLE_MS ? one.lastServed < other.lastServed : difference < 0;
}

const stopping = () => new AppError("unavailable", "the service is stopping", { retryAfter: 1 });
const tooMany = () =>
  new AppError("rate-limited", "too many concurrent requests from this tenant or address; send fewer at once", {
    retryAfter: 1,
  });
