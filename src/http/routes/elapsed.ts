/** Milliseconds since, to the microsecond. */
export const elapsed = (startedAt: number) => Math.round((performance.now() - startedAt) * 1000) / 1000;
