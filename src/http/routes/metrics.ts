import { AppError } from "../../errors.ts";
import { GENERAL, sameScope } from "../../scope/scope.ts";
import { endpoint, TextAnswer } from "../endpoint.ts";

export const metricsEndpoints = [
  endpoint({
    method: "get",
    path: "/metrics",
    verb: "manage",
    operation: "metrics",
    summary: "Prometheus metrics, for the operator",
    handle: async ({ enter, deps }) => {
      await enter({}, async ({ entry }) => {
        // Numbers over all tenants tell each of them about the others.
        if (!sameScope(entry.floor, GENERAL))
          throw new AppError("forbidden", "metrics are for a management key with the floor {}");
      });
      return new TextAnswer(deps.metrics.contentType, await deps.metrics.render());
    },
  }),
];
