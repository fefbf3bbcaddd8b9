import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { QueueDepth } from "../jobs/queue.ts";

/** What a monitor may know: routes, times and numbers, no tenant's names or text. */
export interface Metrics {
  observeRequest(method: string, route: string, status: number, seconds: number): void;
  /** A question that the cache could have answered, and whether it did. */
  observeCache(isHit: boolean): void;
  /** Prometheus' text format. */
  render(): Promise<string>;
  readonly contentType: string;
}

/** @param depth asked at each scrape */
export function createMetrics(depth: () => Promise<readonly QueueDepth[]>): Metrics {
  const register = new Registry();
  collectDefaultMetrics({ register });
  const requests = new Histogram({
    name: "scopefloor_request_duration_seconds",
    help: "Time to answer, by route.",
    labelNames: ["method", "route", "status"],
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    registers: [register],
  });
  const cache = new Counter({
    name: "scopefloor_cache_questions_total",
    help: "Questions that the cache could have answered, by whether it did.",
    labelNames: ["result"],
    registers: [register],
  });
  const jobs = new Gauge({
    name: "scopefloor_jobs",
    help: "Jobs in the queue, by kind and state.",
    labelNames: ["kind", "state"],
    registers: [register],
  });
  const oldest = new Gauge({
    name: "scopefloor_oldest_job_seconds",
    help: "How long the oldest job of a kind and state has been due.",
    labelNames: ["kind", "state"],
    registers: [register],
  });
  return {
    observeRequest: (method, route, status, seconds) => requests.observe({ method, route, status }, seconds),
    observeCache: (isHit) => cache.inc({ result: isHit ? "hit" : "miss" }),
    render: async () => {
      jobs.reset();
      oldest.reset();
      for (const { kind, state, jobs: n, oldestSeconds } of await depth()) {
        jobs.set({ kind, state }, n);
        oldest.set({ kind, state }, oldestSeconds);
      }
      return register.metrics();
    },
    contentType: register.contentType,
  };
}
