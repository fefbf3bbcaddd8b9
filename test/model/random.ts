export interface Weighted<T> {
  readonly weight: number;
  readonly value: T;
}

/** A seeded stream of choices (mulberry32): a run can be had again from its seed. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** From 0 up to 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  }

  below(n: number): number {
    return Math.floor(this.next() * n);
  }

  chance(share: number): boolean {
    return this.next() < share;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T;
  }

  /** Each as often as its weight says. */
  weighted<T>(from: readonly Weighted<T>[]): T {
    let at = this.next() * from.reduce((sum, { weight }) => sum + weight, 0);
    for (const { weight, value } of from) {
      at -= weight;
      if (at < 0) return value;
    }
    return (from.at(-1) as Weighted<T>).value;
  }

  word(length: number): string {
    return Array.from({ length }, () => "bcdfghjklmnpqrstvwxz"[this.below(20)]).join("");
  }
}
