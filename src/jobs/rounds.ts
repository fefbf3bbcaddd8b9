export interface Rounds {
  /** No further round begins; waits for the one that is under way. */
  stop(): Promise<void>;
}

/**
 * Does work in rounds, each a while after the one before has ended, until it is stopped.
 *
 * @param options `everyMs` between two rounds, and before the first unless `firstMs` says otherwise; `failed` is told of
 *   a round that fails while nobody has stopped it, and the next one tries again
 */
export function startRounds(
  work: () => Promise<unknown>,
  { everyMs, firstMs = everyMs, failed }: { everyMs: number; firstMs?: number; failed: (error: unknown) => void },
): Rounds {
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  let round: Promise<void> = Promise.resolve();
  const run = () => {
    round = work()
      .then(() => undefined)
      .catch((error: unknown) => {
        if (!stopped) failed(error);
      })
      .finally(() => {
        if (!stopped) timer = setTimeout(run, everyMs);
      });
  };
  timer = setTimeout(run, firstMs);
  return {
    stop: async () => {
      stopped = true;
      clearTimeout(timer);
      await round;
    },
  };
}
