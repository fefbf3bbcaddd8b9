import type { Endpoint } from "../endpoint.ts";
import { auditReportEndpoints } from "./audit-report.ts";
import { contextEndpoints } from "./contexts.ts";
import { documentEndpoints } from "./documents.ts";
import { factEndpoints } from "./facts.ts";
import { forgetEndpoints } from "./forget.ts";
import { keywordEndpoints } from "./keywords.ts";
import { managedKeyEndpoints } from "./managed-keys.ts";
import { metricsEndpoints } from "./metrics.ts";
import { notBuiltEndpoints } from "./not-built.ts";
import { principalEndpoints } from "./principals.ts";
import { recallEndpoints } from "./recall.ts";
import { scopeEndpoints } from "./scopes.ts";
import { selfEndpoints } from "./self.ts";
import { sessionEndpoints } from "./sessions.ts";
import { structureEndpoints } from "./structure.ts";
import { traceEndpoints } from "./traces.ts";

/** Every authenticated route. The management plane comes first: its paths begin with a fixed word. */
export const endpoints: readonly Endpoint[] = [
  ...contextEndpoints,
  ...auditReportEndpoints,
  ...managedKeyEndpoints,
  ...selfEndpoints,
  ...sessionEndpoints,
  ...factEndpoints,
  ...recallEndpoints,
  ...forgetEndpoints,
  ...scopeEndpoints,
  ...traceEndpoints,
  ...keywordEndpoints,
  ...documentEndpoints,
  ...structureEndpoints,
  ...principalEndpoints,
  ...metricsEndpoints,
  ...notBuiltEndpoints,
];
