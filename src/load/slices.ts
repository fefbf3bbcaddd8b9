import { setImmediate as nextTurn } from "node:timers/promises";

/** Longest run before other requests get their turn, in ms. */
const SLICE_MS = 5;

/** Keeps the other requests of the process from waiting for long work. */
export class Slices {
  #since = performance.now();

  /** Lets others in, where it is time. */
  async pause(): Promise<void> {
    if (performance.now() - this.#since < SLICE_MS) return;
    await nextTurn();
    this.#since = performance.now();
  }
}

/** Array.map, in slices. */
export async function eachInSlices<From, To>(items: readonly From[], work: (item: From) => To): Promise<To[]> {
  const slices = new Slices();
  const done: To[] = [];
  for (const item of items) {
    done.push(work(item));
    await slices.pause();
  }
  return done;
}
