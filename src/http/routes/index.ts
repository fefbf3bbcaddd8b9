import type { Endpoint } from "../endpoint.ts";
import { auditReportEndpoints } from "./audit-report.ts";
import { budgetEndpoints } from "./budgets.ts";
import { contextEndpoints } from "./contexts.ts";
import { documentEndpoints } from "./documents.ts";
import { entityEndpoints } from "./entities.ts";
import { factEndpoints } from "./facts.ts";
import { forgetEndpoints } from "./forget.ts";
import { forgetScheduleEndpoints } from "./forget-schedules.ts";
import { fsckEndpoints } from "./fsck.ts";
import { holdEndpoints } from "./holds.ts";
import { itemEndpoints } from "./items.ts";
import { keywordEndpoints } from "./keywords.ts";
import { lifecycleEndpoints } from "./lifecycle.ts";
import { limitEndpoints } from "./limits.ts";
import { managedKeyEndpoints } from "./managed-keys.ts";
import { mcpEndpoints } from "./mcp.ts";
import { memoryEndpoints } from "./memories.ts";
import { metricsEndpoints } from "./metrics.ts";
import { notBuiltEndpoints } from "./not-built.ts";
import { selfEndpoints } from "./own-keys.ts";
import { priceEndpoints } from "./prices.ts";
import { principalEndpoints } from "./principals.ts";
import { profileEndpoints } from "./profile.ts";
import { recallEndpoints } from "./recall.ts";
import { retentionEndpoints } from "./retention.ts";
import { scopeEndpoints } from "./scopes.ts";
import { sessionEndpoints } from "./sessions.ts";
import { settingsEndpoints } from "./settings.ts";
import { tenantEndpoints } from "./tenants.ts";
import { traceEndpoints } from "./traces.ts";
import { usageEndpoints } from "./usage.ts";

/** All but MCP, which is another door to some of them. The management plane comes first: its paths begin with a fixed word. */
const routes: readonly Endpoint[] = [
  ...contextEndpoints,
  ...auditReportEndpoints,
  ...usageEndpoints,
  ...budgetEndpoints,
  ...limitEndpoints,
  ...priceEndpoints,
  ...holdEndpoints,
  ...retentionEndpoints,
  ...forgetScheduleEndpoints,
  ...settingsEndpoints,
  ...tenantEndpoints,
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
  ...entityEndpoints,
  ...profileEndpoints,
  ...lifecycleEndpoints,
  ...fsckEndpoints,
  ...itemEndpoints,
  ...memoryEndpoints,
  ...principalEndpoints,
  ...metricsEndpoints,
  ...notBuiltEndpoints,
];

/** Every authenticated route. */
export const endpoints: readonly Endpoint[] = [...routes, ...mcpEndpoints(routes)];
